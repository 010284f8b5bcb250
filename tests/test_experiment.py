"""Katib's trials: the component's command survives Katib's and Kubernetes' hands, in a real shell."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from handwriting.component import Step
from handwriting.errors import ConfigError
from handwriting.experiment import CONTAINER, OBJECTIVE, TuneConfig, experiment
from handwriting.hyperparameters import search_space
from handwriting.trials import METRIC
from pipeline.katib import train_step

SECRETS = {"handwriting-s3": ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
AWKWARD = "it's \"quoted\" `touch backtick` $HOME $(HOME) $$ $$(HOME) ${HOME} \\ \\n %s ; & | > * é 漢"
PROGRAM = f"""
import json, sys
AWKWARD = {AWKWARD!r}
given = json.loads(sys.argv[sys.argv.index("--executor_input") + 1])["inputs"]["parameterValues"]
for epoch in (1, 2):
    print(f"2026-01-01T00:00:0{{epoch}}Z epoch={{epoch}} val_cer={{0.5 / epoch:.6f}} train_loss=1.5")
print(json.dumps([AWKWARD, given, sys.argv[-1]]))
sys.exit(given["fault"])
"""


def step(program=PROGRAM):
    """A component as KFP compiles it: the source is an argument of a shell script, which writes it to a file."""
    script = f'program="$PWD/program.py"\nprintf "%s" "$0" > "$program"\n{sys.executable} "$program" "$@"\n'
    return Step("python:3.11-slim", ("sh", "-ec", script, program), "train", {"metrics": "system.Metrics"})


def made(config=TuneConfig(), fault=0, **arguments):
    return experiment("tune", "team", step(), {"dataset": "s3://b/d", "epochs": 9, "fault": fault, **arguments}, config,
                      SECRETS)


def expanded(text):
    """What Kubernetes makes of a command: $$ is a dollar, and $(NAME) stays where no variable has that name."""
    return re.sub(r"\$\$", "$", text)


def run_as_katib(manifest, values, folder):
    """Fills in a trial's values, wraps its command as Katib's webhook does, and runs it.

    After pkg/webhook/v1beta1/pod/utils.go of kubeflow/katib: wrapWorkerContainer with the StdOut collector.
    """
    template = json.dumps(manifest["spec"]["trialTemplate"]["trialSpec"])
    for name, value in values.items():
        template = template.replace(f"${{trialParameters.{name}}}", value)
    (container,) = json.loads(template)["spec"]["template"]["spec"]["containers"]
    assert container["name"] == CONTAINER and container["command"][:2] == ["sh", "-c"]
    stopped = (f"if test -f {folder}/$$$$.pid && [ $(head -n 1 {folder}/$$.pid) = early-stopped ]; then echo Training "
               "Container was Early Stopped; else echo Training Container was Failed; exit 1; fi")
    words = [*container["command"][2:], f"1>{folder}/metrics.log 2>&1"]
    words += ["||", stopped] if "earlyStopping" in manifest["spec"] else []
    line = " ".join([*words, "&&", f"echo completed > {folder}/$$$$.pid"])
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # python3 is the one with the packages
    done = subprocess.run(["sh", "-c", expanded(line)], cwd=folder, env={"PATH": path, "HOME": "wrong"}, check=False,
                          capture_output=True, text=True)
    return done.returncode, (folder / "metrics.log").read_text("utf-8"), list(folder.glob("[0-9]*.pid"))


def values_of(manifest):
    return {p["name"]: p["feasibleSpace"]["min"] for p in manifest["spec"]["parameters"]}


@pytest.mark.parametrize("stop_early", [True, False])
def test_a_trial_runs_the_component_with_its_source_and_its_values_untouched(tmp_path, stop_early):
    manifest = made(TuneConfig(stop_early=stop_early), text=AWKWARD)
    status, output, completed = run_as_katib(manifest, values_of(manifest), tmp_path)
    assert status == 0 and [path.read_text() for path in completed] == ["completed\n"]
    source, given, function = json.loads(output.splitlines()[-1])
    assert source == AWKWARD and function == "train"
    assert given == {"dataset": "s3://b/d", "epochs": 9, "fault": 0, "text": AWKWARD,
                     **{name: kind(search.low) for name, (kind, search) in search_space().items()}}
    assert [path.name for path in tmp_path.iterdir() if "backtick" in path.name] == []


def test_katib_finds_the_objective_of_each_epoch(tmp_path):
    manifest = made()
    output = run_as_katib(manifest, values_of(manifest), tmp_path)[1]
    found = [dict(METRIC.findall(line)) for line in output.splitlines()[:2]]
    assert [row[OBJECTIVE] for row in found] == ["0.500000", "0.250000"]


@pytest.mark.parametrize("stop_early", [True, False])
def test_a_failure_fails_the_trial(tmp_path, stop_early):
    manifest = made(TuneConfig(stop_early=stop_early), fault=3)
    status, output, completed = run_as_katib(manifest, values_of(manifest), tmp_path)
    assert status != 0 and completed == [] and "val_cer" in output


def test_every_number_that_is_searched_reaches_katib_with_its_range():
    parameters = {p["name"]: p for p in made()["spec"]["parameters"]}
    assert set(parameters) == set(search_space())
    assert parameters["hidden"] == {"name": "hidden", "parameterType": "int",
                                    "feasibleSpace": {"min": "64", "max": "256", "step": "32"}}
    assert parameters["learning_rate"]["feasibleSpace"] == {"min": "0.0003", "max": "0.003",
                                                            "distribution": "logUniform"}
    assert all(isinstance(value, str) for p in parameters.values() for value in p["feasibleSpace"].values())


def test_hyperband_searches_the_epochs_too():
    spec = made(TuneConfig("hyperband"))["spec"]
    assert {"name": "r_l", "value": "9"} in spec["algorithm"]["algorithmSettings"]
    assert "epochs" in {p["name"] for p in spec["parameters"]}
    assert "epochs" in {p["reference"] for p in spec["trialTemplate"]["trialParameters"]}


def test_a_trial_is_a_job_that_katib_can_watch_and_that_names_no_secrets_value():
    job = made(TuneConfig(gpus=1))["spec"]["trialTemplate"]["trialSpec"]
    template = job["spec"]["template"]
    assert job["spec"]["backoffLimit"] == 0 and template["spec"]["restartPolicy"] == "Never"
    for kind in ("labels", "annotations"):
        assert template["metadata"][kind] == {"sidecar.istio.io/inject": "false"}
    (container,) = template["spec"]["containers"]
    assert container["resources"]["limits"] == {"nvidia.com/gpu": "1"}
    assert container["env"][2]["valueFrom"]["secretKeyRef"] == {"name": "handwriting-s3", "key": "AWS_ACCESS_KEY_ID",
                                                                "optional": True}
    assert not container["command"][-1].endswith("\n")


@pytest.mark.parametrize("wrong", [{"algorithm": "magic"}, {"trials": 0}, {"parallel": 20}, {"failures": -1}])
def test_a_search_that_cannot_be_is_refused(wrong):
    with pytest.raises(ConfigError, match="give"):
        TuneConfig(**wrong)


@pytest.mark.slow
def test_the_train_step_itself_runs_under_katib_and_writes_a_whole_bundle(small_dataset, tmp_path):
    """Where it is stopped halfway is in test_trials: Katib ends the same processes."""
    arguments = {"dataset": small_dataset, "bucket": str(tmp_path / "bucket"), "epochs": 2, "seed": 0}
    manifest = experiment("tune", "team", train_step(), arguments, TuneConfig(), SECRETS)
    status, output, completed = run_as_katib(manifest, values_of(manifest), tmp_path)
    assert status == 0 and completed, output[-3000:]
    found = [dict(METRIC.findall(line)) for line in output.splitlines() if OBJECTIVE in line]
    assert [row["epoch"] for row in found if "epoch" in row] == ["1", "2"] and "nan" not in str(found)
    [bundle] = (tmp_path / "bucket" / "models").glob("*/config.json")
    config = json.loads(bundle.read_text("utf-8"))
    assert (config["model"]["hidden"], config["train"]["batch"]) == (64, 4)
