"""Appending: one group of batches, one write, one sync, one outcome for each batch.

A commit, under `append.lock`, which excludes the other processes that write this log:

    learn what others did  ->  judge duplicates  ->  stamp headers  ->  roll if full  ->  write  ->  fdatasync
    ->  look at the owner's epoch  ->  publish the head  ->  outcomes

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

from jlogd.errors import (
    DiskFailed,
    Fenced,
    FormatError,
    JlogError,
    LockUnavailable,
    LogFailed,
    LogFull,
    OwnedElsewhere,
    ProducerGap,
    SpoolFull,
)
from jlogd.journal.batch import Batch
from jlogd.journal.disk import Buffer, Lock
from jlogd.journal.head import HEAD, OWNER, Head, Owner, decode_head, decode_owner
from jlogd.journal.layout import read_meta
from jlogd.journal.producers import Heard, Producers
from jlogd.journal.slots import SlotFile
from jlogd.journal.tail import Found, Tail, read_tail, recover, remove_old_heads, start_segment, write_all
from jlogd.journal.types import Receipt, Settings, sync_interval_ms
from jlogd.journal.view import View

Outcome = Receipt | JlogError
# Producers that met a full log with their first batch, and are waited for.
OWED_MAX = 4096
# How long a cap that another process set may go unnoticed; looking costs a file read for each subscriber.
LOOK_AGAIN_SECONDS = 0.5
# Four times what a producer takes in the snapshot at the start of a segment.
SEGMENT_PER_PRODUCER_BYTES = 128
# What passes by itself or by somebody's doing: it is refused now, and may be sent again.
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE)


class Appender:
    """The writing side of one log in this process."""

    def __init__(self, view: View, settings: Settings, room: Callable[[Head], tuple[int, str]]) -> None:
        """`room` says up to which byte in the life of the log may be written before a cap blocks, and whose cap.

        Joins the owner. Raises `OwnedElsewhere`.
        """
        self._view = view
        self._room = room
        self.settings = settings
        self._mutex = threading.RLock()
        self._owner_lock = view.disk.lock(view.layout.owner_lock, shared=True)
        try:
            self._owner_file = _open_owner(view, self._owner_lock)
        except BaseException:
            self._owner_lock.release()
            raise
        self._owner_seen: bytes | None = None
        self._owner_known: Owner | None = None
        self._owed: dict[int, int] = {}  # producers whose first batch was refused, and where it starts
        self._tail: Tail | None = None
        self._epoch = 0
        self._attempt: list[Batch] = []  # what is being written, as it was stamped
        self._refused_tail = False  # what stands after the durable end was refused to its producers
        self._room_until = 0
        self._look_again_at = 0.0
        self._synced_at = time.monotonic()
        self.failed = ""
        self._failed_as: type[JlogError] = LogFailed
        self.counters = dict.fromkeys(_COUNTERS, 0)
        self.sync_seconds: Callable[[float], None] = lambda _: None
        try:
            self._check_owner(self._owner())
        except BaseException:
            self.close()
            raise

    def commit(self, batches: Sequence[Batch]) -> list[Outcome]:
        """Append the batches, in order; one outcome each. Durable on return, as far as the log's policy says.

        Never raises for a batch: its outcome is then the error, and those that were refused may be sent again.
        """
        with self._mutex:
            if self.failed:
                return [self._failed_as(self.failed)] * len(batches)
            try:
                with self._locked():
                    outcomes = self._commit_or_refuse(batches)
            except OSError as error:
                outcomes = [self._unlocked(error)] * len(batches)
            except JlogError as error:
                outcomes = [error] * len(batches)
            except BaseException:
                self._forget()  # interrupted somewhere: the next commit looks at the disk
                raise
            self._note_refused(batches, outcomes)
            return outcomes

    def heard(self, producer: int) -> Heard | None:
        """The last batch accepted from `producer`, by any process. Raises OSError, JlogError."""
        with self._mutex, self._locked():
            try:
                return self._ready().producers.get(producer)
            except OSError:  # to look needs no disk that can be written
                pass
            try:
                return self._looked_up().get(producer)
            except OSError as error:
                raise _full(self._view.layout.root, error) or error from None

    def sync(self) -> None:
        """Sync what the policy left unsynced, if there is any. Raises nothing; see `failed`."""
        with self._mutex:
            tail = self._tail
            if tail is None or self.failed:
                return
            # Under `os` all counts as durable once it is written; asked for, a sync is made all the same.
            if tail.head.durable == tail.head.written and self.settings.durability != "os":
                return
            with suppress(OSError, JlogError), self._locked():
                tail = self._ready()
                try:
                    self._sync(tail)
                    self._publish(tail, tail.head, sync=True)
                except OSError:
                    self._write_again()

    def recover(self) -> None:
        """Bring the log into a state that can be appended to; what opening a log to write does.

        A full disk is no failure: the log can be consumed, which makes room, and every commit tries again.
        """
        with self._mutex, self._locked():
            try:
                self._ready()
            except OSError as error:
                self._forget()
                if error.errno not in _NO_SPACE:
                    raise

    def try_again(self) -> bool:
        """Recover after the disk had failed twice, as whoever opens the log anew would: what was refused stays behind,
        and nothing is believed for a sync that came after the one that failed. Whether the log accepts batches."""
        with self._mutex:
            if self.failed and self._failed_as is DiskFailed:
                why, self.failed = self.failed, ""
                try:
                    with self._locked():
                        self._recover(self._owner())
                except (OSError, JlogError):
                    self._forget()
                    self.failed = self.failed or why
            return not self.failed

    def close(self) -> None:
        """Sync what is left and let go of the log."""
        self.sync()
        with self._mutex:
            if self._tail is not None:
                self._tail.close()
                self._tail = None
            self._owner_file.close()
            self._owner_lock.release()

    # What others did

    def _locked(self) -> _Held:
        return _Held(self._view.disk.lock(self._view.layout.append_lock))

    def _unlocked(self, error: OSError) -> JlogError:
        """What is told where the lock cannot even be asked for. Nothing was begun, and the next commit asks again."""
        root = self._view.layout.root
        return _full(root, error) or LockUnavailable(f"cannot lock {root}: {error}")

    def _owner(self) -> Owner:
        payload = self._owner_file.read()
        if payload is not self._owner_seen or self._owner_known is None:
            self._owner_known = decode_owner(payload, str(self._view.layout.owner))
            self._owner_seen = payload
        return self._owner_known

    def _check_owner(self, owner: Owner) -> None:
        if owner.host != self._view.disk.host():
            root = self._view.layout.root
            self.failed = f"{root} is owned by {owner.told}"
            self._failed_as = OwnedElsewhere
            raise OwnedElsewhere(f"{self.failed}; stop jlogd there, or once that host is down: jlogctl takeover {root}")

    def _ready(self) -> Tail:
        """The tail, as the last writer of any process left it; recovered when that one did not finish."""
        owner = self._owner()
        self._check_owner(owner)
        tail = self._tail
        if tail is None or owner.epoch != self._epoch or tail.head_file.replaced():
            tail = self._load(owner)
        elif owner.boot == self._view.disk.boot():
            try:
                tail = self._catch_up(tail)
            except BaseException:
                self._forget()  # it is neither what it was nor what it is
                raise
        if tail is None or owner.boot != self._view.disk.boot() or not _is_whole(tail):
            tail = self._recover(owner)
        return tail

    def _load(self, owner: Owner) -> Tail | None:
        """The tail as the head of this epoch has it; None when only recovery can tell."""
        self._forget()
        view = self._view
        if read_meta(view.disk, view.layout).uuid != view.meta.uuid:
            self.failed = f"{view.layout.root} was removed, and another log made in its place; open it again"
            self._failed_as = LogFailed
            raise LogFailed(self.failed)
        if owner.boot != view.disk.boot():
            return None
        try:
            head_file = SlotFile.open(view.disk, view.layout.head(owner.epoch), HEAD, hint=True)
        except FileNotFoundError:
            return None
        head = decode_head(head_file.read())
        if head is None or head.ended:
            return None
        remove_old_heads(view, owner.epoch)  # the recovery that made this epoch may have been cut off before it did
        producers = Producers()
        try:
            read_tail(view, head, producers, 0)
            file = view.disk.open(view.layout.segment(head.segment), "write")
        except FileNotFoundError:
            return None
        self._tail = Tail(file, head, head_file, producers)
        self._epoch = owner.epoch
        return self._tail

    def _catch_up(self, tail: Tail) -> Tail | None:
        """Learn what another process appended since we last looked."""
        known = tail.head_file.generation
        head = decode_head(tail.head_file.read())
        if head is None or head.ended:
            return None
        if tail.head_file.generation == known:
            return tail
        if head.segment != tail.head.segment:
            tail.file.close()
            tail.file = self._view.disk.open(self._view.layout.segment(head.segment), "write")
            tail.producers = Producers()
        start = tail.head.written if head.segment == tail.head.segment else 0
        read_tail(self._view, head, tail.producers, start)
        tail.head = head
        return tail

    def _recover(self, owner: Owner) -> Tail:
        self._check_owner(owner)  # a former owner must not raise the epoch: that would take the log back
        self._forget()
        tail = recover(self._view, self._owner_file, owner, keep_tail=not self._refused_tail)
        self._refused_tail = False
        self._tail, self._epoch = tail, tail.head.epoch
        self.counters["recoveries"] += 1
        self.counters["torn_bytes"] += tail.torn_bytes
        return tail

    def _write_again(self) -> None:
        """A sync of what was acknowledged before it failed. It is read back and written into a new segment, once."""
        self.counters["write_failures"] += 1
        self._end_segment(rolling=True)  # whoever comes next must not believe these pages either
        try:
            self._recover(self._owner())
        except OSError as error:
            self._forget()
            if error.errno not in _NO_SPACE:
                self._fail_for_disk("syncing", error)

    def _end_segment(self, *, rolling: bool = False, discard: bool = False) -> None:
        """Tell whoever comes next that only a recovery can go on. Written in place: it needs no room.

        Only over a head that is still the one we know: another process may have appended since.
        """
        tail = self._tail
        with suppress(OSError):
            if tail is not None and decode_head(tail.head_file.read()) == tail.head:
                tail.publish(replace(tail.head, rolling=rolling, discard=discard))

    def _looked_up(self) -> Producers:
        """The producers as the last head has them, where no tail can be had."""
        producers = Producers()
        head = self._view.head()
        if head is not None:
            read_tail(self._view, head, producers, 0)
        return producers

    def _forget(self) -> None:
        if self._tail is not None:
            self._tail.close()
            self._tail = None

    # One group

    @property
    def _current(self) -> Tail:
        assert self._tail is not None
        return self._tail

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

    def _note_refused(self, batches: Sequence[Batch], outcomes: Sequence[Outcome]) -> None:
        """Remember where producers begin whose first batch was refused. The log lets a producer it does not know start
        anywhere: a second batch must not be taken for the beginning, and the first one's retry for a repetition."""
        for batch, outcome in zip(batches, outcomes, strict=True):
            if isinstance(outcome, Receipt):
                self._owed.pop(batch.producer, None)
            elif batch.producer and not isinstance(outcome, ProducerGap):
                self._owed.setdefault(batch.producer, batch.producer_from)
        while len(self._owed) > OWED_MAX:
            self._owed.pop(next(iter(self._owed)))

    def _ready_or_recover(self) -> None:
        try:
            self._ready()
        except OSError:
            self.counters["write_failures"] += 1
            self._recover(self._owner())

    def _judge(self, batch: Batch, staged: dict[int, Heard]) -> Outcome | None:
        if not batch.producer:
            return None
        producers = self._current.producers
        heard = staged.get(batch.producer) or producers.get(batch.producer)
        if heard is None and batch.producer_from > self._owed.get(batch.producer, batch.producer_from):
            heard = Heard(self._owed[batch.producer], 0, 0)
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
                outcomes += self._append_piece(self._admitted(left))
            except OSError as error:
                return outcomes + [self._refuse(error)] * len(left)
            except JlogError as error:
                return outcomes + [error] * len(left)
        return outcomes

    def _admitted(self, batches: list[Batch]) -> list[Batch]:
        """As many of the batches as may be appended now: each that starts below the lowest cap that blocks."""
        head = self._current.head
        start = head.bytes_before + head.written
        end = start + sum(batch.size for batch in batches)
        now = time.monotonic()
        if end > self._room_until or now >= self._look_again_at:
            # Subscribers move, come and get caps, from other processes too.
            self._look_again_at = now + LOOK_AGAIN_SECONDS
            limit, name = self._room(head)
            self._room_until = limit
            if start >= limit:
                self.counters["refused_full"] += len(batches)
                raise LogFull(
                    f"{self._view.layout.name}: subscriber {name} has fallen behind its cap and its policy is to "
                    "block; start its consumer, raise the cap (jlogctl subscriber caps), or remove the subscriber"
                )
        starts = accumulate((batch.size for batch in batches), initial=start)
        return [batch for batch, at in zip(batches, starts, strict=False) if at < self._room_until]

    def _append_piece(self, batches: list[Batch]) -> list[Outcome]:
        """Append the first of the batches, as many as one segment takes, trying a second time in a new segment."""
        self._attempt = []
        try:
            stamped = self._write(self._next_piece(batches))
        except OSError as error:
            if error.errno in _NO_SPACE:
                raise
            self.counters["write_failures"] += 1
            self._refused_tail = True
            attempt = self._attempt
            self._recover(self._owner())
            if attempt and self._current.head.next >= attempt[-1].next:
                stamped = attempt  # it had been published before something failed
            else:
                stamped = self._write(self._next_piece(batches))
        self.counters["batches"] += len(stamped)
        self.counters["records"] += sum(batch.count for batch in stamped)
        self.counters["bytes"] += sum(batch.size for batch in stamped)
        return [Receipt(batch.first, batch.count) for batch in stamped]

    def _next_piece(self, batches: list[Batch]) -> list[Batch]:
        """As many batches as the segment takes, at least one; a full segment is rolled first."""
        tail = self._current
        # Each segment starts with the producers: where there are many, it must still hold more than them.
        full = max(self.settings.segment_bytes, SEGMENT_PER_PRODUCER_BYTES * len(tail.producers))
        if tail.head.next > tail.head.segment.first and tail.head.written + batches[0].size > full:
            self._roll(tail)
        room = full - self._current.head.written
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
        file, fresh = start_segment(self._view, found, self._epoch, [])
        tail.file.close()
        tail.file = file
        self._publish(tail, fresh, sync=True)
        self.counters["rolls"] += 1

    def _write(self, batches: list[Batch]) -> list[Batch]:
        """Write, sync, publish. Raises OSError when any of it failed, `Fenced`."""
        tail = self._current
        head = tail.head
        now = max(time.time_ns(), head.append_time)
        stamped = []
        following = head.next
        for batch in batches:
            stamped.append(batch.stamped(following, head.visible, now, self._epoch))
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
        self._publish(tail, tail.head, sync=due and bool(interval))

    def _sync(self, tail: Tail) -> None:
        started = time.monotonic()
        tail.file.sync()
        self._synced_at = time.monotonic()
        self.sync_seconds(self._synced_at - started)
        self.counters["syncs"] += 1
        tail.head = tail.head.all_visible()

    def _publish(self, tail: Tail, head: Head, *, sync: bool = False) -> None:
        owner = self._owner()
        if (owner.epoch, owner.host) != (self._epoch, self._view.disk.host()):
            self.failed = f"{self._view.layout.root} was taken over: it is owned by {owner.told}"
            self._failed_as = Fenced
            raise Fenced(f"{self.failed}; nothing was acknowledged since, and this process must stop writing")
        tail.publish(head, sync=sync)

    def _refuse(self, error: OSError) -> JlogError:
        """What producers are told; the next commit starts with a recovery that leaves the refused bytes behind."""
        self._refused_tail = True
        self._end_segment(discard=True)
        self._forget()
        self.counters["write_failures"] += 1
        return _full(self._view.layout.root, error) or self._fail_for_disk("writing", error)

    def _fail_for_disk(self, doing: str, error: OSError) -> JlogError:
        self.failed = (
            f"{doing} {self._view.layout.root} failed twice: {error}; check the disk, then open the log again "
            "(writers and jlogd do, every second)"
        )
        self._failed_as = DiskFailed
        return DiskFailed(self.failed)


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


def _open_owner(view: View, lock: Lock) -> SlotFile:
    try:
        return SlotFile.open(view.disk, view.layout.owner, OWNER)
    except FileNotFoundError:
        lock.release()
        raise FormatError("the owner file is gone", str(view.layout.owner)) from None


def _is_whole(tail: Tail) -> bool:
    return tail.file.size() == tail.head.written and not tail.file.unlinked()
