"""The only place that reads clocks. Everything else gets the time handed in.

CLOCK_BOOTTIME, in nanoseconds: it runs while the machine sleeps, nobody sets it, and the kernel's gate reads the same.
The wall clock is for people (history, the end of a pin) and decides nothing that could be unsafe.
"""

from __future__ import annotations

import time
from datetime import datetime

SECOND = 10**9
MILLISECOND = 10**6


def boot_ns() -> int:
    """Nanoseconds since the machine started, asleep or not."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def wall_seconds() -> float:
    """Seconds since 1970, for people."""
    return time.time()


def wall_text(at: float, timespec: str = "seconds") -> str:
    """Seconds since 1970 as people here read them."""
    return datetime.fromtimestamp(at).astimezone().isoformat(timespec=timespec)


def ns(seconds: float) -> int:
    """Seconds as nanoseconds."""
    return round(seconds * SECOND)


def seconds(nanoseconds: int) -> float:
    """Nanoseconds as seconds."""
    return nanoseconds / SECOND
