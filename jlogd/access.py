"""Who may not do what where: what the operating system leaves out when it says that permission is denied.

No locks; nothing is changed.
"""

from __future__ import annotations

import errno
import os
import pwd
import stat
from pathlib import Path

DENIED = (errno.EACCES, errno.EPERM)


def denied(path: str | Path) -> str:
    """Who was denied `path`, and whose that is: `user nobody (uid 65534); /root belongs to root (mode 0700)`.

    Where `path` is not there, or cannot be looked at, it is the nearest directory above it that can.
    """
    me = os.geteuid()
    asked = f"user {user(me)} (uid {me})" if user(me) != str(me) else f"uid {me}"
    place, status = _nearest(Path(os.path.abspath(path)))
    return f"{asked}; {place} belongs to {_owner(status)}"


def obstacle(path: Path) -> str:
    """Why this process cannot write at `path`, a file or directory that is there or to be made; "" when it can.

    It asks the operating system (access), so capabilities and read-only mounts count.
    """
    place, status = _nearest(path.absolute())
    needed = os.W_OK | os.X_OK if stat.S_ISDIR(status.st_mode) else os.R_OK | os.W_OK
    if os.access(place, needed, effective_ids=os.access in os.supports_effective_ids):
        return ""
    if os.statvfs(place).f_flag & os.ST_RDONLY:
        return f"{place} is read-only here (the mount, or ProtectSystem= of a unit without ReadWritePaths=)"
    return f"user {user(os.geteuid())} may not write {place}, which belongs to {_owner(status)}"


def user(uid: int) -> str:
    """The name of a user, or the number where it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _owner(status: os.stat_result) -> str:
    return f"{user(status.st_uid)} (mode {stat.S_IMODE(status.st_mode):04o})"


def _nearest(path: Path) -> tuple[Path, os.stat_result]:
    """`path`, or the nearest directory above it that is there and may be seen."""
    for place in (path, *path.parents):
        try:
            return place, place.stat()
        except OSError:
            continue
    return Path("/"), Path("/").stat()
