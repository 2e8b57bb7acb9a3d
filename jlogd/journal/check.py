"""Verifying every byte of a log, without changing it and while writers write.

What is checked: `log.json`, both slots of every state file, the names and headers of all segments, that each segment is
sealed by its successor, both checksums of every batch, that numbers follow one another and append times do not go back,
that bodies hold as many records as their headers claim, and that every subscriber stands in the log.

Bytes that belong to nobody are findings of kind `torn` (what a crash left behind a segment's sealed end) or `zombie`
(segments of an owner that was fenced, whole batches behind a sealed end: written too late, or written again by the next
owner): both are harmless, and go when the segment is pruned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

from jlogd.errors import FormatError, UnknownVersion
from jlogd.journal.batch import Batch
from jlogd.journal.disk import Disk, File, PosixDisk, read_all
from jlogd.journal.layout import encode_meta, head_epochs
from jlogd.journal.scan import Damage, Scanner
from jlogd.journal.segment import SEGMENT_HEADER_BYTES, SegmentId, chain, segment_ids
from jlogd.journal.slots import slot_problems
from jlogd.journal.subscribers import Subscribers
from jlogd.journal.view import Extent, View

Progress = Callable[[int, int], None]
# The names and the head are read one after the other, and must belong together: a roll between them is met again.
_LOOKS = 5
HARMLESS = ("torn", "zombie")


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """Something `check` found. `path` is relative to the log; `offset` and `bytes` are bytes, `records` those lost.

    `kind`: `damaged`, `missing`, `order`, `state` are faults; `torn` and `zombie` are harmless leftovers.
    """

    kind: str
    message: str
    path: str = ""
    offset: int = 0
    bytes: int = 0
    records: int = 0

    @property
    def harmless(self) -> bool:
        """Whether nothing that was acknowledged is affected."""
        return self.kind in HARMLESS


def check(path: Path | str, disk: Disk | None = None, on_progress: Progress | None = None) -> Iterator[Finding]:
    """Findings, as they are found; none for a log in good order. `on_progress` gets bytes done and bytes in all.

    Raises `LogNotFound`. Without a sound `log.json` it is not known which log it is: that is then the only finding.
    """
    try:
        view = View(Path(path), disk or PosixDisk())
    except UnknownVersion:
        raise
    except FormatError as error:
        yield Finding(kind="state", message=f"nothing else was checked: {error}", path="log.json")
        return
    yield from _check_states(view)
    progress = on_progress or (lambda _done, _all: None)
    yield from _Walk(view, progress).findings()


def _check_states(view: View) -> Iterator[Finding]:
    layout = view.layout
    if read_all(view.disk, layout.meta) != encode_meta(view.meta):
        yield Finding(kind="state", message="log.json was changed by something else", path="log.json")
    heads = [layout.head(epoch) for epoch in head_epochs(view.names())]
    names = [layout.subscriber(name) for name in Subscribers(view).names()]
    for path in [layout.owner, layout.floor, *heads, *names]:
        with suppress(FileNotFoundError):
            for problem in _lasting_problems(view, path):
                yield Finding(kind="state", message=problem, path=str(path.relative_to(layout.root)))
    yield from _check_agreement(view)


def _lasting_problems(view: View, path: Path) -> list[str]:
    """What is wrong with a state file each time it is looked at: a slot that is being written looks damaged too."""
    problems = slot_problems(read_all(view.disk, path))
    for _ in range(_LOOKS):
        if not problems:
            break
        again = slot_problems(read_all(view.disk, path))
        problems = [problem for problem in problems if problem in again]
    return problems


def _check_agreement(view: View) -> Iterator[Finding]:
    try:
        owner = view.owner()
    except (FormatError, FileNotFoundError) as error:
        yield Finding(kind="state", message=f"the owner cannot be read: {error}", path="owner")
        owner = None
    # Before the head: what a subscriber has passed meanwhile, a head that is older knows nothing of.
    states = Subscribers(view).all()
    head = view.head()
    if head is None:
        yield Finding(kind="state", message="no head is valid; opening the log to write finds it again", path="head")
    elif owner is not None and head.epoch != owner.epoch:
        message = f"epoch {owner.epoch} has no head yet; opening the log to write makes one"
        yield Finding(kind="state", message=message, path="owner")
    for name, state in states.items():
        if head is not None and state.position.next > head.visible:
            message = f"subscriber {name} waits for {state.position.next}, but the log ends before {head.visible}"
            yield Finding(kind="state", message=message, path=f"subscribers/{name}")


class _Walk:
    """One pass over all segments."""

    def __init__(self, view: View, on_progress: Progress) -> None:
        self._view = view
        self._on_progress = on_progress
        self._done = 0
        self._all = 0
        self._next = 0
        self._append_time = 0

    def findings(self) -> Iterator[Finding]:
        view = self._view
        segments = self._segments()
        self._all = sum(map(self._size, segments))
        for segment in segment_ids(view.names()):
            if segment not in segments and (not segments or segment > segments[0]):
                size = self._size(segment)
                message = f"an owner that was fenced wrote {size} bytes that are not the log"
                yield Finding(kind="zombie", message=message, path=segment.filename, bytes=size)
        self._next = min([view.floor().first, *(segment.first for segment in segments[:1])])
        if segments and self._next < segments[0].first:
            yield from self._lost(segments[0], segments[0].first)
        for at, segment in enumerate(segments):
            following = segments[at + 1] if at + 1 < len(segments) else None
            try:
                yield from self._segment(segment, following)
            except FileNotFoundError:  # pruned meanwhile
                self._next = following.first if following else self._next
        head = view.head()
        if head is not None and not view.disk.exists(view.layout.segment(head.segment)):
            yield Finding(kind="missing", message="the segment in use is not there", path=head.segment.filename)

    def _segments(self) -> list[SegmentId]:
        """The segments that are the log, up to the one in use: what stands after it is being made, or never was."""
        head = self._view.head()
        for _ in range(_LOOKS):
            before, found = head, segment_ids(self._view.names())
            head = self._view.head()
            if head is None or (before is not None and before.segment == head.segment):
                break
        if head is not None:
            found = [segment for segment in found if segment <= head.segment]
        return chain(found)

    def _segment(self, segment: SegmentId, following: SegmentId | None) -> Iterator[Finding]:
        view = self._view
        if view.header(segment) is None:
            yield Finding(kind="damaged", message="the segment header is damaged", path=segment.filename)
        file = view.open_segment(segment)
        try:
            extent = view.extent(segment, following, view.head())
            yield from self._batches(segment, file, extent)
            if extent.sealed:
                yield from self._leftover(segment, file, extent)
        finally:
            file.close()
        if extent.sealed and self._next < extent.next:
            yield from self._lost(segment, extent.next)

    def _batches(self, segment: SegmentId, file: File, extent: Extent) -> Iterator[Finding]:
        scanner = Scanner(file, self._view.seed)
        while (item := scanner.step(extent.end, self._next)) is not None:
            if isinstance(item, Damage):
                message = f"bytes {item.start} to {item.end - 1} hold no valid batch: {item.why}"
                length = item.end - item.start
                yield Finding(kind="damaged", message=message, path=segment.filename, offset=item.start, bytes=length)
                continue
            if item.count:
                yield from self._batch(segment, scanner.offset - item.size, item)
            self._on_progress(self._done + scanner.offset, self._all)
        self._done += extent.end

    def _batch(self, segment: SegmentId, offset: int, batch: Batch) -> Iterator[Finding]:
        if batch.first > self._next:
            yield from self._lost(segment, batch.first)
        elif batch.first < self._next:
            message = f"record {batch.first} comes after {self._next - 1}"
            yield Finding(kind="order", message=message, path=segment.filename, offset=offset)
        if batch.append_time < self._append_time:
            message = "the append time goes back"
            yield Finding(kind="order", message=message, path=segment.filename, offset=offset)
        try:
            batch.records()
        except FormatError as error:
            message = f"records {batch.first} to {batch.last} cannot be decoded: {error}"
            yield Finding(kind="damaged", message=message, path=segment.filename, offset=offset, records=batch.count)
        self._next, self._append_time = batch.next, batch.append_time

    def _leftover(self, segment: SegmentId, file: File, extent: Extent) -> Iterator[Finding]:
        extra = file.size() - extent.end
        if extra <= 0:
            return
        scanner = Scanner(file, self._view.seed, max(extent.end, SEGMENT_HEADER_BYTES))
        whole = isinstance(scanner.step(file.size(), 0), Batch)
        message = f"{extra} bytes follow the sealed end; what was acknowledged of them is in the next segment"
        kind = "zombie" if whole else "torn"
        yield Finding(kind=kind, message=message, path=segment.filename, offset=extent.end, bytes=extra)

    def _lost(self, segment: SegmentId, until: int) -> Iterator[Finding]:
        # A power loss may bring some of the pruned segments back: what is not there below the floor, nobody misses.
        first, self._next = max(self._next, self._view.floor().first), until
        if first >= until:
            return
        message = f"records {first} to {until - 1} are not there"
        yield Finding(kind="missing", message=message, path=segment.filename, records=until - first)

    def _size(self, segment: SegmentId) -> int:
        try:
            file = self._view.open_segment(segment)
        except FileNotFoundError:
            return 0
        try:
            return file.size()
        finally:
            file.close()
