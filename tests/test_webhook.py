"""Events of Label Studio are counted once each, whatever happens, and start runs one after another."""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pytest
import requests
from conftest import ROOT

from handwriting.errors import ConfigError, DataError, LabelStudioError, PipelineError, StoreError
from handwriting.label_studio import LabelStudio
from handwriting.store import open_store
from pipeline.cli import main
from pipeline.label_events import Event, labels_since, parse_event
from pipeline.label_runs import KfpRuns, LocalRuns
from pipeline.labelling import ensure_project, ensure_webhook, import_labels
from pipeline.new_labels import KEY, NewLabels, StartConfig
from pipeline.run_starter import RunStarter
from pipeline.ports import free_port
from pipeline.webhook import create_app, own, secret_from_environment

SECRET = "0123456789abcdef-secret"
AUTHORIZED = {"Authorization": f"Bearer {SECRET}"}
PROJECT = 7
STARTED = 1_800_000_000.0


class Clock:
    """A time that only tests move."""

    def __init__(self):
        self.now = STARTED

    def __call__(self):
        return self.now


class FakeRuns:
    """Remembers the names of its runs; each is active until it is ended."""

    def __init__(self):
        self.names: list[str] = []
        self.ended: set[str] = set()
        self.away = False
        self.asked = 0

    def start(self, name):
        self._reach()
        assert name not in self.names
        assert set(map(self._id, self.names)) <= self.ended, "two at once"
        self.names.append(name)
        return self._id(name)

    def find(self, name):
        self._reach()
        return self._id(name) if name in self.names else ""

    def active(self, run):
        self._reach()
        return run not in self.ended

    def end(self):
        self.ended.add(self._id(self.names[-1]))

    def _id(self, name):
        return f"id of {name}"

    def _reach(self):
        self.asked += 1
        if self.away:
            raise PipelineError("the API is away")


class FailingStore:
    """A local store that can be away."""

    def __init__(self, folder):
        self.inner, self.root, self.away = open_store(str(folder)), str(folder), False

    def exists(self, key):
        return self.inner.exists(key)

    def read(self, key):
        return self.inner.read(key)

    def write(self, key, data):
        if self.away:
            raise StoreError("the bucket is away")
        self.inner.write(key, data)


class Receiver:
    """The application around fakes; `step` does what its thread would."""

    def __init__(self, folder, labels=3, quiet=30.0, look_up=None, runs=None, clock=None, store=None):
        self.clock, self.runs = clock or Clock(), runs or FakeRuns()
        self.store = store or open_store(str(folder))
        self.folder, self.config, self.look_up = folder, StartConfig(labels, quiet), look_up
        self.restart()

    def restart(self):
        self.labels = NewLabels(self.store, PROJECT, self.clock)
        self.starter = RunStarter(self.labels, self.runs, self.config, self.look_up)
        self.client = create_app(self.starter, SECRET, max_bytes=5000).test_client()

    def post(self, payload, **headers):
        return self.client.post("/webhook", json=payload, headers=AUTHORIZED | headers)

    def label(self, *numbers):
        for number in numbers:
            assert self.post(annotated(number)).status_code == 200

    def step(self, minutes=0.0):
        self.clock.now += 60 * minutes
        self.starter.step()


@pytest.fixture
def receiver(tmp_path):
    return Receiver(tmp_path)


def annotation(number, cancelled=False, at="2026-11-25T18:16:03.316542Z"):
    return {"id": number, "was_cancelled": cancelled, "updated_at": at, "result": [], "task": 1}


def annotated(number, action="ANNOTATION_CREATED", project=PROJECT, **more):
    return {"action": action, "annotation": annotation(number, **more), "project": {"id": project}}


def several(*numbers):
    return {"action": "ANNOTATIONS_CREATED", "annotation": [annotation(number) for number in numbers],
            "project": {"id": PROJECT}}


def deleted(*numbers):
    return {"action": "ANNOTATIONS_DELETED", "annotations": [{"id": number} for number in numbers],
            "project": {"id": PROJECT}}


def imported(annotations):
    return {"action": "TASKS_CREATED", "tasks": [{"id": 1, "total_annotations": annotations}],
            "project": {"id": PROJECT}}


# counting


def test_enough_new_labels_start_a_run_with_all_of_them(receiver):
    receiver.label(1, 2)
    receiver.step()
    assert receiver.runs.names == [] and receiver.labels.total == 2
    receiver.label(3, 4)
    receiver.step()
    assert len(receiver.runs.names) == 1 and receiver.labels.total == 0


def test_a_few_labels_start_a_run_once_nobody_adds_to_them(receiver):
    receiver.label(1)
    receiver.step(minutes=29)
    receiver.label(2)  # goes on labelling
    receiver.step(minutes=29)
    assert receiver.runs.names == []
    receiver.step(minutes=1)
    assert len(receiver.runs.names) == 1


def test_quiet_without_a_label_starts_nothing(receiver):
    receiver.step(minutes=1000)
    receiver.label(1)
    receiver.post(deleted(1))
    receiver.step(minutes=1000)
    assert receiver.runs.names == []


def test_a_repeated_event_or_an_update_counts_once_and_an_older_label_that_changes_counts(receiver):
    receiver.label(1, 1)
    receiver.post(annotated(1, "ANNOTATION_UPDATED"))
    assert receiver.labels.total == 1
    receiver.label(2, 3)
    receiver.step()
    receiver.post(annotated(1, "ANNOTATION_UPDATED"))  # the run has its old text
    assert receiver.labels.total == 1


def test_deleted_and_cancelled_labels_do_not_count(receiver):
    receiver.post(several(1, 2, 3))
    receiver.post(deleted(1, 99))
    receiver.post(annotated(2, "ANNOTATION_UPDATED", cancelled=True))
    assert receiver.post(annotated(4, cancelled=True)).json == {"counted": True, "new_labels": 1}


def test_another_projects_events_and_other_actions_are_acknowledged_and_not_counted(receiver):
    for payload in (annotated(1, project=8), {"action": "PROJECT_UPDATED"}, {"action": "TASKS_DELETED", "tasks": []}):
        answer = receiver.post(payload)
        assert (answer.status_code, answer.json) == (200, {"counted": False, "new_labels": 0})


@pytest.mark.parametrize("headers", [{}, {"Authorization": SECRET}, {"Authorization": f"Bearer {SECRET}x"},
                                     {"Authorization": "Bearer "}, {"Authorization": "Bearer \xe9"}])
def test_without_the_secret_nothing_is_read_or_counted(receiver, headers, caplog):
    caplog.set_level(logging.DEBUG)
    answer = receiver.client.post("/webhook", json=annotated(1), headers=headers)
    assert (answer.status_code, answer.json["error"]) == (401, "wrong secret")
    assert receiver.labels.total == 0
    assert SECRET not in caplog.text + answer.text


@pytest.mark.parametrize("payload", [
    [], "x", 5, {}, {"action": "ANNOTATION_CREATED"}, {"action": "ANNOTATION_CREATED", "project": {"id": 7}},
    annotated("1"), annotated(True), annotated(1, at="yesterday"), annotated(1, at=None), annotated(1, project="7"),
    {**annotated(1), "annotation": "abc"}, {**annotated(1), "annotation": [1]}, {**annotated(1), "project": 7},
    {**deleted(1), "annotations": [1]}, {**imported(1), "tasks": 3}])
def test_a_body_that_is_no_event_is_400_and_not_counted(receiver, payload):
    answer = receiver.post(payload)
    assert (answer.status_code, answer.json["error"]) == (400, "invalid event")
    assert "webhook" in answer.json["message"] and receiver.labels.total == 0


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"action=x"])
def test_a_body_that_is_no_json_is_400(receiver, body):
    answer = receiver.client.post("/webhook", data=body, headers=AUTHORIZED)
    assert (answer.status_code, answer.json["error"]) == (400, "no json")


def test_an_event_that_is_too_large_is_413_and_its_labels_are_looked_up(tmp_path):
    receiver = Receiver(tmp_path, look_up=lambda since: Event(PROJECT, frozenset({1, 2})))
    receiver.step()
    receiver.post(deleted(1, 2))
    assert receiver.post({"action": "x" * 6000}).status_code == 413
    receiver.step()
    assert receiver.labels.total == 2


def test_status_tells_what_comes_and_nothing_secret(receiver):
    receiver.label(1)
    told = receiver.client.get("/status").json
    assert told == receiver.client.get("/").json == {
        "project": PROJECT, "new_labels": 1, "start_at": 3, "quiet_minutes": 30.0, "due": "2027-01-15T08:30:00Z",
        "starting": None, "last_run": None, "active": False, "failures": 0}
    receiver.label(2, 3)
    assert receiver.client.get("/status").json["due"] == "2027-01-15T08:00:00Z"
    receiver.step()
    told = receiver.client.get("/status").json
    assert told["last_run"] == f"id of {receiver.runs.names[0]}" and told["active"] and told["due"] is None


def test_unknown_routes_and_methods_answer_json(receiver):
    assert receiver.client.get("/nothing").json["error"] == "not found"
    assert receiver.client.get("/webhook").status_code == 405


def test_it_is_unhealthy_when_nothing_would_start_a_run(receiver):
    assert receiver.client.get("/healthz").status_code == 503
    receiver.starter.start()
    assert receiver.client.get("/healthz").json == {"status": "alive"}
    receiver.starter.close()
    assert receiver.client.get("/healthz").status_code == 503


def test_it_is_unhealthy_when_a_start_hangs(receiver, monkeypatch):
    monkeypatch.setattr("pipeline.run_starter.LONGEST_STEP", 0.1)
    answered = threading.Event()
    receiver.runs.find = lambda name: answered.wait(20) and ""
    receiver.label(1, 2, 3)
    receiver.starter.start()
    assert within(10, lambda: receiver.client.get("/healthz").status_code == 503)
    receiver.label(4)  # counting goes on
    answered.set()
    assert within(10, lambda: receiver.client.get("/healthz").status_code == 200)
    receiver.starter.close()


def test_the_thread_starts_a_run_as_soon_as_the_count_is_full(receiver):
    receiver.starter.start()
    receiver.label(1, 2, 3)
    assert within(10, lambda: receiver.runs.names)
    receiver.starter.close()


# one after another


def test_labels_of_an_active_run_wait_for_its_end_and_start_the_next(receiver):
    receiver.label(1, 2, 3)
    receiver.step()
    receiver.label(4, 5, 6)
    for _ in range(3):
        receiver.step(minutes=100)
    assert len(receiver.runs.names) == 1 and receiver.labels.total == 3
    receiver.runs.end()
    receiver.step()
    assert len(receiver.runs.names) == 2 and receiver.labels.total == 0


def test_after_a_restart_it_still_knows_the_active_run(receiver):
    receiver.label(1, 2, 3)
    receiver.step()
    receiver.label(4, 5, 6)
    receiver.restart()
    receiver.step()
    assert len(receiver.runs.names) == 1 and receiver.labels.total == 3


def test_a_run_that_has_ended_is_not_asked_for_again(receiver):
    receiver.label(1, 2, 3)
    receiver.step()
    receiver.runs.end()
    receiver.step()
    asked = receiver.runs.asked
    receiver.step()
    assert receiver.runs.asked == asked


def test_where_the_api_is_away_no_label_is_lost_and_one_run_starts_when_it_is_back(receiver, caplog):
    receiver.label(1, 2, 3)
    receiver.runs.away = True
    for number in (4, 5):
        with pytest.raises(PipelineError):
            receiver.step()
        receiver.label(number)
        receiver.restart()
    assert receiver.labels.total == 5
    receiver.runs.away = False
    receiver.step()
    receiver.step()
    assert len(receiver.runs.names) == 1 and receiver.labels.total == 0


def test_a_start_whose_answer_was_lost_is_found_again(receiver):
    receiver.label(1, 2, 3)
    start = receiver.runs.start

    def start_and_break_off(name):
        start(name)
        raise PipelineError("no answer")

    receiver.runs.start = start_and_break_off
    with pytest.raises(PipelineError):
        receiver.step()
    receiver.label(4)
    receiver.step()
    assert len(receiver.runs.names) == 1
    assert receiver.labels.total == 1  # it came after the start


def test_the_thread_goes_on_after_a_fault_and_waits_longer_each_time(receiver, caplog):
    receiver.runs.away = True
    receiver.starter.poll = 0.01
    receiver.label(1, 2, 3)
    receiver.starter.start()
    assert within(10, lambda: receiver.starter.failures >= 3)
    receiver.runs.away = False
    assert within(10, lambda: receiver.runs.names)
    receiver.starter.close()
    assert "the API is away; 3 labels wait" in caplog.text
    assert receiver.starter.failures == 0


# durability


def test_a_restart_keeps_the_count_and_the_quiet_time(receiver):
    receiver.label(1, 2)
    receiver.clock.now += 60 * 20
    receiver.restart()
    assert receiver.labels.total == 2
    receiver.step()
    assert receiver.runs.names == []
    receiver.step(minutes=10)
    assert len(receiver.runs.names) == 1


def test_the_count_lives_in_a_bucket_too(bucket):
    receiver = Receiver(None, store=open_store(f"s3://{bucket}/webhook"))
    receiver.label(1, 2)
    receiver.restart()
    receiver.label(3)
    receiver.step()
    receiver.restart()
    assert len(receiver.runs.names) == 1 and receiver.labels.total == 0
    receiver.store.delete(KEY)


def test_where_the_store_is_away_the_event_is_not_acknowledged_and_written_later(tmp_path):
    store = FailingStore(tmp_path)
    receiver = Receiver(tmp_path, store=store)
    store.away = True
    for number in (1, 2, 3):
        assert receiver.post(annotated(number)).status_code == 503
    with pytest.raises(StoreError):
        receiver.step()  # a start that cannot be noted does not happen
    assert receiver.runs.names == []
    store.away = False
    receiver.starter.labels.save()
    receiver.restart()
    assert receiver.labels.total == 3


def test_events_at_the_same_time_are_all_counted(receiver):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: receiver.labels.count(parse_event(annotated(number))), range(1, 201)))
    receiver.restart()
    assert receiver.labels.total == 200


@pytest.mark.parametrize(("content", "fault"), [
    ("[]", "is not the state"), ("{}", "is not the state"), ("{", "is not JSON"),
    ('{"project": 7, "new": "x", "taken": []}', "is not the state")])
def test_a_damaged_state_is_an_error_that_says_where(tmp_path, content, fault):
    (tmp_path / KEY).write_text(content)
    with pytest.raises((DataError, StoreError), match=f"{KEY}.*{fault}"):
        Receiver(tmp_path)


def test_the_state_of_another_project_is_refused(receiver):
    with pytest.raises(ConfigError, match="counts the labels of project 7, not 8"):
        NewLabels(receiver.store, 8, receiver.clock)


def test_a_local_state_has_one_owner(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.webhook.LOCK_SECONDS", 0.1)
    store = open_store(str(tmp_path))
    with own(store):
        with pytest.raises(StoreError, match="another receiver"):
            own(store)
    own(store).close()


@pytest.mark.parametrize("config", [{"labels": 0}, {"quiet": -1.0}, {"quiet": float("nan")}])
def test_limits_have_a_range(config):
    with pytest.raises(ConfigError):
        StartConfig(**config)


@pytest.mark.parametrize("secret", ["", "short", "with a blank in it", "đủ dài nhưng không phải ASCII"])
def test_it_refuses_to_start_without_a_good_secret(monkeypatch, secret):
    monkeypatch.setenv("HANDWRITING_WEBHOOK_SECRET", secret)
    with pytest.raises(ConfigError, match="HANDWRITING_WEBHOOK_SECRET is not") as caught:
        secret_from_environment()
    assert not secret or secret not in str(caught.value)


# labels that no event told of


def test_labels_of_a_time_without_receiver_are_counted_once_at_the_start(tmp_path):
    asked = []

    def look_up(since):
        asked.append(since)
        return Event(PROJECT, frozenset({1, 2, 5}), frozenset(), STARTED + 50)

    receiver = Receiver(tmp_path, labels=10, look_up=look_up)
    receiver.label(1)
    receiver.step()
    assert receiver.labels.total == 3 and asked == [STARTED]
    receiver.step(minutes=30)  # a run starts with all of them: later ones are new
    receiver.restart()
    receiver.step()
    assert asked[-1] == STARTED + 50


def test_an_import_with_labels_makes_it_look_and_one_without_does_not(tmp_path):
    asked = []
    receiver = Receiver(tmp_path, look_up=lambda since: asked.append(since) or Event(PROJECT))
    receiver.step()
    receiver.post(imported(0))
    receiver.step()
    assert len(asked) == 1
    receiver.post(imported(1))
    receiver.step()
    assert len(asked) == 2


def test_where_label_studio_cannot_be_asked_runs_start_all_the_same(tmp_path, caplog):
    def look_up(since):
        raise LabelStudioError("it is away")

    receiver = Receiver(tmp_path, look_up=look_up)
    receiver.label(1, 2, 3)
    receiver.step()
    assert len(receiver.runs.names) == 1 and "it is away" in caplog.text


# where runs are started


def kubeflow(server):
    from pipeline.client import connect

    return KfpRuns(lambda: connect(server.url), {"project": PROJECT, "bucket": "s3://b"})


def test_a_run_of_kubeflow_is_started_by_name_and_found_by_it(kfp_server):
    runs = kubeflow(kfp_server)
    assert runs.find("labels-1") == ""
    started = [runs.start(f"labels-{number}") for number in (1, 2)]
    assert [runs.find(f"labels-{number}") for number in (1, 2, 3)] == [*started, ""]
    run = kfp_server.runs[started[0]]
    assert run["display_name"] == "labels-1"
    assert run["runtime_config"]["parameters"] == {"project": PROJECT, "bucket": "s3://b"}


@pytest.mark.parametrize(("state", "active"), [
    ("PENDING", True), ("RUNNING", True), ("PAUSED", True), ("CANCELING", True), (None, True),
    ("SUCCEEDED", False), ("FAILED", False), ("CANCELED", False), ("SKIPPED", False)])
def test_a_run_of_kubeflow_is_active_until_it_has_ended(kfp_server, state, active):
    runs = kubeflow(kfp_server)
    kfp_server.script = lambda run: iter(())
    run = runs.start("labels-1")
    kfp_server.runs[run]["state"] = state
    assert runs.active(run) is active


def test_kubeflow_away_then_back_and_a_deleted_run_has_ended(kfp_server):
    from pipeline.client import connect

    addresses = ["http://127.0.0.1:9", kfp_server.url]
    runs = KfpRuns(lambda: connect(addresses.pop(0)), {})
    with pytest.raises(PipelineError, match="cannot be reached"):
        runs.active("r1")
    assert runs.active("r1") is False  # 404


def test_labels_run_through_kubeflow_one_run_after_another(kfp_server, tmp_path):
    receiver = Receiver(tmp_path, runs=kubeflow(kfp_server))
    receiver.label(1, 2, 3)
    receiver.step()
    receiver.label(4, 5, 6)
    while len(kfp_server.runs) == 1:
        [first] = kfp_server.runs.values()
        receiver.step()  # each look takes the run one step further
    assert first["state"] == "SUCCEEDED" and len(kfp_server.runs) == 2 and receiver.labels.total == 0


def test_a_run_of_kubeflow_whose_answer_was_lost_is_not_started_again(kfp_server, tmp_path, monkeypatch):
    real, lost = kfp_server.answer, []

    def lose_one(method, path, *rest):
        answer = real(method, path, *rest)
        if (method, path) != ("POST", "/apis/v2beta1/runs") or lost:
            return answer
        return lost.append(path)

    monkeypatch.setattr(kfp_server, "answer", lose_one)
    receiver = Receiver(tmp_path, runs=kubeflow(kfp_server))
    receiver.label(1, 2, 3)
    with pytest.raises(PipelineError):
        receiver.step()
    assert receiver.labels.total == 3
    receiver.restart()
    receiver.step()
    assert list(kfp_server.runs) == [receiver.labels.state.run] and lost and receiver.labels.total == 0


def test_local_runs_need_a_local_state(monkeypatch, capsys):
    monkeypatch.setenv("HANDWRITING_WEBHOOK_SECRET", SECRET)
    assert main(["webhook", "--project", "1", "--bucket", "s3://b", "--run-command", "true"]) == 1
    assert "give a folder here as --state, not s3://b/webhook" in capsys.readouterr().err


@pytest.fixture
def local(tmp_path):
    def make(script):
        runs = LocalRuns(["/bin/sh", "-c", script], tmp_path / "runs", {"LABEL_STUDIO_PROJECT": "7"})
        made.append(runs)
        return runs

    made: list[LocalRuns] = []
    yield make
    for runs in made:
        for child in runs._children.values():
            child.kill()
            child.wait()


def test_a_local_run_is_active_until_it_ends_and_its_name_stays_known(local, tmp_path, monkeypatch):
    monkeypatch.setenv("HANDWRITING_WEBHOOK_SECRET", SECRET)
    runs = local('echo "$LABEL_STUDIO_PROJECT $HANDWRITING_WEBHOOK_SECRET"; until [ -e "$0" ]; do sleep 0.05; done')
    runs.command.append(str(tmp_path / "x.end"))
    assert runs.find("a") == "" and not runs.active("a")
    assert runs.start("a") == "a"
    later = LocalRuns([], tmp_path / "runs", {})  # another process, after a restart
    assert later.active("a") and later.find("a") == "a"
    with pytest.raises(PipelineError):
        runs.start("a")
    (tmp_path / "x.end").touch()
    assert within(10, lambda: not later.active("a"))
    assert later.find("a") == "a" and (tmp_path / "runs" / "a.log").read_text() == "7 \n"
    assert within(10, lambda: not runs.active("a") and not runs._children)


def test_a_local_run_that_was_never_begun_is_not_found(local, tmp_path):
    runs = local("true")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "a.run").touch()  # killed between making the file and starting the process
    assert runs.find("a") == ""
    assert runs.start("a") == "a"
    assert within(10, lambda: not runs.active("a")) and runs.find("a") == "a"


# the process


class Process(NamedTuple):
    port: int
    popen: subprocess.Popen

    def post(self, payload):
        return requests.post(f"http://127.0.0.1:{self.port}/webhook", json=payload, headers=AUTHORIZED, timeout=20)

    def status(self):
        return requests.get(f"http://127.0.0.1:{self.port}/status", timeout=20).json()

    def kill(self):
        """Kills the server and its worker at once, as a node that fails does; not the runs."""
        os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait()


@pytest.fixture
def launch(tmp_path):
    """Starts receivers as processes; each run appends a line to `runs.txt`."""
    def start(*arguments, before="", wait=True, **variables):
        port = free_port()
        script = f"import sys\nfrom pipeline.cli import main\n{before}\nsys.exit(main(sys.argv[1:]))"
        command = [sys.executable, "-c", script, "webhook", "--project", PROJECT, "--bucket", "s3://b", "--state",
                   tmp_path / "state", "--host", "127.0.0.1", "--port", port, "--poll", 0.1, "--run-command",
                   f"sh -c 'echo run >> {tmp_path}/runs.txt'", *arguments]
        environment = {**os.environ, "HANDWRITING_WEBHOOK_SECRET": SECRET, "PYTHONPATH": f"{ROOT}:{ROOT}/ops/shared",
                       "LABEL_STUDIO_TOKEN": ""} | variables
        with open(tmp_path / "log.txt", "a") as log:
            popen = subprocess.Popen([str(part) for part in command], cwd=ROOT, env=environment, stdout=log, stderr=log,
                                     start_new_session=True)
        process = Process(port, popen)
        started.append(process)
        if wait:
            assert within(60, lambda: answers(process)), (tmp_path / "log.txt").read_text()
        return process

    started: list[Process] = []
    yield start
    for process in started:
        if process.popen.poll() is None:
            process.kill()


def answers(process):
    try:
        return requests.get(f"http://127.0.0.1:{process.port}/healthz", timeout=5).status_code == 200
    except requests.ConnectionError:
        return False


def within(seconds, holds):
    end = time.monotonic() + seconds
    while not (done := holds()) and time.monotonic() < end:
        time.sleep(0.02)
    return done


def lines(path):
    return len(path.read_text().splitlines()) if path.exists() else 0


CRASH = """
import os, signal
from pipeline.label_runs import LocalRuns
real = LocalRuns.start
def start(self, name):
    {call}
    os.killpg(0, signal.SIGKILL)
LocalRuns.start = start
"""


@pytest.mark.parametrize("call", ["pass", "real(self, name)"], ids=["before-the-start", "after-the-start"])
def test_kill_9_between_intention_and_record_leads_to_one_run(launch, tmp_path, call):
    killed = launch("--labels", 3, before=CRASH.format(call=call))
    assert [killed.post(annotated(number)).status_code for number in (1, 2)] == [200, 200]
    try:
        killed.post(annotated(3))
    except requests.ConnectionError:  # it may die before it has answered
        pass
    assert killed.popen.wait(30) == -signal.SIGKILL
    again = launch("--labels", 3)
    assert within(30, lambda: again.status()["last_run"]), (tmp_path / "log.txt").read_text()
    assert within(30, lambda: not again.status()["active"])
    assert lines(tmp_path / "runs.txt") == 1
    assert again.status()["new_labels"] == 0


def test_kill_9_amid_many_events_loses_none_that_was_answered(launch, tmp_path):
    answered: set[int] = set()

    def send(process, numbers):
        for number in numbers:
            try:
                if process.post(annotated(number)).status_code == 200:
                    answered.add(number)
            except requests.RequestException:
                return

    for attempt in range(2):
        process = launch("--labels", 10**6)
        senders = [threading.Thread(target=send, args=(process, range(10_000 * attempt + 1000 * thread + 1, 10**5)))
                   for thread in range(4)]
        for sender in senders:
            sender.start()
        enough = 150 * (attempt + 1)
        assert within(60, lambda: len(answered) > enough)
        process.kill()
        for sender in senders:
            sender.join()
    process = launch("--labels", 10**6)
    counted = set(json.loads((tmp_path / "state" / KEY).read_text())["new"])
    assert len(answered) > 300 and answered <= counted
    assert len(counted) <= len(answered) + 2 * 4  # at most the ones under way at each kill
    assert process.status()["new_labels"] == len(counted)


def test_sigterm_ends_it_with_0_and_the_run_goes_on(launch, tmp_path):
    end = tmp_path / "end"
    process = launch("--labels", 1, "--run-command",
                     f"sh -c 'while [ ! -e {end} ]; do sleep 0.1; done; echo run >> {tmp_path}/runs.txt'")
    process.post(annotated(1))
    assert within(20, lambda: process.status()["active"])
    process.popen.send_signal(signal.SIGTERM)
    assert process.popen.wait(40) == 0
    again = launch("--labels", 1)
    again.post(annotated(2))
    assert within(20, lambda: again.status()["active"])
    assert lines(tmp_path / "runs.txt") == 0 and again.status()["new_labels"] == 1
    end.touch()
    assert within(20, lambda: lines(tmp_path / "runs.txt") == 2)


def test_two_receivers_do_not_share_a_folder(launch, tmp_path):
    launch()
    second = launch(wait=False)
    assert second.popen.wait(60) == 1
    assert "error: another receiver counts in" in (tmp_path / "log.txt").read_text()


# the real Label Studio


@pytest.fixture
def admin(label_studio):
    return LabelStudio(label_studio.url, label_studio.token)


@pytest.fixture
def project(admin):
    return ensure_project(admin, f"webhook {uuid.uuid4().hex[:8]}")


def add_tasks(admin, project, count):
    admin.request("POST", f"/api/projects/{project}/import",
                  json=[{"data": {"captioning": f"s3://nowhere/{number}.png"}} for number in range(count)])
    return [task["id"] for task in admin.json("GET", f"/api/tasks?project={project}&fields=task_only")["tasks"]]


def annotate(admin, task, **query):
    return admin.json("POST", f"/api/tasks/{task}/annotations/", json={"result": []}, params=query)["id"]


def test_real_events_are_counted_whatever_made_the_label(admin, project, launch, label_studio, tmp_path):
    def start():
        port = free_port()
        return Process(port, launch(
            "--project", project, "--labels", 100, "--label-studio-url", admin.url, "--port", port, "--register",
            f"http://127.0.0.1:{port}/webhook", LABEL_STUDIO_TOKEN=label_studio.token, wait=False).popen)

    def has(count):
        assert within(30, lambda: process.status()["new_labels"] == count), process.status()

    process = start()
    assert within(60, lambda: answers(process)), (tmp_path / "log.txt").read_text()
    tasks = add_tasks(admin, project, 5)
    first, second = (annotate(admin, task) for task in tasks[:2])
    has(2)
    admin.request("PATCH", f"/api/annotations/{first}/", json={"result": []})  # an update
    annotate(admin, tasks[2], was_cancelled=1)  # skipped
    has(2)
    admin.request("DELETE", f"/api/annotations/{second}/")
    has(1)
    import_labels(admin, project, "s3://nowhere/data", {"train": {f"{number}.png": "x" for number in range(4)}})
    has(5)  # an import sends no event of its annotations
    process.kill()
    annotate(admin, tasks[3])  # nobody hears of this one
    process = start()
    assert within(60, lambda: answers(process)), (tmp_path / "log.txt").read_text()
    has(6)
    annotate(admin, tasks[4])
    has(7)
    log = (tmp_path / "log.txt").read_text()
    assert SECRET not in log and label_studio.token not in log


def test_real_labels_start_a_run_with_the_projects_number(admin, project, launch, label_studio, tmp_path):
    port = free_port()
    process = Process(port, launch(
        "--project", project, "--labels", 3, "--label-studio-url", admin.url, "--port", port, "--register",
        f"http://127.0.0.1:{port}/webhook", "--run-command",
        f"sh -c 'echo $LABEL_STUDIO_URL $LABEL_STUDIO_PROJECT $HANDWRITING_BUCKET >> {tmp_path}/runs.txt'",
        LABEL_STUDIO_TOKEN=label_studio.token, wait=False).popen)
    assert within(60, lambda: answers(process)), (tmp_path / "log.txt").read_text()
    for task in add_tasks(admin, project, 3):
        annotate(admin, task)
    assert within(30, lambda: lines(tmp_path / "runs.txt"))
    assert (tmp_path / "runs.txt").read_text().split() == [admin.url, str(project), "s3://b"]


def test_a_webhook_is_made_once_and_renewed(admin, project):
    url = "http://127.0.0.1:9/webhook"
    first = ensure_webhook(admin, project, url, SECRET)
    assert ensure_webhook(admin, project, url, f"{SECRET}-renewed") == first
    [hook] = admin.json("GET", f"/api/webhooks/?project={project}")
    assert hook["headers"] == {"Authorization": f"Bearer {SECRET}-renewed"} and hook["send_payload"]
    with pytest.raises(LabelStudioError, match="takes no webhook to nonsense"):
        ensure_webhook(admin, project, "nonsense", SECRET)


def test_labels_since_a_time_are_those_made_or_changed_later(admin, project):
    tasks = add_tasks(admin, project, 3)
    first, second = annotate(admin, tasks[0]), annotate(admin, tasks[1])
    since = labels_since(admin, project, 0.0).newest
    admin.request("PATCH", f"/api/annotations/{first}/", json={"result": []})
    third, skipped = annotate(admin, tasks[2]), annotate(admin, tasks[2], was_cancelled=1)
    found = labels_since(admin, project, since)
    assert (found.added, found.removed) == ({first, third}, {skipped})
    assert labels_since(admin, project, 0.0).added == {first, second, third}
    assert labels_since(admin, project, found.newest).added == set()
