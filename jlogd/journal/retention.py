"""What may go, and what must wait: pruning, and the caps on how far a subscriber may fall behind.

A segment is pruned when every subscriber has passed it. A subscriber whose policy is `drop-oldest` counts as having
passed what lies beyond its cap; one whose policy is `block` stops appends once it has reached its cap. A log without
subscribers keeps everything, up to the caps of its settings.

Order: the positions that allow it are synced, then the floor says what goes, durably, then the files go. So a missing
segment below the floor is normal, and one above it is damage.
"""

from __future__ import annotations

import time
from contextlib import suppress
from itertools import accumulate, pairwise

from jlogd.errors import LogFull
from jlogd.journal.batch import SEQUENCE_MAX, Batch
from jlogd.journal.head import FLOOR, Floor, Head
from jlogd.journal.layout import read_meta
from jlogd.journal.segment import SegmentId, segment_ids
from jlogd.journal.slots import SlotFile
from jlogd.journal.subscribers import State, Subscribers
from jlogd.journal.types import Caps, Position, Settings
from jlogd.journal.view import View

# How long a cap that another process set may go unnoticed; looking costs a file read for each subscriber.
LOOK_AGAIN_SECONDS = 0.5


def bytes_at(view: View, position: Position, segments: list[SegmentId]) -> int:
    """Bytes before `position` in the life of the log; where only its number is known, those before its segment."""
    if position.segment_epoch:
        return position.bytes
    holding = [segment for segment in segments if segment.first <= position.next]
    return _bytes_before(view, (holding or segments)[-1 if holding else 0]) if segments else 0


def caps_of(state: State, settings: Settings) -> Caps:
    """The caps that hold for a subscriber: its own, or the log's."""
    return state.caps if state.caps is not None else settings.caps


def _limit(view: View, subscribers: Subscribers, head: Head) -> tuple[int, str]:
    """Up to which byte in the life of the log may be appended, and the subscriber that sets the limit."""
    segments = view.chain()
    settings = read_meta(view.disk, view.layout).settings
    limits = [
        (bytes_at(view, state.position, segments) + caps.max_bytes, name)
        for name, state in subscribers.all().items()
        if (caps := caps_of(state, settings)).max_bytes and caps.on_full == "block"
    ]
    return min(limits, default=(SEQUENCE_MAX, ""))


class Room:
    """What may be appended before a cap blocks, as the subscribers stood a moment ago. For one thread at a time."""

    def __init__(self, view: View, subscribers: Subscribers) -> None:
        self._view = view
        self._subscribers = subscribers
        self._until = 0  # a byte in the life of the log
        self._look_again_at = 0.0

    def admitted(self, head: Head, batches: list[Batch]) -> list[Batch]:
        """As many of the batches as may be appended now: each that starts below the lowest cap that blocks.

        Raises `LogFull` when that is none.
        """
        start = head.bytes_before + head.written
        end = start + sum(batch.size for batch in batches)
        now = time.monotonic()
        if end > self._until or now >= self._look_again_at:
            # Subscribers move, come and get caps, from other processes too.
            self._look_again_at = now + LOOK_AGAIN_SECONDS
            self._until, name = _limit(self._view, self._subscribers, head)
            if start >= self._until:
                raise LogFull(
                    f"{self._view.layout.name}: subscriber {name} has fallen behind its cap and its policy is to "
                    "block; start its consumer, raise the cap (jlogctl subscriber caps), or remove the subscriber"
                )
        starts = accumulate((batch.size for batch in batches), initial=start)
        return [batch for batch, at in zip(batches, starts, strict=False) if at < self._until]


def prune(view: View, subscribers: Subscribers) -> int:
    """Remove the segments that every subscriber has passed; the bytes given back."""
    lock = view.disk.lock(view.layout.prune_lock)
    try:
        return _prune(view, subscribers, read_meta(view.disk, view.layout).settings)
    finally:
        lock.release()


def _prune(view: View, subscribers: Subscribers, settings: Settings) -> int:
    segments = view.chain()
    head = view.head()
    if head is None or head.segment not in segments:
        return 0
    segments = segments[: segments.index(head.segment) + 1]
    states = subscribers.all()
    keep = _keep_from(view, segments, head, states, settings)
    if keep <= segments[0].first:
        return 0
    subscribers.sync()
    passed = min((state.position.next for state in states.values()), default=keep)
    _raise_floor(view, keep, dropped=max(0, keep - max(passed, segments[0].first)))
    return _unlink_below(view, next(segment for segment in segments if segment.first == keep))


def _keep_from(view: View, segments: list[SegmentId], head: Head, states: dict[str, State], settings: Settings) -> int:
    """The first record of the first segment that must stay."""
    if not states:
        return _cap_floor(view, segments, head, settings.caps)
    wanted = []
    for state in states.values():
        caps = caps_of(state, settings)
        capped = _cap_floor(view, segments, head, caps) if caps.on_full == "drop-oldest" else 0
        wanted.append(max(state.position.next, capped))
    needed = min(wanted)
    return max((segment.first for segment in segments if segment.first <= needed), default=segments[0].first)


def _cap_floor(view: View, segments: list[SegmentId], head: Head, caps: Caps) -> int:
    """The first record of the first segment that lies within the caps; whole segments only, never the last."""
    oldest = time.time_ns() - round(caps.max_age * 1e9)
    for segment, following in pairwise(segments):
        header = view.header(following)
        if header is None:
            return segment.first
        too_far = caps.max_bytes and head.total_bytes - header.bytes_before >= caps.max_bytes
        too_old = caps.max_age and header.created < oldest
        if not too_far and not too_old:
            return segment.first
    return segments[-1].first


def _raise_floor(view: View, first: int, dropped: int) -> None:
    file = SlotFile.open(view.disk, view.layout.floor, FLOOR)
    try:
        before = view.floor()
        file.read()
        file.write(Floor(first, before.dropped + dropped).encode(), sync=True)
    finally:
        file.close()


def _unlink_below(view: View, kept: SegmentId) -> int:
    freed = 0
    for segment in segment_ids(view.names()):
        if segment >= kept:
            continue
        with suppress(FileNotFoundError):
            file = view.open_segment(segment)
            freed += file.size()
            file.close()
            view.disk.unlink(view.layout.segment(segment))
    view.disk.sync_dir(view.layout.root)
    return freed


def _bytes_before(view: View, segment: SegmentId) -> int:
    with suppress(FileNotFoundError):
        header = view.header(segment)
        return header.bytes_before if header is not None else 0
    return 0
