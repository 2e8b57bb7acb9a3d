"""Heavy hitters: which blocks, from single addresses to whole networks, explain the counts.

From the longest prefix to the shortest, each block that holds at least `least` is reported and its counts are taken
away, so that a block above it is reported only for what the reported ones below do not explain. With sorted counts that
is one roll-up a level, and exact; sketches solve a problem of streams that files do not have.
"""

from __future__ import annotations

import numpy as np

from cidr.cache import Run
from cidr.columns import Counts, Int, find_block, find_ranges, roll_up
from cidr.count import Table, check_blocks, shares
from cidr.plan import Planner, Reading
from cidr.rows import Rows, by_cidr, join
from cidr.runs import Runs, Tally
from cidr.terms import Term, check_sums, run_of, terms_of
from cidr.types import BLOCKS, AnswerColumn, Block, Family, HeavyQuery
from jlogd.errors import UsageError


def heavy(query: HeavyQuery, planner: Planner, runs: Runs, tally: Tally) -> tuple[Table, Reading]:
    """The rows of the answer. Raises UsageError, UnknownSeries."""
    wanted = _term(query)
    blocks = check_blocks(query.blocks, BLOCKS)
    reading = planner.reading([name for name, _ in wanted], query.span)
    check_sums(wanted, reading, blocks, runs, tally)
    found: dict[Family, Run] = {}
    for family, some in blocks.items():
        longest = max(_limits(query, family)[1], *(block.bits for block in some))
        found[family] = run_of(wanted, reading, family, longest, some, runs, tally)
    total = sum(run.total(block) for family, run in found.items() for block in blocks[family])
    if query.least <= 0:
        raise UsageError(f"heavy needs at least 1, not {query.least:g}: everything holds that much")
    least = max(query.least * total / 100, 1) if query.percent else query.least
    parts = [_family(run.counts, blocks[family], _limits(query, family), least) for family, run in found.items()]
    rows = by_cidr(join(parts, 2, False))
    matched = len(rows)
    if query.limit is not None:
        rows = rows.take(np.sort(_most(rows.values[1], query.limit)))
    percent = shares(rows.values[1], total)[0]
    columns = (
        AnswerColumn(query.column.label, "count", rows.values[0], total),
        AnswerColumn("rest", "rest", rows.values[1], None),
        percent,
    )
    return Table(rows, columns, matched), reading


def _term(query: HeavyQuery) -> Term:
    terms = terms_of(query.column)
    if len(terms) != 1:
        raise UsageError("heavy works on counts, not on a ratio")
    return terms[0]


def _limits(query: HeavyQuery, family: Family) -> tuple[int, int]:
    index = 0 if family is Family.V4 else 1
    shortest, longest = query.shortest[index], query.longest[index]
    if not 0 <= shortest <= longest <= family.width:
        raise UsageError(f"heavy looks at prefix lengths /{shortest} to /{longest}, which are not in order or too long")
    return shortest, longest


def _family(counts: Counts, blocks: list[Block], limits: tuple[int, int], least: float) -> Rows:
    """A block asked about is as far up as it goes below that block: beyond, counts are missing."""
    shortest, longest = limits
    parts: list[Rows] = []
    for block in blocks:
        inner = counts.rows(*find_block(counts, block))
        parts += _climb(inner, max(shortest, block.bits), max(longest, block.bits), least)
    return join(parts, 2, False)


def _climb(counts: Counts, shortest: int, longest: int, least: float) -> list[Rows]:
    parts = []
    rest = roll_up(counts, longest)
    sums = np.concatenate(([0], np.cumsum(counts.counts)))
    for bits in range(longest, shortest - 1, -1):
        rest = roll_up(rest, bits) if bits < longest else rest
        hits = np.flatnonzero(rest.counts >= least)
        if len(hits):
            parts.append(_reported(counts, sums, rest, hits, bits))
            left = rest.counts.copy()
            left[hits] = 0
            rest = Counts(rest.family, rest.low, left, rest.high)
    return parts


def _reported(counts: Counts, sums: Int, rest: Counts, hits: Int, bits: int) -> Rows:
    high = rest.high[hits] if rest.high is not None else np.zeros(len(hits), np.uint64)
    low = rest.low[hits].astype(np.uint64)
    starts, ends = find_ranges(counts, high, low, bits)
    size = len(hits)
    family, lengths = np.full(size, int(counts.family), np.uint8), np.full(size, bits, np.uint8)
    return Rows(family, high, low, lengths, (sums[ends] - sums[starts], rest.counts[hits]))


def _most(values: Int, limit: int) -> Int:
    return np.argsort(-values, kind="stable")[: max(limit, 0)].astype(np.int64)
