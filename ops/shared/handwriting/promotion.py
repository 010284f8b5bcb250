"""Decides whether a candidate takes the champion's place."""

from typing import NamedTuple

from handwriting.errors import ConfigError


class Decision(NamedTuple):
    """Whether to deploy the candidate, and why."""

    promote: bool
    reason: str


def decide(candidate: str, candidate_cer: float, champion: str, champion_cer: float, margin: float) -> Decision:
    """Lets a candidate take the champion's place only if it reads the same lines better by a margin.

    The champion itself, which a run with `force` may come to, is deployed once more: other settings and a mended
    predictor reach the service so, and where nothing differs, nothing happens.

    Args:
        candidate: URI of the new bundle.
        candidate_cer: Its CER on the test lines, 0 or more.
        champion: URI of the bundle that serves, "" for none.
        champion_cer: Its CER on the same lines; means nothing without a champion.
        margin: CER by which the candidate must be lower, 0 to 1.

    Raises:
        ConfigError: The margin is out of range.
    """
    if not 0 <= margin <= 1:
        raise ConfigError(f"margin is {margin}; give a CER difference from 0 to 1")
    if not champion:
        return Decision(True, f"no champion yet: {candidate} (CER {candidate_cer:.4f}) takes the place")
    if candidate.rstrip("/") == champion.rstrip("/"):
        return Decision(True, f"{candidate} is the champion already; it is deployed as it is asked for now")
    comparison = f"candidate {candidate} CER {candidate_cer:.4f}, champion {champion} CER {champion_cer:.4f}"
    if candidate_cer < champion_cer - margin:
        return Decision(True, f"better by more than {margin}: {comparison}")
    return Decision(False, f"not better by more than {margin}: {comparison}")
