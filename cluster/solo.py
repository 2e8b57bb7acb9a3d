"""The store of a single machine: one SQLite file that the daemon and the commands share.

    key      key, value, create_revision, mod_revision, version      what is now
    change   revision, key, value or NULL, create_revision, version  the last CHANGES_MAX changes, for watches
    fact     revision, compacted

Its place is a directory that a reboot may empty: nothing in it is worth more than the processes that wrote it. A
transaction is one of SQLite's (BEGIN IMMEDIATE); a watch looks for new changes every POLL_SECONDS. What a power cut
leaves may be older than what was answered (synchronous = OFF): after one nobody is left who could disagree.

One thread at a time per store; `close` from any.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.errors import Compacted, DeadlinePassed, StoreUnavailable, WatchEnded
from cluster.types import Event, KeyValue, Snapshot, StoreStatus, Txn, TxnResult, WatchBatch
from cluster.walk import walk
from jlogd.access import obstacle

# Enough for a watch that was away for some minutes; more only makes the file larger.
CHANGES_MAX = 20_000
# How soon a watch sees a change; and it costs a single small read each time.
POLL_SECONDS = 0.02
_TABLES = """
CREATE TABLE IF NOT EXISTS key (key TEXT PRIMARY KEY, value BLOB NOT NULL, create_revision INTEGER NOT NULL,
                                mod_revision INTEGER NOT NULL, version INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS change (revision INTEGER NOT NULL, key TEXT NOT NULL, value BLOB,
                                   create_revision INTEGER NOT NULL, version INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS change_revision ON change (revision);
CREATE TABLE IF NOT EXISTS fact (name TEXT PRIMARY KEY, number INTEGER NOT NULL) WITHOUT ROWID;
INSERT OR IGNORE INTO fact VALUES ('revision', 1), ('compacted', 0);
"""


class SoloStore:
    """A `Store` in a file of this machine."""

    def __init__(self, path: Path) -> None:
        """Opens or makes the file. Raises `StoreUnavailable`."""
        self.path = path
        self._watches: list[SoloWatch] = []
        self._closed = False
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
            self._base = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=0)
            self._base.execute("PRAGMA synchronous = OFF")
            with _waiting(self._base, 5.0):
                self._base.execute("PRAGMA journal_mode = WAL")
                self._base.executescript(_TABLES)
        except (OSError, sqlite3.Error) as error:
            raise StoreUnavailable(f"{path}: {_why_unusable(path, error)}") from None

    def read(self, prefix: str, *, within: float) -> Snapshot:
        with self._transaction("BEGIN", within):
            return Snapshot(self.revision, tuple(self.matching(prefix, True)))

    def commit(self, txn: Txn, *, within: float) -> TxnResult:
        with self._transaction("BEGIN IMMEDIATE", within):
            result, events = walk(txn, self)
            if events:
                self._base.execute("UPDATE fact SET number = ? WHERE name = 'revision'", (result.revision,))
                self._forget(result.revision)
            return result

    def watch(self, prefix: str, start_revision: int, *, idle: float, within: float) -> SoloWatch:
        self.since(prefix, start_revision, within)
        watch = SoloWatch(self, prefix, start_revision, idle)
        self._watches = [known for known in self._watches if not known.closed] + [watch]
        return watch

    def since(self, prefix: str, start_revision: int, within: float) -> list[Event]:
        """The changes under `prefix` from `start_revision` on. Raises `Compacted`."""
        with self._transaction("BEGIN", within):
            compacted = self._fact("compacted")
            if start_revision <= compacted:
                raise Compacted(f"revision {start_revision} is forgotten; the oldest known is {compacted + 1}")
            rows = self._base.execute(
                "SELECT revision, key, value, create_revision, version FROM change WHERE revision >= ? ORDER BY rowid",
                (start_revision,),
            )
            return [_event(*row) for row in rows if row[1].startswith(prefix)]

    def status(self, *, within: float) -> StoreStatus:
        return StoreStatus("solo", sqlite3.sqlite_version, "", str(self.path))

    def close(self) -> None:
        self._closed = True
        for watch in self._watches:
            watch.close()

    def disconnect(self) -> None:
        """Close the file as well; only when no other thread can be in a call."""
        self._closed = True
        self._base.close()

    @contextmanager
    def _transaction(self, begin: str, within: float) -> Iterator[None]:
        if self._closed:
            raise StoreUnavailable("the connection to the store was closed")
        try:
            with _waiting(self._base, within):
                self._base.execute(begin)
                try:
                    yield
                    self._base.execute("COMMIT")
                except BaseException:
                    self._base.execute("ROLLBACK")
                    raise
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise DeadlinePassed(f"{self.path}: locked by another process for {within:g} s") from None
            raise StoreUnavailable(f"{self.path}: {error}") from None
        except sqlite3.Error as error:
            raise StoreUnavailable(f"{self.path}: {error}; remove it when no vip runs") from None

    # ---- for the walk of a transaction, within one of SQLite's ----

    @property
    def revision(self) -> int:
        return self._fact("revision")

    def matching(self, key: str, prefix: bool) -> list[KeyValue]:
        query = "SELECT key, value, create_revision, mod_revision, version FROM key "
        if not prefix:
            rows = self._base.execute(query + "WHERE key = ?", (key,)).fetchall()
        else:
            # A plain comparison of the beginning: keys may hold what LIKE and GLOB take for patterns.
            rows = self._base.execute(query + "WHERE substr(key, 1, ?) = ? ORDER BY key", (len(key), key)).fetchall()
        return [KeyValue(*row) for row in rows]

    def apply(self, event: Event) -> None:
        item = event.item
        if item is None:
            self._base.execute("DELETE FROM key WHERE key = ?", (event.key,))
            self._base.execute("INSERT INTO change VALUES (?, ?, NULL, 0, 0)", (event.revision, event.key))
            return
        row = (item.key, item.value, item.create_revision, item.mod_revision, item.version)
        self._base.execute("REPLACE INTO key VALUES (?, ?, ?, ?, ?)", row)
        change = (item.mod_revision, item.key, item.value, item.create_revision, item.version)
        self._base.execute("INSERT INTO change VALUES (?, ?, ?, ?, ?)", change)

    # ---- small things ----

    def _fact(self, name: str) -> int:
        return int(self._base.execute("SELECT number FROM fact WHERE name = ?", (name,)).fetchone()[0])

    def _forget(self, revision: int) -> None:
        """Drop old changes, now and then."""
        if revision % 1000:
            return
        row = self._base.execute(
            "SELECT revision FROM change ORDER BY rowid DESC LIMIT 1 OFFSET ?", (CHANGES_MAX,)
        ).fetchone()
        if row is not None:
            self._base.execute("DELETE FROM change WHERE revision <= ?", row)
            self._base.execute("UPDATE fact SET number = ? WHERE name = 'compacted'", row)


class SoloWatch:
    """Changes of a `SoloStore`, looked for every POLL_SECONDS on a connection of its own."""

    def __init__(self, store: SoloStore, prefix: str, start_revision: int, idle: float) -> None:
        self._store = SoloStore(store.path)
        self._prefix = prefix
        self._next = start_revision
        self._idle = idle
        self._ended = threading.Event()

    @property
    def closed(self) -> bool:
        """Whether it has ended; then nothing more comes."""
        return self._ended.is_set()

    def next(self) -> WatchBatch:
        try:
            return self._next_batch()
        except BaseException:
            # Whoever reads is the only one who may: nobody else is in the connection then.
            self.close()
            self._store.disconnect()
            raise

    def close(self) -> None:
        self._ended.set()

    def _next_batch(self) -> WatchBatch:
        limit = time.monotonic() + self._idle
        while not self._ended.is_set():
            try:
                events = self._store.since(self._prefix, self._next, POLL_SECONDS)
            except DeadlinePassed:
                events = []
            if events:
                self._next = events[-1].revision + 1
                return WatchBatch(events[-1].revision, tuple(events))
            if time.monotonic() > limit:
                raise WatchEnded(f"nothing came for {self._idle:g} s")
            self._ended.wait(POLL_SECONDS)
        raise WatchEnded("the watch was closed")


def _why_unusable(path: Path, error: Exception) -> str:
    hindrance = obstacle(path) or obstacle(path.parent)  # beside it there is a log of its own
    if hindrance:
        return f"{hindrance}; run as the user that the daemon runs as, or as root"
    return f"cannot be used: {error}; name another file with vip.solo_file"


def _event(revision: int, key: str, value: bytes | None, create_revision: int, version: int) -> Event:
    item = None if value is None else KeyValue(key, bytes(value), create_revision, revision, version)
    return Event(key, revision, item)


@contextmanager
def _waiting(base: sqlite3.Connection, within: float) -> Iterator[None]:
    """How long this connection waits for a lock of another process."""
    base.execute(f"PRAGMA busy_timeout = {max(int(within * 1000), 1)}")
    yield
