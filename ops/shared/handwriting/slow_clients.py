"""Ends requests that do not arrive: each holds a thread meanwhile, and a few slow clients would keep out all others.

Only the receiving half of a connection is closed. A request that is whole already does not notice.
"""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from gunicorn.workers.gthread import TConn, ThreadWorker

PATIENCE = 30.0  # seconds that a request may take to arrive: 10 MiB at 3 Mbit/s
HASTE = 2.0  # seconds, while nearly all threads are taken
FREE = 8  # threads, below which that is so
LOOK_EVERY = 0.5  # seconds


class Arrivals:
    """The connections whose requests are being received or answered.

    Args:
        threads: There are for them.
    """

    def __init__(self, threads: int):
        self.threads = threads
        self._since: dict[socket.socket, float] = {}

    @contextmanager
    def watch(self, connection: socket.socket) -> Iterator[None]:
        """Counts one from now on."""
        self._since[connection] = time.monotonic()
        try:
            yield
        finally:
            del self._since[connection]

    def end_slow(self) -> None:
        """Ends what takes too long to arrive."""
        since = list(self._since.items())
        patience = HASTE if self.threads - len(since) < FREE else PATIENCE
        for connection, began in since:
            if time.monotonic() - began > patience:
                with suppress(OSError):  # closed meanwhile
                    connection.shutdown(socket.SHUT_RD)

    def keep_looking(self) -> None:
        """Ends what is slow, again and again."""
        while True:
            time.sleep(LOOK_EVERY)
            self.end_slow()


class Worker(ThreadWorker):
    """gunicorn's worker with threads, and a look at the clients."""

    def init_process(self) -> None:
        """Starts looking, and serves."""
        self.arrivals = Arrivals(self.cfg.threads)
        threading.Thread(target=self.arrivals.keep_looking, name="slow-clients", daemon=True).start()
        super().init_process()

    def handle(self, conn: TConn) -> Any:
        """Receives and answers one request, in a thread."""
        with self.arrivals.watch(conn.sock):
            return super().handle(conn)
