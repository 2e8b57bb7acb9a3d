"""RocksDB through rocksdict: one synced WriteBatch a batch, one key a record.

Raw mode (bytes in, bytes out, no pickling) and one put per record into a WriteBatch is the fastest way in that the
binding has; most of the time at 10,000 records goes into those puts. Tried: pipelined writes (4 % faster at 10,000,
used), a write buffer of 256 MB instead of 64 MB (no difference here). RocksDB allows one process, so four producers are
threads; it groups their writes under one sync. Traced: one fdatasync of its log for each write.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import itertools
import struct
import threading
from pathlib import Path
from typing import Any, ClassVar

from bench.rivals.base import Producer, Records, Shape, System

_KEY = struct.Struct(">Q")
# One database per process, shared by its producers.
_open_databases: dict[Path, Any] = {}
_opening = threading.Lock()
_ranges = itertools.count()
# Each producer numbers within its own range: no lock is needed around a write.
RANGE = 1 << 40


class RocksDb(System):
    """A log-structured tree."""

    key, label, durability = "rocksdb", "RocksDB", "WriteOptions.sync"
    sharing: ClassVar[str] = "threads"

    def missing(self) -> str:
        return "" if importlib.util.find_spec("rocksdict") else "rocksdict is not installed (pip install '.[bench]')"

    def version(self) -> str:
        return f"rocksdict {importlib.metadata.version('rocksdict')}"

    def setup(self, directory: Path, shape: Shape) -> None:
        self.directory = directory

    def _database(self) -> Any:
        import rocksdict

        with _opening:
            if self.directory not in _open_databases:
                options = rocksdict.Options(raw_mode=True)
                options.create_if_missing(True)
                options.set_enable_pipelined_write(True)
                _open_databases[self.directory] = rocksdict.Rdict(str(self.directory / "rocksdb"), options)
            return _open_databases[self.directory]

    def connect(self, shape: Shape) -> Producer:
        return _RocksProducer(self.directory, self._database())

    def read_all(self) -> int:
        count = len(list(self._database().values()))
        _close(self.directory)
        return count


class _RocksProducer(Producer):
    def __init__(self, directory: Path, database: Any) -> None:
        import rocksdict

        self.directory, self.database = directory, database
        self.options = rocksdict.WriteOptions()
        self.options.sync = True
        self.batch: Any = rocksdict.WriteBatch
        self.number = next(_ranges) * RANGE

    def append(self, payload: Records) -> None:
        batch, pack = self.batch(raw_mode=True), _KEY.pack
        put = batch.put
        for number, record in enumerate(payload, self.number):
            put(pack(number), record)
        self.number += len(payload)
        self.database.write(batch, self.options)

    def close(self) -> None:
        _close(self.directory)


def _close(directory: Path) -> None:
    """The first producer to close ends the database for all of this process."""
    with _opening:
        database = _open_databases.pop(directory, None)
        if database is not None:
            database.close()
