"""The daemon's side of the guard: starts it, tells it the deadline through shared memory, notices when it dies.

What the guard does is in `guard_process`. Without it the gate and the lifetimes still end the addresses; so when it
dies the daemon goes on, says so, and starts another one; `GuardDied` tells whether that worked.

Locks: `_words` orders writers of the farewell. The deadline is one store. Starting and stopping belong to one thread at
a time: `start` before the watcher runs, the watcher while it runs, `stop` after it ended.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import select
import socket
import subprocess
import sys
import threading
from pathlib import Path

from vip.kernel.errors import KernelError
from vip.kernel.guard_process import FAREWELL_BYTES_MAX, QUIT, READY, SHARED_BYTES, SLOTS_AT

# An interpreter starts in some 50 ms; a machine under load may need much longer. Seconds.
_START_SECONDS_MAX = 20.0
_QUIT_SECONDS_MAX = 5.0

_START = "import sys; sys.path.insert(0, sys.argv.pop(1)); from vip.kernel.guard_process import main; {call}"
_CALL = "main(*map(int, sys.argv[1:]))"


class Guard:
    """`gate` is the descriptor of the gate's deadline or -1; `held` what the guard shall keep open besides."""

    def __init__(self, gate: int = -1, held: int = -1) -> None:
        self._gate = gate
        self._held = held
        self._shared = os.memfd_create("vip-guard")
        os.ftruncate(self._shared, SHARED_BYTES)
        self._memory = mmap.mmap(self._shared, SHARED_BYTES)
        self._deadline = ctypes.c_uint64.from_buffer(self._memory)
        self._where = ctypes.c_uint64.from_buffer(self._memory, 8)
        self._words = threading.Lock()
        self._control: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    def set_deadline(self, deadline_ns: int) -> None:
        """One store; the guard reads it when it wakes up, at least twice a second."""
        self._deadline.value = deadline_ns

    def set_farewell(self, farewell: bytes) -> None:
        """Write into the slot that is not valid, then make it the valid one: a death in between leaves the old words.

        Raises `KernelError` when it is too long.
        """
        if len(farewell) > FAREWELL_BYTES_MAX:
            raise KernelError(f"a farewell of {len(farewell)} bytes; at most {FAREWELL_BYTES_MAX} are taken")
        with self._words:
            slot = 1 - (self._where.value >> 32)
            start = SLOTS_AT + slot * FAREWELL_BYTES_MAX
            self._memory[start : start + len(farewell)] = farewell
            self._where.value = slot << 32 | len(farewell)

    def start(self) -> None:
        """Start the guard and wait until it is ready. Raises `KernelError`."""
        ours, theirs = socket.socketpair()
        passed = [theirs.fileno(), self._shared, *(fd for fd in (self._gate, self._held) if fd >= 0)]
        numbers = (theirs.fileno(), self._shared, self._gate, os.getpid())
        root = str(Path(__file__).resolve().parents[2])
        command = [sys.executable, "-I", "-c", _START.format(call=_CALL), root, *map(str, numbers)]
        try:
            self._process = subprocess.Popen(
                command, pass_fds=passed, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True
            )
        except OSError as error:
            ours.close()
            raise KernelError(f"the guard cannot be started: {error.strerror}") from None
        finally:
            theirs.close()
        self._control = ours
        ours.settimeout(_START_SECONDS_MAX)
        try:
            ready = ours.recv(1)
        except OSError:
            ready = b""
        if ready != READY:
            self._end()
            raise KernelError(f"the guard did not start ({self._how_it_ended()}); its own words are in the log above")

    def fileno(self) -> int:
        """Becomes readable when the guard ends; -1 when there is none."""
        return self._control.fileno() if self._control is not None else -1

    def died(self) -> str | None:
        """How the guard ended, in words; None while it lives."""
        if self._control is None:
            return "it could not be started"
        if not select.select([self._control], [], [], 0)[0]:
            return None
        self._end()
        return self._how_it_ended()

    def stop(self) -> None:
        """Tell the guard that this is a clean end, and wait for its own."""
        if self._control is not None:
            with contextlib.suppress(OSError):
                self._control.send(QUIT)
        self._end()

    def close(self) -> None:
        """Stop it, and let go of the shared memory."""
        self.stop()
        self._deadline = self._where = ctypes.c_uint64(0)  # lets go of the memory
        self._memory.close()
        os.close(self._shared)

    def _end(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._process is not None:
            try:
                self._process.wait(_QUIT_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def _how_it_ended(self) -> str:
        code = self._process.returncode if self._process is not None else None
        if code is None:
            return "it never ran"
        return f"killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
