"""NATS JetStream, file storage, one replica, `sync_interval: always`: a message is synced before it is acknowledged.

That setting came with 2.10. An older server (Debian 12 has 2.9) syncs every two minutes whatever it acknowledges; it
is measured all the same and its row says so. `JLOGD_BENCH_NATS_SERVER` names another binary to use.

A batch is published with `publish_async`, all acknowledgements awaited together: 6 times a `publish` at a time. The
server does not put several messages under one sync (`strace -f -c`: one fsync a message), so no client can be faster
than the disk's fsync rate; packing a batch into one message would be, and would no longer be a stream of records.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
import shutil
import subprocess
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any, ClassVar

from bench.rivals.base import Producer, Records, Shape, System
from bench.servers import Server, free_port

STREAM = SUBJECT = "log"
PENDING_MAX = 20_000
READ_RECORDS = 1_000
READ_SECONDS_MAX = 5.0
ALWAYS = "sync_interval: always"


def server_binary() -> str:
    """Path of the server, or an empty string."""
    return os.environ.get("JLOGD_BENCH_NATS_SERVER") or shutil.which("nats-server") or ""


class NatsJetStream(System):
    """One message a record."""

    key, label, durability = "nats", "NATS JetStream", ALWAYS
    streams: ClassVar[bool] = True
    follows: ClassVar[bool] = True

    def missing(self) -> str:
        if importlib.util.find_spec("nats") is None:
            return "the nats client is not installed (pip install '.[bench]')"
        return "" if server_binary() else "nats-server is not installed (apt-get install nats-server)"

    def version(self) -> str:
        text = subprocess.run([server_binary(), "--version"], capture_output=True, text=True, check=False)
        found = re.search(r"v(\d+\.\d+\.\d+)", text.stdout + text.stderr)
        return found.group(1) if found else "?"

    def setup(self, directory: Path, shape: Shape) -> None:
        port = free_port()
        always = tuple(map(int, self.version().split(".")[:2])) >= (2, 10)
        self.durability = ALWAYS if always else "NOT durable: fsync every 2 minutes (the server is older than 2.10)"
        config = directory / "nats.conf"
        config.write_text(
            f'listen: "127.0.0.1:{port}"\njetstream {{ store_dir: "{directory}"{", " + ALWAYS if always else ""} }}\n'
        )
        self.server = Server([server_binary(), "-c", str(config)], directory)
        self.server.wait_for_port(port)
        self.address = f"nats://127.0.0.1:{port}"
        asyncio.run(self._add_stream())

    async def _add_stream(self) -> None:
        client = await _client(self.address)
        await client.jetstream().add_stream(name=STREAM, subjects=[SUBJECT])
        await client.close()

    def connect(self, shape: Shape) -> Producer:
        return _NatsProducer(self.address, shape.window)

    def read_all(self) -> int:
        with asyncio.Runner() as runner:
            client, subscription = runner.run(self._subscribe())
            count = runner.run(_count(client))
            read = 0
            while read < count and (records := runner.run(_next(subscription, READ_SECONDS_MAX))):
                read += len(records)
            runner.run(client.close())
        return read

    def follow(self, seconds: float) -> Generator[Records, None, None]:
        """An ordered push consumer, flow-controlled: the fastest way the client offers to read a stream in order."""
        end = time.monotonic() + seconds
        with asyncio.Runner() as runner:
            client, subscription = runner.run(self._subscribe())
            try:
                while (left := end - time.monotonic()) > 0:
                    yield runner.run(_next(subscription, left))
            finally:
                runner.run(client.close())

    async def _subscribe(self) -> tuple[Any, Any]:
        client = await _client(self.address)
        return client, await client.jetstream().subscribe(SUBJECT, ordered_consumer=True)


async def _client(address: str) -> Any:
    """A connection that ends with its server instead of looking for it for ever."""
    import nats

    return await nats.connect(address, allow_reconnect=False, error_cb=_ignore)


async def _ignore(error: Exception) -> None:
    """What matters is raised by the call it concerns; the client would print the rest."""


async def _count(client: Any) -> int:
    """Messages in the stream."""
    return int((await client.jetstream().stream_info(STREAM)).state.messages)


async def _next(subscription: Any, timeout: float) -> list[bytes]:
    """The next message, and all that have arrived with it."""
    import nats.errors

    try:
        records = [(await subscription.next_msg(timeout=timeout)).data]
        while len(records) < READ_RECORDS and subscription.pending_msgs:
            records.append((await subscription.next_msg(timeout=timeout)).data)
    except nats.errors.TimeoutError:
        return []
    return records


class _NatsProducer(Producer):
    def __init__(self, address: str, window: int) -> None:
        self.runner = asyncio.Runner()
        self.window = window
        self.under_way: list[Any] = []
        self.runner.run(self._open(address))

    async def _open(self, address: str) -> None:
        self.client = await _client(address)
        self.stream = self.client.jetstream(publish_async_max_pending=PENDING_MAX)

    async def _publish(self, payload: Records) -> Any:
        publish = self.stream.publish_async
        return asyncio.gather(*[await publish(SUBJECT, record) for record in payload])

    async def _settle(self, keep: int) -> None:
        while len(self.under_way) > keep:
            await self.under_way.pop(0)

    def append(self, payload: Records) -> None:
        self.submit(payload)
        self.drain()

    def submit(self, payload: Records) -> None:
        self.runner.run(self._settle(self.window - 1))
        self.under_way.append(self.runner.run(self._publish(payload)))

    def drain(self) -> None:
        self.runner.run(self._settle(0))

    def close(self) -> None:
        self.runner.run(self.client.close())
        self.runner.close()
