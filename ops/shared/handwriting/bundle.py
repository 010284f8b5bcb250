"""The bundle: a folder that holds all a reader is, `models/<version>/`.

| file | what |
|---|---|
| config.json | version, network, image function, alphabet, training settings, dataset; written last |
| model.safetensors | weights |
| model.onnx | the same network for serving: images float32 [B, 1, height, W] -> log_probs float32 [B, W/4, classes] |
| metrics.json | validation scores of every epoch |
| requirements.txt | exact versions of what serves it, as they were when it was made |
| code/handwriting/ | what serves it, as it was when it was made |
| wheels/<target>/ | what it installs, for one Python and machine, with a lock; added by the deploy step |
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handwriting.dataset import LATEST, resolve
from handwriting.errors import DataError
from handwriting.image import ImageConfig
from handwriting.layout import WHEELS
from handwriting.store import CONNECTIONS, Store, join, open_store, read_json

CONFIG, WEIGHTS, ONNX, METRICS, REQUIREMENTS = ("config.json", "model.safetensors", "model.onnx", "metrics.json",
                                                "requirements.txt")
CURRENT = "current.json"
CODE = "code/handwriting"


@dataclass(frozen=True)
class BundleConfig:
    """What a bundle's config.json says; `model` and `train` are the fields of ModelConfig and TrainConfig."""

    version: str
    image: ImageConfig
    alphabet: str
    model: dict[str, Any]
    train: dict[str, Any]
    dataset: str


def find_bundle(uri: str) -> str:
    """Returns the URI of a bundle, or of the one that serves or came last where `uri` is the root of models."""
    return resolve(uri, CONFIG, (CURRENT, LATEST))


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
    """Returns a local folder with the bundle: where it lies, if that is local, else a copy without wheels.

    The copy is `<cache>/<version>`. One that is there already is taken as it is: bundles never change.

    Raises:
        MissingError: There is no bundle at `uri`.
    """
    found = find_bundle(uri)
    if not found.startswith("s3://"):
        return Path(found)
    store = open_store(found)
    folder = cache / found.rpartition("/")[2]
    if not (folder / CONFIG).exists():
        keys = [entry.key for entry in store.list() if entry.key != CONFIG and not entry.key.startswith(f"{WHEELS}/")]
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            list(pool.map(lambda key: store.download(key, folder / key), keys))
        store.download(CONFIG, folder / CONFIG)  # last: a copy that broke off is fetched again
    return folder
