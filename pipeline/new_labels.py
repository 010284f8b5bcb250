"""Counts new labels, durably: what was counted is in the store before Label Studio gets its answer.

The state is one JSON object, and one process owns it. Label Studio does not repeat an event that it could not deliver,
so `State.since` says from when on to look for labels that no event told of.
"""

import os
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from handwriting.errors import ConfigError, DataError, StoreError
from handwriting.store import LocalStore, Store, join, read_json, write_json
from pipeline.label_events import Event

KEY = "new-labels.json"


@dataclass(frozen=True)
class StartConfig:
    """When new labels start a run.

    Attributes:
        labels: New labels that start a run at once.
        quiet: Minutes without a new label after which fewer of them start one, too.
    """

    labels: int = 50
    quiet: float = 30.0

    def __post_init__(self) -> None:
        if self.labels < 1:
            raise ConfigError(f"labels is {self.labels}: give at least 1")
        if not 0 <= self.quiet < float("inf"):
            raise ConfigError(f"quiet is {self.quiet}: give minutes, 0 or more")


@dataclass(frozen=True)
class State:
    """What must outlive the process.

    Attributes:
        new: Numbers of annotations made or changed since the last start.
        taken: Those that count for the start that is under way.
        event: Unix time of the last new label.
        starting: Name of the run whose start is under way; empty for none.
        run: The last run that was started; empty for none.
        since: Labels up to this time, by Label Studio's clock, are in that run.
        newest: Time of the newest label that was counted, by the same clock.
    """

    new: frozenset[int] = frozenset()
    taken: frozenset[int] = frozenset()
    event: float = 0.0
    starting: str = ""
    run: str = ""
    since: float = 0.0
    newest: float = 0.0


class NewLabels:
    """The state in memory, and in a store before any method that changes it returns; for any number of threads.

    Where the store is away the change is kept in memory, and goes out with the next one or with `save`.

    Raises:
        StoreError: The state cannot be read, or the first one cannot be written.
    """

    def __init__(self, store: Store, project: int, clock: Callable[[], float]):
        self.store, self.project, self.clock = store, project, clock
        self._lock, self._saving = threading.Lock(), threading.Lock()
        self._version = self._saved = 0
        now = clock()
        self.state = _loaded(store, project) if store.exists(KEY) else State(since=now, newest=now)
        self._version = 1
        self.save()  # also shows that the store can be written

    @property
    def total(self) -> int:
        """How many labels no run has that was started."""
        state = self.state
        return len(state.new | state.taken)

    def due(self, config: StartConfig) -> float | None:
        """Returns the Unix time from which on a run should start, None while there is nothing new."""
        state = self.state
        count = len(state.new | state.taken)
        if not count:
            return None
        return state.event if count >= config.labels else state.event + 60 * config.quiet

    def count(self, event: Event) -> None:
        """Counts an event of the project.

        Raises:
            StoreError: It is counted in memory only so far.
        """
        self._change(lambda state: _counted(state, event, self.clock()))

    def catch_up(self, event: Event) -> None:
        """Counts what was looked up; what was counted before does not count as made now.

        Raises:
            StoreError: It is counted in memory only so far.
        """
        self._change(lambda state: _counted(
            state, event._replace(added=event.added - state.new - state.taken), self.clock()))

    def intend(self, name: str) -> None:
        """Notes that a run of this name is about to be started, with all that is counted until now.

        Raises:
            StoreError: This is not in the store: nothing may be started.
        """
        self._change(lambda state: replace(
            state, starting=name, taken=state.taken | state.new, new=frozenset(), since=state.newest))

    def started(self, run: str) -> None:
        """Notes that the intended run was started.

        Raises:
            StoreError: This is not in the store yet.
        """
        self._change(lambda state: replace(state, starting="", taken=frozenset(), run=run))

    def save(self) -> None:
        """Writes what is in memory only.

        Raises:
            StoreError: The store refuses it.
        """
        self._save(self._version)

    def _change(self, change: Callable[[State], State]) -> None:
        with self._lock:
            changed = change(self.state)
            if changed != self.state:
                self.state, self._version = changed, self._version + 1
            version = self._version
        self._save(version)

    def _save(self, version: int) -> None:
        """Makes sure that a version is in the store; those that wait meanwhile share the next write."""
        with self._saving:
            if self._saved >= version:
                return
            with self._lock:
                state, current = self.state, self._version
            write_json(self.store, KEY, _as_json(state, self.project))
            _flush(self.store)
            self._saved = current


def _counted(state: State, event: Event, now: float) -> State:
    return replace(state, new=(state.new | event.added) - event.removed,
                   event=now if event.added else state.event, newest=max(state.newest, event.newest))


def _as_json(state: State, project: int) -> dict[str, Any]:
    return asdict(state) | {"project": project, "new": sorted(state.new), "taken": sorted(state.taken)}


def _loaded(store: Store, project: int) -> State:
    value = read_json(store, KEY)
    try:
        of = value.pop("project")
        state = State(**value | {name: frozenset(map(int, value[name])) for name in ("new", "taken")})
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{join(store.root, KEY)} is not the state of this receiver ({error!r}): restore it, or delete "
                        "it to count from now on") from error
    if of != project:
        raise ConfigError(f"{join(store.root, KEY)} counts the labels of project {of}, not {project}: give each "
                          "project a folder of its own")
    return state


def _flush(store: Store) -> None:
    """Waits until a local file is on the disk; an S3 server answers only then."""
    if not isinstance(store, LocalStore):
        return
    for path in (store.folder / KEY, store.folder):
        try:
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        except OSError as error:
            raise StoreError(f"{path}: {error.strerror}; check its rights and the disk") from error
