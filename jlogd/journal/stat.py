"""What a log looks like from outside: sizes, ages, and how far each subscriber is behind."""

from __future__ import annotations

import time

from jlogd.journal.batch import Batch
from jlogd.journal.cursor import Cursor
from jlogd.journal.head import Head
from jlogd.journal.retention import bytes_at, caps_of
from jlogd.journal.segment import SegmentId
from jlogd.journal.subscribers import State, Subscribers
from jlogd.journal.types import LogStat, Position, SubscriberStat
from jlogd.journal.view import View


def log_stat(view: View, subscribers: Subscribers) -> LogStat:
    """The log as it is now, in time that does not depend on how much it holds. Raises `FormatError`."""
    segments, head, owner = view.chain(), view.head(), view.owner()
    settings = view.meta.settings
    first = segments[0].first if segments else 1
    following = segments[1].first if len(segments) > 1 else 0
    found = [_subscriber(view, subscribers, name, state, head, segments) for name, state in subscribers.all().items()]
    for subscriber in found:
        subscriber.pins = subscriber.next < following
    return LogStat(
        name=view.layout.name,
        target=str(view.layout.root),
        uuid=view.meta.uuid,
        bytes=head.total_bytes - bytes_at(view, Position(first), segments) if head else 0,
        segments=len(segments),
        first=first,
        next=head.visible if head else first,
        epoch=owner.epoch,
        owner=owner.host,
        durability=settings.durability,
        compression=settings.compression,
        segment_bytes=settings.segment_bytes,
        created=view.meta.created / 1e9,
        oldest_time=_append_time(view, Position(first)),
        newest_time=head.append_time / 1e9 if head and head.visible > first else 0.0,
        pinned_by=min((s.name for s in found if s.pins), key=lambda name: _next_of(found, name), default=""),
        subscribers=found,
    )


def _next_of(found: list[SubscriberStat], name: str) -> int:
    return next(subscriber.next for subscriber in found if subscriber.name == name)


def _subscriber(
    view: View, subscribers: Subscribers, name: str, state: State, head: Head | None, segments: list[SegmentId]
) -> SubscriberStat:
    first = segments[0].first if segments else 1
    # Records that are gone count as dropped at once, and not only when the subscriber hears of it.
    gone = max(0, min(first, view.floor().first) - state.position.next)
    position = Position(first) if gone else state.position
    visible = head.visible if head else position.next
    behind = max(0, visible - position.next)
    waiting_since = _append_time(view, position) if behind else 0.0
    return SubscriberStat(
        name=name,
        next=state.position.next,
        lag_records=behind,
        lag_bytes=max(0, head.total_bytes - bytes_at(view, position, segments)) if head and behind else 0,
        lag_seconds=max(0.0, time.time() - waiting_since) if waiting_since else 0.0,
        holder=subscribers.holder(name),
        dropped=state.dropped + gone,
        damaged=state.damaged,
        caps=caps_of(state, view.meta.settings),
    )


def _append_time(view: View, position: Position) -> float:
    """When the batch at `position` was appended, in seconds since 1970 UTC; 0 when there is none."""
    cursor = Cursor(view, position)
    try:
        batch = next((item for item in cursor.read(1) if isinstance(item, Batch)), None)
        return batch.append_time / 1e9 if batch else 0.0
    finally:
        cursor.close()
