"""Counts in dictionaries, summed address by address: slow, and too simple to be wrong. The engine answers as it does.

Model({"spam": [(start, end, {"10.0.0.1": 5})]}).answer(query)
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from ipaddress import ip_address
from zoneinfo import ZoneInfo

import numpy as np

from cidr.errors import TooManyRows
from cidr.times import unit, units
from cidr.types import (
    Answer,
    AnswerColumn,
    Block,
    CachedEntry,
    CacheStat,
    CountQuery,
    Coverage,
    Expression,
    Family,
    HeavyQuery,
    Minus,
    MoversQuery,
    Plan,
    PlannedSegments,
    Query,
    Ratio,
    Series,
    SeriesStat,
    Span,
    Union,
    Work,
)

UTC = ZoneInfo("UTC")

Address = tuple[Family, int]
Counts = dict[Address, int]
Interval = tuple[int, int, Counts]


def address(text: str) -> Address:
    found = ip_address(text)
    return Family(found.version), int(found)


def cut(one: Address, bits: int) -> Block:
    family, number = one
    shift = family.width - bits
    return Block(family, number >> shift << shift, bits)


class Model:
    """The interface of the engine over dictionaries."""

    def __init__(
        self, series: Mapping[str, Sequence[tuple[int, int, Mapping[str, int]]]], zone: ZoneInfo = UTC
    ) -> None:
        self.zone = zone
        self._series: dict[str, list[Interval]] = {
            name: [(start, end, {address(text): n for text, n in counts.items()}) for start, end, counts in intervals]
            for name, intervals in series.items()
        }

    def close(self) -> None:
        """Nothing is held."""

    def series(self) -> list[SeriesStat]:
        return [self._stat(name) for name in sorted(self._series)]

    def _stat(self, name: str) -> SeriesStat:
        intervals = self._series[name]
        families = tuple(sorted({one[0] for _, _, counts in intervals for one in counts}))
        rows = sum(len(counts) for _, _, counts in intervals)
        starts, ends = [start for start, _, _ in intervals], [end for _, end, _ in intervals]
        return SeriesStat(name, families, min(starts), max(ends), len(intervals), rows, rows * 4, min(ends))

    def cache(self, entries: int = 100) -> CacheStat:
        entry = CachedEntry("spam/spam.20080424T001500.v4.pq", "spam", Family.V4, 0, 900, 1, 2, 24, 3)
        return CacheStat(24, 512 << 20, 3, 1, (entry,)[:entries])

    def explain(self, query: Query) -> Plan:
        names = sorted({name for column in _columns(query) for name in _names(column.expression)})
        parts = tuple(
            PlannedSegments(name, Family.V4, "minute", len(self._series[name]), self._stat(name).rows, 100, 0)
            for name in names
        )
        return Plan(parts, self._coverage(names, self._span(query)), 0.5)

    # ---- answers ----------------------------------------------------------------------------------------------------

    def answer(self, query: Query) -> Answer:
        match query:
            case CountQuery():
                return self._count(query)
            case HeavyQuery():
                return self._heavy(query)
        return self._movers(query)

    def _count(self, query: CountQuery) -> Answer:
        span = self._span(query)
        sums = [self._sums(column.expression, query.blocks, span) for column in query.columns]
        rows = sorted({block for one in self._seen(query, span) for block in _rows_of(one, query)}, key=_place)
        values = {row: [_value(one, row, query.blocks) for one in sums] for row in rows}
        hosts = {row: sum(row.holds(cut(one, one[0].width)) for one in self._seen(query, span)) for row in rows}
        if query.threshold is not None:
            rows = [row for row in rows if values[row][0] >= query.threshold]
        rows.sort(key=lambda row: _rank(query, values[row], hosts[row]))
        matched = len(rows)
        rows = rows[: query.limit] if query.limit is not None else rows
        totals = [_value(one, None, query.blocks) for one in sums]
        if query.every:
            return self._stretched(query, rows, span, matched)
        columns = [
            _column(
                column.label,
                column.expression,
                [values[row][at] for row in rows],
                totals[at],
                [self._uncounted(column.expression, span)] * len(rows),
            )
            for at, column in enumerate(query.columns)
        ]
        if query.hosts:
            columns.append(AnswerColumn("hosts", "hosts", np.array([hosts[row] for row in rows], np.int64)))
        if query.share:
            shares = [values[row][0] / totals[0] * 100 if totals[0] else math.nan for row in rows]
            hidden = columns[0].uncounted
            columns.append(AnswerColumn("percent", "percent", np.array(shares, float), None, hidden))
            cumulative = np.cumsum(np.array(shares, float))
            columns.append(AnswerColumn("cumulative", "cumulative", cumulative, None, hidden))
        return self._answer(query, rows, columns, matched)

    def _stretched(self, query: CountQuery, rows: list[Block], span: Span, matched: int) -> Answer:
        assert query.every
        first = unit(query.every, span.start, self.zone).start
        stretches = [
            Span(max(one.start, span.start), min(one.end, span.end))
            for one in units(query.every, Span(first, span.end), self.zone)
        ]
        starts = [unit(query.every, one.start, self.zone).start for one in stretches]
        sums = [[self._sums(column.expression, query.blocks, one) for column in query.columns] for one in stretches]
        cells = [(row, at) for row in rows for at in range(len(stretches))]
        if query.rows_max is not None and len(cells) > query.rows_max:
            raise TooManyRows(f"{len(cells)} rows: add a limit")
        columns = [
            _column(
                column.label,
                column.expression,
                [_value(sums[at][number], row, query.blocks) for row, at in cells],
                None,
                [self._uncounted(column.expression, stretches[at]) for _, at in cells],
            )
            for number, column in enumerate(query.columns)
        ]
        times = np.array([starts[at] for _, at in cells], np.int64)
        return self._answer(query, [row for row, _ in cells], columns, matched, times)

    def _heavy(self, query: HeavyQuery) -> Answer:
        left = dict(self._sums(query.column.expression, query.blocks, self._span(query)))
        total = sum(left.values())
        full = dict(left)
        least = query.least * total / 100 if query.percent else query.least
        found: dict[Block, int] = {}
        for family, shortest, longest in zip(Family, query.shortest, query.longest, strict=True):
            for bits in range(longest, shortest - 1, -1):
                sums: dict[Block, int] = {}
                for one, n in left.items():
                    if one[0] is family:
                        sums[cut(one, bits)] = sums.get(cut(one, bits), 0) + n
                hit = {block: n for block, n in sums.items() if n >= least}
                found.update(hit)
                left = {one: 0 if any(b.holds(cut(one, one[0].width)) for b in hit) else n for one, n in left.items()}
        rows = sorted(found, key=_place)[: query.limit]
        counts = [sum(n for one, n in full.items() if row.holds(cut(one, one[0].width))) for row in rows]
        rest = [found[row] for row in rows]
        columns = [
            AnswerColumn(query.column.label, "count", np.array(counts, np.int64), total),
            AnswerColumn("rest", "rest", np.array(rest, np.int64)),
            AnswerColumn("percent", "percent", np.array([100 * n / total for n in rest], float)),
        ]
        return self._answer(query, rows, columns, len(found))

    def _movers(self, query: MoversQuery) -> Answer:
        sides = [self._sums(query.column.expression, query.blocks, one) for one in (query.before, query.after)]
        rate = query.after.seconds / query.before.seconds
        rows = {}
        for row in {row for side in sides for one in side for row in _rows_of(one, query)}:
            before, after = (_value(side, row, query.blocks) for side in sides)
            score = (after - rate * before) / math.sqrt(after + rate * rate * before + 1)
            rows[row] = (before, after, after - rate * before, (after + 0.5) / (rate * before + 0.5), score)
        ordered = sorted(rows, key=lambda row: (-abs(rows[row][4]), _place(row)))
        shown = ordered[: query.limit]
        kinds = ("count", "count", "change", "factor", "score")
        names = ("before", "after", "change", "factor", "score")
        first, second = (self._uncounted(query.column.expression, one) for one in (query.before, query.after))
        hidden = (first, second, *[first or second] * 3)
        columns = [
            AnswerColumn(
                name,
                kind,  # type: ignore[arg-type]
                np.array([rows[row][at] for row in shown], np.int64 if at < 2 else float),
                None,
                np.full(len(shown), hidden[at]),
            )
            for at, (name, kind) in enumerate(zip(names, kinds, strict=True))
        ]
        return self._answer(query, shown, columns, len(ordered))

    # ---- below ------------------------------------------------------------------------------------------------------

    def _span(self, query: Query) -> Span:
        if isinstance(query, MoversQuery):
            return query.after
        if query.span is not None:
            return query.span
        names = {name for column in _columns(query) for name in _names(column.expression)}
        intervals = [one for name in names for one in self._series[name]]
        return Span(min(one[0] for one in intervals), max(one[1] for one in intervals))

    def _sums(self, expression: Expression, blocks: Sequence[Block], span: Span) -> dict[Address, int]:
        match expression:
            case Series(name):
                return self._summed([name], blocks, span)
            case Union():
                return self._summed(sorted(set(_names(expression))), blocks, span)
            case Minus(left, right):
                first, second = self._sums(left, blocks, span), self._sums(right, blocks, span)
                return {one: first.get(one, 0) - second.get(one, 0) for one in first.keys() | second.keys()}
            case Ratio(over, under):
                return _Ratio(self._sums(over, blocks, span), self._sums(under, blocks, span))
        raise AssertionError(expression)

    def _summed(self, names: Sequence[str], blocks: Sequence[Block], span: Span) -> dict[Address, int]:
        found: dict[Address, int] = {}
        for name in names:
            for start, end, counts in self._series[name]:
                if start < span.start or end > span.end:
                    continue
                for one, n in counts.items():
                    if any(block.holds(cut(one, one[0].width)) for block in blocks):
                        found[one] = found.get(one, 0) + n
        return found

    def _seen(self, query: CountQuery, span: Span) -> dict[Address, int]:
        names = sorted({name for column in query.columns for name in _names(column.expression)})
        return self._summed(names, query.blocks, span)

    def _uncounted(self, expression: Expression, span: Span) -> bool:
        """Whether a value of it in the span is none: no interval of any series lies there; of a ratio's one side."""
        if isinstance(expression, Ratio):
            return self._uncounted(expression.over, span) or self._uncounted(expression.under, span)
        intervals = [one for name in _names(expression) for one in self._series[name]]
        return not any(span.start <= start and end <= span.end for start, end, _ in intervals)

    def _coverage(self, names: Sequence[str], span: Span) -> Coverage:
        missing = [
            Span(span.start, at) if at == min(starts) else Span(at, span.end)
            for name in names
            if (starts := [one[0] for one in self._series[name]])
            for at in (min(starts), max(one[1] for one in self._series[name]))
            if (at == min(starts) and at > span.start) or (at != min(starts) and at < span.end)
        ]
        lost = min(span.seconds, sum(one.seconds for one in missing))
        return Coverage(span, span.seconds - lost, tuple(missing))

    def _answer(
        self, query: Query, rows: Sequence[Block], columns: list[AnswerColumn], matched: int, time: object = None
    ) -> Answer:
        names = sorted({name for column in _columns(query) for name in _names(column.expression)})
        return Answer(
            family=np.array([row.family for row in rows], np.uint8),
            high=np.array([row.first >> 64 for row in rows], np.uint64),
            low=np.array([row.first & (1 << 64) - 1 for row in rows], np.uint64),
            bits=np.array([row.bits for row in rows], np.uint8),
            columns=tuple(columns),
            matched=matched,
            coverage=self._coverage(names, self._span(query)),
            work=Work(sum(len(self._series[name]) for name in names), 0, 10, 100, 0.25),
            digest=hashlib.blake2b(repr((query, self._series)).encode(), digest_size=16).hexdigest(),
            time=time,  # type: ignore[arg-type]
        )


class _Ratio(dict[Address, int]):
    """Two sums; its value is that of one divided by that of the other."""

    def __init__(self, over: dict[Address, int], under: dict[Address, int]) -> None:
        super().__init__(over | under)
        self.over, self.under = over, under


def _value(sums: dict[Address, int], row: Block | None, blocks: Sequence[Block]) -> float:
    if isinstance(sums, _Ratio):
        under = _value(sums.under, row, blocks)
        return _value(sums.over, row, blocks) / under if under else math.nan
    return sum(n for one, n in sums.items() if row is None or row.holds(cut(one, one[0].width)))


def _rows_of(one: Address, query: CountQuery | MoversQuery) -> Iterator[Block]:
    host = cut(one, one[0].width)
    lengths = query.levels.of(one[0])
    if lengths:
        yield from (cut(one, bits) for bits in lengths)
    else:
        yield from (block for block in query.blocks if block.holds(host))


def _place(block: Block) -> tuple[int, int, int]:
    return block.family, block.first, block.bits


def _rank(query: CountQuery, values: Sequence[float], hosts: int) -> float:
    if query.order.by == "cidr":
        return 0
    value = hosts if query.order.by == "hosts" else values[query.order.column]
    return math.inf if math.isnan(value) else value if query.order.ascending else -value


def _column(
    label: str, expression: Expression, values: Sequence[float], total: float | None, hidden: Sequence[bool]
) -> AnswerColumn:
    uncounted = np.array(hidden, np.bool_)
    if isinstance(expression, Ratio):
        return AnswerColumn(label, "ratio", np.array(values, float), total, uncounted)
    return AnswerColumn(label, "count", np.array(values, np.int64), total, uncounted)


def _columns(query: Query) -> Sequence[object]:
    return query.columns if isinstance(query, CountQuery) else (query.column,)


def _names(expression: Expression) -> Iterator[str]:
    match expression:
        case Series(name):
            yield name
        case Union(parts):
            for part in parts:
                yield from _names(part)
        case Minus(left, right) | Ratio(left, right):
            yield from _names(left)
            yield from _names(right)
