"""What serves a bundle travels in it: `code/<digest>/` has this project's predictor and the packages it needs.

The deploy step adds it, so that a mended predictor needs no new training. A bundle with one such code is a release.
"""

import hashlib
from importlib import metadata
from typing import TYPE_CHECKING

from handwriting import sources
from handwriting.bundle import REQUIREMENTS, code_folder
from handwriting.store import Store

if TYPE_CHECKING:
    from handwriting import serving  # noqa: F401  travels in every bundle, so it belongs to each step that adds it

SERVER = "serving"
PACKAGES = ("boto3", "flask", "gunicorn", "numpy", "onnxruntime", "opencv-python-headless", "pillow",
            "prometheus-client")


def name(version: str) -> str:
    """Returns what a bundle is called when this code serves it: `<version>-<digest of code and requirements>`."""
    return f"{version}-{digest()}"


def code_of(release: str) -> str:
    """Returns the digest of the code that serves a release."""
    return release.rpartition("-")[2]


def digest() -> str:
    """Returns the name of this code: a hash of the predictor's modules and the packages that they need."""
    return hashlib.sha256("\n".join([sources.digest(SERVER), *requirements()]).encode()).hexdigest()[:8]


def requirements() -> list[str]:
    """Returns exact versions of the packages a predictor needs, as they are installed here and so were tried."""
    return [f"{package}=={metadata.version(package)}" for package in PACKAGES]


def add_code(bundle: Store) -> str:
    """Adds this code to a bundle, unless it is there; other codes, which other releases run, stay.

    Args:
        bundle: The bundle, `open_store("<models>/<version>")`.

    Returns:
        The digest.

    Raises:
        StoreError: The bucket refuses it.
    """
    found = digest()
    folder = code_folder(found)
    if not bundle.exists(f"{folder}/{REQUIREMENTS}"):
        for module, text in sources.closure([SERVER]).items():
            bundle.write(f"{folder}/{sources.PACKAGE}/{module}.py", text.encode())
        bundle.write(f"{folder}/{REQUIREMENTS}", "".join(f"{line}\n" for line in requirements()).encode())  # last
    return found
