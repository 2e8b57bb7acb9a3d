"""Tree -> query: dates become seconds, `*` and `~regex` become series, prefix lengths are checked against the blocks.

    inline_lists(text, show, read)    the tree without `@file`: only blocks are left
    build(text, show, context)        the query of the engine

Both raise `QueryError` at the words that are wrong.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast
from zoneinfo import ZoneInfo

from cidr.language import clauses, lists, patterns, tree
from cidr.language.errors import QueryError, nearest
from cidr.types import (
    BY_CIDR,
    Column,
    CountQuery,
    Expression,
    HeavyQuery,
    Minus,
    MoversQuery,
    Order,
    Query,
    Ratio,
    Series,
    Span,
    Tier,
    Union,
)

# The engine's limit too.
COLUMNS_MAX = 64
# Series that `*` and `~regex` stand for, all of a query's together: `union(*, *, ...)` is short, and would fill memory.
NAMED_MAX = 100_000
HEAVY_PERCENT_DEFAULT = "1"
_EVERY: dict[str | None, Tier | None] = {None: None, "hourly": "hour", "daily": "day", "monthly": "month"}


@dataclass(frozen=True, slots=True)
class Context:
    """What a query is read against: the store's zone and series, and the time it is asked at (seconds)."""

    zone: ZoneInfo
    now: int
    series: Sequence[str]


def inline_lists(text: str, show: tree.Show, read: Callable[[str], str]) -> tree.Show:
    """`show` with the blocks of its files in place of their names; `read` gives the text of a file."""
    return lists.inline(text, show, read)


def build(text: str, show: tree.Show, context: Context) -> Query:
    """The query that `show`, the tree of `text`, asks for."""
    return _Builder(text, show, context).query()


class _Builder:
    def __init__(self, text: str, show: tree.Show, context: Context) -> None:
        self._text = text
        self._show = show
        self._context = context
        self._blocks = lists.blocks_of(text, show)
        self._until: float | None = None
        self._named = 0

    def query(self) -> Query:
        if self._show.what == "count":
            return self._count()
        (column,) = self._columns(single=True)
        return self._heavy(column) if self._show.what == "heavy" else self._movers(column)

    # ---- the three kinds --------------------------------------------------------------------------------------------

    def _count(self) -> CountQuery:
        columns = self._columns()
        order = self._order(columns)
        flags = {clause.name for clause in self._show.clauses if isinstance(clause, tree.Flag)}
        aggregate = self._show.clause("aggregate")
        return CountQuery(
            blocks=self._blocks,
            columns=columns,
            span=self._span(),
            levels=clauses.levels(self._text, self._show, self._blocks),
            threshold=self._threshold(),
            order=order,
            limit=self._limit(),
            hosts="distinct hosts" in flags or order.by == "hosts",
            share=bool(flags & {"percent", "cumulative"}),
            every=_EVERY[aggregate.every] if isinstance(aggregate, tree.Aggregate) else None,
        )

    def _heavy(self, column: Column) -> HeavyQuery:
        clause = self._show.clause("threshold")
        threshold = (
            clause if isinstance(clause, tree.Threshold) else tree.Threshold(HEAVY_PERCENT_DEFAULT, percent=True)
        )
        least = _number(threshold.number)
        if least <= 0:
            raise QueryError(self._text, threshold.mark, "what is heavy has a threshold above 0")
        if threshold.percent and least > 100:
            raise QueryError(self._text, threshold.mark, "no block holds more than 100% of the total")
        shortest, longest = clauses.heavy_range(self._text, self._show, self._blocks)
        return HeavyQuery(
            blocks=self._blocks,
            column=column,
            least=least,
            percent=threshold.percent,
            span=self._span(),
            shortest=shortest,
            longest=longest,
            limit=self._limit(),
        )

    def _movers(self, column: Column) -> MoversQuery:
        between = cast(tree.Between, self._show.clause("between"))
        context = self._context
        limit = self._limit()
        return MoversQuery(
            blocks=self._blocks,
            column=column,
            before=clauses.stretch(self._text, between.before, context.zone, context.now),
            after=clauses.stretch(self._text, between.after, context.zone, context.now),
            levels=clauses.levels(self._text, self._show, self._blocks),
            threshold=self._threshold(),
            limit=10 if limit is None else limit,
        )

    # ---- clauses ----------------------------------------------------------------------------------------------------

    def _span(self) -> Span | None:
        return clauses.span(self._text, self._show.time, self._context.zone, self._context.now)

    def _limit(self) -> int | None:
        clause = self._show.clause("limit")
        return clause.rows if isinstance(clause, tree.Limit) else None

    def _threshold(self) -> float | None:
        clause = self._show.clause("threshold")
        return _number(clause.number) if isinstance(clause, tree.Threshold) else None

    def _order(self, columns: tuple[Column, ...]) -> Order:
        clause = self._show.clause("order by")
        if not isinstance(clause, tree.OrderBy) or clause.key == "cidr":
            return BY_CIDR
        if clause.key == "hosts":
            return Order("hosts", 0, clause.ascending)
        if clause.key == "count":
            return Order("column", 0, clause.ascending)
        return Order("column", self._ordering_column(clause, columns), clause.ascending)

    def _ordering_column(self, clause: tree.OrderBy, columns: tuple[Column, ...]) -> int:
        labels = [column.label for column in columns]
        if isinstance(clause.key, int):
            if clause.key > len(labels):
                what = f"there is no column {clause.key}; there are {len(labels)}: {', '.join(labels)}"
                raise QueryError(self._text, clause.mark, what)
            return clause.key - 1
        name = cast(tree.SeriesName, clause.key)
        if name.name in labels:
            return labels.index(name.name)
        expected = ["cidr", "count", "hosts", *labels]
        raise QueryError(
            self._text, name.mark, f'no column is called "{name.name}"', expected, nearest(name.name, expected)
        )

    # ---- columns ----------------------------------------------------------------------------------------------------

    def _columns(self, single: bool = False) -> tuple[Column, ...]:
        named = {one.name for one in self._show.columns if isinstance(one, tree.SeriesName)}
        found: dict[str, Column] = {}
        for one in self._show.columns:
            if isinstance(one, tree.Pattern) and not single:
                fresh = [Column(name, Series(name)) for name in self._matching(one) if name not in named]
            else:
                fresh = [Column(str(one).replace(", ", ","), self._expression(one))]
                if fresh[0].label in found:
                    raise QueryError(self._text, one.mark, f"{one} is there twice")
            found.update((column.label, column) for column in fresh)
            if len(found) > COLUMNS_MAX:
                raise QueryError(
                    self._text, one.mark, f"that makes {len(found)} columns; at most {COLUMNS_MAX} are shown"
                )
        return tuple(found.values())

    def _expression(self, one: tree.Expression) -> Expression:
        if isinstance(one, tree.SeriesName):
            return self._series(one)
        if isinstance(one, tree.Pattern):
            names = self._matching(one)
            return Series(names[0]) if len(names) == 1 else Union(tuple(map(Series, names)))
        parts = tuple(self._expression(part) for part in one.parts)
        if one.function == "union":
            return parts[0] if len(parts) == 1 else Union(parts)
        return (Minus if one.function == "minus" else Ratio)(parts[0], parts[1])

    def _series(self, one: tree.SeriesName) -> Series:
        known = self._context.series
        if one.name in known:
            return Series(one.name)
        meant = nearest(one.name, known)
        if not known:
            raise QueryError(self._text, one.mark, f'unknown series "{one.name}"; there are no series yet')
        expected = () if meant else known
        raise QueryError(self._text, one.mark, f'unknown series "{one.name}"', expected, meant)

    def _matching(self, one: tree.Pattern) -> list[str]:
        known = list(self._context.series)
        if self._until is None:
            self._until = time.monotonic() + patterns.SEARCH_SECONDS_MAX
        try:
            names = known if one.regex is None else patterns.matching(one.regex, known, self._until)
        except TimeoutError:
            raise QueryError(self._text, one.mark, "the regular expression takes too long") from None
        self._named += len(names)
        if self._named > NAMED_MAX:
            raise QueryError(self._text, one.mark, f"that names more than {NAMED_MAX:,} series, the same ones again")
        if not names:
            raise QueryError(
                self._text, one.mark, f"no series matches {one}" if known else "there are no series yet", known
            )
        return names


def _number(text: str) -> float:
    """Whole where it is: counts go further than the whole numbers among fractions."""
    return float(text) if "." in text else int(text)
