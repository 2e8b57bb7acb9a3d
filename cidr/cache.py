"""What stays in memory: decoded segments, sums of several, and what was computed from them.

A `Run` is a column of counts with what queries have needed of it so far: prefix sums (the total of any block is one
subtraction), and roll-ups to prefix lengths. Segments never change, so nothing in here can become wrong; a run is
dropped only for room, the one that was used least recently first, and its bytes count all that was computed from it.
"""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cidr.columns import Counts, find_block, group_starts, prefixes
from cidr.types import Block, CachedEntry, CacheStat

Int = NDArray[np.int64]
CACHE_BYTES = 512 << 20
# Different side-by-side queries kept for one run.
JOINS_MAX = 16
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Level:
    """A run rolled up to a prefix length: `counts` of the prefixes, and in which row of the run each begins (and, last,
    where the run ends)."""

    counts: Counts
    starts: Int

    @property
    def nbytes(self) -> int:
        """Memory it takes."""
        return self.counts.nbytes + self.starts.nbytes


@dataclass(frozen=True, slots=True)
class Join:
    """Several roll-ups side by side: `keys` are the prefixes that any of them has (their counts mean nothing), `values`
    the counts of each, 0 where it has none."""

    keys: Counts
    values: tuple[Int, ...]

    @property
    def nbytes(self) -> int:
        """Memory it takes."""
        return self.keys.nbytes + sum(column.nbytes for column in self.values)


@dataclass(frozen=True, slots=True)
class Label:
    """What a run is, for people."""

    path: str
    series: str
    start: int
    end: int
    segments: int


class Run:
    """A column of counts and what was computed from it."""

    __slots__ = ("_grew", "_joins", "_levels", "_sums", "bytes", "counts", "hits", "label", "number", "sliced")

    def __init__(self, counts: Counts, label: Label, sliced: bool = False) -> None:
        """`sliced`: it holds only the blocks of one query, and is not to be kept."""
        self.counts = counts
        self.label = label
        self.sliced = sliced
        self.bytes = counts.nbytes
        self.hits = 0
        self._sums: Int | None = None
        self._levels: dict[int, Level] = {}
        self._joins: dict[Hashable, Join] = {}
        self.number = next(_numbers)
        self._grew: Callable[[int], None] = _nothing

    @property
    def sums(self) -> Int:
        """Prefix sums, one more than there are rows: rows i to j add up to sums[j] - sums[i]."""
        if self._sums is None:
            sums = np.zeros(len(self.counts) + 1, np.int64)
            np.cumsum(self.counts.counts, out=sums[1:])
            self._sums = sums
            self._grow(sums.nbytes)
        return self._sums

    def total(self, block: Block) -> int:
        """Sum of the counts in a block."""
        start, end = find_block(self.counts, block)
        return self.between(start, end)

    def between(self, start: int, end: int) -> int:
        """Sum of some rows. Prefix sums may have come round where it fits: their difference is right, modulo 2^64."""
        difference = int(self.sums[end]) - int(self.sums[start])
        return (difference + (1 << 63)) % (1 << 64) - (1 << 63)

    def level(self, bits: int) -> Level:
        """The roll-up to a prefix length."""
        found = self._levels.get(bits)
        if found is None:
            found = self._levels[bits] = self._rolled(bits)
            self._grow(found.nbytes)
        return found

    def joined(self, bits: int, make: Callable[[], Join], *others: Run) -> Join:
        """This run and others side by side at a prefix length; `make` is called the first time."""
        key = (bits, *(other.number for other in others))
        found = self._joins.get(key)
        if found is None:
            if len(self._joins) >= JOINS_MAX:
                self._joins.clear()  # their bytes stay counted until the run goes: the bound errs on the safe side
            found = self._joins[key] = make()
            self._grow(found.nbytes)
        return found

    def _rolled(self, bits: int) -> Level:
        counts = self.counts
        starts = group_starts(counts, bits)
        high, low = prefixes(counts, starts, bits)
        sums = self.sums
        edges = np.append(starts, len(counts))
        return Level(Counts(counts.family, low, np.diff(sums[edges]), high), edges)

    def _grow(self, amount: int) -> None:
        self.bytes += amount
        self._grew(amount)


def _nothing(_: int) -> None:
    pass


class Cache:
    """Runs by key, at most `bytes_max` of them. Safe for threads."""

    def __init__(self, bytes_max: int = CACHE_BYTES) -> None:
        self.bytes_max = bytes_max
        self._runs: OrderedDict[Hashable, Run] = OrderedDict()
        self._lock = threading.Lock()
        self._bytes = 0
        self._hits = 0
        self._misses = 0

    def __contains__(self, key: Hashable) -> bool:
        return key in self._runs

    def get(self, key: Hashable) -> Run | None:
        """The run, which is now the one most recently used."""
        with self._lock:
            run = self._runs.get(key)
            if run is None:
                self._misses += 1
                return None
            self._hits += 1
            run.hits += 1
            self._runs.move_to_end(key)
            return run

    def put(self, key: Hashable, run: Run) -> None:
        """Keep a run. One that is larger than the whole cache is not kept."""
        if run.bytes > self.bytes_max:
            return
        with self._lock:
            if key in self._runs:
                return
            self._runs[key] = run
            self._bytes += run.bytes
            run._grew = self._add
            self._shrink()

    def trim(self) -> None:
        """Drop what is over the bound: runs grow while they are used."""
        if self._bytes > self.bytes_max:
            with self._lock:
                self._shrink()

    def stat(self, entries: int = 0) -> CacheStat:
        """What is in it, the most recently used first."""
        with self._lock:
            newest = list(reversed(self._runs.values()))[:entries]
            listed = tuple(_entry(run) for run in newest)
            return CacheStat(self._bytes, self.bytes_max, self._hits, self._misses, listed)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            while self._runs:
                self._drop()

    def _add(self, amount: int) -> None:
        with self._lock:
            self._bytes += amount

    def _shrink(self) -> None:
        while self._bytes > self.bytes_max:
            self._drop()

    def _drop(self) -> None:
        _, run = self._runs.popitem(last=False)
        run._grew = _nothing
        self._bytes -= run.bytes


def _entry(run: Run) -> CachedEntry:
    label = run.label
    return CachedEntry(
        label.path,
        label.series,
        run.counts.family,
        label.start,
        label.end,
        label.segments,
        len(run.counts),
        run.bytes,
        run.hits,
    )
