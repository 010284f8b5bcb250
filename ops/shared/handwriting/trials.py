"""A trial on this machine: the very command that Katib would run, as a process that can be stopped halfway."""

import os
import re
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from handwriting.component import Step, trial_command
from handwriting.errors import DataError
from handwriting.experiment import OBJECTIVE

METRIC = re.compile(r"([\w|-]+)\s*=\s*([+-]?\d*(?:\.\d+)?(?:[Ee][+-]?\d+)?)")  # Katib's own default filter
TAIL = 15  # lines of a failed trial that its error tells

Values = Mapping[str, float]


def trial_of(step: Step, arguments: Mapping[str, Any],
             folder: Path) -> Callable[[Values, Callable[[int, float], None]], float]:
    """Returns what a search calls for each trial: it trains with some values, and returns its best validation CER.

    Args:
        step: The component that trains.
        arguments: What does not change from trial to trial.
        folder: Local folder for the outputs that nobody collects, overwritten by each trial.
    """
    def trial(values: Values, on_epoch: Callable[[int, float], None]) -> float:
        best = float("inf")
        command = trial_command(step, {**arguments, **values}, str(folder))
        with _running(command) as lines:
            for line in lines:
                found = dict(METRIC.findall(line))
                if found.get(OBJECTIVE):
                    best = min(best, float(found[OBJECTIVE]))
                    on_epoch(int(found["epoch"]), float(found[OBJECTIVE]))
        if best == float("inf"):
            raise DataError(f"the trial ended without a {OBJECTIVE}; look at its log")
        return best

    return trial


@contextmanager
def _running(command: list[str]) -> Iterator[Iterator[str]]:
    """Runs a command and gives its lines; all its processes end with the block.

    Raises:
        DataError: It fails; with the end of what it printed.
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"  # its python3 is this one
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
                               start_new_session=True, env={**os.environ, "PATH": path})
    assert process.stdout is not None
    tail: deque[str] = deque(maxlen=TAIL)
    try:
        yield (line for line in process.stdout if not tail.append(line))  # type: ignore[func-returns-value]
        if status := process.wait():
            raise DataError(f"the trial ended with status {status}; the end of its log:\n{''.join(tail).rstrip()}")
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.stdout.close()
        process.wait()
