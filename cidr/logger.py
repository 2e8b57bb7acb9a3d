"""as_logger: reads logs as an ordinary named subscriber and writes what it counts, interval by interval.

An event belongs to the interval of its own time, or else of the time its batch was appended to its log. That time never
goes back, whatever this host's clock does, and reading the same log again puts everything into the same intervals.

An interval is closed when every log has been read beyond its end: a batch after it was seen, or there is nothing more
to read and the clock (with a grace) is past it. Closing writes a segment for every series that this logger knows, with
no rows if nothing was counted: what is missing was not counted, what is empty was. Events that come for a closed
interval are written beside it, as `late`.

No locks: one thread does everything. Another process with the same origin is found out at its first commit.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import jlogd
from cidr.audit_records import read_record
from cidr.catalogue import Catalogue
from cidr.columns import empty
from cidr.commits import Commits, Piece
from cidr.config import AsLogger
from cidr.extract import Extractor, Records, documents_of
from cidr.files import Files
from cidr.segment import Kind
from cidr.tallies import Seen, Tallies
from cidr.times import unit, zone_named
from cidr.types import Family
from jlogd.errors import LogExists, LogNotFound, RemoteError, SubscriberExists

FETCH_BYTES = 4 << 20
# How long one log is waited for when none had anything.
WAIT_SECONDS = 0.2
# Records of an interval may still be under way to the log, or from it, when the clock says that it is over.
GRACE_SECONDS = 2.0
# At so many different addresses, or intervals, in memory they are written, whatever the time.
ENTRIES_MAX = 2_000_000
KEYS_MAX = 5_000
# While it catches up, a logger commits the intervals of so much time together: each commit waits for the disk.
TOGETHER_SECONDS = 1.0
# Nothing came for so long: then there is nothing, and it is not only under way from a daemon.
QUIET_SECONDS = 1.0
# Events with times of their own tell of a time without events when it is no longer than this.
QUIET_LOG_SECONDS = 86400
# Of so many series that are left out it is told how much was; any program may name one.
NOT_WANTED_MAX = 1000
# A daemon that went away is tried again after this.
RETRY_SECONDS = 2.0


@dataclass(slots=True)
class _Source:
    """One log that is read. `reached`: seconds up to which it has been read."""

    target: str
    uuid: str
    subscriber: jlogd.Subscriber
    rules: list[Extractor]
    audit: bool
    next: int
    reached: float = 0.0
    quiet_since: float = 0.0


class Logger:
    """Counts the events of some logs until it is stopped."""

    def __init__(
        self,
        config: AsLogger,
        *,
        clock: Callable[[], float] = time.time,
        files: Files | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        """Opens the store, making it when it is not there, and the logs. `notes`: what one should know of them at the
        start, in words. Raises JlogError."""
        self._config = config
        self._clock = clock
        self.stop = stop or threading.Event()
        base = Path(config.base_dir)
        (files or Files()).make_directory(base.absolute())
        self._stack = ExitStack()
        self._catalogue = Catalogue.create(base)
        self._stack.callback(self._catalogue.close)
        self._zone = zone_named(config.zone)
        self._catalogue.put_setting("zone", config.zone)
        self._catalogue.put_setting("interval", str(config.log_interval))
        self._commits = Commits(base, self._catalogue, config.origin, config.zone, files, config.log_interval)
        self._tallies = Tallies(config.log_interval, self._zone)
        self._known = self._series_at_start()
        self._closed, self._began = self._where_it_stopped()
        self._committed = time.monotonic()
        self.notes = [f"files of a commit that lacks others were moved to {at}" for at in [self._commits.aside] if at]
        try:
            self._sources = [self._open(target) for target in config.targets()]
        except BaseException:
            self._stack.close()
            raise

    @property
    def seen(self) -> Seen:
        """What became of the records so far."""
        return self._tallies.seen

    def run(self) -> None:
        """Until `stop` is set; then what was counted is committed. Raises LoggerFenced, JlogError, OSError."""
        while not self.stop.is_set():
            self.step(WAIT_SECONDS)
        self.commit()

    def drain(self) -> None:
        """Read all there is and commit it."""
        while self.step(0.0) or self._under_way():
            pass
        self.commit()

    def _under_way(self) -> bool:
        """Whether a daemon sends something after all: it takes a while until it says that there is nothing."""
        return any(self._read(source, QUIET_SECONDS) for source in self._sources if "://" in source.target)

    def step(self, wait: float) -> bool:
        """Read once from every log, commit when an interval is over; whether there was anything to read."""
        found = [self._read(source) for source in self._sources]
        if not any(found) and wait:
            found = [self._read(source, wait) for source in self._sources[:1]]
            if not self._sources:
                self.stop.wait(wait)
        if self._full() or self._time_to_close(any(found)):
            self.commit()
        return any(found)

    def _full(self) -> bool:
        return self._tallies.entries > ENTRIES_MAX or len(self._tallies.counts) > KEYS_MAX

    def _time_to_close(self, busy: bool) -> bool:
        """An interval is over; while there is more to read, several are closed together."""
        over = self._over()
        if over <= (self._closed or self._start(self._began)):
            return False
        return not busy or time.monotonic() - self._committed > TOGETHER_SECONDS

    def commit(self) -> None:
        """Write everything counted, and close the intervals that are over."""
        over = max(self._over(), self._closed)
        positions = {source.uuid: source.next for source in self._sources}
        pieces = list(self._pieces(over))
        if pieces or positions != {log: self._commits.positions().get(log) for log in positions}:
            self._commits.write(pieces, positions)
        self._closed = over if over > self._start(self._began) else self._closed
        self._committed = time.monotonic()
        for source in self._sources:
            if source.next:
                source.subscriber.checkpoint(source.next)

    def close(self) -> None:
        """Let go of logs and store, without committing."""
        self._stack.close()

    def __enter__(self) -> Logger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Reading

    def _open(self, target: str) -> _Source:
        config = self._config
        audit = bool(config.audit) and config.target(config.audit) == target
        log = self._stack.enter_context(_open(target, make=audit))
        with suppress(SubscriberExists):
            log.add_subscriber(config.subscriber, config.start)
        subscriber = self._stack.enter_context(log.subscriber(config.subscriber, follow=True, stop=self.stop))
        stat = log.stat()
        counted = self._commits.positions().get(stat.uuid, 0)
        self._note_position(target, stat, counted)
        rules = [Extractor(rule) for rule in config.extract if config.target(rule.log) == target]
        rules = [rule for rule in rules if config.wants(rule.series)]
        return _Source(target, stat.uuid, subscriber, rules, audit, counted)

    def _note_position(self, target: str, stat: jlogd.LogStat, counted: int) -> None:
        """Who sets the subscriber back wants the log counted again, and nothing would say that it is not."""
        name = self._config.subscriber
        stands = next((one.next for one in stat.subscribers if one.name == name), 0)
        if 0 < stands < counted:
            self.notes.append(
                f"{target}: the subscriber {name} stands at record {stands:,}, but {self._config.base_dir} has counted"
                f" the log up to record {counted - 1:,} already: it goes on behind that, and counts nothing twice; to"
                " count the log anew, give another base_dir"
            )

    def _read(self, source: _Source, wait: float = 0.0) -> bool:
        """Read what is there; the log is up to date when there is nothing."""
        asked = self._clock()
        try:
            items = source.subscriber.fetch(wait, FETCH_BYTES)
        except RemoteError:
            self.stop.wait(RETRY_SECONDS)
            return False
        for item in items:
            if item.next > source.next:
                self._take(source, item)
        if items:
            source.quiet_since = 0.0
        elif not source.quiet_since:
            source.quiet_since = time.monotonic()
        elif time.monotonic() - source.quiet_since >= QUIET_SECONDS:
            source.reached = max(source.reached, asked - GRACE_SECONDS)
        return bool(items)

    def _take(self, source: _Source, item: jlogd.Batch | jlogd.Gap) -> None:
        if isinstance(item, jlogd.Gap):
            self.seen.lost += item.next - max(item.first, source.next)
        else:
            logged = item.append_time / 1e9
            source.reached = max(source.reached, logged)
            if not self._began:
                self._began = int(logged) if source.next or item.first > 1 else self._start(logged)
            self._count(source, item.since(max(source.next, item.first)), int(logged))
        source.next = item.next

    def _count(self, source: _Source, batch: jlogd.Batch, logged: int) -> None:
        records = Records(batch)
        self.seen.records += len(records)
        if source.audit:
            self._count_audit(records.each)
        documents = documents_of(records.each) if any(rule.json for rule in source.rules) else []
        for rule in source.rules:
            if rule.plain:
                self._tallies.add_addresses(rule.series, rule.addresses(records), logged)
            else:
                self._tallies.add_events(rule.series, rule.events(records, documents), logged)

    def _count_audit(self, records: Iterable[bytes]) -> None:
        for record in records:
            for series, address, number, when in read_record(record, self.seen):
                if self._config.wants(series):
                    self._tallies.add(series, address, number, when)
                    self.seen.events += 1
                elif series in self.seen.not_wanted or len(self.seen.not_wanted) < NOT_WANTED_MAX:
                    self.seen.not_wanted[series] += 1

    # Closing

    def _over(self) -> int:
        """The end of the last interval that is over in every log."""
        reached = min((source.reached for source in self._sources), default=self._clock() - GRACE_SECONDS)
        if not self._began and reached > 0:
            self._began = int(reached)
        return self._start(reached)

    def _start(self, seconds: float) -> int:
        return int(seconds) // self._config.log_interval * self._config.log_interval

    def _pieces(self, over: int) -> Iterator[Piece]:
        """What is to be written: closed intervals, empty ones too, and what belongs to none of them."""
        interval = self._config.log_interval
        counts = self._tallies.take()
        self._known |= {series for series, _, _ in counts}
        begin = self._closed or self._start(self._began)
        over = max(over, begin)
        for (series, start, family), found in counts.items():
            end = start + interval
            if begin <= start < over:
                kind, covered = self._coverage(start)
                yield Piece(series, family, start, end, kind, covered, found)
            else:
                yield Piece(series, family, start, end, "late", ((start, end),) if start < begin else (), found)
        counted = {(series, start) for series, start, _ in counts}
        before = self._before({start for _, start in counted if start < begin})
        for series in sorted(self._known):
            for start, end in self._stretches([start for start in before if (series, start) not in counted]):
                yield Piece(series, Family.V4, start, end, "late", ((start, end),), empty(Family.V4))
            empties = [start for start in range(begin, over, interval) if (series, start) not in counted]
            yield from self._empty(series, empties)

    def _before(self, starts: set[int]) -> list[int]:
        """Intervals from before this logger began that its logs tell of: those with events, and those between them."""
        found: list[int] = []
        for start in sorted(starts):
            if found and start - found[-1] <= QUIET_LOG_SECONDS:
                found += range(found[-1] + self._config.log_interval, start, self._config.log_interval)
            found.append(start)
        return found

    def _coverage(self, start: int) -> tuple[Kind, tuple[tuple[int, int], ...]]:
        end = start + self._config.log_interval
        if self._closed or self._began <= start:
            return "full", ((start, end),)
        return "partial", ((max(start, self._began), end),)

    def _empty(self, series: str, starts: list[int]) -> Iterator[Piece]:
        """Segments without rows for closed intervals; the first of all may have been counted in part."""
        if starts and self._coverage(starts[0])[0] == "partial":
            start = starts[0]
            kind, covered = self._coverage(start)
            end = start + self._config.log_interval
            yield Piece(series, Family.V4, start, end, kind, covered, empty(Family.V4))
            starts = starts[1:]
        for start, end in self._stretches(starts):
            yield Piece(series, Family.V4, start, end, "full", ((start, end),), empty(Family.V4))

    def _stretches(self, starts: list[int]) -> Iterator[tuple[int, int]]:
        """Intervals that follow each other as one, within an hour: hours are what they are condensed to first."""
        interval = self._config.log_interval
        at = 0
        while at < len(starts):
            start, end, at = starts[at], starts[at] + interval, at + 1
            hour = unit("hour", start, self._zone)
            while at < len(starts) and starts[at] == end < hour.end:
                end, at = end + interval, at + 1
            yield start, end

    # Where it was

    def _series_at_start(self) -> set[str]:
        """Series that are written even when nothing is counted: those of the rules, and those that were there
        before."""
        named = {rule.series for rule in self._config.extract}
        before = {segment.series for segment in self._catalogue.segments() if segment.origin == self._config.origin}
        return {series for series in named | before if self._config.wants(series)}

    def _where_it_stopped(self) -> tuple[int, int]:
        """The end of the last interval it closed, or where those of today's length would begin again: it may have had
        another `log_interval`, and an interval that reaches over the end of an hour can never be condensed. 0, 0 for a
        logger that has never run."""
        mine = [
            segment.end
            for segment in self._catalogue.segments()
            if (segment.origin == self._config.origin and segment.kind != "late")
            or (segment.condensed and self._config.origin in dict(segment.upto))
        ]
        closed = self._start(max(mine, default=0))
        return closed, closed


def _open(target: str, make: bool) -> jlogd.Log:
    """The log; the one of `jlogd.audit` is made when no program has done so yet."""
    try:
        return jlogd.open(target)
    except LogNotFound:
        if not make:
            raise
        with suppress(LogExists):
            jlogd.create(target)
        return jlogd.open(target)
