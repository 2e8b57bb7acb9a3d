"""Syslog listeners: UDP, TCP (both framings of RFC 6587), unix sockets (datagram and stream).

One thread and one selector per source, whatever the number of listeners and connections. In each round every readable
socket gives at most one block, the records of the round are sent in few batches, and only then is anything read again:
a writer that blocks stops the reading, TCP and unix senders are pushed back by the kernel, and what UDP then loses the
kernel counts (`dropped`).

Limits: `connections_max` connections, of which one peer has at most `connections_per_peer_max` (one more is closed at
once, `refused`), each with at most one unfinished message of `message_bytes_max`; longer messages are cut in pieces
(`oversized`). So a peer costs as many descriptors and unfinished messages, whatever it sends and however slowly.

What is not promised: syslog has no acknowledgements. What a sender handed to the kernel and this process had not read,
or not made durable, when it was killed is lost, and the sender does not know.

Counters: messages, bytes (of records), connections (accepted), connections_open, refused, idle_closed, malformed,
oversized, incomplete (ended inside a counted message), dropped (by the kernel).

Locking: none; everything but the counters is touched by the source's thread only.
"""

from __future__ import annotations

import errno
import os
import selectors
import socket
import time
from collections import Counter
from contextlib import suppress

from jlogd.sources.base import BLOCK_BYTES, STOP_DRAIN_S, BatchWriter, Outlet, Source, Wakeup
from jlogd.sources.config import Address, SyslogSource
from jlogd.sources.framing import LengthTable, Sink, StreamFramer, cut
from jlogd.sources.sockets import bound_address, forget_path, kernel_drops, listen_on, peer_name, peer_owner
from jlogd.sources.syslog_parse import to_json

COUNTERS = (
    "messages", "bytes", "connections", "connections_open", "refused", "idle_closed", "malformed", "oversized",
    "incomplete", "dropped",
)  # fmt: skip
# No UDP datagram is larger; a unix one may be as large as its sender's buffer.
UDP_BYTES_MAX = 64 << 10
UNIX_DATAGRAM_BYTES_MAX = 512 << 10
# What a datagram costs beside its bytes, so that a round of empty ones ends too.
DATAGRAM_COST_BYTES = 64
ACCEPTS_PER_ROUND = 64
# Idle connections, the kernel's drops and a listener that ran out of descriptors are looked after this often.
HOUSEKEEPING_S = 1.0
_OUT_OF_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class JsonSink:
    """Stands before an outlet: each message becomes its JSON record."""

    def __init__(self, outlet: Outlet, counters: dict[str, int], peer: str) -> None:
        self._outlet = outlet
        self._counters = counters
        self._peer = peer

    def lines(self, body: bytes, count: int) -> None:
        self.records(body.split(b"\n"))

    def records(self, records: list[bytes]) -> None:
        if not records:
            return
        peer, texts, parsed = self._peer, [], 0
        for record in records:
            text, whole = to_json(record, peer)
            texts.append(text)
            parsed += whole
        self._counters["malformed"] += len(texts) - parsed
        self._outlet.lines(b"\n".join(texts), len(texts))


class _Connection:
    """One accepted stream."""

    def __init__(self, source: SyslogReceiver, made: socket.socket, peer: str) -> None:
        self._source = source
        self.socket = made
        self.last_heard = time.monotonic()
        self.owner = ""  # whose it is, as far as connections are counted
        config = source.config
        self._framer = StreamFramer(source.sink(peer), source.counters, config.message_bytes_max, source.table)

    def ready(self) -> None:
        """Read one block."""
        try:
            data = self.socket.recv(BLOCK_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:  # reset by the peer, or timed out: what came before counts
            data = b""
        if data:
            self._framer.feed(data)
            self.last_heard = time.monotonic()
        else:
            self._source.drop_connection(self)

    def finish(self) -> None:
        """Hand on what there is of an unfinished message, and close."""
        self._framer.finish()
        self.socket.close()


class _Listener:
    """A listening socket of streams."""

    def __init__(self, source: SyslogReceiver, made: socket.socket) -> None:
        self._source = source
        self.socket = made

    def ready(self) -> None:
        """Accept what waits."""
        for _ in range(ACCEPTS_PER_ROUND):
            try:
                made, name = self.socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _OUT_OF_RESOURCES:
                    raise
                self._source.pause(self)
                return
            made.setblocking(False)
            if made.family != socket.AF_UNIX:
                # A peer that vanished without a word is noticed, though idle connections are not closed.
                made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            self._source.add_connection(made, name)


class _Datagrams:
    """A socket of datagrams, each a message."""

    def __init__(self, source: SyslogReceiver, made: socket.socket) -> None:
        self._source = source
        self.socket = made
        self._size = UNIX_DATAGRAM_BYTES_MAX if made.family == socket.AF_UNIX else UDP_BYTES_MAX
        self._drops = kernel_drops(made)

    def ready(self) -> None:
        """Read a block's worth of messages."""
        if self._source.config.format == "json":
            self._ready_with_peers()
            return
        records: list[bytes] = []
        receive, size, room = self.socket.recv, self._size, BLOCK_BYTES
        with suppress(BlockingIOError, InterruptedError):
            while room > 0:
                data = receive(size)
                records.append(data)
                room -= len(data) + DATAGRAM_COST_BYTES
        self._take(self._source.outlet, records)

    def _ready_with_peers(self) -> None:
        room = BLOCK_BYTES
        with suppress(BlockingIOError, InterruptedError):
            while room > 0:
                data, name = self.socket.recvfrom(self._size)
                self._take(self._source.sink(peer_name(self.socket, name)), [data])
                room -= len(data) + DATAGRAM_COST_BYTES

    def _take(self, sink: Sink, records: list[bytes]) -> None:
        if not records:
            return
        limit = self._source.config.message_bytes_max
        if max(map(len, records)) > limit:
            self._source.counters["oversized"] += sum(len(record) > limit for record in records)
            records = [piece for record in records for piece in cut(record, limit)]
        sink.records([record for record in records if record])

    def count_drops(self) -> None:
        """Add what the kernel dropped since the last time."""
        drops = kernel_drops(self.socket)
        self._source.counters["dropped"] += (drops - self._drops) % (1 << 32)
        self._drops = drops


class SyslogReceiver(Source):
    """Receives syslog messages as `config` says; `addresses` are known once it has started."""

    def __init__(self, config: SyslogSource, name: str = "") -> None:
        super().__init__(name or config.name or "syslog", COUNTERS)
        self.config = config
        self.counters = self._counters
        self.addresses: list[Address] = []
        self.table: LengthTable = {}
        self._wakeup: Wakeup | None = None
        self._inputs: list[tuple[Address, socket.socket, int]] = []
        self._datagrams: list[_Datagrams] = []
        self._paused: list[_Listener] = []
        self._connections: dict[socket.socket, _Connection] = {}
        self._of_peer: Counter[str] = Counter()

    def sink(self, peer: str) -> Sink:
        """Where messages of `peer` go."""
        return JsonSink(self.outlet, self.counters, peer) if self.config.format == "json" else self.outlet

    def add_connection(self, made: socket.socket, name: object) -> None:
        """Take an accepted connection in, or close it when there are too many."""
        owner = peer_owner(made, name)
        too_many = self._of_peer[owner] >= self.config.connections_per_peer_max
        if too_many or len(self._connections) >= self.config.connections_max:
            self.counters["refused"] += 1
            made.close()
            return
        connection = _Connection(self, made, peer_name(made, name))
        connection.owner = owner
        self._of_peer[owner] += 1
        self._connections[made] = connection
        self._selector.register(made, selectors.EVENT_READ, connection)
        self.counters["connections"] += 1
        self.counters["connections_open"] += 1

    def drop_connection(self, connection: _Connection) -> None:
        """The connection has ended."""
        self._selector.unregister(connection.socket)
        del self._connections[connection.socket]
        self.counters["connections_open"] -= 1
        self._of_peer[connection.owner] -= 1
        if not self._of_peer[connection.owner]:
            del self._of_peer[connection.owner]
        connection.finish()

    def pause(self, listener: _Listener) -> None:
        """Accept nothing there until the next housekeeping: descriptors or memory have run out."""
        self._selector.unregister(listener.socket)
        self._paused.append(listener)

    def _open(self, writer: BatchWriter) -> None:
        self.outlet = Outlet(writer, self.counters)
        self._selector = selectors.DefaultSelector()
        self._wakeup = Wakeup()
        try:
            for address in self.config.addresses():
                self._listen(address)
        except BaseException:
            self._close()
            raise
        self._selector.register(self._wakeup.fd, selectors.EVENT_READ, None)

    def _listen(self, address: Address) -> None:
        made = listen_on(address, self.config.receive_buffer, self.config.socket_mode)
        inode = os.lstat(address.host).st_ino if made.family == socket.AF_UNIX else 0
        self._inputs.append((address, made, inode))
        self.addresses.append(bound_address(made, address))
        if made.type == socket.SOCK_DGRAM:
            datagrams = _Datagrams(self, made)
            self._datagrams.append(datagrams)
            self._selector.register(made, selectors.EVENT_READ, datagrams)
        else:
            self._selector.register(made, selectors.EVENT_READ, _Listener(self, made))

    def _run(self, writer: BatchWriter) -> None:
        next_housekeeping = 0.0
        while not self._stopping.is_set():
            self._round(HOUSEKEEPING_S)
            now = time.monotonic()
            if now >= next_housekeeping:
                next_housekeeping = now + HOUSEKEEPING_S
                self._housekeeping(now)
        if self._wakeup is not None:
            self._selector.unregister(self._wakeup.fd)
        drain_until = min(time.monotonic() + STOP_DRAIN_S, self._stop_by)
        while self._round(0) and time.monotonic() < drain_until:
            pass
        for connection in list(self._connections.values()):
            self.drop_connection(connection)
        self._housekeeping(time.monotonic())
        self.outlet.flush()

    def _round(self, timeout: float) -> int:
        """Read once from everything readable and send it; the number of sockets that were."""
        events = self._selector.select(timeout)
        for key, _ in events:
            if key.data is not None:
                key.data.ready()
        self.outlet.flush()
        return len(events)

    def _housekeeping(self, now: float) -> None:
        for datagrams in self._datagrams:
            datagrams.count_drops()
        for listener in self._paused:
            self._selector.register(listener.socket, selectors.EVENT_READ, listener)
        self._paused.clear()
        if self.config.idle_timeout:
            silent_since = now - self.config.idle_timeout
            for connection in [c for c in self._connections.values() if c.last_heard < silent_since]:
                self.counters["idle_closed"] += 1
                self.drop_connection(connection)
            self.outlet.flush()

    def _wake(self) -> None:
        if self._wakeup is not None:
            self._wakeup.set()

    def _close(self) -> None:
        for connection in self._connections.values():
            connection.socket.close()
        self._connections.clear()
        for address, made, inode in self._inputs:
            made.close()
            if inode:
                forget_path(address, inode)
        self._inputs.clear()
        self._selector.close()
        if self._wakeup is not None:
            self._wakeup.close()
