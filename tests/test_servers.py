import json
import os
import signal
import stat
import subprocess
import sys
import textwrap
import urllib.request
from pathlib import Path

import boto3
import pytest
import requests
from helpers import alive, gone

from handwriting.errors import HandwritingError
from pipeline import servers
from pipeline.servers import ProcessServer, ensure_label_studio_venv, start_seaweedfs

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
    (port,) = servers._ports(None, 1)
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
    monkeypatch.setattr(servers, "STOP_SECONDS", 0.5)
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


@pytest.mark.servers
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells a child that its parent died")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_no_server_outlives_a_parent_that_is_killed(tmp_path, number):
    script = textwrap.dedent(f"""
        import sys, time
        from pathlib import Path
        from pipeline.servers import start_seaweedfs
        with start_seaweedfs(Path({str(tmp_path)!r})) as server:
            print(server.process.pid, flush=True)
            time.sleep(60)
    """)
    path = os.pathsep.join(["ops/shared", "."])
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True,
                          cwd=Path(__file__).parent.parent, env=os.environ | {"PYTHONPATH": path}) as parent:
        child = int(parent.stdout.readline())
        assert alive(child)
        parent.send_signal(number)
    assert gone(child)
    with start_seaweedfs(tmp_path):  # and its folder can be used again
        pass


@pytest.mark.servers
def test_seaweedfs_keeps_data_keys_and_ports_for_the_next_start(tmp_path):
    seen = []
    for number in range(2):
        with start_seaweedfs(tmp_path / "s3") as server:
            client = _client(server)
            if number == 0:
                client.create_bucket(Bucket="bucket")
                client.put_object(Bucket="bucket", Key="key", Body=b"kept")
            assert client.get_object(Bucket="bucket", Key="key")["Body"].read() == b"kept"
            seen.append(server.environment)
    assert seen[0] == seen[1]
    assert stat.S_IMODE((tmp_path / "s3" / "seaweedfs.json").stat().st_mode) == 0o600


@pytest.mark.servers
def test_seaweedfs_keeps_its_data_where_another_program_took_its_ports(tmp_path):
    with start_seaweedfs(tmp_path) as server:
        _client(server).create_bucket(Bucket="bucket")
        _client(server).put_object(Bucket="bucket", Key="key", Body=b"kept" * 100_000)
    file = tmp_path / "seaweedfs.json"
    state = json.loads(file.read_text(encoding="utf-8"))
    state["ports"] = servers._ports(None, 5)
    file.write_text(json.dumps(state), encoding="utf-8")
    with start_seaweedfs(tmp_path) as moved:
        assert moved.endpoint != server.endpoint
        assert _client(moved).get_object(Bucket="bucket", Key="key")["Body"].read() == b"kept" * 100_000


def test_two_seaweedfs_run_side_by_side_with_keys_of_their_own(s3, tmp_path):
    with start_seaweedfs(tmp_path) as other:
        assert other.endpoint != s3.endpoint
        assert other.environment["AWS_SECRET_ACCESS_KEY"] != s3.environment["AWS_SECRET_ACCESS_KEY"]
        _client(other).create_bucket(Bucket="only-here")
        assert [one["Name"] for one in _client(other).list_buckets()["Buckets"]] == ["only-here"]
    assert "only-here" not in [one["Name"] for one in _client(s3).list_buckets()["Buckets"]]


def test_seaweedfs_has_room_for_buckets_however_small_the_disk(s3):
    with urllib.request.urlopen(s3.topology, timeout=5) as answer:
        assert json.load(answer)["Topology"]["Max"] == servers.VOLUMES


def test_seaweedfs_refuses_strangers_and_shows_no_keys(s3):
    assert requests.get(s3.endpoint, timeout=5).status_code == 403
    for secret in (s3.environment["AWS_ACCESS_KEY_ID"], s3.environment["AWS_SECRET_ACCESS_KEY"]):
        assert secret not in repr(s3) + " ".join(s3.command) + s3.log.read_text(encoding="utf-8")


@pytest.mark.servers
def test_seaweedfs_listens_where_it_is_told_to(tmp_path):
    (port,) = servers._ports(None, 1)
    with start_seaweedfs(tmp_path, port) as server:
        assert server.endpoint == f"http://127.0.0.1:{port}"


def test_servers_listen_on_loopback_only(s3):
    sockets = Path("/proc/net/tcp")
    if not sockets.exists():
        pytest.skip("the system has no /proc/net/tcp")
    inodes = {os.readlink(handle)[8:-1] for handle in Path(f"/proc/{s3.process.pid}/fd").iterdir()
              if os.readlink(handle).startswith("socket:")}
    rows = [line.split() for table in (sockets, Path("/proc/net/tcp6")) if table.exists()
            for line in table.read_text(encoding="utf-8").splitlines()[1:]]
    listening = [row[1] for row in rows if row[3] == "0A" and row[9] in inodes]
    assert listening and all(place.startswith("0100007F:") for place in listening)


def test_label_studio_takes_its_account_and_keeps_its_secrets(label_studio):
    headers = {"Authorization": f"Token {label_studio.token}"}
    assert requests.get(f"{label_studio.url}/api/projects", headers=headers, timeout=30).status_code == 200
    assert requests.get(f"{label_studio.url}/api/projects", timeout=30).status_code == 401
    file = label_studio.log.parent / "label_studio.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    for secret in (label_studio.token, label_studio.password):
        assert secret not in repr(label_studio) + " ".join(label_studio.command)
        assert secret not in label_studio.log.read_text(encoding="utf-8")


def test_a_named_environment_without_label_studio_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv(servers.VENV_VARIABLE, str(tmp_path))
    with pytest.raises(HandwritingError, match="has no bin/label-studio"):
        ensure_label_studio_venv(tmp_path)


def test_label_studio_is_installed_once_and_again_where_that_broke_off(tmp_path, monkeypatch):
    monkeypatch.delenv(servers.VENV_VARIABLE, raising=False)
    installed = []

    def install(environment, packages):
        environment.mkdir(exist_ok=True)
        installed.append(packages)
        if len(installed) == 1:
            raise HandwritingError("no network")

    monkeypatch.setattr(servers, "_install", install)
    with pytest.raises(HandwritingError, match="no network"):
        ensure_label_studio_venv(tmp_path)
    assert ensure_label_studio_venv(tmp_path) == ensure_label_studio_venv(tmp_path) == tmp_path / "label-studio-venv"
    assert len(installed) == 2
    assert installed[1][0].startswith("label-studio==")


def _client(server):
    environment = server.environment
    return boto3.session.Session().client(
        "s3", endpoint_url=server.endpoint, aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"], region_name=environment["AWS_DEFAULT_REGION"])
