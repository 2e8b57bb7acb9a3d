"""Sizes and durations as people write them: `64MiB`, `10GB`, `500ms`, `1h30m`.

A size is a whole number of bytes. `KiB MiB GiB TiB` are powers of 1024 and `KB MB GB TB` powers of 1000; upper and
lower case are the same. `64M` is refused, because half of the world reads it one way and half the other. A bare
number is bytes.

A duration is held in seconds. Every number needs a unit (`us ms s m h d w`) and units may follow each other
(`1d12h`). A bare number is refused, because nobody can tell whether it is seconds or milliseconds; only 0 needs no
unit.

`none` and 0 mean "no limit" where a setting allows that. Both parsers are exact: they compute in integers (bytes,
nanoseconds).
"""

from __future__ import annotations

import re
from decimal import Decimal

_SIZE_UNITS = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 1 << 10,
    "mib": 1 << 20,
    "gib": 1 << 30,
    "tib": 1 << 40,
}
_DURATION_UNITS_NS = {
    "us": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
    "d": 86400 * 10**9,
    "w": 7 * 86400 * 10**9,
}
# Numbers of at most 19 digits: no setting needs more, and nothing is ever computed from a megabyte of digits.
_NUMBER = r"[0-9]{1,19}(?:\.[0-9]{1,9})?"
_SIZE = re.compile(rf"({_NUMBER})[ ]?([A-Za-z]{{0,3}})", re.ASCII)
_DURATION = re.compile(rf"({_NUMBER})[ ]?(us|ms|s|m|h|d|w)", re.ASCII)
# Beyond any disk and any patience, and both fit a signed 64-bit number of bytes or nanoseconds.
SIZE_BYTES_MAX = 1 << 60
DURATION_SECONDS_MAX = 100 * 365 * 86400
_TEXT_MAX = 64

SIZE_ACCEPTED = 'a size such as "64MiB" or "10GB"'
DURATION_ACCEPTED = 'a duration such as "500ms", "30s", "1h30m" or "7d"'


class Size(int):
    """A number of bytes; its text form is the shortest exact one (`64MiB`)."""

    def __str__(self) -> str:
        return size_text(self)

    def __repr__(self) -> str:
        return f"Size({size_text(self)!r})"


class Duration(float):
    """A number of seconds; its text form is that of the configuration (`1h30m`)."""

    def __str__(self) -> str:
        return duration_text(self)

    def __repr__(self) -> str:
        return f"Duration({duration_text(self)!r})"


def parse_size(text: str | int) -> Size:
    """`"64MiB"` -> 67108864. `"none"` -> 0. Raises ValueError saying what is accepted."""
    if isinstance(text, bool) or not isinstance(text, str | int):
        raise ValueError(SIZE_ACCEPTED)
    if isinstance(text, int):
        return _bounded_size(text)
    if text.strip().lower() == "none":
        return Size(0)
    match = _SIZE.fullmatch(text.strip()) if len(text) <= _TEXT_MAX else None
    factor = _SIZE_UNITS.get(match[2].lower()) if match else None
    if match is None or factor is None:
        if match is not None and match[2].lower() in ("k", "m", "g", "t"):
            unit = match[2].upper()
            raise ValueError(
                f'{SIZE_ACCEPTED}; write "{match[1]}{unit}iB" (powers of 1024) or "{match[1]}{unit}B" (1000)'
            )
        raise ValueError(SIZE_ACCEPTED)
    size = Decimal(match[1]) * factor
    if size != int(size):
        raise ValueError(f"{SIZE_ACCEPTED} that is a whole number of bytes")
    return _bounded_size(int(size))


def _bounded_size(size: int) -> Size:
    if not 0 <= size <= SIZE_BYTES_MAX:
        raise ValueError(f"{SIZE_ACCEPTED}, at most {size_text(SIZE_BYTES_MAX)}")
    return Size(size)


def parse_duration(text: str | int) -> Duration:
    """`"1h30m"` -> 5400.0 seconds. `"none"` and 0 -> 0. Raises ValueError saying what is accepted."""
    if isinstance(text, int) and not isinstance(text, bool):
        if text == 0:
            return Duration(0)
        raise ValueError(f"{DURATION_ACCEPTED}; a number needs a unit")
    if not isinstance(text, str):
        raise ValueError(DURATION_ACCEPTED)
    stripped = text.strip()
    if stripped.lower() == "none" or stripped == "0":
        return Duration(0)
    if not stripped or len(text) > _TEXT_MAX:
        raise ValueError(DURATION_ACCEPTED)
    total_ns, at = Decimal(0), 0
    while at < len(stripped):
        match = _DURATION.match(stripped, at)
        if match is None:
            raise ValueError(DURATION_ACCEPTED)
        total_ns += Decimal(match[1]) * _DURATION_UNITS_NS[match[2]]
        at = match.end()
    seconds = float(total_ns / 10**9)
    if seconds > DURATION_SECONDS_MAX:
        raise ValueError(f"{DURATION_ACCEPTED}, at most {duration_text(DURATION_SECONDS_MAX)}")
    return Duration(seconds)


def size_text(size: int) -> str:
    """The shortest exact text: the largest unit that divides it. `parse_size(size_text(n)) == n`."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        factor = _SIZE_UNITS[unit.lower()]
        if size and size % factor == 0:
            return f"{size // factor}{unit}"
    return str(int(size))


def duration_text(seconds: float) -> str:
    """`5400.0` -> `1h30m`, `0.5` -> `500ms`; exact to the microsecond."""
    left_ns = round(float(seconds) * 10**6) * 10**3
    if left_ns <= 0:
        return "0"
    parts = []
    for unit in ("d", "h", "m", "s", "ms", "us"):
        count, left_ns = divmod(left_ns, _DURATION_UNITS_NS[unit])
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts)
