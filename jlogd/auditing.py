"""`jlogd.audit`: count events by series and source address in memory, and log the sums.

    with jlogd.audit("tcp://127.0.0.1:5140") as audit:
        audit.add("spam", "192.0.2.7")
        audit.add("spam", "192.0.2.7", -1)

Every second, and when it is closed, what was counted goes to the log `audit` as a few records of text:

    audit1 <seconds> <series> <address>=<count> <address>=<count> ...

`cidr`'s as_logger reads them. `add` costs a dictionary; it never waits for the log. What was added and not yet flushed
is lost if the process dies; `flush()` returns when it is durable. What a flush could not log is kept, and sent again
with the next one, once: the log knows how much of it it has.

Locks: one for the counts in memory, one for whoever is flushing.
"""

from __future__ import annotations

import re
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from jlogd.entry import create, is_address, open
from jlogd.errors import Closed, JlogError, LogExists, LogNotFound, UsageError
from jlogd.log import Log
from jlogd.writer.writer import Writer

LOG = "audit"
FLUSH_SECONDS = 1.0
# Different (series, address) pairs in memory, and one for each thread; `add` flushes by itself before it takes more.
PAIRS_MAX = 200_000
# Records are kept to what fits a screen or two: an address and its count are about 20 bytes.
RECORD_BYTES_MAX = 32 << 10
COUNT_MAX = 1 << 48
_SERIES = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")

Address = str | IPv4Address | IPv6Address


class Audit:
    """Counts in memory. Safe for threads. A context manager: leaving it flushes and closes."""

    def __init__(self, log: Log, every: float = FLUSH_SECONDS) -> None:
        """Takes over the log. `every`: seconds between flushes."""
        self._log = log
        self._producer = f"audit-{uuid.uuid4()}"  # the log remembers how far it has come, over every writer of ours
        self._writer: Writer | None = log.writer(producer=self._producer)
        self._unsent: list[bytes] = []  # records of an earlier flush that the log may not have
        self._sent = 0  # the producer's position before them
        self._lock = threading.Lock()
        self._flushing = threading.Lock()
        self._counts: dict[tuple[str, Address], int] = {}
        self._failure: JlogError | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(every,), name="jlogd audit", daemon=True)
        self._thread.start()

    def add(self, series: str, address: Address, count: int = 1) -> None:
        """Count `count` (any whole number, negative too) for an address.

        Raises UsageError for a series, address or count that cannot be counted, and what went wrong at the last flush.
        While the log takes nothing, what is counted already is counted on; a pair too many is not, and raises.
        """
        key = series, address
        with self._lock:
            before = self._counts.get(key)
            if before is not None and type(count) is int and -COUNT_MAX <= before + count <= COUNT_MAX:
                self._counts[key] = before + count
                return
        _check(series, address, count, before or 0)
        self._raise()
        if before is None and len(self._counts) >= PAIRS_MAX:
            self.flush()
        with self._lock:
            self._counts[key] = self._counts.get(key, 0) + count

    def flush(self) -> None:
        """Log what was counted; it is durable when this returns. Raises JlogError, and keeps it for the next then."""
        with self._flushing:
            if self._closed.is_set() and not (self._counts or self._unsent):
                return
            self._send()
            with self._lock:
                counts, self._counts = self._counts, {}
            self._unsent = list(_records(counts, int(time.time())))
            self._send()
            self._failure = None

    def close(self) -> None:
        """Flush and let go of the log. A second call does nothing."""
        if self._closed.is_set():
            return
        self._closed.set()
        self._thread.join()
        try:
            self.flush()
        finally:
            self._leave_writer()
            self._log.close()

    def __enter__(self) -> Audit:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self, every: float) -> None:
        while not self._closed.wait(every):
            try:
                if self._counts:
                    self.flush()
            except JlogError as error:
                self._failure = error

    def _send(self) -> None:
        """Make what is unsent durable. A writer that failed takes nothing more: the next attempt has a new one."""
        if not self._unsent:
            return
        try:
            writer = self._writer or self._new_writer()
            writer.extend(self._unsent)
            writer.flush()
            self._sent, self._unsent = writer.position, []
        except BaseException:
            self._leave_writer()
            raise

    def _new_writer(self) -> Writer:
        self._writer = self._log.writer(producer=self._producer)
        position = self._writer.position
        del self._unsent[: max(0, position - self._sent)]  # these it has: only the answer was missing
        self._sent = position
        return self._writer

    def _leave_writer(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            with suppress(JlogError, TimeoutError):
                writer.close(0.0)

    def _raise(self) -> None:
        """A failure in the background is told to whoever adds next; the counts are kept."""
        failure, self._failure = self._failure, None
        if self._closed.is_set():
            raise Closed("the audit was closed")
        if failure is not None:
            raise failure


def audit(target: str | Path) -> Audit:
    """Count into the log `audit` of a daemon (`tcp://HOST:PORT`) or a directory of logs; or into the log named by
    `target`.

    A log that is not there is made. Raises JlogError.
    """
    place = _place(str(target))
    try:
        return Audit(open(place))
    except LogNotFound:
        with suppress(LogExists):  # another process was faster
            create(place)
        return Audit(open(place))


def _place(target: str) -> str:
    if is_address(target):
        scheme, _, rest = target.partition("://")
        named = scheme == "tcp" and "/" in rest.rstrip("/")
        return target if named else f"{target.rstrip('/')}/{LOG}"
    return target if (Path(target) / "log.json").exists() else str(Path(target) / LOG)


def _check(series: str, address: Address, count: int, before: int) -> None:
    if not isinstance(series, str) or not _SERIES.fullmatch(series):
        raise UsageError(f"{series!r} cannot name a series: 1 to 64 letters, digits, '.', '_' or '-'")
    if isinstance(count, bool) or not isinstance(count, int) or abs(before + count) > COUNT_MAX:
        raise UsageError(f"{count!r} cannot be counted: give a whole number of at most 2^48")
    try:
        ip_address(address)
    except ValueError:
        raise UsageError(f"{address!r} is not an IPv4 or IPv6 address") from None


def _records(counts: dict[tuple[str, Address], int], seconds: int) -> Iterator[bytes]:
    by_series: dict[str, list[bytes]] = {}
    for (series, address), count in counts.items():
        by_series.setdefault(series, []).append(f"{address}={count}".encode())
    for series, entries in by_series.items():
        head = f"audit1 {seconds} {series}".encode()
        record, size = [head], len(head)
        for entry in entries:
            if size + len(entry) + 1 > RECORD_BYTES_MAX:
                yield b" ".join(record)
                record, size = [head], len(head)
            record.append(entry)
            size += len(entry) + 1
        yield b" ".join(record)


__all__ = ["Audit", "audit"]
