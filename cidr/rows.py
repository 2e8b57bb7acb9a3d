"""Rows of an answer while it is made: blocks as columns, sorted by address, with one column of counts per term.

Everything here is whole columns: joining terms (rows that one of them lacks are 0 there), choosing rows, ordering them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cidr.cache import Run
from cidr.columns import Counts, Int, Unsigned, empty, find_block, find_first, merge
from cidr.types import Block, Family

Index = NDArray[np.intp]


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


def grouped(family: Family, bits: int, blocks: Sequence[Block], runs: Sequence[Run], hosts: Run | None) -> Rows:
    """A row for each prefix of that length below the blocks (disjoint, in order) that has an address in any run."""
    levels = [_within(run, bits, blocks) for run in runs]
    host_level = _within(hosts, bits, blocks, of_hosts=True) if hosts is not None else None
    everything = levels if host_level is None else [*levels, host_level]
    if len(everything) == 1:
        keys, values = everything[0], [everything[0].counts]
    else:
        keys = merge([empty(family), *everything]) if any(len(level) for level in everything) else empty(family)
        values = [_spread(level, keys) for level in everything]
    counted = values.pop() if host_level is not None else None
    return _rows(family, keys.high, keys.low, bits, tuple(values), counted)


def _within(run: Run, bits: int, blocks: Sequence[Block], of_hosts: bool = False) -> Counts:
    """The run's prefixes in the blocks; `of_hosts`: with the number of addresses in place of the counts."""
    level = run.level(bits)
    counts = level.counts
    if of_hosts:
        counts = Counts(counts.family, counts.low, np.diff(level.starts), counts.high)
    parts = [counts.rows(*find_block(counts, block)) for block in blocks]
    if len(parts) == 1:
        return parts[0]
    low, values = (np.concatenate([getattr(part, name) for part in parts]) for name in ("low", "counts"))
    high = np.concatenate([part.high for part in parts if part.high is not None]) if counts.high is not None else None
    return Counts(counts.family, low, values, high)


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
            values.append([int(run.sums[end] - run.sums[start]) for run, start, end in found])
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
