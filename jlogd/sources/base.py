"""What all sources share: a thread that ends cleanly, counters, and the way to the writer.

A source runs in one thread of its own. It hands what it read to a `BatchWriter` and blocks when that blocks: this is
the back pressure (a TCP peer is pushed back by the kernel, a file waits, UDP is dropped by the kernel and counted).
An error of the writer ends the source and is kept in `failed`: give it a writer that waits for a full log
(`on_full="wait"`).

Locking: none but that of `Wakeup`. Counters are written by the source's thread only and read by anybody.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterable, Sequence
from typing import Protocol

from jlogd.errors import JlogError, UsageError
from jlogd.journal.batch import Batch, encode, from_body

log = logging.getLogger("jlogd.sources")

# Read and handed over in pieces of this size: large enough that the cost per piece is nothing per record, small enough
# to stay in the processor's cache between receiving and checksumming.
BLOCK_BYTES = 256 << 10
# Pieces of one round are joined up to this many records, half of what a batch may hold.
ROUND_RECORDS_MAX = 1 << 19
# At a stop, what has arrived is read for at most this long: a sender that never pauses must not hold us.
STOP_DRAIN_S = 1.0
# Rounds below this are left to the writer, which lingers a few milliseconds and joins them: a batch costs 96 bytes
# and some microseconds, a record split off and joined again 0.1 microseconds.
SMALL_ROUND_BYTES = 16 << 10


class BatchWriter(Protocol):
    """What a source needs of a writer. `send` and `extend` block while too much is under way."""

    def send(self, batch: Batch) -> object:
        """Take a ready batch, in order."""

    def extend(self, records: Iterable[bytes]) -> object:
        """Take records, in order with the batches; they may linger for some milliseconds."""

    def flush(self, timeout: float | None = None) -> object:
        """Return when all that was sent is durable."""


class Source:
    """A thread that reads input and sends batches; see the module's text.

    `failed` is the error that ended it, None while all is well. A subclass gives `_open` (may raise: nothing started
    yet), `_run` (until `_stopping` is set or the input ends) and `_close`.
    """

    def __init__(self, name: str, counters: Sequence[str]) -> None:
        self.name = name
        self.failed: BaseException | None = None
        self._counters = dict.fromkeys(counters, 0)
        self._stopping = threading.Event()
        self._stop_by = float("inf")  # monotonic seconds: what is left is given up then
        self._thread: threading.Thread | None = None

    @property
    def running(self) -> bool:
        """Whether the source still reads. False before `start`, after the end of the input, after a failure."""
        return self._thread is not None and self._thread.is_alive()

    def start(self, writer: BatchWriter) -> None:
        """Begin. Raises what prevents it (an address in use, ...), before anything runs."""
        if self._thread is not None:
            raise UsageError(f"the source {self.name} was started before; make a new one")
        self._open(writer)
        self._thread = threading.Thread(target=self._main, args=(writer,), name=f"source-{self.name}", daemon=True)
        self._thread.start()

    def stop(self, timeout: float = 5.0) -> bool:
        """Take in what has already arrived, hand it over, make it durable and end; False when that took too long.

        A writer that blocks can hold the thread longer than `timeout` seconds: closing the writer frees it.
        """
        self._stop_by = time.monotonic() + timeout
        self._stopping.set()
        self._wake()
        return self.join(timeout)

    def join(self, timeout: float | None = None) -> bool:
        """Wait until the source has ended by itself (the end of standard input, a failure)."""
        if self._thread is None:
            return True
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def stats(self) -> dict[str, int]:
        """The counters since the start."""
        return dict(self._counters)

    def _main(self, writer: BatchWriter) -> None:
        try:
            self._run(writer)
            writer.flush(None if self._stop_by == float("inf") else max(0.0, self._stop_by - time.monotonic()))
        except BaseException as error:
            self.failed = error
            expected = isinstance(error, (JlogError, OSError))
            log.error("the source %s stopped: %s", self.name, error, exc_info=not expected)
        finally:
            self._close()

    def _open(self, writer: BatchWriter) -> None:
        """Get what is needed before the thread starts."""

    def _run(self, writer: BatchWriter) -> None:
        """Read until `_stopping` is set or the input ends."""
        raise NotImplementedError

    def _wake(self) -> None:
        """Interrupt a wait of `_run`; `_stopping` is set already."""

    def _close(self) -> None:
        """Give up files and sockets; called once, by the thread."""


class Wakeup:
    """A descriptor that becomes readable when `set` is called, from any thread.

    Its lock keeps a late `set` from writing to a descriptor that was closed and belongs to something else by now.
    """

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def set(self) -> None:
        """Make `fd` readable, for good."""
        with self._mutex:
            if self.fd >= 0:
                os.eventfd_write(self.fd, 1)

    def close(self) -> None:
        """Close the descriptor; a second call does nothing."""
        with self._mutex:
            fd, self.fd = self.fd, -1
            if fd >= 0:
                os.close(fd)


class Outlet:
    """Gathers the records of one round of a source and sends them in few batches, in order.

    `counters` gets `messages` and `bytes` (of records, without terminators).
    """

    def __init__(self, writer: BatchWriter, counters: dict[str, int]) -> None:
        self._writer = writer
        self._counters = counters
        self._bodies: list[bytes] = []
        self._bytes = 0
        self._count = 0

    def lines(self, body: bytes, count: int) -> None:
        """Take `count` records that hold no newline, joined by newlines."""
        if self._count and self._count + count > ROUND_RECORDS_MAX:
            self.flush()
        self._bodies.append(body)
        self._bytes += len(body)
        self._count += count
        if self._bytes >= BLOCK_BYTES:
            self.flush()

    def records(self, records: list[bytes]) -> None:
        """Take any records."""
        if not records:
            return
        body = b"\n".join(records)
        if body.count(b"\n") == len(records) - 1:
            self.lines(body, len(records))
            return
        self.flush()
        for start in range(0, len(records), ROUND_RECORDS_MAX):
            part = records[start : start + ROUND_RECORDS_MAX]
            self._writer.send(encode(part))
            self._count_sent(len(part), sum(map(len, part)))

    def flush(self) -> None:
        """Send what was gathered."""
        if not self._count:
            return
        bodies, count, size = self._bodies, self._count, self._bytes
        self._bodies, self._count, self._bytes = [], 0, 0
        body = b"\n".join(bodies)  # one body is returned as it is
        if size < SMALL_ROUND_BYTES:
            self._writer.extend(body.split(b"\n"))
        else:
            self._writer.send(from_body(body, count))
        self._count_sent(count, size + len(bodies) - count)

    def _count_sent(self, records: int, record_bytes: int) -> None:
        self._counters["messages"] += records
        self._counters["bytes"] += record_bytes
