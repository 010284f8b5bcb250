"""Triggers mean what Kubeflow Pipelines makes of them."""

import re
from datetime import UTC, datetime, timedelta, timezone

import pytest

from handwriting.errors import ConfigError
from pipeline.triggers import Trigger, every

NOON = datetime(2026, 11, 25, 12, 0, 0, tzinfo=UTC)  # a Wednesday


def following(cron, now=NOON):
    found = Trigger(cron=cron).following(now, now)
    return found and found.strftime("%Y-%m-%d %H:%M:%S")


@pytest.mark.parametrize("cron, said", [
    ("0 0 3 * * 1", "2026-11-30 03:00:00"), ("0 0 3 * * MON", "2026-11-30 03:00:00"),
    ("0 0 12 * * *", "2026-11-26 12:00:00"), ("1 0 12 * * ?", "2026-11-25 12:00:01"),
    ("0 */20 * * * *", "2026-11-25 12:20:00"), ("0 5/20 * * * *", "2026-11-25 12:05:00"),
    ("0 0 9-17/4 * * *", "2026-11-25 13:00:00"), ("0 0 0 1 jan *", "2027-01-01 00:00:00"),
    ("0 0 0 29 2 *", "2028-02-29 00:00:00"), ("0 0 0 * * 0", "2026-11-29 00:00:00"),
    ("0 0 0 13 * 5", "2026-11-27 00:00:00"),  # where both days are given, either will do
    ("0 0 6,18 * * *", "2026-11-25 18:00:00"), ("0 0 0 31 2 *", None)])
def test_the_next_time_of_an_expression(cron, said):
    assert following(cron) == said


def test_times_are_utc():
    assert following("0 30 12 * * *", NOON.astimezone(timezone(timedelta(hours=7)))) == "2026-11-25 12:30:00"


def test_five_fields_are_refused_with_the_sixth_that_is_meant():
    with pytest.raises(ConfigError, match=re.escape("five fields, and here the first of six are seconds; write "
                                                    "'0 0 3 * * 1'")):
        Trigger(cron="0 3 * * 1")


@pytest.mark.parametrize("cron, said", [
    ("60 0 0 * * *", "not valid"), ("0 0 24 * * *", "not valid"), ("0 0 0 0 * *", "not valid"),
    ("0 0 0 * 13 *", "not valid"), ("0 */0 * * * *", "not valid"), ("0 x * * * *", "not valid"),
    ("0 1,,2 * * * *", "not valid"), ("@daily", "has 1 fields; write six"),
    ("TZ=Asia/Ho_Chi_Minh 0 0 3 * * 1", "has 7 fields")])
def test_expressions_that_are_not_valid_are_refused(cron, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        Trigger(cron=cron)


@pytest.mark.parametrize("text, seconds, said", [("30m", 1800, "every 30m"), ("6h", 21600, "every 6h"),
                                                 ("1d", 86400, "every 1d"), ("90m", 5400, "every 90m"),
                                                 ("24h", 86400, "every 1d")])
def test_intervals(text, seconds, said):
    assert (every(text).seconds, str(every(text))) == (seconds, said)


@pytest.mark.parametrize("text", ["", "0h", "1", "h", "1.5h", "-1h", "30s", "1w", "6 h"])
def test_what_is_no_interval_is_refused(text):
    with pytest.raises(ConfigError, match="30m, 6h, 1d"):
        every(text)


def test_an_interval_counts_from_the_last_run_and_is_never_past():
    trigger = every("6h")
    assert trigger.following(NOON - timedelta(hours=2), NOON) == NOON + timedelta(hours=4)
    assert trigger.following(NOON - timedelta(hours=20), NOON) == NOON


@pytest.mark.parametrize("given", [{}, {"cron": "0 0 3 * * 1", "seconds": 60}, {"seconds": -1}])
def test_a_trigger_is_one_of_both(given):
    with pytest.raises(ConfigError, match="give one of both"):
        Trigger(**given)
