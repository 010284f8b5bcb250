"""Who may ask: the bearer token, and Label Studio's password beside it; over HTTP, and in what tells of it."""

import base64
import logging

import pytest
from helpers import TEXT, FakeReader
from test_predictor import assert_refused, post
from test_serving import READER, ask, picture, start, wait_until_ready

from handwriting.access import headers
from handwriting.errors import ConfigError
from handwriting.layout import BACKEND_PASSWORD, TOKEN
from handwriting.openapi import ROUTES
from handwriting.predictor import create_app
from pipeline.labelling import label_interface
from pipeline.predictor_client import multipart
from pipeline.ports import free_port

SECRET = "t0ken-of-the-tests"
BEARER = {"Authorization": f"Bearer {SECRET}"}
POSTED = [key.split()[1].replace("<name>", "handwriting").replace("<version>", FakeReader.version)
          for key in ROUTES if key.startswith("POST") and key != "POST /setup"]


@pytest.fixture
def client(tmp_path, monkeypatch):
    monkeypatch.setenv(TOKEN, SECRET)
    return create_app(FakeReader(), data_uri=str(tmp_path)).test_client()


def basic(password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"any:{password}".encode()).decode()}


@pytest.mark.parametrize("path", POSTED)
@pytest.mark.parametrize("given", [
    {}, {"Authorization": "Bearer "}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Bearer {SECRET}x"},
    {"Authorization": SECRET}, {"Authorization": f"Token {SECRET}"}, {"Authorization": "Bearer \xff"}, basic(SECRET),
    {"Authorization": "Bearer x=y"}])
def test_what_is_posted_needs_the_token(client, path, given):
    response = client.post(path, headers=given)
    assert_refused(response, 401, "wrong token")
    assert response.headers["WWW-Authenticate"] == 'Bearer realm="handwriting"'
    assert SECRET not in response.data.decode()


def test_with_the_token_all_is_as_without_one(client, monkeypatch):
    assert post(client, headers=BEARER).data.decode() == TEXT
    assert post(client, headers={"Authorization": f"bearer {SECRET}"}).status_code == 200
    for value in ("", " \n"):
        monkeypatch.setenv(TOKEN, value)
        assert post(client).status_code == post(client, headers=BEARER).status_code == 200


def test_a_line_break_behind_the_token_does_not_count(client, monkeypatch):
    monkeypatch.setenv(TOKEN, f"{SECRET}\n")
    assert headers() == BEARER
    assert post(client, headers=BEARER).status_code == 200


@pytest.mark.parametrize("key", [key for key in ROUTES if key.startswith("GET") and key != "GET /health"])
def test_who_only_looks_needs_no_token(client, key):
    path = key.split()[1].replace("<name>", "handwriting").replace("<version>", FakeReader.version)
    assert client.get(path).status_code == 200


def test_unknown_paths_tell_nothing_more_to_strangers(client):
    assert client.get("/nothing").status_code == 404
    assert_refused(client.post("/nothing"), 401, "wrong token")


@pytest.mark.parametrize(("password", "given", "status"), [
    ("", {}, 401), ("", basic("wrong"), 401), ("", basic(SECRET), 200), ("", BEARER, 200),
    ("phở", basic("phở"), 200), ("phở", basic(SECRET), 200), ("phở", BEARER, 200), ("phở", basic("wrong"), 401),
    ("phở", {"Authorization": "Bearer ph"}, 401), ("phở", {}, 401)])
def test_label_studio_sends_its_password_or_the_token(client, monkeypatch, password, given, status):
    monkeypatch.setenv(BACKEND_PASSWORD, password)
    setup = client.post("/setup", json={"schema": label_interface()}, headers=given)
    tasks = client.post("/predict", json={"tasks": [], "label_config": label_interface()}, headers=given)
    assert [client.get("/health", headers=given).status_code, setup.status_code, tasks.status_code] == [status] * 3
    if status == 401:
        assert setup.headers["WWW-Authenticate"] == 'Basic realm="handwriting"'


def test_the_password_of_label_studio_is_no_token(client, monkeypatch):
    monkeypatch.setenv(BACKEND_PASSWORD, "phở")
    assert_refused(post(client, headers=basic("phở")), 401, "wrong token")


def test_without_a_token_the_password_guards_label_studios_routes_alone(client, monkeypatch):
    monkeypatch.delenv(TOKEN)
    monkeypatch.setenv(BACKEND_PASSWORD, "phở")
    assert post(client).status_code == 200
    assert client.get("/health").status_code == 401


def test_neither_token_is_in_log_metrics_or_answers(client, caplog):
    caplog.set_level(logging.DEBUG)
    post(client, headers=BEARER)
    post(client, headers={"Authorization": "Bearer another-one"})
    shown = caplog.text + client.get("/metrics").data.decode() + client.get("/openapi.json").data.decode()
    assert SECRET not in shown and "another-one" not in shown
    assert 'handwriting_errors_total{reason="wrong token"} 1.0' in shown


@pytest.mark.parametrize("token", ["a b", "phở", "a\nb", "a\x00b"])
def test_a_token_that_no_header_can_have_is_told_without_itself(monkeypatch, token):
    monkeypatch.setenv(TOKEN, token.replace("\x00", "\x01"))
    with pytest.raises(ConfigError, match=f"^{TOKEN} has characters that no header can have") as caught:
        headers()
    assert token not in str(caught.value)


def test_a_stranger_with_a_large_picture_is_told_and_sees_no_broken_connection(tmp_path):
    port = free_port()
    process = start(["-c", READER], port, "--model", str(tmp_path), **{TOKEN: SECRET})
    try:
        wait_until_ready(port, process)
        for size in (9 * 2**20, 20 * 2**20):
            assert ask(port, "POST", "/predict", *multipart(b"x" * size))[0] == 401
        body, kind = multipart(picture())
        assert ask(port, "POST", "/predict", body, kind | BEARER)[0] == 200
    finally:
        process.terminate()
        assert SECRET not in process.communicate(timeout=20)[1]
