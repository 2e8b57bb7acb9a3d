"""The seam between the text files of a manager and the operating system.

Like the journal's `Disk`, and for the same reason: the tests put a model behind it that forgets what was not synced.
Unlike segments, text files belong to others as well: they are looked at (`identity`), and cut back to what the ledger
says after a crash.

Rules, as for the `Disk`: `append` adds at the end, in one piece as far as it goes, and may write less than was asked;
nothing is durable before `sync`, no name before `sync_dir`; what was cut may be there again after a power loss unless
it was synced.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol, TypeVar

from jlogd.journal.disk import IOVEC_MAX, Buffer

# The end of a file that stays in the page cache, for those who look at what comes in; what is before it makes room. A
# manager writes far more than anybody reads, and would push out what is read: the journals. It is faster, too: the
# kernel takes pages that were just given back.
CACHED_BYTES = 32 << 20
# Room is made so much at a time: it costs a system call.
UNCACHED_BYTES = 8 << 20

# Directories that are known to be durable; with a date in the path there are new ones every day, for ever. Forgotten
# ones are looked at and synced once more.
DIRECTORIES_MAX = 10_000

T = TypeVar("T")


class Map(Protocol):
    """Does something to each of several things, perhaps at the same time, as `map` does."""

    def __call__(self, function: Callable[[T], None], items: Iterable[T], /) -> Iterator[None]: ...


class TextFile(Protocol):
    """An open text file. Lengths are bytes."""

    def append(self, buffers: Sequence[Buffer]) -> int:
        """Append the buffers, one after another; the number of bytes written, possibly fewer than given."""

    def pread(self, length: int, offset: int) -> bytes:
        """Up to `length` bytes from `offset`."""

    def cut(self, length: int) -> None:
        """Make the file as short as that."""

    def sync(self) -> None:
        """Make contents and length durable."""

    def size(self) -> int:
        """Length."""

    def identity(self) -> int:
        """The inode."""

    def mode(self) -> int:
        """Who may do what with it."""

    def close(self) -> None:
        """Close; never raises."""


class Store(Protocol):
    """Where text files are."""

    def create(self, path: str, mode: int) -> TextFile:
        """A new file; FileExistsError when anything has the name."""

    def open(self, path: str) -> TextFile:
        """A file that is there. Raises FileNotFoundError, and OSError for what is no regular file."""

    def identity(self, path: str) -> int | None:
        """The inode behind a name (of the name itself, if it is a link); None when there is nothing."""

    def mkdir(self, path: str, mode: int) -> None:
        """Create one directory; FileExistsError when it is there."""

    def rename(self, old: str, new: str) -> None:
        """Rename within a directory, replacing what has the new name."""

    def unlink(self, path: str) -> None:
        """Remove a name; FileNotFoundError when it is not there."""

    def sync_dir(self, path: str) -> None:
        """Make the names in a directory durable."""


class PosixText:
    """`TextFile` over a descriptor. What was synced leaves the page cache, but for the end of the file."""

    __slots__ = ("_cached_from", "_fd", "_inode")

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._cached_from = max(0, os.fstat(fd).st_size - CACHED_BYTES)
        self._inode = os.fstat(fd).st_ino

    def append(self, buffers: Sequence[Buffer]) -> int:
        return os.writev(self._fd, buffers[:IOVEC_MAX])

    def pread(self, length: int, offset: int) -> bytes:
        return os.pread(self._fd, length, offset)

    def cut(self, length: int) -> None:
        os.ftruncate(self._fd, length)

    def sync(self) -> None:
        os.fdatasync(self._fd)
        until = self.size() - CACHED_BYTES
        if until - self._cached_from >= UNCACHED_BYTES:
            with suppress(OSError):  # it is advice
                os.posix_fadvise(self._fd, self._cached_from, until - self._cached_from, os.POSIX_FADV_DONTNEED)
            self._cached_from = until

    def size(self) -> int:
        return os.fstat(self._fd).st_size

    def identity(self) -> int:
        return self._inode

    def mode(self) -> int:
        return stat.S_IMODE(os.fstat(self._fd).st_mode)

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with suppress(OSError):
                os.close(fd)

    def __del__(self) -> None:
        self.close()


class PosixStore:
    """`Store` over the operating system. A last component that is a symbolic link is not followed."""

    def create(self, path: str, mode: int) -> PosixText:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(path, flags, mode)
        os.fchmod(fd, mode)  # whatever the umask
        return PosixText(fd)

    def open(self, path: str) -> PosixText:
        # O_NONBLOCK: a fifo that someone put there must not hang the manager.
        fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise OSError(errno.EINVAL, "not a regular file", path)
        return PosixText(fd)

    def identity(self, path: str) -> int | None:
        try:
            return os.lstat(path).st_ino
        except FileNotFoundError:
            return None

    def mkdir(self, path: str, mode: int) -> None:
        os.mkdir(path)
        os.chmod(path, mode)

    def rename(self, old: str, new: str) -> None:
        os.rename(old, new)

    def unlink(self, path: str) -> None:
        os.unlink(path)

    def sync_dir(self, path: str) -> None:
        fd = os.open(path or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


class Directories:
    """The directories of text files: made where they are missing, and durable before a file in them is believed.

    One that is there may have been made by a process that died before it synced it: so each is synced once, whoever
    made it; above `base` that is done where it is allowed. Syncs are collected until `flush`: many files of a round are
    in the same few directories.
    """

    def __init__(self, store: Store, base: Path, mode: int) -> None:
        self._store = store
        self._above = {str(place) for place in base.parents}
        self._mode = mode
        self._known: set[str] = set()
        self._due: dict[str, None] = {}

    def ensure(self, path: str) -> None:
        """Have the directory `path`; durable with the next flush."""
        if len(self._known) >= DIRECTORIES_MAX:
            self._known.clear()
        place, todo = Path(path), list[Path]()
        while str(place) not in self._known and place != place.parent:
            todo.append(place)
            place = place.parent
        for one in reversed(todo):
            if self._store.identity(str(one)) is None:
                with suppress(FileExistsError):
                    self._store.mkdir(str(one), self._mode)
            self._due[str(one.parent)] = None
            self._known.add(str(one))

    def changed(self, path: str) -> None:
        """A name was made in the directory: durable with the next flush."""
        self._due[path] = None

    def flush(self, map_syncs: Map) -> None:
        """Make all of it durable. Raises OSError; what was not synced is synced by the next flush."""
        due = list(self._due)
        for _ in map_syncs(self._sync, due):
            pass
        for path in due:
            self._due.pop(path, None)

    def forget(self) -> None:
        """A directory was found missing: so may be those above it."""
        self._known.clear()

    def _sync(self, path: str) -> None:
        try:
            self._store.sync_dir(path)
        except PermissionError:
            if path not in self._above:
                raise
