"""Advisory locks that also exclude the threads of one process.

POSIX record locks belong to the process: two threads both get one, closing *any* descriptor of the file drops it, and
a forked child believes it holds what it does not. `fasteners` inherits all three. So every lock of this process goes
through one registry, keyed by (device, inode), that opens each lock file once, arbitrates between threads itself, and
asks the kernel (through `fasteners`) only for the process's share.

Locking: `_registry_mutex` guards the table; each entry's condition guards its counts. The kernel is asked while the
entry is marked `busy`, with neither held, so that a wait for another process never stops the other locks of this one.
It is always asked without waiting first: an attempt of another thread that may not wait then knows that an answer is
near, and is refused only when the entry is marked `waiting`.

Lock files carry no data and are never unlinked while their log exists; an inode that changed under us is noticed after
the lock was got, and the new file is locked instead. `ENOLCK` and its like are `LockUnavailable`, never contention.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import threading
import time
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import IO

import fasteners

from jlogd.errors import Closed, LockUnavailable

# Idle lock files kept open, so that a lock taken for every commit costs two system calls and not four.
IDLE_FILES_MAX = 64
NOTE_BYTES_MAX = 200
# How long to sleep when the kernel takes waits of different threads for a deadlock of their processes.
CROSSED_WAIT_SECONDS = 0.005
_FLOCK = struct.Struct("hhqqi4x")  # struct flock with 64-bit offsets
_CONTENDED = (errno.EACCES, errno.EAGAIN)


class LockBusy(Exception):
    """Another process or thread holds the lock; `note` is what the holder left in the file."""

    def __init__(self, path: Path, note: str) -> None:
        super().__init__(f"{path} is locked ({note or 'holder unknown'})")
        self.path = path
        self.note = note


def process_id() -> int:
    """The process this is: what belongs to another one, from before a fork, must not be used."""
    return os.getpid()


def holder_note() -> str:
    """What a holder leaves in its lock file for people to read."""
    return f"pid {os.getpid()} since {time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())}"


class _KernelLock(fasteners.InterProcessLock):  # type: ignore[misc]
    """The process's share of a lock. Only `trylock` and `unlock` of fasteners are used: its `acquire` polls every
    10 to 100 ms and is unfair, and cannot tell a broken lock service from a held lock."""

    lockfile: IO[bytes] | None

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self.lockfile = open(path, "ab+", buffering=0, opener=lambda p, flags: os.open(p, flags, 0o600))  # noqa: SIM115

    @property
    def fd(self) -> int:
        assert self.lockfile is not None
        return self.lockfile.fileno()

    def take(self, shared: bool) -> bool:
        """Ask the kernel; False when another process holds it."""
        try:
            if shared:
                fcntl.lockf(self.fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            else:
                self.trylock()
        except OSError as error:
            if error.errno in _CONTENDED:
                return False
            raise self.unavailable(error) from error
        return True

    def wait(self, shared: bool) -> None:
        """Ask the kernel, and wait until it is ours."""
        while True:
            try:
                fcntl.lockf(self.fd, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
                return
            except OSError as error:
                # The kernel knows processes, not threads. When a thread of ours waits for a process, and a thread of
                # that one for what another of ours holds, every holder goes on by itself; but one wait is refused.
                if error.errno != errno.EDEADLK:
                    raise self.unavailable(error) from error
            time.sleep(CROSSED_WAIT_SECONDS)

    def unavailable(self, error: OSError) -> LockUnavailable:
        """What it means that the kernel answered a request for a lock with this."""
        return LockUnavailable(
            f"locks do not work on {self.path}: {os.strerror(error.errno or 0)}; "
            "put the spool on a mount with working POSIX locks"
        )

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
        self.waiting = False  # and the kernel makes it wait
        self.users = 0  # handles held or waiting; the entry may be closed at 0

    def free_for(self, shared: bool) -> bool:
        return not (self.busy or self.writer or (self.readers and not shared))


_registry_mutex = threading.RLock()
_entries: OrderedDict[tuple[int, int], _Entry] = OrderedDict()


def _forget_after_fork() -> None:
    global _registry_mutex
    _registry_mutex = threading.RLock()
    # Closed now, while the child holds no locks: a descriptor that is closed later would drop the child's own.
    for entry in _entries.values():
        entry.kernel.close()
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
        try:
            with entry.changed:
                entry.readers -= self._shared
                entry.writer = False
                entry.changed.notify_all()
                if not entry.readers:
                    entry.kernel.unlock()
        finally:
            _leave(entry)

    def __del__(self) -> None:
        self.release()  # an interrupt may strike before whoever took it could hold on to it

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
        try:
            if _same_file(entry, path):
                if not shared:
                    _write_note(entry, note)
                return lock
        except BaseException:
            lock.release()
            raise
        lock.release()


def holder_elsewhere(path: Path) -> int | None:
    """A process that holds the lock, shared or not: its number, 0 where that is not told; None when no other one does.

    Takes no lock, so it disturbs nobody. Raises OSError, `LockUnavailable`.
    """
    if not path.exists():  # it would be made
        return None
    entry = _enter(path)
    try:
        asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind, _, _, _, pid = _FLOCK.unpack(fcntl.fcntl(entry.kernel.fd, fcntl.F_GETLK, asked))
    except OSError as error:
        raise entry.kernel.unavailable(error) from error
    finally:
        _leave(entry)
    # Of a process on another host no number is known here; the kernel then tells 0, or one that is less than that.
    return None if kind == fcntl.F_UNLCK else max(pid, 0)


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
            answer_is_near = entry.busy and not entry.waiting
            if not wait and not answer_is_near:
                raise LockBusy(path, _read_note(entry))
            entry.changed.wait()
        if entry.readers:  # the process has its share already
            entry.readers += 1
            return
        entry.busy = True
    taken = False
    try:
        taken = _ask_kernel(entry, shared, wait)
        if not taken:
            raise LockBusy(path, _read_note(entry))
    finally:
        with entry.changed:
            entry.busy = entry.waiting = False
            if taken:
                entry.readers, entry.writer = (1, False) if shared else (0, True)
            entry.changed.notify_all()


def _ask_kernel(entry: _Entry, shared: bool, wait: bool) -> bool:
    if entry.kernel.take(shared):
        return True
    if not wait:
        return False
    with entry.changed:
        entry.waiting = True
        entry.changed.notify_all()
    entry.kernel.wait(shared)
    return True


def _same_file(entry: _Entry, path: Path) -> bool:
    held = os.fstat(entry.kernel.fd)
    try:
        named = os.stat(path)
    except FileNotFoundError:
        return False
    return (held.st_dev, held.st_ino) == (named.st_dev, named.st_ino)


def _write_note(entry: _Entry, note: str) -> None:
    # For people only, so a full disk may eat it. An empty note removes that of the holder before, and costs nothing.
    with suppress(OSError):
        if note or os.fstat(entry.kernel.fd).st_size:
            os.ftruncate(entry.kernel.fd, 0)
        if note:
            os.write(entry.kernel.fd, note.encode()[:NOTE_BYTES_MAX])


def _read_note(entry: _Entry) -> str:
    return os.pread(entry.kernel.fd, NOTE_BYTES_MAX, 0).decode(errors="replace")
