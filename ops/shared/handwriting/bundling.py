"""Writes a bundle: what training gave, under a name that is a hash of it."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from handwriting.bundle import CONFIG, LANGUAGE_MODEL, WEIGHTS
from handwriting.dataset import LATEST
from handwriting.image import ImageConfig
from handwriting.store import CONNECTIONS, Store, write_json


def write_bundle(store: Store, folder: Path, config: dict[str, Any]) -> str:
    """Uploads what training left in `folder`.

    Args:
        store: The root of all models.
        folder: Local folder with WEIGHTS, ONNX, LANGUAGE_MODEL, METRICS and PROFILE.
        config: The fields of BundleConfig without the version.

    Returns:
        The version: a hash of weights, language model and settings.
    """
    version = _version(folder, config)
    if not store.exists(f"{version}/{CONFIG}"):
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            list(pool.map(lambda path: store.upload(path, f"{version}/{path.relative_to(folder).as_posix()}"), files))
        write_json(store, f"{version}/{CONFIG}", {**config, "version": version})
    write_json(store, LATEST, {"id": version})
    return version


def _version(folder: Path, config: dict[str, Any]) -> str:
    """Hashes what decides a bundle's readings; the other files follow from it, and hold times of day."""
    content = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for part in (folder / WEIGHTS, folder / LANGUAGE_MODEL):
        content.update(hashlib.sha256(part.read_bytes()).digest())
    return content.hexdigest()[:12]


def as_config(image: ImageConfig, alphabet: str, model: Any, train: Any, dataset: str) -> dict[str, Any]:
    """Returns the fields of a bundle's config as JSON holds them; `model` and `train` are dataclasses."""
    return json.loads(json.dumps({"image": asdict(image), "alphabet": alphabet, "model": asdict(model),
                                  "train": asdict(train), "dataset": dataset}))
