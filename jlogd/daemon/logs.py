"""The logs a daemon has open: one journal and one committer each.

All logs of the spool are opened at the start, those of the configuration and those that were made otherwise, so that a
request never waits for a recovery. Locking: `_mutex` guards the table; opening and making logs holds it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from jlogd.daemon.served import Served
from jlogd.errors import FormatError, JlogError, LogExists, LogNotFound, SubscriberExists
from jlogd.journal.disk import PosixDisk
from jlogd.journal.journal import Journal
from jlogd.journal.layout import Layout, no_meta, without_meta
from jlogd.journal.types import NAME, LogStat, Settings, check_name
from jlogd.spoolcheck.verdict import told_risks
from jlogd.writer.committer import Committer
from jlogd.writer.local import LocalSink
from jlogd.writer.writer import Writer

_log = logging.getLogger("jlogd.logs")

ObserveSync = Callable[[float], None]


class SpoolLogs:
    """The logs of one spool directory. Methods may be called from any thread."""

    def __init__(self, spool: Path, observer: Callable[[str], ObserveSync]) -> None:
        """`observer` gives, for the name of a log, what is told the seconds of its syncs."""
        self.spool = spool.absolute()
        self._observer = observer
        self._mutex = threading.Lock()
        self._served: dict[str, Served] = {}
        self.unserved: dict[str, str] = {}  # logs of the spool that could not be opened, and why

    def open_all(self, wanted: Mapping[str, tuple[Settings, Sequence[str]]]) -> None:
        """`ensure` the logs that are wanted, by name, and open what else lies in the spool.

        One that is damaged is told and left out, and so is whatever was not wanted and cannot be opened. Raises what
        keeps a wanted one from being opened for any other reason, and damage when it leaves none of them.
        """
        left_out: dict[str, str] = {}
        for name, (settings, subscribers) in wanted.items():
            try:
                self.ensure(name, settings, subscribers)
            except (FormatError, LogExists) as error:
                left_out[name] = str(error)
                if left_out.keys() == wanted.keys():
                    raise
        for path in sorted(self.spool.iterdir()):
            if NAME.fullmatch(path.name) and path.name not in self._served and path.name not in left_out:
                why = self._try_open(path)
                left_out.update({path.name: why} if why else {})
        for name, why in left_out.items():
            if why != self.unserved.get(name):
                _log.error("%s is not served: %s", self.spool / name, why)
        self.unserved = left_out

    def _try_open(self, path: Path) -> str:
        """Open what lies in the spool, if that is a log; why it cannot be, or ""."""
        if not Layout(path).meta.exists():
            return no_meta(path) if without_meta(PosixDisk(), path) else ""
        try:
            self._open(path.name)
        except (JlogError, OSError) as error:
            return str(error)
        return ""

    def ensure(self, name: str, settings: Settings, subscribers: Sequence[str]) -> Served:
        """Open a log with these settings and at least these subscribers, making it when it is not there."""
        if not Layout(self.spool / name).meta.exists():
            return self._make(name, settings, subscribers)
        served = self._served.get(name) or self._open(name)
        served.journal.configure(settings)
        for subscriber in set(subscribers) - set(served.journal.subscriber_names()):
            self.add_subscriber(name, subscriber)
        return served

    def add_subscriber(self, name: str, subscriber: str) -> None:
        """Add a subscriber that the configuration names, at the oldest record, unless it is there."""
        try:
            self.get(name).journal.add_subscriber(subscriber, "begin")
        except SubscriberExists:
            return
        _log.info("%s: added subscriber %s", name, subscriber)

    def names(self) -> list[str]:
        """Names of all logs, sorted."""
        return sorted(self._served)

    def get(self, name: str, shown: Callable[[str], bool] | None = None) -> Served:
        """Raises `LogNotFound`, which names those other logs that are `shown` to whoever asks: without it none."""
        served = self._served.get(name)
        if served is None and name in self.unserved:
            raise LogNotFound(f"this daemon cannot serve log {name}; its /healthz and its own log say why")
        if served is None:
            there = ", ".join(filter(shown, self.names())) if shown else ""
            raise LogNotFound(f"this daemon has no log {name}" + (f"; there are: {there}" if there else ""))
        return served

    def create(self, name: str, settings: Settings | None, subscribers: Sequence[str]) -> Served:
        """Make a log and open it. Raises `LogExists`, which tells clients nothing of paths here, and `UsageError`."""
        try:
            return self._make(name, settings, subscribers)
        except LogExists:
            if Layout(self.spool / name).meta.exists():
                raise LogExists(f"this daemon already has a log {name}; use it, or choose another name") from None
            raise LogExists(
                f"the spool of this daemon has something else named {name}; `jlogctl list SPOOL` on its host says what"
            ) from None

    def _make(self, name: str, settings: Settings | None, subscribers: Sequence[str]) -> Served:
        check_name("log", name)
        Journal.create(self.spool / name, settings or Settings(), subscribers)
        self._forget(name)
        _log.info("made log %s", self.spool / name)
        return self._open(name)

    def writer(self, name: str) -> Writer:
        """A writer that waits while the log is full: what a source gets."""
        served = self.get(name)
        sink = LocalSink(served.committer, lambda: None)
        return Writer(sink, compression=served.journal.settings.compression, on_full="wait")

    def stats(self) -> list[LogStat]:
        """All logs as they are now; one that cannot be looked at says so in `failed`, and hides no other."""
        risks = told_risks(self.spool)
        return [_stat(name, served.journal, risks) for name, served in list(self._served.items())]

    def lost(self) -> str:
        """Why a log is not this host's any more; empty while all are."""
        return next(filter(None, (served.journal.lost() for served in list(self._served.values()))), "")

    def close(self) -> None:
        """Commit what is queued, then close all logs."""
        with self._mutex:
            for served in self._served.values():
                served.committer.close()
                served.journal.close()
            self._served.clear()

    def _forget(self, name: str) -> None:
        """Let go of a log whose directory was removed under us, now that another one has its place."""
        with self._mutex:
            served = self._served.pop(name, None)
        if served is not None:
            served.committer.close()
            served.journal.close()

    def _open(self, name: str) -> Served:
        with self._mutex:
            if name not in self._served:
                journal = Journal.open(self.spool / name)
                journal.on_sync(self._observer(name))
                self._served[name] = Served(journal, Committer(journal))
            return self._served[name]


def _stat(name: str, journal: Journal, risks: list[str]) -> LogStat:
    try:
        found = journal.stat()
        found.risks = risks
        return found
    except (JlogError, OSError) as error:
        settings = journal.settings
        return LogStat(
            name=name, target=str(journal.path), uuid=journal.uuid, bytes=0, segments=0, first=0, next=0, epoch=0,
            durability=settings.durability, compression=settings.compression, segment_bytes=settings.segment_bytes,
            created=0.0, oldest_time=0.0, newest_time=0.0, failed=f"it cannot be read: {error}", risks=risks,
        )  # fmt: skip
