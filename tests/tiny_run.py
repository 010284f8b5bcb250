"""What a run of the pipeline leaves in a bucket, from the steps' own functions, in seconds."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from handwriting import exporting, layout, quantization, runs
from handwriting.bundle import CONFIG, CURRENT
from handwriting.hyperparameters import ModelConfig, TrainConfig
from handwriting.labels import LabelConfig
from handwriting.packing import PackConfig, pack_folder
from handwriting.store import join, open_store, read_json, write_json


def lay_out(samples: Path, bucket: Path) -> None:
    """Copies labelled lines to where people would have put them."""
    shutil.copytree(samples, bucket / layout.DATA)


def run_pipeline(arguments: dict[str, Any]) -> str:
    """Packs, trains, and lets the model serve by the bucket's pointer; returns the model's URI.

    A reader that has learnt little is slow at beam search: it gets few classes, and one line to weigh its language
    model by.
    """
    data, datasets, models, made = (join(arguments["bucket"], name) for name in (
        layout.DATA, layout.DATASETS, layout.MODELS, layout.RUNS))
    dataset = pack_folder(data, datasets, PackConfig(alphabet="labels"), LabelConfig()).uri
    model = ModelConfig(hidden=arguments.get("hidden", ModelConfig.hidden))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporting, "FUSION_LINES", 1)
        run = runs.train(dataset, models, made, model, TrainConfig(epochs=arguments["epochs"]))
    write_json(open_store(models), CURRENT, {"id": run.model.rpartition("/")[2]})
    return run.model


def train_a_little(samples: Path, folder: Path) -> Path:
    """Trains for one epoch at almost no rate: such a network reads something in each line, always the same.

    It is in 8 bits as others are, though whether it reads worse so is chance.
    """
    dataset = pack_folder(str(samples), str(folder / layout.DATASETS), PackConfig(alphabet="labels"), LabelConfig()).uri
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporting, "FUSION_LINES", 1)
        patch.setattr(quantization, "WORSE", float("inf"))
        return Path(runs.train(dataset, str(folder / layout.MODELS), str(folder / layout.RUNS),
                               ModelConfig(hidden=16, layers=1), TrainConfig(epochs=1, learning_rate=1e-6)).model)


def let_serve(bundle: Path, models: str, version: str = "") -> str:
    """Copies a bundle to the root of models, where it serves from now on; under another version, where one is given."""
    store, source = open_store(models), open_store(str(bundle))
    version = version or bundle.name
    for entry in source.list():
        store.write(f"{version}/{entry.key}", source.read(entry.key))
    write_json(store, f"{version}/{CONFIG}", read_json(source, CONFIG) | {"version": version})
    write_json(store, CURRENT, {"id": version})
    return join(models, version)
