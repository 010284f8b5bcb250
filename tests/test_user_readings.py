"""What is read back of some days: all of it, nothing of other days, and nothing stops it."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from handwriting.errors import MissingError, StoreError
from handwriting.picture_files import new_name
from handwriting.store import LocalStore, open_store, write_json
from handwriting.user_readings import Corrected, Seen, read_back

UNTIL = datetime(2026, 11, 25, 12, tzinfo=UTC)
WEEK = UNTIL - timedelta(7)
READING = {"text": "Huế", "confidence": 0.9, "characters": [0.9] * 3, "version": "v1-c0de", "width": 320,
           "language_model": False, "picture": "d1"}


@pytest.fixture(params=["folder", "s3"])
def data(request, tmp_path):
    """A data folder of either kind."""
    if request.param == "folder":
        return open_store(str(tmp_path))
    return open_store(f"s3://{request.getfixturevalue('bucket')}/data")


def keep(data, when, content=READING):
    """Writes what the predictor would have written; returns its name."""
    name = new_name(when, "v1-c0de")
    key = f"user_data/readings/{name}.json"
    data.write(key, content) if isinstance(content, bytes) else write_json(data, key, content)
    return name


def test_readings_come_in_order_of_time_with_all_that_was_kept(data):
    later, sooner = (keep(data, UNTIL - timedelta(hours=hours)) for hours in (1, 2))
    assert read_back(data, WEEK, UNTIL).readings == [
        Seen(name, "v1-c0de", "d1", "Huế", 0.9, 320, False) for name in (sooner, later)]


def test_a_week_begins_and_ends_to_the_second_and_weeks_share_nothing(data):
    inside = {keep(data, when) for when in (WEEK, WEEK + timedelta(seconds=1), UNTIL - timedelta(seconds=1),
                                            datetime(2026, 11, 20, tzinfo=UTC))}
    for when in (WEEK - timedelta(seconds=1), UNTIL, UNTIL + timedelta(days=1), datetime(2025, 11, 24, tzinfo=UTC)):
        keep(data, when)
    kept = read_back(data, WEEK, UNTIL)
    assert {seen.name for seen in kept.readings} == inside and (kept.files, kept.every, kept.damaged) == (4, 1, 0)
    assert read_back(data, WEEK - timedelta(7), WEEK).files == 1


def test_a_week_without_anything_is_empty(data):
    assert read_back(data, WEEK, UNTIL) == (WEEK, UNTIL, 0, 1, [], [], 0)


def test_what_people_corrected_is_told_apart(data):
    keep(data, UNTIL - timedelta(1), {"correction": "Đường Láng", "version": "v1", "picture": "d1"})
    kept = read_back(data, WEEK, UNTIL)
    assert (kept.readings, kept.corrections) == ([], [Corrected("d1", "Đường Láng")])


def test_what_older_predictors_kept_has_neither_width_nor_digest(tmp_path):
    data = open_store(str(tmp_path))
    name = keep(data, UNTIL - timedelta(1), {key: READING[key] for key in ("text", "confidence", "version")})
    assert read_back(data, WEEK, UNTIL).readings == [Seen(name, "v1-c0de", name, "Huế", 0.9, 0, True)]


@pytest.mark.parametrize("content", [
    b"", b"{", b"\xff\xfe", b"[]", b"7", b"null", b"{}", json.dumps(READING | {"confidence": None}).encode(),
    json.dumps(READING | {"confidence": float("nan")}).encode(), json.dumps(READING | {"confidence": 1.5}).encode(),
    json.dumps(READING | {"width": "wide"}).encode(), json.dumps(READING | {"width": -1}).encode(),
    json.dumps(READING | {"width": float("inf")}).encode(), b"[" * 100_000])
def test_a_damaged_file_is_counted_and_the_others_are_read(tmp_path, content):
    data = open_store(str(tmp_path))
    keep(data, UNTIL - timedelta(1), content)
    keep(data, UNTIL - timedelta(2))
    kept = read_back(data, WEEK, UNTIL)
    assert (len(kept.readings), kept.damaged, kept.files) == (1, 1, 2)


def test_a_file_that_is_gone_meanwhile_is_counted(tmp_path, monkeypatch):
    data = open_store(str(tmp_path))
    keep(data, UNTIL - timedelta(1))
    monkeypatch.setattr(LocalStore, "read", lambda self, key: (_ for _ in ()).throw(MissingError(key)))
    assert read_back(data, WEEK, UNTIL).damaged == 1


def test_a_bucket_that_fails_is_an_error_not_an_empty_week(tmp_path, monkeypatch):
    data = open_store(str(tmp_path))
    keep(data, UNTIL - timedelta(1))
    monkeypatch.setattr(LocalStore, "read", lambda self, key: (_ for _ in ()).throw(StoreError("away")))
    with pytest.raises(StoreError, match="away"):
        read_back(data, WEEK, UNTIL)


def test_of_very_many_an_even_part_is_read(tmp_path):
    data = open_store(str(tmp_path))
    names = sorted(keep(data, WEEK + timedelta(hours=number)) for number in range(25))
    kept = read_back(data, WEEK, UNTIL, most=10)
    assert (kept.files, kept.every) == (25, 3) and [seen.name for seen in kept.readings] == names[::3]


def test_the_day_is_that_of_the_name(tmp_path):
    data = open_store(str(tmp_path))
    keep(data, datetime(2026, 11, 24, 23, 59, 59, tzinfo=UTC))
    assert [seen.day for seen in read_back(data, WEEK, UNTIL).readings] == ["2026-11-24"]
