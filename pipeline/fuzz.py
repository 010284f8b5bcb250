"""Sends damaged and hostile pictures to a predictor, and holds its answers against its OpenAPI document.

Whatever arrives must get a reading or a documented refusal in the one form, without a path or a stack trace in it, from
the same processes, and memory must stay. An input follows from seed and number alone, so each can be made again.
"""

import base64
import http.client
import json
import random
import re
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from threading import local
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

from handwriting.errors import HandwritingError
from handwriting.layout import KEEP_HEADER
from pipeline.fuzz_inputs import Input, hostile, make_input, pictures
from pipeline.predictor_client import multipart, resident

SECONDS = 60.0  # for an answer
WARM_UP = 200  # inputs after which memory is measured first: threads and codecs have what they keep
FORBIDDEN = re.compile(r"Traceback|\bat 0x[0-9a-f]+|(?<![\w.:/])/(?:[\w.-]+/)+[\w.-]+")  # addresses and paths


class Outcome(NamedTuple):
    """What came of it: 0 without an answer; `reason` is that of a refusal, `fault` what must not be, or empty."""

    name: str
    status: int
    reason: str
    seconds: float
    fault: str


class Target:
    """A predictor: its routes for pictures, and the statuses that its document has for each. A context manager.

    Args:
        url: Its address.
        headers: Of every request, such as that with the token.
        secrets: What no answer may hold.

    Raises:
        HandwritingError: It does not answer.
    """

    def __init__(self, url: str, headers: dict[str, str] | None = None, secrets: Sequence[str] = ()):
        self.place = urlsplit(url).netloc
        self.headers, self.secrets = {KEEP_HEADER: "no", **(headers or {})}, secrets
        self._kept, self._connections = local(), list[http.client.HTTPConnection]()
        _, _, text = self.ask("GET", "/openapi.json")
        api = json.loads(text)
        name = api["components"]["parameters"]["name"]["schema"]["enum"][0]
        self.routes = {path.replace("{name}", name): {int(status) for status in api["paths"][path]["post"]["responses"]}
                       for path in ("/predict", "/v1/models/{name}:predict", "/v2/models/{name}/infer")}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *fault: object) -> None:
        for connection in self._connections:
            connection.close()

    def ask(self, method: str, path: str, body: bytes | None = None,
            headers: dict[str, str] | None = None) -> tuple[int, dict[str, str], str]:
        """Sends one request over this thread's connection; returns status, headers and text.

        Raises:
            HandwritingError: There is no answer.
        """
        if not hasattr(self._kept, "connection"):
            self._kept.connection = http.client.HTTPConnection(self.place, timeout=SECONDS)
            self._connections.append(self._kept.connection)
        connection = self._kept.connection
        try:
            connection.request(method, path, body, {**self.headers, **(headers or {})})
            answer = connection.getresponse()
            found = answer.status, dict(answer.getheaders()), answer.read().decode()
        except (OSError, http.client.HTTPException, UnicodeDecodeError) as error:
            connection.close()
            raise HandwritingError(f"no answer from {self.place}: {type(error).__name__} {error}") from error
        if method == "GET":  # the next may be late, and the server waits some seconds only
            connection.close()
        return found

    def send(self, given: Input, path: str) -> Outcome:
        """Sends one input and judges the answer."""
        began = time.monotonic()
        try:
            status, headers, text = self.ask("POST", path, *_request(given.data, path))
        except HandwritingError as error:
            return Outcome(given.name, 0, "no answer", time.monotonic() - began, str(error))
        reason = "" if status == 200 else _reason(text)
        fault = self._fault(status, reason, path, f"{headers} {text}")
        return Outcome(given.name, status, reason, time.monotonic() - began, fault)

    def _fault(self, status: int, reason: str, path: str, shown: str) -> str:
        if status >= 500 or status not in self.routes[path]:
            return f"status {status}: {shown}"
        if status != 200 and not reason:
            return f"not the form of a refusal: {shown}"
        told = FORBIDDEN.search(shown) or next((secret for secret in self.secrets if secret in shown), None)
        return f"tells what it should not: {shown}" if told else ""

    def resident(self) -> float:
        """Returns the resident memory of all its processes in MB."""
        return resident(self.ask("GET", "/metrics")[2])


def _request(data: bytes, path: str) -> tuple[bytes, dict[str, str]]:
    """Returns body and headers."""
    if path == "/predict":
        return multipart(data)
    encoded = base64.b64encode(data).decode()
    body = {"instances": [{"b64": encoded}]} if path.startswith("/v1") else {
        "inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": [encoded]}]}
    return json.dumps(body).encode(), {"Content-Type": "application/json"}


def _reason(text: str) -> str:
    """Returns the reason of a refusal in the one form, else nothing."""
    try:
        body = json.loads(text)
        return body["error"] if set(body) == {"error", "message"} and body["message"] else ""
    except (ValueError, TypeError, KeyError):
        return ""


class Report(NamedTuple):
    """What all inputs together gave; `workers` are the process ids before and after, where they are known."""

    outcomes: list[Outcome]
    workers: tuple[list[int], list[int]]
    resident: tuple[float, float]
    seconds: float

    @property
    def faults(self) -> list[Outcome]:
        """What must not be."""
        return [outcome for outcome in self.outcomes if outcome.fault]

    def summary(self) -> dict[str, Any]:
        """Returns the report as JSON; `failed` where anything was not as it must be."""
        return {"counts": {f"{status} {reason}".strip(): count for (status, reason), count in _counts(self.outcomes)},
                "faults": len(self.faults), "workers_before": self.workers[0], "workers_after": self.workers[1],
                "resident_mb": [round(size) for size in self.resident], "seconds": round(self.seconds),
                "slowest_seconds": round(max(outcome.seconds for outcome in self.outcomes), 2),
                "failed": len(self.faults) + (self.workers[0] != self.workers[1])}


def _counts(outcomes: Iterable[Outcome]) -> list[tuple[tuple[int, str], int]]:
    return sorted(Counter((outcome.status, outcome.reason) for outcome in outcomes).items())


def fuzz(target: Target, count: int, seed: int = 0, clients: int = 2, failures: Path | None = None,
         pid: int | None = None) -> Report:
    """Sends many inputs, after a warm-up that has each hostile one.

    Args:
        target: Where.
        count: Inputs, without those of the warm-up.
        seed: Decides which.
        clients: That send at the same time.
        failures: Folder for inputs whose answer was wrong; made where there are any.
        pid: Of the server's first process, where it runs on this machine (Linux), for the ids of its workers.
    """
    paths = list(target.routes)

    def one(number: int, given: Input) -> Outcome:
        path = random.Random(f"{seed}/{number}/path").choice(paths)
        return send_and_keep(target, given, path, failures and failures / f"{seed}-{number}")

    with ThreadPoolExecutor(clients) as pool:
        warm = [*hostile().items(), *islice(pictures().items(), WARM_UP)]
        outcomes = list(pool.map(one, range(-len(warm), 0), (Input(*item) for item in warm)))
        before, resident, began = workers(pid), target.resident(), time.monotonic()
        outcomes += pool.map(lambda number: one(number, make_input(seed, number)), range(count))
    return Report(outcomes, (before, workers(pid)), (resident, target.resident()), time.monotonic() - began)


def send_and_keep(target: Target, given: Input, path: str, file: Path | None) -> Outcome:
    """Sends one input, and writes it to a file where the answer was wrong."""
    outcome = target.send(given, path)
    if outcome.fault and file:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(given.data)
    return outcome


def again(target: Target, files: Iterable[Path]) -> Report:
    """Sends files to every route."""
    before, began = target.resident(), time.monotonic()
    outcomes = [target.send(Input(str(file), file.read_bytes()), path) for file in files for path in target.routes]
    return Report(outcomes, ([], []), (before, target.resident()), time.monotonic() - began)


def workers(pid: int | None) -> list[int]:
    """Returns the ids of a process's children, sorted."""
    if pid is None:
        return []
    return sorted(int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text("utf-8").split())


def table(report: Report) -> str:
    """Returns a report as a Markdown table, and what was wrong."""
    rows = [f"| {status} | {reason} | {count} |" for (status, reason), count in _counts(report.outcomes)]
    slowest = max(report.outcomes, key=lambda outcome: outcome.seconds)
    before, after = report.workers
    return "\n".join([
        "| status | reason | inputs |", "|---|---|---|", *rows, "",
        f"{len(report.outcomes)} inputs in {report.seconds:.0f} s; workers {before} before, {after} after; resident "
        f"{report.resident[0]:.0f} MB before, {report.resident[1]:.0f} MB after; slowest answer "
        f"{slowest.seconds:.1f} s ({slowest.name}, {slowest.status} {slowest.reason})",
        *(f"WRONG: {outcome.name}: {outcome.fault[:500]}" for outcome in report.faults[:20])])
