"""A Kubeflow Pipelines API server that keeps what it is sent, and plays runs.

The paths, the names of fields and the codes are those of v2beta1 as kfp 2.17's client speaks it. As the real server it
gives a run's nodes the names of the Argo workflow's (`handwriting-x1y2z`, `root`, `train-driver`, `train`, `executor`),
leaves their errors out unless a test puts them in, refuses a second version of the same name, keeps recurring runs of
the same name apart, and pages its listings.

Time passes by looks: at each GET of a run it takes one step of its script, so that no test depends on the machine's
speed. A test that gives `execute` has a function run for each new run instead, in a thread, and its end is the run's.
"""

import json
import re
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

API = "/apis/v2beta1"
PROXY = "/services/ml-pipeline:http/proxy/"  # of a Kubernetes API server, with a namespace in front
BEGAN = datetime(2026, 11, 25, 12, tzinfo=UTC)
STEPS = ("preprocess", "train", "evaluate", "promote", "deploy")

Answer = tuple[int, Any]


class FakeKfp(ThreadingHTTPServer):
    """The server.

    Attributes:
        token: What a request must carry as `Authorization: Bearer`; "" asks for none.
        calls: "METHOD path" of each request, without query.
        faults: Faults by "METHOD path" without API, used up one by one: status and message, or None for a connection
            that breaks off.
        script: What a run does at each look: a function of the run that gives its steps.
        execute: Called with the arguments of a run; the run succeeds when it returns, and fails when it raises.
        logs: Text by name of a pod.
        page: Entries of a page at most, to try that clients ask for the next.
    """

    daemon_threads = True

    def __init__(self, token: str = "", execute: Callable[[dict], Any] | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Api)
        self.token, self.execute = token, execute
        self.script: Callable[[dict], Iterator[None]] = succeed
        self.calls: list[str] = []
        self.queries: list[dict[str, str]] = []
        self.faults: dict[str, list[tuple[int, str] | None]] = {}
        self.logs: dict[str, str] = {}
        self.page = 100
        self.multi_user = False
        self.health_page = ""  # a page that a gateway shows instead of the server's answer
        self.experiments: dict[str, dict] = {}
        self.pipelines: dict[str, dict] = {}
        self.versions: dict[str, dict] = {}
        self.runs: dict[str, dict] = {}
        self.recurring: dict[str, dict] = {}
        self.most_enabled = 0
        self.scripts: dict[str, Iterator[None]] = {}
        self.workers: list[threading.Thread] = []
        self.lock = threading.RLock()
        self.clock = BEGAN

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def now(self) -> str:
        """Returns a time, a second later than the last one."""
        self.clock += timedelta(seconds=1)
        return self.clock.strftime("%Y-%m-%dT%H:%M:%SZ")

    def answer(self, method: str, path: str, query: dict[str, str], body: Any, headers: Any) -> Answer | None:
        """Answers a request; None breaks the connection off."""
        with self.lock:
            path = path.partition(PROXY)[2] or path
            key = f"{method} {path.removeprefix(API)}"
            self.calls.append(f"{method} {path}")
            self.queries.append(query)
            if self.faults.get(key):
                fault = self.faults[key].pop(0)
                return fault and (fault[0], {"code": 2, "message": fault[1], "details": []})
            if self.token and headers.get("Authorization") != f"Bearer {self.token}":
                return 401, {"code": 16, "message": "Unauthenticated: the token is not valid"}
            for pattern, handler in ROUTES:
                if found := re.fullmatch(pattern, key):
                    answer = handler(self, *map(unquote, found.groups()), query=query, body=body)
                    self.most_enabled = max(self.most_enabled, sum(map(_enabled, self.recurring.values())))
                    return answer
            return 404, {"code": 5, "message": f"Not Found: {key}"}

    # --- what is asked for ---

    def health(self, **_: Any) -> Answer:
        return 200, self.health_page or {"commit_sha": "unknown", "multi_user": self.multi_user}

    def get(self, kind: str, ident: str, **_: Any) -> Answer:
        found = getattr(self, KINDS[kind][0]).get(ident)
        if found is None:
            return 404, {"code": 5, "message": f"ResourceNotFoundError: {kind} {ident} not found"}
        if kind == "runs":
            next(self.scripts.get(ident, iter(())), None)
        return 200, found

    def get_version(self, pipeline: str, ident: str, **_: Any) -> Answer:
        found = self.versions.get(ident)
        return (200, found) if found and found["pipeline_id"] == pipeline else (404, {"message": "no such version"})

    def listing(self, kind: str, query: dict[str, str], **_: Any) -> Answer:
        table, _, key = KINDS[kind]
        return self._page(list(getattr(self, table).values()), key, query)

    def list_versions(self, pipeline: str, query: dict[str, str], **_: Any) -> Answer:
        found = [version for version in self.versions.values() if version["pipeline_id"] == pipeline]
        return self._page(found, "pipeline_versions", query)

    def _page(self, entries: list[dict], key: str, query: dict[str, str]) -> Answer:
        """Filters by equality as far as kfp's client asks for it, sorts by time, and cuts a page."""
        for predicate in json.loads(query.get("filter") or "{}").get("predicates", []):
            entries = [e for e in entries if e.get(predicate["key"]) == predicate["stringValue"]]
        for name in ("experiment_id", "namespace"):
            entries = [e for e in entries if not query.get(name) or e.get(name) in (None, query[name])]
        entries = sorted(entries, key=lambda e: e["created_at"], reverse=query.get("sort_by", "").endswith(" desc"))
        first, size = int(query.get("page_token") or 0), min(self.page, int(query.get("page_size") or 10))
        answer: dict[str, Any] = {key: entries[first:first + size]} if entries else {}
        return 200, answer | ({"next_page_token": str(first + size)} if first + size < len(entries) else {})

    # --- what is made ---

    def _new(self, kind: str, fields: dict) -> dict:
        table, name, _ = KINDS[kind]
        made = {**fields, name: str(uuid.uuid4()), "created_at": self.now()}
        getattr(self, table)[made[name]] = made
        return made

    def create(self, kind: str, body: dict, **_: Any) -> Answer:
        return 200, self._new(kind, body)

    def upload_version(self, query: dict[str, str], body: Any, **_: Any) -> Answer:
        pipeline, name = query.get("pipelineid", ""), query.get("display_name") or query["name"]
        if pipeline not in self.pipelines:
            return 404, {"message": f"pipeline {pipeline} not found"}
        if any(v["display_name"] == name and v["pipeline_id"] == pipeline for v in self.versions.values()):
            return 409, {"code": 6, "message": f"AlreadyExists: a pipeline version {name} exists"}
        return 200, self._new("versions", {"pipeline_id": pipeline, "display_name": name, "pipeline_spec": body})

    def create_run(self, body: dict, **more: Any) -> Answer:
        run = self._new("runs", {"state": "PENDING", "run_details": {"task_details": []}, **body})
        self.scripts[run["run_id"]] = self._executed(run) if self.execute else self.script(run)
        return 200, run

    def _executed(self, run: dict) -> Iterator[None]:
        """Runs the test's function in a thread, and shows at each look how far it is."""
        faults: list[Exception] = []

        def work() -> None:
            try:
                self.execute(run["runtime_config"]["parameters"])  # type: ignore[misc]
            except Exception as error:  # a step may fail for any reason
                faults.append(error)

        worker = threading.Thread(target=work)
        self.workers.append(worker)
        worker.start()
        run["state"] = "RUNNING"
        tasks = workflow(run)
        add_step(run, "train", "RUNNING")
        while worker.is_alive():
            yield
        for task in tasks + run["run_details"]["task_details"]:
            task["state"] = "FAILED" if faults else "SUCCEEDED"
        if faults:
            self.logs[f"pod-{run['run_id']}-train"] = f"{type(faults[0]).__name__}: {faults[0]}\n"
        run["state"] = "FAILED" if faults else "SUCCEEDED"
        yield

    def terminate_run(self, ident: str, **_: Any) -> Answer:
        self.scripts[ident] = iter(())
        self.runs[ident]["state"] = "CANCELED"
        return 200, {}

    def log(self, run: str, pod: str, **_: Any) -> Answer:
        return (200, self.logs[pod]) if pod in self.logs else (500, {"error_message": f"pods {pod} not found"})

    def create_recurring_run(self, body: dict, **_: Any) -> Answer:
        if not 1 <= int(body.get("max_concurrency", 0)) <= 10:
            return 400, {"message": "Max concurrency of a recurring run must be at least 1 and at most 10"}
        status = "ENABLED" if body["mode"] == "ENABLE" else "DISABLED"
        fields = {key: value for key, value in body.items() if key != "mode"}
        return 200, self._new("recurringruns", {**fields, "status": status})

    def set_mode(self, ident: str, verb: str, **_: Any) -> Answer:
        self.recurring[ident]["status"] = {"enable": "ENABLED", "disable": "DISABLED"}[verb]
        return 200, {}

    def delete_recurring_run(self, ident: str, **_: Any) -> Answer:
        del self.recurring[ident]
        return 200, {}


KINDS = {"experiments": ("experiments", "experiment_id", "experiments"),
         "pipelines": ("pipelines", "pipeline_id", "pipelines"),
         "versions": ("versions", "pipeline_version_id", "pipeline_versions"),
         "runs": ("runs", "run_id", "runs"),
         "recurringruns": ("recurring", "recurring_run_id", "recurringRuns")}
"""By the name in the address: attribute of the server, field of the number, key of a listing."""

ROUTES: list[tuple[str, Callable[..., Answer]]] = [
    ("GET /healthz", FakeKfp.health),
    ("POST /pipelines/upload_version", FakeKfp.upload_version),
    ("GET /pipelines/([^/]+)/versions/([^/]+)", FakeKfp.get_version),
    ("GET /pipelines/([^/]+)/versions", FakeKfp.list_versions),
    ("POST /runs", FakeKfp.create_run),
    ("POST /runs/([^/:]+):terminate", FakeKfp.terminate_run),
    ("GET /apis/v1alpha1/runs/([^/]+)/nodes/([^/]+)/log", FakeKfp.log),
    ("POST /recurringruns", FakeKfp.create_recurring_run),
    ("POST /recurringruns/([^/:]+):(enable|disable)", FakeKfp.set_mode),
    ("DELETE /recurringruns/([^/:]+)", FakeKfp.delete_recurring_run),
    ("POST /(experiments|pipelines)", FakeKfp.create),
    ("GET /(experiments|pipelines|runs|recurringruns)", FakeKfp.listing),
    ("GET /(experiments|pipelines|runs|recurringruns)/([^/:]+)", FakeKfp.get),
]


def _enabled(recurring: dict) -> bool:
    return recurring["status"] == "ENABLED"


# --- what runs do, a step a look ---

def workflow(run: dict) -> list[dict]:
    """Adds the nodes around all steps."""
    return [add_node(run, name, "RUNNING") for name in ("handwriting-x1y2z", "root-driver", "root")]


def add_node(run: dict, name: str, state: str, **more: Any) -> dict:
    """Adds a node that starts behind all before it."""
    nodes = run["run_details"]["task_details"]
    began = (BEGAN + timedelta(seconds=len(nodes))).strftime("%Y-%m-%dT%H:%M:%SZ")
    nodes.append({"run_id": run["run_id"], "task_id": str(uuid.uuid4()), "display_name": name, "state": state,
                  "start_time": began, "create_time": began, **more})
    return nodes[-1]


def add_step(run: dict, name: str, state: str) -> dict:
    """Adds a step with its driver and the pod that carries it out."""
    pod = f"pod-{run['run_id']}-{name}"
    add_node(run, f"{name}-driver", "SUCCEEDED")
    step = add_node(run, name, state, child_tasks=[{"pod_name": pod}])
    add_node(run, "executor", state, pod_name=pod)
    return step


def end(run: dict, state: str) -> None:
    """Ends a run and what surrounds its steps."""
    run["state"] = state
    for node in run["run_details"]["task_details"]:
        if node["state"] == "RUNNING":
            node["state"] = state


def succeed(run: dict) -> Iterator[None]:
    """All steps, one after the other."""
    yield
    run["state"] = "RUNNING"
    workflow(run)
    for name in STEPS:
        step = add_step(run, name, "RUNNING")
        yield
        step["state"] = run["run_details"]["task_details"][-1]["state"] = "SUCCEEDED"
    end(run, "SUCCEEDED")
    yield


def stop_in(name: str, state: str) -> Callable[[dict], Iterator[None]]:
    """Returns a script in which a run ends so in a step."""
    def script(run: dict) -> Iterator[None]:
        run["state"] = "RUNNING"
        workflow(run)
        for step in STEPS[:STEPS.index(name)]:
            add_step(run, step, "SUCCEEDED")
        add_step(run, name, "RUNNING")
        yield
        end(run, state)
        yield
    return script


class _Api(BaseHTTPRequestHandler):
    server: FakeKfp
    protocol_version = "HTTP/1.1"

    def _handle(self) -> None:
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        answer = self.server.answer(self.command, url.path, query, self._body(data), self.headers)
        if answer is None:
            self.close_connection = True
            return
        status, content = answer
        page = isinstance(content, str)
        text = (content if page else json.dumps(content)).encode()
        self.send_response(status)
        kind = "text/html" if page and content.startswith("<") else "text/plain" if page else "application/json"
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def _body(self, data: bytes) -> Any:
        """Returns JSON, or the pipeline in a form's one file."""
        if self.headers.get_content_type() != "multipart/form-data":
            return json.loads(data) if data else None
        head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        [part] = BytesParser().parsebytes(head + data).get_payload()
        assert part.get_param("name", header="Content-Disposition") == "uploadfile"
        return next(yaml.safe_load_all(part.get_payload(decode=True)))

    do_GET = do_POST = do_DELETE = _handle

    def log_message(self, *_: object) -> None:
        """Keeps the tests' output clean."""


@contextmanager
def serving(server: FakeKfp) -> Iterator[FakeKfp]:
    """Serves until the block ends, and waits for the runs that are under way."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        for worker in (thread, *server.workers):
            worker.join()
