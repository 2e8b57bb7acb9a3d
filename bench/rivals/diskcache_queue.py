"""diskcache's queue (`Cache.push`), as the library a Python user finds first: SQLite underneath.

By default it runs SQLite with synchronous=NORMAL, which loses the last commits on a power failure; here it is FULL.
One `transact()` a batch, no eviction, no statistics. `Cache.push` is a third faster than its `Deque`. Records stay
inside the database: larger values than these would go to files that it does not sync.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from pathlib import Path
from typing import Any

from bench.rivals.base import Producer, Records, Shape, System

SIZE_LIMIT_BYTES = 1 << 40


class DiskcacheQueue(System):
    """A queue in a cache."""

    key, label, durability = "diskcache", "diskcache", "sqlite_synchronous=FULL"

    def missing(self) -> str:
        return "" if importlib.util.find_spec("diskcache") else "diskcache is not installed (pip install '.[bench]')"

    def version(self) -> str:
        return importlib.metadata.version("diskcache")

    def setup(self, directory: Path, shape: Shape) -> None:
        self.directory = directory
        self._open().close()

    def _open(self) -> Any:
        import diskcache

        return diskcache.Cache(
            str(self.directory / "cache"), timeout=30, sqlite_synchronous=2, eviction_policy="none", cull_limit=0,
            size_limit=SIZE_LIMIT_BYTES,
        )  # fmt: skip

    def connect(self, shape: Shape) -> Producer:
        return _DiskcacheProducer(self._open())

    def read_all(self) -> int:
        cache = self._open()
        count = len([cache[key] for key in cache])
        cache.close()
        return count


class _DiskcacheProducer(Producer):
    def __init__(self, cache: Any) -> None:
        self.cache = cache

    def append(self, payload: Records) -> None:
        push = self.cache.push
        with self.cache.transact(retry=True):
            for record in payload:
                push(record)

    def close(self) -> None:
        self.cache.close()
