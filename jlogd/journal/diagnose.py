"""What is wrong with the files of a log that nobody has open, and what is to be done: looking only, nothing is changed.

The segments are the log; everything else can be found again from them, and is, where it is damaged:

    log.json             identity from the segment headers, default settings (those of the file are not believed)
    owner                the highest epoch of any head or segment, this host
    head-<epoch>         the end of the log, found anew by a recovery; a damaged slot alone makes it suspect, because
                         the slot that is left may be an old one
    floor                the oldest record that is there, or that a subscriber waits for
    subscribers/<name>   the slot that is left; without one, the oldest record: never past one that may be delivered

What does not belong to the log is taken out: files that were being replaced (`*.new`), heads of earlier epochs,
segments of another log, segments that hold nothing and hide others by their name, segments of a fenced owner.

Damaged batches stay where they are. Readers skip them and report them as gaps, which no repair could do better.
"""

from __future__ import annotations

import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import msgspec
from crc32c import crc32c

from jlogd.errors import FormatError, LogNotFound, OwnedElsewhere
from jlogd.journal.batch import Batch
from jlogd.journal.disk import Disk, read_all
from jlogd.journal.head import FLOOR, HEAD, OWNER, Floor, Owner, boot_tag, decode_floor, decode_head, decode_owner
from jlogd.journal.layout import FORMAT, Layout, Meta, crc_seed, encode_meta, head_epochs, read_meta, uuid_bytes
from jlogd.journal.plan import STATE_BYTES, Action, Plan, Recovery, StateFile, Step
from jlogd.journal.scan import Scanner
from jlogd.journal.segment import (
    SEGMENT_HEADER_BYTES,
    SegmentHeader,
    SegmentId,
    chain,
    decode_segment_header,
    host_tag,
    segment_ids,
)
from jlogd.journal.slots import SLOT_BYTES, STRIDE, decode_slot
from jlogd.journal.subscribers import KIND as SUBSCRIBER
from jlogd.journal.subscribers import State, decode_state
from jlogd.journal.types import NAME, Position, Settings

_LEFTOVER = ".new"
_LOCK = ".lock"
# Where the header says that it is of another version; any other complaint about a header is damage.
_VERSION_AT = 8


@dataclass(frozen=True)
class _Slots:
    """A state file as it is."""

    payload: bytes | None
    problems: list[str]
    size: int


def diagnose(disk: Disk, root: Path) -> Plan:
    """What a repair of the log at `root` would do. The caller holds `owner.lock` exclusively.

    Raises `LogNotFound`; `FormatError` for a log of a newer version, or one whose identity cannot be known;
    `OwnedElsewhere` when another host owns it.
    """
    return _Diagnosis(disk, root).plan


class _Diagnosis:
    def __init__(self, disk: Disk, root: Path) -> None:
        self._disk = disk
        self._layout = Layout(root)
        self.plan = Plan()
        try:
            self._names = disk.listdir(root)
        except (FileNotFoundError, NotADirectoryError):
            raise LogNotFound(f"there is no log at {root}") from None
        self._headers = {segment: self._read_header(segment) for segment in segment_ids(self._names)}
        meta = self._identity()
        self._uuid, self._seed = uuid_bytes(meta), crc_seed(meta)
        self._leftovers()
        self._chain = self._segments()
        head_problem = self._head()
        owner_epoch, owner_problem = self._owner()
        floor = self._look(self._layout.floor, FLOOR)
        positions = self._subscribers(self._oldest(floor))
        self._floor(floor, positions)
        self._end(head_problem, owner_problem, owner_epoch, positions)

    # log.json

    def _identity(self) -> Meta:
        layout = self._layout
        votes = Counter(header.uuid for header in self._headers.values() if header is not None)
        try:
            data = read_all(self._disk, layout.meta)
        except FileNotFoundError:
            if not self._headers and not self._disk.exists(layout.owner):
                raise LogNotFound(f"there is no log at {layout.root}") from None
            return self._rebuilt_identity(votes, "it is not there", 0)
        if not _is_intact(data):
            return self._rebuilt_identity(votes, "it is damaged, or was edited by hand", len(data))
        meta = read_meta(self._disk, layout)
        if votes and uuid_bytes(meta) not in votes:
            return self._rebuilt_identity(votes, "it is that of another log", len(data))
        if data != encode_meta(meta):
            self._change(layout.meta, "rewritten", "its form was changed, not what it says", len(data))
            self.plan.meta = meta
        return meta

    def _rebuilt_identity(self, votes: Counter[bytes], why: str, size: int) -> Meta:
        root = self._layout.root
        if not votes:
            raise FormatError(
                "neither log.json nor any segment header can be read, so it is not known which log this is; "
                "nothing was changed: put log.json back from a copy",
                str(root),
            )
        uuid = votes.most_common(1)[0][0]
        created = min(header.created for header in self._headers.values() if header is not None and header.uuid == uuid)
        meta = Meta(format=FORMAT, uuid=str(UUID(bytes=uuid)), created=created, settings=Settings())
        why = f"{why}; identity {meta.uuid} from the segment headers, default settings"
        self._change(self._layout.meta, "rebuilt" if size else "made", why, size)
        self.plan.meta = meta
        return meta

    # Segments

    def _read_header(self, segment: SegmentId) -> SegmentHeader | None:
        path = self._layout.segment(segment)
        try:
            file = self._disk.open(path, "read")
            try:
                return decode_segment_header(file.pread(SEGMENT_HEADER_BYTES, 0), str(path))
            finally:
                file.close()
        except FormatError as error:
            if error.offset == _VERSION_AT:
                raise
            return None

    def _segments(self) -> list[SegmentId]:
        """The chain, without what does not belong to the log."""
        holding = []
        for segment, header in self._headers.items():
            if header is not None and header.uuid != self._uuid:
                self._move(self._layout.segment(segment), f"it belongs to the log {UUID(bytes=header.uuid)}")
            elif header.id == segment if header is not None else self._holds(segment)[0]:
                holding.append(segment)
        kept = set(holding)
        for segment, header in self._headers.items():
            if segment in kept or (header is not None and header.uuid != self._uuid):
                continue
            if any(other.first >= segment.first and other.epoch < segment.epoch for other in holding):
                self._move(self._layout.segment(segment), "it is not what its name says, and hides segments that are")
            else:
                kept.add(segment)
        found = chain(kept)
        for segment in sorted(kept - set(found)):
            _, records = self._holds(segment)
            why = "an owner that was fenced wrote it; it is not part of the log"
            self._move(self._layout.segment(segment), why, records)
        return found

    def _holds(self, segment: SegmentId) -> tuple[int, int]:
        """Valid batches of a segment, and their records."""
        file = self._disk.open(self._layout.segment(segment), "read")
        try:
            end, batches, records = file.size(), 0, 0
            scanner = Scanner(file, self._seed)
            while (item := scanner.step(end, segment.first)) is not None:
                if isinstance(item, Batch):
                    batches, records = batches + 1, records + item.count
            return batches, records
        finally:
            file.close()

    # State files

    def _head(self) -> Recovery:
        """Whether the newest head can be believed; older ones are taken out, lest a recovery believes them."""
        epochs = head_epochs(self._names)
        for epoch in epochs[:-1]:
            self._move(self._layout.head(epoch), f"left over from before epoch {epochs[-1]}")
        if not epochs:
            self.plan.steps.append(Step(path="head", action="recovered", why="no head is there"))
            return "restart"
        path = self._layout.head(epochs[-1])
        found = self._look(path, HEAD)
        head = self.plan.head = decode_head(found.payload)
        why = ", ".join(found.problems)
        if head is not None and head.ended:  # what is written next goes over it: the other slot is older
            if why:
                self._rewrite(path, HEAD, head.encode(), found)
            return ""
        if head is None:
            why = why or "it was never written"
        elif not why and self._chain and head.segment != self._chain[-1]:
            why = f"it names {head.segment.filename}, but the log ends in {self._chain[-1].filename}"
        if not why:
            return ""
        self._change(path, "recovered", why, found.size)
        return "restart"

    def _owner(self) -> tuple[int, str]:
        """The owner's epoch, and why it was rebuilt, if it was."""
        disk, path = self._disk, self._layout.owner
        epochs = [segment.epoch for segment in self._chain]
        if self.plan.head is not None:
            epochs.append(self.plan.head.epoch)
        newest = max(epochs, default=0)
        found = self._look(path, OWNER)
        owner = None if found.payload is None else decode_owner(found.payload, str(path))
        if owner is not None and owner.epoch >= newest:
            if owner.host != disk.host():
                raise OwnedElsewhere(f"{self._layout.root} is owned by {owner.told}; repair it there")
            if found.problems:
                self._rewrite(path, OWNER, owner.encode(), found)
            return owner.epoch, ""
        why = ", ".join(found.problems) or "it was never written"
        if owner is not None:
            why = f"it says epoch {owner.epoch}, but epoch {newest} has written"
        self._check_writer()
        # A boot of no name: whoever opens the log trusts the disk and not what a head says.
        rebuilt = Owner(newest, disk.host(), "", time.time_ns(), disk.host_name())
        self._rebuild(path, OWNER, rebuilt.encode(), found, f"{why}; this host is the owner now")
        return newest, why

    def _check_writer(self) -> None:
        """Raises `OwnedElsewhere` when the owner is not known, and another host wrote last."""
        headers = [self._headers.get(segment) for segment in reversed(self._chain)]
        last = next((header for header in headers if header is not None), None)
        if last is not None and last.host != host_tag(self._disk.host()):
            raise OwnedElsewhere(
                f"the owner of {self._layout.root} cannot be read, and another host wrote it last; repair it there"
            )

    def _oldest(self, floor: _Slots) -> int:
        """The first record that was not pruned: it is there, or it is missing, and a subscriber is to be told."""
        there = self._chain[0].first if self._chain else 1
        return there if floor.payload is None else min(there, decode_floor(floor.payload).first)

    def _subscribers(self, oldest: int) -> list[int]:
        """Where the subscribers stand."""
        directory = self._layout.subscribers
        if not self._disk.exists(directory):
            self.plan.make_subscribers = True
            why = "it was not there; its subscribers are lost, add them again"
            self.plan.steps.append(Step(path=directory.name, action="made", why=why))
            return []
        positions = []
        for name in sorted(self._disk.listdir(directory)):
            path = directory / name
            if name.endswith(_LOCK):
                continue
            if name.endswith(_LEFTOVER):
                self._move(path, "left over from a file that was being replaced")
            elif not NAME.fullmatch(name):
                self._move(path, "no subscriber can have this name")
            else:
                positions.append(self._subscriber(path, oldest))
        return positions

    def _subscriber(self, path: Path, oldest: int) -> int:
        found = self._look(path, SUBSCRIBER)
        known = decode_state(found.payload) if found.payload is not None else None
        if found.payload is not None and known is not None:
            if found.problems:
                self._rewrite(path, SUBSCRIBER, found.payload, found)
            return known.position.next
        state = State(Position(oldest), updated=time.time_ns())
        why = f"{', '.join(found.problems) or 'it was never written'}; it starts at the oldest record, {oldest}"
        self._rebuild(path, SUBSCRIBER, state.encode(), found, f"{why}, with the caps of the log")
        return oldest

    def _floor(self, found: _Slots, positions: list[int]) -> None:
        if found.payload is not None:
            if found.problems:
                self._rewrite(self._layout.floor, FLOOR, found.payload, found)
            return
        # Below the oldest segment, what a subscriber still waits for was not pruned: it is missing.
        first = min([self._oldest(found), *positions])
        why = f"{', '.join(found.problems) or 'it was never written'}; what is below {first} counts as pruned"
        self._rebuild(self._layout.floor, FLOOR, Floor(first).encode(), found, why)

    def _end(self, head_problem: Recovery, owner_problem: str, epoch: int, positions: list[int]) -> None:
        """Whether the end of the log has to be found anew."""
        self.plan.recovery, head = head_problem, self.plan.head
        if head_problem or head is None:
            return
        why = ""
        if owner_problem:
            why = "the owner was rebuilt, so a new epoch begins"
        elif head.epoch != epoch:
            why = f"epoch {epoch} has no head yet"
        elif max(positions, default=0) > head.visible:
            why = f"a subscriber waits for {max(positions)}, and the log ends before {head.visible}"
        if why:
            # What this boot wrote after the head may not be on disk; only the usual recovery writes it again.
            believed = head.segment in self._chain and head.boot == boot_tag(self._disk.boot())
            self.plan.recovery = "recover" if believed else "restart"
            self.plan.steps.append(Step(path=self._layout.head(head.epoch).name, action="recovered", why=why))

    def _leftovers(self) -> None:
        for name in sorted(self._names):
            if name.endswith(_LEFTOVER):
                self._move(self._layout.root / name, "left over from a file that was being replaced")

    # Steps

    def _look(self, path: Path, kind: bytes) -> _Slots:
        try:
            file = self._disk.open(path, "read")
        except FileNotFoundError:
            return _Slots(None, ["it is not there"], 0)
        try:
            size, data = file.size(), file.pread(STATE_BYTES, 0)
        finally:
            file.close()
        return _slots(data, size, kind)

    def _rewrite(self, path: Path, kind: bytes, payload: bytes, found: _Slots) -> None:
        self._change(path, "rewritten", ", ".join(found.problems), found.size)
        self.plan.states.append(StateFile(path, kind, payload))

    def _rebuild(self, path: Path, kind: bytes, payload: bytes, found: _Slots, why: str) -> None:
        self._change(path, "rebuilt" if found.size else "made", why, found.size)
        self.plan.states.append(StateFile(path, kind, payload))

    def _change(self, path: Path, action: Action, why: str, size: int) -> None:
        self.plan.steps.append(Step(path=self._relative(path), action=action, why=why, bytes=size))
        if size:
            self.plan.copied.append(path)

    def _move(self, path: Path, why: str, records: int = 0) -> None:
        size = 0
        with suppress(FileNotFoundError):
            file = self._disk.open(path, "read")
            size = file.size()
            file.close()
        self.plan.steps.append(Step(path=self._relative(path), action="moved", why=why, bytes=size, records=records))
        self.plan.moved.append(path)

    def _relative(self, path: Path) -> str:
        return str(path.relative_to(self._layout.root))


def _slots(data: bytes, size: int, kind: bytes) -> _Slots:
    """What the bytes of a state file hold, and what is wrong with them."""
    parts = (data[:SLOT_BYTES], data[STRIDE:])
    valid = [decode_slot(part, kind) for part in parts]
    generation, payload = max((state for state in valid if state is not None), default=(0, None))
    # The first write goes to slot 0, the second to slot 1: from then on neither may be empty.
    problems = [
        f"slot {slot} is damaged"
        for slot, (part, state) in enumerate(zip(parts, valid, strict=True))
        if state is None and (any(part) or generation > 1 or slot == 0)
    ]
    if any(data[SLOT_BYTES:STRIDE]):
        problems.append("the bytes between the slots are damaged")
    if size != STATE_BYTES:
        problems.append(f"it has {size} bytes, not {STATE_BYTES}")
    return _Slots(payload, problems, size)


def _is_intact(data: bytes) -> bool:
    """Whether `log.json` is as somebody wrote it, be it a newer version: its checksum covers fields of any name."""
    with suppress(msgspec.MsgspecError, UnicodeDecodeError):
        found = msgspec.json.decode(data, type=dict)
        return bool(crc32c(msgspec.json.encode({**found, "crc": 0})) == found.get("crc"))
    return False
