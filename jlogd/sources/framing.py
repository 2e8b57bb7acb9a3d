"""Cutting a stream into messages: RFC 6587's two framings, told apart by how a connection begins.

    octet counting      MSG-LEN SP MSG, over and over; MSG-LEN is a decimal number without leading zeros
    terminated          MSG TERMINATOR, over and over; the terminator is a newline or a NUL, whichever comes first

A connection that begins with `digits SP "<"` counts octets; any other is terminated. (A line of a log may well begin
with a number; it is the `<` of the priority behind it that no such line has.) Which terminator it is shows with the
first one.

The same stream gives the same records however the network cut it. A message over `limit` bytes becomes several
records of `limit` bytes and a rest, and is counted as `oversized` once; an unfinished message never takes more memory
than that. An empty terminated message is no record. When octet counting loses its step (`malformed`), what follows is
taken as terminated messages: nothing is thrown away.

The hot paths. Terminated messages are handed over as the block they came in, cut at its last terminator, with no work
per message in Python; of 100 bytes each they cost 35 ns to count and 110 ns to look for empty ones between them, in C.
Octet counting has to look at each length: a table of the headers seen, by their first bytes, replaces finding, checking
and converting the number (150 ns a message instead of 270).

Locking: none; a framer belongs to one connection of one thread.
"""

from __future__ import annotations

import re
from typing import Protocol

_COUNTED_START = re.compile(rb"[1-9][0-9]{0,8} <")
_COUNTED_BEGUN = re.compile(rb"[1-9][0-9]{0,8} ?")
_HEADER = re.compile(rb"([1-9][0-9]{0,8}) ")
_FIRST_TERMINATOR = re.compile(rb"[\n\0]")
_HEADER_BEGUN = re.compile(rb"[1-9][0-9]{0,8}")
# Holds `NNNN ` or the shorter ones with what follows them: every header of messages below 10,000 bytes.
_KEY_BYTES = 5
# More different keys than honest senders make (900 + 9000, and a few hundred); the table starts again when it is full.
_TABLE_ENTRIES_MAX = 16384
_BETWEEN_FRAMES = (b"\n", b"\0")

LengthTable = dict[bytes, tuple[int, int]]


class Sink(Protocol):
    """Where records go."""

    def lines(self, body: bytes, count: int) -> None:
        """Take `count` records that hold no newline, joined by newlines."""

    def records(self, records: list[bytes]) -> None:
        """Take any records."""


def cut(message: bytes, limit: int) -> list[bytes]:
    """`message` in pieces of `limit` bytes; the last one is 1 to `limit` bytes."""
    return [message[at : at + limit] for at in range(0, len(message), limit)]


def longest_over(body: bytes, terminator: bytes, limit: int) -> bool:
    """Whether a message in `body` is longer than `limit`; looks at `len(body) / limit` places only."""
    at, size = 0, len(body)
    while size - at > limit:
        found = body.rfind(terminator, at, at + limit + 1)
        if found < 0:
            return True
        at = found + 1
    return False


class LineFramer:
    """Messages ended by `terminator`; hands whole blocks on.

    Without a terminator given, the first newline or NUL is it. `keep_empty`: an empty line is a record too.
    """

    def __init__(
        self, sink: Sink, counters: dict[str, int], limit: int, terminator: bytes = b"\n", keep_empty: bool = True
    ) -> None:
        self._sink = sink
        self._counters = counters
        self._limit = limit
        self._terminator = terminator
        self._keep_empty = keep_empty
        self._pending = bytearray()  # the unfinished message
        self._cutting = False  # pieces of the unfinished message were handed on already

    def feed(self, data: bytes) -> None:
        """Take what was received."""
        if not self._terminator:
            found = _FIRST_TERMINATOR.search(data)
            self._terminator = found[0] if found else b""
        end = data.rfind(self._terminator) if self._terminator else -1
        if end >= 0:
            self._whole(b"".join((self._pending, data[:end])) if self._pending else data[:end])
            self._pending = bytearray(data[end + 1 :])
        else:
            self._pending += data
        if len(self._pending) > self._limit:
            self._pending = bytearray(self._cut_open(bytes(self._pending)))

    def finish(self) -> None:
        """The stream ended: an unfinished message is a record as it is."""
        if self._pending:
            self._sink.records([bytes(self._pending)])
            self._pending = bytearray()

    def _cut_open(self, message: bytes) -> bytes:
        """Hand on pieces of a message that is not finished; the rest of it."""
        *pieces, rest = cut(message, self._limit)
        self._counters["oversized"] += not self._cutting
        self._cutting = True
        self._sink.records(pieces)
        return rest

    def _whole(self, body: bytes) -> None:
        """Hand on a block of whole messages."""
        too_long = len(body) > self._limit and longest_over(body, self._terminator, self._limit)
        if too_long or (not self._keep_empty and self._has_empty(body)):
            self._slowly(body)
        elif self._terminator == b"\n":
            self._sink.lines(body, body.count(b"\n") + 1)
        elif b"\n" in body:
            self._sink.records(body.split(self._terminator))
        else:
            self._sink.lines(body.replace(self._terminator, b"\n"), body.count(self._terminator) + 1)
        self._cutting = False

    def _has_empty(self, body: bytes) -> bool:
        end = self._terminator
        return not body or body.startswith(end) or body.endswith(end) or end + end in body

    def _slowly(self, body: bytes) -> None:
        """A block with messages that are too long or empty: one by one."""
        records: list[bytes] = []
        for message in body.split(self._terminator):
            if len(message) > self._limit:
                self._counters["oversized"] += not self._cutting
                records += cut(message, self._limit)
            elif message or self._keep_empty:
                records.append(message)
            self._cutting = False
        self._sink.records(records)


class OctetFramer:
    """Messages that each tell their length first. `table` may be shared by framers of the same `limit`."""

    def __init__(self, sink: Sink, counters: dict[str, int], limit: int, table: LengthTable) -> None:
        self._sink = sink
        self._counters = counters
        self._limit = limit
        self._table = table
        self._pending = bytearray()  # from the start of an unfinished frame
        self._need = 0  # bytes `_pending` must have before it is worth looking at
        self._rest = 0  # bytes still to come of a message that is too long

    def feed(self, data: bytes) -> bytes | None:
        """Take what was received. None; or the bytes that are something else, when the counting is lost."""
        if self._pending:
            self._pending += data
            if len(self._pending) < self._need:
                return None
            data = bytes(self._pending)
            self._pending.clear()
        records: list[bytes] = []
        append, known, size, at = records.append, self._table.get, len(data), 0
        lost = False
        while at < size:
            if not self._rest:
                header = known(data[at : at + _KEY_BYTES])
                if header is not None:
                    skip, length = header
                    end = at + length
                    if end > size:
                        self._need = length
                        break
                    append(data[at + skip : end])
                    at = end
                    continue
            moved = self._slowly(data, at, records)
            lost = moved < 0
            if moved <= 0:
                break
            at += moved
        self._sink.records(records)
        if lost:
            self._counters["malformed"] += 1
            return data[at:]
        self._pending += data[at:]
        return None

    def finish(self) -> None:
        """The stream ended: what there is of an unfinished message is a record, and counted as `incomplete`."""
        if not self._pending and not self._rest:
            return
        self._counters["incomplete"] += 1
        header = None if self._rest else _HEADER.match(self._pending)
        message = bytes(self._pending[header.end() if header else 0 :])
        if message:
            self._sink.records([message])
        self._pending.clear()
        self._rest = 0

    def _slowly(self, data: bytes, at: int, records: list[bytes]) -> int:
        """One step that the table did not know: bytes used, 0 when more are needed first, -1 when there is no frame."""
        if self._rest:
            return self._piece(data, at, records)
        if data[at : at + 1] in _BETWEEN_FRAMES:  # some senders add a terminator to what they counted
            return 1
        header = _HEADER.match(data, at)
        if header is None:
            self._need = 0
            return 0 if _HEADER_BEGUN.fullmatch(data, at) else -1
        skip, length = header.end() - at, int(header[1])
        if length > self._limit:
            self._counters["oversized"] += 1
            self._rest = length
            return skip
        if skip <= _KEY_BYTES <= len(data) - at:
            if len(self._table) >= _TABLE_ENTRIES_MAX:
                self._table.clear()
            self._table[data[at : at + _KEY_BYTES]] = (skip, skip + length)
        if skip + length > len(data) - at:
            self._need = skip + length
            return 0
        records.append(data[at + skip : at + skip + length])
        return skip + length

    def _piece(self, data: bytes, at: int, records: list[bytes]) -> int:
        length = min(self._rest, self._limit)
        if length > len(data) - at:
            self._need = length
            return 0
        records.append(data[at : at + length])
        self._rest -= length
        return length


class StreamFramer:
    """A connection whose framing shows with its first bytes; see the module's text."""

    def __init__(self, sink: Sink, counters: dict[str, int], limit: int, table: LengthTable) -> None:
        self._counted = OctetFramer(sink, counters, limit, table)
        self._terminated = LineFramer(sink, counters, limit, b"", keep_empty=False)
        self._begun = b""
        self._framer: OctetFramer | LineFramer | None = None

    def feed(self, data: bytes) -> None:
        """Take what was received."""
        if self._framer is None:
            data = self._begun = self._begun + data
            if _COUNTED_BEGUN.fullmatch(data):
                return  # a length perhaps; the next byte tells
            self._begun = b""
            self._framer = self._counted if _COUNTED_START.match(data) else self._terminated
        other = self._framer.feed(data)
        if other is not None:
            self._framer = self._terminated
            self._terminated.feed(other)

    def finish(self) -> None:
        """The stream ended."""
        if self._framer is None:
            self._framer = self._terminated
            self._terminated.feed(self._begun)
        self._framer.finish()
