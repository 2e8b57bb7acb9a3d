"""The writer: takes records from any number of threads, makes batches of them, and knows which are durable.

A batch is closed when it is large enough, when its oldest record has lingered long enough, or at a `flush`. Batches are
numbered with the writer's position (records so far), so that one that is sent twice, because its acknowledgement was
lost, is kept once. Which of them the sink may have, and in which order, `unsettled.py` decides.

Locking: `_changed` guards everything. Producers wait on it while too many bytes are under way; the sink's thread calls
`_settle` and never waits for a producer.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import Literal

from jlogd.errors import Closed, DiskFailed, JlogError, LogFull, ProducerGap, SpoolFull, TooLarge, UsageError
from jlogd.journal.batch import (
    BATCH_RECORDS_MAX,
    LINES,
    RECORD_BYTES_MAX,
    Batch,
    check_record_sizes,
    compress,
    encode,
    from_body,
)
from jlogd.journal.producers import producer_id
from jlogd.journal.types import Receipt
from jlogd.writer.sink import Sink
from jlogd.writer.unsettled import Sent, Unsettled

# A batch of this size costs as little per byte as a larger one, and four of them fit the cache of one core.
BATCH_BYTES = 256 << 10
# What a crash of the producer can take with it, and what an unreachable daemon makes it hold.
IN_FLIGHT_BYTES_MAX = 16 << 20
# Long enough to gather a busy producer's records, short enough that nobody sees it.
LINGER_MS = 5.0
# Records handed over at once are cut into pieces of this many, so that one call never makes an oversized batch.
PIECE_RECORDS = 10_000
# A list of this many is a batch of its own: it is not measured and gathered first.
DIRECT_RECORDS = 2048
# Between attempts while the log is full: often enough to go on soon, seldom enough to cost nothing.
RETRY_SECONDS = 0.1

OnFull = Literal["raise", "wait"]


class Writer:
    """Appends records to a log. Use it as a context manager, or `close` it: both flush.

    >>> with log.writer() as writer:                                               # doctest: +SKIP
    ...     writer.append(b"a record")
    ...     writer.flush()          # returns when everything before it is durable
    """

    def __init__(
        self,
        sink: Sink,
        *,
        producer: str = "",
        linger_ms: float = LINGER_MS,
        compression: str = "none",
        on_full: OnFull = "raise",
    ) -> None:
        """`producer` names a producer whose position the log remembers across restarts; see `position`.

        When the log or its disk is full, or the disk fails, `on_full` says whether the next call raises that, or waits
        until it is over.
        """
        self._sink = sink
        self._producer = producer_id(producer)
        known = sink.position(self._producer) if producer else None
        self._position = known or 0
        self._compress = compression == "zstd"
        self._linger = linger_ms / 1000
        self._wait_when_full = on_full == "wait"
        self._changed = threading.Condition()
        self._records: list[bytes] = []
        self._bytes = 0
        self._oldest = 0.0
        self._futures: list[tuple[int, Future[Receipt]]] = []
        self._unsettled = Unsettled(self._producer, introduced=known is not None)
        self._leading = False  # a thread that flushes submits the rest itself; nobody may overtake it
        self._error: JlogError | None = None
        self._closed = False
        self._process = os.getpid()
        self._thread: threading.Thread | None = None
        self._idle = False  # the thread waits to be kicked
        self._kick = threading.Event()
        self._ended = threading.Event()
        self._retry_at = 0.0
        self.durable = 0
        self.full: JlogError | None = None  # why the log takes nothing now, while it does not

    @property
    def position(self) -> int:
        """The producer's position after everything that was appended."""
        with self._changed:
            return self._position + len(self._records)

    def append(self, record: bytes, *, receipt: bool = False) -> Future[Receipt] | None:
        """Append one record. Waits while too much is under way; with `receipt`, a future of its sequence number.

        Raises `TooLarge`, `Closed`, and the error of an earlier batch that was refused.
        """
        if not isinstance(record, bytes):
            raise TypeError(f"a record is bytes, not {type(record).__name__}; encode it")
        if len(record) > RECORD_BYTES_MAX:
            raise TooLarge(f"a record has {len(record)} bytes; the limit is {RECORD_BYTES_MAX}")
        with self._changed:
            self._admit(len(record))
            future: Future[Receipt] | None = Future() if receipt else None
            if future is not None:
                self._futures.append((len(self._records), future))
            self._add([record], len(record))
        return future

    def extend(self, records: Iterable[bytes]) -> None:
        """Append many records, in order; see `append`."""
        if isinstance(records, list) and len(records) <= PIECE_RECORDS:
            self._extend(records)
            return
        iterator = iter(records)
        while piece := list(islice(iterator, PIECE_RECORDS)):
            self._extend(piece)

    def extend_lines(self, data: bytes) -> None:
        """Append a block of lines, each ended by a newline (the last may lack it), without looking at each of them."""
        body = data.removesuffix(b"\n")
        count = body.count(b"\n") + 1
        if not data:
            return
        if count > BATCH_RECORDS_MAX or len(body) > RECORD_BYTES_MAX:
            self.extend(body.split(b"\n"))
            return
        self.send(from_body(body, count, LINES))

    def send(self, batch: Batch) -> None:
        """Append a ready batch. One that carries its own producer keeps its numbering."""
        with self._changed:
            self._admit(batch.size)
            self._close_batch()
            self._submit(batch, [])

    def flush(self, timeout: float | None = None) -> None:
        """Return when everything appended before is durable.

        Raises the error of a batch that was refused, `TimeoutError`.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        self._check_process()
        with self._changed:
            may_lead = not (self._unsettled.awaited or self._unsettled.stalled or self._leading)
            self._leading = self._leading or may_lead
            self._close_batch()
        if may_lead:
            self._lead()
        with self._changed:
            batches = self._unsettled.batches
            while batches and self._error is None:
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    why = f": {self.full}" if self.full else ""
                    raise TimeoutError(f"{len(batches)} batches are not durable after {timeout} seconds{why}")
                self._changed.wait(left)
            self._raise_error()

    def close(self, timeout: float | None = None) -> None:
        """Flush, then let go of the log. Raises what `flush` raises; a second call does nothing."""
        if self._closed or self._process != os.getpid():
            return
        try:
            self.flush(timeout)
        finally:
            with self._changed:
                self._closed = True
                self._changed.notify_all()
            self._kick.set()
            self._ended.set()
            if self._thread is not None:
                self._thread.join()
            self._sink.close()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _extend(self, records: list[bytes]) -> None:
        if len(records) >= DIRECT_RECORDS:
            with suppress(TooLarge):
                batch = encode(records)
                if len(batch.body) <= 4 * BATCH_BYTES:
                    self.send(batch)
                    return
        size = sum(map(len, records))
        if size > RECORD_BYTES_MAX:
            check_record_sizes(records)
        with self._changed:
            for piece, piece_bytes in _pieces(records, size):
                self._admit(piece_bytes)
                self._add(piece, piece_bytes)

    def _lead(self) -> None:
        """Submit what is there from this thread, which is going to wait for it anyway."""
        sent: list[Sent] = []
        try:
            with self._changed:
                sent.extend(iter(self._unsettled.next, None))
            if sent:
                self._sink.commit_here([(each.batch, partial(self._settle, each)) for each in sent])
        except BaseException:
            with self._changed:  # interrupted (Ctrl-C) while it was committed: nobody will say what became of it
                self._unsettled.take_back(sent, self._position)
            raise
        finally:
            with self._changed:
                self._leading = False
                self._hand_over()

    def _check_process(self) -> None:
        if self._process != os.getpid():
            raise Closed("the writer belongs to the process that this one was forked from; open the log again")

    # Called with `_changed` held

    def _admit(self, size: int) -> None:
        """Wait until `size` more bytes may be under way."""
        while True:
            self._check_process()
            if self._closed:
                raise Closed("the writer was closed")
            self._raise_error()
            if not self._unsettled.batches or self._unsettled.bytes + size <= IN_FLIGHT_BYTES_MAX:
                return
            self._changed.wait()

    def _add(self, records: list[bytes], size: int) -> None:
        if not self._records:
            self._oldest = time.monotonic()
            self._wake_thread()
        self._records += records
        self._bytes += size
        if self._bytes >= BATCH_BYTES or len(self._records) >= PIECE_RECORDS:
            self._close_batch()

    def _close_batch(self) -> None:
        records, self._records, self._bytes = self._records, [], 0
        futures, self._futures = self._futures, []
        if not records:
            return
        try:
            batch = encode(records)
        except TypeError as error:
            self._error = self._error or UsageError(f"records are bytes: {error}; none of this batch was appended")
            _resolve(futures, self._error)
            return
        self._submit(batch, futures)

    def _submit(self, batch: Batch, futures: list[tuple[int, Future[Receipt]]]) -> None:
        numbered = not batch.producer
        if numbered:
            start, self._position = self._position, self._position + batch.count
            batch = batch.numbered(self._producer, start, self._position)
        if self._compress:
            batch = compress(batch)
        self._unsettled.add(Sent(batch, futures, numbered))
        self._hand_over()

    def _hand_over(self) -> None:
        """Give the sink what it may have now."""
        while not self._leading and (sent := self._unsettled.next()) is not None:
            self._sink.submit(sent.batch, partial(self._settle, sent))

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    def _wake_thread(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
            self._thread.start()
        if self._idle:
            self._idle = False
            self._kick.set()

    # The sink's thread, which holds nothing

    def _settle(self, sent: Sent, outcome: Receipt | JlogError) -> None:
        with self._changed:
            if self._is_foreign(sent, outcome):
                outcome = UsageError(
                    "the log has this part of the producer already, from another writer: a producer's name belongs to "
                    "one writer at a time; what was appended last is not in the log"
                )
            if self._may_retry(outcome):
                self._unsettled.refused_for_now()
                self._retry_at = time.monotonic() + RETRY_SECONDS
                self._wake_thread()
                return
            if isinstance(outcome, Receipt):
                settled = [sent]
                self._unsettled.accepted(sent)
                self.durable += sent.batch.count
                self.full = None
                self._hand_over()
            else:
                settled = self._unsettled.refused(sent)
                self._error = self._error or outcome
            self._changed.notify_all()
        for each in settled:
            _resolve(each.futures, outcome)

    def _is_foreign(self, sent: Sent, outcome: Receipt | JlogError) -> bool:
        """Whether a batch that was sent once is said to be a repetition: then it is one of somebody else's."""
        if not isinstance(outcome, Receipt) or not outcome.duplicate or self._sink.resends:
            return False
        return not self._unsettled.may_be_repeated(sent)

    def _may_retry(self, outcome: Receipt | JlogError) -> bool:
        """Whether the batch is kept to be sent again: the log takes nothing now, or did when an earlier one came."""
        if not self._wait_when_full or self._closed:
            return False
        if isinstance(outcome, LogFull | SpoolFull | DiskFailed):
            self.full = outcome
            return True
        return self._unsettled.stalled and isinstance(outcome, ProducerGap)

    # This writer's own thread: lingering batches, and those that met a full log. It sleeps apart from `_changed`, so
    # that a producer that flushes by itself is not in its way: it looks about once in the time of a linger.

    def _run(self) -> None:
        while not self._closed:
            with self._changed:
                pause = self._look_after()
            if pause is None:
                self._kick.wait()
                self._kick.clear()
            else:
                self._ended.wait(pause)

    def _look_after(self) -> float | None:
        """Do what is due; the seconds until the next look, None when there is nothing to look after."""
        if self._unsettled.stalled:
            if not self._unsettled.awaited and time.monotonic() >= self._retry_at:
                self._try_again()
            return RETRY_SECONDS / 4
        if not self._records or self._error is not None:
            self._idle = True
            return None
        left = self._oldest + self._linger - time.monotonic()
        if left > 0:
            return left
        self._close_batch()
        return self._linger

    def _try_again(self) -> None:
        if not self._closed:
            self._unsettled.again(self._position)
            self._hand_over()


def _resolve(futures: list[tuple[int, Future[Receipt]]], outcome: Receipt | JlogError) -> None:
    """Tell those that wait for receipts of one batch."""
    for at, future in futures:
        if not future.set_running_or_notify_cancel():
            continue
        if isinstance(outcome, Receipt):
            future.set_result(Receipt(outcome.first + at if outcome.first else 0, 1, outcome.duplicate))
        else:
            future.set_exception(outcome)


def _pieces(records: list[bytes], size: int) -> list[tuple[list[bytes], int]]:
    """`records` cut so that each piece makes a batch of acceptable size, with the bytes of each."""
    if size <= 4 * BATCH_BYTES or len(records) == 1:
        return [(records, size)]
    middle = len(records) // 2
    left = sum(map(len, records[:middle]))
    return _pieces(records[:middle], left) + _pieces(records[middle:], size - left)
