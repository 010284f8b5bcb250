import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from handwriting.alphabet import BLANK
from handwriting.batches import Batch
from handwriting.forward_backward import MOST, forward_backward
from handwriting.losses import ctc_losses


def batch_of(steps, texts):
    """Returns what the CTC loss needs of a batch: its lines' steps, and class ids."""
    targets = torch.tensor([ids for text in texts for ids in text], dtype=torch.int64)
    return Batch(None, torch.tensor(steps), targets, torch.tensor([len(text) for text in texts]), ())


def pytorchs(log_probs_BTK, batch):
    losses = nn.functional.ctc_loss(log_probs_BTK.transpose(0, 1), batch.targets, batch.steps, batch.lengths,
                                    blank=BLANK, reduction="none", zero_infinity=True)
    return (losses / batch.lengths.clamp(min=1)).mean()


def scaled(log_probs_BTK, batch):
    arguments = log_probs_BTK, batch.targets, batch.steps, batch.lengths
    return forward_backward(*(tensor.numpy() for tensor in arguments))[0]


def gradient(loss_of, logits_BTK):
    """Returns a loss and its gradient by the scores of the classes."""
    logits_BTK = logits_BTK.clone().requires_grad_()
    loss = loss_of(logits_BTK.log_softmax(dim=2))
    loss.backward()
    return loss.item(), logits_BTK.grad.numpy()


def both(logits_BTK, batch):
    return (gradient(lambda log_probs_BTK: ctc_losses([log_probs_BTK], batch)[0], logits_BTK),
            gradient(lambda log_probs_BTK: pytorchs(log_probs_BTK, batch), logits_BTK))


def collapse(path):
    return tuple(key for key, _ in itertools.groupby(path) if key != BLANK)


@pytest.mark.parametrize("text", [(1,), (1, 2), (1, 1), (2, 1, 2), ()])
def test_the_loss_is_the_probability_of_all_paths_that_read_the_text(text):
    log_probs_TK = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).log_softmax(dim=1)
    paths = [path for path in itertools.product(range(3), repeat=5) if collapse(path) == text]
    total = sum(math.exp(log_probs_TK[range(5), path].sum()) for path in paths)
    losses = scaled(log_probs_TK[None], batch_of([5], [text]))
    assert losses[0] == pytest.approx(-math.log(total))


@settings(deadline=None, max_examples=50)
@given(st.lists(st.lists(st.integers(1, 4), max_size=12), min_size=1, max_size=4), st.integers(0, 12),
       st.floats(0, 20), st.integers(0, 2**32 - 1))
def test_loss_and_gradient_are_pytorchs_own(texts, spare, sharpness, seed):
    needed = [max(1, len(text) + sum(a == b for a, b in zip(text, text[1:]))) for text in texts]
    steps = [count + spare % (place + 2) for place, count in enumerate(needed)]
    shape = len(texts), max(steps) + spare, 5  # padding in all lines, and more of it in some
    logits = sharpness * torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    (loss, changes), (expected, expected_changes) = both(logits, batch_of(steps, texts))
    assert loss == pytest.approx(expected, rel=1e-9)
    np.testing.assert_allclose(changes, expected_changes, atol=1e-9)


def test_a_line_near_the_limit_is_as_precise_as_others():
    """All letters may come early or late, each place as unlikely as the others."""
    logits = torch.zeros(1, 100, 30, dtype=torch.float64)
    logits[..., BLANK] = 25.5
    batch = batch_of([100], [list(range(1, 26))])
    losses = scaled(logits.log_softmax(dim=2), batch)
    assert 0.9 * MOST < losses[0] < MOST
    (loss, changes), (expected, expected_changes) = both(logits, batch)
    assert loss == pytest.approx(expected, rel=1e-9)
    np.testing.assert_allclose(changes, expected_changes, atol=1e-9)


def test_a_text_too_unlikely_for_scaled_probabilities_is_learnt_still():
    logits = torch.zeros(2, 90, 30)
    logits[0, :, BLANK] = 100  # sure of blanks, where there should be 25 letters
    batch = batch_of([90, 90], [list(range(1, 26)), [1, 2]])
    losses = scaled(logits.log_softmax(dim=2), batch)
    assert not losses[0] <= MOST
    (loss, changes), (expected, expected_changes) = both(logits, batch)
    assert loss == expected and math.isfinite(loss)
    np.testing.assert_array_equal(changes, expected_changes)
    assert np.abs(changes).sum(axis=(1, 2)).min() > 0.1  # both lines learn


@pytest.mark.parametrize("steps", [0, 2])
def test_a_text_that_does_not_fit_changes_nothing_and_stops_no_other(steps):
    batch = batch_of([steps, 8], [[1, 1], [2]])
    logits = torch.randn(2, 8, 4, generator=torch.Generator().manual_seed(0))
    _, changes = gradient(lambda log_probs_BTK: ctc_losses([log_probs_BTK], batch)[0], logits)
    assert not changes[0].any() and changes[1].any()


def test_each_head_has_its_own_loss():
    heads = [torch.randn(2, 8, 4, generator=torch.Generator().manual_seed(seed)).log_softmax(dim=2) for seed in (0, 1)]
    batch = batch_of([6, 8], [[1, 2, 3], [3, 3]])
    for loss, head in zip(ctc_losses(heads, batch), heads):
        assert loss.item() == pytest.approx(pytorchs(head, batch).item(), rel=1e-5)
