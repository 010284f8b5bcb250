"""CUDA graphs against the network itself, on a machine with a GPU."""

import pytest
import torch

from handwriting.graphs import MOST, Graphs, graphed_widths
from handwriting.hyperparameters import ModelConfig
from handwriting.model import CRNN

LINES, HEIGHT = 3, 32
CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need an NVIDIA GPU")


def network(dropout=0.0):
    torch.manual_seed(0)
    return CRNN(ModelConfig(channels=4, columns=32, hidden=16, dropout=dropout), 7, HEIGHT).cuda().train()


def precision(half):
    return torch.autocast("cuda", torch.bfloat16, enabled=half, cache_enabled=False)


def graphs(model, half=False):
    with precision(half):
        return Graphs(model, LINES, HEIGHT, range(128, 257, 128))


def learned(model, heads, images, seed=0, half=False):
    """Returns both heads' outputs and the gradients of a loss of them."""
    model.zero_grad(set_to_none=True)
    model.seed_dropout(seed)
    with precision(half):
        outputs = heads(images)
    sum(head[..., 1].mean() for head in outputs).backward()
    return [*(head.detach().clone() for head in outputs), *(p.grad.clone() for p in model.parameters())]


def furthest(one, other):
    """Returns the largest relative distance of two lists of tensors."""
    return max(((a - b).norm() / (b.norm() + 1e-6)).item() for a, b in zip(one, other, strict=True))


@CUDA
@pytest.mark.parametrize("half, close", [(False, 1e-3), (True, 0.1)])
@pytest.mark.parametrize("shape", [(LINES, 128), (LINES, 256), (LINES, 384), (1, 128)])
def test_a_graph_learns_what_the_network_does_also_when_its_weights_have_changed(shape, half, close, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    model = network()
    heads = graphs(model, half)
    images = torch.rand(shape[0], 1, HEIGHT, shape[1], device="cuda")
    before = learned(model, heads, images, half=half)
    assert furthest(before, learned(model, model.forward_with_shortcut, images, half=half)) < close
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    after = learned(model, heads, images, half=half)
    assert furthest(after, learned(model, model.forward_with_shortcut, images, half=half)) < close
    assert furthest(after, before) > 0.2


@CUDA
def test_making_graphs_leaves_the_statistics_of_batch_normalisation_alone():
    model = network()
    before = [buffer.clone() for buffer in model.buffers()]
    graphs(model)
    for old, new in zip(before, model.buffers()):
        assert torch.equal(old, new)


@CUDA
def test_a_graph_drops_what_the_seed_says():
    model = network(dropout=0.5)
    heads = graphs(model)
    images = torch.rand(LINES, 1, HEIGHT, 128, device="cuda")
    first, same, other = (learned(model, heads, images, seed)[0] for seed in (1, 1, 2))
    torch.testing.assert_close(first, same)
    assert (first - other).abs().max() > 0.01


@pytest.mark.parametrize("widest, widths", [(1, [128]), (256, [128, 256]), (257, [128, 256, 384])])
def test_widths_cover_the_widest_line(widest, widths):
    assert list(graphed_widths(widest, 128)) == widths


def test_few_wide_lines_do_not_make_graphs_without_end():
    assert len(graphed_widths(100_000, 128)) == MOST
