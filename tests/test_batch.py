"""The batch: what goes in comes out, damage is always noticed, and a peer cannot make us allocate what it likes."""

from __future__ import annotations

import array
import random
import tracemalloc

import pytest
import zstandard
from crc32c import crc32c
from hypothesis import given
from hypothesis import strategies as st

from jlogd.errors import FormatError, TooLarge
from jlogd.journal import batch as format
from jlogd.journal.batch import (
    BATCH_BYTES_MAX,
    BATCH_RECORDS_MAX,
    HEADER_BYTES,
    LENGTHS,
    LINES,
    PRODUCERS,
    RECORD_BYTES_MAX,
    SEQUENCE_MAX,
    ZSTD,
    Batch,
    Gap,
    compress,
    decode,
    decode_header,
    encode,
    from_body,
    from_wire,
)

U32 = (1 << 32) - 1
U64 = (1 << 64) - 1
any_records = st.lists(st.binary(max_size=60), min_size=1, max_size=30)
text_records = st.lists(st.binary(max_size=60).map(lambda r: r.replace(b"\n", b"")), min_size=1, max_size=30)
seeds = st.integers(0, U32)


def stamped(records: list[bytes], first: int = 1000) -> Batch:
    return encode(records, 5, 6).numbered(77, 3, 3 + len(records)).stamped(first, first - 1, 9, 2)


def disk_bytes(batch: Batch, seed: int = 0) -> bytes:
    return batch.header(seed) + bytes(batch.body)


# ---- round trips ---------------------------------------------------------------------------------------------------


@given(any_records)
def test_any_records_come_back(records):
    batch = encode(records)
    assert (list(batch), len(batch), batch.count) == (records, len(records), len(records))
    assert list(from_wire(batch.to_wire())) == records
    assert (batch.encoding == LINES) == (not any(b"\n" in record for record in records))


@given(text_records)
def test_records_without_newlines_are_their_own_text(records):
    batch = encode(records)
    assert batch.encoding == LINES
    assert batch.text() == b"".join(record + b"\n" for record in records)
    assert list(from_body(batch.raw_body(), len(records))) == records


@given(any_records, seeds)
def test_the_disk_form_comes_back_whole(records, seed):
    batch = stamped(records)
    again = decode(b"before" + disk_bytes(batch, seed) + b"after", offset=6, seed=seed)
    assert again == batch and list(again) == records
    assert (again.first, again.last, again.next) == (1000, 999 + len(records), 1000 + len(records))
    assert (again.producer, again.producer_from, again.producer_to) == (77, 3, 3 + len(records))
    assert (again.first_time, again.last_time, again.committed, again.append_time, again.epoch) == (5, 6, 999, 9, 2)
    assert again.size == len(disk_bytes(batch))
    if seed:
        with pytest.raises(FormatError):
            decode(disk_bytes(batch, seed))


@given(any_records)
def test_compression_changes_nothing_but_the_body(records):
    batch = encode(records * 20, 5, 6)
    small = compress(batch)
    assert small.size <= batch.size
    assert list(from_wire(small.to_wire())) == records * 20
    assert compress(small) is small
    assert (small.raw_bytes, small.raw_body(), small.text()) == (batch.raw_bytes, batch.raw_body(), batch.text())


def test_compression_is_used_when_it_helps():
    assert compress(encode([b"the same line"] * 100)).codec == ZSTD
    noise = encode([random.Random(1).randbytes(100)])
    assert compress(noise) is noise


@given(any_records, st.data())
def test_since_drops_what_is_below_and_nothing_else(records, data):
    batch = stamped(records)
    if data.draw(st.booleans()):
        batch = compress(batch)
    for sequence in (0, batch.first):
        assert batch.since(sequence) is batch
    sequence = data.draw(st.integers(batch.first, batch.last))
    rest = batch.since(sequence)
    assert list(rest) == records[sequence - batch.first :]
    assert (rest.first, rest.next) == (sequence, batch.next)
    assert (rest.first_time, rest.last_time, rest.append_time, rest.epoch) == (5, 6, 9, 2)
    assert list(decode(disk_bytes(rest))) == list(rest)


def test_since_keeps_the_checkpoint():
    calls: list[int] = []
    batch = stamped([b"a", b"b", b"c"])
    batch.bind(calls.append)
    batch.since(1001).checkpoint()
    gap = Gap(1, 5, "dropped")
    gap.checkpoint()
    gap.bind(calls.append)
    gap.checkpoint()
    assert calls == [1003, 6]
    assert (gap.count, len(gap), gap.next, list(gap)) == (5, 5, 6, [])


def test_the_header_is_where_the_format_says():
    """Byte for byte against a second encoder, written from the table."""
    batch = Batch(
        3, b"a\nb\nc", LINES, 0, 0, 5, 0xDEADBEEF, 11, 12, 13, -14, 15, 16, 17, 18, 19
    )  # fmt: skip
    fields = [
        (b"JLB1"), bytes([0, 0, 0, 0]), (3).to_bytes(4, "little"), (5).to_bytes(4, "little"), (5).to_bytes(4, "little"),
        (0xDEADBEEF).to_bytes(4, "little"), *(n.to_bytes(8, "little") for n in (11, 12, 13)),
        (-14).to_bytes(8, "little", signed=True), *(n.to_bytes(8, "little") for n in (15, 16, 17, 18)),
        (19).to_bytes(4, "little"),
    ]  # fmt: skip
    head = b"".join(fields)
    assert len(head) == 92 == HEADER_BYTES - 4
    for seed in (0, 1, U32):
        assert batch.header(seed) == head + crc32c(head, seed).to_bytes(4, "little")


def test_the_lengths_encoding_is_what_the_format_says():
    batch = encode([b"a\n", b"", b"bcd"])
    assert batch.encoding == LENGTHS
    assert batch.raw_body() == b"\2\0\0\0\0\0\0\0\3\0\0\0a\nbcd"


# ---- damage --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("records", [[b"one", b"two"], [b"with\nnewline", b""], [b""], [b"pad" * 50] * 3])
@pytest.mark.parametrize("squeeze", [False, True])
def test_every_flip_and_every_cut_is_noticed(records, squeeze):
    batch = stamped(records)
    data = disk_bytes(compress(batch) if squeeze else batch, seed=99)
    assert list(decode(data, seed=99)) == records
    for at in range(len(data)):
        for mask in (1, 0x80, 0xFF):
            damaged = data[:at] + bytes([data[at] ^ mask]) + data[at + 1 :]
            with pytest.raises(FormatError):
                decode(damaged, seed=99)
        with pytest.raises(FormatError):
            decode(data[:at], seed=99)


@given(any_records, st.data())
def test_no_burst_of_damage_passes_for_other_records(records, data):
    wire = stamped(records).to_wire()
    at = data.draw(st.integers(0, len(wire) - 1))
    burst = data.draw(st.binary(min_size=1, max_size=8))
    damaged = (wire[:at] + burst + wire[at + len(burst) :])[: len(wire)]
    try:
        assert from_wire(damaged) == decode(wire), "a valid verdict means the same batch"
    except FormatError:
        assert damaged != wire


@given(st.binary(max_size=300))
def test_garbage_is_refused_with_the_right_error(data):
    for candidate in (data, b"JLB1" + data):
        with pytest.raises(FormatError):
            from_wire(candidate)


def sealed(**fields: int | bytes) -> bytes:
    """A wire message whose checksums are right, whatever it claims."""
    body = fields.pop("body", b"a\nb")
    assert isinstance(body, bytes)
    values: dict[str, int] = {"encoding": 0, "codec": 0, "kind": 0, "reserved": 0, "count": 2, "body_bytes": len(body)}
    values |= {"raw_bytes": len(body), "body_crc": crc32c(body)}
    values |= dict.fromkeys(("producer", "from", "to", "time", "time2", "first", "committed", "append", "epoch"), 0)
    values |= fields  # type: ignore[arg-type]
    head = format.HEADER.pack(b"JLB1", *values.values(), 0)[:-4]
    return head + crc32c(head).to_bytes(4, "little") + body


def test_the_forger_forges_what_is_accepted():
    assert list(from_wire(sealed())) == [b"a", b"b"]


@pytest.mark.parametrize(
    "claim",
    [
        {"encoding": 2}, {"codec": 2}, {"kind": 2}, {"reserved": 1}, {"count": 0}, {"count": BATCH_RECORDS_MAX + 1},
        {"count": U32}, {"raw_bytes": BATCH_BYTES_MAX + 1}, {"body_bytes": BATCH_BYTES_MAX + 1}, {"body_bytes": 4},
        {"body_bytes": 2}, {"first": SEQUENCE_MAX + 1}, {"kind": PRODUCERS}, {"kind": PRODUCERS, "count": 0},
        {"body_crc": 1},
    ],
    ids=str,
)  # fmt: skip
def test_claims_beyond_the_format_are_refused(claim):
    with pytest.raises(FormatError):
        from_wire(sealed(**claim))


@given(
    st.binary(max_size=64), st.integers(0, 3), st.integers(0, 1), st.integers(1, 20), st.integers(0, 100), st.booleans()
)
def test_a_lying_peer_gets_a_format_error_and_nothing_else(body, encoding, codec, count, raw_bytes, frame):
    """Valid checksums, nonsense inside: to read it raises `FormatError`, or gives exactly `count` records."""
    if frame:
        body = zstandard.compress(body)
    try:
        batch = from_wire(sealed(body=body, encoding=encoding, codec=codec, count=count, raw_bytes=raw_bytes))
        assert len(batch.records()) == count
    except FormatError:
        pass


@pytest.mark.parametrize(
    ("lengths", "payload"),
    [([3, 3], b"abc"), ([1, 1], b"abc"), ([U32, 4], b"abc"), ([U32 - 2, 6], b"abc"), ([2], b""), ([], b"abc")],
)
def test_lengths_that_do_not_fit_are_refused(lengths, payload):
    body = array.array("I", lengths).tobytes() + payload
    with pytest.raises(FormatError):
        from_wire(sealed(body=body, encoding=LENGTHS, count=2)).records()


@pytest.mark.parametrize("count", [1, 3, 20])
def test_a_count_that_does_not_fit_the_lines_is_refused(count):
    with pytest.raises(FormatError, match="holds 2"):
        from_wire(sealed(count=count)).records()


# ---- limits --------------------------------------------------------------------------------------------------------


def peak_of(call) -> int:
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def bomb(size: int, declared: bool) -> bytes:
    params = zstandard.ZstdCompressionParameters.from_level(1, write_content_size=declared)
    return zstandard.ZstdCompressor(compression_params=params).compress(bytes(size))


@pytest.mark.parametrize("declared", [False, True])
@pytest.mark.parametrize("raw_bytes", [0, 100, BATCH_BYTES_MAX])
def test_compression_bombs_are_refused_before_they_go_off(declared, raw_bytes):
    body = bomb(200 << 20, declared)
    assert len(body) < 100_000
    batch = from_wire(sealed(body=body, codec=ZSTD, count=1, raw_bytes=raw_bytes))

    def read() -> None:
        with pytest.raises(FormatError):
            batch.records()

    assert peak_of(read) < 2 << 20


@pytest.mark.parametrize("body", [b"", b"x", b"not a frame at all", bomb(100, True)[:-3], bomb(100, True)[:6]])
def test_a_body_that_is_no_frame_is_a_format_error(body):
    with pytest.raises(FormatError):
        from_wire(sealed(body=body, codec=ZSTD, count=1, raw_bytes=100)).records()


def test_limits_of_what_is_encoded():
    with pytest.raises(TooLarge, match="got 0"):
        encode([])
    with pytest.raises(TooLarge, match="split it"):
        encode([b""] * (BATCH_RECORDS_MAX + 1))
    assert encode([b""] * BATCH_RECORDS_MAX).count == BATCH_RECORDS_MAX
    assert encode([b"", b"x" * RECORD_BYTES_MAX]).count == 2
    with pytest.raises(TooLarge, match=r"record 1 has \d+ bytes; the limit is 8388608"):
        encode([b"", b"x" * (RECORD_BYTES_MAX + 1)])
    with pytest.raises(TooLarge, match="at most"):
        encode([b"x" * RECORD_BYTES_MAX] * 2)
    with pytest.raises(TooLarge):
        from_body(bytes(BATCH_BYTES_MAX + 1), 1)
    assert from_body(bytes(BATCH_BYTES_MAX), 1).size == BATCH_BYTES_MAX + HEADER_BYTES


def test_everything_that_is_accepted_can_be_read_in_parts():
    """A subscriber may stand in the middle of any batch that the wire accepts, records over the limit included."""
    batch = from_wire(from_body(b"a\nb\n" + b"x" * (RECORD_BYTES_MAX + 1), 3).to_wire())
    assert [len(record) for record in batch.stamped(10, 0, 0, 0).since(11)] == [1, RECORD_BYTES_MAX + 1]


def test_decode_header_alone():
    data = disk_bytes(stamped([b"abc"]), seed=5)
    header, body_bytes = decode_header(data[:HEADER_BYTES], 0, 5)
    assert (header.first, header.count, body_bytes) == (1000, 1, 3)
    with pytest.raises(FormatError, match="byte 7"):
        decode_header(b"1234567", 7)
