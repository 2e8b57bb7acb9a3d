"""The worker processes of the benchmarks: producers and subscribers run in them, so that no system shares an
interpreter with another party or with the harness.

A worker runs functions it is sent, `function(state, *arguments)`, one at a time; `state` is a dict that lives as long
as the worker (open connections). A call that takes too long ends the worker and starts a new one.
"""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

State = dict[Any, Any]
# On top of the time a call asks for: connecting, preparing records, a slow sync.
GRACE_SECONDS = 30.0
# Workers begin a measured slot together, this long after the order is given.
LEAD_SECONDS = 0.02


class CallFailed(Exception):
    """A worker's function raised, or took too long; the message says which."""


class Crew:
    """A fixed number of workers."""

    def __init__(self, size: int) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._workers = [self._start() for _ in range(size)]
        self._calls = 0
        self._last = [0] * size  # the call whose result is wanted; those of calls that were given up are dropped

    def _start(self) -> tuple[multiprocessing.process.BaseProcess, Connection]:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_work, args=(theirs,), daemon=True)
        process.start()
        theirs.close()
        return process, ours

    def begin(self, worker: int, function: Callable[..., Any], *arguments: Any) -> None:
        """Have a worker run a function; `result` waits for it."""
        self._calls += 1
        self._last[worker] = self._calls
        self._workers[worker][1].send((self._calls, function, arguments))

    def result(self, worker: int, timeout: float = GRACE_SECONDS) -> Any:
        """What the function returned. Raises `CallFailed`."""
        process, pipe = self._workers[worker]
        deadline = time.monotonic() + timeout
        try:
            while pipe.poll(max(0.0, deadline - time.monotonic())):
                call, done, value = pipe.recv()
                if call != self._last[worker]:
                    continue
                if done:
                    return value
                raise CallFailed(value)
            reason = f"no answer within {timeout:.0f} s"
        except (EOFError, OSError):
            reason = "the worker ended"
        process.kill()
        process.join()
        pipe.close()
        self._workers[worker] = self._start()
        raise CallFailed(reason)

    def call(self, worker: int, function: Callable[..., Any], *arguments: Any, timeout: float = GRACE_SECONDS) -> Any:
        """`begin` and `result` in one."""
        self.begin(worker, function, *arguments)
        return self.result(worker, timeout)

    def together(self, calls: Sequence[tuple[Any, ...]], timeout: float = GRACE_SECONDS) -> list[Any]:
        """Run `(function, *arguments)` on worker 0, 1, …; all results, or `CallFailed` once all have ended."""
        for worker, (function, *arguments) in enumerate(calls):
            self.begin(worker, function, *arguments)
        results: list[Any] = []
        failure: CallFailed | None = None
        deadline = time.monotonic() + timeout
        for worker in range(len(calls)):
            try:
                results.append(self.result(worker, max(0.1, deadline - time.monotonic())))
            except CallFailed as error:
                failure = failure or error
        if failure is not None:
            raise failure
        return results

    def close(self) -> None:
        """End the workers."""
        for process, pipe in self._workers:
            pipe.close()
            process.join(2)
            if process.is_alive():
                process.kill()
                process.join()


def start_time() -> float:
    """The moment (monotonic clock, the same for all processes) at which workers begin together."""
    return time.monotonic() + LEAD_SECONDS


def _work(pipe: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process closes the pipe, and that ends us
    state: State = {}
    while True:
        try:
            call, function, arguments = pipe.recv()
        except EOFError:
            return
        try:
            answer: tuple[int, bool, Any] = call, True, function(state, *arguments)
        except Exception as error:  # whatever a competitor raises is a line in the table, not the end of the run
            answer = call, False, f"{type(error).__name__}: {error}"[:300]
        try:
            pipe.send(answer)
        except OSError:
            return
