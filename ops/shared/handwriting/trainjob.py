"""Trains on several nodes: a Kubeflow Trainer TrainJob whose nodes run the train component, unchanged.

Trainer starts a pod for each node and tells it of the others in PyTorch's own variables (PET_NNODES, PET_NODE_RANK,
PET_NPROC_PER_NODE, PET_MASTER_ADDR, PET_MASTER_PORT), by which the training code there finds its group. Written after
Kubeflow Trainer 2.3.0 (pkg/apis/trainer/v1alpha1/trainjob_types.go, pkg/runtime/framework/plugins/torch); 2.2 has the
same fields, earlier ones no runtimePatches.

A TrainJob is named by what it asks for, so a step that is started again goes on waiting for the one it made.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count
from typing import Any

from handwriting.api_server import ApiServer, ended_in
from handwriting.component import SCRATCH, Step, trial_command
from handwriting.errors import ConfigError, TrainError
from handwriting.pods import NO_SIDECAR, kept_by_kubernetes, named, resources, step_variables

log = logging.getLogger(__name__)

GROUP, VERSION, KIND, PLURAL = "trainer.kubeflow.org", "v1alpha1", "TrainJob", "trainjobs"
NAME = "handwriting-train"  # of a TrainJob, before the hash of what it asks for
RUNTIME = "torch-distributed"  # comes with Trainer
NODE = "node"  # what that runtime calls its job, and the container in it
MANAGER = "handwriting/train"  # who patches the runtime
PODS_OF = "jobset.sigs.k8s.io/jobset-name"  # label of a TrainJob's pods
COUNTS = ("active", "ready", "succeeded", "failed")
FAILED = "Failed"
ENDS = ("Complete", FAILED)
POLL = 15.0  # seconds between two looks
LONGEST = 32_768  # characters of a word: half of what Trainer 2.2 takes, since Kubernetes' escapes may double it


@dataclass(frozen=True)
class Nodes:
    """What trains together.

    Attributes:
        num_nodes: Nodes.
        gpus: GPUs of a node, with a process each; 0 for its processors.
        cpu: Cores that a node asks for.
        memory: Memory that a node asks for.
        shared_memory: Size of a node's /dev/shm, which else is 64 MiB; several GPUs of a node need 1Gi.
    """

    num_nodes: int = 1
    gpus: int = 0
    cpu: str = "2"
    memory: str = "4Gi"
    shared_memory: str = ""

    def __post_init__(self) -> None:
        if self.num_nodes < 1 or self.gpus < 0:
            raise ConfigError(f"{self.num_nodes} nodes with {self.gpus} GPUs each; give at least one node, and no "
                              "negative number")


def run_on_nodes(step: Step, arguments: Mapping[str, Any], nodes: Nodes, namespace: str,
                 secrets: Mapping[str, Sequence[str]], service_account: str = "") -> None:
    """Makes a TrainJob and waits for its end.

    Args:
        step: The component that trains.
        arguments: Of the component.
        nodes: What it runs on.
        namespace: Where.
        secrets: Keys by Kubernetes secret: variables of the nodes where the secret is there.
        service_account: Of the nodes; empty for the namespace's default.

    Raises:
        HandwritingError: As `run` does.
    """
    manifest = named(train_job(NAME, namespace, step, arguments, nodes, secrets, service_account))
    with ApiServer.connect() as cluster:
        run(cluster, manifest)


def train_job(name: str, namespace: str, step: Step, arguments: Mapping[str, Any], nodes: Nodes,
              secrets: Mapping[str, Sequence[str]], service_account: str = "") -> dict[str, Any]:
    """Returns the TrainJob as Kubernetes takes it.

    Args:
        name: Of the TrainJob.
        namespace: Where its nodes are.
        step: The component that trains.
        arguments: Of the component; on a node `num_nodes` is 1, or it would make a TrainJob of its own.
        nodes: What it runs on.
        secrets: Keys by Kubernetes secret: variables of the nodes where the secret is there.
        service_account: Of the nodes; empty for the namespace's default.
    """
    shell, pieces = _in_pieces(trial_command(step, {**arguments, "num_nodes": 1}, SCRATCH))
    trainer = {"image": step.image, "command": shell, "args": [kept_by_kubernetes(piece) for piece in pieces],
               "env": step_variables(secrets), "numNodes": nodes.num_nodes,
               "numProcPerNode": max(1, nodes.gpus),  # Trainer's own guess is a process a core
               "resourcesPerNode": resources(nodes.cpu, nodes.memory, nodes.gpus)}
    runtime = {"apiGroup": GROUP, "kind": "ClusterTrainingRuntime", "name": RUNTIME}
    return {"apiVersion": f"{GROUP}/{VERSION}", "kind": KIND, "metadata": {"name": name, "namespace": namespace},
            "spec": {"runtimeRef": runtime, "trainer": trainer, "runtimePatches": [_patch(nodes, service_account)]}}


def _in_pieces(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Cuts words that are too long for Trainer; returns a shell that puts them together again, and its arguments."""
    cut = [[word[at:at + LONGEST] for at in range(0, max(1, len(word)), LONGEST)] for word in words]
    numbers = count()
    whole = ("".join(f"${{{next(numbers)}}}" for _ in pieces) for pieces in cut)
    return ["sh", "-c", "exec " + " ".join(f'"{word}"' for word in whole)], list(chain.from_iterable(cut))


def _patch(nodes: Nodes, service_account: str) -> dict[str, Any]:
    """Returns what the runtime's pods have besides."""
    pod: dict[str, Any] = {"serviceAccountName": service_account} if service_account else {}
    if nodes.shared_memory:
        pod["volumes"] = [{"name": "shared-memory",
                           "emptyDir": {"medium": "Memory", "sizeLimit": nodes.shared_memory}}]
        pod["containers"] = [{"name": NODE, "volumeMounts": [{"name": "shared-memory", "mountPath": "/dev/shm"}]}]
    template = {"metadata": {"labels": dict(NO_SIDECAR), "annotations": dict(NO_SIDECAR)}, "spec": pod}
    return {"manager": MANAGER, "trainingRuntimeSpec": {"template": {"spec": {"replicatedJobs": [
        {"name": NODE, "template": {"spec": {"template": template}}}]}}}}


def run(cluster: ApiServer, manifest: dict[str, Any], poll: float = POLL) -> None:
    """Runs a TrainJob to its end; one that asks for the same and is under way counts as this one.

    One that has ended does not: training goes on from its checkpoint, or its result is gone.

    Args:
        cluster: Where.
        manifest: The TrainJob, as `handwriting.pods.named` returns it.
        poll: Seconds between two looks.

    Raises:
        TrainError: It failed, or somebody deleted it.
        DeployError: The cluster cannot be reached or refuses it.
    """
    for attempt in count(1):
        job = _attempt(manifest, attempt)
        new = cluster.create(_place(job), job)
        if new or not ended_in((cluster.get(_path(job)) or {}).get("status", {}), ENDS):
            break
    log.info("%s %s: %d nodes", _where(job), "begins" if new else "is there already",
             job["spec"]["trainer"]["numNodes"])
    ended = cluster.wait(_path(job), _where(job), ENDS, _progress, poll, TrainError)
    if ended["type"] == FAILED:
        raise TrainError(_failure(job, ended))


def _attempt(manifest: dict[str, Any], number: int) -> dict[str, Any]:
    """Returns the TrainJob of an attempt, counted from 1: a name is taken as long as nobody deletes the object."""
    name = manifest["metadata"]["name"] + (f"-{number}" if number > 1 else "")
    return {**manifest, "metadata": {**manifest["metadata"], "name": name}}


def _progress(status: Mapping[str, Any]) -> str:
    """Returns the state of a TrainJob, and how many of its jobs are how far: all its nodes are one job."""
    state = [condition["type"] for condition in status.get("conditions", []) if condition["status"] == "True"]
    jobs = [f"{job['name']}: {', '.join(f'{job.get(kind, 0)} {kind}' for kind in COUNTS)}"
            for job in status.get("jobsStatus", [])]
    return f"TrainJob: {'; '.join([' '.join(state) or 'Created', *jobs])}"


def _failure(job: Mapping[str, Any], ended: Mapping[str, Any]) -> str:
    """Says why a TrainJob failed, and where to read on."""
    name, namespace = job["metadata"]["name"], job["metadata"]["namespace"]
    return (f"{_where(job)} failed: {ended.get('reason', '')} {ended.get('message', '')}; look at its nodes' logs: "
            f"kubectl logs -n {namespace} -l {PODS_OF}={name} --prefix; the same run again goes on from the checkpoint")


def _where(job: Mapping[str, Any]) -> str:
    return f"TrainJob {job['metadata']['namespace']}/{job['metadata']['name']}"


def _place(job: Mapping[str, Any]) -> str:
    return f"/apis/{GROUP}/{VERSION}/namespaces/{job['metadata']['namespace']}/{PLURAL}"


def _path(job: Mapping[str, Any]) -> str:
    return f"{_place(job)}/{job['metadata']['name']}"
