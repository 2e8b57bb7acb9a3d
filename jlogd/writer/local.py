"""The sink that is a journal in this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from jlogd.journal.batch import Batch
from jlogd.writer.committer import Committer
from jlogd.writer.sink import Done


class LocalSink:
    """Hands batches to a committer that other writers of the process share."""

    resends = False

    def __init__(self, committer: Committer, release: Callable[[], None]) -> None:
        """`release` is called once, when the sink is closed."""
        self._committer = committer
        self._release: Callable[[], None] | None = release

    def submit(self, batch: Batch, done: Done) -> None:
        self._committer.submit(batch, done)

    def commit_here(self, items: Sequence[tuple[Batch, Done]]) -> None:
        self._committer.commit_here(items)

    def position(self, producer: int) -> int | None:
        return self._committer.journal.producer_position(producer)

    def close(self) -> None:
        release, self._release = self._release, None
        if release is not None:
            release()
