"""Runs the predictor under gunicorn: `python -m handwriting.serving --model FOLDER --port 8080`.

The model and the threads that keep users' pictures are made in each worker, after its fork.
"""

import argparse
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from flask import Flask
from gunicorn.app.base import BaseApplication
from gunicorn.errors import AppImportError

from handwriting.admission import Gate
from handwriting.allocation import return_freed_memory
from handwriting.cores import cores
from handwriting.errors import ConfigError, HandwritingError
from handwriting.layout import (KEEP_SHARE_VARIABLE, LANGUAGE_MODEL_VARIABLE, METRICS_FOLDER, MODEL_NAME,
                                SPOOL_VARIABLE, VERSION_VARIABLE)
from handwriting.slow_clients import Worker
from handwriting.user_data import KeepConfig, UserPictures

THREADS = 64  # cheap ones: most of them wait, and some must be free to refuse and to answer probes
GRACE = 30  # seconds from SIGTERM to the end of a worker: running requests first, then waiting pictures
DRAIN = 10.0  # seconds of these for the pictures: what is in a pod's spool then is gone with the pod


class Application(BaseApplication):
    """gunicorn around an application that a subclass makes in `load`, in each worker: threads survive no fork.

    Args:
        settings: gunicorn's own, beside those that all servers here have.
    """

    def __init__(self, **settings: Any):
        self.settings = {
            "worker_class": Worker, "graceful_timeout": GRACE, "preload_app": False, "accesslog": None,
            "control_socket_disable": True,  # it would be written to the home folder, and nobody uses it
            "timeout": 0,  # a slow download of the model is no hung worker; in a cluster the liveness probe watches
            **settings}
        super().__init__()

    def load_config(self) -> None:
        for name, value in self.settings.items():
            self.cfg.set(name, value)


class Server(Application):
    """One model."""

    def __init__(self, model: str, data_uri: str, name: str, language_model: bool, release: str,
                 keep: KeepConfig, **settings: Any):
        self.model, self.data_uri, self.name = model, data_uri, name
        self.language_model, self.release, self.keep = language_model, release, keep
        self.pictures: UserPictures | None = None
        super().__init__(**settings)

    def load(self) -> Flask:
        """Makes the application in a worker.

        Raises:
            AppImportError: The model or the bucket cannot be used: gunicorn prints this one line and ends with status
                4, where any other error would be followed by a stack trace.
        """
        from handwriting.monitoring import log_to_stderr  # here: its library looks for METRICS_FOLDER at its import
        from handwriting.predictor import create_app
        from handwriting.reader import Reader  # here: only workers load ONNX Runtime, which does not survive a fork

        return_freed_memory()
        try:
            # One thread a reading: ONNX Runtime would take one for each core of the machine, whatever share the pod
            # may use, and requests run beside each other anyway.
            reader = Reader.fetch(self.model, threads=1, language_model=self.language_model)
            if self.data_uri:
                self.pictures = UserPictures(self.data_uri, self.keep)
        except HandwritingError as error:
            raise AppImportError(f"cannot serve {self.model}: {error}") from error
        log_to_stderr()
        return create_app(reader, self.pictures, name=self.name, release=self.release, data_uri=self.data_uri,
                          gate=Gate.of(max(1, cores() // self.settings["workers"])))


def _drain(arbiter: Any, worker: Any) -> None:
    """gunicorn's hook at the end of a worker: writes the pictures that wait."""
    if worker.app.pictures is not None:
        worker.app.pictures.close(DRAIN)


def _forget(arbiter: Any, worker: Any) -> None:
    """gunicorn's hook in the parent when a worker has ended: its requests in progress and waiting pictures are gone."""
    if METRICS_FOLDER in os.environ:
        from prometheus_client.multiprocess import mark_process_dead

        mark_process_dead(worker.pid)


def serve(model: str, host: str = "0.0.0.0", port: int = 8080, data_uri: str = "", workers: int = 1,
          threads: int = THREADS, name: str = MODEL_NAME, language_model: bool = False, release: str = "",
          keep: KeepConfig = KeepConfig()) -> None:
    """Serves one model until SIGTERM or SIGINT, and ends the process.

    Args:
        model: Bundle folder or `s3://` URI.
        host: Address to listen at.
        port: TCP port.
        data_uri: Where users' pictures are kept; empty keeps nothing.
        workers: Processes, each with its own model in memory.
        threads: Connections a process holds open; how many of their requests are read at a time the gate decides.
        name: The model's name in KServe's protocols.
        language_model: Read by beam search with the bundle's language model.
        release: What answers give as the version; empty for that of the bundle.
        keep: Which pictures are kept, and how many may wait.

    Raises:
        SystemExit: Always: 0 after a signal, not 0 when the model or the address cannot be used.
    """
    with _metrics_of(workers):
        Server(model, data_uri, name, language_model, release, keep.of_each(workers), bind=f"{host}:{port}",
               workers=workers, threads=threads, worker_exit=_drain, child_exit=_forget).run()


@contextmanager
def _metrics_of(workers: int) -> Iterator[None]:
    """Sets what the metrics' library asks for at its import, and gives several workers a folder to share."""
    os.environ.setdefault("PROMETHEUS_DISABLE_CREATED_SERIES", "true")  # a third of all series, and nobody reads them
    os.environ.pop(METRICS_FOLDER, None)
    if workers == 1:
        yield
        return
    parent = os.getpid()
    folder = os.environ[METRICS_FOLDER] = tempfile.mkdtemp(prefix="metrics-")
    try:
        yield
    finally:
        if os.getpid() == parent:  # workers are forks of this very line, and leave it when they end
            shutil.rmtree(folder, ignore_errors=True)


def main(arguments: list[str] | None = None) -> None:
    """Reads the command line and serves."""
    parser = argparse.ArgumentParser(prog="python -m handwriting.serving", description="Reads lines over HTTP.")
    parser.add_argument("--model", default=os.environ.get("STORAGE_URI"), help="bundle folder or s3:// URI")
    parser.add_argument("--data-uri", default=os.environ.get("DATA_URI", ""), help="where users' pictures are kept")
    parser.add_argument("--host", default="0.0.0.0")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--threads", type=int, default=THREADS)
    parser.add_argument("--name", default=os.environ.get("MODEL_NAME", MODEL_NAME), help="name in KServe's protocols")
    parser.add_argument("--language-model", action="store_true",
                        default=bool(os.environ.get(LANGUAGE_MODEL_VARIABLE)), help="read with the bundle's")
    parser.add_argument("--release", default=os.environ.get(VERSION_VARIABLE, ""), help="what answers give as version")
    parser.add_argument("--spool", default=os.environ.get(SPOOL_VARIABLE, ""),
                        help="folder on the local disk where users' pictures wait (default: a temporary one)")
    parser.add_argument("--keep-share", type=float, default=os.environ.get(KEEP_SHARE_VARIABLE) or "1",
                        help="share of users' pictures that is kept, 0 to 1")
    options = vars(parser.parse_args(arguments))
    if not options["model"]:
        parser.error("give --model or set STORAGE_URI")
    try:
        keep = KeepConfig(options.pop("spool"), options.pop("keep_share"))
    except ConfigError as error:
        parser.error(str(error))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    serve(**options, keep=keep)


if __name__ == "__main__":
    main()
