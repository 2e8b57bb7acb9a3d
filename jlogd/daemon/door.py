"""The daemon's ROUTER socket: where it listens, what it takes in and sends, and what ZeroMQ may hold of one peer.

One socket has many listeners. Each takes over, when it is bound, what the socket is set to at that moment: so a
listener on a unix socket goes without keys beside one on the network that demands them.

Used by one thread, after it was bound.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal, NamedTuple

import zmq

from jlogd.daemon.auth import Auth, Demand, demand_of
from jlogd.daemon.gate import Gate
from jlogd.daemon.grants import Access
from jlogd.daemon.tally import Tally
from jlogd.daemon.watch import Watch
from jlogd.errors import CannotListen
from jlogd.wire.address import check_address, check_socket_free
from jlogd.wire.keys import KeyPair, read_pair
from jlogd.wire.messages import APPEND_BATCHES_MAX, FRAME_BYTES_MAX

# Messages that wait to be read by one client. Credit and windows keep a client that reads far below it.
SEND_MESSAGES_MAX = 32768
# Messages of one client that are taken in before the server has seen them; it reads faster than any client sends.
RECEIVE_MESSAGES_MAX = 256
# A peer that does not finish ZeroMQ's own greeting within so long is cut off.
GREETING_MS = 5000
# ZeroMQ's own heartbeat: connections whose other end vanished without a word are closed.
HEARTBEAT_MS = 5000
HEARTBEAT_TIMEOUT_MS = 20000
# At the end: time for the last acknowledgements to leave.
LINGER_MS = 500
# Users of the group may connect to a unix socket, others may not.
SOCKET_MODE = 0o660
# Frames smaller than this are copied: they would keep ZeroMQ's receive buffer of 8 KiB alive.
_COPY_BYTES = 8 << 10
# Larger frames are sent without copying them.
_SEND_COPY_BYTES = 256 << 10
# An address that was just left is free once ZeroMQ's own thread has closed it; after this it is tried now and then.
REBIND_SECONDS = 0.5
# More parts than an append has are refused; a message of thousands is no mistake.
PARTS_MAX = 16 * APPEND_BATCHES_MAX

Sent = Literal["sent", "gone", "stalled"]


class Incoming(NamedTuple):
    """A message as it came: who sent it, its control, its batches; `frames` is None when there were too many.

    `user` is what the gate said of its connection, `peer` its address, `descriptor` its socket.
    """

    identity: bytes
    control: bytes
    frames: list[bytes | memoryview] | None
    user: str
    peer: str
    descriptor: int


class Door:
    """See the module's text."""

    def __init__(
        self,
        addresses: Sequence[str],
        auth: Auth | None = None,
        tally: Tally | None = None,
        socket_mode: int = SOCKET_MODE,
    ) -> None:
        """Listens on all the addresses. Raises `CannotListen` when one cannot be had, `UsageError` when it is none."""
        auth = auth or Auth()
        self._pair = read_pair(auth.key) if auth.key else None
        self._mode = socket_mode
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        tally = tally or Tally()
        self.gate = Gate(self._context, Access(auth), tally)
        self.socket = self._context.socket(zmq.ROUTER)
        self._configure(self.socket)
        self.watch = Watch(self.socket, tally)
        self.addresses: list[str] = []
        self._demands: dict[str, Demand] = {}
        self.missing: dict[str, str] = {}  # addresses that could not be had again after a change of the key, and why
        try:
            for address in addresses:
                checked = check_address(address)
                check_socket_free(checked)
                demand = demand_of(checked, auth)
                bound = self._bind(checked, demand)
                self.addresses.append(bound)
                self._demands[bound] = demand
        except BaseException:
            self.close(linger_ms=0)
            raise

    @property
    def public_key(self) -> str:
        """The key its clients must know; "" when no listener demands one."""
        return self._pair.public if self._pair is not None and "key" in self._demands.values() else ""

    def change_key(self, pair: KeyPair) -> None:
        """Go over to another key. Who is connected by the old one is cut off, and comes back by the new one."""
        self._pair = pair
        for address, demand in self._demands.items():
            if demand == "key":
                with suppress(zmq.ZMQError):  # it is missing since an earlier change
                    self.socket.unbind(address)
                self.missing[address] = "its key was changed"
        deadline = time.monotonic() + REBIND_SECONDS
        while self.missing and time.monotonic() < deadline:
            self.listen_again()
            time.sleep(0.005)

    def listen_again(self) -> None:
        """Try the addresses that are missing."""
        for address in list(self.missing):
            try:
                self._bind(address, "key")
                del self.missing[address]
            except CannotListen as error:
                self.missing[address] = str(error)

    def receive(self) -> Incoming | None:
        """The next message; None when there is none."""
        socket = self.socket
        try:
            identity = socket.recv(zmq.DONTWAIT, copy=False)
        except zmq.Again:
            return None
        more, control = identity.more, b""
        user, peer, descriptor = _word(identity, "User-Id"), _word(identity, "Peer-Address"), _word(identity, "__fd")
        frames: list[bytes | memoryview] | None = []
        if more:
            part = socket.recv(copy=False)
            control, more = part.bytes, part.more
        parts = 0
        while more:
            part = socket.recv(copy=False)
            more, parts = part.more, parts + 1
            if frames is not None and len(frames) < APPEND_BATCHES_MAX:
                frames.append(part.bytes if len(part) < _COPY_BYTES else part.buffer)
            else:
                frames = None
        incoming = Incoming(identity.bytes, control, frames, user, peer, int(descriptor or -1))
        self.watch.heard(incoming.descriptor)
        if parts > PARTS_MAX:
            self.watch.fault(incoming.identity, incoming.descriptor, "too_many_parts")
        return incoming

    def send(self, identity: bytes, control: bytes, frame: bytes | None = None) -> Sent:
        """Send to a peer, or say that it is gone, or that it does not read what it was sent."""
        socket = self.socket
        try:
            socket.send(identity, zmq.SNDMORE | zmq.DONTWAIT)
            if frame is None:
                socket.send(control, zmq.DONTWAIT)
            else:
                socket.send(control, zmq.SNDMORE | zmq.DONTWAIT)
                socket.send(frame, zmq.DONTWAIT, copy=len(frame) < _SEND_COPY_BYTES)
        except zmq.Again:
            return "stalled"
        except zmq.ZMQError:
            return "gone"
        return "sent"

    def close(self, linger_ms: int = LINGER_MS) -> None:
        """Stop listening; what was sent has a moment to leave."""
        self.watch.close()
        self.socket.close(linger=linger_ms)
        self.gate.close()
        self._context.term()

    @staticmethod
    def _configure(socket: zmq.Socket[bytes]) -> None:
        # A peer that is gone, or that does not read, is an error of the send, not a message lost in silence.
        socket.router_mandatory = True
        # A peer that claims another's identity does not get it.
        socket.router_handover = False
        socket.sndhwm = SEND_MESSAGES_MAX
        socket.rcvhwm = RECEIVE_MESSAGES_MAX
        # A frame that announces more is not read: its connection is closed.
        socket.maxmsgsize = FRAME_BYTES_MAX
        socket.handshake_ivl = GREETING_MS
        socket.heartbeat_ivl = HEARTBEAT_MS
        socket.heartbeat_timeout = HEARTBEAT_TIMEOUT_MS
        socket.linger = 0

    def _bind(self, address: str, demand: Demand) -> str:
        """The address with the port that was chosen."""
        self.socket.ipv6 = address.startswith("tcp://[")
        self.socket.zap_domain = demand.encode()
        if demand == "key":
            assert self._pair is not None
            self.socket.curve_secretkey = self._pair.secret.encode()
        self.socket.curve_server = demand == "key"
        try:
            if demand == "unix":
                with _created_as(self._mode):
                    self.socket.bind(address)
            else:
                self.socket.bind(address)
        except zmq.ZMQError as error:
            raise CannotListen(
                f"cannot listen on {address}: {os.strerror(error.errno or 0)}; is another jlogd running, "
                "does the directory exist, may this user listen there?"
            ) from error
        if demand == "unix":
            Path(address.removeprefix("ipc://")).chmod(self._mode)
        endpoint = self.socket.getsockopt(zmq.LAST_ENDPOINT)
        assert isinstance(endpoint, bytes)
        return endpoint.decode().rstrip("\0")


def _word(frame: zmq.Frame, name: str) -> str:
    """What ZeroMQ knows of the connection a frame came by; "" when it does not say."""
    try:
        found = frame.get(name)
    except zmq.ZMQError:
        return ""
    return found if isinstance(found, str) else ""


@contextmanager
def _created_as(mode: int) -> Iterator[None]:
    """Files made within have this mode from their first moment. It holds for the whole process: only at the start."""
    before = os.umask(~mode & 0o777)
    try:
        yield
    finally:
        os.umask(before)
