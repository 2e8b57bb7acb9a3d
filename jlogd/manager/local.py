"""A log of this very process, as one subscriber: the same parcels as from a node, without a network.

A thread for each: it reads the journal, hands over, and checkpoints what was committed. What was read and not yet
written is bounded by HELD_BYTES. As with a node, a log whose numbers went back, or whose last batch is another one than
was written, stops it until a person decides.

Locking: `_changed` guards what the rounds tell (held bytes, the state) and the decision; the rest is the thread's.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from jlogd.errors import JlogError, SubscriberExists
from jlogd.journal.batch import Batch
from jlogd.journal.journal import Journal
from jlogd.journal.subscribers import Hold
from jlogd.manager.follow import unseen
from jlogd.manager.ledger import SourceState
from jlogd.manager.parcel import Mark, Parcel, Source, mark_line

_log = logging.getLogger("jlogd.manager")

READ_BYTES = 1 << 20
# Of one log, read and not yet written.
HELD_BYTES = 8 << 20
# How long the thread waits before it looks whether it was told something.
WAIT_SECONDS = 0.2
RETRY_SECONDS_MIN = 0.5
RETRY_SECONDS_MAX = 30.0
STOP_SECONDS = 10.0


class LocalPull:
    """See the module's text. `committed`, `again`, `resume` and the attributes may be used from any thread."""

    def __init__(
        self, journal: Callable[[], Journal], source: Source, put: Callable[[Parcel], None], state: SourceState | None
    ) -> None:
        """`journal` gives the open journal of the log."""
        self.source = source
        self.error = ""
        self.stopped = False  # a person must decide
        self.streaming = False  # it is the log that was written before, or goes on as a person decided
        self._journal = journal
        self._put = put
        self._state = state
        self._next = state.next if state is not None else None
        self._decided = False
        self._restarts = 0  # how often it had begun anew when it was compared
        self._held = 0
        self._reread = False
        self._changed = threading.Condition()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"jlogd text {source.origin.log}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Read nothing more; what was handed over is still committed."""
        self._ending.set()
        with self._changed:
            self._changed.notify_all()

    def join(self) -> None:
        """Wait until the name is free."""
        if self._thread.ident is not None:
            self._thread.join(STOP_SECONDS)

    def committed(self, parcel: Parcel, state: SourceState) -> None:
        """A parcel is in the ledger."""
        with self._changed:
            self._held -= parcel.bytes
            self._state = state
            self._changed.notify_all()

    def again(self, state: SourceState | None, size: int) -> None:
        """Parcels of so many bytes were thrown away: read from what the ledger has."""
        with self._changed:
            self._held -= size
            self._state, self._reread = state, True
            self._changed.notify_all()

    def resume(self) -> None:
        """Go on at the subscriber's position, whatever was written before."""
        with self._changed:
            self._decided = True
            self._changed.notify_all()

    # ---- the thread ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        pause = RETRY_SECONDS_MIN
        while not self._ending.is_set():
            try:
                self._stream()
                pause = RETRY_SECONDS_MIN
            except (JlogError, OSError) as error:
                if str(error) != self.error:
                    _log.error("%s: %s", self.source, error)
                self.error = str(error)
                self._ending.wait(pause)
                pause = min(2 * pause, RETRY_SECONDS_MAX)
            except Exception:
                _log.exception("in the thread of the text of %s", self.source)
                self.error = "it failed; the daemon's own log says why"
                self._ending.wait(RETRY_SECONDS_MAX)

    def _stream(self) -> None:
        """From where the ledger is to the end, and on; returns when told to end or to begin again."""
        journal = self._journal()
        try:
            journal.add_subscriber(self.source.subscriber, "begin")
            _log.info("made subscriber %s of %s", self.source.subscriber, self.source)
        except SubscriberExists:
            pass
        mark = self._compare(journal)
        hold = journal.hold(self.source.subscriber, f"the text of {self.source.origin.log}, in this daemon")
        try:
            if self._next is not None and not mark and self._next > hold.cursor.next:
                hold.seek(self._next)
            if mark or self._next is None:
                self._next = hold.cursor.next
            self.error, self.stopped, self.streaming = "", False, True
            while not self._ending.is_set() and not self._reread:
                mark = self._turn(journal, hold, mark)
            if self._ending.is_set():
                self._wait_until_written()
            self._checkpoint(hold)
        finally:
            self.streaming = False
            hold.release()
        with self._changed:
            if self._reread:
                self._reread, self._next = False, self._state.next if self._state is not None else None

    def _turn(self, journal: Journal, hold: Hold, mark: str) -> str:
        """Read once, hand over, checkpoint; the mark that is still to be written."""
        self._checkpoint(hold)
        with self._changed:
            if self._held > HELD_BYTES:
                self._changed.wait(WAIT_SECONDS)
                return mark
        found = hold.read(READ_BYTES)
        if not found:
            journal.wait(hold.cursor.next, WAIT_SECONDS)
            return mark
        items = unseen(found, self._next)
        if not items:
            return mark
        self._next = items[-1].next
        restart = None
        if mark:
            restart = self._restarts
            items.insert(0, Mark(items[0].first, mark))
        size = sum(item.size for item in items if isinstance(item, Batch))
        with self._changed:
            self._held += size
        self._put(Parcel(self.source, journal.uuid, items, size, restart))
        return ""

    def _checkpoint(self, hold: Hold) -> None:
        with self._changed:
            state = self._state
        if state is not None and hold.state.position.next < state.next <= hold.cursor.next:
            hold.checkpoint(state.next)

    def _wait_until_written(self) -> None:
        """At the end: what was handed over is written in a moment, and the log may forget it."""
        deadline = time.monotonic() + STOP_SECONDS / 2
        with self._changed:
            while self._held > 0 and time.monotonic() < deadline:
                self._changed.wait(WAIT_SECONDS)

    def _compare(self, journal: Journal) -> str:
        """Is it the log that was written before? The mark to begin with when it is not; waits for a person's decision
        when it has another history."""
        with self._changed:
            state, decided, self._decided = self._state, self._decided, False
        if state is None:
            return ""
        self._restarts = state.restarts  # of this state: what was handed over may be committed before the mark is
        if state.uuid != journal.uuid:
            _log.warning("%s is another log than was written before: it begins anew", self.source)
            ended = f"the one before, {state.uuid}, ended at record {state.next - 1}"
            return mark_line(f"{self.source} is another log, {journal.uuid}; {ended}")
        if decided:
            return mark_line(f"{self.source} goes on by decision; before, it ended at record {state.next - 1}")
        why = _went_back(journal, state)
        if not why:
            return ""
        told = (
            f"the numbers of {self.source} went back: {why}. Was an old copy of the spool restored? Its records wait; "
            f"look, and go on with `jlogctl manager resume {self.source.origin.node} {self.source.origin.log} --text`"
        )
        if told != self.error:  # before it waits: whoever is to decide must know
            _log.error("%s", told)
        self.error, self.stopped = told, True
        with self._changed:
            self._changed.wait_for(lambda: self._decided or self._ending.is_set(), RETRY_SECONDS_MAX)
        raise JlogError(told)


def _went_back(journal: Journal, state: SourceState) -> str:
    """Why a log is not the one `state` was written from; empty when it is, as far as can be seen."""
    stat = journal.stat()
    if stat.next < state.next:
        return f"it ends at record {stat.next - 1}, and {state.next - 1} was written already"
    if not state.last_first or state.last_first < stat.first:
        return ""
    cursor = journal.cursor(state.last_first)
    try:
        found = cursor.read(1)
    finally:
        cursor.close()
    last = (state.last_first, state.last_count, state.last_crc, state.last_time)
    if found and isinstance(found[0], Batch):
        batch = found[0]
        if (batch.first, batch.count, batch.body_crc, batch.append_time) != last:
            return f"record {state.last_first} is another one than was written"
    return ""
