"""Where queries are worked on: a few threads, a bounded number of queries waiting, each for a bounded time.

A query that takes too long is answered as such at once; a thread cannot be stopped, so it keeps its place until its
next step, where it ends (`cidr.patience`). That is why places are few, and why whoever finds none is told to come back
instead of waiting.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from cidr.errors import GaveUp
from cidr.patience import work_until
from cidr.server.errors import Busy

T = TypeVar("T")


class Desk:
    """`seconds` a query may take, waiting included; `threads` at a time, `queue` waiting."""

    def __init__(self, threads: int, queue: int, seconds: float) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="query")
        self._places = threads + queue
        self._seconds = seconds
        self._lock = threading.Lock()
        self._taken = 0

    @property
    def taken(self) -> int:
        """Queries that run or wait."""
        return self._taken

    async def run(self, work: Callable[[], T]) -> T:
        """What `work` returns or raises. Raises `Busy`, `GaveUp`."""
        with self._lock:
            if self._taken >= self._places:
                raise Busy(f"{self._taken} queries run or wait already; ask again in a moment")
            self._taken += 1
        future = self._pool.submit(work_until, time.monotonic() + self._seconds, work)
        future.add_done_callback(self._leave)
        waited = asyncio.wrap_future(future)
        waited.add_done_callback(_seen)
        try:
            return await asyncio.wait_for(asyncio.shield(waited), self._seconds)
        except TimeoutError:
            if future.done() and not future.cancelled():
                return future.result()  # it ended at this moment, or in a time limit of its own
            future.cancel()
            raise GaveUp(f"it took longer than {self._seconds:g} s: ask about less time or a smaller block") from None
        except asyncio.CancelledError:
            future.cancel()
            raise

    def close(self) -> None:
        """Take no more; what runs is not waited for."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _leave(self, _: Future[T]) -> None:
        with self._lock:
            self._taken -= 1


def _seen(future: asyncio.Future[T]) -> None:
    """How a query ends that nobody waits for any more is nothing to be told."""
    if not future.cancelled():
        future.exception()
