"""Everything that is measured, in the order of the tables. One module per system, one interface: `base`."""

from __future__ import annotations

from bench.rivals.base import Producer, Records, Shape, System
from bench.rivals.diskcache_queue import DiskcacheQueue
from bench.rivals.jlogd_daemon import JlogdDaemon
from bench.rivals.jlogd_local import JlogdJournal, JlogdLocal, JlogdThreads
from bench.rivals.lmdb_store import LmdbStore
from bench.rivals.nats_jetstream import NatsJetStream
from bench.rivals.plain import PlainFile
from bench.rivals.redis_streams import RedisStreams, RedisTuned
from bench.rivals.rocksdb_store import RocksDb
from bench.rivals.sqlite_wal import SqliteWal

SYSTEMS: tuple[type[System], ...] = (
    PlainFile, JlogdLocal, JlogdThreads, JlogdDaemon,
    LmdbStore, RocksDb, SqliteWal, RedisTuned, RedisStreams, DiskcacheQueue, NatsJetStream,
)  # fmt: skip
# Measured only when asked for by name: parts of jlogd, to see where the time goes.
PARTS: tuple[type[System], ...] = (JlogdJournal,)

__all__ = ["PARTS", "SYSTEMS", "JlogdDaemon", "JlogdLocal", "JlogdThreads", "Producer", "Records", "Shape", "System"]
