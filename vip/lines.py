"""The threads that talk to the store for a daemon; each has a connection of its own.

    Heart    one heartbeat after the other; moves the deadline. Stops when the deciding thread does not look at the
             clock any more: a daemon that cannot decide must not keep what it holds.
    Stream   a snapshot, then every change, for ever; what it reads goes to the deciding thread in order
    Clerks   a few threads that run transactions

Locks: none here; results go into the queue of the deciding thread.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

import msgspec

from cluster.errors import Compacted, StoreError, StoreReplaced
from cluster.types import Snapshot, Store, Txn, TxnResult, Watch, WatchBatch
from vip.clock import SECOND, boot_ns, seconds, wall_seconds
from vip.records import SessionRecord
from vip.session import Session
from vip.timing import Timing

_log = logging.getLogger("vip")

# A snapshot of ten thousand addresses is some megabytes of JSON.
SNAPSHOT_SECONDS_MAX = 10.0
# How long the stream rests after a failure, and a transaction may take.
STREAM_REST_SECONDS = 0.1
COMMIT_SECONDS_MAX = 2.0
CLERKS = 4


class Heart:
    """Heartbeats of whatever session is open."""

    def __init__(
        self,
        store: Store,
        timing: Timing,
        current: Callable[[], tuple[Session, SessionRecord]],
        awake: Callable[[], bool],
        moved: Callable[[], None],
    ) -> None:
        """`awake`: whether the daemon still decides. `moved`: the deadline, or the end of a session, has changed."""
        self._store, self._timing = store, timing
        self._current, self._awake, self._moved = current, awake, moved
        self._wake = threading.Event()
        self._ending = False
        self.failure = ""
        self._failure_kind = ""
        self.beats = 0
        self.failures = 0
        self.last_took = 0.0
        self._thread = threading.Thread(target=self._run, name="vip-heart", daemon=True)

    @property
    def token(self) -> str:
        """What the store let us in with, if it wants that."""
        return str(getattr(self._store, "token", ""))

    def start(self) -> None:
        self._thread.start()

    def beat_now(self) -> None:
        self._wake.set()

    def close(self) -> None:
        self._ending = True
        self._wake.set()
        self._store.close()

    def _run(self) -> None:
        while not self._ending:
            sent = boot_ns()
            self._beat(sent)
            rest = seconds(sent + self._timing.heartbeat - boot_ns())
            self._wake.wait(max(rest, 0.01))
            self._wake.clear()

    def _beat(self, sent: int) -> None:
        session, record = self._current()
        if not session.revision or session.lost or not self._awake():
            return
        sealed = msgspec.structs.replace(record, at=wall_seconds())
        try:
            result = self._store.commit(session.beat(sealed), within=seconds(self._timing.answer_within))
        except StoreError as error:
            self._failed(error)
            return
        self.beats += 1
        self.last_took = seconds(boot_ns() - sent)
        if self.failure:
            _log.info("heartbeats are committed again")
            self.failure = self._failure_kind = ""
        session.beaten(sent, result)
        self._moved()

    def _failed(self, error: StoreError) -> None:
        """Told when it begins, and when it becomes another kind: a store that was away and is full now, say."""
        self.failures += 1
        if self._failure_kind != error.code and not self._ending:
            _log.warning("a heartbeat was not committed: %s", error)
        self.failure, self._failure_kind = str(error), error.code


class Stream:
    """Snapshots and changes, each handed over with the number of the snapshot it belongs to."""

    def __init__(
        self,
        store: Store,
        prefix: str,
        timing: Timing,
        synced: Callable[[int, Snapshot], None],
        changed: Callable[[int, WatchBatch], None],
        broken: Callable[[int, str], None],
    ) -> None:
        self._store, self._prefix, self._timing = store, prefix, timing
        self._synced, self._changed, self._broken = synced, changed, broken
        self._again = threading.Event()
        self._again.set()
        self._rest = threading.Event()
        self._ending = False
        self._watch: Watch | None = None
        self.failure = ""
        self.snapshots = 0
        self.breaks = 0
        self._thread = threading.Thread(target=self._run, name="vip-stream", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def resync(self) -> None:
        """Read everything again."""
        self._again.set()
        if self._watch is not None:
            self._watch.close()

    def close(self) -> None:
        self._ending = True
        self._rest.set()
        self._store.close()

    def _run(self) -> None:
        revision = 0
        while not self._ending:
            try:
                if self._again.is_set():
                    self._again.clear()
                    revision = self._snapshot()
                revision = self._follow(revision)
            except Compacted as error:
                self._broken(self.snapshots, str(error))
                self._again.set()
            except StoreReplaced as error:
                self._fail(str(error))
                self._again.set()
                self._rest.wait(1.0)
            except StoreError as error:
                self._fail(str(error))
                if not revision:
                    self._again.set()
                self._rest.wait(STREAM_REST_SECONDS)

    def _snapshot(self) -> int:
        snapshot = self._store.read(self._prefix, within=SNAPSHOT_SECONDS_MAX)
        self.snapshots += 1
        self._synced(self.snapshots, snapshot)
        return snapshot.revision

    def _follow(self, revision: int) -> int:
        """Changes after `revision` until the watch breaks; it begins again after the last one that was handed over."""
        idle = seconds(self._timing.stream_idle)
        self._watch = self._store.watch(self._prefix, revision + 1, idle=idle, within=idle)
        try:
            while not self._again.is_set() and not self._ending:
                batch = self._watch.next()
                if batch.events:
                    self._changed(self.snapshots, batch)
                revision = max(revision, batch.revision)
                self.failure = ""
        except Compacted:
            raise
        except StoreError as error:
            if not self._again.is_set():
                self._fail(str(error))
                self._rest.wait(STREAM_REST_SECONDS)
        finally:
            self._watch.close()
        return revision

    def _fail(self, why: str) -> None:
        self.breaks += 1
        if not self.failure and not self._ending:
            _log.warning("the stream of changes broke: %s", why)
        self.failure = why


Answered = Callable[[int, TxnResult | None], None]


class Clerks:
    """Run transactions, several at a time; each answer comes with the clock read before it was sent."""

    def __init__(self, open_store: Callable[[], Store], count: int = CLERKS) -> None:
        self._work: queue.SimpleQueue[tuple[Txn, Answered] | None] = queue.SimpleQueue()
        self._stores = [open_store() for _ in range(count)]
        self._threads = [
            threading.Thread(target=self._run, args=(store,), name=f"vip-clerk-{at}", daemon=True)
            for at, store in enumerate(self._stores)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def commit(self, txn: Txn, answered: Answered) -> None:
        self._work.put((txn, answered))

    def close(self) -> None:
        for _ in self._threads:
            self._work.put(None)
        for store in self._stores:
            store.close()

    def _run(self, store: Store) -> None:
        while (work := self._work.get()) is not None:
            txn, answered = work
            sent = boot_ns()
            try:
                answered(sent, store.commit(txn, within=COMMIT_SECONDS_MAX))
            except StoreError as error:
                _log.info("a transaction has no known outcome: %s", error)
                answered(sent, None)


# A call into the kernel that takes longer hangs, and a node that hangs must give up what it holds.
HANDS_NS_MAX = 15 * SECOND
