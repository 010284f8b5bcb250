"""Pictures and folders that several tests make."""

import io
import random
import time
from pathlib import Path
from zlib import crc32

from PIL import Image, ImageDraw

from handwriting.alphabet import VIETNAMESE, Alphabet
from handwriting.ctc import Reading
from handwriting.image import ImageConfig, read_line
from handwriting.profile import CONFIDENCES, WIDTHS, Profile, counted
from handwriting.store import Store, read_json, write_json

SERVER = """
import sys, time, types
from handwriting.ctc import Reading

class Reader:
    version = "v1"
    profile = language_model = None

    @classmethod
    def fetch(cls, uri, threads=0, language_model=False):
        return cls()

    def read(self, pictures):
        time.sleep({seconds})
        return [Reading("ch\\u1eef", 0.9, (0.9, 0.9, 0.9))]

sys.modules["handwriting.reader"] = types.ModuleType("reader")
sys.modules["handwriting.reader"].Reader = Reader
from handwriting.serving import main
main()
"""
"""A program: the real server around a reader that takes some `seconds`."""
TEXT = "Số 47 Đường Lý Thường Kiệt"


def drawing(number: int = 0, size: tuple[int, int] = (320, 48), paper: int = 255, ink: int = 0) -> Image.Image:
    """Draws strokes on a grey picture, others for each number."""
    rng = random.Random(number)
    picture = Image.new("L", size, paper)
    draw = ImageDraw.Draw(picture)
    width, height = size
    for x in range(8, width - 16, 14):
        draw.line((x, rng.randrange(4, height - 4), x + 10, rng.randrange(4, height - 4)), fill=ink, width=3)
    return picture


def encoded(picture: Image.Image, file_format: str = "PNG", **options) -> bytes:
    """Returns a picture as the bytes of a file."""
    out = io.BytesIO()
    picture.save(out, file_format, **options)
    return out.getvalue()


def add_lines(data: Store, split: str, texts: dict[str, str]) -> None:
    """Adds labels to a split, and a picture of its own for each name that has none; replaces the text of the others."""
    for name in texts:
        if not data.exists(f"{split}/images/{name}"):
            picture = encoded(drawing(crc32(f"{split}/{name}".encode())))
            data.write(f"{split}/images/{name}", picture)
    key = f"{split}/labels.json"
    write_json(data, key, (read_json(data, key) if data.exists(key) else {}) | texts)


class FakeReader:
    """Decodes pictures as the real one does and reads TEXT in each."""

    version = "0123abcd"
    alphabet = Alphabet(VIETNAMESE)
    language_model = None
    profile = Profile(counted([320, 320, 700, 3000], WIDTHS), counted([0.84] + 19 * [0.95], CONFIDENCES), 200, 3)

    def read(self, pictures):
        for picture in pictures:
            read_line(picture, ImageConfig(max_pixels=1_000_000))
        return [Reading(TEXT, 0.87654321, (0.9,) * len(TEXT), 320)] * len(pictures)


class BrokenReader(FakeReader):
    """Has a bug."""

    def read(self, pictures):
        raise RuntimeError("a bug of ours")


def alive(pid: int) -> bool:
    """Tells whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def gone(pid: int, seconds: float = 10) -> bool:
    """Tells whether a process ends soon."""
    end = time.monotonic() + seconds
    while alive(pid) and time.monotonic() < end:
        time.sleep(0.05)
    return not alive(pid)
