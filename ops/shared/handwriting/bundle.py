"""The bundle: a folder that holds all a reader is, `models/<version>/`.

| file | what |
|---|---|
| config.json | version, network, image function, alphabet, training settings, dataset; written last |
| model.safetensors | weights |
| model.onnx | the same network for serving: images float32 [B, 1, height, W] -> log_probs float32 [B, W/4, classes] |
| metrics.json | validation scores of every epoch |
| requirements.txt | exact versions of what serves it, as they were when it was made |
| code/handwriting/ | what serves it, as it was when it was made |
"""

import hashlib
import json
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from handwriting import sources
from handwriting.dataset import LATEST, resolve
from handwriting.errors import DataError
from handwriting.image import ImageConfig
from handwriting.store import CONNECTIONS, Store, join, open_store, read_json, write_json

if TYPE_CHECKING:
    from handwriting import serving  # noqa: F401  travels in every bundle, so it belongs to each step that writes one

CONFIG, WEIGHTS, ONNX, METRICS, REQUIREMENTS = ("config.json", "model.safetensors", "model.onnx", "metrics.json",
                                                "requirements.txt")
CURRENT = "current.json"
CODE = "code/handwriting"
SERVER = "serving"
SERVING = ("boto3", "flask", "gunicorn", "numpy", "onnxruntime", "opencv-python-headless", "pillow")


@dataclass(frozen=True)
class BundleConfig:
    """What a bundle's config.json says; `model` and `train` are the fields of ModelConfig and TrainConfig."""

    version: str
    image: ImageConfig
    alphabet: str
    model: dict[str, Any]
    train: dict[str, Any]
    dataset: str


def write_bundle(store: Store, folder: Path, config: dict[str, Any]) -> str:
    """Completes the files in `folder` (weights, ONNX, metrics) with code and requirements, and uploads them.

    Args:
        store: The root of all models.
        folder: Local folder with WEIGHTS, ONNX and METRICS.
        config: The fields of BundleConfig without the version.

    Returns:
        The version: a hash of weights, settings, code and requirements.
    """
    for name, text in sources.closure([SERVER]).items():
        path = folder / CODE / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    (folder / REQUIREMENTS).write_text("".join(f"{line}\n" for line in serving_requirements()), "utf-8")
    version = _version(folder, config)
    if not store.exists(f"{version}/{CONFIG}"):
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            list(pool.map(lambda path: store.upload(path, f"{version}/{path.relative_to(folder).as_posix()}"), files))
        write_json(store, f"{version}/{CONFIG}", {**config, "version": version})
    write_json(store, LATEST, {"id": version})
    return version


def _version(folder: Path, config: dict[str, Any]) -> str:
    """Hashes what decides a bundle's readings; ONNX and metrics follow from it, and hold times of day."""
    content = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for part in (folder / WEIGHTS, folder / REQUIREMENTS):
        content.update(hashlib.sha256(part.read_bytes()).digest())
    content.update(sources.digest(SERVER).encode())
    return content.hexdigest()[:12]


def serving_requirements(packages: Iterable[str] = SERVING) -> list[str]:
    """Returns exact versions of the packages a predictor needs, as they are installed here and so were tried."""
    return [f"{name}=={metadata.version(name)}" for name in packages]


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


def fetch_bundle(uri: str) -> Path:
    """Returns a local folder with the bundle: `uri` itself where it is local, else a copy in a temporary folder.

    Raises:
        MissingError: There is no bundle at `uri`.
    """
    found = find_bundle(uri)
    if not found.startswith("s3://"):
        return Path(found)
    store = open_store(found)
    folder = Path(tempfile.mkdtemp(prefix="bundle-"))
    keys = [entry.key for entry in store.list()]
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        list(pool.map(lambda key: store.download(key, folder / key), keys))
    return folder


def as_config(image: ImageConfig, alphabet: str, model: Any, train: Any, dataset: str) -> dict[str, Any]:
    """Returns the fields of a bundle's config as JSON holds them; `model` and `train` are dataclasses."""
    return json.loads(json.dumps({"image": asdict(image), "alphabet": alphabet, "model": asdict(model),
                                  "train": asdict(train), "dataset": dataset}))
