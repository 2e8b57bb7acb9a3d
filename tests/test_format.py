"""`docs/format.md` is what is on the disk: a reader written from it alone reads what jlogd wrote, and as jlogd does."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import format_reader as reader
import pytest
from crc32c import crc32c
from format_reader import LogContents, Refused, read_log
from format_support import host, read_by_jlogd, rewrite_slots
from hypothesis import given, settings
from hypothesis import strategies as st

import jlogd
from jlogd import Caps, JlogError, Receipt, Settings, UsageError, Writer

SEGMENT_BYTES = 4096  # the least that is accepted, so that a few records fill one
SUBSCRIBERS = ("quick", "slow")
NAMED = ("import", "syslog")
EXAMPLES = (settings.default.max_examples if settings.default else 100) // 5

# ---- logs, and what they were told -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Append:
    writer: int
    records: list[bytes]


@dataclass(frozen=True)
class Flush:
    pass


@dataclass(frozen=True)
class Consume:
    subscriber: str
    items: int


@dataclass(frozen=True)
class Move:
    subscriber: str
    to: int


@dataclass(frozen=True)
class Reopen:
    torn: bytes


Step = Append | Flush | Consume | Move | Reopen


class Story:
    """A log that is written through the public API, and what it was told."""

    def __init__(self, path: Path, options: Settings) -> None:
        self.path = path
        jlogd.create(path, options, SUBSCRIBERS)
        self.records: dict[int, bytes] = {}
        self._writers: dict[int, Writer] = {}
        self._pending: list[tuple[bytes, Future[Receipt]]] = []
        self._open()

    def play(self, steps: list[Step]) -> None:
        for step in steps:
            match step:
                case Append(writer, records):
                    self._append(writer, records)
                case Flush():
                    self.flush()
                case Consume(subscriber, items):
                    self.flush()
                    with self.log.subscriber(subscriber) as consumer:
                        for item in islice(consumer, items):
                            item.checkpoint()
                case Move(subscriber, to):
                    self.flush()
                    with suppress(UsageError):  # beyond the end, or what may be read of it before the next sync
                        self.log.set_subscriber(subscriber, to)
                case Reopen(torn):
                    self.close()
                    with sorted(self.path.glob("*.seg"))[-1].open("ab") as segment:
                        segment.write(torn)
                    self._open()
        self.flush()

    def flush(self) -> None:
        for writer in self._writers.values():
            writer.flush()
        for record, future in self._pending:
            sequence = future.result(0).first
            assert sequence not in self.records
            self.records[sequence] = record
        self._pending = []

    def close(self) -> None:
        self.flush()
        for writer in self._writers.values():
            writer.close()
        self._writers = {}
        self.log.close()

    def __enter__(self) -> Story:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> None:
        self.log = jlogd.open(self.path)

    def _append(self, number: int, records: list[bytes]) -> None:
        """Writers 0 and 1 are anonymous, the others are named."""
        if number not in self._writers:
            self._writers[number] = self.log.writer(producer=("", "", *NAMED)[number])
        for record in records:
            future = self._writers[number].append(record, receipt=True)
            assert future is not None
            self._pending.append((record, future))


RECORD = st.binary(max_size=40) | st.builds(bytes.__mul__, st.binary(min_size=1, max_size=7), st.integers(0, 200))
STEP = st.one_of(
    st.builds(Append, st.integers(0, 3), st.lists(RECORD, min_size=1, max_size=12)),
    st.builds(Append, st.integers(0, 3), st.lists(RECORD, min_size=1, max_size=12)),
    st.just(Flush()),
    st.builds(Consume, st.sampled_from(SUBSCRIBERS), st.integers(1, 20)),
    st.builds(Move, st.sampled_from(SUBSCRIBERS), st.integers(1, 100)),
    st.builds(Reopen, st.just(b"") | st.binary(min_size=1, max_size=150)),
)
SETTINGS = st.builds(
    Settings,
    segment_bytes=st.just(SEGMENT_BYTES),
    durability=st.sampled_from(["commit", "interval=20ms", "os"]),
    compression=st.sampled_from(["none", "zstd"]),
    caps=st.sampled_from([Caps(), Caps(), Caps(max_bytes=3 * SEGMENT_BYTES, on_full="drop-oldest")]),
)


@contextmanager
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


# ---- what is read is what was written --------------------------------------------------------------------------------


@settings(max_examples=EXAMPLES)
@given(SETTINGS, st.lists(STEP, max_size=25))
def test_what_was_written_is_read(options: Settings, steps: list[Step]) -> None:
    with directory() as spool:
        with Story(spool / "log", options) as story:
            story.play(steps)
        contents = read_log(story.path)
        with jlogd.open(story.path) as log:
            check_contents(contents, story.records, log)
    check_fields(contents)


def check_contents(contents: LogContents, records: dict[int, bytes], log: jlogd.Log) -> None:
    stat = log.stat()
    assert contents.records == {at: record for at, record in records.items() if at >= stat.first}
    assert contents.gaps == []
    assert (contents.chain[0].first, contents.next) == (stat.first, stat.next)
    assert contents.next == max(records, default=0) + 1
    assert str(contents.uuid) == stat.uuid
    assert contents.settings["segment_bytes"] == stat.segment_bytes
    for one in stat.subscribers:
        read = contents.subscribers[one.name]
        assert read is not None and (read.next, read.dropped, read.damaged) == (one.next, one.dropped, one.damaged)
    for name in NAMED:
        known = contents.producers.get(reader.producer_number(name))
        assert (known.position if known else None) == log.producer_position(name)


def check_fields(contents: LogContents) -> None:
    """Every field that reading does not need means what the page says."""
    starts: dict[tuple[int, int], set[int]] = {}
    times = [0]
    for segment, batch in contents.batches:
        header = batch.header
        starts.setdefault((segment.first, segment.epoch), {128}).update((batch.at, batch.end))
        assert segment.header is not None
        assert header.epoch == segment.epoch and header.committed <= header.first
        assert header.first_time <= header.last_time
        assert segment.header.created <= header.append_time
        times.append(header.append_time)
        if header.kind == 0:
            assert header.producer and header.producer_to - header.producer_from == header.count
            assert header.codec or header.body_bytes == header.raw_bytes
        else:
            assert (batch.at, header.first, header.encoding, header.producer) == (128, segment.first, 0, 0)
            check_producers(batch)
    assert times == sorted(times)

    bases = {}
    for before, segment in zip([None, *contents.chain], contents.chain, strict=False):
        header_of = segment.header
        assert header_of is not None and (header_of.first, header_of.epoch) == (segment.first, segment.epoch)
        bases[segment.first, segment.epoch] = header_of.base
        if before is not None and before.header is not None:
            assert (header_of.before_first, header_of.before_epoch) >= (before.first, before.epoch)
            if header_of.before_epoch == before.epoch:
                assert header_of.base == before.header.base + header_of.before_bytes
        assert header_of.host == reader.blake(host().encode(), 16)

    head, owner, last = contents.head, contents.owner, contents.chain[-1]
    assert head is not None and owner is not None and contents.floor is not None
    assert (owner.host, owner.boot) == (host(), reader.this_boot())
    assert (head.segment_first, head.segment_epoch, head.closed) == (last.first, last.epoch, 0)
    assert (head.written, head.next_written) == (head.readable, head.next_readable)
    assert (head.base, head.epoch, head.append_time) == (bases[last.first, last.epoch], owner.epoch, times[-1])
    assert contents.floor.first == contents.chain[0].first
    for one in contents.subscribers.values():
        assert one is not None
        where = one.segment_first, one.segment_epoch
        if where in bases:
            assert one.offset in starts[where] and one.base == bases[where] + one.offset and where[0] <= one.next


def check_producers(batch: reader.Batch) -> None:
    """Anonymous ones first, then named ones; of each the one heard last comes last."""
    known = reader.read_producers(batch.raw())
    assert all(one.first + one.count <= batch.first and one.position >= one.count for one in known.values())
    order = [(number >> 63, one.first) for number, one in known.items()]
    assert order == sorted(order)


# ---- what is damaged is lost to both ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Damage:
    """Bytes that change, cut off or added, at a place that is drawn without knowing the log."""

    file: int
    at: int
    what: str
    value: int

    def apply(self, log: Path) -> None:
        segments = sorted(log.glob("*.seg"))
        others = [path for path in log.rglob("*") if path.suffix not in (".seg", ".lock") and path.is_file()]
        files = segments * 3 + sorted(others)
        path = segments[-1] if self.what in ("cut", "more") else files[self.file % len(files)]
        data = bytearray(path.read_bytes())
        at = self.at % len(data)
        if self.what == "flip":
            data[at] ^= self.value
        elif self.what == "zeros":
            end = min(len(data), max(at, 128) + self.value)  # beyond the header of a segment
            data[max(at, 128) : end] = bytes(end - max(at, 128))
        elif self.what == "cut":
            del data[max(at, 128) :]
        else:
            data += bytes([self.value] * (at % 100))
        path.write_bytes(data)


DAMAGE = st.builds(
    Damage,
    st.integers(0, 1 << 16),
    st.integers(0, 1 << 16),
    st.sampled_from(["flip", "flip", "flip", "zeros", "cut", "more"]),
    st.integers(1, 255),
)
STEPS_TO_DAMAGE = st.lists(st.builds(Append, st.integers(0, 3), st.lists(RECORD, min_size=1, max_size=9)), min_size=1)


@settings(max_examples=EXAMPLES)
@given(SETTINGS, STEPS_TO_DAMAGE, st.lists(DAMAGE, min_size=1, max_size=4), st.sampled_from(["now", "before", "lost"]))
def test_damage_takes_the_same_from_both(
    options: Settings, steps: list[Step], damages: list[Damage], head: str
) -> None:
    """With a head of this boot, with one of an earlier boot, and without any."""
    with directory() as spool:
        with Story(spool / "log", options) as story:
            story.play([each for step in steps for each in (step, Flush())])
        if head == "lost":
            story.path.joinpath("head-00000001").unlink()
        elif head == "before":
            rewrite_slots(story.path / "head-00000001", lambda payload: payload[:64] + b"another!" + payload[72:])
        for number, damage in enumerate(damages):
            copy = spool / f"copy{number}"
            shutil.copytree(story.path, copy)
            damage.apply(copy)
            assert_both_read_the_same(copy, recover=head != "now")


def assert_both_read_the_same(log: Path, recover: bool) -> None:
    """With `recover`, after jlogd opened it as one does that writes."""
    try:
        contents = read_log(log)
    except Refused:
        with pytest.raises(JlogError):
            read_by_jlogd(log, recover)
        return
    if contents.owner is None and recover:
        with pytest.raises(JlogError):
            read_by_jlogd(log, recover)
        return
    records, gaps, positions = read_by_jlogd(log, recover)
    assert gaps == contents.gaps
    assert records == contents.records
    if contents.owner is not None:
        begin = contents.chain[0].first
        assert positions == {name: one.next if one else begin for name, one in contents.subscribers.items()}


# ---- what a fenced writer leaves behind is not read ------------------------------------------------------------------


@settings(max_examples=EXAMPLES // 2)
@given(*[st.integers(0, 40)] * 3, st.sampled_from(["torn", "no head"]))
def test_a_fenced_writer_is_not_read(before: int, fenced: int, after: int, how: str) -> None:
    """Another writer took the log over at a point, and the one of before wrote on."""
    with directory() as spool:
        log, zombie = spool / "log", spool / "zombie"
        jlogd.create(log, Settings(segment_bytes=SEGMENT_BYTES), SUBSCRIBERS)
        append(log, [b"before %d" % number for number in range(before)])
        shutil.copytree(log, zombie)
        append(zombie, [b"fenced %d, and somewhat longer" % number for number in range(fenced)])
        if how == "torn":
            with sorted(log.glob("*.seg"))[-1].open("ab") as segment:
                segment.write(b"JLB1 and no more")
        else:
            log.joinpath("head-00000001").unlink()
        append(log, [b"after %d" % number for number in range(after)])
        if not after:
            return
        for segment_path in zombie.glob("*.seg"):
            shutil.copy(segment_path, log / segment_path.name)

        contents = read_log(log)
        expected = [b"before %d" % number for number in range(before)] + [
            b"after %d" % number for number in range(after)
        ]
        assert list(contents.records.values()) == expected and contents.gaps == []
        assert bool(contents.leftovers) >= bool(fenced)
        assert_both_read_the_same(log, recover=False)


def append(log: Path, records: list[bytes]) -> None:
    with jlogd.open(log) as opened, opened.writer() as writer:
        for record in records:
            writer.append(record)
            writer.flush()


# ---- what is not known is refused ------------------------------------------------------------------------------------


@pytest.fixture
def log(spool: Path) -> Path:
    """Two segments, of batches of one record each."""
    path = spool / "log"
    jlogd.create(path, Settings(segment_bytes=SEGMENT_BYTES), SUBSCRIBERS)
    append(path, [b"record %d" % number for number in range(40)])
    return path


def test_the_log_that_is_changed_below_is_read(log: Path) -> None:
    contents = read_log(log)
    assert list(contents.records.values()) == [b"record %d" % number for number in range(40)]
    assert len(contents.chain) > 1


def test_another_format_is_refused(log: Path) -> None:
    path = log / "log.json"
    content: dict[str, Any] = {**json.loads(path.read_text()), "format": 2, "crc": 0}
    content["crc"] = crc32c(json.dumps(content, separators=(",", ":")).encode())
    path.write_text(json.dumps(content))
    with pytest.raises(Refused, match="format"):
        read_log(log)
    with pytest.raises(JlogError, match="format"):
        read_by_jlogd(log, recover=False)


@pytest.mark.parametrize(
    ("at", "value", "what"), [(8, 2, "version 2"), (16, 0, "another log"), (68, 1, "reserved"), (99, 1, "reserved")]
)
def test_another_segment_is_refused(log: Path, at: int, value: int, what: str) -> None:
    path = sorted(log.glob("*.seg"))[1]
    data = bytearray(path.read_bytes())
    data[at] = value if at != 16 else data[at] ^ 1
    data[124:128] = crc32c(bytes(data[:124])).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(Refused, match=what):
        read_log(log)


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("floor", lambda payload: payload + b"\1"),
        ("head-00000001", lambda payload: payload[:-1]),
        ("subscribers/slow", lambda payload: payload + b"\1"),
        ("subscribers/slow", lambda payload: payload[:21] + b"\1" + payload[22:]),
        ("subscribers/slow", lambda payload: payload[:20] + b"\3" + payload[21:]),
        ("owner", lambda payload: payload + b"\1"),
    ],
)
def test_another_state_is_refused(log: Path, file: str, change: Callable[[bytes], bytes]) -> None:
    rewrite_slots(log / file, change)
    with pytest.raises(Refused):
        read_log(log)


@pytest.mark.parametrize("at", [4, 5, 6, 7])
def test_another_batch_is_read_like_a_damaged_one(log: Path, at: int) -> None:
    """Encoding, codec, kind and the reserved byte."""
    before = read_log(log)
    segment, batch = before.batches[5]
    path = log / segment.name
    data = bytearray(path.read_bytes())
    data[batch.at + at] = 2
    crc = crc32c(bytes(data[batch.at : batch.at + 92]), crc32c(before.uuid.bytes))
    data[batch.at + 92 : batch.at + 96] = crc.to_bytes(4, "little")
    path.write_bytes(data)
    contents = read_log(log)
    assert contents.gaps == [(batch.first, batch.first)]
    assert len(contents.records) == 39
    assert_both_read_the_same(log, recover=False)


def test_other_names_are_ignored(log: Path) -> None:
    for name in ("subscribers/slow.new", "head-1", "1-1.seg", "floor.new", "subscribers/.hidden"):
        (log / name).write_bytes(b"junk")
    contents = read_log(log)
    assert len(contents.records) == 40 and sorted(contents.subscribers) == sorted(SUBSCRIBERS)
