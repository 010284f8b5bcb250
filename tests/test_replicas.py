"""Copies of a network learn as the network alone would."""

import pytest
import torch
from torch import nn

from handwriting.hyperparameters import ModelConfig
from handwriting.model import CRNN
from handwriting.replicas import Replicas, one_thread


@pytest.fixture(autouse=True)
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 1))


def loss_of(number, model, part):
    return model(part).square().sum()


@pytest.mark.parametrize("lines", [1, 6])
def test_the_gradients_of_all_parts_are_those_of_the_whole_batch(lines):
    batch = torch.randn(lines, 5)
    alone, shared = network(), network()
    loss_of(0, alone, batch).backward()
    replicas = Replicas(shared, batch=8)
    replicas.learn(batch.split(3), loss_of)
    assert replicas.count == 2
    for expected, found in zip(alone.parameters(), shared.parameters()):
        torch.testing.assert_close(found.grad, expected.grad)


def test_copies_follow_the_weights_of_the_network():
    model = network()
    replicas = Replicas(model, batch=8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        replicas.learn(torch.randn(6, 5).split(3), loss_of)
        optimizer.step()
    for copy in replicas.models[1:]:
        assert all(torch.equal(a, b) for a, b in zip(copy.parameters(), model.parameters()))


def test_the_threads_are_as_many_as_before_after_what_one_does_alone():
    with pytest.raises(ValueError, match="a bug"), one_thread():
        assert torch.get_num_threads() == 1
        raise ValueError("a bug")
    assert torch.get_num_threads() == 2


def test_a_small_batch_is_not_shared_out():
    assert Replicas(network(), batch=4).count == 1


def test_an_error_in_a_part_reaches_the_caller():
    def fail(number, model, part):
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        Replicas(network(), batch=8).learn(torch.randn(6, 5).split(3), fail)


def test_dropout_repeats_with_its_seed_and_keeps_the_mean():
    model = CRNN(ModelConfig(channels=1, hidden=4, layers=1, dropout=0.3), 5, 48)
    drop, ones = model.dropout, torch.ones(100, 1000)
    model.seed_dropout(7)
    first = drop(ones)
    model.seed_dropout(7)
    assert torch.equal(drop(ones), first) and not torch.equal(drop(ones), first)
    assert (first == 0).float().mean() == pytest.approx(0.3, abs=0.01)
    assert first.mean() == pytest.approx(1, abs=0.01)
    assert torch.equal(drop.eval()(ones), ones)
