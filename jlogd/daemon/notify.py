"""Telling systemd how the daemon is: the datagrams of sd_notify(3), without a library.

The supervisor names a unix datagram socket in NOTIFY_SOCKET (`/path`, or `@name` for an abstract one). Each message
is `KEY=value` lines. Without the variable every call does nothing. A message that cannot be sent is dropped: a
supervisor that went away must never stop a log.

No locks: one `sendto` per message, from any thread.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Mapping

# A status is a line for `systemctl status`, not a report.
STATUS_CHARACTERS_MAX = 1000


class Notifier:
    """`Notifier()` speaks to the supervisor that started this process; `Notifier({})` to nobody.

    `watchdog_interval` is how often `watchdog()` should be called, in seconds (half of what the unit allows); None when
    nobody waits for it.
    """

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        environment = os.environ if environment is None else environment
        self._address = _address(environment.get("NOTIFY_SOCKET", ""))
        self.watchdog_interval = _watchdog_interval(environment) if self._address else None

    @property
    def active(self) -> bool:
        """True when there is a supervisor to speak to."""
        return self._address is not None

    def ready(self, status: str = "") -> None:
        """Started, or done reloading."""
        self._send("READY=1", *_status(status))

    def reloading(self) -> None:
        """A reload begins; `ready` ends it. The time lets systemd match the message with its own signal."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self, status: str = "") -> None:
        self._send("STOPPING=1", *_status(status))

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._send(*_status(text))

    def watchdog(self) -> None:
        """The daemon is alive: to be called from the loop whose hanging should count as a failure."""
        if self.watchdog_interval is not None:
            self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if self._address is None or not lines:
            return
        message = "\n".join(lines).encode("utf-8", "replace")
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock,
        ):
            # A supervisor that does not read must not hang the daemon.
            sock.setblocking(False)
            sock.sendto(message, self._address)


def _address(text: str) -> str | bytes | None:
    if text.startswith("@") and len(text) > 1:
        return b"\0" + os.fsencode(text[1:])
    return text if text.startswith("/") else None


def _status(text: str) -> list[str]:
    line = " ".join(text.split())[:STATUS_CHARACTERS_MAX]
    return [f"STATUS={line}"] if line else []


def _watchdog_interval(environment: Mapping[str, str]) -> float | None:
    """Half of WATCHDOG_USEC, in seconds, if it is meant for this process."""
    try:
        limit_us = int(environment.get("WATCHDOG_USEC", ""))
        meant_for = int(environment.get("WATCHDOG_PID", "") or os.getpid())
    except ValueError:
        return None
    return limit_us / 2e6 if limit_us > 0 and meant_for == os.getpid() else None
