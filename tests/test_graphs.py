"""CUDA graphs against the network itself, on a machine with a GPU."""

import pytest
import torch

from handwriting.batches import Batch
from handwriting.graphs import LONGEST, MOST, Graphs, graphed_widths
from handwriting.hyperparameters import ModelConfig
from handwriting.losses import ctc_losses
from handwriting.model import CRNN

LINES, HEIGHT, CLASSES = 3, 32, 7
CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need an NVIDIA GPU")


def network(dropout=0.0):
    torch.manual_seed(0)
    return CRNN(ModelConfig(channels=4, columns=32, hidden=16, dropout=dropout), CLASSES, HEIGHT).cuda().train()


def losses(model, batch, half=False):
    with torch.autocast("cuda", torch.bfloat16, enabled=half, cache_enabled=False):
        heads = model.forward_with_shortcut(batch.images.cuda().float() / 255)
    loss, shortcut = ctc_losses(heads, batch)
    return loss + 0.3 * shortcut, loss


def graphs(model, half=False):
    return Graphs(model, lambda batch: losses(model, batch, half), LINES, HEIGHT, range(128, 1281, 1152))


def batch_of(width, lengths, seed=0):
    """Returns lines that each end 16 px before the next one."""
    rng = torch.Generator().manual_seed(seed)
    steps = torch.tensor([width // 4 - 4 * i for i in range(len(lengths))])
    return Batch(torch.randint(0, 256, (len(lengths), 1, HEIGHT, width), dtype=torch.uint8, generator=rng), steps,
                 torch.randint(1, CLASSES, (sum(lengths),), generator=rng), torch.tensor(lengths), ())


def learned(model, batch, learn, seed=0):
    """Returns the loss of a batch and its gradients."""
    model.zero_grad(set_to_none=True)
    model.seed_dropout(seed)
    loss = learn(batch)
    return [loss.detach().clone(), *(p.grad.clone() for p in model.parameters())]


def plainly(model, half=False):
    def learn(batch):
        minimised, loss = losses(model, batch, half)
        minimised.backward()
        return loss
    return learn


def distance(one, other):
    """Returns the relative distance of two lists of tensors."""
    one, other = (torch.cat([tensor.flatten() for tensor in tensors]) for tensors in (one, other))
    return ((one - other).norm() / other.norm()).item()


@CUDA
@pytest.mark.parametrize("half, close", [(False, 1e-3), (True, 0.1)])
@pytest.mark.parametrize("width, lengths", [(128, (5, 12, 1)), (1280, (40, 100, 7)), (1280, (1, 120, 60))])
def test_a_graph_learns_what_the_network_does_also_when_its_weights_have_changed(width, lengths, half, close,
                                                                                 monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    model, batch = network(), batch_of(width, lengths)
    graph = graphs(model, half)
    assert graph.fit(batch)
    before = learned(model, batch, graph.learn)
    assert distance(before, learned(model, batch, plainly(model, half))) < close
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    learned(model, batch_of(1280 + 128 - width, (20, 3, 9), seed=1), graph.learn)  # the other graph, in the same memory
    after = learned(model, batch, graph.learn)
    assert distance(after, learned(model, batch, plainly(model, half))) < close
    assert distance(after, before) > 0.2


@CUDA
def test_there_is_no_graph_for_other_shapes_nor_for_texts_that_are_too_long():
    graph = graphs(network())
    assert graph.fit(batch_of(1280, (LONGEST, 1, 1)))
    assert not graph.fit(batch_of(1280, (LONGEST + 1, 1, 1)))
    assert not graph.fit(batch_of(1280, (0, 1, 1)))
    assert not graph.fit(batch_of(256, (1, 1, 1)))
    assert not graph.fit(batch_of(128, (1, 1)))


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
    graph, batch = graphs(model), batch_of(128, (5, 12, 1))
    first, same, other = (learned(model, batch, graph.learn, seed)[0] for seed in (1, 1, 2))
    torch.testing.assert_close(first, same)
    assert (first - other).abs().max() > 1e-4


@pytest.mark.parametrize("widest, widths", [(1, [128]), (98, [128]), (99, [128, 256]), (256, [128, 256, 384])])
def test_widths_cover_the_widest_line_once_it_was_changed(widest, widths):
    assert list(graphed_widths(widest, 128)) == widths


def test_few_wide_lines_do_not_make_graphs_without_end():
    assert len(graphed_widths(100_000, 128)) == MOST
