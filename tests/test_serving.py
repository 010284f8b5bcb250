"""The server as a process of its own: it answers, it drains, and it ends when it cannot start."""

import http.client
import io
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from PIL import Image

from handwriting.serving import main

ROOT = Path(__file__).resolve().parent.parent
READER = """
import sys, time, types
from pathlib import Path
from handwriting.ctc import Reading

class Reader:
    version = "v1"

    @classmethod
    def load(cls, folder, threads=0):
        return cls()

    def read(self, pictures):
        time.sleep(0.5)
        return [Reading("ch\\u1eef", 0.9, (0.9, 0.9, 0.9))]

for name, what in {"reader": {"Reader": Reader}, "bundle": {"fetch_bundle": Path}}.items():
    sys.modules["handwriting." + name] = types.ModuleType(name)
    vars(sys.modules["handwriting." + name]).update(what)
from handwriting.serving import main
main()
"""
"""The real server around a reader that takes half a second: long enough to stop the server meanwhile."""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start(start_with: list[str], port: int, *arguments: str) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "ops" / "shared")}
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


def upload(picture: bytes) -> tuple[bytes, dict[str, str]]:
    """Returns body and headers of a multipart request."""
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
    return head + picture + b"\r\n--x--\r\n", {"Content-Type": "multipart/form-data; boundary=x"}


def picture() -> bytes:
    out = io.BytesIO()
    Image.new("L", (200, 40), 255).save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def server(tmp_path):
    port = free_port()
    process = start(["-c", READER], port, "--model", str(tmp_path), "--data-uri", str(tmp_path / "data"))
    try:
        wait_until_ready(port, process)
        yield port, process, tmp_path / "data" / "user_data" / "images"
    finally:
        process.kill()
        process.communicate()


def test_it_reads_keeps_the_picture_and_ends_with_0_at_sigterm(server):
    port, process, images = server
    assert ask(port, "POST", "/predict", *upload(picture())) == (200, "chữ".encode())
    process.send_signal(signal.SIGTERM)
    stderr = process.communicate(timeout=20)[1]
    assert process.returncode == 0, stderr
    assert len(list(images.iterdir())) == 1
    assert "POST /predict" not in stderr  # no access log


def test_sigterm_lets_a_running_request_finish_and_its_picture_land(server):
    port, process, images = server
    answers = []
    request = threading.Thread(target=lambda: answers.append(ask(port, "POST", "/predict", *upload(picture()))))
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
    assert ask(port, "POST", "/predict", *upload(b"x" * (11 * 2**20)))[0] == 413


def test_a_huge_upload_of_unknown_length_is_413(server):
    port, _, _ = server
    body, headers = upload(b"x" * (11 * 2**20))
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


def test_without_a_model_the_command_line_says_what_to_give(monkeypatch, capsys):
    monkeypatch.delenv("STORAGE_URI", raising=False)
    with pytest.raises(SystemExit) as caught:
        main([])
    assert caught.value.code == 2
    assert "give --model or set STORAGE_URI" in capsys.readouterr().err
