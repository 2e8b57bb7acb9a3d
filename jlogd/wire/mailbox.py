"""How other threads reach a thread that sits in a ZeroMQ poll: a queue, and a descriptor that wakes it.

The queue's bound is its users' business: what is put here is bounded by windows and credits. The owner calls `arm`
before it polls and `take` after; anyone may `put`. No lock: `deque` is atomic, and the order of the steps in `arm` and
`put` leaves no moment in which an item is neither seen nor announced.
"""

from __future__ import annotations

import os
from collections import deque
from contextlib import suppress
from typing import Generic, TypeVar

T = TypeVar("T")


class Mailbox(Generic[T]):
    """Many put, one takes."""

    def __init__(self) -> None:
        self._items: deque[T] = deque()
        self._asleep = False
        self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def fileno(self) -> int:
        """Readable when something was put while the owner slept."""
        return self._fd

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: T) -> None:
        """Add an item; a system call only when the owner sleeps."""
        self._items.append(item)
        if self._asleep:
            self.wake()

    def wake(self) -> None:
        """Make the owner's poll return."""
        self._asleep = False
        with suppress(OSError):
            os.eventfd_write(self._fd, 1)

    def arm(self) -> bool:
        """Announce sleep. False: items wait already, do not block."""
        self._asleep = True
        if self._items:
            self._asleep = False
            return False
        return True

    def take(self) -> deque[T]:
        """Everything put so far."""
        if not self._asleep:
            with suppress(BlockingIOError):
                os.eventfd_read(self._fd)
        self._asleep = False
        taken: deque[T] = deque()
        for _ in range(len(self._items)):
            taken.append(self._items.popleft())
        return taken

    def close(self) -> None:
        """Close the descriptor; a later `put` wakes nobody."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
