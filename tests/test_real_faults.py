"""The real thing: full disks, failing writes and syncs, no more files, clocks that jump years; against the library and
against a daemon.

Each trouble comes while producers write and subscribers read, and goes again. While it is there, producers are told
clearly, nobody is acknowledged in vain, and what is there can be read on; when it goes, the same processes go on.
At the end every record is there once, in order.
"""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from daemon_support import RunningDaemon, daemon, until
from fault_support import FailingCalls, FullDisk, NoMoreFiles, Trouble, failing_mount, jumping_clock, missing, tmpfs

import jlogd
from jlogd.errors import DiskFailed, JlogError, SpoolFull
from jlogd.journal.check import check

# A segment that a few batches fill: a process that may open no more files notices when it starts the next one.
SEGMENT_BYTES = 64 << 10
# What is appended while the trouble lasts, at most: every trouble shows itself earlier.
TRIES = 400
YEAR_SECONDS = 365 * 86400

TROUBLES = {
    "a full tmpfs": (SpoolFull, "No space left on device"),
    "no space on write": (SpoolFull, "No space left on device"),
    "an error on write": (DiskFailed, "Input/output error"),
    "an error on sync": (DiskFailed, "Input/output error"),
    "no more files": (SpoolFull, "raise the limit on open files"),
}


@contextmanager
def spool_in_trouble(name: str, spool: Path) -> Iterator[Trouble]:
    """An empty directory at `spool`, and the trouble that it can have."""
    words = {
        "no space on write": "write=ENOSPC create=ENOSPC",
        "an error on write": "write=EIO",
        "an error on sync": "fsync=EIO",
    }
    if name == "a full tmpfs":
        with tmpfs(spool):
            yield FullDisk(spool)
    elif name == "no more files":
        spool.mkdir()
        yield NoMoreFiles()
    else:
        with failing_mount(spool) as control:
            yield FailingCalls(control, words[name])


class Producer:
    """Appends records 0, 1, 2, ... under one name, flushes each few, and counts what was acknowledged."""

    def __init__(self, log: jlogd.Log) -> None:
        self._log = log
        self.acked = 0

    def run(self, flushes: int) -> JlogError | None:
        """Go on from what the log has; the error that ended it."""
        try:
            with self._log.writer(producer="p") as writer:
                assert writer.position >= self.acked, "the log forgot what it had acknowledged"
                number = writer.position
                for _ in range(flushes):
                    writer.extend([record(number + n) for n in range(10)])
                    number += 10
                    writer.flush()
                    self.acked = number
        except JlogError as error:
            return error
        return None


def record(number: int) -> bytes:
    return b"%d." % number + b"x" * 90


class Consumer:
    """A named subscriber that was there before the trouble, and stays."""

    def __init__(self, log: jlogd.Log, name: str = "master") -> None:
        self.subscriber = log.subscriber(name)
        self.got = 0

    def read(self) -> None:
        """Read to the end, and check what is read."""
        while items := self.subscriber.fetch(0.2):
            for item in items:
                assert isinstance(item, jlogd.Batch), item
                records = list(item)
                assert records == [record(self.got + n) for n in range(len(records))]
                self.got += len(records)
                self.last = item


def resumed(producer: Producer) -> bool:
    return producer.run(5) is None


@pytest.mark.slow
@pytest.mark.parametrize("name", TROUBLES)
def test_the_library_gets_over(name: str, tmp_path: Path) -> None:
    with spool_in_trouble(name, tmp_path / "spool") as trouble:
        path = tmp_path / "spool" / "log"
        jlogd.create(path, jlogd.Settings(segment_bytes=SEGMENT_BYTES), ["master"])
        with jlogd.open(path) as log:
            _goes_through(name, trouble, os.getpid(), log)
        assert [finding for finding in check(path) if not finding.harmless] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", TROUBLES)
def test_the_daemon_gets_over(name: str, tmp_path: Path) -> None:
    """The same through a daemon, which is not restarted; and a source of its own waits, and loses nothing."""
    with (
        spool_in_trouble(name, tmp_path / "spool") as trouble,
        daemon(
            tmp_path,
            log=f'segment_size = "{SEGMENT_BYTES}"\n[log.other]',
            extra=_followed(tmp_path),
            words=["--accept-risk"],  # of the file system that fails on command nothing is known
        ) as running,
    ):
        source = (tmp_path / "followed.log").open("ab", buffering=0)
        source.write(b"before\n")
        running.until_records(1, "other")
        with jlogd.open(running.address) as log:
            during: Callable[[], None] = lambda: source.write(b"during\n")  # noqa: E731
            _goes_through(name, trouble, running.process.pid, log, during)
        source.write(b"after\n")
        source.close()
        running.until_records(3, "other")
        assert running.records("other") == [b"before", b"during", b"after"]
        until(lambda: running.get("/healthz")[0] == 200, "all is well again")
        assert running.process.poll() is None
        assert running.end() == 0
        assert [finding for finding in check(running.mainlog) if not finding.harmless] == []


def _followed(directory: Path) -> str:
    followed = directory / "followed.log"
    followed.touch()
    return f'[[source.file]]\nlog = "other"\npaths = ["{followed}"]\n'


def _goes_through(
    name: str, trouble: Trouble, pid: int, log: jlogd.Log, during: Callable[[], object] = lambda: None
) -> None:
    refusal, words = TROUBLES[name]
    producer, consumer = Producer(log), Consumer(log)
    assert producer.run(20) is None
    trouble.begin(pid)
    try:
        during()
        error = producer.run(TRIES)
        again = producer.run(1)
        acked = producer.acked
        if name != "no more files":  # nobody can open the next segment then
            consumer.read()
            assert consumer.got >= acked, "what was acknowledged could not be read meanwhile"
    finally:
        trouble.end()
    assert isinstance(error, refusal), repr(error)
    assert words in str(error) and "log" in str(error), error
    # A process that was refused has closed files, and may have room for the next attempt.
    assert again is not None or name == "no more files", "acknowledged while nothing can be written"
    assert acked >= 200
    until(lambda: resumed(producer), "the log accepts records again")
    consumer.read()
    assert consumer.got == producer.acked > acked
    consumer.last.checkpoint()
    consumer.subscriber.close()
    with log.subscriber() as reader:
        found = [data for batch in reader for data in batch]
    assert found == [record(number) for number in range(producer.acked)][-len(found) :]
    assert log.stat().next == producer.acked + 1


@pytest.mark.slow
def test_a_followed_file_and_syslog_wait_for_a_full_disk(tmp_path: Path) -> None:
    """Sources hold back what they cannot hand over, say why, and go on by themselves."""
    with (
        spool_in_trouble("a full tmpfs", tmp_path / "spool") as trouble,
        daemon(tmp_path, log=f'segment_size = "{SEGMENT_BYTES}"') as running,
        socket.create_connection(("127.0.0.1", running.syslog)) as sender,
    ):
        _fill(running, trouble)
        try:
            sent = [b"<13>line %d" % number for number in range(3000)]
            sender.sendall(b"".join(line + b"\n" for line in sent))
            until(lambda: running.get("/healthz")[0] == 503, "the daemon says that a source waits")
            assert "No space left" in running.get("/healthz")[1]
        finally:
            trouble.end()
        running.until_records(len(sent) + 1)
        assert [line for line in running.records() if b"line" in line] == sent
        until(lambda: running.get("/healthz")[0] == 200, "all is well again")


def _fill(running: RunningDaemon, trouble: Trouble) -> None:
    with jlogd.open(running.address) as log, log.writer() as writer:
        writer.append(b"first")
        writer.flush()
    trouble.begin(running.process.pid)


@pytest.mark.slow
def test_clocks_that_jump_years(tmp_path: Path) -> None:
    """Ahead, back before the log was made, over restarts: numbers count, not times. Nothing waits, nothing is lost."""
    with jumping_clock(tmp_path) as (environment, jump), daemon(tmp_path) as running:
        running.end()
        shifts = (0, 10, -20, 30, 0, -40)
        appended: list[int] = []
        running.launch(**environment)
        running.wait_ready()
        with jlogd.open(running.address) as log, log.subscriber("master", follow=True) as subscriber:
            for years in shifts:
                jump(years * YEAR_SECONDS)
                with log.writer(producer=f"p{years}") as writer:
                    writer.append(b"%d years" % years)
                batch = until(lambda: subscriber.fetch(1.0), "the subscriber goes on")[0]
                assert list(batch) == [b"%d years" % years]
                appended.append(batch.append_time)
                batch.checkpoint()
            jump(-50 * YEAR_SECONDS)
            running.end()
            running.launch(**environment)
            running.wait_ready()
            with log.writer() as writer:
                writer.append(b"restarted")
            assert list(until(lambda: subscriber.fetch(1.0), "the subscriber goes on")[0]) == [b"restarted"]
        assert running.records() == [b"%d years" % years for years in shifts] + [b"restarted"]
        assert appended == sorted(appended), "the append time went back"
        assert appended[1] > time.time_ns() + 9 * YEAR_SECONDS * 10**9, "the clock did not jump"
        assert [finding for finding in check(running.mainlog) if not finding.harmless] == []


def test_the_clock_of_the_test_machine_is_not_touched(tmp_path: Path) -> None:
    if shutil.which("cc") is None:
        missing("there is no C compiler")
    before = time.time()
    with jumping_clock(tmp_path) as (_, jump), suppress(OSError):
        jump(YEAR_SECONDS)
    assert abs(time.time() - before) < YEAR_SECONDS / 2
