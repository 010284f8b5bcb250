"""Which modules of this package a piece of code needs: a step embeds, and a bundle holds, those and no others.

So a change of the export leaves training's cached results alone, and no step passes Linux's limit of one argument.
"""

import ast
import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path

PACKAGE = "handwriting"


@cache
def package_sources() -> dict[str, str]:
    """Returns the source of each module of this package by its name; the package itself is `__init__`."""
    return {path.stem: path.read_text("utf-8") for path in sorted(Path(__file__).parent.glob("*.py"))}


def imported(source: str) -> set[str]:
    """Returns the modules of this package that a source imports anywhere, also inside functions and type checks."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module == PACKAGE:
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{PACKAGE}."):
            names.add(str(node.module).split(".")[1])
        elif isinstance(node, ast.Import):
            names |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith(f"{PACKAGE}.")}
    return names


def closure(roots: Iterable[str]) -> dict[str, str]:
    """Returns the sources of some modules and of all that they import, by name, sorted."""
    found, todo = {"__init__"}, set(roots)
    while todo:
        found |= todo
        todo = set().union(*(imported(package_sources()[name]) for name in todo)) - found
    return {name: package_sources()[name] for name in sorted(found)}


def digest(root: str) -> str:
    """Returns the hash of a module's code and of all it imports: other code may train or read otherwise."""
    content = "\0".join(text for item in closure([root]).items() for text in item)
    return hashlib.sha256(content.encode()).hexdigest()[:16]
