"""The language model is a probability distribution, and predicts text of its kind."""

import math

import pytest

from handwriting.errors import DataError
from handwriting.language_model import EDGE, Fusion, LanguageModel

TEXTS = ["Xã Hải Trạch, Huyện Bố Trạch", "Xã Đông Tân, Huyện Đông Hưng", "Phường 4, Quận Tân Bình",
         "Phường Tân Phong, Quận 7", "Xã Hải Hà"]
LETTERS = sorted(set("".join(TEXTS)) | {EDGE})
UNSEEN = 30  # characters of the alphabet that no text holds


@pytest.fixture(scope="module")
def model():
    return LanguageModel.of_texts(TEXTS, len(LETTERS) + UNSEEN)


@pytest.mark.parametrize("context", [
    "", EDGE, "\nXã ", "Quận ", "Huyện Đông", "zzz", "Tân\n", "\nXã Hải Trạch, Huyện Bố T"])
def test_the_chances_of_all_characters_sum_to_one(model, context):
    seen = sum(math.exp(model.log_prob(context, letter)) for letter in LETTERS)
    assert seen + UNSEEN * math.exp(model.log_prob(context, "€")) == pytest.approx(1)


def test_what_was_seen_is_likelier_than_what_was_not(model):
    assert model.log_prob("\nXã Hả", "i") > model.log_prob("\nXã Hả", "n") > model.log_prob("\nXã Hả", "€")
    assert model.log_prob("\nXã Hải Hà", EDGE) > math.log(0.3)


def test_an_n_gram_has_the_chance_that_kneser_and_ney_give_it():
    model = LanguageModel.of_texts(["ab", "cb", "ca"], 5, order=2)
    # at the end of an n-gram "b" follows two characters, "a" two (edge and c), "c" one and the edge two: 7 kinds of
    # pairs in all; "c" was followed by b and a, once each
    alone = (2 - 0.75) / 7 + 0.75 * 4 / 7 / 5
    assert math.exp(model.log_prob("", "b")) == pytest.approx(alone)
    assert math.exp(model.log_prob("c", "b")) == pytest.approx((1 - 0.75) / 2 + 0.75 * 2 / 2 * alone)


def test_longer_n_grams_predict_its_own_texts_better():
    bits = [LanguageModel.of_texts(TEXTS, 60, order=order).bits(TEXTS) for order in (1, 2, 4, 8)]
    assert bits == sorted(bits, reverse=True) and bits[-1] < 2


def test_the_order_falls_until_the_n_grams_fit():
    model = LanguageModel.of_texts(TEXTS, 60, order=8, most=100)
    assert model.order < 8 and len(model.grams) <= 110  # contexts at the start of lines stand beside them


def test_it_comes_back_from_its_file_as_it_was(model):
    model.fusion = Fusion(0.7, 1.5)
    data = model.to_json()
    loaded = LanguageModel.from_json(data, "language_model.json")
    assert loaded.fusion == (0.7, 1.5) and loaded.order == model.order and loaded.to_json() == data
    assert loaded.bits(TEXTS) == pytest.approx(model.bits(TEXTS), abs=1e-3)


@pytest.mark.parametrize("data", [b"", b"[]", b'{"format": 99}', b'{"format": 1, "unknown": 0, "grams": {"a": 1}}'])
def test_a_damaged_file_is_a_clear_error(data):
    with pytest.raises(DataError, match="language_model.json is not a language model of this version"):
        LanguageModel.from_json(data, "language_model.json")


def test_without_texts_there_is_no_model():
    with pytest.raises(DataError, match="no text to learn a language model from"):
        LanguageModel.of_texts([], 10)
