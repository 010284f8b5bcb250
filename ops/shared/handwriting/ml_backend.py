"""The predictor as Label Studio's ML backend: `GET /health`, `POST /setup`, and tasks at `POST /predict`.

Pictures come from the predictor's own DATA_URI alone, by its own keys: neither other addresses nor the token that
Label Studio sends with `/setup` are ever used.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

from flask import Flask, Response, current_app, jsonify, request

from handwriting.access import check_label_studio
from handwriting.errors import ImageError, LabelStudioError, StoreError
from handwriting.label_tasks import Interface, find_interface, picture_of, prediction
from handwriting.layout import FIELD
from handwriting.protocols import Refused
from handwriting.store import Store, open_store

if TYPE_CHECKING:
    from handwriting.predictor import Predictor

PATHS = ("/health", "/setup", "/predict")  # what Label Studio asks for; the last one with JSON
MAX_TASKS = 500  # read for one request: Label Studio waits 100 seconds, and sends all tasks that people chose
AT_ONCE = 4  # tasks of one request: more would take the places of users who wait


def add_routes(app: Flask, data_uri: str) -> None:
    """Adds the routes that Label Studio has for itself; its `/predict` is the predictor's, with a JSON body.

    Args:
        app: The predictor.
        data_uri: The folder of the splits, from which pictures are taken; empty for none.
    """
    app.config["DATA_URI"] = data_uri
    app.add_url_rule("/health", view_func=health)
    app.add_url_rule("/setup", view_func=setup, methods=["POST"])


def is_asked() -> bool:
    """Whether this request is Label Studio's: it has a route of its own, and JSON where others send a picture."""
    rule = request.url_rule.rule if request.url_rule else ""
    return rule in PATHS and (request.is_json or rule != PATHS[-1])


def health() -> Response:
    """`GET /health`: the model is loaded."""
    predictor = _predictor()
    predictor.loaded()
    return jsonify(status="UP", model_class=predictor.name)


def setup() -> Response:
    """`POST /setup`: the label interface can take readings; tells the version that they will have."""
    predictor = _predictor()
    _interface(_body().get("schema"))
    return jsonify(model_version=predictor.loaded().version)


def predict_tasks() -> Response:
    """`POST /predict` with `{"tasks": [...], "label_config": ...}`: one prediction a task, in their order.

    A task without one has `error` and `message` in its place, which Label Studio writes to its log.
    """
    predictor = _predictor()
    body = _body()
    tasks = body.get("tasks")
    if not isinstance(tasks, list):
        raise Refused(400, "invalid body", "the JSON has no list of tasks, as Label Studio sends them; a picture of "
                                           f"your own goes as multipart/form-data, in the field {FIELD!r}")
    predictor.loaded()
    read = partial(_read, predictor, _interface(body.get("label_config")), _data())
    with ThreadPoolExecutor(AT_ONCE) as pool:
        results = list(pool.map(read, tasks[:MAX_TASKS]))
    late = {"error": "too many tasks", "message": f"only {MAX_TASKS} are read at a time; retrieve again for the others"}
    return jsonify(results=results + [late] * len(tasks[MAX_TASKS:]))


def _read(predictor: "Predictor", interface: Interface, data: Store, task: Any) -> dict[str, Any]:
    reader = predictor.loaded()
    try:
        picture = picture_of(task, interface, data)
        [[reading]] = predictor.gate.map(reader.read, [[picture]])
        return prediction(reading.text, reading.confidence, reader.version, interface)
    except (ImageError, StoreError, Refused) as error:
        number = task.get("id") if isinstance(task, dict) else None
        return {"error": getattr(error, "reason", "bucket"), "message": f"task {number}: {error}"}


def _data() -> Store:
    if not current_app.config["DATA_URI"]:
        raise Refused(400, "no bucket", "this predictor has no DATA_URI to take pictures from; start it with one")
    return open_store(current_app.config["DATA_URI"])


def _interface(label_config: Any) -> Interface:
    try:
        return find_interface(label_config)
    except LabelStudioError as error:
        raise Refused(400, "label interface", str(error)) from error


def _body() -> dict[str, Any]:
    try:
        body = request.get_json(silent=True)
    except RecursionError:  # lists in lists without end
        body = None
    if not isinstance(body, dict):
        raise Refused(400, "no json", "the body is no JSON object; Label Studio sends one")
    return body


def _predictor() -> "Predictor":
    """Returns the predictor to those who may ask.

    Raises:
        Denied: The password is wrong.
    """
    check_label_studio(request.authorization)
    return current_app.extensions["predictor"]
