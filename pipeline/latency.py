"""Puts a server far away: a proxy on loopback that every byte takes a while to cross.

Transfers are compared through it, since a bucket on the same machine answers in a millisecond and no real one does.
"""

import asyncio
import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from urllib.parse import urlsplit

CHUNK = 1 << 16  # bytes


@contextmanager
def far_away(url: str, seconds: float) -> Iterator[str]:
    """Runs a proxy in a process of its own, so that it takes no turns of this interpreter.

    Args:
        url: `http://host:port` of the server.
        seconds: What each request takes more until its answer, however long the stream is.

    Yields:
        The URL of the proxy.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(urlsplit(url).hostname, urlsplit(url).port, seconds, theirs),
                              daemon=True)
    process.start()
    try:
        theirs.close()  # so that a proxy that fails to start ends the wait
        yield f"http://127.0.0.1:{ours.recv()}"
    finally:
        process.terminate()
        process.join()


def _serve(host: str, port: int, seconds: float, ready: Connection) -> None:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream_writer = await asyncio.open_connection(host, port)
        await asyncio.gather(_pump(reader, upstream_writer, seconds), _pump(upstream_reader, writer, 0.0))

    async def main() -> None:
        server = await asyncio.start_server(connected, "127.0.0.1", 0)
        ready.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(main())


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seconds: float) -> None:
    """Passes a stream on, each chunk so long after it came; more can come in the meantime, as on a long wire."""
    now = asyncio.get_running_loop().time
    wire: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    async def leave() -> None:
        while True:
            due, chunk = await wire.get()
            await asyncio.sleep(due - now())
            if not chunk:
                return
            writer.write(chunk)
            await writer.drain()

    leaving = asyncio.create_task(leave())
    try:
        while chunk := await reader.read(CHUNK):
            wire.put_nowait((now() + seconds, chunk))
        wire.put_nowait((now() + seconds, b""))
        await leaving
    except ConnectionError:  # either side may hang up
        leaving.cancel()
    finally:
        writer.close()
