"""What a run of the pipeline leaves in a bucket, from the steps' own functions, in seconds."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from handwriting import layout, runs
from handwriting.bundle import CURRENT
from handwriting.hyperparameters import ModelConfig, TrainConfig
from handwriting.labels import LabelConfig
from handwriting.packing import PackConfig, pack_folder
from handwriting.store import join, open_store, write_json


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
        patch.setattr(runs, "FUSION_LINES", 1)
        run = runs.train(dataset, models, made, model, TrainConfig(epochs=arguments["epochs"]))
    write_json(open_store(models), CURRENT, {"id": run.model.rpartition("/")[2]})
    return run.model
