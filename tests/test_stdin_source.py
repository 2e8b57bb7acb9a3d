"""Lines from a pipe, to its end.

How this could fail: the last line lost because nothing ends it; a line cut where the pipe cut it; an end that is not
noticed, or a stop that waits for input; what was read before the end not durable after it; a closed or odd descriptor.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from source_support import LogUnderTest, eventually

from jlogd.errors import ConfigError
from jlogd.journal.batch import Batch
from jlogd.sources.config import StdinSource
from jlogd.sources.framing import cut
from jlogd.sources.stdin import StdinReader

LINE_MAX = 256


@pytest.fixture
def target(tmp_path: Path) -> Iterator[LogUnderTest]:
    under_test = LogUnderTest(tmp_path / "log")
    yield under_test
    under_test.close()


class Pipe:
    """A pipe with a reader on one end."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()
        self.source = StdinReader(StdinSource(log="main", line_bytes_max=LINE_MAX), fd=self.reading)

    def end(self) -> None:
        writing, self.writing = self.writing, -1
        if writing >= 0:
            os.close(writing)

    def close(self) -> None:
        self.end()
        assert self.source.stop(10)
        os.close(self.reading)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    made.close()


def test_lines_and_the_last_one_then_the_end(target: LogUnderTest, pipe: Pipe) -> None:
    pipe.source.start(target.writer)
    os.write(pipe.writing, b"one\ntw")
    eventually(lambda: pipe.source.stats()["messages"] == 1)
    os.write(pipe.writing, b"o\n\nlast")
    assert pipe.source.running
    pipe.end()
    assert pipe.source.join(20)
    assert pipe.source.failed is None and not pipe.source.running
    assert target.writer.durable == 4
    assert target.records() == [b"one", b"two", b"", b"last"]
    assert pipe.source.stats() == {"messages": 4, "bytes": 10, "oversized": 0}


def test_much(target: LogUnderTest, pipe: Pipe) -> None:
    pipe.source.start(target.writer)
    lines = [b"%d" % at + b"x" * (at % 300) for at in range(20000)]
    feeder = threading.Thread(target=feed, args=(pipe, b"\n".join(lines)))
    feeder.start()
    assert pipe.source.join(30)
    feeder.join()
    assert target.records() == [piece for line in lines for piece in cut(line, LINE_MAX)]
    assert pipe.source.stats()["oversized"] == sum(len(line) > LINE_MAX for line in lines)


def feed(pipe: Pipe, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(pipe.writing, view[:70000]) :]
    pipe.end()


class Kept:
    """A writer that keeps the records."""

    def __init__(self) -> None:
        self.records: list[bytes] = []
        self.flushed = 0

    def send(self, batch: Batch) -> None:
        self.records += batch

    def extend(self, records: list[bytes]) -> None:
        self.records += records

    def flush(self, timeout: float | None = None) -> None:
        self.flushed = len(self.records)


@given(st.lists(st.binary(max_size=40) | st.sampled_from([b"\n", b"x" * 300, b""]), max_size=10))
def test_any_chunks_give_the_lines(chunks: list[bytes]) -> None:
    pipe, writer = Pipe(), Kept()
    pipe.source.start(writer)
    for chunk in chunks:
        os.write(pipe.writing, chunk)
    pipe.end()
    assert pipe.source.join(20)
    pipe.close()
    lines = b"".join(chunks).split(b"\n")
    if not lines[-1]:
        lines.pop()
    assert writer.records == [piece for line in lines for piece in cut(line, LINE_MAX) or [b""]]
    assert writer.flushed == len(writer.records)


def test_a_stop_does_not_wait_for_input_and_keeps_what_came(target: LogUnderTest, pipe: Pipe) -> None:
    pipe.source.start(target.writer)
    os.write(pipe.writing, b"a\nunfinished")
    eventually(lambda: pipe.source.stats()["messages"] == 1)
    os.write(pipe.writing, b"\n" + b"b\n" * 20000 + b"more")
    assert pipe.source.stop(10) and pipe.source.failed is None
    assert target.records() == [b"a", b"unfinished", *[b"b"] * 20000, b"more"]


def test_a_regular_file_and_an_empty_input(target: LogUnderTest, tmp_path: Path) -> None:
    for data in (b"a\nb\n", b""):
        (tmp_path / "input").write_bytes(data)
        fd = os.open(tmp_path / "input", os.O_RDONLY)
        source = StdinReader(StdinSource(log="main"), fd=fd)
        source.start(target.writer)
        assert source.join(20) and source.failed is None
        os.close(fd)
    assert target.records() == [b"a", b"b"]


def test_a_descriptor_that_cannot_be_read_ends_the_source_with_its_error(target: LogUnderTest) -> None:
    fd = os.open("/", os.O_RDONLY)
    source = StdinReader(StdinSource(log="main"), fd=fd)
    source.start(target.writer)
    assert source.join(20)
    os.close(fd)
    assert isinstance(source.failed, IsADirectoryError)


def test_wrong_settings_name_the_field() -> None:
    with pytest.raises(ConfigError, match=r"^line_bytes_max: found 1; accepted: "):
        StdinSource(log="main", line_bytes_max=1)
