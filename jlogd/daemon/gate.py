"""The gate: says, of every new connection, who it is (ZAP, ZeroMQ's RFC 27).

    peer --greeting--> ZeroMQ --inproc--> gate: 200 and a user, or 400
                          |
                          '--> the user goes with every message of that connection (grants.py)

Each listener asks under its own domain, the word of what it demands (auth.py), so that nobody comes through one door
with the papers for another. With a key, ZeroMQ has checked that the peer has its secret before the gate is asked.

Locking: none; the thread reads `access`, which is replaced as a whole.
"""

from __future__ import annotations

import logging
import threading

import zmq
from zmq.utils import z85

from jlogd.daemon.grants import Access
from jlogd.daemon.tally import Tally

_log = logging.getLogger("jlogd.gate")

ENDPOINT = "inproc://zeromq.zap.01"
_END = b"end"
_VERSION = b"1.0"
# version, request, domain, address, identity, mechanism; then what the mechanism proves.
_PARTS_MIN = 6


class Gate:
    """See the module's text. Made before the first listener; `close` it after the last."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], access: Access, tally: Tally) -> None:
        self.access = access
        self._tally = tally
        self._context = context
        self._socket = context.socket(zmq.REP)
        self._socket.linger = 0
        self._socket.bind(ENDPOINT)
        self._thread = threading.Thread(target=self._run, name="jlogd gate", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        with self._context.socket(zmq.REQ) as ending:
            ending.linger = 0
            ending.connect(ENDPOINT)
            ending.send(_END)
            self._thread.join()

    def _run(self) -> None:
        with self._socket:
            while True:
                try:
                    parts = self._socket.recv_multipart()
                    if parts == [_END]:
                        return
                    self._socket.send_multipart(self._answer(parts))
                except zmq.ContextTerminated:
                    return
                except Exception:
                    _log.exception("at the gate")

    def _answer(self, parts: list[bytes]) -> list[bytes]:
        request = parts[1] if len(parts) > 1 else b""
        user = ""
        if len(parts) >= _PARTS_MIN and parts[0] == _VERSION:
            domain, address, _, mechanism, *proof = (parts[2], parts[3], parts[4], parts[5], *parts[6:])
            user = self._user(domain.decode("ascii", "replace"), address.decode("ascii", "replace"), mechanism, proof)
        status, text = (b"200", b"OK") if user else (b"400", b"no")
        return [_VERSION, request, status, text, user.encode(), b""]

    def _user(self, domain: str, address: str, mechanism: bytes, proof: list[bytes]) -> str:
        """Who it is, or "" to refuse."""
        if domain == "key":
            if mechanism != b"CURVE" or len(proof) != 1 or len(proof[0]) != 32:
                return self._refuse("no_key", address)
            key = z85.encode(proof[0]).decode()
            return f"key:{key}" if self.access.knows(key) else self._refuse("unknown_key", address)
        if mechanism != b"NULL":
            return self._refuse("mechanism", address)
        if domain == "unix":
            # HOST:UID:GID:PID, as libzmq has it of the kernel (SO_PEERCRED).
            words = address.split(":")
            return f"unix:{words[1]}:{words[2]}" if len(words) == 4 else "unix:?:?"
        return domain if domain in ("loopback", "insecure") else self._refuse("domain", address)

    def _refuse(self, reason: str, address: str) -> str:
        if self._tally.count(reason, address):
            _log.warning("%s was not let in: %s", address or "somebody", reason.replace("_", " "))
        return ""
