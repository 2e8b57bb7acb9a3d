"""A netlink socket for bulk work: many messages in one datagram, and dumps of which only what is needed is decoded.

    sendmsg:  | nlmsghdr seq=n | payload | nlmsghdr seq=n+1 | payload | ... | nlmsghdr seq=n+k NLM_F_ACK | payload |
    recvmsg:  | NLMSG_ERROR seq=n+1 errno |   one for each that failed  ... | NLMSG_ERROR seq=n+k errno or 0 |

The kernel works through the messages of a datagram in order, within `sendmsg`, and goes on after one that failed. So
one acknowledgement, of the last, says that all are done, and every failure has been named before it.

Links and traffic control go through pyroute2. It costs some hundred microseconds a message, which ten thousand
addresses cannot pay; and the guard, which uses this module, must start fast and stay small: the standard library only.

No locks: a socket belongs to the thread that works with it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

NLM_F_REQUEST = 0x01
NLM_F_ACK = 0x04
NLM_F_DUMP = 0x300
NLM_F_REPLACE = 0x100
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400

NLMSG_ERROR = 2
NLMSG_DONE = 3
NLMSG_OVERRUN = 4
NLM_F_DUMP_INTR = 0x10  # the table changed under the dump: it may miss or repeat entries
NLM_F_ACK_TLVS = 0x200
NLMSGERR_ATTR_MSG = 1

_SOL_NETLINK = 270  # the socket module does not name these
_NETLINK_CAP_ACK = 10
_NETLINK_EXT_ACK = 11

HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
ATTRIBUTE = struct.Struct("=HH")  # nlattr: length, type
_INT = struct.Struct("=i")

# Messages in one datagram: few enough that the deadline is looked at every millisecond or two and that all of them may
# fail without their errors overrunning the receive buffer; many enough that the system call no longer counts.
MESSAGES_PER_SEND_MAX = 256

# Room for what the kernel answers: 256 errors take about 1 KB of kernel memory each.
_RECEIVE_BYTES = 4 << 20
# The kernel fills up to 32 KiB of a dump at a time when the reader offers as much.
_READ_BYTES = 64 << 10

# The answer comes from within the system call that asked. Seconds; only a fault of ours lets it pass.
_ANSWER_SECONDS_MAX = 30.0
# A dump that was interrupted by changes is begun again; after so many times what was read last is used.
_DUMP_TRIES_MAX = 10


class Failure(NamedTuple):
    """A message of a bulk that failed: its place in the bulk, the errno, and what the kernel said about it."""

    place: int
    number: int
    said: str


def align(length: int) -> int:
    """Netlink counts in steps of four bytes."""
    return (length + 3) & ~3


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded."""
    return (ATTRIBUTE.pack(4 + len(value), kind) + value).ljust(align(4 + len(value)), b"\0")


class Netlink:
    """A NETLINK_ROUTE socket in the network namespace of the calling thread. Raises `OSError`."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self.socket.bind((0, 0))
        self.socket.settimeout(_ANSWER_SECONDS_MAX)
        for option in (_NETLINK_CAP_ACK, _NETLINK_EXT_ACK):
            # Errors need not carry the whole message back, and may carry words.
            self.socket.setsockopt(_SOL_NETLINK, option, 1)
        set_receive_buffer(self.socket, _RECEIVE_BYTES)
        self._sequence = 0
        self._buffer = bytearray(_READ_BYTES)

    def close(self) -> None:
        self.socket.close()

    def bulk(self, messages: Sequence[tuple[int, int, bytes]]) -> list[Failure]:
        """Send (type, flags, payload) of each, many at once; returns when the kernel acknowledged all: what failed.

        Raises `OSError`.
        """
        failures: list[Failure] = []
        for start in range(0, len(messages), MESSAGES_PER_SEND_MAX):
            part = messages[start : start + MESSAGES_PER_SEND_MAX]
            self.socket.sendto(self._datagram(part), (0, 0))
            failures += self._answers(len(part), start)
        return failures

    def dump(self, kind: int, payload: bytes) -> list[bytes]:
        """All messages of a dump, each with its header. An interrupted one is begun again. Raises `OSError`."""
        found: list[bytes] = []
        for _ in range(_DUMP_TRIES_MAX):
            found, whole = self._dump_once(kind, payload)
            if whole:
                break
        return found

    def _datagram(self, part: Sequence[tuple[int, int, bytes]]) -> bytes:
        pieces: list[bytes] = []
        last = len(part) - 1
        sequence = self._sequence + 1
        for index, (kind, flags, payload) in enumerate(part):
            flags |= NLM_F_REQUEST | (NLM_F_ACK if index == last else 0)
            pieces.append(HEADER.pack(16 + len(payload), kind, flags, sequence + index, 0))
            pieces.append(payload)
        self._sequence += len(part)
        return b"".join(pieces)

    def _answers(self, count: int, start: int) -> list[Failure]:
        """What failed of the datagram just sent, whose messages begin at `start` of the whole."""
        first = self._sequence - count + 1
        failures: list[Failure] = []
        while True:
            for message in self._read():
                _, kind, flags, sequence, _ = HEADER.unpack_from(message)
                if kind != NLMSG_ERROR or not first <= sequence <= self._sequence:
                    continue  # an answer to something given up before
                number = -_INT.unpack_from(message, 16)[0]
                if number:
                    failures.append(Failure(start + sequence - first, number, _said(message, flags)))
                if sequence == self._sequence:
                    return failures

    def _dump_once(self, kind: int, payload: bytes) -> tuple[list[bytes], bool]:
        self._sequence += 1
        header = HEADER.pack(16 + len(payload), kind, NLM_F_REQUEST | NLM_F_DUMP, self._sequence, 0)
        self.socket.sendto(header + payload, (0, 0))
        found: list[bytes] = []
        whole = True
        while True:
            for message in self._read():
                _, answer, flags, sequence, _ = HEADER.unpack_from(message)
                if sequence != self._sequence:
                    continue
                whole = whole and not flags & NLM_F_DUMP_INTR
                if answer == NLMSG_DONE:
                    return found, whole
                if answer == NLMSG_ERROR:
                    number = -_INT.unpack_from(message, 16)[0]
                    raise OSError(number, os.strerror(number))
                found.append(message)

    def _read(self) -> Iterator[bytes]:
        size = self.socket.recv_into(self._buffer)
        return split(bytes(memoryview(self._buffer)[:size]))


def split(data: bytes) -> Iterator[bytes]:
    """The messages in what was received at once, each with its header."""
    offset = 0
    while offset + 16 <= len(data):
        length = int.from_bytes(data[offset : offset + 4], "little" if _LITTLE else "big")
        if length < 16:
            raise OSError(errno.EBADMSG, "a netlink message shorter than its header")
        yield data[offset : offset + length]
        offset += align(length)


_LITTLE = struct.pack("=H", 1) == b"\1\0"


def attributes(message: bytes, offset: int) -> Iterator[tuple[int, int, int]]:
    """(type, start, end) of each attribute of `message` from `offset` on."""
    end = len(message)
    unpack = ATTRIBUTE.unpack_from
    while offset + 4 <= end:
        length, kind = unpack(message, offset)
        if length < 4:
            return
        yield kind & 0x3FFF, offset + 4, offset + length
        offset += (length + 3) & ~3


def set_receive_buffer(sock: socket.socket, size: int) -> None:
    """As much room as asked for, or as much as the system allows without CAP_NET_ADMIN."""
    force = 33  # SO_RCVBUFFORCE, which the socket module does not name
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, force, size)


def _said(message: bytes, flags: int) -> str:
    """The words of an extended acknowledgement. The header of what failed comes back without its body (CAP_ACK)."""
    if not flags & NLM_F_ACK_TLVS:
        return ""
    for kind, start, end in attributes(message, 36):
        if kind == NLMSGERR_ATTR_MSG:
            return message[start:end].rstrip(b"\0").decode("utf-8", "replace")
    return ""
