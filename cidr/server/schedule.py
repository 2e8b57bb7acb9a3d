"""Maintain, again and again, in a thread of its own: retention and condensing without a cron line."""

from __future__ import annotations

import threading
from collections.abc import Callable

import click

from cidr.server.metrics import Metrics
from jlogd.errors import JlogError

# After the start, so that a server that is restarted in a loop does not do nothing else.
FIRST_SECONDS = 30.0
STOP_SECONDS = 60.0


class Schedule:
    """Calls `work` every `seconds`; never, when that is None. A failure is said on stderr and tried again later."""

    def __init__(
        self, work: Callable[[], object], seconds: float | None, metrics: Metrics, first: float = FIRST_SECONDS
    ) -> None:
        self._work = work
        self._seconds = seconds
        self._metrics = metrics
        self._first = first
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="maintain", daemon=True)

    def start(self) -> None:
        """Begin."""
        if self._seconds is not None:
            self._thread.start()

    def stop(self) -> None:
        """End; work that is under way is waited for, but not for ever: it may be ended at any point."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(STOP_SECONDS)

    def _loop(self) -> None:
        assert self._seconds is not None
        wait = min(self._first, self._seconds)
        while not self._stop.wait(wait):
            try:
                self._work()
                self._metrics.maintained.labels("done").inc()
            except Exception as error:  # a defect too: a thread that ended would let the store grow without a word
                self._metrics.maintained.labels("failed").inc()
                expected = isinstance(error, (JlogError, OSError))
                words = str(error) if expected else f"{error!r}, a mistake of cidr, please report it"
                click.echo(f"warning: maintain failed and is tried again: {words}", err=True)
            wait = self._seconds
