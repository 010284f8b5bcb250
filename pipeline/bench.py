"""Compares training with the tutorial's on the same lines of the same machine, one after the other in one run.

Of each the second epoch is timed: in the first one libraries prepare their kernels, for each shape that they meet.
"""

import logging
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

from handwriting.dataset import Dataset
from handwriting.hyperparameters import ModelConfig, TrainConfig
from handwriting.image import ImageConfig
from handwriting.labels import LabelConfig
from handwriting.packing import LABELS, PackConfig, pack_folder
from handwriting.schedule import Schedule
from handwriting.store import open_store, read_json

log = logging.getLogger(__name__)

TRAINED_ON = ("train", "user_data")


class Measured(NamedTuple):
    """What one child process measured: lines of training a second, and its largest resident memory in MB."""

    lines_per_second: float
    memory: float


def bench(data: Path, lines: int, repeat: int, batch: int, image: ImageConfig, model: ModelConfig) -> dict[str, Any]:
    """Measures each way of training in a process of its own.

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
        steps: dict[str, tuple[Callable[..., Measured], tuple]] = {
            "reference": (_reference, (data, lines)),
            "ours": (_ours, (dataset, lines, 1, batch, model)),
            "network": (_network, (dataset, lines, batch, model)),
            "repeated": (_ours, (dataset, lines, repeat, batch, model))}
        rows = {}
        for name, (function, arguments) in steps.items():
            log.info("measuring: %s", name)
            rows[name] = _rounded(_alone(function, arguments))
    ours, reference, network = (rows[name]["lines_per_second"] for name in ("ours", "reference", "network"))
    return {"rows": rows, "speedup": round(ours / reference, 2), "of_network": round(ours / network, 3), "lines": lines,
            "repeat": repeat}


def table(result: dict[str, Any]) -> str:
    """Returns a result as a Markdown table."""
    names = {"reference": "the tutorial's training", "ours": "ours, splicing and augmentation included",
             "network": "ours, the network's step alone on random tensors",
             "repeated": f"ours, the same lines {result['repeat']} times"}
    rows = [f"| {names[name]} | {row['lines_per_second']:.1f} | {row['memory']:.0f} |"
            for name, row in result["rows"].items()]
    return "\n".join(["| training | lines/s | memory, MB |", "|---|---|---|", *rows,
                      f"\n{result['speedup']:.1f} times the tutorial's speed; {result['of_network']:.0%} of the "
                      "network's own."])


def _rounded(measured: Measured) -> dict[str, float]:
    return {name: round(value, 2) for name, value in measured._asdict().items()}


def _alone(function: Callable[..., Measured], arguments: tuple) -> Measured:
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
    train_epoch(1)
    began = time.monotonic()
    train_epoch(2)
    return Measured(lines / (time.monotonic() - began), _peak())


def _ours(dataset_uri: str, lines: int, repeat: int, batch: int, model: ModelConfig) -> Measured:
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        trainer = _trainer(dataset_uri, lines, repeat, batch, model, Path(scratch))
        begun = [trainer.batches(1, trainer.config.augmentation)]

        def train_epoch(number: int) -> None:
            batches = begun.pop()
            begun.append(trainer.batches(number + 1, trainer.config.augmentation))  # beside this one, as in a run
            _begin(trainer)
            trainer.train_epoch(1, time.monotonic(), batches)

        return _second(len(trainer.training_lines.lines), train_epoch)


def _network(dataset_uri: str, lines: int, batch: int, model: ModelConfig) -> Measured:
    """Trains on random tensors of the shapes and lengths that an epoch has."""
    import torch

    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        trainer = _trainer(dataset_uri, lines, 1, batch, model, Path(scratch))
        random = [[part._replace(images=torch.randint_like(part.images, 256)) for part in parts]
                  for parts in trainer.batches(2, trainer.config.augmentation)]

        def train_epoch(number: int) -> None:
            _begin(trainer)
            for count, parts in enumerate(random, 1):
                trainer.train_step(parts, 1).loss()
                trainer.schedule.advance(count / len(random))

        return _second(len(trainer.training_lines.lines), train_epoch)


def _trainer(dataset_uri: str, lines: int, repeat: int, batch: int, model: ModelConfig, cache: Path) -> Any:
    from handwriting.training import Trainer

    dataset = Dataset(dataset_uri, cache)
    dataset.all_lines = dataset.lines("train")[:lines] * repeat + dataset.lines("validation")
    trainer = Trainer(dataset, model, TrainConfig(epochs=1, batch=batch))
    trainer.find_letters()  # once in a run
    return trainer


def _begin(trainer: Any) -> None:
    """Begins a run of one epoch: its steps are as those of a whole run, in the same proportion."""
    trainer.schedule = Schedule(trainer.config)
    trainer.schedule.flat_steps = 0  # they are cheaper than all others
