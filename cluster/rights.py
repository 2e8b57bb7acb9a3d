"""Who may not write where, in words: "permission denied" names neither.

It asks the operating system (access), so capabilities and read-only mounts count. No locks; nothing is changed.
"""

from __future__ import annotations

import os
import pwd
import stat
from pathlib import Path


def obstacle(path: Path) -> str:
    """Why this process cannot write at `path`, a file or directory that is there or to be made; "" when it can."""
    place, status = _nearest(path.absolute())
    needed = os.W_OK | os.X_OK if stat.S_ISDIR(status.st_mode) else os.R_OK | os.W_OK
    if os.access(place, needed, effective_ids=os.access in os.supports_effective_ids):
        return ""
    if os.statvfs(place).f_flag & os.ST_RDONLY:
        return f"{place} is read-only here (the mount, or ProtectSystem= of a unit without ReadWritePaths=)"
    mode = stat.S_IMODE(status.st_mode)
    return f"user {user(os.geteuid())} may not write {place}, which belongs to {user(status.st_uid)} (mode {mode:04o})"


def user(number: int) -> str:
    """The name of a user, or its number when it has none."""
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def _nearest(path: Path) -> tuple[Path, os.stat_result]:
    """`path`, or the nearest directory above it that is there and may be seen."""
    for place in (path, *path.parents):
        try:
            return place, place.stat()
        except OSError:
            continue
    return Path("/"), Path("/").stat()
