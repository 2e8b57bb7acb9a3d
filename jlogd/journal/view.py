"""Looking at a log without changing it: its head, its chain of segments, where each of them ends.

A view takes no lock. What it reads may be replaced at any time: a head is found again when its epoch ended, a segment
that was pruned is simply gone.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from pathlib import Path

from jlogd.errors import FormatError, UnknownVersion
from jlogd.journal import layout as layouts
from jlogd.journal.disk import Disk, File
from jlogd.journal.head import (
    FLOOR,
    HEAD,
    OWNER,
    Floor,
    Head,
    Owner,
    decode_floor,
    decode_head,
    decode_owner,
    owner_unusable,
)
from jlogd.journal.segment import (
    SEGMENT_HEADER_BYTES,
    SegmentHeader,
    SegmentId,
    chain,
    decode_segment_header,
    segment_ids,
)
from jlogd.journal.slots import SlotFile

# Headers are 200 bytes in memory; a log of this many segments is searched without reading one twice.
_HEADERS_KEPT_MAX = 4096
# A recovery may put a newer head in the place of one that was just listed or opened; more in a row are no coincidence.
_HEAD_TRIES = 8
# What was read through a view, by consumers.
COUNTERS = ("delivered_records", "delivered_bytes", "gap_records", "damaged_places", "damaged_bytes", "damaged_records")


@dataclass(frozen=True, slots=True)
class Extent:
    """The part of a segment that is the log: bytes up to `end`, records below `next`."""

    end: int
    next: int
    sealed: bool


class View:
    """One log, read only. Methods may be called from any thread; `counters` are exact only for one thread at a time."""

    def __init__(self, path: Path, disk: Disk) -> None:
        """Raises `LogNotFound`, `FormatError`."""
        self.disk = disk
        self.layout = layouts.Layout(path)
        self.meta = layouts.read_meta(disk, self.layout)
        self.uuid = layouts.uuid_bytes(self.meta)
        self.seed = layouts.crc_seed(self.meta)
        self._head_file: SlotFile | None = None
        self._headers: dict[SegmentId, SegmentHeader] = {}
        self.counters = dict.fromkeys(COUNTERS, 0)

    def owner(self) -> Owner:
        """Who owns the log now. Raises `FormatError`."""
        try:
            payload = self._state(self.layout.owner, OWNER)
        except FileNotFoundError:
            raise owner_unusable("the owner file is gone", str(self.layout.owner)) from None
        return decode_owner(payload, str(self.layout.owner))

    def floor(self) -> Floor:
        """What was pruned."""
        try:
            return decode_floor(self._state(self.layout.floor, FLOOR))
        except FileNotFoundError:
            return Floor()

    def head(self) -> Head | None:
        """How far the log goes; None when no head is valid, until the next append or recovery writes one."""
        for _ in range(_HEAD_TRIES):
            file = self._head_file
            if file is None:
                epochs = layouts.head_epochs(self.names())
                if not epochs:
                    return None
                try:
                    file = SlotFile.open(self.disk, self.layout.head(epochs[-1]), HEAD, write=False)
                except FileNotFoundError:
                    continue
                self._head_file = file
            try:
                found = decode_head(file.read())
                if found is not None and not file.replaced():
                    return found
            except OSError as error:
                if error.errno != errno.ESTALE:  # another host removed it: there is a newer one
                    raise
            self._head_file = None
        return None

    def names(self) -> list[str]:
        """Names in the log's directory."""
        return self.disk.listdir(self.layout.root)

    def chain(self) -> list[SegmentId]:
        """The segments that are the log, oldest first."""
        return chain(segment_ids(self.names()))

    def open_segment(self, segment: SegmentId) -> File:
        """Raises FileNotFoundError when it was pruned."""
        return self.disk.open(self.layout.segment(segment), "read")

    def header(self, segment: SegmentId) -> SegmentHeader | None:
        """The header of a segment, or None when it is damaged. Raises FileNotFoundError."""
        found = self._headers.get(segment)
        if found is None:
            found = self._read_header(segment)
            if found is None:
                return None
            if len(self._headers) >= _HEADERS_KEPT_MAX:
                self._headers.clear()
            self._headers[segment] = found
        return found

    def extent(self, segment: SegmentId, following: SegmentId | None, head: Head | None) -> Extent:
        """How much of `segment` is the log, given its successor in the chain and the head.

        A successor's header seals it to the byte; where that header is damaged, the numbers alone seal it.
        """
        if head is not None and head.segment == segment:
            return Extent(head.durable, head.visible, sealed=False)
        if following is None:
            return Extent(SEGMENT_HEADER_BYTES, segment.first, sealed=False)
        header = self.header(following)
        if header is not None and header.previous == segment:
            return Extent(header.previous_bytes, following.first, sealed=True)
        file = self.open_segment(segment)
        try:
            return Extent(file.size(), following.first, sealed=True)
        finally:
            file.close()

    def _state(self, path: Path, kind: bytes) -> bytes | None:
        file = SlotFile.open(self.disk, path, kind, write=False)
        try:
            return file.read()
        finally:
            file.close()

    def _read_header(self, segment: SegmentId) -> SegmentHeader | None:
        file = self.open_segment(segment)
        try:
            header = decode_segment_header(file.pread(SEGMENT_HEADER_BYTES, 0), segment.filename)
        except UnknownVersion:
            raise
        except FormatError:
            return None
        finally:
            file.close()
        return header if header.uuid == self.uuid and header.id == segment else None
