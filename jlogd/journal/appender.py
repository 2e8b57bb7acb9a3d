"""Appending: one group of batches, one write, one sync, one outcome for each batch.

A commit, under `append.lock`, which excludes the other processes that write this log:

    learn what others did  ->  judge duplicates  ->  stamp headers  ->  roll if full  ->  write  ->  fdatasync
    ->  look at the owner's epoch  ->  publish the head  ->  outcomes

What others did, whose the log is and publishing are `shared_tail.py`'s; what a cap leaves room for is `retention.py`'s;
what producers said before is `producers.py`'s.

Locking: `_mutex` serialises the threads of this process; the file lock, the processes of this host; the owner's epoch,
the hosts. A failed sync is final: the segment is sealed at its last durable byte, and the group is written once more,
from memory, into a new segment. If that fails too, the log accepts nothing more until it is opened again, or
`try_again` recovers it.
"""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import accumulate, takewhile
from itertools import chain as flatten
from pathlib import Path

from jlogd.errors import DiskFailed, JlogError, LockUnavailable, LogFull, ProducerGap, SpoolFull
from jlogd.journal.batch import Batch
from jlogd.journal.disk import Buffer, Lock
from jlogd.journal.producers import Heard, Owed
from jlogd.journal.retention import Room
from jlogd.journal.shared_tail import SharedTail
from jlogd.journal.tail import Found, Tail, start_segment, write_all
from jlogd.journal.types import Receipt, Settings, sync_interval_ms
from jlogd.journal.view import View

Outcome = Receipt | JlogError
# Four times what a producer takes in the snapshot at the start of a segment.
SEGMENT_PER_PRODUCER_BYTES = 128
# What passes by itself or by somebody's doing: it is refused now, and may be sent again.
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE)


class Appender:
    """The writing side of one log in this process."""

    def __init__(self, view: View, settings: Settings, room: Room) -> None:
        """Joins the owner. Raises `OwnedElsewhere`."""
        self._view = view
        self._room = room
        self.settings = settings
        self._mutex = threading.RLock()
        self.counters = dict.fromkeys(_COUNTERS, 0)
        self._shared = SharedTail(view, self.counters)
        self._owed = Owed()
        self._attempt: list[Batch] = []  # what is being written, as it was stamped
        self._synced_at = time.monotonic()
        self.sync_seconds: Callable[[float], None] = lambda _: None

    @property
    def failed(self) -> str:
        """Why the log accepts nothing more; empty while it does."""
        return self._shared.failed

    def commit(self, batches: Sequence[Batch]) -> list[Outcome]:
        """Append the batches, in order; one outcome each. Durable on return, as far as the log's policy says.

        Never raises for a batch: its outcome is then the error, and those that were refused may be sent again.
        """
        with self._mutex:
            if self._shared.failed:
                return [self._shared.failed_as(self._shared.failed)] * len(batches)
            try:
                with self._locked():
                    outcomes = self._commit_or_refuse(batches)
            except OSError as error:
                outcomes = [self._unlocked(error)] * len(batches)
            except JlogError as error:
                outcomes = [error] * len(batches)
            except BaseException:
                self._shared.forget()  # interrupted somewhere: the next commit looks at the disk
                raise
            self._owed.note(batches, outcomes)
            return outcomes

    def heard(self, producer: int) -> Heard | None:
        """The last batch accepted from `producer`, by any process. Raises OSError, JlogError."""
        with self._mutex, self._locked():
            try:
                return self._shared.ready().producers.get(producer)
            except OSError:  # to look needs no disk that can be written
                pass
            try:
                return self._shared.producers_of_head().get(producer)
            except OSError as error:
                raise _full(self._view.layout.root, error) or error from None

    def sync(self) -> None:
        """Sync what the policy left unsynced, if there is any. Raises nothing; see `failed`."""
        with self._mutex:
            tail = self._shared.tail
            if tail is None or self._shared.failed:
                return
            # Under `os` all counts as durable once it is written; asked for, a sync is made all the same.
            if tail.head.durable == tail.head.written and self.settings.durability != "os":
                return
            with suppress(OSError, JlogError), self._locked():
                tail = self._shared.ready()
                try:
                    self._sync(tail)
                    self._shared.publish(tail.head, sync=True)
                except OSError:
                    self._write_again()

    def recover(self) -> None:
        """Bring the log into a state that can be appended to; what opening a log to write does.

        A full disk is no failure: the log can be consumed, which makes room, and every commit tries again.
        """
        with self._mutex, self._locked():
            try:
                self._shared.ready()
            except OSError as error:
                self._shared.forget()
                if error.errno not in _NO_SPACE:
                    raise

    def try_again(self) -> bool:
        """Recover after the disk had failed twice, as whoever opens the log anew would: what was refused stays behind,
        and nothing is believed for a sync that came after the one that failed. Whether the log accepts batches."""
        with self._mutex:
            shared = self._shared
            if shared.failed and shared.failed_as is DiskFailed:
                why, shared.failed = shared.failed, ""
                try:
                    with self._locked():
                        shared.recover()
                except (OSError, JlogError):
                    shared.forget()
                    shared.failed = shared.failed or why
            return not shared.failed

    def close(self) -> None:
        """Sync what is left and let go of the log."""
        self.sync()
        with self._mutex:
            self._shared.close()

    def _locked(self) -> _Held:
        return _Held(self._view.disk.lock(self._view.layout.append_lock))

    def _unlocked(self, error: OSError) -> JlogError:
        """What is told where the lock cannot even be asked for. Nothing was begun, and the next commit asks again."""
        root = self._view.layout.root
        return _full(root, error) or LockUnavailable(f"cannot lock {root}: {error}")

    def _write_again(self) -> None:
        """A sync of what was acknowledged before it failed. It is read back and written into a new segment, once."""
        self.counters["write_failures"] += 1
        self._shared.end_segment(rolling=True)  # whoever comes next must not believe these pages either
        try:
            self._shared.recover()
        except OSError as error:
            self._shared.forget()
            if error.errno not in _NO_SPACE:
                self._fail_for_disk("syncing", error)

    # One group

    def _commit_or_refuse(self, batches: Sequence[Batch]) -> list[Outcome]:
        try:
            return self._commit(batches)
        except OSError as error:
            return [self._refuse(error)] * len(batches)

    def _commit(self, batches: Sequence[Batch]) -> list[Outcome]:
        self._ready_or_recover()
        outcomes: list[Outcome | None] = []
        staged: dict[int, Heard] = {}
        for batch in batches:
            outcomes.append(self._judge(batch, staged))
        accepted = [batch for batch, outcome in zip(batches, outcomes, strict=True) if outcome is None]
        results = iter(self._append(accepted))
        return [next(results) if outcome is None else outcome for outcome in outcomes]

    def _ready_or_recover(self) -> None:
        try:
            self._shared.ready()
        except OSError:
            self.counters["write_failures"] += 1
            self._shared.recover()

    def _judge(self, batch: Batch, staged: dict[int, Heard]) -> Outcome | None:
        if not batch.producer:
            return None
        producers = self._shared.current.producers
        heard = staged.get(batch.producer) or producers.get(batch.producer) or self._owed.before(batch)
        verdict = producers.judge(batch, heard)
        if verdict is None:
            staged[batch.producer] = Heard(batch.producer_to, 0, batch.count)
        elif isinstance(verdict, ProducerGap):
            self.counters["producer_gaps"] += 1
        else:
            self.counters["duplicate_batches"] += 1
        return verdict

    def _append(self, batches: list[Batch]) -> list[Outcome]:
        """Append in pieces that each fit one segment. After a failure, nothing that follows is tried."""
        outcomes: list[Outcome] = []
        while len(outcomes) < len(batches):
            left = batches[len(outcomes) :]
            try:
                outcomes += self._append_piece(self._room.admitted(self._shared.current.head, left))
            except OSError as error:
                return outcomes + [self._refuse(error)] * len(left)
            except LogFull as error:
                self.counters["refused_full"] += len(left)
                return outcomes + [error] * len(left)
            except JlogError as error:
                return outcomes + [error] * len(left)
        return outcomes

    def _append_piece(self, batches: list[Batch]) -> list[Outcome]:
        """Append the first of the batches, as many as one segment takes, trying a second time in a new segment."""
        self._attempt = []
        try:
            stamped = self._write(self._next_piece(batches))
        except OSError as error:
            if error.errno in _NO_SPACE:
                raise
            self.counters["write_failures"] += 1
            self._shared.tail_refused = True
            attempt = self._attempt
            self._shared.recover()
            if attempt and self._shared.current.head.next >= attempt[-1].next:
                stamped = attempt  # it had been published before something failed
            else:
                stamped = self._write(self._next_piece(batches))
        self.counters["batches"] += len(stamped)
        self.counters["records"] += sum(batch.count for batch in stamped)
        self.counters["bytes"] += sum(batch.size for batch in stamped)
        return [Receipt(batch.first, batch.count) for batch in stamped]

    def _next_piece(self, batches: list[Batch]) -> list[Batch]:
        """As many batches as the segment takes, at least one; a full segment is rolled first."""
        tail = self._shared.current
        # Each segment starts with the producers: where there are many, it must still hold more than them.
        full = max(self.settings.segment_bytes, SEGMENT_PER_PRODUCER_BYTES * len(tail.producers))
        if tail.head.next > tail.head.segment.first and tail.head.written + batches[0].size > full:
            self._roll(tail)
        room = full - self._shared.current.head.written
        sizes = accumulate(batch.size for batch in batches)
        fits = sum(1 for _ in takewhile(lambda size: size <= room, sizes))
        return batches[: max(fits, 1)]

    def _roll(self, tail: Tail) -> None:
        if tail.head.durable < tail.head.written or self.settings.durability == "os":
            self._sync(tail)
        head = tail.head
        tail.publish(replace(head, rolling=True))
        found = Found(head.segment, head.written, head.bytes_before, head.next, head.append_time)
        found.producers = tail.producers
        file, fresh = start_segment(self._view, found, self._shared.epoch, [])
        tail.file.close()
        tail.file = file
        self._shared.publish(fresh, sync=True)
        self.counters["rolls"] += 1

    def _write(self, batches: list[Batch]) -> list[Batch]:
        """Write, sync, publish. Raises OSError when any of it failed, `Fenced`."""
        tail = self._shared.current
        head = tail.head
        now = max(time.time_ns(), head.append_time)
        stamped = []
        following = head.next
        for batch in batches:
            stamped.append(batch.stamped(following, head.visible, now, self._shared.epoch))
            following += batch.count
        self._attempt = stamped
        seed = self._view.seed
        buffers: list[Buffer] = list(flatten.from_iterable((batch.header(seed), batch.body) for batch in stamped))
        written = write_all(tail.file, buffers)
        tail.head = head.advanced(written, following, now)
        try:
            self._settle(tail)
        except OSError:
            tail.head = head
            raise
        for batch in stamped:
            tail.producers.note(batch)
        self._attempt = []
        return stamped

    def _settle(self, tail: Tail) -> None:
        """Sync if the policy says so, then publish."""
        interval = sync_interval_ms(self.settings.durability)
        due = interval is not None and (time.monotonic() - self._synced_at) * 1000 >= interval
        if interval is None:
            tail.head = tail.head.all_visible()
        elif due:
            self._sync(tail)
        # No batch header says yet that this sync succeeded, and many batches may have waited for it: the head says it,
        # so that damage in one of them costs none of the others after a power loss.
        self._shared.publish(tail.head, sync=due and bool(interval))

    def _sync(self, tail: Tail) -> None:
        started = time.monotonic()
        tail.file.sync()
        self._synced_at = time.monotonic()
        self.sync_seconds(self._synced_at - started)
        self.counters["syncs"] += 1
        tail.head = tail.head.all_visible()

    def _refuse(self, error: OSError) -> JlogError:
        """What producers are told; the next commit starts with a recovery that leaves the refused bytes behind."""
        self._shared.tail_refused = True
        self._shared.end_segment(discard=True)
        self._shared.forget()
        self.counters["write_failures"] += 1
        return _full(self._view.layout.root, error) or self._fail_for_disk("writing", error)

    def _fail_for_disk(self, doing: str, error: OSError) -> JlogError:
        why = (
            f"{doing} {self._view.layout.root} failed twice: {error}; check the disk, then open the log again "
            "(writers and jlogd do, every second)"
        )
        self._shared.fail(DiskFailed, why)
        return DiskFailed(why)


_COUNTERS = (
    "batches",
    "records",
    "bytes",
    "syncs",
    "rolls",
    "recoveries",
    "torn_bytes",
    "write_failures",
    "duplicate_batches",
    "producer_gaps",
    "refused_full",
)


class _Held:
    """A file lock for the length of a `with`."""

    def __init__(self, lock: Lock) -> None:
        self._lock = lock

    def __enter__(self) -> None:
        return

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def _full(root: Path, error: OSError) -> SpoolFull | None:
    """What is said where there is no room; None for another error."""
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return SpoolFull(f"{error.strerror}: raise the limit on open files (ulimit -n); nothing was accepted in {root}")
    if error.errno in _NO_SPACE:
        return SpoolFull(f"no space for {root}: {error.strerror}; nothing was accepted, free space and send again")
    return None
