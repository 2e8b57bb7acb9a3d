"""Counting: a CountQuery answered from runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cidr.addresses import disjoint
from cidr.cache import Run
from cidr.columns import Int, find_block, find_ranges
from cidr.errors import TooManyRows
from cidr.plan import Planner, Reading
from cidr.rows import KEY_COLUMNS, Rows, by_cidr, check_cells, grouped, join, largest, totals
from cidr.runs import Runs, Tally
from cidr.terms import Term, check_sums, every_series, run_of, series_names, terms_of
from cidr.times import units
from cidr.types import AnswerColumn, Block, CountQuery, Family, Kind, Levels, Span, Tier
from cidr.uncounted import Mask, is_uncounted, mask
from jlogd.errors import UsageError

# Cells of a table with a row for each winner and stretch: beyond, the answer is too large to be looked at, or held.
CELLS_MAX = 50_000_000
BLOCKS_MAX = 1 << 20
# Stretches of time of one answer: a year of hours. Each is planned and looked up by itself.
STRETCHES_MAX = 10_000
SHORTEST: dict[Tier, int] = {"minute": 60, "hour": 3600, "day": 23 * 3600, "month": 28 * 86400}

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Table:
    """An answer without its circumstances."""

    rows: Rows
    columns: tuple[AnswerColumn, ...]
    matched: int
    time: Int | None = None


@dataclass(frozen=True, slots=True)
class Sums:
    """Sums over all blocks asked about, per term, and of distinct addresses."""

    terms: tuple[int, ...]
    hosts: int


def check_blocks(blocks: tuple[Block, ...], levels: Levels) -> dict[Family, list[Block]]:
    """The blocks by family, disjoint. Raises UsageError."""
    if not blocks:
        raise UsageError("a query needs a block of addresses, such as 0.0.0.0/0")
    if len(blocks) > BLOCKS_MAX:
        raise UsageError(f"{len(blocks)} blocks are too many for one query; at most {BLOCKS_MAX}")
    for block in blocks:
        for bits in levels.of(block.family):
            if not block.bits <= bits <= block.family.width:
                raise UsageError(f"cidrsize {bits} does not fit {block}: give {block.bits} to {block.family.width}")
    found: dict[Family, list[Block]] = {}
    for block in disjoint(blocks):
        found.setdefault(block.family, []).append(block)
    return found


def count(query: CountQuery, planner: Planner, runs: Runs, tally: Tally) -> tuple[Table, Reading]:
    """The rows of the answer. Raises UsageError, UnknownSeries."""
    return _Counting(query, planner, runs, tally).table()


class _Counting:
    """One query while it is answered."""

    def __init__(self, query: CountQuery, planner: Planner, runs: Runs, tally: Tally) -> None:
        self.query = query
        self.planner = planner
        self.runs = runs
        self.tally = tally
        self.blocks = check_blocks(query.blocks, query.levels)
        self.column_terms = [terms_of(column) for column in query.columns]
        self.terms: list[Term] = list(dict.fromkeys(t for found in self.column_terms for t in found))
        self.names = series_names(query.columns)
        self.reading = planner.reading(self.names, query.span, query.every or "month")

    def table(self) -> tuple[Table, Reading]:
        query = self.query
        rows, sums = self._all_rows()
        rows = self._over_threshold(rows)
        matched = len(rows)
        rows = self._ordered(rows)
        if query.every is None:
            columns = self._columns(rows, sums, [is_uncounted(term, self.reading) for term in self.terms])
            return Table(rows, columns, matched), self.reading
        return self._by_time(rows, sums, matched)

    def _all_rows(self) -> tuple[Rows, Sums]:
        parts: list[Rows] = []
        sums = [0] * len(self.terms)
        hosts = 0
        for family, blocks in self.blocks.items():
            found, counted = self._family_runs(family, blocks, self.reading)
            parts += self._family_rows(family, blocks, found, counted)
            sums = [total + sum(run.total(b) for b in blocks) for total, run in zip(sums, found, strict=True)]
            hosts += sum(_size(counted, block) for block in blocks) if counted is not None else 0
        rows = join(parts, len(self.terms), self.query.hosts)
        if len(parts) > 1:
            rows = by_cidr(rows)
        return rows, Sums(tuple(sums), hosts)

    def _family_rows(self, family: Family, blocks: list[Block], found: list[Run], hosts: Run | None) -> list[Rows]:
        levels = self.query.levels.of(family)
        if not levels:
            asked = sorted({block for block in self.query.blocks if block.family is family})
            return [totals(family, asked, found, hosts)]
        check_cells(family, levels, blocks, found, hosts is not None)
        return [grouped(family, bits, blocks, found, hosts) for bits in levels]

    def _family_runs(self, family: Family, blocks: list[Block], reading: Reading) -> tuple[list[Run], Run | None]:
        """A run for each term, and one of all series when distinct addresses are asked for."""
        levels = self.query.levels.of(family)
        asked = (block.bits for block in self.query.blocks if block.family is family)
        bits = max((*levels, *asked))
        for wanted in self.terms:
            check_sums(wanted, reading, {family: blocks}, self.runs, self.tally)
        found = [run_of(t, reading, family, bits, blocks, self.runs, self.tally) for t in self.terms]
        if not self.query.hosts:
            return found, None
        everything = every_series(self.query.columns)
        return found, run_of(everything, reading, family, family.width, blocks, self.runs, self.tally)

    def _over_threshold(self, rows: Rows) -> Rows:
        threshold = self.query.threshold
        return rows if threshold is None else rows.take(self._values(rows, 0) >= threshold)

    def _ordered(self, rows: Rows) -> Rows:
        order, limit = self.query.order, self.query.limit
        if limit is not None and limit < 0:
            raise UsageError(f"limit {limit} is less than 0")
        if order.by == "cidr":
            return rows if limit is None else rows.take(np.arange(min(limit, len(rows))))
        return rows.take(largest(self._order_values(rows), limit, order.ascending))

    def _order_values(self, rows: Rows) -> Int | Floats:
        order = self.query.order
        if order.by == "hosts":
            if rows.hosts is None:
                raise UsageError("order by hosts needs the column hosts")
            return rows.hosts
        if not 0 <= order.column < len(self.column_terms):
            raise UsageError(f"there is no column {order.column} to order by")
        return self._values(rows, order.column)

    def _values(self, rows: Rows, column: int) -> Int | Floats:
        terms = self.column_terms[column]
        over = rows.values[self.terms.index(terms[0])]
        return over if len(terms) == 1 else divided(over, rows.values[self.terms.index(terms[1])])

    def _columns(self, rows: Rows, sums: Sums, gaps: Sequence[Mask | bool]) -> tuple[AnswerColumn, ...]:
        """`gaps`: where each term was not counted."""
        columns = []
        for index, column in enumerate(self.query.columns):
            kind, total = self._total(index, sums)
            found = [self.terms.index(term) for term in self.column_terms[index]]
            missing = mask([gaps[i] for i in found], [rows.values[i] for i in found])
            columns.append(AnswerColumn(column.label, kind, self._values(rows, index), total, missing))
        if rows.hosts is not None:
            nobody = np.logical_and.reduce(np.broadcast_arrays(*gaps))
            columns.append(AnswerColumn("hosts", "hosts", rows.hosts, sums.hosts, mask([nobody], [rows.hosts])))
        if self.query.share:
            columns += shares(self._values(rows, 0), columns[0].total, columns[0].uncounted)
        return tuple(columns)

    def _total(self, index: int, sums: Sums) -> tuple[Kind, float | None]:
        found = [sums.terms[self.terms.index(t)] for t in self.column_terms[index]]
        if len(found) == 1:
            return "count", found[0]
        return "ratio", found[0] / found[1] if found[1] else None

    def _by_time(self, winners: Rows, sums: Sums, matched: int) -> tuple[Table, Reading]:
        """A row for each winner and each stretch of the span, winner by winner."""
        query = self.query
        assert query.every is not None
        span = self.reading.span
        if span.seconds > STRETCHES_MAX * SHORTEST[query.every]:
            raise UsageError(f"the time asked about has more than {STRETCHES_MAX:,} {query.every}s: give a shorter one")
        stretches = list(units(query.every, span, self.planner.zone))
        made = len(winners) * len(stretches)
        if query.rows_max is not None and made > query.rows_max:
            many = f"{made:,} rows, and at most {query.rows_max:,} are sent"
            raise TooManyRows(f"the answer has {many}: add a limit, or ask about less time")
        wide = len(self.terms) + KEY_COLUMNS + query.hosts
        if made * wide > CELLS_MAX:
            raise UsageError(
                f"{len(winners):,} blocks by {len(stretches):,} stretches of time, {wide} columns each, are over"
                f" {CELLS_MAX:,} cells: give a limit"
            )
        cells = [self._stretch(winners, stretch) for stretch in stretches]
        spread = winners.take(np.repeat(np.arange(len(winners)), len(stretches)))
        values = tuple(_woven([cell[0][i] for cell in cells]) for i in range(len(self.terms)))
        hosts = _woven([cell[1] for cell in cells]) if query.hosts else None
        rows = Rows(spread.family, spread.high, spread.low, spread.bits, values, hosts)
        time = np.tile(np.array([s.start for s in stretches], np.int64), len(winners))
        gaps = [
            np.tile(np.array([cell[2][i] for cell in cells], np.bool_), len(winners)) for i in range(len(self.terms))
        ]
        return Table(rows, self._columns(rows, sums, gaps), matched, time), self.reading

    def _stretch(self, winners: Rows, stretch: Span) -> tuple[list[Int], Int, list[bool]]:
        """The winners' counts in one stretch, per term, their distinct addresses, and which terms were not counted."""
        span = Span(max(stretch.start, self.reading.span.start), min(stretch.end, self.reading.span.end))
        reading = self.planner.reading(self.names, span, self.query.every or "month")
        values = [np.zeros(len(winners), np.int64) for _ in self.terms]
        hosts = np.zeros(len(winners), np.int64)
        for family, blocks in self.blocks.items():
            found, counted = self._family_runs(family, blocks, reading)
            for bits in np.unique(winners.bits[winners.family == family]):
                mine = np.flatnonzero((winners.family == family) & (winners.bits == bits))
                high, low = winners.high[mine], winners.low[mine]
                for column, run in zip(values, found, strict=True):
                    starts, ends = find_ranges(run.counts, high, low, int(bits))
                    column[mine] = run.sums[ends] - run.sums[starts]
                if counted is not None:
                    starts, ends = find_ranges(counted.counts, high, low, int(bits))
                    hosts[mine] = ends - starts
        return values, hosts, [is_uncounted(term, reading) for term in self.terms]


def _size(run: Run, block: Block) -> int:
    start, end = find_block(run.counts, block)
    return end - start


def _woven(columns: Sequence[Int]) -> Int:
    """Columns of one stretch each, as rows of all stretches one after the other."""
    return np.stack(columns, axis=1).reshape(-1) if columns else np.empty(0, np.int64)


def divided(over: Int, under: Int) -> Floats:
    """Quotients, NaN where the divisor is 0."""
    quotient = np.full(len(over), np.nan)
    np.divide(over, under, out=quotient, where=under != 0)
    return quotient


def shares(values: Int | Floats, total: float | None, uncounted: Mask | None = None) -> list[AnswerColumn]:
    """Percent of the total, and added up row by row; a row that was not counted has neither."""
    percent = np.full(len(values), np.nan)
    if total:
        np.multiply(values, 100.0 / total, out=percent)
    return [
        AnswerColumn("percent", "percent", percent, 100.0 if total else None, uncounted),
        AnswerColumn("cumulative", "cumulative", np.cumsum(percent), None, uncounted),
    ]
