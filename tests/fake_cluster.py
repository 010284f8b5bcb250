"""A simulated cluster: an API server that keeps objects, and a KServe that rolls them out on a script.

No emulator serves: kind, k3s and envtest need a container runtime or the binaries of etcd and kube-apiserver, and none
of them runs KServe's controller, whose half-truths are what the waits are about. The API server keeps resourceVersion
and generation, answers 404 and 409 as the real one, and holds what it is sent.

Time passes by looks: at each GET of an InferenceService, an Experiment or a TrainJob the controller takes one step of
its script, so that no test depends on the machine's speed.
"""

import copy
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from handwriting.rollout import version_of

SERVICES = "/apis/serving.kserve.io/v1beta1/namespaces/kubeflow-user/inferenceservices"
DEPLOYMENTS = "/apis/apps/v1/namespaces/kubeflow-user/deployments"
PODS = "/api/v1/namespaces/kubeflow-user/pods"
URL = "http://handwriting.example"

Step = Callable[["FakeCluster"], Any]


class FakeCluster(ThreadingHTTPServer):
    """The cluster.

    Attributes:
        objects: Objects by path.
        pods: The pods of the service.
        calls: "METHOD path" of each request, without query.
        answers: Faults by "METHOD" or "METHOD path", used up one by one: a status with a message, or None for a
            connection that breaks off.
        script: What the controller does after each write of a service: a function that gives its steps.
        served: Versions in the order in which all requests went to them.
    """

    daemon_threads = True

    def __init__(self) -> None:
        self.objects: dict[str, dict] = {}
        self.pods: list[dict] = []
        self.calls: list[str] = []
        self.answers: dict[str, list[tuple[int, str] | None]] = {}
        self.script: Callable[[FakeCluster], Iterator[Any]] = standard
        self.steps: Iterator[Any] = iter(())
        self.served: list[str] = []
        self.lock = threading.RLock()
        super().__init__(("127.0.0.1", 0), _Api)

    @property
    def service(self) -> dict:
        return self.objects[f"{SERVICES}/handwriting"]

    @property
    def version(self) -> str:
        """The version that the service asks for."""
        return version_of(self.service["spec"]["predictor"])

    def answer(self, method: str, path: str, body: dict | None) -> tuple[int, dict] | None:
        with self.lock:
            self.calls.append(f"{method} {path}")
            for key in (f"{method} {path}", method):
                if self.answers.get(key):
                    fault = self.answers[key].pop(0)
                    return fault and (fault[0], {"kind": "Status", "message": fault[1]})
            if path == PODS:
                return 200, {"items": self.pods}
            if method == "POST" and body is not None:
                return self._create(f"{path}/{body['metadata']['name']}", body)
            if "/experiments/" in path or "/trainjobs/" in path:
                next(self.steps, None)
            if path not in self.objects:
                return 404, {"kind": "Status", "message": "not found"}
            if method == "PUT" and body is not None:
                return self._replace(path, body)
            if path.startswith(SERVICES):
                next(self.steps, None)
            return 200, self.objects[path]

    def _create(self, path: str, body: dict) -> tuple[int, dict]:
        if path in self.objects:
            return 409, {"kind": "Status", "message": "already exists"}
        self.objects[path] = {**body, "metadata": {**body["metadata"], "uid": "u", "resourceVersion": "1",
                                                   "generation": 1}}
        self.steps = self.script(self)
        return 201, self.objects[path]

    def _replace(self, path: str, body: dict) -> tuple[int, dict]:
        old = self.objects[path]
        if body["metadata"].get("resourceVersion") != old["metadata"]["resourceVersion"]:
            return 409, {"kind": "Status", "message": "the object has been modified"}
        changed = {key: value for key, value in body.items() if key != "status"} | (
            {"status": old["status"]} if "status" in old else {})
        self.objects[path] = changed
        self.touch(changed, generation=old["spec"] != body["spec"])
        self.steps = self.script(self)
        return 200, changed

    def touch(self, found: dict, generation: bool = False) -> None:
        """Counts a write."""
        metadata = found["metadata"]
        metadata["resourceVersion"] = str(int(metadata.get("resourceVersion", 0)) + 1)
        metadata["generation"] = metadata.get("generation", 0) + generation

    def edit(self, version: str) -> None:
        """Somebody else deploys another version."""
        for entry in self.service["spec"]["predictor"]["containers"][0]["env"]:
            if entry["name"] == "MODEL_VERSION":
                entry["value"] = version
        self.touch(self.service, generation=True)


class _Api(BaseHTTPRequestHandler):
    server: FakeCluster

    def _handle(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        answer = self.server.answer(self.command, self.path.partition("?")[0], body)
        if answer is None:
            self.close_connection = True
            return
        data = json.dumps(answer[1]).encode()
        self.send_response(answer[0])
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PUT = _handle

    def log_message(self, *_: object) -> None:
        """Keeps the tests' output clean."""


def kubeconfig(path: Path, server: str) -> Path:
    """Writes a configuration for one cluster."""
    path.write_text(json.dumps({
        "apiVersion": "v1", "kind": "Config", "current-context": "c", "users": [{"name": "u", "user": {"token": "t"}}],
        "clusters": [{"name": "k", "cluster": {"server": server}}],
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}]}))
    return path


# --- what controllers do, a step a look ---

def set_status(service: dict, ready: bool, transition: str, **more: Any) -> None:
    status = service.setdefault("status", {})
    status["conditions"] = [{"type": "Ready", "status": "True" if ready else "False",
                             **({} if ready else {"reason": "PredictorNotReady", "message": "still starting"})}]
    status.setdefault("modelStatus", {})["transitionStatus"] = transition
    status["address"] = {"url": URL}
    status |= more


def fail_load(service: dict, message: str) -> None:
    set_status(service, False, "BlockedByFailedLoad")
    service["status"]["modelStatus"]["lastFailureInfo"] = {"reason": "ModelLoadFailed", "message": message,
                                                           "exitCode": 4}


def deployment(cluster: FakeCluster, updated: int, available: int, in_all: int, seen: bool = True) -> dict:
    """Brings the child Deployment to the service's version; `seen` False leaves its own controller behind."""
    path = f"{DEPLOYMENTS}/handwriting-predictor"
    predictor = cluster.service["spec"]["predictor"]
    found = cluster.objects.setdefault(path, {"metadata": {"name": "handwriting-predictor"}, "status": {}})
    template = {"spec": {"containers": copy.deepcopy(predictor["containers"])}}
    cluster.touch(found, generation=found.get("spec", {}).get("template") != template)
    found["spec"] = {"replicas": predictor["minReplicas"], "template": template}
    if seen:
        found["status"] = {"observedGeneration": found["metadata"]["generation"], "updatedReplicas": updated,
                           "availableReplicas": available, "replicas": in_all}
    return found


def standard(cluster: FakeCluster) -> Iterator[None]:
    """A rollout as it should be: the old Ready stands for two looks, then pods come one after another."""
    yield
    yield
    deployment(cluster, 0, 1, 1, seen=False)
    set_status(cluster.service, True, "UpToDate")  # still the old one's
    yield
    set_status(cluster.service, False, "InProgress")
    deployment(cluster, 1, 1, 2)
    yield
    deployment(cluster, 1, 1, 1)
    yield
    set_status(cluster.service, True, "UpToDate")
    cluster.served.append(cluster.version)


def knative(cluster: FakeCluster) -> Iterator[None]:
    """A new revision for a new template, requests as canaryTrafficPercent says; the old Ready stands for two looks."""
    yield
    yield
    predictor, service = cluster.service["spec"]["predictor"], cluster.service
    state = service.setdefault("status", {}).setdefault("components", {}).setdefault("predictor", {})
    known = state.setdefault("_versions", {})  # of revisions
    if known.get(state.get("latestCreatedRevision")) != cluster.version:
        name = f"handwriting-predictor-{len(known) + 1:05}"
        known[name] = cluster.version
        state["latestCreatedRevision"] = name
        set_status(service, False, "InProgress")
        yield
        state["latestReadyRevision"] = name
    percent = predictor.get("canaryTrafficPercent")
    latest, old = state["latestReadyRevision"], state.get("latestRolledoutRevision")
    if percent is None or old is None:
        state["latestRolledoutRevision"], percent = latest, 100
        cluster.served.append(known[latest])
    state["traffic"] = [{"revisionName": latest, "latestRevision": True, "percent": percent, "tag": "latest",
                         "url": f"http://latest-{known[latest]}.example"}]
    yield
    set_status(service, True, "UpToDate")
