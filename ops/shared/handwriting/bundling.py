"""Writes a bundle: what training gave, with the code and the requirements that serve it."""

import hashlib
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from handwriting import sources
from handwriting.bundle import CODE, CONFIG, LANGUAGE_MODEL, REQUIREMENTS, WEIGHTS
from handwriting.dataset import LATEST
from handwriting.image import ImageConfig
from handwriting.store import CONNECTIONS, Store, write_json

if TYPE_CHECKING:
    from handwriting import serving  # noqa: F401  travels in every bundle, so it belongs to each step that writes one

SERVER = "serving"
SERVING = ("boto3", "flask", "gunicorn", "numpy", "onnxruntime", "opencv-python-headless", "pillow",
           "prometheus-client")


def write_bundle(store: Store, folder: Path, config: dict[str, Any]) -> str:
    """Completes what training left in `folder` with code and requirements, and uploads it.

    Args:
        store: The root of all models.
        folder: Local folder with WEIGHTS, ONNX, LANGUAGE_MODEL and METRICS.
        config: The fields of BundleConfig without the version.

    Returns:
        The version: a hash of weights, language model, settings, code and requirements.
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
    for part in (folder / WEIGHTS, folder / LANGUAGE_MODEL, folder / REQUIREMENTS):
        content.update(hashlib.sha256(part.read_bytes()).digest())
    content.update(sources.digest(SERVER).encode())
    return content.hexdigest()[:12]


def serving_requirements(packages: Iterable[str] = SERVING) -> list[str]:
    """Returns exact versions of the packages a predictor needs, as they are installed here and so were tried."""
    return [f"{name}=={metadata.version(name)}" for name in packages]


def as_config(image: ImageConfig, alphabet: str, model: Any, train: Any, dataset: str) -> dict[str, Any]:
    """Returns the fields of a bundle's config as JSON holds them; `model` and `train` are dataclasses."""
    return json.loads(json.dumps({"image": asdict(image), "alphabet": alphabet, "model": asdict(model),
                                  "train": asdict(train), "dataset": dataset}))
