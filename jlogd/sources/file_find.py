"""Looking for files: what globs match now, and where a file went that was renamed.

Locking: none; functions that only look.
"""

from __future__ import annotations

import fnmatch
import glob
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress

# Files followed by one source: each costs a look a second and about a kilobyte.
FILES_MAX = 16384

Key = tuple[int, int]
Found = dict[Key, tuple[str, os.stat_result]]


def find(paths: Sequence[str], exclude: Sequence[str]) -> tuple[Found, int]:
    """The regular files that `paths` match, each once, by device and inode; and how many there are over FILES_MAX."""
    found: Found = {}
    skipped = 0
    for pattern in paths:
        for path in sorted(glob.iglob(pattern, recursive=True)):
            if any(fnmatch.fnmatch(name, glob_) for glob_ in exclude for name in (path, os.path.basename(path))):
                continue
            try:
                status = os.stat(path)
            except OSError:
                continue
            key = (status.st_dev, status.st_ino)
            if not stat.S_ISREG(status.st_mode) or key in found:
                continue
            if len(found) < FILES_MAX:
                found[key] = (path, status)
            else:
                skipped += 1
    return found, skipped


def paths_of_inode(directory: str, inode: int) -> Iterator[str]:
    """Where in `directory` a file of that inode is."""
    with suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            if entry.inode() == inode:
                yield entry.path
