"""When a recurring run starts: cron expressions and intervals as Kubeflow Pipelines understands them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from typing import NamedTuple

from handwriting.errors import ConfigError

UNITS = {"m": 60, "h": 3600, "d": 86400}  # seconds
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
HORIZON = 8 * 366  # days to look ahead: 29 February may be that far away


class Field(NamedTuple):
    """A field of a cron expression: what it is called, its first and last value, and names of the values."""

    name: str
    low: int
    high: int
    names: tuple[str, ...] = ()


FIELDS = (Field("second", 0, 59), Field("minute", 0, 59), Field("hour", 0, 23), Field("day of month", 1, 31),
          Field("month", 1, 12, MONTHS), Field("day of week", 0, 6, DAYS))


@dataclass(frozen=True)
class Trigger:
    """Either a cron expression or an interval.

    Attributes:
        cron: Six fields, seconds first, UTC; "" for an interval.
        seconds: Length of the interval; 0 for a cron expression.

    Raises:
        ConfigError: There is not exactly one of both, or the expression is not valid.
    """

    cron: str = ""
    seconds: int = 0

    def __post_init__(self) -> None:
        if bool(self.cron) == bool(self.seconds) or self.seconds < 0:
            raise ConfigError(f"cron {self.cron!r} and {self.seconds} seconds: give one of both, and a positive number")
        if self.cron:
            parse_cron(self.cron)

    def __str__(self) -> str:
        return f"cron {self.cron} UTC" if self.cron else f"every {interval(self.seconds)}"

    def following(self, last: datetime, now: datetime) -> datetime | None:
        """Returns when a run starts next; None where the expression names a day that never comes.

        Args:
            last: When the last one started, or else when the trigger was made.
            now: The time now.
        """
        if self.cron:
            return next(_times(self.cron, now.astimezone(UTC)), None)
        return max(last + timedelta(seconds=self.seconds), now)


def every(text: str) -> Trigger:
    """Makes a trigger of an interval such as `30m`, `6h` or `1d`.

    Raises:
        ConfigError: It is none.
    """
    found = re.fullmatch(r"([1-9]\d*)([mhd])", text.strip())
    if not found:
        raise ConfigError(f"{text!r} is not an interval; write a whole number of minutes, hours or days: 30m, 6h, 1d")
    return Trigger(seconds=int(found[1]) * UNITS[found[2]])


def interval(seconds: int) -> str:
    """Writes an interval in its largest whole unit."""
    for unit, length in reversed(UNITS.items()):
        if seconds % length == 0:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"


def parse_cron(text: str) -> list[set[int]]:
    """Returns the values that each field of an expression allows, in order of FIELDS.

    Five fields are refused although the server would take them: it reads seconds first and the day of the week as the
    one left out, so that `0 3 * * 1` would run at minute 3 of each hour in January.

    Raises:
        ConfigError: It has not six fields, or one of them is out of its range.
    """
    parts = text.split()
    if len(parts) == 5:
        raise ConfigError(f"cron {text!r} has five fields, and here the first of six are seconds; write '0 {text}'")
    if len(parts) != len(FIELDS):
        raise ConfigError(f"cron {text!r} has {len(parts)} fields; write six: {', '.join(f.name for f in FIELDS)}")
    return [set().union(*(_values(part, field, text) for part in whole.split(",")))
            for whole, field in zip(parts, FIELDS)]


def _values(part: str, field: Field, text: str) -> range:
    """Returns the values of `*`, `a`, `a-b`, and of any of them with `/step`."""
    ends, _, step = part.partition("/")
    low, dash, high = ends.partition("-")
    try:
        first, last = field.low, field.high
        if ends not in ("*", "?"):
            first, last = _value(low, field), field.high if step and not dash else _value(high or low, field)
        if not (field.low <= first <= last <= field.high and int(step or 1) > 0):
            raise ValueError
    except ValueError:
        names = f", or {field.names[0]} to {field.names[-1]}" if field.names else ""
        raise ConfigError(f"cron {text!r}: {part!r} is no {field.name}; write {field.low} to {field.high}{names}, *, "
                          "a-b, a,b or */step") from None
    return range(first, last + 1, int(step or 1))


def _value(text: str, field: Field) -> int:
    name = text.lower()
    return field.names.index(name) + field.low if name in field.names else int(text)


def _times(cron: str, after: datetime) -> Iterator[datetime]:
    """Gives the times of an expression behind another time."""
    seconds, minutes, hours, dates, months, days = parse_cron(cron)
    either = not any(part[0] in "*?" for part in (cron.split()[3], cron.split()[5]))
    clock = [time(h, m, s, tzinfo=UTC) for h in sorted(hours) for m in sorted(minutes) for s in sorted(seconds)]
    for offset in range(HORIZON):
        day = after.date() + timedelta(days=offset)
        matches = day.day in dates, day.isoweekday() % 7 in days
        if day.month in months and (any(matches) if either else all(matches)):
            yield from (found for found in (datetime.combine(day, moment) for moment in clock) if found > after)
