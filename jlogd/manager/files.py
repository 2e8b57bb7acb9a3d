"""Text files, exactly once: appended to, synced, and only then recorded in the ledger.

    look        is the file what the ledger says: the same inode, the same length
    register    new and reopened files go into the ledger, with the mark `open`         [synced transaction, if any]
    append      all that the round has for a file, in one writev
    sync        every file of the round, several at a time
    ...         the rounds commit lengths and positions together                        [synced transaction]

After a crash a file marked `open` may be longer than the ledger says, by what a round had written and not committed: it
is cut back to the recorded length, and the records come again. It is done at the start, by recovery.py; here only for
what could not be reached then. After a round that failed while this ran it is known what was appended, and only that
is cut off, by undo.py. In no other way is a file ever made shorter.

A file that is not what the ledger says is not ours to judge. It is left as it is, which is said and counted, and
writing goes on in PATH.part2, PATH.part3 and so on. A file that was renamed (rotated) is left to its new name, and a
new one begun. A file that is there and not in the ledger is left alone unless it is empty.

At most `open_files_max` files are held open; the one that was not written for the longest time is closed first.
"""

from __future__ import annotations

import errno
import logging
import os
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol, TypeVar

import msgspec
from crc32c import crc32c

from jlogd.journal.batch import Batch, Gap
from jlogd.journal.disk import Buffer
from jlogd.manager.compress import Compressor
from jlogd.manager.job import Job, rest, text_of
from jlogd.manager.ledger import Changes, FileState, Ledger
from jlogd.manager.output import OutputFailed
from jlogd.manager.parcel import Parcel, Source, line_bytes
from jlogd.manager.store import Directories, Store, TextFile
from jlogd.manager.template import Template
from jlogd.manager.undo import length_without

_log = logging.getLogger("jlogd.manager")

# Parts of one path; more mean that something changes the files all the time.
PARTS_MAX = 1000
# How much of a file is read at a time, where it is read at all.
READ_BYTES = 1 << 20
# A file that was not written for so long is closed.
IDLE_SECONDS = 600.0

# What opening a link, a directory, a fifo or a device fails with.
_NO_FILE = (errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.EINVAL)

T = TypeVar("T")


class Map(Protocol):
    """Does something to each of several things, perhaps at the same time, as `map` does."""

    def __call__(self, function: Callable[[T], None], items: Iterable[T], /) -> Iterator[None]: ...


@dataclass(frozen=True, slots=True)
class FileOptions:
    """How files are made and kept. `size_max` (bytes, 0 for none) begins a new part when a file has so many."""

    file_mode: int = 0o640
    dir_mode: int = 0o755
    open_files_max: int = 1000
    size_max: int = 0


@dataclass(slots=True)
class Handle:
    """An open file. `state` is what the ledger has; `dirty`: it may be longer than that by what we wrote, which is
    `done` bytes of `ours`, or more."""

    path: str
    file: TextFile
    state: FileState
    used: float = 0.0
    dirty: bool = False
    ours: Sequence[Buffer] = ()
    done: int = 0
    sync_failed: bool = False


class FileOutput:
    """See the module's text."""

    def __init__(
        self, store: Store, ledger: Ledger, template: Template, options: FileOptions | None = None,
        map_syncs: Map = map, clock: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        """`map_syncs` may work on several files at a time."""
        self._store = store
        self._ledger = ledger
        self._template = template
        self._options = options or FileOptions()
        self._map = map_syncs
        self._clock = clock
        self._directories = Directories(store, template.base, self._options.dir_mode)
        self._handles: OrderedDict[str, Handle] = OrderedDict()  # by target, the last used at the end
        self._pending = Changes()  # what is known here and not yet in the ledger
        # Of files that were let go while it was not known what is in the ledger: what may be in them (ours, done).
        self._unsettled: dict[str, tuple[Sequence[Buffer], int]] = {}
        self._until = 0  # of the file that is being opened
        self._compressor: Compressor | None = None
        self._busy: set[str] = set()  # targets of this round, which stay open
        self._counters: Counter[str] = Counter()

    # ---- the interface ---------------------------------------------------------------------------------------------

    def write(self, parcels: Sequence[Parcel]) -> Changes:
        jobs = self._jobs(parcels)
        self._busy = set(jobs)
        handles = [self._ready(target, job.until) for target, job in jobs.items()]
        self._directories.flush(self._map)
        if self._pending:
            # Before a byte is appended: a file that is longer than recorded is known to be ours.
            self._ledger.commit(self._pending)
            self._pending = Changes()
        work = list(zip(handles, jobs.values(), strict=True))
        for handle, job in work:
            self._append(handle, job)
        for _ in self._map(_sync, handles):
            pass
        return Changes(files={handle.path: self._grown(handle, job) for handle, job in work})

    def settled(self, changes: Changes) -> None:
        now = self._clock()
        for handle in list(self._handles.values()):
            state = changes.files.get(handle.path)
            if state is None:
                continue
            handle.state, handle.dirty, handle.ours, handle.used = state, False, (), now
            size_max = self._options.size_max
            if state.status != "live":
                self._forget(handle)
            elif size_max and state.length >= size_max:
                self._next_part(handle, "live")
        self._busy = set()
        self._close_oldest(self._options.open_files_max)
        self._counters["rounds"] += 1

    def idle(self, now: float) -> Changes:
        for handle in list(self._handles.values()):
            if now - handle.used > IDLE_SECONDS:
                self._release(handle)
        changes, self._pending = self._pending, Changes()
        if self._compressor is not None:
            done = self._compressor.step(now)
            done.files = {path: state for path, state in done.files.items() if path not in changes.files}
            changes.files.update(done.files)
            self._counters["compressed"] += len(done.files)
        return changes

    def compress(self, compressor: Compressor) -> None:
        """Have files compressed whose date is over; told before the first round."""
        self._compressor = compressor
        compressor.watch(lambda path: any(handle.path == path for handle in self._handles.values()))

    def reset(self) -> None:
        for path in self._pending.files:
            self._unsettled.setdefault(path, ((), 0))
        for handle in self._handles.values():
            self._unsettled[handle.path] = handle.ours, handle.done
            handle.file.close()
        self._handles.clear()
        self._pending = Changes()

    def close(self) -> Changes:
        for handle in list(self._handles.values()):
            self._release(handle)
        changes, self._pending = self._pending, Changes()
        return changes

    def stats(self) -> dict[str, int]:
        return {**dict(self._counters), "open": len(self._handles)}

    # ---- what a round has for each file ----------------------------------------------------------------------------

    def _jobs(self, parcels: Sequence[Parcel]) -> dict[str, Job]:
        jobs: dict[str, Job] = {}
        last_time: dict[str, int] = {}
        for parcel in parcels:
            source = parcel.source
            for at, item in enumerate(parcel.items):
                moment = item.append_time if isinstance(item, Batch) else self._time_near(parcel, at, last_time)
                last_time[source.key] = moment
                target = self._target(source, moment)
                job = jobs.get(target) or jobs.setdefault(target, Job(target, self._over(source, moment, target)))
                if isinstance(item, Batch):
                    data, lines = text_of(item)
                    job.add(source.key, data, lines, item.count, 0)
                else:
                    lost = item.count if isinstance(item, Gap) else 0
                    job.add(source.key, [line_bytes(item, source)], 1, 0, lost)
        return jobs

    def _time_near(self, parcel: Parcel, at: int, last_time: dict[str, int]) -> int:
        """The time of something that has none: that of the batch after it, else before it, else now."""
        for item in parcel.items[at:]:
            if isinstance(item, Batch):
                return item.append_time
        key = parcel.source.key
        before = self._ledger.source(key)
        return last_time.get(key) or (before.last_time if before is not None else 0) or int(self._clock() * 1e9)

    def _over(self, source: Source, moment: int, target: str) -> int:
        """When the date in a path is over; asked only for files that are not open, and only when it matters."""
        known = target in self._handles or self._compressor is None
        return 0 if known else self._template.over(source.origin, moment)

    def _target(self, source: Source, moment: int) -> str:
        try:
            return self._template.expand(source.origin, moment)
        except ValueError as error:
            raise OutputFailed(f"{source}: {error}; change the template of its files") from None

    # ---- opening ---------------------------------------------------------------------------------------------------

    def _ready(self, target: str, until: int) -> Handle:
        """The open file for a path, as the ledger says it is."""
        handle = self._handles.get(target)
        if handle is not None and not self._is_sound(handle):
            handle = None
        if handle is None:
            self._close_oldest(self._options.open_files_max - 1)
            self._until = until
            handle = self._open(target)
            self._handles[target] = handle
        self._handles.move_to_end(target)
        return handle

    def _is_sound(self, handle: Handle) -> bool:
        """Whether an open file may be written; if not, it is let go, and what comes next is another part or file."""
        if handle.dirty:
            self._undo(handle)
            if handle.sync_failed:  # what a failed sync left in the cache is believed no more
                self._leave(handle, "a sync of it failed")
                return False
        if self._store.identity(handle.path) != handle.file.identity():
            self._forget(handle)
            return False
        size = handle.file.size()
        if size != handle.state.length:
            self._leave(handle, _wrong_length(size, handle.state.length, handle.ours))
            return False
        return True

    def _open(self, target: str) -> Handle:
        part = self._part(target)
        for number in range(part, part + PARTS_MAX):
            path = _part_path(target, number)
            handle = self._open_part(target, path)
            if handle is not None:
                if number != part:
                    self._pending.parts[target] = number
                return handle
        raise OutputFailed(f"{target} has {PARTS_MAX} parts that cannot be written; look why, and move them away")

    def _open_part(self, target: str, path: str) -> Handle | None:
        """One part, ready; None when it is not to be written."""
        state = self._state(path)
        if state is not None and (state.status in ("left", "compressed") or state.target != target):
            return None
        inode = self._store.identity(path)
        if state is not None and inode != state.inode:
            self._moved(path, state)
            state = None
        if inode is None:
            return self._create(target, path)
        try:
            file = self._store.open(path)
        except OSError as error:
            if error.errno not in _NO_FILE:
                raise
            self._say_left(path, "it is no regular file")
            return None
        try:
            handle = self._adopt(target, path, file, state)
        except BaseException:
            file.close()
            raise
        self._unsettled.pop(path, None)
        return handle

    def _create(self, target: str, path: str) -> Handle:
        directory = os.path.dirname(path)
        self._directories.ensure(directory)
        try:
            file = self._store.create(path, self._options.file_mode)
        except FileNotFoundError:  # someone removed the directory
            self._directories.forget()
            self._directories.ensure(directory)
            file = self._store.create(path, self._options.file_mode)
        self._directories.changed(directory)
        self._counters["made"] += 1
        return self._begin(target, path, file)

    def _adopt(self, target: str, path: str, file: TextFile, state: FileState | None) -> Handle | None:
        """A file that is there: ours, or empty, or not to be touched."""
        size = file.size()
        known = self._unsettled.get(path)
        if state is None:
            if size == 0:
                self._directories.ensure(os.path.dirname(path))
                self._directories.changed(os.path.dirname(path))
                return self._begin(target, path, file)
            file.close()
            self._say_left(path, "it was there already, and the ledger does not know it")
            return None
        if size > state.length and state.open:
            ours, done = known or ((), 0)
            handle = Handle(path, file, state, ours=ours, done=done)
            if known is None:  # of a process that crashed: what it had appended is not known
                self._cut(handle, state.length)
            else:
                self._undo(handle)
            size = file.size()
        if size != state.length:
            file.close()
            self._say_left(path, _wrong_length(size, state.length, known and known[0]))
            self._pending.files[path] = msgspec.structs.replace(state, status="left", open=False)
            return None
        if not state.open:
            state = msgspec.structs.replace(state, open=True)
            self._pending.files[path] = state
        return Handle(path, file, state, self._clock())

    def _begin(self, target: str, path: str, file: TextFile) -> Handle:
        state = FileState(target, file.identity(), made=int(self._clock()), until=self._until)
        self._pending.files[path] = state
        return Handle(path, file, state, self._clock())

    def _state(self, path: str) -> FileState | None:
        return self._pending.files.get(path) or self._ledger.file(path)

    def _part(self, target: str) -> int:
        return self._pending.parts.get(target) or self._ledger.part(target)

    # ---- writing ---------------------------------------------------------------------------------------------------

    def _append(self, handle: Handle, job: Job) -> None:
        buffers = list(job.buffers)
        handle.dirty, handle.ours, handle.done = True, job.buffers, 0
        while buffers:
            done = handle.file.append(buffers)
            handle.done += done
            buffers = rest(buffers, done)

    def _grown(self, handle: Handle, job: Job) -> FileState:
        """The state of a file after its round; checks that nobody else wrote to it meanwhile."""
        state = handle.state
        length = state.length + sum(map(len, job.buffers))
        crc = state.crc
        for buffer in job.buffers:
            crc = crc32c(buffer, crc)
        sources = dict(state.sources)
        for source, (records, lost) in job.sources.items():
            before = sources.get(source, (0, 0))
            sources[source] = before[0] + records, before[1] + lost
        grown = msgspec.structs.replace(
            state, length=length, crc=crc, lines=state.lines + job.lines, sources=sources, written=int(self._clock())
        )
        if handle.file.size() == length:
            return grown
        return self._mixed(handle, grown)

    def _mixed(self, handle: Handle, state: FileState) -> FileState:
        """Someone else appended at the same moment. Ours is whole, by the rules of append: the file is taken as it is,
        and not written any more."""
        self._say_left(handle.path, "someone else writes to it")
        if handle.file.size() < state.length:
            raise OutputFailed(f"{handle.path} became shorter while it was written; it is written again elsewhere")
        crc = lines = at = 0
        while data := handle.file.pread(READ_BYTES, at):
            crc, lines, at = crc32c(data, crc), lines + data.count(b"\n"), at + len(data)
        self._pending.parts[state.target] = self._number(handle.path, state.target) + 1
        return msgspec.structs.replace(state, length=at, crc=crc, lines=lines, status="left", open=False)

    def _undo(self, handle: Handle) -> None:
        """Take away what a failed round appended, and nothing else, durably."""
        self._cut(handle, length_without(handle.file, handle.state.length, handle.ours, handle.done))

    def _cut(self, handle: Handle, length: int) -> None:
        """Make a file as short as that, durably."""
        size = handle.file.size()
        if size > length:
            _log.info("%s: cut back from %d to %d bytes; what goes is pulled again", handle.path, size, length)
            handle.file.cut(length)
            self._counters["cut_back"] += 1
        try:
            handle.file.sync()
        except OSError:
            if not handle.sync_failed:
                raise
        handle.dirty = False

    # ---- letting go ------------------------------------------------------------------------------------------------

    def _leave(self, handle: Handle, why: str) -> None:
        """Someone changed the file: it stays as it is, and another part is written."""
        self._say_left(handle.path, why)
        self._next_part(handle, "left")

    def _next_part(self, handle: Handle, status: str) -> None:
        state = msgspec.structs.replace(handle.state, status=status, open=False)
        self._pending.files[handle.path] = state
        self._pending.parts[state.target] = self._number(handle.path, state.target) + 1
        self._forget(handle)

    def _say_left(self, path: str, why: str) -> None:
        _log.warning("%s is left as it is: %s; the records go on in its next part", path, why)
        self._counters["left"] += 1

    def _moved(self, path: str, state: FileState) -> None:
        """The file is not at its path any more: what is known of it is kept under another key."""
        _log.info("%s was renamed or removed; a new file is begun", path)
        self._counters["moved"] += 1
        moved = msgspec.structs.replace(state, status="moved", open=False)
        self._pending.files[f"{path}#{state.inode}-{state.made}"] = moved

    def _release(self, handle: Handle) -> None:
        """Close a file that is as the ledger says, and say so in it."""
        if handle.dirty:
            with suppress(OSError):
                self._undo(handle)
        if handle.dirty:
            self._unsettled[handle.path] = handle.ours, handle.done
        # Another output may have written the file since: then it is not for this one to say how it is.
        elif self._state(handle.path) == handle.state:
            self._pending.files[handle.path] = msgspec.structs.replace(handle.state, open=False)
        self._forget(handle)

    def _forget(self, handle: Handle) -> None:
        handle.file.close()
        self._handles.pop(handle.state.target, None)

    def _close_oldest(self, most: int) -> None:
        spare = [handle for target, handle in self._handles.items() if target not in self._busy]
        for handle in spare[: max(0, len(self._handles) - most)]:
            self._release(handle)
            self._counters["evicted"] += 1

    @staticmethod
    def _number(path: str, target: str) -> int:
        return int(path.removeprefix(f"{target}.part")) if path != target else 1


def _wrong_length(size: int, recorded: int, ours: Sequence[Buffer] | None) -> str:
    """What is wrong with a file that is not as long as recorded; with `ours`, a round failed meanwhile."""
    text = f"it has {size} bytes and should have {recorded}"
    if size > recorded and ours:
        text += (
            "; someone else appended to it while a round failed, and records may be among what is behind the "
            "recorded bytes that are in the next part too"
        )
    return text


def _part_path(target: str, number: int) -> str:
    return target if number == 1 else f"{target}.part{number}"


def _sync(handle: Handle) -> None:
    try:
        handle.file.sync()
    except OSError:
        handle.sync_failed = True
        raise
