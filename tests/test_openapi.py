"""The OpenAPI document and the application agree: routes, methods, statuses, headers and schemas."""

import base64
import io
import json

import pytest
import schemathesis
from helpers import FakeReader, drawing, encoded
from jsonschema import Draft202012Validator

from handwriting.openapi import EXAMPLE, REFUSALS, ROUTES, document
from handwriting.predictor import MAX_BYTES, create_app
from handwriting.user_data import KeepConfig, UserPictures
from pipeline.labelling import label_interface

PATHS = {"<name>": "handwriting", "<version>": FakeReader.version}
FORM = "multipart/form-data"


@pytest.fixture
def client(tmp_path):
    store = UserPictures(str(tmp_path / "data"), KeepConfig(str(tmp_path / "spool")))
    yield create_app(FakeReader(), store, data_uri=str(tmp_path)).test_client()
    store.close()


def form(**more) -> dict:
    return {"data": {"file": (io.BytesIO(encoded(drawing())), "line.png"), **more}, "content_type": FORM}


def path_of(rule: str) -> str:
    for name, value in PATHS.items():
        rule = rule.replace(name, value)
    return rule


def assert_told(api: dict, key: str, response) -> None:
    """An answer is one that the document has: status, headers, content type and content."""
    method, rule = key.split()
    operation = api["paths"][rule.replace("<", "{").replace(">", "}")][method.lower()]
    told = operation["responses"][str(response.status_code)]
    if "$ref" in told:
        told = api["components"]["responses"][told["$ref"].rpartition("/")[2]]
    required = {name for name, header in told["headers"].items() if header["required"]}
    assert required <= set(response.headers.keys())
    if "content" not in told:
        assert response.data == b""
        return
    schema = told["content"][response.mimetype]["schema"]
    Draft202012Validator({**schema, "components": api["components"]}).validate(
        response.json if response.is_json else response.data.decode())


def test_the_document_has_the_routes_of_the_application_and_no_others(client):
    rules = client.application.url_map.iter_rules()
    assert set(ROUTES) == {f"{method} {rule.rule}" for rule in rules for method in rule.methods - {"HEAD", "OPTIONS"}}
    paths = client.get("/openapi.json").json["paths"]
    assert {f"{method.upper()} {path}" for path, operations in paths.items() for method in operations} == {
        key.replace("<", "{").replace(">", "}") for key in ROUTES}


def test_it_is_an_openapi_document_before_and_after_the_model_is_loaded(client):
    for app in (create_app(None), client.application):
        answer = app.test_client().get("/openapi.json")
        assert answer.status_code == 200
        schemathesis.openapi.from_dict(answer.json).validate()
    assert answer.json == json.loads(json.dumps(document("handwriting", FakeReader.version, MAX_BYTES)))


@pytest.mark.parametrize("key", ROUTES)
def test_a_good_request_gets_what_the_document_says(client, key):
    method, rule = key.split()
    route = ROUTES[key]
    options = {"json": route.example} if route.example else {}
    if rule in ("/predict", "/correction"):
        options = form(text="ch\u1eef")
    if rule == "/setup":
        options = {"json": {"schema": label_interface()}}
    answer = client.open(path_of(rule), method=method, **options)
    assert answer.status_code == (204 if rule == "/correction" else 200), answer.data
    assert_told(client.get("/openapi.json").json, key, answer)


@pytest.mark.parametrize("accept", ["text/plain", "application/json"])
def test_a_reading_has_the_form_that_was_asked_for(client, accept):
    answer = client.post("/predict", **form(), headers={"Accept": accept})
    assert answer.mimetype == accept
    assert_told(client.get("/openapi.json").json, "POST /predict", answer)


def test_readings_for_label_studio_have_the_form_of_the_document(client):
    answer = client.post("/predict", json={"tasks": [{"id": 1}], "label_config": label_interface()})
    assert answer.json["results"]
    assert_told(client.get("/openapi.json").json, "POST /predict", answer)


@pytest.mark.parametrize("key", ROUTES)
def test_without_a_model_each_route_answers_what_the_document_says(key):
    client = create_app(None).test_client()
    method, rule = key.split()
    answer = client.open(path_of(rule), method=method, **form())
    assert_told(client.get("/openapi.json").json, key, answer)


def test_refusals_have_one_form(client):
    api = client.get("/openapi.json").json
    for options, key, status in [
            (form(other="x") | {"content_type": "text/plain"}, "POST /predict", 400),
            ({"json": {"instances": [{"b64": "JVBERg=="}]}}, "POST /v1/models/<name>:predict", 415),
            ({"json": {"inputs": []}}, "POST /v2/models/<name>/infer", 422),
            (form(text="a\ue000"), "POST /correction", 422),
            ({"data": b"[" * (MAX_BYTES + 1)}, "POST /v1/models/<name>:predict", 413)]:
        method, rule = key.split()
        answer = client.open(path_of(rule), method=method, **options)
        assert answer.status_code == status
        assert_told(api, key, answer)


def test_every_refusal_that_is_told_belongs_to_some_route_and_the_other_way_round():
    assert {status for route in ROUTES.values() for status in route.refuses} == set(REFUSALS)


def test_the_example_is_a_picture_that_can_be_read(client):
    assert client.post("/predict", data={"file": (io.BytesIO(base64.b64decode(EXAMPLE)), "a")}).status_code == 200


def test_the_page_for_programs_lists_every_route(client):
    listed = client.get("/").json["routes"]
    assert len(listed) == len(ROUTES) and "POST /v1/models/handwriting:predict" in listed
