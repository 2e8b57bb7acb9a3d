"""The clock of the kernel's half: CLOCK_BOOTTIME, which runs while the machine sleeps and which nobody can set."""

from __future__ import annotations

import time


def now_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)
