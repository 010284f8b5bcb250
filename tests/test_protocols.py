"""KServe's protocols: the exchanges of KServe's own server, and what it would leave to the model."""

import base64
import json

import pytest
from helpers import TEXT, FakeReader, drawing, encoded
from PIL import Image

from handwriting.ctc import Reading
from handwriting.predictor import create_app
from handwriting.protocols import MAX_PICTURES
from handwriting.user_data import UserPictures

PICTURE = base64.b64encode(encoded(drawing())).decode()
NO_PICTURE = base64.b64encode(b"%PDF-1.7").decode()
V1, V2 = "/v1/models/ocr:predict", "/v2/models/ocr/infer"
READING = {"text": TEXT, "confidence": 0.8765, "characters": [0.9] * len(TEXT), "version": "0123abcd"}


def tensor(*data, **changes) -> dict:
    return {"name": "image", "shape": [len(data)], "datatype": "BYTES", "data": list(data)} | changes


def inputs(*data, **changes) -> dict:
    return {"inputs": [tensor(*data, **changes)]}


def instances(*data) -> dict:
    return {"instances": [{"b64": text} for text in data]}


@pytest.fixture
def client():
    return create_app(FakeReader(), name="ocr").test_client()


@pytest.fixture
def loading():
    return create_app(None, name="ocr").test_client()


def send(client, path, body):
    """Posts any JSON, also null and half a surrogate pair."""
    return client.post(path, data=json.dumps(body))


def assert_refused(response, status, reason, message=""):
    assert (response.status_code, response.json["error"]) == (status, reason)
    assert set(response.json) == {"error", "message"}
    assert message in response.json["message"]


def outputs(response) -> dict[str, tuple]:
    assert response.status_code == 200, response.data
    return {one["name"]: (one["datatype"], one["shape"], one["data"]) for one in response.json["outputs"]}


class Texts(FakeReader):
    """Reads texts of several lengths, one after the other."""

    def __init__(self, *texts):
        self.texts = list(texts)

    def read(self, pictures):
        text = self.texts.pop(0)
        return [Reading(text, 0.5, tuple(0.1 * (number + 1) for number in range(len(text))))]


def test_several_pictures_give_as_many_predictions_in_order():
    client = create_app(Texts("a", "bcd"), name="ocr").test_client()
    predictions = client.post(V1, json=instances(PICTURE, PICTURE)).json["predictions"]
    assert [(one["text"], one["characters"]) for one in predictions] == [("a", [0.1]), ("bcd", [0.1, 0.2, 0.3])]


def test_several_pictures_give_tensors_padded_to_the_longest_text():
    client = create_app(Texts("a", "", "bcd"), name="ocr").test_client()
    assert outputs(client.post(V2, json=inputs(PICTURE, PICTURE, PICTURE))) == {
        "text": ("BYTES", [3], ["a", "", "bcd"]), "confidence": ("FP32", [3], [0.5, 0.5, 0.5]),
        "characters": ("FP32", [3, 3], [0.1, 0, 0, 0, 0, 0, 0.1, 0.2, 0.3])}


@pytest.mark.parametrize(("texts", "shape"), [(["", ""], [2, 0]), ([], [0, 0])])
def test_nothing_read_is_an_empty_tensor(texts, shape):
    client = create_app(Texts(*texts), name="ocr").test_client()
    assert outputs(client.post(V2, json=inputs(*[PICTURE] * len(texts))))["characters"] == ("FP32", shape, [])


def test_no_picture_gives_no_prediction(client):
    assert client.post(V1, json=instances()).json == {"predictions": []}


def test_the_outputs_asked_for_are_answered_in_that_order(client):
    body = inputs(PICTURE) | {"outputs": [{"name": "confidence"}, {"name": "text", "parameters": {}}]}
    assert list(outputs(client.post(V2, json=body))) == ["confidence", "text"]
    assert len(outputs(client.post(V2, json=body | {"outputs": []}))) == 3


def test_metadata_describes_what_infer_takes_and_gives(client):
    metadata = client.get("/v2/models/ocr").json
    [taken] = metadata["inputs"]
    given = outputs(client.post(V2, json={"inputs": [tensor(PICTURE) | {"name": taken["name"]}]}))
    assert (taken["datatype"], len(taken["shape"])) == ("BYTES", 1)
    assert {entry["name"]: (entry["datatype"], len(entry["shape"])) for entry in metadata["outputs"]} == {
        name: (datatype, len(shape)) for name, (datatype, shape, _) in given.items()}


def test_text_stays_readable_in_json(client):
    assert TEXT in client.post(V1, json=instances(PICTURE)).data.decode()
    assert TEXT in client.post(V2, json=inputs(PICTURE)).data.decode()


@pytest.mark.parametrize("content_type", [None, "application/json", "text/plain", "application/x-www-form-urlencoded",
                                          "application/octet-stream", "multipart/form-data; boundary=x"])
def test_the_content_type_does_not_matter(client, content_type):
    headers = {"Content-Type": content_type} if content_type else {}
    assert client.post(V1, data=json.dumps(instances(PICTURE)), headers=headers).status_code == 200
    assert client.post(V2, data=json.dumps(inputs(PICTURE)), headers=headers).status_code == 200


def test_an_answer_has_the_id_of_the_request_else_that_of_the_log(client):
    assert client.post(V2, json=inputs(PICTURE) | {"id": "a 42"}).json["id"] == "a 42"
    response = client.post(V2, json=inputs(PICTURE))
    assert response.json["id"] == response.headers["X-Request-Id"]


def test_a_version_is_answered_while_it_serves_and_another_is_404(client, loading):
    for path in ("", "/ready"):
        assert client.get(f"/v2/models/ocr/versions/0123abcd{path}").json == client.get(f"/v2/models/ocr{path}").json
        assert_refused(client.get(f"/v2/models/ocr/versions/1{path}"), 404, "unknown version", "0123abcd")
        assert_refused(loading.get(f"/v2/models/ocr/versions/1{path}"), 503, "not ready")
    assert client.post("/v2/models/ocr/versions/0123abcd/infer", json=inputs(PICTURE)).status_code == 200
    assert_refused(client.post("/v2/models/ocr/versions/1/infer", json=inputs(PICTURE)), 404, "unknown version")


@pytest.mark.parametrize("path", ["/v1/models/ocr", "/v2/health/ready", "/v2/models/ocr/ready", V1, V2])
def test_without_a_model_all_but_liveness_and_names_is_503(loading, path):
    response = loading.open(path, method="POST" if path in (V1, V2) else "GET", json=instances())
    assert_refused(response, 503, "not ready")
    assert response.headers["Retry-After"] == "5"


def test_without_a_model_liveness_and_names_are_answered(loading):
    assert loading.get("/v2/health/live").json == {"live": True}
    assert loading.get("/v1/models").json == {"models": ["ocr"]}
    assert loading.get("/v2/models/ocr").json["versions"] == []


@pytest.mark.parametrize("path", ["/v1/models/x", "/v2/models/x", "/v2/models/x/ready", "/v1/models/x:predict",
                                  "/v2/models/x/infer", "/v2/models/x/versions/1/infer", "/v1/models/ocr%20:predict",
                                  "/v1/models/%ed%a0%80:predict", "/v2/models/%f0%9f%98%80/infer"])
@pytest.mark.parametrize("ready", [True, False])
def test_another_model_is_404_before_all_else(client, loading, path, ready):
    method = "POST" if path.endswith((":predict", "/infer")) else "GET"
    assert_refused((client if ready else loading).open(path, method=method, data=b"{"), 404, "unknown model", "'ocr'")


@pytest.mark.parametrize("body", [b"", b"{", b"nonsense", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 100_000, b"1" * 5000,
                                  b"{'instances': []}", b'{"instances": ["\n"]}'])
@pytest.mark.parametrize("path", [V1, V2])
def test_a_body_that_is_no_json_is_400(client, path, body):
    assert_refused(client.post(path, data=body), 400, "no json")


@pytest.mark.parametrize("body", [
    [], "text", 1, None, {}, {"instances": None}, {"instances": {}}, {"instances": "x"}, {"instances": [1]},
    {"instances": [None]}, {"instances": [[]]}, {"instances": [{}]}, {"instances": [{"b64": None}]},
    {"instances": [{"b64": 1}]}, {"instances": [{"b64": [PICTURE]}]}, {"instances": [PICTURE]}, {"inputs": []}])
def test_a_body_of_another_form_is_400_in_v1(client, body):
    assert_refused(send(client, V1, body), 400, "invalid body")


@pytest.mark.parametrize("body", [
    [], "text", 1, None, {}, {"inputs": None}, {"inputs": {}}, {"inputs": []}, {"inputs": [1]}, {"inputs": [[]]},
    {"inputs": [{}]}, inputs(PICTURE, name=None), inputs(PICTURE, name=1), inputs(PICTURE, datatype="FP32"),
    inputs(PICTURE, datatype=None), inputs(PICTURE, shape=None), inputs(PICTURE, shape=1), inputs(PICTURE, shape=[]),
    inputs(PICTURE, shape=[2]), inputs(PICTURE, shape=[1, 1]), inputs(PICTURE, shape=["1"]), inputs(PICTURE, data=None),
    inputs(PICTURE, data=PICTURE), inputs([PICTURE]), inputs(None), inputs(1), inputs({"b64": PICTURE}),
    {"inputs": [tensor(PICTURE), tensor(PICTURE)]}, inputs(PICTURE) | {"id": 1}, inputs(PICTURE) | {"id": []},
    inputs(PICTURE) | {"id": "\ud800"}, inputs(PICTURE) | {"outputs": "text"}, inputs(PICTURE) | {"outputs": ["text"]},
    inputs(PICTURE) | {"outputs": [{}]}, inputs(PICTURE) | {"outputs": [{"name": "what"}]},
    inputs(PICTURE) | {"outputs": [{"name": ["text"]}]}])
def test_a_body_of_another_form_is_422_in_v2(client, body):
    assert_refused(send(client, V2, body), 422, "invalid body")


@pytest.mark.parametrize("text", ["%", "QQ", "QUJD\nQUJD", "ü", "\ud800", "data:image/png;base64,QUJD"])
def test_what_is_no_base64_is_refused_by_its_place(client, text):
    assert_refused(send(client, V1, instances(PICTURE, text)), 400, "invalid body", "instances[1]")
    assert_refused(send(client, V2, inputs(PICTURE, text)), 422, "invalid body", "data[1]")


@pytest.mark.parametrize(("picture", "status", "reason"), [
    (b"", 400, "empty"), (b"%PDF-1.7", 415, "not a picture"), (encoded(drawing())[:60], 415, "truncated"),
    (encoded(Image.new("L", (40, 4))), 400, "too small"), (encoded(Image.new("L", (4000, 20))), 400, "too wide"),
    (encoded(Image.new("L", (2000, 600))), 413, "too large")])
def test_a_picture_that_cannot_be_read_refuses_all_and_is_named(client, picture, status, reason):
    bad = base64.b64encode(picture).decode()
    assert_refused(client.post(V1, json=instances(PICTURE, bad)), status, reason, "instances[1]: ")
    assert_refused(client.post(V2, json=inputs(bad, PICTURE)), status, reason, "data[0]: ")


def test_too_many_pictures_are_413_and_the_most_are_read(client):
    assert len(client.post(V1, json=instances(*[PICTURE] * MAX_PICTURES)).json["predictions"]) == MAX_PICTURES
    many = [PICTURE] * (MAX_PICTURES + 1)
    for response in (client.post(V1, json=instances(*many)), client.post(V2, json=inputs(*many))):
        assert_refused(response, 413, "too many pictures", str(MAX_PICTURES))


@pytest.mark.parametrize("path", [V1, V2])
def test_a_body_over_the_limit_is_413(path):
    client = create_app(FakeReader(), max_bytes=1000, name="ocr").test_client()
    assert_refused(client.post(path, data=b"[" + b" " * 1000), 413, "too large")


def test_binary_tensors_are_refused_with_what_to_send(client):
    body = json.dumps({"inputs": [tensor() | {"parameters": {"binary_data_size": 4}}]}).encode()
    response = client.post(V2, data=body + b"\0\1\2\3", headers={"Inference-Header-Content-Length": str(len(body))})
    assert_refused(response, 415, "binary tensors", "base64")
    assert client.get("/v2").json["extensions"] == []


@pytest.mark.parametrize(("path", "body"), [(V1, instances), (V2, inputs)])
def test_pictures_are_kept_once_all_were_read_unless_the_client_refuses(tmp_path, path, body):
    store = UserPictures(str(tmp_path))
    client = create_app(FakeReader(), store, name="ocr").test_client()
    assert client.post(path, json=body(PICTURE, NO_PICTURE)).status_code == 415
    assert client.post(path, json=body(PICTURE, PICTURE), headers={"X-Keep-Picture": "no"}).status_code == 200
    assert client.post(path, json=body(PICTURE, PICTURE)).status_code == 200
    store.close()
    assert store.stored == 2


def test_a_wrong_method_says_which_one_is_right(client):
    response = client.get(V2)
    assert_refused(response, 405, "method not allowed")
    assert "POST" in response.headers["Allow"]
