"""Changes of owner: the last ones in memory, for `vip history`; and all of them in a jlogd log, when one is configured.

A record of the log is one JSON object: at, address, group, before, after, why, by (the node that tells). Every node
tells what it took up and laid down itself, so each change stands there once, told by who did it; the end of a node
that could not tell any more is told by whoever takes over.

Lock: `_lock` over the ring. The log is written by a thread of its own: a log that is full or away holds up nothing;
what does not fit into the queue is dropped and counted.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from jlogd.access import obstacle
from vip.actions import Changed
from vip.situation import Plan
from vip.view import Change

_log = logging.getLogger("vip")

CHANGES_MAX = 20_000
WAITING_MAX = 20_000
# More changes at once are told as sums.
TOLD_ONE_BY_ONE_MAX = 5
# How long the writer rests after the log could not be written.
REST_SECONDS = 2.0


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One change of owner."""

    at: float
    address: str
    group: str
    before: str
    after: str
    why: str
    by: str


def entries_of(changed: Changed, plan: Plan, at: float, me: str) -> Iterator[tuple[Entry, bool]]:
    """What is remembered of changes, and whether `me` writes it down: who took or gave does. What was so before it
    looked is no change: remembered as it stands in the store, and no more."""
    for change in changed.changes:
        bundle = plan.bundle_of.get(change.address)
        units = bundle.units if bundle is not None else ()
        group = next((unit.group for unit in units if change.address in unit.addresses), "")
        since = change.since if changed.known else at
        mine = change.after == me or (not change.after and change.before == me)
        entry = Entry(since, change.address, group, change.before, change.after, change.why, me)
        yield entry, mine and not changed.known


def summary(changes: Iterable[Change]) -> list[str]:
    """Changes in words: each by itself when they are few, else how many from whom to whom, and the first with why."""
    alike: dict[tuple[str, str], list[Change]] = {}
    listed = list(changes)
    for change in listed:
        alike.setdefault((change.before or "nobody", change.after or "nobody"), []).append(change)
    if len(listed) <= TOLD_ONE_BY_ONE_MAX:
        return [f"{c.address}: {c.before or 'nobody'} -> {c.after or 'nobody'}: {c.why}" for c in listed]
    return [
        f"{before} -> {after}: addresses: {len(found)}, the first {found[0].address}: {found[0].why}"
        for (before, after), found in sorted(alike.items())
    ]


class History:
    """Remembers and writes down."""

    def __init__(self, log: str) -> None:
        self._log_target = log
        self._lock = threading.Lock()
        self._ring: deque[Entry] = deque(maxlen=CHANGES_MAX)
        self._waiting: queue.Queue[Entry | None] = queue.Queue(WAITING_MAX)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="vip-history", daemon=True)
        self.dropped = 0
        self.failure = ""

    def start(self) -> None:
        if self._log_target:
            self._thread.start()

    def note(self, entry: Entry, write: bool) -> None:
        with self._lock:
            self._ring.append(entry)
        if write and self._log_target:
            try:
                self._waiting.put_nowait(entry)
            except queue.Full:
                self.dropped += 1

    def last(self, count: int) -> list[Entry]:
        with self._lock:
            return list(self._ring)[-count:]

    def close(self) -> None:
        """Write what waits, for a moment."""
        self._end.set()
        try:
            self._waiting.put_nowait(None)
        except queue.Full:
            return
        if self._thread.is_alive():
            self._thread.join(timeout=REST_SECONDS)

    def _run(self) -> None:
        import jlogd
        from jlogd.errors import JlogError

        pending: list[Entry] = []
        while True:
            try:
                with jlogd.open(self._log_target) as log, log.writer() as writer:
                    while True:
                        for known in pending:
                            writer.append(msgspec.json.encode(known))
                        if pending:
                            writer.flush()
                        self._works()
                        entry = self._waiting.get()
                        if entry is None:
                            return
                        pending = [entry]
            except (JlogError, OSError) as error:
                self._fails(unfit(self._log_target) or str(error))
                if self._end.wait(REST_SECONDS):
                    return

    def _fails(self, why: str) -> None:
        if not self.failure:
            _log.warning(
                "changes of owner cannot be written to %s: %s; tried again every %g s, up to %d changes wait for it",
                self._log_target, why, REST_SECONDS, WAITING_MAX,
            )  # fmt: skip
        self.failure = why

    def _works(self) -> None:
        if self.failure:
            _log.info("changes of owner are written to %s again", self._log_target)
        self.failure = ""


def unfit(log: str) -> str:
    """Why changes of owner cannot be written to a log, as far as can be seen without touching it; "" for nothing."""
    if not log or "://" in log:  # a daemon tells by itself
        return ""
    place = Path(log)
    try:
        (place / "log.json").stat()
        return next(filter(None, map(obstacle, (place, *place.iterdir()))), "")
    except (FileNotFoundError, NotADirectoryError):
        return f"there is no log at {place}; make one, as the user that vip runs as or as root: jlogctl create {place}"
    except OSError as error:
        return obstacle(place) or f"{place}: {error.strerror}"
