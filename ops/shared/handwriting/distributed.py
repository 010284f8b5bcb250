"""Several processes that train one network together, a GPU or some cores each: PyTorch's launcher, groups and DDP.

On several nodes PyTorch's own variables (PET_NNODES, PET_NODE_RANK, PET_MASTER_ADDR, ...) say how the processes find
each other, as Kubeflow Trainer sets them; on one machine they need nothing.
"""

import logging
import os
import uuid
from collections.abc import Callable, Sequence
from typing import Any, Self, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import elastic_launch
from torch.distributed.run import config_from_args, get_args_parser
from torch.nn.parallel import DistributedDataParallel

from handwriting.cores import cores
from handwriting.errors import DataError

T = TypeVar("T")

PATIENCE = 1800  # seconds that nodes wait for each other: one may have an image of gigabytes to pull
NODES_VARIABLE, PROCESSES_VARIABLE = "PET_NNODES", "PET_NPROC_PER_NODE"


class Group:
    """The processes that train together, as one of them sees them.

    Attributes:
        rank: Its number, from 0.
        size: How many there are.
    """

    def __init__(self, rank: int = 0, size: int = 1):
        self.rank, self.size = rank, size

    @classmethod
    def join(cls) -> Self:
        """Joins the group of the launcher that started this process; its GPU is this process's own from now on."""
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        return cls(distributed.get_rank(), distributed.get_world_size())

    def leave(self) -> None:
        """Waits for the others and leaves."""
        distributed.barrier()
        distributed.destroy_process_group()

    @property
    def leads(self) -> bool:
        """Whether this process writes what all have learned."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> list[T]:
        """Returns this process's share of some items; the shares of all together are the items."""
        return list(items[self.rank::self.size])

    def equal_share(self, items: Sequence[T]) -> list[T]:
        """Returns a share as long as those of the others; some have an item of another one's."""
        return (list(items) + list(items[:-len(items) % self.size]))[self.rank::self.size]

    def gather(self, part: list[T]) -> list[T]:
        """Returns the parts of all processes one after another, in all of them."""
        if self.size == 1:
            return part
        parts: list[Any] = [None] * self.size
        distributed.all_gather_object(parts, part)
        return [item for found in parts for item in found]

    def agree(self, value: float) -> float:
        """Returns the first process's value in all of them: clocks differ, and decisions must not."""
        if self.size == 1:
            return value
        shared = [value]
        distributed.broadcast_object_list(shared, src=0)
        return shared[0]

    def agree_on(self, tensors: Sequence[Tensor]) -> None:
        """Gives all processes the first one's tensors."""
        if self.size > 1:
            for tensor in tensors:
                distributed.broadcast(tensor, src=0)

    def wrap(self, network: nn.Module) -> nn.Module:
        """Returns the network so that a backward pass leaves the mean of all processes' gradients in it."""
        if self.size == 1:
            return network
        return DistributedDataParallel(network, find_unused_parameters=True)  # the flat start leaves some out


def processes() -> int:
    """Returns how many processes train on this machine where nobody says so: one a GPU, or what the launcher says."""
    given = os.environ.get(PROCESSES_VARIABLE, "")
    return int(given) if given.isdecimal() else max(1, torch.cuda.device_count())


def several(count: int) -> bool:
    """Says whether `count` processes here, with those of other nodes, are more than one."""
    return count > 1 or _nodes() > 1


def _nodes() -> int:
    """Returns how many nodes the launcher of a node says that there are."""
    return int(os.environ.get(NODES_VARIABLE, "").partition(":")[0] or 1)


def launch(count: int, function: Callable[..., Any], *arguments: Any) -> None:
    """Calls a function in several new processes of this machine, and waits for them.

    Args:
        count: How many.
        function: Of a module, decorated with `record`, which tells its errors; it calls `Group.join` first.
        arguments: Its arguments; pickled.

    Raises:
        DataError: It failed in one of them.
    """
    # each process its cores, and no warning of the launcher's; PyTorch reads it at its import there
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores() // count)))
    alone = ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", f"--rdzv-id={uuid.uuid4()}"]
    meeting = [f"--rdzv-conf=timeout={PATIENCE}"] if _nodes() > 1 else alone
    line = [*meeting, f"--nproc-per-node={count}", "--max-restarts=0", "--module", "none"]
    config, _, _ = config_from_args(get_args_parser().parse_args(line))
    try:
        elastic_launch(config, function)(*arguments)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        said = failure.message if isinstance(failure.message, str) else str(failure.message.get("message", ""))
        raise DataError(f"process {rank} of {count} that train together failed: {said.strip()[:2000]}") from error


def log_as(group: Group) -> None:
    """Lets the first process log as the one that launched it, and the others only what went wrong."""
    logging.basicConfig(level=logging.INFO if group.leads else logging.WARNING, format="%(asctime)s %(message)s",
                        datefmt="%H:%M:%S")
