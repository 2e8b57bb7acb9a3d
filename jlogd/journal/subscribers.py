"""Named subscribers: a position in the log that outlives its consumer, and what may be pruned because of it.

Payload of the slots of `subscribers/<name>` (little-endian):

     0  8  next             first record the subscriber is not done with
     8  8  segment_first    where to look for it: segment ...
    16  4  segment_epoch
    20  1  on_full          0 block, 1 drop-oldest, 2 the log's caps hold
    21  3  reserved
    24  8  offset           ... and byte
    32  8  bytes            bytes before that place, in the life of the log
    40  8  max_bytes        its own caps; 0 none
    48  8  max_age_ms
    56  8  dropped          records that came to it as gaps because of a cap
    64  8  damaged          records that came to it as gaps because of damage
    72  8  updated          ns since 1970 UTC

Locking: `subscribers/<name>.lock` is held by the one consumer, or for a moment by who moves the position from outside;
`prune.lock` by who adds, removes or prunes. Before a consumer writes its position, it looks whether its host still
owns the log: one that slept through a takeover does not move what the new owner's consumer has moved since.

A checkpoint is written, not synced: a power loss may take the last ones, and their records come again. Before a
segment is unlinked, the positions that allow it are synced.
"""

from __future__ import annotations

import struct
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from jlogd.errors import Fenced, FormatError, SubscriberBusy, SubscriberExists, SubscriberUnknown, UsageError
from jlogd.journal.batch import Batch, Gap
from jlogd.journal.cursor import Cursor, locate
from jlogd.journal.disk import Lock
from jlogd.journal.head import OWNER, decode_owner
from jlogd.journal.locks import LockBusy, holder_note
from jlogd.journal.segment import SegmentId
from jlogd.journal.slots import SlotFile
from jlogd.journal.types import NAME, Caps, Position, Start, check_name
from jlogd.journal.view import View

KIND = b"SU"
_STATE = struct.Struct("<QQIB3xQQQQQQq")
_LOCK_SUFFIX = ".lock"
# Every append may have to look at all of them; more readers than this want a tree of logs.
SUBSCRIBERS_MAX = 256
_ON_FULL = ("block", "drop-oldest", "")


@dataclass(frozen=True, slots=True)
class State:
    """What is kept of a subscriber. Without caps of its own, those of the log hold."""

    position: Position
    caps: Caps | None = None
    dropped: int = 0
    damaged: int = 0
    updated: int = 0

    def encode(self) -> bytes:
        at, caps = self.position, self.caps or Caps()
        on_full = _ON_FULL.index(caps.on_full if self.caps else "")
        return _STATE.pack(
            at.next, at.segment_first, at.segment_epoch, on_full, at.offset, at.bytes,
            caps.max_bytes, round(caps.max_age * 1000), self.dropped, self.damaged, self.updated,
        )  # fmt: skip


def decode_state(payload: bytes) -> State | None:
    """The state a slot holds; None when it is none that this version wrote."""
    if len(payload) != _STATE.size or payload[20] >= len(_ON_FULL):
        return None
    following, first, epoch, on_full, offset, size, max_bytes, max_age_ms, dropped, damaged, updated = _STATE.unpack(
        payload
    )
    how = _ON_FULL[on_full]
    try:
        caps = Caps(max_bytes, max_age_ms / 1000, how) if how else None  # type: ignore[arg-type]
    except UsageError:
        return None
    return State(Position(following, first, epoch, offset, size), caps, dropped, damaged, updated)


class Subscribers:
    """The subscribers of one log."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._disk = view.disk
        self._layout = view.layout

    def names(self) -> list[str]:
        """Names of all subscribers, sorted."""
        return sorted(filter(self._is_name, self._disk.listdir(self._layout.subscribers)))

    def read(self, name: str) -> State:
        """Raises `SubscriberUnknown`."""
        try:
            file = SlotFile.open(self._disk, self._path(name), KIND, write=False)
        except FileNotFoundError:
            raise self._unknown(name) from None
        try:
            return self._decode(name, file.read())
        finally:
            file.close()

    def all(self) -> dict[str, State]:
        """The state of every subscriber."""
        found = {}
        for name in self.names():
            with suppress(SubscriberUnknown):
                found[name] = self.read(name)
        return found

    def add(self, name: str, start: Start, caps: Caps | None = None) -> None:
        """Raises `SubscriberExists`, `UsageError`."""
        check_subscriber_name(name)
        with self._guarded():
            if self._disk.exists(self._layout.subscriber(name)):
                raise SubscriberExists(f"{self._layout.name} already has a subscriber {name}")
            self._check_number()
            self._create(name, State(locate(self._view, start), caps, updated=time.time_ns()))

    def _check_number(self) -> None:
        if len(self.names()) >= SUBSCRIBERS_MAX:
            raise UsageError(f"{self._layout.name} has {SUBSCRIBERS_MAX} subscribers, the most a log can have")

    def clone(self, name: str, source: str) -> None:
        """Add `name` where `source` is, with its caps. Raises `SubscriberExists`, `SubscriberUnknown`."""
        check_subscriber_name(name)
        with self._guarded():
            if self._disk.exists(self._layout.subscriber(name)):
                raise SubscriberExists(f"{self._layout.name} already has a subscriber {name}")
            found = self.read(source)
            self._check_number()
            self._create(name, State(found.position, found.caps, updated=time.time_ns()))

    def remove(self, name: str) -> None:
        """Raises `SubscriberUnknown`, `SubscriberBusy`."""
        with self._guarded():
            if not self._disk.exists(self._path(name)):
                raise self._unknown(name)
            lock = self._lock(name)
            try:
                self._disk.unlink(self._layout.subscriber(name))
                self._disk.sync_dir(self._layout.subscribers)
            finally:
                lock.release()

    def set(self, name: str, start: Start) -> None:
        """Move the position, forward or back. Raises `SubscriberUnknown`, `SubscriberBusy`, `UsageError`."""
        self._change(name, position=locate(self._view, start))

    def set_caps(self, name: str, caps: Caps | None) -> None:
        """Give it caps of its own, or those of the log again. Raises `SubscriberUnknown`, `SubscriberBusy`."""
        self._change(name, caps=caps)

    def hold(self, name: str, note: str = "") -> Hold:
        """Become the one consumer of `name`. Raises `SubscriberUnknown`, `SubscriberBusy`, `UsageError`, `Fenced`.

        `note` says who, for whoever is refused; by default this process.
        """
        path = self._path(name)
        if not self._disk.exists(path):
            raise self._unknown(name)
        lock = self._lock(name, note)
        try:
            file = SlotFile.open(self._disk, path, KIND)
            hold = Hold(self._view, name, lock, file, self._decode(name, file.read()))
            hold.check_owner()
            return hold
        except FileNotFoundError:
            lock.release()
            raise self._unknown(name) from None
        except BaseException:
            lock.release()
            raise

    def holder(self, name: str) -> str:
        """What the consumer that holds `name` left for people to read; empty when nobody does."""
        if not self._disk.exists(self._layout.subscriber_lock(name)):
            return ""
        try:
            self._disk.lock(self._layout.subscriber_lock(name), wait=False).release()
        except LockBusy as busy:
            return busy.note or "unknown"
        except OSError:  # who may only read the log cannot ask
            return ""
        return ""

    def sync(self) -> None:
        """Make all positions durable, before something is unlinked because of them."""
        for name in self.names():
            with suppress(FileNotFoundError):
                file = self._disk.open(self._layout.subscriber(name), "write")
                try:
                    file.sync()
                finally:
                    file.close()

    def _change(self, name: str, **changes: object) -> None:
        hold = self.hold(name)
        try:
            hold.replace(**changes)
        finally:
            hold.release()

    def _create(self, name: str, state: State) -> None:
        SlotFile.create(self._disk, self._layout.subscriber(name), KIND, state.encode())

    def _path(self, name: str) -> Path:
        check_subscriber_name(name)
        return self._layout.subscriber(name)

    def _lock(self, name: str, note: str = "") -> Lock:
        try:
            return self._disk.lock(self._layout.subscriber_lock(name), wait=False, note=note or holder_note())
        except LockBusy as busy:
            raise SubscriberBusy(
                f"subscriber {name} of {self._layout.name} is in use by {busy.note or 'another process'}; "
                "one consumer at a time: stop it, or use another name"
            ) from None

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        lock = self._disk.lock(self._layout.prune_lock)
        try:
            yield
        finally:
            lock.release()

    def _decode(self, name: str, payload: bytes | None) -> State:
        state = decode_state(payload) if payload is not None else None
        if state is not None:
            return state
        # Both slots are damaged: what was done is not known, so everything that is left is delivered again.
        return State(locate(self._view, "begin"))

    def _unknown(self, name: str) -> SubscriberUnknown:
        there = ", ".join(self.names()) or "none"
        return SubscriberUnknown(f"{self._layout.name} has no subscriber {name}; there are: {there}")

    @staticmethod
    def _is_name(filename: str) -> bool:
        return bool(NAME.fullmatch(filename)) and not filename.endswith((_LOCK_SUFFIX, ".new"))


def check_subscriber_name(name: str) -> None:
    """Raises `UsageError` when `name` cannot name a subscriber."""
    check_name("subscriber", name)
    if name.endswith((_LOCK_SUFFIX, ".new")):
        raise UsageError(f"{name!r} cannot name a subscriber: names ending in .lock and .new are taken")


def _nothing() -> None:
    return


class Hold:
    """The one consumer of a subscriber. `cursor` reads on from where it was left.

    Not thread-safe, except that `release` may be called from anywhere, once nothing else is.
    """

    def __init__(self, view: View, name: str, lock: Lock, file: SlotFile, state: State) -> None:
        self.name = name
        self.cursor = Cursor(view, state.position, view.counters)
        self.state = state
        self.on_pass: Callable[[], None] = _nothing
        self._view = view
        self._lock = lock
        self._file = file
        self._owner = SlotFile.open(view.disk, view.layout.owner, OWNER, write=False)
        self._gaps: list[Gap] = []
        self._tip = SegmentId(0, 0)
        self._firsts: list[int] = []

    def seek(self, sequence: int) -> None:
        """Read on from record `sequence`; what is done with stays as it is. Raises `UsageError` above the end."""
        self.cursor.close()
        self.cursor = Cursor(self._view, locate(self._view, sequence), self._view.counters)

    def read(self, max_bytes: int) -> list[Batch | Gap]:
        """What comes next; see `Cursor.read`."""
        items = self.cursor.read(max_bytes)
        self._gaps += [item for item in items if isinstance(item, Gap)]
        return items

    def checkpoint(self, sequence: int) -> None:
        """Everything below `sequence` is done with. Calls `on_pass` when that may let go of a whole segment.

        A number below the position is ignored. Raises `UsageError` for one that was not delivered yet, `Fenced`.
        """
        if sequence > self.cursor.next:
            raise UsageError(f"cannot checkpoint {sequence}: only records below {self.cursor.next} were delivered")
        before = self.state.position
        if sequence <= before.next:
            return
        position = self.cursor.position_at(sequence)
        self.replace(
            position=position,
            dropped=self.state.dropped + self._settle("dropped", sequence),
            damaged=self.state.damaged + self._settle("damaged", sequence) + self._settle("missing", sequence),
        )
        if self._passed_segment(before.next, sequence):
            self.on_pass()

    def replace(self, **changes: object) -> None:
        """Write a changed state. Raises `Fenced`."""
        state = replace(self.state, updated=time.time_ns(), **changes)  # type: ignore[arg-type]
        self._file.write(state.encode(), guard=self.check_owner)
        self.state = state

    def check_owner(self) -> None:
        """Raises `Fenced` when another host has taken the log over."""
        with suppress(FormatError):  # an owner that nobody can read is no other one
            owner = decode_owner(self._owner.read(), str(self._view.layout.owner))
            if owner.host != self._view.disk.host():
                root = self._view.layout.root
                raise Fenced(f"{root} was taken over by host {owner.host}; consume {self.name} there")

    def release(self) -> None:
        """Let another consumer have the name."""
        self.cursor.close()
        self._file.close()
        self._owner.close()
        self._lock.release()

    def _passed_segment(self, before: int, now: int) -> bool:
        try:
            head = self._view.head()
            if head is None:
                return True
            if head.segment != self._tip:
                self._firsts = [segment.first for segment in self._view.chain()]
                self._tip = head.segment
        except OSError:
            return True  # it cannot be told: whoever prunes looks for itself
        return bisect_right(self._firsts, before) != bisect_right(self._firsts, now)

    def _settle(self, reason: str, below: int) -> int:
        settled = [gap for gap in self._gaps if gap.reason == reason and gap.next <= below]
        self._gaps = [gap for gap in self._gaps if gap not in settled]
        return sum(gap.count for gap in settled)
