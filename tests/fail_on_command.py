"""A FUSE file system over a directory that fails on command: `fail_on_command.py FROM AT CONTROL`.

CONTROL is a file of words like `write=EIO fsync=ENOSPC`, read at every operation; while it is empty all is well. What
may fail: `write`, `create`, `fsync`, `fsyncdir`; a number in place of an error (`fsync=700`) makes it take so many
milliseconds. Locks are the kernel's own: all processes use the one mount.
"""

from __future__ import annotations

import errno
import sys
import time
from pathlib import Path
from typing import Any

import mfusepy
from faulty_fs import FaultyFs


class FailsOnCommand(FaultyFs):
    """Passes on to a directory; raises what the control file says now."""

    def __init__(self, source: str, control: Path) -> None:
        super().__init__(source, {})
        self._control = control

    def _maybe_fail(self, operation: str) -> None:
        faults = dict(word.split("=") for word in self._control.read_text().split())
        if faults.get(operation, "").isdigit():
            time.sleep(int(faults[operation]) / 1000)
        elif operation in faults:
            raise mfusepy.FuseOSError(getattr(errno, faults[operation]))

    def create(self, path: str, mode: int, fi: Any = None) -> int:
        self._maybe_fail("create")
        return super().create(path, mode, fi)

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        self._maybe_fail("write")
        return super().write(path, data, offset, fh)


if __name__ == "__main__":
    # Hard removal: what is unlinked is gone, rather than renamed to .fuse_hidden and removed later.
    mfusepy.FUSE(FailsOnCommand(sys.argv[1], Path(sys.argv[3])), sys.argv[2], foreground=True, hard_remove=True)
