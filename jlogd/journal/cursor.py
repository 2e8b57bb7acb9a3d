"""A cursor: reads a log forward from a position, verified, durable records only.

What it returns is batches in order of their numbers, with a `Gap` wherever numbers are missing. It never blocks and
never holds data back. Not thread-safe: one thread at a time.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from datetime import datetime

from jlogd.errors import FormatError, UsageError
from jlogd.journal.batch import PRODUCERS, Batch, Gap
from jlogd.journal.disk import File
from jlogd.journal.head import Head
from jlogd.journal.scan import Damage, Scanner
from jlogd.journal.segment import SEGMENT_HEADER_BYTES, SegmentId
from jlogd.journal.types import Position, Start
from jlogd.journal.view import COUNTERS, Extent, View

# A segment may be pruned between being listed and being opened; each try lists anew.
_OPEN_TRIES = 5
# Positions remembered for checkpoints to come; above it every second one is forgotten, which only costs a longer scan.
_MARKS_MAX = 4096


class Cursor:
    """Reads from `position` on; `next` is the number of the record it returns next."""

    def __init__(self, view: View, position: Position, counters: dict[str, int] | None = None) -> None:
        """`counters` (see `view.COUNTERS`) are raised by what is read."""
        self._view = view
        self._counters = counters if counters is not None else dict.fromkeys(COUNTERS, 0)
        self._hint = position
        self._scanner: Scanner | None = None
        self._file: File | None = None
        self._segment = SegmentId(0, 0)
        self._extent = Extent(0, 0, sealed=False)
        self._bytes_before = 0
        self._damage: Damage | None = None
        self._marks: deque[Position] = deque()
        self.next = position.next

    def read(self, max_bytes: int) -> list[Batch | Gap]:
        """What comes next, about `max_bytes` of it and at least one batch; empty at the durable end.

        Raises OSError, FormatError only when nothing was found before it; the next call reads on from the same place.
        """
        found: list[Batch | Gap] = []
        start, left = self.next, max_bytes
        try:
            while left > 0:
                if self._scanner is None and not self._open(found):
                    break
                left -= self._drain(found, left)
                if left > 0 and not self._advance(found):
                    break
        except (OSError, FormatError):
            self.close()
            if not found:
                raise
        except BaseException:
            self._go_back(start)  # interrupted: what was read and not returned comes again
            raise
        self._mark()
        self._counters["delivered_records"] += self.next - start - sum(gap.count for gap in found if type(gap) is Gap)
        self._counters["delivered_bytes"] += max_bytes - left
        return found

    def position_at(self, sequence: int) -> Position:
        """The best known position for `sequence`, which must not be above `next`."""
        best = self._hint
        while self._marks and self._marks[0].next <= sequence:
            best = self._marks.popleft()
        self._hint = best
        return Position(sequence, best.segment_first, best.segment_epoch, best.offset, best.bytes)

    def close(self) -> None:
        """Close the open segment."""
        self._scanner = None
        if self._file is not None:
            self._file.close()
            self._file = None

    def _go_back(self, start: int) -> None:
        self.next = start
        self._marks = deque(mark for mark in self._marks if mark.next <= start)
        self.close()

    def _drain(self, found: list[Batch | Gap], left: int) -> int:
        """Take batches of the open segment until `left` bytes are had; returns the bytes taken."""
        scanner, extent = self._scanner, self._extent
        assert scanner is not None
        taken = 0
        while taken < left:
            item = scanner.step(extent.end, self.next)
            if item is None:
                break
            if isinstance(item, Damage):
                self._damage = item
                self._counters["damaged_places"] += 1
                self._counters["damaged_bytes"] += item.end - item.start
                continue
            if item.kind == PRODUCERS or item.next <= self.next:
                continue
            if item.first >= extent.next:  # written by an owner that was fenced
                scanner.offset = extent.end
                break
            if item.first > self.next:
                found.append(self._gap(item.first))
            elif item.first < self.next:
                if self.next != self._hint.next:  # only where reading began may a batch reach back
                    self._damage = Damage(scanner.offset - item.size, scanner.offset, "the batch is out of order")
                    continue
                item = item.since(self.next)
            found.append(item)
            self.next = item.next
            taken += item.size
        return taken

    def _advance(self, found: list[Batch | Gap]) -> bool:
        """The open segment is read to its known end: learn a later end, or go to the next segment."""
        view, known = self._view, self._extent
        head = view.head()
        following = None if head is not None and head.segment == self._segment else self._following()
        self._extent = self._measure(following, head)
        if self._extent.end > known.end or (self._extent.sealed and not known.sealed):
            return True
        if self.next < self._extent.next and (self._extent.sealed or self._damage is not None):
            found.append(self._gap(self._extent.next))
        if not self._extent.sealed or following is None:
            return False
        try:
            self._enter(following, SEGMENT_HEADER_BYTES)
        except FileNotFoundError:
            self.close()  # pruned meanwhile: `_open` finds where the log begins now
        return True

    def _following(self) -> SegmentId | None:
        return next((segment for segment in self._view.chain() if segment > self._segment), None)

    def _measure(self, following: SegmentId | None, head: Head | None) -> Extent:
        try:
            return self._view.extent(self._segment, following, head)
        except FileNotFoundError:  # pruned while we read it; our open file still has it
            assert self._file is not None and following is not None
            return Extent(self._file.size(), following.first, sealed=True)

    def _open(self, found: list[Batch | Gap]) -> bool:
        """Open the segment that holds `next`; a gap first when that was pruned. False when there is none yet."""
        for _ in range(_OPEN_TRIES):
            segments = self._view.chain()
            if not segments:
                return False
            if segments[0].first > self.next:
                found.append(self._gap(segments[0].first))
            target = max(s for s in segments if s.first <= self.next)
            hinted = SegmentId(self._hint.segment_first, self._hint.segment_epoch)
            if hinted in segments and hinted.first <= self.next and self._hint.next <= self.next:
                target = hinted
            with suppress(FileNotFoundError):
                self._enter(target, self._hint.offset if target == hinted else SEGMENT_HEADER_BYTES)
                return True
        return False

    def _enter(self, segment: SegmentId, offset: int) -> None:
        file = self._view.open_segment(segment)
        self.close()
        header = self._view.header(segment)
        self._bytes_before = header.bytes_before if header is not None else self._bytes_before + self._extent.end
        self._file, self._segment, self._damage = file, segment, None
        self._scanner = Scanner(file, self._view.seed, max(offset, SEGMENT_HEADER_BYTES))
        self._extent = Extent(0, segment.first, sealed=False)
        self._mark()

    def _gap(self, until: int) -> Gap:
        """The gap from `next` to `until`, which becomes `next`."""
        floor = self._view.floor().first  # may fail: then nothing has moved
        first, self.next = self.next, until
        detail = ""
        if first < floor:
            reason = "dropped"
        elif self._damage is not None:
            reason = "damaged"
            detail = (
                f"{self._segment.filename} bytes {self._damage.start} to {self._damage.end - 1}: {self._damage.why}"
            )
        else:
            reason = "missing"
        self._counters["gap_records"] += until - first
        self._counters["damaged_records"] += until - first if reason != "dropped" else 0
        return Gap(first, until - 1, reason, detail)

    def _mark(self) -> None:
        if self._scanner is None:
            return
        offset = self._scanner.offset
        mark = Position(self.next, self._segment.first, self._segment.epoch, offset, self._bytes_before + offset)
        if self._marks and self._marks[-1] == mark:
            return
        self._marks.append(mark)
        if len(self._marks) > _MARKS_MAX:
            self._marks = deque(list(self._marks)[::2])


def locate(view: View, start: Start) -> Position:
    """The position `start` stands for. Raises `UsageError` for a number above the end of the log.

    A number or time below the oldest record means the oldest record; a time above the newest means the end.
    """
    head = view.head()
    segments = view.chain()
    first = segments[0].first if segments else 1
    end = _end(head, first)
    if start == "end":
        return end
    if start == "begin":
        return Position(first)
    if isinstance(start, datetime):
        return _locate_time(view, segments, int(start.timestamp() * 1e9), end)
    if isinstance(start, str):
        raise UsageError(f"start {start!r} is not 'begin', 'end', a sequence number or a time")
    if start > end.next:
        raise UsageError(f"the log ends before {start}: the next sequence number is {end.next}")
    return Position(max(first, start))


def _end(head: Head | None, first: int) -> Position:
    if head is None:
        return Position(first)
    return Position(head.visible, head.segment.first, head.segment.epoch, head.durable, head.total_bytes)


def _locate_time(view: View, segments: list[SegmentId], when: int, end: Position) -> Position:
    """The first batch appended at or after `when` (ns). Append times never decrease, so segments can be bisected."""
    low, high = 0, len(segments)
    while high - low > 1:
        middle = (low + high) // 2
        header = None
        with suppress(FileNotFoundError):
            header = view.header(segments[middle])
        if header is not None and header.created > when:
            high = middle
        else:
            low = middle
    cursor = Cursor(view, Position(segments[low].first if segments else 1))
    try:
        while items := cursor.read(1):
            batch = items[-1]
            if isinstance(batch, Batch) and batch.append_time >= when:
                return Position(batch.first)
    except FormatError:
        return end
    finally:
        cursor.close()
    return end
