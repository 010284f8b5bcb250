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
from pipeline.ports import free_port, free_ports
from pipeline.servers import ensure_label_studio_venv, start_seaweedfs


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
    state["ports"] = free_ports(None, 5)
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
    port = free_port()
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
