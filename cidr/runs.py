"""From the segments of a plan to one column of counts, by way of the cache.

The segments of a span are added up in two steps: those of one calendar stretch (the minutes of an hour, the hours of a
day, the days of a month) to one run, and these to the run of the span. Both are kept, so that the next query finds its
answer ready, and one for another span finds its middle ready. What was read only to be added up is not kept: it would
push out what is.

A query that asks for nothing finer than /24 has its segments rolled up before they are added: that is less to sort.
`grain` says how fine the addresses of a run are.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from cidr.cache import Cache, Label, Run
from cidr.columns import Counts, empty, merge, roll_up
from cidr.narrow import batches
from cidr.patience import check
from cidr.segment import read
from cidr.sums import exact_size
from cidr.timeline import Segment, Selection
from cidr.types import Block, Family

# Prefix lengths runs are kept at: few, so that the queries of a drill-down share them.
GRAINS = {Family.V4: (16, 24, 32), Family.V6: (32, 48, 64, 128)}
# A block this narrow is read from where it lies, instead of all of every segment: for so many blocks of one plan.
NARROW_BITS = {Family.V4: 8, Family.V6: 20}
SLICES_MAX = 8
PLANS_MAX = 10_000
# Batches that were fetched and wait to be decoded.
AHEAD_A_THREAD = 4
# At most so much of a long plan at a time in one thread, so that one that is held up leaves its next share to others.
SHARE_ROWS = 1 << 22
# Below this, everything is read and kept at once: it takes less than a blink.
SLICE_ROWS = 1 << 20


@dataclass(slots=True)
class Tally:
    """What building runs took, for the answer's `Work`."""

    read: int = 0
    bytes: int = 0

    def note(self, segments: Sequence[Segment]) -> None:
        """Segments that are read from disk."""
        self.read += len(segments)
        self.bytes += sum(segment.bytes for segment in segments)


class Runs:
    """Builds runs, keeps them. Safe for threads."""

    def __init__(self, base: Path, cache: Cache, threads: int) -> None:
        self._base = base
        self.cache = cache
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="cidr")
        self._asked: Counter[Hashable] = Counter()
        self._lock = threading.Lock()

    def close(self) -> None:
        """End its threads."""
        self._pool.shutdown()

    def run(self, selection: Selection, family: Family, bits: int, blocks: Sequence[Block], tally: Tally) -> Run:
        """The counts of a plan, at least as fine as `bits`; those outside `blocks` may be left out."""
        check()
        grain = min(grain for grain in GRAINS[family] if grain >= bits)
        segments = selection.segments
        if len(segments) <= 1:
            return self._single(segments[0], tally) if segments else Run(empty(family), _label(segments))
        key = selection.digest, grain
        finest = selection.digest, family.width
        found = self.cache.get(finest if finest in self.cache else key)
        if found is not None:
            return found
        if self._narrow(selection, family, blocks):
            slice_key = (*key, tuple(blocks))
            if slice_key in self.cache or self._few(key):
                return self._sliced(slice_key, segments, blocks, tally)
        run = Run(merge(self._stretches(segments, grain, tally)), _label(segments))
        self.cache.put(key, run)
        return run

    def size(self, selection: Selection, family: Family, blocks: Sequence[Block], tally: Tally) -> int:
        """What the counts of a plan in these blocks add up to without their signs, however much that is."""
        tally.note(selection.segments)
        parts = (read(self._base / segment.path, family, blocks) for segment in selection.segments)
        return sum(exact_size(part.counts) for part in parts)

    def cached(self, segments: Sequence[Segment]) -> int:
        """How many of the segments are in the cache by themselves."""
        return sum(segment.path in self.cache for segment in segments)

    def _narrow(self, selection: Selection, family: Family, blocks: Sequence[Block]) -> bool:
        """Whether reading only where the blocks lie is much less than all: they are narrow, the plan is long."""
        return (
            selection.rows >= SLICE_ROWS and bool(blocks) and all(block.bits >= NARROW_BITS[family] for block in blocks)
        )

    def _few(self, key: Hashable) -> bool:
        """Whether only few narrow blocks of a plan were asked for yet: soon, having all of it is less work."""
        with self._lock:
            if len(self._asked) >= PLANS_MAX:
                self._asked.clear()
            self._asked[key] += 1
            return self._asked[key] <= SLICES_MAX

    def _sliced(self, key: Hashable, segments: Sequence[Segment], blocks: Sequence[Block], tally: Tally) -> Run:
        found = self.cache.get(key)
        if found is None:
            found = Run(merge(self._read_all(segments, tally, blocks)), _label(segments), sliced=True)
            self.cache.put(key, found)
        return found

    def _single(self, segment: Segment, tally: Tally) -> Run:
        found = self.cache.get(segment.path)
        if found is None:
            tally.note([segment])
            found = Run(read(self._base / segment.path, segment.family), _label([segment]))
            self.cache.put(segment.path, found)
        return found

    def _read_all(self, segments: Sequence[Segment], tally: Tally, blocks: Sequence[Block]) -> list[Counts]:
        """What of the segments lies in the blocks. While all threads decode, this one fetches, and is not far ahead."""
        tally.note(segments)
        found: list[Counts] = []
        decoded: deque[Future[Counts]] = deque()
        for batch in batches(self._base, segments, blocks):
            check()
            decoded.append(self._pool.submit(batch.counts))
            if len(decoded) > self._threads * AHEAD_A_THREAD:
                found.append(decoded.popleft().result())
        return [*found, *(future.result() for future in decoded)]

    def _stretches(self, segments: Sequence[Segment], grain: int, tally: Tally) -> list[Counts]:
        """The counts of each calendar stretch of the plan."""
        parts = [list(stretch) for _, stretch in groupby(segments, _stretch)]
        if len(parts) == 1 or len(parts) > len(segments) // 2:
            parts = [list(segments)] if len(segments) <= 64 else parts
        keys: list[Hashable] = [(tuple(s.path for s in part), grain) for part in parts]
        found = [self.cache.get(key) if len(part) > 1 else None for key, part in zip(keys, parts, strict=True)]
        missing = [index for index, run in enumerate(found) if run is None]
        tally.note([segment for index in missing for segment in parts[index] if segment.path not in self.cache])
        for index, counts in zip(missing, self._sums([parts[index] for index in missing], grain), strict=True):
            run = found[index] = Run(counts, _label(parts[index]))
            if 1 < len(parts[index]) < len(segments):
                self.cache.put(keys[index], run)
        return [run.counts for run in found if run is not None]

    def _sums(self, parts: Sequence[Sequence[Segment]], grain: int) -> list[Counts]:
        """The sum of each part. Threads get shares of the same size, whatever the parts: of forty days one month may be
        thirty. Each adds up its share, so that what is left to be added up in one is what is different in each."""
        sums: list[list[Counts]] = [[] for _ in parts]
        for found in self._pool.map(lambda share: self._added(share, grain), _shares(parts, self._threads)):
            check()  # what is left of the shares is not begun, then
            for number, counts in found:
                sums[number].append(counts)
        return [merge(found) for found in sums]

    def _added(self, share: Sequence[tuple[int, Segment]], grain: int) -> list[tuple[int, Counts]]:
        """What a share has of each part, added up."""
        parts = groupby(share, key=itemgetter(0))
        return [(number, merge([self._rolled(segment, grain) for _, segment in some])) for number, some in parts]

    def _rolled(self, segment: Segment, grain: int) -> Counts:
        """A segment's counts at a grain, from the cache if it is there by itself."""
        kept = self.cache.get(segment.path) if segment.path in self.cache else None
        if kept is not None:
            return kept.level(grain).counts if grain < segment.family.width else kept.counts
        return roll_up(read(self._base / segment.path, segment.family), grain)


def _shares(parts: Sequence[Sequence[Segment]], threads: int) -> list[list[tuple[int, Segment]]]:
    """The segments of all parts, each with the number of its part, in shares of about as many rows. Handing them over
    one by one would cost as much as opening the files."""
    line = [(number, segment) for number, part in enumerate(parts) for segment in part]
    total = sum(segment.rows + 1 for _, segment in line)
    wanted = -(-total // (threads * SHARE_ROWS)) * threads
    shares: list[list[tuple[int, Segment]]] = [[] for _ in range(wanted)]
    done = 0
    for number, segment in line:
        middle = 2 * done + segment.rows + 1
        shares[middle * wanted // (2 * total)].append((number, segment))
        done += segment.rows + 1
    return [share for share in shares if share]


def _label(segments: Sequence[Segment]) -> Label:
    if not segments:
        return Label("", "", 0, 0, 0)
    start, end = min(s.start for s in segments), max(s.end for s in segments)
    path = segments[0].path if len(segments) == 1 else ""
    return Label(path, segments[0].series, start, end, len(segments))


def _stretch(segment: Segment) -> tuple[str, int]:
    """The calendar stretch a segment is added up with. In UTC, whatever the zone: it decides what is kept, not what is
    counted."""
    if segment.tier == "minute":
        return "hour", segment.start // 3600
    if segment.tier == "hour":
        return "day", segment.start // 86400
    moment = datetime.fromtimestamp(segment.start + 43200, UTC)  # a day east of Greenwich begins on the day before
    return ("month", moment.year * 12 + moment.month) if segment.tier == "day" else ("year", moment.year)
