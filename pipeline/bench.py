"""Compares training with the tutorial's on the same lines of the same machine, one after the other in one run.

The first epoch of each is not timed: in it libraries prepare their kernels, for each shape that they meet.
"""

import logging
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, TypeVar

from handwriting.dataset import Dataset
from handwriting.hyperparameters import ModelConfig, TrainConfig
from handwriting.image import ImageConfig
from handwriting.labels import LabelConfig
from handwriting.packing import LABELS, PackConfig, pack_folder
from handwriting.schedule import Schedule
from handwriting.store import open_store, read_json

log = logging.getLogger(__name__)

TRAINED_ON = ("train", "user_data")
ROUNDS = 3  # timed epochs of ours, and as many of the network's step alone

T = TypeVar("T")


class Measured(NamedTuple):
    """What one child process measured: lines of training a second, and its largest resident memory in MB."""

    lines_per_second: float
    memory: float


def bench(data: Path, lines: int, repeat: int, batch: int, image: ImageConfig, model: ModelConfig) -> dict[str, Any]:
    """Measures the tutorial's training and ours in processes of their own.

    Args:
        data: Folder in the bucket's layout.
        lines: Lines to train on, at most.
        repeat: How often the same lines are trained on once more, to see whether memory grows with their number.
        batch: Lines of a step of ours.
        image: How pictures become our lines.
        model: Size of our network.

    Returns:
        Rows for a table by name.

    Raises:
        HandwritingError: The folder has no usable lines.
    """
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        dataset = pack_folder(str(data), scratch, PackConfig(image), LabelConfig()).uri
        log.info("measuring the tutorial's training")
        rows = {"reference": _alone(_reference, data, lines)}
        log.info("measuring ours, and the network's step alone in turn with it")
        rows["ours"], rows["network"] = _alone(_ours_and_network, dataset, lines, batch, model)
        log.info("measuring ours with the lines %d times", repeat)
        rows["repeated"] = _alone(_repeated, dataset, lines, repeat, batch, model)
    ours, reference, network = (rows[name].lines_per_second for name in ("ours", "reference", "network"))
    return {"rows": {name: _rounded(row) for name, row in rows.items()}, "speedup": round(ours / reference, 2),
            "of_network": round(ours / network, 3), "lines": lines, "repeat": repeat}


def table(result: dict[str, Any]) -> str:
    """Returns a result as a Markdown table."""
    names = {"reference": "the tutorial's training", "ours": "ours, splicing and augmentation included",
             "network": "the network's step alone on random tensors, epochs in turn with ours",
             "repeated": f"ours, the same lines {result['repeat']} times"}
    rows = [f"| {names[name]} | {row['lines_per_second']:.1f} | {row['memory']:.0f} |"
            for name, row in result["rows"].items()]
    return "\n".join(["| training | lines/s | memory, MB |", "|---|---|---|", *rows,
                      f"\n{result['speedup']:.1f} times the tutorial's speed; {result['of_network']:.0%} of the "
                      "network's own."])


def _rounded(measured: Measured) -> dict[str, float]:
    return {name: round(value, 2) for name, value in measured._asdict().items()}


def _alone(function: Callable[..., T], *arguments: Any) -> T:
    """Runs a function in a new process: it shares neither memory nor threads with the others."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def _peak() -> float:
    """Returns the largest resident memory of this process in MB."""
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def _reference(data: Path, lines: int) -> Measured:
    from pipeline import reference

    store = open_store(str(data))
    items = [(data / split / "images" / name, text) for split in TRAINED_ON if store.exists(f"{split}/{LABELS}")
             for name, text in read_json(store, f"{split}/{LABELS}").items()][:lines]
    return _second(len(items), lambda number: reference.train_epoch(items))


def _second(lines: int, train_epoch: Callable[[int], Any]) -> Measured:
    """Trains two epochs of so many lines, and times the second."""
    _seconds(train_epoch, 1)
    return Measured(lines / _seconds(train_epoch, 2), _peak())


def _seconds(train_epoch: Callable[[int], Any], number: int) -> float:
    began = time.monotonic()
    train_epoch(number)
    return time.monotonic() - began


def _repeated(dataset_uri: str, lines: int, repeat: int, batch: int, model: ModelConfig) -> Measured:
    with _trainer(dataset_uri, lines, repeat, batch, model) as trainer:
        return _second(len(trainer.training_lines.lines), _learns(trainer))


def _ours_and_network(dataset_uri: str, lines: int, batch: int, model: ModelConfig) -> tuple[Measured, Measured]:
    """Trains on lines and on random tensors in turn, as a machine's speed changes; of each the median epoch counts."""
    with _trainer(dataset_uri, lines, 1, batch, model) as trainer:
        ways = _learns(trainer), _learns_noise(trainer)
        rounds = [[_seconds(way, number) for way in ways] for number in range(1, ROUNDS + 2)][1:]
        count = len(trainer.training_lines.lines)
        ours, network = (Measured(count / median(seconds), _peak()) for seconds in zip(*rounds))
        return ours, network


def _learns(trainer: Any) -> Callable[[int], None]:
    """Returns what trains an epoch, by its number."""
    begun = [trainer.batches(1, trainer.config.augmentation)]

    def train_epoch(number: int) -> None:
        batches = begun.pop()
        begun.append(trainer.batches(number + 1, trainer.config.augmentation))  # beside this one, as in a run
        _begin(trainer)
        trainer.train_epoch(1, time.monotonic(), batches)

    return train_epoch


def _learns_noise(trainer: Any) -> Callable[[int], None]:
    """Returns what trains on random tensors of the shapes and lengths that an epoch has; all are views of one."""
    import torch

    shapes = [[part._replace(images=part.images.shape) for part in parts]
              for parts in trainer.batches(2, trainer.config.augmentation)]
    noise = torch.randint(256, (max(part.images.numel() for parts in shapes for part in parts),), dtype=torch.uint8)
    random = [[part._replace(images=noise[:part.images.numel()].view(part.images)) for part in parts]
              for parts in shapes]

    def train_epoch(number: int) -> None:
        _begin(trainer)
        for count, parts in enumerate(random, 1):
            trainer.train_step(parts, 1).loss()
            trainer.schedule.advance(count / len(random))

    return train_epoch


@contextmanager
def _trainer(dataset_uri: str, lines: int, repeat: int, batch: int, model: ModelConfig) -> Iterator[Any]:
    from handwriting.training import Trainer

    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        dataset = Dataset(dataset_uri, Path(scratch))
        dataset.all_lines = dataset.lines("train")[:lines] * repeat + dataset.lines("validation")
        trainer = Trainer(dataset, model, TrainConfig(epochs=1, batch=batch))
        trainer.find_letters()  # once in a run
        yield trainer


def _begin(trainer: Any) -> None:
    """Begins a run of one epoch: its steps are as those of a whole run, in the same proportion."""
    trainer.schedule = Schedule(trainer.config)
    trainer.schedule.flat_steps = 0  # they are cheaper than all others
