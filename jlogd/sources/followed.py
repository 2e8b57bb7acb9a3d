"""One followed file: opened, recognised, read in whole blocks.

`position` is the offset up to which batches were handed over. Reading takes the bytes before it along, in the same
call, and compares them with what was handed over: a file that was truncated and has grown again is noticed, however
long it is now. A block is cut at its last newline and handed over as it is; only lines over the limit are looked at
one by one.

Locking: none; belongs to the thread of its source.
"""

from __future__ import annotations

import os
import stat
import time
from contextlib import suppress

from jlogd.journal.batch import Batch, encode, from_body
from jlogd.journal.producers import producer_id
from jlogd.sources.base import BLOCK_BYTES
from jlogd.sources.file_state import TAIL_BYTES_MAX, FileRecord, digest, first_line, producer_name
from jlogd.sources.framing import cut, longest_over

# The last, unfinished line is kept in memory up to this size, for the case that the file is truncated under it.
HELD_BYTES_MAX = 64 << 10
# A file whose time of change is as young as this may change again without a new time: it is read to be sure.
RACY_NS = 50_000_000


class Replaced(Exception):
    """The file is no longer what was followed: truncated or overwritten in place."""


class Followed:
    """A file that is followed, or will be once its first line is complete (`record` is None until then)."""

    def __init__(self, path: str, key: tuple[int, int], record: FileRecord | None = None, position: int = 0) -> None:
        self.path = path
        self.key = key
        self.record = record
        self.position = position
        self.fd = -1
        self.saved = record is not None  # its identity is on disk: batches may be sent
        self.sent = False  # a batch of it was sent in this life
        self.heard = False  # the log knows its producer
        self.vanished = False  # it has lost its file because that is not to be found, not because it was overwritten
        self.held = b""
        self.nameless_since: float | None = None
        self.copy_size = -1  # while it is taken for a copy in the making: its size, and when that last changed
        self.copy_since = 0.0
        self.cutting = False  # pieces of an unfinished long line were sent
        self.oversized = 0
        self.at_end = False
        self._seen = (-1, -1)
        self._seen_ns = 0
        self._before = b""
        self._next_tail = b""
        self._producer = producer_id(record.producer) if record else 0

    @property
    def producer(self) -> int:
        """The number under which the log knows this incarnation."""
        return self._producer

    def open(self) -> int:
        """Open the file by its path if that still leads to it; its size, or -1."""
        if self.fd < 0:
            self.fd = open_regular(self.path)
        if self.fd < 0:
            return -1
        status = os.fstat(self.fd)
        if (status.st_dev, status.st_ino) != self.key:
            self.close()
            return -1
        return status.st_size

    def recognised(self, size: int) -> bool:
        """Whether the opened file is the incarnation remembered. Makes it ready to be read."""
        record = self.record
        if record is None or not record.matches(self.fd, size, self.position):
            return False
        if record.tail_at != self.position:
            start = max(0, self.position - TAIL_BYTES_MAX)
            record.remember_tail(self.position, os.pread(self.fd, self.position - start, start))
        return True

    def still_itself(self) -> bool:
        """Whether the file, opened or not, is still this incarnation; leaves everything as it is."""
        fd = self.fd if self.fd >= 0 else open_regular(self.path)
        if fd < 0 or self.record is None:
            return True  # not to be told now
        try:
            return self.record.matches(fd, os.fstat(fd).st_size, self.position)
        except OSError:
            return True
        finally:
            if fd != self.fd:
                os.close(fd)

    def close(self) -> None:
        """Give up the descriptor; what is not read yet is found again by the next look at its size."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def changed(self, status: os.stat_result) -> bool:
        """Whether a closed file may have something to read."""
        return not self._unchanged(status)

    def begin(self, source: str, at_end: bool, limit: int, whole: bool = False) -> None:
        """Become a new incarnation, read from its beginning or after its last newline; `whole`: it has no line yet."""
        first = first_line(self.fd) or (os.pread(self.fd, limit, 0) if whole else b"")
        position = last_line_start(self.fd, limit) if at_end else 0
        start = max(0, position - TAIL_BYTES_MAX)
        tail = os.pread(self.fd, position - start, start)
        self.position = position
        self.record = FileRecord(
            producer=producer_name(source), path=self.path, device=self.key[0], inode=self.key[1],
            first_bytes=len(first), first_hash=digest(first), begin=self.position, position=self.position,
        )  # fmt: skip
        self.record.remember_tail(self.position, tail)
        self._producer = producer_id(self.record.producer)
        self.saved = False
        self.at_end = False

    def next_batch(self, limit: int) -> Batch | None:
        """The next whole lines as a numbered batch; None when there are none. Raises `Replaced`."""
        status = os.fstat(self.fd)
        now_ns = time.time_ns()
        seen = (status.st_size, status.st_mtime_ns)
        if self._unchanged(status):
            return None
        fresh = self._read(max(BLOCK_BYTES, limit + 1), status.st_size)
        end = fresh.rfind(b"\n")
        if end < 0 and len(fresh) <= limit:
            self.held = fresh if len(fresh) <= HELD_BYTES_MAX else b""
            self._seen, self._seen_ns, self.at_end = seen, now_ns, True
            return None
        self.at_end = False
        self.held = b""
        return self._numbered(fresh, end, limit)

    def last_batch(self, limit: int) -> Batch | None:
        """The unfinished last line as a batch, once the file is gone. Raises `Replaced`."""
        fresh = self._read(limit, os.fstat(self.fd).st_size)
        return self._whole(fresh, fresh, 1) if fresh and b"\n" not in fresh else None

    def held_batch(self) -> Batch | None:
        """The unfinished last line as it was seen before the file was truncated."""
        return self._whole(self.held, self.held, 1) if self.held else None

    def taken(self, batch: Batch) -> None:
        """The batch was handed over."""
        assert self.record is not None
        self.sent = True
        self.position = batch.producer_to
        self.record.remember_tail(self.position, self._next_tail)
        self.held = b""

    def shares_content(self, other: Followed) -> bool:
        """Whether one of the two files begins like the other ends, as a copy of it does."""
        mine, theirs = os.fstat(self.fd).st_size, other.size_now()
        common = min(mine, theirs)
        start = max(0, common - TAIL_BYTES_MAX)
        return common > 0 and os.pread(self.fd, common - start, start) == other.bytes_at(start, common - start)

    def size_now(self) -> int:
        """Its size, opened or not; 0 when it cannot be found."""
        with suppress(OSError):
            return (os.fstat(self.fd) if self.fd >= 0 else os.stat(self.path)).st_size
        return 0

    def bytes_at(self, start: int, length: int) -> bytes:
        """Bytes of the file, opened or not; none when it cannot be read."""
        fd = self.fd if self.fd >= 0 else open_regular(self.path)
        if fd < 0:
            return b""
        try:
            return os.pread(fd, length, start)
        except OSError:
            return b""
        finally:
            if fd != self.fd:
                os.close(fd)

    def _unchanged(self, status: os.stat_result) -> bool:
        same = self._seen == (status.st_size, status.st_mtime_ns)
        return self.at_end and same and self._seen_ns - status.st_mtime_ns > RACY_NS

    def _read(self, length: int, size: int) -> bytes:
        """Up to `length` bytes after `position`, once those before it are as remembered."""
        record = self.record
        assert record is not None
        if size < self.position:
            raise Replaced
        tail = record.tail_bytes
        data = os.pread(self.fd, tail + length, self.position - tail)
        if len(data) < tail or not record.tail_is(data[:tail]):
            raise Replaced
        self._before = data[:tail]
        return data[tail:]

    def _numbered(self, fresh: bytes, end: int, limit: int) -> Batch:
        if end < 0:  # a line over the limit that has not ended
            pieces = cut(fresh, limit)[:-1]
            self.oversized += not self.cutting
            self.cutting = True
            return self._records(fresh[: limit * len(pieces)], pieces)
        body = fresh[:end]
        if len(body) > limit and longest_over(body, b"\n", limit):
            lines = body.split(b"\n")
            self.oversized += sum(len(line) > limit for line in lines) - (self.cutting and len(lines[0]) > limit)
            self.cutting = False
            return self._records(fresh[: end + 1], [piece for line in lines for piece in cut(line, limit) or [b""]])
        self.cutting = False
        return self._whole(fresh[: end + 1], body, body.count(b"\n") + 1)

    def _whole(self, used: bytes, body: bytes, count: int) -> Batch:
        self._next_tail = used if len(used) >= TAIL_BYTES_MAX else self._before + used
        return from_body(body, count).numbered(self._producer, self.position, self.position + len(used))

    def _records(self, used: bytes, records: list[bytes]) -> Batch:
        self._next_tail = used if len(used) >= TAIL_BYTES_MAX else self._before + used
        return encode(records).numbered(self._producer, self.position, self.position + len(used))


def open_regular(path: str) -> int:
    """A descriptor of a regular file for reading, or -1."""
    try:
        # Not blocking: a FIFO put in the place of the file must not hold the thread.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return -1
    with suppress(OSError):
        if stat.S_ISREG(os.fstat(fd).st_mode):
            return fd
    os.close(fd)
    return -1


def last_line_start(fd: int, limit: int) -> int:
    """The offset after the last newline; the end of the file when there is none within `limit` bytes of it."""
    size = os.fstat(fd).st_size
    start = max(0, size - limit)
    found = os.pread(fd, size - start, start).rfind(b"\n")
    return start + found + 1 if found >= 0 else (size if start else 0)
