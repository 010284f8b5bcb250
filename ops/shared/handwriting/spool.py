"""A folder on the local disk where entries wait for their way on: each is whole or not there, and outlives its process.

Every process has a folder of its own in the spool, and holds a lock on it until it ends, however that is. One that
nobody locks is a dead process's: the next to look takes it over with its entries, so each entry has one owner.

A killed process loses nothing: what it wrote is the system's. Nothing is forced to the disk (fsync), so a machine that
loses its power may lose what came in the half minute before. Forcing cost each request 0.4 ms (one in twenty: 4 ms) on
a local SSD in place of 0.05, and a pod that loses its node mostly loses its emptyDir, too.
"""

import errno
import fcntl
import hashlib
import logging
import os
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from handwriting.errors import StoreError

log = logging.getLogger(__name__)

UNFINISHED = "."  # start of the names of what is being made
FULL = {errno.ENOSPC, errno.EDQUOT}


class Entry(NamedTuple):
    """One file of the spool: where it is, its bytes, and since when it waits (UNIX time, s)."""

    path: Path
    size: int
    since: float


class Spool:
    """One process's part of a spool; several processes of one machine may share its folder."""

    def __init__(self, folder: Path):
        """Opens or makes the spool.

        Raises:
            OSError: It cannot be made. A full disk is no error: there may be room later.
        """
        self.folder = folder
        self._own: Path | None = None
        self._locks: list[int] = []
        self._making = threading.Lock()
        try:
            self._own_folder()
        except OSError as error:
            if error.errno not in FULL:
                raise
            log.error("%s: %s; make room", folder, error.strerror)

    def put(self, name: str, data: bytes) -> Entry:
        """Adds an entry; it is there when this returns.

        Raises:
            OSError: The disk is full, or refuses it; nothing of it is left.
        """
        folder = self._own_folder()
        part = folder / f"{UNFINISHED}{name}"
        try:
            part.write_bytes(data)
            return Entry(part.rename(folder / name), len(data), time.time())
        except OSError:
            with suppress(OSError):
                part.unlink()
            raise

    def adopt(self) -> list[Entry]:
        """Takes over the entries of processes that are no more, and removes what else they left."""
        adopted: list[Entry] = []
        with suppress(OSError):  # also where the folder is not there yet
            for folder in filter(_is_finished, self.folder.iterdir()):
                adopted += self._adopt(folder)
        return sorted(adopted, key=lambda entry: entry.path.name)

    def close(self) -> None:
        """Leaves what is in the spool to the next process."""
        with suppress(OSError):  # not empty, or never made
            (self._own or self.folder).rmdir()
        while self._locks:
            os.close(self._locks.pop())

    def _own_folder(self) -> Path:
        with self._making:
            if self._own is None:
                self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                new = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=self.folder))  # nobody adopts it before its lock
                if (lock := _lock(new)) is None:
                    raise OSError(errno.ENOLCK, "its folders cannot be locked", str(self.folder))
                self._locks.append(lock)
                self._own = new.rename(self.folder / new.name.removeprefix(UNFINISHED))
            return self._own

    def _adopt(self, folder: Path) -> list[Entry]:
        lock = _lock(folder)
        if lock is None:
            return []
        entries: list[Entry] = []
        try:
            entries = _entries(folder)
            if not entries:
                folder.rmdir()
        except OSError as error:  # another process was faster, or a disk fault: the next look may see more
            log.warning("%s not taken over: %s", folder, error.strerror)
        if entries:
            self._locks.append(lock)
        else:
            os.close(lock)
        return entries


def open_spool(target: str, folder: str = "") -> Spool:
    """Opens the spool of what goes to one target; other targets may use the folder, too.

    Args:
        target: URI or folder for which the entries are.
        folder: Where on the local disk; empty for one of this user's among the system's temporary files.

    Raises:
        StoreError: It cannot be made.
    """
    parent = Path(folder or Path(tempfile.gettempdir()) / f"handwriting-spool-{os.getuid()}")
    identity = target if "://" in target else os.path.abspath(target)
    try:
        return Spool(parent / hashlib.sha256(identity.encode()).hexdigest()[:16])
    except OSError as error:
        raise StoreError(f"{error.filename or parent}: {error.strerror}; what is for {target} waits there: give "
                         "--spool or SPOOL a folder that this user may write") from error


def remove(entry: Entry) -> None:
    """Removes an entry that is done with."""
    try:
        entry.path.unlink(missing_ok=True)
    except OSError as error:
        log.error("%s: %s; it is done again after the next start", entry.path, error.strerror)


def _is_finished(path: Path) -> bool:
    return not path.name.startswith(UNFINISHED)


def _lock(folder: Path) -> int | None:
    """Returns the open folder with this process's lock on it; None where another has the lock, or took the folder."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle


def _entries(folder: Path) -> list[Entry]:
    """Lists the entries of a dead process; what it had not finished was never promised, and goes."""
    entries = []
    for path in folder.iterdir():
        if _is_finished(path):
            status = path.stat()
            entries.append(Entry(path, status.st_size, status.st_mtime))
        else:
            path.unlink()
    return entries
