import pytest

from handwriting.errors import ConfigError
from handwriting.promotion import decide

NEW, OLD = "s3://ocr/models/new", "s3://ocr/models/old"


@pytest.mark.parametrize("candidate, champion, margin, promote", [
    (0.05, 0.10, 0.0, True),
    (0.10, 0.05, 0.0, False),
    (0.10, 0.10, 0.0, False),
    (0.08, 0.10, 0.01, True),
    (0.095, 0.10, 0.01, False),
    (0.25, 0.5, 0.25, False),
    (1.2, 1.5, 0.1, True),
    (float("nan"), 0.5, 0.0, False),
], ids=["candidate", "champion", "draw", "beyond-margin", "within-margin", "at-margin", "above-1", "nan"])
def test_a_candidate_wins_only_by_more_than_the_margin(candidate, champion, margin, promote):
    decision = decide(NEW, candidate, OLD, champion, margin)
    assert decision.promote is promote
    assert NEW in decision.reason and OLD in decision.reason and f"{champion:.4f}" in decision.reason


def test_without_a_champion_any_candidate_wins():
    decision = decide(NEW, 0.9, "", 0.0, 0.5)
    assert decision.promote and "no champion yet" in decision.reason


@pytest.mark.parametrize("champion", [NEW, NEW + "/"])
def test_the_champion_is_deployed_as_it_is_asked_for_now(champion):
    decision = decide(NEW, 0.2, champion, 0.2, 0.5)
    assert decision.promote and "champion already" in decision.reason


@pytest.mark.parametrize("margin", [-0.01, 1.01, float("nan")])
@pytest.mark.parametrize("champion", ["", OLD])
def test_a_margin_out_of_range_is_refused(margin, champion):
    with pytest.raises(ConfigError, match="margin"):
        decide(NEW, 0.1, champion, 0.2, margin)
