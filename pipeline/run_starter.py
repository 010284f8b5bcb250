"""Starts a run when there are enough new labels, or a few and nobody adds to them; never two at once.

A start has three parts: its name goes to the store, the run is started under it, and that it was goes to the store.
Whatever ends this process between them, the next one looks for a run of that name before it starts one.
"""

import logging
import secrets
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from handwriting.errors import HandwritingError, LabelStudioError
from pipeline.label_events import Event
from pipeline.label_runs import Runs
from pipeline.new_labels import NewLabels, StartConfig

log = logging.getLogger(__name__)

POLL = 15.0  # seconds between two looks at the clock, and at the run
LONGEST_PAUSE = 300.0  # seconds, after several faults in a row
LONGEST_STEP = 900.0  # seconds: kfp's client sets no time limits of its own
LOOK_UP_EVERY = 3600.0  # seconds between two searches for labels that no event told of
LOOK_UP_AGAIN = 60.0  # seconds after one that failed


class RunStarter:
    """What the routes and the thread that starts runs share.

    Args:
        labels: The count.
        runs: Where runs are started.
        config: When.
        look_up: Gives the labels since a Unix time, for events that never arrived; None where nothing can be asked.
        poll: Seconds between two looks.
    """

    def __init__(self, labels: NewLabels, runs: Runs, config: StartConfig,
                 look_up: Callable[[float], Event] | None = None, poll: float = POLL):
        self.labels, self.runs, self.config, self.look_up, self.poll = labels, runs, config, look_up, poll
        self.failures = 0  # in a row
        self._ended = ""  # a run known to have ended
        self._look_up_at = 0.0
        self._step_began: float | None = None
        self._wake, self._stopped = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="run-starter", daemon=True)

    @property
    def alive(self) -> bool:
        """False once the thread has died of a bug, or hangs; a supervisor should start the process anew."""
        began = self._step_began
        return self._thread.is_alive() and (began is None or time.monotonic() - began < LONGEST_STEP)

    def start(self) -> None:
        """Starts the thread; after a fork, threads do not survive one."""
        self._thread.start()

    def close(self, deadline: float = 20.0) -> None:
        """Ends the thread, after a start that is under way; the count is in the store anyhow."""
        self._stopped.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(deadline)

    def count(self, event: Event) -> bool:
        """Counts an event, durably; says whether it is one of the project.

        Raises:
            StoreError: The store is away; the event is counted in memory, and written later.
        """
        if event.project != self.labels.project:
            return False
        if event.unnamed:
            self.missed()
        try:
            self.labels.count(event)
        finally:
            if self._due() and not self._maybe_active():
                self._wake.set()
        return True

    def missed(self) -> None:
        """Notes that there are labels that no event numbers: they are looked up soon."""
        self._look_up_at = 0.0
        self._wake.set()

    def step(self) -> None:
        """Does what is to be done now.

        Raises:
            HandwritingError: It cannot be done now; nothing is lost, and the next step tries again.
        """
        self.labels.save()
        self._catch_up()
        name = self.labels.state.starting
        if not name:
            if self._is_active() or not self._due():
                return
            name = f"labels-{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(4)}"
            self.labels.intend(name)
        self._start(name)

    def status(self) -> dict[str, Any]:
        """Returns what a person would like to know, nothing secret."""
        state, due = self.labels.state, self.labels.due(self.config)
        return {"project": self.labels.project, "new_labels": self.labels.total, "start_at": self.config.labels,
                "quiet_minutes": self.config.quiet, "due": due and f"{datetime.fromtimestamp(due, UTC):%FT%TZ}",
                "starting": state.starting or None, "last_run": state.run or None, "active": self._maybe_active(),
                "failures": self.failures}

    def _start(self, name: str) -> None:
        run = self.runs.find(name)
        if not run:
            self.labels.intend(name)  # takes along what came while a start was not possible
            log.info("starting %s for %d new labels", name, self.labels.total)
            run = self.runs.start(name)
        self.labels.started(run)
        log.info("started %s as %s", name, run)

    def _due(self) -> bool:
        due = self.labels.due(self.config)
        return due is not None and self.labels.clock() >= due

    def _maybe_active(self) -> bool:
        return self.labels.state.run not in ("", self._ended)

    def _is_active(self) -> bool:
        if self._maybe_active() and not self.runs.active(self.labels.state.run):
            self._ended = self.labels.state.run
            log.info("run %s has ended", self._ended)
        return self._maybe_active()

    def _catch_up(self) -> None:
        """Looks for labels that no event told of; where that fails it stops nothing else."""
        now = self.labels.clock()
        if self.look_up is None or now < self._look_up_at:
            return
        self._look_up_at = now + LOOK_UP_EVERY  # before: an event that asks for another one meanwhile must not be lost
        try:
            found = self.look_up(self.labels.state.since)
        except LabelStudioError as error:
            self._look_up_at = now + LOOK_UP_AGAIN
            log.warning("cannot look for labels that no event told of: %s", error)
            return
        before = self.labels.total
        self.labels.catch_up(found)
        if self.labels.total > before:
            log.info("found %d labels that no event told of", self.labels.total - before)

    def _work(self) -> None:
        pause = 0.0
        while not self._stopped.is_set():
            # events cut a pause short, but not one after a fault
            (self._stopped if self.failures else self._wake).wait(pause)
            self._wake.clear()
            if self._stopped.is_set():
                return
            self._step_began = time.monotonic()
            try:
                self.step()
                self.failures = 0
            except HandwritingError as error:
                self.failures += 1
                log.warning("%s; %d labels wait", error, self.labels.total)
            self._step_began = None
            pause = min(LONGEST_PAUSE, self.poll * 2 ** min(self.failures, 10))
