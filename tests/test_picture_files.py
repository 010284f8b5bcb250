"""One picture becomes one file in the spool, and a PNG under a unique name in the bucket."""

import io
import re
from datetime import UTC, datetime

import numpy as np
import pytest
from PIL import Image

from handwriting.errors import DataError, ImageError
from handwriting.image import ImageConfig, decode
from handwriting.picture_files import PNG_SIGNATURE, in_share, new_name, pack, to_png, unpack

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


def picture(mode: str = "L", file_format: str = "JPEG", **options) -> bytes:
    """A 40 x 20 px picture with a dark stroke."""
    pixels = np.full((20, 40), 250, np.uint8)
    pixels[8:12, 4:30] = 10
    out = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(out, file_format, **options)
    return out.getvalue()


def test_a_name_carries_date_id_and_version():
    assert re.fullmatch(r"20261123T120000-[0-9a-f]{12}-0123abcd-c0de", new_name(NOON, "0123abcd-c0de"))
    assert re.fullmatch(r"20261123T120000-[0-9a-f]{12}", new_name(NOON, ""))


def test_a_version_of_any_form_leaves_the_name_one_of_a_file():
    name = new_name(NOON, "../ü " + "x" * 300)
    assert re.fullmatch(r"[\w.-]{1,100}", name, re.ASCII)


def test_a_thousand_names_of_one_second_differ():
    assert len({new_name(NOON, "v") for _ in range(1000)}) == 1000


def test_a_share_is_of_that_size_and_the_same_each_time():
    pictures = [str(number).encode() for number in range(2000)]
    kept = [in_share(one, 0.25) for one in pictures]
    assert 400 < sum(kept) < 600
    assert kept == [in_share(one, 0.25) for one in pictures]
    assert all(in_share(one, 0.5) for one in pictures if in_share(one, 0.25))  # a larger share only adds
    assert all(in_share(one, 1.0) and not in_share(one, 0.0) for one in pictures)


def test_a_packed_picture_comes_back_with_its_reading():
    reading = {"text": "Đường\nsố 1", "characters": [0.5]}
    for data in (picture(), b"\n\n", b""):
        assert unpack(pack(data, reading)) == (data, reading)


@pytest.mark.parametrize("damage", [
    lambda data: b"", lambda data: data[:30], lambda data: data[:-1], lambda data: bytes(len(data)),
    lambda data: data[:-1] + b"\0"])
def test_half_a_file_is_refused(damage):
    with pytest.raises(DataError, match="check the disk"):
        unpack(damage(pack(picture(), {"text": "a"})))


def test_png_bytes_are_kept_as_they_are():
    data = picture("RGB", "PNG")
    assert to_png(data) is data


@pytest.mark.parametrize(("mode", "file_format"), [
    ("L", "JPEG"), ("RGB", "JPEG"), ("CMYK", "JPEG"), ("1", "TIFF"), ("I;16", "TIFF"), ("F", "TIFF"), ("I", "TIFF"),
    ("P", "GIF"), ("RGBA", "WEBP"), ("LAB", "TIFF")])
def test_every_kind_of_picture_reads_the_same_after_its_way_to_png(mode, file_format):
    options = {"lossless": True} if file_format == "WEBP" else {}
    if mode == "LAB":
        out = io.BytesIO()
        Image.new("LAB", (40, 20), (200, 128, 128)).save(out, file_format)
        data = out.getvalue()
    else:
        data = picture("I" if mode == "I;16" else mode, file_format, **options)
    png = to_png(data)
    assert png.startswith(PNG_SIGNATURE)
    if mode != "LAB":  # its grey differs with the way there
        before, after = (decode(value, ImageConfig()).astype(int) for value in (data, png))
        assert np.abs(before - after).max() <= 1


def test_a_turned_photo_is_stored_upright_and_without_its_metadata():
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    exif[0x010F] = "camera"
    stored = Image.open(io.BytesIO(to_png(picture("RGB", exif=exif))))
    assert stored.size == (20, 40)
    assert not stored.getexif()


def test_bytes_that_are_no_picture_are_refused():
    with pytest.raises(ImageError) as caught:
        to_png(picture()[:200])
    assert caught.value.reason == "truncated"
