"""Who may not do what where: what the operating system leaves out when it says that permission is denied."""

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
    at = Path(os.path.abspath(path))
    for place in (at, *at.parents):
        try:
            status = place.stat()
        except OSError:
            continue
        return f"{asked}; {place} belongs to {user(status.st_uid)} (mode {stat.S_IMODE(status.st_mode):04o})"
    return asked


def user(uid: int) -> str:
    """The name of a user, or the number where it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
