"""Which segments of one series and family count, and which of them answer for a span.

The same counts lie in several segments: minutes, the hour they were condensed into, the day; and a second time when two
loggers read the same log. Nothing is ever added up twice, by three rules:

1. **One logger an interval.** What several origins counted in one interval is the same thing counted several times: the
   one that saw the whole interval wins, then the highest epoch, then the name. All segments of the winner count (the
   interval itself and what came late); none of the others.
2. **A condensed segment says how far it goes**: `upto`, the last commit of each origin whose counts it holds. A segment
   within its interval is in it if its commit is not higher; otherwise it came late and is added.
3. **The newest condensed segment** of an interval takes the place of the older ones. One that is behind a finer one (a
   maintainer was stopped half way) is not used.

For a span the coarsest segments that lie wholly in it are taken, then finer ones for what is left at the edges.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from cidr.spans import Spans, both, of, spans, union, without
from cidr.types import TIERS, Family, Span, Tier

Int = NDArray[np.int64]
_TIER = {tier: number for number, tier in enumerate(TIERS)}


class Segment(Struct, frozen=True):
    """One row of the catalogue. A struct of msgspec: a year of hours is ten thousand of them."""

    path: str
    series: str
    family: Family
    tier: Tier
    start: int
    end: int
    kind: str
    origin: str
    epoch: int
    commit: int
    rows: int
    bytes: int
    least: int
    most: int
    digest: str
    total: int
    covered: tuple[tuple[int, int], ...]
    upto: tuple[tuple[str, int], ...] = ()
    winners: tuple[tuple[int, int, str], ...] = ()

    @property
    def condensed(self) -> bool:
        """Whether it is the sum of others."""
        return self.kind == "condensed"

    @property
    def whole(self) -> bool:
        """Whether all of its interval was counted."""
        return self.covered == ((self.start, self.end),)


# Of a segment that was not condensed: row of the catalogue, start, end, commit, origin.
Leaf = tuple[int, int, int, int, str]


@dataclass(frozen=True, slots=True)
class Selection:
    """The segments that answer for a span, by start, and how much of it they cover. `cut`: what reaches beyond it."""

    segments: tuple[Segment, ...]
    covered: Spans
    cut: Spans
    digest: str

    @property
    def rows(self) -> int:
        """Addresses in all of them."""
        return sum(segment.rows for segment in self.segments)


@dataclass(frozen=True, slots=True)
class Finest:
    """The finest segments that hold all counts of a span. `hollow`: coarser ones, whose counts these hold, that say
    more of the time than these. `within`: how many finer ones there are of what is taken as it was condensed."""

    segments: tuple[Segment, ...]
    hollow: tuple[Segment, ...]
    within: int


class Timeline:
    """The segments of one series and family that count. It does not change; a changed catalogue makes a new one."""

    def __init__(self, found: Iterable[Segment]) -> None:
        latest = _latest(found)
        self._condensed = _usable([s for s in latest if s.condensed])
        leaves = _winners([s for s in latest if not s.condensed])
        leaves.sort(key=lambda s: (s.start, s.end, s.path))
        self._leaves = leaves
        self._leaf_starts, self._leaf_ends = _bounds(leaves)
        self._tables = {tier: _bounds(some) for tier, some in self._condensed.items()}
        self._loose = {path: late for tier in self._condensed for path, late in self._late(tier)}

    def segments(self) -> list[Segment]:
        """All that count, in one plan or another."""
        return [*self._leaves, *(s for tier in self._condensed.values() for s in tier)]

    def late(self, tier: Tier) -> list[tuple[Segment, list[Segment]]]:
        """Condensed segments of a tier for which counts came late, with these."""
        pairs = [(segment, self._loose[segment.path]) for segment in self._condensed.get(tier, [])]
        return [(segment, late) for segment, late in pairs if late]

    def condensed_spans(self, tier: Tier) -> set[Span]:
        """Intervals of a tier that have a condensed segment."""
        return {Span(segment.start, segment.end) for segment in self._condensed.get(tier, [])}

    def is_held(self, segment: Segment) -> bool:
        """Whether a coarser segment that counts holds this one's counts, or has others of the same time in their
        place."""
        for tier in TIERS[_TIER[segment.tier] :]:
            for coarse in self._around(tier, segment):
                if coarse.path != segment.path and all(late.path != segment.path for late in self._loose[coarse.path]):
                    return not segment.condensed or tier != segment.tier
        return False

    def _around(self, tier: Tier, segment: Segment) -> Iterable[Segment]:
        """The condensed segment of a tier whose interval holds that of another, if there is one."""
        if tier not in self._tables:
            return ()
        at = int(np.searchsorted(self._tables[tier][0], segment.start, side="right")) - 1
        found = self._condensed[tier][at] if at >= 0 else None
        return (found,) if found is not None and segment.end <= found.end else ()

    def reach(self) -> Span | None:
        """From the start of the first interval to the end of the last."""
        every = self.segments()
        return Span(min(s.start for s in every), max(s.end for s in every)) if every else None

    def select(self, span: Span, coarsest: Tier = "month") -> Selection:
        """The segments that lie wholly in the span, none counted twice."""
        chosen: list[Segment] = []
        starts, ends = np.empty(0, np.int64), np.empty(0, np.int64)
        for tier in reversed(TIERS[: _TIER[coarsest] + 1]):
            if tier not in self._tables:
                continue
            table = self._tables[tier]
            rows = _free(table, span, starts, ends)
            chosen += [self._condensed[tier][row] for row in rows]
            starts, ends = _insert(starts, ends, table[0][rows], table[1][rows])
        loose = [late for segment in chosen for late in self._loose[segment.path]]
        plain = _free((self._leaf_starts, self._leaf_ends), span, starts, ends)
        chosen += [self._leaves[row] for row in plain] + loose
        chosen.sort(key=lambda s: (s.start, s.end, s.path))
        return _selection(chosen, span, self._reaching_over(span))

    def finest(self, span: Span) -> Finest:
        """The same counts as `select`, of segments as fine as there are for all of a condensed one."""
        segments, hollow, within = self._finest(self.select(span).segments)
        segments.sort(key=lambda s: (s.start, s.end, s.path))
        return Finest(tuple(segments), tuple(hollow), within)

    def _finest(self, found: Sequence[Segment]) -> tuple[list[Segment], list[Segment], int]:
        condensed = [segment for segment in found if segment.condensed]
        late = {leaf.path for segment in condensed for leaf in self._loose[segment.path]}
        kept = [segment for segment in found if not segment.condensed and segment.path not in late]
        hollow: list[Segment] = []
        within = 0
        for segment in condensed:
            mine = [segment, *self._loose[segment.path]]
            inner = self.select(Span(segment.start, segment.end), TIERS[_TIER[segment.tier] - 1]).segments
            if not _is_same(inner, mine):
                kept += mine
                within += len(inner) - len(mine) + 1
                continue
            finer, more, some = self._finest(inner)
            kept, hollow, within = kept + finer, hollow + more, within + some
            if not segment.whole:
                hollow.append(segment)
        return kept, hollow, within

    def _reaching_over(self, span: Span) -> Spans:
        """What is known of the span by segments that reach beyond its edges."""
        known: list[tuple[int, int]] = []
        for starts, ends in ((self._leaf_starts, self._leaf_ends), *self._tables.values()):
            over = ((starts < span.start) & (ends > span.start)) | ((starts < span.end) & (ends > span.end))
            known += [(max(int(starts[i]), span.start), min(int(ends[i]), span.end)) for i in np.flatnonzero(over)]
        return of(*known)

    def _late(self, tier: Tier) -> Iterator[tuple[str, list[Segment]]]:
        """Per condensed segment of a tier, the leaves within it that it does not hold."""
        firsts, lasts = (np.searchsorted(self._leaf_starts, edges).tolist() for edges in self._tables[tier])
        for segment, first, last in zip(self._condensed[tier], firsts, lasts, strict=True):
            inside = [leaf for leaf in self._leaves[first:last] if leaf.end <= segment.end]
            upto = dict(segment.upto) if inside else {}
            late = [leaf for leaf in inside if leaf.commit > upto.get(leaf.origin, -1) and _welcome(leaf, segment)]
            yield segment.path, late


def unheld(condensed: Sequence[Segment], leaves: Sequence[Leaf], span: Span, coarsest: Tier) -> list[int] | None:
    """The leaves that say something of a span that the condensed segments of it do not hold already: rows of those.
    None when all are needed to tell, as where several origins compete.

    What is left out is within a condensed segment that is taken for the span, and in it. So it can neither be taken
    itself, nor be late, nor reach beyond the span; and of a single origin nothing is outranked by it.
    """
    if len({leaf[4] for leaf in leaves}) != 1:
        return None if leaves else []
    taken = Timeline(condensed).select(span, coarsest).segments
    if not taken:
        return None
    row, start, end, commit = (np.array(column, np.int64) for column in list(zip(*leaves, strict=True))[:4])
    upto = np.array([dict(segment.upto).get(leaves[0][4], -1) for segment in taken], np.int64)
    starts, ends = _bounds(taken)
    at = np.searchsorted(starts, start, side="right") - 1
    held = (at >= 0) & (end <= ends[at]) & (commit <= upto[at])
    return [int(found) for found in row[~held]]


def _is_same(finer: Sequence[Segment], coarse: Sequence[Segment]) -> bool:
    """Whether all that was condensed is still there: nothing of it is missing in the sum, nor of the time."""
    told = [(sum(s.total for s in some), of(*(piece for s in some for piece in s.covered))) for some in (finer, coarse)]
    (total, covered), (other, times) = told
    return bool(finer) and total == other and covered.listed() == times.listed()


def _welcome(leaf: Segment, segment: Segment) -> bool:
    """Whether a late leaf is its winner's, or fills a hole: another origin's is what was counted already."""
    others = [w for w in segment.winners if w[0] < leaf.end and leaf.start < w[1]]
    return all(origin == leaf.origin for _, _, origin in others)


def _bounds(some: Sequence[Segment]) -> tuple[Int, Int]:
    return np.array([s.start for s in some], np.int64), np.array([s.end for s in some], np.int64)


def _free(table: tuple[Int, Int], span: Span, taken_starts: Int, taken_ends: Int) -> Int:
    """Rows that lie in the span and overlap nothing that is taken (sorted, disjoint)."""
    starts, ends = table
    fits = (starts >= span.start) & (ends <= span.end)
    if len(taken_starts):
        before = np.searchsorted(taken_ends, starts, side="right")
        following = np.append(taken_starts, np.iinfo(np.int64).max)[before]
        fits &= following >= ends
    return np.flatnonzero(fits)


def _insert(starts: Int, ends: Int, more_starts: Int, more_ends: Int) -> tuple[Int, Int]:
    if not len(more_starts):
        return starts, ends
    starts, ends = np.concatenate((starts, more_starts)), np.concatenate((ends, more_ends))
    order = np.argsort(starts)
    return starts[order], ends[order]


def _selection(chosen: list[Segment], span: Span, over: Spans) -> Selection:
    starts, ends = _bounds([s for s in chosen if s.whole])
    pieces = [piece for s in chosen if not s.whole for piece in s.covered]
    covered = spans(starts, ends)
    if pieces:
        covered = union(covered, of(*pieces))
    covered = both(covered, of((span.start, span.end)))
    return Selection(tuple(chosen), covered, without(over, covered), _digest(chosen))


def _digest(chosen: Sequence[Segment]) -> str:
    text = "\n".join(f"{s.path} {s.digest}" for s in chosen)
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def _latest(found: Iterable[Segment]) -> list[Segment]:
    """Of what one commit wrote twice (the logger died between), that of the higher epoch."""
    best: dict[tuple[object, ...], Segment] = {}
    for segment in found:
        key = (segment.origin, segment.commit, segment.tier, segment.start, segment.end, segment.kind)
        other = best.get(key)
        if other is None or other.epoch < segment.epoch:
            best[key] = segment
    return list(best.values())


def _usable(found: list[Segment]) -> dict[Tier, list[Segment]]:
    """Condensed segments by tier, sorted and disjoint, none behind a finer one."""
    tiers: dict[Tier, list[Segment]] = {}
    finer: list[Segment] = []
    for tier in TIERS:
        newest = _newest([s for s in found if s.tier == tier])
        kept = _not_behind(newest, finer)
        if kept:
            tiers[tier] = kept
        finer += newest
    return tiers


def _newest(found: list[Segment]) -> list[Segment]:
    kept: list[Segment] = []
    found.sort(key=lambda s: (s.start, s.end, _reach(s)))
    for segment in found:
        if kept and (kept[-1].start, kept[-1].end) == (segment.start, segment.end):
            kept[-1] = segment
        elif not kept or kept[-1].end <= segment.start:
            kept.append(segment)
    return kept


def _reach(segment: Segment) -> tuple[int, int, int, str]:
    return sum(commit for _, commit in segment.upto), segment.epoch, segment.commit, segment.path


def _not_behind(coarse: list[Segment], finer: list[Segment]) -> list[Segment]:
    if not finer:
        return coarse
    finer = sorted(finer, key=lambda s: s.start)
    starts = np.array([s.start for s in finer], np.int64)
    kept = []
    for segment in coarse:
        first, last = np.searchsorted(starts, (segment.start, segment.end))
        upto = dict(segment.upto)
        inside = (s for s in finer[first:last] if s.end <= segment.end)
        if all(commit <= upto.get(origin, -1) for s in inside for origin, commit in s.upto):
            kept.append(segment)
    return kept


def _winners(leaves: list[Segment]) -> list[Segment]:
    """The leaves of the origin that wins each interval."""
    if len({leaf.origin for leaf in leaves}) <= 1:
        return leaves
    groups: dict[tuple[int, int, str], list[Segment]] = defaultdict(list)
    for leaf in leaves:
        groups[leaf.start, leaf.end, leaf.origin].append(leaf)
    return [leaf for group in _outranking(groups) for leaf in groups[group]]


def _rank(group: list[Segment]) -> tuple[bool, int]:
    return any(leaf.kind == "full" for leaf in group), max(leaf.epoch for leaf in group)


def _outranking(groups: dict[tuple[int, int, str], list[Segment]]) -> list[tuple[int, int, str]]:
    """Groups that overlap no better one of another origin: best first, ties by name."""
    order = sorted(groups, key=lambda g: (g[2], g[0]))
    order.sort(key=lambda g: _rank(groups[g]), reverse=True)
    kept: dict[str, list[tuple[int, int]]] = defaultdict(list)
    chosen = []
    for group in order:
        start, end, origin = group
        if not any(_overlaps(kept[other], start, end) for other in list(kept) if other != origin):
            _put(kept[origin], start, end)
            chosen.append(group)
    return chosen


def _overlaps(taken: list[tuple[int, int]], start: int, end: int) -> bool:
    """Whether one of the sorted, disjoint stretches does: the last that begins before the end, if any."""
    at = bisect_left(taken, (end,))
    return at > 0 and taken[at - 1][1] > start


def _put(taken: list[tuple[int, int]], start: int, end: int) -> None:
    """Put another among sorted, disjoint stretches; one with those it overlaps or touches."""
    first, last = bisect_left(taken, (start,)), bisect_left(taken, (end + 1,))
    if first and taken[first - 1][1] >= start:
        first -= 1
    merged = [(start, end), *taken[first:last]]
    taken[first:last] = [(min(s for s, _ in merged), max(e for _, e in merged))]
