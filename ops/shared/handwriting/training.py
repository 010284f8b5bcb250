"""Trains a reader: AdamW with bf16 where that is faster, averaged weights, best epoch by validation CER.

A run is repeatable: the same dataset, settings and seed give the same weights on a CPU, also when it was killed and
went on from its checkpoint (unless a time limit shapes the schedule).
"""

import copy
import io
import logging
import math
import pickle
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict
from functools import partial
from typing import Any, TypeVar

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from handwriting.allocation import keep_freed_memory
from handwriting.alphabet import Alphabet
from handwriting.batches import Batch, LeftOut, TrainingLines, reading_batch, reading_groups
from handwriting.cores import cores
from handwriting.ctc import decode_greedy, spelled
from handwriting.dataset import Dataset, Line
from handwriting.distributed import Group
from handwriting.epochs import Epoch, Step, Trained
from handwriting.errors import DataError, StoreError
from handwriting.finetuning import Start, fitted
from handwriting.graphs import Graphs, graphed_widths
from handwriting.hardware import fast_bfloat16, feeding
from handwriting.hyperparameters import ModelConfig, TrainConfig
from handwriting.image import WHITE
from handwriting.losses import ctc_losses, flat_loss
from handwriting.metrics import Scores, lacks_a_passage, score
from handwriting.model import CRNN, Heads
from handwriting.replicas import Replicas, one_thread
from handwriting.schedule import Schedule
from handwriting.splicing import letter_starts
from handwriting.store import Store

log = logging.getLogger(__name__)

T = TypeVar("T")

CHECKPOINT = "checkpoint"
SHORTCUT_WEIGHT = 0.3  # of the shortcut head's own loss
CLIP = 5.0  # norm of the gradient
LEGIBLE = 0.2  # validation CER of a network that finds letters well enough to cut between them
MOST_DOUBTFUL = 0.05  # share of lines with other labels than readings beyond which it is the network that errs
AHEAD = 1  # steps that a GPU is given before it is asked for a loss, so that it always has work
AVERAGE_DECAY = 0.99  # of the averaged weights, a step; less while few steps were made


class Trainer:
    """One run over a dataset.

    Args:
        dataset: Has lines in train and validation.
        model_config: Size of the network.
        config: How it learns, and for how long.
        store: Where the checkpoint lives.
        checkpoint_seconds: Shortest time between two checkpoints.
        group: Processes that train together; each step shares a batch between them.

    Raises:
        DataError: A split is empty, or a checkpoint is damaged.
        AlphabetError: A training label holds a character outside the dataset's alphabet.
    """

    def __init__(self, dataset: Dataset, model_config: ModelConfig, config: TrainConfig, store: Store | None = None,
                 checkpoint_seconds: float = 30.0, group: Group = Group()):
        keep_freed_memory()
        torch.set_num_threads(min(torch.get_num_threads(), cores()))  # PyTorch sees those of a pod's whole machine
        cv2.setNumThreads(1)  # augmentation runs beside the network, which has the cores
        torch.manual_seed(config.seed)
        self.dataset, self.config, self.store, self.checkpoint_seconds = dataset, config, store, checkpoint_seconds
        self.group, self.batch = group, math.ceil(config.batch / group.size)
        self.alphabet = Alphabet(dataset.manifest.alphabet)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.training_lines = TrainingLines(dataset, dataset.lines("train"), self.alphabet, feeding(self.device))
        self.validation_lines = dataset.lines("validation")
        self.half = fast_bfloat16(self.device)
        self.model = CRNN(model_config, self.alphabet.classes, dataset.manifest.image.height).to(self.device)
        self.model = self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.replicas = Replicas(self.model, self.batch, most=1 if group.size > 1 else None)
        self._heads = group.wrap(Heads(self.model)) if group.size > 1 else None
        self.average = copy.deepcopy(self.model)
        self._averages, self._values = _floats(self.average), _floats(self.model)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=config.learning_rate,
                                           weight_decay=config.weight_decay, fused=True)
        self.schedule = Schedule(config)
        self._next_batches: Iterator[list[Batch]] | None = None
        self.history: list[Epoch] = []
        self.best_weights: dict[str, Tensor] = {}
        self.graphs = self._made_graphs()

    @property
    def best(self) -> Epoch:
        """The epoch with the lowest validation CER; of equals the first."""
        return min(self.history, key=lambda epoch: epoch.scores.cer)

    def start_from(self, start: Start) -> None:
        """Takes the weights of a bundle; a checkpoint of this very run counts more."""
        weights = fitted(start, self.model.state_dict(), self.alphabet)
        self.model.load_state_dict(weights)
        self.average.load_state_dict(weights)
        self.schedule.flat_steps = 0  # these weights know where letters stand
        log.info("starting from %s, %d of its %d letters", start.uri,
                 len(set(start.alphabet.characters) & set(self.alphabet.characters)), len(start.alphabet))

    def run(self, on_epoch: Callable[[Epoch], Any] = lambda epoch: None) -> Trained:
        """Trains from the checkpoint, if there is one, to the end; calls `on_epoch` after each epoch, old ones too."""
        self._resume()
        for epoch in self.history:
            on_epoch(epoch)
        saved = began = time.monotonic() - self.schedule.seconds
        with closing(self.training_lines):
            while not self._done():
                epoch = self._epoch(began)
                on_epoch(epoch)
                if time.monotonic() - saved >= self.checkpoint_seconds:
                    self._save()
                    saved = time.monotonic()
            self._next_batches = None  # patience may have ended the run
        self.average.load_state_dict(self.best_weights)  # `read` reads with them
        return Trained(self.best_weights, self.best, self.history, self.training_lines.left_out)

    def _done(self) -> bool:
        if not self.history:
            return False
        last, best = len(self.history), self.best.number
        if self.schedule.hurry(last, best):
            self._next_batches = None  # they were made for an earlier part of the run
        return self.schedule.ended(last, best)

    def _epoch(self, began: float) -> Epoch:
        number = len(self.history) + 1
        batches = self._next_batches or self.batches(number)
        self._next_batches = self.batches(number + 1) if number < self.config.epochs else None  # beside this one
        loss = self.train_epoch(number, began, batches)
        scores = self.validate()
        self.schedule.seconds = self.group.agree(time.monotonic() - began)
        epoch = Epoch(number, loss, scores, self.schedule.seconds)
        self.history.append(epoch)
        if self.best is epoch:
            self.best_weights = {name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
                                 for name, value in self.average.state_dict().items()}
        log.info("epoch %d of %d: loss %.3f, validation CER %.4f, exact %.3f, %.0f s", number, self.schedule.epochs,
                 loss, scores.cer, scores.exact, epoch.seconds)
        return epoch

    def train_epoch(self, number: int, began: float, batches: Iterator[list[Batch]]) -> float:
        """Runs the steps of one epoch.

        Args:
            number: Of the epoch, from 1.
            began: Time of the monotonic clock at which the run would have begun in one piece.
            batches: Of the epoch.

        Returns:
            The mean loss a character.

        Raises:
            DataError: The loss of a step is not finite.
        """
        total, lines, waiting = 0.0, 0, deque[Step]()
        steps = math.ceil(math.ceil(len(self.training_lines.lines) / self.group.size) / self.batch)
        bar = tqdm(batches, total=steps, desc=f"epoch {number}", leave=False, disable=None)
        for count, parts in enumerate(bar, 1):
            waiting.append(self.train_step(parts, number))
            lines += len(waiting[-1].lines)
            if len(waiting) > AHEAD:
                total += waiting.popleft().loss()
            # Lines that were left out since these batches were begun make them more than there are steps.
            self.schedule.advance(number - 1 + min(1.0, count / steps))
            if self.config.minutes:
                self.schedule.seconds = self.group.agree(time.monotonic() - began)
            if self.schedule.progress() >= 1:  # a time limit ends within the epoch
                break
        return (total + sum(step.loss() for step in waiting)) / lines

    def batches(self, number: int, strength: float | None = None) -> Iterator[list[Batch]]:
        """Begins to make the batches of an epoch, spliced from when letters can be found well enough.

        It is called an epoch ahead, so that a GPU need not wait for lines when an epoch begins.

        Args:
            number: Of the epoch, from 1.
            strength: Of augmentation, 0 to 1; None lets it grow with the run.
        """
        if strength is None:
            if not self.training_lines.starts and self.config.augmentation and self._legible():
                self.find_letters()
            strength = self.schedule.augmentation(number)
        return self.training_lines.batches(self.batch, self.replicas.count, strength, (self.config.seed, number),
                                           self.group)

    def _legible(self) -> bool:
        """Says whether the network read well enough after the last epoch; an untrained one would cut anywhere."""
        return bool(self.history) and self.history[-1].scores.cer < LEGIBLE

    def train_step(self, parts: Sequence[Batch], number: int) -> Step:
        """Learns from one batch, a part a replica, in epoch `number`; a GPU may still be at it when this returns."""
        for weights in self.optimizer.param_groups:
            weights["lr"] = self.schedule.learning_rate()
        lines = [line for part in parts for line in part.lines]
        losses = [torch.tensor(0.0)] * len(parts)
        flat = self.schedule.flat()
        # The graphs of a GPU go on with it: it takes little of their time, and they would have to be made twice.
        shortcut = self.schedule.shortcut() or self.graphs is not None

        def loss_of(replica: int, model: CRNN, part: Batch) -> Tensor:
            self._seed_dropout(model, replica)
            share = len(part.lines) / len(lines)
            minimised, loss = (value * share for value in self._losses(model, part, shortcut, flat))
            losses[replica] = loss.detach()
            return minimised

        if self.graphs and not flat and self.graphs.fit(parts[0]):
            self._seed_dropout(self.model)
            losses = [self.graphs.learn(parts[0])]
        else:
            self.replicas.learn(parts, loss_of)
        step = self.schedule.step
        with one_thread():
            nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
            self.optimizer.step()
            torch._foreach_lerp_(self._averages, self._values, 1 - min(AVERAGE_DECAY, (1 + step) / (10 + step)))
        losses = [loss.to("cpu", non_blocking=True) for loss in losses]
        arrived = torch.cuda.current_stream().record_event() if self.device.type == "cuda" else None
        return Step(number, step, losses, lines, arrived)

    def _seed_dropout(self, model: CRNN, replica: int = 0) -> None:
        replica += self.group.rank * self.replicas.count
        model.seed_dropout(hash((self.config.seed, self.schedule.step, replica)))

    def _losses(self, model: CRNN, part: Batch, shortcut: bool = True, flat: bool = False) -> tuple[Tensor, Tensor]:
        """Returns what to minimise, with the shortcut's own loss or without, and what to report: always without."""
        with self._precision():
            heads = (self._heads or model.forward_with_shortcut)(self._images(part))
        loss, *others = ctc_losses(heads if shortcut else heads[:1], part)
        return flat_loss(heads[1], part) if flat else loss + SHORTCUT_WEIGHT * sum(others), loss

    def find_letters(self) -> None:
        """Finds where the letters of the training lines stand, with the averaged weights; from then on it splices.

        Lines that say something else than their labels are left out: people shorten what they are told to write.
        """
        def look(line: Line, log_probs: np.ndarray) -> tuple[np.ndarray, str]:
            return (letter_starts(self.dataset.pixels(line), log_probs, line.text, self.alphabet),
                    decode_greedy(log_probs, self.alphabet).text)

        lines = self.training_lines
        found = dict(self._read_together(lines.lines, look))
        doubtful = [LeftOut(line.key, line.text, reading) for line, (_, reading) in found.items()
                    if lacks_a_passage(line.text, reading)]
        lines.take_letters({line: starts for line, (starts, _) in found.items()},
                           doubtful if len(doubtful) <= MOST_DOUBTFUL * len(found) else ())
        log.info("new lines are spliced of %d from now on; %d say something else than their labels and are left out",
                 len(lines.lines), len(lines.left_out))

    def validate(self) -> Scores:
        """Reads the validation lines with the averaged weights, in training's own precision, and scores them."""
        pairs = self._read_together(self.validation_lines, lambda line, path_T: spelled(path_T, self.alphabet),
                                    lambda log_probs_BTK: log_probs_BTK.argmax(dim=2))
        return score([line.text for line, _ in pairs], [reading for _, reading in pairs])

    def read(self, lines: Sequence[Line], function: Callable[[Line, np.ndarray], T],
             reduce: Callable[[Tensor], Tensor] = lambda log_probs: log_probs) -> list[tuple[Line, T]]:
        """Reads lines with the averaged weights.

        Args:
            lines: Of the dataset.
            function: Called in several threads with a line and its log-probabilities, float32 [steps, classes].
            reduce: What to make of the log-probabilities of several lines, [B, T, K], before they leave a GPU; the
                function gets that instead.

        Returns:
            Each line with what the function made of it, narrow lines first.
        """
        model = self.average.eval()

        @torch.inference_mode()
        def read_group(group: list[Line]) -> list[tuple[Line, T]]:
            batch = reading_batch(self.dataset, group, self.training_lines.feeding)
            with self._precision():
                reduced = reduce(model(self._images(batch))).cpu().numpy()
            return [(line, function(line, row[:count]))
                    for line, row, count in zip(group, reduced, batch.steps.tolist())]

        groups = reading_groups(lines, self.training_lines.feeding.reading)
        return [pair for group in self.replicas.map(read_group, groups) for pair in group]

    def _read_together(self, lines: Sequence[Line], *how: Callable[..., Any]) -> list[tuple[Line, Any]]:
        """Reads lines as `read` does, each process its share, and gives all of them to all."""
        self.group.agree_on(list(self.average.buffers()))
        return self.group.gather(self.read(self.group.share(lines), *how))

    def _images(self, batch: Batch) -> Tensor:
        """Returns what the network reads, as `to_input` makes it."""
        pixels = batch.images.to(self.device, memory_format=torch.channels_last, non_blocking=True)
        return (WHITE - pixels).float() / WHITE

    def _precision(self) -> torch.autocast:
        """Returns a context of bf16, if that is fast here; a CUDA graph forbids weights kept in bf16 for later."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.half, cache_enabled=False)

    def _made_graphs(self) -> Graphs | None:
        """Returns CUDA graphs that learn; they cannot hold what several processes say to each other."""
        if self.device.type == "cpu" or self.group.size > 1:
            return None
        widest = max(line.width for line in self.training_lines.lines)
        return Graphs(self.model.train(), partial(self._losses, self.model), self.batch,
                      self.dataset.manifest.image.height, graphed_widths(widest, self.training_lines.feeding.multiple))

    def _save(self) -> None:
        """Writes the checkpoint: everything that the next epoch depends on."""
        if self.store is None or not self.group.leads:
            return
        state = {"model": self.model.state_dict(), "average": self.average.state_dict(),
                 "optimizer": self.optimizer.state_dict(), "schedule": self.schedule.state(),
                 "history": [asdict(epoch) for epoch in self.history], "best_weights": self.best_weights,
                 "training_lines": self.training_lines.state()}
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
            self.training_lines.load_state(state["training_lines"])
            self.schedule.load_state(state["schedule"])
            self.history = [Epoch(**{**row, "scores": Scores(**row["scores"])}) for row in state["history"]]
        except (RuntimeError, LookupError, TypeError, EOFError, ValueError, pickle.UnpicklingError) as error:
            raise DataError(f"the checkpoint {self.store.root}/{CHECKPOINT} is damaged; delete it to train "
                            "from the start") from error
        self.best_weights = {k: v.cpu() for k, v in state["best_weights"].items()}
        log.info("resumed after epoch %d from %s/%s", len(self.history), self.store.root, CHECKPOINT)


def _floats(model: nn.Module) -> list[Tensor]:
    """Returns what of a network is averaged: weights, and the statistics of batch normalisation."""
    return [value for value in model.state_dict().values() if value.is_floating_point()]
