"""A FUSE file system over a directory, whose operations fail as they are told: `faulty_fs.py FROM AT lock=ENOLCK`.

What may fail: `lock` (POSIX, OFD and flock), `fsync` (of files), `fsyncdir`. `lock=none` has no lock operations at all,
so that the kernel keeps the locks of each mount to itself. Everything else is passed on to FROM. It runs until it is
unmounted or killed.
"""

from __future__ import annotations

import errno
import os
import sys
from typing import Any

import mfusepy


class FaultyFs(mfusepy.Operations):
    """Passes on to a directory; raises what `faults` says."""

    use_ns = True

    def __init__(self, source: str, faults: dict[str, int]) -> None:
        self._source = source
        self._faults = faults

    def _at(self, path: str) -> str:
        return self._source + path

    def _maybe_fail(self, operation: str) -> None:
        if operation in self._faults:
            raise mfusepy.FuseOSError(self._faults[operation])

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        status = os.lstat(self._at(path)) if fh is None else os.fstat(fh)
        fields = ("st_mode", "st_nlink", "st_uid", "st_gid", "st_size", "st_blocks", "st_ino")
        found = {name: getattr(status, name) for name in fields}
        times = {name: getattr(status, f"{name}_ns") for name in ("st_atime", "st_mtime", "st_ctime")}
        return {**found, **times}

    def readdir(self, path: str, fh: int) -> list[str]:
        return [".", "..", *os.listdir(self._at(path))]

    def statfs(self, path: str) -> dict[str, int]:
        found = os.statvfs(self._at(path))
        return {name: getattr(found, name) for name in dir(found) if name.startswith("f_")}

    def create(self, path: str, mode: int, fi: Any = None) -> int:
        return os.open(self._at(path), os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)

    def open(self, path: str, flags: int) -> int:
        return os.open(self._at(path), flags & ~os.O_APPEND)

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        return os.pread(fh, size, offset)

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        return os.pwrite(fh, data, offset)

    def truncate(self, path: str, length: int, fh: int | None = None) -> int:
        os.truncate(self._at(path) if fh is None else fh, length)
        return 0

    def release(self, path: str, fh: int) -> int:
        os.close(fh)
        return 0

    def fsync(self, path: str, datasync: int, fh: int) -> int:
        self._maybe_fail("fsync")
        os.fsync(fh)
        return 0

    def fsyncdir(self, path: str, datasync: int, fh: int) -> int:
        self._maybe_fail("fsyncdir")
        return 0

    def mkdir(self, path: str, mode: int) -> int:
        os.mkdir(self._at(path), mode)
        return 0

    def rmdir(self, path: str) -> int:
        os.rmdir(self._at(path))
        return 0

    def unlink(self, path: str) -> int:
        os.unlink(self._at(path))
        return 0

    def rename(self, old: str, new: str) -> int:
        os.rename(self._at(old), self._at(new))
        return 0

    def chmod(self, path: str, mode: int) -> int:
        os.chmod(self._at(path), mode)
        return 0

    def utimens(self, path: str, times: Any = None) -> int:
        os.utime(self._at(path), ns=times)
        return 0


class FaultyLocksFs(FaultyFs):
    """The same with lock operations, which fail."""

    def lock(self, path: str, fh: int, cmd: int, lock: Any) -> int:
        self._maybe_fail("lock")
        return 0

    def flock(self, path: str, fh: int, op: int) -> int:
        self._maybe_fail("lock")
        return 0


def main() -> None:
    """Mount and serve."""
    source, mount, *words = sys.argv[1:]
    faults = dict(word.split("=") for word in words)
    kind = FaultyFs if faults.get("lock") == "none" else FaultyLocksFs
    faults.pop("lock", None) if kind is FaultyFs else None
    numbers = {operation: getattr(errno, name) for operation, name in faults.items()}
    # Hard removal: what is unlinked is gone, rather than renamed to .fuse_hidden and removed later.
    mfusepy.FUSE(kind(source, numbers), mount, foreground=True, hard_remove=True)


if __name__ == "__main__":
    main()
