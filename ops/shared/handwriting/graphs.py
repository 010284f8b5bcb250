"""The network's passes as CUDA graphs: some 400 small kernels a step, which Python starts slower than a GPU runs them.

A graph holds the kernels of one shape of batch, forward and backward, and starts them all at once.
"""

import logging
from collections.abc import Callable

import torch
from torch import Tensor

from handwriting.model import CRNN, Heads

log = logging.getLogger(__name__)

MOST = 32  # graphs: each takes some tenths of a second to make, and memory


class Graphs:
    """A network that learns from whole batches by graph, and from all others as ever.

    Args:
        model: The network, on a GPU. Its weights may change, not where they lie.
        lines: Of a whole batch.
        height: Of a line, px.
        widths: Of batches, px, with padding.
    """

    def __init__(self, model: CRNN, lines: int, height: int, widths: range):
        self.eager = Heads(model).train()
        self._graphs: dict[torch.Size, Callable[[Tensor], tuple[Tensor, Tensor]]] = {}
        device, pool = model.head.weight.device, torch.cuda.graph_pool_handle()
        torch.autograd.graph.set_warn_on_accumulate_grad_stream_mismatch(False)  # graphs are made on another stream
        kept = [buffer.clone() for buffer in model.buffers()]
        for width in widths:
            images = torch.zeros((lines, 1, height, width), device=device).to(memory_format=torch.channels_last)
            self._graphs[images.shape] = torch.cuda.make_graphed_callables(  # type: ignore[assignment]
                Heads(model).train(), (images,), pool=pool)
        torch._foreach_copy_(list(model.buffers()), kept)  # batch normalisation saw blank paper
        log.info("made %d CUDA graphs, for batches of %d to %d px", len(self._graphs), widths[0], widths[-1])

    def __call__(self, images_B1HW: Tensor) -> tuple[Tensor, Tensor]:
        """Returns what `CRNN.forward_with_shortcut` does."""
        return self._graphs.get(images_B1HW.shape, self.eager)(images_B1HW)


def graphed_widths(widest: int, multiple: int) -> range:
    """Returns the widths, px, that most batches have; MOST of them at most.

    Args:
        widest: Of the lines before they are changed, px.
        multiple: Of px to which batches are padded.
    """
    return range(multiple, min(-(-widest // multiple), MOST) * multiple + 1, multiple)
