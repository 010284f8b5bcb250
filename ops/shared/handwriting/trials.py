"""Training runs as a search on this machine makes them."""

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any

from handwriting.errors import ConfigError
from handwriting.hyperparameters import ModelConfig, TrainConfig
from handwriting.runs import train


def trial_of(dataset_uri: str, models_uri: str, runs_uri: str, model_config: ModelConfig,
             config: TrainConfig) -> Callable[[Mapping[str, float], Callable[[int, float], None]], float]:
    """Returns what a search calls for each trial: it trains with some values, and returns its best validation CER.

    Args:
        dataset_uri: A dataset, or the root of datasets (its latest).
        models_uri: Root of the trials' bundles.
        runs_uri: Root of their checkpoints and results.
        model_config: The numbers that are not searched.
        config: The same.
    """
    def trial(values: Mapping[str, float], on_epoch: Callable[[int, float], None]) -> float:
        run = train(dataset_uri, models_uri, runs_uri, *with_values(model_config, config, values),
                    lambda number, metrics: on_epoch(number, metrics["val_cer"]))
        return run.epochs[run.best - 1]["val_cer"]

    return trial


def with_values(model: ModelConfig, train: TrainConfig, values: Mapping[str, float]) -> tuple[ModelConfig, TrainConfig]:
    """Returns both configs with some of their numbers replaced.

    Raises:
        ConfigError: Neither has a number of that name, or it is out of its range.
    """
    known = [item.name for config in (model, train) for item in fields(config)]
    if unknown := set(values) - set(known):
        raise ConfigError(f"no hyperparameters are named {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    return replace(model, **_own(model, values)), replace(train, **_own(train, values))


def _own(config: Any, values: Mapping[str, float]) -> dict[str, Any]:
    """Returns the values that a config has a number for; whole ones come as floats from JSON and from Katib."""
    return {item.name: type(getattr(config, item.name))(values[item.name]) for item in fields(config)
            if item.name in values}
