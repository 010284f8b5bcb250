"""One network on all cores: copies that share its weights each learn from a part of every batch.

PyTorch's own threads share out one operation at a time and meet after each; at the size of a line that costs two cores
a quarter of their time. A copy a core has nothing to wait for but the end of the step.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

Part = TypeVar("Part")
Result = TypeVar("Result")
Network = TypeVar("Network", bound=nn.Module)

READERS = 4  # threads that prepare lines to read for a GPU
LEAST = 4  # lines of a part: batch normalisation takes its statistics from fewer poorly


class Replicas(Generic[Network]):
    """Copies of a network with weights in common and gradients of their own; on a GPU the network alone.

    Args:
        model: The network; its weights are the ones that all copies use, and its buffers the ones that count.
        batch: Lines of a step, which decide how many copies are worth it.
        most: Copies at most; None for one a core.
    """

    def __init__(self, model: Network, batch: int, most: int | None = None):
        cores = torch.get_num_threads()
        on_cpu = next(model.parameters()).device.type == "cpu"
        self.count = max(1, min(most or cores, cores, batch // LEAST)) if on_cpu else 1
        self.models = [model, *(_twin(model) for _ in range(self.count - 1))]
        threads = self.count if on_cpu else min(READERS, cores)
        self.pool = ThreadPoolExecutor(threads, "replica", torch.set_num_threads, (max(1, cores // threads),))

    def map(self, function: Callable[[Part], Result], parts: Iterable[Part]) -> list[Result]:
        """Calls a function that only reads the network for each part, in as many threads as are worth it."""
        return list(self.pool.map(function, parts))

    def learn(self, parts: Sequence[Part], loss_of: Callable[[int, Network, Part], Tensor]) -> None:
        """Leaves the sum of the parts' gradients in the network.

        Args:
            parts: At most `count`, one for each copy.
            loss_of: Called with a copy's number, the copy and its part; returns that part of the loss, a scalar.
        """
        def backward(number: int, model: Network, part: Part) -> None:
            model.train()
            model.zero_grad(set_to_none=True)
            loss_of(number, model, part).backward()

        used = self.models[:len(parts)]
        list(self.pool.map(backward, range(len(used)), used, parts))
        first, *others = [[p.grad for p in model.parameters() if p.grad is not None] for model in used]
        with one_thread():
            for gradients in others:  # in order, so that a run can be repeated
                torch._foreach_add_(first, gradients)


@contextmanager
def one_thread() -> Iterator[None]:
    """Keeps PyTorch from sharing out what follows: each small operation would wait for threads on all cores.

    These wait in a loop, and where something else has a core, until that gives way: beside another training, an
    optimizer's step took 60 times as long.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _twin(model: Network) -> Network:
    """Copies a network, all but its weights."""
    twin = copy.deepcopy(model)
    for own, shared in zip(twin.parameters(), model.parameters()):
        own.data = shared.data
    return twin
