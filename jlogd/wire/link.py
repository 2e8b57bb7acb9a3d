"""One ZeroMQ connection, from connect to loss: a DEALER socket and the monitor that tells when it is refused or cut.

Used by one thread. ZeroMQ's own reconnecting is off: it would send on a new connection what was queued for the old one,
before the session is there. So a link that is lost is closed, and another one is made.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import zmq

from jlogd.wire.credentials import Credentials, Failure
from jlogd.wire.messages import DELIVERY_BYTES_MAX

# Longer than any link is kept after its loss. Not -1, with which ZeroMQ drops what was received and not read yet.
NEVER_MS = 24 * 3600 * 1000
_LOST = int(zmq.EVENT_CLOSED | zmq.EVENT_DISCONNECTED)
# How a greeting failed. A cryptographic failure has no detail on this side: the daemon just hangs up.
_FAILURES: dict[int, Failure] = {
    int(zmq.EVENT_HANDSHAKE_FAILED_AUTH): "unknown-client",
    int(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL): "handshake",
    int(zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL): "handshake",
}
_WATCHED = _LOST | sum(_FAILURES)
_MISMATCH = int(zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH)
_EVENT = struct.Struct("=Hi")


class Link:
    """A connection that may not be there yet; what is sent before waits in it."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        address: str,
        credentials: Credentials | None = None,
        server_key: str = "",
        *,
        received_max: int = 0,
    ) -> None:
        """With `credentials`, only a daemon that has the secret of `server_key` is spoken to. `received_max`: messages
        that may wait here unread; 0 is no limit."""
        made = context.socket(zmq.DEALER)
        # No limit on the number of messages: bytes under way are bounded by windows and credit, requests by threads.
        made.sndhwm, made.rcvhwm = 0, received_max
        made.maxmsgsize = DELIVERY_BYTES_MAX
        made.linger = 0
        made.reconnect_ivl = NEVER_MS
        made.ipv6 = address.startswith("tcp://[")
        if credentials is not None:
            made.curve_publickey = credentials.pair.public.encode()
            made.curve_secretkey = credentials.pair.secret.encode()
            made.curve_serverkey = server_key.encode()
        self._monitor = made.get_monitor_socket(_WATCHED)
        self._socket = made
        self._cut = False
        # Why the two did not even greet each other; "" when they did, or when nobody was there.
        self.failure: Failure = ""
        made.connect(address)

    def register(self, poller: zmq.Poller) -> None:
        """Poll for what arrives and for the loss."""
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._monitor, zmq.POLLIN)

    def descriptors(self) -> list[int]:
        """What to wait for where there are too many links for a poller: they are readable when something *may* have
        arrived. It is to be received until nothing is left, also after every send."""
        return [self._socket.fileno(), self._monitor.fileno()]

    def send(self, parts: Sequence[bytes]) -> None:
        """Queue a message. On a link that is lost it goes nowhere."""
        try:
            for part in parts[:-1]:
                self._socket.send(part, zmq.SNDMORE | zmq.DONTWAIT)
            self._socket.send(parts[-1], zmq.DONTWAIT)
        except zmq.Again:  # without a limit, only a link that has no peer any more says so
            self._cut = True

    def receive(self) -> tuple[bytes, memoryview | None] | None:
        """The next message, its control and its batches; None when there is none yet."""
        try:
            control = self._socket.recv(zmq.DONTWAIT, copy=False)
        except zmq.Again:
            return None
        batches: memoryview | None = None
        more = control.more
        while more:
            frame = self._socket.recv(copy=False)
            batches, more = batches if batches is not None else frame.buffer, frame.more
        return control.bytes, batches

    def lost(self) -> bool:
        """Whether the connection was refused or cut. What arrived before can still be received."""
        while self._monitor.poll(0):
            event, value = _EVENT.unpack(self._monitor.recv_multipart()[0])
            if event in _FAILURES and not self.failure:
                self.failure = "mechanism" if value == _MISMATCH else _FAILURES[event]
            self._cut = self._cut or bool(event & _LOST)
        return self._cut

    def close(self, poller: zmq.Poller, linger_ms: int = 0) -> None:
        """Close it; `linger_ms` is the time what was sent has to leave."""
        poller.unregister(self._socket)
        poller.unregister(self._monitor)
        self.shut(linger_ms)

    def shut(self, linger_ms: int = 0) -> None:
        """Close one that is in no poller."""
        self._socket.disable_monitor()
        self._monitor.close(linger=0)
        self._socket.close(linger=linger_ms)
