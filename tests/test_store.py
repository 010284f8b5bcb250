import errno
import json
import os
import socket
from pathlib import Path

import boto3
import pytest

from handwriting.errors import MissingError, StoreError
from handwriting.store import Entry, LocalStore, S3Store, _replace, join, open_store, read_json, split_s3, write_json

KINDS = ["local", pytest.param("s3", marks=pytest.mark.servers)]


@pytest.fixture(params=KINDS)
def store(request, tmp_path):
    """An empty store of each kind."""
    if request.param == "local":
        return open_store(str(tmp_path / "store"))
    return open_store(f"s3://{request.getfixturevalue('bucket')}/some/prefix/")


@pytest.fixture(params=KINDS)
def absent(request, tmp_path):
    """A store of each kind whose bucket or folder does not exist."""
    if request.param == "local":
        return open_store(str(tmp_path / "absent"))
    request.getfixturevalue("s3")
    return open_store("s3://no-such-bucket-here/prefix")


def keys(entries):
    return [entry.key for entry in entries]


def test_what_is_written_is_read(store):
    data = bytes(range(256)) * 40
    store.write("a/b/c d ü.bin", data)
    store.write("empty", b"")
    assert store.read("a/b/c d ü.bin") == data
    assert store.read("empty") == b""


def test_writing_again_replaces_and_changes_the_tag(store):
    store.write("key", b"first")
    (first,) = store.list()
    store.write("key", b"other")
    (second,) = store.list()
    assert store.read("key") == b"other"
    assert first.key == second.key == "key" and first.size == second.size == 5
    assert first.tag != second.tag


def test_exists_tells_objects_from_folders_and_nothing(store):
    store.write("folder/key", b"x")
    assert store.exists("folder/key")
    assert not store.exists("folder/other")
    assert not store.exists("folder")
    assert not store.exists("folder/key/below")


def test_lists_keys_below_the_root_in_the_order_of_their_bytes(store):
    names = ["b", "a/z", "a-b", "a.b", "a/b/c", "Z", "ü", "a0", "a/b.x", "a/é"]
    for name in names:
        store.write(name, name.encode())
    assert keys(store.list()) == sorted(names, key=str.encode)
    assert {entry.key: entry.size for entry in store.list()} == {name: len(name.encode()) for name in names}


def test_a_prefix_may_end_within_a_name_and_need_not_match(store):
    for name in ("data/train/1", "data/train2/1", "data/test/1", "other"):
        store.write(name, b"x")
    assert keys(store.list("data/train")) == ["data/train/1", "data/train2/1"]
    assert keys(store.list("data/train/")) == ["data/train/1"]
    assert keys(store.list("data/t")) == ["data/test/1", "data/train/1", "data/train2/1"]
    assert keys(store.list("nothing/here")) == []


def test_a_new_store_lists_nothing(store):
    assert list(store.list()) == []
    assert list(store.list("folder/")) == []


def test_a_root_does_not_see_its_neighbours(store):
    inner, outer = open_store(join(store.root, "v1")), open_store(join(store.root, "v10"))
    inner.write("key", b"1")
    outer.write("key", b"10")
    assert list(inner.list()) == [Entry("key", 1, next(inner.list()).tag)]
    assert keys(store.list()) == ["v1/key", "v10/key"]


def test_a_folder_of_pictures_may_lie_elsewhere(tmp_path):
    elsewhere, root = tmp_path / "elsewhere", tmp_path / "root"
    (elsewhere / "deep").mkdir(parents=True)
    (elsewhere / "deep" / "a.png").write_bytes(b"x")
    (root / "train").mkdir(parents=True)
    (root / "train" / "images").symlink_to(elsewhere)
    (elsewhere / "ring").symlink_to(root)
    (root / "broken").symlink_to(tmp_path / "nowhere")
    assert keys(open_store(str(root)).list()) == ["train/images/deep/a.png"]
    assert keys(open_store(str(root)).list("train/images/deep/")) == ["train/images/deep/a.png"]


def test_a_folder_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    closed = tmp_path / "train" / "images"
    closed.mkdir(parents=True)
    scandir = os.scandir

    def refusing(path):
        if Path(path) == closed:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)  # the superuser may read all
    with pytest.raises(StoreError, match=f"{closed}: Permission denied; check its rights"):
        list(open_store(str(tmp_path)).list("train/"))


def test_lists_more_than_one_page(bucket):
    client = boto3.session.Session().client("s3")
    for number in range(1005):
        client.put_object(Bucket=bucket, Key=f"p/{number:04d}", Body=b"")
    found = keys(open_store(f"s3://{bucket}/p").list())
    assert found == [f"{number:04d}" for number in range(1005)]


def test_a_whole_bucket_can_be_the_root(bucket):
    store = open_store(f"s3://{bucket}")
    store.write("a/b", b"x")
    assert store.root == f"s3://{bucket}"
    assert keys(store.list()) == keys(store.list("a/")) == ["a/b"]


def test_upload_and_download_keep_every_byte_of_a_large_file(store, tmp_path):
    source, target = tmp_path / "source", tmp_path / "new" / "folder" / "target"
    source.write_bytes(os.urandom(12 * 2**20))  # S3 takes this in parts
    store.upload(source, "deep/large")
    store.download("deep/large", target)
    assert target.read_bytes() == source.read_bytes()


def test_a_failed_download_leaves_the_old_file_and_no_parts(store, tmp_path):
    target = tmp_path / "target" / "file"
    target.parent.mkdir()
    target.write_bytes(b"old")
    with pytest.raises(MissingError):
        store.download("absent", target)
    assert [path.name for path in target.parent.iterdir()] == ["file"]
    assert target.read_bytes() == b"old"


def test_uploading_a_file_that_is_not_there_is_an_error_of_ours(store, tmp_path):
    with pytest.raises(StoreError, match="absent"):
        store.upload(tmp_path / "absent", "key")
    assert not store.exists("key")


def test_delete_removes_and_an_absent_key_is_no_error(store):
    store.write("a/key", b"x")
    store.delete("a/key")
    store.delete("a/key")
    store.delete("never/was")
    assert not store.exists("a/key")
    assert keys(store.list()) == []


def test_a_missing_key_names_itself(store, tmp_path):
    with pytest.raises(MissingError, match="no/such/key"):
        store.read("no/such/key")
    with pytest.raises(MissingError, match="no/such/key"):
        store.download("no/such/key", tmp_path / "x")


def test_reading_a_folder_is_an_error_of_ours(store):
    store.write("folder/key", b"x")
    with pytest.raises(StoreError, match="folder"):
        store.read("folder")


def test_reading_from_a_missing_bucket_or_folder_is_missing(absent, tmp_path):
    with pytest.raises(MissingError):
        absent.read("key")
    with pytest.raises(MissingError):
        absent.download("key", tmp_path / "x")
    assert not absent.exists("key")


@pytest.mark.servers
def test_a_missing_bucket_is_named_with_what_to_do(s3, tmp_path):
    store = open_store("s3://no-such-bucket-here/prefix")
    (tmp_path / "file").write_bytes(b"x")
    calls = (lambda: store.write("key", b"x"), lambda: list(store.list()), lambda: store.read("key"),
             lambda: store.upload(tmp_path / "file", "key"))
    for call in calls:
        with pytest.raises(MissingError, match=r"s3://no-such-bucket-here.*NoSuchBucket; create the bucket"):
            call()


@pytest.mark.parametrize(("variable", "hint"), [("AWS_ACCESS_KEY_ID", "AWS_ACCESS_KEY_ID"),
                                                ("AWS_SECRET_ACCESS_KEY", "AWS_SECRET_ACCESS_KEY")])
def test_wrong_keys_say_which_variable_to_check(bucket, monkeypatch, variable, hint):
    open_store(f"s3://{bucket}").write("key", b"x")  # a client with the right keys is in use already
    monkeypatch.setenv(variable, "wrongwrongwrong")
    store = open_store(f"s3://{bucket}")
    for call in (lambda: store.read("key"), lambda: store.write("key", b"y"), lambda: list(store.list())):
        with pytest.raises(StoreError, match=f"s3://{bucket}.*check {hint}") as caught:
            call()
        assert not isinstance(caught.value, MissingError)
        assert "wrongwrongwrong" not in str(caught.value)
    with pytest.raises(StoreError, match="check AWS_ACCESS_KEY_ID"):  # HEAD has no body to say more
        store.exists("key")


def test_missing_keys_are_an_error_of_ours(bucket, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    with pytest.raises(StoreError, match="credentials"):
        open_store(f"s3://{bucket}").read("key")


def test_a_server_that_is_gone_is_named(bucket, monkeypatch, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{free.getsockname()[1]}")
        store = open_store(f"s3://{bucket}")
        (tmp_path / "file").write_bytes(b"x")
        calls = (lambda: store.read("key"), lambda: store.exists("key"), lambda: list(store.list()),
                 lambda: store.upload(tmp_path / "file", "key"))
        for call in calls:
            with pytest.raises(StoreError, match="AWS_ENDPOINT_URL_S3"):
                call()


@pytest.mark.parametrize("endpoint", ["not a url", "127.0.0.1:8333"])
def test_an_impossible_endpoint_is_an_error_of_ours(monkeypatch, endpoint):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
    with pytest.raises(StoreError, match="AWS_ENDPOINT_URL_S3"):
        open_store("s3://bucket").read("key")


def test_impossible_bucket_names_are_errors_of_ours(s3):
    with pytest.raises(StoreError):
        open_store("s3://A_bad name/prefix").read("key")


def test_json_is_written_readable_and_stable(store):
    write_json(store, "a.json", {"b": "Hà Nội", "a": [1]})
    assert read_json(store, "a.json") == {"a": [1], "b": "Hà Nội"}
    assert store.read("a.json").decode() == json.dumps({"a": [1], "b": "Hà Nội"}, ensure_ascii=False, indent=1)


@pytest.mark.parametrize("data", [b"{", b"", b"\xff\xfe{}"])
def test_what_is_not_json_is_named(store, data):
    store.write("broken.json", data)
    with pytest.raises(StoreError, match="broken.json is not JSON"):
        read_json(store, "broken.json")


def test_a_reader_never_sees_half_a_local_file(tmp_path):
    store = LocalStore(str(tmp_path))
    store.write("key", b"old")

    def breaks(part: Path):
        part.write_bytes(b"ha")
        raise OSError(28, "No space left on device")

    with pytest.raises(StoreError, match="No space left"):
        store._guard("key", lambda: _replace(tmp_path / "key", breaks))
    assert store.read("key") == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


def test_a_local_file_where_a_folder_must_be_is_an_error_of_ours(tmp_path):
    store = LocalStore(str(tmp_path))
    store.write("file", b"x")
    with pytest.raises(StoreError, match="file"):
        store.write("file/below", b"x")
    with pytest.raises(StoreError, match="file"):
        store.download("file", tmp_path / "file" / "below")


def test_file_uris_and_relative_folders_open_local_stores(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    open_store("here").write("key", b"x")
    assert open_store(f"file://{tmp_path}/here").read("key") == b"x"
    assert open_store("here/").root == "here"


@pytest.mark.parametrize("uri", ["", "gs://bucket/x", "http://host/x", "s3:///x", "s3://"])
def test_other_uris_are_refused(uri):
    with pytest.raises(StoreError, match="s3://bucket/prefix"):
        open_store(uri)


def test_s3_uris_are_split_and_joined():
    assert split_s3("s3://bucket/a/b/") == ("bucket", "a/b")
    assert split_s3("s3://bucket") == ("bucket", "")
    assert join("s3://bucket/", "a/", "/b") == "s3://bucket/a/b"
    assert isinstance(open_store("s3://bucket"), S3Store)
