"""Waiting for records to become readable: told at once by this process, found by looking when another one appends."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from jlogd.journal.view import View

# Another process's appends are noticed by looking; the pause between looks grows from the first to the second.
LOOK_SECONDS_MIN = 0.001
LOOK_SECONDS_MAX = 0.02


def _never() -> bool:
    return False


def wait_for(
    view: View,
    sequence: int,
    timeout: float,
    published: threading.Condition | None = None,
    closed: Callable[[], bool] = _never,
) -> bool:
    """Wait until record `sequence` can be read, at most `timeout` seconds; whether it can.

    `published` is notified when this process appended; it cuts the pause between two looks short.
    """
    published = published or threading.Condition()
    deadline = time.monotonic() + timeout
    pause = LOOK_SECONDS_MIN
    while True:
        with published:
            # The look and the wait are one step, so that an append in between is not missed.
            head = view.head()
            if head is not None and head.visible > sequence:
                return True
            left = deadline - time.monotonic()
            if left <= 0 or closed():
                return False
            published.wait(min(left, pause))
        pause = min(pause * 2, LOOK_SECONDS_MAX)
