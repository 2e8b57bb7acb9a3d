"""Redis Streams with the append-only file synced before every reply (`appendfsync always`), one entry a record.

Redis syncs once per turn of its event loop, and a turn reads at most 16 KB from a connection. So a plain pipeline of
1000 records is synced some ten times; inside MULTI/EXEC the whole batch runs in one turn and is synced once.

- `RedisStreams` is what a user writes: a redis-py pipeline, with hiredis, in a transaction (faster than without from
  batches of 1000 up, equal below).
- `RedisTuned` leaves redis-py's packing out: the commands are formatted by hand into one buffer, in MULTI/EXEC. That
  is the fastest client we could write: 1.6 times redis-py. A Lua script that adds a list of records is within a few
  percent of it, a unix socket instead of loopback TCP gains 5 %, both were left out.

No snapshots and no rewriting of the append-only file during a run. The server was traced: `strace -f -c` counts one
fdatasync for each transaction, none of them skipped.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any, ClassVar

from bench.rivals.base import Producer, Records, Shape, System
from bench.servers import Server, free_port

STREAM = b"log"
FIELD = b"r"
_XADD = b"*5\r\n$4\r\nXADD\r\n$3\r\nlog\r\n$1\r\n*\r\n$1\r\nr\r\n"
_MULTI, _EXEC = b"*1\r\n$5\r\nMULTI\r\n", b"*1\r\n$4\r\nEXEC\r\n"
READ_RECORDS = 10_000


class RedisStreams(System):
    """A redis-py pipeline."""

    key, label, durability = "redis", "Redis Streams", "appendfsync always"
    streams: ClassVar[bool] = False
    follows: ClassVar[bool] = True

    def missing(self) -> str:
        if importlib.util.find_spec("redis") is None:
            return "the redis client is not installed (pip install '.[bench]')"
        return "" if shutil.which("redis-server") else "redis-server is not installed (apt-get install redis-server)"

    def version(self) -> str:
        import redis

        text = subprocess.run(["redis-server", "--version"], capture_output=True, text=True, check=True).stdout
        server = next((word[2:] for word in text.split() if word.startswith("v=")), "?")
        return f"{server}, redis-py {redis.__version__}"

    def setup(self, directory: Path, shape: Shape) -> None:
        port = free_port()
        options = {
            "port": str(port), "bind": "127.0.0.1", "dir": str(directory), "appendonly": "yes",
            "appendfsync": "always", "auto-aof-rewrite-percentage": "0", "save": "", "loglevel": "warning",
        }  # fmt: skip
        arguments = [text for name, value in options.items() for text in (f"--{name}", value)]
        self.server = Server(["redis-server", *arguments], directory)
        self.server.wait_for_port(port)
        self.address = str(port)

    def client(self) -> Any:
        """A redis-py client."""
        import redis

        return redis.Redis(host="127.0.0.1", port=int(self.address))

    def connect(self, shape: Shape) -> Producer:
        return _PipelineProducer(self.client())

    def read_all(self) -> int:
        client, count, start = self.client(), 0, b"-"
        while True:
            entries = client.xrange(STREAM, min=start, count=READ_RECORDS)
            if not entries:
                return count
            count += len([fields[FIELD] for _, fields in entries])
            start = b"(" + entries[-1][0]

    def follow(self, seconds: float) -> Generator[Records, None, None]:
        client, start, end = self.client(), b"0", time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            answer = client.xread({STREAM: start}, count=READ_RECORDS, block=max(1, int(left * 1000)))
            if answer:
                entries = answer[0][1]
                start = entries[-1][0]
                yield [fields[FIELD] for _, fields in entries]


class RedisTuned(RedisStreams):
    """Hand-packed transactions."""

    key, label = "redis-tuned", "Redis Streams, hand-packed"
    streams: ClassVar[bool] = True

    def connect(self, shape: Shape) -> Producer:
        return _PackedProducer(self.client(), shape.window)


class _PipelineProducer(Producer):
    def __init__(self, client: Any) -> None:
        self.client = client

    def append(self, payload: Records) -> None:
        if len(payload) == 1:
            self.client.execute_command("XADD", STREAM, "*", FIELD, payload[0])
            return
        pipeline = self.client.pipeline(transaction=True)
        add = pipeline.execute_command
        for record in payload:
            add("XADD", STREAM, "*", FIELD, record)
        pipeline.execute()

    def close(self) -> None:
        self.client.close()


class _PackedProducer(Producer):
    def __init__(self, client: Any, window: int) -> None:
        self.client = client
        self.connection = client.connection_pool.get_connection()
        self.window = window
        self.under_way: list[int] = []

    def append(self, payload: Records) -> None:
        self.submit(payload)
        self.drain()

    def submit(self, payload: Records) -> None:
        while len(self.under_way) >= self.window:
            self._reply()
        adds = [b"%s$%d\r\n%s\r\n" % (_XADD, len(record), record) for record in payload]
        if len(adds) > 1:
            adds = [_MULTI, *adds, _EXEC]
        self.connection.send_packed_command([b"".join(adds)])
        self.under_way.append(len(payload))

    def drain(self) -> None:
        while self.under_way:
            self._reply()

    def _reply(self) -> None:
        count, read = self.under_way.pop(0), self.connection.read_response
        # MULTI's OK, a QUEUED for each, and EXEC's list of identities; or one identity.
        for _ in range(count + 2 if count > 1 else 1):
            read()

    def close(self) -> None:
        self.client.connection_pool.release(self.connection)
        self.client.close()
