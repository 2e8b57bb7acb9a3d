"""What the kernel's half raises: one class, whose message says what happened, where, and what to do next."""

from __future__ import annotations

import errno
import os

from jlogd.errors import JlogError


class KernelError(JlogError):
    """The kernel, or the privileges of this process, do not allow what is needed."""

    code = "kernel"


# What an operator needs to hear instead of the bare name of an errno.
_HINTS = {
    errno.EPERM: "CAP_NET_ADMIN is missing (run as root, or with AmbientCapabilities=CAP_NET_ADMIN CAP_NET_RAW)",
    errno.EACCES: "IPv6 is switched off on this interface (net.ipv6.conf.*.disable_ipv6)",
    errno.ENODEV: "the interface went away",
    errno.ENOBUFS: "the kernel had no room; the same again a little later may do",
}


def in_words(number: int, said: str = "") -> str:
    """An errno in words, with what the kernel `said` about it and what to do, where that is known."""
    words = said or os.strerror(number)
    hint = _HINTS.get(number)
    return f"{words}: {hint}" if hint else words
