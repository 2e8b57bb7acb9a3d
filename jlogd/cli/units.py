"""Numbers as people write and read them: sizes, durations, counts, and where to start reading.

Sizes and durations are read as the configuration reads them. Pure functions; a word that is not understood is a
`UsageError` that says what is accepted.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from jlogd.daemon import units
from jlogd.errors import UsageError
from jlogd.journal.batch import SEQUENCE_MAX
from jlogd.journal.types import Start

N = TypeVar("N", bound=float)

START_WORDS = "begin, end, a sequence number, -N (N records before the end), or a time: 2024-05-01T12:00, -2h"


def size(text: str) -> int:
    """Bytes in `text`, as the configuration writes them: 4096, 64MiB, 10GB."""
    return int(_accepted(units.parse_size, text))


def duration(text: str) -> float:
    """Seconds in `text`, as the configuration writes them: 500ms, 30s, 1h30m, 7d."""
    return float(_accepted(units.parse_duration, text))


def _accepted(parse: Callable[[str | int], N], text: str) -> N:
    try:
        return parse(text)
    except ValueError as error:
        raise UsageError(f"{text!r} is not accepted; write {error}") from None


def parse_start(text: str, now: datetime | None = None) -> Start:
    """Where to start reading: "begin", "end", a sequence number, minus a number of records before the end, or a time.

    Digits alone are a sequence number. A time without an offset is local time; `-2h` is two hours ago.
    """
    word = text.strip()
    if word.lower() == "begin":
        return "begin"
    if word.lower() == "end":
        return "end"
    if word == "-0":
        return "end"
    if re.fullmatch(r"-?[0-9]{1,20}", word):
        number = int(word)
        if abs(number) >= SEQUENCE_MAX:
            raise UsageError(f"{text!r} is larger than any sequence number")
        return number
    if word.startswith("-"):
        with suppress(ValueError):
            return (now or datetime.now(UTC)) - timedelta(seconds=units.parse_duration(word[1:]))
    try:
        return datetime.fromisoformat(word).astimezone(UTC)
    except (ValueError, OverflowError):
        raise UsageError(f"{text!r} is no place in a log; write {START_WORDS}") from None


def format_size(count: float) -> str:
    """1.5 MiB."""
    if abs(count) < 1024:
        return f"{count:.0f} B"
    for unit in ("KiB", "MiB", "GiB", "TiB", "PiB"):
        count /= 1024
        if abs(count) < 1023.95 or unit == "PiB":
            break
    return f"{count:.1f} {unit}".replace(".0 ", " ")


def format_count(count: float) -> str:
    """1,234,567."""
    return f"{count:,.0f}"


def format_duration(seconds: float) -> str:
    """The two largest units: 3d 4h, 2m 5s, 12.3s, 40ms."""
    if seconds < 0.0005:
        return "0s"
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    if seconds < 60:
        return f"{seconds:.1f}s".replace(".0s", "s")
    rest = round(seconds)
    parts: list[str] = []
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        number, rest = divmod(rest, length)
        if number or parts:
            parts.append(f"{number}{unit}" if number else "")
    return " ".join(part for part in parts[:2] if part)


def format_rate(records: float, total: float) -> str:
    """12,345 records/s, 1.2 MiB/s."""
    shown = format_count(records) if records >= 10 or records == 0 else f"{records:.1f}"
    return f"{shown} records/s, {format_size(total)}/s"


def iso_time(nanoseconds: int) -> str:
    """A time of the log (ns since 1970) in UTC with microseconds, which sorts as text."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    moment = datetime.fromtimestamp(seconds, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{rest // 1000:06d}Z"


def counted(count: int, noun: str) -> str:
    """1 record, 2,000 records."""
    return f"{format_count(count)} {noun}" + ("" if count == 1 else "s")
