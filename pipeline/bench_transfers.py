"""Compares how pictures travel to and from the bucket with the tutorial's way: one file after another."""

import logging
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import boto3

from handwriting.dataset import Dataset
from handwriting.labels import BUCKET_SPLITS, LabelConfig
from handwriting.packing import LABELS, PackConfig, pack_folder
from handwriting.store import CONNECTIONS, open_store, read_json, write_json
from pipeline.latency import far_away
from pipeline.servers import start_seaweedfs

log = logging.getLogger(__name__)

BUCKET = "bench"


class Compared(NamedTuple):
    """Seconds that the same pictures take one after another and our way; 0 where there is nothing to compare with."""

    one_by_one: float
    ours: float


def bench_transfers(data: Path, most: int, latency: float) -> dict[str, Any]:
    """Measures against a SeaweedFS of its own, which shares the machine.

    Args:
        data: Folder in the bucket's layout.
        most: Pictures, at most.
        latency: Seconds that the bucket takes longer to answer than one on this machine.

    Returns:
        Rows for a table by name, how many pictures they moved, and the latency.

    Raises:
        HandwritingError: The server does not start, or the folder has no usable lines.
    """
    with (tempfile.TemporaryDirectory(prefix="bench-") as scratch, start_seaweedfs(Path(scratch) / "s3") as server,
          far_away(server.environment["AWS_ENDPOINT_URL_S3"], latency) as url):
        os.environ.update(server.environment | {"AWS_ENDPOINT_URL_S3": url})
        client = boto3.session.Session().client("s3")
        client.create_bucket(Bucket=BUCKET)
        labels = _labels(data, most)
        keys = [f"{split}/images/{name}" for split, texts in labels.items() for name in texts]
        rows = {"upload": _uploads(client, data, keys), "download": _downloads(client, keys, Path(scratch)),
                **_packings(labels, client, keys, Path(scratch))}
    return {"rows": {name: row._asdict() for name, row in rows.items()}, "pictures": len(keys),
            "latency": latency}


def table(result: dict[str, Any]) -> str:
    """Returns a result as a Markdown table."""
    names = {"upload": "pictures into the bucket", "download": "pictures out of the bucket",
             "train": "the lines to train on, on the local disk",
             "pack": "preprocess: pictures read, decoded and packed",
             "again": "preprocess again with nothing new"}
    rows = [f"| {names[name]} | {_seconds(row['one_by_one'])} | {_seconds(row['ours'])} | {_ratio(**row)} |"
            for name, row in result["rows"].items()]
    what = f"{result['pictures']} pictures, a bucket {1000 * result['latency']:.0f} ms away"
    head = [f"| {what} | one by one, s | ours, s | times |", "|---|---|---|---|"]
    return "\n".join([*head, *rows])


def _seconds(value: float) -> str:
    return f"{value:.2f}" if value else ""


def _ratio(one_by_one: float, ours: float) -> str:
    return f"{one_by_one / ours:.1f}" if one_by_one else ""


def _labels(data: Path, most: int) -> dict[str, dict[str, str]]:
    """Returns texts by split and name, of so many pictures."""
    store, chosen = open_store(str(data)), {}
    for split in BUCKET_SPLITS:
        if store.exists(f"{split}/{LABELS}") and most > 0:
            texts = dict(list(read_json(store, f"{split}/{LABELS}").items())[:most])
            chosen[split] = texts
            most -= len(texts)
    return chosen


def _timed(function: Callable[[], Any]) -> float:
    began = time.monotonic()
    function()
    return time.monotonic() - began


def _uploads(client: Any, data: Path, keys: list[str]) -> Compared:
    def one_by_one() -> None:
        for key in keys:
            client.upload_file(str(data / key), BUCKET, f"one/{key}")

    def ours() -> None:
        store = open_store(f"s3://{BUCKET}/data")
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            list(pool.map(lambda key: store.write(key, (data / key).read_bytes()), keys))

    return Compared(_timed(one_by_one), _timed(ours))


def _downloads(client: Any, keys: list[str], scratch: Path) -> Compared:
    def ours() -> None:
        store = open_store(f"s3://{BUCKET}/data")
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            list(pool.map(store.read, keys))

    return Compared(_timed(lambda: _download(client, keys, scratch)), _timed(ours))


def _download(client: Any, keys: list[str], scratch: Path) -> None:
    """Fetches pictures as the tutorial's training does."""
    for number, key in enumerate(keys):
        client.download_file(BUCKET, f"one/{key}", str(scratch / f"{number}.jpg"))


def _packings(labels: dict[str, dict[str, str]], client: Any, keys: list[str], scratch: Path) -> dict[str, Compared]:
    data = open_store(f"s3://{BUCKET}/data")
    for split, texts in labels.items():
        write_json(data, f"{split}/{LABELS}", texts)

    def pack() -> str:
        return pack_folder(data.root, f"s3://{BUCKET}/datasets", PackConfig(), LabelConfig()).uri

    def fetch() -> None:
        dataset = Dataset(f"s3://{BUCKET}/datasets", scratch / "shards")
        for line in {line.shard: line for line in dataset.all_lines}.values():
            dataset.pixels(line)

    packed, again = _timed(pack), _timed(pack)
    return {"train": Compared(_timed(lambda: _download(client, keys, scratch)), _timed(fetch)),
            "pack": Compared(0.0, packed), "again": Compared(0.0, again)}
