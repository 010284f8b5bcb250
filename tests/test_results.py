"""What a notebook shows is what lies in the bucket, escaped."""

import base64
import html
import re
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from conftest import Answer
from tiny_run import lay_out, run_pipeline

from handwriting import layout, report
from handwriting.bundle import CURRENT
from handwriting.errors import DataError, DeployError, ImageError, MissingError
from handwriting.reader import Reader
from handwriting.store import open_store, read_json, write_json
from pipeline.results import Prediction, Table, curves, latest_model, metrics, predict, trained_model

EVIL = "<script>alert(1)</script>"
LINE = "data/test/images/0001.png"


@pytest.fixture(scope="module")
def bucket(sample_folder, tmp_path_factory):
    """A bucket after two runs of other settings; the second one serves."""
    folder = tmp_path_factory.mktemp("results") / "bucket"
    lay_out(sample_folder, folder)
    for hidden in (16, 24):
        run_pipeline({"bucket": str(folder), "epochs": 2, "hidden": hidden})
    return str(folder)


def run(bucket, **arguments):
    """A run as the server tells of it."""
    return SimpleNamespace(run_id="r", runtime_config=SimpleNamespace(
        parameters={"bucket": bucket, "epochs": 2, **arguments}))


def width(model):
    return read_json(open_store(model), "config.json")["model"]["hidden"]


@pytest.mark.parametrize("hidden", [16, 24, 24.0])
def test_the_model_of_a_run_has_the_runs_settings(bucket, hidden):
    assert width(trained_model(run(bucket, hidden=hidden))) == hidden


@pytest.fixture
def nothing_serves(bucket):
    """The pointer is away meanwhile."""
    models = open_store(f"{bucket}/{layout.MODELS}")
    before = read_json(models, CURRENT)
    models.delete(CURRENT)
    yield
    write_json(models, CURRENT, before)


OTHERS = [{"hidden": 16, "epochs": 3}, {"hidden": 16, "seed": 1}, {}]


@pytest.mark.parametrize("other", OTHERS)
def test_a_run_without_a_model_is_told(bucket, nothing_serves, other):
    with pytest.raises(DataError, match="no model of dataset .* with the settings of run r; .*give the bundle"):
        trained_model(run(bucket, **other))


@pytest.mark.parametrize("other", OTHERS)
def test_a_run_that_found_nothing_new_has_the_model_that_serves(bucket, other):
    assert width(trained_model(run(bucket, **other))) == 24


def test_searched_numbers_may_be_any(bucket, nothing_serves):
    assert width(trained_model(run(bucket, tune=True))) == 24
    with pytest.raises(DataError):
        trained_model(run(bucket, tune=True, epochs=3))


def test_a_model_of_another_dataset_is_not_the_runs(bucket):
    datasets = open_store(f"{bucket}/{layout.DATASETS}")
    before = read_json(datasets, "latest.json")
    write_json(datasets, "latest.json", {"id": "newer"})
    try:
        with pytest.raises(DataError, match="dataset newer"):
            trained_model(run(bucket, hidden=16))
    finally:
        write_json(datasets, "latest.json", before)


def test_a_bucket_without_models_is_named(tmp_path):
    with pytest.raises(MissingError, match=str(tmp_path)):
        trained_model(run(str(tmp_path)))


def test_metrics_are_the_bundles(bucket):
    model = trained_model(run(bucket, hidden=16))
    written = read_json(open_store(model), "metrics.json")
    table = metrics(model)
    found = dict(table.rows)
    assert found["version"] == model.rpartition("/")[2] and found["epochs"] == 2
    assert {name: found[name] for name in written if name != "epochs"} == {
        name: value for name, value in written.items() if name != "epochs"}
    assert f"<td>cer<td>{written['cer']}" in table._repr_html_() and f"cer\t{written['cer']}" in repr(table)


def test_tables_are_escaped():
    assert EVIL not in Table(("a", EVIL), [(EVIL, 1)])._repr_html_()


def test_curves_are_those_of_the_training_page(bucket):
    model = trained_model(run(bucket, hidden=24))
    epochs = read_json(open_store(model), "metrics.json")["epochs"]
    drawn = curves(model)._repr_html_()
    assert drawn == report.curves(epochs) and drawn in report.training_page({}, epochs)
    assert drawn.count("<svg") == 2 and len(re.findall("<polyline", drawn)) == 4


def test_the_latest_model_is_the_one_that_serves(bucket):
    models = open_store(f"{bucket}/{layout.MODELS}")
    before = read_json(models, CURRENT)
    found = latest_model(bucket)
    assert found.serves and (found.version, width(found.uri)) == (before["id"], 24)
    assert f"<th>version<td>{found.version}" in found._repr_html_()


def test_where_none_serves_it_is_the_one_that_came_last(bucket, nothing_serves):
    found = latest_model(bucket)
    assert not found.serves and width(found.uri) == 24


def test_a_prediction_is_the_readers_beside_the_line(bucket):
    model = latest_model(bucket).uri
    found = predict(f"{bucket}/{LINE}", model)
    reader = Reader.fetch(model, language_model=True)
    [expected] = reader.read([open_store(bucket).read(LINE)])
    assert (found.text, found.confidence, found.version) == (expected.text, expected.confidence, reader.version)
    shown = found._repr_html_()
    (png,) = re.findall(r'src="data:image/png;base64,([^"]+)"', shown)
    drawn = cv2.imdecode(np.frombuffer(base64.b64decode(png), np.uint8), cv2.IMREAD_UNCHANGED)
    assert drawn.shape[0] == 64 and np.array_equal(drawn, found.line)
    assert f"<td>{html.escape(found.text)}<td>{found.confidence:.1%}" in shown and repr(found.text) in repr(found)


def test_bytes_are_read_as_well_as_what_lies_somewhere(bucket):
    given = open_store(bucket).read(LINE)
    assert predict(given, f"{bucket}/models").text == predict(f"{bucket}/{LINE}", f"{bucket}/models").text


def test_predictions_are_escaped():
    shown = Prediction(EVIL, 0.5, EVIL, np.zeros((4, 4), np.uint8))._repr_html_()
    assert EVIL not in shown and shown.count(html.escape(EVIL)) == 2


def test_a_service_reads_and_does_not_keep_the_picture(bucket, fake_server):
    fake_server.answers["POST /predict"] = [Answer(body={"text": "Hà Nội", "confidence": 0.9, "version": "v1"})]
    found = predict(f"{bucket}/{LINE}", url=f"{fake_server.url}/")
    assert (found.text, found.confidence, found.version, found.line.shape[0]) == ("Hà Nội", 0.9, "v1", 64)
    [(_, headers, _)] = fake_server.requests
    assert headers["X-Keep-Picture"] == "no" and headers["Accept"] == "application/json"
    assert "Authorization" not in headers


def test_a_service_gets_the_token_of_this_environment(bucket, fake_server, monkeypatch):
    monkeypatch.setenv("HANDWRITING_TOKEN", "t0ken")
    fake_server.answers["POST /predict"] = [Answer(401, {"error": "wrong token"})]
    with pytest.raises(DeployError, match="answers 401 .*wrong token") as caught:
        predict(f"{bucket}/{LINE}", url=fake_server.url)
    assert fake_server.requests[0][1]["Authorization"] == "Bearer t0ken" and "t0ken" not in str(caught.value)


@pytest.mark.parametrize("answer, said", [
    (Answer(415, {"error": "not a picture"}), "answers 415 .*not a picture"),
    (Answer(200, "<html>Log in</html>"), "does not answer as a predictor"),
    (Answer(200, {"reading": 1}), "does not answer as a predictor")])
def test_a_service_that_refuses_is_told(bucket, fake_server, answer, said):
    fake_server.answers["POST /predict"] = [answer]
    with pytest.raises(DeployError, match=said):
        predict(f"{bucket}/{LINE}", url=fake_server.url)


def test_a_service_that_is_not_there_is_told(bucket):
    with pytest.raises(DeployError, match="http://127.0.0.1:9 does not answer .*forward a port"):
        predict(f"{bucket}/{LINE}", url="http://127.0.0.1:9")


def test_what_is_no_picture_is_told(bucket):
    with pytest.raises(ImageError):
        predict(b"no picture", f"{bucket}/models")
    with pytest.raises(MissingError, match="nowhere.png"):
        predict(f"{bucket}/nowhere.png", f"{bucket}/models")
