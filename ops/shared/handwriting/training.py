"""Trains a reader: AdamW with bf16 where the processor has it, averaged weights, best epoch by validation CER.

A run is repeatable: the same dataset, settings and seed give the same weights on a CPU, also when it was killed and
went on from its checkpoint (unless a time limit shapes the schedule).
"""

import ctypes
import io
import logging
import math
import pickle
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import cv2
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from handwriting.alphabet import BLANK, Alphabet
from handwriting.batches import Batch, reading_batches, training_batches
from handwriting.ctc import decode_greedy
from handwriting.dataset import Dataset, Line
from handwriting.errors import ConfigError, DataError, StoreError
from handwriting.finetuning import Start, fitted
from handwriting.metrics import Scores, score
from handwriting.model import CRNN, ModelConfig
from handwriting.store import Store

log = logging.getLogger(__name__)

Tensors = tuple[Tensor, ...] | list[Tensor]

CHECKPOINT = "checkpoint"
SHORTCUT_WEIGHT = 0.3  # of the shortcut head's own loss
CLIP = 5.0  # norm of the gradient
CALM, FULL = 0.3, 0.6  # shares of the run between which augmentation grows from nothing to its strength
AVERAGE_DECAY = 0.99


@dataclass(frozen=True)
class TrainConfig:
    """How a reader is trained.

    Attributes:
        epochs: Passes over the training lines, at most.
        batch: Lines of a step.
        learning_rate: Rate at the start; it falls along half a cosine.
        weight_decay: Of AdamW.
        augmentation: Strength of augmentation once it has grown, 0 (none) to 1.
        patience: Epochs without a better validation CER after which the run stops.
        minutes: Time limit; the schedule is shortened to end in it. 0: no limit.
        seed: Decides weights, order and augmentation.
    """

    epochs: int = 40
    batch: int = 8
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    augmentation: float = 0.7
    patience: int = 15
    minutes: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, low, high in (("epochs", 1, 100_000), ("batch", 1, 4096), ("learning_rate", 1e-7, 1.0),
                                ("weight_decay", 0.0, 1.0), ("augmentation", 0.0, 1.0), ("patience", 1, 100_000),
                                ("minutes", 0.0, 100_000.0), ("seed", 0, 2**31)):
            value = getattr(self, name)
            if not low <= value <= high:  # also refuses NaN
                raise ConfigError(f"{name} is {value}; give a value from {low} to {high}")


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


@dataclass
class Trained:
    """A finished run: the weights of its best epoch on the CPU, and what every epoch gave."""

    weights: dict[str, Tensor]
    best: Epoch
    history: list[Epoch] = field(default_factory=list)


class Trainer:
    """One run over a dataset.

    Args:
        dataset: Has lines in train and validation.
        model_config: Size of the network.
        config: Schedule.
        store: Where the checkpoint lives.
        checkpoint_seconds: Shortest time between two checkpoints.

    Raises:
        DataError: A split is empty, or a checkpoint is damaged.
        AlphabetError: A training label holds a character outside the dataset's alphabet.
    """

    def __init__(self, dataset: Dataset, model_config: ModelConfig, config: TrainConfig, store: Store | None = None,
                 checkpoint_seconds: float = 30.0):
        keep_freed_memory()
        cv2.setNumThreads(1)  # augmentation runs beside the network, which has the cores
        torch.manual_seed(config.seed)
        self.dataset, self.config, self.store, self.checkpoint_seconds = dataset, config, store, checkpoint_seconds
        self.alphabet = Alphabet(dataset.manifest.alphabet)
        self.train_lines, self.validation_lines = dataset.lines("train"), dataset.lines("validation")
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.half = fast_bfloat16(self.device)
        self.model = CRNN(model_config, self.alphabet.classes).to(self.device)
        self.model = self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = AveragedModel(self.model, multi_avg_fn=average_, use_buffers=True)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=config.learning_rate,
                                           weight_decay=config.weight_decay)
        self.step, self.seconds = 0, 0.0
        self.history: list[Epoch] = []
        self.best_weights: dict[str, Tensor] = {}

    @property
    def best(self) -> Epoch:
        """The epoch with the lowest validation CER; of equals the first."""
        return min(self.history, key=lambda epoch: epoch.scores.cer)

    def start_from(self, start: Start) -> None:
        """Takes the weights of a bundle; a checkpoint of this very run counts more."""
        weights = fitted(start, self.model.state_dict(), self.alphabet)
        self.model.load_state_dict(weights)
        self.average.module.load_state_dict(weights)
        log.info("starting from %s, %d of its %d letters", start.uri,
                 len(set(start.alphabet.characters) & set(self.alphabet.characters)), len(start.alphabet))

    def run(self, on_epoch: Callable[[Epoch], Any] = lambda epoch: None) -> Trained:
        """Trains from the checkpoint, if there is one, to the end; calls `on_epoch` after each epoch, old ones too."""
        self._resume()
        for epoch in self.history:
            on_epoch(epoch)
        saved = began = time.monotonic() - self.seconds
        while not self._done():
            epoch = self._epoch(began)
            on_epoch(epoch)
            if time.monotonic() - saved >= self.checkpoint_seconds:
                self._save()
                saved = time.monotonic()
        return Trained(self.best_weights, self.best, self.history)

    def _done(self) -> bool:
        if not self.history:
            return False
        waited = len(self.history) - self.best.number
        if waited >= self.config.patience:
            log.info("stopped: no better validation CER for %d epochs", waited)
            return True
        return self._progress() >= 1

    def _progress(self) -> float:
        """Returns how much of the run is over, 0 to 1: by epochs, or by the clock where a limit comes first."""
        steps = self.config.epochs * math.ceil(len(self.train_lines) / self.config.batch)
        limit = 60 * self.config.minutes
        return max(self.step / steps, self.seconds / limit if limit else 0.0)

    def _epoch(self, began: float) -> Epoch:
        number = len(self.history) + 1
        loss = self.train_epoch(number, began)
        scores = evaluate(self.average.module, self.dataset, self.validation_lines, self.alphabet, self.half)
        self.seconds = time.monotonic() - began
        epoch = Epoch(number, loss, scores, self.seconds)
        self.history.append(epoch)
        if self.best is epoch:
            self.best_weights = {name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
                                 for name, value in self.average.module.state_dict().items()}
        log.info("epoch %d of %d: loss %.3f, validation CER %.4f, exact %.3f, %.0f s", number, self.config.epochs,
                 loss, scores.cer, scores.exact, self.seconds)
        return epoch

    def train_epoch(self, number: int, began: float, strength: float | None = None) -> float:
        """Runs the steps of one epoch.

        Args:
            number: Of the epoch, from 1.
            began: Time of the monotonic clock at which the run would have begun in one piece.
            strength: Of augmentation, 0 to 1; None lets it grow with the run.

        Returns:
            The mean loss a character.
        """
        self.model.train()
        if strength is None:
            growth = (self._progress() - CALM) / (FULL - CALM)
            strength = self.config.augmentation * min(1.0, max(0.0, growth))
        batches = training_batches(self.dataset, self.train_lines, self.alphabet, self.config.batch, strength,
                                   (self.config.seed, number))
        total, lines = 0.0, 0
        steps = math.ceil(len(self.train_lines) / self.config.batch)
        for batch in tqdm(batches, total=steps, desc=f"epoch {number}", leave=False, disable=None):
            total += self.train_step(batch, number) * len(batch.lines)
            lines += len(batch.lines)
            self.step += 1
            self.seconds = time.monotonic() - began
            if self._progress() >= 1:  # a time limit ends within the epoch
                break
        return total / lines

    def train_step(self, batch: Batch, number: int) -> float:
        """Learns from one batch in epoch `number`; returns its mean loss a character.

        Raises:
            DataError: The loss is not finite.
        """
        self._set_learning_rate()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            heads = self.model.forward_with_shortcut(self._images(batch))
        loss, shortcut = (ctc_loss(head, batch) for head in heads)
        if not math.isfinite(loss.item()):
            raise DataError(f"the loss is {loss.item()} in epoch {number}, step {self.step}, lines "
                            f"{[line.key for line in batch.lines]}; lower learning_rate, or look at these pictures")
        self.optimizer.zero_grad(set_to_none=True)
        (loss + SHORTCUT_WEIGHT * shortcut).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizer.step()
        self.average.update_parameters(self.model)
        return loss.item()

    def _images(self, batch: Batch) -> Tensor:
        return batch.images.to(self.device, memory_format=torch.channels_last, non_blocking=True)

    def _set_learning_rate(self) -> None:
        """Follows half a cosine from the highest rate down.

        There is no rise before it: with a low rate at first the network learns to read nothing but blanks, and took
        five times as long to leave that.
        """
        rate = self.config.learning_rate * max(1e-3, 0.5 * (1 + math.cos(math.pi * min(1.0, self._progress()))))
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def _save(self) -> None:
        """Writes the checkpoint: everything that the next epoch depends on."""
        if self.store is None:
            return
        state = {"model": self.model.state_dict(), "average": self.average.state_dict(),
                 "optimizer": self.optimizer.state_dict(), "random": torch.get_rng_state(), "step": self.step,
                 "seconds": self.seconds, "history": [asdict(epoch) for epoch in self.history],
                 "best_weights": self.best_weights}
        buffer = io.BytesIO()
        torch.save(state, buffer)
        try:
            self.store.write(CHECKPOINT, buffer.getvalue())
        except StoreError as error:  # an outage must not cost the run: a later checkpoint may get through
            log.warning("no checkpoint after epoch %d: %s", len(self.history), error)

    def _resume(self) -> None:
        if self.store is None or not self.store.exists(CHECKPOINT):
            return
        try:
            state = torch.load(io.BytesIO(self.store.read(CHECKPOINT)), weights_only=True, map_location=self.device)
            self.model.load_state_dict(state["model"])
            self.average.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.history = [Epoch(**{**row, "scores": Scores(**row["scores"])}) for row in state["history"]]
        except (RuntimeError, LookupError, TypeError, EOFError, ValueError, pickle.UnpicklingError) as error:
            raise DataError(f"the checkpoint {self.store.root}/{CHECKPOINT} is damaged; delete it to train "
                            "from the start") from error
        torch.set_rng_state(state["random"].cpu())
        self.step, self.seconds = state["step"], state["seconds"]
        self.best_weights = {k: v.cpu() for k, v in state["best_weights"].items()}
        log.info("resumed after epoch %d from %s/%s", len(self.history), self.store.root, CHECKPOINT)


def ctc_loss(log_probs_BTK: Tensor, batch: Batch) -> Tensor:
    """Returns the mean over lines of the CTC loss a character, each over the line's own steps without padding."""
    losses = nn.functional.ctc_loss(log_probs_BTK.transpose(0, 1), batch.targets.to(log_probs_BTK.device), batch.steps,
                                    batch.lengths, blank=BLANK, reduction="none", zero_infinity=True)
    return (losses / batch.lengths.to(losses.device).clamp(min=1)).mean()


def evaluate(model: nn.Module, dataset: Dataset, lines: list[Line], alphabet: Alphabet, half: bool,
             size: int = 32) -> Scores:
    """Reads lines with the network in training's own precision and scores them."""
    pairs = list(_read(model, dataset, lines, alphabet, half, size))
    return score([truth for truth, _ in pairs], [reading for _, reading in pairs])


@torch.inference_mode()
def _read(model: nn.Module, dataset: Dataset, lines: list[Line], alphabet: Alphabet, half: bool,
          size: int) -> Iterator[tuple[str, str]]:
    model.eval()
    device = next(model.parameters()).device
    for batch in reading_batches(dataset, lines, size):
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            log_probs_BTK = model(batch.images.to(device, memory_format=torch.channels_last)).cpu().numpy()
        for line, steps, probs_TK in zip(batch.lines, batch.steps.tolist(), log_probs_BTK):
            yield line.text, decode_greedy(probs_TK[:steps], alphabet).text


@torch.no_grad()
def average_(averages: Tensors, values: Tensors, count: Tensor | int) -> None:
    """Moves averages towards values in place, exponentially; over a shorter window while few values were seen.

    Args:
        averages: Tensors of one type.
        values: The current ones of the network.
        count: Values seen before.
    """
    share = 1 - min(AVERAGE_DECAY, (1 + int(count)) / (10 + int(count)))
    if averages[0].is_floating_point():
        torch._foreach_lerp_(averages, values, share)
    else:  # counters of batch normalisation
        for average, value in zip(averages, values):
            average.copy_(value)


def fast_bfloat16(device: torch.device) -> bool:
    """Says whether bf16 arithmetic is in the hardware; emulated it would be slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def keep_freed_memory() -> None:
    """Tells glibc to keep freed blocks: returning each batch's to the system and faulting it in again costs a third.

    The same as the variables MALLOC_MMAP_MAX_=0 and MALLOC_TRIM_THRESHOLD_; elsewhere than on glibc nothing happens.
    """
    m_trim_threshold, m_mmap_max = -1, -4  # malloc.h
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(m_mmap_max, 0)
        mallopt(m_trim_threshold, 2**31 - 1)
