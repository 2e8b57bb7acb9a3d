"""The subscriber: an iterator over a log's batches and gaps, from where it left off.

    for batch in log.subscriber("master", follow=True):
        for record in batch:
            ...
        batch.checkpoint()

What was not checkpointed comes again: at least once, in order. Memory is bounded by what one fetch returns.
"""

from __future__ import annotations

import os
import queue
import threading
import weakref
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from typing import Protocol

from jlogd.errors import Closed, JlogError
from jlogd.journal.batch import Batch, Gap

# The logger on which a daemon that is lost, and one that is back, is news: for whoever waits at a terminal.
NEWS = "jlogd.subscriber"
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
        if not _closer_started.is_set():
            _closer_started.set()
            _start_closer()
        self._checkpointer = partial(_checkpoint, weakref.ref(self))
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
        self._check_open()
        items = self._feed.fetch(max_bytes, timeout)
        for item in items:
            item.bind(self._checkpointer)
        return items

    def checkpoint(self, sequence: int) -> None:
        """Everything below `sequence` is done with. Raises `UsageError` for a number that was not delivered yet."""
        self._check_open()
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
        # The collector may run in any thread, whatever locks it holds: here nothing may wait.
        if not getattr(self, "_closed", True):
            self._closed = True
            _abandoned.put(self._feed)
            _look.put(None)

    def _check_open(self) -> None:
        if self._closed:
            raise Closed("the subscriber was closed")


def _checkpoint(subscriber: weakref.ref[Subscriber], sequence: int) -> None:
    """What a batch calls. It does not keep its subscriber: who dropped that gave the name up."""
    found = subscriber()
    if found is None:
        raise Closed("the subscriber of this batch is gone; keep it in a variable for as long as you checkpoint")
    found.checkpoint(sequence)


def close_abandoned() -> None:
    """Close the feeds of subscribers that were dropped without being closed; all of them are when this returns."""
    with _closing:  # what another thread took is closed as well then
        while True:
            try:
                feed = _abandoned.get_nowait()
            except queue.Empty:
                return
            with suppress(JlogError, OSError):
                feed.close()


def _close_for_ever() -> None:
    while True:
        _look.get()
        close_abandoned()


def _start_closer() -> None:
    global _abandoned, _look, _closing
    _abandoned, _look, _closing = queue.SimpleQueue(), queue.SimpleQueue(), threading.RLock()
    threading.Thread(target=_close_for_ever, name="jlogd abandoned subscribers", daemon=True).start()


_abandoned: queue.SimpleQueue[Feed] = queue.SimpleQueue()
_look: queue.SimpleQueue[None] = queue.SimpleQueue()  # one for each of them, for the closer
_closing = threading.RLock()  # the collector may drop a subscriber, and whatever that leads to, in the midst of a close
_closer_started = threading.Event()
os.register_at_fork(after_in_child=_closer_started.clear)
