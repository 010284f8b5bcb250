"""Reading class probabilities: greedy CTC decoding with confidences, and where a known text stands."""

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
        width: Of the line that was read, in px at the reader's height; 0 where that is not known.
    """

    text: str
    confidence: float
    characters: tuple[float, ...]
    width: int = 0


def steps(width: int) -> int:
    """Returns the time steps of a line `width` px wide; the paper that it is padded with counts for nothing."""
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


def spelled(path: np.ndarray, alphabet: Alphabet) -> str:
    """Returns the text of a path, int [steps], one class a step, as `decode_greedy`: repeats merged, blanks dropped."""
    runs = path[np.flatnonzero(np.diff(path, prepend=-1))]
    return alphabet.decode(runs[runs != BLANK].tolist())


def align(log_probs: np.ndarray, ids: list[int]) -> np.ndarray:
    """Finds where characters stand on the likeliest path that reads them (Viterbi over CTC's states).

    Args:
        log_probs: float [steps, classes], log-softmax, with enough steps for the text.
        ids: Class ids of the text, at least one.

    Returns:
        int [characters, 2]: each one's first step, and the step after its last.

    Raises:
        ValueError: There are too few steps.
    """
    if len(log_probs) < frames_needed(ids):
        raise ValueError(f"{len(log_probs)} steps cannot hold {len(ids)} characters")
    states = np.full(2 * len(ids) + 1, BLANK)  # a blank before, between and behind
    states[1::2] = ids
    skips = np.zeros(len(states), bool)  # from a character to the next one, past the blank, if it is another
    skips[3::2] = states[3::2] != states[1:-2:2]
    emitted = log_probs[:, states]
    best = np.full(len(states) + 2, -np.inf)  # two in front, for states before the first
    best[2:4] = emitted[0, :2]
    moves = np.zeros(emitted.shape, np.int8)
    for step in range(1, len(emitted)):
        options = np.stack([best[2:], best[1:-1], np.where(skips, best[:-2], -np.inf)])
        moves[step] = options.argmax(axis=0)
        best[2:] = options.max(axis=0) + emitted[step]
    path = np.empty(len(emitted), np.int64)
    state = len(states) - 1 if best[-1] > best[-2] else len(states) - 2
    for step in range(len(emitted) - 1, -1, -1):
        path[step] = state
        state -= int(moves[step, state])
    characters = 2 * np.arange(len(ids)) + 1
    return np.stack([path.searchsorted(characters), path.searchsorted(characters, "right")], axis=1)
