"""The batch: what travels from a producer's buffer to a subscriber's hands.

One header, one body, little-endian, the same bytes on the wire and on disk:

    at  size  field
     0    4   magic          "JLB1"
     4    1   encoding       0 lines, 1 lengths
     5    1   codec          0 none, 1 zstd (the body is one frame)
     6    1   kind           0 records, 1 producers (a snapshot, only at the start of a segment)
     7    1   reserved       0
     8    4   count          records in the body, 1 .. 2^20 (0 for kind 1)
    12    4   body_bytes     length of the body as it stands here
    16    4   raw_bytes      length of the body once decompressed
    20    4   body_crc       CRC-32C of the body as it stands here
    24    8   producer       who numbered this batch; 0 nobody
    32    8   producer_from  the producer's own position before this batch
    40    8   producer_to    and after it (records for a writer, bytes for a followed file)
    48    8   first_time     time of the first record, ns since 1970 UTC
    56    8   last_time      time of the last record
    -------------------------- above: the producer's; below: stamped by the journal, 0 before
    64    8   first          sequence number of the first record
    72    8   committed      every sequence number below this was durable when the batch was written
    80    8   append_time    ns since 1970 UTC, never less than that of the batch before
    88    4   epoch          epoch of the owner that wrote it
    92    4   header_crc     CRC-32C of bytes 0 .. 91, started from `seed`
    96         body

`seed` is 0 on the wire and CRC-32C of the log's 16-byte uuid on disk, so that a batch of another log, or one that was
itself logged as a record, is never taken for a batch of this log.

Encodings. *lines*: the records joined by one newline byte, chosen when no record holds a newline: nothing to encode per
record, and a text file can take the body as it is. *lengths*: `count` u32 lengths, then the records: any bytes.

`committed` tells a torn tail from rot. If a batch after some damage says that the damaged numbers were durable when it
was written, they were acknowledged and the damage is reported as a gap; if none says so, they never were.
"""

from __future__ import annotations

import array
import itertools
import struct
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import zstandard
from crc32c import crc32c

from jlogd.errors import FormatError, TooLarge

HEADER = struct.Struct("<4sBBBBIIIIQQQqqQQqII")
HEADER_BYTES = HEADER.size
_CRC_AT = HEADER_BYTES - 4
_CRC = struct.Struct("<I")
MAGIC = b"JLB1"

LINES, LENGTHS = 0, 1
PLAIN, ZSTD = 0, 1
RECORDS, PRODUCERS = 0, 1

# A record larger than this is not a log line; the limit keeps one message from holding the memory of all.
RECORD_BYTES_MAX = 8 << 20
# One batch is held whole in memory by every party that handles it.
BATCH_BYTES_MAX = 16 << 20
BATCH_RECORDS_MAX = 1 << 20
SEQUENCE_MAX = 1 << 63
# zstd's fastest levels; 1 gives about 4:1 on syslog at several hundred MB/s.
ZSTD_LEVEL = 1
# Records are searched for newlines in pieces of about this size, which stay in the first two caches.
_SEARCH_BYTES = 64 << 10

assert HEADER_BYTES == 96


@dataclass(frozen=True, slots=True)
class Batch:
    """Records that travel together. Iterate over it for the records as `bytes`.

    `first` and `last` are sequence numbers; before a journal stamped it, `first` is 0. Times are ns since 1970 UTC.
    `body` is the encoded (and, with `codec` ZSTD, compressed) records.
    """

    count: int
    body: bytes | memoryview
    encoding: int = LINES
    codec: int = PLAIN
    kind: int = RECORDS
    raw_bytes: int = 0
    body_crc: int = 0
    producer: int = 0
    producer_from: int = 0
    producer_to: int = 0
    first_time: int = 0
    last_time: int = 0
    first: int = 0
    committed: int = 0
    append_time: int = 0
    epoch: int = 0
    _checkpoint: Callable[[int], None] | None = field(default=None, repr=False, compare=False)

    @property
    def last(self) -> int:
        """Sequence number of the last record."""
        return self.first + self.count - 1

    @property
    def next(self) -> int:
        """Sequence number that follows this batch."""
        return self.first + self.count

    @property
    def size(self) -> int:
        """Bytes on disk and on the wire."""
        return HEADER_BYTES + len(self.body)

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.records())

    def records(self) -> list[bytes]:
        """The records, decoded. Raises `FormatError` when the body does not hold `count` records."""
        body = self.raw_body()
        return _split_lines(body, self.count) if self.encoding == LINES else _split_lengths(body, self.count)

    def raw_body(self) -> bytes:
        """The encoded records, decompressed."""
        if self.codec == ZSTD:
            return _decompress(self.body, self.raw_bytes)
        return bytes(self.body)

    def text(self) -> bytes:
        """The records as lines, each ended by a newline: what a text file takes."""
        if self.encoding == LINES:
            return self.raw_body() + b"\n"
        return b"\n".join(self.records()) + b"\n"

    def checkpoint(self) -> None:
        """Tell the subscriber this batch came from that everything up to its end is done with."""
        if self._checkpoint is not None:
            self._checkpoint(self.next)

    def bind(self, checkpoint: Callable[[int], None]) -> None:
        """Have `checkpoint()` call this with the sequence number that follows. For whoever delivers the batch."""
        object.__setattr__(self, "_checkpoint", checkpoint)

    def header(self, seed: int = 0) -> bytes:
        """The 96 header bytes."""
        head = HEADER.pack(
            MAGIC, self.encoding, self.codec, self.kind, 0, self.count, len(self.body), self.raw_bytes, self.body_crc,
            self.producer, self.producer_from, self.producer_to, self.first_time, self.last_time,
            self.first, self.committed, self.append_time, self.epoch, 0,
        )  # fmt: skip
        return head[:_CRC_AT] + _CRC.pack(crc32c(head[:_CRC_AT], seed))

    def to_wire(self) -> bytes:
        """Header and body as one message."""
        return b"".join((self.header(), self.body))

    def stamped(self, first: int, committed: int, append_time: int, epoch: int) -> Batch:
        """The batch as the journal keeps it."""
        return Batch(
            self.count, self.body, self.encoding, self.codec, self.kind, self.raw_bytes, self.body_crc,
            self.producer, self.producer_from, self.producer_to, self.first_time, self.last_time,
            first, committed, append_time, epoch,
        )  # fmt: skip

    def numbered(self, producer: int, start: int, end: int) -> Batch:
        """The batch with its producer's positions before and after it."""
        return replace(self, producer=producer, producer_from=start, producer_to=end)

    def since(self, sequence: int) -> Batch:
        """The batch without the records below `sequence`; itself when there are none."""
        if sequence <= self.first:
            return self
        records = self.records()[sequence - self.first :]
        body, encoding = _join(records)  # not `encode`: what was accepted once is not measured again
        kept = from_body(body, len(records), encoding, self.first_time, self.last_time)
        return replace(
            kept.stamped(sequence, self.committed, self.append_time, self.epoch), _checkpoint=self._checkpoint
        )


@dataclass(frozen=True, slots=True)
class Gap:
    """Records that will not come: sequence numbers `first` to `last`, and why.

    Iterating over it yields nothing, so that a loop over batches may ignore gaps; `checkpoint()` accepts the loss.
    `reason` is `dropped` (the subscriber's cap let them go), `damaged` (bytes on disk fail their checksum) or `missing`
    (a segment file is gone).
    """

    first: int
    last: int
    reason: str
    detail: str = ""
    _checkpoint: Callable[[int], None] | None = field(default=None, repr=False, compare=False)

    @property
    def next(self) -> int:
        """Sequence number that follows the gap."""
        return self.last + 1

    @property
    def count(self) -> int:
        """Records lost."""
        return self.last - self.first + 1

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[bytes]:
        return iter(())

    def checkpoint(self) -> None:
        """Accept the loss: go on after the gap."""
        if self._checkpoint is not None:
            self._checkpoint(self.next)

    def bind(self, checkpoint: Callable[[int], None]) -> None:
        """Have `checkpoint()` call this with the sequence number that follows. For whoever delivers the gap."""
        object.__setattr__(self, "_checkpoint", checkpoint)


def encode(records: Sequence[bytes], first_time: int = 0, last_time: int = 0) -> Batch:
    """A batch of `records` (1 .. BATCH_RECORDS_MAX). Times default to now.

    Raises `TooLarge` when a record or the whole is over the limit.
    """
    count = len(records)
    if not 1 <= count <= BATCH_RECORDS_MAX:
        raise TooLarge(f"a batch holds 1 to {BATCH_RECORDS_MAX} records, got {count}; split it")
    body, encoding = _join(records)
    if len(body) > RECORD_BYTES_MAX:
        check_record_sizes(records)
    return from_body(body, count, encoding, first_time, last_time)


def _any_newline(records: Sequence[bytes], size: int) -> bool:
    """Whether any record holds a newline. Searching pieces joined anew is twice as fast as counting the newlines of the
    body: a search that finds nothing runs at memory speed, and a count stops at every record."""
    step = max(1, len(records) * _SEARCH_BYTES // (size + 1))
    return any(b"\n" in b"".join(records[start : start + step]) for start in range(0, len(records), step))


def _join(records: Sequence[bytes]) -> tuple[bytes, int]:
    body = b"\n".join(records)
    if not _any_newline(records, len(body)):
        return body, LINES
    lengths = array.array("I", map(len, records))
    if sys.byteorder == "big":
        lengths.byteswap()
    return lengths.tobytes() + b"".join(records), LENGTHS


def from_body(body: bytes, count: int, encoding: int = LINES, first_time: int = 0, last_time: int = 0) -> Batch:
    """A batch of records that are encoded already: what a source that received whole lines uses."""
    if len(body) > BATCH_BYTES_MAX:
        raise TooLarge(f"a batch holds at most {BATCH_BYTES_MAX} bytes, got {len(body)}; split it")
    now = time.time_ns()
    return Batch(
        count, body, encoding, raw_bytes=len(body), body_crc=crc32c(body),
        first_time=first_time or now, last_time=last_time or first_time or now,
    )  # fmt: skip


def check_record_sizes(records: Sequence[bytes]) -> None:
    """Raise `TooLarge` naming the first record over RECORD_BYTES_MAX."""
    if max(map(len, records)) <= RECORD_BYTES_MAX:
        return
    at, record = next((i, r) for i, r in enumerate(records) if len(r) > RECORD_BYTES_MAX)
    raise TooLarge(f"record {at} has {len(record)} bytes; the limit is {RECORD_BYTES_MAX}")


def compress(batch: Batch) -> Batch:
    """The batch with its body compressed, or itself when that does not make it smaller."""
    if batch.codec != PLAIN:
        return batch
    body = zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress(batch.body)
    if len(body) >= len(batch.body):
        return batch
    return replace(batch, body=body, codec=ZSTD, body_crc=crc32c(body))


def decode_header(data: bytes | memoryview, offset: int = 0, seed: int = 0) -> tuple[Batch, int]:
    """The header at `offset` as a batch without its body, and the body's length in bytes.

    Raises `FormatError` when it is not a valid header.
    """
    if len(data) - offset < HEADER_BYTES:
        raise FormatError("cut off inside a batch header", offset=offset)
    (
        magic, encoding, codec, kind, reserved, count, body_bytes, raw_bytes, body_crc, producer, producer_from,
        producer_to, first_time, last_time, first, committed, append_time, epoch, crc,
    ) = HEADER.unpack_from(data, offset)  # fmt: skip
    if magic != MAGIC:
        raise FormatError("no batch starts here", offset=offset)
    if crc32c(data[offset : offset + _CRC_AT], seed) != crc:
        raise FormatError("the batch header fails its checksum", offset=offset)
    if encoding > LENGTHS or codec > ZSTD or kind > PRODUCERS or reserved:
        raise FormatError("the batch needs a newer version of jlogd", offset=offset)
    if body_bytes > BATCH_BYTES_MAX or raw_bytes > BATCH_BYTES_MAX or first > SEQUENCE_MAX:
        raise FormatError("the batch is over the limits", offset=offset)
    if not (kind == PRODUCERS and count == 0) and not 1 <= count <= BATCH_RECORDS_MAX:
        raise FormatError(f"the batch claims {count} records", offset=offset)
    header = Batch(
        count, b"", encoding, codec, kind, raw_bytes, body_crc, producer, producer_from, producer_to,
        first_time, last_time, first, committed, append_time, epoch,
    )  # fmt: skip
    return header, body_bytes


def decode(data: bytes | memoryview, offset: int = 0, seed: int = 0) -> Batch:
    """The whole batch at `offset`; its body is a view of `data`. Raises `FormatError` when a checksum fails."""
    header, body_bytes = decode_header(data, offset, seed)
    start = offset + HEADER_BYTES
    body = memoryview(data)[start : start + body_bytes]
    if len(body) < body_bytes:
        raise FormatError("cut off inside a batch body", offset=offset)
    if crc32c(body) != header.body_crc:
        raise FormatError("the batch body fails its checksum", offset=offset)
    return with_body(header, body)


def with_body(header: Batch, body: bytes | memoryview) -> Batch:
    """A decoded header together with its body."""
    return Batch(
        header.count, body, header.encoding, header.codec, header.kind, header.raw_bytes, header.body_crc,
        header.producer, header.producer_from, header.producer_to, header.first_time, header.last_time,
        header.first, header.committed, header.append_time, header.epoch,
    )  # fmt: skip


def from_wire(message: bytes | memoryview) -> Batch:
    """The one batch a message holds. Raises `FormatError` for anything else."""
    batch = decode(message)
    if batch.size != len(message):
        raise FormatError("bytes follow the batch", offset=batch.size)
    if batch.kind != RECORDS:
        raise FormatError("a producer may send records only", offset=6)
    return batch


def _split_lines(body: bytes, count: int) -> list[bytes]:
    records = body.split(b"\n")
    if len(records) != count:
        raise FormatError(f"the batch claims {count} records and holds {len(records)}")
    return records


def _split_lengths(body: bytes, count: int) -> list[bytes]:
    lengths = array.array("I", body[: 4 * count] if len(body) >= 4 * count else b"")
    if sys.byteorder == "big":
        lengths.byteswap()
    ends = list(itertools.accumulate(lengths, initial=4 * count))
    if len(lengths) != count or ends[-1] != len(body):
        raise FormatError(f"the batch claims {count} records and its lengths do not fit its body")
    return [body[start:end] for start, end in itertools.pairwise(ends)]


def _decompress(body: bytes | memoryview, raw_bytes: int) -> bytes:
    # The frame's own claim is checked before anything is allocated: a bomb is refused by its declared size.
    try:
        if zstandard.frame_content_size(body) != raw_bytes:
            raise FormatError("the compressed body does not declare the length its header claims")
        return zstandard.ZstdDecompressor().decompress(body, max_output_size=raw_bytes)
    except zstandard.ZstdError as error:
        raise FormatError(f"the compressed body cannot be read ({error})") from error
