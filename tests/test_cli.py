"""Every command as a user types it: exit status, one JSON object on the last line, one clear line on errors."""

import json
import os
import re
import signal
import subprocess
import sys

import pytest
from conftest import ROOT


def command(*arguments, check=True, timeout=300, **environment):
    result = subprocess.run([sys.executable, "-m", "pipeline", *map(str, arguments)], cwd=ROOT, capture_output=True,
                            text=True, timeout=timeout, env={**os.environ, **environment})
    assert not check or result.returncode == 0, result.stderr
    return result


def last_line(result):
    return json.loads(result.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def model(small_dataset, tmp_path_factory):
    out = tmp_path_factory.mktemp("models")
    result = last_line(command("train", "--dataset", small_dataset, "--out", out, "--epochs", 1, "--hidden", 16,
                               "--reports", out / "reports"))
    assert {"model", "val_cer", "epochs", "seconds"} <= set(result)
    assert (out / "reports" / "curves.html").exists()
    assert list((out / "reports").glob("*.zip")), "the offline Comet archive"
    return result["model"]


def test_help_names_every_step():
    text = command("--help").stdout
    for name in ("pack", "preprocess", "train", "tune", "evaluate", "read", "drift",
                 "serve", "wheels", "manifest", "bench", "fuzz", "run", "upload", "schedule", "unschedule", "list"):
        assert re.search(rf"^    {name}\b", text, re.MULTILINE)
        assert "usage" in command(name, "--help").stdout


def test_pack_gives_a_dataset_and_packing_again_reads_nothing(sample_folder, tmp_path):
    first = last_line(command("pack", "--data", sample_folder, "--out", tmp_path))
    second = last_line(command("pack", "--data", sample_folder, "--out", tmp_path))
    assert first["lines"]["train"] > first["lines"]["test"] > 0
    assert first["new"] and not second["new"]
    assert (first["pictures_read"], second["pictures_read"]) == (40, 0)


def test_train_reports_each_epoch_in_katibs_form(small_dataset, tmp_path):
    result = command("train", "--dataset", small_dataset, "--out", tmp_path, "--epochs", 2, "--hidden", 16)
    assert [line.split()[1] for line in result.stdout.splitlines()[:-1]] == ["epoch=1", "epoch=2"]


def test_train_goes_on_after_a_kill(small_dataset, tmp_path):
    arguments = [sys.executable, "-m", "pipeline", "train", "--dataset", small_dataset, "--out", str(tmp_path),
                 "--epochs", "4", "--hidden", "16", "--checkpoint-seconds", "0"]
    process = subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert "epoch=1" in process.stdout.readline() and "epoch=2" in process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    result = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "resumed after epoch" in result.stderr
    assert last_line(result)["epochs"] == 4


def test_tune_finds_values_and_writes_a_page(small_dataset, tmp_path):
    result = last_line(command("tune", "--dataset", small_dataset, "--out", tmp_path / "tuning", "--trials", 2,
                               "--epochs", 1, "--report", tmp_path / "tuning.html"))
    assert result["trials"] == result["finished"] == 2 and 64 <= result["best"]["hidden"] <= 256
    assert "Hyperparameter search" in (tmp_path / "tuning.html").read_text("utf-8")


def test_evaluate_scores_a_split_and_writes_a_report(model, small_dataset, tmp_path):
    result = last_line(command("evaluate", "--model", model, "--dataset", small_dataset, "--split", "validation",
                               "--report", tmp_path / "report.html"))
    assert {"cer", "wer", "exact", "char_accuracy", "lines"} <= set(result)
    assert result["lines"] == 3
    assert "data:image/png" in (tmp_path / "report.html").read_text()


def test_evaluate_and_read_take_a_language_model(model, small_dataset, sample_folder):
    evaluated = command("evaluate", "--model", model, "--dataset", small_dataset, "--language-model")
    read = command("read", "--model", model, "--language-model", sample_folder / "test/images/0001.png")
    assert "cer" in last_line(evaluated) and isinstance(last_line(read)["readings"][0]["text"], str)


def test_read_goes_on_past_a_bad_picture(model, sample_folder, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    result = command("read", "--model", model, bad, sample_folder / "test/images/0001.png", check=False)
    readings = last_line(result)["readings"]
    assert result.returncode == 1 and str(bad) in result.stderr
    assert "error" in readings[0] and isinstance(readings[1]["text"], str)


def test_manifest_needs_no_cluster_and_no_bucket():
    result = last_line(command("manifest", "--model-uri", "s3://nowhere/models/abc123", "--name", "ocr", "--namespace",
                               "team"))
    assert result["metadata"]["name"] == "ocr" and result["metadata"]["namespace"] == "team"
    assert "s3://nowhere/models/abc123/" in json.dumps(result)


def test_manifest_has_an_option_for_each_setting_of_the_service():
    service = ["--mode", "Serverless", "--min-replicas", 0, "--canary-percent", 5, "--no-install", "--image", "me/ocr"]
    result = last_line(command("manifest", "--model-uri", "s3://b/models/v", *service))
    predictor = result["spec"]["predictor"]
    assert (predictor["minReplicas"], predictor["canaryTrafficPercent"]) == (0, 5)
    assert predictor["containers"][0]["image"] == "me/ocr"
    assert "pip" not in str(predictor["containers"][0]["command"])


@pytest.mark.parametrize("arguments, said", [
    (["pack", "--data", "/nowhere", "--out", "/tmp/x"], "/nowhere"),
    (["pack", "--data", "ftp://x", "--out", "/tmp/x"], "ftp://x"),
    (["train", "--dataset", "/nowhere", "--out", "/tmp/x"], "/nowhere"),
    (["train", "--dataset", "/nowhere", "--out", "/tmp/x", "--epochs", "0"], "epochs is 0"),
    (["evaluate", "--model", "/nowhere", "--dataset", "/nowhere"], "/nowhere"),
    (["read", "--model", "/nowhere", "x.png"], "/nowhere"),
    (["manifest", "--model-uri", "s3://b/models/v", "--name", "No_Name"], "No_Name"),
    (["wheels", "--model", "/nowhere"], "/nowhere"),
    (["run", "--folder", "{tmp}", "--data", "/nowhere"], "/nowhere"),
])
def test_errors_are_one_line_that_says_where(arguments, said, tmp_path, label_studio, s3):
    arguments = [argument.replace("{tmp}", str(tmp_path)) for argument in arguments]
    result = command(*arguments, check=False, LABEL_STUDIO_URL=label_studio.url, LABEL_STUDIO_TOKEN=label_studio.token)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    [line] = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert said in line


def test_preprocess_without_a_token_says_which_variable(tmp_path):
    result = command("preprocess", "--project", 1, "--data", "s3://b/data", "--out", tmp_path, check=False,
                     LABEL_STUDIO_TOKEN="")
    assert result.returncode == 1 and "LABEL_STUDIO_TOKEN" in result.stderr


@pytest.mark.slow
def test_run_twice_learns_once_and_leaves_no_process(label_studio, sample_folder, tmp_path, monkeypatch):
    """The whole loop with its own S3 server; Label Studio is the session's, named by the environment."""
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LABEL_STUDIO_URL", label_studio.url)
    monkeypatch.setenv("LABEL_STUDIO_TOKEN", label_studio.token)
    arguments = ["run", "--once", "--epochs", 1, "--max-cer", 9, "--data", sample_folder, "--folder", tmp_path]
    first, second = (last_line(command(*arguments, timeout=900)) for _ in range(2))
    assert first["retrained"] and first["labels_added"] == 40
    assert not second["retrained"] and second["labels_added"] == 0
    assert second["version"] == first["version"] and second["read"] == first["read"]
    left = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(tmp_path) not in left
