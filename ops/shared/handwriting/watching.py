"""The weekly look at a service: what users sent against what its model learned from, as a page and a verdict."""

import logging
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Any, NamedTuple

from handwriting.alphabet import Alphabet
from handwriting.bundle import BundleConfig, find_bundle, read_config
from handwriting.drift import DriftConfig, Verdict, Week, decide, distance
from handwriting.drift_page import drift_page
from handwriting.errors import ConfigError, ImageError, MissingError
from handwriting.image import read_line
from handwriting.layout import USER_PICTURES
from handwriting.metrics import Scores, score
from handwriting.profile import CONFIDENCES, WIDTHS, Profile, counted, read_profile
from handwriting.store import Store, open_store
from handwriting.user_readings import Corrected, Kept, Seen, read_back

log = logging.getLogger(__name__)

SHOWN = 12  # pictures of the least certain readings


class Found(NamedTuple):
    """What the look gave.

    Attributes:
        model: URI of the model that serves.
        kept: All that users sent, in which time.
        own: The model's readings, with the language model or without it as the last one, each picture once: who asks
            with the same one again and again counts once.
        corrections: The last one of each picture.
        profile: Of the model.
        week: Figures of its readings.
        unknown: Characters of corrections outside its alphabet, with the corrections that have them.
        scores: Of its readings against the corrections of the same pictures; None without any.
        verdict: Whether to train again.
    """

    model: str
    kept: Kept
    own: list[Seen]
    corrections: list[Corrected]
    profile: Profile | None
    week: Week
    unknown: Counter[str]
    scores: Scores | None
    verdict: Verdict

    def metrics(self) -> dict[str, float]:
        """Returns the figures that are numbers, by name."""
        return {"files": self.kept.files, "damaged": self.kept.damaged, "readings": len(self.own),
                "corrections": len(self.corrections), "unknown": self.week.unknown,
                "retrain": int(self.verdict.retrain),
                **(self._against(self.profile) if self.profile and self.own else {}),
                **({"cer": self.scores.as_dict()["cer"], "corrected": self.scores.lines} if self.scores else {})}

    def _against(self, profile: Profile) -> dict[str, float]:
        return {"low_share": round(self.week.low / len(self.own), 4),
                "low_share_of_validation": round(profile.low_lines / sum(profile.confidences), 4),
                "confidence_distance": round(distance(profile.confidences, self.week.confidences), 4),
                "width_distance": round(distance(profile.widths, self.week.widths), 4)}

    def summary(self) -> dict[str, Any]:
        """Returns the outcome as a command prints it."""
        return {"model": self.model, "since": f"{self.kept.since:%Y-%m-%dT%H:%M:%SZ}",
                "until": f"{self.kept.until:%Y-%m-%dT%H:%M:%SZ}", **self.metrics(), "retrain": self.verdict.retrain,
                "verdict": self.verdict.word, "reasons": self.verdict.reasons}


class Watched(NamedTuple):
    """What was found, and an HTML page of it."""

    found: Found
    report: str


def watch(data_uri: str, model_uri: str, days: int = 7, config: DriftConfig = DriftConfig(),
          until: datetime | None = None) -> Watched:
    """Compares what users sent in the last days with what the model that serves learned from.

    Args:
        data_uri: Bucket prefix or folder that holds `user_data/`.
        model_uri: A bundle, or the root of models (the one that serves).
        days: To look back, 1 or more.
        config: Limits.
        until: End of the time in UTC, not included; None for now, with the second that runs.

    Raises:
        ConfigError: There are no days.
        MissingError: There is no model.
        StoreError: The bucket fails.
    """
    if days < 1:
        raise ConfigError(f"days is {days}; give 1 or more")
    end = (until or datetime.now(UTC) + timedelta(seconds=1)).replace(microsecond=0)  # names say no less than a second
    bundle, data = open_store(find_bundle(model_uri)), open_store(data_uri)
    model = read_config(bundle)
    kept = read_back(data, end - timedelta(days), end)
    found = _look(bundle, model, kept, config)
    log.info("%d files of %d days, %d damaged; %d readings by %s: %s, %s", kept.files, days, kept.damaged,
             len(found.own), model.version, found.verdict.word, "; ".join(found.verdict.reasons))
    return Watched(found, drift_page(found, _pictures(data, model, found.own)))


def _look(bundle: Store, model: BundleConfig, kept: Kept, config: DriftConfig) -> Found:
    by_model = [one for one in kept.readings if _is_by(one.version, model.version)]
    way = by_model[-1].language_model if by_model else True  # as the service reads now: either way has its confidences
    own = list({one.picture: one for one in by_model if one.language_model == way}.values())
    profile = read_profile(bundle, way)
    corrections = list({one.picture: one for one in kept.corrections}.values())
    alphabet = Alphabet(model.alphabet)
    strange = [alphabet.unknown(one.text) for one in corrections]
    week = Week(counted((one.confidence for one in own), CONFIDENCES),
                sum(one.confidence <= profile.low for one in own) if profile else 0,
                counted((one.width for one in own if one.width), WIDTHS), len(corrections), sum(map(bool, strange)))
    return Found(bundle.root, kept, own, corrections, profile, week, Counter(chain.from_iterable(strange)),
                 _scores(own, corrections), decide(profile, week, config))


def _is_by(release: str, model: str) -> bool:
    """Says whether a release is of a model: with any code, or without."""
    return release == model or release.startswith(f"{model}-")


def _scores(own: list[Seen], corrections: list[Corrected]) -> Scores | None:
    """Scores readings against what people say that the same pictures show."""
    read = {one.picture: one.text for one in own}
    pairs = [(one.text, read[one.picture]) for one in corrections if one.picture in read]
    return score([truth for truth, _ in pairs], [text for _, text in pairs]) if pairs else None


def _pictures(data: Store, model: BundleConfig, own: list[Seen]) -> list[tuple[Any, Seen]]:
    """Returns the lines of the least certain readings, uint8 [height, width]; those that are gone are left out."""
    shown = []
    for one in sorted(own, key=lambda seen: seen.confidence)[:SHOWN]:
        try:
            shown.append((read_line(data.read(f"{USER_PICTURES}/{one.name}.png"), model.image), one))
        except (MissingError, ImageError) as error:
            log.info("not shown: %s", error)
    return shown
