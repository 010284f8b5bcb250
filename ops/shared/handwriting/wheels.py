"""The wheels that a predictor needs travel in its bundle: a pod that starts at night needs the bucket alone.

`models/<version>/wheels/<target>/` is for one Python on one kind of machine. It holds the packages that the predictors
of the bundle need, with all they depend on, as wheels. `code/<digest>/<target>.txt` is the lock of one predictor: exact
pins with hashes, written last. The command of `inference_service` installs by it.
"""

import email
import hashlib
import logging
import platform
import re
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple, Self

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

from handwriting.bundle import REQUIREMENTS, code_folder
from handwriting.errors import DeployError
from handwriting.layout import WHEELS
from handwriting.store import Store, fetch_files, join

log = logging.getLogger(__name__)

SECONDS = 1200  # until pip must be done: about 150 MB
GLIBC = 36  # glibc 2.36 is Debian 12's, the oldest that an image python:3.11-slim of today may stand on
OLDEST_GLIBC = {"x86_64": 5, "aarch64": 17}  # that manylinux wheels exist for
LEGACY = {5: "manylinux1", 12: "manylinux2010", 17: "manylinux2014"}  # names of before PEP 600


class Target(NamedTuple):
    """What wheels are for: a CPython such as "3.11", a machine such as "x86_64", and `sys.platform` there."""

    python: str
    machine: str
    system: str = "linux"

    @classmethod
    def here(cls) -> Self:
        """Returns what this process runs on."""
        return cls("{}.{}".format(*sys.version_info), platform.machine(), sys.platform)

    @property
    def name(self) -> str:
        """What it is called in a bundle; the service's command finds the name by itself."""
        return f"cp{self.python.replace('.', '')}-{self.system}-{self.machine}"

    @property
    def folder(self) -> str:
        """Where its wheels lie in a bundle."""
        return f"{WHEELS}/{self.name}"

    def lock(self, code: str) -> str:
        """Returns where the lock of a predictor lies in a bundle."""
        return f"{code_folder(code)}/{self.name}.txt"

    def __str__(self) -> str:
        return f"Python {self.python} on {self.system} {self.machine}"


def ensure(bundle: Store, code: str, target: Target) -> str:
    """Completes a bundle with the wheels of a predictor; where they are there already, nothing is downloaded.

    Args:
        bundle: The bundle, `open_store("<models>/<version>")`.
        code: Digest of the predictor's code, which is in the bundle.
        target: What the predictor's image has.

    Returns:
        The URI of their folder.

    Raises:
        MissingError: The bundle has no such code.
        DeployError: pip cannot get them.
    """
    lock = target.lock(code)
    if not bundle.exists(lock):
        requirements = bundle.read(f"{code_folder(code)}/{REQUIREMENTS}").decode().split()
        began = time.monotonic()
        with TemporaryDirectory(prefix="wheels-") as scratch:
            log.info("downloading the predictor's wheels for %s", target)
            wheels = _collect(requirements, target, Path(scratch))
            downloaded = time.monotonic()
            for wheel in wheels:  # one by one: boto3 itself sends the parts of large files in parallel
                if not bundle.exists(f"{target.folder}/{wheel.name}"):  # another lock may name its hash
                    bundle.upload(wheel, f"{target.folder}/{wheel.name}")
            # last: a crash leaves no half set, and of two steps that do the same either one's lock finds its wheels
            bundle.write(lock, _lock(wheels).encode())
            log.info("%d wheels, %.0f MB: downloaded in %.1f s, uploaded in %.1f s", len(wheels),
                     sum(wheel.stat().st_size for wheel in wheels) / 1e6, downloaded - began,
                     time.monotonic() - downloaded)
    return join(bundle.root, target.folder)


def fetch(bundle: Store, folder: Path, code: str, target: Target) -> None:
    """Adds a predictor and its wheels to the local copy of a bundle, as KServe's storage initializer does.

    Args:
        bundle: The bundle.
        folder: Its copy, as `fetch_bundle` gives it.
        code: Digest of the predictor's code.
        target: Which wheels.
    """
    fetch_files(bundle, f"{target.folder}/", target.lock(code), folder)
    fetch_files(bundle, f"{code_folder(code)}/", f"{code_folder(code)}/{REQUIREMENTS}", folder)


def _lock(wheels: Sequence[Path]) -> str:
    """Returns the pins and hashes as `pip install --require-hashes -r` takes them."""
    lines = []
    for wheel in wheels:
        name, version, _, _ = parse_wheel_filename(wheel.name)
        lines.append(f"{name}=={version} --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n")
    return "".join(sorted(lines))


def _collect(requirements: Sequence[str], target: Target, scratch: Path) -> list[Path]:
    """Downloads packages and all they need on the target.

    pip follows the conditions (`; python_version < "3.12"`) of the Python it runs on, whatever it downloads for; what
    the target needs beyond that is asked for by name.
    """
    while True:
        folder = scratch / str(len(requirements))
        _download(requirements, target, folder)
        wheels = sorted(folder.glob("*.whl"))
        missing = _missing(wheels, target)
        if not missing:
            return wheels
        requirements = [*requirements, *missing]


def _missing(wheels: Sequence[Path], target: Target) -> list[str]:
    """Returns what these wheels need on the target and is not among them."""
    there = {parse_wheel_filename(wheel.name)[0] for wheel in wheels}
    missing = set()
    for requirement in (needed for wheel in wheels for needed in _needs(wheel)):
        applies = requirement.marker is None or requirement.marker.evaluate(_markers(target))
        if applies and canonicalize_name(requirement.name) not in there:
            requirement.marker = None
            missing.add(str(requirement))
    return sorted(missing)


def _needs(wheel: Path) -> Iterator[Requirement]:
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", name))
        metadata = email.message_from_bytes(archive.read(name))
    return map(Requirement, metadata.get_all("Requires-Dist", []))


def _markers(target: Target) -> dict[str, str]:
    """Returns the values of environment markers (PEP 508) on the target."""
    if target.system != "linux":  # only this machine itself can be that
        return {"extra": ""}
    return {"python_version": target.python, "python_full_version": f"{target.python}.0", "os_name": "posix",
            "sys_platform": "linux", "platform_system": "Linux", "platform_machine": target.machine,
            "implementation_name": "cpython", "platform_python_implementation": "CPython", "extra": ""}


def _tags(target: Target) -> list[str]:
    """Returns pip's options for the wheels that run on the target.

    The oldest glibc comes first, and pip takes the first that a package has: such wheels run on the most images.
    """
    if target.system != "linux":
        return []
    versions = range(OLDEST_GLIBC[target.machine], GLIBC + 1)
    names = [name for minor in versions for name in (LEGACY.get(minor), f"manylinux_2_{minor}") if name]
    return ["--implementation", "cp", "--python-version", target.python,
            *(option for name in names for option in ("--platform", f"{name}_{target.machine}"))]


def _download(requirements: Sequence[str], target: Target, folder: Path) -> None:
    """Runs pip, which finds index and credentials in its own configuration (PIP_INDEX_URL, PIP_FIND_LINKS, ...).

    Raises:
        DeployError: It fails, or takes too long.
    """
    details = folder.with_suffix(".log")  # what pip prints alone leaves out why an index did not answer
    command = [sys.executable, "-P", "-m", "pip", "download", "--dest", str(folder), "--only-binary", ":all:",
               "--log", str(details), "--no-input", "--disable-pip-version-check", "--progress-bar", "off",
               *_tags(target), *requirements]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True, errors="replace", timeout=SECONDS)
    except subprocess.TimeoutExpired as error:
        raise DeployError(f"pip has not downloaded the predictor's wheels for {target} after {SECONDS} s; check the "
                          "network, or name a nearer index in PIP_INDEX_URL") from error
    if done.returncode:
        log_text = details.read_text("utf-8", "replace") if details.exists() else ""
        raise DeployError(f"no wheels for {target}: {_without_credentials(_reason(done.stdout, log_text))}")


def _reason(output: str, details: str) -> str:
    """Returns what of pip's words helps, and what to do; an index that merely lacks a package (404) is no fault."""
    if broken := re.search(r"Could not fetch URL (\S+): (?!404 )(.*?)(?: - skipping)?$", details, re.MULTILINE):
        return (f"{broken[1]} cannot be read ({broken[2][-300:]}); check the network, PIP_INDEX_URL and its "
                "credentials, or name a folder that has the wheels in PIP_FIND_LINKS")
    if package := re.search(r"No matching distribution found for (\S+)", output):
        return (f"pip finds none of {package[1]}; build one and name its folder in PIP_FIND_LINKS, choose another "
                "python or machine, or serve with an image that has the packages (install false)")
    said = re.findall(r"^ERROR: (.*)", output, re.MULTILINE) or output.strip().splitlines()[-1:]
    return f"pip says {' '.join(said)[:500]!r}; try pip download with the bundle's requirements.txt by hand"


def _without_credentials(text: str) -> str:
    return re.sub(r"(?<=://)[^/@\s]+@", "***@", text)
