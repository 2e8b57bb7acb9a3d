"""Delivery: a few threads that read logs for all subscriptions, in fair turns.

    ready  --turn-->  ready      there may be more, and there is credit
           --turn-->  broke      the credit is used up: until the client gives some back
           --turn-->  waiting    at the durable end: until something is appended, or the client asks for more

A turn reads about a MiB, never beyond the subscription's credit by more than one batch, and hands it to the server as
the log has it: only the checksum of each header is made anew, because on disk it is bound to the log. So a subscriber
that does not read costs its credit and nothing else, and nobody waits for it.

Appends of this process are told by the journal (`listen`); those of others are found by looking, while someone waits.

Locking: `_mutex` guards the states and the queue of the feeder, and is never held while something is read. A
subscription's `reading` is held while its cursor or its hold is used: by a turn, a checkpoint, or the release.
"""

from __future__ import annotations

import errno
import logging
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from jlogd.daemon.session import Session, State, Subscription
from jlogd.errors import JlogError
from jlogd.journal.batch import Batch, Gap
from jlogd.journal.journal import Journal
from jlogd.wire import messages
from jlogd.wire.messages import COST_MIN, TURN_BYTES, FromDaemon

# Two threads, so that one log on a slow disk does not hold up the others; more would only compete for the interpreter.
FEEDER_THREADS = 2
# How often appends of other processes are looked for, and the least time for one log of many.
LOOK_SECONDS = 0.02
LOOK_SECONDS_A_LOG = 0.001

# What passes by itself or by somebody's doing; until then no subscriber is sent away for it.
_NO_FILES = (errno.EMFILE, errno.ENFILE)
NO_FILES_SECONDS = 0.2

_log = logging.getLogger("jlogd.server")

Deliver = Callable[[Session, FromDaemon, bytes | None], None]


class Feeder:
    """See the module's text. All methods may be called from any thread and return at once."""

    def __init__(self, deliver: Deliver, finish: Callable[[Subscription], None]) -> None:
        """`deliver` takes what is to be sent; `finish` is called once a removed subscription is not read any more."""
        self._deliver = deliver
        self._finish = finish
        self._mutex = threading.Lock()
        self._work = threading.Condition(self._mutex)
        self._someone_waits = threading.Condition(self._mutex)
        self._ready: deque[Subscription] = deque()
        self._all: dict[Journal, list[Subscription]] = {}
        self._listening: set[Journal] = set()
        self._closing = False
        self._ended = threading.Event()
        self.counters = dict.fromkeys(("deliveries", "delivered_records", "delivered_bytes", "delivered_gaps"), 0)
        self._threads = [
            threading.Thread(target=self._run, name=f"jlogd feeder {n}", daemon=True) for n in range(FEEDER_THREADS)
        ]
        self._threads.append(threading.Thread(target=self._look, name="jlogd feeder look", daemon=True))
        for thread in self._threads:
            thread.start()

    def add(self, subscription: Subscription) -> None:
        """Begin to deliver."""
        journal = subscription.journal
        with self._mutex:
            first = journal not in self._listening
            self._listening.add(journal)
            self._all.setdefault(journal, []).append(subscription)
            self._make_ready(subscription)
        if first:
            journal.listen(lambda: self.appended(journal))

    def appended(self, journal: Journal) -> None:
        """There may be something new in a log."""
        with self._mutex:
            for subscription in self._all.get(journal, ()):
                if subscription.follow:
                    self._nudge(subscription, "waiting")

    def give_credit(self, subscription: Subscription, credit: int) -> None:
        """The client took so many bytes."""
        with self._mutex:
            # Never above what was granted: a client cannot make the daemon hold more by giving back too much.
            subscription.credit = min(subscription.credit + credit, subscription.window)
            self._nudge(subscription, "broke")

    def more(self, subscription: Subscription, look: int, follow: bool) -> None:
        """The client wants to go on after the end."""
        with self._mutex:
            subscription.look, subscription.follow = look, follow
            self._nudge(subscription, "waiting")

    def remove(self, subscription: Subscription) -> None:
        """Deliver nothing more. `finish` is called for it, from here or from a turn that is just ending."""
        with self._mutex:
            if subscription.closing:
                return
            subscription.closing = True
            if subscription.state == "running":
                return
            self._forget(subscription)
        self._finish(subscription)

    def close(self) -> None:
        """End the threads; turns that are under way end first."""
        with self._mutex:
            self._closing = True
            self._ended.set()
            self._work.notify_all()
            self._someone_waits.notify_all()
        for thread in self._threads:
            thread.join()

    # With `_mutex` held

    def _make_ready(self, subscription: Subscription) -> None:
        subscription.state = "ready"
        self._ready.append(subscription)
        self._work.notify()

    def _nudge(self, subscription: Subscription, state: State) -> None:
        if subscription.state == state:
            self._make_ready(subscription)
        elif subscription.state == "running":
            subscription.again = True

    def _forget(self, subscription: Subscription) -> None:
        subscription.state = "closed"
        self._all[subscription.journal].remove(subscription)
        with suppress(ValueError):
            self._ready.remove(subscription)

    # The threads

    def _run(self) -> None:
        while (subscription := self._take()) is not None:
            at_end = False
            try:
                at_end = self._turn(subscription)
            except (JlogError, OSError) as error:
                if isinstance(error, OSError) and error.errno in _NO_FILES:
                    self._ended.wait(NO_FILES_SECONDS)
                else:
                    self._broken(subscription, error)
            except Exception:
                _log.exception("delivering to %s", subscription.session.note)
                self._broken(subscription, JlogError("the daemon failed to read the log; its own log says why"))
            self._put_back(subscription, at_end)

    def _take(self) -> Subscription | None:
        with self._mutex:
            while not self._ready and not self._closing:
                self._work.wait()
            if self._closing:
                return None
            subscription = self._ready.popleft()
            subscription.state, subscription.again = "running", False
            return subscription

    def _put_back(self, subscription: Subscription, at_end: bool) -> None:
        with self._mutex:
            if subscription.closing:
                self._forget(subscription)
            elif subscription.credit <= 0:
                subscription.state = "broke"
            elif at_end and not subscription.again:
                subscription.state = "waiting"
                if subscription.follow:
                    self._someone_waits.notify()
            else:
                self._make_ready(subscription)
                return
        if subscription.state == "closed":
            self._finish(subscription)

    def _turn(self, subscription: Subscription) -> bool:
        """Read and deliver once; whether the end was reached."""
        with self._mutex:
            budget, look, follow = min(TURN_BYTES, subscription.credit), subscription.look, subscription.follow
        if budget <= 0 or subscription.closing:
            return False
        if not follow and not look:
            return True
        with subscription.reading:
            items = subscription.read(budget)
            following = subscription.cursor.next
        if items:
            self._send(subscription, items, following)
        elif not follow:
            self._tell_end(subscription, look, following)
        return not items

    def _tell_end(self, subscription: Subscription, look: int, following: int) -> None:
        with self._mutex:
            if look != subscription.look:
                return  # asked again meanwhile
            subscription.look = 0
        self._deliver(subscription.session, messages.End(subscription.id, look, following), None)

    def _send(self, subscription: Subscription, items: list[Batch | Gap], following: int) -> None:
        parts: list[bytes | memoryview] = []
        gaps, records = [], 0
        for item in items:
            if isinstance(item, Batch):
                parts += (item.header(), item.body)
                records += item.count
            else:
                gaps.append(messages.GapIs(item.first, item.last, item.reason, item.detail))
        frame = b"".join(parts) if parts else None
        cost = max(len(frame or b""), COST_MIN)
        with self._mutex:
            subscription.credit -= cost
            self.counters["deliveries"] += 1
            self.counters["delivered_records"] += records
            self.counters["delivered_bytes"] += len(frame or b"")
            self.counters["delivered_gaps"] += len(gaps)
        self._deliver(subscription.session, messages.Delivery(subscription.id, following, cost, gaps), frame)

    def _broken(self, subscription: Subscription, error: Exception) -> None:
        code = error.code if isinstance(error, JlogError) else JlogError.code
        self._deliver(subscription.session, messages.Ended(subscription.id, code, str(error)), None)
        with self._mutex:
            subscription.closing = True

    def _look(self) -> None:
        """Find what other processes appended, as long as someone waits for it."""
        while True:
            with self._mutex:
                if self._closing:
                    return
                waiting = self._waiting()
                pause = max(LOOK_SECONDS, LOOK_SECONDS_A_LOG * len(waiting)) if waiting else None
                self._someone_waits.wait(pause)
            for journal, sequence in waiting.items():
                with suppress(JlogError, OSError):
                    if journal.wait(sequence, 0):
                        self.appended(journal)

    def _waiting(self) -> dict[Journal, int]:
        """Logs for which someone waits, and the lowest number waited for."""
        return {
            journal: min(numbers)
            for journal, found in self._all.items()
            if (numbers := [s.cursor.next for s in found if s.state == "waiting" and s.follow])
        }
