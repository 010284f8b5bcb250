"""Readings of what nobody has labelled, in a real Label Studio over a real bucket."""

import json
import os
import sys
import time
import uuid
import zlib
from typing import NamedTuple

import pytest
import requests
from conftest import ROOT
from helpers import drawing, encoded
from kfp.dsl import Metrics
from tiny_run import let_serve

from handwriting import prelabelling
from handwriting.dataset import read_lines
from handwriting.errors import ImageError, LabelStudioError, StoreError
from handwriting.label_studio import LabelStudio
from handwriting.label_tasks import Interface, find_interface, picture_of, prediction
from handwriting.labels import LabelConfig
from handwriting.packing import PackConfig
from handwriting.prelabelling import prelabel
from handwriting.preprocessing import preprocess
from handwriting.reader import Reader
from handwriting.store import LocalStore, join, open_store, write_json
from ops.prelabel import prelabel as step
from pipeline.cli import main
from pipeline.labelling import ensure_project, ensure_storage, label_interface
from pipeline.ports import free_port
from pipeline.processes import ProcessServer

OTHER_NAMES = ('<View><Header value="x"/><Image name="photo" value="$picture"/>'
               '<TextArea name="note" toName="photo"/><TextArea name="line" toName="photo"/></View>')
INTERFACE = Interface("caption", "image", "captioning")


class Waiting(NamedTuple):
    """Pictures that wait for people: the client, the project, and the `s3://` URI of the bucket."""

    client: LabelStudio
    project: int
    bucket: str

    def prelabel(self, **options) -> prelabelling.Prelabelled:
        return prelabel(self.client, self.project, join(self.bucket, "models"), join(self.bucket, "data"), **options)

    def record(self) -> dict:
        return self.client.check(self.project)

    def tasks(self) -> list[dict]:
        """All tasks with their predictions, by file name."""
        found = self.client.json("GET", f"/api/tasks?project={self.project}&fields=all&resolve_uri=false&page_size=100")
        return sorted(found["tasks"], key=lambda task: task["data"]["captioning"])

    def predicted(self) -> list[list[str]]:
        """The versions that read each task."""
        return [sorted(one["model_version"] for one in task["predictions"]) for task in self.tasks()]

    def next_task(self) -> dict:
        return self.client.json("GET", f"/api/projects/{self.project}/next")

    def accept(self, task: dict) -> None:
        """Does what Label Studio's page does where a person submits a prediction as it is."""
        [read] = task["predictions"]
        self.client.request("POST", f"/api/tasks/{task['id']}/annotations/",
                            json={"result": read["result"], "parent_prediction": read["id"]})


def waiting_at(label_studio, bucket: str) -> Waiting:
    client = LabelStudio(label_studio.url, label_studio.token)
    project = ensure_project(client, f"waiting {uuid.uuid4().hex[:8]}")
    ensure_storage(client, project, f"s3://{bucket}/data")
    return Waiting(client, project, f"s3://{bucket}")


@pytest.fixture
def waiting(label_studio, bucket, sample_folder, tiny_bundle):
    """Five pictures that users sent, and a model that serves."""
    data = open_store(f"s3://{bucket}/data")
    for path in sorted((sample_folder / "train" / "images").iterdir())[:5]:
        data.write(f"user_data/images/{path.name}", path.read_bytes())
    let_serve(tiny_bundle, f"s3://{bucket}/models")
    return waiting_at(label_studio, bucket)


# the loop


@pytest.fixture
def predictor(labelled, tiny_bundle, tmp_path):
    """The URL of a running predictor that keeps pictures in the bucket of the labelled lines."""
    let_serve(tiny_bundle, join(labelled.bucket, "models"))
    url = f"http://127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "handwriting.serving", "--model", join(labelled.bucket, "models"), "--data-uri",
               join(labelled.bucket, "data"), "--host", "127.0.0.1", "--port", url.rpartition(":")[2]]
    with ProcessServer("predictor", command, f"{url}/readyz", tmp_path / "predictor.log",
                       env=os.environ | {"PYTHONPATH": str(ROOT / "ops/shared")}):
        yield url


def arrived(bucket: str, before: set[str]) -> str:
    """Waits for a new picture of a user; returns its key below data/."""
    for _ in range(200):
        if new := {entry.key for entry in open_store(join(bucket, "data")).list("user_data/images/")} - before:
            return new.pop()
        time.sleep(0.05)
    raise AssertionError("the picture did not arrive")


def test_a_users_picture_becomes_a_training_line_with_nothing_but_a_click_on_submit(labelled, label_studio, predictor,
                                                                                    tmp_path):
    client = LabelStudio(label_studio.url, label_studio.token)
    loop = Waiting(client, labelled.project, labelled.bucket)
    ensure_storage(client, loop.project, join(loop.bucket, "data"))
    before = {entry.key for entry in open_store(join(loop.bucket, "data")).list("user_data/images/")}
    read = requests.post(f"{predictor}/predict", files={"file": encoded(drawing(7))}, timeout=30)
    key = arrived(loop.bucket, before)

    metrics = Metrics(uri=str(tmp_path / "metrics"))
    step.python_func(label_studio.url, loop.project, loop.bucket, metrics, language_model=False)
    unlabelled = [task for task in loop.tasks() if not task["annotations"]]
    assert metrics.metadata == {"tasks looked at": len(unlabelled), "predictions posted": len(unlabelled),
                                "already there": 0}

    [task] = [task for task in unlabelled if task["data"]["captioning"].endswith(key)]
    assert task["predictions"][0]["model_version"] in read.headers["X-Model-Version"]
    loop.accept(task)
    packed = preprocess(client, loop.project, join(loop.bucket, "data"), join(loop.bucket, "datasets"), LabelConfig(),
                        PackConfig(), sync=True)
    [line] = [line for line in read_lines(open_store(packed.uri)) if line.key == key]
    assert line.text == read.text != ""
    assert loop.prelabel().looked_at == 0


# what is posted


def test_what_is_posted_is_what_the_model_reads(waiting, tiny_bundle):
    done = waiting.prelabel()
    assert (done.version, done.looked_at, done.posted, done.already) == (tiny_bundle.name, 5, 5, 0)
    reader, data = Reader.load(tiny_bundle, language_model=True), open_store(join(waiting.bucket, "data"))
    for task in waiting.tasks():
        [found] = task["predictions"]
        [reading] = reader.read([data.read(task["data"]["captioning"].partition("/data/")[2])])
        assert found["result"] == [{"from_name": "caption", "to_name": "image", "type": "textarea",
                                    "value": {"text": [reading.text]}}]
        assert found["score"] == pytest.approx(reading.confidence, abs=1e-4)
        assert found["model_version"] == tiny_bundle.name


def test_what_a_user_corrected_is_filled_in_and_comes_first(waiting):
    data = open_store(f"{waiting.bucket}/data")
    key = sorted(entry.key for entry in data.list("user_data/images/"))[2]
    name = key.rpartition("/")[2].removesuffix(".png")
    write_json(data, f"user_data/readings/{name}.json", {"correction": "Số 3 Lý Nam Đế", "version": "v0"})
    assert waiting.prelabel().posted == 5
    [task] = [task for task in waiting.tasks() if task["data"]["captioning"].endswith(key)]
    [read] = task["predictions"]
    assert (read["result"][0]["value"]["text"], read["score"]) == (["Số 3 Lý Nam Đế"], 0)
    assert waiting.next_task()["id"] == task["id"]


def test_a_second_run_posts_nothing_and_a_newer_model_its_own_which_people_see(waiting, tiny_bundle, monkeypatch):
    monkeypatch.setattr(prelabelling, "PAGE", 2)
    assert waiting.prelabel().posted == 5
    again = waiting.prelabel()
    assert (again.looked_at, again.posted, again.already) == (0, 0, 5)
    let_serve(tiny_bundle, join(waiting.bucket, "models"), "0123456789ab")
    newer = waiting.prelabel()
    assert (newer.version, newer.posted, newer.already) == ("0123456789ab", 5, 0)
    assert waiting.predicted() == [sorted(["0123456789ab", tiny_bundle.name])] * 5  # older ones stay
    assert waiting.record()["model_version"] == "0123456789ab"
    assert [one["model_version"] for one in waiting.next_task()["predictions"]] == ["0123456789ab"]


def test_what_people_labelled_or_skipped_is_left_alone(waiting):
    waiting.client.sync_storages(waiting.project)
    labelled, skipped, *others = waiting.tasks()
    for task, cancelled in ((labelled, False), (skipped, True)):
        waiting.client.request("POST", f"/api/tasks/{task['id']}/annotations/",
                               json={"result": [], "was_cancelled": cancelled})
    assert waiting.prelabel(sync=False).looked_at == 3
    assert [bool(versions) for versions in waiting.predicted()] == [False, False, True, True, True]


def test_a_bad_picture_is_counted_by_its_reason_and_stops_nothing(waiting):
    data = open_store(join(waiting.bucket, "data"))
    for name in ("bad", "empty", "gone"):
        data.write(f"user_data/images/{name}.png", b"" if name == "empty" else b"no picture")
    waiting.client.sync_storages(waiting.project)
    data.delete("user_data/images/gone.png")
    waiting.client.request("POST", f"/api/projects/{waiting.project}/import", json=[
        {"data": {"captioning": "s3://elsewhere/data/user_data/images/a.png"}}])
    done = waiting.prelabel()
    assert (done.looked_at, done.posted) == (9, 5)
    assert done.unreadable == {"not a picture": 1, "empty": 1, "missing picture": 1, "outside the bucket": 1}
    assert done.metrics() == {"tasks looked at": 9, "predictions posted": 5, "already there": 0, **done.unreadable}


def test_the_least_certain_task_comes_first_and_other_settings_stay(waiting, monkeypatch):
    read = Reader.read  # a network that learnt nothing is as sure of one picture as of the next
    monkeypatch.setattr(Reader, "read", lambda self, pictures: [
        one._replace(confidence=zlib.crc32(picture) / 2**32) for one, picture in zip(read(self, pictures), pictures)])
    settings = {"maximum_annotations": 2, "show_instruction": True, "title": "theirs"}
    waiting.client.request("PATCH", f"/api/projects/{waiting.project}/", json=settings)
    before = waiting.record()
    waiting.prelabel(uncertain_first=False)
    after = waiting.record()
    assert {name: after[name] for name in ("sampling", "model_version", *settings)} == {
        name: before[name] for name in ("sampling", "model_version", *settings)}
    waiting.prelabel()
    after = waiting.record()
    assert (after["sampling"], after["show_collab_predictions"]) == ("Uncertainty sampling", True)
    assert settings.items() <= after.items()
    scores = []
    for _ in range(5):
        task = waiting.next_task()
        scores.append(task["predictions"][0]["score"])
        waiting.accept(task)
    assert scores == sorted(scores) and len(set(scores)) == 5


def test_names_come_from_the_projects_label_interface(waiting):
    project = ensure_project(waiting.client, f"names {waiting.project}")
    waiting.client.request("PATCH", f"/api/projects/{project}/", json={"label_config": OTHER_NAMES})
    uri = waiting.bucket + "/data/user_data/images/" + next(iter(
        open_store(waiting.bucket).list("data/user_data/images/"))).key.rpartition("/")[2]
    waiting.client.request("POST", f"/api/projects/{project}/import", json=[{"data": {"picture": uri}}])
    other = waiting._replace(project=project)
    assert other.prelabel(caption="line").posted == 1
    [found] = waiting.client.json("GET", f"/api/predictions/?project={project}")
    assert [(one["from_name"], one["to_name"]) for one in found["result"]] == [("line", "photo")]
    with pytest.raises(LabelStudioError, match="no text area caption .*it has note, line.*or give the name"):
        other.prelabel()


def test_the_command_prints_the_counts(waiting, monkeypatch, capsys):
    monkeypatch.setenv("LABEL_STUDIO_TOKEN", waiting.client._token)
    assert main(["prelabel", "--label-studio-url", waiting.client.url, "--project", str(waiting.project), "--model",
                 f"{waiting.bucket}/models", "--data", f"{waiting.bucket}/data", "--no-language-model"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["posted"], found["already"], found["unreadable"]) == (5, 0, {})


def test_where_no_model_serves_nothing_is_asked(tmp_path, caplog):
    client = LabelStudio("http://127.0.0.1:9", "token")
    done = prelabel(client, 1, str(tmp_path / "models"), str(tmp_path / "data"))
    assert (done.version, done.posted) == ("", 0)
    assert "no model that serves" in caplog.text


# tasks and label interfaces


def test_names_of_a_label_interface_are_found():
    assert find_interface(label_interface()) == INTERFACE
    assert find_interface(OTHER_NAMES) == Interface("note", "photo", "picture")
    assert find_interface(OTHER_NAMES, "line") == Interface("line", "photo", "picture")


@pytest.mark.parametrize("label_config, said", [
    ("<View/>", "no text area of a picture.*it has none"), ("", "is no XML"), (None, "is no XML"),
    ("<View><Text name='t' value='$t'/><TextArea name='a' toName='t'/></View>", "it has none"),
    ("<View><Image name='i' value='$i'/><TextArea name='a' toName='i' perRegion='true'/></View>", "it has none"),
    ('<!DOCTYPE v [<!ENTITY a "aaaa">]><View>&a;</View>', "declares entities")])
def test_other_label_interfaces_are_refused(label_config, said):
    with pytest.raises(LabelStudioError, match=said):
        find_interface(label_config)


@pytest.mark.parametrize("uri", [
    "{}/../secret/images/a.png", "{}/train/images/../../../secret", "{}/train/labels.json", "{}", "{}x/train/images/a",
    "/etc/passwd", "http://169.254.169.254/", "s3://other/data/train/images/a.png", "{}//images/a.png",
    "{}/train/images", ""])
def test_pictures_come_from_the_data_folder_alone(tmp_path, uri):
    data = LocalStore(str(tmp_path / "data"))
    (tmp_path / "secret").write_bytes(b"secret")
    data.write("train/labels.json", b"{}")
    with pytest.raises(ImageError, match="is not below .*/data/<split>/images/") as caught:
        picture_of({"data": {"captioning": uri.format(data.root)}}, INTERFACE, data)
    assert caught.value.reason == "outside the bucket"


@pytest.mark.parametrize("task", [None, [], {}, {"data": []}, {"data": {}}, {"data": {"captioning": 1}}])
def test_a_malformed_task_is_a_reason_too(tmp_path, task):
    with pytest.raises(ImageError, match="no URI under 'captioning'"):
        picture_of(task, INTERFACE, LocalStore(str(tmp_path)))


def test_a_bucket_that_fails_is_no_bad_picture(tmp_path, monkeypatch):
    data = LocalStore(str(tmp_path))

    def fails(key):
        raise StoreError("away")
    monkeypatch.setattr(data, "read", fails)
    with pytest.raises(StoreError, match="away"):
        picture_of({"data": {"captioning": f"{tmp_path}/train/images/a.png"}}, INTERFACE, data)


def test_where_nothing_was_read_people_type_at_once():
    assert prediction("", 0.25, "v1", INTERFACE) == {"result": [], "score": 0.25, "model_version": "v1"}
