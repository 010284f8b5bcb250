"""A Katib Experiment whose trials run a component of the pipeline, unchanged.

A component's command, its arguments as the launcher of Kubeflow Pipelines would give them, and Katib's placeholders for
the searched ones become one line of shell: Katib appends its own redirection to it.
"""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from handwriting.component import SCRATCH, Step, trial_command
from handwriting.errors import ConfigError
from handwriting.hyperparameters import Search, search_space
from handwriting.pods import NO_SIDECAR, kept_by_kubernetes, resources, step_variables

GROUP, VERSION, KIND = "kubeflow.org", "v1beta1", "Experiment"
OBJECTIVE = "val_cer"
OTHER_METRICS = ("train_loss", "val_wer", "val_exact")
CONTAINER = "training"
ALGORITHMS = {"random": {}, "tpe": {}, "bayesianoptimization": {},
              "hyperband": {"eta": "3", "r_l": "{epochs}", "resource_name": "epochs"}}
"""Names as Katib has them, with the settings that each needs."""
FIRST_TRIALS = 3  # trials to the end before any is stopped early
FIRST_EPOCHS = 3  # epochs of each trial in which it is not stopped


@dataclass(frozen=True)
class TuneConfig:
    """How a search is made.

    Attributes:
        algorithm: "random", "tpe", "bayesianoptimization" or "hyperband".
        trials: Trials, at most.
        parallel: Trials at a time.
        failures: Trials that may fail.
        stop_early: End trials that are worse than the median of those before, from their fourth epoch on.
        cpu: Processors of a trial.
        memory: Memory of a trial.
        gpus: GPUs of a trial.
    """

    algorithm: str = "tpe"
    trials: int = 12
    parallel: int = 2
    failures: int = 3
    stop_early: bool = True
    cpu: str = "2"
    memory: str = "4Gi"
    gpus: int = 0

    def __post_init__(self) -> None:
        if self.algorithm not in ALGORITHMS:
            raise ConfigError(f"algorithm {self.algorithm!r}; give one of {', '.join(ALGORITHMS)}")
        if not 1 <= self.parallel <= self.trials or self.failures < 0 or self.gpus < 0:
            raise ConfigError(f"{self.trials} trials, {self.parallel} at a time, {self.failures} failures, {self.gpus} "
                              "GPUs: give at least one trial, no more at a time than in all, and no negative number")


def experiment(name: str, namespace: str, step: Step, arguments: Mapping[str, Any], config: TuneConfig,
               secrets: Mapping[str, Sequence[str]], service_account: str = "") -> dict[str, Any]:
    """Returns the Experiment as Kubernetes takes it.

    Args:
        name: Of the Experiment.
        namespace: Where its trials run.
        step: The component that trains.
        arguments: What does not change from trial to trial; the searched parameters count less here.
        config: How to search.
        secrets: Keys by Kubernetes secret: variables of the trials where the secret is there.
        service_account: Of the trials; empty for the namespace's default.
    """
    space = search_space()
    if config.algorithm == "hyperband":
        space["epochs"] = int, Search(1, arguments["epochs"], step=1)  # what it gives to a trial more or less of
    settings = {key: value.format(**arguments) for key, value in ALGORITHMS[config.algorithm].items()}
    spec: dict[str, Any] = {
        "objective": {"type": "minimize", "objectiveMetricName": OBJECTIVE,
                      "additionalMetricNames": list(OTHER_METRICS),
                      "metricStrategies": [{"name": name, "value": "min" if name == OBJECTIVE else "latest"}
                                           for name in (OBJECTIVE, *OTHER_METRICS)]},
        "algorithm": {"algorithmName": config.algorithm, "algorithmSettings": _settings(settings)},
        "maxTrialCount": config.trials, "parallelTrialCount": config.parallel, "maxFailedTrialCount": config.failures,
        "resumePolicy": "Never",
        "metricsCollectorSpec": {"collector": {"kind": "StdOut"}},
        "parameters": [_parameter(name, kind, search) for name, (kind, search) in space.items()],
        "trialTemplate": {
            "primaryContainerName": CONTAINER,
            "trialParameters": [{"name": name, "reference": name, "description": name} for name in space],
            "trialSpec": _job(step, trial_line(step, arguments, list(space)), config, secrets, service_account)}}
    if config.stop_early:
        spec["earlyStopping"] = {"algorithmName": "medianstop", "algorithmSettings": _settings(
            {"min_trials_required": str(FIRST_TRIALS), "start_step": str(FIRST_EPOCHS + 1)})}
    return {"apiVersion": f"{GROUP}/{VERSION}", "kind": KIND,
            "metadata": {"name": name, "namespace": namespace}, "spec": spec}


def trial_line(step: Step, arguments: Mapping[str, Any], searched: Sequence[str]) -> str:
    """Returns the shell command of a trial: one line's worth, since Katib appends to its end.

    Args:
        step: The component.
        arguments: Of the component.
        searched: Arguments that Katib fills in.
    """
    line = shlex.join(trial_command(step, {**arguments, **{name: _placeholder(name) for name in searched}}, SCRATCH))
    for name in searched:  # a number, not a text
        line = line.replace(json.dumps(_placeholder(name)), _placeholder(name))
    return kept_by_kubernetes(line)


def _placeholder(name: str) -> str:
    return f"${{trialParameters.{name}}}"


def _settings(settings: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in settings.items()]


def _parameter(name: str, kind: type, search: Search) -> dict[str, Any]:
    space = {"min": str(kind(search.low)), "max": str(kind(search.high))}
    if search.step:
        space["step"] = str(kind(search.step))
    if search.log:
        space["distribution"] = "logUniform"
    return {"name": name, "parameterType": "int" if kind is int else "double", "feasibleSpace": space}


def _job(step: Step, line: str, config: TuneConfig, secrets: Mapping[str, Sequence[str]],
         service_account: str) -> dict[str, Any]:
    pod = {"restartPolicy": "Never", "containers": [{
        "name": CONTAINER, "image": step.image, "command": ["sh", "-c", line],
        "env": step_variables(secrets), "resources": resources(config.cpu, config.memory, config.gpus)}]}
    if service_account:
        pod["serviceAccountName"] = service_account
    return {"apiVersion": "batch/v1", "kind": "Job", "spec": {"backoffLimit": 0, "template": {
        "metadata": {"labels": dict(NO_SIDECAR), "annotations": dict(NO_SIDECAR)}, "spec": pod}}}
