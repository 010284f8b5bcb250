"""Fonts to render lines in: files of a folder, or of installed packages, gathered into families."""

import io
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

from fontTools.ttLib import TTFont, TTLibError
from PIL import ImageFont

from handwriting.errors import ConfigError
from handwriting.marks import split

log = logging.getLogger(__name__)

FONT_SIZE = 64  # px of the first drawing, before a line is scaled to its picture
FILES = (".ttf", ".otf", ".woff", ".woff2")
PACKAGES = "fontpkg-"
WEIGHT = "wght"  # the axis of a variable font that makes strokes bolder


class Face:
    """One font file.

    Args:
        data: Its bytes: TrueType, OpenType, WOFF or WOFF2.

    Attributes:
        name: Of the family and style.
        characters: What it can draw.
        font: The font at `FONT_SIZE`.

    Raises:
        ConfigError: It is no font.
    """

    def __init__(self, data: bytes):
        try:
            tables = TTFont(io.BytesIO(data))
            # the basic layout is part of Pillow; the other one depends on a library of the machine, pictures would too
            self.font = ImageFont.truetype(io.BytesIO(data), FONT_SIZE, layout_engine=ImageFont.Layout.BASIC)
            self.characters = frozenset(map(chr, tables.getBestCmap() or ()))
            self._axes = tables["fvar"].axes if "fvar" in tables else []
        except (TTLibError, OSError, ValueError, KeyError, AssertionError) as error:
            raise ConfigError(f"no font that can be read: {error}") from error
        self.name = " ".join(filter(None, self.font.getname()))

    def set_weight(self, share: float) -> None:
        """Makes the strokes of a variable font as bold as it can, 1, or as light, 0; other fonts have one weight."""
        if self._axes:
            self.font.set_variation_by_axes([
                axis.minValue + share * (axis.maxValue - axis.minValue) if axis.axisTag == WEIGHT else axis.defaultValue
                for axis in self._axes])


@dataclass(frozen=True)
class Family:
    """One hand: files of the same family and style, of which each may have some of the letters.

    Attributes:
        name: What logs call it.
        faces: At least one.
        stroke: Most px that a broad pen adds around the strokes at `FONT_SIZE`.
    """

    name: str
    faces: tuple[Face, ...]
    stroke: float = 2.0

    def lacks(self, text: str) -> set[str]:
        """Returns the characters of a text that no file has, neither whole nor below marks that are drawn by hand."""
        return {c for c in set(text) if self.face(c) is None and self.face(split(c)[0]) is None}

    def face(self, character: str) -> Face | None:
        """Returns the first file that has a character."""
        return next((face for face in self.faces if character in face.characters), None)


def installed_families() -> list[Family]:
    """Returns the fonts of all installed packages `fontpkg-*`, which PyPI has, most under the SIL Open Font License.

    Raises:
        ConfigError: There is none.
    """
    files = {str(file.locate()) for package in distributions() if package.name.lower().startswith(PACKAGES)
             for file in package.files or () if file.suffix.lower() in FILES}
    if not files:
        raise ConfigError(f"no package {PACKAGES}* is installed: pip install -e '.[fonts]'")
    return gather(Face(Path(file).read_bytes()) for file in sorted(files))


def gather(faces: Iterable[Face]) -> list[Family]:
    """Gathers files into families, in the order in which they come."""
    families: dict[str, list[Face]] = {}
    for face in faces:
        families.setdefault(face.name, []).append(face)
    return [Family(name, tuple(together)) for name, together in families.items()]


def find_families(folder: Path) -> Sequence[Family]:
    """Returns the fonts below a folder; a file that cannot be read is named in the log and left out.

    Raises:
        ConfigError: There is none.
    """
    faces = []
    for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in FILES):
        try:
            faces.append(Face(path.read_bytes()))
        except ConfigError as error:
            log.warning("%s: %s", path, error)
    if not faces:
        raise ConfigError(f"{folder} has no font; put files of handwriting fonts there, such as *{FILES[0]}")
    return gather(faces)
