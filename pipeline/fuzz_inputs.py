"""Makes damaged and hostile pictures. One follows from seed and number alone, so each can be made again."""

import io
import random
import struct
import zlib
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageOps, PngImagePlugin

from handwriting.smoke_test import picture

HOSTILE, WHOLE = 0.01, 0.02  # shares of inputs that somebody made on purpose, and of pictures as they are
HEADER = 64  # bytes at the start of a picture, which are damaged as often as all others


class Input(NamedTuple):
    """What is sent: its name says how it was made."""

    name: str
    data: bytes


@cache
def pictures() -> dict[str, bytes]:
    """Returns a small picture of each kind that the reader takes."""
    line = Image.open(io.BytesIO(picture())).convert("L")
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    levels = np.asarray(line)
    deep, real = Image.fromarray(levels.astype(np.uint16) * 257), Image.fromarray(levels.astype(np.float32) / 255)
    clear = line.convert("RGBA")
    clear.putalpha(ImageOps.invert(line))
    frames = {"save_all": True, "append_images": [ImageOps.invert(line), line.rotate(2)]}
    kinds: dict[str, tuple[Image.Image, str, dict[str, Any]]] = {
        "png": (line, "PNG", {"exif": exif}), "png16": (deep, "PNG", {}), "png1": (line.convert("1"), "PNG", {}),
        "png-palette": (line.convert("P"), "PNG", {"transparency": 0}), "png-clear": (clear, "PNG", {}),
        "apng": (line, "PNG", frames), "jpeg": (line.convert("RGB"), "JPEG", {"exif": exif}),
        "jpeg-progressive": (line, "JPEG", {"progressive": True}), "jpeg-cmyk": (line.convert("CMYK"), "JPEG", {}),
        "webp": (line, "WEBP", {"exif": exif}), "webp-clear": (clear, "WEBP", {"lossless": True}),
        "webp-animated": (line, "WEBP", frames), "gif": (line, "GIF", {}), "gif-animated": (line, "GIF", frames),
        "gif-clear": (line.convert("P"), "GIF", {"transparency": 0}), "bmp": (line.convert("RGB"), "BMP", {}),
        "bmp1": (line.convert("1"), "BMP", {}), "bmp-palette": (line.convert("P"), "BMP", {}),
        **{f"tiff-{name}": (line, "TIFF", {"compression": name}) for name in (
            "raw", "packbits", "tiff_lzw", "tiff_deflate", "jpeg")},
        "tiff-fax": (line.convert("1"), "TIFF", {"compression": "group4"}), "tiff-float": (real, "TIFF", {}),
        "tiff16": (deep, "TIFF", {"exif": exif}), "tiff-cmyk": (line.convert("CMYK"), "TIFF", {}),
        "avif": (line, "AVIF", {"exif": exif}), "avif-animated": (line, "AVIF", frames),
        "pbm": (line.convert("1"), "PPM", {}), "pgm": (line, "PPM", {}), "ppm": (line.convert("RGB"), "PPM", {}),
        "pfm": (real, "PPM", {}), "jp2": (line, "JPEG2000", {}),
        "jp2-clear": (clear, "JPEG2000", {"irreversible": True}), "j2k": (line, "JPEG2000", {"no_jp2": True})}
    return {name: _encoded(image, kind, **options) for name, (image, kind, options) in kinds.items()}


def _encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


@cache
def hostile() -> dict[str, bytes]:
    """Returns what somebody would send who wants to do harm."""
    wide = Image.new("1", (7_000, 7_000), 1)
    text = PngImagePlugin.PngInfo()
    for number in range(40):
        text.add_text(f"k{number}", "0" * 2**20, zip=True)
    jpeg, gif, png = (pictures()[name] for name in ("jpeg", "gif", "png"))
    scans = _encoded(wide.convert("L"), "JPEG", progressive=True, quality=1)
    last = scans.rindex(b"\xff\xda")
    scan = scans[last:last + 2 + struct.unpack_from(">H", scans, last + 2)[0]]
    return {
        "empty": b"", "one byte": b"\x89", "text": b"A letter, no picture.\n" * 50, "zeros": bytes(100_000),
        "html": b"<!DOCTYPE html><script>alert(1)</script>", "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 640 96\n(/etc/passwd) (r) file\n",
        "pdf": b"%PDF-1.7\n%%EOF", "gzip": zlib.compress(bytes(10**6), wbits=31),
        "at the limit": _encoded(wide, "PNG"), "at the limit, gif": _encoded(wide, "GIF"),
        "at the limit, jpeg": _encoded(wide.convert("RGB"), "JPEG"),
        "over the limit": _encoded(Image.new("1", (9_000, 9_000)), "PNG"), "huge": _hollow_png(2**31 - 1, 2**31 - 1),
        "hollow": _hollow_png(6_000, 8_000), "thousands of scans": scans[:-2] + scan * 5_000 + scans[-2:],
        "texts that unfold": _encoded(wide.crop((0, 0, 64, 64)), "PNG", pnginfo=text),
        "many chunks": png[:33] + _chunk(b"abCd", b"") * 100_000 + png[33:],
        "many markers": jpeg[:2] + b"\xff\xe9\x00\x02" * 500_000 + jpeg[2:],
        "endless comment": gif[:-1] + b"\x21\xfe" + (b"\xff" + b"c" * 255) * 10_000 + b"\0;",
        "one tag, thousands of times": _tiff_of_tags(2**20, 20_000),
        "numbers as text": b"P2 1500 1500 255\n" + b"7 " * 1500 * 1500, "a long tail": png + bytes(5 * 2**20)}


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _hollow_png(width: int, height: int) -> bytes:
    """A PNG that says how large it is and holds nearly nothing."""
    size = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", size) + _chunk(b"IDAT", zlib.compress(bytes(1000)))


def _tiff_of_tags(size: int, count: int) -> bytes:
    """A TIFF whose directory has many tags, all of which name the same bytes."""
    tags = b"".join(struct.pack("<HHII", 40_000 + number, 7, size, 8) for number in range(count))
    return b"II*\0" + struct.pack("<I", 8 + size) + bytes(size) + struct.pack("<H", count) + tags + bytes(4)


Mutation = Callable[[random.Random, bytearray], bytes | bytearray]


def _place(rng: random.Random, data: bytearray) -> int:
    return rng.randrange(max(1, rng.choice([len(data), min(len(data), HEADER)])))


def _flip(rng: random.Random, data: bytearray) -> bytearray:
    for _ in range(rng.choice([1, 1, 2, 8, 64])):
        if data:
            data[_place(rng, data)] ^= 1 << rng.randrange(8)
    return data


def _cut(rng: random.Random, data: bytearray) -> bytearray:
    return data[:_place(rng, data)]


def _number(rng: random.Random, data: bytearray) -> bytearray:
    """Puts a number where sizes, offsets and counts are: the ones at which programs err."""
    width, place = rng.choice([1, 2, 4]), _place(rng, data)
    value = rng.choice([0, 1, 0x7f, 0xff, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, rng.randrange(2**32)])
    data[place:place + width] = (value % 2**(8 * width)).to_bytes(width, rng.choice(["big", "little"]))
    return data


def _double(rng: random.Random, data: bytearray) -> bytearray:
    start, place = _place(rng, data), _place(rng, data)
    return data[:place] + data[start:start + rng.choice([4, 64, 1024])] * rng.choice([1, 2, 100]) + data[place:]


def _remove(rng: random.Random, data: bytearray) -> bytearray:
    start = _place(rng, data)
    return data[:start] + data[start + rng.choice([1, 4, 64, 1024]):]


def _splice(rng: random.Random, data: bytearray) -> bytearray:
    """Goes on as another picture, from anywhere in it."""
    other = rng.choice(list(pictures().values()))
    return data[:_place(rng, data)] + other[rng.randrange(len(other)):]


def _disguise(rng: random.Random, data: bytearray) -> bytearray:
    """Begins as another kind."""
    count = rng.choice([2, 4, 8, 12, 32])
    data[:count] = rng.choice(list(pictures().values()))[:count]
    return data


def _append(rng: random.Random, data: bytearray) -> bytearray:
    return data + rng.choice([rng.randbytes(1000), b"<script>alert(1)</script>", *pictures().values()])


MUTATIONS: tuple[Mutation, ...] = (_flip, _cut, _number, _double, _remove, _splice, _disguise, _append)


def make_input(seed: int, number: int) -> Input:
    """Makes one input: mostly a picture with one to three mutations."""
    rng = random.Random(f"{seed}/{number}")
    share = rng.random()
    if share < HOSTILE:
        return Input(*rng.choice(list(hostile().items())))
    name, source = rng.choice(list(pictures().items()))
    data: bytes | bytearray = bytearray(source)
    if share >= HOSTILE + WHOLE:
        for mutation in rng.choices(MUTATIONS, k=rng.choice([1, 1, 2, 3])):
            name, data = f"{name} {mutation.__name__.strip('_')}", mutation(rng, bytearray(data))
    return Input(name, bytes(data))
