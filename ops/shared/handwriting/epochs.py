"""What training gives: the losses of a step, the scores of an epoch, the weights of the best one."""

import math
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple

import torch
from torch import Tensor

from handwriting.batches import LeftOut
from handwriting.dataset import Line
from handwriting.errors import DataError
from handwriting.metrics import Scores


@dataclass(frozen=True)
class Epoch:
    """What one epoch gave: its number from 1, mean training loss a character, validation scores, seconds of the run."""

    number: int
    train_loss: float
    scores: Scores
    seconds: float

    def metrics(self) -> dict[str, float]:
        """Returns the numbers to log, with the tutorial's names beside the field's."""
        return {"train_loss": self.train_loss, "val_cer": self.scores.cer, "val_wer": self.scores.wer,
                "val_exact": self.scores.exact, "val_acc_by_char": self.scores.char_accuracy,
                "val_acc_by_field": self.scores.exact}

    def katib_line(self) -> str:
        """Returns `TIMESTAMP epoch=N val_cer=X ...`, the form Katib parses; a number that is not finite is left out."""
        numbers = {name: value for name, value in self.metrics().items() if math.isfinite(value)}
        stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return " ".join([stamp, f"epoch={self.number}", *(f"{name}={value:.6f}" for name, value in numbers.items())])


class Step(NamedTuple):
    """One step.

    Attributes:
        epoch: That it belongs to.
        number: In the run.
        losses: Of each part, on the CPU; from a GPU they are still to come.
        lines: That it learnt from.
        arrived: When it has happened, a GPU's losses are there.
    """

    epoch: int
    number: int
    losses: list[Tensor]
    lines: list[Line]
    arrived: torch.cuda.Event | None = None

    def loss(self) -> float:
        """Waits for the step; returns its loss a character, summed over its lines.

        Raises:
            DataError: The loss is not finite.
        """
        if self.arrived:
            self.arrived.synchronize()
        loss = sum(part.item() for part in self.losses)
        if not math.isfinite(loss):
            raise DataError(f"the loss is {loss} in epoch {self.epoch}, step {self.number}, lines "
                            f"{[line.key for line in self.lines]}; lower learning_rate, or look at these pictures")
        return loss * len(self.lines)


@dataclass
class Trained:
    """A finished run: the weights of its best epoch on the CPU, what every epoch gave, and lines it left out."""

    weights: dict[str, Tensor]
    best: Epoch
    history: list[Epoch] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
