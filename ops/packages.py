"""Reads a step's packages from setup.cfg, the one place for versions."""

import re
from configparser import ConfigParser
from pathlib import Path

SETUP = Path(__file__).resolve().parent.parent / "setup.cfg"
BASE_IMAGE = "python:3.11-slim"


def requirements(extra: str) -> list[str]:
    """Returns the pinned packages of an extra, with the extras it names in `handwriting-pipeline[...]` unfolded.

    Raises:
        KeyError: setup.cfg has no such extra.
    """
    setup = ConfigParser(interpolation=None)
    setup.read(SETUP, encoding="utf-8")
    return sorted(_unfold(setup, extra))


def _unfold(setup: ConfigParser, extra: str) -> set[str]:
    packages: set[str] = set()
    for line in setup["options.extras_require"][extra].split():
        own = re.fullmatch(r"handwriting-pipeline\[(.+)\]", line)
        packages |= set().union(*(_unfold(setup, name) for name in own[1].split(","))) if own else {line}
    return packages
