"""CTC prefix beam search with a character language model.

After Hannun et al., "First-pass large vocabulary continuous speech recognition using bi-directional recurrent DNNs",
2014. CTC's classes are nearly certain at most time steps, and all that speed needs is to look at the others only.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from handwriting.alphabet import BLANK, Alphabet
from handwriting.ctc import Reading, decode_greedy
from handwriting.language_model import EDGE, Fusion, LanguageModel

WIDTH = 10  # prefixes kept after each step
LEAST = math.log(3e-3)  # log-probability below which a class is no candidate at a step
BEHIND = 8.0  # how far a prefix may lie behind the best one
NEVER = -math.inf


class _Prefix(NamedTuple):
    """A text read so far.

    Attributes:
        blank: Log-probability of its paths that end in blank.
        other: Log-probability of its paths that end in its last character.
        language: What the language model and the bonus give it.
        peaks: The highest probability of each character, along the likeliest of the paths that met here.
    """

    blank: float
    other: float
    language: float
    peaks: tuple[float, ...]

    @property
    def rank(self) -> float:
        return _add(self.blank, self.other) + self.language


def decode_beam(log_probs: np.ndarray, alphabet: Alphabet, model: LanguageModel, fusion: Fusion | None = None,
                width: int = WIDTH) -> Reading:
    """Finds the text that network and language model together find likeliest.

    Args:
        log_probs: float [steps, classes], log-softmax, of one line without its padding.
        alphabet: Gives the characters of the classes.
        model: Of the language.
        fusion: How much it counts; by default as the model itself says.
        width: Prefixes kept after each step.

    Returns:
        The reading; a character's confidence is its highest probability at a step, by the network alone.
    """
    weight, bonus = fusion or model.fusion
    if not weight:
        return decode_greedy(log_probs, alphabet)
    beam = {"": _Prefix(0.0, NEVER, 0.0, ())}
    for candidates in _candidates(log_probs, alphabet):
        beam = _extended(beam, candidates, model, weight, bonus)
        if len(beam) > 1:
            beam = _best(beam, width)
    text, best = max(beam.items(),
                     key=lambda item: item[1].rank + weight * model.log_prob(EDGE + item[0], EDGE))
    if not text:  # its confidence is that of the blanks
        return decode_greedy(log_probs[:, :1], alphabet)
    return Reading(text, sum(best.peaks) / len(best.peaks), best.peaks)


def _candidates(log_probs: np.ndarray, alphabet: Alphabet) -> Iterator[dict[str, float]]:
    """Yields the log-probabilities of the characters that are likely at a step, blank as "".

    Steps at which blank is the only one are taken together.
    """
    likely = log_probs > LEAST
    likely[np.arange(len(log_probs)), log_probs.argmax(axis=1)] = True
    blanks = 0.0
    for row, chosen in zip(log_probs, likely):
        ids = np.flatnonzero(chosen).tolist()
        if ids == [BLANK]:
            blanks += float(row[BLANK])
            continue
        if blanks:
            yield {"": blanks}
            blanks = 0.0
        yield {alphabet.characters[i - 1] if i != BLANK else "": float(row[i]) for i in ids}
    if blanks:
        yield {"": blanks}


def _extended(beam: dict[str, _Prefix], candidates: dict[str, float], model: LanguageModel, weight: float,
              bonus: float) -> dict[str, _Prefix]:
    """Returns all prefixes after one more step."""
    grown: dict[str, _Prefix] = {}
    for text, (blank, other, language, peaks) in beam.items():
        both = _add(blank, other)
        for character, log_prob in candidates.items():
            if not character:
                _merge(grown, text, _Prefix(both + log_prob, NEVER, language, peaks))
                continue
            peak = math.exp(log_prob)
            start = both
            if character == text[-1:]:  # it goes on, or comes a second time after a blank
                longer = (*peaks[:-1], max(peaks[-1], peak))
                _merge(grown, text, _Prefix(NEVER, other + log_prob, language, longer))
                start = blank
            if start > NEVER:
                gain = bonus + weight * model.log_prob(EDGE + text, character)
                _merge(grown, text + character, _Prefix(NEVER, start + log_prob, language + gain, (*peaks, peak)))
    return grown


def _merge(grown: dict[str, _Prefix], text: str, prefix: _Prefix) -> None:
    """Adds paths to a text, which other paths may have reached before."""
    twin = grown.get(text)
    if twin:
        likelier = prefix if max(prefix.blank, prefix.other) > max(twin.blank, twin.other) else twin
        prefix = _Prefix(_add(prefix.blank, twin.blank), _add(prefix.other, twin.other), prefix.language,
                         likelier.peaks)
    grown[text] = prefix


def _best(beam: dict[str, _Prefix], width: int) -> dict[str, _Prefix]:
    ranked = sorted(((prefix.rank, text) for text, prefix in beam.items()), reverse=True)[:width]
    least = ranked[0][0] - BEHIND
    return {text: beam[text] for rank, text in ranked if rank >= least}


def _add(a: float, b: float) -> float:
    """Returns the logarithm of the sum of two probabilities."""
    if a < b:
        a, b = b, a
    return a + math.log1p(math.exp(b - a)) if b > NEVER else a
