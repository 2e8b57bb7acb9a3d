"""Programs of the operator, run after addresses were taken and after they were removed.

    PROGRAM ARGUMENTS... take|release      on its standard input one JSON object a line: address, interface, group

One runs at a time, in order, in a thread of its own: nothing waits for them, because an address must never stay for a
program's sake. One that does not end within its time is killed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import signal
import subprocess
import threading
from typing import Literal

import msgspec

from vip.config import Hooks as Settings

_log = logging.getLogger("vip")

# Runs that may wait; beyond that they are dropped and counted, because old news only delays what is new.
WAITING_MAX = 1000

Event = Literal["take", "release"]


class Hooks:
    """Runs the programs of a configuration."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.runs = 0
        self.failures = 0
        self.dropped = 0
        self._work: queue.Queue[tuple[Event, list[dict[str, str]]] | None] = queue.Queue(WAITING_MAX)
        self._thread = threading.Thread(target=self._run, name="vip-hooks", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def tell(self, event: Event, addresses: list[dict[str, str]]) -> None:
        if not addresses or not getattr(self.settings, event):
            return
        try:
            self._work.put_nowait((event, addresses))
        except queue.Full:
            self.dropped += 1

    def close(self) -> None:
        """Wait for what was told, no longer than one program may take."""
        with contextlib.suppress(queue.Full):
            self._work.put_nowait(None)
        if self._thread.is_alive():
            self._thread.join(timeout=float(self.settings.timeout) + 1)

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            event, addresses = work
            command = getattr(self.settings, event)
            if command:
                self._run_one([*command, event], msgspec.json.Encoder().encode_lines(addresses))

    def _run_one(self, command: list[str], text: bytes) -> None:
        self.runs += 1
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            self.failures += 1
            _log.warning("hook %s: %s", command[0], error)
            return
        try:
            _, errors = process.communicate(text, timeout=float(self.settings.timeout))
        except subprocess.TimeoutExpired:
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            self.failures += 1
            _log.warning("hook %s: not done within %s, killed", command[0], self.settings.timeout)
            return
        if process.returncode:
            self.failures += 1
            words = errors.decode(errors="replace").strip()[-200:]
            _log.warning("hook %s: exit code %d%s", command[0], process.returncode, f": {words}" if words else "")
