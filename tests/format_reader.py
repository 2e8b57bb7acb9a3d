"""A reader of logs that knows nothing but `docs/format.md`: the proof that the page is enough.

Each part names the section of the page that it follows. It reads a log that nobody writes to, at once and into memory;
it is meant to be short and plain, not fast.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from struct import Struct
from typing import Any

import zstandard
from crc32c import crc32c


class Refused(Exception):
    """What the page does not describe, or a `log.json` that is damaged."""


def refuse_unless(known: bool, what: str) -> None:
    if not known:
        raise Refused(what)


# ---- The directory of a log ------------------------------------------------------------------------------------------

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}(?<!\.lock)(?<!\.new)")
HEAD_NAME = re.compile(r"head-\d{8}")
SEGMENT_NAME = re.compile(r"(\d{20})-(\d{8})\.seg")


def names(directory: Path, pattern: re.Pattern[str]) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if pattern.fullmatch(path.name))


# ---- log.json --------------------------------------------------------------------------------------------------------


def read_settings(path: Path) -> dict[str, Any]:
    try:
        log: dict[str, Any] = json.loads(path.read_text())
        crc = log["crc"]
    except (ValueError, KeyError, TypeError) as e:
        raise Refused(f"log.json: {e}") from e
    refuse_unless(log.get("format") == 1, "log.json: unknown format")
    text = json.dumps({**log, "crc": 0}, separators=(",", ":"))
    refuse_unless(crc == crc32c(text.encode()), "log.json fails its checksum")
    return log


# ---- Slots -----------------------------------------------------------------------------------------------------------

SLOT = Struct("<4s2sHQ492sI")
OWNER = Struct("<IHH")
SINCE = Struct("<qH")
HEAD = Struct("<IIQQQQQQQQB")
FLOOR = Struct("<QQ")
SUBSCRIBER = Struct("<QQIB3sQQQQQQQ")


@dataclass(frozen=True)
class Owner:
    epoch: int
    host: str
    boot: str
    since: int = 0
    name: str = ""


@dataclass(frozen=True)
class Head:
    epoch: int
    segment_epoch: int
    segment_first: int
    written: int
    readable: int
    next_written: int
    next_readable: int
    base: int
    append_time: int
    boot: int
    closed: int


@dataclass(frozen=True)
class Floor:
    first: int
    dropped: int


@dataclass(frozen=True)
class Subscriber:
    next: int
    segment_first: int
    segment_epoch: int
    caps: int
    zero: bytes
    offset: int
    base: int
    max_bytes: int
    max_age_ms: int
    dropped: int
    damaged: int
    written: int


def read_slots(path: Path, kind: bytes) -> bytes | None:
    """The payload of the valid slot with the highest generation."""
    data = path.read_bytes() if path.exists() else b""
    found: list[tuple[int, bytes]] = []
    for at in (0, 4096):
        slot = data[at : at + 512]
        if len(slot) == 512:
            magic, slot_kind, length, generation, room, crc = SLOT.unpack(slot)
            if magic == b"JLS1" and slot_kind == kind and length <= 492 and crc == crc32c(slot[:508]):
                refuse_unless(not any(room[length:]), f"{path.name}: reserved bytes")
                found.append((generation, room[:length]))
    return max(found)[1] if found else None


def unpack(layout: Struct, payload: bytes, what: str) -> tuple[Any, ...]:
    refuse_unless(len(payload) == layout.size, f"{what}: a payload of {len(payload)} bytes")
    return layout.unpack(payload)


def read_owner(path: Path) -> Owner | None:
    payload = read_slots(path, b"OW")
    if payload is None:
        return None
    epoch, host, boot = OWNER.unpack_from(payload)
    rest = payload[OWNER.size :]
    more = rest[host + boot :]
    since, name = SINCE.unpack_from(more) if len(more) >= SINCE.size else (0, -SINCE.size)
    refuse_unless(len(rest) == host + boot + SINCE.size + name, "owner: lengths")
    return Owner(epoch, rest[:host].decode(), rest[host : host + boot].decode(), since, more[SINCE.size :].decode())


def read_head(log: Path) -> Head | None:
    heads = names(log, HEAD_NAME)
    payload = read_slots(log / heads[-1], b"HD") if heads else None
    return Head(*unpack(HEAD, payload, "head")) if payload is not None else None


def read_floor(path: Path) -> Floor | None:
    payload = read_slots(path, b"FL")
    return Floor(*unpack(FLOOR, payload, "floor")) if payload is not None else None


def read_subscriber(path: Path) -> Subscriber | None:
    payload = read_slots(path, b"SU")
    if payload is None:
        return None
    subscriber = Subscriber(*unpack(SUBSCRIBER, payload, path.name))
    refuse_unless(subscriber.caps <= 2 and not any(subscriber.zero), f"subscriber {path.name}: unknown values")
    return subscriber


# ---- Segments --------------------------------------------------------------------------------------------------------

SEGMENT = Struct("<8sII16sQQQQIIQ16s28sI")


@dataclass(frozen=True)
class SegmentHeader:
    magic: bytes
    version: int
    epoch: int
    log: bytes
    first: int
    base: int
    created: int
    before_first: int
    before_epoch: int
    zero: int
    before_bytes: int
    host: bytes
    zeros: bytes
    crc: int


@dataclass(frozen=True)
class Segment:
    """`first` and `epoch` are those of the name; `header` is None where it is damaged."""

    name: str
    first: int
    epoch: int
    data: bytes
    header: SegmentHeader | None


def read_segment(path: Path, log: uuid.UUID) -> Segment:
    match = SEGMENT_NAME.fullmatch(path.name)
    assert match
    data = path.read_bytes()
    header = None
    if len(data) >= SEGMENT.size and data[:8] == b"JLOGSEG1":
        header = SegmentHeader(*SEGMENT.unpack_from(data))
        if header.crc != crc32c(data[:124]):
            header = None
    if header is not None:
        refuse_unless(header.version == 1, f"{path.name}: version {header.version}")
        refuse_unless(header.log == log.bytes, f"{path.name}: of another log")
        refuse_unless(not header.zero and not any(header.zeros), f"{path.name}: reserved bytes")
    return Segment(path.name, int(match[1]), int(match[2]), data, header)


def chain_of(segments: list[Segment]) -> list[Segment]:
    """Which segments are the log."""
    return [
        one
        for one in sorted(segments, key=lambda one: (one.first, one.epoch))
        if not any(other.epoch > one.epoch and other.first <= one.first for other in segments)
    ]


# ---- Batches ---------------------------------------------------------------------------------------------------------

BATCH = Struct("<4sBBBBIIIIQQQQQQQQII")
BATCH_MAGIC = b"JLB1"
BODY_BYTES_MAX = 16777216
RECORDS_MAX = 1048576
PRODUCER = Struct("<QQQII")


@dataclass(frozen=True)
class Header:
    magic: bytes
    encoding: int
    codec: int
    kind: int
    zero: int
    count: int
    body_bytes: int
    raw_bytes: int
    body_crc: int
    producer: int
    producer_from: int
    producer_to: int
    first_time: int
    last_time: int
    first: int
    committed: int
    append_time: int
    epoch: int
    crc: int

    def known(self) -> bool:
        records = 1 <= self.count <= RECORDS_MAX if self.kind == 0 else self.count == 0
        values = self.encoding <= 1 and self.codec <= 1 and self.kind <= 1 and not self.zero
        return records and values and max(self.body_bytes, self.raw_bytes) <= BODY_BYTES_MAX


@dataclass(frozen=True)
class Batch:
    """A batch at byte `at` of a segment."""

    at: int
    header: Header
    body: bytes

    @property
    def first(self) -> int:
        return self.header.first

    @property
    def next(self) -> int:
        return self.header.first + self.header.count

    @property
    def end(self) -> int:
        return self.at + BATCH.size + self.header.body_bytes

    def raw(self) -> bytes:
        if not self.header.codec:
            return self.body
        refuse_unless(zstandard.frame_content_size(self.body) == self.header.raw_bytes, "content size of a zstd frame")
        return zstandard.ZstdDecompressor().decompress(self.body)

    def records(self) -> list[bytes]:
        raw, count = self.raw(), self.header.count
        if not self.header.encoding:
            records = raw.split(b"\n")
        else:
            at, records = 4 * count, []
            for length in Struct(f"<{count}I").unpack_from(raw):
                records.append(raw[at : at + length])
                at += length
            refuse_unless(at == len(raw), "lengths that do not add up to the body")
        refuse_unless(len(records) == count, "not as many records as the header says")
        return records


@dataclass(frozen=True)
class Producer:
    position: int
    first: int
    count: int


def producer_number(name: str) -> int:
    return int.from_bytes(blake(name.encode(), 8), "little") | 1 << 63


def read_producers(raw: bytes) -> dict[int, Producer]:
    """A batch of kind 1."""
    producers = {}
    for number, position, first, count, zero in PRODUCER.iter_unpack(raw):
        refuse_unless(not zero, "producers: reserved bytes")
        producers[number] = Producer(position, first, count)
    return producers


def read_batch(data: bytes, at: int, seed: int) -> Batch | None:
    """The valid batch at byte `at`. One with unknown values is refused: it is none."""
    if len(data) < at + BATCH.size or not data.startswith(BATCH_MAGIC, at):
        return None
    header = Header(*BATCH.unpack_from(data, at))
    batch = Batch(at, header, data[at + BATCH.size : at + BATCH.size + header.body_bytes])
    sound = header.crc == crc32c(data[at : at + 92], seed) and header.body_crc == crc32c(batch.body)
    return batch if sound and header.known() and batch.end <= len(data) else None


def read_batches(data: bytes, seed: int, expected: int) -> Iterator[Batch]:
    """The batches of a segment, `data`, those after damage as well; the first record is to be number `expected`."""
    at = SEGMENT.size
    while 0 <= at < len(data):
        batch = read_batch(data, at, seed)
        if batch is None or batch.first < expected:
            at = data.find(BATCH_MAGIC, at + 1)
        else:
            yield batch
            at, expected = batch.end, batch.next


# ---- The log ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Leftover:
    """Bytes that are no part of the log."""

    segment: str
    at: int
    size: int


@dataclass
class LogContents:
    """All there is in a log; None stands for a state whose slots are both damaged."""

    settings: dict[str, Any]
    uuid: uuid.UUID
    owner: Owner | None
    head: Head | None
    floor: Floor | None
    subscribers: dict[str, Subscriber | None]
    chain: list[Segment]
    batches: list[tuple[Segment, Batch]] = field(default_factory=list)
    records: dict[int, bytes] = field(default_factory=dict)
    gaps: list[tuple[int, int]] = field(default_factory=list)
    producers: dict[int, Producer] = field(default_factory=dict)
    leftovers: list[Leftover] = field(default_factory=list)
    next: int = 1

    def add(self, segment: Segment, batch: Batch) -> None:
        self.batches.append((segment, batch))
        if batch.header.kind == 1:
            self.producers.update(read_producers(batch.raw()))
            return
        self.gap(batch.first)
        self.records.update(enumerate(batch.records(), batch.first))
        self.next = batch.next
        if batch.header.producer:
            self.producers[batch.header.producer] = Producer(batch.header.producer_to, batch.first, batch.header.count)

    def gap(self, until: int) -> None:
        """What is missing below `until` is lost."""
        if until > self.next:
            start = self.gaps.pop()[0] if self.gaps and self.gaps[-1][1] == self.next - 1 else self.next
            self.gaps.append((start, until - 1))
            self.next = until


def blake(data: bytes, size: int) -> bytes:
    return hashlib.blake2b(data, digest_size=size).digest()


def this_boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def read_log(path: Path, boot: str | None = None) -> LogContents:
    """The log in the directory `path`, to be read in `boot`: by default the one that runs now."""
    settings = read_settings(path / "log.json")
    log_id = uuid.UUID(settings["uuid"])
    boot_number = int.from_bytes(blake((boot or this_boot()).encode(), 8), "little")
    segments = [read_segment(path / name, log_id) for name in names(path, SEGMENT_NAME)]
    head = read_head(path)
    chain = chain_of(segments)
    while chain and not names_segment(head, chain[-1]) and was_being_made(chain[-1], log_id):
        chain.pop()
    contents = LogContents(
        settings["settings"],
        log_id,
        read_owner(path / "owner"),
        head,
        read_floor(path / "floor"),
        {name: read_subscriber(path / "subscribers" / name) for name in names(path / "subscribers", NAME)},
        chain,
        next=chain[0].first if chain else 1,
        leftovers=[Leftover(one.name, 0, len(one.data)) for one in segments if one not in chain],
    )
    head_now = head if head is not None and head.boot == boot_number else None
    ended = False
    for segment, successor in zip_longest(chain, chain[1:]):
        end = 0 if ended else add_segment(contents, segment, successor, head_now)
        ended = ended or names_segment(head_now, segment)
        if end < len(segment.data):
            contents.leftovers.append(Leftover(segment.name, end, len(segment.data) - end))
    return contents


def names_segment(head: Head | None, segment: Segment) -> bool:
    return head is not None and (head.segment_first, head.segment_epoch) == (segment.first, segment.epoch)


def add_segment(contents: LogContents, segment: Segment, successor: Segment | None, head_now: Head | None) -> int:
    """How much of a segment is the log: add that, and return where it ends. `head_now` is the head if of this boot."""
    seed = crc32c(contents.uuid.bytes)
    head = contents.head if names_segment(contents.head, segment) else None
    if head is not None and head is head_now:
        end, until = head.readable, head.next_readable
        batches = list(read_batches(segment.data[:end], seed, segment.first))
    elif successor is not None:
        end, until = len(segment.data), successor.first
        before = successor.header
        if before is not None and (before.before_first, before.before_epoch) == (segment.first, segment.epoch):
            end = before.before_bytes
        batches = [one for one in read_batches(segment.data[:end], seed, segment.first) if one.first < until]
    else:
        end, until = (head.readable, head.next_readable) if head is not None else (SEGMENT.size, segment.first)
        batches = batches_without_head(segment.data, seed, segment.first, end)
        end = max([end, *(one.end for one in batches)])
    for batch in batches:
        contents.add(segment, batch)
    contents.gap(until)
    return end


def batches_without_head(data: bytes, seed: int, expected: int, durable: int) -> list[Batch]:
    """Without a head of this boot: the batches that follow without damage, or after damage that is proven to be rot.

    What starts before byte `durable` was durable, says the head of an earlier boot.
    """
    batches: list[Batch] = []
    count, end = 0, SEGMENT.size
    for batch in read_batches(data, seed, expected):
        batches.append(batch)
        follows = batch.at == end and batch.first == expected
        if follows or batch.header.committed > expected or batch.at < durable:
            count, end, expected = len(batches), batch.end, batch.next
    return batches[:count]


def was_being_made(segment: Segment, log: uuid.UUID) -> bool:
    """Whether a last segment is what a crash left of one that was being made."""
    return segment.header is None and not batches_without_head(segment.data, crc32c(log.bytes), segment.first, 0)
