"""The pipeline as a user has it: compiled, loaded again, and run on real servers."""

import base64
import inspect
import io
import json
import re
import subprocess
import sys
import tarfile
from dataclasses import asdict, fields

import pytest
import yaml
from conftest import ROOT
from kfp import dsl
from tiny_run import let_serve

from handwriting import layout
from handwriting.drift import UNSURE, DriftConfig
from handwriting.errors import ConfigError
from handwriting.experiment import TuneConfig
from handwriting.hyperparameters import ModelConfig, TrainConfig, search_space
from handwriting.inference_service import ServiceConfig
from handwriting.labels import LabelConfig
from handwriting.packing import PackConfig
from handwriting.store import join, open_store, read_json
from handwriting.trainjob import Nodes
from ops.anything_new import anything_new
from ops.deploy import deploy
from ops.embedding import ARCHIVE, slim
from ops.evaluate import evaluate
from ops.packages import requirements
from ops.prelabel import prelabel
from ops.preprocess import preprocess
from ops.promote import promote
from ops.train import train
from ops.tune import tune
from ops.watch import watch
from pipeline.compiling import LARGEST_SOURCE, compile_pipeline, source_sizes, write_spec
from pipeline.drift_pipeline import drift_pipeline
from pipeline.handwriting_pipeline import S3_SECRET, SECRETS, Machine, handwriting_pipeline
from pipeline.katib import train_step


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
        outputs.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert outputs[0] == outputs[1]
    assert set(outputs[0]) == {"pipeline.yaml", "drift.yaml", "cluster.yaml", "secrets.yaml", "inferenceservice.yaml",
                               "katib-experiment.yaml"}
    assert "upload" in result.stdout.lower() and all(name in result.stdout for name in outputs[0])


def test_no_component_is_too_large(spec):
    sizes = source_sizes(spec.read_text())
    assert set(sizes) == {"preprocess", "prelabel", "anything-new", "tune", "train", "train-2", "evaluate", "promote",
                          "deploy"}
    assert max(sizes.values()) <= LARGEST_SOURCE


def test_a_component_embeds_the_modules_it_needs_and_no_others(spec):
    executors = next(yaml.safe_load_all(spec.read_text()))["deploymentSpec"]["executors"]
    archive = ARCHIVE.search(executors["exec-promote"]["container"]["command"][-1])[0]
    with tarfile.open(fileobj=io.BytesIO(base64.b64decode(archive))) as tar:
        assert tar.getnames() == [f"handwriting/{name}.py" for name in ("__init__", "errors", "promotion")]


def test_each_component_names_an_image_and_pins_its_packages(spec):
    executors = next(yaml.safe_load_all(spec.read_text()))["deploymentSpec"]["executors"]
    for name, executor in executors.items():
        assert executor["container"]["image"] == "python:3.11-slim"
        extra = name.removeprefix("exec-").removesuffix("-2").replace("-", "_")
        for package in requirements(extra):
            assert re.search(r"==\d", package) and package in str(executor["container"]["command"])


def defaults(signature):
    return {name: p.default for name, p in signature.parameters.items() if p.default is not p.empty}


@pytest.mark.parametrize("step, configs", [
    (train, [TrainConfig(), ModelConfig(), Nodes()]), (tune, [TrainConfig(), TuneConfig()]),
    (deploy, [ServiceConfig()]), (preprocess, [PackConfig(), LabelConfig()]), (prelabel, [LabelConfig()]),
    (watch, [DriftConfig()])])
def test_a_step_has_the_defaults_of_what_it_calls(step, configs):
    known = {name: value for config in configs for name, value in vars(config).items()} | {"alphabet": ""}
    found = defaults(inspect.signature(step.python_func))
    assert {name: value for name, value in found.items() if name in known} == {
        name: value for name, value in known.items() if name in found}


@pytest.mark.parametrize("step", [preprocess, prelabel, anything_new, tune, train, evaluate, promote, deploy])
def test_the_pipeline_has_the_defaults_of_its_steps(step):
    pipeline = defaults(inspect.signature(handwriting_pipeline.pipeline_func))
    pipeline |= {"epochs": pipeline["trial_epochs"]} if step is tune else {}
    found = defaults(inspect.signature(step.python_func)) | ({"epochs": 20} if step is tune else {})
    assert found.items() >= {name: value for name, value in pipeline.items() if name in found}.items()


def test_the_weekly_pipeline_has_the_defaults_of_its_step():
    found = defaults(inspect.signature(watch.python_func))
    weekly = defaults(inspect.signature(drift_pipeline.pipeline_func))
    assert found | weekly == {**found, "bucket": "s3://ocrpipeline"} and set(weekly) == {*found, "bucket"} - {"model"}


def test_a_component_defined_in_a_notebook_is_as_small_and_as_stable_as_a_compiled_one(spec):
    command = promote.component_spec.implementation.container.command[-1]
    executors = next(yaml.safe_load_all(spec.read_text()))["deploymentSpec"]["executors"]
    assert executors["exec-promote"]["container"]["command"][-1] == command
    with pytest.raises(ValueError, match="embeds 0 archives"):
        slim(dsl.component(base_image="python:3.11-slim")(bare))


def bare() -> None:
    """A component that embeds nothing."""


def test_secrets_are_optional_variables_and_never_parameters(spec):
    pipeline, platform = yaml.safe_load_all(spec.read_text())
    assert not re.search("token|secret|key", str(list(pipeline["root"]["inputDefinitions"]["parameters"])))
    train = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]["exec-train"]["secretAsEnv"]
    assert all(secret["optional"] for secret in train)
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"].items()
    with_token = [name for name, executor in executors if layout.TOKEN_SECRET in str(executor.get("secretAsEnv"))]
    assert with_token == ["exec-deploy"]


def test_the_train_steps_run_on_the_machine_that_was_asked_for(spec, tmp_path):
    compile_pipeline(tmp_path / "gpu.yaml", Machine("pytorch/pytorch:x", 2, "8", "32Gi", "1Gi"))
    pipeline, platform = yaml.safe_load_all((tmp_path / "gpu.yaml").read_text())
    for name in ("exec-train", "exec-train-2"):
        container = pipeline["deploymentSpec"]["executors"][name]["container"]
        assert container["image"] == "pytorch/pytorch:x"
        assert container["resources"]["accelerator"] == {"resourceCount": "2", "resourceType": "nvidia.com/gpu",
                                                         "count": "2", "type": "nvidia.com/gpu"}
        [memory] = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"][name]["emptyDirMounts"]
        assert (memory["mountPath"], memory["medium"], memory["sizeLimit"]) == ("/dev/shm", "Memory", "1Gi")
    plain = spec.read_text()
    assert "nvidia" not in plain.replace(train_step().command[-1], "") and "/dev/shm" not in plain


def tasks(spec):
    """Parameters of each train task, and of the search."""
    components = next(yaml.safe_load_all(spec.read_text()))["components"]
    found = {name: task["inputs"]["parameters"] for component in components.values()
             for name, task in component.get("dag", {}).get("tasks", {}).items()}
    return [found["train"], found["train-2"]], found["tune"]


def test_every_number_of_network_and_training_is_a_parameter_of_a_run(spec):
    numbers = {item.name for config in (TrainConfig, ModelConfig) for item in fields(config)}
    root = next(yaml.safe_load_all(spec.read_text()))["root"]
    assert numbers <= set(root["inputDefinitions"]["parameters"])
    trained, searched = tasks(spec)
    assert all(numbers <= set(parameters) for parameters in trained)
    assert numbers - set(search_space()) <= set(searched)


def test_several_nodes_train_the_very_step_and_no_trial_does(spec, tmp_path):
    machine = Machine("pytorch/pytorch:x", 2, "8", "32Gi", "1Gi", nodes=3)
    compile_pipeline(tmp_path / "nodes.yaml", machine)
    trained, searched = tasks(tmp_path / "nodes.yaml")
    given = {"num_nodes": 3, "gpus": 2, "cpu": "8", "memory": "32Gi", "shared_memory": "1Gi",
             "step": asdict(train_step("pytorch/pytorch:x")), "secrets": {S3_SECRET: list(SECRETS[S3_SECRET])}}
    for parameters in trained:
        assert {name: parameters[name]["runtimeValue"]["constant"] for name in given} == given
        assert parameters["namespace"]["componentInputParameter"] == "pipelinechannel--namespace"
    assert "num_nodes" not in searched and searched["gpus"]["runtimeValue"]["constant"] == 1
    assert not any(set(parameters) & (set(given) | {"namespace"}) for parameters in tasks(spec)[0])


def test_a_step_that_waits_for_its_nodes_has_no_gpu_itself(tmp_path):
    compile_pipeline(tmp_path / "nodes.yaml", Machine("pytorch/pytorch:x", 2, "8", "32Gi", "1Gi", nodes=3))
    pipeline, platform = yaml.safe_load_all((tmp_path / "nodes.yaml").read_text())
    executors = pipeline["deploymentSpec"]["executors"]
    for name in ("exec-train", "exec-train-2"):
        assert executors[name]["container"]["image"] == "pytorch/pytorch:x"
        assert "accelerator" not in executors[name]["container"]["resources"]
        assert executors[name]["container"]["resources"]["resourceMemoryRequest"] == "4Gi"
        assert "emptyDirMounts" not in platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"][name]


def test_a_machine_that_cannot_be_is_refused():
    for wrong in ({"gpus": -1}, {"nodes": 0}):
        with pytest.raises(ConfigError, match="give"):
            Machine(**wrong)


def test_a_search_gives_what_the_train_step_takes():
    types = {int: "Integer", float: "Float"}
    outputs = {name: output.type for name, output in tune.component_spec.outputs.items() if "@" not in output.type}
    assert outputs == {name: types[kind] for name, (kind, _) in search_space().items()}


RUN = """
import json, sys
from kfp import components, dsl, local
local.init(local.SubprocessRunner(use_venv=sys.argv[3] == "venv"), pipeline_root=sys.argv[2])
components.load_component_from_file(sys.argv[1])(**json.loads(sys.argv[4]))
"""


@pytest.fixture
def arguments(labelled):
    """Of a short run over the labelled lines."""
    return {"label_studio_url": labelled.label_studio_url, "project": labelled.project, "bucket": labelled.bucket,
            "epochs": 1, "hidden": 16, "sync": False, "apply": False}


def run_spec(spec, root, arguments, runner):
    command = [sys.executable, "-c", RUN, str(spec), str(root), runner, json.dumps(arguments)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=root.parent, timeout=900)
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-3000:]
    return result.stdout + result.stderr


@pytest.mark.slow
def test_the_compiled_spec_runs_in_fresh_environments_and_its_second_run_changes_nothing(spec, arguments, tmp_path):
    """Each step installs its own packages_to_install into a new virtual environment: they must suffice."""
    run_spec(spec, tmp_path / "root", arguments, "venv")
    models = open_store(join(arguments["bucket"], layout.MODELS))
    current = read_json(models, "current.json")
    container = current["manifest"]["spec"]["predictor"]["containers"][0]
    assert container["name"] == "kserve-container"
    assert {"name": "STORAGE_URI", "value": f"{models.root}/{current['id']}/"} in container["env"]
    assert any(re.search(r"/code/\w+/cp311-linux-x86_64.txt$", entry.key) for entry in models.list())

    before = {entry.key: entry.tag for entry in open_store(arguments["bucket"]).list()}
    log = run_spec(spec, tmp_path / "root", arguments, "here")
    assert "nothing new, nothing done" in log and "Task 'train" not in re.sub(r"\x1b\[\d+m", "", log)
    assert before == {entry.key: entry.tag for entry in open_store(arguments["bucket"]).list()}


@pytest.mark.slow
def test_a_run_that_tunes_trains_with_the_best_and_serves_it(spec, arguments, tmp_path):
    run_spec(spec, tmp_path / "root", {**arguments, "tune": True, "katib": False, "trials": 2, "trial_epochs": 1,
                                       "algorithm": "random"}, "here")
    bucket = open_store(arguments["bucket"])
    keys = {entry.key for entry in bucket.list()}
    assert sum(bool(re.fullmatch(r"tuning/models/\w+/config\.json", key)) for key in keys) == 2
    current = read_json(bucket, "models/current.json")["id"]
    tried = [read_json(bucket, key) for key in keys if re.fullmatch(r"tuning/models/\w+/config\.json", key)]
    found = read_json(bucket, f"models/{current}/config.json")
    assert found["model"] in [config["model"] for config in tried]
    assert [key for key in keys if re.fullmatch(r"models/\w+/config\.json", key)] == [f"models/{current}/config.json"]


def test_the_weekly_pipeline_gives_a_page_and_a_verdict(bucket, tiny_bundle, tmp_path):
    spec, root = tmp_path / "drift.yaml", tmp_path / "root"
    sizes = write_spec(spec, drift_pipeline)
    assert set(sizes) == {"watch"} and sizes["watch"] < LARGEST_SOURCE
    let_serve(tiny_bundle, f"s3://{bucket}/models")
    log = run_spec(spec, root, {"bucket": f"s3://{bucket}", "days": 2}, "here")
    [page] = root.glob("*/watch/report*")
    assert tiny_bundle.name in page.read_text("utf-8") and UNSURE in page.read_text("utf-8")
    assert "0 files of 2 days" in log
    assert json.loads(next(root.glob("*/watch/executor_output.json")).read_text())["parameterValues"] == {
        "retrain": False, "verdict": UNSURE, "reasons": re.search(r"<li>(no readings .*?)</ul>", page.read_text())[1]}


def test_a_step_that_fails_says_what_to_do(spec, arguments, tmp_path):
    command = [sys.executable, "-c", RUN, str(spec), str(tmp_path / "root"), "here",
               json.dumps({**arguments, "project": 987654})]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert result.returncode != 0
    assert "987654" in result.stdout
    assert arguments["label_studio_url"] in result.stdout
