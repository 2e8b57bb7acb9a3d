"""What a query needs to read: the segments of each series and family for its span, and how much of it they cover.

Plans are remembered until the store changes: planning a year of hours takes milliseconds, an answer from the cache
microseconds.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from zoneinfo import ZoneInfo

from cidr.patience import check
from cidr.spans import NONE, Spans, both, of, union, without
from cidr.store import Store
from cidr.sums import bound
from cidr.timeline import Selection
from cidr.types import Coverage, Family, PlannedSegments, Span, Tier

MISSING_MAX = 100
PLANS_MAX = 1000
# A logger waits until nothing more can be under way to an interval, writes it and syncs it; then a reader looks. It is
# missing when it is not there so long after its end.
DUE_SECONDS = 10
# Where no logger has said how long its intervals are.
INTERVAL_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Reading:
    """The plan of a span: per series and family its segments. `covered` is what `coverage` counts the seconds of."""

    span: Span
    selections: dict[tuple[str, Family], Selection]
    coverage: Coverage
    digest: str
    segments: int
    rows: int
    covered: Spans = field(default=NONE, compare=False, repr=False)
    bounds: dict[tuple[str, Family], int] = field(default_factory=dict, compare=False, repr=False)

    def bound(self, series: str, family: Family) -> int:
        """What the counts of one of them add up to at most, without their signs; looked up once."""
        key = series, family
        if key not in self.bounds:
            self.bounds[key] = bound(self.selections[key].segments)
        return self.bounds[key]

    def of(self, series: str, family: Family) -> Selection:
        """The segments of one of them."""
        return self.selections[series, family]


class Planner:
    """Makes plans and remembers them."""

    def __init__(self, store: Store, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._clock = clock
        self._lock = threading.Lock()
        self._plans: OrderedDict[Hashable, Reading] = OrderedDict()
        self._generation = -1

    def reading(self, series: Sequence[str], span: Span | None, coarsest: Tier = "month") -> Reading:
        """The plan for these series. Raises UnknownSeries, GaveUp."""
        check()
        due = self._due()
        # What is not due yet is due some time later, without any change in the store.
        key = (*series, span, coarsest, due if span is not None and span.end > due else None)
        with self._lock:
            generation = self._store.generation
            if self._generation != generation:
                self._generation = generation
                self._plans.clear()
            found = self._plans.get(key)
            if found is not None:
                self._plans.move_to_end(key)
                return found
        made = self._make(series, span, coarsest, due)
        with self._lock:
            if not self._generation == generation == self._store.generation:
                return made  # the store changed meanwhile: the next question is planned anew
            self._plans[key] = made
            while len(self._plans) > PLANS_MAX:
                self._plans.popitem(last=False)
        return made

    def _make(self, series: Sequence[str], span: Span | None, coarsest: Tier, due: int) -> Reading:
        for name in series:
            self._store.check(name)
        span = span or self._reach(series)
        selections = {
            (name, family): self._store.timeline(name, family, span, coarsest).select(span, coarsest)
            for name in series
            for family in Family
        }
        covered, cut = _covered(series, span, selections)
        return reading_of(span, selections, _coverage(span, covered, cut, due), covered)

    @property
    def zone(self) -> ZoneInfo:
        """The store's zone."""
        return self._store.zone

    def _due(self) -> int:
        """Until when counts must be there by now: all intervals that ended before, and none that is under way."""
        interval = self._store.interval
        now = int(self._clock()) - (DUE_SECONDS if interval else 0)
        return now // (interval or INTERVAL_SECONDS) * (interval or INTERVAL_SECONDS)

    def _reach(self, series: Sequence[str]) -> Span:
        """From the first interval of any of the series to the last."""
        found = [reach for reach in map(self._store.reach, series) if reach is not None]
        return Span(min(r.start for r in found), max(r.end for r in found)) if found else Span(0, 0)


def _covered(series: Sequence[str], span: Span, selections: dict[tuple[str, Family], Selection]) -> tuple[Spans, Spans]:
    """What is covered and what is cut. A second is covered when every series was counted in it, in whatever family."""
    covered, cut = of((span.start, span.end)), NONE
    for name in series:
        families = [selections[name, family] for family in Family]
        counted = union(families[0].covered, families[1].covered)
        covered = both(covered, counted)
        cut = union(cut, without(union(families[0].cut, families[1].cut), counted))
    return covered, cut


def _coverage(span: Span, covered: Spans, cut: Spans, due: int) -> Coverage:
    missing = without(of((span.start, span.end)), covered)
    cut = both(cut, missing)
    missing = without(missing, cut)
    pending = both(missing, of((due, max(due, span.end))))
    return Coverage(span, covered.seconds, _some(without(missing, pending)), _some(cut), _some(pending))


def reading_of(
    span: Span, selections: dict[tuple[str, Family], Selection], coverage: Coverage, covered: Spans = NONE
) -> Reading:
    """A plan, with what is told of it in every answer."""
    segments = sum(len(found.segments) for found in selections.values())
    rows = sum(found.rows for found in selections.values())
    return Reading(span, selections, coverage, _digest(selections), segments, rows, covered)


def _digest(selections: dict[tuple[str, Family], Selection]) -> str:
    text = " ".join(f"{name} {family} {found.digest}" for (name, family), found in selections.items())
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def _some(found: Spans) -> tuple[Span, ...]:
    return found.listed(MISSING_MAX)


def planned(reading: Reading, families: Sequence[Family], cached: set[str]) -> tuple[PlannedSegments, ...]:
    """The plan by tier, for `explain`. `cached` are the paths in the cache."""
    parts = []
    for (series, family), selection in reading.selections.items():
        if family not in families:
            continue
        for tier in ("month", "day", "hour", "minute"):
            some = [s for s in selection.segments if s.tier == tier]
            if some:
                kept = sum(s.path in cached for s in some)
                rows, size = sum(s.rows for s in some), sum(s.bytes for s in some)
                parts.append(PlannedSegments(series, family, tier, len(some), rows, size, kept))
    return tuple(parts)
