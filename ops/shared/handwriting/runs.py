"""One training run from dataset to bundle, that can be repeated or interrupted at any point.

`runs/<id>/` belongs to one combination of dataset, settings and code: `checkpoint` while it trains, `result.json` when
it is done. Running it again finds the result and trains nothing.
"""

import hashlib
import json
import logging
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

from torch.distributed.elastic.multiprocessing.errors import record

from handwriting import distributed, rehearsal, sources
from handwriting.batches import LeftOut
from handwriting.bundle import CONFIG, METRICS, find_bundle, find_champion, named_bundle, read_config
from handwriting.bundling import as_config, write_bundle
from handwriting.dataset import LATEST, MANIFEST, Dataset, read_lines, read_manifest, resolve
from handwriting.distributed import Group
from handwriting.epochs import Epoch, Trained
from handwriting.errors import DataError
from handwriting.exporting import export, fit_language_model
from handwriting.finetuning import load_start
from handwriting.hyperparameters import ModelConfig, TrainConfig
from handwriting.store import Store, join, open_store, read_json, write_json
from handwriting.training import CHECKPOINT, Trainer

log = logging.getLogger(__name__)

RESULT = "result.json"
CHAMPION = "champion"  # as `start`: the bundle that serves
RENDERED = "rendered"  # as `start`: a network that has read rendered lines; below `runs` where those lie


class Run(NamedTuple):
    """A finished run.

    Attributes:
        model: URI of the bundle.
        epochs: Metrics of each epoch, in order.
        best: Number of the epoch in the bundle, from 1.
        seconds: Time it trained, all its parts together.
        trained: False where the result was there already.
        left_out: Training lines that say something else than their labels.
    """

    model: str
    epochs: list[dict[str, float]]
    best: int
    seconds: float
    trained: bool
    left_out: Sequence[LeftOut] = ()

    @property
    def cer(self) -> float:
        """Validation CER of the epoch in the bundle."""
        return self.epochs[self.best - 1]["val_cer"]

    def summary(self) -> dict[str, Any]:
        """Returns the outcome for logs, metrics and the command line."""
        return {"model": self.model, **self.epochs[self.best - 1], "epochs": len(self.epochs),
                "best_epoch": self.best, "seconds": round(self.seconds, 1), "trained": self.trained,
                "left_out": len(self.left_out)}

    def finite_metrics(self) -> dict[str, float]:
        """Returns the scores of the saved epoch that are numbers: KFP refuses NaN."""
        return {name: value for name, value in self.epochs[self.best - 1].items() if math.isfinite(value)}


def train(dataset_uri: str, models_uri: str, runs_uri: str, model_config: ModelConfig, config: TrainConfig,
          on_epoch: Callable[[int, dict[str, float]], Any] = lambda number, metrics: None,
          checkpoint_seconds: float = 30.0, start: str = "", compare: bool = False, processes: int = 0,
          elsewhere: Callable[[], Any] | None = None) -> Run:
    """Trains a reader and writes its bundle, or finds the one that the same run wrote before.

    Args:
        dataset_uri: A dataset, or the root of datasets (its latest).
        models_uri: Root of the bundles.
        runs_uri: Root of checkpoints and results.
        model_config: Size of the network.
        config: Schedule.
        on_epoch: Called after each epoch with its number, from 1, and its metrics.
        checkpoint_seconds: Shortest time between two checkpoints.
        start: A bundle to fine-tune, the root of bundles (the one that serves or came last), or CHAMPION (the one that
            serves in `models_uri`, if any), or RENDERED (a network of this size that has read rendered lines, trained
            at first use); empty begins with new weights. One that was trained on this dataset is the result itself.
        compare: With a start, also train with new weights, and return whichever reads validation lines better.
        processes: That train together here; 0 for one a GPU.
        elsewhere: Lets other machines train, in place of this one, and waits for them; they call this function too.

    Raises:
        HandwritingError: The dataset is unusable, or a store fails.
    """
    job = Job(resolve(dataset_uri, MANIFEST), models_uri, runs_uri, model_config, config, checkpoint_seconds, "")
    count = processes or distributed.processes()
    if start == RENDERED:
        start = _rehearse(job, count)
    else:
        start = find_champion(models_uri) if start == CHAMPION else find_bundle(start) if start else ""
    found = _train(job._replace(start=start), on_epoch, count, elsewhere)
    if not (start and compare):
        return found
    other = _train(job, lambda number, metrics: on_epoch(len(found.epochs) + number, metrics), count, elsewhere)
    log.info("validation CER %.4f after fine-tuning, %.4f with new weights", found.cer, other.cer)
    better = min(found, other, key=lambda run: run.cer)
    write_json(open_store(models_uri), LATEST, {"id": better.model.rpartition("/")[2]})
    return better


class Job(NamedTuple):
    """What a process must know to train: the arguments of `train`; `start` is the URI of a bundle, or empty.

    Nobody hears of the epochs of a `rehearsal`.
    """

    dataset: str
    models: str
    runs: str
    model_config: ModelConfig
    config: TrainConfig
    checkpoint_seconds: float
    start: str
    rehearsal: bool = False


def _rehearse(job: Job, processes: int) -> str:
    """Returns the bundle of a network of a job's size that has read rendered lines; trains it where there is none.

    It is found by the alphabet and how lines are scaled, not by the labels that its texts came from: what is labelled
    later starts from it too.
    """
    job = job._replace(model_config=replace(job.model_config, dropout=ModelConfig.dropout))  # no weight depends on it
    dataset, root = open_store(job.dataset), join(job.runs, RENDERED)
    manifest = read_manifest(dataset)
    image = manifest.image
    kind = f"{manifest.alphabet} {image.height} {image.squeeze} {image.version}"  # what a start has to share
    note = f"{run_id(kind, job.model_config, rehearsal.SCHEDULE)}.json"
    if found := named_bundle(root, note, "a network that has read rendered lines"):
        return found
    log.info("training on %d rendered lines first: once for this alphabet, height and size of the network",
             rehearsal.LINES)
    texts = [line.text for line in read_lines(dataset) if line.split == "train"]
    with rehearsal.rendered_dataset(texts, manifest) as rendered:
        run = _train(job._replace(dataset=rendered, models=root, runs=root, config=rehearsal.SCHEDULE, rehearsal=True),
                     lambda number, metrics: None, processes, None)
    write_json(open_store(root), note, {"id": run.model.rpartition("/")[2]})
    return run.model


def _train(job: Job, on_epoch: Callable[[int, dict[str, float]], Any], processes: int,
           elsewhere: Callable[[], Any] | None) -> Run:
    """One training, in this process, in several, or on other machines."""
    dataset = read_manifest(open_store(job.dataset)).id
    if job.start and (same := _trained_on(job.start, dataset)):
        log.info("%s was trained on this very dataset: nothing to learn from it", job.start)
        return same
    run = open_store(join(job.runs, run_id(dataset, job.model_config, job.config, job.start)))
    models = open_store(job.models)
    done = _result(run, models)
    if done:
        log.info("already trained on this dataset with these settings: %s", done.model)
        return done
    alone = not elsewhere and not distributed.several(processes)
    if alone:
        _learn(job, run, Group(), on_epoch)
    elif elsewhere:
        elsewhere()
    else:
        distributed.launch(processes, _member, job, run.root)
    found = _result(run, models)
    if found is None:
        raise DataError(f"{run.root}/{RESULT} is not there, though training ended; see the log of the first node")
    for number, metrics in enumerate([] if alone else found.epochs, 1):  # nobody here has heard of them yet
        on_epoch(number, metrics)
    return found._replace(trained=True)


@record
def _member(job: Job, run: str) -> None:
    """One of several processes that train together; the first prints and writes what all have learned."""
    group = Group.join()
    distributed.log_as(group)
    _learn(job, open_store(run), group, lambda number, metrics: None)
    group.leave()


def _learn(job: Job, run: Store, group: Group, on_epoch: Callable[[int, dict[str, float]], Any]) -> None:
    """Trains, and writes the bundle and the result of the run."""
    def report(epoch: Epoch) -> None:
        if group.leads and not job.rehearsal:
            print(epoch.katib_line(), flush=True)  # Katib reads standard output
            on_epoch(epoch.number, epoch.metrics())

    with tempfile.TemporaryDirectory(prefix="train-") as scratch:
        dataset = Dataset(job.dataset, Path(scratch) / "shards")
        trainer = Trainer(dataset, job.model_config, job.config, run, job.checkpoint_seconds, group)
        if job.start:
            trainer.start_from(load_start(job.start, job.model_config, dataset.manifest.image))
        trained = trainer.run(report)
        if not group.leads:
            return
        bundle = as_config(dataset.manifest.image, dataset.manifest.alphabet, job.model_config, job.config,
                           dataset.manifest.id)
        folder = Path(scratch) / "bundle"
        export(trained, dataset, job.model_config, fit_language_model(trainer), folder)
        write_json(run, RESULT, _as_result(trained, write_bundle(open_store(job.models), folder, bundle)))
        run.delete(CHECKPOINT)


def run_id(dataset: str, model_config: ModelConfig, config: TrainConfig, start: str = "") -> str:
    """Returns what identifies a run: its dataset, settings, code, and the bundle that it starts from."""
    parts = [dataset, asdict(model_config), asdict(config), sources.digest("runs"), start.rpartition("/")[2]]
    content = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _result(run: Store, models: Store) -> Run | None:
    """Returns what this run gave before, if its bundle is still there."""
    if not run.exists(RESULT):
        return None
    result = read_json(run, RESULT)
    if not models.exists(f"{result['version']}/{CONFIG}"):
        return None
    return _as_run(result, models, trained=False)


def _trained_on(bundle: str, dataset: str) -> Run | None:
    """Returns a bundle as the result of its own run, if that was on this dataset."""
    store = open_store(bundle)
    if read_config(store).dataset != dataset:
        return None
    metrics = read_json(store, METRICS)
    return Run(bundle, metrics["epochs"], metrics["best_epoch"], 0.0, trained=False)


def _as_result(trained: Trained, version: str) -> dict[str, Any]:
    return {"version": version, "best": trained.best.number, "seconds": trained.history[-1].seconds,
            "epochs": [epoch.metrics() for epoch in trained.history], "left_out": trained.left_out}


def _as_run(result: dict[str, Any], models: Store, trained: bool) -> Run:
    return Run(join(models.root, result["version"]), result["epochs"], result["best"], result["seconds"], trained,
               [LeftOut(*row) for row in result["left_out"]])
