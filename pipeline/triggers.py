"""When a recurring run starts: cron expressions and intervals as Kubeflow Pipelines understands them."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from croniter import CroniterBadDateError, CroniterError, croniter

from handwriting.errors import ConfigError

UNITS = {"m": 60, "h": 3600, "d": 86400}  # seconds
FIELDS = ("second", "minute", "hour", "day of month", "month", "day of week")


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
            check_cron(self.cron)

    def __str__(self) -> str:
        return f"cron {self.cron} UTC" if self.cron else f"every {interval(self.seconds)}"

    def following(self, last: datetime, now: datetime) -> datetime | None:
        """Returns when a run starts next; None where the expression names a day that never comes.

        Args:
            last: When the last one started, or else when the trigger was made.
            now: The time now.
        """
        if self.cron:
            try:
                return croniter(self.cron, now.astimezone(UTC), second_at_beginning=True).get_next(datetime)
            except CroniterBadDateError:
                return None
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


def check_cron(text: str) -> None:
    """Makes sure that an expression has six fields and each of them values that there are.

    Five fields are refused although the server would take them: it reads seconds first and the day of the week as the
    one left out, so that `0 3 * * 1` would run at minute 3 of each hour in January.

    Raises:
        ConfigError: It is not so.
    """
    parts = text.split()
    if len(parts) == 5:
        raise ConfigError(f"cron {text!r} has five fields, and here the first of six are seconds; write '0 {text}'")
    if len(parts) != len(FIELDS):
        raise ConfigError(f"cron {text!r} has {len(parts)} fields; write six: {', '.join(FIELDS)}")
    try:
        croniter(text, second_at_beginning=True)
    except CroniterError as error:
        raise ConfigError(f"cron {text!r} is not valid ({error}); write six fields of numbers, *, a-b, a,b or */step: "
                          f"{', '.join(FIELDS)}") from error
