"""CTC's loss and gradient on a CPU, compiled when first called, which takes seconds; a tenth of the time of PyTorch's.

After Graves et al., "Connectionist temporal classification", ICML 2006, section 4, with each step's probabilities
scaled to a sum of 1 as Rabiner does ("A tutorial on hidden Markov models", Proc. IEEE 1989, section V.A). So a step
needs neither exponentials nor logarithms of its states, where PyTorch takes four a state.
"""

import math

import numpy as np
from numba import njit

from handwriting.alphabet import BLANK

MOST = 600.0
"""Loss of a line, nats, up to which nothing is lost to underflow: a path has at each step at least its whole
probability, and a step's states at most 1 together. So what is over e^-100 of such a line stays a normal float64."""


def forward_backward(log_probs_BTK: np.ndarray, targets: np.ndarray, steps_B: np.ndarray, lengths_B: np.ndarray
                     ) -> tuple[np.ndarray, np.ndarray]:
    """Computes the CTC loss of lines and what it changes by with each log-probability.

    Args:
        log_probs_BTK: float [B, T, K] of B lines, T steps, K classes.
        targets: int64, the class ids of all lines, one after the other.
        steps_B: int64 [B], each line's own steps, 0 to T.
        lengths_B: int64 [B], how many of `targets` are a line's.

    Returns:
        The losses, float64 [B], nats, to trust up to `MOST` each: else infinite, NaN or not precise; and their
        gradients by log-probabilities, of the type and shape of `log_probs_BTK`, 0 in padding.
    """
    losses_B, gradient_BTK = np.empty(len(log_probs_BTK)), np.zeros_like(log_probs_BTK)
    _lines(log_probs_BTK, targets, steps_B, lengths_B, losses_B, gradient_BTK)
    return losses_B, gradient_BTK


@njit(nogil=True, error_model="numpy")
def _lines(log_probs_BTK: np.ndarray, targets: np.ndarray, steps_B: np.ndarray, lengths_B: np.ndarray,
           losses_B: np.ndarray, gradient_BTK: np.ndarray) -> None:
    first = 0
    for line in range(len(log_probs_BTK)):
        ids = targets[first:first + lengths_B[line]]
        fits = len(ids) <= steps_B[line] and steps_B[line] > 0
        losses_B[line] = _line(log_probs_BTK[line, :steps_B[line]], ids, gradient_BTK[line]) if fits else np.inf
        first += lengths_B[line]


@njit(nogil=True, error_model="numpy")
def _line(log_probs_TK: np.ndarray, ids: np.ndarray, gradient_TK: np.ndarray) -> float:
    """Returns the loss of one line, and adds to its gradient. Its S states: a blank before, between, behind letters."""
    skips_S = np.zeros(2 * len(ids) + 3)  # 1 where a letter may follow another without a blank; two more behind
    for letter in range(1, len(ids)):
        skips_S[2 * letter + 1] = ids[letter] != ids[letter - 1]
    emitted_TS = _emitted(log_probs_TK, ids)
    paths_TS, scales_T = _paths(emitted_TS, skips_S)
    ended = paths_TS[-1, -1] + (paths_TS[-1, -2] if len(ids) else 0.0)
    _descend(emitted_TS, skips_S, paths_TS, scales_T, ended, ids, gradient_TK)
    return np.log(scales_T).sum() - math.log(ended)


@njit(nogil=True, error_model="numpy")
def _emitted(log_probs_TK: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Returns the probability [T, S] of what each state writes."""
    emitted_TS = np.empty((len(log_probs_TK), 2 * len(ids) + 1))
    for step in range(len(log_probs_TK)):
        blank = math.exp(log_probs_TK[step, BLANK])
        for letter in range(len(ids)):
            emitted_TS[step, 2 * letter] = blank
            emitted_TS[step, 2 * letter + 1] = math.exp(log_probs_TK[step, ids[letter]])
        emitted_TS[step, -1] = blank
    return emitted_TS


@njit(nogil=True, error_model="numpy")
def _paths(emitted_TS: np.ndarray, skips_S: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the probability [T, 2 + S] of the paths up to a state, two in front, and each step's scale [T]."""
    steps, states = emitted_TS.shape
    paths_TS, scales_T = np.zeros((steps, states + 2)), np.empty(steps)
    paths_TS[0, 2:4] = emitted_TS[0, :2]
    for step in range(steps):
        before_S, now_S = paths_TS[step - 1], paths_TS[step]
        if step:
            for state in range(states):
                came = before_S[state + 2] + before_S[state + 1] + skips_S[state] * before_S[state]
                now_S[state + 2] = came * emitted_TS[step, state]
        scales_T[step] = 1 / now_S.sum()
        for state in range(states):
            now_S[state + 2] *= scales_T[step]
    return paths_TS, scales_T


@njit(nogil=True, error_model="numpy")
def _descend(emitted_TS: np.ndarray, skips_S: np.ndarray, paths_TS: np.ndarray, scales_T: np.ndarray, ended: float,
             ids: np.ndarray, gradient_TK: np.ndarray) -> None:
    """Takes from the gradient how likely each step's classes are among the paths that read the text."""
    steps, states = emitted_TS.shape
    rest_S = np.zeros(states + 2)  # probability of the paths from a state on, against that of all; two behind the last
    rest_S[max(0, states - 2):states] = 1 / ended
    reach_S = np.zeros(states + 2)  # the same, with what the state itself writes
    for step in range(steps - 1, -1, -1):
        for state in range(0, states, 2):
            gradient_TK[step, BLANK] -= paths_TS[step, state + 2] * rest_S[state]
        for letter in range(len(ids)):
            gradient_TK[step, ids[letter]] -= paths_TS[step, 2 * letter + 3] * rest_S[2 * letter + 1]
        for state in range(states):
            reach_S[state] = rest_S[state] * emitted_TS[step, state] * scales_T[step]
        for state in range(states):
            rest_S[state] = reach_S[state] + reach_S[state + 1] + skips_S[state + 2] * reach_S[state + 2]
