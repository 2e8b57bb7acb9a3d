"""A store as a reader sees it: its series, their timelines, its zone; and when it has changed.

With a catalogue file, a change is seen by asking SQLite for a number. A directory without one (a copy, a read-only
mount, one that several hosts write) is surveyed by its footers, and again every `SURVEY_SECONDS`.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from zoneinfo import ZoneInfo

from cidr.catalogue import Catalogue
from cidr.errors import NO_STORE, StoreNotFound, UnknownSeries
from cidr.names import CATALOGUE
from cidr.survey import in_memory
from cidr.timeline import Timeline
from cidr.times import zone_named
from cidr.types import Family, SeriesStat, Span, Tier

SURVEY_SECONDS = 10.0
# How often an answer looks for new segments; intervals are of a minute.
LOOK_SECONDS = 1.0
# So many questions to a series are planned from what overlaps their span: reading a whole year's catalogue takes longer
# than answering for a day. Then all of it is read, once.
PARTS_MAX = 4


class Store:
    """One store, for reading. Safe for threads."""

    def __init__(self, base: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises StoreNotFound, CatalogueBroken."""
        if not base.is_dir():
            raise StoreNotFound(f"there is no directory {base}; {NO_STORE}")
        self.base = base
        self._clock = clock
        self._lock = threading.RLock()
        self._catalogue: Catalogue | None = None
        self._version = -1
        self._looked = 0.0
        self._surveyed = 0.0
        self.refresh()

    def look(self) -> None:
        """See what changed, at most once in `LOOK_SECONDS`."""
        if self._clock() - self._looked >= LOOK_SECONDS:
            self.refresh()

    def refresh(self) -> None:
        """See what changed, now."""
        with self._lock:
            self._looked = self._clock()
            inode = self._inode_now()
            if inode:
                self._follow_catalogue(inode)
            elif self._catalogue is None or self._clock() - self._surveyed >= SURVEY_SECONDS:
                self._surveyed = self._clock()
                self._replace(in_memory(self.base))

    def series(self) -> list[SeriesStat]:
        """All series, by name."""
        with self._lock:
            if self._series is None:
                self._series = self._open.series()
            return self._series

    def check(self, name: str) -> None:
        """Raises UnknownSeries for a series that is not there."""
        with self._lock:
            known = self._series is None and self._open.has_series(name)
        names = [] if known else [stat.name for stat in self.series()]
        if not known and name not in names:
            raise UnknownSeries(name, names)

    def timeline(self, series: str, family: Family, span: Span | None = None, coarsest: Tier = "month") -> Timeline:
        """The segments of a series and family that count; for the first few questions only what tells of their span,
        with none taken that is coarser than `coarsest`."""
        with self._lock:
            key = series, family
            found = self._timelines.get(key)
            if found is not None:
                return found
            self._asked[key] += 1
            if span is not None and self._asked[key] <= PARTS_MAX:
                return Timeline(self._open.segments_for(series, family, span, coarsest))
            found = self._timelines[key] = Timeline(self._open.segments(series, family))
            return found

    def reach(self, series: str) -> Span | None:
        """From the start of the first interval of a series to the end of its last."""
        with self._lock:
            return self._open.reach(series)

    @property
    def generation(self) -> int:
        """A number that changes whenever the store did."""
        return self._generation

    @property
    def zone(self) -> ZoneInfo:
        """The zone its days begin in; UTC when none was ever set."""
        with self._lock:
            if self._zone is None:
                self._zone = zone_named(self._open.setting("zone") or "UTC")
            return self._zone

    @property
    def interval(self) -> int:
        """Seconds of the logger's intervals; 0 when there never was a logger."""
        with self._lock:
            if self._interval is None:
                self._interval = int(self._open.setting("interval") or 0)
            return self._interval

    def close(self) -> None:
        """Let go of the catalogue."""
        with self._lock:
            if self._catalogue is not None:
                self._catalogue.close()
                self._catalogue = None

    _generation = 0
    _series: list[SeriesStat] | None = None
    _zone: ZoneInfo | None = None
    _interval: int | None = None

    @property
    def _open(self) -> Catalogue:
        if self._catalogue is None:
            raise StoreNotFound(f"{self.base} was closed")
        return self._catalogue

    def _follow_catalogue(self, inode: int) -> None:
        """`inode` tells when it was made anew under its name."""
        if self._catalogue is None or self._catalogue.path is None or inode != self._inode:
            self._replace(Catalogue.read(self.base / CATALOGUE))
            self._inode = inode
        version = self._open.version()
        if version != self._version:
            self._version = version
            self._forget()

    def _inode_now(self) -> int:
        """Of the catalogue's file; 0 when there is none, or it is moved aside in this moment."""
        try:
            return (self.base / CATALOGUE).stat().st_ino
        except FileNotFoundError:
            return 0

    _inode = 0

    def _replace(self, catalogue: Catalogue) -> None:
        if self._catalogue is not None:
            self._catalogue.close()
        self._catalogue = catalogue
        self._forget()

    def _forget(self) -> None:
        self._generation += 1
        self._timelines: dict[tuple[str, Family], Timeline] = {}
        self._asked: Counter[tuple[str, Family]] = Counter()
        self._series = None
        self._zone = None
        self._interval = None
