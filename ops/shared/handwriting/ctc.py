"""Reading class probabilities: greedy CTC decoding, with a confidence for each character."""

from typing import NamedTuple

import numpy as np

from handwriting.alphabet import BLANK, Alphabet

STEP = 4
"""Width in px of a line for each time step of the network: width / 8 could not fit long labels."""


class Reading(NamedTuple):
    """What a line says.

    Attributes:
        text: The reading, NFC.
        confidence: How sure the reader is of the whole line: the mean of its characters', 0 to 1.
        characters: One confidence a character of `text`, 0 to 1.
    """

    text: str
    confidence: float
    characters: tuple[float, ...]


def steps(width: int) -> int:
    """Returns the time steps of a line `width` px wide; what pads it to a multiple of STEP counts for nothing."""
    return width // STEP


def frames_needed(ids: list[int]) -> int:
    """Returns the fewest time steps in which CTC can write `ids`: equal neighbours need a blank between them."""
    return len(ids) + sum(a == b for a, b in zip(ids, ids[1:]))


def decode_greedy(log_probs: np.ndarray, alphabet: Alphabet) -> Reading:
    """Takes the likeliest class of each step, merges repeats, drops blanks (Graves et al., ICML 2006, section 3.2).

    Args:
        log_probs: float [steps, classes], log-softmax, of one line without its padding.
        alphabet: Gives the characters of the classes.

    Returns:
        The reading; a character's confidence is its highest probability within its run of steps, and an empty
        reading's is the mean probability of blank.
    """
    best = log_probs.argmax(axis=1)
    peak = np.exp(log_probs.max(axis=1))
    starts = np.flatnonzero(np.diff(best, prepend=-1))
    runs = np.maximum.reduceat(peak, starts) if len(starts) else peak
    kept = best[starts] != BLANK
    characters = tuple(float(p) for p in runs[kept])
    confidence = float(np.mean(characters or peak)) if len(peak) else 0.0
    return Reading(alphabet.decode(best[starts][kept].tolist()), confidence, characters)
