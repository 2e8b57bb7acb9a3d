"""Feeds from a journal in this process: named, which holds a subscriber, and ephemeral, which holds nothing."""

from __future__ import annotations

from collections.abc import Callable

from jlogd.journal.batch import Batch, Gap
from jlogd.journal.cursor import Cursor, locate
from jlogd.journal.journal import Journal
from jlogd.journal.subscribers import Hold
from jlogd.journal.types import Start
from jlogd.journal.view import View
from jlogd.journal.wait import wait_for


class NamedFeed:
    """Feeds the one consumer of a named subscriber."""

    def __init__(self, journal: Journal, hold: Hold, release: Callable[[], None]) -> None:
        """`release` is called once, when the feed is closed."""
        self._journal = journal
        self._hold = hold
        self._release: Callable[[], None] | None = release

    def fetch(self, max_bytes: int, timeout: float) -> list[Batch | Gap]:
        items = self._hold.read(max_bytes)
        if not items and timeout and self._journal.wait(self._hold.cursor.next, timeout):
            items = self._hold.read(max_bytes)
        return items

    def checkpoint(self, sequence: int) -> None:
        self._hold.checkpoint(sequence)

    def close(self) -> None:
        release, self._release = self._release, None
        if release is not None:
            self._hold.release()
            release()


class EphemeralFeed:
    """Feeds a reader without a name: it needs no lock, holds no data back, and leaves nothing behind."""

    def __init__(self, view: View, start: Start) -> None:
        self._view = view
        self._cursor = Cursor(view, locate(view, start))

    def fetch(self, max_bytes: int, timeout: float) -> list[Batch | Gap]:
        items = self._cursor.read(max_bytes)
        if not items and timeout and wait_for(self._view, self._cursor.next, timeout):
            items = self._cursor.read(max_bytes)
        return items

    def checkpoint(self, sequence: int) -> None:
        """There is nothing to remember."""

    def close(self) -> None:
        self._cursor.close()
