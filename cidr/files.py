"""The few things the store does to files, behind one small class, so that a test can stop the process at each of them.

A file appears under its name whole or not at all: it is written under a temporary name in the same directory, synced,
renamed, and the directory is synced. Readers ignore temporary names and take no locks, so that a shared mount needs
none.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

FILE_MODE = 0o640
DIR_MODE = 0o750
TEMPORARY = ".tmp"


class Files:
    """The operating system. A test overrides `step`, which is called before everything that changes the disk."""

    def step(self, what: str, path: Path) -> None:
        """Nothing; here a test may end the process or fail."""

    def write(self, path: Path, data: bytes | memoryview) -> None:
        """Put `data` at `path`, durably; what was there is replaced."""
        self.make_directory(path.parent)
        temporary = path.with_name(f".{path.name[:200]}.{os.getpid()}{TEMPORARY}")
        self.step("create", temporary)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, FILE_MODE)
        try:
            view = memoryview(data)
            while view:
                self.step("write", temporary)
                view = view[os.write(descriptor, view) :]
            self.step("sync", temporary)
            os.fsync(descriptor)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise
        finally:
            os.close(descriptor)
        self.step("rename", path)
        os.rename(temporary, path)

    def rename(self, old: Path, new: Path) -> None:
        """Give a file another name, where nothing is; durable once the directory is synced."""
        self.step("rename", new)
        os.rename(old, new)

    def make_directory(self, path: Path) -> None:
        """Create a directory and those above it, durably."""
        if path.is_dir():
            return
        self.make_directory(path.parent)
        self.step("mkdir", path)
        with suppress(FileExistsError):
            os.mkdir(path, DIR_MODE)
        self.sync_directory(path.parent)

    def sync_directory(self, path: Path) -> None:
        """Make the names in a directory durable."""
        self.step("sync directory", path)
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def sync_names(self, paths: Iterable[Path]) -> None:
        """Make the names of files durable, each directory once."""
        for directory in sorted({path.parent for path in paths}):
            self.sync_directory(directory)

    def unlink(self, path: Path) -> bool:
        """Remove a file; False when it was not there."""
        self.step("unlink", path)
        try:
            os.unlink(path)
        except FileNotFoundError:
            return False
        return True
