"""Training on several nodes: the TrainJob is one that Kubeflow Trainer takes, and is waited for to its end."""

import json
import os
import re
import subprocess
import sys
from dataclasses import asdict

import pytest
from fake_cluster import FakeCluster

from handwriting import exporting, trainjob
from handwriting.api_server import ApiServer
from handwriting.component import SCRATCH, Step
from handwriting.errors import ConfigError, DataError, DeployError, TrainError
from handwriting.pods import named
from handwriting.trainjob import Nodes, train_job
from ops.train import train
from pipeline.katib import train_step

PLACE = "/apis/trainer.kubeflow.org/v1alpha1/namespaces/team/trainjobs"
SECRETS = {"handwriting-s3": ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
LONGEST, MOST = 65_536, 128  # characters of a word, and words, that Trainer 2.2 takes; 2.3 takes longer ones
RESERVED = {"PET_NNODES", "PET_NPROC_PER_NODE", "PET_NODE_RANK", "PET_MASTER_ADDR", "PET_MASTER_PORT"}
AWKWARD = "it's \"quoted\" `touch backtick` $HOME $(HOME) $$ $$(HOME) ${HOME} \\ \\n %s ; & | > * é 漢"
PROGRAM = f"""
import json, sys
AWKWARD = {AWKWARD!r}
given = json.loads(sys.argv[sys.argv.index("--executor_input") + 1])["inputs"]["parameterValues"]
print(json.dumps([AWKWARD, given, sys.argv[-1]]))
"""


def step(program=PROGRAM):
    """A component as KFP compiles it: the source is an argument of a shell script, which writes it to a file."""
    script = f'program="$PWD/program.py"\nprintf "%s" "$0" > "$program"\n{sys.executable} "$program" "$@"\n'
    return Step("python:3.11-slim", ("sh", "-ec", script, program), "train", {"metrics": "system.Metrics"})


def made(nodes=Nodes(2), service_account="", program=PROGRAM, **arguments) -> dict:
    return train_job("train", "team", step(program), {"dataset": "s3://b/d", "epochs": 9, **arguments}, nodes, SECRETS,
                     service_account)


def pod_of(manifest) -> dict:
    """What the nodes' pods have besides the runtime's template."""
    [patch] = manifest["spec"]["runtimePatches"]
    [job] = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    assert job["name"] == "node"
    return job["template"]["spec"]["template"]


def expanded(word):
    """What Kubernetes makes of a word: $$ is a dollar, and $(NAME) stays where no variable has that name."""
    return re.sub(r"\$\$", "$", word)


@pytest.mark.parametrize("more", [0, 100_000])
def test_a_node_runs_the_component_alone_with_its_source_and_its_arguments_untouched(tmp_path, more):
    program = PROGRAM + "#" * more + AWKWARD * (more // 1_000)
    trainer = made(program=program, text=AWKWARD, minutes=0.0, compare=False, num_nodes=2)["spec"]["trainer"]
    assert max(map(len, trainer["command"] + trainer["args"])) <= LONGEST
    done = subprocess.run([expanded(word) for word in trainer["command"] + trainer["args"]], cwd=tmp_path,
                          env={"PATH": os.environ["PATH"], "HOME": "wrong"}, capture_output=True, text=True, check=True)
    source, given, function = json.loads(done.stdout)
    assert source == AWKWARD and function == "train"
    assert given == {"dataset": "s3://b/d", "epochs": 9, "text": AWKWARD, "minutes": 0.0, "compare": False,
                     "num_nodes": 1}
    assert type(given["epochs"]) is int and type(given["minutes"]) is float  # a run is known by them
    assert [path.name for path in tmp_path.iterdir()] == ["program.py"]


def test_the_fields_are_those_of_trainer():
    """After the CRD of Kubeflow Trainer 2.3.0, trainer.kubeflow.org_trainjobs.yaml."""
    manifest = made(Nodes(2, 4, "8", "32Gi", "1Gi"), "runner")
    assert (manifest["apiVersion"], manifest["kind"]) == ("trainer.kubeflow.org/v1alpha1", "TrainJob")
    assert set(manifest["spec"]) == {"runtimeRef", "trainer", "runtimePatches"}
    assert manifest["spec"]["runtimeRef"] == {"apiGroup": "trainer.kubeflow.org", "kind": "ClusterTrainingRuntime",
                                              "name": "torch-distributed"}
    trainer = manifest["spec"]["trainer"]
    assert set(trainer) == {"image", "command", "args", "env", "numNodes", "numProcPerNode", "resourcesPerNode"}
    assert (trainer["numNodes"], trainer["numProcPerNode"]) == (2, 4)
    assert trainer["resourcesPerNode"] == {"requests": {"cpu": "8", "memory": "32Gi"},
                                           "limits": {"nvidia.com/gpu": "4"}}
    pod = pod_of(manifest)
    for kind in ("labels", "annotations"):
        assert pod["metadata"][kind] == {"sidecar.istio.io/inject": "false"}
    assert pod["spec"] == {
        "serviceAccountName": "runner",
        "volumes": [{"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}}],
        "containers": [{"name": "node", "volumeMounts": [{"name": "shared-memory", "mountPath": "/dev/shm"}]}]}


def test_a_node_without_gpus_has_one_process_and_asks_for_no_more_than_it_is_told():
    manifest = made()
    assert manifest["spec"]["trainer"]["numProcPerNode"] == 1
    assert manifest["spec"]["trainer"]["resourcesPerNode"] == {"requests": {"cpu": "2", "memory": "4Gi"}}
    assert pod_of(manifest)["spec"] == {}


def test_the_variables_are_those_of_a_trial_and_none_that_trainer_sets():
    variables = {entry["name"]: entry for entry in made()["spec"]["trainer"]["env"]}
    assert variables["HOME"]["value"] == "/tmp" and variables["PIP_BREAK_SYSTEM_PACKAGES"]["value"] == "1"
    assert variables["AWS_ACCESS_KEY_ID"]["valueFrom"]["secretKeyRef"] == {
        "name": "handwriting-s3", "key": "AWS_ACCESS_KEY_ID", "optional": True}
    assert not set(variables) & RESERVED


def test_the_train_step_fits_into_a_train_job():
    trainer = train_job("train", "team", train_step(), {"dataset": "s3://b/d"}, Nodes(2), SECRETS)["spec"]["trainer"]
    words = trainer["command"] + trainer["args"]
    assert len(words) <= MOST and max(map(len, words)) <= LONGEST
    assert trainer["command"][:2] == ["sh", "-c"] and trainer["args"][-2:] == ["--function_to_execute", "train"]
    assert f"{SCRATCH}/comet" in trainer["args"][-3]


@pytest.mark.parametrize("wrong", [{"num_nodes": 0}, {"gpus": -1}])
def test_nodes_that_cannot_be_are_refused(wrong):
    with pytest.raises(ConfigError, match="at least one node"):
        Nodes(**wrong)


# --- on a simulated cluster ---

def condition(kind: str, status: str = "True", **more) -> dict:
    return {"type": kind, "status": status, **more}


def job(active: int = 0, ready: int = 0, succeeded: int = 0, failed: int = 0) -> list[dict]:
    """The one job of all nodes, as Trainer tells it."""
    return [{"name": "node", "active": active, "ready": ready, "succeeded": succeeded, "failed": failed,
             "suspended": 0}]


STARTING, RUNNING = {"jobsStatus": job(active=1)}, {"jobsStatus": job(active=1, ready=1)}
COMPLETE = {"conditions": [condition("Suspended", "False"), condition("Complete", reason="AllJobsCompleted")],
            "jobsStatus": job(succeeded=1)}
FAILED = {"conditions": [condition("Failed", reason="FailedJobs", message="job train-node-0 failed")],
          "jobsStatus": job(failed=1)}


def names(cluster: FakeCluster) -> list[str]:
    return [path.removeprefix(f"{PLACE}/") for path in cluster.objects]


def play(cluster: FakeCluster, *looks: dict) -> None:
    """Lets each new TrainJob have one status after another, a look each."""
    def script(found: FakeCluster):
        path = list(found.objects)[-1]
        for status in looks:
            yield found.objects[path].update(status=status)

    cluster.script = script


def run(manifest=None) -> None:
    with ApiServer.connect() as cluster:
        trainjob.run(cluster, named(manifest or made()), poll=0.01)


def test_a_train_job_is_waited_for_and_tells_how_far_it_is(cluster, caplog):
    caplog.set_level("INFO")
    suspended = {"conditions": [condition("Suspended", reason="Suspended")]}
    play(cluster, {}, suspended, STARTING, RUNNING, RUNNING, COMPLETE)
    run()
    [name] = names(cluster)
    assert re.fullmatch(r"train-[0-9a-f]{8}", name) and f"TrainJob team/{name} begins: 2 nodes" in caplog.text
    told = [record.message for record in caplog.records if record.message.startswith("TrainJob: ")]
    assert told == ["TrainJob: Created", "TrainJob: Suspended",
                    "TrainJob: Created; node: 1 active, 0 ready, 0 succeeded, 0 failed",
                    "TrainJob: Created; node: 1 active, 1 ready, 0 succeeded, 0 failed",
                    "TrainJob: Complete; node: 0 active, 0 ready, 1 succeeded, 0 failed"]


def test_the_same_again_waits_for_the_one_that_is_under_way(cluster, caplog):
    caplog.set_level("INFO")
    first = {**made(), "status": RUNNING}
    cluster.objects[f"{PLACE}/{named(made())['metadata']['name']}"] = first
    cluster.steps = iter(lambda: first.update(status=COMPLETE if "is there already" in caplog.text else RUNNING), 0)
    run()
    assert len(names(cluster)) == 1 and "is there already: 2 nodes" in caplog.text


def test_other_arguments_are_another_train_job(cluster):
    play(cluster, COMPLETE)
    run(made())
    run(made(seed=1))
    run(made(Nodes(3)))
    assert len(names(cluster)) == 3


@pytest.mark.parametrize("end", [FAILED, COMPLETE])
def test_one_that_has_ended_makes_room_for_another_attempt(cluster, end):
    name = named(made())["metadata"]["name"]
    for taken in (name, f"{name}-2"):
        cluster.objects[f"{PLACE}/{taken}"] = {**made(), "status": end}
    play(cluster, RUNNING, COMPLETE)
    run()
    assert names(cluster) == [name, f"{name}-2", f"{name}-3"]


def test_a_failed_one_tells_trainers_reason_and_where_to_read_on(cluster):
    play(cluster, RUNNING, FAILED)
    with pytest.raises(TrainError, match=r"team/train-\w+ failed: FailedJobs job train-node-0 failed; .*kubectl logs "
                                         r"-n team -l jobset.sigs.k8s.io/jobset-name=train-\w+ --prefix; the same run "
                                         "again goes on"):
        run()


def test_one_that_somebody_deletes_ends(cluster):
    def script(found: FakeCluster):
        yield
        yield found.objects.clear()

    cluster.script = script
    with pytest.raises(TrainError, match="was deleted before it came to its end"):
        run()


@pytest.mark.parametrize("status, message, said", [
    (403, "trainjobs is forbidden", "the Roles of build/cluster.yaml in the namespace team"),
    (404, "not found", "the controller of such objects, is not there"),
    (403, 'admission webhook "trainer" denied the request: no such runtime', "correct the parameters")])
def test_a_cluster_that_refuses_says_what_to_do(cluster, status, message, said):
    cluster.answers["POST"] = [(status, message)]
    with pytest.raises(DeployError, match=f"{re.escape(message)}; .*{said}"):
        run()


# --- the train step itself ---

class Output:
    """An artifact of the step."""

    def __init__(self, path):
        self.path, self.metrics = str(path), {}

    def log_metric(self, name: str, value: float) -> None:
        self.metrics[name] = value


@pytest.fixture
def train_here(tmp_path, small_dataset, monkeypatch):
    """The train step's function with few epochs and a small network, and its outputs in a folder of their own."""
    monkeypatch.setattr(exporting, "FUSION_LINES", 1)
    monkeypatch.delenv("COMET_API_KEY", raising=False)

    def call(**arguments) -> tuple[str, dict]:
        outputs = {name: Output(tmp_path / name) for name in ("metrics", "curves", "comet")}
        given = {"dataset": small_dataset, "bucket": str(tmp_path / "bucket"), "epochs": 1, "hidden": 16} | arguments
        return train.python_func(**given, **outputs), outputs["metrics"].metrics
    return call


def on_nodes() -> dict:
    return {"num_nodes": 2, "namespace": "team", "step": asdict(train_step()), "secrets": SECRETS}


def test_a_step_with_several_nodes_tells_the_result_that_they_left(cluster, train_here):
    def script(found: FakeCluster):
        [found_job] = found.objects.values()
        node = json.loads(expanded(found_job["spec"]["trainer"]["args"][-3]))["inputs"]["parameterValues"]
        found_job["status"] = COMPLETE | {"made": train_here(**node)}  # one of them is enough
        yield

    cluster.script = script
    model, metrics = train_here(**on_nodes())
    [found_job] = cluster.objects.values()
    assert (model, metrics) == found_job["status"]["made"] and 0 <= metrics["val_cer"]


def test_a_step_whose_nodes_left_no_result_does_not_train_alone(cluster, train_here, tmp_path):
    play(cluster, COMPLETE)
    with pytest.raises(DataError, match="is not there, though training ended; see the log of the first node"):
        train_here(**on_nodes())
    assert not list((tmp_path / "bucket").rglob("result.json"))
