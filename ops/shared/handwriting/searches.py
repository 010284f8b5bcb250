"""The two ways to search hyperparameters: Katib runs trials on a cluster, Optuna one after another on this machine."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from handwriting import katib
from handwriting.api_server import ApiServer
from handwriting.component import Step
from handwriting.experiment import TuneConfig, experiment
from handwriting.pods import named
from handwriting.trials import trial_of
from handwriting.tuning import Tuned, tune

NAME = "handwriting"  # of an Experiment, before the hash of what it asks for


def search_with_katib(step: Step, arguments: Mapping[str, Any], config: TuneConfig, namespace: str,
                      secrets: Mapping[str, Sequence[str]], service_account: str = "") -> Tuned:
    """Makes a Katib Experiment and waits for its end.

    Args:
        step: The component that trains.
        arguments: What does not change from trial to trial.
        config: How to search.
        namespace: Where the trials run.
        secrets: Keys by Kubernetes secret: variables of the trials where the secret is there.
        service_account: Of the trials; empty for the namespace's default.

    Raises:
        HandwritingError: As `handwriting.katib.search` does.
    """
    manifest = named(experiment(NAME, namespace, step, arguments, config, secrets, service_account))
    with ApiServer.connect() as cluster:
        return katib.search(cluster, manifest)


def search_here(step: Step, arguments: Mapping[str, Any], config: TuneConfig) -> Tuned:
    """Runs trial after trial as processes of this machine.

    Args:
        step: The component that trains.
        arguments: What does not change from trial to trial; `seed` also decides what is tried.
        config: How to search.

    Raises:
        HandwritingError: As `handwriting.tuning.tune` does.
    """
    with tempfile.TemporaryDirectory(prefix="trial-") as scratch:
        return tune(trial_of(step, arguments, Path(scratch)), config, arguments["seed"])
