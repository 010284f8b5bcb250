"""The server as a process of its own: it answers, it drains, and it ends when it cannot start."""

import asyncio
import base64
import contextlib
import http.client
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

import httpx
import numpy as np
import pytest
from helpers import SERVER
from kserve import InferenceRESTClient, InferInput, InferRequest
from kserve.inference_client import RESTConfig
from PIL import Image

from handwriting.serving import main
from pipeline.predictor_client import multipart
from pipeline.ports import free_port

ROOT = Path(__file__).resolve().parent.parent
READER = SERVER.format(seconds=0.5)  # long enough to stop the server meanwhile


def start(start_with: list[str], port: int, *arguments: str, **variables: str) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "ops" / "shared"), **variables}
    return subprocess.Popen([sys.executable, *start_with, "--host", "127.0.0.1", "--port", str(port), *arguments],
                            env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def ask(port: int, method: str, path: str, body=None, headers=None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def wait_until_ready(port: int, process: subprocess.Popen) -> None:
    for _ in range(200):
        assert process.poll() is None, process.stderr.read()
        try:
            if ask(port, "GET", "/readyz")[0] == 200:
                return
        except OSError:
            time.sleep(0.1)
    raise AssertionError("not ready within 20 s")


def within(seconds: float, holds) -> bool:
    end = time.monotonic() + seconds
    while not (done := holds()) and time.monotonic() < end:
        time.sleep(0.05)
    return done


def picture() -> bytes:
    out = io.BytesIO()
    Image.new("L", (200, 40), 255).save(out, "PNG")
    return out.getvalue()


def metrics(port: int) -> dict[str, float]:
    """The samples of a scrape, by name and labels as they are written."""
    lines = ask(port, "GET", "/metrics")[1].decode().splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}


def drip(port: int, byte_every: float, body: bytes, headers: dict[str, str]) -> socket.socket:
    """Opens a connection and goes on sending a request byte by byte, until it is whole or nobody listens."""
    head = "".join(f"{name}: {value}\r\n" for name, value in {**headers, "Content-Length": len(body)}.items())
    data = f"POST /predict HTTP/1.1\r\nHost: x\r\n{head}\r\n".encode() + body
    connection = socket.create_connection(("127.0.0.1", port), 60)

    def send():
        with contextlib.suppress(OSError):
            for place in range(len(data)):
                connection.send(data[place:place + 1])
                time.sleep(byte_every)

    threading.Thread(target=send, daemon=True).start()
    return connection


class Running(NamedTuple):
    """A server, and where it keeps what users send."""

    port: int
    process: subprocess.Popen
    images: Path


@pytest.fixture
def server(tmp_path):
    port = free_port()
    process = start(["-c", READER], port, "--model", str(tmp_path), "--data-uri", str(tmp_path / "data"),
                    MODEL_NAME="ocr", SPOOL=str(tmp_path / "spool"))
    try:
        wait_until_ready(port, process)
        yield Running(port, process, tmp_path / "data" / "user_data" / "images")
    finally:
        process.kill()
        process.communicate()


def test_it_reads_keeps_the_picture_and_ends_with_0_at_sigterm(server):
    port, process, images = server
    assert ask(port, "POST", "/predict", *multipart(picture())) == (200, "chữ".encode())
    process.send_signal(signal.SIGTERM)
    stderr = process.communicate(timeout=20)[1]
    assert process.returncode == 0, stderr
    assert len(list(images.iterdir())) == 1
    assert "POST /predict" not in stderr  # no access log


def test_sigterm_lets_a_running_request_finish_and_its_picture_land(server):
    port, process, images = server
    answers = []
    request = threading.Thread(target=lambda: answers.append(ask(port, "POST", "/predict", *multipart(picture()))))
    request.start()
    time.sleep(0.2)  # the reader is at it for half a second
    process.send_signal(signal.SIGTERM)
    request.join(20)
    process.communicate(timeout=20)
    assert process.returncode == 0
    assert answers == [(200, "chữ".encode())]
    assert len(list(images.iterdir())) == 1


def test_a_huge_upload_is_answered_413_not_with_a_broken_connection(server):
    port, _, _ = server
    assert ask(port, "POST", "/predict", *multipart(b"x" * (11 * 2**20)))[0] == 413


def test_a_huge_upload_of_unknown_length_is_413(server):
    port, _, _ = server
    body, headers = multipart(b"x" * (11 * 2**20))
    chunks = (body[start:start + 2**16] for start in range(0, len(body), 2**16))
    assert ask(port, "POST", "/predict", chunks, headers)[0] == 413


def test_a_model_that_cannot_be_loaded_ends_the_process_with_one_line(tmp_path):
    process = start(["-m", "handwriting.serving"], free_port(), "--model", str(tmp_path / "nothing"))
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode not in (0, None)
    assert stderr.count(f"cannot serve {tmp_path / 'nothing'}: ") == 1
    assert "Traceback" not in stderr
    assert stderr.count("Booting worker") == 1


def test_user_pictures_that_cannot_be_kept_anywhere_end_the_process(tmp_path):
    process = start(["-c", READER], free_port(), "--model", str(tmp_path), "--data-uri", "ftp://server/data")
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode not in (0, None)
    assert "ftp://server/data" in stderr and "Traceback" not in stderr


def test_a_share_that_is_none_is_told_by_the_command_line(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--model", "m", "--keep-share", "2"])
    assert caught.value.code == 2
    assert "share of users' pictures to keep 2.0: give 0 to 1" in capsys.readouterr().err


def test_a_share_of_nothing_keeps_nothing(tmp_path):
    port = free_port()
    process = start(["-c", READER], port, "--model", str(tmp_path), "--data-uri", str(tmp_path / "data"),
                    SPOOL=str(tmp_path / "spool"), KEEP_SHARE="0")
    try:
        wait_until_ready(port, process)
        assert ask(port, "POST", "/predict", *multipart(picture()))[0] == 200
    finally:
        process.terminate()
        process.communicate(timeout=20)
    assert not (tmp_path / "data").exists() and not list((tmp_path / "spool").glob("*/*/*"))


def test_without_a_model_the_command_line_says_what_to_give(monkeypatch, capsys):
    monkeypatch.delenv("STORAGE_URI", raising=False)
    with pytest.raises(SystemExit) as caught:
        main([])
    assert caught.value.code == 2
    assert "give --model or set STORAGE_URI" in capsys.readouterr().err


def test_stderr_has_one_json_line_a_request_and_probes_are_left_out(server):
    port, process, _ = server
    ask(port, "POST", "/predict", *multipart(picture()))
    ask(port, "GET", "/secret/path")
    process.send_signal(signal.SIGTERM)
    lines = [json.loads(line) for line in process.communicate(timeout=20)[1].splitlines() if line.startswith("{")]
    assert [(line["route"], line["status"]) for line in lines] == [("/predict", 200), ("none", 404)]
    assert lines[0]["version"] == "v1" and lines[0]["ms"] >= 500


def test_one_process_shows_itself_and_no_times_of_creation(server):
    port, _, _ = server
    ask(port, "POST", "/predict", *multipart(picture()))
    found = metrics(port)
    assert found['handwriting_requests_total{route="/predict",status="200"}'] == 1
    assert found["process_resident_memory_bytes"] > 2**20
    assert not [name for name in found if "_created" in name]


def test_several_workers_show_the_same_metrics_and_clean_up(tmp_path):
    port = free_port()
    process = start(["-c", READER], port, "--model", str(tmp_path), "--workers", "2", "--data-uri",
                    str(tmp_path / "data"), TMPDIR=str(tmp_path))
    try:
        wait_until_ready(port, process)
        sent = port, "POST", "/predict", *multipart(picture())
        requests = [threading.Thread(target=ask, args=sent) for _ in range(6)]
        for request in requests:
            request.start()
        for request in requests:
            request.join()
        [folder] = tmp_path.glob("metrics-*")
        workers = {int(path.stem.rpartition("_")[2]) for path in folder.glob("gauge_livesum_*.db")}
        assert len(workers) == 2
        for _ in range(4):  # whichever worker answers
            found = metrics(port)
            assert found['handwriting_requests_total{route="/predict",status="200"}'] == 6
            assert found["handwriting_confidence_count"] == 6
            assert found["handwriting_requests_in_progress"] == 0
            assert found['handwriting_model_info{version="v1"}'] == 1
        os.kill(min(workers), signal.SIGKILL)
        assert within(10, lambda: not list(folder.glob(f"gauge_live*_{min(workers)}.db")))
        wait_until_ready(port, process)
        assert metrics(port)['handwriting_requests_total{route="/predict",status="200"}'] == 6
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
        assert process.returncode == 0 and not folder.exists()
    finally:
        process.kill()
        process.communicate()


def conversation(protocol: str, url: str, *calls):
    """Makes calls of KServe's own client one after the other; each is a method's name and what it takes but the URL."""
    async def talk():
        async with InferenceRESTClient(RESTConfig(protocol=protocol, timeout=20)) as client:
            return [await getattr(client, method)(url, *arguments) for method, *arguments in calls]

    return asyncio.run(talk())


def test_kserves_own_client_reads_over_v1(server):
    url, body = f"http://127.0.0.1:{server.port}", {"instances": [{"b64": base64.b64encode(picture()).decode()}] * 2}
    live, ready, answer = conversation(
        "v1", url, ("is_server_live",), ("is_model_ready", "ocr"), ("infer", body, "ocr"))
    assert live and ready
    assert answer == {"predictions": [
        {"text": "chữ", "confidence": 0.9, "characters": [0.9, 0.9, 0.9], "version": "v1"}] * 2}


def test_kserves_own_client_reads_over_v2(server):
    url, data = f"http://127.0.0.1:{server.port}", [base64.b64encode(picture()).decode()] * 2
    body = InferRequest("ocr", [InferInput("image", [2], "BYTES", data)], request_id="42")
    live, ready, model_ready, answer = conversation(
        "v2", url, ("is_server_live",), ("is_server_ready",), ("is_model_ready", "ocr"), ("infer", body, "ocr"))
    assert live and ready and model_ready
    assert (answer.model_name, answer.id) == ("ocr", "42")  # this client drops the version
    tensors = {output.name: output.as_numpy() for output in answer.outputs}
    assert tensors["text"].tolist() == ["chữ", "chữ"]
    assert tensors["confidence"].dtype == tensors["characters"].dtype == np.float32
    np.testing.assert_allclose(tensors["confidence"], [0.9] * 2)
    np.testing.assert_allclose(tensors["characters"], [[0.9] * 3] * 2)


@pytest.mark.parametrize("protocol", ["v1", "v2"])
def test_kserves_own_client_is_told_what_is_wrong(server, protocol):
    url = f"http://127.0.0.1:{server.port}"
    with pytest.raises(httpx.HTTPStatusError, match="unknown model, '404 NOT FOUND'"):
        conversation(protocol, url, ("infer", {}, "other"))
    with pytest.raises(httpx.HTTPStatusError, match="invalid body, '4"):
        conversation(protocol, url, ("infer", {}, "ocr"))


def test_pictures_as_kserves_client_sends_them_in_binary_are_refused_with_advice(server):
    tensor = InferInput("image", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([picture()], dtype=object))
    with pytest.raises(httpx.HTTPStatusError, match="binary tensors, '415") as caught:
        conversation("v2", f"http://127.0.0.1:{server.port}", ("infer", InferRequest("ocr", [tensor]), "ocr"))
    assert "base64" in caught.value.response.json()["message"]


def test_the_parent_process_loads_neither_the_runtime_nor_the_metrics_library():
    """The one does not survive a fork, the other looks at its import for where the workers share their metrics."""
    code = "import sys, handwriting.serving; print({'onnxruntime', 'prometheus_client', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60,
                          env={**os.environ, "PYTHONPATH": str(ROOT / "ops" / "shared")})
    assert done.stdout.strip() == "set()"


def test_slow_clients_keep_out_nobody_and_are_told(server):
    body, headers = multipart(picture())
    slow = [drip(server.port, 1.0, body, headers) for _ in range(64)]  # as many as there are threads
    began = time.monotonic()
    time.sleep(0.5)  # all of them are in
    assert ask(server.port, "POST", "/predict", body, headers)[0] == 200
    assert time.monotonic() - began < 15
    answers = []
    for connection in slow:
        with connection:
            answers.append(b"".join(iter(lambda: connection.recv(4096), b"")))
    assert not any(b" 200 " in answer or b" 500 " in answer for answer in answers)  # what has no header yet: no answer
    assert ask(server.port, "GET", "/readyz")[0] == 200


def test_a_slow_client_has_time_where_there_is_room(server):
    body, headers = multipart(picture())
    with drip(server.port, 4 / (len(body) + 200), body, headers) as connection:  # twice what it gets in a crowd
        assert connection.recv(4096).startswith(b"HTTP/1.1 200 ")


def test_a_body_that_stops_half_way_is_answered(server):
    body, headers = multipart(picture())
    head = "".join(f"{name}: {value}\r\n" for name, value in {**headers, "Content-Length": len(body)}.items())
    with socket.create_connection(("127.0.0.1", server.port), 60) as connection:
        connection.sendall(f"POST /predict HTTP/1.1\r\nHost: x\r\n{head}\r\n".encode() + body[:50])
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(4096).startswith(b"HTTP/1.1 408 ")
