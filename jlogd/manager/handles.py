"""The open files of an output: each as the ledger says it is, or left alone.

    look        is the file what the ledger says: the same inode, the same length
    register    what is new, reopened or left goes into `pending`, which is in the ledger before a byte is appended

A file that is not what the ledger says is not ours to judge. It is left as it is, which is said and counted, and
writing goes on in PATH.part2, PATH.part3 and so on. A file that was renamed (rotated) is left to its new name, and a
new one begun. A file that is there and not in the ledger is left alone unless it is empty.

At most `open_files_max` files are held open; the one that was not written for the longest time is closed first.
"""

from __future__ import annotations

import errno
import itertools
import logging
import os
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from jlogd.journal.disk import Buffer
from jlogd.manager.aside import Asides
from jlogd.manager.ledger import Changes, FileState, Ledger
from jlogd.manager.output import OutputFailed
from jlogd.manager.parts import part_number, part_path
from jlogd.manager.store import Directories, Map, Store, TextFile
from jlogd.manager.undo import length_without

_log = logging.getLogger("jlogd.manager")

# Parts of one path; more mean that something changes the files all the time.
PARTS_MAX = 1000
# A file that was not written for so long is closed.
IDLE_SECONDS = 600.0

# What opening a link, a directory, a fifo or a device fails with.
_NO_FILE = (errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.EINVAL)


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


class OpenFiles:
    """See the module's text. It belongs to the thread of the rounds.

    `pending` is what is known here and not yet in the ledger.
    """

    def __init__(
        self, store: Store, ledger: Ledger, base: Path, options: FileOptions, clock: Callable[[], float],
        asides: Asides,
    ) -> None:  # fmt: skip
        """`base` is the directory above all files."""
        self.pending = Changes()
        self.counters: Counter[str] = Counter()
        self._store = store
        self._ledger = ledger
        self._options = options
        self._clock = clock
        self._asides = asides
        self._directories = Directories(store, base, options.dir_mode)
        self._handles: OrderedDict[str, Handle] = OrderedDict()  # by target, the last used at the end
        # Of files that were let go while it was not known what is in the ledger: what may be in them (ours, done).
        self._unsettled: dict[str, tuple[Sequence[Buffer], int]] = {}
        self._until = 0  # of the file that is being opened
        self._busy: set[str] = set()  # targets of this round, which stay open

    def __len__(self) -> int:
        return len(self._handles)

    def __contains__(self, target: str) -> bool:
        return target in self._handles

    def has_path(self, path: str) -> bool:
        """Whether a file is open now. From any thread."""
        return any(handle.path == path for handle in list(self._handles.values()))

    def begin(self, targets: Iterable[str]) -> None:
        """A round with these: they stay open until it is settled."""
        self._busy = set(targets)

    def flush(self, map_syncs: Map) -> None:
        """Make the names of what was opened durable. Raises OSError."""
        self._directories.flush(map_syncs)

    def take_pending(self) -> Changes:
        """What is to be in the ledger, given away."""
        changes, self.pending = self.pending, Changes()
        return changes

    def settled(self, changes: Changes) -> None:
        """The ledger has these: the end of a round."""
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

    # ---- the end of it ------------------------------------------------------------------------------------------

    def close_idle(self, now: float) -> None:
        """Close what was not written for long."""
        for handle in list(self._handles.values()):
            if now - handle.used > IDLE_SECONDS:
                self._release(handle)

    def close(self) -> None:
        """Close all, and say so in `pending`."""
        for handle in list(self._handles.values()):
            self._release(handle)

    def reset(self) -> None:
        """Close all and forget what is not in the ledger."""
        for path in self.pending.files:
            self._unsettled.setdefault(path, ((), 0))
        for handle in self._handles.values():
            self._unsettled[handle.path] = handle.ours, handle.done
            handle.file.close()
        self._handles.clear()
        self.pending = Changes()

    def give_up(self, path: str, target: str, why: str) -> None:
        """A file is not written any more, and what comes next goes into another part."""
        self._say_left(path, why)
        self.pending.parts[target] = part_number(path, target) + 1

    # ---- opening ---------------------------------------------------------------------------------------------------

    def ready(self, target: str, until: int) -> Handle:
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
            path = part_path(target, number)
            handle = self._open_part(target, path)
            if handle is not None:
                if number != part:
                    self.pending.parts[target] = number
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
        self.counters["made"] += 1
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
                self._asides.keep(path, file, state)
                self._cut(handle, state.length)
            else:
                self._undo(handle)
            size = file.size()
        if size != state.length:
            file.close()
            self._say_left(path, _wrong_length(size, state.length, known and known[0]))
            self.pending.files[path] = msgspec.structs.replace(state, status="left", open=False)
            return None
        if not state.open:
            state = msgspec.structs.replace(state, open=True)
            self.pending.files[path] = state
        return Handle(path, file, state, self._clock())

    def _begin(self, target: str, path: str, file: TextFile) -> Handle:
        state = FileState(target, file.identity(), made=int(self._clock()), until=self._until)
        self.pending.files[path] = state
        return Handle(path, file, state, self._clock())

    def _state(self, path: str) -> FileState | None:
        return self.pending.files.get(path) or self._ledger.file(path)

    def _part(self, target: str) -> int:
        return self.pending.parts.get(target) or self._ledger.part(target)

    # ---- letting go ------------------------------------------------------------------------------------------------

    def _undo(self, handle: Handle) -> None:
        """Take away what a failed round appended, and nothing else, durably."""
        self._cut(handle, length_without(handle.file, handle.state.length, handle.ours, handle.done))

    def _cut(self, handle: Handle, length: int) -> None:
        """Make a file as short as that, durably."""
        size = handle.file.size()
        if size > length:
            _log.info("%s: cut back from %d to %d bytes; what goes is pulled again", handle.path, size, length)
            handle.file.cut(length)
            self.counters["cut_back"] += 1
        try:
            handle.file.sync()
        except OSError:
            if not handle.sync_failed:
                raise
        handle.dirty = False

    def _leave(self, handle: Handle, why: str) -> None:
        """Someone changed the file: it stays as it is, and another part is written."""
        self._say_left(handle.path, why)
        self._next_part(handle, "left")

    def _next_part(self, handle: Handle, status: str) -> None:
        state = msgspec.structs.replace(handle.state, status=status, open=False)
        self.pending.files[handle.path] = state
        self.pending.parts[state.target] = part_number(handle.path, state.target) + 1
        self._forget(handle)

    def _say_left(self, path: str, why: str) -> None:
        _log.warning("%s is left as it is: %s; the records go on in its next part", path, why)
        self.counters["left"] += 1

    def _moved(self, path: str, state: FileState) -> None:
        """The file is not at its path any more: what is known of it is kept under another key."""
        _log.info("%s was renamed or removed; a new file is begun", path)
        self.counters["moved"] += 1
        moved = msgspec.structs.replace(state, status="moved", open=False)
        self.pending.files[self._key_of_moved(path, moved)] = moved

    def _key_of_moved(self, path: str, moved: FileState) -> str:
        """A key that is free, or was chosen for this very file by a round that failed: the inode of a file that was
        removed is given out again, perhaps within the same second."""
        key = f"{path}#{moved.inode}-{moved.made}"
        names = itertools.chain([key], (f"{key}-{number}" for number in itertools.count(2)))
        return next(name for name in names if self.pending.files.get(name) == moved or self._state(name) is None)

    def _release(self, handle: Handle) -> None:
        """Close a file that is as the ledger says, and say so in it."""
        if handle.dirty:
            with suppress(OSError):
                self._undo(handle)
        if handle.dirty:
            self._unsettled[handle.path] = handle.ours, handle.done
        # Another output may have written the file since: then it is not for this one to say how it is.
        elif self._state(handle.path) == handle.state:
            self.pending.files[handle.path] = msgspec.structs.replace(handle.state, open=False)
        self._forget(handle)

    def _forget(self, handle: Handle) -> None:
        handle.file.close()
        self._handles.pop(handle.state.target, None)

    def _close_oldest(self, most: int) -> None:
        spare = [handle for target, handle in self._handles.items() if target not in self._busy]
        for handle in spare[: max(0, len(self._handles) - most)]:
            self._release(handle)
            self.counters["evicted"] += 1


def _wrong_length(size: int, recorded: int, ours: Sequence[Buffer] | None) -> str:
    """What is wrong with a file that is not as long as recorded; with `ours`, a round failed meanwhile."""
    text = f"it has {size} bytes and should have {recorded}"
    if size > recorded and ours:
        text += (
            "; someone else appended to it while a round failed, and records may be among what is behind the "
            "recorded bytes that are in the next part too"
        )
    return text
