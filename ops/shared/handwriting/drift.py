"""Says when to train again: where what users send differs from what the model learned from, by more than chance.

The figures assume readings that have nothing to do with each other. A few people who send most of the pictures are an
argument to look at the report before anybody labels, not for other limits.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

from handwriting.errors import ConfigError
from handwriting.profile import WIDTHS, Profile, shares

RETRAIN, KEEP, UNSURE = "retrain", "keep", "not enough to say"


@dataclass(frozen=True)
class DriftConfig:
    """When a model should be trained again: a change counts where it is greater than its limit, by more than chance.

    Attributes:
        readings: Fewest readings to judge by, 1 or more; 200 tell a share of a tenth to 0.05.
        corrections: Fewest corrections to judge by, 1 or more.
        low: Limit of how much the share of readings of low confidence grows, 0 to 1. It was a tenth before; where it
            grew by 0.2, on lines by other people with other pens, there were 1.6 times as many errors.
        widths: Limit of the distance between the widths, 0 to 1; normal distributions that are half a standard
            deviation apart, which Cohen (1988) calls a medium effect, have 0.2.
        unknown: Limit of how much the share of texts with a character outside the alphabet grows, 0 to 1; no training
            with the same alphabet can read those.
        certainty: With which a change is greater than its limit, over 0.5 to below 1: of a hundred weeks at the very
            limit one asks for a training.
    """

    readings: int = 200
    corrections: int = 20
    low: float = 0.05
    widths: float = 0.2
    unknown: float = 0.02
    certainty: float = 0.99

    def __post_init__(self) -> None:
        if min(self.readings, self.corrections) < 1:
            raise ConfigError(f"{self}: give 1 or more readings and corrections")
        if not all(0 <= limit <= 1 for limit in (self.low, self.widths, self.unknown)):
            raise ConfigError(f"{self}: give limits from 0 to 1")
        if not 0.5 < self.certainty < 1:
            raise ConfigError(f"certainty is {self.certainty}; give one over 0.5 and below 1")


class Week(NamedTuple):
    """What users sent in some days, in the profile's bins.

    Attributes:
        confidences: Readings by confidence.
        low: Those of low confidence by the profile.
        widths: Readings by width; those whose width is not known are left out.
        corrections: Texts that people sent.
        unknown: Those of them with a character outside the alphabet.
    """

    confidences: Sequence[int]
    low: int
    widths: Sequence[int]
    corrections: int
    unknown: int


class Change(NamedTuple):
    """How one thing differs from training.

    Attributes:
        text: What was found then and now.
        change: By how much it differs, -1 to 1.
        least: By how much at the least, with chance allowed for.
        limit: That has to be greater than this.
        enough: There are enough figures to judge by.
    """

    text: str
    change: float
    least: float
    limit: float
    enough: bool

    @property
    def matters(self) -> bool:
        """Whether it is a reason to train again."""
        return self.enough and self.least > self.limit


class Verdict(NamedTuple):
    """Whether to train again, and why.

    Attributes:
        retrain: Train again.
        word: RETRAIN, KEEP or UNSURE.
        reasons: Sentences that name figures.
        changes: All that was compared.
    """

    retrain: bool
    word: str
    reasons: list[str]
    changes: list[Change]


def decide(profile: Profile | None, week: Week, config: DriftConfig = DriftConfig()) -> Verdict:
    """Compares some days with what the model that served learned from.

    Args:
        profile: Of the model; None for one without.
        week: What that model read, and people corrected.
        config: Limits.
    """
    if profile is None:
        return Verdict(False, UNSURE, ["the model was trained before there were profiles, so there is nothing to "
                                       "compare with; the next training writes one"], [])
    changes = [_low_change(profile, week, config), _width_change(profile, week, config),
               _unknown_change(profile, week, config)]
    if reasons := [f"{change.text}: a change of {change.least:.3f} at the least, over the limit {change.limit}"
                   for change in changes if change.matters]:
        return Verdict(True, RETRAIN, reasons, changes)
    if not changes[0].enough:
        return Verdict(False, UNSURE, [_too_few(sum(week.confidences), config.readings)], changes)
    return Verdict(False, KEEP, [change.text for change in changes if change.enough], changes)


def _too_few(count: int, fewest: int) -> str:
    hint = "" if count else ": does the service keep what users send (keep_share), and does this model serve?"
    return f"{count or 'no'} readings of this model, fewer than {fewest}{hint}"


def _low_change(profile: Profile, week: Week, config: DriftConfig) -> Change:
    now, then = (week.low, sum(week.confidences)), (profile.low_lines, sum(profile.confidences))
    text = f"confidence up to {profile.low} in {_share(*now)} of the readings, in {_share(*then)} of validation lines"
    return Change(text, *growth(now, then, config.certainty), config.low, now[1] >= config.readings)


def _unknown_change(profile: Profile, week: Week, config: DriftConfig) -> Change:
    now, then = (week.unknown, week.corrections), (profile.unknown, profile.labels)
    text = f"characters outside the alphabet in {_share(*now)} of the corrections, in {_share(*then)} of the labels"
    return Change(text, *growth(now, then, config.certainty), config.unknown, now[1] >= config.corrections)


def _width_change(profile: Profile, week: Week, config: DriftConfig) -> Change:
    now, then = sum(week.widths), sum(profile.widths)
    text = (f"the middle half of {now} readings is {_middle(week.widths)} px wide, of {then} training lines "
            f"{_middle(profile.widths)}")
    change = distance(profile.widths, week.widths)
    least = max(0.0, change - _chance(now, config.certainty) - _chance(then, config.certainty))
    return Change(text, change, least, config.widths, now >= config.readings)


def _middle(widths: Sequence[int]) -> str:
    """Returns the bounds of the bins between which half of the lines are, a quarter below and a quarter above."""
    low, high = (bisect_left(shares(widths), quarter) for quarter in (0.25, 0.75))
    return f"{(0, *WIDTHS)[low]} to {(*WIDTHS, 'more')[high]}" if sum(widths) else "unknown"


def _share(count: int, whole: int) -> str:
    return f"{count} of {whole} ({count / max(1, whole):.1%})"


def wilson(count: int, whole: int, z: float) -> tuple[float, float]:
    """Returns the interval of a share, 0 to 1 (Wilson, Journal of the American Statistical Association 22, 1927).

    Args:
        count: Of `whole`, which may be 0: then the share may be any.
        z: Quantile of the normal distribution.
    """
    middle, spread = count + z * z / 2, z * math.sqrt(count * (whole - count) / max(1, whole) + z * z / 4)
    return max(0.0, (middle - spread) / (whole + z * z)), min(1.0, (middle + spread) / (whole + z * z))


def growth(now: tuple[int, int], then: tuple[int, int], certainty: float) -> tuple[float, float]:
    """Returns by how much a share grew, and by how much at the least (Newcombe, Statistics in Medicine 17, 1998, 10).

    Args:
        now: A count, and of how many; of none it may be any share.
        then: The same before.
        certainty: Of the lower bound, over 0.5 to below 1.
    """
    z = NormalDist().inv_cdf(certainty)
    share, before = (count / max(1, whole) for count, whole in (now, then))
    return share - before, share - before - math.hypot(share - wilson(*now, z)[0], wilson(*then, z)[1] - before)


def distance(then: Sequence[int], now: Sequence[int]) -> float:
    """Returns how far two histograms of the same bins are apart, 0 to 1.

    It is the distance of Kolmogorov and Smirnov, the largest difference between the shares up to a bound, but for a
    shift by one bin, which counts as nothing: where the lines lie between two bounds is chance.

    Args:
        then: Counts.
        now: Counts; where there are none nothing differs.
    """
    if not sum(now):
        return 0.0
    before, after = shares(then), shares(now)
    return max(0.0, *(a - b for one, other in ((before, after), (after, before)) for a, b in zip(one, other[1:])))


def _chance(count: int, certainty: float) -> float:
    """Returns how far shares of a sample stray from the truth (Massart, Annals of Probability 18, 1990).

    Two samples, each of which may stray either way, share what is left of certainty.
    """
    return math.sqrt(math.log(4 / (1 - certainty)) / (2 * max(1, count)))
