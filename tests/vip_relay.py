"""A way to etcd that is long: a relay of TCP that delays, holds up and cuts what a node of a laboratory says and hears.

    node --- 127.0.0.1:port, in the node's namespace --- Relay --- etcd

Every chunk of either direction is delivered after a time of its own between `delay[0]` and `delay[1]`, in order. What
was under way when the way is stalled is under way still, and arrives late when it is free again: heartbeats that were
given up long ago too. It stands in for netem, which many kernels do not have.

One thread for all connections of a relay; `delay` may be set by any thread, and counts from the next chunk on.
"""

from __future__ import annotations

import asyncio
import random
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from vip_net import inside

T = TypeVar("T")

PIECE_BYTES = 1 << 16
# Chunks under way in one direction of one connection: more than an etcd and its client ever have.
CHUNKS_MAX = 1000
SECONDS_MAX = 60.0


class Relay:
    """From a port in a namespace to `target`, seen from there; a context manager."""

    def __init__(self, namespace: str, target: tuple[str, int], rng: random.Random) -> None:
        self.delay = (0.0, 0.0)  # seconds, each way: from, to
        self._namespace, self._target, self._rng = namespace, target, rng
        with inside(namespace):
            self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._free = asyncio.Event()
        self._free.set()
        self._connections: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    # ---- what a test does to it ----

    def stall(self) -> None:
        """From now on nothing is delivered, either way; connections are taken, and stay."""
        self._in_loop(self._free.clear)

    def resume(self) -> None:
        """What was held up is delivered, late as it is."""
        self._in_loop(self._free.set)

    def cut(self) -> int:
        """Cut every connection, and lose what is under way; how many there were."""

        def cut() -> int:
            for connection in self._connections:
                connection.cancel()
            return len(self._connections)

        return self._in_loop(cut)

    def close(self) -> None:
        self.cut()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(SECONDS_MAX)

    def __enter__(self) -> Relay:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- inside ----

    def _in_loop(self, do: Callable[[], T]) -> T:
        async def done() -> T:
            return do()

        return asyncio.run_coroutine_threadsafe(done(), self._loop).result(SECONDS_MAX)

    def _run(self) -> None:
        accepting = self._loop.create_task(self._accept())
        self._loop.run_forever()
        accepting.cancel()
        self._loop.run_until_complete(asyncio.gather(accepting, *self._connections, return_exceptions=True))
        self._loop.close()
        self._listener.close()

    async def _accept(self) -> None:
        while True:
            near, _ = await self._loop.sock_accept(self._listener)
            connection = self._loop.create_task(self._connect(near))
            self._connections.add(connection)
            connection.add_done_callback(self._connections.discard)

    async def _connect(self, near: socket.socket) -> None:
        with inside(self._namespace):
            far = socket.socket()
        far.setblocking(False)
        with near, far:
            try:
                await self._loop.sock_connect(far, self._target)
                async with asyncio.TaskGroup() as both:
                    for source, sink in ((near, far), (far, near)):
                        chunks: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(CHUNKS_MAX)
                        both.create_task(self._receive(source, chunks))
                        both.create_task(self._deliver(chunks, sink))
            except* OSError:
                pass  # one of them has gone: for the other it is gone too

    async def _receive(self, source: socket.socket, chunks: asyncio.Queue[tuple[float, bytes]]) -> None:
        due, data = 0.0, b"-"
        while data:
            data = await self._loop.sock_recv(source, PIECE_BYTES)
            due = max(due, self._loop.time() + self._rng.uniform(*self.delay))
            await chunks.put((due, data))

    async def _deliver(self, chunks: asyncio.Queue[tuple[float, bytes]], sink: socket.socket) -> None:
        data = b"-"
        while data:
            due, data = await chunks.get()
            await asyncio.sleep(due - self._loop.time())
            await self._free.wait()
            await self._loop.sock_sendall(sink, data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)
