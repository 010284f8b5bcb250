"""The whole loop on one machine: servers, labels, the pipeline itself through kfp.local, and the predictor.

Nothing here is a stand-in for a part of the product: the pipeline function is the one that `compile.py` compiles, and
the predictor is started by the container command of the InferenceService that the deploy step made.
"""

import hashlib
import logging
import os
import re
import signal
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, Self

import boto3
import requests
from kfp import local
from tqdm import tqdm

from handwriting import access, layout, release, wheels
from handwriting.bundle import CURRENT, fetch_bundle, find_champion, read_config
from handwriting.errors import DeployError, HandwritingError
from handwriting.evaluation import evaluate
from handwriting.label_studio import LabelStudio, from_environment
from handwriting.labels import BUCKET_SPLITS
from handwriting.packing import LABELS
from handwriting.reader import Reader
from handwriting.store import CONNECTIONS, Store, join, open_store, read_json, split_s3
from pipeline.handwriting_pipeline import handwriting_pipeline
from pipeline.labelling import ensure_project, ensure_storage, import_labels
from pipeline.samples import make_samples
from pipeline.ports import free_port
from pipeline.processes import ProcessServer
from pipeline.servers import ensure_label_studio_venv, start_label_studio, start_seaweedfs

log = logging.getLogger(__name__)

STAGES = 6


class Reply(NamedTuple):
    """What the predictor answered for a held-out line, beside the truth and what its bundle reads here."""

    key: str
    truth: str
    read: str
    expected: str


class LocalRun:
    """One run; as a context manager it stops every server it started.

    Args:
        folder: Where servers keep their data, so that a second run finds all that the first did.
        data: Folder in the bucket's layout, "" for rendered samples.
        epochs: Of training, at most.
        minutes: Of training, at most.
    """

    def __init__(self, folder: Path, data: str, epochs: int, minutes: float):
        self.folder, self.data, self.epochs, self.minutes = folder.resolve(), data, epochs, minutes
        self.servers = ExitStack()
        self.lines: list[str] = []
        self.stage = 0
        name = "samples" if not data else _slug(data)
        bucket = "ocrpipeline" if not data else f"ocrpipeline-{name}"
        self.bucket = os.environ.get("HANDWRITING_BUCKET", f"s3://{bucket}").rstrip("/")
        self.title = f"handwriting {name}"

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like Ctrl-C: servers are stopped
        return self

    def __exit__(self, *fault: object) -> None:
        self.servers.close()

    def run(self, max_cer: float) -> dict[str, Any]:
        """Runs all stages and the check; returns the outcome, with `failed` set where the check did not hold.

        Raises:
            HandwritingError: A stage failed.
        """
        began = time.monotonic()
        self._start_s3()
        client = self._start_label_studio()
        project, labelled = self._label(client)
        before = self._champion()
        self._pipeline(client, project)
        predictor, reader = self._start_predictor()
        version = reader.version
        reply = self._ask(predictor, reader)
        cer = self._test_cer()
        failed = reply.read != reply.expected or cer > max_cer
        if reply.read != reply.expected:
            log.error("the predictor read %r where its bundle reads %r here; see %s", reply.read, reply.expected,
                      self.folder / "predictor.log")
        unchanged = before == self._champion()
        self._tell(client.url, project, predictor, reply, cer, max_cer, labelled, unchanged)
        log.info("done in %.0f s", time.monotonic() - began)
        return {"truth": reply.truth, "read": reply.read, "test_cer": cer, "max_cer": max_cer, "version": version,
                "retrained": not unchanged, "labels_added": labelled, "label_studio": client.url,
                "bucket": self.bucket, "predictor": predictor, "failed": failed}

    def wait(self) -> None:
        """Stays up until Ctrl-C."""
        print("Everything stays up; Ctrl-C stops it.", file=sys.stderr)
        try:
            signal.pause()
        except KeyboardInterrupt:
            print("stopping", file=sys.stderr)

    def _announce(self, text: str) -> None:
        self.stage += 1
        print(f"\n[{self.stage}/{STAGES}] {text}", file=sys.stderr, flush=True)

    def _start_s3(self) -> None:
        self._announce("S3")
        if os.environ.get("AWS_ENDPOINT_URL_S3"):
            log.info("using the S3 server at %s", os.environ["AWS_ENDPOINT_URL_S3"])
        else:
            os.environ.update(self.servers.enter_context(start_seaweedfs(self.folder / "s3")).environment)
            log.info("SeaweedFS runs at %s", os.environ["AWS_ENDPOINT_URL_S3"])
        _ensure_bucket(self.bucket)

    def _start_label_studio(self) -> LabelStudio:
        self._announce("Label Studio")
        if os.environ.get("LABEL_STUDIO_URL"):
            log.info("using Label Studio at %s", os.environ["LABEL_STUDIO_URL"])
            return from_environment(os.environ["LABEL_STUDIO_URL"])
        environment = ensure_label_studio_venv(self.folder)
        log.info("starting (half a minute the first time)")
        server = self.servers.enter_context(start_label_studio(self.folder / "label-studio", environment))
        os.environ["LABEL_STUDIO_TOKEN"] = server.token
        log.info("Label Studio runs at %s, user %s, password in %s", server.url, server.username,
                 self.folder / "label-studio" / "label_studio.json")
        return LabelStudio(server.url, server.token)

    def _label(self, client: LabelStudio) -> tuple[int, int]:
        """Brings pictures and labels where people would have put them; returns the project and the labels added."""
        self._announce("pictures and labels")
        if given := os.environ.get("LABEL_STUDIO_PROJECT"):
            log.info("using project %s as it is", given)
            return int(given), 0
        source = open_store(self.data or self._samples())
        labels = {split: read_json(source, f"{split}/{LABELS}") for split in BUCKET_SPLITS
                  if source.exists(f"{split}/{LABELS}")}
        if not labels:
            raise HandwritingError(f"{source.root} has no train/{LABELS}; give a folder in the bucket's layout")
        data_uri = join(self.bucket, layout.DATA)
        uploaded = _upload(source, open_store(data_uri))
        project = ensure_project(client, self.title)
        ensure_storage(client, project, data_uri)
        imported = import_labels(client, project, data_uri, labels)
        log.info("%d pictures uploaded; %d labels added, %d there already", uploaded, *imported)
        return project, imported.added

    def _samples(self) -> str:
        folder = self.folder / "samples"
        if not (folder / "user_data" / LABELS).exists():  # written last
            log.info("rendering sample lines: %s", make_samples(folder))
        return str(folder)

    def _champion(self) -> str:
        return find_champion(join(self.bucket, layout.MODELS))

    def _pipeline(self, client: LabelStudio, project: int) -> None:
        self._announce("pipeline: preprocess, train, evaluate, promote, deploy")
        local.init(runner=local.SubprocessRunner(use_venv=False), pipeline_root=str(self.folder / "pipeline"),
                   raise_on_error=True)
        warnings.filterwarnings("ignore", "Task .* have no effect", UserWarning)  # requests meant for a cluster
        try:
            handwriting_pipeline(label_studio_url=client.url, project=project, bucket=self.bucket, epochs=self.epochs,
                                 minutes=self.minutes, force=self._asks_for_other_training(), katib=False, apply=False)
        except RuntimeError as error:  # kfp.local gives no other; the step's own message stands above in its log
            raise HandwritingError(f"the pipeline failed: {error}; the step's own message stands above") from error

    def _asks_for_other_training(self) -> bool:
        """Says whether the model that serves was trained for another time than this run shall; then it trains anew."""
        champion = self._champion()
        trained = read_config(open_store(champion)).train if champion else {}
        return bool(trained) and (trained["epochs"], trained["minutes"]) != (self.epochs, self.minutes)

    def _test_cer(self) -> float:
        """Returns the CER of what serves on the newest test lines, read as the service reads."""
        return evaluate(self._champion(), join(self.bucket, layout.DATASETS), language_model=True).scores.cer

    def _start_predictor(self) -> tuple[str, Reader]:
        """Starts what the manifest says; returns its address, and a reader of the bundle with its settings."""
        self._announce("predictor")
        models = open_store(join(self.bucket, layout.MODELS))
        if not models.exists(CURRENT):
            raise DeployError(f"{join(models.root, CURRENT)} is not there: nothing was promoted, so nothing can serve")
        current = read_json(models, CURRENT)
        container = current["manifest"]["spec"]["predictor"]["containers"][0]
        environment = _environment(container)
        bundle = self._initialize_storage(join(models.root, current["id"]), environment[layout.VERSION_VARIABLE])
        port = free_port()
        environment |= {"STORAGE_URI": str(bundle), "PORT": str(port), "SITE_ROOT": str(self.folder)}
        url = f"http://127.0.0.1:{port}"
        log.info("installing its packages, then starting")
        self.servers.enter_context(ProcessServer(
            "the predictor", [*container["command"], *container.get("args", [])], f"{url}/readyz",
            self.folder / "predictor.log", env=environment, deadline=300))
        log.info("the predictor runs at %s", url)
        return url, Reader.load(bundle, language_model=bool(environment.get(layout.LANGUAGE_MODEL_VARIABLE)))

    def _initialize_storage(self, uri: str, released: str) -> Path:
        """Plays the storage initializer: returns a copy of a bundle with its predictor and wheels.

        They are there from the deploy step, except where this machine differs from the service's image.
        """
        here, code = wheels.Target.here(), release.code_of(released)
        wheels.ensure(open_store(uri), code, here)
        bundle = fetch_bundle(uri, self.folder / "bundles")
        wheels.fetch(open_store(uri), bundle, code, here)
        return bundle

    def _ask(self, predictor: str, reader: Reader) -> Reply:
        """Sends a held-out line to the predictor."""
        self._announce("check")
        data = open_store(join(self.bucket, layout.DATA))
        name, truth = next(iter(read_json(data, f"test/{LABELS}").items()))
        picture = data.read(f"test/images/{name}")
        answer = requests.post(f"{predictor}/predict", files={layout.FIELD: (name, picture)}, timeout=60,
                               # a test line must not come back as training data
                               headers={layout.KEEP_HEADER: "no", **access.headers()})
        if answer.status_code != 200:
            raise DeployError(f"{predictor}/predict answered {answer.status_code}: {answer.text}; "
                              f"see {self.folder / 'predictor.log'}")
        return Reply(f"test/images/{name}", truth, answer.content.decode(), reader.read([picture])[0].text)

    def _tell(self, label_studio: str, project: int, predictor: str, reply: Reply, cer: float, max_cer: float,
              labelled: int, unchanged: bool) -> None:
        news = f"{labelled} labels added, a new model serves"
        if unchanged:
            news = f"{labelled} labels added, no new model: the one that serves stays" if labelled else \
                "nothing new: nothing relabelled, nothing retrained, the same model serves"
        print(f"""
  {news}
  line          {reply.key}
  truth         {reply.truth}
  read          {reply.read}
  test CER      {cer:.4f} (bound {max_cer:.2f})
  Label Studio  {label_studio}/projects/{project}
  bucket        {self.bucket} at {os.environ["AWS_ENDPOINT_URL_S3"]}
  predictor     {predictor}    curl -F file=@line.png {predictor}/predict
""", file=sys.stderr)


def _slug(folder: str) -> str:
    """Names a data folder so that two of the same last name do not share a bucket."""
    path = Path(folder).resolve()
    name = re.sub("[^a-z0-9]+", "-", path.name.lower()).strip("-")[:20]
    return f"{name}-{hashlib.sha256(str(path).encode()).hexdigest()[:6]}"


def _ensure_bucket(uri: str) -> None:
    """Creates the bucket where it is absent."""
    bucket, _ = split_s3(uri)
    client = boto3.client("s3")
    try:
        if bucket not in {found["Name"] for found in client.list_buckets()["Buckets"]}:
            client.create_bucket(Bucket=bucket)
    except Exception as error:
        raise HandwritingError(f"cannot use or create {uri} at {os.environ.get('AWS_ENDPOINT_URL_S3')} ({error}); "
                               "check AWS_ENDPOINT_URL_S3, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY") from error


def _upload(source: Store, target: Store) -> int:
    """Uploads the pictures that are not in the bucket yet, in parallel; returns how many."""
    there = {entry.key for entry in target.list()}
    new = [entry.key for split in BUCKET_SPLITS for entry in source.list(f"{split}/images/") if entry.key not in there]
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        list(tqdm(pool.map(lambda key: target.write(key, source.read(key)), new), total=len(new),
                  desc="uploading pictures", unit="", disable=None))
    return len(new)


def _environment(container: dict[str, Any]) -> dict[str, str]:
    """Returns the environment of a container: its own entries, and secrets from this process's variables."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    inherited["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # its `python` is ours
    return inherited | {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}
