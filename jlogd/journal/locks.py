"""Advisory locks that also exclude the threads of one process.

POSIX record locks belong to the process: two threads both get one, closing *any* descriptor of the file drops it,
and a forked child believes it holds what it does not. `fasteners` inherits all three. So every lock of this process goes
through one registry, keyed by (device, inode), that opens each lock file once, arbitrates between threads itself, and asks
the kernel (through `fasteners`) only for the process's share.

Locking: `_registry_mutex` guards the table; each entry's condition guards its counts. The kernel is asked while the
entry is marked `busy`, with neither held, so that a wait for another process never stops the other locks of this one.

Lock files carry no data and are never unlinked while their log exists; an inode that changed under us is noticed after
the lock was got, and the new file is locked instead. `ENOLCK` and its like are `LockUnavailable`, never contention.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from collections import OrderedDict
from pathlib import Path
from typing import IO

import fasteners

from jlogd.errors import Closed, LockUnavailable

# Idle lock files kept open, so that a lock taken for every commit costs two system calls and not four.
IDLE_FILES_MAX = 64
NOTE_BYTES_MAX = 200
_CONTENDED = (errno.EACCES, errno.EAGAIN)


class LockBusy(Exception):
    """Another process or thread holds the lock; `note` is what the holder left in the file."""

    def __init__(self, path: Path, note: str) -> None:
        super().__init__(f"{path} is locked ({note or 'holder unknown'})")
        self.path = path
        self.note = note


class _KernelLock(fasteners.InterProcessLock):
    """The process's share of a lock. Only `trylock` and `unlock` of fasteners are used: its `acquire` polls every
    10 to 100 ms and is unfair, and cannot tell a broken lock service from a held lock."""

    lockfile: IO[str] | None

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self.lockfile = open(path, "a+", encoding="utf-8")

    @property
    def fd(self) -> int:
        assert self.lockfile is not None
        return self.lockfile.fileno()

    def take(self, shared: bool, wait: bool) -> bool:
        """Ask the kernel; False when another process holds it and `wait` is false."""
        if not shared and not wait:
            return self._once(self.trylock)
        flags = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
        return self._once(lambda: fcntl.lockf(self.fd, flags))

    def _once(self, attempt: object) -> bool:
        try:
            attempt()  # type: ignore[operator]
        except OSError as error:
            if error.errno in _CONTENDED:
                return False
            raise LockUnavailable(
                f"locks do not work on {self.path}: {os.strerror(error.errno or 0)}; "
                "put the spool on a mount with working POSIX locks"
            ) from error
        return True

    def close(self) -> None:
        if self.lockfile is not None:
            self.lockfile.close()
            self.lockfile = None


class _Entry:
    """One lock file of this process: the kernel's lock, and who of our threads holds it."""

    def __init__(self, path: Path) -> None:
        self.kernel = _KernelLock(path)
        self.changed = threading.Condition()
        self.readers = 0
        self.writer = False
        self.busy = False  # a thread is asking the kernel
        self.users = 0  # handles held or waiting; the entry may be closed at 0

    def free_for(self, shared: bool) -> bool:
        return not (self.busy or self.writer or (self.readers and not shared))


_registry_mutex = threading.Lock()
_entries: OrderedDict[tuple[int, int], _Entry] = OrderedDict()


def _forget_after_fork() -> None:
    global _registry_mutex
    _registry_mutex = threading.Lock()
    _entries.clear()


os.register_at_fork(after_in_child=_forget_after_fork)


class FileLock:
    """A held lock; `release` gives it up, once, and only in the process that took it."""

    def __init__(self, entry: _Entry, shared: bool) -> None:
        self._entry: _Entry | None = entry
        self._shared = shared
        self._pid = os.getpid()

    def release(self) -> None:
        entry, self._entry = self._entry, None
        if entry is None or self._pid != os.getpid():
            return
        with entry.changed:
            entry.readers -= self._shared
            entry.writer = False
            if not entry.readers:
                entry.kernel.unlock()
            entry.changed.notify_all()
        _leave(entry)

    def __enter__(self) -> FileLock:
        if self._pid != os.getpid():
            raise Closed("this lock belongs to the process that this one was forked from")
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def acquire(path: Path, *, shared: bool = False, wait: bool = True, note: str = "") -> FileLock:
    """Lock the file `path`, creating it when it is missing.

    Raises `LockBusy` when `wait` is false and another process or thread holds it, `LockUnavailable` when the mount's
    locks do not work.
    """
    while True:
        entry = _enter(path)
        try:
            _take(entry, path, shared, wait)
        except BaseException:
            _leave(entry)
            raise
        lock = FileLock(entry, shared)
        if _same_file(entry, path):
            if note and not shared:
                _write_note(entry, note)
            return lock
        lock.release()


def _enter(path: Path) -> _Entry:
    # The file is looked up before it is opened: to open and close it again would drop the lock that is held on it.
    with _registry_mutex:
        try:
            status = os.stat(path)
            key = (status.st_dev, status.st_ino)
            entry = _entries.get(key)
        except FileNotFoundError:
            entry = None
        if entry is None:
            entry = _Entry(path)
            status = os.fstat(entry.kernel.fd)
            key = (status.st_dev, status.st_ino)
            _entries[key] = entry
        _entries.move_to_end(key)
        entry.users += 1
        return entry


def _leave(entry: _Entry) -> None:
    with _registry_mutex:
        entry.users -= 1
        if len(_entries) <= IDLE_FILES_MAX:
            return
        for key, idle in list(_entries.items()):
            if not idle.users:
                del _entries[key]
                idle.kernel.close()
                return


def _take(entry: _Entry, path: Path, shared: bool, wait: bool) -> None:
    with entry.changed:
        while not entry.free_for(shared):
            if not wait:
                raise LockBusy(path, _read_note(entry))
            entry.changed.wait()
        if entry.readers:  # the process has its share already
            entry.readers += 1
            return
        entry.busy = True
    taken = False
    try:
        taken = entry.kernel.take(shared, wait)
        if not taken:
            raise LockBusy(path, _read_note(entry))
    finally:
        with entry.changed:
            entry.busy = False
            if taken:
                entry.readers, entry.writer = (1, False) if shared else (0, True)
            entry.changed.notify_all()


def _same_file(entry: _Entry, path: Path) -> bool:
    held = os.fstat(entry.kernel.fd)
    try:
        named = os.stat(path)
    except FileNotFoundError:
        return False
    return (held.st_dev, held.st_ino) == (named.st_dev, named.st_ino)


def _write_note(entry: _Entry, note: str) -> None:
    os.ftruncate(entry.kernel.fd, 0)
    os.write(entry.kernel.fd, note.encode()[:NOTE_BYTES_MAX])


def _read_note(entry: _Entry) -> str:
    return os.pread(entry.kernel.fd, NOTE_BYTES_MAX, 0).decode(errors="replace")
