"""Top movers: what changed most between two spans.

The score is the change in units of what chance alone would do (counts that come independently vary by their square
root), so that 10 -> 100 stands out and 100,000 -> 100,090 does not. The earlier span is scaled to the length of the
later one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cidr.columns import Int
from cidr.count import Floats, Table, check_blocks
from cidr.plan import Planner, Reading, reading_of
from cidr.rows import Rows, by_cidr, check_cells, grouped, join, largest, totals
from cidr.runs import Runs, Tally
from cidr.spans import of, union, without
from cidr.terms import check_sums, run_of, terms_of
from cidr.types import AnswerColumn, Coverage, MoversQuery, Span
from cidr.uncounted import is_uncounted, mask
from jlogd.errors import UsageError


def movers(query: MoversQuery, planner: Planner, runs: Runs, tally: Tally) -> tuple[Table, Reading]:
    """The rows of the answer. Raises UsageError, UnknownSeries."""
    terms = terms_of(query.column)
    if len(terms) != 1:
        raise UsageError("top movers works on counts, not on a ratio")
    if query.before.seconds <= 0 or query.after.seconds <= 0:
        raise UsageError("top movers compares two spans, and one of them is empty")
    names = [name for name, _ in terms[0]]
    readings = [planner.reading(names, span) for span in (query.before, query.after)]
    parts, sums = [], [0, 0]
    families = check_blocks(query.blocks, query.levels)
    for reading in readings:
        check_sums(terms[0], reading, families, runs, tally)
    for family, blocks in families.items():
        levels = query.levels.of(family)
        asked = sorted({block for block in query.blocks if block.family is family})
        bits = max((*levels, *(block.bits for block in asked)))
        pair = [run_of(terms[0], reading, family, bits, blocks, runs, tally) for reading in readings]
        check_cells(family, levels, blocks, pair, hosts=False)
        parts += [grouped(family, length, blocks, pair, None) for length in levels]
        parts += [] if levels else [totals(family, asked, pair, None)]
        sums = [total + sum(run.total(block) for block in blocks) for total, run in zip(sums, pair, strict=True)]
    rows = by_cidr(join(parts, 2, False))
    gaps = [is_uncounted(terms[0], reading) for reading in readings]
    return _table(query, rows, sums, _scale(readings), gaps), _joined(readings)


def _scale(readings: list[Reading]) -> float:
    """The length of the second time by that of the first; what cannot have been counted yet is no part of it."""
    before, after = (reading.coverage.due_seconds or reading.span.seconds for reading in readings)
    return after / before


def _table(query: MoversQuery, rows: Rows, sums: list[int], scale: float, gaps: list[bool]) -> Table:
    """`gaps`: which of the two times nobody counted. Nothing changed from there, or to there, by any factor."""
    if query.threshold is not None:
        rows = rows.take(np.maximum(rows.values[0], rows.values[1]) >= query.threshold)
    matched = len(rows)
    score = _score(rows, scale)
    chosen = largest(np.abs(score), query.limit)
    rows, score = rows.take(chosen), score[chosen]
    before, after = rows.values
    expected = before * scale
    first, second = (mask([gap], [column]) for gap, column in zip(gaps, rows.values, strict=True))
    either = mask(gaps, rows.values)
    columns = (
        AnswerColumn("before", "count", before, sums[0], first),
        AnswerColumn("after", "count", after, sums[1], second),
        AnswerColumn("change", "change", after - expected, sums[1] - sums[0] * scale, either),
        AnswerColumn("factor", "factor", _factor(after, expected), None, either),
        AnswerColumn("score", "score", score, None, either),
    )
    return Table(rows, columns, matched)


def _score(rows: Rows, scale: float) -> Floats:
    before, after = (np.abs(column).astype(np.float64) for column in rows.values)
    change = rows.values[1] - rows.values[0] * scale
    score: Floats = change / np.sqrt(after + scale * scale * before + 1)
    return score


def _factor(after: Int, expected: NDArray[np.floating[Any]]) -> Floats:
    """With half a count added to both; NaN where one of them is negative and a factor means nothing."""
    sound = (after >= 0) & (expected >= 0)
    factor = np.full(len(after), np.nan)
    np.divide(after + 0.5, expected + 0.5, out=factor, where=sound)
    return factor


def _joined(readings: list[Reading]) -> Reading:
    """Both plans as one, for the answer's circumstances: covered is what both spans have of their own."""
    first, second = readings
    span = Span(min(first.span.start, second.span.start), max(first.span.end, second.span.end))
    selections = {(f"{n} {name}", f): s for n, r in enumerate(readings) for (name, f), s in r.selections.items()}
    times = [of((r.span.start, r.span.end)) for r in readings]
    gap = without(of((span.start, span.end)), union(*times))
    covered = union(gap, union(first.covered, second.covered))
    missing = tuple(sorted({*first.coverage.missing, *second.coverage.missing}))
    cut = tuple(sorted({*first.coverage.cut, *second.coverage.cut}))
    pending = of(*((p.start, p.end) for r in readings for p in r.coverage.pending))
    coverage = Coverage(span, covered.seconds, missing, cut, pending.listed())
    return reading_of(span, selections, coverage, covered)
