"""Speaking ZMTP by hand, so as to speak it wrongly: a peer that greets, or half of it, and then sends what it likes."""

from __future__ import annotations

import socket
import struct
import time
from contextlib import suppress
from pathlib import Path

SECONDS_MAX = 60.0
MORE, LONG, COMMAND = 1, 2, 4
HELLO = b'{"verb":"hello","id":1,"protocol":1,"client":"hostile-%d"}'


def greeting(mechanism: bytes = b"NULL") -> bytes:
    """The greeting of ZMTP 3.0, 64 bytes."""
    return b"\xff" + bytes(8) + b"\x7f\x03\x00" + mechanism.ljust(20, b"\0") + b"\0" + bytes(31)


def frame(body: bytes, more: bool = False, command: bool = False) -> bytes:
    """One frame."""
    flags = MORE * more | COMMAND * command
    if len(body) > 255:
        return struct.pack(">BQ", flags | LONG, len(body)) + body
    return bytes((flags, len(body))) + body


def header(size: int, more: bool = True) -> bytes:
    """The head of a large frame, without its body."""
    return struct.pack(">BQ", LONG | MORE * more, size)


READY = frame(b"\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER\x08Identity\x00\x00\x00\x00", command=True)


class Hostile:
    """A raw connection to a daemon. `address` is that of a listener without keys."""

    def __init__(self, address: str, *, greet: bool = True, hello: bool = False) -> None:
        if address.startswith("ipc://"):
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.settimeout(SECONDS_MAX)
            self.socket.connect(address.removeprefix("ipc://"))
        else:
            host, _, port = address.removeprefix("tcp://").rpartition(":")
            self.socket = socket.create_connection((host, int(port)), timeout=SECONDS_MAX)
        if greet:
            self.send(greeting())
            self.receive(64)
            self.send(READY)
            self._frame()
        if hello:
            self.send(frame(HELLO % id(self)))
            assert b"welcome" in self._frame()

    def send(self, data: bytes) -> bool:
        """Send; False when the daemon has hung up."""
        try:
            self.socket.sendall(data)
        except (ConnectionError, TimeoutError):
            return False
        return True

    def receive(self, count: int) -> bytes:
        found = b""
        while len(found) < count:
            data = self.socket.recv(count - len(found))
            if not data:
                raise ConnectionError("the daemon hung up")
            found += data
        return found

    def flood(self, data: bytes, total: int) -> int:
        """Send `data` again and again, up to `total` bytes; how many were sent when the daemon hung up."""
        sent = 0
        while sent < total and self.send(data):
            sent += len(data)
        return sent

    def wait_hung_up(self) -> None:
        """Returns once the daemon has hung up; whatever it says before is thrown away."""
        deadline = time.monotonic() + SECONDS_MAX
        with suppress(ConnectionError):
            while self.socket.recv(65536):
                assert time.monotonic() < deadline, "the daemon did not hang up"

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> Hostile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _frame(self) -> bytes:
        flags = self.receive(1)[0]
        size = struct.unpack(">Q", self.receive(8))[0] if flags & LONG else self.receive(1)[0]
        return self.receive(size)


def peak_bytes(pid: int) -> int:
    """The most memory a process ever had, by the kernel's count."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmHWM")
