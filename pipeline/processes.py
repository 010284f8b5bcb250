"""A server as a child process: started, watched until it is ready, and ended with whoever started it."""

import ctypes
import fcntl
import json
import logging
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, Self

from handwriting.errors import HandwritingError

logger = logging.getLogger(__name__)

STOP_SECONDS = 15.0  # SeaweedFS takes 3 on an idle machine
PR_SET_PDEATHSIG = 1  # linux/prctl.h


class ProcessServer:
    """One server in a process group of its own, as a context manager.

    It is ready once `probe` answers with one of `statuses`. On Linux it ends with the thread that started it, even
    where that is killed; elsewhere only `stop` ends it. A folder serves one server at a time.

    Args:
        name: What messages call it.
        command: Program and arguments.
        probe: URL to ask until the server is ready.
        log: File for what it prints, begun anew at each start.
        env: Its whole environment; this process's own by default.
        deadline: Seconds until it must be ready.
        statuses: Answers that mean ready.
    """

    def __init__(self, name: str, command: Sequence[str], probe: str, log: Path, *,
                 env: Mapping[str, str] | None = None, deadline: float = 120, statuses: Sequence[int] = (200,)):
        self.name = name
        self.command = list(command)
        self.probe = probe
        self.log = log
        self.env = dict(os.environ if env is None else env)
        self.deadline = deadline
        self.statuses = tuple(statuses)
        self.process: subprocess.Popen[bytes] | None = None
        self._lock: IO[str] | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, {self.probe!r})"

    def __enter__(self) -> Self:
        return self if self.process else self.start()

    def __exit__(self, *fault: object) -> None:
        self.stop()

    def start(self) -> Self:
        """Starts the process and waits until it is ready.

        Raises:
            HandwritingError: It ended or took too long; with the end of its log. Or another run uses its folder.
        """
        started = time.monotonic()
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self._lock = _locked(self.log.with_suffix(".lock"), self.name)
        try:
            with open(self.log, "wb") as log:
                self.process = subprocess.Popen(self.command, env=self.env, stdin=subprocess.DEVNULL, stdout=log,
                                                stderr=subprocess.STDOUT, start_new_session=True,
                                                preexec_fn=_end_with_parent())
            self._await()
        except OSError as error:
            self.stop()
            raise HandwritingError(f"{self.name}: cannot start {self.command[0]}: {error.strerror}") from error
        except BaseException:  # Ctrl-C while waiting must not leave the process behind
            self.stop()
            raise
        logger.info("%s is ready after %.1f s", self.name, time.monotonic() - started)
        return self

    def stop(self) -> None:
        """Ends the whole group: politely, and after some seconds by force. A stopped server may be stopped again."""
        if self.process is not None:
            _signal(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                logger.warning("%s does not end: killing it", self.name)
            _signal(self.process.pid, signal.SIGKILL)  # also what the leader left behind in its group
            self.process.wait()
            self.process = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def tail(self, lines: int = 15) -> str:
        """Returns the end of the log."""
        with open(self.log, encoding="utf-8", errors="replace") as log:
            return "".join(log.readlines()[-lines:]).rstrip()

    def _is_ready(self) -> bool:
        return _status(self.probe) in self.statuses

    def _await(self) -> None:
        end = time.monotonic() + self.deadline
        while not self._is_ready():
            assert self.process is not None
            status = self.process.poll()
            if status is not None or time.monotonic() > end:
                fault = f"is not ready after {self.deadline:.0f} s" if status is None else f"ended with status {status}"
                raise HandwritingError(f"{self.name} {fault}; the end of {self.log}:\n{self.tail()}")
            time.sleep(0.1)


def get_json(url: str) -> dict[str, Any]:
    """Returns the JSON object that a GET gets, an empty one while there is none."""
    try:
        with _opener().open(url, timeout=5) as answer:
            return json.load(answer)
    except (OSError, ValueError):
        return {}


def _locked(path: Path, name: str) -> IO[str]:
    """Takes the lock of a server's folder; the system gives it back when this process ends, however that is."""
    lock = open(path, "w", encoding="utf-8")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise HandwritingError(f"{name} runs already in {path.parent}: stop that run, or take another folder") from None
    return lock


@lru_cache(maxsize=1)
def _end_with_parent() -> Callable[[], object] | None:
    """Returns what a child calls to get SIGTERM when its parent dies, where the system (Linux) has that."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl  # looked up before the fork: the child must not take locks of the loader
    return lambda: prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _signal(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):  # gone, or (macOS) a group of zombies only
        pass


def _status(url: str) -> int | None:
    """Returns the status a GET gets, or None while nobody answers."""
    try:
        with _opener().open(url, timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    except OSError:
        return None


@lru_cache(maxsize=1)
def _opener() -> urllib.request.OpenerDirector:
    """A proxy of the environment is not for loopback."""
    return urllib.request.build_opener(urllib.request.ProxyHandler({}))
