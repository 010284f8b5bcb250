"""Anything at all is sent to the real server with the real reader: each answer is one that the document has.

`FUZZ=20` sends twenty times as much; `python -m pipeline fuzz` sends pictures to any predictor.
"""

import contextlib
import os
import re
import socket
import sys
import time
from urllib.parse import urlsplit

import pytest
import schemathesis
from conftest import ROOT, Answer
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (content_type_conformance, response_headers_conformance,
                                               response_schema_conformance, status_code_conformance, unsupported_method)

from handwriting.image import ImageConfig, read_line
from handwriting.openapi import document
from handwriting.predictor import MAX_BYTES
from pipeline import fuzz
from pipeline.fuzz_inputs import make_input, pictures
from pipeline.predictor_client import RESIDENT
from pipeline.ports import free_port
from pipeline.processes import ProcessServer

TIMES = int(os.environ.get("FUZZ", "1"))
SECRET = "a-secret-of-nobody"
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance,
          response_headers_conformance, unsupported_method]
API = schemathesis.openapi.from_dict(document("handwriting", "v1", MAX_BYTES))
schemathesis.openapi.format("binary", st.sampled_from(sorted(pictures().values())) | st.binary(max_size=200))


@pytest.fixture(scope="module")
def server(tiny_bundle, tmp_path_factory):
    """The real server with two workers; its log must show no stack trace at the end."""
    folder, port = tmp_path_factory.mktemp("server"), free_port()
    command = [sys.executable, "-m", "handwriting.serving", "--model", str(tiny_bundle), "--workers", "2", "--release",
               "v1", "--host", "127.0.0.1", "--port", str(port), "--data-uri", str(folder / "data"), "--spool",
               str(folder / "spool")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "ops" / "shared"), "TMPDIR": str(folder),
                   "AWS_SECRET_ACCESS_KEY": SECRET}
    log = folder / "server.log"
    with ProcessServer("the predictor", command, f"http://127.0.0.1:{port}/readyz", log, env=environment) as process:
        pid, end = process.process.pid, time.monotonic() + 30
        while len(before := fuzz.workers(pid)) < 2 and time.monotonic() < end:  # the second starts some time later
            time.sleep(0.05)
        yield process
        assert fuzz.workers(pid) == before and len(before) == 2
    assert not re.search(f"Traceback|internal error|{SECRET}", log.read_text("utf-8", "replace"))


def url_of(server: ProcessServer) -> str:
    return server.probe.removesuffix("/readyz")


@API.parametrize()
@settings(max_examples=25 * TIMES, derandomize=True, deadline=None, database=None,
          suppress_health_check=list(HealthCheck))
def test_every_route_answers_what_the_document_says(server, case):
    case.call_and_validate(base_url=url_of(server), checks=CHECKS, timeout=60)


def test_damaged_and_hostile_pictures_are_read_or_refused_by_the_same_workers_in_the_same_memory(server, tmp_path):
    with fuzz.Target(url_of(server), secrets=[SECRET, str(ROOT)]) as target:
        report = fuzz.fuzz(target, 300 * TIMES, failures=tmp_path, pid=server.process.pid)
    assert report.faults == [] and not list(tmp_path.iterdir()), fuzz.table(report)
    assert report.workers[0] == report.workers[1] != []
    assert report.resident[1] < 1.5 * report.resident[0], fuzz.table(report)
    assert {200, 400, 413, 415} == {outcome.status for outcome in report.outcomes}


def talk(server: ProcessServer, request: bytes) -> bytes:
    """Sends bytes as they are; returns all that the server answers."""
    place = urlsplit(server.probe)
    with socket.create_connection((place.hostname, place.port), timeout=30) as connection:
        answer = b""
        with contextlib.suppress(OSError):  # it may refuse before it has all
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):
            while received := connection.recv(65536):
                answer += received
    return answer


def post(body: bytes = b"", content_type: str = "multipart/form-data; boundary=x", path: str = "/predict",
         length: object = None, **headers: str) -> bytes:
    """Writes a request; `length` is what it says its body has."""
    lines = [f"POST {path} HTTP/1.1", "Host: x", "Connection: close", f"Content-Type: {content_type}",
             *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
    if "Transfer_Encoding" not in headers:
        lines.append(f"Content-Length: {len(body) if length is None else length}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def part(name: str = "file", content: bytes = b"", more: str = '; filename="a.png"', line: str = "") -> bytes:
    return f'--x\r\nContent-Disposition: form-data; name="{name}"{more}\r\n{line}\r\n'.encode() + content + b"\r\n"


def chunked(body: bytes, size: int = 1000) -> bytes:
    pieces = [body[start:start + size] for start in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


LINE = pictures()["png16"]
GOOD = part(content=LINE) + b"--x--\r\n"
TOO_MUCH = MAX_BYTES + 1


ODD: dict[str, tuple[bytes, int]] = {
    "as it should be": (post(GOOD), 200),
    "no boundary": (post(GOOD, "multipart/form-data"), 400),
    "another boundary": (post(GOOD, "multipart/form-data; boundary=y"), 400),
    "a boundary without end": (post(GOOD, f"multipart/form-data; boundary={'x' * 5000}"), 400),
    "a boundary of odd characters": (post(GOOD, 'multipart/form-data; boundary="\xff\x01; x"'), 400),
    "no last line": (post(part(content=LINE)), 400),
    "cut in the headers of a part": (post(b"--x\r\nContent-Disposition: form-da"), 400),
    "a part within a part": (post(part(content=GOOD, line="Content-Type: multipart/mixed; boundary=x\r\n")),
                             400),
    "thousands of parts": (post(part("a", b"b", "") * 5000 + GOOD), 413),
    "thousands of files": (post(part(content=LINE) * 900 + GOOD), 400),
    "a part with endless headers": (post(part(line=f"X: {'y' * 10**6}\r\n") + GOOD), 413),
    "a part with thousands of headers": (post(part(content=LINE, line="X: y\r\n" * 20_000) + b"--x--\r\n"), 200),
    "a part without a name": (post(b"--x\r\n\r\nabc\r\n--x--\r\n"), 400),
    "a field of a megabyte": (post(part("text", b"a" * 2**20, "") + GOOD), 413),
    "a name that is a path": (post(part(content=LINE, more='; filename="../../etc/passwd\\0"') + b"--x--\r\n"), 200),
    "a picture in base64": (post(part(content=b"QUJD", line="Content-Transfer-Encoding: base64\r\n") + b"--x--"),
                            415),
    "a form of the other kind": (post(b"file=a", "application/x-www-form-urlencoded"), 400),
    "packed": (post(GOOD, Content_Encoding="gzip"), 200),
    "too large": (post(length=TOO_MUCH), 413),
    "too large, and it asks first": (post(length=TOO_MUCH, Expect="100-continue"), 413),
    "it asks first": (post(GOOD, Expect="100-continue"), 200),
    "another expectation": (post(GOOD, Expect="200-ok"), 417),
    "longer than it says": (post(GOOD, length=len(GOOD) - 20), 400),
    "shorter than it says": (post(GOOD, length=len(GOOD) + 20), 408),
    "of negative length": (post(GOOD, length=-1), 400),
    "of a length that is no number": (post(GOOD, length="1e3"), 400),
    "of two lengths": (post(GOOD, Content_Length="3"), 400),
    "in pieces": (post(chunked(GOOD), Transfer_Encoding="chunked"), 200),
    "in pieces of one byte": (post(chunked(GOOD, 1), Transfer_Encoding="chunked"), 200),
    "in pieces without end": (post(chunked(GOOD)[:-5], Transfer_Encoding="chunked"), 408),
    "in pieces of odd sizes": (post(b"zz\r\n" + GOOD, Transfer_Encoding="chunked"), 400),
    "in a piece of endless size": (post(b"f" * 50 + b"\r\n" + GOOD, Transfer_Encoding="chunked"), 408),
    "in pieces, and of a length": (post(chunked(GOOD), Transfer_Encoding="chunked\r\nContent-Length: 5"), 400),
    "in a coding of its own": (post(GOOD, Transfer_Encoding="shrunk"), 501),
    "json without end": (post(b'{"a":' * 10**6, path="/v2/models/handwriting/infer"), 400),
    "lists without end": (post(b"[" * 10**6, "application/json", "/setup"), 400),
    "a number without end": (post(b"9" * 10**6, path="/v1/models/handwriting:predict"), 400),
    "a million instances": (post(b'{"instances":[' + b"1," * 10**6 + b"1]}", path="/v1/models/handwriting:predict"),
                            413),
    "a name twice": (post(b'{"instances":1,"instances":[]}', path="/v1/models/handwriting:predict"), 200),
    "json in another code": (post('{"instances":[]}'.encode("utf-16"), path="/v1/models/handwriting:predict"),
                             200),
    "no json but a number": (post(b'{"inputs":[NaN]}', path="/v2/models/handwriting/infer"), 422),
    "headers without end": (post(GOOD, X="y" * 10_000), 431),
    "thousands of headers": (post(GOOD, X="y\r\nX: y" * 200), 431),
    "a header of odd bytes": (post(GOOD, X="\x00\xff"), 400),
    "a path without end": (post(path="/" + "a" * 10_000), 414),
    "a path of odd bytes": (post(path="/%00%ff/..%2f..%2fetc/passwd"), 404),
    "a path with empty names": (b"GET /v2//models HTTP/1.1\r\nHost: evil\r\nConnection: close\r\n\r\n", 404),
    "another address": (b"GET http://evil/v2 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 200),
    "no host": (b"GET /v2 HTTP/1.1\r\nConnection: close\r\n\r\n", 200),
    "a host of odd characters": (b"GET /v2 HTTP/1.1\r\nHost: <script>@/\r\nConnection: close\r\n\r\n", 200),
    "a method of its own": (b"HACK /predict HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 405),
    "a version of its own": (b"GET / HTTP/9.9\r\nHost: x\r\n\r\n", 400),
    "the newer protocol": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "a handshake": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(300) + b"\r\n\r\n", 400),
    "nonsense": (bytes(range(256)) * 100 + b"\r\n\r\n", 400),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_requests_are_refused_and_the_next_is_read(server, name):
    request, status = ODD[name]
    for answer, expected in ((talk(server, request), status), (talk(server, post(GOOD)), 200)):
        told = {int(found) for found in re.findall(rb"^HTTP/1.1 (\d+)", answer, re.MULTILINE)} - {100}
        assert told == {expected}, answer
        assert not fuzz.FORBIDDEN.search(answer.partition(b"\r\n\r\n")[2].decode("latin-1"))


FAULTS = {
    "a bug": Answer(500, {"error": "internal error", "message": "see the log"}),
    "a status without a line in the document": Answer(418, {"error": "teapot", "message": "short"}),
    "another form": Answer(400, {"error": "empty"}), "no json": Answer(400, "<html>"),
    "a path": Answer(415, {"error": "truncated", "message": "cannot read /home/me/models/line.png"}),
    "an address": Answer(415, {"error": "truncated", "message": "<BytesIO object at 0x7f5b1c0>"}),
    "a stack trace": Answer(415, {"error": "truncated", "message": "Traceback (most recent call last)"}),
    "a secret": Answer(200, SECRET), "nothing": Answer(200, "", {"Content-Length": "5"})}


@pytest.mark.parametrize("name", FAULTS)
def test_an_answer_that_must_not_be_is_told_and_its_input_kept(fake_server, tmp_path, name):
    fake_server.answers["GET /openapi.json"] = [Answer(body=API.raw_schema)]
    fake_server.answers["GET /metrics"] = [Answer(body=f"{RESIDENT} 1048576.0\n")]
    for path in ("/predict", "/v1/models/handwriting:predict", "/v2/models/handwriting/infer"):
        fake_server.answers[f"POST {path}"] = [FAULTS[name]]
    (tmp_path / "line").write_bytes(b"x")
    with fuzz.Target(fake_server.url, {"Authorization": "Bearer x"}, [SECRET]) as target:
        report = fuzz.again(target, [tmp_path / "line"])
        outcome = fuzz.send_and_keep(target, make_input(0, 7), "/predict", tmp_path / "kept" / "0-7")
    assert len(report.faults) == report.summary()["failed"] == 3 and fuzz.table(report).count("WRONG") == 3
    assert outcome.fault and (tmp_path / "kept" / "0-7").read_bytes() == make_input(0, 7).data
    assert fake_server.requests[-1][1]["Authorization"] == "Bearer x"


def test_the_same_seed_makes_the_same_inputs_and_another_seed_others():
    made = [make_input(0, number) for number in range(200)]
    assert made == [make_input(0, number) for number in range(200)]
    assert made != [make_input(1, number) for number in range(200)]
    assert {name.partition(" ")[0] for name, _ in made} > {"png", "jpeg", "webp", "gif", "bmp", "avif", "jp2"}


def test_each_kind_of_picture_can_be_read_as_long_as_nobody_damages_it():
    assert {read_line(data, ImageConfig()).shape[0] for data in pictures().values()} == {64}
