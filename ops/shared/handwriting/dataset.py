"""The packed dataset: what it looks like in the bucket, and how training reads it.

`datasets/<id>/` holds `manifest.json` (written last), `lines.jsonl`, `rejects.json` and `shards/<digest>.npy`. A shard
is a plain NumPy file, uint8 [columns, height]: lines lie one after another along the columns, so a line is one piece
of the file. A dataset that grew from an older one names the older one's shards instead of copying them.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from handwriting.errors import DataError, MissingError
from handwriting.image import ImageConfig
from handwriting.store import Store, join, open_store, read_json

SPLITS = ("train", "validation", "test")
"""Splits of a dataset; the bucket's `user_data` joins train."""
MANIFEST, LINES, REJECTS, LATEST = "manifest.json", "lines.jsonl", "rejects.json", "latest.json"
OUTSIDE = "outside the alphabet"  # why a line is among the rejects


class Line(NamedTuple):
    """One line of a dataset.

    Attributes:
        split: "train", "validation" or "test".
        key: Where the picture lies below the data prefix, such as `train/images/0001.png`.
        text: What it says, NFC.
        digest: SHA-256 of the picture's bytes, hex: its identity whatever its name.
        tag: Changes with the picture in its bucket, so that an unchanged one need not be read again.
        shard: Key of the shard below the folder of datasets.
        start: First column of the line in the shard.
        width: Columns of the line, px.
    """

    split: str
    key: str
    text: str
    digest: str
    tag: str
    shard: str
    start: int
    width: int


@dataclass(frozen=True)
class Manifest:
    """What identifies and describes a dataset; `splits` counts its lines."""

    id: str
    image: ImageConfig
    alphabet: str
    splits: dict[str, int]


def dataset_id(lines: Iterable[Line], alphabet: str, config: ImageConfig) -> str:
    """Returns the hash of what a dataset says: splits, pictures, texts, alphabet, image function; not of its layout."""
    content = sorted((line.split, line.digest, line.text) for line in lines)
    text = json.dumps([content, alphabet, asdict(config)], ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def resolve(uri: str, marker: str, pointers: tuple[str, ...] = (LATEST,)) -> str:
    """Finds the dataset or bundle a user means: the one at `uri`, or the one a pointer in that folder names.

    Args:
        uri: A dataset or bundle, or the folder that holds several of them.
        marker: The file that every whole one has.
        pointers: Pointer files to look for, in this order: JSON with the name under "id".

    Raises:
        MissingError: There is neither.
        DataError: The pointer names nothing.
    """
    store = open_store(uri)
    if store.exists(marker):
        return store.root
    for pointer in pointers:
        if store.exists(pointer):
            found = read_json(store, pointer)
            if not isinstance(found, dict) or not isinstance(found.get("id"), str):
                raise DataError(f'{join(store.root, pointer)} names nothing under "id"; restore or delete it')
            return join(store.root, found["id"])
    raise MissingError(f"{uri} holds neither {marker} nor {' nor '.join(pointers)}; "
                       "check the URI, or run the step that writes it")


class Dataset:
    """Reads a packed dataset; its shards are fetched into `cache` when a line of them is first wanted.

    Memory stays flat: only the index is held, pixels are read line by line from the local copy of the shard.

    Raises:
        MissingError: There is no dataset at `uri`.
        DataError: Its files do not fit each other.
    """

    def __init__(self, uri: str, cache: Path):
        self.uri = resolve(uri, MANIFEST)
        self.cache = cache
        self.manifest = read_manifest(open_store(self.uri))
        self.all_lines = read_lines(open_store(self.uri))
        self._shards: dict[str, tuple[Path, int]] = {}

    def lines(self, split: str) -> list[Line]:
        """Returns the lines of a split in their stable order.

        Raises:
            DataError: The split is unknown or has no line.
        """
        lines = [line for line in self.all_lines if line.split == split]
        if not lines:
            raise DataError(f"{self.uri} has no line in split {split!r} (it has {self.manifest.splits}); "
                            f"label pictures under {split}/images and pack again")
        return lines

    def pixels(self, line: Line, begin: int = 0, end: int | None = None) -> np.ndarray:
        """Returns a line, or its columns from `begin` to before `end`, as uint8 [height, width], paper 255."""
        width = (line.width if end is None else end) - begin
        self.fetch([line.shard])
        path, offset = self._shards[line.shard]
        height = self.manifest.image.height
        columns = np.fromfile(path, np.uint8, count=width * height, offset=offset + (line.start + begin) * height)
        if columns.size != width * height:
            raise DataError(f"{self.uri}: shard {line.shard} is shorter than its index says; pack the data again")
        return np.ascontiguousarray(columns.reshape(width, height).T)

    def fetch(self, shards: Iterable[str]) -> None:
        """Brings shards to the local disk, those that are not there yet."""
        for shard in shards:
            if shard not in self._shards:
                self._shards[shard] = self._fetch(shard)

    def _fetch(self, shard: str) -> tuple[Path, int]:
        """Brings a shard to the local disk; returns its path and where its pixels begin."""
        path = self.cache / shard.replace("/", "-")
        siblings = self.uri.rpartition("/")[0] or "."
        if not path.exists():
            open_store(siblings).download(shard, path)
        with path.open("rb") as file:
            if digest(file.read()) != Path(shard).stem:
                path.unlink()
                raise DataError(f"{join(siblings, shard)} is damaged: its content does not match its name; "
                                "delete it and pack the data again")
            file.seek(0)
            np.lib.format.read_magic(file)
            np.lib.format.read_array_header_1_0(file)
            return path, file.tell()


def digest(data: bytes) -> str:
    """Returns the SHA-256 of some bytes, hex, cut to 32 characters: plenty for identity."""
    return hashlib.sha256(data).hexdigest()[:32]


def read_manifest(store: Store) -> Manifest:
    """Reads a dataset's manifest.

    Raises:
        DataError: It lacks a field, or another version of this project wrote it.
    """
    found = read_json(store, MANIFEST)
    try:
        return Manifest(**{**found, "image": ImageConfig(**found["image"])})
    except (TypeError, KeyError) as error:
        raise DataError(f"{join(store.root, MANIFEST)} is not a manifest of this version ({error}); "
                        "pack the data again") from error


def read_lines(store: Store) -> list[Line]:
    """Reads a dataset's index.

    Raises:
        DataError: A row is not a line.
    """
    try:
        return [Line(**json.loads(row)) for row in store.read(LINES).splitlines()]
    except (TypeError, ValueError) as error:
        raise DataError(f"{join(store.root, LINES)} is damaged ({error}); pack the data again") from error
