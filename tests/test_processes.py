import os
import sys

import pytest
import requests
from helpers import alive, gone

from handwriting.errors import HandwritingError
from pipeline import processes
from pipeline.ports import free_port
from pipeline.processes import ProcessServer

ECHO = """
import http.server, os, subprocess, sys, time
print("hello from the child", flush=True)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/ready" else 404)
        self.end_headers()
    def log_message(self, *ignored): pass
{extra}
http.server.HTTPServer(("127.0.0.1", {port}), Handler).serve_forever()
"""


def echo(folder, extra="", probe="/ready", **options):
    port = free_port()
    return ProcessServer("echo", [sys.executable, "-c", ECHO.format(port=port, extra=extra)],
                         f"http://127.0.0.1:{port}{probe}", folder / "echo.log", **options)


def test_a_server_is_ready_within_the_block_and_gone_after_it(tmp_path):
    with echo(tmp_path) as server:
        pid = server.process.pid
        assert requests.get(server.probe, timeout=5).status_code == 200
        assert server.tail() == "hello from the child"
        assert os.getpgid(pid) == pid != os.getpgid(0)
    assert not alive(pid)
    server.stop()


def test_a_stopped_server_starts_again(tmp_path):
    server = echo(tmp_path)
    for _ in range(2):
        with server:
            assert requests.get(server.probe, timeout=5).ok


def test_a_program_that_ends_is_reported_with_the_end_of_its_log(tmp_path):
    with pytest.raises(HandwritingError, match=r"(?s)echo ended with status 3; the end of .*echo.log:.*sorry"):
        echo(tmp_path, extra="print('sorry'); sys.exit(3)").start()


def test_a_server_that_is_never_ready_is_reported_and_ended(tmp_path):
    server = echo(tmp_path, probe="/elsewhere", extra="print('pid', os.getpid(), flush=True)", deadline=1)
    with pytest.raises(HandwritingError, match="not ready after 1 s") as caught:
        server.start()
    assert gone(int(str(caught.value).rsplit("pid ", 1)[1]))


def test_a_program_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(HandwritingError, match="cannot start /no/such/program: No such file"):
        ProcessServer("none", ["/no/such/program"], "http://127.0.0.1:9/", tmp_path / "log").start()


def test_a_stubborn_server_and_its_children_are_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "STOP_SECONDS", 0.5)
    extra = ("import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
             "print(subprocess.Popen(['sleep', '60']).pid, flush=True)")
    with echo(tmp_path, extra=extra) as server:
        leader, child = server.process.pid, int(server.tail(1))
        assert alive(child)
    assert not alive(leader)
    assert gone(child)


def test_a_fault_within_the_block_stops_the_server(tmp_path):
    with pytest.raises(KeyboardInterrupt), echo(tmp_path) as server:
        pid = server.process.pid
        raise KeyboardInterrupt
    assert not alive(pid)


def test_one_folder_serves_one_server_at_a_time(tmp_path):
    with echo(tmp_path):
        with pytest.raises(HandwritingError, match="echo runs already in .*: stop that run, or take another folder"):
            echo(tmp_path).start()
    with echo(tmp_path) as server:
        assert requests.get(server.probe, timeout=5).ok
