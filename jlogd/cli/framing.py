"""How a stream of bytes is cut into records.

    lines   one record a line. The newline is not part of the record, a carriage return before it is. The last line
    needs
            no newline. An empty line is an empty record.
    length  each record is a u32 (little-endian) with its length in bytes, then that many bytes. Records may hold
    anything. json    one JSON document a line (NDJSON). Each is validated and kept byte for byte; blank lines are
    left out.

A framer is fed blocks as they are read and gives parts: newline-terminated bytes, or a list of records. Lines are never
looked at one by one: a block is searched for its last newline and handed over whole. Input that breaks the rules raises
`InputError` with line and byte, after every record before it was given out.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Protocol

import msgspec

from jlogd.errors import JlogError
from jlogd.journal.batch import RECORD_BYTES_MAX

Part = bytes | list[bytes]
_LENGTH = struct.Struct("<I")
# Enough of a wrong line to recognise it.
_SHOWN_BYTES_MAX = 40


class InputError(JlogError):
    """The input is not framed as promised; the message says where."""

    code = "bad-input"


class Framer(Protocol):
    """Cuts blocks into parts; `finish` gives the last one, once the input has ended."""

    def feed(self, block: bytes) -> Iterator[Part]: ...

    def finish(self) -> Iterator[Part]: ...


def framer(name: str) -> Framer:
    """The framer of that name: lines, length or json."""
    kinds: dict[str, type[Lines | Lengths]] = {"lines": Lines, "length": Lengths, "json": Documents}
    return kinds[name]()


def count_of(part: Part) -> int:
    """Records in a part."""
    return part.count(b"\n") if isinstance(part, bytes) else len(part)


def without_first(part: Part, count: int) -> Part:
    """The part without its first `count` records."""
    if not isinstance(part, bytes):
        return part[count:]
    return part.split(b"\n", count)[count] if count else part


class Lines:
    """One record a line; see the module's text."""

    def __init__(self) -> None:
        self._held: list[bytes] = []  # the line that has not ended yet, in pieces
        self._held_bytes = 0
        self.line = 1  # number of the next line to be given out
        self.at = 0  # and its byte

    def feed(self, block: bytes) -> Iterator[Part]:
        end = block.rfind(b"\n") + 1
        if end:
            first_line = self._held_bytes + block.find(b"\n")
            whole = b"".join((*self._held, block[:end])) if self._held else block[:end]
            self._held.clear()
            self._held_bytes = 0
            if max(first_line, len(block)) > RECORD_BYTES_MAX:
                yield from self._up_to_the_long_line(whole)
            else:
                yield from self._give(whole)
        if end < len(block):
            self._held.append(block[end:])
            self._held_bytes += len(block) - end
            if self._held_bytes > RECORD_BYTES_MAX:
                raise self._too_long()

    def finish(self) -> Iterator[Part]:
        if self._held:
            self._held.append(b"\n")
            yield from self._give(b"".join(self._held))
            self._held.clear()

    def _give(self, lines: bytes) -> Iterator[Part]:
        yield lines
        self.line += lines.count(b"\n")
        self.at += len(lines)

    def _up_to_the_long_line(self, lines: bytes) -> Iterator[Part]:
        start = 0
        while start < len(lines):
            end = lines.index(b"\n", start)
            if end - start > RECORD_BYTES_MAX:
                yield from self._give(lines[:start]) if start else ()
                raise self._too_long()
            start = end + 1
        yield from self._give(lines)

    def _too_long(self) -> InputError:
        return InputError(
            f"line {self.line} (byte {self.at}) is longer than {RECORD_BYTES_MAX} bytes, the limit of a record"
        )


class Documents(Lines):
    """One JSON document a line; see the module's text."""

    def __init__(self) -> None:
        super().__init__()
        self._decode = msgspec.json.Decoder().decode

    def _give(self, lines: bytes) -> Iterator[Part]:
        documents = lines.split(b"\n")[:-1]
        bad = self._first_bad(documents)
        good = [document for document in documents[: bad[0] if bad else None] if document.strip()]
        if good:
            yield b"\n".join(good) + b"\n"
        if bad:
            where = self.at + sum(map(len, documents[: bad[0]])) + bad[0]
            shown = documents[bad[0]][:_SHOWN_BYTES_MAX].decode(errors="backslashreplace")
            raise InputError(f"line {self.line + bad[0]} (byte {where}) is not a JSON document: {bad[1]}: {shown!r}")
        self.line += len(documents)
        self.at += len(lines)

    def _first_bad(self, documents: list[bytes]) -> tuple[int, str] | None:
        """Index of the first document that is none, and why."""
        for at, document in enumerate(documents):
            try:
                self._decode(document)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                if document.strip():
                    return at, str(error)
        return None


class Lengths:
    """A length before each record; see the module's text."""

    def __init__(self) -> None:
        self._held = b""
        self.record = 1  # number of the next record
        self.at = 0  # and the byte of its length

    def feed(self, block: bytes) -> Iterator[Part]:
        data = self._held + block if self._held else block
        start, records, wrong = 0, [], None
        while len(data) - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(data, start)
            if length > RECORD_BYTES_MAX:
                wrong = length
                break
            end = start + _LENGTH.size + length
            if end > len(data):
                break
            records.append(data[start + _LENGTH.size : end])
            start = end
        self._held = data[start:]
        if records:
            yield records
        self.record += len(records)
        self.at += start
        if wrong is not None:
            raise InputError(
                f"record {self.record} (byte {self.at}) claims {wrong} bytes, over the limit of {RECORD_BYTES_MAX}; "
                "is the input framed by u32 little-endian lengths?"
            )

    def finish(self) -> Iterator[Part]:
        if self._held:
            raise InputError(
                f"the input ends inside record {self.record} (byte {self.at}): {len(self._held)} bytes are left over"
            )
        yield from ()
