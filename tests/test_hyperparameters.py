"""Numbers of network and training: each has its valid range, and what is searched lies within it."""

import subprocess
import sys
from dataclasses import fields

import pytest
from conftest import ROOT

from handwriting.errors import ConfigError
from handwriting.hyperparameters import ModelConfig, TrainConfig, search_space


@pytest.mark.parametrize("config, wrong", [
    (TrainConfig, {"epochs": 0}), (TrainConfig, {"batch": 0}), (TrainConfig, {"learning_rate": float("nan")}),
    (TrainConfig, {"augmentation": 2.0}), (TrainConfig, {"patience": 0}), (TrainConfig, {"minutes": -1.0}),
    (TrainConfig, {"seed": -1}), (ModelConfig, {"hidden": 0}), (ModelConfig, {"layers": 9}),
    (ModelConfig, {"dropout": 1.0}), (ModelConfig, {"columns": 0}), (ModelConfig, {"channels": 0}),
    (ModelConfig, {"channels": (1, 2, 3)}), (ModelConfig, {"channels": []}),
    (ModelConfig, {"channels": [24, 48, 96, 128]}),
])
def test_settings_out_of_range_are_refused_by_name(config, wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        config(**wrong)


def test_a_bundle_from_when_all_channels_were_given_still_has_a_size():
    assert ModelConfig(channels=[16, 32, 64, 128]) == ModelConfig()


def test_every_number_has_a_range_and_a_default_in_it():
    for config in (TrainConfig, ModelConfig):
        assert all("valid" in item.metadata for item in fields(config) if isinstance(item.default, (int, float)))
        config()


def test_what_is_searched_is_what_users_tune_and_always_valid():
    space = search_space()
    assert set(space) == {"learning_rate", "hidden", "layers", "dropout", "augmentation", "batch"}
    for name, (kind, search) in space.items():
        config = TrainConfig if hasattr(TrainConfig, name) else ModelConfig
        for value in (search.low, search.high):
            config(**{name: kind(value)})
        assert search.low <= getattr(config(), name) <= search.high
        assert kind is float or search.step and search.low % 1 == 0
        assert not search.log or search.low > 0


def test_a_config_comes_back_from_json():
    assert ModelConfig(channels=[16, 32, 64, 128]) == ModelConfig()


def test_a_compiler_reads_them_without_torch():
    code = "import sys; import handwriting.hyperparameters; assert not {'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT / "ops/shared", check=True)
