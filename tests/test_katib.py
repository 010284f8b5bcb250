"""A search with Katib on a simulated cluster: it waits, tells how far it is, and says why a search failed."""

import pytest
from fake_cluster import FakeCluster

from handwriting import katib
from handwriting.api_server import ApiServer
from handwriting.component import Step
from handwriting.errors import DataError, DeployError, TuneError
from handwriting.experiment import TuneConfig, experiment
from handwriting.hyperparameters import search_space
from handwriting.pods import named

PLACE = "/apis/kubeflow.org/v1beta1/namespaces/team"
STEP = Step("python:3.11-slim", ("sh", "-c", "true"), "train", {"metrics": "system.Metrics"})


def made(**changes) -> dict:
    config = TuneConfig(**{"trials": 4, "parallel": 2, **changes})
    return named(experiment("handwriting", "team", STEP, {"dataset": "s3://b/d", "epochs": 9}, config, {}))


def run(manifest) -> katib.Tuned:
    with ApiServer.connect() as cluster:
        return katib.search(cluster, manifest, poll=0.01)


def condition(kind: str, status: str = "True", **more) -> dict:
    return {"type": kind, "status": status, **more}


def trial(number: int, kind: str, cer: str | None = None, **more) -> dict:
    """A trial as Katib keeps it: earlier conditions stay with status False, numbers are strings."""
    values = {name: str(kind_(search.low)) for name, (kind_, search) in search_space().items()}
    values["hidden"] = str(64 + 32 * number)
    metrics = [{"name": "val_cer", "min": cer, "max": "0.9", "latest": cer}] if cer else []
    return {"metadata": {"name": f"handwriting-{number}", "creationTimestamp": f"2026-01-01T00:00:0{number}Z"},
            "spec": {"parameterAssignments": [{"name": name, "value": value} for name, value in values.items()]},
            "status": {"conditions": [condition("Created"), condition("Running", "False"), condition(kind, **more)],
                       "observation": {"metrics": metrics}}}


def play(cluster: FakeCluster, *looks: dict, trials: list[dict]) -> None:
    """Lets the Experiment have one status after another, a look each, and at last its trials."""
    def script(found: FakeCluster):
        yield  # the look that other objects' scripts count from
        path = next(path for path in found.objects if path.startswith(f"{PLACE}/experiments/"))
        for status in looks:
            found.objects[path]["status"] = status
            yield

    cluster.objects[f"{PLACE}/trials"] = {"items": trials}
    cluster.script = script


RUNNING = {"conditions": [condition("Created"), condition("Running")], "trialsRunning": 2}
HALFWAY = {**RUNNING, "trialsSucceeded": 1, "currentOptimalTrial": {
    "parameterAssignments": [{"name": "hidden", "value": "96"}],
    "observation": {"metrics": [{"name": "val_cer", "min": "0.08", "max": "0.9", "latest": "0.08"}]}}}
DONE = {"conditions": [condition("Created"), condition("Running", "False"), condition("Succeeded")],
        "trialsSucceeded": 2, "trialsEarlyStopped": 1, "trialsFailed": 1}


def test_a_search_waits_tells_how_far_it_is_and_gives_the_best(cluster, caplog):
    caplog.set_level("INFO")
    trials = [trial(1, "Succeeded", "0.08"), trial(3, "EarlyStopped", "0.3"), trial(2, "Succeeded", "0.05"),
              trial(4, "Failed", reason="TrialFailed", message="no memory")]
    play(cluster, RUNNING, HALFWAY, DONE, trials=trials)
    found = run(made())
    assert found.cer == 0.05 and found.best["hidden"] == 128 and isinstance(found.best["hidden"], int)
    assert [row.outcome for row in found.trials] == ["finished", "finished", "stopped early", "failed"]
    assert found.trials[2].cer == 0.3
    assert "2 running, 0 finished" in caplog.text and "best so far: CER 0.0800 with hidden 96" in caplog.text
    assert "handwriting-" in caplog.text and "begins: 4 trials, 2 at a time" in caplog.text


def test_the_same_search_again_waits_for_the_first_one(cluster, caplog):
    caplog.set_level("INFO")
    play(cluster, DONE, trials=[trial(1, "Succeeded", "0.08")])
    first, second = run(made()), run(made())
    assert first.best == second.best and "is there already" in caplog.text
    assert sum(path.startswith(f"{PLACE}/experiments/") for path in cluster.objects) == 1
    assert made(trials=9)["metadata"]["name"] != made()["metadata"]["name"]


def test_a_failed_search_tells_the_trials_reasons(cluster):
    failed = {"conditions": [condition("Failed", reason="ExperimentMaxTrialsFailed", message="4 trials failed")]}
    trials = [trial(n, "Failed", reason="TrialFailed", message=f"exit code {n}") for n in range(1, 5)]
    play(cluster, failed, trials=trials)
    with pytest.raises(TuneError, match=r"team/handwriting-\w+ failed: ExperimentMaxTrialsFailed 4 trials failed; "
                                        r"handwriting-1 \(.*hidden 96.*\): TrialFailed exit code 1; .*and 1 more; look "
                                        "at the logs of their pods in the namespace team"):
        run(made())


def test_a_search_that_somebody_deletes_ends(cluster):
    def script(found: FakeCluster):
        yield
        for path in [path for path in found.objects if "/experiments/" in path]:
            del found.objects[path]
        yield

    cluster.script = script
    with pytest.raises(TuneError, match="was deleted before it came to its end"):
        run(made())


def test_a_search_whose_trials_have_no_metric_is_an_error(cluster):
    play(cluster, DONE, trials=[trial(1, "Succeeded", "unavailable"), trial(2, "MetricsUnavailable")])
    with pytest.raises(DataError, match="none of 2 trials"):
        run(made())


@pytest.mark.parametrize("status, said", [(403, "the Roles of build/cluster.yaml in the namespace team"),
                                          (404, "the controller of such objects, is not there")])
def test_a_cluster_that_refuses_says_what_to_do(cluster, status, said):
    cluster.answers["POST"] = [(status, "no")]
    with pytest.raises(DeployError, match=said):
        run(made())
