"""Compiles the pipeline to a spec that is the same from run to run, so that the backend finds its cached steps."""

import base64
import gzip
import io
import re
import tarfile
from pathlib import Path

import yaml
from kfp import compiler

from handwriting import sources
from pipeline.handwriting_pipeline import handwriting_pipeline

ARCHIVE = re.compile(r"(__KFP_EMBEDDED_ARCHIVE_B64 = ')([A-Za-z0-9+/=]+)(')")
LARGEST_SOURCE = 64 * 1024
"""Bytes of one component's source: Linux takes 128 KiB for one argument, and the workflow holds several copies."""


def compile_pipeline(path: Path) -> dict[str, int]:
    """Writes the pipeline spec.

    Args:
        path: The YAML file to write; its folder is made.

    Returns:
        Bytes of source by component.

    Raises:
        ValueError: A component is larger than LARGEST_SOURCE.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    compiler.Compiler().compile(handwriting_pipeline, str(path))
    text = path.read_text("utf-8")
    archives = map(_archive, _sources(text).values())  # in the order in which they stand in the text
    text = ARCHIVE.sub(lambda match: match[1] + next(archives) + match[3], text)
    path.write_text(text, "utf-8")
    sizes = source_sizes(text)
    large = {name: size for name, size in sizes.items() if size > LARGEST_SOURCE}
    if large:
        raise ValueError(f"components over {LARGEST_SOURCE} bytes: {large}; move what pods do not need out of "
                         "ops/shared/handwriting")
    return sizes


def source_sizes(text: str) -> dict[str, int]:
    """Returns the bytes of source of each component in a compiled spec."""
    return {name: len(source.encode()) for name, source in _sources(text).items()}


def _sources(text: str) -> dict[str, str]:
    """Returns the Python source of each component in a compiled spec."""
    executors = next(yaml.safe_load_all(text))["deploymentSpec"]["executors"]
    return {name.removeprefix("exec-"): executor["container"]["command"][-1] for name, executor in executors.items()}


def _archive(source: str) -> str:
    """Packs the modules that a component imports. KFP's own archive holds all of them, times and user names."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as target:
        for name, text in sources.closure(sources.imported(source)).items():
            entry = tarfile.TarInfo(f"{sources.PACKAGE}/{name}.py")  # times, users and groups are zero
            entry.size = len(text.encode())
            target.addfile(entry, io.BytesIO(text.encode()))
    return base64.b64encode(gzip.compress(packed.getvalue(), mtime=0)).decode()
