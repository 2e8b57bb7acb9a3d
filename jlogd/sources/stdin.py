"""Lines from standard input, or any pipe: read in blocks, until it ends.

The last line is kept though nothing ends it; a line over `line_bytes_max` becomes several records (`oversized`).
A pipe has no positions: what was read and not yet durable when this process is killed is lost.

Counters: messages, bytes, oversized. When the input ends, all of it is made durable and `running` turns false.

Locking: none; the pipe belongs to the source's thread.
"""

from __future__ import annotations

import os
import select
import time

from jlogd.sources.base import BLOCK_BYTES, STOP_DRAIN_S, BatchWriter, Outlet, Source, Wakeup
from jlogd.sources.config import StdinSource
from jlogd.sources.framing import LineFramer

COUNTERS = ("messages", "bytes", "oversized")


class StdinReader(Source):
    """Reads the descriptor `fd` (standard input) to its end. The descriptor is not closed."""

    def __init__(self, config: StdinSource, name: str = "", fd: int = 0) -> None:
        super().__init__(name or config.name or "stdin", COUNTERS)
        self.config = config
        self._fd = fd
        self._wakeup: Wakeup | None = None

    def _open(self, writer: BatchWriter) -> None:
        self._wakeup = Wakeup()

    def _run(self, writer: BatchWriter) -> None:
        outlet = Outlet(writer, self._counters)
        framer = LineFramer(outlet, self._counters, self.config.line_bytes_max)
        # poll, not epoll: standard input may be a regular file, which epoll refuses.
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        assert self._wakeup is not None
        poll.register(self._wakeup.fd, select.POLLIN)
        drain_until = float("inf")
        while time.monotonic() < drain_until:
            if self._stopping.is_set() and drain_until == float("inf"):
                drain_until = min(time.monotonic() + STOP_DRAIN_S, self._stop_by)
            if self._fd not in dict(poll.poll()):
                if self._stopping.is_set():
                    break
                continue
            try:
                data = os.read(self._fd, BLOCK_BYTES)
            except (BlockingIOError, InterruptedError):
                continue
            if not data:
                break
            framer.feed(data)
            outlet.flush()
        framer.finish()
        outlet.flush()

    def _wake(self) -> None:
        if self._wakeup is not None:
            self._wakeup.set()

    def _close(self) -> None:
        if self._wakeup is not None:
            self._wakeup.close()
