"""The example notebook runs from top to bottom, against a server that plays Kubeflow, and a training that is real."""

import re
import time

import nbformat
import pytest
from conftest import ROOT
from fake_kfp import FakeKfp, serving
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from tiny_run import lay_out, run_pipeline

from handwriting.reader import Reader
from handwriting.store import open_store, read_json

PATH = ROOT / "docs" / "example.ipynb"
TOKEN = "secret-of-the-test"


@pytest.fixture(scope="module")
def notebook():
    return nbformat.read(PATH, as_version=nbformat.NO_CONVERT)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def execute(server, bucket, monkeypatch):
    """Runs a copy of the notebook in a kernel of its own; returns it with its outputs."""
    for name, value in {"KF_PIPELINES_ENDPOINT": server.url, "KFP_TOKEN": TOKEN, "HANDWRITING_EPOCHS": "2",
                        "HANDWRITING_BUCKET": str(bucket), "HOME": str(bucket.parent)}.items():
        monkeypatch.setenv(name, value)
    copy = nbformat.read(PATH, as_version=nbformat.NO_CONVERT)
    client = NotebookClient(copy, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(ROOT)}})
    with client.setup_kernel():
        for index, cell in enumerate(copy.cells):
            client.execute_cell(cell, index)
    return {cell.id: cell.outputs for cell in code_cells(copy)}


def shown(outputs):
    """The HTML of a cell's last output."""
    return outputs[-1].data["text/html"]


def printed(outputs):
    return "".join(output.text for output in outputs if output.output_type == "stream")


@pytest.fixture
def bucket(sample_folder, tmp_path):
    lay_out(sample_folder, tmp_path / "bucket")
    return tmp_path / "bucket"


def test_it_is_valid_and_holds_no_outputs(notebook):
    nbformat.validate(notebook)
    for cell in code_cells(notebook):
        assert cell.outputs == [] and cell.execution_count is None, f"clear the outputs of {cell.id}"


def test_it_holds_no_addresses_and_no_secrets(notebook):
    source = "\n".join(cell.source for cell in notebook.cells)
    assert not re.search(r"https?://|token *=|password", source)


def test_its_table_names_the_variables_it_reads(notebook):
    read = set(re.findall(r'environ\.get\("(\w+)"', "\n".join(cell.source for cell in code_cells(notebook))))
    named = set(re.findall(r"`(\w+)`", notebook.cells[0].source))
    assert read and read <= named


def test_it_trains_and_shows_what_the_bucket_holds(bucket, monkeypatch):
    began = time.monotonic()
    with serving(FakeKfp(token=TOKEN, execute=run_pipeline)) as server:
        outputs = execute(server, bucket, monkeypatch)
    print(f"the notebook took {time.monotonic() - began:.1f} s")
    [run] = server.runs.values()
    assert run["runtime_config"]["parameters"] == {"bucket": str(bucket), "project": 1, "epochs": 2}
    assert "train: RUNNING" in printed(outputs["run"]) and "train: SUCCEEDED" in printed(outputs["run"])

    models = open_store(f"{bucket}/models")
    version = read_json(models, "current.json")["id"]
    scores = read_json(models, f"{version}/metrics.json")
    assert f"<td>version<td>{version}" in shown(outputs["metrics"])
    assert f"<td>cer<td>{scores['cer']}" in shown(outputs["metrics"])
    assert shown(outputs["curves"]).count("<svg") == 2
    assert f"<th>version<td>{version}<tr><th>serves<td>True" in shown(outputs["latest"])

    [reading] = Reader.fetch(models.root, language_model=True).read([open_store(f"{bucket}/data").read(
        "test/images/0001.png")])
    assert "data:image/png;base64," in shown(outputs["prediction"])
    assert f"<td>{reading.confidence:.1%}<td>{version}" in shown(outputs["prediction"])
    assert TOKEN not in str(outputs)


def test_a_run_that_fails_stops_it_with_the_reason(bucket, monkeypatch):
    def no_labels(arguments):
        raise ValueError(f"{arguments['bucket']} has no labels")

    with serving(FakeKfp(token=TOKEN, execute=no_labels)) as server, pytest.raises(
            CellExecutionError, match=f"failed in step train: ValueError: {bucket} has no labels"):
        execute(server, bucket, monkeypatch)
