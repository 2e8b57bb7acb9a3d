"""Narrow blocks of many segments, read in one go.

Of each segment the row groups that may hold an address of the blocks are fetched as they are (`cidr.places` says where
they lie), and put one behind the other with a footer of their own (`cidr.footer`): one Parquet file in memory. The
library decodes all of it in one call, checks the checksums, and holds no lock of the interpreter meanwhile.

A segment that does not say where its row groups lie is read as a file of its own; so is one that cannot be read this
way, which finds the words for what is wrong with it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cidr.addresses import split
from cidr.columns import Counts, empty, from_unsorted, merge
from cidr.footer import MAGIC, Chunk, FooterColumn, footer
from cidr.places import BEHIND_BYTES, Table, find, line_bytes
from cidr.segment import COLUMNS, ROW_GROUP_ROWS, decode, read
from cidr.timeline import Segment
from cidr.types import Block, Family

# More blocks than these are looked for in each segment by itself: here every row is compared with every block.
BLOCKS_MAX = 8
# So much is decoded in one call, unpacked several times as much: a few milliseconds.
BATCH_BYTES = 512 << 10
# So many files that are read by themselves make a batch too.
ALONE_MAX = 4
_SHAPES = {
    family: [FooterColumn(name, None if name == "count" else 32 if family is Family.V4 else 64) for name in names]
    for family, names in COLUMNS.items()
}


def read_blocks(base: Path, segments: Sequence[Segment], blocks: Sequence[Block]) -> Counts:
    """The sum of the segments, which are of one family, within the blocks. Raises SegmentDamaged, SegmentGone."""
    return merge([batch.counts() for batch in batches(base, segments, blocks)])


def batches(base: Path, segments: Sequence[Segment], blocks: Sequence[Block]) -> Iterator[Batch]:
    """What is to be decoded, fetched already. Fetching is for one thread, whose many short calls would only wait for
    each other's locks in several; decoding is for all there are."""
    batch = Batch(base, segments[0].family, blocks)
    for segment in segments:
        batch.add(segment)
        if batch.full:
            yield batch
            batch = Batch(base, batch.family, blocks)
    yield batch


class Batch:
    """Row groups of several segments, as they lie in their files; and segments that are read by themselves."""

    def __init__(self, base: Path, family: Family, blocks: Sequence[Block]) -> None:
        self.family = family
        self._base = base
        self._blocks = blocks
        self._bytes = len(MAGIC)
        self._parts: list[bytes] = [MAGIC]
        self._groups: list[tuple[int, list[Chunk]]] = []
        self._segments: list[Segment] = []
        self._alone: list[Segment] = []

    @property
    def full(self) -> bool:
        """Whether it is enough for one call."""
        return self._bytes > BATCH_BYTES or len(self._alone) >= ALONE_MAX

    def add(self, segment: Segment) -> None:
        """Fetch what may be needed of a segment."""
        table = None
        with suppress(OSError):
            table = self._fetched(segment) if len(self._blocks) <= BLOCKS_MAX else None
        (self._alone if table is None else self._segments).append(segment)

    def _fetched(self, segment: Segment) -> Table | None:
        """The row groups that were fetched; None when the segment does not tell of them. Raises OSError."""
        file = os.open(self._base / segment.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            columns = len(COLUMNS[self.family])
            tail = line_bytes(-(-segment.rows // ROW_GROUP_ROWS), columns) + BEHIND_BYTES
            table = find(os.pread(file, tail, max(os.fstat(file).st_size - tail, 0)), columns)
            if table is None or table["rows"].sum() != segment.rows:
                return None
            table = table[_wanted(table["first"], self.family, self._blocks)]
            self._take(table, [_part(file, chunks) for chunks in table["chunks"].tolist()])
            return table
        finally:
            os.close(file)

    def _take(self, table: Table, parts: Sequence[bytes]) -> None:
        for rows, chunks, part in zip(table["rows"].tolist(), table["chunks"].tolist(), parts, strict=True):
            shift = self._bytes - _begin(chunks)
            self._groups.append((rows, [(d and d + shift, data + shift, length) for d, data, length in chunks]))
            self._parts.append(part)
            self._bytes += len(part)

    def counts(self) -> Counts:
        """What of it lies in the blocks, added up. Raises SegmentDamaged, SegmentGone."""
        return merge([self._together(), *map(self._by_itself, self._alone)])

    def _by_itself(self, segment: Segment) -> Counts:
        return read(self._base / segment.path, self.family, self._blocks)

    def _together(self) -> Counts:
        if not self._groups:
            return empty(self.family)
        data = b"".join((*self._parts, footer(_SHAPES[self.family], self._groups)))
        try:
            file = pq.ParquetFile(pa.BufferReader(data), pre_buffer=False, page_checksum_verification=True)
            counts = decode(file.read(use_threads=False), self.family)
        except (pa.ArrowException, OSError):  # one of them is damaged: which, and how, its own footer tells
            return merge([self._by_itself(segment) for segment in self._segments])
        keep = _within(counts, self._blocks)
        high = counts.high[keep] if counts.high is not None else None
        return from_unsorted(self.family, counts.low[keep], counts.counts[keep], high)


def _begin(chunks: Sequence[Chunk]) -> int:
    dictionary, data, _ = chunks[0]
    return dictionary or data


def _part(file: int, chunks: Sequence[Chunk]) -> bytes:
    """The bytes of a row group. Raises OSError when the file is shorter than it was."""
    size = sum(length for _, _, length in chunks)
    part = os.pread(file, size, _begin(chunks))
    if len(part) != size:
        raise OSError("short read")
    return part


def _wanted(firsts: NDArray[np.uint64], family: Family, blocks: Sequence[Block]) -> NDArray[np.bool_]:
    """The row groups that may hold an address of a block: the least address of each is known. For IPv6 the high half
    decides, and may go on in the next row group."""
    shift = 0 if family is Family.V4 else 64
    wanted = np.zeros(len(firsts), np.bool_)
    for block in blocks:
        start = int(firsts.searchsorted(np.uint64(block.first >> shift))) - 1
        wanted[max(start, 0) : firsts.searchsorted(np.uint64(block.last >> shift), side="right")] = True
    return wanted


def _within(counts: Counts, blocks: Sequence[Block]) -> NDArray[np.bool_]:
    """The rows that lie in a block; they are in no order."""
    keep = _in_block(counts, blocks[0])
    for block in blocks[1:]:
        keep |= _in_block(counts, block)
    return keep


def _in_block(counts: Counts, block: Block) -> NDArray[np.bool_]:
    high, low = counts.high, counts.low
    if high is None:
        return (low >= np.uint32(block.first)) & (low <= np.uint32(block.last))
    first_high, first_low = map(np.uint64, split(block.first))
    last_high, last_low = map(np.uint64, split(block.last))
    after: NDArray[np.bool_] = (high > first_high) | ((high == first_high) & (low >= first_low))
    before: NDArray[np.bool_] = (high < last_high) | ((high == last_high) & (low <= last_low))
    return after & before
