"""Series expressions as sums: every column of a query is one sum of weighted series, a ratio is two.

union(a, b) is a + b, a minus b is a - b; so the counts of any expression are the counts of its series, weighted and
merged, and everything after that sees one column of counts whatever was asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from cidr.cache import Label, Run
from cidr.columns import empty, merge, scaled
from cidr.errors import SumTooLarge
from cidr.plan import Reading
from cidr.runs import Runs, Tally
from cidr.sums import SUM_MAX
from cidr.times import format_stamp
from cidr.types import SERIES_SEPARATOR, Block, Column, Expression, Family, Minus, Ratio, Series, Union
from jlogd.errors import UsageError

# A weighted sum of series, in order of names: its own key.
Term = tuple[tuple[str, int], ...]
COLUMNS_MAX = 64


def terms_of(column: Column) -> tuple[Term, ...]:
    """One term, or two for a ratio. Raises UsageError."""
    expression = column.expression
    if isinstance(expression, Ratio):
        return term(expression.over), term(expression.under)
    return (term(expression),)


def term(expression: Expression) -> Term:
    """The expression as weights. Raises UsageError for a ratio inside it."""
    return tuple(sorted(_weights(expression).items()))


def every_series(columns: Sequence[Column]) -> Term:
    """All series of a query, once each."""
    return tuple((name, 1) for name in series_names(columns))


def series_names(columns: Sequence[Column]) -> list[str]:
    """Names of all series of a query, sorted. Raises UsageError."""
    if not 1 <= len(columns) <= COLUMNS_MAX:
        raise UsageError(f"a query has 1 to {COLUMNS_MAX} columns, not {len(columns)}")
    return sorted({name for column in columns for found in terms_of(column) for name, _ in found})


def _weights(expression: Expression) -> dict[str, int]:
    match expression:
        case Series(name):
            return {name: 1}
        case Union(parts):
            return _added(*(dict(found) for found in dict.fromkeys(map(term, _flat(parts)))))
        case Minus(left, right):
            return _added(_weights(left), {name: -weight for name, weight in _weights(right).items()})
        case Ratio():
            raise UsageError("a ratio can only be a column of its own, not part of a union, minus or ratio")


def _flat(parts: Sequence[Expression]) -> Iterator[Expression]:
    """The parts of a union, those of unions within it in their place: it adds up what is different in them, once."""
    for part in parts:
        if isinstance(part, Union):
            yield from _flat(part.parts)
        else:
            yield part


def _added(*weights: dict[str, int]) -> dict[str, int]:
    total: dict[str, int] = {}
    for found in weights:
        for name, weight in found.items():
            total[name] = total.get(name, 0) + weight
    return total


def check_sums(
    wanted: Term, reading: Reading, families: Mapping[Family, Sequence[Block]], runs: Runs, tally: Tally
) -> None:
    """That no sum of a term over blocks (disjoint, by family) is beyond a column. Raises SumTooLarge.

    What is added up beside the blocks may come round: the difference of two prefix sums is right if it fits.
    """
    sizes = [abs(weight) * reading.bound(name, family) for name, weight in wanted for family in families]
    if sum(sizes) < SUM_MAX:
        return
    found = sum(
        abs(weight) * runs.size(reading.of(name, family), family, blocks, tally)
        for name, weight in wanted
        for family, blocks in families.items()
    )
    if found >= SUM_MAX:
        names = ", ".join(name for name, _ in wanted)
        raise SumTooLarge(
            f"the counts of {names} in these blocks, {format_stamp(reading.span.start)}Z to"
            f" {format_stamp(reading.span.end)}Z, are {found:,} without their signs, and {SUM_MAX - 1:,} is as far as"
            " sums go: ask about less time, narrower blocks, or fewer series in one column"
        )


def run_of(
    wanted: Term, reading: Reading, family: Family, bits: int, blocks: Sequence[Block], runs: Runs, tally: Tally
) -> Run:
    """The counts of a term, at least as fine as `bits`."""
    if len(wanted) == 1 and wanted[0][1] == 1:
        return runs.run(reading.of(wanted[0][0], family), family, bits, blocks, tally)
    digests = tuple(reading.of(name, family).digest for name, _ in wanted)
    key = wanted, digests, bits
    found = runs.cache.get(key)
    if found is None:
        parts = [(runs.run(reading.of(name, family), family, bits, blocks, tally), weight) for name, weight in wanted]
        counts = merge([empty(family), *(scaled(run.counts, weight) for run, weight in parts)])
        names = SERIES_SEPARATOR.join(name for name, _ in wanted)
        segments = sum(run.label.segments for run, _ in parts)
        sliced = any(run.sliced for run, _ in parts)
        found = Run(counts, Label("", names, reading.span.start, reading.span.end, segments), sliced)
        if not sliced:
            runs.cache.put(key, found)
    return found
