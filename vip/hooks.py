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
import tempfile
import threading
from collections.abc import Iterable
from typing import IO, Literal

import msgspec

from vip.config import Hooks as Settings
from vip.kernel.interface import Floating
from vip.situation import Plan

_log = logging.getLogger("vip")

# Runs that may wait; beyond that they are dropped and counted, because old news only delays what is new.
WAITING_MAX = 1000

# What is told of what a program that failed has said.
WORDS_BYTES_MAX = 200

Event = Literal["take", "release"]


def told_of(floatings: Iterable[Floating], plan: Plan) -> list[dict[str, str]]:
    """What a program is told of addresses; nothing of those that a newer configuration has not."""
    return [
        {"address": f.address, "interface": f.interface, "bundle": plan.bundle_of[f.address].name}
        for f in floatings
        if f.address in plan.bundle_of
    ]


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

    def wanted(self, event: Event) -> bool:
        """Whether there is a program for it."""
        return bool(getattr(self.settings, event))

    def tell(self, event: Event, addresses: list[dict[str, str]]) -> None:
        if not addresses or not self.wanted(event):
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
            why = self._why_failed(command, text)
        except (OSError, ValueError) as error:
            why = str(error)
        if why:
            self.failures += 1
            _log.warning("hook %s: %s", command[0], why)

    def _why_failed(self, command: list[str], text: bytes) -> str:
        """Run it; "" when it went well. Files, not pipes: what it leaves running could hold a pipe open for ever."""
        with tempfile.TemporaryFile() as told, tempfile.TemporaryFile() as errors:
            told.write(text)
            told.seek(0)
            process = subprocess.Popen(
                command, stdin=told, stdout=subprocess.DEVNULL, stderr=errors, start_new_session=True
            )
            try:
                code = process.wait(float(self.settings.timeout))
            except subprocess.TimeoutExpired:
                with contextlib.suppress(OSError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                return f"not done within {self.settings.timeout}, killed"
            words = _last_words(errors) if code else ""
        return f"exit code {code}{f': {words}' if words else ''}" if code else ""


def _last_words(errors: IO[bytes]) -> str:
    end = errors.seek(0, os.SEEK_END)
    errors.seek(max(end - WORDS_BYTES_MAX, 0))
    return errors.read().decode(errors="replace").strip()
