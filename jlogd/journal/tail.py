"""The end of the log while it is written: the segment in use, and how it is found again after a crash.

Recovery, in this order, under `append.lock`:

1. raise the epoch in `owner`, durably: from here on a former writer acknowledges nothing (see `head.py`);
2. find the last segment that holds anything, and how much of it is to be believed:
   - the head of this boot says how much was durable. What stands after it was written, but no sync of it is known to
     have succeeded, and after a failed one the pages look clean: its valid batches are written again, into the new
     segment;
   - without such a head (another boot, another host), the page cache is gone and what can be read is what the disk
     has: sync, then believe all up to the last batch that is known to have been durable or follows without damage;
     what stands beyond the head of another host is written again all the same, so that no segment which that host is
     still about to create starts before ours;
3. start a new segment whose header seals the old one at the bytes that are believed;
4. write a head for the new epoch, then remove the heads of older ones.

A crash at any point leaves a log that the next recovery handles in the same way. Nothing is rewritten or truncated.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, field

from jlogd.errors import OwnedElsewhere
from jlogd.journal.batch import Batch
from jlogd.journal.disk import Buffer, File
from jlogd.journal.head import HEAD, Head, Owner, boot_tag, decode_head, decode_owner, next_owner
from jlogd.journal.layout import head_epochs
from jlogd.journal.producers import Producers
from jlogd.journal.scan import Damage, Scanner
from jlogd.journal.segment import SEGMENT_HEADER_BYTES, SegmentHeader, SegmentId, chain, host_tag, segment_ids
from jlogd.journal.slots import SlotFile
from jlogd.journal.subscribers import Subscribers
from jlogd.journal.view import View


class ShortWrite(OSError):
    """The disk took only a part of an append and no more of it."""


@dataclass
class Tail:
    """The segment in use, open for appending. `head` is what was last published."""

    file: File
    head: Head
    head_file: SlotFile
    producers: Producers
    torn_bytes: int = 0  # what recovery left behind the end it found

    def close(self) -> None:
        self.file.close()
        self.head_file.close()

    def publish(self, head: Head, *, sync: bool = False) -> None:
        """Let readers and other writers see `head`."""
        self.head_file.write(head.encode(), sync=sync)
        self.head = head


@dataclass
class Found:
    """What recovery believes: the log ends in `segment` at byte `accepted`, with record `next` to come; `again` are
    batches after that to be written anew."""

    segment: SegmentId | None
    accepted: int
    bytes_before: int
    next: int
    append_time: int
    torn_bytes: int = 0
    producers: Producers = field(default_factory=Producers)
    again: list[Batch] = field(default_factory=list)


def write_all(file: File, buffers: list[Buffer]) -> int:
    """Append all of the buffers; the bytes written. Raises OSError, `ShortWrite` when the disk makes no progress."""
    total = sum(map(len, buffers))
    done = file.append(buffers)
    written = done
    while written < total:
        if not done:
            raise ShortWrite(f"{written} of {total} bytes were written")
        buffers = _after(buffers, done)
        done = file.append(buffers)
        written += done
    return written


def _after(buffers: list[Buffer], done: int) -> list[Buffer]:
    left = list(buffers)
    while done >= len(left[0]):
        done -= len(left[0])
        left.pop(0)
    left[0] = memoryview(left[0])[done:]
    return left


def start_segment(view: View, found: Found, epoch: int, again: list[Batch]) -> tuple[File, Head]:
    """Create the segment that follows `found`, holding the batches `again`; the open file and the head that names it.

    Durable when it returns. Raises OSError (FileExistsError when the name is taken: raise the epoch and try again).
    """
    identity = SegmentId(found.next, epoch)
    created = max(time.time_ns(), found.append_time)
    before = found.bytes_before + found.accepted
    host = host_tag(view.disk.host())
    header = SegmentHeader(identity, view.uuid, before, created, found.segment, found.accepted, host)
    snapshot = found.producers.snapshot().stamped(identity.first, identity.first, created, epoch)
    following, parts = identity.first, [header.encode(), snapshot.header(view.seed), snapshot.body]
    for batch in again:
        stamped = batch.stamped(following, identity.first, created, epoch)
        parts += [stamped.header(view.seed), stamped.body]
        found.producers.note(stamped)
        following = stamped.next
    path = view.layout.segment(identity)
    file = view.disk.open(path, "create")
    try:
        written = write_all(file, list(parts))
        file.sync()
        view.disk.sync_dir(view.layout.root)
    except BaseException:
        file.close()
        with suppress(OSError):
            view.disk.unlink(path)
        raise
    boot = boot_tag(view.disk.boot())
    return file, Head(epoch, identity, written, written, following, following, before, created, boot)


def recover(view: View, owner_file: SlotFile, owner: Owner, *, keep_tail: bool) -> Tail:
    """Find the end of the log after a crash, a takeover or a failed write, and start a new segment there.

    The caller holds `append.lock`. `keep_tail` false: what stands after the durable end was refused, and stays behind.
    Raises `OwnedElsewhere`.
    """
    disk, layout = view.disk, view.layout
    epoch, names = _raise_epoch(view, owner_file, owner)
    segments = segment_ids(names)
    head = _newest_head(view, names)
    if head is not None and head.boot == boot_tag(disk.boot()):
        segments = _without_unfinished(view, segments, head)
    if head is not None and head.boot == boot_tag(disk.boot()) and _is_last(head, segments):
        found = _from_head(view, head, keep_tail and not head.discard)
    else:
        found = from_disk(view, chain(segments), head)
    if not found.again:
        # Numbers that a subscriber has seen, or a damaged tail held, are not given out again.
        positions = [state.position.next for state in Subscribers(view).all().values()]
        last = max((segment.first for segment in chain(segments)), default=1)
        known = max([*positions, head.visible if head else 0, last])
        if known <= found.next and head is not None:
            _begin_where_the_head_ends(view, head, found)
        found.next = max(found.next, known if not found.again else 0)
    _pass_over_empty(view, found)
    file, fresh = start_segment(view, found, epoch, found.again)
    try:
        SlotFile.create(disk, layout.head(epoch), HEAD, fresh.encode())
    except BaseException:
        file.close()
        for path in (layout.head(epoch), layout.segment(fresh.segment)):  # the log goes on without them
            with suppress(OSError):
                disk.unlink(path)
        raise
    remove_old_heads(view, epoch)
    head_file = SlotFile.open(disk, layout.head(epoch), HEAD, hint=True)
    head_file.read()
    return Tail(file, fresh, head_file, found.producers, found.torn_bytes)


def _begin_where_the_head_ends(view: View, head: Head, found: Found) -> None:
    """After a takeover: write again what stands beyond the head of the former owner.

    That one may be in the middle of a recovery of its own, from the same head. The segment that it creates then, now or
    much later, starts at the head's end: it is no part of the log only if ours does not start after it.
    """
    header = view.header(head.segment) if head.segment == found.segment else None
    if header is None or header.host == host_tag(view.disk.host()):
        return
    file = view.open_segment(head.segment)
    try:
        scanner = Scanner(file, view.seed, head.durable)
        again = _batches_from(scanner, found.accepted, head.visible)
    finally:
        file.close()
    if again and again[-1].next == found.next:  # where there is damage in between, numbers would change
        found.again, found.accepted, found.next = again, head.durable, head.visible


def _batches_from(scanner: Scanner, end: int, following: int) -> list[Batch]:
    """The batches from where the scanner stands that follow one another from number `following` on."""
    found: list[Batch] = []
    while isinstance(item := scanner.step(end, following), Batch) and item.first == following:
        found.append(item)
        following = item.next
    return found


def _without_unfinished(view: View, segments: list[SegmentId], head: Head) -> list[SegmentId]:
    """Remove the segments of recoveries in this boot that ended before they wrote a head. Nothing in them was
    acknowledged, and they must not stand in the chain: what they seal, they may seal too early."""
    unfinished = [segment for segment in segments if segment.epoch > head.epoch]
    for segment in unfinished:
        view.disk.unlink(view.layout.segment(segment))
    if unfinished:
        view.disk.sync_dir(view.layout.root)
    return [segment for segment in segments if segment not in unfinished]


def _is_last(head: Head, segments: list[SegmentId]) -> bool:
    """Whether no segment follows the head's, unless one was being made: else the head is older than it seems."""
    following = [segment for segment in chain(segments) if segment > head.segment]
    return head.segment in segments and (not following or head.ended)


def _pass_over_empty(view: View, found: Found) -> None:
    """A segment without a record, which the new one replaces in the chain, is not what the new one follows."""
    if found.segment is None or found.next != found.segment.first:
        return
    header = view.header(found.segment)
    if header is not None:
        found.bytes_before = header.bytes_before - header.previous_bytes
        found.segment, found.accepted = header.previous, header.previous_bytes


def _raise_epoch(view: View, owner_file: SlotFile, expected: Owner) -> tuple[int, list[str]]:
    """An epoch that nobody wrote in yet, durably the owner's, and the names that were there after it was. An attempt
    that got no further is taken up again, so that a log on a full disk can be tried as often as one likes.

    Raises `OwnedElsewhere` when the owner is another one than `expected`: a former owner must not take the log back.
    """
    disk = view.disk
    while True:
        # Looked at again after each write: two hosts that both believe to be the owner do not write in one epoch.
        names = view.names()
        owner = decode_owner(owner_file.read(), str(view.layout.owner))
        if owner.host not in (expected.host, disk.host()):
            raise OwnedElsewhere(
                f"{view.layout.root} was taken over: it is owned by {owner.told}; this process must stop"
            )
        used = max([0, *head_epochs(names), *(segment.epoch for segment in segment_ids(names))])
        if (owner.host, owner.boot) == (disk.host(), disk.boot()) and owner.epoch > used:
            owner_file.sync()
            return owner.epoch, names
        owner_file.write(next_owner(owner, max(owner.epoch, used) + 1, disk).encode(), sync=True)


def remove_old_heads(view: View, epoch: int) -> None:
    """Remove the heads of epochs before `epoch`: a reader holds on to a head until it is gone."""
    for old in head_epochs(view.names()):
        if old < epoch:
            view.disk.unlink(view.layout.head(old))


def read_tail(view: View, head: Head, producers: Producers, start: int) -> None:
    """Let `producers` learn the batches of the head's segment from byte `start` to its written end."""
    file = view.open_segment(head.segment)
    try:
        scanner = Scanner(file, view.seed, max(start, SEGMENT_HEADER_BYTES))
        while (item := scanner.step(head.written, 0)) is not None:
            if isinstance(item, Batch):
                producers.learn([item])
    finally:
        file.close()


def _newest_head(view: View, names: list[str]) -> Head | None:
    for epoch in reversed(head_epochs(names)):
        file = SlotFile.open(view.disk, view.layout.head(epoch), HEAD, write=False)
        try:
            found = decode_head(file.read())
        finally:
            file.close()
        if found is not None:
            return found
    return None


def _from_head(view: View, head: Head, keep_tail: bool) -> Found:
    """This boot wrote the head: what it calls durable is; the rest is written again."""
    found = Found(head.segment, head.durable, head.bytes_before, head.visible, head.append_time)
    file = view.open_segment(head.segment)
    try:
        scanner = Scanner(file, view.seed)
        while (item := scanner.step(head.durable, 0)) is not None:
            if isinstance(item, Batch):
                found.producers.learn([item])
        scanner.offset = head.durable
        # Under the policies that acknowledge before the sync, `written` may be ahead: that is kept even if what
        # follows it was refused.
        end = file.size() if keep_tail else head.written
        found.again = _batches_from(scanner, end, found.next)
        found.torn_bytes = max(0, file.size() - scanner.offset)
        if view.meta.settings.durability == "os":
            with suppress(OSError):  # what is sealed here, nobody would sync any more
                file.sync()
    finally:
        file.close()
    return found


def from_disk(view: View, segments: list[SegmentId], head: Head | None) -> Found:
    """Another boot, or another host: the disk itself says what was durable."""
    for segment in reversed(segments):
        found = _read_segment(view, segment, head)
        if found is not None:
            return found
    return Found(None, 0, 0, head.visible if head else 1, 0)


def _read_segment(view: View, segment: SegmentId, head: Head | None) -> Found | None:
    """How much of `segment` is the log; None when its creation was cut off and it never held anything."""
    header = view.header(segment)
    file = view.disk.open(view.layout.segment(segment), "write")
    try:
        file.sync()
        end = file.size()
        floor = head.durable if head is not None and head.segment == segment else 0
        before = header.bytes_before if header else head.bytes_before if head and head.segment == segment else 0
        found = Found(segment, 0, before, segment.first, header.created if header else 0)
        _walk(Scanner(file, view.seed), end, floor, found)
    finally:
        file.close()
    if header is None and found.accepted <= SEGMENT_HEADER_BYTES:
        return None
    if head is not None and head.segment == segment:
        found.accepted, found.next = max(found.accepted, head.durable), max(found.next, head.visible)
    found.torn_bytes = max(0, end - found.accepted)
    return found


def _following(item: Batch, accepted: int, doubted: list[Batch]) -> int:
    """The least number that a batch may have after those that are accepted or still in doubt."""
    return max([accepted, *(batch.next for batch in doubted[-1:])]) if item.count else item.first


def _walk(scanner: Scanner, end: int, floor: int, found: Found) -> None:
    """Accept batches up to the last that follows without damage, or that proves the damage before it to be rot."""
    found.accepted = SEGMENT_HEADER_BYTES
    doubted: list[Batch] = []
    damaged = False
    while (item := scanner.step(end, found.next)) is not None:
        if isinstance(item, Damage):
            damaged = True
            continue
        following = _following(item, found.next, doubted)
        if item.first < following:  # an old batch that stands where it does not belong
            damaged = True
            continue
        damaged = damaged or item.first > following
        doubted.append(item)
        if damaged and item.committed <= found.next and scanner.offset > floor:
            continue
        damaged = False
        found.producers.learn(doubted)
        doubted.clear()
        found.accepted, found.next = scanner.offset, item.next if item.count else found.next
        found.append_time = item.append_time
