"""The seam between the journal and the operating system.

Everything the core does to a file goes through a `Disk`; no other module of the core calls `os`. `PosixDisk` is the
real one. The tests put a model disk behind the same seam, which loses, tears and reorders what was not synced:
that is how the promises of the journal are tested.

Rules a `Disk` keeps, and the core relies on:

1. `append` adds at the end of the file, whatever its length became, and may write less than was asked.
2. Nothing is durable before `sync` (contents and length) and, for a name, `sync_dir` of its directory.
3. A `sync` that raises promises nothing about what was written before it, ever after.
4. `lock` excludes other processes and other threads of this one alike.
"""

from __future__ import annotations

import errno
import os
import re
import socket
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Literal, Protocol

from jlogd.errors import LockUnavailable, UsageError
from jlogd.journal.locks import FileLock, LockBusy, acquire

Buffer = bytes | bytearray | memoryview
Mode = Literal["read", "write", "create"]

# The kernel refuses longer vectors (UIO_MAXIOV); `append` says with a short count that there is more to do.
IOVEC_MAX = 1024
# On a network mount a file that another host replaces by rename can be stale (ESTALE) in the moment it is opened: the
# name already stands for its successor.
STALE_LOOKS = 4
# Names this host where /etc/machine-id does not: in containers without one, for machines that were cloned with theirs,
# and for two hosts on one machine. Whoever sets it sees to it that it stays the same, and that nobody else has it.
HOST_VARIABLE = "JLOGD_HOST_ID"
_HOST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
FILE_MODE = 0o640
DIR_MODE = 0o750

# What network and FUSE file systems answer about an open file that somebody else has removed.
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ESTALE)

_FLAGS = {
    "read": os.O_RDONLY,
    "write": os.O_RDWR,
    "create": os.O_RDWR | os.O_CREAT | os.O_EXCL,
}


class Lock(Protocol):
    """A held advisory lock."""

    def release(self) -> None:
        """Give the lock up; a second call does nothing."""


class File(Protocol):
    """An open file. Offsets and lengths are bytes."""

    def pread(self, length: int, offset: int) -> bytes:
        """Up to `length` bytes from `offset`; fewer only at the end of the file."""

    def reread(self, length: int, offset: int) -> bytes:
        """The same, past what a cache of this host may still hold of an older state of the file."""

    def pwrite(self, data: Buffer, offset: int) -> None:
        """Write all of `data` at `offset`; for the small state files only."""

    def append(self, buffers: Sequence[Buffer]) -> int:
        """Append the buffers, one after another; the number of bytes written, possibly fewer than given."""

    def sync(self) -> None:
        """Make contents and length durable (fdatasync)."""

    def size(self) -> int:
        """Length in bytes."""

    def unlinked(self) -> bool:
        """Whether the name that it was opened by is gone, or stands for another file."""

    def close(self) -> None:
        """Close; never raises."""


class Disk(Protocol):
    """A place that holds files: see the module's text for what it promises."""

    def open(self, path: Path, mode: Mode) -> File:
        """Open a file; `create` fails with FileExistsError when it is there."""

    def mkdir(self, path: Path) -> None:
        """Create one directory; FileExistsError when it is there."""

    def listdir(self, path: Path) -> list[str]:
        """Names in a directory, in no order."""

    def exists(self, path: Path) -> bool:
        """Whether a file or directory of that name is there."""

    def rename(self, old: Path, new: Path) -> None:
        """Rename a file or a directory, replacing a file of the new name."""

    def unlink(self, path: Path) -> None:
        """Remove a file's name; FileNotFoundError when it is not there."""

    def rmdir(self, path: Path) -> None:
        """Remove an empty directory."""

    def sync_dir(self, path: Path) -> None:
        """Make the names in a directory durable."""

    def lock(self, path: Path, *, shared: bool = False, wait: bool = True, note: str = "") -> Lock:
        """Lock the file `path`, creating it. Raises `LockBusy` when `wait` is false and it is held.

        `note` is left in the file for people to read; it is never trusted.
        """

    def host(self) -> str:
        """An identity of this host that survives a reboot."""

    def boot(self) -> str:
        """An identity of this boot of this host."""

    def host_name(self) -> str:
        """What people call this host; never compared."""


class PosixFile:
    """`File` over a descriptor."""

    __slots__ = ("_fd", "_identity", "_links_tell", "_path")

    def __init__(self, fd: int, path: str) -> None:
        self._fd = fd
        self._path = path
        self._identity: tuple[int, int] | None = None
        self._links_tell = False

    def pread(self, length: int, offset: int) -> bytes:
        data = os.pread(self._fd, length, offset)
        while 0 < len(data) < length:
            more = os.pread(self._fd, length - len(data), offset + len(data))
            if not more:
                break
            data += more
        return data

    def reread(self, length: int, offset: int) -> bytes:
        # Network file systems promise what others wrote only from an open on; and with FUSE, Linux keeps zeros in its
        # page cache where an open and an append met, until the next open. By the descriptor, for names move.
        try:
            fd = os.open(f"/proc/self/fd/{self._fd}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:  # removed meanwhile, or no /proc: what can be had is the first look
            return self.pread(length, offset)
        os.close(fd)
        return self.pread(length, offset)

    def pwrite(self, data: Buffer, offset: int) -> None:
        view = memoryview(data)
        while view:
            done = os.pwrite(self._fd, view, offset)
            view, offset = view[done:], offset + done

    def append(self, buffers: Sequence[Buffer]) -> int:
        os.lseek(self._fd, 0, os.SEEK_END)
        return os.writev(self._fd, buffers[:IOVEC_MAX])

    def sync(self) -> None:
        os.fdatasync(self._fd)

    def size(self) -> int:
        return os.fstat(self._fd).st_size

    def unlinked(self) -> bool:
        # Asked at every commit, so one call: by name only where links do not tell, which takes twice as long.
        try:
            if self._identity is None:
                mine = os.fstat(self._fd)
                self._identity, self._links_tell = (mine.st_dev, mine.st_ino), links_tell(mine.st_dev)
            if self._links_tell:
                return os.fstat(self._fd).st_nlink == 0
            found = os.stat(self._path, follow_symlinks=False)
        except OSError as error:
            if error.errno in _GONE:
                return True
            raise
        return (found.st_dev, found.st_ino) != self._identity

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with suppress(OSError):
                os.close(fd)

    def __del__(self) -> None:
        self.close()


class PosixDisk:
    """`Disk` over the operating system."""

    def open(self, path: Path, mode: Mode) -> PosixFile:
        flags = _FLAGS[mode] | os.O_CLOEXEC | os.O_NOFOLLOW
        name = os.fspath(path)
        return PosixFile(os.open(name, flags, FILE_MODE), name)

    def mkdir(self, path: Path) -> None:
        os.mkdir(path, DIR_MODE)

    def listdir(self, path: Path) -> list[str]:
        return os.listdir(path)

    def exists(self, path: Path) -> bool:
        return os.path.lexists(path)

    def rename(self, old: Path, new: Path) -> None:
        os.rename(old, new)

    def unlink(self, path: Path) -> None:
        os.unlink(path)

    def rmdir(self, path: Path) -> None:
        os.rmdir(path)

    def sync_dir(self, path: Path) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def lock(self, path: Path, *, shared: bool = False, wait: bool = True, note: str = "") -> FileLock:
        return acquire(path, shared=shared, wait=wait, note=note)

    def host(self) -> str:
        return _host()

    def boot(self) -> str:
        return _boot()

    def host_name(self) -> str:
        return socket.gethostname()


def links_tell(device: int) -> bool:
    """Whether a file without a name has no links on this device.

    NFS and FUSE keep a removed file that is open under another name (`.nfs...`, `.fuse_hidden...`), links and all. They
    have a device number of no driver, as have others that need not be told apart here; what lies on a block device
    counts its links itself.
    """
    return os.major(device) != 0


@cache
def _given_host() -> str:
    """The identity that the environment gives this host, or ""."""
    given = os.environ.get(HOST_VARIABLE, "")
    if given and not _HOST_ID.fullmatch(given):
        raise UsageError(f"{HOST_VARIABLE}={given!r} cannot name a host: 1 to 128 letters, digits, '.', '_' or '-'")
    return given


@cache
def _host() -> str:
    if _given_host():
        return _given_host()
    with suppress(OSError):
        return Path("/etc/machine-id").read_text().strip() or socket.gethostname()
    return socket.gethostname()


@cache
def _boot() -> str:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    # Two hosts of one kernel: what one of them has in its page cache, the other's mount may not have.
    return f"{boot}/{_given_host()}" if _given_host() else boot


def read_all(disk: Disk, path: Path) -> bytes:
    """The whole of a small file."""
    for _ in range(STALE_LOOKS - 1):
        try:
            return _read_all(disk, path)
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
    return _read_all(disk, path)


def _read_all(disk: Disk, path: Path) -> bytes:
    file = disk.open(path, "read")
    try:
        return file.pread(file.size(), 0)
    finally:
        file.close()


def replace_file(disk: Disk, path: Path, data: bytes) -> None:
    """Put `data` at `path` so that after a crash the old or the new contents are there, never a mixture."""
    temporary = path.with_name(path.name + ".new")
    with suppress(FileNotFoundError):
        disk.unlink(temporary)
    file = disk.open(temporary, "create")
    try:
        file.pwrite(data, 0)
        file.sync()
    finally:
        file.close()
    disk.rename(temporary, path)
    disk.sync_dir(path.parent)


__all__ = ["Buffer", "Disk", "File", "Lock", "LockBusy", "LockUnavailable", "PosixDisk", "read_all", "replace_file"]
