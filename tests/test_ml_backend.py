"""The predictor as Label Studio's ML backend, asked by tests and by a real Label Studio."""

import base64
import itertools
import json
import threading
import uuid
from contextlib import contextmanager

import pytest
from helpers import TEXT, FakeReader, drawing, encoded
from tiny_run import let_serve
from werkzeug.serving import make_server

from handwriting import ml_backend
from handwriting.admission import Gate
from handwriting.errors import LabelStudioError
from handwriting.label_studio import LabelStudio
from handwriting.layout import BACKEND_PASSWORD
from handwriting.prelabelling import prelabel
from handwriting.predictor import create_app
from handwriting.reader import Reader
from handwriting.store import open_store
from pipeline.labelling import ensure_project, ensure_storage, label_interface

PASSWORD = "Phở 24"


@pytest.fixture
def folder(tmp_path):
    """A data folder with three pictures of users."""
    data = open_store(str(tmp_path / "data"))
    for name in "abc":
        data.write(f"user_data/images/{name}.png", encoded(drawing()))
    data.write("user_data/images/bad.png", b"no picture")
    return data.root


@pytest.fixture
def client(folder):
    return create_app(FakeReader(), data_uri=folder).test_client()


def ask(client, *uris, **body):
    tasks = [{"id": number, "data": {"captioning": uri}} for number, uri in enumerate(uris, 1)]
    return client.post("/predict", json={"tasks": tasks, "label_config": label_interface(), **body})


def test_health_and_setup_tell_that_the_model_is_there_and_its_version(client):
    assert client.get("/health").json["status"] == "UP"
    asked = {"project": "1.2", "schema": label_interface(), "hostname": "http://x", "access_token": "t"}
    assert client.post("/setup", json=asked).json == {"model_version": "0123abcd"}


def test_tasks_get_predictions_in_their_order(client, folder):
    answer = ask(client, *[f"{folder}/user_data/images/{name}.png" for name in "ab"])
    one = {"result": [{"from_name": "caption", "to_name": "image", "type": "textarea", "value": {"text": [TEXT]}}],
           "score": 0.8765, "model_version": "0123abcd"}
    assert (answer.status_code, answer.json) == (200, {"results": [one, one]})


def test_a_task_without_a_reading_says_why_in_its_place(client, folder):
    answer = ask(client, f"{folder}/user_data/images/a.png", f"{folder}/user_data/images/bad.png",
                 "http://169.254.169.254/latest", f"{folder}/user_data/images/../../../secret", "gone",
                 f"{folder}/user_data/images/gone.png", 7)
    good, *others = answer.json["results"]
    assert good["score"] and all("result" not in one for one in others)
    assert [one["error"] for one in others] == ["not a picture", *["outside the bucket"] * 3, "missing picture",
                                                "malformed task"]
    assert others[1]["message"].startswith("task 3: ") and f"{folder}/<split>/images/" in others[1]["message"]


def test_too_many_tasks_are_read_in_part(client, folder, monkeypatch):
    monkeypatch.setattr(ml_backend, "MAX_TASKS", 2)
    results = ask(client, *[f"{folder}/user_data/images/{name}.png" for name in "abc"]).json["results"]
    assert [one.get("error") for one in results] == [None, None, "too many tasks"]
    assert "2 are read at a time" in results[2]["message"]


def test_where_users_wait_already_tasks_are_left_for_later(folder, monkeypatch):
    gate = Gate(1, 0)

    class Crowded(FakeReader):
        def read(self, pictures):
            gate.most = 0  # from now on nobody else gets in
            return super().read(pictures)

    client = create_app(Crowded(), data_uri=folder, gate=gate).test_client()
    monkeypatch.setattr(ml_backend, "AT_ONCE", 1)
    first, second = ask(client, *[f"{folder}/user_data/images/{name}.png" for name in "ab"]).json["results"]
    assert first["score"] and second["error"] == "busy" and second["message"].startswith("task 2: ")


@pytest.mark.parametrize("path, body, reason", [
    ("/predict", {}, "invalid body"), ("/predict", [], "no json"), ("/predict", {"tasks": {}}, "invalid body"),
    ("/predict", {"tasks": []}, "label interface"), ("/predict", {"tasks": [], "label_config": "<View/>"},
                                                     "label interface"),
    ("/setup", {}, "label interface"), ("/setup", {"schema": "<View"}, "label interface")])
def test_other_bodies_are_refused(client, path, body, reason):
    answer = client.post(path, json=body)
    assert (answer.status_code, answer.json["error"]) == (400, reason)


def test_a_body_that_only_says_it_is_json_is_refused(client):
    for path, body in itertools.product(("/predict", "/setup"), (b"{", b"[" * 100_000)):
        answer = client.post(path, data=body, content_type="application/json")
        assert (answer.status_code, answer.json["error"]) == (400, "no json")


def test_without_a_bucket_or_a_model_it_says_so(folder):
    assert ask(create_app(FakeReader()).test_client(), "x").json["error"] == "no bucket"
    client = create_app(None, data_uri=folder).test_client()
    for answer in (client.get("/health"), client.post("/setup", json={"schema": label_interface()}), ask(client, "x")):
        assert (answer.status_code, answer.json["error"]) == (503, "not ready")


def test_where_a_password_is_set_it_is_asked_for(client, monkeypatch):
    monkeypatch.setenv(BACKEND_PASSWORD, PASSWORD)
    for given in ("wrong", ""):
        for answer in (client.get("/health", headers=basic(given)), client.post("/setup", headers=basic(given)),
                       client.post("/predict", json={}, headers=basic(given))):
            assert (answer.status_code, answer.json["error"]) == (401, "wrong password")
    assert client.get("/health").status_code == 401
    assert client.get("/health", headers=basic(PASSWORD)).status_code == 200
    assert client.get("/healthz").status_code == 200


def basic(password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"any:{password}".encode()).decode()}


# the real server


class Recorder:
    """Keeps what a WSGI application is asked."""

    def __init__(self, app):
        self.app, self.asked = app, []

    def __call__(self, environment, respond):
        self.asked.append(f"{environment['REQUEST_METHOD']} {environment['PATH_INFO']}")
        return self.app(environment, respond)


@contextmanager
def served(app):
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_label_studio_retrieves_predictions(label_studio, bucket, sample_folder, tiny_bundle, monkeypatch):
    monkeypatch.setenv(BACKEND_PASSWORD, "secret")
    data_uri, models = f"s3://{bucket}/data", f"s3://{bucket}/models"
    data = open_store(data_uri)
    for path in sorted((sample_folder / "train" / "images").iterdir())[:3]:
        data.write(f"user_data/images/{path.name}", path.read_bytes())
    data.write("user_data/images/bad.png", b"no picture")
    admin = LabelStudio(label_studio.url, label_studio.token)
    project = ensure_project(admin, f"backend {uuid.uuid4().hex[:8]}")
    ensure_storage(admin, project, data_uri)
    admin.sync_storages(project)
    app = Recorder(create_app(Reader.load(tiny_bundle, language_model=True), data_uri=data_uri))
    with served(app) as url:
        backend = {"project": project, "url": url, "title": "reader", "auth_method": "BASIC_AUTH",
                   "basic_auth_user": "label-studio"}
        with pytest.raises(LabelStudioError, match="status 400"):
            admin.request("POST", "/api/ml/", json=backend | {"basic_auth_pass": "wrong"})
        made = admin.json("POST", "/api/ml/", json=backend | {"basic_auth_pass": "secret"})
        assert (made["readable_state"], made["model_version"]) == ("Connected", tiny_bundle.name)
        for _ in range(2):
            admin.request("POST", f"/api/dm/actions?id=retrieve_tasks_predictions&project={project}",
                          json={"selectedItems": {"all": True, "excluded": []}})
        shown = admin.json("GET", f"/api/projects/{project}/next")["predictions"]
    found = admin.json("GET", f"/api/predictions/?project={project}")
    assert {one["model_version"] for one in found} == {tiny_bundle.name} and len(found) == 3
    assert len({one["task"] for one in found}) == 3 and all(one["result"] and one["score"] for one in found)
    assert len(shown) == 1  # the project shows them: the backend's title became its model_version
    assert {"GET /health", "POST /setup", "POST /predict"} == set(app.asked)
    let_serve(tiny_bundle, models)
    done = prelabel(admin, project, models, data_uri, sync=False)
    assert (done.already, done.posted, done.unreadable) == (3, 0, {"not a picture": 1})
    assert json.loads(json.dumps(done.summary()))["already"] == 3
