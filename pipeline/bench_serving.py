"""Compares how a bundle is served with the tutorial's way, and with ONNX Runtime alone, under load on one machine.

Servers and clients share the machine, one server at a time. A client sends its next line when it has the answer to the
one before (a closed loop), over a connection that stays open.
"""

import http.client
import itertools
import logging
import os
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from handwriting import access
from handwriting.cores import cores
from pipeline.predictor_client import multipart, resident
from pipeline.ports import free_port
from pipeline.processes import ProcessServer

log = logging.getLogger(__name__)

CLIENTS = (1, 4, 16, 64, 4)  # four again: right after the crowd all must be as before
PICTURES = 200  # lines that are sent again and again
PAUSE = 0.25  # seconds after which a client that was refused asks again: with 64 of them about twice what is possible
ENDURING = 4  # clients of the long test
LOOKS = 10  # at the memory, in the long test
ROOT = Path(__file__).resolve().parent.parent


class Load(NamedTuple):
    """What clients saw: readings a second, milliseconds of half and of 99 % of them, and how many were refused."""

    clients: int
    per_second: float
    p50: float
    p99: float
    refused: int


def bench_serving(model: str, data: Path, seconds: float, language_model: bool = False,
                  clients: Sequence[int] = CLIENTS, requests: int = 0) -> dict[str, Any]:
    """Measures each way of serving with growing numbers of clients.

    Args:
        model: The bundle, a local folder.
        data: Folder in the bucket's layout; its test lines are sent.
        seconds: Of each measurement.
        language_model: Read with the bundle's language model.
        clients: How many at a time.
        requests: To send after that, with a look at the server's memory after each tenth; 0 sends none.

    Returns:
        Rows of each server, readings a second of ONNX Runtime alone (`bare`: a process a core, one
        thread each; `session`: one session with a thread a core), the seconds that our server takes to be ready, and
        the MB of one of its workers by requests answered.

    Raises:
        HandwritingError: A server does not start.
    """
    pictures = [path.read_bytes() for path in sorted((data / "test" / "images").iterdir())[:PICTURES]]
    workers = cores()
    ours = ["handwriting.serving", "--model", model, "--workers", str(workers),
            *(["--language-model"] if language_model else [])]
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        with _server("reference", ["pipeline.reference_server"], Path(scratch)) as server:
            reference = _loads(server, pictures, seconds, clients)
        began = time.monotonic()
        with _server("ours", ours, Path(scratch)) as server:
            ready = time.monotonic() - began
            rows = {"reference": reference, "ours": _loads(server, pictures, seconds, clients)}
            memory = _endure(server, pictures, requests)
    log.info("measuring: ONNX Runtime alone")
    return {"rows": {name: [load._asdict() for load in loads] for name, loads in rows.items()},
            "bare": round(sum(_bare(model, pictures, workers, 1, seconds)), 1),
            "session": round(sum(_bare(model, pictures, 1, workers, seconds)), 1),
            "workers": workers, "ready": round(ready, 1),
            "memory": {count: round(size / workers) for count, size in memory.items()}}


def table(result: dict[str, Any]) -> str:
    """Returns a result as Markdown tables."""
    names = {"reference": "the tutorial's: Flask's own server, one thread, PyTorch",
             "ours": f"ours, {result['workers']} workers"}
    rows = [f"| {names[name]} | {load['clients']} | {load['per_second']:.1f} | {load['p50']:.0f} | {load['p99']:.0f} | "
            f"{load['refused']} |" for name, loads in result["rows"].items() for load in loads]
    most = {name: max(load["per_second"] for load in loads) for name, loads in result["rows"].items()}
    memory = [f"| {count:,} | {size} |" for count, size in result["memory"].items()]
    return "\n".join(["| server | clients | readings/s | p50, ms | p99, ms | refused |", "|---|---|---|---|---|---|",
                      *rows, f"| ONNX Runtime alone, {result['workers']} processes | | {result['bare']:.1f} | | | |",
                      f"| ONNX Runtime alone, one session in a loop | | {result['session']:.1f} | | | |",
                      f"\n{most['ours'] / most['reference']:.1f} times the tutorial's readings a second; "
                      f"{most['ours'] / result['bare']:.0%} of ONNX Runtime's own in {result['workers']} processes, "
                      f"{most['ours'] / result['session']:.0%} in one. Ready after {result['ready']} s.",
                      "\n| requests since | MB a worker |", "|---|---|", *memory])


def _loads(server: ProcessServer, pictures: Sequence[bytes], seconds: float, clients: Sequence[int]) -> list[Load]:
    loads = []
    for count in clients:
        log.info("measuring: %s, %d clients", server.name, count)
        loads.append(_alone(send, _port(server), pictures, count, seconds))
    return loads


def _endure(server: ProcessServer, pictures: Sequence[bytes], requests: int) -> dict[int, float]:
    """Returns the MB of all workers by the requests sent to them in the meantime, 0 first."""
    sizes = {0: _resident(server)}
    part = requests // LOOKS
    for sent in range(part, requests + 1, max(1, part)):
        _alone(send, _port(server), pictures, ENDURING, float("inf"), part)
        sizes[sent] = _resident(server)
        log.info("%s: %.0f MB after %d requests", server.name, sizes[sent], sent)
    return sizes


def _resident(server: ProcessServer) -> float:
    """Returns the MB in memory of all workers together, as their metrics tell."""
    with urllib.request.urlopen(f"http://127.0.0.1:{_port(server)}/metrics") as answer:
        return resident(answer.read().decode())


def _port(server: ProcessServer) -> int:
    return int(server.probe.rsplit(":", 1)[1].partition("/")[0])


def _server(name: str, arguments: list[str], folder: Path) -> AbstractContextManager[ProcessServer]:
    port = free_port()
    path = os.pathsep.join([str(ROOT), str(ROOT / "ops" / "shared")])
    return ProcessServer(name, [sys.executable, "-m", *arguments, "--port", str(port)],
                         f"http://127.0.0.1:{port}/healthz", folder / f"{name}.log",
                         env={**os.environ, "PYTHONPATH": path, "DATA_URI": ""})


def _alone(function: Any, *arguments: Any) -> Any:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def send(port: int, pictures: Sequence[bytes], clients: int, seconds: float, requests: float = float("inf")) -> Load:
    """Sends pictures from many clients for a while, or until so many requests were sent."""
    bodies = [multipart(picture) for picture in pictures]
    times: list[float] = []
    refused: list[int] = []
    end, turns = time.monotonic() + seconds, itertools.count()

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        while (began := time.monotonic()) < end and (turn := next(turns)) < requests:
            body, headers = bodies[turn % len(bodies)]
            connection.request("POST", "/predict", body, {**headers, **access.headers()})
            answer = connection.getresponse()
            answer.read()
            if answer.status == 200:
                times.append(1000 * (time.monotonic() - began))
            else:
                refused.append(answer.status)
                time.sleep(PAUSE)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    p50, p99 = np.percentile(times, [50, 99]) if times else (float("nan"),) * 2
    return Load(clients, len(times) / (time.monotonic() - began), float(p50), float(p99), len(refused))


def _bare(model: str, pictures: Sequence[bytes], processes: int, threads: int, seconds: float) -> list[float]:
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        return list(pool.map(run_session, *([value] * processes for value in (model, pictures, threads, seconds))))


def run_session(model: str, pictures: Sequence[bytes], threads: int, seconds: float) -> float:
    """Runs the network alone on lines that are ready; returns lines a second."""
    from handwriting.image import read_line
    from handwriting.reader import Reader, network_input

    reader = Reader.load(Path(model), threads=threads)
    inputs = [network_input(read_line(picture, reader.config.image)) for picture in pictures]
    count, began = 0, time.monotonic()
    while time.monotonic() - began < seconds:
        reader.session.run(None, inputs[count % len(inputs)])
        count += 1
    return count / (time.monotonic() - began)
