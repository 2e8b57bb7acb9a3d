"""The subscriber: an iterator over a log's batches and gaps, from where it left off.

    for batch in log.subscriber("master", follow=True):
        for record in batch:
            ...
        batch.checkpoint()

What was not checkpointed comes again: at least once, in order. Memory is bounded by what one fetch returns.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Protocol

from jlogd.journal.batch import Batch, Gap

# One fetch: large enough that its overhead vanishes, small enough for many subscribers in one process.
FETCH_BYTES = 1 << 20
# How long a following subscriber waits before it looks whether it was told to stop.
STOP_CHECK_SECONDS = 0.2


class Feed(Protocol):
    """Where a subscriber's batches come from: a journal in this process, or a daemon."""

    def fetch(self, max_bytes: int, timeout: float) -> list[Batch | Gap]:
        """What comes next, about `max_bytes` of it; empty when nothing came within `timeout` seconds."""

    def checkpoint(self, sequence: int) -> None:
        """Everything below `sequence` is done with."""

    def close(self) -> None:
        """Let another consumer have the name."""


class Subscriber:
    """Iterate over it for `Batch` and `Gap` objects; close it, or use it as a context manager.

    It belongs to one thread at a time; `stop` may be called from anywhere.
    """

    def __init__(self, feed: Feed, *, follow: bool = False, stop: threading.Event | None = None) -> None:
        """`follow`: wait for more at the end of the log, until `stop` is set. Otherwise the end of the log ends it."""
        self._feed = feed
        self._follow = follow
        self._stop = stop or threading.Event()
        self._closed = False

    def __iter__(self) -> Iterator[Batch | Gap]:
        while not self._stop.is_set():
            items = self.fetch(STOP_CHECK_SECONDS if self._follow else 0.0)
            if not items and not self._follow:
                return
            for item in items:
                yield item
                if self._stop.is_set():
                    return

    def fetch(self, timeout: float = 0.0, max_bytes: int = FETCH_BYTES) -> list[Batch | Gap]:
        """What comes next, waiting at most `timeout` seconds for it: for those who want whole batches in hand."""
        items = self._feed.fetch(max_bytes, timeout)
        for item in items:
            item.bind(self._feed.checkpoint)
        return items

    def checkpoint(self, sequence: int) -> None:
        """Everything below `sequence` is done with. Raises `UsageError` for a number that was not delivered yet."""
        self._feed.checkpoint(sequence)

    def stop(self) -> None:
        """End the iteration soon."""
        self._stop.set()

    def close(self) -> None:
        """Let another consumer have the name. A second call does nothing."""
        if not self._closed:
            self._closed = True
            self._stop.set()
            self._feed.close()

    def __enter__(self) -> Subscriber:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_closed"):
            self.close()
