"""Trials on this machine: the train step's own command, as a process that can be stopped halfway."""

import os
import sys

import optuna
import pytest
from helpers import gone

from handwriting.component import Step
from handwriting.errors import DataError
from handwriting.store import open_store
from handwriting.trials import trial_of
from pipeline.katib import train_step

VALUES = {"batch": 4, "learning_rate": 1e-3, "augmentation": 0.5, "hidden": 64, "layers": 1, "dropout": 0.1}


def step(program: str) -> Step:
    """A component that runs a piece of Python with its arguments in `given`."""
    start = 'import json, os, sys, time; given = json.loads(sys.argv[2])["inputs"]["parameterValues"]\n'
    return Step("python:3.11-slim", (sys.executable, "-c", start + program), "train", {"metrics": "system.Metrics"})


def test_a_trial_gives_the_best_of_the_epochs_that_the_step_printed(tmp_path):
    seen = []
    program = """
print("2026-01-01T00:00:00Z epoch=1 val_cer=0.5 train_loss=2.0")
print("something else, epochs=3")
print("2026-01-01T00:00:01Z epoch=2 val_cer=0.25", flush=True)
print(f"2026-01-01T00:00:02Z epoch=3 val_cer={given['hidden'] / 100}")
"""
    assert trial_of(step(program), {}, tmp_path)(VALUES, lambda *epoch: seen.append(epoch)) == 0.25
    assert seen == [(1, 0.5), (2, 0.25), (3, 0.64)]


def test_a_trial_that_fails_says_what_it_printed_last(tmp_path):
    program = "print('a' * 10); print('lower learning_rate', file=sys.stderr); sys.exit(3)"
    with pytest.raises(DataError, match="(?s)status 3; .*aaaa.*lower learning_rate"):
        trial_of(step(program), {}, tmp_path)(VALUES, lambda *epoch: None)


def test_a_trial_without_an_epoch_is_an_error(tmp_path):
    with pytest.raises(DataError, match="without a val_cer"):
        trial_of(step("print('val_cer=nan')"), {}, tmp_path)(VALUES, lambda *epoch: None)


def test_a_trial_that_is_stopped_leaves_no_process(tmp_path):
    program = f"""
import subprocess
child = subprocess.Popen(["sleep", "60"])
open({str(tmp_path / "pids")!r}, "w").write(f"{{os.getpid()}} {{child.pid}}")
print("epoch=1 val_cer=0.9", flush=True)
time.sleep(60)
"""

    def stop(*epoch):
        raise optuna.TrialPruned

    with pytest.raises(optuna.TrialPruned):
        trial_of(step(program), {}, tmp_path)(VALUES, stop)
    for pid in (tmp_path / "pids").read_text().split():
        assert gone(int(pid), seconds=5)


def test_a_trial_runs_the_python_of_the_search(tmp_path):
    program = "import subprocess; print(subprocess.check_output(['python3', '-c', 'import sys; print(sys.prefix)']))"
    trial = trial_of(step(program + "; sys.exit(1)"), {}, tmp_path)
    with pytest.raises(DataError, match=sys.prefix.replace(os.sep, "/")):
        trial(VALUES, lambda *epoch: None)


@pytest.mark.slow
def test_a_train_step_that_is_stopped_leaves_no_half_bundle(small_dataset, tmp_path):
    """That whole searches of it work is in test_cli and test_pipeline."""
    def stop(*epoch):
        raise optuna.TrialPruned

    arguments = {"dataset": small_dataset, "bucket": str(tmp_path / "bucket"), "epochs": 50, "seed": 0}
    with pytest.raises(optuna.TrialPruned):
        trial_of(train_step(), arguments, tmp_path)(VALUES, stop)
    assert not [entry.key for entry in open_store(arguments["bucket"]).list() if entry.key.startswith("models/")]
