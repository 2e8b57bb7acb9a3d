"""SQLite in WAL mode with synchronous=FULL, one transaction a batch, `executemany`.

Tried: checkpoints every 10,000 pages instead of 1000 gain a third from batches of 1000 up and lose as much below (a
short log is overwritten, a long one grows), so each size gets its better one; pages of 16 KB instead of 4 KB change
little. Writers of several processes take turns: BEGIN IMMEDIATE with a busy timeout.
Traced: one fdatasync of the WAL for each transaction, more at checkpoints. (NORMAL, the default of many wrappers,
does not sync at commit at all.)
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from bench.rivals.base import Producer, Records, Shape, System

BUSY_SECONDS = 30.0
LARGE_BATCH = 1000


class SqliteWal(System):
    """A table with an ascending key."""

    key, label, durability = "sqlite", "SQLite WAL", "synchronous=FULL"

    def missing(self) -> str:
        return ""

    def version(self) -> str:
        return sqlite3.sqlite_version

    def setup(self, directory: Path, shape: Shape) -> None:
        self.directory = directory
        connection = self._open()
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE log (sequence INTEGER PRIMARY KEY, record BLOB)")
        connection.close()

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.directory / "log.db", timeout=BUSY_SECONDS, isolation_level=None)
        connection.execute("PRAGMA synchronous=FULL")
        return connection

    def connect(self, shape: Shape) -> Producer:
        connection = self._open()
        connection.execute(f"PRAGMA wal_autocheckpoint={10_000 if shape.batch >= LARGE_BATCH else 1000}")
        return _SqliteProducer(connection)

    def read_all(self) -> int:
        connection = self._open()
        count = len([row[0] for row in connection.execute("SELECT record FROM log ORDER BY sequence")])
        connection.close()
        return count


class _SqliteProducer(Producer):
    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection

    def append(self, payload: Records) -> None:
        self.connection.execute("BEGIN IMMEDIATE")
        self.connection.executemany("INSERT INTO log (record) VALUES (?)", zip(payload, strict=True))
        self.connection.execute("COMMIT")

    def close(self) -> None:
        self.connection.close()
