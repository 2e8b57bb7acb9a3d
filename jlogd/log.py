"""What `jlogd.open` returns: a log with few methods, the same for one in a directory and one behind a daemon.

with jlogd.open("var/spool/mainlog") as log:
    with log.writer() as writer:
        writer.append(b"...")
    for batch in log.subscriber("master"):
        ...
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from pathlib import Path

from jlogd.errors import Closed
from jlogd.journal.disk import PosixDisk
from jlogd.journal.journal import Journal
from jlogd.journal.producers import producer_id
from jlogd.journal.stat import log_stat
from jlogd.journal.subscribers import Subscribers
from jlogd.journal.types import Caps, LogStat, Start, SubscriberStat
from jlogd.journal.view import View
from jlogd.spoolcheck.verdict import told_risks
from jlogd.subscriber.local import EphemeralFeed, NamedFeed
from jlogd.subscriber.subscriber import Subscriber, close_abandoned
from jlogd.writer.committer import Committer
from jlogd.writer.local import LocalSink
from jlogd.writer.writer import LINGER_MS, OnFull, Writer


class Log(ABC):
    """One log. A context manager; everything taken from it is to be closed before it."""

    name: str
    target: str

    @abstractmethod
    def writer(self, *, producer: str = "", linger_ms: float = LINGER_MS, on_full: OnFull = "raise") -> Writer:
        """A writer; see `Writer` for its options."""

    @abstractmethod
    def subscriber(
        self,
        name: str | None = None,
        *,
        start: Start = "begin",
        follow: bool = False,
        stop: threading.Event | None = None,
    ) -> Subscriber:
        """Consume as subscriber `name`, from where it left off; without a name, read from `start` and leave no trace.

        Raises `SubscriberUnknown`, `SubscriberBusy`, `UsageError`.
        """

    @abstractmethod
    def add_subscriber(self, name: str, start: Start = "begin", caps: Caps | None = None) -> None:
        """Add a subscriber; without `caps` those of the log hold. Raises `SubscriberExists`, `UsageError`."""

    @abstractmethod
    def remove_subscriber(self, name: str) -> None:
        """Remove a subscriber and what only it held back. Raises `SubscriberUnknown`, `SubscriberBusy`."""

    @abstractmethod
    def set_subscriber(self, name: str, start: Start) -> None:
        """Move a subscriber, forward or back. Raises `SubscriberUnknown`, `SubscriberBusy`, `UsageError`."""

    @abstractmethod
    def set_caps(self, name: str, caps: Caps | None) -> None:
        """Change how far a subscriber may fall behind; None: as far as the log lets it.

        A consumer that reads as `name` behind the same daemon reads on. Raises `SubscriberUnknown`, `SubscriberBusy`.
        """

    @abstractmethod
    def clone_subscriber(self, name: str, source: str) -> None:
        """Add `name` where `source` is. Raises `SubscriberUnknown`, `SubscriberExists`."""

    @abstractmethod
    def stat(self) -> LogStat:
        """The log and its subscribers as they are now."""

    @abstractmethod
    def producer_position(self, producer: str) -> int | None:
        """Where the last durable batch of a named producer ended, in its own positions."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the log. A second call does nothing."""

    def subscribers(self) -> list[SubscriberStat]:
        """The subscribers as they are now."""
        return self.stat().subscribers

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class LocalLog(Log):
    """A log in a directory of this host.

    Looking and ephemeral reading need no more than the permission to read; the first thing that changes the log joins
    its owner, which refuses it where another host owns the log.
    """

    def __init__(self, path: Path) -> None:
        """Raises `LogNotFound`, `FormatError`."""
        self._path = path.absolute()  # whatever the working directory becomes
        self._view = View(self._path, PosixDisk())
        self._mutex = threading.Lock()
        self._journal: Journal | None = None
        self._committer: Committer | None = None
        self._users = 0
        self._closed = False
        self.name = path.resolve().name
        self.target = str(path)

    def writer(self, *, producer: str = "", linger_ms: float = LINGER_MS, on_full: OnFull = "raise") -> Writer:
        journal = self._join()
        with self._mutex:
            if self._committer is None:
                self._committer = Committer(journal)
            sink = LocalSink(self._committer, self._leave)
        compression = journal.settings.compression
        return Writer(sink, producer=producer, linger_ms=linger_ms, compression=compression, on_full=on_full)

    def subscriber(
        self,
        name: str | None = None,
        *,
        start: Start = "begin",
        follow: bool = False,
        stop: threading.Event | None = None,
    ) -> Subscriber:
        if name is None:
            return Subscriber(EphemeralFeed(self._view, start), follow=follow, stop=stop)
        close_abandoned()  # one of them may hold the name
        journal = self._join()
        try:
            hold = journal.hold(name)
        except BaseException:
            self._leave()
            raise
        return Subscriber(NamedFeed(journal, hold, self._leave), follow=follow, stop=stop)

    def add_subscriber(self, name: str, start: Start = "begin", caps: Caps | None = None) -> None:
        self._joined().add_subscriber(name, start, caps)

    def remove_subscriber(self, name: str) -> None:
        self._joined().remove_subscriber(name)

    def set_subscriber(self, name: str, start: Start) -> None:
        self._joined().set_subscriber(name, start)

    def set_caps(self, name: str, caps: Caps | None) -> None:
        self._joined().set_caps(name, caps)

    def clone_subscriber(self, name: str, source: str) -> None:
        self._joined().clone_subscriber(name, source)

    def stat(self) -> LogStat:
        if self._closed:
            raise Closed(f"{self.target} was closed")
        found = self._journal.stat() if self._journal else log_stat(self._view, Subscribers(self._view))
        found.target = self.target
        found.risks = told_risks(self._path.parent)
        return found

    def producer_position(self, producer: str) -> int | None:
        return self._joined().producer_position(producer_id(producer))

    def close(self) -> None:
        with self._mutex:
            self._closed = True
            if not self._users:
                self._release()

    def _join(self) -> Journal:
        """The journal, counted as in use until `_leave`."""
        journal = self._joined()
        with self._mutex:
            self._users += 1
        return journal

    def _joined(self) -> Journal:
        with self._mutex:
            if self._closed:
                raise Closed(f"{self.target} was closed")
            if self._journal is None:
                self._journal = Journal.open(self._path)
            return self._journal

    def _leave(self) -> None:
        with self._mutex:
            self._users -= 1
            if self._closed and not self._users:
                self._release()

    def _release(self) -> None:
        if self._committer is not None:
            self._committer.close()
            self._committer = None
        if self._journal is not None:
            self._journal.close()
            self._journal = None
