"""Head, owner and floor: the three small states of a log.

Payloads in their slots (little-endian):

    owner   0  4  epoch         4  2  length of host      6  2  length of boot     8  host, boot (UTF-8)
            then 8  since       2  length of name         name (UTF-8); all of these may be missing
    head    0  4  epoch         4  4  segment_epoch       8  8  segment_first     16  8  written
           24  8  durable      32  8  next               40  8  visible           48  8  bytes_before
           56  8  append_time  64  8  boot               72  1  rolling 1, discard 2
    floor   0  8  first         8  8  records dropped by caps, in the life of the log

The owner's epoch is the fence. It is raised, durably, before a recovery or a takeover looks at the segments; a writer
looks at it after its sync and before it acknowledges. So either the writer sees the new epoch and says nothing, or its
bytes were durable before the taker looked, and are part of the log.

The head is a hint: it is written after what it names is durable, and synced itself only after a sync that many batches
waited for (`interval=`, and on demand). All of it can be found again from the segments; recovery does that when the
head is missing, of another boot, or disagrees with the segment's length.
"""

from __future__ import annotations

import hashlib
import struct
import time
from dataclasses import dataclass
from pathlib import Path

from jlogd.errors import FormatError
from jlogd.journal.disk import Disk
from jlogd.journal.layout import see_repair
from jlogd.journal.segment import SegmentId

OWNER, HEAD, FLOOR = b"OW", b"HD", b"FL"
_OWNER = struct.Struct("<IHH")
_OWNER_SINCE = struct.Struct("<qH")
_NAME_BYTES_MAX = 64
_HEAD = struct.Struct("<IIQQQQQQqQB")
_FLOOR = struct.Struct("<QQ")


@dataclass(frozen=True, slots=True)
class Owner:
    """Which host, in which boot, may append, and in which epoch.

    `since` is when the host became the owner (ns since 1970 UTC, 0 when that was not recorded), `name` what people call
    it. Both are for people; what counts is `epoch`, `host` and `boot`.
    """

    epoch: int
    host: str
    boot: str
    since: int = 0
    name: str = ""

    def encode(self) -> bytes:
        host, boot = self.host.encode(), self.boot.encode()
        name = self.name.encode()[:_NAME_BYTES_MAX]
        lengths = _OWNER.pack(self.epoch, len(host), len(boot))
        return b"".join((lengths, host, boot, _OWNER_SINCE.pack(self.since, len(name)), name))

    @property
    def told(self) -> str:
        """The owner, for people: host 4f3c since epoch 7 (east1.example, since 2026-05-01T12:00:00Z)."""
        more = [self.name] if self.name else []
        more += [f"since {utc(self.since)}"] if self.since else []
        return f"host {self.host} since epoch {self.epoch}" + (f" ({', '.join(more)})" if more else "")


def first_owner(disk: Disk) -> Owner:
    """This host as the owner of a log that is being made."""
    return Owner(1, disk.host(), disk.boot(), time.time_ns(), disk.host_name())


def next_owner(owner: Owner, epoch: int, disk: Disk) -> Owner:
    """This host as the owner in `epoch`, after `owner`: since now, unless that was this host too."""
    since = owner.since if owner.host == disk.host() else 0
    return Owner(epoch, disk.host(), disk.boot(), since or time.time_ns(), disk.host_name())


def utc(nanoseconds: int) -> str:
    """2026-05-01T12:00:00Z."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(nanoseconds / 1e9))


def owner_unusable(what: str, path: str) -> FormatError:
    """The error of a log whose owner file, at `path`, is gone or damaged."""
    return FormatError(what, path, advice=see_repair(Path(path).parent))


def decode_owner(payload: bytes | None, path: str) -> Owner:
    """Raises `FormatError` when there is no valid owner: without it no epoch is known to be free."""
    if payload is None or len(payload) < _OWNER.size:
        raise owner_unusable("neither slot of the owner file is valid", path)
    epoch, host_length, boot_length = _OWNER.unpack_from(payload)
    host_end = _OWNER.size + host_length
    end = host_end + boot_length
    host, boot = payload[_OWNER.size : host_end], payload[host_end:end]
    since, length = _OWNER_SINCE.unpack_from(payload, end) if len(payload) >= end + _OWNER_SINCE.size else (0, 0)
    name = payload[end + _OWNER_SINCE.size :][:length]
    return Owner(
        epoch, host.decode(errors="replace"), boot.decode(errors="replace"), since, name.decode(errors="replace")
    )


@dataclass(frozen=True, slots=True)
class Head:
    """How far the log goes.

    `segment` is the one in use; its first `written` bytes were written, its first `durable` bytes may be read. `next`
    is the number of the next record to be written, `visible` that of the first one not to be read yet. `bytes_before`
    is the total of the segments before. `boot` tells the boot that wrote the head. `rolling` and `discard` say that the
    segment takes nothing more: a successor was begun, or a sync failed; or what stands after `written` was refused.
    """

    epoch: int
    segment: SegmentId
    written: int
    durable: int
    next: int
    visible: int
    bytes_before: int
    append_time: int
    boot: int
    rolling: bool = False
    discard: bool = False

    @property
    def total_bytes(self) -> int:
        """Readable bytes in the life of the log."""
        return self.bytes_before + self.durable

    @property
    def ended(self) -> bool:
        """Whether only a recovery can go on."""
        return self.rolling or self.discard

    def advanced(self, written: int, following: int, append_time: int) -> Head:
        """The head after `written` more bytes, whose batches end before record `following`."""
        return Head(
            self.epoch, self.segment, self.written + written, self.durable, following, self.visible,
            self.bytes_before, append_time, self.boot,
        )  # fmt: skip

    def all_visible(self) -> Head:
        """The head once everything written may be read."""
        return Head(
            self.epoch, self.segment, self.written, self.written, self.next, self.next,
            self.bytes_before, self.append_time, self.boot,
        )  # fmt: skip

    def encode(self) -> bytes:
        return _HEAD.pack(
            self.epoch, self.segment.epoch, self.segment.first, self.written, self.durable, self.next, self.visible,
            self.bytes_before, self.append_time, self.boot, self.rolling | self.discard << 1,
        )  # fmt: skip


def boot_tag(boot: str) -> int:
    """64 bits that identify a boot in a head."""
    return int.from_bytes(hashlib.blake2b(boot.encode(), digest_size=8).digest(), "little")


def decode_head(payload: bytes | None) -> Head | None:
    """The head a slot holds, if any."""
    if payload is None or len(payload) != _HEAD.size:
        return None
    (
        epoch, segment_epoch, first, written, durable, following, visible, before, when, boot, flags,
    ) = _HEAD.unpack(payload)  # fmt: skip
    segment = SegmentId(first, segment_epoch)
    return Head(
        epoch, segment, written, durable, following, visible, before, when, boot, bool(flags & 1), bool(flags & 2)
    )


@dataclass(frozen=True, slots=True)
class Floor:
    """Everything below `first` was pruned; `dropped` records of it before every subscriber had them."""

    first: int = 1
    dropped: int = 0

    def encode(self) -> bytes:
        return _FLOOR.pack(self.first, self.dropped)


def decode_floor(payload: bytes | None) -> Floor:
    """The floor a slot holds; that of a new log when there is none."""
    return Floor(*_FLOOR.unpack(payload)) if payload is not None and len(payload) == _FLOOR.size else Floor()
