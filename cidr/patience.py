"""How long an answer is still waited for. A thread cannot be stopped; work that looks here ends by itself.

A server says when it stops waiting, in the thread that works; planning and adding up ask before each step. Elsewhere
nothing was said, and nothing is asked.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from cidr.errors import GaveUp

T = TypeVar("T")
_here = threading.local()


def work_until(deadline: float, work: Callable[[], T]) -> T:
    """What `work` returns; `check` raises in it once `time.monotonic()` is past the deadline."""
    _here.deadline = deadline
    try:
        return work()
    finally:
        _here.deadline = None


def check() -> None:
    """Raises GaveUp when nobody waits any more."""
    deadline = getattr(_here, "deadline", None)
    if deadline is not None and time.monotonic() > deadline:
        raise GaveUp("it took too long: ask about less time or a smaller block")
