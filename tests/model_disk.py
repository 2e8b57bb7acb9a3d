"""A disk that forgets: the model behind the `Disk` seam, on which the promises of the journal are tested.

What a real disk may do to a program, and how it is modelled:

*Contents.* A file has what every process reads (`cached`, the page cache) and what is on the medium (`durable`). A
write goes to the cache and leaves, for every 512-byte sector it touched, a snapshot of that sector in `pending`.
`sync` moves all of `pending` to the medium. At a power loss each sector ends up as the medium had it or as any of its
snapshots, the sectors independently of each other, and the length of the file likewise: see `CONTENTS`.

*Names.* A directory has the names everybody sees and the names on the medium. Every create, rename and unlink is an
entry in the directory's `pending`, atomic in itself; `sync_dir` moves them to the medium. At a power loss a prefix of
them survives, or any subset: see `NAMES`. A file whose name did not survive is gone, synced or not.

*A failed sync* marks the pages clean without writing them (Linux; ext4, XFS and Btrfs alike). The next sync succeeds,
the cache still shows the data, and a power loss, or an eviction (`evict`), takes it. As on Linux since 4.13 every
descriptor that was open hears of the error once, and so does the next one that is opened, when nobody has heard of it
yet.

*A failed sync_dir* leaves its names pending: a later one may succeed.

*Processes.* `ModelDisk.process()` is a process: a `Disk` with its own locks and open files. `kill` ends it: the cache
stays, its locks go. A process that is paused is one that is not called. `crash` is the power loss of everything: all
processes end, and hosts come back with a new boot identity. All hosts see one coherent cache, as on a cluster file
system.

*Faults.* Every call that can fail is numbered and traced. A `Fault` picks calls by number, kind and path, and makes
them fail with an errno, write short, end the process, or be the moment of something else, before or after their
effect. `capacity` makes a full disk, `flip` rots a bit.

A waiting `lock` that would have to wait raises `DeadlockError`: tests of one thread cannot wait. With
`ModelDisk(threads=True)` it waits.
"""

from __future__ import annotations

import errno
import os
import random
import threading
import weakref
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from jlogd.errors import LockUnavailable
from jlogd.journal.disk import Buffer, LockBusy, Mode

# What a disk writes as a whole or not at all.
SECTOR_BYTES = 512
# Contents of deleted files that are remembered for "stale" sectors.
STALE_BYTES_MAX = 64 << 10

# What may become of the unsynced writes of one file at a power loss.
Contents = Literal["nothing", "prefix", "subset", "zeros", "stale", "everything"]
CONTENTS: tuple[Contents, ...] = (
    "nothing",  # all lost
    "prefix",  # the oldest sectors survive, up to one
    "subset",  # any sectors survive; the length covers them, or all that was written, or grew not at all
    "zeros",  # the file grew to its full length and holds zeros there: the length was written before the data
    "stale",  # like "zeros", but the new sectors hold what deleted files left on the medium
    "everything",  # all written back just in time
)
# What may become of the unsynced names of one directory.
Names = Literal["prefix", "subset"]
NAMES: tuple[Names, ...] = ("prefix", "subset")


class Crash(BaseException):
    """The process has ended in the middle of a call. Not an `Exception`: no handler of the core may survive it."""


class DeadlockError(AssertionError):
    """A lock was waited for that the only thread there is holds."""


class _File:
    """A file on the medium: what is cached, what is durable, and the sector snapshots in between."""

    def __init__(self) -> None:
        self.cached = bytearray()
        self.durable = bytearray()
        self.pending: list[tuple[int, bytes]] = []  # (sector, its bytes after a write), oldest first
        self.links = 0
        self.failures = 0  # syncs that failed
        self.reported = True  # whether somebody has heard of the last failure
        self.holders: list[_Lock] = []
        self.note = ""
        self.stale_from: int | None = (
            None  # what a reader finds from this byte on is zeros, until it looks past the cache
        )

    def write(self, offset: int, data: bytes) -> None:
        if not data:
            return
        if offset > len(self.cached):
            self.cached.extend(bytes(offset - len(self.cached)))
        self.cached[offset : offset + len(data)] = data
        for sector in range(offset // SECTOR_BYTES, (offset + len(data) - 1) // SECTOR_BYTES + 1):
            start = sector * SECTOR_BYTES
            self.pending.append((sector, bytes(self.cached[start : start + SECTOR_BYTES])))

    def sync(self) -> None:
        for sector, snapshot in self.pending:
            self._settle(sector, snapshot)
        self.pending.clear()
        self._grow(len(self.cached))

    def fail_sync(self, reported: bool, keep: float = 0.0, seed: int = 0) -> None:
        rng = random.Random(seed)
        for sector, snapshot in self.pending:
            if rng.random() < keep:
                self._settle(sector, snapshot)
        self.pending.clear()
        self.failures += 1
        self.reported = reported

    def evict(self) -> None:
        """The cache drops its clean pages, and what is read again is what the medium has."""
        clean = bytearray(len(self.cached))
        clean[: len(self.durable)] = self.durable
        for sector, snapshot in self.pending:
            start = sector * SECTOR_BYTES
            clean[start : start + len(snapshot)] = snapshot
        self.cached = clean

    def crash(self, contents: Contents, rng: random.Random, stale: bytes) -> None:
        full, before = len(self.cached), len(self.durable)
        if contents == "everything":
            self.sync()
        elif contents == "prefix":
            for sector, snapshot in self.pending[: rng.randint(0, len(self.pending))]:
                self._settle(sector, snapshot)
        elif contents == "subset":
            self._crash_subset(rng)
            length = rng.choice((before, len(self.durable), full))
            del self.durable[max(length, before) :]
            self._grow(length)
        elif contents in ("zeros", "stale"):
            self._grow(full)
            # The sector that holds the old end keeps its old bytes, and what follows them in it reads as zeros.
            for start in range(-(-before // SECTOR_BYTES) * SECTOR_BYTES, full, SECTOR_BYTES):
                if contents == "stale" and stale:
                    at = rng.randrange(0, len(stale), SECTOR_BYTES)
                    old = stale[at : at + min(SECTOR_BYTES, full - start)]
                    self.durable[start : start + len(old)] = old
        self.pending.clear()
        self.cached = bytearray(self.durable)

    def _crash_subset(self, rng: random.Random) -> None:
        versions: dict[int, list[bytes]] = {}
        for sector, snapshot in self.pending:
            versions.setdefault(sector, []).append(snapshot)
        for sector, snapshots in versions.items():
            chosen = rng.randint(0, len(snapshots))
            if chosen:
                self._settle(sector, snapshots[chosen - 1])

    def _settle(self, sector: int, snapshot: bytes) -> None:
        start = sector * SECTOR_BYTES
        self._grow(start)
        self.durable[start : start + len(snapshot)] = snapshot

    def _grow(self, length: int) -> None:
        if length > len(self.durable):
            self.durable.extend(bytes(length - len(self.durable)))


class _Directory:
    """Names: what everybody sees, what is durable, and the changes in between, each atomic."""

    def __init__(self) -> None:
        self.names: dict[str, _Node] = {}
        self.durable: dict[str, _Node] = {}
        self.pending: list[dict[str, _Node | None]] = []
        self.links = 0

    def change(self, change: dict[str, _Node | None]) -> None:
        self.pending.append(change)
        _apply(self.names, change)

    def sync(self) -> None:
        for change in self.pending:
            _apply(self.durable, change)
        self.pending.clear()

    def crash(self, names: Names, rng: random.Random) -> None:
        if names == "prefix":
            kept = self.pending[: rng.randint(0, len(self.pending))]
        else:
            kept = [change for change in self.pending if rng.random() < 0.5]
        for change in kept:
            _apply(self.durable, change)
        self.pending.clear()
        self.names = dict(self.durable)


_Node = _File | _Directory


def _apply(names: dict[str, _Node], change: dict[str, _Node | None]) -> None:
    for name, node in change.items():
        if node is None:
            names.pop(name, None)
        else:
            names[name] = node


@dataclass
class Fault:
    """What goes wrong at the `at`-th call from now that matches `op` and `path` (globs), and at `times - 1` after it.

    `error` is the errno raised; `crash` ends the process; `short` is the most an append writes; `keep` is the share of
    the sectors that a failing sync writes all the same; `action` is something else that happens at that moment, another
    process's doing for example. With `after` the call has had its effect.
    """

    error: int = 0
    crash: bool = False
    short: int | None = None
    keep: float = 0.0
    action: Callable[[], object] | None = None
    at: int = 1
    times: int = 1
    op: str = "*"
    path: str = "*"
    after: bool = False
    struck: int = field(default=0, init=False)

    def due(self, op: str, path: Path) -> bool:
        if self.struck >= self.times or not fnmatchcase(op, self.op) or not fnmatchcase(str(path), self.path):
            return False
        self.at -= 1
        if self.at > 0:
            return False
        self.struck += 1
        return True


@dataclass(frozen=True, slots=True)
class Call:
    """One numbered I/O call, for traces."""

    number: int
    process: str
    op: str
    path: Path
    detail: str = ""

    @property
    def changes(self) -> bool:
        """Whether it changes anything on the disk."""
        return self.op in ("append", "pwrite", "sync", "sync_dir", "rename", "unlink", "mkdir", "rmdir") or (
            self.op == "open" and self.detail == "create"
        )

    def __str__(self) -> str:
        return f"{self.number:5} {self.process} {self.op:8} {self.path} {self.detail}"


class ModelDisk:
    """The medium, and everything that happens to it. `process()` gives the `Disk`s that programs use."""

    def __init__(self, root: str = "/spool", capacity: int | None = None, threads: bool = False) -> None:
        self.capacity = capacity  # bytes of all files with a name
        self.faults: list[Fault] = []
        self.last_fault: Fault | None = None
        self.trace: list[Call] = []
        self.calls = 0
        self.boots = 1
        self.threads = threads
        self.changed = threading.Condition(threading.RLock())
        self._top = _Directory()
        self._processes: list[ModelProcess] = []
        self._deleted = bytearray()  # contents of deleted files, which "stale" sectors show again
        place = self._top
        for part in Path(root).parts[1:]:
            child = _Directory()
            child.links = 1
            place.change({part: child})
            place.sync()
            place = child

    # ---- processes -------------------------------------------------------------------------------------------------

    def process(self, host: str = "a") -> ModelProcess:
        """A new process on `host`."""
        process = ModelProcess(self, host, f"{host}{len(self._processes)}")
        self._processes.append(process)
        return process

    def kill(self, *processes: ModelProcess) -> None:
        """SIGKILL: the processes end (all of them when none is named), the page cache stays."""
        with self.changed:
            for process in processes or self._processes:
                process.dead = True
                self.lose_locks(process)
                process._files.clear()

    def lose_locks(self, process: ModelProcess) -> None:
        """The lease of a paused host ran out: its locks are gone, and it does not know."""
        with self.changed:
            for node in self._all_files():
                node.holders[:] = [lock for lock in node.holders if lock.process is not process]
            self.changed.notify_all()

    def crash(
        self, rng: random.Random | int = 0, contents: Contents | None = None, names: Names | None = None
    ) -> ModelProcess:
        """Power loss of everything; a process after it. What is not said is chosen for each file and directory."""
        rng = random.Random(rng) if isinstance(rng, int) else rng
        self.kill()
        self._processes.clear()
        self.faults.clear()
        self.boots += 1
        stale = bytes(self._deleted)
        # Files are visited in the order of their paths, so that a seed always means the same loss.
        for node in self._all_files():
            node.crash(contents or rng.choice(CONTENTS), rng, stale)
            node.reported, node.failures = True, 0
        for directory in self._all_directories():
            directory.crash(names or rng.choice(NAMES), rng)
        self._count_links()
        return self.process()

    # ---- damage ----------------------------------------------------------------------------------------------------

    def flip(self, path: Path | str, offset: int, mask: int = 1) -> None:
        """Rot: change bits of one byte, on the medium and in the cache."""
        node = self._file(Path(path))
        for image in (node.cached, node.durable):
            if offset < len(image):
                image[offset] ^= mask
        sector, at = divmod(offset, SECTOR_BYTES)
        for index, (number, snapshot) in enumerate(node.pending):
            if number == sector and at < len(snapshot):
                node.pending[index] = (number, snapshot[:at] + bytes([snapshot[at] ^ mask]) + snapshot[at + 1 :])

    def go_stale(self, path: Path | str, offset: int) -> None:
        """The page cache keeps zeros from byte `offset` on, as Linux does for FUSE where an open and an append met."""
        self._file(Path(path)).stale_from = offset

    def put(self, path: Path | str, data: bytes) -> None:
        """Make `data` the contents of an existing file, durably: for damage of any shape."""
        node = self._file(Path(path))
        node.cached, node.durable = bytearray(data), bytearray(data)
        node.pending.clear()

    def lose(self, path: Path | str) -> None:
        """A file is gone from its directory, durably."""
        directory, name = self._parent(Path(path))
        self._file(Path(path)).links -= 1
        directory.change({name: None})
        directory.sync()

    def evict(self) -> None:
        """The page cache drops all clean pages of all files."""
        for node in self._all_files():
            node.evict()

    def writeback_fails(self, path: Path | str) -> None:
        """The kernel failed to write a file's pages in the background; the next sync of each descriptor says so."""
        self._file(Path(path)).fail_sync(reported=False)

    # ---- inspection ------------------------------------------------------------------------------------------------

    def files(self, suffix: str = "") -> dict[Path, bytes]:
        """Every file whose name ends so, as the processes see it."""
        return {path: bytes(node.cached) for path, node in self._walk() if path.name.endswith(suffix)}

    def used(self) -> int:
        """Bytes of all files with a name."""
        return sum(len(node.cached) for _, node in self._walk())

    def clone(self) -> ModelDisk:
        """A disk with the same files and directories, all durable, and no processes."""
        copy = ModelDisk(root="/", threads=self.threads)
        copy._top = _clone(self._top)
        copy.boots = self.boots
        copy._count_links()
        return copy

    # ---- the machinery ---------------------------------------------------------------------------------------------

    @contextmanager
    def call(self, process: ModelProcess, op: str, path: Path, detail: str = "") -> Iterator[Fault | None]:
        """Around the effect of one call: numbers it, traces it, and lets a due fault strike before or after it."""
        with self.changed:
            if process.dead:
                raise Crash("the process has ended")
            self.calls += 1
            self.trace.append(Call(self.calls, process.name, op, path, detail))
            due = [fault for fault in self.faults if fault.due(op, path)]
            fault = self.last_fault = due[0] if due else None
            if fault and not fault.after:
                self._strike(process, fault, path)
            try:
                yield fault
            finally:  # also when the call failed by itself
                if fault and fault.after:
                    self._strike(process, fault, path)

    def _strike(self, process: ModelProcess, fault: Fault, path: Path) -> None:
        if fault.action:
            fault.action()
            if process.dead:
                raise Crash("the process was ended meanwhile")
        if fault.crash:
            process.dead = True
            raise Crash(f"at call {self.calls}: {self.trace[-1]}")
        if fault.error:
            raise _os_error(fault.error, path)

    def room(self, wanted: int) -> int:
        """How many of `wanted` new bytes fit."""
        return wanted if self.capacity is None else max(0, min(wanted, self.capacity - self.used()))

    def freed(self, node: _Node) -> None:
        """A name of `node` went."""
        node.links -= 1
        if isinstance(node, _File) and not node.links:
            # Whole sectors, as the medium holds them.
            self._deleted += node.durable + bytes(-len(node.durable) % SECTOR_BYTES)
            del self._deleted[:-STALE_BYTES_MAX]

    def find(self, path: Path) -> _Node:
        """The file or directory at `path`."""
        node: _Node = self._top
        for part in path.parts[1:]:
            if not isinstance(node, _Directory):
                raise _os_error(errno.ENOTDIR, path)
            if part not in node.names:
                raise _os_error(errno.ENOENT, path)
            node = node.names[part]
        return node

    def directory(self, path: Path) -> _Directory:
        node = self.find(path)
        if not isinstance(node, _Directory):
            raise _os_error(errno.ENOTDIR, path)
        return node

    def _parent(self, path: Path) -> tuple[_Directory, str]:
        assert path.is_absolute(), f"{path}: the model knows absolute paths only"
        return self.directory(path.parent), path.name

    def _file(self, path: Path) -> _File:
        node = self.find(path)
        if not isinstance(node, _File):
            raise _os_error(errno.EISDIR, path)
        return node

    def _walk(self) -> Iterator[tuple[Path, _File]]:
        todo: list[tuple[Path, _Node]] = [(Path("/"), self._top)]
        while todo:
            path, node = todo.pop()
            if isinstance(node, _File):
                yield path, node
            else:
                todo.extend((path / name, child) for name, child in sorted(node.names.items(), reverse=True))

    def _reachable(self) -> Iterable[_Node]:
        """All files and directories with a name, seen, durable or pending, or open, in a fixed order."""
        found: dict[int, _Node] = {}
        todo: list[_Node] = [self._top]
        while todo:
            node = todo.pop()
            if id(node) in found:
                continue
            found[id(node)] = node
            if isinstance(node, _Directory):
                for names in (*reversed(node.pending), node.names, node.durable):
                    todo.extend(child for _, child in sorted(names.items(), reverse=True) if child is not None)
        for process in self._processes:
            found.update((id(file.node), file.node) for file in process.open_files)
        return found.values()

    def _all_files(self) -> list[_File]:
        return [node for node in self._reachable() if isinstance(node, _File)]

    def _all_directories(self) -> list[_Directory]:
        return [node for node in self._reachable() if isinstance(node, _Directory)]

    def _count_links(self) -> None:
        for node in self._reachable():
            node.links = 0
        for directory in self._all_directories():
            for child in directory.names.values():
                child.links += 1


def _clone(directory: _Directory) -> _Directory:
    copy = _Directory()
    for name, node in directory.names.items():
        if isinstance(node, _Directory):
            copy.names[name] = _clone(node)
        else:
            copy.names[name] = child = _File()
            child.cached, child.durable = bytearray(node.cached), bytearray(node.cached)
    copy.durable = dict(copy.names)
    return copy


def _os_error(code: int, path: Path) -> OSError:
    return OSError(code, os.strerror(code), str(path))


class ModelProcess:
    """The `Disk` of one process."""

    def __init__(self, disk: ModelDisk, host: str, name: str) -> None:
        self.disk = disk
        self.name = name
        self.dead = False
        self._files: list[weakref.ref[ModelFile]] = []
        self._host = host
        self._boot = f"boot-{host}-{disk.boots}"

    @property
    def open_files(self) -> list[ModelFile]:
        """What it has open; a file that nobody refers to any more is closed, as a descriptor of Python is."""
        found = [file for file in (reference() for reference in self._files) if file is not None]
        self._files = [weakref.ref(file) for file in found]
        return found

    def unheard(self) -> bool:
        """Whether a file it has open will still report a failed sync of another process."""
        return any(file._heard < file.node.failures for file in self.open_files)

    def locks(self) -> list[Path]:
        """The lock files it holds locks on."""
        return [path for path, node in self.disk._walk() for lock in node.holders if lock.process is self]

    def open(self, path: Path, mode: Mode) -> ModelFile:
        with self.disk.call(self, "open", path, mode):
            directory, name = self.disk._parent(path)
            node = directory.names.get(name)
            if mode == "create":
                if node is not None:
                    raise _os_error(errno.EEXIST, path)
                node = _File()
                node.links = 1
                directory.change({name: node})
            if node is None:
                raise _os_error(errno.ENOENT, path)
            if not isinstance(node, _File):
                raise _os_error(errno.EISDIR, path)
            # To close any descriptor of a file drops the locks that the process has on it.
            mine = [lock for lock in node.holders if lock.process is self]
            assert not mine, f"{path} is locked, and opened past the registry"
            return ModelFile(self, path, node, writable=mode != "read")

    def mkdir(self, path: Path) -> None:
        with self.disk.call(self, "mkdir", path):
            directory, name = self.disk._parent(path)
            if name in directory.names:
                raise _os_error(errno.EEXIST, path)
            child = _Directory()
            child.links = 1
            directory.change({name: child})

    def listdir(self, path: Path) -> list[str]:
        with self.disk.call(self, "listdir", path):
            # An order that is neither that of creation nor that of the alphabet.
            return sorted(self.disk.directory(path).names, key=lambda name: (hash_of(name), name))

    def exists(self, path: Path) -> bool:
        if self.dead:
            raise Crash("the process has ended")
        try:
            self.disk.find(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def rename(self, old: Path, new: Path) -> None:
        with self.disk.call(self, "rename", old, f"-> {new.name}"):
            assert old.parent == new.parent, "the model renames within one directory"
            directory, name = self.disk._parent(old)
            node = self.disk.find(old)
            replaced = directory.names.get(new.name)
            if isinstance(replaced, _Directory):
                raise _os_error(errno.EEXIST, new)
            directory.change({name: None, new.name: node})
            if replaced is not None and replaced is not node:
                self.disk.freed(replaced)

    def unlink(self, path: Path) -> None:
        with self.disk.call(self, "unlink", path):
            directory, name = self.disk._parent(path)
            node = self.disk._file(path)
            directory.change({name: None})
            self.disk.freed(node)

    def rmdir(self, path: Path) -> None:
        with self.disk.call(self, "rmdir", path):
            directory, name = self.disk._parent(path)
            if self.disk.directory(path).names:
                raise _os_error(errno.ENOTEMPTY, path)
            self.disk.freed(directory.names[name])
            directory.change({name: None})

    def sync_dir(self, path: Path) -> None:
        with self.disk.call(self, "sync_dir", path):
            self.disk.directory(path).sync()

    def lock(self, path: Path, *, shared: bool = False, wait: bool = True, note: str = "") -> _Lock:
        detail = f"{'shared' if shared else 'exclusive'}{' wait' if wait else ''}"
        try:
            with self.disk.call(self, "lock", path, detail):
                return self._lock(path, shared, wait, note)
        except OSError as error:
            if error.errno in (errno.ENOLCK, errno.ENOSYS):
                raise LockUnavailable(f"locks do not work on {path}") from error
            raise

    def _lock(self, path: Path, shared: bool, wait: bool, note: str) -> _Lock:
        while True:
            directory, name = self.disk._parent(path)
            node = directory.names.get(name)
            if node is None:
                node = _File()
                node.links = 1
                directory.change({name: node})
            assert isinstance(node, _File)
            if not any(not (shared and held.shared) for held in node.holders):
                lock = _Lock(self, node, shared)
                node.holders.append(lock)
                if note and not shared:
                    node.note = note
                return lock
            if not wait:
                raise LockBusy(path, node.note)
            if not self.disk.threads:
                raise DeadlockError(f"{self.name} waits for {path}, held by {[h.process.name for h in node.holders]}")
            self.disk.changed.wait()
            if self.dead:
                raise Crash("the process has ended")

    def host(self) -> str:
        return f"host-{self._host}"

    def boot(self) -> str:
        return self._boot

    def host_name(self) -> str:
        return self._host

    def kill(self) -> None:
        """SIGKILL of this process alone."""
        self.disk.kill(self)


def hash_of(name: str) -> int:
    """An order of names that is the same in every run."""
    return zlib.crc32(name.encode())


class _Lock:
    def __init__(self, process: ModelProcess, node: _File, shared: bool) -> None:
        self.process = process
        self.node = node
        self.shared = shared

    def release(self) -> None:
        with self.process.disk.changed:
            if self in self.node.holders and not self.process.dead:
                self.node.holders.remove(self)
                self.process.disk.changed.notify_all()


class ModelFile:
    """An open file of a process."""

    def __init__(self, process: ModelProcess, path: Path, node: _File, writable: bool) -> None:
        self.node = node
        self._process = process
        self._path = path
        self._writable = writable
        self._closed = False
        self._heard = node.failures if node.reported else 0
        process._files.append(weakref.ref(self))

    def pread(self, length: int, offset: int) -> bytes:
        with self._call("pread", f"{length} at {offset}"):
            found = bytes(self.node.cached[offset : offset + length])
            stale_from = self.node.stale_from
            return found if stale_from is None else found[: max(0, stale_from - offset)].ljust(len(found), b"\0")

    def reread(self, length: int, offset: int) -> bytes:
        self.node.stale_from = None
        return self.pread(length, offset)

    def pwrite(self, data: Buffer, offset: int) -> None:
        data = bytes(data)
        with self._call("pwrite", f"{len(data)} at {offset}"):
            self._must_be_writable()
            growth = max(0, offset + len(data) - len(self.node.cached))
            fits = len(data) - (growth - self._process.disk.room(growth))
            self.node.write(offset, data[: max(fits, 0)])
            if fits < len(data):
                raise _os_error(errno.ENOSPC, self._path)

    def append(self, buffers: Sequence[Buffer]) -> int:
        data = b"".join(buffers)
        with self._call("append", f"{len(data)} at {len(self.node.cached)}") as fault:
            self._must_be_writable()
            fits = self._process.disk.room(len(data))
            if data and not fits:
                raise _os_error(errno.ENOSPC, self._path)
            if fault and fault.short is not None:
                fits = min(fits, fault.short)
            self.node.write(len(self.node.cached), data[:fits])
            return fits

    def sync(self) -> None:
        old_failure = self._heard < self.node.failures
        try:
            with self._call("sync"):
                self.node.sync()
        except OSError:
            disk = self._process.disk
            self.node.fail_sync(reported=True, keep=disk.last_fault.keep if disk.last_fault else 0.0, seed=disk.calls)
            self._heard = self.node.failures
            raise
        if old_failure:
            self._heard, self.node.reported = self.node.failures, True
            raise _os_error(errno.EIO, self._path)

    def size(self) -> int:
        return len(self.node.cached)

    def unlinked(self) -> bool:
        return self.node.links == 0

    def close(self) -> None:
        self._closed = True
        self._process._files = [reference for reference in self._process._files if reference() is not self]

    def _call(self, op: str, detail: str = "") -> AbstractContextManager[Fault | None]:
        if self._closed and not self._process.dead:
            raise _os_error(errno.EBADF, self._path)
        return self._process.disk.call(self._process, op, self._path, detail)

    def _must_be_writable(self) -> None:
        if not self._writable:
            raise _os_error(errno.EBADF, self._path)
