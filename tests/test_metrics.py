import random
from difflib import SequenceMatcher

import pytest

from handwriting.errors import DataError
from handwriting.metrics import char_accuracy, confusions, lacks_a_passage, score

TRUTHS = ["Hà Nội", "Số 3 Lý Nam Đế", "a b"]
READINGS = ["Hà Nộ", "Sô 3 Lý Nam Đế", "a b"]  # a letter lost, an accent lost, and one right


def test_scores_are_those_counted_by_hand():
    scores = score(TRUTHS, READINGS)
    assert (scores.lines, scores.characters, scores.edits) == (3, 6 + 14 + 3, 2)
    assert scores.cer == pytest.approx(2 / 23)
    assert scores.wer == pytest.approx(2 / 9)
    assert scores.exact == pytest.approx(1 / 3)
    assert scores.char_accuracy == pytest.approx((2 * 5 / 11 + 2 * 13 / 28 + 1) / 3)


def test_rates_are_over_the_corpus_not_means_of_lines():
    scores = score(["a", "bcdefghij"], ["x", "bcdefghij"])
    assert scores.cer == pytest.approx(1 / 10)  # the mean of lines would be 1 / 2


@pytest.mark.parametrize("truth, reading, edits, word_edits", [
    ("abc", "", 3, 1), ("", "abc", 3, 1), ("", "", 0, 0), ("kitten", "sitting", 3, 1), ("a b c", "a c", 2, 1),
    ("a b", "ab", 1, 2), ("abcd", "xabcdy", 2, 1),
])
def test_insertions_deletions_and_substitutions_count_one_each(truth, reading, edits, word_edits):
    scores = score([truth], [reading])
    assert scores.edits == edits
    assert scores.cer == edits / max(len(truth), 1) and scores.wer == word_edits / max(len(truth.split()), 1)


def test_a_rate_passes_1_where_more_is_read_than_written():
    assert score(["a"], ["abc"]).cer == 2


def test_perfect_readings_score_perfectly():
    scores = score(TRUTHS, TRUTHS)
    assert (scores.cer, scores.wer, scores.exact, scores.char_accuracy, scores.edits) == (0, 0, 1, 1, 0)


@pytest.mark.parametrize("truths, readings", [([], []), (["a"], []), (["a"], ["a", "b"])])
def test_readings_must_pair_with_truths(truths, readings):
    with pytest.raises(DataError, match=f"{len(readings)} readings against {len(truths)} truths"):
        score(truths, readings)


@pytest.mark.parametrize("seed", range(30))
def test_char_accuracy_is_the_tutorials_harmonic_mean(seed):
    rng = random.Random(seed)
    truth, reading = ("".join(rng.choices("abcdeê ", k=rng.randrange(1, 40))) for _ in range(2))
    matched = sum(block.size for block in SequenceMatcher(None, truth, reading).get_matching_blocks())
    of_truth, of_reading = matched / len(truth), matched / len(reading)
    mean = 2 * of_truth * of_reading / (of_truth + of_reading) if matched else 0
    assert char_accuracy(truth, reading) == pytest.approx(mean)


@pytest.mark.parametrize("truth, reading, expected", [("", "", 1), ("a", "", 0), ("", "a", 0), ("ab", "ab", 1)])
def test_char_accuracy_of_the_extremes(truth, reading, expected):
    assert char_accuracy(truth, reading) == expected


def test_long_lines_are_matched_as_short_ones():
    """difflib would leave out frequent characters from 200 on."""
    assert char_accuracy("ab" * 150, "ba" * 150) == pytest.approx(299 / 300)


def test_confusions_are_counted_commonest_first():
    truths, readings = ["ộ ộ ộ", "abc", "a"], ["ô ô ộ", "ac", "ax"]
    assert confusions(truths, readings) == [("ộ", "ô", 2), ("b", "", 1), ("", "x", 1)]
    assert confusions(truths, readings, most=1) == [("ộ", "ô", 2)]


def test_right_readings_confuse_nothing():
    assert confusions(TRUTHS, TRUTHS) == []


def test_the_dictionary_is_rounded_for_people():
    assert score(["abc"], ["abx"]).as_dict() == {
        "cer": 0.333333, "wer": 1, "exact": 0, "char_accuracy": 0.666667, "lines": 1, "characters": 3, "edits": 1}


@pytest.mark.parametrize("truth, reading, expected", [
    ("Thôn Bầu, xã Kim Chung, Xã Kim Chung", "Thôn Bâu, Xã Kim Chung", True), ("Hà Nội", "Huyện Mỹ Đức, Hà Nội", True),
    ("Hà Nội", "Hà Nội", False), ("", "", False), ("Hà Nội", "H N", False),
    ("Số 30 Láng Hạ, Hà Nội", "6 ang, a i", False),
])
def test_a_passage_is_missed_where_all_else_agrees(truth, reading, expected):
    assert lacks_a_passage(truth, reading) == expected
