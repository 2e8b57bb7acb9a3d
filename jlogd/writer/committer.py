"""Group commit: one thread that turns whatever is queued into one append and one sync.

While a sync is under way, batches queue up; the next commit takes all of them. So the groups grow with the load and
stay small when there is none, and nobody waits for a timer.

Locking: `_changed` guards the queue. `done` is called from the committer's thread with nothing held.
"""

from __future__ import annotations

import logging
import threading
from collections import deque

from jlogd.errors import Closed, JlogError, LogFailed
from jlogd.journal.batch import Batch
from jlogd.journal.journal import Journal
from jlogd.journal.types import Receipt
from jlogd.writer.sink import Done

# One commit is written with one call and acknowledged at once: larger ones only delay the acknowledgement.
GROUP_BYTES_MAX = 8 << 20
# How often what only time makes due is looked after: syncs of the policy `interval`, pruning by age.
MAINTAIN_SECONDS = 1.0

log = logging.getLogger(__name__)


class Committer:
    """The thread that appends to one journal. `submit` may be called from any thread."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self._queue: deque[tuple[Batch, Done]] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name=f"commit {journal.name}", daemon=True)
        self._thread.start()

    def submit(self, batch: Batch, done: Done) -> None:
        """Queue a batch; `done` gets its receipt or the error. Raises `Closed`."""
        with self._changed:
            if self._closing:
                raise Closed(f"{self.journal.name} is being closed")
            self._queue.append((batch, done))
            if len(self._queue) == 1:
                self._changed.notify()

    def close(self) -> None:
        """Commit what is queued, then stop the thread. The journal stays open."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        while True:
            group = self._take(self._pause())
            if group is None:
                return
            if group:
                self._commit(group)
            else:
                self._maintain()

    def _pause(self) -> float:
        _, found, interval = self.journal.settings.durability.partition("=")
        if not found:
            return MAINTAIN_SECONDS
        return (
            float(interval.removesuffix("ms")) / 1000 if interval.endswith("ms") else float(interval.removesuffix("s"))
        )

    def _take(self, pause: float) -> list[tuple[Batch, Done]] | None:
        """The next group; empty after a pause without one, None when closed and done."""
        with self._changed:
            if not self._queue and not self._closing:
                self._changed.wait(pause)
            if not self._queue:
                return None if self._closing else []
            group: list[tuple[Batch, Done]] = []
            size = 0
            while self._queue and (not group or size + self._queue[0][0].size <= GROUP_BYTES_MAX):
                group.append(self._queue.popleft())
                size += group[-1][0].size
            return group

    def _commit(self, group: list[tuple[Batch, Done]]) -> None:
        outcomes: list[Receipt | JlogError]
        try:
            outcomes = self.journal.commit([batch for batch, _ in group])
        except JlogError as error:
            outcomes = [error] * len(group)
        except Exception as error:
            # A defect, not a fault that is known: the producers must hear of it, and later batches must be tried.
            log.exception("%s: the commit of %d batches ended unexpectedly", self.journal.name, len(group))
            outcomes = [LogFailed(f"{self.journal.name}: {error!r}; see the daemon's log")] * len(group)
        for (_, done), outcome in zip(group, outcomes, strict=True):
            done(outcome)

    def _maintain(self) -> None:
        try:
            self.journal.maintain()
        except (JlogError, OSError) as error:
            log.warning("%s: %s", self.journal.name, error)
