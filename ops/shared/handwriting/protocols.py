"""KServe's two protocols over REST around the predictor: V1 (`:predict`) and V2, the Open Inference Protocol (`infer`).

A picture is a base64 string: `{"b64": ...}` in V1, an element of the one BYTES tensor in V2. Answers have the form that
KServe 0.21's own server gives them.
"""

import base64
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from flask import Flask, Response, current_app, g, jsonify, request

from handwriting.errors import HandwritingError
from handwriting.layout import KEEP_HEADER

if TYPE_CHECKING:
    from handwriting.ctc import Reading
    from handwriting.predictor import Predictor

MAX_PICTURES = 32
INVALID_V1, INVALID_V2 = 400, 422  # status of a JSON body of another form, as KServe answers it
PLATFORM = "onnxruntime_onnx"
INPUT = {"name": "image", "datatype": "BYTES", "shape": [-1]}
OUTPUTS = {"text": ("BYTES", [-1]), "confidence": ("FP32", [-1]), "characters": ("FP32", [-1, -1])}
BINARY_HEADER = "Inference-Header-Content-Length"


class Refused(HandwritingError):
    """A request without a reading: `status` is the HTTP code, `reason` the short name a client can test for."""

    def __init__(self, status: int, reason: str, message: str):
        super().__init__(message)
        self.status, self.reason = status, reason


def add_routes(app: Flask) -> None:
    """Adds the routes of both protocols."""
    model, version = "/v2/models/<name>", "/versions/<version>"
    asked: dict[str, Callable[..., Response]] = {
        "/v1/models": models, "/v1/models/<name>": model_ready,
        "/v2": server, "/v2/health/live": server_live, "/v2/health/ready": server_ready, "/v2/models": models,
        model: model_metadata, f"{model}{version}": model_metadata,
        f"{model}/ready": model_ready, f"{model}{version}/ready": model_ready}
    posted: dict[str, Callable[..., Response]] = {
        "/v1/models/<name>:predict": predict_v1, f"{model}/infer": infer_v2, f"{model}{version}/infer": infer_v2}
    for method, views in {"GET": asked, "POST": posted}.items():
        for rule, view in views.items():
            app.add_url_rule(rule, view_func=view, methods=[method])


def models() -> Response:
    """`GET /v1/models`, `GET /v2/models`: the names of the models, which is one."""
    return jsonify(models=[_predictor().name])


def model_ready(name: str, version: str | None = None) -> Response:
    """`GET /v1/models/<name>`, `GET /v2/models/<name>/ready`: the model is loaded."""
    _model(name, version).loaded()
    return jsonify(name=name, ready=True)


def server() -> Response:
    """`GET /v2`: the server; the bundle holds its code, so its version is the model's."""
    return jsonify(name="handwriting-predictor", version=_predictor().version, extensions=[])


def server_live() -> Response:
    """`GET /v2/health/live`: the process answers."""
    return jsonify(live=True)


def server_ready() -> Response:
    """`GET /v2/health/ready`: the model is loaded."""
    _predictor().loaded()
    return jsonify(ready=True)


def model_metadata(name: str, version: str | None = None) -> Response:
    """`GET /v2/models/<name>`: version, input and outputs; -1 is any number."""
    predictor = _model(name, version)
    outputs = [{"name": output, "datatype": datatype, "shape": shape} for output, (datatype, shape) in OUTPUTS.items()]
    return jsonify(name=name, versions=[predictor.version] if predictor.version else [], platform=PLATFORM,
                   inputs=[INPUT], outputs=outputs)


def predict_v1(name: str) -> Response:
    """`POST /v1/models/<name>:predict`: `{"instances": [{"b64": ...}]}` gives one prediction for each."""
    predictor = _model(name)
    predictor.loaded()
    instances = _body(INVALID_V1).get("instances")
    if not isinstance(instances, list):
        raise _invalid(INVALID_V1, 'instances: give a list, {"instances": [{"b64": "<base64>"}]}')
    encoded = [instance.get("b64") if isinstance(instance, dict) else None for instance in instances]
    pictures = _decode(encoded, "instances", INVALID_V1)
    readings = predictor.read(pictures, wants_kept(), "instances")
    return jsonify(predictions=[reading_json(reading, predictor.version) for reading in readings])


def infer_v2(name: str, version: str | None = None) -> Response:
    """`POST /v2/models/<name>/infer`: one BYTES tensor of base64 strings, shape [n], gives the outputs asked for."""
    predictor = _model(name, version)
    predictor.loaded()
    body = _body(INVALID_V2)
    identity, wanted = _identity(body), _wanted_outputs(body)
    pictures = _decode(_input_data(body), "data", INVALID_V2)
    outputs = _output_data(predictor.read(pictures, wants_kept(), "data"))
    return jsonify(model_name=name, model_version=predictor.version, id=identity, parameters=None,
                   outputs=[_tensor(output, len(pictures), outputs[output]) for output in wanted])


def reading_json(reading: "Reading", version: str) -> dict[str, Any]:
    """Returns what JSON clients get: confidences are fractions 0-1, `characters` has one for each of the text's."""
    return {"text": reading.text, "confidence": round(reading.confidence, 4),
            "characters": [round(value, 4) for value in reading.characters], "version": version}


def wants_kept() -> bool:
    """Whether the pictures of this request may be kept: a client that sends X-Keep-Picture has to say `yes`."""
    return request.headers.get(KEEP_HEADER, "yes").strip().lower() == "yes"


def _predictor() -> "Predictor":
    return current_app.extensions["predictor"]


def _model(name: str, version: str | None = None) -> "Predictor":
    """Returns the predictor where it serves that model in that version.

    Raises:
        Refused: 404, it does not; 503, a version is asked for and no model is loaded yet.
    """
    predictor = _predictor()
    if name != predictor.name:
        raise Refused(404, "unknown model", f"there is no model {name!r} here, only {predictor.name!r}")
    if version is None:
        return predictor
    predictor.loaded()
    if version != predictor.version:
        raise Refused(404, "unknown version", f"there is no version {version!r} here, only {predictor.version!r}")
    return predictor


def _invalid(status: int, message: str) -> Refused:
    return Refused(status, "invalid body", message)


def _body(invalid: int) -> dict[str, Any]:
    """Returns the JSON object of a request, whatever content type it claims: KServe's own client claims none.

    Raises:
        Refused: 400, it is no JSON; 415, it has binary tensors; `invalid`, it is no object.
    """
    if BINARY_HEADER in request.headers:
        raise Refused(415, "binary tensors", "binary tensor data is not read here; send base64 strings in data")
    try:
        body = json.loads(request.get_data(cache=False))
    except (ValueError, RecursionError) as error:
        raise Refused(400, "no json", f"the body is no JSON ({error}); send one object") from error
    if not isinstance(body, dict):
        raise _invalid(invalid, "the body is no JSON object")
    return body


def _decode(encoded: list[Any], where: str, invalid: int) -> list[bytes]:
    """Returns the pictures of base64 strings.

    Raises:
        Refused: 413, there are too many; `invalid`, one is no base64 string.
    """
    if len(encoded) > MAX_PICTURES:
        raise Refused(413, "too many pictures", f"{len(encoded)} pictures; send up to {MAX_PICTURES} a request")
    pictures = []
    for number, text in enumerate(encoded):
        try:
            pictures.append(base64.b64decode(text, validate=True))
        except (TypeError, ValueError) as error:
            raise _invalid(invalid, f"{where}[{number}]: no picture as base64 without line breaks") from error
    return pictures


def _identity(body: dict[str, Any]) -> str:
    """Returns the client's `id`, which the answer repeats, or the one that the request's log line has."""
    identity = body.get("id")
    if identity is None:
        return g.request_id
    if not isinstance(identity, str) or not identity.isprintable():  # half a surrogate pair could not be sent back
        raise _invalid(INVALID_V2, "id: give a string of printable characters")
    return identity


def _wanted_outputs(body: dict[str, Any]) -> list[str]:
    """Returns the names of the outputs to answer: all, unless the request lists some."""
    wanted = body.get("outputs")
    if not wanted:
        return list(OUTPUTS)
    if not isinstance(wanted, list) or not all(isinstance(output, dict) for output in wanted):
        raise _invalid(INVALID_V2, 'outputs: give a list of objects, as {"name": "text"}')
    names = [output.get("name") for output in wanted]
    if not all(isinstance(name, str) and name in OUTPUTS for name in names):
        raise _invalid(INVALID_V2, f"outputs: there are {', '.join(OUTPUTS)} alone")
    return names


def _input_data(body: dict[str, Any]) -> list[Any]:
    """Returns the elements of the one input tensor; its name does not matter."""
    inputs = body.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise _invalid(INVALID_V2, "inputs: give a list of one tensor, as the model's metadata describes it")
    tensor = inputs[0]
    if not isinstance(tensor.get("name"), str) or tensor.get("datatype") != "BYTES":
        raise _invalid(INVALID_V2, "inputs[0]: give a name and the datatype BYTES")
    data = tensor.get("data")
    if not isinstance(data, list) or tensor.get("shape") != [len(data)]:
        raise _invalid(INVALID_V2, "inputs[0]: give data as a flat list, and its length n as the shape [n]")
    return data


def _output_data(readings: list["Reading"]) -> dict[str, list[Any]]:
    """Returns the flat data of each output; characters' confidences are padded with 0 to those of the longest text."""
    longest = max((len(reading.characters) for reading in readings), default=0)
    characters = [(*reading.characters, *[0.0] * (longest - len(reading.characters))) for reading in readings]
    return {"text": [reading.text for reading in readings],
            "confidence": [round(reading.confidence, 4) for reading in readings],
            "characters": [round(value, 4) for row in characters for value in row]}


def _tensor(name: str, count: int, data: list[Any]) -> dict[str, Any]:
    """Returns one output tensor; the second dimension, where there is one, follows from the length of the data."""
    datatype, shape = OUTPUTS[name]
    sizes = [count, len(data) // count if count else 0][:len(shape)]
    return {"name": name, "shape": sizes, "datatype": datatype, "parameters": None, "data": data}
