"""What is done for etcd now and then: a version with known faults and alarms are told, and the past is let go.

Out of the box etcd keeps every change for ever. Heartbeats are changes: after some days or weeks its quota is full, it
accepts none any more, and no node may keep an address. So one of the nodes - the first by name of those that live -
has it forget what is older than `vip.etcd_keep`. It says only up to where: twice does no harm, and whoever falls
further behind than that reads everything again.

Lock: none; one thread, with a connection of its own. What it found is replaced as a whole, and read by others.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from cluster.errors import Compacted, StoreError
from cluster.etcd import EtcdStore, version_warning
from cluster.types import Store, StoreStatus
from vip.clock import boot_ns, ns, seconds
from vip.view import View

_log = logging.getLogger("vip")

# How often etcd is asked how it is, and marks are set. Seconds.
LOOK_SECONDS = 30.0
MARKS = 8
ASK_SECONDS_MAX = 5.0


@dataclass
class Marks:
    """How far the store was, when: from that the revision that is `keep` old. All in nanoseconds of one clock."""

    keep: int
    _marks: deque[tuple[int, int]] = field(default_factory=deque)

    def note(self, now: int, revision: int) -> int:
        """The store is at `revision` now; the revision that everything before may be forgotten, 0 for none yet."""
        if not self._marks or now - self._marks[-1][0] >= self.keep // MARKS:
            self._marks.append((now, revision))
        old = 0
        while self._marks and now - self._marks[0][0] >= self.keep:
            old = self._marks.popleft()[1]
        return old


class Keeper:
    """Looks after the store of a daemon; does nothing for one that is not etcd, but say what it is."""

    def __init__(self, store: Store, node: str, keep: float, view: Callable[[], View]) -> None:
        """`keep`: seconds of the past that stay; 0 leaves that to etcd. `view`: what the daemon knows of the store."""
        self._store, self._node, self._view = store, node, view
        self._marks = Marks(ns(keep)) if keep else None
        self._end = threading.Event()
        self._told = ""
        self.bytes = 0
        self.alarms: tuple[str, ...] = ()
        self.failure = ""
        self._thread = threading.Thread(target=self._run, name="vip-keeper", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._end.set()
        self._store.close()

    def look(self, now: int) -> None:
        """Ask how the store is, and let go of what is old."""
        status = self._store.status(within=ASK_SECONDS_MAX)
        if status.kind != "etcd":
            return
        self._tell_version(status)
        self._tell_alarms(status)
        old = self._marks.note(now, self._view().revision) if self._marks is not None else 0
        if old and isinstance(self._store, EtcdStore) and self._node == min(self._view().sessions.copy(), default=""):
            self._store.compact(old, within=ASK_SECONDS_MAX)

    def _run(self) -> None:
        pause = LOOK_SECONDS if self._marks is None else min(LOOK_SECONDS, seconds(self._marks.keep) / MARKS)
        while not self._end.is_set():
            try:
                self.look(boot_ns())
                self.failure = ""
            except Compacted:
                pass  # somebody was first
            except StoreError as error:
                if not self.failure and not self._end.is_set():
                    _log.warning("the store could not be looked after: %s", error)
                self.failure = str(error)
            self._end.wait(pause)

    def _tell_version(self, status: StoreStatus) -> None:
        if status.version != self._told:
            self._told = status.version
            warning = version_warning(status.version)
            _log.log(logging.WARNING if warning else logging.INFO, "%s", warning or f"etcd {status.version}")

    def _tell_alarms(self, status: StoreStatus) -> None:
        for alarm in status.alarms:
            if alarm not in self.alarms:
                _log.error("etcd: %s", alarm)
        self.bytes, self.alarms = status.bytes, status.alarms
