"""Narrow blocks of many segments, read in one go.

Of each segment the row groups that may hold an address of the blocks are fetched as they are (`cidr.places` says where
they lie), and put one behind the other with a footer of their own (`cidr.footer`): one Parquet file in memory. The
library decodes all of it in one call, checks the checksums, and holds no lock of the interpreter meanwhile.

A segment that does not say where its row groups lie is read as a file of its own; so is one that cannot be read this
way, which finds the words for what is wrong with it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
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
# So much is decoded in one call; unpacked it is several times as much.
BATCH_BYTES = 8 << 20
_SHAPES = {
    family: [FooterColumn(name, None if name == "count" else 32 if family is Family.V4 else 64) for name in names]
    for family, names in COLUMNS.items()
}


def read_blocks(base: Path, segments: Sequence[Segment], blocks: Sequence[Block]) -> Counts:
    """The sum of the segments, which are of one family, within the blocks. Raises SegmentDamaged, SegmentGone."""
    family = segments[0].family
    if len(blocks) > BLOCKS_MAX:
        return merge([read(base / segment.path, family, blocks) for segment in segments])
    found: list[Counts] = []
    batch = _Batch(family)
    for segment in segments:
        if not batch.add(base / segment.path, segment, blocks):
            found.append(read(base / segment.path, family, blocks))
        if batch.bytes > BATCH_BYTES:
            found.append(batch.counts(base, blocks))
            batch = _Batch(family)
    return merge([*found, batch.counts(base, blocks)])


class _Batch:
    """Row groups of several segments, as they lie in their files."""

    def __init__(self, family: Family) -> None:
        self.family = family
        self.bytes = len(MAGIC)
        self._parts: list[bytes] = [MAGIC]
        self._groups: list[tuple[int, list[Chunk]]] = []
        self._segments: list[Segment] = []

    def add(self, path: Path, segment: Segment, blocks: Sequence[Block]) -> bool:
        """Fetch what may be needed of a segment; False when that is not known, or cannot be had."""
        try:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            columns = len(COLUMNS[self.family])
            tail = line_bytes(-(-segment.rows // ROW_GROUP_ROWS), columns) + BEHIND_BYTES
            table = find(os.pread(file, tail, max(os.fstat(file).st_size - tail, 0)), columns)
            if table is None or table["rows"].sum() != segment.rows:
                return False
            self._take(file, table[_wanted(table["first"], self.family, blocks)])
        except OSError:
            return False
        finally:
            os.close(file)
        self._segments.append(segment)
        return True

    def _take(self, file: int, table: Table) -> None:
        """Raises OSError when a file is shorter than it was."""
        for rows, chunks in zip(table["rows"].tolist(), table["chunks"].tolist(), strict=True):
            begin, size = chunks[0][0] or chunks[0][1], sum(length for _, _, length in chunks)
            part = os.pread(file, size, begin)
            if len(part) != size:
                raise OSError("short read")
            shift = self.bytes - begin
            self._groups.append((rows, [(d and d + shift, data + shift, length) for d, data, length in chunks]))
            self._parts.append(part)
            self.bytes += size

    def counts(self, base: Path, blocks: Sequence[Block]) -> Counts:
        """What of it lies in the blocks, added up."""
        if not self._groups:
            return empty(self.family)
        data = b"".join((*self._parts, footer(_SHAPES[self.family], self._groups)))
        try:
            file = pq.ParquetFile(pa.BufferReader(data), pre_buffer=False, page_checksum_verification=True)
            counts = decode(file.read(use_threads=False), self.family)
        except (pa.ArrowException, OSError):  # one of them is damaged: which, and how, its own footer tells
            return merge([read(base / segment.path, self.family, blocks) for segment in self._segments])
        keep = _within(counts, blocks)
        high = counts.high[keep] if counts.high is not None else None
        return from_unsorted(self.family, counts.low[keep], counts.counts[keep], high)


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
