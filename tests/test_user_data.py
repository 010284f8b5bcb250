"""What users send is kept once, as PNG beside its reading, without anyone waiting for it."""

import errno
import io
import json
import threading
import time

import pytest
from PIL import Image
from test_picture_files import picture

from handwriting import layout, user_data
from handwriting.dataset import digest
from handwriting.errors import ConfigError, StoreError
from handwriting.picture_files import PNG_SIGNATURE
from handwriting.store import open_store
from handwriting.user_data import KeepConfig, UserPictures

READING = {"text": "Huế", "confidence": 0.9, "characters": [0.9, 0.9, 0.9], "version": "v1"}


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
        assert self.written.setdefault(key, data) == data  # an attempt more writes the same
        if key.startswith(layout.USER_PICTURES):
            reading = f"{layout.READINGS}/{key.rpartition('/')[2].removesuffix('.png')}.json"
            assert reading in self.written  # whoever finds a picture finds its reading

    @property
    def images(self) -> list[str]:
        return [key for key in self.written if key.startswith(layout.USER_PICTURES)]


@pytest.fixture
def flaky(monkeypatch):
    store = FlakyStore()
    monkeypatch.setattr(user_data, "open_store", lambda uri: store)
    return store


@pytest.fixture
def config(tmp_path):
    """Makes a configuration with a spool of the test's own, and one picture after the other."""
    return lambda **changes: KeepConfig(**{"spool": str(tmp_path / "spool"), "uploads": 1, "pause": 0.01, **changes})


def within(seconds: float, holds) -> bool:
    end = time.monotonic() + seconds
    while not (done := holds()) and time.monotonic() < end:
        time.sleep(0.01)
    return done


def counts(pictures: UserPictures) -> tuple[int, int, int]:
    return pictures.stored, pictures.waiting, pictures.lost


def test_pictures_land_as_png_with_their_readings_beside_them(tmp_path, config):
    pictures = UserPictures(str(tmp_path), config())
    sent = {digest(data): data for data in (picture("L"), picture("RGB"), picture("L", "PNG"))}
    for data in sent.values():
        pictures.add(data, READING)
    pictures.close()
    files = sorted((tmp_path / "user_data" / "images").iterdir())
    assert len(files) == 3 and counts(pictures) == (3, 0, 0)
    for file in files:
        assert Image.open(io.BytesIO(file.read_bytes())).format == "PNG"
        reading = json.loads((tmp_path / "user_data" / "readings" / f"{file.stem}.json").read_text("utf-8"))
        assert reading.pop("time").replace("-", "").replace(":", "").startswith(file.stem[:15])
        assert reading.pop("picture") in sent
        assert reading == READING and file.stem.endswith("-v1")


def test_an_accepted_picture_is_in_the_spool_before_anything_else_happens(flaky, config, tmp_path):
    flaky.open.clear()
    pictures = UserPictures("x", config())
    pictures.add(picture(), READING)
    [entry] = (tmp_path / "spool").glob("*/*/*")
    assert pictures.waiting_bytes == entry.stat().st_size
    flaky.open.set()
    pictures.close()
    assert not list((tmp_path / "spool").glob("*/*"))


def test_a_store_that_fails_some_times_gets_the_picture_once(flaky, config):
    flaky.failures = 5
    pictures = UserPictures("x", config())
    pictures.add(picture(), READING)
    assert within(5, lambda: pictures.stored)
    assert (flaky.tries, pictures.failures, len(flaky.images)) == (7, 5, 1)
    pictures.close()
    assert counts(pictures) == (1, 0, 0)


def test_pauses_grow_to_a_bound_and_no_two_are_equal():
    pauses = [pause for pause, _ in zip(user_data._pauses(0.5), range(2000))]
    assert 0.25 <= pauses[0] <= 0.5 and 0.5 <= pauses[1] <= 1 and len(set(pauses)) == 2000
    assert max(pauses) <= user_data.LONGEST_PAUSE and min(pauses[10:]) >= user_data.LONGEST_PAUSE / 2


def test_a_picture_that_cannot_be_turned_into_png_is_counted_and_does_not_end_the_thread(flaky, config, caplog):
    pictures = UserPictures("x", config())
    pictures.add(b"not a picture", READING)
    pictures.add(picture(), READING)
    pictures.close()
    assert counts(pictures) == (1, 0, 1)
    assert "not kept" in caplog.text


def test_an_entry_that_a_fault_of_the_machine_damaged_is_counted_and_the_others_land(flaky, config, tmp_path):
    flaky.failures = 10**6
    first = UserPictures("x", config())
    first.add(picture(), READING)
    first.add(picture(), READING)
    first.close(deadline=1)
    damaged, _ = sorted((tmp_path / "spool").glob("*/*/*"))
    damaged.write_bytes(b"")
    flaky.failures = 0
    second = UserPictures("x", config())
    assert within(5, lambda: second.stored and second.lost)
    second.close()
    assert counts(second) == (1, 0, 1)


@pytest.mark.parametrize("bound", [{"entries": 2}, {"size": 2 * 1000}])
def test_a_full_spool_drops_counts_and_logs_once(flaky, config, caplog, bound):
    flaky.open.clear()
    data = picture("L", "PNG").ljust(750, b"\0")  # 1000 with its reading
    pictures = UserPictures("x", config(**bound))
    for _ in range(5):
        pictures.add(data, READING)
    assert counts(pictures) == (0, 2, 3)
    assert caplog.text.count("not kept") == 1 and "wait already" in caplog.text
    flaky.open.set()
    assert within(5, lambda: pictures.stored == 2)
    pictures.add(data, READING)  # there is room again
    pictures.close()
    assert counts(pictures) == (3, 0, 3)


def test_a_full_disk_drops_counts_and_logs_once_and_later_pictures_land(flaky, config, caplog, monkeypatch):
    pictures = UserPictures("x", config())
    with monkeypatch.context() as patch:
        def full(name, data):
            raise OSError(errno.ENOSPC, "No space left on device")
        patch.setattr(pictures._spool, "put", full)
        for _ in range(3):
            pictures.add(picture(), READING)
    pictures.add(picture(), READING)
    pictures.close()
    assert counts(pictures) == (1, 0, 3)
    assert caplog.text.count("No space left on device") == 1


def test_what_a_stopped_process_could_not_store_the_next_one_does(flaky, config):
    flaky.failures = 10**6
    first = UserPictures("x", config(uploads=2))
    for _ in range(5):
        first.add(picture(), READING)
    start = time.monotonic()
    first.close(deadline=5)
    assert time.monotonic() - start < 2  # it tries once more, and not for ever
    assert counts(first) == (0, 5, 0)
    flaky.failures = 0
    second = UserPictures("x", config())
    assert within(5, lambda: second.stored == 5)
    second.close()
    assert len(flaky.images) == 5 and counts(second) == (5, 0, 0)


def test_close_gives_up_at_its_deadline_and_takes_nothing_afterwards(flaky, config, caplog):
    flaky.open.clear()
    pictures = UserPictures("x", config())
    pictures.add(picture(), READING)
    pictures.add(picture(), READING)
    pictures.close(deadline=0.05)
    pictures.add(picture(), READING)
    assert counts(pictures) == (0, 2, 1)
    assert "2 user pictures wait in" in caplog.text
    flaky.open.set()


def test_several_processes_share_a_spool_and_no_picture_lands_twice(flaky, config, monkeypatch):
    monkeypatch.setattr(user_data, "LOOK_EVERY", 0.02)
    flaky.open.clear()
    both = [UserPictures("x", config()) for _ in range(2)]
    for number in range(20):
        both[number % 2].add(picture(), READING)
    time.sleep(0.1)  # each has looked several times at what the other has
    flaky.open.set()
    assert within(5, lambda: [one.stored for one in both] == [10, 10])
    for one in both:
        one.close()
    assert len(flaky.images) == 20 and flaky.tries == 40


def test_pictures_of_one_target_never_go_to_another(config, tmp_path):
    targets = [str(tmp_path / name) for name in "ab"]
    first = UserPictures(targets[0], config())
    first.add(picture(), READING)
    first.close(deadline=0)
    UserPictures(targets[1], config()).close()
    assert not (tmp_path / "b").exists()


def test_pictures_outside_the_share_are_not_kept(flaky, config):
    pictures = UserPictures("x", config(share=0.5))
    data = picture("L", "PNG")
    for number in range(40):
        pictures.offer(data + bytes([number]), READING)
    pictures.close()
    assert 8 < pictures.stored < 32 and (pictures.lost, pictures.waiting) == (0, 0)


def test_a_picture_that_is_added_by_name_is_kept_whatever_the_share(flaky, config):
    pictures = UserPictures("x", config(share=0.0))
    pictures.offer(picture(), READING)
    assert pictures.add(picture(), {"correction": "Huế", "version": "v1"})
    pictures.close()
    assert counts(pictures) == (1, 0, 0)
    assert not pictures.add(picture(), READING)  # closed


def test_the_age_of_the_oldest_is_told_and_ends_with_it(flaky, config, monkeypatch):
    monkeypatch.setattr(user_data, "LOOK_EVERY", 0.02)
    told = []
    flaky.open.clear()
    pictures = UserPictures("x", config())
    pictures.report_to(lambda *counts: told.append(counts))
    pictures.add(picture(), READING)
    assert within(5, lambda: told[-1][5] > 0.1)
    assert told[-1][3:5] == (1, pictures.waiting_bytes)
    flaky.open.set()
    pictures.close()
    assert told[-1][3:] == (0, 0, 0.0)
    assert [sum(one[kind] for one in told) for kind in range(3)] == [1, 0, 0]


@pytest.mark.parametrize("changes", [{"share": -0.1}, {"share": 1.1}, {"share": float("nan")}, {"entries": 0},
                                     {"size": 0}, {"uploads": 0}, {"pause": 0.0}])
def test_values_out_of_range_are_refused(changes):
    with pytest.raises(ConfigError):
        KeepConfig(**changes)


def test_processes_share_the_bounds():
    each = KeepConfig(entries=10, size=5, share=0.5).of_each(4)
    assert (each.entries, each.size, each.share) == (2, 1, 0.5)


def test_an_unusable_uri_is_told_at_the_start(config):
    with pytest.raises(StoreError):
        UserPictures("ftp://server/data", config())


def test_an_unusable_spool_is_told_at_the_start(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="--spool or SPOOL"):
        UserPictures(str(tmp_path), KeepConfig(spool=str(tmp_path / "file" / "spool")))


def test_pictures_land_in_a_real_bucket(bucket, config):
    pictures = UserPictures(f"s3://{bucket}/data", config())
    pictures.add(picture(), READING)
    pictures.close()
    assert pictures.stored == 1
    store = open_store(f"s3://{bucket}")
    [entry] = store.list("data/user_data/images/")
    assert entry.key.endswith("-v1.png") and store.read(entry.key).startswith(PNG_SIGNATURE)
    [reading] = store.list("data/user_data/readings/")
    assert json.loads(store.read(reading.key))["text"] == "Huế"
