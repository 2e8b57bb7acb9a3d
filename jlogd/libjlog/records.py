"""The records of a libjlog segment: finding them, past whatever damage there is.

    0  4  magic          0x663A7318 plain; 0x15106A00 | provider compressed (0 as it is, 1 LZ4)
    4  4  tv_sec
    8  4  tv_usec
    12 4  mlen           length of the record
    16 4  compressed_len only in compressed records: length of the body as it stands
          body

There is no checksum. So a record is believed when another one, or the end of the segment, follows where its length says
it ends. Where that is not so, one of two things has happened:

- it was torn by a crash, and what was written later stands where the rest of it should be: if records are found inside
  what it claims, they are believed, and it is not;
- it is whole, and what follows is damaged: it is believed, and the damage starts after it.

libjlog drops the record in both cases. A torn record whose claim ends exactly where a later record begins cannot be
told from a whole one; libjlog delivers it with the later ones inside, and so does this.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from jlogd.errors import FormatError, MissingLibrary
from jlogd.journal.batch import RECORD_BYTES_MAX

ByteOrder = Literal["<", ">"]
LITTLE: ByteOrder = "<"
BIG: ByteOrder = ">"
PLAIN_MAGIC = 0x663A7318
COMPRESSED_MAGIC = 0x15106A00
AS_IT_IS, LZ4 = 0, 1
HEADER_BYTES = 16
MAGIC_BYTES = 4
# One block is read at a time; segments are 4 MiB by default.
BLOCK_BYTES = 4 << 20
# LZ4 never makes its input larger than this (plus a little); a longer body is no record of an acceptable size.
BODY_BYTES_MAX = RECORD_BYTES_MAX + RECORD_BYTES_MAX // 255 + 16


@dataclass(frozen=True, slots=True)
class Record:
    """A whole record. `time` is ns since 1970 UTC, `end` the byte after it."""

    time: int
    data: bytes
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Skipped:
    """Bytes that hold no record, or one that cannot be taken. `kind` is one of:

    `damaged` (no record starts there), `torn` (cut off at the end), `unreadable` (its body cannot be decompressed),
    `too large` (over the limit of a record here).
    """

    kind: str
    start: int
    end: int
    why: str

    @property
    def is_record(self) -> bool:
        """Whether libjlog counts it as a record."""
        return self.kind in ("unreadable", "too large")


class Bytes:
    """Bytes to read from, in memory or in a file: as many as there were at first, whoever appends to it meanwhile."""

    def __init__(self, data: bytes, fd: int = -1, size: int = 0) -> None:
        self._fd = fd
        self._block, self._at = data, 0
        self.size = size if fd >= 0 else len(data)

    @classmethod
    def of_file(cls, path: Path) -> Bytes:
        """Raises FileNotFoundError."""
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        return cls(b"", fd, os.fstat(fd).st_size)

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    def load(self, offset: int, length: int) -> tuple[bytes, int]:
        """A block that holds `length` bytes from `offset`, as far as they are there; where in it they start."""
        at = offset - self._at
        wanted = min(length, self.size - offset)
        if at < 0 or at + wanted > len(self._block):
            if self._fd < 0:
                return self._block, offset
            self._block = os.pread(self._fd, min(max(wanted, BLOCK_BYTES), self.size - offset), offset)
            self._at, at = offset, 0
            if len(self._block) < wanted:  # it was cut meanwhile: what is gone was there to be read and is not
                self._block += bytes(wanted - len(self._block))
        return self._block, at

    def read(self, offset: int, length: int) -> bytes:
        """At most `length` bytes from `offset`."""
        block, at = self.load(offset, length)
        return block[at : at + min(length, self.size - offset)]


@cache
def magics() -> dict[ByteOrder, dict[bytes, int]]:
    """The bytes that a record starts with, by byte order, with the length of its header."""
    found: dict[ByteOrder, dict[bytes, int]] = {}
    for order in (LITTLE, BIG):
        pack = struct.Struct(f"{order}I").pack
        compressed = {pack(COMPRESSED_MAGIC | provider): HEADER_BYTES + 4 for provider in (AS_IT_IS, LZ4)}
        found[order] = {pack(PLAIN_MAGIC): HEADER_BYTES, **compressed}
    return found


@cache
def _any_magic(order: ByteOrder) -> re.Pattern[bytes]:
    return re.compile(b"|".join(map(re.escape, magics()[order])))


def order_of(data: bytes) -> ByteOrder | None:
    """The byte order of the first record found in `data`."""
    found = {order: match.start() for order in magics() if (match := _any_magic(order).search(data))}
    return min(found, key=lambda order: found[order], default=None)


class Scanner:
    """Walks the records of one segment."""

    def __init__(self, data: Bytes, order: ByteOrder, live: bool) -> None:
        """`live`: it may still be written to, so a record that is cut off at its end may be one in the making."""
        self._data = data
        self._live = live
        self._headers = magics()[order]
        self._pattern = _any_magic(order)
        self._u32 = struct.Struct(f"{order}I")
        self._fields = struct.Struct(f"{order}III")

    def __iter__(self) -> Iterator[Record | Skipped]:
        offset, size = 0, self._data.size
        while offset < size:
            end = self._end_of(offset)
            if end is None:
                following = self._resync(offset + 1, size)
                yield self._lost(offset, following)
                offset = following
                continue
            if not self._is_followed(end):
                inside = self._resync(offset + MAGIC_BYTES, end)
                if inside < end:
                    yield Skipped("damaged", offset, inside, "a record was cut off, and later ones follow")
                    offset = inside
                    continue
            yield self._record(offset, end)
            offset = end

    def _end_of(self, offset: int) -> int | None:
        """Where the record at `offset` ends; None when none is there, or not all of it."""
        block, at = self._data.load(offset, HEADER_BYTES + 4)
        header = self._headers.get(block[at : at + MAGIC_BYTES])
        if header is None or offset + header > self._data.size:
            return None
        end: int = offset + header + self._u32.unpack_from(block, at + header - 4)[0]
        return end if end <= self._data.size else None

    def _is_followed(self, end: int) -> bool:
        """Whether a record, or as much of one as there is room for, starts at `end`, or nothing does."""
        following = self._data.read(end, MAGIC_BYTES)
        return following in self._headers or self._may_begin(following)

    def _may_begin(self, last: bytes) -> bool:
        """Whether the last bytes of the segment are those that a record starts with."""
        return len(last) < MAGIC_BYTES and any(magic.startswith(last) for magic in self._headers)

    def _resync(self, start: int, end: int) -> int:
        """The first byte from `start` on, below `end`, where a record starts that another one follows; else `end`."""
        while start < end:
            block, at = self._data.load(start, min(BLOCK_BYTES, end - start))
            base = start - at
            for match in self._pattern.finditer(block, at):
                candidate = base + match.start()
                if candidate >= end:
                    return end
                stop = self._end_of(candidate)
                if stop is not None and self._is_followed(stop):
                    return candidate
            # A magic may straddle two blocks.
            start = max(base + len(block) - MAGIC_BYTES + 1, start + 1)
        return end

    def _lost(self, start: int, end: int) -> Skipped:
        first = self._data.read(start, MAGIC_BYTES)
        begins = first in self._headers or self._may_begin(first)
        if end == self._data.size and begins:
            maybe = "; its writer may be at it" if self._live else ""
            return Skipped("torn", start, end, f"a record is cut off at the end{maybe}")
        if begins:
            return Skipped("damaged", start, end, "a record was cut off, and later ones follow")
        zeros = not any(self._data.read(start, min(end - start, BLOCK_BYTES)))
        return Skipped("damaged", start, end, "zeros" if zeros else "no record starts here")

    def _record(self, start: int, end: int) -> Record | Skipped:
        block, at = self._data.load(start, end - start if end - start <= BODY_BYTES_MAX else HEADER_BYTES + 4)
        header = self._headers[block[at : at + MAGIC_BYTES]]
        seconds, microseconds, length = self._fields.unpack_from(block, at + MAGIC_BYTES)
        if length > RECORD_BYTES_MAX or end - start - header > BODY_BYTES_MAX:
            return Skipped("too large", start, end, f"a record of {length} bytes; the limit is {RECORD_BYTES_MAX}")
        body = block[at + header : at + end - start]
        if header != HEADER_BYTES:
            provider = self._u32.unpack_from(block, at)[0] & 0xFF
            try:
                body = _decompress(provider, body, length)
            except FormatError as error:
                return Skipped("unreadable", start, end, str(error))
        return Record((seconds * 1_000_000 + microseconds) * 1000, body, start, end)


def _decompress(provider: int, body: bytes, length: int) -> bytes:
    """Raises `FormatError`, `MissingLibrary`."""
    if provider == AS_IT_IS:
        found = body
    else:
        try:
            from lz4 import block
        except ImportError:
            raise MissingLibrary(
                "the log is compressed with LZ4, and the library for it is not installed; "
                "install it: pip install 'jlogd[libjlog]', or pip install '.[libjlog]' in a checkout of jlogd"
            ) from None
        try:
            found = block.decompress(body, uncompressed_size=length)
        except block.LZ4BlockError as error:
            raise FormatError(f"the body of a record cannot be decompressed ({error})") from None
    if len(found) != length:
        raise FormatError(f"a record claims {length} bytes, and its body holds {len(found)}")
    return found
