"""Group commit: one thread that turns whatever is queued into one append and one sync.

While a sync is under way, batches queue up; the next commit takes all of them. So the groups grow with the load and
stay small when there is none. A lone producer never waits for company.

Locking: `_changed` guards the queue and who is busy: the thread, or a caller that commits its own batches. `done` is
called by whoever commits, with nothing held.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence

from jlogd.errors import Closed, JlogError, LogFailed
from jlogd.journal.batch import Batch
from jlogd.journal.journal import Journal
from jlogd.journal.types import Receipt
from jlogd.writer.sink import Done

# One commit is written with one call and acknowledged at once: larger ones only delay the acknowledgement.
GROUP_BYTES_MAX = 8 << 20
# How often what only time makes due is looked after: syncs of the policy `interval`, pruning by age.
MAINTAIN_SECONDS = 1.0

# How often a log whose disk failed is tried again.
TRY_AGAIN_SECONDS = 1.0

# The most a batch waits for others to share its sync with.
GATHER_SECONDS_MAX = 0.002

Item = tuple[Batch, Done]

log = logging.getLogger(__name__)


class Committer:
    """The thread that appends to one journal. Methods may be called from any thread."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self._queue: deque[Item] = deque()
        self._changed = threading.Condition()
        self._busy = False  # someone commits
        self._impatient = False  # the thread waits for whoever is busy
        self._closing = False
        self._wanted = 1  # batches that are worth waiting a moment for: one of each producer heard lately
        self._heard: tuple[frozenset[int], frozenset[int]] = (frozenset(), frozenset())
        self._commit_seconds = 0.0
        self._try_at = 0.0
        self._thread = threading.Thread(target=self._run, name=f"commit {journal.name}", daemon=True)
        self._thread.start()

    def submit(self, batch: Batch, done: Done) -> None:
        """Queue a batch; `done` gets its receipt or the error. Raises `Closed`."""
        with self._changed:
            self._check_open()
            self._queue.append((batch, done))
            if len(self._queue) in (1, self._wanted):
                self._changed.notify_all()

    def commit_here(self, items: Sequence[Item]) -> None:
        """Commit in the calling thread when nobody else does, which spares two hand-overs; queue otherwise.

        `done` may be called before this returns. Raises `Closed`.
        """
        busy = False
        try:
            with self._changed:
                self._check_open()
                if self._busy or self._queue:
                    self._queue.extend(items)
                    self._changed.notify_all()
                    return
                busy = self._busy = True  # the name first: an interrupt in between must not leave us busy
            self._commit(list(items))
        finally:
            if busy:
                self._free()

    def close(self) -> None:
        """Commit what is queued, then stop the thread. The journal stays open."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _check_open(self) -> None:
        if self._closing:
            raise Closed(f"{self.journal.name} is being closed")

    def _run(self) -> None:
        while True:
            group = self._take(self._pause())
            if group is None:
                return
            try:
                if group:
                    self._commit(group)
                else:
                    self._maintain()
            finally:
                self._free()

    def _free(self) -> None:
        with self._changed:
            self._busy = False
            if self._queue or self._closing or self._impatient:
                self._changed.notify_all()

    def _pause(self) -> float:
        _, found, interval = self.journal.settings.durability.partition("=")
        if not found:
            return MAINTAIN_SECONDS
        return (
            float(interval.removesuffix("ms")) / 1000 if interval.endswith("ms") else float(interval.removesuffix("s"))
        )

    def _take(self, pause: float) -> list[Item] | None:
        """The next group, and the right to commit; empty after a pause without one, None when closed and done."""
        with self._changed:
            if not self._queue and not self._closing:
                self._changed.wait(pause)
            self._wait_until_free()
            if not self._queue:
                self._busy = not self._closing
                return None if self._closing else []
            self._gather()
            self._busy = True
            group: list[Item] = []
            size = 0
            while self._queue and (not group or size + self._queue[0][0].size <= GROUP_BYTES_MAX):
                group.append(self._queue.popleft())
                size += group[-1][0].size
            return group

    def _gather(self) -> None:
        """Give producers that were just answered a moment to send again: their batches share the sync.

        Without it, producers that each wait for their answer split into two groups that take turns: whoever misses a
        sync by a little waits for all of the next one. Half the time of a commit is never lost by more than a quarter.
        """
        deadline = time.monotonic() + min(self._commit_seconds / 2, GATHER_SECONDS_MAX)
        while len(self._queue) < self._wanted and not self._busy and not self._closing:
            left = deadline - time.monotonic()
            if left <= 0:
                break
            self._changed.wait(left)
        self._wait_until_free()

    def _wait_until_free(self) -> None:
        self._impatient = True
        while self._busy:
            self._changed.wait()
        self._impatient = False

    def _commit(self, group: list[Item]) -> None:
        """Append a group and tell everybody. Called by whoever is busy."""
        started = time.monotonic()
        batches = [batch for batch, _ in group]
        outcomes: list[Receipt | JlogError]
        try:
            self._try_again()
            outcomes = self.journal.commit(batches)
        except JlogError as error:
            outcomes = [error] * len(group)
        except Exception as error:
            # A defect, not a fault that is known: the producers must hear of it, and later batches must be tried.
            log.exception("%s: the commit of %d batches ended unexpectedly", self.journal.name, len(group))
            outcomes = [LogFailed(f"{self.journal.name}: {error!r}; see the daemon's log")] * len(group)
        self._heard = (frozenset(batch.producer for batch in batches), self._heard[0])
        self._wanted = max(1, len(self._heard[0] | self._heard[1]))
        self._commit_seconds = time.monotonic() - started
        for (_, done), outcome in zip(group, outcomes, strict=True):
            try:
                done(outcome)
            except Exception:
                log.exception("%s: telling the outcome of a batch", self.journal.name)

    def _try_again(self) -> None:
        """Go on when the disk does. Whoever was refused sends again, or not: as after a restart."""
        if not self.journal.failed:
            self._try_at = time.monotonic() + TRY_AGAIN_SECONDS
        elif time.monotonic() >= self._try_at:
            self._try_at = time.monotonic() + TRY_AGAIN_SECONDS
            if self.journal.try_again():
                log.info("%s accepts records again", self.journal.name)

    def _maintain(self) -> None:
        try:
            self._try_again()
            self.journal.maintain()
        except (JlogError, OSError) as error:
            log.warning("%s: %s", self.journal.name, error)
        except Exception:
            # A defect, as above: without this thread the log would take nothing more, and nobody would be told.
            log.exception("%s: looking after the log ended unexpectedly", self.journal.name)
