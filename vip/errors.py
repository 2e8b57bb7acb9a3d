"""What can stop `vip`. All are `JlogError`s."""

from __future__ import annotations

from jlogd.errors import JlogError


class NameTaken(JlogError):
    """Another live node has this one's name."""

    code = "vip-name-taken"


class NotAllowed(JlogError):
    """An address must not float: it is the machine's own."""

    exit_code = 2
    code = "vip-not-allowed"


class NotFound(JlogError):
    """There is no such node, group or address."""

    exit_code = 1
    code = "vip-not-found"
