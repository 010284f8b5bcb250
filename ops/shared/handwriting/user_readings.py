"""Reads back what the predictor kept of some days: its readings, and what people corrected."""

import json
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from functools import partial
from typing import NamedTuple

from tqdm import tqdm

from handwriting.errors import MissingError
from handwriting.layout import CORRECTION, READINGS
from handwriting.picture_files import STAMP
from handwriting.store import CONNECTIONS, Store

MOST = 20_000  # files that are read: they tell a share of a tenth to 0.005, and more would only take longer
DAY = STAMP.partition("T")[0]


class Seen(NamedTuple):
    """A reading that was kept.

    Attributes:
        name: Of the picture, `<UTC time>-<id>-<version>`.
        version: The release that read it.
        picture: Its digest; from predictors that kept none the name.
        text: The reading.
        confidence: 0 to 1.
        width: Of the line in px; 0 from predictors that kept none.
        language_model: It helped with reading; true from predictors that kept no word of it.
    """

    name: str
    version: str
    picture: str
    text: str
    confidence: float
    width: int
    language_model: bool

    @property
    def day(self) -> str:
        """The day in UTC, `2026-11-25`."""
        return f"{self.name[:4]}-{self.name[4:6]}-{self.name[6:8]}"


class Corrected(NamedTuple):
    """What a person says that a picture shows: digest of the picture, or name, and text."""

    picture: str
    text: str


class Kept(NamedTuple):
    """What was kept of some days.

    Attributes:
        since: Begin of the time in UTC.
        until: Its end, not included.
        files: All that is there.
        every: Of so many files one was read.
        readings: In order of time.
        corrections: In order of time.
        damaged: Files that say nothing, or were gone when they should be read.
    """

    since: datetime
    until: datetime
    files: int
    every: int
    readings: list[Seen]
    corrections: list[Corrected]
    damaged: int


def read_back(data: Store, since: datetime, until: datetime, most: int = MOST) -> Kept:
    """Reads what was kept in a time, in parallel; of more than `most` files an even part.

    Args:
        data: The folder of the splits.
        since: Begin in UTC, to the second.
        until: End in UTC, not included.
        most: Files to read.

    Raises:
        StoreError: The bucket fails.
    """
    names = list(_names(data, since, until))
    every = max(1, math.ceil(len(names) / most))
    chosen = names[::every]
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        found = list(tqdm(pool.map(partial(_read, data), chosen), total=len(chosen), desc="reading back", unit="",
                          disable=None))
    return Kept(since, until, len(names), every, [one for one in found if isinstance(one, Seen)],
                [one for one in found if isinstance(one, Corrected)], found.count(None))


def _names(data: Store, since: datetime, until: datetime) -> Iterator[str]:
    """Yields the names of a time in order; they begin with it, so each day is a listing of its own."""
    first, end = f"{since:{STAMP}}", f"{until:{STAMP}}"
    for number in range((until.date() - since.date()).days + 1):
        for entry in data.list(f"{READINGS}/{since.date() + timedelta(number):{DAY}}"):
            name = entry.key.removeprefix(f"{READINGS}/").removesuffix(".json")
            if first <= name[:len(first)] < end:
                yield name


def _read(data: Store, name: str) -> Seen | Corrected | None:
    """Returns what a file says; None where that is nothing."""
    try:
        found = json.loads(data.read(f"{READINGS}/{name}.json"))
        picture = str(found.get("picture") or name)
        if CORRECTION in found:
            return Corrected(picture, str(found[CORRECTION]))
        seen = Seen(name, str(found["version"]), picture, str(found["text"]), float(found["confidence"]),
                    int(found.get("width", 0)), bool(found.get("language_model", True)))
    except (MissingError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError):
        return None
    return seen if 0 <= seen.confidence <= 1 and seen.width >= 0 else None
