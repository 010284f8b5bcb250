"""The bundle: a folder that holds all a reader is, `models/<version>/`.

| file | what |
|---|---|
| config.json | version, network, image function, alphabet, training settings, dataset; written last |
| model.safetensors | weights |
| model.onnx | the network for ONNX Runtime: images float32 [B, 1, height, W] -> log_probs float32 [B, W/4, classes] |
| language_model.json | the labels' character n-grams, for beam search |
| metrics.json | validation scores of every epoch |
| profile.json | widths of the training lines, confidences of the validation lines, labels it cannot write |
| code/<digest>/handwriting/ | a predictor that serves it; added by the deploy step, as all that follows |
| code/<digest>/requirements.txt | exact versions of the packages that this code needs |
| code/<digest>/<target>.txt | the lock: all of them with hashes, for one Python and machine |
| wheels/<target>/ | the packages themselves |
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handwriting.dataset import LATEST, resolve
from handwriting.errors import DataError
from handwriting.image import ALIKE, ImageConfig
from handwriting.layout import CODE, WHEELS
from handwriting.store import Store, fetch_files, join, open_store, read_json

log = logging.getLogger(__name__)

CONFIG, WEIGHTS, ONNX, METRICS, REQUIREMENTS = ("config.json", "model.safetensors", "model.onnx", "metrics.json",
                                                "requirements.txt")
LANGUAGE_MODEL = "language_model.json"
CURRENT = "current.json"


@dataclass(frozen=True)
class BundleConfig:
    """What a bundle's config.json says; `model` and `train` are the fields of ModelConfig and TrainConfig."""

    version: str
    image: ImageConfig
    alphabet: str
    model: dict[str, Any]
    train: dict[str, Any]
    dataset: str


def code_folder(digest: str) -> str:
    """Returns where in a bundle a predictor's code lies."""
    return f"{CODE}/{digest}"


def find_bundle(uri: str) -> str:
    """Returns the URI of a bundle, or of the one that serves or came last where `uri` is the root of models."""
    return resolve(uri, CONFIG, (CURRENT, LATEST))


def find_champion(models_uri: str) -> str:
    """Returns the URI of the bundle that serves by `models/current.json`, or "" where none does or it is gone."""
    return named_bundle(models_uri, CURRENT, "a champion")


def named_bundle(models_uri: str, pointer: str, what: str) -> str:
    """Returns the URI of the bundle that a pointer names, or "" where there is none or it is gone.

    Args:
        models_uri: The root of bundles.
        pointer: Key of the pointer below it, JSON with the `id`.
        what: What the log calls it where it is gone.
    """
    store = open_store(models_uri)
    if not store.exists(pointer):
        return ""
    version = read_json(store, pointer)["id"]
    if not store.exists(f"{version}/{CONFIG}"):
        log.warning("%s names %s, which is not there; going on without %s", join(models_uri, pointer), version, what)
        return ""
    return join(store.root, version)


def read_config(store: Store) -> BundleConfig:
    """Reads a bundle's config.

    Raises:
        MissingError: There is no bundle.
        DataError: It is of another version of this project.
    """
    found = read_json(store, CONFIG)
    try:
        return BundleConfig(**{**found, "image": ImageConfig(**found["image"])})
    except (TypeError, KeyError) as error:
        raise DataError(f"{join(store.root, CONFIG)} does not fit this version ({error}); train again") from error


def fetch_bundle(uri: str, cache: Path) -> Path:
    """Returns a local folder with the bundle: where it lies, if that is local, else a copy of what training gave.

    The copy is `<cache>/<version>`. One that is there already is taken as it is: that part never changes.

    Raises:
        MissingError: There is no bundle at `uri`.
    """
    found = find_bundle(uri)
    if not found.startswith("s3://"):
        return Path(found)
    folder = cache / found.rpartition("/")[2]
    fetch_files(open_store(found), "", CONFIG, folder, without=(f"{CODE}/", f"{WHEELS}/"))
    return folder


def check_image(uri: str, bundle: ImageConfig, dataset: ImageConfig) -> None:
    """Makes sure that a bundle reads lines that were made as a dataset's were, but for blank paper at their ends.

    Raises:
        DataError: The image function differs.
    """
    if bundle.version != dataset.version and not {bundle.version, dataset.version} <= ALIKE:
        raise DataError(f"{uri} reads lines of image function {bundle.version}, the dataset holds lines of "
                        f"{dataset.version}; use the version of this project that trained it")
