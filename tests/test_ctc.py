import itertools
import math

import numpy as np
import pytest

from handwriting.alphabet import BLANK, Alphabet
from handwriting.ctc import Reading, align, decode_greedy, frames_needed, spelled

ABC = Alphabet("abc")


def log_softmax(logits):
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def collapse(path):
    return ABC.decode([key for key, _ in itertools.groupby(path) if key != BLANK])


def one_hot(path, sure=0.97):
    """Log probabilities whose likeliest path is `path`, each step with the probability `sure`."""
    log_probs = np.full((len(path), ABC.classes), math.log((1 - sure) / (ABC.classes - 1)))
    log_probs[np.arange(len(path)), path] = math.log(sure)
    return log_probs


@pytest.mark.parametrize("seed", range(20))
def test_the_reading_is_the_likeliest_of_all_paths(seed):
    log_probs = log_softmax(np.random.default_rng(seed).normal(size=(1 + seed % 5, ABC.classes)) * 2)
    steps = range(len(log_probs))
    best = max(itertools.product(range(ABC.classes), repeat=len(log_probs)),
               key=lambda path: sum(log_probs[step, path[step]] for step in steps))
    assert decode_greedy(log_probs, ABC).text == collapse(best)


@pytest.mark.parametrize("path, text", [
    ([1, 1, 1], "a"), ([1, 0, 1], "aa"), ([0, 0, 0], ""), ([0, 1, 2, 2, 0, 2, 3, 0], "abbc"), ([1, 2, 1], "aba"),
    ([0], ""), ([3], "c"),
])
def test_repeats_merge_and_blanks_part(path, text):
    assert decode_greedy(one_hot(path), ABC).text == text
    assert spelled(np.array(path), ABC) == text


@pytest.mark.parametrize("seed", range(20))
def test_every_character_has_one_confidence_between_0_and_1(seed):
    logits = np.random.default_rng(seed).normal(size=(30, ABC.classes)).astype(np.float32) * seed
    reading = decode_greedy(log_softmax(logits), ABC)
    assert len(reading.characters) == len(reading.text)
    assert all(0 < p <= 1 + 1e-6 for p in reading.characters) and 0 < reading.confidence <= 1 + 1e-6


def test_a_characters_confidence_is_the_highest_of_its_run_and_the_lines_is_their_mean():
    log_probs = one_hot([1, 1, 0, 2])
    log_probs[:2] = np.concatenate([one_hot([1], 0.6), one_hot([1], 0.9)])
    log_probs[2:] = np.concatenate([one_hot([0], 0.99), one_hot([2], 0.5)])
    reading = decode_greedy(log_probs, ABC)
    assert reading.text == "ab"
    assert reading.characters == pytest.approx((0.9, 0.5)) and reading.confidence == pytest.approx(0.7)


def test_an_empty_readings_confidence_is_the_mean_probability_of_the_blank():
    reading = decode_greedy(np.concatenate([one_hot([0], 0.9), one_hot([0], 0.7)]), ABC)
    assert reading.text == "" and reading.characters == () and reading.confidence == pytest.approx(0.8)


def test_no_steps_say_nothing_for_sure():
    assert decode_greedy(np.empty((0, ABC.classes)), ABC) == Reading("", 0.0, ())


@pytest.mark.parametrize("text, steps", [
    ("", 0), ("a", 1), ("abc", 3), ("aa", 3), ("aaa", 5), ("abba", 5), ("abab", 4),
])
def test_equal_neighbours_need_a_blank_between_them(text, steps):
    assert frames_needed(ABC.encode(text)) == steps


@pytest.mark.parametrize("seed", range(10))
def test_frames_needed_is_where_ctc_loss_becomes_finite(seed):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(seed)
    ids = rng.integers(1, ABC.classes, size=rng.integers(2, 9)).tolist()
    needed = frames_needed(ids)
    log_probs = torch.tensor(log_softmax(rng.normal(size=(needed, 1, ABC.classes))))
    losses = [torch.nn.functional.ctc_loss(log_probs, torch.tensor([ids]), [steps], [len(ids)]).item()
              for steps in (needed - 1, needed)]
    assert losses[0] == math.inf and math.isfinite(losses[1])


def paths_of(text, steps):
    """Every path of so many steps that reads a text."""
    return (path for path in itertools.product(range(ABC.classes), repeat=steps) if collapse(path) == text)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("text", ["a", "ab", "aa", "aba", "abb"])
def test_a_text_is_aligned_along_its_likeliest_path(text, seed):
    log_probs = log_softmax(np.random.default_rng(seed).normal(size=(4 + seed % 3, ABC.classes)) * 2)
    best = max(paths_of(text, len(log_probs)), key=lambda path: sum(log_probs[range(len(path)), path]))
    runs = [(key, len(list(run))) for key, run in itertools.groupby(best)]
    ends = np.cumsum([length for _, length in runs])
    expected = [(end - length, end) for (key, length), end in zip(runs, ends) if key != BLANK]
    assert align(log_probs, ABC.encode(text)).tolist() == [list(span) for span in expected]


def test_a_text_longer_than_the_line_cannot_be_aligned():
    with pytest.raises(ValueError, match="2 steps cannot hold 2 characters"):
        align(one_hot([1, 1]), ABC.encode("aa"))
