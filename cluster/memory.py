"""The in-memory twin: the same contract as etcd, for tests, simulations and whoever wants no disk.

`MemoryCluster` is the agreed state itself, with pure methods (`read`, `commit`, `since`); a simulation calls those on
its own clock. `MemoryStore` is a connection to it that waits like a real one.

Lock: `MemoryCluster.changed` (a Condition) over everything in it; callers of the pure methods need not hold it.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

from cluster.errors import Compacted, StoreUnavailable, WatchEnded
from cluster.types import Event, KeyValue, Snapshot, StoreStatus, Txn, TxnResult, WatchBatch
from cluster.walk import walk

# Changes that watches can still ask for; older ones are `Compacted`.
HISTORY_EVENTS_MAX = 100_000


@dataclass
class MemoryCluster:
    """Keys, their history, and whether anybody may reach them."""

    revision: int = 1
    keys: dict[str, KeyValue] = field(default_factory=dict)
    history: list[Event] = field(default_factory=list)
    compacted: int = 0
    # Set by tests: every call raises StoreUnavailable with these words.
    down: str = ""
    changed: threading.Condition = field(default_factory=threading.Condition)

    def read(self, prefix: str) -> Snapshot:
        """All keys under `prefix` now."""
        with self.changed:
            return Snapshot(self.revision, tuple(self.keys[key] for key in sorted(self.keys) if key.startswith(prefix)))

    def commit(self, txn: Txn) -> TxnResult:
        """Run a transaction now."""
        with self.changed:
            result, events = walk(txn, self)
            if events:
                self.revision = result.revision
                self._remember(events)
            return result

    def matching(self, key: str, prefix: bool) -> list[KeyValue]:
        """For the walk of a transaction, under the lock."""
        if prefix:
            return [self.keys[name] for name in sorted(self.keys) if name.startswith(key)]
        return [self.keys[key]] if key in self.keys else []

    def apply(self, event: Event) -> None:
        """For the walk of a transaction, under the lock."""
        if event.item is None:
            del self.keys[event.key]
        else:
            self.keys[event.key] = event.item

    def since(self, prefix: str, start_revision: int) -> list[Event]:
        """Changes under `prefix` from `start_revision` on. Raises `Compacted`."""
        with self.changed:
            if start_revision <= self.compacted:
                raise Compacted(f"revision {start_revision} is forgotten; the oldest known is {self.compacted + 1}")
            return [event for event in self._tail(start_revision) if event.key.startswith(prefix)]

    def compact(self, revision: int) -> None:
        """Forget the changes up to `revision`."""
        with self.changed:
            self.compacted = max(self.compacted, revision)
            self.history = [event for event in self.history if event.revision > self.compacted]
            self.changed.notify_all()

    def set_down(self, why: str) -> None:
        """Nobody reaches the cluster from now on, for that reason; "" brings it back."""
        with self.changed:
            self.down = why
            self.changed.notify_all()

    def _tail(self, start_revision: int) -> list[Event]:
        """The events from a revision on; found from the end, because watches ask for the newest."""
        at = len(self.history)
        while at and self.history[at - 1].revision >= start_revision:
            at -= 1
        return self.history[at:]

    def _remember(self, events: list[Event]) -> None:
        self.history += events
        if len(self.history) > HISTORY_EVENTS_MAX:
            self.compact(self.history[len(self.history) // 2].revision)
        self.changed.notify_all()


class MemoryStore:
    """A connection to a `MemoryCluster` of this process."""

    def __init__(self, cluster: MemoryCluster | None = None) -> None:
        self.cluster = cluster or MemoryCluster()
        self._watches: list[MemoryWatch] = []
        self._closed = False

    def read(self, prefix: str, *, within: float) -> Snapshot:
        self._reach()
        return self.cluster.read(prefix)

    def commit(self, txn: Txn, *, within: float) -> TxnResult:
        self._reach()
        return self.cluster.commit(txn)

    def watch(self, prefix: str, start_revision: int, *, idle: float, within: float) -> MemoryWatch:
        self._reach()
        self.cluster.since(prefix, start_revision)
        watch = MemoryWatch(self.cluster, prefix, start_revision, idle)
        self._watches = [known for known in self._watches if not known.closed] + [watch]
        return watch

    def status(self, *, within: float) -> StoreStatus:
        self._reach()
        return StoreStatus("memory", "", "", "this process")

    def close(self) -> None:
        self._closed = True
        for watch in self._watches:
            watch.close()

    def _reach(self) -> None:
        if self._closed:
            raise StoreUnavailable("the connection to the store was closed")
        if self.cluster.down:
            raise StoreUnavailable(self.cluster.down)


class MemoryWatch:
    """Changes of a `MemoryCluster`, as they come."""

    def __init__(self, cluster: MemoryCluster, prefix: str, start_revision: int, idle: float) -> None:
        self._cluster = cluster
        self._prefix = prefix
        self._next = start_revision
        self._idle = idle
        self.closed = False

    def next(self) -> WatchBatch:
        limit = time.monotonic() + self._idle
        with self._cluster.changed:
            while True:
                if self.closed or self._cluster.down:
                    self.closed = True
                    raise WatchEnded(self._cluster.down or "the watch was closed")
                events = self._cluster.since(self._prefix, self._next)
                if events:
                    self._next = events[-1].revision + 1
                    return WatchBatch(events[-1].revision, tuple(events))
                left = limit - time.monotonic()
                if left <= 0:
                    self.closed = True
                    raise WatchEnded(f"nothing came for {self._idle:g} s")
                self._cluster.changed.wait(left)

    def close(self) -> None:
        with self._cluster.changed:
            self.closed = True
            self._cluster.changed.notify_all()
