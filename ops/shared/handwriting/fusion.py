"""Finds how much a language model should count, on lines that nobody trained on."""

from collections.abc import Sequence
from itertools import product

import numpy as np
from rapidfuzz.distance import Levenshtein

from handwriting.alphabet import Alphabet
from handwriting.beam_search import decode_beam
from handwriting.ctc import decode_greedy
from handwriting.language_model import Fusion, LanguageModel

WEIGHTS, BONUSES = (0.3, 0.5, 0.7, 0.9), (0.5, 1.0, 1.5)


def best_fusion(lines: Sequence[tuple[str, np.ndarray]], alphabet: Alphabet, model: LanguageModel) -> Fusion:
    """Finds how much the language model should count, by the edits that it leaves.

    Args:
        lines: Their texts and log-probabilities, float [steps, classes].
        alphabet: Gives the characters of the classes.
        model: Of the language.

    Returns:
        The best of some weights and bonuses; a weight of 0 where greedy decoding reads at least as well.
    """
    greedy = sum(Levenshtein.distance(text, decode_greedy(log_probs, alphabet).text) for text, log_probs in lines)
    best, least = Fusion(0.0, 0.0), greedy
    for weight, bonus in product(WEIGHTS, BONUSES):
        readings = [decode_beam(log_probs, alphabet, model, Fusion(weight, bonus)).text for _, log_probs in lines]
        edits = sum(map(Levenshtein.distance, (text for text, _ in lines), readings))
        if edits < least:
            best, least = Fusion(weight, bonus), edits
    return best
