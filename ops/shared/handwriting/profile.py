"""What a model learned from, in figures: `profile.json` of its bundle, with which today's readings are compared.

The predictor shows it beside its own counts, in the same bins, and `drift` compares a week with it. Models that were
trained before there were profiles have none: they serve as well, and nothing is compared.
"""

import json
import logging
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

from handwriting.errors import MissingError
from handwriting.store import Store, join

log = logging.getLogger(__name__)

PROFILE = "profile.json"
CONFIDENCES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.825, 0.85, 0.875, 0.9, 0.92, 0.94, 0.96, 0.98, 0.99, 1.0)
WIDTHS = (64, 80, 100, 125, 160, 200, 250, 315, 400, 500, 630, 800, 1000, 1250, 1600, 2000, 2500)
"""Upper bounds in px of bins a quarter wider each: smaller changes of width mean nothing to a reader."""
LOWEST = 0.1  # share of validation lines whose confidence counts as low, at most
GREEDY, BEAM = "greedy", "beam"  # ways to read: each has its own confidences


@dataclass(frozen=True)
class Profile:
    """What a model learned from, and how sure it is of lines that it did not learn from.

    Attributes:
        widths: Training lines by width: how many up to each of WIDTHS, and how many beyond.
        confidences: Validation lines by the confidence of their readings, likewise by CONFIDENCES.
        labels: Labelled lines of all splits.
        unknown: Those of them that were left out for characters outside the alphabet.
    """

    widths: Sequence[int]
    confidences: Sequence[int]
    labels: int
    unknown: int

    def __post_init__(self) -> None:
        if (len(self.widths), len(self.confidences)) != (len(WIDTHS) + 1, len(CONFIDENCES) + 1):
            raise ValueError("it has other bins")
        if not (sum(self.widths) and sum(self.confidences) and 0 <= self.unknown <= self.labels):
            raise ValueError("it counts nothing")

    @cached_property  # each reading is compared with it
    def low(self) -> float:
        """Confidence up to which a reading counts as one of low confidence: a tenth of the validation lines, or fewer.

        So it means the same for all models and ways to read, some of which are surer of the same lines than others.
        """
        return max((bound for bound, share in zip(CONFIDENCES, shares(self.confidences)) if share <= LOWEST),
                   default=0.0)

    @property
    def low_lines(self) -> int:
        """Validation lines of low confidence."""
        return sum(self.confidences[:bisect_left(CONFIDENCES, self.low) + 1]) if self.low else 0


def counted(values: Iterable[float], bounds: Sequence[float]) -> list[int]:
    """Counts values by the first bound that they do not exceed, those beyond the last one at the end."""
    counts = [0] * (len(bounds) + 1)
    for value in values:
        counts[bisect_left(bounds, value)] += 1
    return counts


def shares(counts: Sequence[int]) -> list[float]:
    """Returns the share of what is counted, 0 to 1, up to each bound; the last is 1, all are 0 where nothing is."""
    whole = sum(counts) or 1
    return [below / whole for below in accumulate(counts)]


def read_profile(store: Store, language_model: bool) -> Profile | None:
    """Reads a bundle's profile; None where it has none, or one of another version of this project.

    Args:
        store: The bundle.
        language_model: Whether the lines to compare are read with the language model.

    Raises:
        StoreError: The bucket fails.
    """
    try:
        found = json.loads(store.read(PROFILE))
        return Profile(**{**found, "confidences": found["confidences"][BEAM if language_model else GREEDY]})
    except MissingError:
        log.info("%s has no %s: readings are not compared with training; train again to have it", store.root, PROFILE)
    except (ValueError, TypeError, KeyError) as error:
        log.warning("%s does not fit this version (%s): readings are not compared with training",
                    join(store.root, PROFILE), error)
    return None
