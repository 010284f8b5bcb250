"""The first step against a real Label Studio and a real bucket: what comes out, and what it says of bad input."""

import json

import pytest

from handwriting.dataset import LATEST, REJECTS
from handwriting.errors import DataError, LabelStudioError, MissingError, StoreError
from handwriting.label_studio import LabelStudio, from_environment
from handwriting.labels import LabelConfig
from handwriting.packing import LABELS, PackConfig, pack_folder
from handwriting.preprocessing import preprocess
from handwriting.store import join, open_store, read_json
from pipeline.labelling import ensure_project, import_labels


def run(labelled, project=None, **config):
    return preprocess(from_environment(labelled.label_studio_url), project or labelled.project,
                      join(labelled.bucket, "data"), join(labelled.bucket, "datasets"), LabelConfig(),
                      PackConfig(**config))


@pytest.fixture
def client(labelled, label_studio):
    return LabelStudio(label_studio.url, label_studio.token)


def tasks(client, project):
    """The exported tasks by split and file name."""
    return {task["data"]["captioning"].split("/data/")[1]: task for task in client.export(project)}


def test_a_project_becomes_the_same_dataset_as_its_folder_and_labels_json(labelled, sample_folder, tmp_path):
    packed = run(labelled)
    assert packed.new and not packed.rejects
    folder = pack_folder(str(sample_folder), str(tmp_path), PackConfig(), LabelConfig())
    assert packed.uri.rpartition("/")[2] == folder.uri.rpartition("/")[2]
    written, source = open_store(join(labelled.bucket, "data")), open_store(str(sample_folder))
    for split in ("train", "validation", "test"):
        assert read_json(written, f"{split}/{LABELS}") == read_json(source, f"{split}/{LABELS}")


def test_a_second_run_reads_and_writes_nothing(labelled):
    first = run(labelled)
    before = {entry.key: entry.tag for entry in open_store(labelled.bucket).list()}
    second = run(labelled)
    assert (second.uri, second.read, second.new) == (first.uri, 0, False)
    assert {entry.key: entry.tag for entry in open_store(labelled.bucket).list()} == before


def test_an_empty_project_is_named(labelled, client):
    empty = ensure_project(client, f"empty {labelled.project}")
    with pytest.raises(DataError, match=f"project {empty} of {labelled.label_studio_url} has no labelled task; label"):
        run(labelled, empty)


def test_a_project_over_another_bucket_says_where_its_pictures_are_not(labelled, client):
    other = ensure_project(client, f"other {labelled.project}")
    import_labels(client, other, "s3://elsewhere/data", {"train": {"a.png": "Huế"}, "test": {"b.png": "Huế"}})
    with pytest.raises(DataError, match="no usable line among 2 .*outside the bucket.*rejects.json"):
        run(labelled, other)
    assert len(read_json(open_store(join(labelled.bucket, "datasets")), REJECTS)) == 2


def test_an_empty_split_is_named_with_where_to_put_pictures(labelled, client):
    for name, task in tasks(client, labelled.project).items():
        if name.startswith("validation/"):
            client.request("DELETE", f"/api/tasks/{task['id']}/")
    with pytest.raises(DataError, match=r"no usable line in validation .*put pictures under .*validation.*/images/"):
        run(labelled)


def test_a_label_of_a_missing_picture_and_a_bad_picture_cost_those_two_lines_alone(labelled, client):
    data = open_store(join(labelled.bucket, "data"))
    names = [name for name in tasks(client, labelled.project) if name.startswith("train/")]
    data.delete(names[0])
    data.write(names[1], b"")
    packed = run(labelled)
    assert sum(packed.splits.values()) == 38
    assert {reject.uri.split("/data/")[1]: reject.reason for reject in packed.rejects} == {
        names[0]: "missing picture", names[1]: "unreadable picture: empty"}
    assert all(reject.task for reject in packed.rejects)


def test_without_its_bucket_nothing_happens_and_the_bucket_is_named(labelled):
    gone = labelled._replace(bucket="s3://no-such-bucket-here")
    with pytest.raises(MissingError, match="s3://no-such-bucket-here.*create the bucket"):
        run(gone)


def test_wrong_keys_say_which_variable_to_check(labelled, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrongwrongwrong")
    with pytest.raises(StoreError, match="check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY") as caught:
        run(labelled)
    assert "wrongwrongwrong" not in str(caught.value)


@pytest.mark.parametrize("token, project, said", [
    ("0" * 40, None, "LABEL_STUDIO_TOKEN"), (None, 987654, "987654")])
def test_a_wrong_token_or_project_leaves_the_bucket_alone(labelled, monkeypatch, token, project, said):
    if token:
        monkeypatch.setenv("LABEL_STUDIO_TOKEN", token)
    with pytest.raises(LabelStudioError, match=said):
        run(labelled, project)
    assert not list(open_store(join(labelled.bucket, "datasets")).list())


def test_a_label_studio_that_is_down_leaves_the_last_dataset_in_place(labelled):
    packed = run(labelled)
    with pytest.raises(LabelStudioError, match="http://127.0.0.1:9"):
        run(labelled._replace(label_studio_url="http://127.0.0.1:9"))
    pointer = read_json(open_store(join(labelled.bucket, "datasets")), LATEST)["id"]
    assert packed.uri.endswith(pointer)


def test_new_labels_in_a_damaged_labels_json_are_written_again(labelled):
    run(labelled)
    store, key = open_store(labelled.bucket), f"data/train/{LABELS}"
    good = store.read(key)
    store.write(key, b"{")
    assert not run(labelled).new
    assert json.loads(store.read(key)) == json.loads(good)
