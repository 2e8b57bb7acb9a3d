"""The engine: questions in, columns out. It only reads, and any number of threads may ask it.

with Engine(Path("var/aslogger")) as engine:
    query = CountQuery(blocks=(ALL_V4,), columns=(Column("spam", Series("spam")),), levels=Levels((24,)))
    answer = engine.answer(query)
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from zoneinfo import ZoneInfo

from cidr.cache import CACHE_BYTES, Cache
from cidr.count import Table, check_blocks, count
from cidr.errors import SegmentGone
from cidr.heavy import heavy
from cidr.movers import movers
from cidr.plan import Planner, Reading, planned
from cidr.runs import Runs, Tally
from cidr.store import Store
from cidr.terms import series_names
from cidr.types import (
    Answer,
    CacheStat,
    Column,
    CountQuery,
    Family,
    HeavyQuery,
    Levels,
    MoversQuery,
    Plan,
    Query,
    SeriesStat,
    Work,
)

# What one row costs that is not in the cache, for the guess of `explain`: decoding, sorting, adding.
NANOSECONDS_A_ROW = 25.0
# And each segment: opening it, its footer, its first page.
NANOSECONDS_A_SEGMENT = 200_000.0
# So often a query is planned, when segments are gone meanwhile.
PLANS_MAX = 4
# More threads than this gain nothing: memory is the limit.
THREADS_MAX = 8


class Engine:
    """Answers queries on one store."""

    def __init__(
        self,
        base_dir: Path,
        *,
        cache_bytes: int = CACHE_BYTES,
        threads: int | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`clock` says what can have been counted by now. Raises StoreNotFound, CatalogueBroken."""
        self._store = Store(base_dir)
        self._cache = Cache(cache_bytes)
        self._planner = Planner(self._store, clock)
        self._runs = Runs(base_dir, self._cache, threads or min(os.cpu_count() or 1, THREADS_MAX))

    @property
    def zone(self) -> ZoneInfo:
        """The zone the store's days begin in."""
        return self._store.zone

    def answer(self, query: Query) -> Answer:
        """The answer. Raises UnknownSeries, UsageError, SegmentDamaged."""
        started = time.perf_counter()
        self._store.look()
        tally = Tally()
        table, reading = self._planned_again(query, tally)
        self._cache.trim()
        milliseconds = (time.perf_counter() - started) * 1000
        rows = table.rows
        return Answer(
            rows.family,
            rows.high,
            rows.low,
            rows.bits,
            table.columns,
            table.matched,
            reading.coverage,
            Work(reading.segments, tally.read, reading.rows, tally.bytes, milliseconds),
            reading.digest,
            table.time,
        )

    def explain(self, query: Query) -> Plan:
        """What the query would read. Raises UnknownSeries, UsageError."""
        self._store.look()
        readings, families = self._readings(query)
        cached = {entry.path for entry in self._cache.stat(1 << 30).entries}
        parts = tuple(part for reading in readings for part in planned(reading, families, cached))
        rows = sum(part.rows * (part.segments - part.cached) / part.segments for part in parts)
        opened = sum(part.segments - part.cached for part in parts)
        guess = rows * NANOSECONDS_A_ROW + opened * NANOSECONDS_A_SEGMENT
        return Plan(parts, readings[0].coverage, guess / 1e6)

    def series(self) -> list[SeriesStat]:
        """All series of the store, by name."""
        self._store.look()
        return self._store.series()

    def cache(self, entries: int = 100) -> CacheStat:
        """What is in memory, the most recently used first."""
        return self._cache.stat(entries)

    def refresh(self) -> None:
        """See new segments now; every answer does so at most once a second."""
        self._store.refresh()

    def forget(self) -> None:
        """Empty the cache: the next answer is read from disk."""
        self._cache.clear()

    def close(self) -> None:
        """Let go of the store."""
        self._runs.close()
        self._store.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _planned_again(self, query: Query, tally: Tally) -> tuple[Table, Reading]:
        """A maintainer may condense what was planned: of one series after the other, while a long query reads."""
        for _ in range(PLANS_MAX - 1):
            try:
                return self._table(query, tally)
            except SegmentGone:
                self._store.refresh()
        return self._table(query, tally)

    def _table(self, query: Query, tally: Tally) -> tuple[Table, Reading]:
        match query:
            case CountQuery():
                return count(query, self._planner, self._runs, tally)
            case HeavyQuery():
                return heavy(query, self._planner, self._runs, tally)
            case MoversQuery():
                return movers(query, self._planner, self._runs, tally)

    def _readings(self, query: Query) -> tuple[list[Reading], list[Family]]:
        columns: tuple[Column, ...] = query.columns if isinstance(query, CountQuery) else (query.column,)
        levels = Levels((), ()) if isinstance(query, HeavyQuery) else query.levels
        families = list(check_blocks(query.blocks, levels))
        names = series_names(columns)
        if isinstance(query, MoversQuery):
            return [self._planner.reading(names, span) for span in (query.before, query.after)], families
        coarsest = query.every if isinstance(query, CountQuery) and query.every else "month"
        return [self._planner.reading(names, query.span, coarsest)], families
