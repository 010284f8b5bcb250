"""Every answer of the HTTP application, with a fake reader behind it."""

import io
import json
import logging
import threading
import time

import pytest
from helpers import TEXT, BrokenReader, FakeReader
from PIL import Image

from handwriting import user_data
from handwriting.admission import Gate
from handwriting.errors import ImageError
from handwriting.image import ImageConfig, decode
from handwriting.predictor import create_app
from handwriting.user_data import KeepConfig, UserPictures


class RefusingReader(FakeReader):
    def __init__(self, reason):
        self.reason = reason

    def read(self, pictures):
        raise ImageError(self.reason, "no")


def png(width=200, height=40, file_format="PNG") -> bytes:
    out = io.BytesIO()
    Image.new("L", (width, height), 255).save(out, file_format)
    return out.getvalue()


def post(client, picture=None, field="file", **options):
    data = {field: (io.BytesIO(png() if picture is None else picture), "line.png")}
    return client.post("/predict", data=data, **options)


@pytest.fixture
def client():
    return create_app(FakeReader()).test_client()


def assert_refused(response, status, reason):
    assert (response.status_code, response.json["error"]) == (status, reason)
    assert set(response.json) == {"error", "message"}
    assert response.json["message"]


@pytest.mark.parametrize("accept", [None, "*/*", "text/plain", "text/html,*/*;q=0.8", "image/png",
                                    "application/json;q=0.5, text/plain"])
def test_predict_answers_the_text_alone(client, accept):
    response = post(client, headers={"Accept": accept} if accept else {})
    assert (response.status_code, response.content_type) == (200, "text/plain; charset=utf-8")
    assert response.data.decode() == TEXT
    assert response.headers["X-Model-Version"] == "0123abcd"


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF"])
def test_predict_takes_every_common_picture_format(client, file_format):
    assert post(client, png(file_format=file_format)).status_code == 200


@pytest.mark.parametrize("accept", ["application/json", "application/json, text/plain;q=0.9"])
def test_predict_answers_json_when_asked(client, accept):
    response = post(client, headers={"Accept": accept})
    assert response.json == {"text": TEXT, "confidence": 0.8765, "characters": [0.9] * len(TEXT),
                             "version": "0123abcd"}
    assert TEXT in response.data.decode()  # readable, not escaped


def test_a_request_beyond_those_that_may_wait_is_refused_at_once_and_the_others_are_read():
    started, go = threading.Event(), threading.Event()

    class SlowReader(FakeReader):
        def read(self, pictures):
            started.set()
            go.wait(5)
            return super().read(pictures)

    app, answers = create_app(SlowReader(), gate=Gate(running=1, waiting=0)), []
    first = threading.Thread(target=lambda: answers.append(post(app.test_client()).status_code))
    first.start()
    assert started.wait(5)
    refused = post(app.test_client())
    assert_refused(refused, 503, "busy")
    assert refused.headers["Retry-After"] == "5" and app.test_client().get("/readyz").status_code == 200
    go.set()
    first.join()
    assert answers == [200] and post(app.test_client()).status_code == 200


def test_a_body_that_is_no_multipart_is_400(client):
    assert_refused(client.post("/predict", data=png(), content_type="image/png"), 400, "no multipart")
    assert_refused(client.post("/predict"), 400, "no multipart")


def test_a_broken_multipart_is_400(client):
    for content_type in ("multipart/form-data", "multipart/form-data; boundary=x"):
        assert client.post("/predict", data=b"--y\r\nnonsense", content_type=content_type).status_code == 400


def test_another_field_is_400(client):
    assert_refused(post(client, field="image"), 400, "no file")


def test_a_text_in_the_field_is_400(client):
    assert_refused(client.post("/predict", data={"file": "line.png"}, content_type="multipart/form-data"),
                   400, "no file")


def test_two_files_are_400(client):
    two = [(io.BytesIO(png()), "a.png"), (io.BytesIO(png()), "b.png")]
    assert_refused(client.post("/predict", data={"file": two}), 400, "many files")
    both = {"file": (io.BytesIO(png()), "a.png"), "other": (io.BytesIO(png()), "b.png")}
    assert_refused(client.post("/predict", data=both), 400, "many files")


def test_an_empty_file_is_400(client):
    assert_refused(post(client, b""), 400, "empty")


@pytest.mark.parametrize(("size", "status", "reason"), [
    ((200, 4), 400, "too small"), ((4000, 20), 400, "too wide"), ((2000, 600), 413, "too large")])
def test_a_picture_of_an_impossible_size_is_refused(client, size, status, reason):
    assert_refused(post(client, png(*size)), status, reason)


def test_a_body_over_the_limit_is_413():
    client = create_app(FakeReader(), max_bytes=1000).test_client()
    assert_refused(post(client, b"x" * 1001), 413, "too large")
    assert post(client).status_code == 200


def test_bytes_that_are_no_picture_are_415(client):
    with pytest.raises(ImageError) as caught:
        decode(b"%PDF-1.7 ...", ImageConfig())
    response = post(client, b"%PDF-1.7 ...")
    assert_refused(response, 415, "not a picture")
    assert response.json["message"] == str(caught.value)


def test_a_picture_cut_off_is_415(client):
    noise = io.BytesIO()
    Image.effect_noise((200, 40), 50).save(noise, "JPEG")
    assert_refused(post(client, noise.getvalue()[:1000]), 415, "truncated")


def test_an_unknown_reason_of_the_reader_is_415():
    assert_refused(post(create_app(RefusingReader("odd")).test_client()), 415, "odd")


def test_unknown_routes_and_wrong_methods_answer_json(client):
    assert_refused(client.get("/nothing"), 404, "not found")
    response = client.get("/predict")
    assert_refused(response, 405, "method not allowed")
    assert "POST" in response.headers["Allow"]


def test_no_address_of_the_clients_choice_is_answered_to_send_it_on_to(client):
    for path in ("/v2//models", "/v1//models"):
        answer = client.get(path, headers={"Host": "evil"})
        assert_refused(answer, 404, "not found")
        assert "Location" not in answer.headers


def test_a_form_of_thousands_of_parts_is_413_and_says_so(client):
    response = client.post("/predict", data={f"field{number}": "x" for number in range(2000)},
                           content_type="multipart/form-data")
    assert_refused(response, 413, "too large")
    assert "too many parts" in response.json["message"]


def test_a_bug_is_500_without_its_details_and_is_logged_with_them(caplog):
    response = post(create_app(BrokenReader()).test_client())
    assert_refused(response, 500, "internal error")
    assert b"a bug of ours" not in response.data
    assert "a bug of ours" in caplog.text and "Traceback" in caplog.text


def test_no_user_data_is_logged(client, caplog):
    caplog.set_level(logging.DEBUG)
    post(client)
    assert TEXT not in caplog.text and "line.png" not in caplog.text


def test_probes_and_index(client):
    assert client.get("/healthz").json == {"status": "alive"}
    assert client.get("/readyz").json == {"ready": True, "version": "0123abcd"}
    index = client.get("/").json
    assert index["status"] == "alive" and "POST /predict" in index["routes"]
    assert client.get("/healthz").headers["X-Model-Version"] == "0123abcd"


def test_without_a_model_it_is_alive_and_not_ready_until_there_is_one():
    app = create_app(None)
    client = app.test_client()
    assert client.get("/healthz").status_code == 200
    for response in (client.get("/readyz"), post(client)):
        assert_refused(response, 503, "not ready")
        assert response.headers["Retry-After"] == "5"
        assert "X-Model-Version" not in response.headers
    app.extensions["predictor"].reader = FakeReader()
    assert client.get("/readyz").status_code == post(client).status_code == 200


def test_accepted_pictures_are_kept_and_refused_ones_are_not(tmp_path):
    store = UserPictures(str(tmp_path), KeepConfig(str(tmp_path / "spool")))
    client = create_app(FakeReader(), store, release="0123abcd-c0de").test_client()
    data = png()
    for picture in (data, data, b"not a picture", png(4000, 20)):
        post(client, picture)
    store.close()
    files = list((tmp_path / "user_data" / "images").iterdir())
    assert len(files) == 2  # the same picture twice: two names
    assert {file.read_bytes() for file in files} == {data}
    for file in files:
        reading = json.loads((tmp_path / "user_data" / "readings" / f"{file.stem}.json").read_text("utf-8"))
        assert (reading["text"], reading["confidence"], reading["version"]) == (TEXT, 0.8765, "0123abcd-c0de")
        assert (reading["width"], reading["language_model"]) == (320, False)
        assert len(reading["characters"]) == len(TEXT) and file.stem.endswith("-0123abcd-c0de")


def test_a_spool_without_room_costs_the_picture_not_the_answer(tmp_path):
    store = UserPictures(str(tmp_path), KeepConfig(str(tmp_path / "spool"), size=10))
    assert post(create_app(FakeReader(), store).test_client()).data.decode() == TEXT
    store.close()
    assert (store.stored, store.lost) == (0, 1)


@pytest.mark.parametrize(("header", "kept"), [
    ({}, 1), ({"X-Keep-Picture": "yes"}, 1), ({"X-Keep-Picture": " YES"}, 1), ({"X-Keep-Picture": "no"}, 0),
    ({"x-keep-picture": "No"}, 0), ({"X-Keep-Picture": "nope"}, 0), ({"X-Keep-Picture": ""}, 0)])
def test_a_picture_is_kept_unless_the_client_refuses(tmp_path, header, kept):
    store = UserPictures(str(tmp_path), KeepConfig(str(tmp_path / "spool")))
    assert post(create_app(FakeReader(), store).test_client(), headers=header).data.decode() == TEXT
    store.close()
    assert store.stored == kept


def test_a_store_that_hangs_delays_no_answer(monkeypatch, tmp_path):
    released = threading.Event()

    class HangingStore:
        def write(self, key, data):
            released.wait(10)

    monkeypatch.setattr(user_data, "open_store", lambda uri: HangingStore())
    store = UserPictures("x", KeepConfig(str(tmp_path)))
    client = create_app(FakeReader(), store).test_client()
    start = time.monotonic()
    assert [post(client).status_code for _ in range(5)] == [200] * 5
    assert time.monotonic() - start < 2
    assert (store.waiting, store.stored) == (5, 0)
    released.set()
    store.close()
    assert store.stored == 5
