"""Embeds in each component the part of the handwriting package that it imports, the same bytes every time."""

import base64
import gzip
import io
import re
import tarfile
from pathlib import Path

from kfp.dsl.python_component import PythonComponent

from handwriting import sources

SHARED = str(Path(__file__).resolve().parent / "shared")
"""What `@dsl.component` embeds: a folder with the handwriting package alone, so that it has one import name."""
ARCHIVE = re.compile(r"(?<=__KFP_EMBEDDED_ARCHIVE_B64 = ')[A-Za-z0-9+/=]+(?=')")


def slim(component: PythonComponent) -> PythonComponent:
    """Replaces the archive that KFP made of SHARED by one without unused modules, times and user names.

    KFP's own would be twice as large, near Linux's limit of one argument, and other bytes at each definition: the
    backend, which compares commands, would never find a cached step. Stands above `@dsl.component`.

    Raises:
        ValueError: The component embeds nothing.
    """
    command = component.component_spec.implementation.container.command
    command[-1], replaced = ARCHIVE.subn(_archive(command[-1]), command[-1])
    if replaced != 1:
        raise ValueError(f"{component.name} embeds {replaced} archives; give it embedded_artifact_path=SHARED")
    return component


def _archive(source: str) -> str:
    """Packs the modules that a component's source imports."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as target:
        for name, text in sources.closure(sources.imported(source)).items():
            entry = tarfile.TarInfo(f"{sources.PACKAGE}/{name}.py")  # times, users and groups are zero
            entry.size = len(text.encode())
            target.addfile(entry, io.BytesIO(text.encode()))
    return base64.b64encode(gzip.compress(packed.getvalue(), mtime=0)).decode()
