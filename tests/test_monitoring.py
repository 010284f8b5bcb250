"""What operators see: metrics that add up, one line of log a request, and nothing of what users sent."""

import io
import json
import logging
import os
import re
import subprocess
import sys
import time

import pytest
from conftest import ROOT
from helpers import TEXT, BrokenReader, FakeReader, drawing, encoded
from prometheus_client.parser import text_string_to_metric_families

from handwriting.errors import StoreError
from handwriting.monitoring import NO_ROUTE, PROBES
from handwriting.predictor import create_app
from handwriting.store import S3Store
from handwriting.user_data import KeepConfig, UserPictures

METRICS = {"handwriting_requests", "handwriting_errors", "handwriting_request_seconds", "handwriting_model_info",
           "handwriting_requests_in_progress", "handwriting_pictures_stored", "handwriting_pictures_lost",
           "handwriting_pictures_waiting", "handwriting_pictures_waiting_bytes", "handwriting_pictures_oldest_seconds",
           "handwriting_pictures_upload_failures", "handwriting_confidence", "handwriting_line_width_px",
           "handwriting_low_confidence", "handwriting_corrections", "handwriting_corrections_unknown",
           "handwriting_trained_confidence", "handwriting_trained_line_width_px", "handwriting_trained_share"}


@pytest.fixture
def client():
    return create_app(FakeReader()).test_client()


def post(client, picture=b"", **options):
    picture = picture or encoded(drawing())
    return client.post("/predict", data={"file": (io.BytesIO(picture), "secret.png")}, **options)


def samples(page: str) -> dict[tuple, float]:
    """The samples of a page by name and label values."""
    return {(sample.name, *sample.labels.values()): sample.value
            for family in text_string_to_metric_families(page) for sample in family.samples}


def scraped(client) -> dict[tuple, float]:
    return samples(client.get("/metrics").data.decode())


def test_requests_are_counted_by_route_and_status(client):
    post(client)
    post(client)
    post(client, b"no picture")
    found = scraped(client)
    assert found["handwriting_requests_total", "/predict", "200"] == 2
    assert found["handwriting_requests_total", "/predict", "415"] == 1
    assert found["handwriting_errors_total", "not a picture"] == 1
    assert found["handwriting_request_seconds_count", "/predict"] == 3


def test_a_bug_is_counted_like_any_error():
    client = create_app(BrokenReader()).test_client()
    post(client)
    found = scraped(client)
    assert found["handwriting_requests_total", "/predict", "500"] == 1
    assert found["handwriting_errors_total", "internal error"] == 1


def test_the_paths_of_clients_never_become_labels(client):
    for number in range(20):
        client.get(f"/attack/{number}")
        client.get(f"/v1/models/model-{number}")
        client.post(f"/v2/models/model-{number}/versions/{number}/infer", data=b"{}")
        client.put("/predict")
    routes = {key[1] for key in scraped(client) if key[0] == "handwriting_requests_total"}
    assert routes == {NO_ROUTE, "/v1/models/<name>", "/v2/models/<name>/versions/<version>/infer"}
    reasons = {key[1] for key in scraped(client) if key[0] == "handwriting_errors_total"}
    assert reasons == {"not found", "unknown model", "method not allowed"}


def test_a_request_in_progress_is_seen_while_it_runs_and_not_after():
    seen = []

    class Looking(FakeReader):
        def read(self, pictures):
            seen.append(scraped(client)["handwriting_requests_in_progress",])
            return super().read(pictures)

    client = create_app(Looking()).test_client()
    post(client)
    post(client, b"no picture")
    assert seen == [1, 1]
    assert scraped(client)["handwriting_requests_in_progress",] == 0  # the scrape itself does not count


def test_confidences_are_counted_a_line(client):
    post(client)
    found = scraped(client)
    assert (found["handwriting_confidence_count",], found["handwriting_confidence_sum",]) == (1, 0.87654321)
    assert (found["handwriting_confidence_bucket", "0.85"], found["handwriting_confidence_bucket", "0.9"]) == (0, 1)


@pytest.mark.parametrize("confidence, low", [(0.84, 1), (0.94, 1), (0.9401, 0), (1.0, 0)])
def test_low_confidence_is_that_of_the_least_sure_validation_lines(confidence, low):
    class Reader(FakeReader):
        def read(self, pictures):
            return [reading._replace(confidence=confidence) for reading in super().read(pictures)]

    client = create_app(Reader()).test_client()
    post(client)
    assert scraped(client)["handwriting_low_confidence_total",] == low


def test_widths_are_counted_a_line(client):
    post(client)
    found = scraped(client)
    assert found["handwriting_line_width_px_sum",] == 320
    assert (found["handwriting_line_width_px_bucket", "315.0"], found["handwriting_line_width_px_bucket", "400.0"]) == (
        0, 1)


def test_what_the_model_was_trained_on_is_shown_in_the_bins_of_what_it_reads(client):
    post(client)
    found = scraped(client)
    for name in ("confidence", "line_width_px"):
        bins = {key[1] for key in found if key[0] == f"handwriting_{name}_bucket"}
        assert bins == {key[1] for key in found if key[0] == f"handwriting_trained_{name}"} and "+Inf" in bins
    widths = [found["handwriting_trained_line_width_px", bound] for bound in ("315.0", "400.0", "2500.0", "+Inf")]
    assert widths == [0, 0.5, 0.75, 1]
    assert found["handwriting_trained_confidence", "0.85"] == found["handwriting_trained_share", "low_confidence"]
    assert (found["handwriting_trained_share", "low_confidence"], found["handwriting_trained_share", "unknown"]) == (
        0.05, 0.015)


def test_a_model_without_a_profile_shows_nothing_of_its_training_and_serves_as_well():
    class Old(FakeReader):
        profile = None

    client = create_app(Old()).test_client()
    assert post(client).status_code == 200
    found = scraped(client)
    assert not [key for key in found if key[0].startswith("handwriting_trained")]
    assert (found["handwriting_confidence_count",], found["handwriting_low_confidence_total",]) == (1, 0)


def test_corrections_are_counted_and_those_that_the_model_could_never_read(tmp_path):
    store = UserPictures(str(tmp_path), KeepConfig(str(tmp_path / "spool")))
    app = create_app(FakeReader(), store)
    client = app.test_client()
    for text in ("Huế", "Straße", "Straße № 5"):
        data = {"file": (io.BytesIO(encoded(drawing())), "secret.png"), "text": text}
        assert client.post("/correction", data=data).status_code == 204
    assert client.post("/correction", data={"text": "Straße"}, content_type="multipart/form-data").status_code == 400
    store.close()
    found = scraped(client)
    assert (found["handwriting_corrections_total",], found["handwriting_corrections_unknown_total",]) == (3, 2)


def test_the_version_that_serves_is_shown_once_it_is_loaded():
    app = create_app(None)
    assert not [key for key in scraped(app.test_client()) if key[0] == "handwriting_model_info"]
    app.extensions["predictor"].reader = FakeReader()
    assert scraped(app.test_client())["handwriting_model_info", "0123abcd"] == 1


def test_pictures_stored_and_lost_are_shown(tmp_path):
    store = UserPictures(str(tmp_path), KeepConfig(str(tmp_path / "spool")))
    client = create_app(FakeReader(), store).test_client()
    assert scraped(client)["handwriting_pictures_stored_total",] == 0
    post(client)
    store.close()
    post(client)  # the store is closed: lost
    found = scraped(client)
    assert (found["handwriting_pictures_stored_total",], found["handwriting_pictures_lost_total",]) == (1, 1)
    assert found["handwriting_pictures_waiting",] == found["handwriting_pictures_waiting_bytes",] == store.waiting == 0


def test_pictures_that_wait_for_the_bucket_are_shown_also_after_a_start(tmp_path, monkeypatch):
    monkeypatch.setattr(S3Store, "write", lambda self, key, data: (_ for _ in ()).throw(StoreError("away")))
    for count in (2, 4):
        store = UserPictures("s3://bucket/data", KeepConfig(str(tmp_path / "spool"), pause=60, uploads=1))
        time.sleep(0.1)  # what the first left is found before anybody watches
        client = create_app(FakeReader(), store).test_client()
        post(client)
        post(client)
        while not store.failures:  # its one thread then pauses
            time.sleep(0.01)
        found = scraped(client)
        assert found["handwriting_pictures_waiting",] == store.waiting == count
        assert found["handwriting_pictures_waiting_bytes",] > count * len(encoded(drawing()))
        assert found["handwriting_pictures_upload_failures_total",] == 1
        store.close(deadline=1)
        assert scraped(client)["handwriting_pictures_lost_total",] == 0


def test_two_applications_in_one_process_do_not_mix(client):
    post(client)
    assert ("handwriting_requests_total", "/predict", "200") not in scraped(create_app(FakeReader()).test_client())


def test_the_process_itself_is_shown(client):
    found = {key[0] for key in scraped(client)}
    assert {"process_cpu_seconds_total", "process_resident_memory_bytes", "python_gc_collections_total"} <= found


@pytest.mark.parametrize("accept", ["", "*/*", "application/json", "application/openmetrics-text; version=1.0.0",
                                    "application/openmetrics-text; version=abc"])
def test_every_scraper_gets_the_text_form(client, accept):
    answer = client.get("/metrics", headers={"Accept": accept})
    assert (answer.status_code, answer.content_type) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert "# TYPE handwriting_requests_total counter" in answer.data.decode()


def test_what_several_processes_counted_is_added_up(tmp_path):
    code = """
from helpers import FakeReader
from test_monitoring import post
from handwriting.predictor import create_app
app = create_app(FakeReader())
client = app.test_client()
post(client)
app.extensions["predictor"].metrics.waiting.inc(3)
print(client.get("/metrics").data.decode())
"""
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    pages = [subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True,
                            timeout=120).stdout for _ in range(2)]
    found = samples(pages[1])
    assert found["handwriting_requests_total", "/predict", "200"] == 2
    assert found["handwriting_confidence_count",] == 2
    assert found["handwriting_line_width_px_count",] == found["handwriting_low_confidence_total",] == 2
    assert found["handwriting_trained_share", "low_confidence"] == 0.05
    assert found["handwriting_pictures_waiting",] == 6  # the first was never declared dead
    assert found["handwriting_model_info", "0123abcd"] == 1
    assert found["process_resident_memory_bytes",] > 2**20 and found["process_cpu_seconds_total",] > 0
    assert not [key for key in found if key[0].startswith("process_start_time")]  # no sum makes sense of it


def lines(caplog) -> list[dict]:
    return [json.loads(record.getMessage()) for record in caplog.records if record.name == "handwriting.monitoring"]


def test_each_request_is_one_line_of_json_without_content(client, caplog):
    caplog.set_level(logging.INFO)
    answer = post(client, headers={"X-Request-Id": "abc-1"})
    [line] = lines(caplog)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", line.pop("time"))
    assert 0 <= line.pop("ms") < 60_000
    assert line.pop("bytes") > len(encoded(drawing()))
    assert line == {"method": "POST", "route": "/predict", "status": 200, "reason": None, "version": "0123abcd",
                    "id": "abc-1"}
    assert answer.headers["X-Request-Id"] == "abc-1"
    assert TEXT not in caplog.text and "secret" not in caplog.text


def test_a_refusal_is_logged_with_its_reason(client, caplog):
    caplog.set_level(logging.INFO)
    post(client, b"no picture")
    client.get("/secret/path")
    assert [(line["route"], line["status"], line["reason"]) for line in lines(caplog)] == [
        ("/predict", 415, "not a picture"), (NO_ROUTE, 404, "not found")]
    assert "secret" not in caplog.text


def test_a_bug_is_logged_by_its_route_not_by_what_the_client_wrote(caplog):
    app = create_app(BrokenReader(), name="ocr")
    picture = {"instances": [{"b64": "AAAA"}]}
    assert app.test_client().post("/v1/models/ocr:predict", json=picture).status_code == 500
    assert "internal error at POST /v1/models/<name>:predict" in caplog.text


@pytest.mark.parametrize("route", sorted(PROBES))
def test_probes_are_not_logged(client, caplog, route):
    caplog.set_level(logging.INFO)
    assert client.get(route).status_code == 200
    assert not lines(caplog)


@pytest.mark.parametrize("given", ["", " ", "a b", "x" * 129, 'a"b', "ü", "a\tb"])
def test_an_odd_request_id_is_replaced(client, given):
    made = [client.get("/healthz", headers={"X-Request-Id": given}).headers["X-Request-Id"] for _ in range(2)]
    assert all(re.fullmatch(r"[0-9a-f]{16}", one) for one in made) and made[0] != made[1]


def test_the_reason_of_one_request_does_not_stick_to_the_next(caplog):
    app = create_app(FakeReader())
    caplog.set_level(logging.INFO)
    with app.app_context():  # what Flask keeps a request lives in it
        client = app.test_client()
        client.get("/nothing")
        client.get("/")
    assert [line["reason"] for line in lines(caplog)] == ["not found", None]


def test_the_readme_names_every_metric_and_every_route(client):
    section = (ROOT / "README.md").read_text("utf-8").partition("## HTTP\n")[2].partition("\n## ")[0]
    post(client, b"no picture")
    families = {family.name for family in text_string_to_metric_families(client.get("/metrics").data.decode())}
    named = set(re.findall(r"`(handwriting_\w+?)(?:_total)?(?:\{.*?\})?`", section))
    assert METRICS <= families
    assert named == METRICS
    for rule in client.application.url_map.iter_rules():
        shown = rule.rule.replace("<name>", "NAME").replace("<version>", "VERSION").partition("/versions/")[0]
        assert f"`{shown}`" in section or f" {shown}`" in section, rule
