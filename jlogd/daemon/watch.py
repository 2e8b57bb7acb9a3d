"""The watch: bounds what a connection can cost, where ZeroMQ itself has no bound.

    ZeroMQ --monitor--> watch: a connection came, failed to greet, went
    kernel --TCP_INFO-> watch: so many bytes came by it          } more bytes than a message may have, and no
    door   ------------> watch: a message of it is complete      } message: cut off

ZeroMQ bounds the size of a frame, but not the parts of a message, which it keeps until the last one is there; a part of
two bytes on the wire takes 64 in memory. It bounds neither the number of connections nor what an idle one may wait for.
So each connection is looked at, some twenty times a second, and cut off (shut down, whereupon ZeroMQ forgets it) when

    there are too many of them, in all or from one address beyond this host
    it sent more than HELLO_BYTES_MAX, and no message is complete yet: a stranger gets no memory
    it sent more than MESSAGE_BYTES_MAX since its last complete message
    it has no session and said nothing for IDLE_SECONDS, or it said too much that is not the protocol
    the process holds more than MEMORY_BYTES_MAX, and it sends and sends, but completes nothing

The kernel counts no bytes for unix sockets; there only the last rule bounds the parts of a message.

Locking: the thread owns the table of connections. `heard`, `sent` and `fault` are called by the server's thread and
touch dictionaries of counters; `cut` is called by both.
"""

from __future__ import annotations

import array
import ctypes
import fcntl
import ipaddress
import logging
import resource
import socket
import struct
import termios
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import zmq

from jlogd.daemon.tally import Tally
from jlogd.wire.messages import CONTROL_BYTES_MAX, FRAME_BYTES_MAX

_log = logging.getLogger("jlogd.watch")

# Sessions (see server.py), and as many again of those that greet, or whose end was not noticed yet.
CONNECTIONS_MAX = 1280
# One host of many clients, or a gateway before them, has fewer; one that floods takes the others no place.
CONNECTIONS_PER_PEER_MAX = 256
# Descriptors that stay free for the logs: a flood of connections must not keep a segment from being opened.
DESCRIPTORS_KEPT = 512
# ZeroMQ's greeting, CURVE's handshake and a hello take about 2 KiB.
HELLO_BYTES_MAX = 64 << 10
# An append within the window: several batches of 8 MiB together or one larger one; and what ZeroMQ adds to each part.
MESSAGE_BYTES_MAX = FRAME_BYTES_MAX + CONTROL_BYTES_MAX + (4 << 20)
# A session is ended after 30 s of silence; whoever does not come back to it then has no use for the connection.
IDLE_SECONDS = 60.0
# Faults of one peer: a client whose session was ended has as many appends under way, and no more.
FAULTS_MAX = 10_000
# Peers whose faults are remembered.
PEERS_KEPT = 4096
# The bounds of all windows, credits and queues together are a few hundred MiB (docs/security.md).
MEMORY_BYTES_MAX = 1 << 30
# Looks at which it was found sending since its last message; looks in a row at which it was not, which begin anew.
PRESSING_LOOKS = 5
QUIET_LOOKS = 20
# What ZeroMQ freed stays with the allocator, unless it is asked for; it takes a tenth of a second for a GiB.
TRIM_SECONDS = 2.0
LOOK_SECONDS = 0.05
# Of the time of the thread, and so of a processor, with very many connections.
LOOK_SHARE = 0.05

_EVENT = struct.Struct("=Hi")
_FAILED = {
    int(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL): "handshake",
    int(zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL): "handshake",
}
_MISMATCH = int(zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH)
_ACCEPTED, _GONE = int(zmq.EVENT_ACCEPTED), int(zmq.EVENT_DISCONNECTED)
WATCHED = _ACCEPTED | _GONE | sum(_FAILED)
# In struct tcp_info of the kernel since 4.1: what the peer acknowledged, what it sent.
_TCP_INFO_BYTES = 136
_ACKED_AND_RECEIVED = struct.Struct("=QQ")
_ACKED_AT = 120
_WHY = ": it came without keys to an address that demands them, or with keys to one that has none"
_NO_LINGER = struct.pack("ii", 1, 0)
_PAGE_BYTES = resource.getpagesize()


@dataclass(slots=True)
class _Connection:
    """One connection. `mark`: bytes it had sent when a message of it was last known to be complete; `messages`: how
    many were by then. `drained`: the least of bytes sent to it and not acknowledged, as a base for what it does not
    read. `pressing`: looks at which it was sending without completing anything; `quiet`: the last ones at which not."""

    descriptor: int
    family: int
    peer: str
    name: object
    since: float
    active: float
    mark: int = 0
    received: int = 0
    messages: int = 0
    drained: int = 0
    unread: int = 0
    pressing: int = 0
    quiet: int = 0
    cut: bool = False
    local: bool = field(default=True)


class Watch:
    """See the module's text. Made after the socket, started after its listeners; `close` it before the socket."""

    def __init__(self, door: zmq.Socket[bytes], tally: Tally) -> None:
        self._tally = tally
        self._monitor = door.get_monitor_socket(WATCHED)
        self._door = door
        self._closing = False
        self._connections: dict[int, _Connection] = {}
        self._from: Counter[str] = Counter()
        self._heard: Counter[int] = Counter()
        self._sent: Counter[int] = Counter()
        self._faults: dict[bytes, tuple[int, float]] = {}
        self._failed = self._why = ""
        self._trimmed = 0.0
        self.looks = 0
        self.sessions: frozenset[int] = frozenset()  # descriptors of those that have one; replaced as a whole
        self._most = _connections_max()
        self._thread = threading.Thread(target=self._run, name="jlogd watch", daemon=True)
        self._thread.start()

    @property
    def connections(self) -> int:
        """How many there are."""
        return len(self._connections)

    def heard(self, descriptor: int) -> None:
        """A message of this connection is complete."""
        self._heard[descriptor] += 1

    def sent(self, descriptor: int, size: int) -> None:
        """So many bytes were given to ZeroMQ for this connection."""
        self._sent[descriptor] += size

    def unread(self, descriptor: int) -> int:
        """Bytes that wait for this connection to read them, at least; 0 where the kernel does not tell."""
        found = self._connections.get(descriptor)
        return found.unread if found is not None else 0

    def fault(self, identity: bytes, descriptor: int, reason: str = "", since: float = 0.0) -> None:
        """A peer sent what no client of ours sends. With a `reason`, it is cut off for it at once.

        `since`: when it was first heard. ZeroMQ may hand on what was left of a connection whose number belongs to
        another one by now; that one came later, and is let be.
        """
        faults, first = self._faults.pop(identity, (0, since or time.monotonic()))
        self._faults[identity] = (faults + 1, first)
        if len(self._faults) > PEERS_KEPT:
            del self._faults[next(iter(self._faults))]
        if reason or faults + 1 == FAULTS_MAX:
            found = self._connections.get(descriptor)
            if found is not None and found.since <= first:
                self.cut(descriptor, reason or "too_many_faults")
            elif not reason:
                # Or that it came was learned after its first fault: they are counted anew. What was left of another
                # connection is far less than as many.
                del self._faults[identity]

    def cut(self, descriptor: int, reason: str) -> None:
        """Have ZeroMQ lose this connection."""
        found = self._connections.get(descriptor)
        if found is None or found.cut:
            return
        with suppress(OSError), _socket(found) as made:
            # The number may belong to another one by now, of the syslog or HTTP listeners, say.
            if made.getpeername() == found.name:
                found.cut = True
                if self._tally.count(reason, found.peer):
                    _log.warning("cut %s off: %s", found.peer, reason.replace("_", " "))
                # Without a farewell: a peer that floods would be sent to by the kernel for a minute.
                made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
                made.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End the thread."""
        self._closing = True
        self._thread.join()
        self._door.disable_monitor()
        self._monitor.close(linger=0)

    # The thread

    def _run(self) -> None:
        next_look = 0.0
        while not self._closing:
            try:
                pause = max(0.0, next_look - time.monotonic())
                if self._monitor.poll(int(1000 * pause) + 1):
                    self._take_events()
                if (now := time.monotonic()) >= next_look:
                    self._look(now)
                    next_look = time.monotonic() + max(LOOK_SECONDS, (time.monotonic() - now) / LOOK_SHARE)
            except Exception:
                _log.exception("watching connections")
                time.sleep(LOOK_SECONDS)

    def _take_events(self) -> None:
        with suppress(zmq.Again):
            while True:
                event, value = _EVENT.unpack(self._monitor.recv_multipart(zmq.DONTWAIT)[0])
                if event == _ACCEPTED:
                    self._came(value)
                elif event == _GONE:
                    self._went(value)
                else:
                    self._failed = _FAILED.get(event, "")
                    self._why = _WHY if value == _MISMATCH else ""

    def _came(self, descriptor: int) -> None:
        self._forget(descriptor)
        now = time.monotonic()
        try:
            found = _new_connection(descriptor, now)
        except OSError:  # gone already
            return
        self._connections[descriptor] = found
        self._from[found.peer] += 1
        if len(self._connections) > self._most:
            self.cut(descriptor, "too_many_connections")
        elif not found.local and self._from[found.peer] > CONNECTIONS_PER_PEER_MAX:
            self.cut(descriptor, "too_many_connections_of_one_peer")

    def _went(self, descriptor: int) -> None:
        found = self._connections.get(descriptor)
        # The same thread of ZeroMQ tells of the failure and then of the end.
        if self._failed and not (found is not None and found.cut):
            peer = found.peer if found is not None else "unknown"  # it went before it could be looked at
            if self._tally.count(self._failed, peer):
                _log.warning("%s did not get through ZeroMQ's greeting%s", peer, self._why)
        self._failed = ""
        self._forget(descriptor)

    def _forget(self, descriptor: int) -> None:
        found = self._connections.pop(descriptor, None)
        if found is not None:
            self._from[found.peer] -= 1
            if not self._from[found.peer]:
                del self._from[found.peer]
        for counter in (self._heard, self._sent):
            counter.pop(descriptor, None)

    def _look(self, now: float) -> None:
        self.looks += 1
        pressed = _memory_bytes() > MEMORY_BYTES_MAX
        if pressed and now - self._trimmed > TRIM_SECONDS:
            self._trimmed = now
            _trim()
            pressed = _memory_bytes() > MEMORY_BYTES_MAX
        for found in list(self._connections.values()):
            if not found.cut:
                with suppress(OSError):
                    self._look_at(found, now, pressed)

    def _look_at(self, found: _Connection, now: float, pressed: bool) -> None:
        messages = self._heard[found.descriptor]
        acked, received, waiting = _progress(found)
        if messages != found.messages:
            # Some of what came since the last look may be of the next message: it is not held against it.
            found.messages, found.mark, found.active = messages, received, now
            found.pressing = found.quiet = 0
        elif received != found.received or waiting:
            found.pressing, found.quiet = found.pressing + 1, 0
        else:  # at a single look nothing may wait, though it floods: it was just read
            found.quiet += 1
            found.pressing = found.pressing if found.quiet < QUIET_LOOKS else 0
        found.received = received
        behind = self._sent[found.descriptor] - acked
        found.drained = min(found.drained, behind)
        found.unread = behind - found.drained if found.family != socket.AF_UNIX else 0
        if reason := self._reason(found, now, pressed):
            self.cut(found.descriptor, reason)

    def _reason(self, found: _Connection, now: float, pressed: bool) -> str:
        """Why to cut it off; "" to let it be."""
        # A session counts as well as a message: that the connection came may be learned after its first message.
        known = found.messages or found.descriptor in self.sessions
        if found.received - found.mark > (MESSAGE_BYTES_MAX if known else HELLO_BYTES_MAX):
            return "message_without_end" if known else "no_hello"
        if pressed and found.pressing >= PRESSING_LOOKS:
            return "message_without_end"
        if found.descriptor not in self.sessions and now - found.active > IDLE_SECONDS:
            return "silent"
        return ""


def _new_connection(descriptor: int, now: float) -> _Connection:
    made = socket.socket(fileno=descriptor)
    try:
        family, name = int(made.family), made.getpeername()
        if family == socket.AF_UNIX:
            _, uid, _ = struct.unpack("3i", made.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            return _Connection(descriptor, family, f"uid {uid}", name, now, now)
    finally:
        made.detach()  # it is ZeroMQ's
    return _Connection(descriptor, family, name[0], name, now, now, local=_is_local(name[0]))


@contextmanager
def _socket(found: _Connection) -> Iterator[socket.socket]:
    """The socket of a connection, which stays ZeroMQ's."""
    made = socket.socket(found.family, socket.SOCK_STREAM, 0, fileno=found.descriptor)
    try:
        yield made
    finally:
        made.detach()


def _progress(found: _Connection) -> tuple[int, int, bool]:
    """(bytes the peer acknowledged, bytes it sent, whether some of those wait to be read). Without counts: 0."""
    with _socket(found) as made:
        if found.family == socket.AF_UNIX:
            size = array.array("i", [0])
            fcntl.ioctl(made, termios.FIONREAD, size)
            return 0, 0, size[0] > 0
        info = made.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
        if len(info) < _TCP_INFO_BYTES:
            return 0, 0, False
        acked, received = _ACKED_AND_RECEIVED.unpack_from(info, _ACKED_AT)
        return acked, received, False


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False


def _connections_max() -> int:
    """CONNECTIONS_MAX, or what the limit on open files leaves after those that are kept for the logs."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return CONNECTIONS_MAX
    return max(64, min(CONNECTIONS_MAX, soft - DESCRIPTORS_KEPT, soft // 2))


def _trim() -> None:
    """Have the C library give back to the system what is free; where it knows how to."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _memory_bytes() -> int:
    """What this process has in memory; 0 where that is not told."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * _PAGE_BYTES
    except (OSError, ValueError, IndexError):
        return 0
