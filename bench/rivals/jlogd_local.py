"""jlogd as a library: the log's own writer and subscriber in the producer's process, as a user calls them.

`append` is `writer.extend(records)` and `writer.flush()`, which returns when the batch is durable; encoding, checksum
and everything else jlogd does is in the time. Four producers are four processes writing one log, and, as a second
system, four threads of one process, which share group commits.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any, ClassVar

from bench.rivals.base import Producer, Records, Shape, System

LOG = "mainlog"
# Holds the log back, so that there is something to read.
SUBSCRIBER = "bench"


class JlogdLocal(System):
    """A log in a directory."""

    key, label, durability = "jlogd", "jlogd", "commit: fdatasync"
    streams: ClassVar[bool] = True
    follows: ClassVar[bool] = True

    def missing(self) -> str:
        return "" if importlib.util.find_spec("jlogd.log") else "jlogd.log is not there yet"

    def version(self) -> str:
        try:
            return importlib.metadata.version("jlogd")
        except importlib.metadata.PackageNotFoundError:
            return "source tree"

    def setup(self, directory: Path, shape: Shape) -> None:
        import jlogd

        self.directory = directory
        self.address = str(directory / LOG)
        jlogd.create(self.address, subscribers=[SUBSCRIBER])

    def open(self) -> Any:
        """The log."""
        import jlogd

        return jlogd.open(self.address)

    def connect(self, shape: Shape) -> Producer:
        return _JlogdProducer(self.open())

    def read_all(self) -> int:
        with self.open() as log:
            return sum(len(batch.records()) for batch in log.subscriber(start="begin"))

    def forward_all(self) -> int:
        """Take every batch as it is, undecoded, as a forwarder does; bytes of the bodies."""
        with self.open() as log:
            return sum(len(batch.body) for batch in log.subscriber(start="begin"))

    def follow(self, seconds: float) -> Generator[Records, None, None]:
        stop = threading.Event()
        timer = threading.Timer(seconds, stop.set)
        timer.start()
        try:
            with self.open() as log:
                for batch in log.subscriber(start="begin", follow=True, stop=stop):
                    yield list(batch)
        finally:
            timer.cancel()


class JlogdThreads(JlogdLocal):
    """Producers that share a process, and so a group commit."""

    key, label = "jlogd-threads", "jlogd, threads"
    sharing: ClassVar[str] = "threads"
    follows: ClassVar[bool] = False


class JlogdJournal(JlogdLocal):
    """The journal alone: one commit a batch in the producer's thread, without writer and group commit."""

    key, label = "jlogd-journal", "jlogd, journal alone"
    streams: ClassVar[bool] = False
    follows: ClassVar[bool] = False

    def connect(self, shape: Shape) -> Producer:
        return _JournalProducer(self.address)


class _JlogdProducer(Producer):
    def __init__(self, log: Any) -> None:
        self.log = log
        self.writer = log.writer()

    def append(self, payload: Records) -> None:
        self.writer.extend(payload)
        self.writer.flush()

    def submit(self, payload: Records) -> None:
        self.writer.extend(payload)

    def drain(self) -> None:
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()
        self.log.close()


class _JournalProducer(Producer):
    def __init__(self, path: str) -> None:
        from jlogd.journal.journal import Journal

        self.journal = Journal.open(path)

    def append(self, payload: Records) -> None:
        from jlogd.journal.batch import encode

        for outcome in self.journal.commit([encode(payload)]):
            if isinstance(outcome, Exception):
                raise outcome

    def close(self) -> None:
        self.journal.close()
