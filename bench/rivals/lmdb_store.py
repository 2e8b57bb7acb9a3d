"""LMDB, one durable transaction a batch, one key a record.

`putmulti` with `append=True` on ascending keys is its fastest way in: no search, pages filled to the end. Tried:
`writemap` (msync instead of write; 20 % slower from batches of 1000 up), `metasync=False` (faster, and then the last
transaction may be lost: not the same promise, so not used). Writers of several processes take turns under its lock.
Traced: one fdatasync for the data and one O_DSYNC write of the meta page for each transaction.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import struct
from pathlib import Path
from typing import Any

from bench.rivals.base import Producer, Records, Shape, System

MAP_BYTES = 16 << 30
_KEY = struct.Struct(">Q")


class LmdbStore(System):
    """A B+tree in a mapped file."""

    key, label, durability = "lmdb", "LMDB", "sync=True (default)"

    def missing(self) -> str:
        return "" if importlib.util.find_spec("lmdb") else "lmdb is not installed (pip install '.[bench]')"

    def version(self) -> str:
        return importlib.metadata.version("lmdb")

    def setup(self, directory: Path, shape: Shape) -> None:
        self.directory = directory
        self._open().close()

    def _open(self) -> Any:
        import lmdb

        return lmdb.open(str(self.directory / "lmdb"), map_size=MAP_BYTES)

    def connect(self, shape: Shape) -> Producer:
        return _LmdbProducer(self._open())

    def read_all(self) -> int:
        environment = self._open()
        with environment.begin() as transaction:
            count = len(list(transaction.cursor().iternext(keys=False, values=True)))
        environment.close()
        return count


class _LmdbProducer(Producer):
    def __init__(self, environment: Any) -> None:
        self.environment = environment

    def append(self, payload: Records) -> None:
        with self.environment.begin(write=True) as transaction:
            cursor = transaction.cursor()
            number = _KEY.unpack(cursor.key())[0] + 1 if cursor.last() else 0
            pack = _KEY.pack
            cursor.putmulti([(pack(at), record) for at, record in enumerate(payload, number)], append=True)

    def close(self) -> None:
        self.environment.close()
