"""Arithmetic of the benchmarks: medians over rounds, percentiles of latencies, and the records that are appended."""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence

# Latencies kept per slot; a thinned sample beyond that.
LATENCIES_MAX = 20_000
_PREFIX = b"2026-01-01T00:00:00.000000+00:00 host1 app[4242]: "


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value below which `share` of an ascending sequence lies; 0 for none."""
    if not ordered:
        return 0.0
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def median(values: Sequence[float]) -> float:
    """The median; 0 for none."""
    return statistics.median(values) if values else 0.0


def thin(values: list[float], limit: int = LATENCIES_MAX) -> list[float]:
    """At most `limit` of the values, evenly chosen."""
    return values if len(values) <= limit else values[:: len(values) // limit + 1]


def make_records(record_bytes: int, count: int) -> list[bytes]:
    """Log lines of one length: a common beginning and then hex digits, which compress about 2:1 like real lines."""
    digits = os.urandom((record_bytes // 2 + 1) * count).hex().encode()
    step = record_bytes - len(_PREFIX)
    if step <= 0:
        return [digits[at * record_bytes : (at + 1) * record_bytes] for at in range(count)]
    return [_PREFIX + digits[at * step : (at + 1) * step] for at in range(count)]


def number(value: float) -> str:
    """A rate for people: three digits and a unit."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g}"


def duration(seconds: float) -> str:
    """A time for people: three digits and a unit."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"
