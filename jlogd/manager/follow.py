"""What is new of what arrives: to a pull, which makes parcels of it, and to the ledger, when a parcel is written.

What is there already is left out by both. To a pull, a hole is what will not come any more, and a gap says so. To the
ledger it is a mistake, and refused; so is another log, unless the parcel says that it begins anew. No input or output
is done here.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from jlogd.errors import JlogError
from jlogd.journal.batch import Batch, Gap
from jlogd.manager.ledger import SourceState
from jlogd.manager.parcel import PASSED, Item, Mark, Parcel


class HoleError(JlogError):
    """What arrived does not follow what was written."""

    code = "hole"


def unseen(found: Iterable[Batch | Gap], expected: int | None) -> list[Item]:
    """What of `found`, in order, is not below `expected`, with gaps for what is missing before and in between.

    None: nothing is expected yet, and whatever comes first is the beginning.
    """
    items: list[Item] = []
    for item in found:
        start = item.first if expected is None else expected
        new = _since(item, start)
        if new is None:
            continue
        if new.first > start:
            items.append(Gap(start, new.first - 1, PASSED))
        items.append(new)
        expected = new.next
    return items


def follow(parcel: Parcel, state: SourceState | None) -> tuple[list[Item], SourceState]:
    """What of a parcel follows `state`, and the state after it. Raises `HoleError`."""
    first = parcel.items[0].first
    if state is None:
        state = SourceState(parcel.uuid, first, first)
    elif parcel.restart == state.restarts:
        state = msgspec.structs.replace(state, uuid=parcel.uuid, next=first, restarts=state.restarts + 1, since=first)
    elif state.uuid != parcel.uuid:
        raise HoleError(f"it is of the log {parcel.uuid}, and {state.uuid} was pulled before")
    state = msgspec.structs.replace(state, output=parcel.source.output.partition(":")[0])
    items = []
    for item in parcel.items:
        trimmed = _since(item, state.next)
        if trimmed is None:
            continue
        if trimmed.first != state.next:
            raise HoleError(f"record {trimmed.first} came, and {state.next} was to come")
        items.append(trimmed)
        state = _after(state, trimmed)
    return items, state


def _since(item: Item, sequence: int) -> Item | None:
    """What of an item is not below `sequence`."""
    if isinstance(item, Mark):
        return item if item.first >= sequence else None
    if item.next <= sequence:
        return None
    if isinstance(item, Batch):
        return item.since(sequence)
    return item if item.first >= sequence else Gap(sequence, item.last, item.reason, item.detail)


def _after(state: SourceState, item: Item) -> SourceState:
    if isinstance(item, Mark):
        return state
    if isinstance(item, Gap):
        return msgspec.structs.replace(state, next=item.next, lost=state.lost + item.count)
    return msgspec.structs.replace(
        state, next=item.next, epoch=item.epoch, last_first=item.first, last_count=item.count, last_crc=item.body_crc,
        last_time=item.append_time, records=state.records + item.count, bytes=state.bytes + item.raw_bytes,
    )  # fmt: skip
