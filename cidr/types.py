"""The plain values between the query language and the engine: what is asked, and what comes back.

Nothing here computes anything or reads a file, and nothing but numpy is imported. A query is frozen and hashable, so
that it is its own key; an answer is columns, never rows: row i is element i of every array in it.

Times are whole seconds since 1970 UTC; spans are half-open, [start, end). An interval of counts lies in a span when it
begins and ends in it. Addresses are two u64 columns for both families; an IPv4 address is in `low`, `high` is 0.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Tier = Literal["minute", "hour", "day", "month"]
TIERS: tuple[Tier, ...] = ("minute", "hour", "day", "month")

# Between the names of several in one text; no name has a comma.
SERIES_SEPARATOR = ", "

Columns64 = NDArray[np.int64]


class Family(IntEnum):
    """Address family; its number is the IP version."""

    V4 = 4
    V6 = 6

    @property
    def width(self) -> int:
        """Bits of an address."""
        return 32 if self is Family.V4 else 128

    @property
    def label(self) -> str:
        """As in file names: v4, v6."""
        return f"v{self.value}"


@dataclass(frozen=True, slots=True, order=True)
class Block:
    """An address block: its first address as a number, and its prefix length."""

    family: Family
    first: int
    bits: int

    @property
    def last(self) -> int:
        """Its last address as a number."""
        return self.first | ((1 << (self.family.width - self.bits)) - 1)

    def holds(self, other: Block) -> bool:
        """Whether all of `other` lies in this block."""
        return self.family == other.family and self.first <= other.first and other.last <= self.last

    def __str__(self) -> str:
        address = IPv4Address(self.first) if self.family is Family.V4 else IPv6Address(self.first)
        return f"{address}/{self.bits}"


ALL_V4 = Block(Family.V4, 0, 0)
ALL_V6 = Block(Family.V6, 0, 0)


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """From `start` up to, not including, `end`."""

    start: int
    end: int

    @property
    def seconds(self) -> int:
        """Its length."""
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Series:
    """One series."""

    name: str


@dataclass(frozen=True, slots=True)
class Union:
    """The sum of its parts, those of unions within it among them. What is named twice counts once."""

    parts: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Minus:
    """`left` less `right`, address by address; may be negative."""

    left: Expression
    right: Expression


@dataclass(frozen=True, slots=True)
class Ratio:
    """`over` divided by `under`, row by row; only at the top of a column."""

    over: Expression
    under: Expression


Expression = Series | Union | Minus | Ratio


@dataclass(frozen=True, slots=True)
class Column:
    """One value column of the answer."""

    label: str
    expression: Expression


@dataclass(frozen=True, slots=True)
class Levels:
    """Prefix lengths of the rows, ascending, each at least as long as the blocks asked about; several nest.

    Empty means the blocks themselves: one row each, with its total.
    """

    v4: tuple[int, ...] = (32,)
    v6: tuple[int, ...] = (128,)

    def of(self, family: Family) -> tuple[int, ...]:
        """Those of one family."""
        return self.v4 if family is Family.V4 else self.v6


HOSTS = Levels()
BLOCKS = Levels((), ())


@dataclass(frozen=True, slots=True)
class Order:
    """How rows are sorted. Ties, and everything for `cidr`: by family, address, prefix length.

    `column`: by that value column, the largest first, not-a-number last; `hosts`: by distinct addresses.
    """

    by: Literal["cidr", "column", "hosts"] = "cidr"
    column: int = 0
    ascending: bool = False


BY_CIDR = Order()
BY_COUNT = Order("column")


@dataclass(frozen=True, slots=True, kw_only=True)
class CountQuery:
    """Counts of address blocks over a span; `span` None is all there is.

    A row is there when any address below it was counted in the span in any series of the query, be its sum 0.
    `threshold`: rows whose first column is less go. `hosts`: a column of distinct addresses (in any of the series).
    `share`: columns of percent of the first column's total, and of percent added up in the order of the rows.
    `every`: one row for each of these stretches of time (in the engine's zone) and each winner: threshold, order and
    limit work on the total over the span, then every winner has a row for each stretch, zeros included.
    `rows_max`: more rows than this are refused before they are made.
    """

    blocks: tuple[Block, ...]
    columns: tuple[Column, ...]
    span: Span | None = None
    levels: Levels = HOSTS
    threshold: float | None = None
    order: Order = BY_CIDR
    limit: int | None = None
    hosts: bool = False
    share: bool = False
    every: Tier | None = None
    rows_max: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HeavyQuery:
    """Hierarchical heavy hitters, exact: the longest prefixes that hold at least `least` after what is reported below
    them has been taken away. `least` is a count, or with `percent` a share of the total over the blocks.

    Prefix lengths from `longest` to `shortest` (v4, v6) are looked at. Rows: count, rest (what no row below it
    explains), percent (rest, of the total). Sorted by address, then by prefix length.
    """

    blocks: tuple[Block, ...]
    column: Column
    least: float
    percent: bool = False
    span: Span | None = None
    shortest: tuple[int, int] = (8, 16)
    longest: tuple[int, int] = (32, 64)
    limit: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MoversQuery:
    """What changed most from span `before` to span `after`, which may differ in length.

    Columns: before, after, change (after less before, before being scaled to the length of after), factor (with half a
    count added to both: nothing divides by zero), score: change / sqrt(after + r * r * before + 1). Sorted by |score|.
    """

    blocks: tuple[Block, ...]
    column: Column
    before: Span
    after: Span
    levels: Levels = HOSTS
    threshold: float | None = None
    limit: int | None = 10


Query = CountQuery | HeavyQuery | MoversQuery

Kind = Literal["count", "ratio", "hosts", "percent", "cumulative", "rest", "change", "factor", "score"]


@dataclass(frozen=True, slots=True)
class AnswerColumn:
    """One column of the answer: int64 for count, hosts and rest, otherwise float64, NaN where there is no value.

    `total` is its value over all addresses asked about, before threshold and limit; None where a total says nothing.
    `uncounted`: where there is no value because nobody counted; None when there is no such row. What `values` says
    there is what a sum of nothing is.
    """

    label: str
    kind: Kind
    values: NDArray[np.int64] | NDArray[np.float64]
    total: float | None = None
    uncounted: NDArray[np.bool_] | None = None


@dataclass(frozen=True, slots=True)
class Coverage:
    """How much of the span was counted at all: absence of data is not zero.

    `missing` are the stretches for which at least one series has no counts; `cut` those where it has, but only in
    segments that reach beyond the span and therefore were left out. `pending` is what cannot have been counted yet: the
    interval under way, and the future. Only the first `MISSING_MAX` of each are listed.
    """

    span: Span
    covered_seconds: int
    missing: tuple[Span, ...] = ()
    cut: tuple[Span, ...] = ()
    pending: tuple[Span, ...] = ()

    @property
    def due_seconds(self) -> int:
        """How much of the span can have been counted by now."""
        return self.span.seconds - sum(one.seconds for one in self.pending)

    @property
    def exact(self) -> bool:
        """Whether every second of the span that can have been counted by now is in the answer."""
        return self.covered_seconds >= self.due_seconds

    @property
    def fraction(self) -> float:
        """Of what can have been counted by now, 0 to 1."""
        return 1.0 if self.due_seconds <= 0 else self.covered_seconds / self.due_seconds


@dataclass(frozen=True, slots=True)
class Work:
    """What an answer took. `segments` it rests on; `read` of them were not in the cache; `rows` counted addresses
    looked at; `bytes` read from disk."""

    segments: int
    read: int
    rows: int
    bytes: int
    milliseconds: float


@dataclass(frozen=True, slots=True)
class Answer:
    """The rows, as columns. `time` (starts, seconds) only with `every`. `matched` rows were there before the limit.

    `digest` names the inputs: same query, same digest, same answer.
    """

    family: NDArray[np.uint8]
    high: NDArray[np.uint64]
    low: NDArray[np.uint64]
    bits: NDArray[np.uint8]
    columns: tuple[AnswerColumn, ...]
    matched: int
    coverage: Coverage
    work: Work
    digest: str
    time: Columns64 | None = None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.bits)

    def block(self, row: int) -> Block:
        """The block of one row."""
        first = int(self.high[row]) << 64 | int(self.low[row])
        return Block(Family(int(self.family[row])), first, int(self.bits[row]))

    def blocks(self) -> list[str]:
        """The blocks of all rows, as text."""
        return [str(self.block(row)) for row in range(len(self))]


@dataclass(frozen=True, slots=True)
class SeriesStat:
    """One series in the store: `first` and `last` are from when to when it was counted.

    `first_end` is the end of its first interval, which the lines of old name. All in seconds.
    """

    name: str
    families: tuple[Family, ...]
    first: int
    last: int
    segments: int
    rows: int
    bytes: int
    first_end: int = 0


@dataclass(frozen=True, slots=True)
class CachedEntry:
    """One thing in the cache: a decoded segment (`path` relative to the store), or the sum of several."""

    path: str
    series: str
    family: Family
    start: int
    end: int
    segments: int
    rows: int
    bytes: int
    hits: int


@dataclass(frozen=True, slots=True)
class CacheStat:
    """The cache, most recently used first."""

    bytes: int
    bytes_max: int
    hits: int
    misses: int
    entries: tuple[CachedEntry, ...] = ()

    @property
    def hit_rate(self) -> float:
        """0 to 1; 0 before anything was asked."""
        return self.hits / (self.hits + self.misses) if self.hits + self.misses else 0.0


@dataclass(frozen=True, slots=True)
class PlannedSegments:
    """Segments of one tier that a query would read."""

    series: str
    family: Family
    tier: Tier
    segments: int
    rows: int
    bytes: int
    cached: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What a query would do, without doing it. `milliseconds` is a guess from the rows not in the cache."""

    parts: tuple[PlannedSegments, ...]
    coverage: Coverage
    milliseconds: float
    notes: tuple[str, ...] = field(default=())
