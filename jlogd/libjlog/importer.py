"""Taking over a libjlog log: its records, each once, then its subscribers, none past a record it has not consumed.

Every record of libjlog has a place that never changes: the number of its segment, and its ordinal there. As one integer

    key = segment << 32 | ordinal          ordinal 1 is the first record of the segment

it is the position that the batches of the import carry as those of a named producer. So an import that was killed goes
on where the log has it, whatever was pruned from the directory meanwhile, and a batch that is sent twice is kept once.

Subscribers are added before the first record, where the log ends, so that nothing is pruned that they have not read.
Afterwards each is moved forward over the records of this import that it had consumed, and stops before anything else:
a record of another producer, a gap. An import that is run again moves it on, never back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from jlogd.errors import SubscriberBusy, UsageError
from jlogd.journal.batch import Batch, encode
from jlogd.journal.producers import producer_id
from jlogd.journal.subscribers import check_subscriber_name
from jlogd.libjlog.layout import Checkpoint, Directory
from jlogd.libjlog.records import Bytes, Record, Scanner, Skipped
from jlogd.log import Log
from jlogd.writer.writer import BATCH_BYTES, PIECE_RECORDS

# A batch has one time for its first record and one for its last: those between are known to a second.
SPAN_NS_MAX = 1_000_000_000
# Places that are told one by one; of the others only how many they are and how many bytes.
PLACES_TOLD_MAX = 100
_ORDINAL_BITS = 32
_ORDINAL_MAX = (1 << _ORDINAL_BITS) - 1
# What a record that is cut off at the end of a log is: never complete, so not lost.
HARMLESS = "torn"

Progress = Callable[[int, int | None], None]


def key(log: int, ordinal: int) -> int:
    """Where a record stands in its libjlog log, as one number."""
    return log << _ORDINAL_BITS | ordinal


def place(at: int) -> str:
    """A key as libjlog writes positions."""
    return f"{at >> _ORDINAL_BITS:08x}:{at & _ORDINAL_MAX:08x}"


@dataclass
class Tally:
    """What was read, and what was not."""

    records: int = 0
    bytes: int = 0
    end: int = 0  # key of the last record there is
    places: list[tuple[str, Skipped]] = field(default_factory=list)  # file, and what of it was skipped
    counts: Counter[str] = field(default_factory=Counter)  # places by kind
    skipped_bytes: Counter[str] = field(default_factory=Counter)

    def skip(self, file: str, what: Skipped) -> None:
        """Note bytes that were skipped."""
        self.counts[what.kind] += 1
        self.skipped_bytes[what.kind] += what.end - what.start
        if len(self.places) < PLACES_TOLD_MAX:
            self.places.append((file, what))

    @property
    def lost(self) -> int:
        """Places where something may have been lost."""
        return sum(count for kind, count in self.counts.items() if kind != HARMLESS)


def read(directory: Directory, after: int, tally: Tally, progress: Progress) -> Iterator[Batch]:
    """The records after key `after`, in batches that carry their keys as `producer_from` and `producer_to`.

    A batch never spans two segments, something skipped, or more than a second.
    """
    gathered = _Gathered(after)
    done, total = 0, _size(directory)
    for log, file, data, first in _sources(directory, after):
        ordinal = first
        for item in Scanner(data, directory.order, live=log >= directory.meta.storage_log):
            if isinstance(item, Skipped):
                tally.skip(file, item)
                yield from gathered.take()
                ordinal += item.is_record
                continue
            ordinal += 1
            at = key(log, ordinal)
            if at <= after:
                continue
            if not gathered.fits(item):
                yield from gathered.take()
                progress(done + item.start, total)
            gathered.add(item, at)
            tally.records += 1
            tally.bytes += len(item.data)
        tally.end = key(log, ordinal)
        yield from gathered.take()
        done += data.size
        progress(done, total)


class _Gathered:
    """Records on their way into a batch."""

    def __init__(self, after: int) -> None:
        self._records: list[bytes] = []
        self._bytes = 0
        self._first = self._last = 0
        self._from = self._to = after

    def fits(self, record: Record) -> bool:
        """Whether the batch may take the record."""
        return not self._records or (
            self._bytes + len(record.data) <= BATCH_BYTES
            and len(self._records) < PIECE_RECORDS
            and abs(record.time - self._first) <= SPAN_NS_MAX
        )

    def add(self, record: Record, at: int) -> None:
        if not self._records:
            self._first = record.time
        self._records.append(record.data)
        self._bytes += len(record.data)
        self._last, self._to = record.time, at

    def take(self) -> Iterator[Batch]:
        """The batch, if there is anything in it."""
        if self._records:
            # A time of 0 would be taken for none.
            batch = encode(self._records, max(self._first, 1), max(self._last, 1))
            yield batch.numbered(0, self._from, self._to)
            self._records, self._bytes, self._from = [], 0, self._to


def _sources(directory: Directory, after: int) -> Iterator[tuple[int, str, Bytes, int]]:
    """Segment, file, bytes, and the ordinal before the first record, of everything that may hold records above `after`.

    The pre-commit buffer comes last: as what libjlog will write to the end of the last segment, or to the next one.
    """
    staged = directory.staged()
    for log in directory.segments:
        if log < after >> _ORDINAL_BITS and log != staged.log:
            continue
        try:
            yield log, f"{log:08x}", directory.open(log), 0
        except FileNotFoundError:  # pruned meanwhile
            continue
    if staged.data:
        before = 0
        if staged.log in directory.segments:
            before = _count(directory, staged.log)[0]
        yield staged.log, "pre_commit", Bytes(staged.data), before


def _size(directory: Directory) -> int:
    size = len(directory.staged().data)
    for log in directory.segments:
        try:
            size += directory.open(log).size
        except FileNotFoundError:
            continue
    return size


def _count(directory: Directory, log: int) -> tuple[int, int]:
    """Records of a segment, and how many of them come before the first damage."""
    records, sound = 0, None
    for item in Scanner(directory.open(log), directory.order, live=False):
        if isinstance(item, Record) or item.is_record:
            records += 1
        elif item.kind != HARMLESS and sound is None:
            sound = records
    return records, records if sound is None else sound


# Subscribers


@dataclass
class Target:
    """Where a subscriber stood in the libjlog log: everything up to `key` was consumed.

    `note` says what is to be known about that; `refused`, why it cannot be taken over.
    """

    checkpoint: Checkpoint
    key: int = 0
    note: str = ""
    refused: str = ""
    next: int = 0  # in the log: where it stands
    existed: bool = False
    stopped: bool = False

    @property
    def name(self) -> str:
        return self.checkpoint.name


def targets_of(directory: Directory) -> list[Target]:
    """The subscribers and what they have consumed."""
    return [_target(directory, checkpoint) for checkpoint in directory.checkpoints()]


def _target(directory: Directory, at: Checkpoint) -> Target:
    if at.ephemeral:
        return Target(at, refused="it belongs to a reader that has ended")
    try:
        check_subscriber_name(at.name)
    except UsageError as error:
        return Target(at, refused=str(error))
    if at.problem:
        return Target(at, note=f"{at.problem}; it starts at the oldest record")
    segments = directory.segments
    newest = max([directory.meta.storage_log, *segments])
    if at.log in segments:
        return _target_in(directory, at, at.log, at.marker)
    if at.log > newest:
        found = _target_in(directory, at, segments[-1], _ORDINAL_MAX) if segments else Target(at)
        found.note = f"its checkpoint {at} is beyond the end of the log; it stands at the end"
        return found
    gone = bool(segments) and at.log < newest
    note = f"segment {at.log:08x} of its checkpoint is not there; it goes on after it" if gone else ""
    return Target(at, key(at.log, 0), note)


def _target_in(directory: Directory, at: Checkpoint, log: int, marker: int) -> Target:
    records, sound = _count(directory, log)
    note = ""
    if marker > records and marker != _ORDINAL_MAX and sound == records:
        note = f"its checkpoint {at} is beyond the {records} records of the segment; it stands at their end"
    elif marker > sound:
        # How many records the damage held is not known, so which is the marker-th one is not known either.
        note = f"its checkpoint {at} is after damage; it goes on at the damage, and what follows comes again"
    return Target(at, key(log, min(marker, sound)), note)


def add_subscribers(log: Log, targets: Sequence[Target], producer: str, fresh: bool) -> None:
    """Add those that are not there: before the first record of the import. `fresh`: the log has none of it yet."""
    there = {subscriber.name for subscriber in log.subscribers()}
    start: int | str | None = "end" if fresh else None
    for target in targets:
        target.existed = target.name in there
        if target.refused or target.existed:
            continue
        if start is None:
            start = _first_of(log, producer_id(producer))
        log.add_subscriber(target.name, start)  # type: ignore[arg-type]


def _first_of(log: Log, producer: int) -> int | str:
    """Where the first record of the import that is still there stands in the log."""
    with log.subscriber(None, start="begin") as subscriber:
        for item in subscriber:
            if isinstance(item, Batch) and item.producer == producer:
                return item.first
    return "end"


def move_subscribers(log: Log, targets: Sequence[Target], producer: str) -> None:
    """Move each forward over what it had consumed; sets `next`, and `refused` where a consumer holds it."""
    there = {subscriber.name: subscriber.next for subscriber in log.subscribers()}
    taken = [target for target in targets if not target.refused and target.name in there]
    for target in taken:
        target.next = there[target.name]
    if not taken:
        return
    number = producer_id(producer)
    with log.subscriber(None, start=min(target.next for target in taken)) as subscriber:
        for item in subscriber:
            waiting = [target for target in taken if not target.stopped]
            if not waiting:
                break
            for target in waiting:
                _pass(target, item if isinstance(item, Batch) and item.producer == number else None, item.next)
    for target in taken:
        if target.next > there[target.name]:
            try:
                log.set_subscriber(target.name, target.next)
            except SubscriberBusy as error:
                target.next, target.refused = there[target.name], str(error)


def _pass(target: Target, batch: Batch | None, end: int) -> None:
    """Let a target go over a batch of the import as far as it had consumed it; anything else (None) stops it."""
    if end <= target.next:
        return
    if batch is None:
        target.stopped = True
        return
    before = batch.producer_to - batch.count  # keys of a batch have no holes
    consumed = min(max(target.key - before, 0), batch.count)
    target.next = max(target.next, batch.first + consumed)
    target.stopped = consumed < batch.count
