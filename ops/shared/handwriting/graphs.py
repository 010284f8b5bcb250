"""Learning from a batch as a CUDA graph: over 400 small kernels, which Python starts slower than a GPU runs them.

A graph holds the kernels of one shape of batch, from the pictures to the gradients, and starts them all at once.
"""

import logging
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from handwriting.batches import Batch
from handwriting.ctc import steps
from handwriting.image import WHITE

log = logging.getLogger(__name__)

MOST = 32  # graphs: each takes some tenths of a second to make, and memory
LONGEST = 255  # characters of a text that cuDNN's CTC takes
WIDER = 1.3  # times its width that a line may be after all changes
WARM_UP = 3  # passes before a graph is made: libraries choose kernels and make room in the first

LossOf = Callable[[Batch], tuple[Tensor, Tensor]]


class _Graph(NamedTuple):
    """Kernels, the batch that they learn from, and where they leave gradients and loss."""

    graph: torch.cuda.CUDAGraph
    batch: Batch
    gradients: list[Tensor | None]
    loss: Tensor


class Graphs:
    """Learns from whole batches by graph.

    Args:
        model: The network, on a GPU. Its weights may change, not where they lie.
        loss_of: Called with a batch that lies on the GPU; returns what to minimise and what to report, scalars.
        lines: Of a whole batch.
        height: Of a line, px.
        widths: Of batches, px, with padding.
    """

    def __init__(self, model: nn.Module, loss_of: LossOf, lines: int, height: int, widths: range):
        self._parameters = list(model.parameters())
        self._graphs: dict[torch.Size, _Graph] = {}
        pool = torch.cuda.graph_pool_handle()
        torch.autograd.graph.set_warn_on_accumulate_grad_stream_mismatch(False)  # graphs are made on another stream
        kept = [buffer.clone() for buffer in model.buffers()]
        for width in reversed(widths):  # the widest needs most memory, in which the others find room
            graph = self._made(loss_of, _blank(lines, height, width, self._parameters[0].device), pool)
            self._graphs[graph.batch.images.shape] = graph
        torch._foreach_copy_(list(model.buffers()), kept)  # batch normalisation saw blank paper
        log.info("made %d CUDA graphs, for batches of %d to %d px", len(self._graphs), widths[0], widths[-1])

    def _made(self, loss_of: LossOf, batch: Batch, pool: Any) -> _Graph:
        def learn() -> Tensor:
            for parameter in self._parameters:
                parameter.grad = None
            minimised, reported = loss_of(batch)
            minimised.backward()
            return reported.detach()

        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                learn()
        torch.cuda.current_stream().wait_stream(stream)
        with torch.cuda.graph(graph, pool):
            loss = learn()
        return _Graph(graph, batch, [p.grad for p in self._parameters], loss)

    def fit(self, batch: Batch) -> bool:
        """Says whether there is a graph for a batch."""
        lengths = batch.lengths.tolist()
        return batch.images.shape in self._graphs and min(lengths) >= 1 and max(lengths) <= LONGEST

    def learn(self, batch: Batch) -> Tensor:
        """Leaves the gradients of a batch in the network, and returns its loss; the next call writes over both.

        Raises:
            KeyError: There is no graph for it.
        """
        graph = self._graphs[batch.images.shape]
        graph.batch.images.copy_(batch.images, non_blocking=True)
        graph.batch.steps.copy_(batch.steps, non_blocking=True)
        graph.batch.lengths.copy_(batch.lengths, non_blocking=True)
        graph.batch.targets[:len(batch.targets)].copy_(batch.targets, non_blocking=True)
        graph.graph.replay()
        for parameter, gradient in zip(self._parameters, graph.gradients):
            parameter.grad = gradient
        return graph.loss


def _blank(lines: int, height: int, width: int, device: torch.device) -> Batch:
    """Returns a batch of blank paper, each line with a text of one character and room for LONGEST."""
    images = torch.full((lines, 1, height, width), WHITE, dtype=torch.uint8, device=device)
    targets = torch.ones(lines * min(steps(width), LONGEST), dtype=torch.int64, device=device)
    ones = torch.ones(lines, dtype=torch.int64, device=device)
    return Batch(images, ones * steps(width), targets, ones.clone(), ())


def graphed_widths(widest: int, multiple: int) -> range:
    """Returns the widths, px, that most batches have; MOST of them at most.

    Args:
        widest: Of the lines before they are changed, px.
        multiple: Of px to which batches are padded.
    """
    return range(multiple, min(math.ceil(WIDER * widest / multiple), MOST) * multiple + 1, multiple)
