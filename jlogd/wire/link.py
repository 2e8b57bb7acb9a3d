"""One ZeroMQ connection, from connect to loss: a DEALER socket and the monitor that tells when it is refused or cut.

Used by one thread. ZeroMQ's own reconnecting is off: it would send on a new connection what was queued for the old one,
before the session is there. So a link that is lost is closed, and another one is made.
"""

from __future__ import annotations

from collections.abc import Sequence

import zmq

from jlogd.wire.messages import DELIVERY_BYTES_MAX

# Longer than any link is kept after its loss. Not -1, with which ZeroMQ drops what was received and not read yet.
NEVER_MS = 24 * 3600 * 1000
_LOST = zmq.EVENT_CLOSED | zmq.EVENT_DISCONNECTED


class Link:
    """A connection that may not be there yet; what is sent before waits in it."""

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], address: str, *, received_max: int = 0
    ) -> None:  # fmt: skip
        """`received_max`: messages that may wait here unread; 0 is no limit."""
        made = context.socket(zmq.DEALER)
        # No limit on the number of messages: bytes under way are bounded by windows and credit, requests by threads.
        made.sndhwm, made.rcvhwm = 0, received_max
        made.maxmsgsize = DELIVERY_BYTES_MAX
        made.linger = 0
        made.reconnect_ivl = NEVER_MS
        made.ipv6 = address.startswith("tcp://[")
        self._monitor = made.get_monitor_socket(_LOST)
        self._socket = made
        self._cut = False
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
        return self._cut or bool(self._monitor.poll(0))

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
