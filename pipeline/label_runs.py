"""Starts runs that carry a name, and finds them again by it: in Kubeflow Pipelines, or as processes of this machine."""

import fcntl
import json
import logging
import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from handwriting.errors import PipelineError

if TYPE_CHECKING:  # kfp takes seconds to import, and runs of this machine do not need it
    from pipeline.client import Client

T = TypeVar("T")

log = logging.getLogger(__name__)

ENDED = ("SUCCEEDED", "SKIPPED", "FAILED", "CANCELED")  # any other state, an unknown one too, may still do something
EQUALS = 1  # of KFP's filters
SECRET_VARIABLE = "HANDWRITING_WEBHOOK_SECRET"


class Runs(Protocol):
    """Where runs are started. Every method raises `PipelineError` where that cannot be told or done."""

    def start(self, name: str) -> str:
        """Starts a run of a new name; returns its id, which is not empty."""

    def find(self, name: str) -> str:
        """Returns the id of the run that was started with this name; empty where none was."""

    def active(self, run: str) -> bool:
        """Says whether the run of an id has not ended."""


class KfpRuns:
    """Runs of the pipeline in Kubeflow Pipelines.

    Args:
        connect: Gives a client; called again after a fault, since address or token may be other ones by then.
        arguments: Parameters of the pipeline by name.
    """

    def __init__(self, connect: "Callable[[], Client]", arguments: Mapping[str, Any]):
        self.arguments = dict(arguments)
        self._connect = connect
        self._client: "Client | None" = None

    def start(self, name: str) -> str:
        """Submits the pipeline."""
        from pipeline import client

        return self._ask(lambda connected: client.start(connected, self.arguments, name))

    def find(self, name: str) -> str:
        """Asks for runs of this name."""
        wanted = json.dumps({"predicates": [{"operation": EQUALS, "key": "display_name", "stringValue": name}]})
        found = self._ask(lambda connected: connected.ask("runs of a name", lambda: connected.list_runs(filter=wanted)))
        return str(found.runs[0].run_id) if found.runs else ""

    def active(self, run: str) -> bool:
        """Asks for the run's state; a run that was deleted has ended."""
        from pipeline import client

        try:
            return self._ask(lambda connected: client.look(connected, run)).state not in ENDED
        except client.Refused as error:
            if error.status != 404:
                raise
            log.warning("run %s is not in Kubeflow Pipelines any more", run)
            return False

    def _ask(self, call: "Callable[[Client], T]") -> T:
        try:
            if self._client is None:
                self._client = self._connect()
            return call(self._client)
        except PipelineError:
            self._client = None
            raise


class LocalRuns:
    """Runs as processes of this machine, one file each; they go on when this process ends.

    A run holds the lock of its file from the moment it exists until it ends, and notes its number in it before it
    begins. So whoever looks later sees whether it was started at all, and whether it has ended.

    Args:
        command: Program and arguments.
        folder: Where the files, and what the runs print, lie.
        variables: What their environment has beside this process's, which it has without the webhook's secret.
    """

    def __init__(self, command: Sequence[str], folder: Path, variables: Mapping[str, str]):
        self.command, self.folder, self.variables = list(command), folder, dict(variables)
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str) -> str:
        """Starts the command; its output goes to `NAME.log`."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with open(self._file(name), "ab") as mark, open(self.folder / f"{name}.log", "ab") as output:
                fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._children[name] = subprocess.Popen(
                    ["/bin/sh", "-c", 'echo $$ > "$0" && exec "$@"', str(self._file(name)), *self.command],
                    stdout=output, stderr=output, stdin=subprocess.DEVNULL, env=self._environment(),
                    pass_fds=[mark.fileno()], start_new_session=True)
        except OSError as error:
            raise PipelineError(f"cannot start {self.command[0]} in {self.folder}: {error.strerror}") from error
        return name

    def find(self, name: str) -> str:
        """Looks into the run's file."""
        # in this order: a run whose lock was free has noted its number, or will never do so
        return name if self.active(name) or self._began(name) else ""

    def active(self, run: str) -> bool:
        """Tries the lock of the run's file."""
        self._reap()
        try:
            with open(self._file(run), "rb") as mark:
                fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        except OSError as error:
            raise PipelineError(f"{self._file(run)}: {error.strerror}; check its rights") from error
        return False

    def _environment(self) -> dict[str, str]:
        return {name: value for name, value in os.environ.items() if name != SECRET_VARIABLE} | self.variables

    def _reap(self) -> None:
        for name, child in list(self._children.items()):
            if child.poll() is not None:
                del self._children[name]
                log.info("%s ended with status %d; its output is in %s", name, child.returncode, self.folder)

    def _began(self, name: str) -> bool:
        return self._file(name).exists() and self._file(name).stat().st_size > 0

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.run"
