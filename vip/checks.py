"""Health checks: a thread for each, `fall` failures in a row make it fail, `rise` successes make it work again.

A check begins as working when its first run succeeds and as failing when it does not, so that a node that comes up
with a dead service does not take its addresses for a moment.

Lock: none; each check writes one text, read by others as a whole.
"""

from __future__ import annotations

import contextlib
import http.client
import logging
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

from vip.config import Check

_log = logging.getLogger("vip")


def run_once(check: Check) -> str:
    """Why the check fails; "" when it does not."""
    timeout = float(check.timeout)
    try:
        if check.tcp:
            host, _, port = check.tcp.rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), timeout).close()
            return ""
        if check.http:
            return _http(check.http, timeout)
        code = _exec(check.exec, timeout)
    except (subprocess.TimeoutExpired, TimeoutError):
        return f"no end within {check.timeout}"
    except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: a name that cannot be one
        return str(error) or type(error).__name__
    return "" if code == 0 else f"exit code {code}"


def _exec(command: tuple[str, ...], timeout: float) -> int:
    """Its exit code; when its time is over it ends, and with it whatever it has started."""
    silence = subprocess.DEVNULL
    process = subprocess.Popen(command, stdin=silence, stdout=silence, stderr=silence, start_new_session=True)
    try:
        return process.wait(timeout)
    finally:
        if process.returncode is None:
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _http(url: str, timeout: float) -> str:
    parts, late = urlsplit(url), threading.Event()
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=timeout)
    # A timeout of its own for each byte would let a service that trickles look healthy for ever.
    end = threading.Timer(timeout, _shut, (connection, late))
    end.daemon = True
    end.start()
    try:
        connection.request("GET", (parts.path or "/") + (f"?{parts.query}" if parts.query else ""))
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException):
        if not late.is_set():
            raise
    finally:
        end.cancel()
        connection.close()
    if late.is_set():
        raise TimeoutError
    return "" if 200 <= status < 400 else f"status {status}"


def _shut(connection: http.client.HTTPConnection, late: threading.Event) -> None:
    late.set()
    sock = connection.sock
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)


class Checks:
    """All checks of a configuration; `changed` is called when one begins to work or to fail."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._states: dict[str, str] = {}
        self._ends: dict[str, threading.Event] = {}
        self._checks: dict[str, Check] = {}

    def configure(self, checks: Mapping[str, Check]) -> None:
        """Start, restart and end what has changed."""
        for name in list(self._checks):
            if checks.get(name) != self._checks[name]:
                self._ends.pop(name).set()
                del self._checks[name]
                self._states.pop(name, None)
        for name, check in checks.items():
            if name not in self._checks:
                self._checks[name], self._ends[name] = check, threading.Event()
                self._states[name] = "not run yet"
                end = self._ends[name]
                threading.Thread(
                    target=self._run, args=(name, check, end), name=f"vip-check-{name}", daemon=True
                ).start()

    def failing(self) -> dict[str, str]:
        """Checks that fail, with the reason."""
        return {name: why for name, why in self._states.items() if why}

    def close(self) -> None:
        for end in self._ends.values():
            end.set()

    def _run(self, name: str, check: Check, end: threading.Event) -> None:
        first, row = True, 0
        while not end.is_set():
            why = run_once(check)
            failing = bool(self._states.get(name))
            row = row + 1 if bool(why) != failing else 0
            if first or row >= (check.fall if why else check.rise):
                self._set(name, why, end)
                row = 0
            first = False
            end.wait(float(check.interval))

    def _set(self, name: str, why: str, end: threading.Event) -> None:
        before = self._states.get(name, "")
        if end.is_set() or before == why:
            return
        self._states[name] = why
        if bool(before) != bool(why) or before == "not run yet":
            _log.log(logging.WARNING if why else logging.INFO, "check %s %s", name, f"fails: {why}" if why else "works")
            self._changed()
