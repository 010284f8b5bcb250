"""The InferenceService: a valid manifest, a command that runs anywhere, and an apply that respects others."""

import importlib.util
import json
import os
import subprocess
import sys
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import jsonschema
import pytest

from handwriting.errors import ConfigError, DeployError
from handwriting.inference_service import ServiceConfig, apply, manifest

SCHEMA = Path(__file__).resolve().parent.parent.parent / "shared" / "schemas" / "inferenceservice.v1beta1.json"
URI = "s3://ocrpipeline/models/0123abcd"
COLLECTION = "/apis/serving.kserve.io/v1beta1/namespaces/kubeflow-user/inferenceservices"


def service(**changes) -> dict:
    return manifest(URI, "0123abcd", ServiceConfig(**changes))


def container(**changes) -> dict:
    return service(**changes)["spec"]["predictor"]["containers"][0]


def environment(**changes) -> dict:
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container(**changes)["env"]}


def strict(schema):
    """The schema with unknown fields forbidden: the API server would drop them without a word."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: strict(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and "type" in schema and "additionalProperties" not in schema:
        closed["additionalProperties"] = False
    return closed


@pytest.fixture(scope="module")
def validator():
    if not SCHEMA.is_file():
        pytest.skip(f"{SCHEMA} is not here: no schema to check against")
    return jsonschema.Draft202012Validator(strict(json.loads(SCHEMA.read_text("utf-8"))))


@pytest.mark.parametrize("changes", [
    {}, {"data_uri": "s3://ocrpipeline/data"}, {"mode": "Knative", "min_replicas": 0, "canary_percent": 10}])
def test_the_manifest_is_valid_and_has_no_unknown_field(validator, changes):
    validator.validate(service(**changes))


def test_a_misspelt_field_would_be_found(validator):
    wrong = service()
    wrong["spec"]["predictor"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(jsonschema.ValidationError):
        validator.validate(wrong)


def test_the_container_says_what_kserve_needs():
    found = container(data_uri="s3://ocrpipeline/data", cpu="2", memory="4Gi")
    assert found["name"] == "kserve-container"
    assert found["resources"]["requests"] == found["resources"]["limits"] == {"cpu": "2", "memory": "4Gi"}
    assert found["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": 8080}
    assert found["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": 8080}
    startup = found["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 600  # pip has to finish


def test_the_environment_names_model_data_and_optional_secrets():
    found = environment(data_uri="s3://ocrpipeline/data", secret="keys")
    assert found["STORAGE_URI"] == URI + "/"
    assert (found["MODEL_VERSION"], found["DATA_URI"], found["HOME"]) == ("0123abcd", "s3://ocrpipeline/data", "/tmp")
    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL_S3"):
        assert found[key] == {"secretKeyRef": {"name": "keys", "key": key, "optional": True}}
    assert "DATA_URI" not in environment()
    assert "PORT" not in environment(mode="Knative")  # Knative refuses it


def test_a_model_uri_that_ends_with_a_slash_gets_no_second_one():
    env = manifest(URI + "/", "v1", ServiceConfig())["spec"]["predictor"]["containers"][0]["env"]
    assert env[0] == {"name": "STORAGE_URI", "value": URI + "/"}


def test_two_versions_differ_in_uri_and_version_so_that_pods_are_replaced():
    other = manifest("s3://ocrpipeline/models/ffff", "ffff", ServiceConfig())
    assert other["spec"]["predictor"]["containers"][0]["env"][:2] == [
        {"name": "STORAGE_URI", "value": "s3://ocrpipeline/models/ffff/"}, {"name": "MODEL_VERSION", "value": "ffff"}]


def test_mode_replicas_canary_and_annotations():
    standard, knative = service(), service(mode="Knative", min_replicas=0, canary_percent=10)
    assert standard["metadata"]["annotations"] == {"serving.kserve.io/deploymentMode": "Standard"}
    assert knative["metadata"]["annotations"] == {"serving.kserve.io/deploymentMode": "Knative"}
    assert knative["spec"]["predictor"]["minReplicas"] == 0
    assert knative["spec"]["predictor"]["canaryTrafficPercent"] == 10
    assert "canaryTrafficPercent" not in standard["spec"]["predictor"]
    assert standard["spec"]["predictor"]["terminationGracePeriodSeconds"] > 30  # what the server takes to drain
    assert "terminationGracePeriodSeconds" not in knative["spec"]["predictor"]  # Knative refuses it
    assert standard["spec"]["predictor"]["annotations"]["prometheus.io/port"] == "8080"
    assert standard["spec"]["predictor"]["serviceAccountName"] == "handwriting"


@pytest.mark.parametrize("changes", [
    {"name": "Handwriting"}, {"name": "1st"}, {"name": "-a"}, {"name": "a_b"}, {"name": "a" * 48}, {"name": ""},
    {"namespace": "a.b"}, {"namespace": ""}, {"service_account": "a b"}, {"secret": "A"}, {"image": ""},
    {"image": "python 3"}, {"mode": "Serverless"}, {"min_replicas": 0}, {"min_replicas": 4}, {"max_replicas": 0},
    {"mode": "Knative", "min_replicas": 0, "max_replicas": 0}, {"canary_percent": 10},
    {"mode": "Knative", "canary_percent": 101}, {"cpu": "many"}, {"memory": "2 Gi"}, {"data_uri": "/tmp/data"},
    {"data_uri": "s3://"}, {"name": "a\n"}])
def test_a_config_the_cluster_would_refuse_is_refused_here(changes):
    with pytest.raises(ConfigError):
        ServiceConfig(**changes)


@pytest.mark.parametrize(("uri", "version"), [("", "v"), ("/tmp/model", "v"), (URI, ""), (URI, "a b"), (URI, "a" * 64)])
def test_a_model_without_a_usable_uri_or_version_is_refused(uri, version):
    with pytest.raises(ConfigError):
        manifest(uri, version, ServiceConfig())


def test_the_command_holds_nothing_that_kubernetes_would_expand():
    shell, option, line = container()["command"]
    assert (shell, option) == ("sh", "-c")
    assert "$(" not in line and "$$" not in line and "\n" not in line


def wheel(folder: Path) -> Path:
    """A package without code to build: pip installs it without the network."""
    path = folder / "tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tiny.py", "NAME = 'tiny'")
        archive.writestr("tiny-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        archive.writestr("tiny-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("tiny-1.0.dist-info/RECORD", "")
    return path


@pytest.fixture
def run_command(tmp_path):
    """Runs the container's command on a bundle whose server prints what it got, in a folder full of traps."""
    if not importlib.util.find_spec("pip"):
        pytest.skip("this Python has no pip, which the command needs")
    code, here = tmp_path / "bundle" / "code" / "handwriting", tmp_path / "here" / "handwriting"
    for folder in (code, here):
        folder.mkdir(parents=True)
        (folder / "__init__.py").touch()
    (code / "serving.py").write_text("import sys, tiny; print('serving', tiny.NAME, *sys.argv[1:])")
    (here / "serving.py").write_text("print('the wrong code')")
    (tmp_path / "bundle" / "requirements.txt").write_text(f"tiny @ {wheel(tmp_path).as_uri()}\n")

    def run(**extra: str) -> subprocess.CompletedProcess:
        env = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(tmp_path),
               "STORAGE_URI": str(tmp_path / "bundle"), "SITE_ROOT": str(tmp_path), "PIP_NO_INDEX": "1", **extra}
        return subprocess.run(container()["command"], env=env, cwd=here.parent, capture_output=True, text=True)
    return run


def test_the_command_installs_once_and_serves_the_bundles_own_code(run_command, tmp_path):
    first = run_command()
    assert first.stdout == f"serving tiny --model {tmp_path / 'bundle'} --port 8080\n", first.stderr
    (tmp_path / "tiny-1.0-py3-none-any.whl").unlink()  # a second installation would fail
    again = run_command(PORT="18080")
    assert again.stdout == f"serving tiny --model {tmp_path / 'bundle'} --port 18080\n", again.stderr


def test_the_command_fails_when_pip_does_and_starts_afresh_the_next_time(run_command, tmp_path):
    (tmp_path / "tiny-1.0-py3-none-any.whl").rename(tmp_path / "away")
    failed = run_command()
    assert failed.returncode != 0 and "serving" not in failed.stdout
    (tmp_path / "away").rename(tmp_path / "tiny-1.0-py3-none-any.whl")
    assert run_command().stdout.startswith("serving tiny")


def test_other_requirements_are_installed_beside_the_first(run_command, tmp_path):
    run_command()
    requirements = tmp_path / "bundle" / "requirements.txt"
    requirements.write_text("# other pins\n" + requirements.read_text())
    assert run_command().stdout.startswith("serving tiny")
    assert len(list(tmp_path.glob("handwriting-site-*"))) == 2


class FakeCluster(ThreadingHTTPServer):
    """The API server's part for InferenceServices: objects with a resourceVersion, and answers to inject.

    Attributes:
        objects: Objects by name.
        calls: Method and path of each request.
        answers: (method, status, message) used up instead of doing what is asked.
    """

    daemon_threads = True

    def __init__(self):
        self.objects: dict[str, dict] = {}
        self.calls: list[str] = []
        self.answers: list[tuple[str, int, str]] = []
        super().__init__(("127.0.0.1", 0), FakeApi)

    def answer(self, method: str, path: str, body: dict | None) -> tuple[int, dict]:
        self.calls.append(method)
        if self.answers and self.answers[0][0] == method:
            _, status, message = self.answers.pop(0)
            return status, {"kind": "Status", "message": message}
        name = path.removeprefix(COLLECTION).strip("/")
        if method == "POST":
            return self.store(body["metadata"]["name"], body)
        if name not in self.objects:
            return 404, {"kind": "Status", "message": "not found"}
        if method == "GET":
            return 200, self.objects[name]
        if body["metadata"].get("resourceVersion") != self.objects[name]["metadata"]["resourceVersion"]:
            return 409, {"kind": "Status", "message": "the object has been modified"}
        return self.store(name, body)

    def store(self, name: str, body: dict) -> tuple[int, dict]:
        version = int(body["metadata"].get("resourceVersion", 0)) + 1
        self.objects[name] = {**body, "metadata": {**body["metadata"], "resourceVersion": str(version), "uid": "u"}}
        return 200, self.objects[name]


class FakeApi(BaseHTTPRequestHandler):
    def handle_one(self):
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        status, answer = self.server.answer(self.command, self.path, body)
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PUT = handle_one

    def log_message(self, *_):
        """Keeps the tests' output clean."""


def kubeconfig(path: Path, server: str) -> Path:
    path.write_text(json.dumps({
        "apiVersion": "v1", "kind": "Config", "current-context": "c", "users": [{"name": "u", "user": {"token": "t"}}],
        "clusters": [{"name": "k", "cluster": {"server": server}}],
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}]}))
    return path


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    server = FakeCluster()
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path / "config", f"http://127.0.0.1:{server.server_port}")))
    yield server
    server.shutdown()
    server.server_close()


def test_apply_creates_the_service(cluster):
    apply(service())
    assert cluster.calls == ["GET", "POST"]
    assert cluster.objects["handwriting"]["spec"] == service()["spec"]


def test_apply_replaces_the_spec_and_keeps_what_others_put_on_the_object(cluster):
    apply(service(cpu="2", data_uri="s3://b/data"))
    metadata = cluster.objects["handwriting"]["metadata"]
    metadata["labels"]["team"] = "archive"
    metadata["annotations"] |= {"note": "by hand", "serving.kserve.io/deploymentMode": "changed"}
    metadata["finalizers"] = ["kserve.io/finalizer"]
    metadata["managedFields"] = [{"manager": "someone"}]
    cluster.objects["handwriting"]["status"] = {"url": "http://x"}
    apply(service())
    assert cluster.calls == ["GET", "POST", "GET", "PUT"]
    found = cluster.objects["handwriting"]
    assert found["spec"] == service()["spec"]  # nothing stale
    assert found["metadata"]["labels"] == service()["metadata"]["labels"] | {"team": "archive"}
    assert found["metadata"]["annotations"] == {"note": "by hand", "serving.kserve.io/deploymentMode": "Standard"}
    assert found["metadata"]["finalizers"] == ["kserve.io/finalizer"]
    assert "status" not in found and "managedFields" not in found["metadata"]


def test_apply_reads_again_when_others_were_faster(cluster):
    cluster.answers = [("POST", 409, "already exists")]
    apply(service())
    assert cluster.calls == ["GET", "POST", "GET", "POST"]
    cluster.answers = [("PUT", 409, "modified"), ("PUT", 409, "modified")]
    cluster.calls.clear()
    apply(service())
    assert cluster.calls == ["GET", "PUT"] * 3


def test_apply_gives_up_when_others_never_stop(cluster):
    apply(service())
    cluster.answers = [("PUT", 409, "modified")] * 100
    with pytest.raises(DeployError, match="changed by others 5 times"):
        apply(service())


@pytest.mark.parametrize(("method", "status", "said"), [
    ("GET", 403, "bind a Role with get, create and update on inferenceservices.serving.kserve.io"),
    ("POST", 403, "in the namespace kubeflow-user"), ("GET", 401, "renew them"), ("POST", 404, "KServe itself"),
    ("POST", 422, "the server's words")])
def test_a_refusal_says_what_to_do(cluster, method, status, said):
    cluster.answers = [(method, status, "the server's words")]
    with pytest.raises(DeployError) as caught:
        apply(service())
    message = str(caught.value)
    assert said in message and "the server's words" in message and "kubeflow-user/handwriting" in message
    assert "HTTP response headers" not in message


def test_a_cluster_that_does_not_answer_is_a_deploy_error(cluster, tmp_path, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path / "closed", "http://127.0.0.1:9")))
    with pytest.raises(DeployError, match="does not answer"):
        apply(service())


@pytest.mark.parametrize("content", [None, "", "no: kubeconfig", "{"])
def test_without_a_cluster_it_says_how_to_name_one(tmp_path, monkeypatch, content):
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    path = tmp_path / "config"
    if content is not None:
        path.write_text(content)
    monkeypatch.setenv("KUBECONFIG", str(path))
    with pytest.raises(DeployError, match="set KUBECONFIG"):
        apply(service())
