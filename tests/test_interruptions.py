"""Every step is killed, or loses its bucket, in the middle: the same step again finishes the job."""

import json
import os
import signal
import subprocess
import sys
import threading

import boto3
import pytest
from conftest import ROOT

from handwriting import runs
from handwriting.bundle import CONFIG, CURRENT, ONNX, find_bundle
from handwriting.dataset import LATEST, LINES, MANIFEST, resolve
from handwriting.deployment import deploy
from handwriting.errors import MissingError, StoreError
from handwriting.evaluation import evaluate
from handwriting.hyperparameters import ModelConfig, TrainConfig
from handwriting.inference_service import ServiceConfig
from handwriting.labels import LabelConfig
from handwriting.packing import PackConfig, pack_folder
from handwriting.store import S3Store, join, open_store
from handwriting.training import CHECKPOINT
from pipeline.servers import start_seaweedfs

SMALL, SHORT = ModelConfig(channels=4, hidden=16, layers=1), TrainConfig(epochs=2)
TRANSFERS = ("write", "upload", "download")

KILLED = """
import os, signal, sys
from handwriting.store import S3Store
from pipeline.cli import main

fatal, *arguments = sys.argv[1:]

def deadly(transfer):
    def call(self, *where):
        if any(fatal in part for part in where if isinstance(part, str)):
            os.kill(os.getpid(), signal.SIGKILL)
        return transfer(self, *where)
    return call

S3Store.write, S3Store.upload = deadly(S3Store.write), deadly(S3Store.upload)
sys.exit(main(arguments))
"""
"""The command line, killed as soon as it would write a key that holds `fatal`."""


def command(*arguments, fatal=None):
    start = ["-c", KILLED, fatal] if fatal else ["-m", "pipeline"]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'ops' / 'shared'}"}
    return subprocess.run([sys.executable, *start, *map(str, arguments)], cwd=ROOT, env=environment,
                          capture_output=True, text=True, timeout=300)


def last_line(result):
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.parametrize("fatal", ["/shards/", LINES, MANIFEST, LATEST])
def test_a_killed_preprocess_leaves_no_half_dataset_and_runs_again(labelled, sample_folder, tmp_path, fatal):
    datasets = join(labelled.bucket, "datasets")
    arguments = ["preprocess", "--label-studio-url", labelled.label_studio_url, "--project", labelled.project,
                 "--data", join(labelled.bucket, "data"), "--out", datasets]
    assert command(*arguments, fatal=fatal).returncode == -signal.SIGKILL
    with pytest.raises(MissingError):  # no step would take what is there
        resolve(datasets, MANIFEST)
    again = last_line(command(*arguments))
    whole = pack_folder(str(sample_folder), str(tmp_path), PackConfig(), LabelConfig())
    assert again["dataset"].rpartition("/")[2] == whole.uri.rpartition("/")[2]
    assert resolve(datasets, MANIFEST) == again["dataset"]


@pytest.fixture(scope="module")
def model(small_dataset, tmp_path_factory):
    """The bundle of a short training that nothing interrupted."""
    folder = tmp_path_factory.mktemp("model")
    return runs.train(small_dataset, str(folder), str(folder / "runs"), SMALL, SHORT).model


@pytest.fixture
def version(model):
    return model.rpartition("/")[2]


TRAIN = ["train", "--epochs", 1, "--hidden", 16, "--layers", 1]


@pytest.fixture(scope="module")
def trained(small_dataset, tmp_path_factory):
    """The version that TRAIN gives where nothing interrupts it."""
    out = tmp_path_factory.mktemp("trained")
    return last_line(command(*TRAIN, "--dataset", small_dataset, "--out", out))["model"].rpartition("/")[2]


@pytest.mark.servers
@pytest.mark.parametrize("fatal", [ONNX, CONFIG, runs.RESULT])
def test_a_killed_train_leaves_no_half_bundle_and_runs_again(small_dataset, trained, bucket, fatal):
    models = f"s3://{bucket}/models"
    arguments = [*TRAIN, "--dataset", small_dataset, "--out", models]
    assert command(*arguments, fatal=fatal).returncode == -signal.SIGKILL
    if fatal != runs.RESULT:
        with pytest.raises(MissingError):
            find_bundle(models)
    assert last_line(command(*arguments))["model"] == f"{models}/{trained}"  # the same weights


class Outage:
    """An S3 server of our own that goes away at the first transfer whose key holds some text, and comes back."""

    def __init__(self, folder, monkeypatch):
        self.folder, self.patch, self.lock = folder, monkeypatch, threading.Lock()
        self.server = start_seaweedfs(folder)
        for name, value in self.server.environment.items():
            monkeypatch.setenv(name, value)
        boto3.session.Session().client("s3").create_bucket(Bucket="bucket")
        self.bucket = "s3://bucket"

    def put(self, folder, uri):
        source, target = open_store(str(folder)), open_store(uri)
        for entry in source.list():
            target.write(entry.key, source.read(entry.key))

    def strikes_at(self, fatal, call):
        """Runs a step that meets the outage; it must say what to check."""
        with self.patch.context() as patch:
            for name in TRANSFERS:
                patch.setattr(S3Store, name, self._striking(getattr(S3Store, name), fatal))
            with pytest.raises(StoreError, match="s3://bucket/.*AWS_ENDPOINT_URL_S3.*the server runs"):
                call()
        self.server = start_seaweedfs(self.folder)

    def _crash(self):
        with self.lock:  # transfers run beside each other
            if self.server.process:
                os.killpg(self.server.process.pid, signal.SIGKILL)
                self.server.stop()

    def _striking(self, transfer, fatal):
        def call(store, *where):
            if any(fatal in part for part in where if isinstance(part, str)):
                self._crash()
            return transfer(store, *where)
        return call


@pytest.fixture
def outage(tmp_path, monkeypatch):
    found = Outage(tmp_path / "s3", monkeypatch)
    yield found
    found.server.stop()


@pytest.mark.servers
@pytest.mark.parametrize("fatal", ["images/", "/shards/", MANIFEST])
def test_a_bucket_that_goes_away_while_packing(outage, sample_folder, tmp_path, fatal):
    outage.put(sample_folder, "s3://bucket/data")

    def pack():
        return pack_folder("s3://bucket/data", "s3://bucket/datasets", PackConfig(), LabelConfig())

    reads = S3Store.read
    with outage.patch.context() as patch:
        if fatal == "images/":  # pictures are read, not transferred to files
            patch.setattr(S3Store, "read", outage._striking(reads, fatal))
        outage.strikes_at(fatal, pack)
    whole = pack_folder(str(sample_folder), str(tmp_path / "local"), PackConfig(), LabelConfig())
    assert pack().uri.rpartition("/")[2] == whole.uri.rpartition("/")[2]


@pytest.mark.servers
def test_a_bucket_that_goes_away_while_training(outage, small_dataset, version):
    def train():
        return runs.train(small_dataset, "s3://bucket/models", "s3://bucket/runs", SMALL, SHORT, checkpoint_seconds=0)

    outage.strikes_at(ONNX, train)
    resumed = train()
    assert resumed.model == f"s3://bucket/models/{version}" and resumed.trained


@pytest.mark.servers
def test_a_bucket_that_is_away_for_the_time_of_a_checkpoint_costs_no_training(bucket, small_dataset, version,
                                                                              monkeypatch, caplog):
    write = S3Store.write

    def failing(store, key, data):
        if key == CHECKPOINT:
            raise StoreError(f"{store.root}/{key}: the server is away")
        write(store, key, data)
    monkeypatch.setattr(S3Store, "write", failing)
    done = runs.train(small_dataset, f"s3://{bucket}/models", f"s3://{bucket}/runs", SMALL, SHORT, checkpoint_seconds=0)
    assert done.model.endswith(version)
    assert "no checkpoint after epoch 1" in caplog.text and "the server is away" in caplog.text


@pytest.mark.servers
@pytest.mark.parametrize("fatal", [ONNX, "shards/"])
def test_a_bucket_that_goes_away_while_evaluating(outage, small_dataset, model, version, fatal):
    outage.put(small_dataset, f"s3://bucket/datasets/{small_dataset.rpartition('/')[2]}")
    outage.put(model, f"s3://bucket/models/{version}")

    def score():
        return evaluate(f"s3://bucket/models/{version}", f"s3://bucket/datasets/{small_dataset.rpartition('/')[2]}")

    outage.strikes_at(fatal, score)
    assert score().scores == evaluate(model, small_dataset).scores


@pytest.mark.servers
def test_a_bucket_that_goes_away_while_deploying(outage, model, version):
    uri = f"s3://bucket/models/{version}"
    outage.put(model, uri)
    outage.strikes_at(CURRENT, lambda: deploy(uri, ServiceConfig(install=False), apply=False))
    assert not open_store("s3://bucket/models").exists(CURRENT)
    deploy(uri, ServiceConfig(install=False), apply=False)
    assert find_bundle("s3://bucket/models") == uri
