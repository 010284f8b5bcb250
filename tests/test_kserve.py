"""The golden exchanges of KServe's own server (0.21): ours answers the same, and so does KServe's, still."""

import http.client
import json
import sys
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest

from handwriting.ctc import Reading
from handwriting.predictor import create_app
from pipeline.ports import free_port
from pipeline.processes import ProcessServer

PICTURE = "iVBORw0KGgo="
READING = Reading("Số 47", 0.875, (0.5, 0.75, 1.0, 1.0, 0.875))  # fractions that FP32 holds as they are
PREDICTION = {"text": "Số 47", "confidence": 0.875, "characters": [0.5, 0.75, 1.0, 1.0, 0.875], "version": "0123abcd"}
UNKNOWN = {"error": "Model with name other does not exist."}
NOT_READY = {"error": "Model with name ocr is not ready."}


def tensor(name: str, shape: list[int], datatype: str, data: list) -> dict:
    return {"name": name, "shape": shape, "datatype": datatype, "parameters": None, "data": data}


class Exchange(NamedTuple):
    """A request, and what KServe's server answers to it; `ready` is whether its model is."""

    method: str
    path: str
    body: Any
    status: int
    answer: dict
    ready: bool = True


IMAGE = {"name": "image", "shape": [1], "datatype": "BYTES", "data": [PICTURE]}
TENSORS = [tensor("text", [1], "BYTES", ["Số 47"]), tensor("confidence", [1], "FP32", [0.875]),
           tensor("characters", [1, 5], "FP32", [0.5, 0.75, 1.0, 1.0, 0.875])]
INFERENCE = {"model_name": "ocr", "model_version": "0123abcd", "id": "42", "parameters": None, "outputs": TENSORS}
METADATA = {"name": "ocr", "versions": None, "platform": "", "inputs": [
    {"name": "image", "datatype": "BYTES", "shape": [-1]}], "outputs": [
    {"name": "text", "datatype": "BYTES", "shape": [-1]}, {"name": "confidence", "datatype": "FP32", "shape": [-1]},
    {"name": "characters", "datatype": "FP32", "shape": [-1, -1]}]}
GOLDEN = [
    Exchange("GET", "/", None, 200, {"status": "alive"}),
    Exchange("GET", "/v1/models", None, 200, {"models": ["ocr"]}),
    Exchange("GET", "/v1/models/ocr", None, 200, {"name": "ocr", "ready": True}),
    Exchange("POST", "/v1/models/ocr:predict", {"instances": [{"b64": PICTURE}]}, 200, {"predictions": [PREDICTION]}),
    Exchange("POST", "/v1/models/ocr:predict", {"instances": [{"b64": PICTURE}] * 2}, 200,
             {"predictions": [PREDICTION] * 2}),
    Exchange("POST", "/v1/models/ocr:predict", {"instances": []}, 200, {"predictions": []}),
    Exchange("GET", "/v2", None, 200,
             {"name": "kserve", "version": "0.21.0", "extensions": ["model_repository_extension"]}),
    Exchange("GET", "/v2/health/live", None, 200, {"live": True}),
    Exchange("GET", "/v2/health/ready", None, 200, {"ready": True}),
    Exchange("GET", "/v2/models", None, 200, {"models": ["ocr"]}),
    Exchange("GET", "/v2/models/ocr", None, 200, METADATA),
    Exchange("GET", "/v2/models/ocr/ready", None, 200, {"name": "ocr", "ready": True}),
    Exchange("POST", "/v2/models/ocr/infer", {"id": "42", "inputs": [IMAGE]}, 200, INFERENCE),
    Exchange("GET", "/v1/models/other", None, 404, UNKNOWN),
    Exchange("POST", "/v1/models/other:predict", {"instances": [{"b64": PICTURE}]}, 404, UNKNOWN),
    Exchange("GET", "/v1/models/ocr:predict", None, 404, {"error": "Model with name ocr:predict does not exist."}),
    Exchange("GET", "/v2/models/other", None, 404, UNKNOWN),
    Exchange("GET", "/v2/models/other/ready", None, 404, UNKNOWN),
    Exchange("POST", "/v2/models/other/infer", {"id": "42", "inputs": [IMAGE]}, 404, UNKNOWN),
    Exchange("GET", "/nothing", None, 404, {"detail": "Not Found"}),
    Exchange("PUT", "/v2/models/ocr/infer", {}, 405, {"detail": "Method Not Allowed"}),
    Exchange("POST", "/v1/models/ocr:predict", b"", 400, {
        "error": "Unrecognized request format: Input is a zero-length, empty document: line 1 column 1 (char 0)"}),
    Exchange("POST", "/v1/models/ocr:predict", b"[text]", 400, {
        "error": "Unrecognized request format: invalid literal, expected 'true': line 1 column 2 (char 1)"}),
    Exchange("POST", "/v1/models/ocr:predict", {"instances": "x"}, 400,
             {"error": 'Expected "instances" to be a list'}),
    Exchange("POST", "/v2/models/ocr/infer", {}, 422, {"detail": [
        {"type": "missing", "loc": ["body", "InferenceRequest", "inputs"], "msg": "Field required", "input": {}},
        {"type": "bytes_type", "loc": ["body", "bytes"], "msg": "Input should be a valid bytes", "input": {}}]}),
    Exchange("GET", "/", None, 200, {"status": "alive"}, ready=False),
    Exchange("GET", "/v1/models", None, 200, {"models": ["ocr"]}, ready=False),
    Exchange("GET", "/v1/models/ocr", None, 503, NOT_READY, ready=False),
    Exchange("POST", "/v1/models/ocr:predict", {"instances": [{"b64": PICTURE}]}, 503, NOT_READY, ready=False),
    Exchange("GET", "/v2/health/live", None, 200, {"live": True}, ready=False),
    Exchange("GET", "/v2/models/ocr", None, 200, METADATA, ready=False),
    Exchange("GET", "/v2/models/ocr/ready", None, 503, NOT_READY, ready=False),
    Exchange("POST", "/v2/models/ocr/infer", {"id": "42", "inputs": [IMAGE]}, 503, NOT_READY, ready=False),
]
OWN = {"/": {"version", "routes"}, "/v2": {"name", "version", "extensions"}, "/v2/models/ocr": {"versions", "platform"}}
"""Fields in which we speak of ourselves; all others are the same."""
BETTER = [  # (request, KServe's status, ours)
    ("POST", "/v1/models/ocr:predict", {}, 500, 400),
    ("POST", "/v1/models/ocr:predict", [], 500, 400),
    ("POST", "/v2/models/ocr/infer", {"id": "42", "inputs": []}, 500, 422),
    ("POST", "/v2/models/ocr/infer", {"inputs": [IMAGE]}, 500, 200),  # the protocol lets a client leave out its id
    ("POST", "/v2/models/ocr/infer", b"{no json", 422, 400),  # as in V1, and as KServe does for other content types
    ("GET", "/v2/models/ocr/versions/1", None, 501, 404),
    ("GET", "/v2/models/ocr/versions/0123abcd", None, 501, 200),
]
KSERVE = """
import sys
from kserve import InferOutput, InferResponse, Model, ModelServer

class Ocr(Model):
    async def healthy(self):
        return sys.argv[2] == "True"

    async def get_input_types(self):
        return METADATA["inputs"]

    async def get_output_types(self):
        return METADATA["outputs"]

    def predict(self, payload, headers=None, response_headers=None):
        if isinstance(payload, dict):
            return {"predictions": [PREDICTION for _ in payload["instances"]]}
        payload.inputs[0]
        outputs = [InferOutput(one["name"], one["shape"], one["datatype"], one["data"]) for one in TENSORS]
        return InferResponse(payload.id, self.name, outputs, model_version="0123abcd")

model = Ocr("ocr")
model.ready = True
ModelServer(http_port=int(sys.argv[1]), enable_grpc=False).start([model])
"""
"""KServe's server around a model that always reads the same."""


class FakeReader:
    version = "0123abcd"
    profile = language_model = None

    def read(self, pictures):
        return [READING] * len(pictures)


@pytest.fixture
def ours():
    """Test clients of our application, by whether its model is ready."""
    return {ready: create_app(FakeReader() if ready else None, name="ocr").test_client() for ready in (True, False)}


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """URLs of KServe's own servers, by whether their model is ready."""
    folder, names = tmp_path_factory.mktemp("kserve"), ("METADATA", "PREDICTION", "TENSORS")
    code = "".join(f"{name} = {globals()[name]!r}\n" for name in names) + KSERVE
    ports = {True: free_port(), False: free_port()}
    servers = [ProcessServer("KServe", [sys.executable, "-c", code, str(port), str(ready)],
                             f"http://127.0.0.1:{port}/v2/health/live", folder / f"{ready}.log", deadline=60)
               for ready, port in ports.items()]
    with servers[0], servers[1]:
        yield {ready: f"http://127.0.0.1:{port}" for ready, port in ports.items()}


def payload(body) -> bytes | None:
    return body if body is None or isinstance(body, bytes) else json.dumps(body).encode()


def ask(url: str, method: str, path: str, body) -> tuple[int, str, Any]:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=20)
    try:
        connection.request(method, path, payload(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.headers["Content-Type"], json.loads(answer.read())
    finally:
        connection.close()


def _without(names: set[str], answer: dict) -> dict:
    return {name: value for name, value in answer.items() if name not in names}


def named(exchange: Exchange) -> str:
    return f"{exchange.method} {exchange.path}-{exchange.status}"


@pytest.mark.parametrize("exchange", GOLDEN, ids=named)
def test_we_answer_as_kserves_own_server_does(ours, exchange):
    response = ours[exchange.ready].open(exchange.path, method=exchange.method, data=payload(exchange.body),
                                         content_type="application/json")
    assert (response.status_code, response.content_type) == (exchange.status, "application/json")
    if exchange.status != 200:
        assert isinstance(response.json["error"], str)
        return
    own = OWN.get(exchange.path, set())
    assert set(exchange.answer) <= set(response.json)
    assert _without(own, response.json) == _without(own, exchange.answer)


@pytest.mark.parametrize("exchange", GOLDEN, ids=named)
def test_the_golden_answers_are_those_of_kserves_own_server(theirs, exchange):
    status, content_type, answer = ask(theirs[exchange.ready], exchange.method, exchange.path, exchange.body)
    assert (status, content_type) == (exchange.status, "application/json")
    assert answer == exchange.answer


@pytest.mark.parametrize(("method", "path", "body", "status", "better"), BETTER)
def test_where_kserves_server_fails_ours_goes_by_the_protocol(ours, theirs, method, path, body, status, better):
    assert ask(theirs[True], method, path, body)[0] == status
    response = ours[True].open(path, method=method, data=payload(body), content_type="application/json")
    assert response.status_code == better
