"""Receives Label Studio's events, and starts the pipeline at enough new labels: `python -m pipeline webhook`.

One process with one state: in a cluster one replica, and the strategy `Recreate`. Label Studio waits a second for an
answer and asks once, so an answer waits for one write of the state and for nothing else.
"""

import fcntl
import hmac
import logging
import os
import re
import time
from collections.abc import Callable
from typing import IO, Any

from flask import Flask, Response, current_app, jsonify, request
from gunicorn.errors import AppImportError
from werkzeug.exceptions import HTTPException

from handwriting.errors import ConfigError, DataError, HandwritingError, StoreError
from handwriting.serving import Application
from handwriting.store import LocalStore, Store
from pipeline.label_events import parse_event
from pipeline.label_runs import SECRET_VARIABLE
from pipeline.run_starter import RunStarter

log = logging.getLogger(__name__)

FOLDER = "webhook"  # of the bucket: the count
ROUTE = "/webhook"
MAX_BYTES = 64 * 2**20  # Label Studio sends up to 5,000 annotations with their tasks in one event, some 2 KB each
THREADS = 8
LOCK = "receiver.lock"
LOCK_SECONDS = 5.0  # a worker notices within a second or two that its parent was killed, and gives the lock back


def secret_from_environment() -> str:
    """Returns the shared secret of HANDWRITING_WEBHOOK_SECRET.

    Raises:
        ConfigError: It is absent, short, or cannot be sent in a header.
    """
    secret = os.environ.get(SECRET_VARIABLE, "").strip()
    if not re.fullmatch(r"[\x21-\x7e]{16,}", secret):
        raise ConfigError(f"{SECRET_VARIABLE} is {'not usable' if secret else 'not set'}: set it to at least 16 "
                          "letters and digits, as `openssl rand -hex 20` gives, and let Label Studio's webhook send it")
    return secret


def create_app(starter: RunStarter, secret: str, max_bytes: int = MAX_BYTES) -> Flask:
    """Makes the application.

    Args:
        starter: Counts, and starts runs.
        secret: What an event must bring, as `Authorization: Bearer SECRET`.
        max_bytes: Largest event in bytes.
    """
    app = Flask(__name__, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = max_bytes
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.extensions["starter"], app.extensions["secret"] = starter, f"Bearer {secret}".encode()
    app.add_url_rule(ROUTE, view_func=receive, methods=["POST"])
    app.add_url_rule("/healthz", view_func=alive)
    app.add_url_rule("/status", view_func=status)
    app.add_url_rule("/", view_func=status, endpoint="index")
    app.register_error_handler(DataError, lambda error: _error(400, "invalid event", str(error)))
    app.register_error_handler(StoreError, _not_written)
    app.register_error_handler(HTTPException, _http_error)
    return app


def _starter() -> RunStarter:
    return current_app.extensions["starter"]


def receive() -> Response:
    """`POST /webhook`: counts an event of Label Studio before it answers."""
    given = request.headers.get("Authorization", "").encode()
    if not hmac.compare_digest(given, current_app.extensions["secret"]):
        return _error(401, "wrong secret", f"send the header Authorization: Bearer and the value of {SECRET_VARIABLE}")
    counted = _starter().count(parse_event(request.get_json(force=True)))
    return jsonify(counted=counted, new_labels=_starter().labels.total)


def alive() -> Response:
    """`GET /healthz`: the process answers, and starts runs."""
    if not _starter().alive:
        return _error(503, "no starter", "the thread that starts runs has ended or hangs: see the log, start me anew")
    return jsonify(status="alive")


def status() -> Response:
    """`GET /status`: how many labels are new, when they start a run, and which run was the last."""
    return jsonify(_starter().status())


def _error(code: int, reason: str, message: str) -> Response:
    response = jsonify(error=reason, message=message)
    response.status_code = code
    return response


def _not_written(error: StoreError) -> Response:
    log.error("an event is counted in memory only: %s", error)
    return _error(503, "not written", "the event is not in the store yet; the log tells why")


def _http_error(error: HTTPException) -> Response:
    """What Flask refuses itself: no JSON, bodies over the limit, unknown routes, ..."""
    code = error.code or 500
    if code == 413:
        _starter().missed()
        return _error(413, "too large", f"the event is over {current_app.config['MAX_CONTENT_LENGTH']} bytes; its "
                                        "labels are looked up")
    if code == 400:
        return _error(400, "no json", "the body is no JSON; let a webhook of Label Studio send here")
    return _error(code, error.name.lower(), error.description or error.name)


class Server(Application):
    """One starter."""

    def __init__(self, make: Callable[[], RunStarter], secret: str, **settings: Any):
        self.make, self.secret = make, secret
        self.starter: RunStarter | None = None
        super().__init__(**settings)

    def load(self) -> Flask:
        """Makes the application in the worker.

        Raises:
            AppImportError: The state cannot be used; gunicorn prints this one line and ends with status 4.
        """
        try:
            self.starter = self.make()
        except HandwritingError as error:
            raise AppImportError(f"cannot count labels: {error}") from error
        self.starter.start()
        return create_app(self.starter, self.secret)


def _stop(arbiter: Any, worker: Any) -> None:
    """gunicorn's hook at the end of the worker."""
    if worker.app.starter is not None:
        worker.app.starter.close()


def serve(make: Callable[[], RunStarter], secret: str, store: Store, host: str = "0.0.0.0", port: int = 8080) -> None:
    """Receives events until SIGTERM or SIGINT, and ends the process.

    Args:
        make: Makes what counts and starts; called in the worker.
        secret: The shared secret.
        store: Where the state lies; a local folder is locked.
        host: Address to listen at.
        port: TCP port.

    Raises:
        StoreError: Another receiver uses the folder.
        SystemExit: Else always: 0 after a signal, not 0 where state or address cannot be used.
    """
    lock = own(store)
    try:
        Server(make, secret, bind=f"{host}:{port}", workers=1, threads=THREADS, worker_exit=_stop).run()
    finally:
        if lock is not None:
            lock.close()


def own(store: Store) -> IO[str] | None:
    """Takes the lock of a local folder, which forks share; the system gives it back when the last of them ends.

    Raises:
        StoreError: Another process has it.
    """
    if not isinstance(store, LocalStore):
        return None
    store.folder.mkdir(parents=True, exist_ok=True)
    lock = open(store.folder / LOCK, "w", encoding="utf-8")
    end = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
        except BlockingIOError:
            if time.monotonic() > end:
                lock.close()
                raise StoreError(f"another receiver counts in {store.folder}: stop it, or take another one") from None
            time.sleep(0.1)
