"""Real servers, started once a session, and a server that misbehaves on order."""

import contextlib
import json
import threading
import time
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from fake_cluster import FakeCluster, kubeconfig
from fake_kfp import FakeKfp, serving

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"
SERVER_FIXTURES = {"s3", "bucket", "label_studio", "personal_token", "labelled"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what starts a server, so that `-m "not servers"` leaves it out."""
    for item in items:
        if SERVER_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker("servers")


@pytest.fixture(scope="session")
def s3(tmp_path_factory):
    """A real SeaweedFS that the whole session's boto3 talks to."""
    from pipeline.servers import start_seaweedfs

    with start_seaweedfs(tmp_path_factory.mktemp("seaweedfs")) as server, pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL"):
            patch.delenv(name, raising=False)
        for name, value in server.environment.items():
            patch.setenv(name, value)
        yield server


@pytest.fixture
def bucket(s3):
    """The name of a new, empty bucket; it goes with its test, for each holds one of the server's volumes."""
    import boto3

    name = f"test-{uuid.uuid4().hex[:12]}"
    client = boto3.session.Session().client("s3")
    client.create_bucket(Bucket=name)
    yield name
    with contextlib.suppress(client.exceptions.NoSuchBucket):  # some tests take it away themselves
        client.delete_bucket(Bucket=name)


@pytest.fixture(scope="session")
def label_studio(tmp_path_factory):
    """A real Label Studio, installed at first use; takes half a minute to start."""
    from pipeline.servers import ensure_label_studio_venv, start_label_studio

    environment = ensure_label_studio_venv(ROOT / ".run")
    with start_label_studio(tmp_path_factory.mktemp("label_studio"), environment) as server:
        yield server


@pytest.fixture(scope="session")
def personal_token(label_studio):
    """A personal access token of the real Label Studio's user."""
    from handwriting.label_studio import LabelStudio

    return LabelStudio(label_studio.url, label_studio.token).json("POST", "/api/token/")["token"]


@pytest.fixture(scope="session")
def sample_folder(tmp_path_factory):
    """A few rendered lines in the bucket's layout; read only."""
    from pipeline.samples import make_samples

    folder = tmp_path_factory.mktemp("samples")
    make_samples(folder, lines=40)
    return folder


@pytest.fixture(scope="session")
def small_dataset(sample_folder, tmp_path_factory):
    """The folder of a dataset of these lines; read only."""
    from handwriting.labels import LabelConfig
    from handwriting.packing import PackConfig, pack_folder

    return pack_folder(str(sample_folder), str(tmp_path_factory.mktemp("datasets")), PackConfig(), LabelConfig()).uri


@pytest.fixture(scope="session")
def tiny_bundle(sample_folder, tmp_path_factory):
    """The folder of a bundle that reads a digit or two in every line, whatever it says; read only."""
    from tiny_run import train_a_little

    return train_a_little(sample_folder, tmp_path_factory.mktemp("tiny"))


class Labelled(NamedTuple):
    """Where labelled lines are: the Label Studio project, and the `s3://` URI of the bucket."""

    label_studio_url: str
    project: int
    bucket: str


@pytest.fixture
def labelled(bucket, label_studio, sample_folder, monkeypatch):
    """A bucket with rendered lines and a Label Studio project over them; its token is in the environment."""
    from handwriting import layout
    from handwriting.label_studio import LabelStudio
    from handwriting.labels import BUCKET_SPLITS
    from handwriting.packing import LABELS
    from handwriting.store import open_store, read_json
    from pipeline.labelling import ensure_project, import_labels

    data_uri = f"s3://{bucket}/{layout.DATA}"
    target, source = open_store(data_uri), open_store(str(sample_folder))
    labels = {split: read_json(source, f"{split}/{LABELS}") for split in BUCKET_SPLITS}
    for entry in source.list():
        if not entry.key.endswith(LABELS):
            target.write(entry.key, source.read(entry.key))
    monkeypatch.setenv("LABEL_STUDIO_TOKEN", label_studio.token)
    client = LabelStudio(label_studio.url, label_studio.token)
    project = ensure_project(client, bucket)
    import_labels(client, project, data_uri, labels)
    return Labelled(label_studio.url, project, f"s3://{bucket}")


class Answer(NamedTuple):
    """What the fake server says to one request."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = {}
    delay: float = 0


class FakeServer(ThreadingHTTPServer):
    """Answers each `METHOD /path` with its list of answers in turn, the last one for ever; keeps all requests."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: dict[str, list[Answer]] = {}
        self.requests: list[tuple[str, dict[str, str], Any]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def asked(self, start: str) -> int:
        """Counts the requests so far that begin with `start`."""
        return sum(request[0].startswith(start) for request in self.requests)


class _Handler(BaseHTTPRequestHandler):
    server: FakeServer

    def log_message(self, *ignored):
        pass

    def _answer(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        key = f"{self.command} {self.path.partition('?')[0]}"
        is_json = self.headers.get_content_type() == "application/json"
        self.server.requests.append((key, dict(self.headers), json.loads(body) if body and is_json else body or None))
        queue = self.server.answers.get(key, [Answer(404, {"detail": "Not found."})])
        answer = queue.pop(0) if len(queue) > 1 else queue[0]
        time.sleep(answer.delay)
        content = answer.body() if callable(answer.body) else answer.body
        content = content.encode() if isinstance(content, str) else json.dumps(content).encode()
        try:
            self.send_response(answer.status)
            for name, value in ({"Content-Type": "application/json", "Content-Length": str(len(content))}
                                | answer.headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)
        except (BrokenPipeError, ConnectionResetError):  # the client did not wait
            pass

    do_GET = do_POST = do_DELETE = do_PATCH = _answer


@pytest.fixture
def fake_server() -> Iterator[FakeServer]:
    """A server on loopback without any answers yet; everything is 404."""
    with FakeServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def cluster(tmp_path, monkeypatch) -> Iterator[FakeCluster]:
    """A simulated cluster that the environment names; its outages are short."""
    from handwriting import api_server

    server = FakeCluster()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path / "config", f"http://127.0.0.1:{server.server_port}")))
    monkeypatch.setattr(api_server, "PAUSE", 0.01)
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def no_kfp(tmp_path, monkeypatch) -> None:
    """None of the machine's own settings of Kubeflow Pipelines: variables, kfp's file of them, a cluster."""
    import kfp
    from kubernetes.config import kube_config

    for name in ("KF_PIPELINES_ENDPOINT", "KF_PIPELINES_UI_ENDPOINT", "KFP_TOKEN", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "kubeconfig"))
    monkeypatch.setattr(kfp.Client, "_LOCAL_KFP_CONTEXT", str(tmp_path / "context.json"))


@pytest.fixture
def kfp_server(no_kfp) -> Iterator[FakeKfp]:
    """A Kubeflow Pipelines that plays runs."""
    with serving(FakeKfp()) as server:
        yield server
