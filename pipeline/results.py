"""What a run gave, for a notebook: metrics as a table, curves as a picture, the latest model, a prediction.

All of it is read from the bucket. The API server 2.x has no endpoint for the metrics and outputs of a step, which lie
in its metadata store; the bundle has the scores of every epoch, and S3 is what the steps hand results over with anyway.
"""

import html
from dataclasses import asdict, fields
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import requests

from handwriting import access, layout, report
from handwriting.bundle import CONFIG, CURRENT, METRICS, BundleConfig, find_bundle, find_champion, read_config
from handwriting.dataset import LATEST
from handwriting.errors import DataError, DeployError
from handwriting.hyperparameters import ModelConfig, TrainConfig, search_space
from handwriting.image import ImageConfig, read_line
from handwriting.reader import Reader
from handwriting.store import Store, join, open_store, read_json
from pipeline.arguments import parameters

TIMEOUT = 60.0  # seconds for a service to read a picture


class Html(NamedTuple):
    """What a notebook shows as HTML."""

    text: str

    def _repr_html_(self) -> str:
        return self.text


class Table(NamedTuple):
    """Rows of cells below the names of their columns; a notebook shows it as a table, a terminal as text."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]

    def __repr__(self) -> str:
        return "\n".join("\t".join(map(str, row)) for row in (self.columns, *self.rows))

    def _repr_html_(self) -> str:
        return report.grid(self.columns, self.rows)


class Model(NamedTuple):
    """A bundle: its URI and version, whether it is the one that serves, and the dataset it was trained on."""

    uri: str
    version: str
    serves: bool
    dataset: str

    def _repr_html_(self) -> str:
        return report.table(self._asdict())


class Prediction(NamedTuple):
    """A reading of a line; a notebook shows it beside the picture.

    Attributes:
        text: What it says.
        confidence: 0 to 1.
        version: Of the model that read it.
        line: The line as the reader sees it, uint8 [height, width].
    """

    text: str
    confidence: float
    version: str
    line: np.ndarray

    def __repr__(self) -> str:
        return f"{self.text!r}, {self.confidence:.1%} sure, by {self.version}"

    def _repr_html_(self) -> str:
        return (f"<table><tr><td>{report.picture(self.line)}<td>{html.escape(self.text)}"
                f"<td>{self.confidence:.1%}<td>{html.escape(self.version)}</table>")


def trained_model(run: Any) -> str:
    """Finds the bundle that a run trained, or found trained already, by the run's arguments and the latest dataset.

    Where there is none but the model that serves is of that dataset, the run has ended with nothing new, and it is that
    model. With `tune` the numbers that were searched may be any.

    Args:
        run: A run that has succeeded, from `pipeline.client.wait`.

    Returns:
        The URI of the bundle.

    Raises:
        MissingError: The bucket of the run has no models.
        DataError: None of them was trained with these settings.
    """
    arguments = _arguments(run)
    models = open_store(join(arguments["bucket"], layout.MODELS))
    datasets = open_store(join(arguments["bucket"], layout.DATASETS))
    dataset = read_json(datasets, LATEST)["id"]
    for version in _versions(models):
        found = read_config(open_store(join(models.root, version)))
        if found.dataset == dataset and _fits(found, arguments):
            return join(models.root, version)
    champion = find_champion(models.root)
    if champion and read_config(open_store(champion)).dataset == dataset:
        return champion
    raise DataError(f"{models.root} has no model of dataset {dataset} with the settings of run {run.run_id}; the "
                    "bucket may have a newer dataset than the run: give the bundle that its step train names")


def metrics(model: str) -> Table:
    """Returns the validation scores of the epoch in a bundle, and how it came about.

    Args:
        model: A bundle, or the root of models (the one that serves).

    Raises:
        MissingError: There is no bundle.
    """
    store = open_store(find_bundle(model))
    config, found = read_config(store), read_json(store, METRICS)
    epochs = found.pop("epochs")
    about = {"version": config.version, "dataset": config.dataset, "epochs": len(epochs)}
    return Table(("metric", "value"), list({**about, **found}.items()))


def curves(model: str) -> Html:
    """Draws loss and error rates by epoch, as SVG.

    Args:
        model: A bundle, or the root of models (the one that serves).

    Raises:
        MissingError: There is no bundle.
    """
    return Html(report.curves(read_json(open_store(find_bundle(model)), METRICS)["epochs"]))


def latest_model(bucket: str) -> Model:
    """Returns the bundle that serves, or where none does the one that came last.

    Args:
        bucket: `s3://bucket`, or a local folder of the same layout.

    Raises:
        MissingError: There is none.
    """
    models = open_store(join(bucket, layout.MODELS))
    uri = find_bundle(models.root)
    config = read_config(open_store(uri))
    return Model(uri, config.version, find_champion(models.root) == uri, config.dataset)


def predict(picture: bytes | str, model: str = "", url: str = "", language_model: bool = True) -> Prediction:
    """Reads a line, with a bundle here or by a service.

    Args:
        picture: The bytes of a picture, or where it lies: `s3://` URI or local file.
        model: A bundle, or the root of models (the one that serves).
        url: Address of a predictor, instead of a bundle.
        language_model: Read with the bundle's language model; a service decides by itself.

    Raises:
        MissingError: The picture or the bundle is not there.
        ImageError: The picture cannot be used.
        DeployError: The service does not answer, or refuses the picture.
    """
    if isinstance(picture, str):
        folder, _, name = picture.rpartition("/")
        picture = open_store(folder or ".").read(name)
    if url:
        return _ask(picture, url)
    reader = Reader.fetch(model, language_model=language_model)
    [reading] = reader.read([picture])
    return Prediction(reading.text, reading.confidence, reader.version, read_line(picture, reader.config.image))


def _ask(picture: bytes, url: str) -> Prediction:
    """Lets a service read a picture, which does not keep it."""
    try:
        answer = requests.post(f"{url.rstrip('/')}/predict", files={layout.FIELD: picture}, timeout=TIMEOUT,
                               headers={layout.KEEP_HEADER: "no", "Accept": "application/json", **access.headers()})
        if answer.ok:
            found = answer.json()
            return Prediction(found["text"], found["confidence"], found["version"], read_line(picture, ImageConfig()))
    except (requests.RequestException, ValueError, KeyError, TypeError) as error:
        raise DeployError(f"{url} does not answer as a predictor ({error}); check the address, and from outside its "
                          "cluster forward a port to it") from error
    raise DeployError(f"{url}/predict answers {answer.status_code} {answer.text[:200]}; mend picture or address")


def _arguments(run: Any) -> dict[str, Any]:
    """Returns the arguments of a run, with defaults."""
    given = (run.runtime_config.parameters if run.runtime_config else None) or {}
    return {**{name: parameter.default for name, parameter in parameters().items()}, **given}


def _fits(bundle: BundleConfig, arguments: dict[str, Any]) -> bool:
    """Says whether a bundle was trained with the settings among a run's arguments."""
    settings = {**bundle.model, **bundle.train, **asdict(bundle.image)}
    names = {field.name for config in (ModelConfig, TrainConfig, ImageConfig) for field in fields(config)}
    searched = set(search_space()) if arguments.get("tune") else set()
    return all(settings[name] == arguments[name] for name in (names & set(arguments) & set(settings)) - searched)


def _versions(models: Store) -> list[str]:
    """Returns the versions of all whole bundles: the one that came last and the one that serves before the others."""
    there = [PurePosixPath(entry.key).parts[0] for entry in models.list() if entry.key.endswith(f"/{CONFIG}")]
    first = [read_json(models, pointer)["id"] for pointer in (LATEST, CURRENT) if models.exists(pointer)]
    return sorted(there, key=lambda version: first.index(version) if version in first else len(first))
