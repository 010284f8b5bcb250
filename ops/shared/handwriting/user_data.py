"""Keeps what users send: pictures go to the bucket from threads of their own, so that no answer waits for them.

Until then they are in a spool on the local disk, from before their request is answered: an end of the server, however
sudden, and a bucket that is away lose none of them.
"""

import errno
import itertools
import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from handwriting.dataset import digest
from handwriting.errors import ConfigError, DataError, ImageError, StoreError
from handwriting.layout import READINGS, USER_PICTURES
from handwriting.picture_files import in_share, new_name, pack, to_png, unpack
from handwriting.spool import Entry, open_spool, remove
from handwriting.store import open_store, write_json

log = logging.getLogger(__name__)

LONGEST_PAUSE = 30.0  # seconds between two attempts to write one picture
LOOK_EVERY = 5.0  # seconds between two looks for what dead processes left
LOG_EVERY = 60.0  # seconds: a bucket that is away under load must not flood the log as well


@dataclass(frozen=True)
class KeepConfig:
    """Which pictures are kept, and how many may wait for the bucket: at 30 a second, with 20 KB each, an hour's.

    Attributes:
        spool: Folder on the local disk in which they wait; empty for one among the system's temporary files.
        share: Share of the pictures to keep, 0 to 1; the same picture is kept each time or never.
        entries: Most pictures that wait.
        size: Most bytes that wait.
        uploads: Pictures on their way at the same time.
        pause: Seconds after the first failed upload, doubled after each further one.
    """

    spool: str = ""
    share: float = 1.0
    entries: int = 100_000
    size: int = 2 * 2**30
    uploads: int = 4
    pause: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ConfigError(f"share of users' pictures to keep {self.share}: give 0 to 1")
        if min(self.entries, self.size, self.uploads) < 1 or self.pause <= 0:
            raise ConfigError(f"{self}: entries, size, uploads and pause must be over 0")

    def of_each(self, processes: int) -> "KeepConfig":
        """Returns what each of several processes may keep."""
        return replace(self, entries=max(1, self.entries // processes), size=max(1, self.size // processes))


class UserPictures:
    """Stores pictures as `<data_uri>/user_data/images/<name>.png`, with readings as `user_data/readings/<name>.json`.

    The name is `<UTC time>-<id>-<version>` and stays through all attempts, so that each picture arrives once. One that
    finds the spool or the disk full is dropped, counted and logged: answering matters more.

    Attributes:
        stored: Pictures written to the store.
        lost: Pictures that will never be written.
        failures: Attempts that failed.
        waiting: Pictures accepted and not yet written, and `waiting_bytes` of them.
        oldest: Seconds that the oldest of these waits; some seconds old.
    """

    def __init__(self, data_uri: str, config: KeepConfig = KeepConfig()):
        """Opens store and spool and starts the threads; make it after a fork, threads do not survive one.

        Args:
            data_uri: `s3://bucket/data` or a folder.
            config: What to keep.

        Raises:
            StoreError: The URI cannot be a store, or there can be no spool.
        """
        self.stored = self.lost = self.failures = self.waiting = self.waiting_bytes = 0
        self.oldest = 0.0
        self._watch: Callable[..., None] = lambda *counts: None
        self._store, self._spool, self._config = open_store(data_uri), open_spool(data_uri, config.spool), config
        self._queue: deque[Entry] = deque()
        self._held: set[Entry] = set()  # queued and on their way
        self._ending = threading.Event()
        self._changed = threading.Condition()  # guards all of the above
        self._loss_log, self._failure_log = _Seldom(), _Seldom()
        work = [self._look_after, *[self._upload_all] * config.uploads]
        self._threads = [threading.Thread(target=one, name="user-pictures", daemon=True) for one in work]
        for thread in self._threads:
            thread.start()

    def report_to(self, watch: Callable[[int, int, int, int, int, float], None]) -> None:
        """Has all changes told, from any thread: new `stored`, `lost`, `failures`; `waiting`, its bytes, `oldest`."""
        with self._changed:
            self._watch = watch
            watch(self.stored, self.lost, self.failures, self.waiting, self.waiting_bytes, self.oldest)

    def offer(self, picture: bytes, reading: Mapping[str, Any]) -> None:
        """Takes one picture where it belongs to the share to keep."""
        if in_share(picture, self._config.share):
            self.add(picture, reading)

    def add(self, picture: bytes, reading: Mapping[str, Any]) -> bool:
        """Takes one picture, whatever the share.

        Args:
            picture: Any format that Pillow reads.
            reading: What to write beside it as JSON, with the time and the picture's digest, by which a correction
                finds the reading of the same picture; its `version` goes into the name.

        Returns:
            Whether it is in the spool, from where it will be stored; else it is counted as lost.
        """
        now = datetime.now(UTC)
        about = {"picture": digest(picture), "time": now.isoformat(timespec="milliseconds")}
        data = pack(picture, {**reading, **about})
        try:
            self._check_room(len(data))
            entry = self._spool.put(new_name(now, str(reading.get("version", ""))), data)
        except OSError as error:
            self._lose(f"{self._spool.folder}: {error.strerror}; check the bucket and the disk")
            return False
        self._take([entry])
        return True

    def close(self, deadline: float = 10.0) -> None:
        """Takes no more pictures, and writes those that wait while the bucket takes them; the others stay in the spool.

        Args:
            deadline: Seconds.
        """
        end = time.monotonic() + deadline
        with self._changed:
            self._ending.set()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        self._spool.close()
        if self.waiting:
            log.warning("%d user pictures wait in %s for the next start", self.waiting, self._spool.folder)

    def _check_room(self, size: int) -> None:
        if self._ending.is_set():
            raise OSError(errno.ESHUTDOWN, "the server is ending")
        if self.waiting >= self._config.entries or self.waiting_bytes + size > self._config.size:
            raise OSError(errno.ENOSPC, f"{self.waiting} pictures, {self.waiting_bytes} bytes wait already")

    def _take(self, entries: list[Entry]) -> None:
        with self._changed:
            self._queue += entries
            self._held.update(entries)
            self.waiting += len(entries)
            self.waiting_bytes += sum(entry.size for entry in entries)
            self._tell()
            self._changed.notify(len(entries))

    def _lose(self, why: str) -> None:
        with self._changed:
            self._tell(lost=1)
        if self._loss_log.is_due():
            log.error("user picture not kept: %s; %d lost so far", why, self.lost)

    def _tell(self, stored: int = 0, lost: int = 0, failures: int = 0) -> None:
        """Adds changes, under the lock, and tells them with what waits."""
        self.stored += stored
        self.lost += lost
        self.failures += failures
        if not self.waiting:
            self.oldest = 0.0
        self._watch(stored, lost, failures, self.waiting, self.waiting_bytes, self.oldest)

    def _look_after(self) -> None:
        """Takes over what dead processes left, and sees how old the oldest picture is."""
        while True:
            self._take(self._spool.adopt())
            with self._changed:
                self.oldest = max((time.time() - entry.since for entry in self._held), default=0.0)
                self._tell()
            if self._ending.wait(LOOK_EVERY):
                return

    def _upload_all(self) -> None:
        while (entry := self._next()) and self._upload(entry):
            pass

    def _next(self) -> Entry | None:
        """Waits for a picture; None at the end, when none is queued."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._ending.is_set())
            return self._queue.popleft() if self._queue else None

    def _upload(self, entry: Entry) -> bool:
        """Tries until it works; at the end once more, and False leaves it in the spool."""
        pauses, ending = _pauses(self._config.pause), self._ending.is_set()
        while not self._try(entry):
            if ending:
                return False
            ending = self._ending.wait(next(pauses))
        return True

    def _try(self, entry: Entry) -> bool:
        """Writes one picture and says whether it is done with: stored, or not even readable."""
        stored = True
        try:
            self._write(entry)
        except StoreError as error:
            with self._changed:
                self._tell(failures=1)
            if self._failure_log.is_due():
                log.warning("user pictures wait, %d by now: %s", self.waiting, error)
            return False
        except (DataError, ImageError, OSError) as error:
            stored = False
            self._lose(f"{entry.path}: {error}")
        remove(entry)
        with self._changed:
            self._held.discard(entry)
            self.waiting -= 1
            self.waiting_bytes -= entry.size
            self._tell(stored=int(stored))
        return True

    def _write(self, entry: Entry) -> None:
        picture, reading = unpack(entry.path.read_bytes())
        png = to_png(picture)
        write_json(self._store, f"{READINGS}/{entry.path.name}.json", reading)
        self._store.write(f"{USER_PICTURES}/{entry.path.name}.png", png)  # last: its reading is there


class _Seldom:
    """Says when a message that comes again and again is to be logged once more."""

    def __init__(self) -> None:
        self._next = 0.0

    def is_due(self) -> bool:
        due = time.monotonic() >= self._next
        if due:
            self._next = time.monotonic() + LOG_EVERY
        return due


def _pauses(first: float) -> Iterator[float]:
    """Yields growing seconds between attempts, at random, so that threads and replicas do not come all at once."""
    for attempt in itertools.count():
        yield min(LONGEST_PAUSE, first * 2 ** min(attempt, 30)) * random.uniform(0.5, 1)
