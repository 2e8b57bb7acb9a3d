"""Arithmetic on sorted columns of counts.

A `Counts` is a set of addresses in ascending order, each once, and a signed count for each. Nothing here knows of
files, series or time. Where an operation has a choice, it takes the one that touches memory in order: numbers that are
sorted stay sorted, and a sum over a block is the difference of two prefix sums.

IPv4 addresses are u32 in `low`, `high` is None. IPv6 addresses are two u64 columns, ordered by high, then low.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cidr.addresses import U64, split
from cidr.types import Block, Family

Int = NDArray[np.int64]
Unsigned = NDArray[np.uint32] | NDArray[np.uint64]

# Counts below this share a 64-bit word with an IPv4 address, so that one sort of plain numbers orders both.
PACKED_MAX = 1 << 32
_LOW_WORD = 0 if np.little_endian else 1


@dataclass(frozen=True, slots=True)
class Counts:
    """Ascending addresses, each once, and their counts."""

    family: Family
    low: Unsigned
    counts: Int
    high: NDArray[np.uint64] | None = None

    def __len__(self) -> int:
        return len(self.low)

    @property
    def nbytes(self) -> int:
        """Memory it takes."""
        return self.low.nbytes + self.counts.nbytes + (self.high.nbytes if self.high is not None else 0)

    def rows(self, start: int, end: int) -> Counts:
        """Some of its rows."""
        high = self.high[start:end] if self.high is not None else None
        return Counts(self.family, self.low[start:end], self.counts[start:end], high)

    def copy(self) -> Counts:
        """The same in memory of its own."""
        high = self.high.copy() if self.high is not None else None
        return Counts(self.family, self.low.copy(), self.counts.copy(), high)


def empty(family: Family) -> Counts:
    """No addresses."""
    if family is Family.V4:
        return Counts(family, np.empty(0, np.uint32), np.empty(0, np.int64))
    return Counts(family, np.empty(0, np.uint64), np.empty(0, np.int64), np.empty(0, np.uint64))


def from_unsorted(family: Family, low: Unsigned, counts: Int, high: NDArray[np.uint64] | None = None) -> Counts:
    """Counts from addresses in any order, any number of times."""
    if not len(low):
        return empty(family)
    if family is Family.V4:
        return _sum_v4(low.astype(np.uint32, copy=False), counts)
    assert high is not None
    order = np.lexsort((low, high))
    return _sum_sorted_v6(high[order], low[order].astype(np.uint64, copy=False), counts[order])


def merge(parts: Sequence[Counts]) -> Counts:
    """The sum of several, address by address."""
    family = parts[0].family
    parts = [part for part in parts if len(part)] or [parts[0]]
    if len(parts) == 1:
        return parts[0]
    low, counts = (np.concatenate([getattr(p, name) for p in parts]) for name in ("low", "counts"))
    if family is Family.V4:
        return _sum_v4(low, counts)
    high = np.concatenate([p.high for p in parts if p.high is not None])
    return from_unsorted(family, low, counts, high)


def _sum_v4(low: NDArray[np.uint32], counts: Int) -> Counts:
    if counts.min() >= 0 and counts.max() < PACKED_MAX:
        return sum_packed(pack(low, counts))
    order = np.argsort(low, kind="stable")
    low, counts = low[order], counts[order]
    starts = boundaries(low)
    return Counts(Family.V4, low[starts], group_sums(counts, starts))


def pack(low: NDArray[np.uint32], counts: Int) -> NDArray[np.uint64]:
    """Address and count in one word each; for counts of 0 to `PACKED_MAX` - 1."""
    words = np.empty(len(low), np.uint64)
    halves = words.view(np.uint32)
    halves[1 - _LOW_WORD :: 2] = low
    halves[_LOW_WORD::2] = counts
    return words


def sum_packed(words: NDArray[np.uint64]) -> Counts:
    """Counts from packed words, which it sorts in place: numpy sorts plain words several times faster than it finds an
    order to apply to two columns."""
    words.sort()
    halves = words.view(np.uint32)
    low = halves[1 - _LOW_WORD :: 2].copy()
    starts = boundaries(low)
    return Counts(Family.V4, low[starts], group_sums(halves[_LOW_WORD::2], starts))


def _sum_sorted_v6(high: NDArray[np.uint64], low: NDArray[np.uint64], counts: Int) -> Counts:
    starts = _starts((high[1:] != high[:-1]) | (low[1:] != low[:-1]))
    return Counts(Family.V6, low[starts], group_sums(counts, starts), high[starts])


def boundaries(keys: Unsigned) -> Int:
    """Where a new key begins in sorted keys."""
    return _starts(keys[1:] != keys[:-1])


def _starts(changes: NDArray[np.bool_]) -> Int:
    found = np.flatnonzero(changes)
    starts = np.empty(len(found) + 1, np.int64)
    starts[0] = 0
    np.add(found, 1, out=starts[1:])
    return starts


def group_sums(values: Int | NDArray[np.uint32], starts: Int) -> Int:
    """Sums from each start (ascending, the first is 0) up to the next, as differences of prefix sums: groups are short,
    and `np.add.reduceat` takes several times as long for each. Prefix sums may come round, their differences do not."""
    if not len(starts):
        return np.empty(0, np.int64)
    sums = np.cumsum(values, dtype=np.int64)
    before = sums[starts - 1]
    before[0] = 0
    return np.diff(before, append=sums[-1])


def group_starts(counts: Counts, bits: int) -> Int:
    """Where a new prefix of that length begins; empty when there are no rows."""
    if not len(counts):
        return np.empty(0, np.int64)
    if bits == 0:
        return np.zeros(1, np.int64)
    if counts.high is None:
        return boundaries(counts.low >> np.uint32(32 - bits))
    if bits <= 64:
        return boundaries(counts.high >> np.uint64(64 - bits))
    low = counts.low >> np.uint64(128 - bits)
    return _starts((counts.high[1:] != counts.high[:-1]) | (low[1:] != low[:-1]))


def roll_up(counts: Counts, bits: int) -> Counts:
    """Counts of prefixes of that length, each named by its first address."""
    if bits == counts.family.width:
        return counts
    starts = group_starts(counts, bits)
    high, low = prefixes(counts, starts, bits)
    return Counts(counts.family, low, group_sums(counts.counts, starts), high)


def prefixes(counts: Counts, rows: Int, bits: int) -> tuple[NDArray[np.uint64] | None, Unsigned]:
    """First addresses of the blocks of that length that hold the given rows."""
    low_mask, high_mask = masks(counts.family, bits)
    low = counts.low[rows]
    if counts.high is None:
        return None, low & np.uint32(low_mask)
    return counts.high[rows] & np.uint64(high_mask), low & np.uint64(low_mask)


def masks(family: Family, bits: int) -> tuple[int, int]:
    """Masks of the low and the high column that keep `bits` bits."""
    if family is Family.V4:
        return 0xFFFFFFFF >> (32 - bits) << (32 - bits) if bits else 0, 0
    number = ((1 << bits) - 1) << (128 - bits)
    high, low = split(number)
    return low, high


def find_block(counts: Counts, block: Block) -> tuple[int, int]:
    """Rows `start` to `end` (not included) that lie in a block of the same family."""
    if block.bits == 0:
        return 0, len(counts)
    if counts.high is None:
        low = counts.low
        return (
            int(low.searchsorted(np.uint32(block.first))),
            int(low.searchsorted(np.uint32(block.last), side="right")),
        )
    return _find_v6(counts, block.first, "left"), _find_v6(counts, block.last, "right")


def _find_v6(counts: Counts, address: int, side: str) -> int:
    assert counts.high is not None
    high, low = split(address)
    start = int(counts.high.searchsorted(np.uint64(high), side="left"))
    end = int(counts.high.searchsorted(np.uint64(high), side="right"))
    if low == (U64 if side == "right" else 0):
        return end if side == "right" else start
    inner = counts.low[start:end]
    return start + int(inner.searchsorted(np.uint64(low), side="right" if side == "right" else "left"))


def find_first(counts: Counts, high: NDArray[np.uint64] | None, low: Unsigned) -> Int:
    """For each of the given addresses, the number of rows below it. The addresses ascend."""
    if counts.high is None:
        return counts.low.searchsorted(low.astype(np.uint32, copy=False)).astype(np.int64, copy=False)
    assert high is not None
    found = counts.high.searchsorted(high, side="left").astype(np.int64)
    end = counts.high.searchsorted(high, side="right")
    for row in np.flatnonzero((end > found) & (low != 0)):
        found[row] += int(counts.low[found[row] : end[row]].searchsorted(low[row]))
    return found


def scaled(counts: Counts, weight: int) -> Counts:
    """Every count times a weight."""
    return counts if weight == 1 else Counts(counts.family, counts.low, counts.counts * weight, counts.high)


def find_ranges(counts: Counts, high: NDArray[np.uint64], low: NDArray[np.uint64], bits: int) -> tuple[Int, Int]:
    """Rows (start, end) of each of the given blocks of one length, in any order."""
    low_mask, high_mask = masks(counts.family, bits)
    if counts.high is None:
        first = low.astype(np.uint32)
        last = first | np.uint32(0xFFFFFFFF ^ low_mask)
        starts, ends = counts.low.searchsorted(first), counts.low.searchsorted(last, side="right")
    elif bits <= 64:
        last = high | np.uint64(U64 ^ high_mask)
        starts, ends = counts.high.searchsorted(high), counts.high.searchsorted(last, side="right")
    else:
        found = [_range_v6(counts, int(h), int(v), int(v) | (U64 ^ low_mask)) for h, v in zip(high, low, strict=True)]
        table = np.array(found, np.int64).reshape(-1, 2)
        starts, ends = table[:, 0], table[:, 1]
    return starts.astype(np.int64, copy=False), ends.astype(np.int64, copy=False)


def _range_v6(counts: Counts, high: int, first: int, last: int) -> tuple[int, int]:
    return _find_v6(counts, high << 64 | first, "left"), _find_v6(counts, high << 64 | last, "right")
