"""One interface over an S3 bucket and a local folder, so that every step runs on either.

Credentials, region and endpoint come from boto3's own chain (`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`,
`AWS_ENDPOINT_URL_S3`, service accounts with cloud roles, ...), never from arguments.
"""

import json
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from handwriting.errors import MissingError, StoreError

T = TypeVar("T")

CONNECTIONS = 16  # parallel transfers; more did not help 2 cores with SeaweedFS or MinIO beside them
HINTS = {
    "AccessDenied": "check the rights of these keys on the bucket",
    "InvalidAccessKeyId": "check AWS_ACCESS_KEY_ID",
    "SignatureDoesNotMatch": "check AWS_SECRET_ACCESS_KEY",
    "NoSuchBucket": "create the bucket, or correct its name in the URI",
    "403": "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and their rights on the bucket",
}
MISSING = {"NoSuchKey", "NoSuchBucket", "404"}
ENVIRONMENT = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY",
               "AWS_SESSION_TOKEN", "AWS_DEFAULT_REGION", "AWS_PROFILE")


class Entry(NamedTuple):
    """One object of a listing: its key below the store's root, size in bytes, and a tag that changes with its bytes."""

    key: str
    size: int
    tag: str


class Store(Protocol):
    """Files below one root URI. Keys are relative, with `/` between parts.

    Every method raises `MissingError` where the key or bucket is absent and `StoreError` on any other fault.
    """

    root: str

    def read(self, key: str) -> bytes:
        """Returns the whole object."""

    def write(self, key: str, data: bytes) -> None:
        """Writes the whole object; a reader sees all of it or nothing."""

    def exists(self, key: str) -> bool:
        """Says whether the object is there."""

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """Lists the objects whose key starts with `prefix`, in order of their keys."""

    def upload(self, path: Path, key: str) -> None:
        """Copies a local file into the store without holding it in memory."""

    def download(self, key: str, path: Path) -> None:
        """Copies an object to a local file, whole or not at all; folders on the way are made."""

    def delete(self, key: str) -> None:
        """Removes an object; an absent one is no error."""


def join(root: str, *parts: str) -> str:
    """Returns the URI of `parts` below `root`."""
    return "/".join([root.rstrip("/"), *(part.strip("/") for part in parts)])


def split_s3(uri: str) -> tuple[str, str]:
    """Splits `s3://bucket/prefix/` into bucket and prefix without slashes at its ends.

    Raises:
        StoreError: The URI names no bucket.
    """
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    if not uri.startswith("s3://") or not bucket:
        raise StoreError(f"{uri!r} is not an S3 URI; write s3://bucket/prefix")
    return bucket, prefix.strip("/")


def open_store(uri: str) -> Store:
    """Returns the store at `s3://bucket/prefix`, `file:///folder` or a local folder.

    Raises:
        StoreError: The URI has another scheme, or is empty.
    """
    if uri.startswith("s3://"):
        return S3Store(uri)
    if not uri or "://" in uri.removeprefix("file://"):
        raise StoreError(f"cannot open {uri!r}: use s3://bucket/prefix or a local folder")
    return LocalStore(uri.removeprefix("file://"))


def read_json(store: Store, key: str) -> Any:
    """Reads one JSON object.

    Raises:
        StoreError: The object is not JSON.
    """
    try:
        return json.loads(store.read(key))
    except ValueError as error:
        raise StoreError(f"{join(store.root, key)} is not JSON ({error}): restore or delete it") from error


def write_json(store: Store, key: str, value: Any) -> None:
    """Writes `value` as readable JSON with a stable order of keys."""
    store.write(key, json.dumps(value, ensure_ascii=False, indent=1, sort_keys=True).encode())


def fetch_files(store: Store, prefix: str, last: str, folder: Path,
                without: tuple[str, ...] = ()) -> None:
    """Copies files to a local folder under their keys, in parallel; nothing where the last one is there already.

    Args:
        store: Where from.
        prefix: Start of the keys to copy.
        last: Key of the file that makes the set whole; fetched last, so a copy that broke off is made again.
        folder: Where to.
        without: Starts of the keys to leave out.
    """
    if (folder / last).exists():
        return
    keys = [entry.key for entry in store.list(prefix) if entry.key != last and not entry.key.startswith(without)]
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        list(pool.map(lambda key: store.download(key, folder / key), keys))
    store.download(last, folder / last)


@lru_cache(maxsize=8)
def _client(*environment: str | None) -> Any:
    """One client for each endpoint and set of keys; clients are thread-safe and expensive to make."""
    config = Config(retries={"mode": "standard", "total_max_attempts": 5}, connect_timeout=10, read_timeout=60,
                    max_pool_connections=CONNECTIONS)
    return boto3.session.Session().client("s3", config=config)  # boto3's default session keeps the keys it saw first


def _files(folder: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """Yields all files below a folder, also where a symbolic link leads elsewhere, but not round in a ring."""
    here = folder.resolve()
    if here in above:
        return
    try:
        entries = list(os.scandir(folder))
    except (FileNotFoundError, NotADirectoryError):  # no such folder, or not any more
        return
    for entry in entries:
        path = folder / entry.name
        if entry.is_dir():
            yield from _files(path, (*above, here))
        else:
            yield path


def _replace(target: Path, fill: Callable[[Path], Any]) -> None:
    """Fills a temporary file beside the target and renames it: readers never see half a file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=".part-")
    os.close(handle)
    try:
        fill(Path(name))
        os.chmod(name, 0o644)
        os.replace(name, target)
    finally:
        Path(name).unlink(missing_ok=True)


class S3Store:
    """Objects below `s3://bucket/prefix`."""

    def __init__(self, uri: str):
        self.bucket, self.prefix = split_s3(uri)
        self.root = join(f"s3://{self.bucket}", self.prefix).rstrip("/")
        self.client = self._guard("", lambda: _client(*map(os.environ.get, ENVIRONMENT)))

    def _key(self, key: str) -> str:
        return f"{self.prefix}/{key}".lstrip("/")

    def _guard(self, key: str, call: Callable[[], T]) -> T:
        """Runs one S3 call and turns its error into ours."""
        uri = join(self.root, key) if key else self.root
        try:
            return call()
        except ClientError as error:
            raise self._refused(uri, error) from error
        except (BotoCoreError, boto3.exceptions.Boto3Error, ValueError) as error:
            if isinstance(error.__context__, ClientError):  # boto3 wraps those of uploads
                raise self._refused(uri, error.__context__) from error
            raise StoreError(f"{uri}: {error}; check that AWS_ENDPOINT_URL_S3 and the credentials are set "
                             "and that the server runs") from error
        except OSError as error:
            raise StoreError(f"{error.filename or uri}: {error.strerror or error}; check the local file, its rights "
                             "and the disk") from error

    def _refused(self, uri: str, error: ClientError) -> StoreError:
        code = str(error.response.get("Error", {}).get("Code", ""))
        kind = MissingError if code in MISSING else StoreError
        hint = HINTS.get(code, "check the key" if kind is MissingError else "try again, or look at the server's log")
        return kind(f"{uri}: {code or error}; {hint}")

    def read(self, key: str) -> bytes:
        return self._guard(
            key, lambda: self.client.get_object(Bucket=self.bucket, Key=self._key(key))["Body"].read())

    def write(self, key: str, data: bytes) -> None:
        self._guard(key, lambda: self.client.put_object(Bucket=self.bucket, Key=self._key(key), Body=data))

    def exists(self, key: str) -> bool:
        try:
            self._guard(key, lambda: self.client.head_object(Bucket=self.bucket, Key=self._key(key)))
        except MissingError:
            return False
        return True

    def list(self, prefix: str = "") -> Iterator[Entry]:
        paginator = self.client.get_paginator("list_objects_v2")
        pages = iter(paginator.paginate(Bucket=self.bucket, Prefix=self._key(prefix)))
        skip = len(self._key(""))
        entries = []
        while page := self._guard(prefix, lambda: next(pages, None)):
            entries += [Entry(item["Key"][skip:], item["Size"], item["ETag"].strip('"'))
                        for item in page.get("Contents", [])]
        yield from sorted(entries)  # SeaweedFS lists folder by folder: a/b before a-b

    def upload(self, path: Path, key: str) -> None:
        self._guard(key, lambda: self.client.upload_file(str(path), self.bucket, self._key(key)))

    def download(self, key: str, path: Path) -> None:
        self._guard(key, lambda: _replace(
            path, lambda part: self.client.download_file(self.bucket, self._key(key), str(part))))

    def delete(self, key: str) -> None:
        self._guard(key, lambda: self.client.delete_object(Bucket=self.bucket, Key=self._key(key)))


class LocalStore:
    """Files below a local folder."""

    def __init__(self, folder: str):
        self.folder = Path(folder)
        self.root = str(folder).rstrip("/") or "/"

    def _guard(self, key: str, call: Callable[[], T]) -> T:
        try:
            return call()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise MissingError(f"{error.filename or self.folder / key} does not exist; check the path") from error
        except OSError as error:
            raise StoreError(f"{error.filename or self.folder / key}: {error.strerror or error}; check its rights and "
                             "the disk") from error

    def read(self, key: str) -> bytes:
        return self._guard(key, (self.folder / key).read_bytes)

    def write(self, key: str, data: bytes) -> None:
        self._guard(key, lambda: _replace(self.folder / key, lambda part: part.write_bytes(data)))

    def exists(self, key: str) -> bool:
        return (self.folder / key).is_file()

    def list(self, prefix: str = "") -> Iterator[Entry]:
        start = self.folder / prefix.rpartition("/")[0]
        yield from sorted(self._guard(prefix, lambda: [
            entry for path in _files(start) if (entry := self._entry(path)) and entry.key.startswith(prefix)]))

    def _entry(self, path: Path) -> Entry | None:
        """Returns a file's entry, and None for unfinished files, and what is no file or gone meanwhile."""
        try:
            status = path.stat()
        except FileNotFoundError:
            return None
        if not stat.S_ISREG(status.st_mode) or path.name.startswith(".part-"):
            return None
        return Entry(path.relative_to(self.folder).as_posix(), status.st_size, f"{status.st_size}-{status.st_mtime_ns}")

    def upload(self, path: Path, key: str) -> None:
        self._guard(key, lambda: _replace(self.folder / key, lambda part: shutil.copyfile(path, part)))

    def download(self, key: str, path: Path) -> None:
        self._guard(key, lambda: _replace(path, lambda part: shutil.copyfile(self.folder / key, part)))

    def delete(self, key: str) -> None:
        self._guard(key, lambda: (self.folder / key).unlink(missing_ok=True))
