"""Segments: the files that hold batches, their names, their header, and which of them are the log.

    <first>-<epoch>.seg      first: 20 digits, sequence number of the first record; epoch: 8 digits, of its writer

    at  size  field
     0    8   magic            "JLOGSEG1"
     8    4   version          1
    12    4   epoch
    16   16   uuid             of the log
    32    8   first
    40    8   bytes_before     bytes of all segments before this one, in the life of the log
    48    8   created          ns since 1970 UTC; append_time of every batch in it is this or later
    56    8   previous_first   the segment before, as far as it belongs to the log:
    64    4   previous_epoch
    68    4   reserved         0
    72    8   previous_bytes   how many of its bytes were accepted; what follows them is never read
    80   16   host             who wrote it: first 16 bytes of BLAKE2b of the host's identity
    96   28   reserved         0
   124    4   CRC-32C of bytes 0 .. 123
   128        a batch of kind 1: the producers known so far; then batches, back to back

A segment is only ever appended to. It is sealed by its successor, whose header says how much of it counts.

Which files are the log follows from the names alone: *a segment belongs to the log unless a segment of a higher epoch
starts at or before it.* A taker starts its first segment where the former owner's head ends, so whatever a fenced
writer still creates starts at or after that, with a lower epoch, and is never read.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass

from crc32c import crc32c

from jlogd.errors import FormatError, UnknownVersion

_HEADER = struct.Struct("<8sII16sQQqQIIQ16s28x")
_CRC = struct.Struct("<I")
_MAGIC = b"JLOGSEG1"
_VERSION = 1
SEGMENT_HEADER_BYTES = _HEADER.size + _CRC.size
_NAME = re.compile(r"(\d{20})-(\d{8})\.seg")

assert SEGMENT_HEADER_BYTES == 128


@dataclass(frozen=True, slots=True, order=True)
class SegmentId:
    """Names a segment: sequence number of its first record, and the epoch that wrote it."""

    first: int
    epoch: int

    @property
    def filename(self) -> str:
        return f"{self.first:020d}-{self.epoch:08d}.seg"


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """The first 128 bytes of a segment; fields as drawn above."""

    id: SegmentId
    uuid: bytes
    bytes_before: int
    created: int
    previous: SegmentId | None
    previous_bytes: int
    host: bytes

    def encode(self) -> bytes:
        previous = self.previous or SegmentId(0, 0)
        head = _HEADER.pack(
            _MAGIC, _VERSION, self.id.epoch, self.uuid, self.id.first, self.bytes_before, self.created,
            previous.first, previous.epoch, 0, self.previous_bytes, self.host,
        )  # fmt: skip
        return head + _CRC.pack(crc32c(head))


def decode_segment_header(data: bytes, path: str = "") -> SegmentHeader:
    """Raises `FormatError` when `data` does not start with a valid segment header."""
    if len(data) < SEGMENT_HEADER_BYTES:
        raise FormatError("the segment is shorter than its header", path)
    magic, version, epoch, uuid, first, before, created, pfirst, pepoch, reserved, pbytes, host = _HEADER.unpack_from(
        data
    )
    if magic != _MAGIC or crc32c(data[: _HEADER.size]) != _CRC.unpack_from(data, _HEADER.size)[0]:
        raise FormatError("the segment header fails its checksum", path, 0)
    if version != _VERSION or reserved:
        raise UnknownVersion(f"segment version {version} needs a newer jlogd", path, 8)
    previous = SegmentId(pfirst, pepoch) if pepoch else None
    return SegmentHeader(SegmentId(first, epoch), uuid, before, created, previous, pbytes, host)


def host_tag(host: str) -> bytes:
    """16 bytes that identify a host in segment headers."""
    return hashlib.blake2b(host.encode(), digest_size=16).digest()


def parse_name(filename: str) -> SegmentId | None:
    """The segment a file name stands for, or None when it is no segment's name."""
    found = _NAME.fullmatch(filename)
    return SegmentId(int(found[1]), int(found[2])) if found else None


def segment_ids(filenames: Iterable[str]) -> list[SegmentId]:
    """All segments among the names, in order of first record, then epoch."""
    return sorted(found for found in map(parse_name, filenames) if found)


def chain(ids: Iterable[SegmentId]) -> list[SegmentId]:
    """The segments that are the log, in order; see the rule in the module's text."""
    kept: list[SegmentId] = []
    for segment in sorted(ids):
        if kept and segment.epoch < kept[-1].epoch:
            continue
        if kept and segment.first == kept[-1].first:
            kept.pop()
        kept.append(segment)
    return kept
