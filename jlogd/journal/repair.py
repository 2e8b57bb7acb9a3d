"""Repairing a log: what `diagnose` found is done, and whatever is taken out or changed is kept.

Nothing is deleted. Before anything is changed, every file that will be is copied, durably, to

    <log>/quarantine/<time>/<path in the log>
    <log>/quarantine/<time>/report.json         a list of what is done: path, action, why, bytes, records

Each step leaves a log that can be repaired again: a crash at any point loses nothing that could be read before.

Locking: `owner.lock` exclusively, so no process has the log open to write or to consume; `append.lock` while the end
of the log is found. Readers without a name may go on reading.
"""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

import msgspec

from jlogd.errors import LogInUse, LogNotFound
from jlogd.journal.diagnose import diagnose
from jlogd.journal.disk import Disk, PosixDisk, replace_file
from jlogd.journal.head import HEAD, OWNER, Head, Owner, decode_owner, next_owner
from jlogd.journal.layout import Layout, head_epochs, write_meta
from jlogd.journal.locks import LockBusy, holder_note
from jlogd.journal.plan import STATE_BYTES, Plan, StateFile, Step
from jlogd.journal.segment import segment_ids
from jlogd.journal.slots import SLOT_BYTES, STRIDE, SlotFile
from jlogd.journal.subscribers import Subscribers
from jlogd.journal.tail import Found, from_disk, recover, start_segment, write_all
from jlogd.journal.view import View

QUARANTINE = "quarantine"
REPORT = "report.json"
# Copied at once: large enough to be fast, small enough for any machine.
_COPY_BYTES = 1 << 20
# Repairs within one second get names of their own.
_PLACES_MAX = 1000


class Repair(msgspec.Struct, frozen=True, kw_only=True):
    """What was done, or would be: nothing, when `steps` is empty. `quarantine` is where copies were put, if any."""

    steps: list[Step]
    quarantine: str = ""


def repair(path: Path | str, disk: Disk | None = None, *, dry_run: bool = False) -> Repair:
    """Bring the files around the segments of a log into order; with `dry_run`, only say what would be done.

    Raises `LogInUse`, `LogNotFound`, `OwnedElsewhere`, and `FormatError` for a log that it must not touch.
    """
    root, disk = Path(path), disk or PosixDisk()
    layout = Layout(root)
    if not disk.exists(root):
        raise LogNotFound(f"there is no log at {root}")
    _check_is_log(disk, layout)
    try:
        lock = disk.lock(layout.owner_lock, wait=False, note=holder_note())
    except LockBusy:
        raise LogInUse(
            f"{root} is in use; stop the daemon and every program that has it open, then run the repair again"
        ) from None
    try:
        plan = diagnose(disk, root)
        if dry_run or not plan.steps:
            return Repair(steps=plan.steps)
        place = _keep(disk, layout, plan)
        _carry_out(disk, layout, plan)
        return Repair(steps=plan.steps, quarantine=str(place))
    finally:
        lock.release()


def _check_is_log(disk: Disk, layout: Layout) -> None:
    """Raises `LogNotFound` for a directory that never was a log: nothing is to be left in it, not even a lock file."""
    names = disk.listdir(layout.root)
    if not {layout.meta.name, layout.owner.name} & set(names) and not segment_ids(names):
        raise LogNotFound(f"there is no log at {layout.root}")


# Keeping what is changed


def _keep(disk: Disk, layout: Layout, plan: Plan) -> Path:
    """Copy every file that will be changed or taken out, and write the report; durable on return."""
    _make_directory(disk, layout.root / QUARANTINE)
    place = _new_place(disk, layout.root / QUARANTINE)
    for path in [*plan.copied, *plan.moved]:
        kept = place / path.relative_to(layout.root)
        if kept.parent != place:
            _make_directory(disk, kept.parent)
        with suppress(FileNotFoundError):
            _copy(disk, path, kept)
            disk.sync_dir(kept.parent)
    report = {"log": str(layout.root), "host": disk.host(), "time": _now(), "steps": plan.steps}
    replace_file(disk, place / REPORT, msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
    return place


def _new_place(disk: Disk, quarantine: Path) -> Path:
    name = _now().replace(":", "")
    for number in range(1, _PLACES_MAX):
        place = quarantine / (name if number == 1 else f"{name}-{number}")
        with suppress(FileExistsError):
            disk.mkdir(place)
            disk.sync_dir(quarantine)
            return place
    raise LogInUse(f"{quarantine} was repaired {_PLACES_MAX} times within a second; run the repair again")


def _make_directory(disk: Disk, path: Path) -> None:
    with suppress(FileExistsError):
        disk.mkdir(path)
        disk.sync_dir(path.parent)


def _copy(disk: Disk, source: Path, target: Path) -> None:
    old = disk.open(source, "read")
    try:
        new = disk.open(target, "create")
        try:
            offset = 0
            while block := old.pread(_COPY_BYTES, offset):
                offset += write_all(new, [block])
            new.sync()
        finally:
            new.close()
    finally:
        old.close()


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


# Doing it


def _carry_out(disk: Disk, layout: Layout, plan: Plan) -> None:
    if plan.meta is not None:
        write_meta(disk, layout, plan.meta)
    for path in plan.moved:
        with suppress(FileNotFoundError):
            disk.unlink(path)
            disk.sync_dir(path.parent)
    if plan.make_subscribers:
        _make_directory(disk, layout.subscribers)
    for state in plan.states:
        _write_state(disk, state)
    if plan.recovery:
        lock = disk.lock(layout.append_lock)
        try:
            _find_end(disk, layout, plan)
        finally:
            lock.release()


def _write_state(disk: Disk, state: StateFile) -> None:
    """Have both slots of a state file hold `state`. In place where that is possible: a writer that was fenced and
    does not know it yet looks at the file it has open."""
    try:
        file = disk.open(state.path, "write")
    except FileNotFoundError:
        SlotFile.create(disk, state.path, state.kind, state.payload)
        return
    if file.size() > STATE_BYTES:
        file.close()
        SlotFile.create(disk, state.path, state.kind, state.payload)
        return
    slots = SlotFile(file, state.kind)
    try:
        slots.read()
        file.pwrite(bytes(STRIDE - SLOT_BYTES), SLOT_BYTES)
        for _ in range(2):
            slots.write(state.payload, sync=True)
    finally:
        slots.close()


def _find_end(disk: Disk, layout: Layout, plan: Plan) -> None:
    """Start a new segment where the log ends. The caller holds `append.lock`."""
    view = View(layout.root, disk)
    owner_file = SlotFile.open(disk, layout.owner, OWNER)
    try:
        owner = decode_owner(owner_file.read(), str(layout.owner))
        if plan.recovery == "recover":
            recover(view, owner_file, owner, keep_tail=True).close()
        else:
            _restart(view, owner_file, owner, plan.head)
    finally:
        owner_file.close()


def _restart(view: View, owner_file: SlotFile, owner: Owner, head: Head | None) -> None:
    """Recover without believing the head: what is left of it may be old, or name a segment that is gone.

    It still says what was durable and which numbers were given out: these are not given out again.
    """
    disk, layout = view.disk, view.layout
    names = view.names()
    heads, segments = head_epochs(names), view.chain()
    epoch = max([owner.epoch, *heads, *(segment.epoch for segment in segment_ids(names))]) + 1
    owner_file.write(next_owner(owner, epoch, disk).encode(), sync=True)
    found: Found = from_disk(view, segments, head)
    positions = [state.position.next for state in Subscribers(view).all().values()]
    given_out = [head.visible] if head is not None else []
    given_out += [segment.first for segment in segments[-1:]]  # whatever is in it now
    found.next = max([found.next, *given_out, *positions])
    if found.segment is None and head is not None:
        found.bytes_before = head.total_bytes
    file, fresh = start_segment(view, found, epoch, [])
    file.close()
    SlotFile.create(disk, layout.head(epoch), HEAD, fresh.encode())
    for old in heads:
        disk.unlink(layout.head(old))
    disk.sync_dir(layout.root)
