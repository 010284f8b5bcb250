"""The pipeline as a user has it: compiled, loaded again, and run on real servers."""

import base64
import io
import json
import re
import subprocess
import sys
import tarfile

import pytest
import yaml
from conftest import ROOT

from handwriting import layout
from handwriting.label_studio import LabelStudio
from handwriting.labels import BUCKET_SPLITS
from handwriting.packing import LABELS
from handwriting.store import join, open_store, read_json
from ops.packages import requirements
from pipeline.compiling import ARCHIVE, LARGEST_SOURCE, compile_pipeline, source_sizes
from pipeline.labelling import ensure_project, import_labels


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    path = tmp_path_factory.mktemp("build") / "pipeline.yaml"
    compile_pipeline(path)
    return path


def test_compiling_twice_gives_the_same_bytes_in_a_bare_environment(tmp_path):
    outputs = []
    for name in ("one", "two"):
        command = [sys.executable, str(ROOT / "compile.py"), "--out", str(tmp_path / name)]
        result = subprocess.run(command, env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=True)
        outputs.append((tmp_path / name / "pipeline.yaml").read_bytes())
    assert outputs[0] == outputs[1]
    assert "upload" in result.stdout.lower()


def test_no_component_is_too_large(spec):
    sizes = source_sizes(spec.read_text())
    assert set(sizes) == {"preprocess", "train", "evaluate", "promote", "deploy"}
    assert max(sizes.values()) <= LARGEST_SOURCE


def test_a_component_embeds_the_modules_it_needs_and_no_others(spec):
    executors = next(yaml.safe_load_all(spec.read_text()))["deploymentSpec"]["executors"]
    archive = ARCHIVE.search(executors["exec-promote"]["container"]["command"][-1])[2]
    with tarfile.open(fileobj=io.BytesIO(base64.b64decode(archive))) as tar:
        assert tar.getnames() == [f"handwriting/{name}.py" for name in ("__init__", "errors", "promotion")]


def test_each_component_names_an_image_and_pins_its_packages(spec):
    executors = next(yaml.safe_load_all(spec.read_text()))["deploymentSpec"]["executors"]
    for name, executor in executors.items():
        assert executor["container"]["image"] == "python:3.11-slim"
        for package in requirements(name.removeprefix("exec-")):
            assert re.search(r"==\d", package) and package in str(executor["container"]["command"])


def test_secrets_are_optional_variables_and_never_parameters(spec):
    pipeline, platform = yaml.safe_load_all(spec.read_text())
    assert not re.search("token|secret|key", str(list(pipeline["root"]["inputDefinitions"]["parameters"])))
    train = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]["exec-train"]["secretAsEnv"]
    assert all(secret["optional"] for secret in train)


@pytest.fixture
def labelled(bucket, label_studio, sample_folder, monkeypatch):
    """A bucket with rendered lines and a Label Studio project over them."""
    data_uri = f"s3://{bucket}/{layout.DATA}"
    target, source = open_store(data_uri), open_store(str(sample_folder))
    labels = {split: read_json(source, f"{split}/{LABELS}") for split in BUCKET_SPLITS}
    for entry in source.list():
        if not entry.key.endswith(LABELS):
            target.write(entry.key, source.read(entry.key))
    monkeypatch.setenv("LABEL_STUDIO_TOKEN", label_studio.token)
    client = LabelStudio(label_studio.url, label_studio.token)
    project = ensure_project(client, bucket)
    import_labels(client, project, data_uri, labels)
    return {"label_studio_url": label_studio.url, "project": project, "bucket": f"s3://{bucket}", "epochs": 1,
            "hidden": 16, "sync": False, "apply": False}


RUN = """
import json, sys
from kfp import components, dsl, local
local.init(local.SubprocessRunner(use_venv=sys.argv[3] == "venv"), pipeline_root=sys.argv[2])
outputs = components.load_component_from_file(sys.argv[1])(**json.loads(sys.argv[4])).outputs
print(json.dumps(outputs))
"""


def run_spec(spec, root, arguments, runner):
    command = [sys.executable, "-c", RUN, str(spec), str(root), runner, json.dumps(arguments)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=root.parent, timeout=900)
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-3000:]
    return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.slow
def test_the_compiled_spec_runs_in_fresh_environments_and_its_second_run_changes_nothing(spec, labelled, tmp_path):
    """Each step installs its own packages_to_install into a new virtual environment: they must suffice."""
    first = run_spec(spec, tmp_path / "root", labelled, "venv")
    models = open_store(join(labelled["bucket"], layout.MODELS))
    current = read_json(models, "current.json")
    assert first["model"] == join(models.root, current["id"])
    container = current["manifest"]["spec"]["predictor"]["containers"][0]
    assert container["name"] == "kserve-container"
    assert {"name": "STORAGE_URI", "value": f"{first['model']}/"} in container["env"]

    before = {entry.key: entry.tag for entry in open_store(labelled["bucket"]).list()}
    second = run_spec(spec, tmp_path / "root", labelled, "here")
    after = {entry.key: entry.tag for entry in open_store(labelled["bucket"]).list()}
    assert second["model"] == first["model"]
    assert after == before


def test_a_step_that_fails_says_what_to_do(spec, labelled, tmp_path):
    command = [sys.executable, "-c", RUN, str(spec), str(tmp_path / "root"), "here",
               json.dumps({**labelled, "project": 987654})]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert result.returncode != 0
    assert "987654" in result.stdout
    assert labelled["label_studio_url"] in result.stdout
