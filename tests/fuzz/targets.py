"""What is fuzzed: one function a target, which takes bytes and returns. Whatever it raises is a finding.

Checksums stand between a fuzzer and the code behind them. So what is checksummed is tried twice: as the bytes are, and
with the checksums made right, as a hostile client would make them.
"""

from __future__ import annotations

import json
import struct
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress

from crc32c import crc32c

from jlogd.daemon import config, config_file
from jlogd.daemon.intake import Intake
from jlogd.errors import ConfigError, FormatError, ProtocolError, UsageError
from jlogd.journal import batch as batches
from jlogd.journal import head, segment, slots, subscribers
from jlogd.journal.batch import HEADER, HEADER_BYTES, MAGIC, Batch
from jlogd.journal.disk import Buffer
from jlogd.journal.producers import Producers
from jlogd.journal.scan import Damage, Scanner
from jlogd.sources import syslog_parse
from jlogd.sources.framing import StreamFramer
from jlogd.wire import address, messages

_CRC = struct.Struct("<I")
_BODY_CRC_AT = 20


def wire_requests(data: bytes) -> None:
    """Control frames of clients: a message or `ProtocolError`; what was understood can be said again."""
    _refusable(messages.decode_request, data, ProtocolError)
    assert messages.request_id(data) >= 0
    with suppress(ProtocolError):
        message = messages.decode_request(data)
        again = messages.decode_request(messages.encode(message))
        assert messages.encode(again) == messages.encode(message)
        if isinstance(message, messages.Subscribe):
            _refusable(messages.start_from_wire, message.start, UsageError)


def wire_answers(data: bytes) -> None:
    """Control frames of a daemon."""
    _refusable(messages.decode_answer, data, ProtocolError)


def addresses(data: bytes) -> None:
    """Addresses, as they come from configurations and commands."""
    text = data.decode(errors="replace")
    _refusable(address.check_address, text, UsageError)
    _refusable(address.parse_target, text, UsageError)


def wire_batches(data: bytes) -> None:
    """Batches as producers send them; what is taken in never fails whoever reads it, nor asks for more memory."""
    intake = Intake(None, 1 << 20, lambda _: None)  # type: ignore[arg-type]
    for frame in (data, sealed_batch(data)):
        with suppress(FormatError):
            taken = intake._checked(frame)
            assert taken.size == len(frame) and taken.raw_bytes <= batches.BATCH_BYTES_MAX
            with suppress(FormatError):  # what its body holds, a reader looks at
                records = taken.records()
                assert len(records) == taken.count
                assert sum(map(len, records)) <= taken.raw_bytes
                _same_records(taken, records)


def _same_records(batch: Batch, records: Sequence[bytes]) -> None:
    stamped = batch.stamped(7, 7, 1, 1)
    middle = stamped.since(7 + len(records) // 2)
    assert list(middle) == list(records)[len(records) // 2 :]


def sealed_batch(data: bytes) -> bytes:
    """`data` as a batch: its own fields, with magic, length and checksums that are right."""
    data = data.ljust(HEADER_BYTES, b"\0")
    body = data[HEADER_BYTES:]
    fields = list(HEADER.unpack_from(data))
    fields[0], fields[6], fields[8] = MAGIC, len(body), crc32c(body)
    fields[1:5] = [fields[1] & 1, fields[2] & 1, fields[3] & 1, 0]
    header = HEADER.pack(*fields)[: HEADER_BYTES - 4]
    return header + _CRC.pack(crc32c(header)) + body


def segments(data: bytes) -> None:
    """Segment headers, and walking whatever follows them: it ends, it goes forward, and batches do not overlap."""
    fixed = data[:124].ljust(124, b"\0")
    fixed = b"JLOGSEG1" + struct.pack("<I", 1) + fixed[12:]
    for header in (data, fixed + _CRC.pack(crc32c(fixed))):
        with suppress(FormatError):
            found = segment.decode_segment_header(header)
            assert segment.decode_segment_header(found.encode()) == found
    pieces = [sealed_batch(piece) if at % 2 else piece for at, piece in enumerate(data[128:].split(b"\xff\xfe"))]
    content = b"".join([data[:128].ljust(128, b"\0"), *pieces])
    scanner, at = Scanner(_Bytes(content), 0), segment.SEGMENT_HEADER_BYTES
    while (item := scanner.step(len(content), 0)) is not None:
        if isinstance(item, Damage):
            assert at <= item.start < item.end <= len(content)
        assert at < scanner.offset <= len(content)
        at = scanner.offset
        if isinstance(item, Batch):
            with suppress(FormatError):
                Producers().learn([item])


class _Bytes:
    """A `File` over bytes."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def pread(self, length: int, offset: int) -> bytes:
        return self._content[offset : offset + length]

    reread = pread

    def size(self) -> int:
        return len(self._content)

    def pwrite(self, data: Buffer, offset: int) -> None:
        raise NotImplementedError

    append = sync = unlinked = close = pwrite  # type: ignore[assignment]


def states(data: bytes) -> None:
    """Small state files: slots, and the payloads of those that are valid."""
    assert isinstance(slots.slot_problems(data), list)
    for kind in (b"OW", b"HD", b"SU", b"FL"):
        for slot in (data, data[: slots.SLOT_BYTES].ljust(slots.SLOT_BYTES, b"\0")):
            found = slots.decode_slot(slot, kind)
            if found is not None:
                assert slots.decode_slot(slots.encode_slot(kind, *found), kind) == found
    payload = data[: slots.PAYLOAD_MAX]
    assert slots.decode_slot(slots.encode_slot(b"OW", 3, payload), b"OW") == (3, payload)
    _refusable(lambda some: head.decode_owner(some, "owner"), payload, FormatError)
    for decode in (head.decode_head, head.decode_floor, subscribers.decode_state):
        state = decode(payload)
        if state is not None and decode is not head.decode_floor:
            state.encode()  # type: ignore[attr-defined]


def syslog(data: bytes) -> None:
    """Syslog messages: nothing is refused, the JSON is JSON, and no byte of the text is lost."""
    line, read = syslog_parse.to_json(data, "127.0.0.1:5140")
    record = json.loads(line)
    assert b"\n" not in line and read == ("unparsed" not in record)
    try:
        text = data.decode()
    except UnicodeDecodeError:
        assert record["raw_base64"]
    else:
        assert record.get("message", "") in text


def framing(data: bytes) -> None:
    """Streams of syslog: the same records however the network cut them, none longer than the limit."""
    cut, stream = data[:4], data[4:]
    limit = 16
    whole = _framed([stream], limit)
    step = 1 + sum(cut) % 9
    assert _framed([stream[at : at + step] for at in range(0, len(stream), step)], limit) == whole
    assert all(len(record) <= limit for record in whole)


class _Collected:
    """A sink that keeps all records."""

    def __init__(self) -> None:
        self.kept: list[bytes] = []

    def lines(self, body: bytes, count: int) -> None:
        records = body.split(b"\n")
        assert len(records) == count
        self.kept += records

    def records(self, records: list[bytes]) -> None:
        self.kept += records


def _framed(pieces: list[bytes], limit: int) -> list[bytes]:
    sink = _Collected()
    framer = StreamFramer(sink, defaultdict(int), limit, {})
    for piece in pieces:
        framer.feed(piece)
    framer.finish()
    return sink.kept


def configuration(data: bytes) -> None:
    """Configurations: one that is checked, or an error that names file and line."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return
    try:
        found = config_file.parse(text)
    except ConfigError as error:
        assert str(error).startswith("jlogd.toml")
        return
    assert len(config.source_names(found)) == len(set(config.source_names(found)))
    assert found.spool is not None and all(log.settings for log in found.log.values())


def _refusable(decode: Callable[..., object], data: object, refusal: type[Exception]) -> None:
    with suppress(refusal):
        decode(data)


TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target
    for target in (
        wire_requests, wire_answers, wire_batches, addresses, segments, states, syslog, framing, configuration,
    )
}  # fmt: skip
