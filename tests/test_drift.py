"""When to train again: real changes count, chance does not, and too little to judge by is told as such."""

import random

import pytest
from scipy import stats

from handwriting.drift import KEEP, RETRAIN, UNSURE, DriftConfig, Week, decide, distance, growth, wilson
from handwriting.errors import ConfigError
from handwriting.profile import CONFIDENCES, WIDTHS, Profile, counted

PROFILE = Profile(counted([700] * 500 + [900] * 500, WIDTHS), counted([0.85] * 40 + [0.95] * 360, CONFIDENCES), 2000, 0)
LOW, SURE = 0.85, 0.95


def week(low=0, sure=0, widths=(700, 900), corrections=0, unknown=0):
    """Days with readings of both kinds; the widths take turns."""
    count = low + sure
    return Week(counted([LOW] * low + [SURE] * sure, CONFIDENCES), low,
                counted([widths[number % len(widths)] for number in range(count)] if widths else [], WIDTHS),
                corrections, unknown)


@pytest.mark.parametrize("count, whole", [(0, 10), (1, 10), (5, 10), (10, 10), (36, 364), (0, 1)])
def test_the_interval_of_a_share_is_wilsons(count, whole):
    expected = stats.binomtest(count, whole).proportion_ci(0.95, "wilson")
    assert wilson(count, whole, 1.959964) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_the_share_of_nothing_may_be_any():
    assert wilson(0, 0, 2.0) == (0.0, 1.0)


def test_the_growth_of_a_share_is_the_example_of_newcombes_paper():
    change, least = growth((56, 70), (48, 80), 0.975)
    assert (change, least) == pytest.approx((0.2, 0.0524), abs=1e-4)


def test_growth_of_nothing_is_certain_of_nothing():
    assert growth((0, 0), (0, 100), 0.99)[1] < 0 and growth((5, 5), (0, 0), 0.99)[1] < 0


def test_histograms_are_apart_by_the_largest_difference_but_a_shift_by_one_bin_is_none():
    assert distance([10, 0, 0, 0], [1, 0, 0, 0]) == 0
    assert distance([10, 0, 0, 0], [0, 5, 0, 0]) == distance([0, 10, 0, 0], [5, 0, 0, 0]) == 0
    assert distance([10, 0, 0, 0], [0, 0, 5, 0]) == distance([0, 0, 10, 0], [5, 0, 0, 0]) == 1
    assert distance([4, 0, 0, 0], [3, 0, 1, 0]) == distance([3, 0, 1, 0], [4, 0, 0, 0]) == 0.25
    assert distance([0, 0, 4, 0], [0, 0, 3, 1]) == 0  # to the last bin, too
    assert distance([1, 2, 3, 4], [0, 0, 0, 0]) == 0


def test_more_readings_of_low_confidence_are_a_reason_that_names_them():
    verdict = decide(PROFILE, week(90, 210))
    assert verdict.retrain and verdict.word == RETRAIN
    [reason] = verdict.reasons
    for figure in ("90 of 300 (30.0%)", "40 of 400 (10.0%)", "0.05"):
        assert figure in reason


def test_readings_like_the_validation_lines_or_surer_are_no_reason():
    for low in (0, 15, 30, 45):
        verdict = decide(PROFILE, week(low, 300 - low))
        assert (verdict.retrain, verdict.word) == (False, KEEP)
        assert f"{low} of 300" in verdict.reasons[0]


@pytest.mark.parametrize("low, sure, word", [(0, 0, UNSURE), (199, 0, UNSURE), (200, 0, RETRAIN), (5, 195, KEEP)])
def test_too_few_readings_are_not_enough_to_say_whatever_they_are(low, sure, word):
    verdict = decide(PROFILE, week(low, sure))
    assert (verdict.word, verdict.retrain) == (word, word == RETRAIN)
    assert word != UNSURE or f"{low + sure or 'no'} readings" in verdict.reasons[0] and "200" in verdict.reasons[0]


def test_an_empty_week_asks_whether_anything_is_kept():
    assert "keep_share" in decide(PROFILE, week()).reasons[0]


def test_the_same_share_is_a_reason_of_many_readings_and_chance_of_few():
    assert decide(PROFILE, week(40, 160)).word == KEEP  # 0.2, which 200 readings tell to 0.06
    assert decide(PROFILE, week(800, 3200)).word == RETRAIN


@pytest.mark.parametrize("widths, retrain", [
    ((700, 900), False), ((640, 810), False), ((800, 1000), False), ((1000, 1250), False),  # a bin wider
    ((300, 900), True), ((150, 200), True), ((1300, 1900), True)])
def test_lines_of_other_widths_are_a_reason(widths, retrain):
    verdict = decide(PROFILE, week(25, 475, widths))
    assert verdict.retrain == retrain
    assert not retrain or "px wide" in verdict.reasons[0] and "500 readings" in verdict.reasons[0]


def test_the_same_widths_are_a_reason_of_many_readings_and_chance_of_few():
    widths = [300] * 3 + [700] * 4 + [900] * 3  # 0.3 away from what was trained on
    few, many = (decide(PROFILE, week(count // 20, count - count // 20, widths)) for count in (200, 4000))
    assert few.changes[1].change == many.changes[1].change == pytest.approx(0.3)
    assert (few.word, many.word) == (KEEP, RETRAIN)
    assert few.changes[1].least == pytest.approx(0.3 - 0.1224 - 0.0547, abs=1e-3)  # 2 exp(-2 n e^2) = 0.01 / 2


def test_readings_whose_width_nobody_kept_say_nothing_of_widths():
    verdict = decide(PROFILE, week(25, 475, ()))
    assert verdict.word == KEEP and not verdict.changes[1].enough
    assert [reason for reason in verdict.reasons if "wide" in reason] == []


@pytest.mark.parametrize("corrections, unknown, retrain", [(20, 5, True), (19, 19, False), (20, 1, False),
                                                           (200, 4, False), (1000, 60, True)])
def test_corrections_that_the_alphabet_cannot_write_are_a_reason(corrections, unknown, retrain):
    verdict = decide(PROFILE, week(25, 475, corrections=corrections, unknown=unknown))
    assert verdict.retrain == retrain
    assert not retrain or f"{unknown} of {corrections}" in verdict.reasons[0] and "0 of 2000" in verdict.reasons[0]


def test_corrections_are_judged_also_where_few_readings_were_kept():
    assert decide(PROFILE, week(1, 9, corrections=40, unknown=30)).word == RETRAIN


def test_labels_that_lacked_the_same_characters_make_it_no_change():
    before = Profile(PROFILE.widths, PROFILE.confidences, 2000, 400)
    assert decide(before, week(25, 475, corrections=100, unknown=25)).word == KEEP


def test_every_change_that_counts_is_a_reason():
    assert len(decide(PROFILE, week(400, 100, (100, 120), 100, 50)).reasons) == 3


def test_a_model_without_a_profile_gets_no_verdict():
    verdict = decide(None, week(300, 0))
    assert (verdict.retrain, verdict.word, verdict.changes) == (False, UNSURE, [])
    assert "next training" in verdict.reasons[0]


@pytest.mark.parametrize("count", [200, 1000])
def test_chance_alone_seldom_asks_for_a_training(count):
    rng = random.Random(count)
    words = []
    for _ in range(1000):
        low = sum(rng.random() < 0.1 for _ in range(count))
        widths = [rng.choice((700, 900)) for _ in range(count)]
        words.append(decide(PROFILE, week(low, count - low, widths)).word)
    assert words.count(UNSURE) == 0 and words.count(RETRAIN) < 3


def test_at_the_very_limit_one_week_in_a_hundred_asks_for_a_training():
    rng = random.Random(1)
    profile = Profile(PROFILE.widths, counted([LOW] * 4000 + [SURE] * 36000, CONFIDENCES), 2000, 0)  # no chance there
    asked = sum(decide(profile, week(low, 500 - low)).retrain for low in (
        sum(rng.random() < 0.15 for _ in range(500)) for _ in range(1000)))
    assert 2 <= asked <= 25


@pytest.mark.parametrize("wrong", [{"readings": 0}, {"corrections": 0}, {"low": -0.1}, {"widths": 1.1}, {"unknown": 2},
                                   {"certainty": 0.5}, {"certainty": 1.0}, {"low": float("nan")}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigError):
        DriftConfig(**wrong)
