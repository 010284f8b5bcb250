"""Embeds in each component the part of the handwriting package that it imports, the same bytes every time."""

import ast
import base64
import bz2
import io
import re
import tarfile
import tokenize
from pathlib import Path

from kfp.dsl.python_component import PythonComponent

from handwriting import sources

SHARED = str(Path(__file__).resolve().parent / "shared")
"""What `@dsl.component` embeds: a folder with the handwriting package alone, so that it has one import name."""
ARCHIVE = re.compile(r"(?<=__KFP_EMBEDDED_ARCHIVE_B64 = ')[A-Za-z0-9+/=]+(?=')")
KIND = re.compile(r"(?<=mode='r:)gz(?=')")  # of the archive, where KFP's code opens it


def slim(component: PythonComponent) -> PythonComponent:
    """Replaces the archive that KFP made of SHARED by one without unused modules, times and user names.

    Docstrings and comments are left out, those of the component too, whose description keeps what they say.

    KFP's own would be four times as large, near Linux's limit of one argument, and other bytes at each definition: the
    backend, which compares commands, would never find a cached step. Stands above `@dsl.component`.

    Raises:
        ValueError: The component embeds nothing, or KFP would open it in a way that is not known here.
    """
    command = component.component_spec.implementation.container.command
    command[-1], replaced = ARCHIVE.subn(_archive(command[-1]), command[-1])
    command[-1], opened = KIND.subn("bz2", command[-1])
    command[-1] = without_prose(command[-1])
    if replaced != 1:
        raise ValueError(f"{component.name} embeds {replaced} archives; give it embedded_artifact_path=SHARED")
    if opened != 1:
        raise ValueError(f"{component.name}: this version of KFP does not open its archive by `mode='r:gz'`; see KIND")
    return component


def _archive(source: str) -> str:
    """Packs the modules that a component's source imports."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as target:
        for name, text in sources.closure(sources.imported(source)).items():
            content = without_prose(text).encode()
            entry = tarfile.TarInfo(f"{sources.PACKAGE}/{name}.py")  # times, users and groups are zero
            entry.size = len(content)
            target.addfile(entry, io.BytesIO(content))
    return base64.b64encode(bz2.compress(packed.getvalue())).decode()


def without_prose(source: str) -> str:
    """Returns a module without docstrings and comments, two thirds of its size; every statement stays on its line.

    The workflow object holds each component's source several times, and may have 1 MiB in all.
    """
    lines = source.splitlines()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            text = node.body[0]
            for number in range(text.lineno, (text.end_lineno or text.lineno) + 1):
                lines[number - 1] = ""
            if len(node.body) == 1:
                lines[text.lineno - 1] = f"{' ' * text.col_offset}pass"
    for token in tokenize.generate_tokens(io.StringIO("\n".join(lines)).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column].rstrip()
    return "".join(f"{line}\n" for line in lines)
