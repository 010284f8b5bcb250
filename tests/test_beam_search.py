"""Beam search finds the likeliest text, compared with trying them all."""

import itertools
import math

import numpy as np
import pytest
import torch

from handwriting import beam_search
from handwriting.alphabet import Alphabet
from handwriting.beam_search import decode_beam
from handwriting.ctc import decode_greedy
from handwriting.fusion import best_fusion
from handwriting.language_model import EDGE, Fusion, LanguageModel

ABC = Alphabet("abc")
MODEL = LanguageModel.of_texts(["abca", "abcb", "bab", "cab", "aab"], ABC.classes, order=3)


@pytest.fixture
def all_candidates(monkeypatch):
    """Looks at every class at every step, and forgets no prefix."""
    monkeypatch.setattr(beam_search, "LEAST", -math.inf)
    monkeypatch.setattr(beam_search, "BEHIND", math.inf)


def log_softmax(logits):
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def network_score(text, log_probs):
    """The log-probability of a text by PyTorch's own CTC loss."""
    loss = torch.nn.functional.ctc_loss(torch.tensor(log_probs)[:, None], torch.tensor([ABC.encode(text)]),
                                        torch.tensor([len(log_probs)]), torch.tensor([len(text)]), reduction="none")
    return -loss.item()


def language_score(text, fusion):
    line = EDGE + text + EDGE
    language = sum(MODEL.log_prob(line[:place], line[place]) for place in range(1, len(line)))
    return fusion.weight * language + fusion.bonus * len(text)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("fusion", [Fusion(1e-9, 0.0), Fusion(0.8, 0.5), Fusion(2.0, 2.0)])
def test_the_reading_is_the_best_of_all_texts(seed, fusion, all_candidates):
    log_probs = log_softmax(np.random.default_rng(seed).normal(size=(4, ABC.classes)) * 1.5)
    texts = ["".join(letters) for length in range(1, 5) for letters in itertools.product("abc", repeat=length)]
    empty = log_probs[:, 0].sum() + language_score("", fusion)
    scores = {text: network_score(text, log_probs) + language_score(text, fusion) for text in texts} | {"": empty}
    assert decode_beam(log_probs, ABC, MODEL, fusion, width=1000).text == max(scores, key=scores.__getitem__)


def sure(path, share=0.9999):
    log_probs = np.full((len(path), ABC.classes), math.log((1 - share) / (ABC.classes - 1)))
    log_probs[np.arange(len(path)), path] = math.log(share)
    return log_probs


@pytest.mark.parametrize("path, text", [
    ([1, 1, 0, 2, 0, 0, 3], "abc"), ([1, 0, 1, 1], "aa"), ([0, 0], ""), ([0, 3, 0], "c")])
def test_what_the_network_is_sure_of_stays(path, text):
    reading = decode_beam(sure(path), ABC, MODEL, Fusion(0.5, 0.5))
    assert reading.text == text == decode_greedy(sure(path), ABC).text
    assert len(reading.characters) == len(text) and reading.confidence == pytest.approx(0.9999)


def test_the_language_model_decides_where_the_network_is_in_doubt():
    log_probs = sure([1, 0, 2, 0, 3])
    log_probs[2] = np.log([0.02, 0.02, 0.47, 0.49])  # b or c between a and c; only b was ever written there
    assert decode_greedy(log_probs, ABC).text == "acc"
    reading = decode_beam(log_probs, ABC, MODEL, Fusion(0.7, 0.5))
    assert reading.text == "abc" and reading.characters[1] == pytest.approx(0.47)


def test_a_model_that_does_not_help_gets_no_weight():
    lines = [("cc", sure([3, 0, 3])), ("ca", sure([3, 0, 1]))]
    assert best_fusion(lines, ABC, MODEL) == Fusion(0.0, 0.0)
    assert decode_beam(lines[0][1], ABC, MODEL, Fusion(0.0, 0.0)) == decode_greedy(lines[0][1], ABC)


def test_a_model_that_helps_gets_the_weight_that_leaves_the_fewest_edits():
    doubtful = sure([1, 0, 2, 0, 3])
    doubtful[2] = np.log([0.02, 0.02, 0.47, 0.49])
    assert best_fusion([("abc", doubtful)], ABC, MODEL).weight > 0
