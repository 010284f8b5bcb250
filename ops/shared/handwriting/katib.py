"""Lets Katib search on the cluster: makes the Experiment, waits with progress, and reads what its trials found.

An Experiment is named by what it asks for, so a step that is started again goes on waiting for the one it made.
"""

import logging
from collections.abc import Iterator, Mapping
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from handwriting.api_server import ApiServer
from handwriting.errors import TuneError
from handwriting.experiment import GROUP, OBJECTIVE, VERSION
from handwriting.tuning import Tuned, said, tuned

log = logging.getLogger(__name__)

TRIALS_OF = "katib.kubeflow.org/experiment"  # label of a trial
FAILED = "Failed"
STATES = {"Succeeded": TrialState.COMPLETE, "EarlyStopped": TrialState.PRUNED, FAILED: TrialState.FAIL,
          "MetricsUnavailable": TrialState.FAIL, "Killed": TrialState.FAIL}
POLL = 15.0  # seconds between two looks
SHOWN = 3  # failed trials that an error tells of


def search(cluster: ApiServer, manifest: dict[str, Any], poll: float = POLL) -> Tuned:
    """Runs an Experiment to its end; one of the same name that is there already counts as this one.

    Args:
        cluster: Where.
        manifest: The Experiment, as `handwriting.pods.named` returns it.
        poll: Seconds between two looks.

    Raises:
        TuneError: It failed, or somebody deleted it; with the failed trials' own reasons.
        DataError: No trial came to its end.
        DeployError: The cluster cannot be reached or refuses it.
    """
    name, namespace = manifest["metadata"]["name"], manifest["metadata"]["namespace"]
    place, where = f"/apis/{GROUP}/{VERSION}/namespaces/{namespace}", f"Experiment {namespace}/{name}"
    wanted = manifest["spec"]["maxTrialCount"]
    new = cluster.create(f"{place}/experiments", manifest)
    log.info("%s %s: %d trials, %d at a time", where, "begins" if new else "is there already", wanted,
             manifest["spec"]["parallelTrialCount"])
    ended = cluster.wait(f"{place}/experiments/{name}", where, ("Succeeded", FAILED),
                         lambda status: _progress(status, wanted), poll, TuneError)
    trials = (cluster.get(f"{place}/trials", labelSelector=f"{TRIALS_OF}={name}") or {}).get("items", [])
    if ended["type"] == FAILED:
        raise TuneError(f"{where} failed: {_reason(ended)}; {_failures(trials)}; look at the logs of their pods in the "
                        f"namespace {namespace}")
    return tuned(_study(manifest, trials))


def _progress(status: Mapping[str, Any], wanted: int) -> str:
    """Returns how far an Experiment is, and the best trial so far."""
    counts = {word: status.get(key, 0) for word, key in (
        ("running", "trialsRunning"), ("finished", "trialsSucceeded"), ("stopped early", "trialsEarlyStopped"),
        ("failed", "trialsFailed"))}
    text = f"trials: {', '.join(f'{count} {word}' for word, count in counts.items())}, of {wanted}"
    best = status.get("currentOptimalTrial") or {}
    cer = _metric(best)
    if cer is None:
        return text
    values = ", ".join(f"{entry['name']} {entry['value']}" for entry in best.get("parameterAssignments", []))
    return f"{text}; best so far: CER {cer:.4f} with {values}"


def _failures(trials: list[dict]) -> str:
    """Says why trials failed, of some of them."""
    reasons = [f"{trial['metadata']['name']} ({_said(trial)}): {_reason(_last_condition(trial))}" for trial in trials
               if STATES.get(_last_condition(trial).get("type", "")) == TrialState.FAIL]
    more = f"; and {len(reasons) - SHOWN} more" if len(reasons) > SHOWN else ""
    return ("; ".join(reasons[:SHOWN]) or "no trial says why") + more


def _reason(condition: Mapping[str, Any]) -> str:
    return f"{condition.get('reason', '')} {condition.get('message', '')}".strip()


def _study(manifest: Mapping[str, Any], trials: list[dict]) -> optuna.Study:
    """Returns Katib's trials as the study that a search on one machine would have made."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study()
    space = {p["name"]: _distribution(p) for p in manifest["spec"]["parameters"]}
    for trial in sorted(trials, key=lambda t: t["metadata"].get("creationTimestamp", "")):
        study.add_trial(_as_optuna(trial, space))
    return study


def _as_optuna(trial: dict, space: Mapping[str, Any]) -> FrozenTrial:
    values = {name: type(space[name].low)(float(value)) for name, value in _assignments(trial) if name in space}
    state, cer = STATES.get(_last_condition(trial).get("type", ""), TrialState.FAIL), _metric(trial.get("status", {}))
    if state == TrialState.COMPLETE and cer is None:
        state = TrialState.FAIL
    return create_trial(state=state, params=values, distributions={name: space[name] for name in values},
                        value=cer if state == TrialState.COMPLETE else None,
                        intermediate_values={0: cer} if state == TrialState.PRUNED and cer is not None else None)


def _distribution(parameter: Mapping[str, Any]) -> Any:
    space = parameter["feasibleSpace"]
    if parameter["parameterType"] == "int":
        return optuna.distributions.IntDistribution(int(space["min"]), int(space["max"]),
                                                    step=int(space.get("step", 1)))
    return optuna.distributions.FloatDistribution(float(space["min"]), float(space["max"]),
                                                  log=space.get("distribution") == "logUniform")


def _assignments(trial: dict) -> Iterator[tuple[str, str]]:
    for entry in trial.get("spec", {}).get("parameterAssignments", []):
        yield entry["name"], entry["value"]


def _said(trial: dict) -> str:
    return said({name: float(value) for name, value in _assignments(trial)})


def _last_condition(trial: dict) -> dict:
    """Returns the newest condition that holds; Katib keeps the earlier ones, as False."""
    return next((condition for condition in reversed(trial.get("status", {}).get("conditions", []))
                 if condition["status"] == "True"), {})


def _metric(holder: Mapping[str, Any]) -> float | None:
    """Returns the lowest CER that Katib saw of a trial, None where it saw none; its values are strings."""
    for metric in (holder.get("observation") or {}).get("metrics", []):
        if metric["name"] == OBJECTIVE:
            try:
                return float(metric["min"])
            except ValueError:  # "unavailable"
                return None
    return None
