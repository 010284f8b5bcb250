"""The server is killed, the bucket goes away, the disk fills: no accepted picture is lost, and none comes twice."""

import contextlib
import glob
import hashlib
import http.client
import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import boto3
import pytest
from conftest import ROOT
from helpers import SERVER
from PIL import Image
from test_user_data import READING, counts, within

from handwriting.errors import StoreError
from handwriting.store import S3Store, open_store
from handwriting.layout import READINGS, USER_PICTURES
from handwriting.user_data import KeepConfig, UserPictures
from pipeline.predictor_client import multipart
from pipeline.ports import free_port
from pipeline.servers import start_seaweedfs

PICTURES, SENDERS = 1000, 8

PROGRAM = SERVER.format(seconds=0)  # pictures come faster than a bucket takes them


def picture(number: int) -> bytes:
    """A small PNG, another one for each number."""
    out = io.BytesIO()
    Image.frombytes("L", (8, 4), number.to_bytes(32)).save(out, "PNG")
    return out.getvalue()


def digest(data: bytes) -> str:
    """What S3 calls an object's ETag."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


class Server:
    """The predictor on a port and a spool that stay the same from start to start."""

    def __init__(self, folder: Path, data_uri: str, *arguments: str):
        self.port, self.log, self.spool = free_port(), folder / "server.log", folder / "spool"
        self.command = [sys.executable, "-c", PROGRAM, "--host", "127.0.0.1", "--port", str(self.port),
                        "--model", "none", "--data-uri", data_uri, "--spool", str(self.spool), *arguments]
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "ops" / "shared")}
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(self.command, env=environment, stderr=log, start_new_session=True)
        assert within(20, lambda: self.get("/readyz") is not None), self.log.read_text("utf-8")

    def kill(self) -> None:
        """Ends the server and all of its workers at once."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):  # it has ended by itself
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def kill_worker(self) -> None:
        """Ends one worker; gunicorn starts another one."""
        started = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text("ascii").split()
        os.kill(int(started[0]), signal.SIGKILL)

    def entries(self) -> int:
        """Counts what waits in the spool."""
        return len(glob.glob("*/*/*", root_dir=self.spool))  # Path.glob fails where a folder goes while it looks

    def get(self, path: str) -> str | None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.read().decode() if answer.status == 200 else None
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()

    def metric(self, name: str) -> float:
        page = self.get("/metrics") or ""
        return next((float(line.split()[1]) for line in page.splitlines() if line.startswith(f"{name} ")), -1.0)

    def predict(self, data: bytes) -> bool:
        """Sends a picture and says whether it was answered."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request("POST", "/predict", *multipart(data))
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


@pytest.fixture
def server(tmp_path, bucket):
    """Makes servers that keep pictures in the bucket."""
    made = []

    def make(*arguments: str) -> Server:
        made.append(Server(tmp_path, f"s3://{bucket}/data", *arguments))
        made[-1].start()
        return made[-1]

    yield make
    for one in made:
        one.kill()


class Sent:
    """Senders that go on through all faults; each picture is sent once, whether it is answered or not."""

    def __init__(self, server: Server):
        self.server, self.lock = server, threading.Lock()
        self.answered: set[str] = set()
        self.all: set[str] = set()
        self.threads = [threading.Thread(target=self._work) for _ in range(SENDERS)]
        for thread in self.threads:
            thread.start()

    def _work(self) -> None:
        while len(self.answered) < PICTURES:
            with self.lock:
                data = picture(len(self.all))
                self.all.add(digest(data))
            if self.server.predict(data):
                self.answered.add(digest(data))
            elif not within(20, lambda: self.server.get("/readyz")):
                return

    def end(self) -> None:
        for thread in self.threads:
            thread.join(60)


class Arrived(NamedTuple):
    """What is in the bucket: how often each picture, and the names of pictures and readings."""

    pictures: Counter
    images: list[str]
    readings: list[str]


def arrived(bucket: str) -> Arrived:
    store = open_store(f"s3://{bucket}/data")
    images, readings = list(store.list(f"{USER_PICTURES}/")), list(store.list(f"{READINGS}/"))
    names = [[Path(entry.key).stem for entry in entries] for entries in (images, readings)]
    return Arrived(Counter(entry.tag for entry in images), *names)


@pytest.mark.parametrize("workers", [1, 2])
def test_kill_9_under_load_loses_none_of_1000_pictures_and_doubles_none(server, bucket, workers):
    running = server("--workers", str(workers))
    sent = Sent(running)
    assert within(60, lambda: len(sent.answered) > 0.3 * PICTURES)
    running.kill()
    running.start()
    assert within(60, lambda: len(sent.answered) > 0.6 * PICTURES)
    running.kill_worker()
    sent.end()
    running.kill()  # right after the last answer: the most that can be in the spool
    print(f"{len(sent.all)} sent, {len(sent.answered)} answered, {running.entries()} wait at the last kill")
    running.start()
    assert within(60, lambda: running.entries() == 0)
    found = arrived(bucket)
    assert len(sent.answered) >= PICTURES
    assert sent.answered <= set(found.pictures) <= sent.all
    assert set(found.pictures.values()) == {1}
    assert sorted(found.images) == sorted(found.readings)
    assert running.metric("handwriting_pictures_lost_total") == 0


def test_what_a_server_without_a_bucket_accepted_is_stored_by_the_next(server, bucket, monkeypatch):
    with monkeypatch.context() as away:
        away.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")  # nobody answers there
        running = server()
    assert all(running.predict(picture(number)) for number in range(20))
    assert running.metric("handwriting_pictures_waiting") == running.entries() == 20
    assert running.metric("handwriting_pictures_waiting_bytes") > 20 * len(picture(0))
    assert within(20, lambda: running.metric("handwriting_pictures_oldest_seconds") > 0)
    assert within(30, lambda: running.metric("handwriting_pictures_upload_failures_total") > 0)
    running.kill()
    running.start()
    assert within(30, lambda: running.entries() == 0)
    assert arrived(bucket).pictures == Counter(digest(picture(number)) for number in range(20))


@pytest.mark.servers
def test_a_bucket_that_goes_away_gets_everything_when_it_is_back(tmp_path, monkeypatch):
    s3 = start_seaweedfs(tmp_path / "s3")
    try:
        for name, value in s3.environment.items():
            monkeypatch.setenv(name, value)
        boto3.session.Session().client("s3").create_bucket(Bucket="bucket")
        pictures = UserPictures("s3://bucket/data", KeepConfig(spool=str(tmp_path / "spool"), pause=0.1))
        pictures.add(picture(0), READING)
        assert within(20, lambda: pictures.stored == 1)
        os.killpg(s3.process.pid, signal.SIGKILL)
        s3.stop()
        for number in range(1, 50):
            pictures.add(picture(number), READING)
        assert within(40, lambda: pictures.failures > 0)
        assert counts(pictures) == (1, 49, 0)
        s3 = start_seaweedfs(tmp_path / "s3")
        assert within(40, lambda: pictures.stored == 50)
        pictures.close()
        assert arrived("bucket").pictures == Counter(digest(picture(number)) for number in range(50))
        assert counts(pictures) == (50, 0, 0)
    finally:
        s3.stop()


def test_a_disk_that_takes_no_more_leaves_predictions_and_is_seen_in_the_metrics(server, bucket, tmp_path):
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", _made(tmp_path / "spool")],
                             capture_output=True)
    if mounted.returncode:
        pytest.skip("this user may not mount a file system")
    try:
        running = server()
        large = picture(0).ljust(100_000, b"\0")
        assert all(running.predict(large) for _ in range(5))
        assert running.metric("handwriting_pictures_lost_total") == 5
        assert running.predict(picture(1))  # small enough
        assert within(10, lambda: running.metric("handwriting_pictures_stored_total") == 1)
        assert running.log.read_text("utf-8").count("No space left on device") == 1
        running.kill()
    finally:
        subprocess.run(["umount", "--lazy", tmp_path / "spool"], check=True)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_sigterm_stores_what_waits_as_long_as_the_bucket_takes_it(server, bucket):
    running = server()
    assert all(running.predict(picture(number)) for number in range(50))
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(20) == 0
    assert len(arrived(bucket).images) == 50


def test_a_picture_attempted_twice_is_one_object_with_the_same_bytes(bucket, tmp_path, monkeypatch):
    """As after a kill between the upload and the removal from the spool."""
    write, tries = S3Store.write, Counter()

    def unheard(store, key, data):
        write(store, key, data)
        tries[key] += 1
        if tries[key] == 1:
            raise StoreError("the answer is lost")

    monkeypatch.setattr(S3Store, "write", unheard)
    pictures = UserPictures(f"s3://{bucket}/data", KeepConfig(spool=str(tmp_path), pause=0.01))
    pictures.add(picture(0), READING)
    assert within(10, lambda: pictures.stored == 1)
    pictures.close()
    found = arrived(bucket)
    assert found.pictures == {digest(picture(0)): 1} and len(found.readings) == 1 and max(tries.values()) > 1
    assert json.loads(open_store(f"s3://{bucket}").read(f"data/{READINGS}/{found.readings[0]}.json"))["text"] == "Huế"
