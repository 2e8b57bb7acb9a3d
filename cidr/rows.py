"""Rows of an answer while it is made: blocks as columns, sorted by address, with one column of counts per term.

Everything here is whole columns: joining terms (rows that one of them lacks are 0 there), choosing rows, ordering them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from cidr.cache import Join, Run
from cidr.columns import Counts, Int, Unsigned, empty, find_block, find_first, group_starts, merge
from cidr.types import Block, Family
from jlogd.errors import UsageError

Index = NDArray[np.intp]
# What each row has beside its counts: family, both halves of the address, prefix length, time.
KEY_COLUMNS = 5
# Cells of all rows of an answer before order and limit, about a GiB: beyond all addresses of a large store.
CELLS_MAX = 100_000_000


@dataclass(frozen=True, slots=True)
class Rows:
    """Row i is the block (family, high, low, bits)[i]; `values` has a column per term, `hosts` distinct addresses."""

    family: NDArray[np.uint8]
    high: NDArray[np.uint64]
    low: NDArray[np.uint64]
    bits: NDArray[np.uint8]
    values: tuple[Int, ...]
    hosts: Int | None = None

    def __len__(self) -> int:
        return len(self.bits)

    def take(self, rows: NDArray[np.int64] | Index | NDArray[np.bool_]) -> Rows:
        """Some of the rows, in that order."""
        values = tuple(column[rows] for column in self.values)
        hosts = self.hosts[rows] if self.hosts is not None else None
        return Rows(self.family[rows], self.high[rows], self.low[rows], self.bits[rows], values, hosts)


def join(parts: Sequence[Rows], terms: int, hosts: bool) -> Rows:
    """One after the other."""
    if len(parts) == 1:
        return parts[0]
    if not parts:
        none = np.empty(0, np.int64)
        byte, word = np.empty(0, np.uint8), np.empty(0, np.uint64)
        return Rows(byte, word, word, byte, (none,) * terms, none if hosts else None)
    values = tuple(np.concatenate([p.values[i] for p in parts]) for i in range(terms))
    counted = np.concatenate([p.hosts for p in parts if p.hosts is not None]) if hosts else None
    family, high, low, bits = (np.concatenate([getattr(p, name) for p in parts]) for name in _KEYS)
    return Rows(family, high, low, bits, values, counted)


_KEYS = ("family", "high", "low", "bits")


def by_cidr(rows: Rows) -> Rows:
    """Sorted by family, address, prefix length."""
    return rows.take(np.lexsort((rows.bits, rows.low, rows.high, rows.family)))


def check_cells(
    family: Family, levels: Sequence[int], blocks: Sequence[Block], runs: Sequence[Run], hosts: bool
) -> None:
    """That rows of these prefix lengths can be held. Raises UsageError."""
    wide = len(runs) + KEY_COLUMNS + hosts
    if sum(len(run.counts) for run in runs) * len(levels) * wide <= CELLS_MAX:
        return
    inner = [run.counts.rows(*find_block(run.counts, block)) for run in runs for block in blocks]
    # One column has so many; with others there are as many at least.
    columns = [inner[at : at + len(blocks)] for at in range(0, len(inner), len(blocks))]
    made = sum(max(sum(len(group_starts(some, bits)) for some in column) for column in columns) for bits in levels)
    if made * wide > CELLS_MAX:
        raise UsageError(
            f"{made:,} IPv{family.value} rows of {wide} columns are over {CELLS_MAX:,} cells: give one cidrsize or a"
            " shorter one, a narrower block, or fewer series"
        )


def grouped(family: Family, bits: int, blocks: Sequence[Block], runs: Sequence[Run], hosts: Run | None) -> Rows:
    """A row for each prefix of that length below the blocks (disjoint, in order) that has an address in any run."""
    keys, values, counted = _side_by_side(family, bits, runs, hosts)
    edges = [find_block(keys, block) for block in blocks]
    rows = edges[0] if len(edges) == 1 else np.concatenate([np.arange(start, end) for start, end in edges])
    chosen = slice(*rows) if isinstance(rows, tuple) else rows
    high = keys.high[chosen] if keys.high is not None else None
    found = tuple(column[chosen] for column in values)
    return _rows(family, high, keys.low[chosen], bits, found, counted[chosen] if counted is not None else None)


def _side_by_side(
    family: Family, bits: int, runs: Sequence[Run], hosts: Run | None
) -> tuple[Counts, tuple[Int, ...], Int | None]:
    """All prefixes, the counts of each run, and the number of addresses below them."""
    if len(runs) == 1 and hosts in (None, runs[0]):
        level = runs[0].level(bits)
        return level.counts, (level.counts.counts,), np.diff(level.starts) if hosts is not None else None
    others = [*runs[1:], *([hosts] if hosts is not None else [])]
    join = runs[0].joined(bits, partial(_join, family, bits, runs, hosts), *others)
    return (join.keys, join.values[:-1], join.values[-1]) if hosts is not None else (join.keys, join.values, None)


def _join(family: Family, bits: int, runs: Sequence[Run], hosts: Run | None) -> Join:
    levels = [run.level(bits).counts for run in runs]
    if hosts is not None:
        level = hosts.level(bits)
        levels.append(Counts(family, level.counts.low, np.diff(level.starts), level.counts.high))
    keys = merge([empty(family), *levels])
    return Join(keys, tuple(_spread(level, keys) for level in levels))


def _spread(level: Counts, keys: Counts) -> Int:
    """The level's counts in the rows of `keys`, 0 elsewhere."""
    values = np.zeros(len(keys), np.int64)
    if len(level):
        values[find_first(keys, level.high, level.low)] = level.counts
    return values


def totals(family: Family, blocks: Sequence[Block], runs: Sequence[Run], hosts: Run | None) -> Rows:
    """A row for each block that has an address in any run: its total."""
    kept, values, counted = [], [], []
    for block in blocks:
        found = [(run, *find_block(run.counts, block)) for run in runs]
        known = find_block(hosts.counts, block) if hosts is not None else (0, 0)
        if any(end > start for _, start, end in found) or known[1] > known[0]:
            kept.append(block)
            values.append([run.between(start, end) for run, start, end in found])
            counted.append(known[1] - known[0])
    table = np.array(values, np.int64).reshape(len(kept), len(runs))
    high = np.array([block.first >> 64 for block in kept], np.uint64)
    low = np.array([block.first & ((1 << 64) - 1) for block in kept], np.uint64)
    bits = np.array([block.bits for block in kept], np.uint8)
    columns = tuple(table[:, index] for index in range(len(runs)))
    families = np.full(len(kept), int(family), np.uint8)
    return Rows(families, high, low, bits, columns, np.array(counted, np.int64) if hosts is not None else None)


def _rows(
    family: Family,
    high: NDArray[np.uint64] | None,
    low: Unsigned,
    bits: int,
    values: tuple[Int, ...],
    hosts: Int | None,
) -> Rows:
    size = len(low)
    return Rows(
        np.full(size, int(family), np.uint8),
        high if high is not None else np.zeros(size, np.uint64),
        low.astype(np.uint64),
        np.full(size, bits, np.uint8),
        values,
        hosts,
    )


def largest(values: NDArray[np.int64] | NDArray[np.float64], limit: int | None, ascending: bool = False) -> Index:
    """Rows in the order of their values, the largest first, equal ones as they stand; the first `limit` of them."""
    keys = _descending(values, ascending)
    if limit is None or limit >= len(keys):
        return np.argsort(keys, kind="stable")
    if limit <= 0:
        return np.empty(0, np.intp)
    edge = np.partition(keys, limit - 1)[limit - 1]
    rows = np.flatnonzero(keys <= edge)
    return rows[np.argsort(keys[rows], kind="stable")[:limit]]


def _descending(
    values: NDArray[np.int64] | NDArray[np.float64], ascending: bool
) -> NDArray[np.int64] | NDArray[np.float64]:
    if values.dtype.kind == "f":
        keys = values if ascending else -values
        return np.where(np.isnan(keys), np.inf, keys)
    return values if ascending else -values
