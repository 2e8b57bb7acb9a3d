"""Root acts as the owner of a log.

A command run as root would leave lock files and segments behind that belong to root, and the daemon, which runs as
another user, could not open them any more. So before root touches a log, the process takes on the user and group of
its directory.
"""

from __future__ import annotations

import os
from pathlib import Path

from jlogd.cli.output import preload
from jlogd.errors import UsageError

_ROOT = 0


def act_as_owner(path: Path) -> None:
    """As root, become the user that owns `path`, or the nearest directory above it that is there.

    Raises UsageError when this process acts as the owner of another log already.
    """
    if os.getuid() != _ROOT:
        return
    status = _nearest(path)
    wanted = (status.st_uid, status.st_gid)
    acting = (os.geteuid(), os.getegid())
    if wanted == acting or wanted[0] == _ROOT:
        return
    if acting[0] != _ROOT:
        raise UsageError(f"{path} belongs to another user than the logs before it; run one command for each")
    preload()  # Python's own files may be where only root can read them
    os.setgroups([wanted[1]])
    os.setegid(wanted[1])
    os.seteuid(wanted[0])


def _nearest(path: Path) -> os.stat_result:
    path = path.absolute()
    for place in (path, *path.parents):
        try:
            return place.stat()
        except (FileNotFoundError, NotADirectoryError):
            continue
    return Path("/").stat()
