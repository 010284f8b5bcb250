"""Keeps what users send: pictures go to the bucket from a thread of their own, so that no answer waits for them."""

import io
import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime

from PIL import Image

from handwriting.errors import ImageError, StoreError
from handwriting.image import DAMAGED, FORMATS, upright
from handwriting.store import open_store

log = logging.getLogger(__name__)

FOLDER = "user_data/images"
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_MODES = {"1", "L", "LA", "P", "RGB", "RGBA", "I;16"}  # what a PNG file can hold as it is
LONGEST_PAUSE = 30.0  # seconds between two attempts to write one picture
LOG_EVERY = 100  # lost pictures a line: a bucket that is away under load must not flood the log as well


class UserPictures:
    """Stores pictures as `<data_uri>/user_data/images/<UTC time>-<random>.png` in the background.

    A picture that finds the queue full is dropped, counted and logged: answering matters more.

    Attributes:
        stored: Pictures written to the store.
        waiting: Pictures accepted and not yet written.
        lost: Pictures that will never be written.
        watch: Called with the changes of `stored`, `lost` and `waiting`, from any thread.
    """

    def __init__(self, data_uri: str, capacity: int = 1000, max_bytes: int = 64 * 2**20, attempts: int = 8,
                 pause: float = 0.5):
        """Opens the store and starts the thread; make it after a fork, threads do not survive one.

        Args:
            data_uri: `s3://bucket/data` or a folder.
            capacity: Most pictures that wait.
            max_bytes: Most bytes that wait; with large pictures they fill the memory long before `capacity`.
            attempts: Writes tried for one picture.
            pause: Seconds after the first failed write, doubled after each further one.

        Raises:
            StoreError: The URI cannot be a store.
        """
        self.stored = self.waiting = self.lost = 0
        self.watch: Callable[[int, int, int], None] = lambda stored, lost, waiting: None
        self._store = open_store(data_uri)
        self._capacity, self._max_bytes, self._attempts, self._pause = capacity, max_bytes, attempts, pause
        self._queue: deque[tuple[str, bytes]] = deque()
        self._bytes = 0
        self._closed = False
        self._changed = threading.Condition()  # guards all of the above
        self._thread = threading.Thread(target=self._work, name="user-pictures", daemon=True)
        self._thread.start()

    def add(self, picture: bytes) -> None:
        """Takes one picture (any format Pillow reads) and returns at once."""
        with self._changed:
            room = self.waiting < self._capacity and self._bytes + len(picture) <= self._max_bytes
            if room and not self._closed:
                self._queue.append((unique_name(), picture))
                self._bytes += len(picture)
                self._count(waiting=1)
                self._changed.notify()
                return
            self._count(lost=1)
            lost = self.lost
        if lost % LOG_EVERY == 1:
            log.error("user picture not kept, the queue is full or closed: %d lost so far; check the bucket", lost)

    def close(self, deadline: float = 10.0) -> None:
        """Takes no more pictures and writes those that wait.

        Args:
            deadline: Seconds after which the remaining ones are counted as lost.
        """
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(deadline)
        with self._changed:
            if self.waiting:
                log.error("%d user pictures not stored within %.0f s of stopping are lost", self.waiting, deadline)
            self._count(lost=self.waiting, waiting=-self.waiting)
            self._bytes = 0
            self._queue.clear()

    def _work(self) -> None:
        while item := self._next():
            self._done(item[1], self._keep(*item))

    def _next(self) -> tuple[str, bytes] | None:
        """Waits for a picture; None when closed and nothing waits."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closed)
            return self._queue.popleft() if self._queue else None

    def _done(self, picture: bytes, stored: bool) -> None:
        with self._changed:
            if not self.waiting:  # close() has given up and counted it
                return
            self._bytes -= len(picture)
            self._count(stored, not stored, -1)

    def _count(self, stored: int = 0, lost: int = 0, waiting: int = 0) -> None:
        """Adds changes, under the lock, and tells them."""
        self.stored += stored
        self.lost += lost
        self.waiting += waiting
        self.watch(stored, lost, waiting)

    def _keep(self, name: str, picture: bytes) -> bool:
        """Writes one picture and says whether that worked."""
        try:
            data = to_png(picture)
        except ImageError as error:
            log.error("user picture %s not kept: %s", name, error)
            return False
        for attempt in range(self._attempts):
            try:
                self._store.write(f"{FOLDER}/{name}", data)
                return True
            except StoreError as error:
                log.warning("user picture not stored, attempt %d of %d: %s", attempt + 1, self._attempts, error)
            if attempt + 1 < self._attempts:
                time.sleep(min(LONGEST_PAUSE, self._pause * 2**attempt))
        return False


def unique_name() -> str:
    """Returns a file name that sorts by UTC time and is unique among replicas, as `20261123T101530-9f86d081.png`."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(4)}.png"


def to_png(picture: bytes) -> bytes:
    """Returns the picture as PNG: unchanged where it is one, else without loss, upright, its first frame.

    Raises:
        ImageError: "truncated", where the bytes cannot be decoded.
    """
    if picture.startswith(PNG_SIGNATURE):
        return picture
    out = io.BytesIO()
    try:
        with Image.open(io.BytesIO(picture), formats=FORMATS) as image:
            _png_mode(upright(image)).save(out, "PNG")
    except (*DAMAGED, Image.DecompressionBombError) as error:
        raise ImageError("truncated", f"cannot be turned into PNG ({error})") from error
    return out.getvalue()


def _png_mode(image: Image.Image) -> Image.Image:
    """Converts the colour spaces that PNG does not know (CMYK, float, ...)."""
    if image.mode in PNG_MODES:
        return image
    if image.mode.startswith("I") or image.mode == "F":
        return image.convert("I").convert("I;16")
    return image.convert("RGBA" if image.has_transparency_data else "RGB")
