"""The daemon's ROUTER socket: where it listens, what it takes in and sends, and what ZeroMQ may hold of one peer.

Used by one thread, after it was bound.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple

import zmq

from jlogd.errors import CannotListen
from jlogd.wire.address import check_address, check_socket_free
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

Sent = Literal["sent", "gone", "stalled"]


class Incoming(NamedTuple):
    """A message as it came: who sent it, its control, its batches; `frames` is None when there were too many."""

    identity: bytes
    control: bytes
    frames: list[bytes | memoryview] | None


class Door:
    """See the module's text."""

    def __init__(self, addresses: Sequence[str]) -> None:
        """Listens on all the addresses. Raises `CannotListen` when one cannot be had, `UsageError` when it is none."""
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket = self._context.socket(zmq.ROUTER)
        self._configure(self.socket)
        self.addresses: list[str] = []
        try:
            for address in addresses:
                self.addresses.append(self._bind(address))
        except BaseException:
            self.close(linger_ms=0)
            raise

    def receive(self) -> Incoming | None:
        """The next message; None when there is none."""
        socket = self.socket
        try:
            identity = socket.recv(zmq.DONTWAIT, copy=False)
        except zmq.Again:
            return None
        more, control = identity.more, b""
        frames: list[bytes | memoryview] | None = []
        if more:
            part = socket.recv(copy=False)
            control, more = part.bytes, part.more
        while more:
            part = socket.recv(copy=False)
            more = part.more
            if frames is not None and len(frames) < APPEND_BATCHES_MAX:
                frames.append(part.bytes if len(part) < _COPY_BYTES else part.buffer)
            else:
                frames = None
        return Incoming(identity.bytes, control, frames)

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
        self.socket.close(linger=linger_ms)
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

    def _bind(self, address: str) -> str:
        """The address with the port that was chosen."""
        address = check_address(address)
        check_socket_free(address)
        self.socket.ipv6 = address.startswith("tcp://[")
        try:
            self.socket.bind(address)
        except zmq.ZMQError as error:
            raise CannotListen(
                f"cannot listen on {address}: {os.strerror(error.errno or 0)}; is another jlogd running, "
                "does the directory exist, may this user listen there?"
            ) from error
        if address.startswith("ipc://"):
            with suppress(OSError):
                Path(address.removeprefix("ipc://")).chmod(SOCKET_MODE)
        endpoint = self.socket.getsockopt(zmq.LAST_ENDPOINT)
        assert isinstance(endpoint, bytes)
        return endpoint.decode().rstrip("\0")
