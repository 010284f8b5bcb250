"""The files that a user's picture becomes: one in the spool with its reading, and a PNG in the bucket."""

import hashlib
import io
import json
import re
import secrets
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from PIL import Image

from handwriting.errors import DataError, ImageError
from handwriting.image import DAMAGED, FORMATS, upright

STAMP = "%Y%m%dT%H%M%S"  # UTC, at the start of each name
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_MODES = {"1", "L", "LA", "P", "RGB", "RGBA", "I;16"}  # what a PNG file can hold as it is


def in_share(picture: bytes, share: float) -> bool:
    """Says whether a picture belongs to a share (0 to 1) of all, by its digest: every replica says the same."""
    return int.from_bytes(hashlib.sha256(picture).digest()[:8]) < share * 2**64


def new_name(now: datetime, version: str) -> str:
    """Returns a name that sorts by UTC time and is unique among replicas: `20261123T101530-9f86d081d0a1-<version>`."""
    parts = [f"{now:{STAMP}}", secrets.token_hex(6), re.sub(r"[^\w.-]", "_", version, flags=re.ASCII)[:64]]
    return "-".join(filter(None, parts))


def pack(picture: bytes, reading: Mapping[str, Any]) -> bytes:
    """Returns a picture and its reading as one file, with a digest: a machine's fault may leave half of it."""
    content = json.dumps(reading).encode() + b"\n" + picture
    return hashlib.sha256(content).hexdigest().encode() + b"\n" + content


def unpack(data: bytes) -> tuple[bytes, dict[str, Any]]:
    """Returns the picture and its reading.

    Raises:
        DataError: The file is damaged.
    """
    digest, _, content = data.partition(b"\n")
    if hashlib.sha256(content).hexdigest().encode() != digest:
        raise DataError(f"damaged, {len(data)} bytes are left; check the disk")
    reading, _, picture = content.partition(b"\n")
    return picture, json.loads(reading)


def to_png(picture: bytes) -> bytes:
    """Returns the picture as PNG: unchanged where it is one, else without loss, upright, its first frame.

    Raises:
        ImageError: "truncated", where the bytes cannot be decoded.
    """
    if picture.startswith(PNG_SIGNATURE):
        return picture
    out = io.BytesIO()
    try:
        with Image.open(io.BytesIO(picture), formats=FORMATS) as image:
            _png_mode(upright(image)).save(out, "PNG")
    except (*DAMAGED, Image.DecompressionBombError) as error:
        raise ImageError("truncated", f"cannot be turned into PNG ({error})") from error
    return out.getvalue()


def _png_mode(image: Image.Image) -> Image.Image:
    """Converts the colour spaces that PNG does not know (CMYK, float, ...)."""
    if image.mode in PNG_MODES:
        return image
    if image.mode.startswith("I") or image.mode == "F":
        return image.convert("I").convert("I;16")
    return image.convert("RGBA" if image.has_transparency_data else "RGB")
