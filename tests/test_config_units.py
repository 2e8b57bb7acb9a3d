"""Sizes and durations, as they are written and shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jlogd.daemon.units import Duration, Size, duration_text, parse_duration, parse_size, size_text


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("64MiB", 64 << 20),
        ("10GB", 10**10),
        ("1.5KiB", 1536),
        ("512", 512),
        (512, 512),
        ("7 kb", 7000),
        ("0", 0),
        ("none", 0),
        ("2TiB", 2 << 40),
        ("9b", 9),
    ],
)
def test_sizes(text: str | int, size: int) -> None:
    assert parse_size(text) == size and isinstance(parse_size(text), Size)


@pytest.mark.parametrize(
    "text", ["", "MiB", "-1", -1, "1.5", "64M", "1e3", "1 2", "\u0663", "9" * 30, 1 << 61, True, 1.0, None]
)
def test_wrong_sizes(text: object) -> None:
    with pytest.raises(ValueError, match=r'a size such as "64MiB" or "10GB"'):
        parse_size(text)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("500ms", 0.5),
        ("30s", 30),
        ("1h30m", 5400),
        ("7d", 604800),
        ("1.5h", 5400),
        ("2w", 1209600),
        ("100us", 0.0001),
        ("0", 0),
        (0, 0),
        ("none", 0),
        (" 5 s ", 5),
    ],
)
def test_durations(text: str | int, seconds: float) -> None:
    assert parse_duration(text) == seconds and isinstance(parse_duration(text), Duration)


@pytest.mark.parametrize("text", ["", "5", 5, "-1s", "s", "1h 30", "1y", "5S", "\u0661s", "9" * 18 + "d", 0.5, None])
def test_wrong_durations(text: object) -> None:
    with pytest.raises(ValueError, match='a duration such as "500ms"'):
        parse_duration(text)  # type: ignore[arg-type]


@given(st.integers(0, 1 << 60))
def test_a_size_survives_its_text(size: int) -> None:
    assert parse_size(size_text(size)) == size and str(Size(size)) == size_text(size)


@given(st.integers(0, 10**14))
def test_a_duration_survives_its_text(microseconds: int) -> None:
    assert parse_duration(duration_text(microseconds / 1e6)) == microseconds / 1e6
