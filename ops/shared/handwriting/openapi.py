"""The predictor's OpenAPI document, `GET /openapi.json`: a table of its routes, and what all of their answers have.

Limits and names are the constants of the code that heeds them, and the statuses of refusals are told once. A test
compares table and application, and fuzzing holds the answers against the document.
"""

import re
from typing import Any, NamedTuple

from handwriting.image import FORMATS, ImageConfig
from handwriting.layout import BACKEND_PASSWORD, FIELD, KEEP_HEADER, TOKEN, VERSION_HEADER
from handwriting.ml_backend import MAX_TASKS, PATHS
from handwriting.monitoring import REQUEST_ID
from handwriting.page import MAX_TEXT, SAFETY, TEXT_FIELD
from handwriting.protocols import MAX_PICTURES, OUTPUTS

Schema = dict[str, Any]
JSON, TEXT, FORM = "application/json", "text/plain", "multipart/form-data"
ID = "X-Request-Id"
STRING: Schema = {"type": "string"}
BOOLEAN: Schema = {"type": "boolean"}
FRACTION: Schema = {"type": "number", "minimum": 0, "maximum": 1}
PICTURE: Schema = {"type": "string", "format": "binary",
                   "description": f"{', '.join(FORMATS)}, up to {ImageConfig.max_pixels} pixels"}
BASE64: Schema = {"type": "string", "contentEncoding": "base64", "contentMediaType": "application/octet-stream"}
EXAMPLE = "UDQKOCA4CgAAAgIAAAAA"  # 8 x 8 px with a stroke, in base64

REFUSALS = {
    400: "the request, or the shape of its picture, is wrong", 401: "the token or the password is missing or wrong",
    403: "a page of another site sent it", 404: "there is no such model or version here",
    408: "it did not arrive whole in time", 409: "this service keeps no pictures",
    413: "too many bytes, pixels or pictures",
    415: "no picture that can be read", 422: "JSON of another form, or a text that no line can have",
    503: "not ready, or busy: ask again later"}
TOLD = {401: "WWW-Authenticate", 503: "Retry-After"}  # in answers of these statuses
READING = (400, 401, 408, 413, 415, 503)  # statuses of all that reads pictures


def _object(**properties: Schema) -> Schema:
    return {"type": "object", "required": list(properties), "properties": properties}


def _list(items: Schema, **limits: int) -> Schema:
    return {"type": "array", "items": items, **limits}


_MODELS = _object(models=_list(STRING))
_READY = _object(name=STRING, ready=BOOLEAN)
_READING = _object(text=STRING, confidence=FRACTION, characters=_list(FRACTION), version=STRING)
_TENSOR = _object(name=STRING, datatype={"enum": sorted({kind for kind, _ in OUTPUTS.values()})},
                  shape=_list({"type": "integer"}))
_METADATA = _object(name=STRING, versions=_list(STRING), platform=STRING, inputs=_list(_TENSOR), outputs=_list(_TENSOR))
_INFER = _object(inputs=_list(_object(name=STRING, datatype={"const": "BYTES"},
                                      shape=_list({"type": "integer"}, minItems=1, maxItems=1),
                                      data=_list(BASE64, maxItems=MAX_PICTURES)), minItems=1, maxItems=1))
_INFER["properties"] |= {"id": STRING, "outputs": _list(_object(name={"enum": list(OUTPUTS)}))}
_INFERRED = _object(model_name=STRING, model_version=STRING, id=STRING, outputs=_list(
    {"allOf": [_TENSOR, _object(data=_list({"type": ["string", "number"]}))]}))
_TASKS = _object(tasks=_list({"type": "object"}), label_config=STRING)
_TASKS["description"] = f"Label Studio's tasks, of which {MAX_TASKS} are read"
_INSTANCES = _object(instances=_list(_object(b64=BASE64), maxItems=MAX_PICTURES))


class Route(NamedTuple):
    """What one route does.

    Attributes:
        says: Its summary.
        gives: Schemas of its answer by content type; none for 204.
        refuses: Statuses of its refusals.
        takes: Schemas of a request's body by content type.
        example: Of a body in JSON.
    """

    says: str
    gives: dict[str, Schema]
    refuses: tuple[int, ...] = ()
    takes: dict[str, Schema] | None = None
    example: Any = None


_ONE = {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": [EXAMPLE]}]}
_INFER_ROUTE = Route("Open Inference Protocol V2", {JSON: _INFERRED}, (*READING, 404, 422), {JSON: _INFER}, _ONE)
_METADATA_ROUTE = Route("what infer takes and gives", {JSON: _METADATA}, (404, 503))
_READY_ROUTE = Route("the model is loaded", {JSON: _READY}, (404, 503))
ROUTES = {
    "POST /predict": Route(
        "the text of a picture of one line; with JSON Label Studio's ML backend",
        {TEXT: STRING, JSON: {"anyOf": [_READING, _object(results=_list({"type": "object"}))]}},
        READING, {FORM: _object(**{FIELD: PICTURE}), JSON: _TASKS}),
    "POST /correction": Route(
        "keeps a picture and what it really says", {}, (*READING, 403, 409, 422),
        {FORM: _object(**{FIELD: PICTURE, TEXT_FIELD: {**STRING, "minLength": 1, "maxLength": MAX_TEXT}})}),
    "GET /healthz": Route("alive", {JSON: _object(status=STRING)}),
    "GET /readyz": Route("model loaded", {JSON: _object(ready=BOOLEAN, version=STRING)}, (503,)),
    "GET /metrics": Route("Prometheus", {TEXT: STRING}),
    "GET /": Route("this list; for browsers a page to try it",
                   {JSON: _object(status=STRING, version=STRING, routes={"type": "object"}), "text/html": STRING}),
    "GET /openapi.json": Route("all of this as OpenAPI", {JSON: {"type": "object", "required": ["openapi"]}}),
    "GET /v1/models": Route("KServe V1: the model's name", {JSON: _MODELS}),
    "GET /v1/models/<name>": _READY_ROUTE,
    "POST /v1/models/<name>:predict": Route(
        "KServe V1", {JSON: _object(predictions=_list(_READING))}, (*READING, 404), {JSON: _INSTANCES},
        {"instances": [{"b64": EXAMPLE}]}),
    "GET /v2": Route("the server", {JSON: _object(name=STRING, version=STRING, extensions=_list(STRING))}),
    "GET /v2/health/live": Route("alive", {JSON: _object(live=BOOLEAN)}),
    "GET /v2/health/ready": Route("model loaded", {JSON: _object(ready=BOOLEAN)}, (503,)),
    "GET /v2/models": Route("V2: the model's name", {JSON: _MODELS}),
    "GET /v2/models/<name>": _METADATA_ROUTE, "GET /v2/models/<name>/versions/<version>": _METADATA_ROUTE,
    "GET /v2/models/<name>/ready": _READY_ROUTE, "GET /v2/models/<name>/versions/<version>/ready": _READY_ROUTE,
    "POST /v2/models/<name>/infer": _INFER_ROUTE, "POST /v2/models/<name>/versions/<version>/infer": _INFER_ROUTE,
    "GET /health": Route("Label Studio's ML backend: model loaded",
                         {JSON: _object(status=STRING, model_class=STRING)}, (401, 503)),
    "POST /setup": Route("Label Studio's ML backend", {JSON: _object(model_version=STRING)}, (400, 401, 408, 413, 503),
                         {JSON: _object(schema=STRING)}, {"schema": "<View/>"}),
}


def summaries(name: str) -> dict[str, str]:
    """Returns what each route does, by method and path, for a model of that name."""
    return {key.replace("<name>", name): route.says for key, route in ROUTES.items()}


def document(name: str, version: str, max_bytes: int) -> dict[str, Any]:
    """Returns the document.

    Args:
        name: The model's name in KServe's protocols.
        version: What serves; empty while no model is loaded.
        max_bytes: Largest request body in bytes.
    """
    paths: dict[str, Any] = {}
    for key, route in ROUTES.items():
        method, rule = key.split()
        path = rule.replace("<", "{").replace(">", "}")
        paths.setdefault(path, {})[method.lower()] = {
            "summary": route.says, **_request(path, route), "responses": _responses(route)}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Handwriting predictor", "version": version or "none",
                 "description": f"Reads pictures of one handwritten line. A request has up to {max_bytes} bytes."},
        "paths": paths,
        "components": {
            "schemas": {"Error": {**_object(error=STRING, message=STRING), "additionalProperties": False}},
            "parameters": {
                "name": _parameter("name", "path", {"enum": [name]}),
                "version": _parameter("version", "path", {"enum": [version]} if version else STRING),
                ID: _parameter(ID, "header", {**STRING, "pattern": f"^{REQUEST_ID.pattern}$"}),
                KEEP_HEADER: _parameter(KEEP_HEADER, "header", {"enum": ["yes", "no"], "default": "yes"})},
            "responses": {str(status): _answer(says, {JSON: _reference("schemas", "Error")}, TOLD.get(status))
                          for status, says in REFUSALS.items()},
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": f"{TOKEN}, where it is set"},
                "password": {"type": "http", "scheme": "basic", "description": f"{BACKEND_PASSWORD} or the token"}}}}


def _parameter(name: str, place: str, schema: Schema) -> dict[str, Any]:
    return {"name": name, "in": place, "required": place == "path", "schema": schema}


def _reference(kind: str, name: object) -> Schema:
    return {"$ref": f"#/components/{kind}/{name}"}


def _request(path: str, route: Route) -> dict[str, Any]:
    names = [*re.findall("{(.+?)}", path), ID, *([KEEP_HEADER] if 415 in route.refuses else [])]
    found: dict[str, Any] = {"parameters": [_reference("parameters", name) for name in names]}
    if 401 in route.refuses:  # where nothing is set, anybody may ask
        found["security"] = [{"token": []}, *([{"password": []}] if path in PATHS else []), {}]
    if route.takes:
        example = {"example": route.example} if route.example else {}
        content = {kind: {"schema": schema, **example} for kind, schema in route.takes.items()}
        found["requestBody"] = {"required": True, "content": content}
    return found


def _responses(route: Route) -> dict[str, Any]:
    return {"200" if route.gives else "204": _answer(route.says, route.gives),
            **{str(status): _reference("responses", status) for status in sorted(route.refuses)}}


def _answer(says: str, gives: dict[str, Schema], more: str | None = None) -> dict[str, Any]:
    """Of the headers only the version may be absent, as long as no model is loaded."""
    names = [VERSION_HEADER, ID, *SAFETY, *([more] if more else [])]
    content = {"content": {kind: {"schema": schema} for kind, schema in gives.items()}} if gives else {}
    return {"description": says, **content,
            "headers": {name: {"required": name != VERSION_HEADER, "schema": STRING} for name in names}}
