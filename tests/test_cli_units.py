"""Numbers with units, places in a log, and how they are shown."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jlogd.cli import units
from jlogd.errors import UsageError

NOW = datetime(2024, 5, 1, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("begin", "begin"),
        ("END", "end"),
        ("0", 0),
        ("42", 42),
        ("-10", -10),
        ("-0", "end"),
        ("-2h", NOW - timedelta(hours=2)),
        ("-1d12h", NOW - timedelta(days=1, hours=12)),
        ("-500ms", NOW - timedelta(milliseconds=500)),
        ("2024-05-01T10:00:00Z", NOW - timedelta(hours=2)),
        ("2024-05-01T12:00:00+02:00", NOW - timedelta(hours=2)),
        ("20240501", 20240501),
    ],
)
def test_places(text: str, expected: object) -> None:
    assert units.parse_start(text, NOW) == expected


def test_a_time_without_zone_is_local() -> None:
    assert units.parse_start("2024-05-01 10:00") == datetime(2024, 5, 1, 10).astimezone(UTC)
    assert units.parse_start("2024-05-01") == datetime(2024, 5, 1).astimezone(UTC)


@pytest.mark.parametrize(
    "text", ["", "yesterday", "+2h", "--5", "-2x", "1.5", "2024-13-01", "9" * 30, "9" * 5000, "0001-01-01", "-", "٣x"]
)
def test_what_is_no_place_says_what_is_accepted(text: str) -> None:
    try:
        units.parse_start(text)
    except UsageError as error:
        assert "no place in a log" in str(error) and "-2h" in str(error)
    else:
        assert text == "0001-01-01"  # a time, only a very early one


def test_a_number_beyond_all_sequence_numbers_is_refused() -> None:
    with pytest.raises(UsageError, match="larger than any sequence number"):
        units.parse_start(str(1 << 63))


def test_sizes_and_durations_are_those_of_the_configuration() -> None:
    assert units.size("64MiB") == 64 << 20
    assert units.size("4096") == 4096
    assert units.size("10GB") == 10**10
    assert units.duration("1h30m") == 5400
    for read, text in ((units.size, "64M"), (units.size, "much"), (units.duration, "90"), (units.duration, "soon")):
        with pytest.raises(UsageError, match="is not accepted; write a "):
            read(text)


@pytest.mark.parametrize(
    ("size", "shown"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1 KiB"), (1536, "1.5 KiB"), (64 << 20, "64 MiB"), (5 << 50, "5 PiB")],
)
def test_sizes_shown(size: int, shown: str) -> None:
    assert units.format_size(size) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0s"),
        (0.04, "40ms"),
        (12.34, "12.3s"),
        (5, "5s"),
        (65, "1m 5s"),
        (3600, "1h"),
        (3605, "1h"),
        (90061, "1d 1h"),
        (-3, "0s"),
    ],
)
def test_durations_shown(seconds: float, shown: str) -> None:
    assert units.format_duration(seconds) == shown


@given(st.floats(min_value=0, max_value=1e12))
def test_anything_can_be_shown(number: float) -> None:
    assert units.format_duration(number)
    assert units.format_size(number)
    assert units.format_rate(number, number)


def test_times_sort_as_text_and_counts_have_their_plural() -> None:
    assert units.iso_time(0) == "1970-01-01T00:00:00.000000Z"
    assert units.iso_time(1_714_557_600_123_456_789) == "2024-05-01T10:00:00.123456Z"
    assert units.counted(1, "record") == "1 record"
    assert units.counted(2000, "record") == "2,000 records"
    assert units.counted(0, "log") == "0 logs"
