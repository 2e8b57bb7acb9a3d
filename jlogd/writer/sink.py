"""Where a writer's batches go: a journal in this process, or a daemon."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from jlogd.errors import JlogError
from jlogd.journal.batch import Batch
from jlogd.journal.types import Receipt

Done = Callable[[Receipt | JlogError], None]


class Sink(Protocol):
    """Takes batches in order and says, in order, what became of each. `resends`: it may send one again by itself."""

    resends: bool

    def submit(self, batch: Batch, done: Done) -> None:
        """Queue a batch. `done` is called once, from another thread, when it is durable or was refused."""

    def commit_here(self, items: Sequence[tuple[Batch, Done]]) -> None:
        """Submit batches for a caller that is going to wait for them: they may be settled before this returns."""

    def position(self, producer: int) -> int | None:
        """Where the last accepted batch of `producer` ended; None when the log does not know it."""

    def close(self) -> None:
        """Let go; what was submitted before is still settled."""
