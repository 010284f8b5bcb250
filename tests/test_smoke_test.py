"""The question to a deployed service: has this very version read a picture?"""

import socket

import pytest
from conftest import Answer

from handwriting.errors import DeployError
from handwriting.image import ImageConfig, read_line
from handwriting.layout import KEEP_HEADER, TOKEN, VERSION_HEADER
from handwriting.smoke_test import picture, smoke_test

GOOD = Answer(200, {"text": "12345"}, {VERSION_HEADER: "v2"})
OLD = Answer(200, {"text": "12345"}, {VERSION_HEADER: "v1"})


def ask(*urls):
    return smoke_test(list(urls), "v2", seconds=0.5, pause=0.01)


def test_the_picture_is_one_that_can_be_read():
    line = read_line(picture(), ImageConfig())
    assert line.min() < 100 < line.max()


def test_it_waits_until_the_version_itself_has_read_and_leaves_no_picture_behind(fake_server):
    fake_server.answers["POST /predict"] = [Answer(503, {"error": "not ready"}), OLD, OLD, GOOD]
    assert ask(fake_server.url) == fake_server.url
    assert len(fake_server.requests) == 4
    for _, headers, body in fake_server.requests:
        assert headers[KEEP_HEADER] == "no" and picture() in body


def test_it_sends_the_token_of_its_environment_and_never_tells_it(fake_server, monkeypatch, caplog):
    caplog.set_level("DEBUG", "handwriting")
    monkeypatch.setenv(TOKEN, "t0ken")
    fake_server.answers["POST /predict"] = [Answer(401, {"error": "wrong token"}), GOOD]
    assert ask(fake_server.url) == fake_server.url
    assert {headers["Authorization"] for _, headers, _ in fake_server.requests} == {"Bearer t0ken"}
    assert "or the predictor its token" in caplog.text and "t0ken" not in caplog.text


def test_an_address_that_cannot_be_reached_does_not_hide_one_that_can(fake_server):
    fake_server.answers["POST /predict"] = [GOOD]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        assert ask(f"http://127.0.0.1:{free.getsockname()[1]}", fake_server.url) == fake_server.url


@pytest.mark.parametrize(("answer", "said"), [
    (OLD, "answers with version v1"), (Answer(500, {"error": "internal error"}), "answers 500"),
    (Answer(403, "RBAC: access denied"), "403 RBAC: access denied: a gateway refuses this step"),
    (GOOD._replace(body={"reading": ""}), "without a text"), (GOOD._replace(body="<html>"), "JSONDecodeError"),
    (GOOD._replace(body=[]), "AttributeError")])
def test_a_service_that_does_not_read_is_told_with_its_answer(fake_server, answer, said):
    fake_server.answers["POST /predict"] = [answer]
    with pytest.raises(DeployError, match=f"version v2 does not answer within .*{said}"):
        ask(fake_server.url)


def test_a_service_without_an_address_is_told():
    with pytest.raises(DeployError, match="no address"):
        ask()
