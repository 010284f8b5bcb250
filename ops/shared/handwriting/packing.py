"""Packs labelled pictures into a dataset: each new picture is read once, in parallel, and scaled to a line.

Pictures that the dataset before this one already holds unchanged are not read again: their lines stay where they are,
and the new dataset's index points there.
"""

import json
import logging
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from handwriting.ahead import made_ahead
from handwriting.alphabet import VIETNAMESE, Alphabet, describe
from handwriting.ctc import frames_needed, steps
from handwriting.dataset import (LATEST, LINES, MANIFEST, OUTSIDE, REJECTS, SPLITS, Line, Manifest, dataset_id, digest,
                                 read_lines, read_manifest, resolve)
from handwriting.errors import ConfigError, DataError, ImageError, MissingError
from handwriting.image import ImageConfig, read_line
from handwriting.labels import BUCKET_SPLITS, Label, LabelConfig, Reject, read_labels
from handwriting.store import CONNECTIONS, Entry, Store, join, open_store, read_json, write_json

log = logging.getLogger(__name__)

SHARD_COLUMNS = 1 << 20  # columns of a full shard: 64 MiB at height 64, some 900 lines
LABELS = "labels.json"
FROM_LABELS = "labels"
TRUST = ("test", "validation", "train")  # where one picture stands in several splits, the first of these keeps it


@dataclass(frozen=True)
class PackConfig:
    """What may enter a dataset.

    Attributes:
        image: Height of the lines and bounds of the pictures.
        alphabet: The characters, or "labels" to take them from the training labels.
        max_rejects: Share of labelled pictures that may be rejected, 0 to 1; more stop the step.
    """

    image: ImageConfig = field(default_factory=ImageConfig)
    alphabet: str = VIETNAMESE
    max_rejects: float = 0.2

    def __post_init__(self) -> None:
        if not 0 <= self.max_rejects <= 1:
            raise ConfigError(f"max_rejects is {self.max_rejects}; give a share from 0 to 1")


class Packed(NamedTuple):
    """The dataset a step made or found.

    Attributes:
        uri: Where it lies.
        splits: Lines by split.
        rejects: What was left out, and why.
        read: Pictures read this time; the others were known.
        new: False where the very dataset was there already.
        character_width: Of the lines, px for each character of the text; the median, which says whether lines may be
            squeezed further.
    """

    uri: str
    splits: dict[str, int]
    rejects: list[Reject]
    read: int
    new: bool
    character_width: float

    def summary(self) -> dict[str, object]:
        """Returns the counts and the width of a character, for logs and the command line."""
        reasons = Counter(str(reject.reason) for reject in self.rejects)
        return {"dataset": self.uri, "lines": self.splits, "rejected": dict(sorted(reasons.items())),
                "pictures_read": self.read, "new": self.new, "character_width": self.character_width}

    def metrics(self) -> dict[str, float]:
        """Returns the counts and the width of a character as numbers."""
        return {**{f"lines_{split}": n for split, n in self.splits.items()}, "rejected": len(self.rejects),
                "pictures_read": self.read, "character_width": self.character_width}

    def write_rejects(self, path: str) -> None:
        """Writes the rejects report, a JSON list, to a local file."""
        Path(path).write_text(json.dumps([r._asdict() for r in self.rejects], ensure_ascii=False, indent=1), "utf-8")


class _Picture(NamedTuple):
    """A picture just read: its digest, and its line or why it is unusable."""

    digest: str
    pixels: np.ndarray | None
    reject: tuple[str, str] | None


def pack_folder(data_uri: str, datasets_uri: str, config: PackConfig, label_config: LabelConfig) -> Packed:
    """Packs a bucket prefix or folder by its own `labels.json` files. Raises as `pack` does."""
    data = open_store(data_uri)
    labels: list[Label] = []
    rejects: list[Reject] = []
    for split in BUCKET_SPLITS:
        if data.exists(f"{split}/{LABELS}"):
            found, refused = read_labels(split, read_json(data, f"{split}/{LABELS}"), data.root, label_config)
            labels += found
            rejects += refused
    if not labels and not rejects:
        raise DataError(f"{data_uri} has no labels; it needs {{{','.join(BUCKET_SPLITS)}}}/{LABELS} and pictures in "
                        "images/ beside each")
    return pack(labels, rejects, data_uri, datasets_uri, config)


def pack(labels: Sequence[Label], rejects: Sequence[Reject], data_uri: str, datasets_uri: str,
         config: PackConfig) -> Packed:
    """Writes the dataset of some labels, unless it is there already.

    Args:
        labels: Labelled pictures below `data_uri`; their texts are clean.
        rejects: What was left out before; it joins the report and counts towards the threshold.
        data_uri: Bucket prefix or folder that holds `train/images/` and so on.
        datasets_uri: Where datasets live.
        config: Bounds.

    Raises:
        DataError: Nothing usable is left, or too much was rejected.
        StoreError: The bucket fails.
    """
    data, datasets = open_store(data_uri), open_store(datasets_uri)
    with tempfile.TemporaryDirectory(prefix="pack-") as scratch:
        packer = _Packer(data, datasets, config, Path(scratch))
        lines = packer.lines(labels)
        all_rejects = [*rejects, *packer.rejects]
        write_json(datasets, REJECTS, [reject._asdict() for reject in all_rejects])
        _check_rejects(len(lines), all_rejects, join(datasets.root, REJECTS), config)
        packed = packer.publish(lines, all_rejects)
    log.info("dataset %s: %s lines, %d rejected, %d pictures read", packed.uri, packed.splits, len(packed.rejects),
             packed.read)
    return packed


def _check_rejects(kept: int, rejects: list[Reject], report: str, config: PackConfig) -> None:
    reasons = ", ".join(f"{n} x {reason}" for reason, n in Counter(str(r.reason) for r in rejects).most_common(5))
    if not kept:
        raise DataError(f"no usable line among {len(rejects)} ({reasons or 'there are no labels'}); see {report}")
    share = len(rejects) / (kept + len(rejects))
    if share > config.max_rejects:
        raise DataError(f"{len(rejects)} of {kept + len(rejects)} pictures were rejected ({reasons}), more than "
                        f"max_rejects = {config.max_rejects:.0%}; see {report}, mend the labels or raise the threshold")


class _Packer:
    """Turns labels into lines, staging new pixels on the local disk."""

    def __init__(self, data: Store, datasets: Store, config: PackConfig, scratch: Path):
        self.data, self.datasets, self.config, self.scratch = data, datasets, config, scratch
        self.rejects: list[Reject] = []
        self.read = 0
        self.known = _known_lines(datasets, config.image)
        self.staged: dict[str, Path] = {}

    def lines(self, labels: Sequence[Label]) -> list[Line]:
        """Returns the usable lines in a stable order; the others go to `rejects`."""
        entries = {e.key: e for split in BUCKET_SPLITS for e in self.data.list(f"{split}/")}
        present = [label for label in labels if self._is_present(label, entries)]
        lines = dict(self._lines(present, entries))
        if not lines:
            return []
        alphabet = self._alphabet(lines.values())
        chosen = self._without_twins([(label, lines[label]) for label in present if label in lines])
        fitting = [line for label, line in chosen if self._fits(label, line, alphabet)]
        self.alphabet = alphabet.characters
        return sorted(fitting, key=lambda line: (SPLITS.index(line.split), line.digest))

    def publish(self, lines: list[Line], rejects: list[Reject]) -> Packed:
        """Uploads shards, then the index, then the manifest, then the pointer: a crash leaves nothing half-made."""
        identity = dataset_id(lines, self.alphabet, self.config.image)
        uri = join(self.datasets.root, identity)
        counts = Counter(line.split for line in lines)
        splits = {split: counts[split] for split in SPLITS}
        new = not _is_whole(self.datasets, identity)
        if new:
            self._upload_shards(identity, {line.shard for line in lines})
            rows = [line._replace(shard=self._final(line.shard, identity))._asdict() for line in lines]
            self.datasets.write(f"{identity}/{LINES}",
                                "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())
            write_json(self.datasets, f"{identity}/{REJECTS}", [reject._asdict() for reject in rejects])
            manifest = Manifest(identity, self.config.image, self.alphabet, splits)
            write_json(self.datasets, f"{identity}/{MANIFEST}", asdict(manifest))
        write_json(self.datasets, LATEST, {"id": identity})
        character_width = round(median(line.width / len(line.text) for line in lines), 1)
        return Packed(uri, splits, rejects, self.read, new, character_width)

    def _final(self, shard: str, identity: str) -> str:
        return f"{identity}/shards/{shard}" if shard in self.staged else shard

    def _upload_shards(self, identity: str, wanted: set[str]) -> None:
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            list(pool.map(lambda name: self.datasets.upload(self.staged[name], self._final(name, identity)),
                          sorted(wanted & set(self.staged))))

    def _key(self, label: Label) -> str:
        return label.uri.removeprefix(f"{self.data.root}/")

    def _is_present(self, label: Label, entries: dict[str, Entry]) -> bool:
        present = self._key(label) in entries
        if not present:
            self._reject(label, "missing picture", "upload it again, or delete its label")
        return present

    def _lines(self, labels: list[Label], entries: dict[str, Entry]) -> Iterator[tuple[Label, Line]]:
        """Yields a line for each usable picture, first the known ones, then those to be read."""
        unread = []
        for label in labels:
            known = self.known.get((self._key(label), entries[self._key(label)].tag))
            if known:
                yield label, known._replace(split=_target(label), text=label.text)
            else:
                unread.append(label)
        self.read = len(unread)
        for shard in self._shards(self._pictures(unread)):
            yield from self._stage(shard, entries)

    def _pictures(self, labels: list[Label]) -> Iterator[tuple[Label, _Picture]]:
        """Reads pictures in parallel, with bounded memory, in the order of their labels."""
        pictures = made_ahead(self._picture, labels, CONNECTIONS, 4 * CONNECTIONS)
        yield from tqdm(zip(labels, pictures, strict=True), "reading pictures", len(labels), unit="", disable=None)

    def _picture(self, label: Label) -> _Picture:
        try:
            data = self.data.read(self._key(label))
        except MissingError as error:
            return _Picture("", None, ("missing picture", f"it vanished meanwhile: {error}"))
        try:
            return _Picture(digest(data), read_line(data, self.config.image), None)
        except ImageError as error:
            return _Picture("", None, (f"unreadable picture: {error.reason}", str(error)))

    def _shards(self, pictures: Iterable[tuple[Label, _Picture]]) -> Iterator[list[tuple[Label, _Picture]]]:
        """Groups usable pictures into shards; the others are rejected."""
        shard: list[tuple[Label, _Picture]] = []
        columns = 0
        for label, picture in pictures:
            if picture.reject or picture.pixels is None:
                self._reject(label, *(picture.reject or ("unreadable picture", "")))
                continue
            shard.append((label, picture))
            columns += picture.pixels.shape[1]
            if columns >= SHARD_COLUMNS:
                yield shard
                shard, columns = [], 0
        if shard:
            yield shard

    def _stage(self, shard: list[tuple[Label, _Picture]], entries: dict[str, Entry]) -> Iterator[tuple[Label, Line]]:
        """Writes a shard to the local disk under the digest of its bytes; yields its lines."""
        part = self.scratch / "part.npy"
        widths = [picture.pixels.shape[1] for _, picture in shard]  # type: ignore[union-attr]
        columns = np.concatenate([picture.pixels.T for _, picture in shard])  # type: ignore[union-attr]
        np.save(part, np.ascontiguousarray(columns))  # lines one after another, not rows of all lines
        name = f"{digest(part.read_bytes())}.npy"
        self.staged[name] = part.rename(self.scratch / name)
        starts = np.cumsum([0, *widths])[:-1].tolist()
        for (label, picture), start, width in zip(shard, starts, widths):
            key = self._key(label)
            yield label, Line(_target(label), key, label.text, picture.digest, entries[key].tag, name, start, width)

    def _alphabet(self, lines: Iterable[Line]) -> Alphabet:
        if self.config.alphabet != FROM_LABELS:
            return Alphabet(self.config.alphabet)
        texts = [line.text for line in lines if line.split == "train"]
        if not texts:
            raise DataError(f"{self.data.root} has no usable line in train to take the alphabet from; label pictures "
                            "under train/images, or give the characters of the alphabet")
        return Alphabet.of_texts(texts)

    def _without_twins(self, pairs: list[tuple[Label, Line]]) -> list[tuple[Label, Line]]:
        """Keeps one of equal pictures, by content: what is tested on is never trained on."""
        kept: dict[str, Line] = {}
        chosen = []
        for label, line in sorted(pairs, key=lambda pair: TRUST.index(pair[1].split)):
            twin = kept.setdefault(line.digest, line)
            if twin is line:
                chosen.append((label, line))
            else:
                self._reject(label, "same picture", f"the same bytes as {twin.key}; keep one")
        return chosen

    def _fits(self, label: Label, line: Line, alphabet: Alphabet) -> bool:
        unknown = alphabet.unknown(line.text)
        if unknown:
            self._reject(label, OUTSIDE, ", ".join(map(describe, unknown)))
        elif frames_needed(alphabet.encode(line.text)) > steps(line.width):
            self._reject(label, "too narrow for its text", f"{len(line.text)} characters on {line.width} px")
        else:
            return True
        return False

    def _reject(self, label: Label, reason: str, detail: str) -> None:
        self.rejects.append(Reject(label.task, label.uri, reason, detail))


def _target(label: Label) -> str:
    """What users sent and people corrected is for training, never for the measure."""
    return "train" if label.split == "user_data" else label.split


def _known_lines(datasets: Store, config: ImageConfig) -> dict[tuple[str, str], Line]:
    """Returns the lines of the latest dataset by key and tag, if the same image function packed them."""
    try:
        image, lines = _index(open_store(resolve(datasets.root, MANIFEST)))
    except MissingError:
        return {}
    if image != config:
        return {}
    there = {shard: datasets.exists(shard) for shard in {line.shard for line in lines}}
    return {(line.key, line.tag): line for line in lines if there[line.shard]}


def _is_whole(datasets: Store, identity: str) -> bool:
    """Says whether a dataset and all its shards are there; packing again mends one that is not."""
    image, lines = _index(open_store(join(datasets.root, identity)))
    return image is not None and all(map(datasets.exists, {line.shard for line in lines}))


def _index(store: Store) -> tuple[ImageConfig | None, list[Line]]:
    """Returns how a dataset was packed, and its lines; nothing of one that is absent or damaged."""
    try:
        return read_manifest(store).image, read_lines(store)
    except MissingError:
        return None, []
    except DataError as error:
        log.warning("not using the dataset there: %s", error)
        return None, []
