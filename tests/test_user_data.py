"""What users send is kept once, as PNG, without anyone waiting for it."""

import io
import re
import threading

import numpy as np
import pytest
from PIL import Image

from handwriting import user_data
from handwriting.errors import ImageError, StoreError
from handwriting.image import ImageConfig, decode
from handwriting.store import open_store
from handwriting.user_data import UserPictures, to_png, unique_name


def picture(mode: str = "L", file_format: str = "JPEG", **options) -> bytes:
    """A 40 x 20 px picture with a dark stroke."""
    pixels = np.full((20, 40), 250, np.uint8)
    pixels[8:12, 4:30] = 10
    out = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(out, file_format, **options)
    return out.getvalue()


class FlakyStore:
    """Fails the first `failures` writes; blocks every write until `open` is set."""

    def __init__(self, failures: int = 0):
        self.failures, self.tries = failures, 0
        self.written: dict[str, bytes] = {}
        self.open = threading.Event()
        self.open.set()

    def write(self, key: str, data: bytes) -> None:
        self.open.wait(10)
        self.tries += 1
        if self.tries <= self.failures:
            raise StoreError("the bucket is away")
        self.written[key] = data


@pytest.fixture
def flaky(monkeypatch):
    store = FlakyStore()
    monkeypatch.setattr(user_data, "open_store", lambda uri: store)
    return store


def test_pictures_land_as_png_under_unique_names(tmp_path):
    pictures = UserPictures(str(tmp_path))
    for data in (picture("L"), picture("RGB"), picture("L", "PNG")):
        pictures.add(data)
    pictures.close()
    files = sorted((tmp_path / "user_data" / "images").iterdir())
    assert len(files) == pictures.stored == 3
    assert (pictures.waiting, pictures.lost) == (0, 0)
    for file in files:
        assert re.fullmatch(r"\d{8}T\d{6}-[0-9a-f]{8}\.png", file.name)
        assert Image.open(io.BytesIO(file.read_bytes())).format == "PNG"


def test_a_thousand_names_of_one_second_differ():
    assert len({unique_name() for _ in range(1000)}) == 1000


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
    assert png.startswith(user_data.PNG_SIGNATURE)
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


def test_a_store_that_fails_twice_gets_the_picture_at_the_third_attempt(flaky):
    flaky.failures = 2
    pictures = UserPictures("x", pause=0.01)
    pictures.add(picture())
    pictures.close()
    assert (flaky.tries, len(flaky.written)) == (3, 1)
    assert (pictures.stored, pictures.waiting, pictures.lost) == (1, 0, 0)


def test_a_store_that_keeps_failing_loses_the_picture_and_the_next_one_still_lands(flaky, caplog):
    flaky.failures = 3
    pictures = UserPictures("x", attempts=3, pause=0.01)
    pictures.add(picture())
    pictures.add(picture())
    pictures.close()
    assert (pictures.stored, pictures.waiting, pictures.lost) == (1, 0, 1)
    assert "attempt 3 of 3: the bucket is away" in caplog.text


def test_a_picture_that_cannot_be_turned_into_png_is_counted_and_does_not_end_the_thread(flaky, caplog):
    pictures = UserPictures("x")
    pictures.add(b"not a picture")
    pictures.add(picture())
    pictures.close()
    assert (pictures.stored, pictures.lost) == (1, 1)
    assert "not kept" in caplog.text


def test_a_full_queue_drops_counts_and_logs(flaky, caplog):
    flaky.open.clear()
    pictures = UserPictures("x", capacity=2)
    for _ in range(5):
        pictures.add(picture())
    assert (pictures.waiting, pictures.lost) == (2, 3)
    assert caplog.text.count("the queue is full") == 1
    flaky.open.set()
    pictures.close()
    assert (pictures.stored, pictures.waiting, pictures.lost) == (2, 0, 3)


def test_large_pictures_fill_the_queue_by_their_bytes(flaky):
    data = picture()
    flaky.open.clear()
    pictures = UserPictures("x", max_bytes=2 * len(data))
    for _ in range(3):
        pictures.add(data)
    assert (pictures.waiting, pictures.lost) == (2, 1)
    flaky.open.set()
    pictures.close()
    assert pictures.stored == 2


def test_close_gives_up_at_its_deadline_and_takes_nothing_afterwards(flaky, caplog):
    flaky.open.clear()
    pictures = UserPictures("x")
    pictures.add(picture())
    pictures.add(picture())
    pictures.close(deadline=0.05)
    pictures.add(picture())
    assert (pictures.stored, pictures.waiting, pictures.lost) == (0, 0, 3)
    assert "2 user pictures not stored within" in caplog.text
    flaky.open.set()


def test_an_unusable_uri_is_told_at_the_start():
    with pytest.raises(StoreError):
        UserPictures("ftp://server/data")


def test_pictures_land_in_a_real_bucket(bucket):
    pictures = UserPictures(f"s3://{bucket}/data")
    pictures.add(picture())
    pictures.close()
    assert pictures.stored == 1
    entries = list(open_store(f"s3://{bucket}").list("data/user_data/images/"))
    assert len(entries) == 1 and entries[0].key.endswith(".png")
