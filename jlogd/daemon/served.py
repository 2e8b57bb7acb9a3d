"""What the server knows of the daemon's logs: one that is open, and how it is found by its name.

The logs themselves are kept by `logs.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from jlogd.journal.journal import Journal
from jlogd.journal.types import Settings
from jlogd.writer.committer import Committer


@dataclass(frozen=True, slots=True)
class Served:
    """A log the daemon has open."""

    journal: Journal
    committer: Committer


class Logs(Protocol):
    """The logs of the daemon. Methods may be called from any thread."""

    def names(self) -> list[str]:
        """Names of all logs, sorted."""

    def get(self, name: str, shown: Callable[[str], bool] | None = None) -> Served:
        """An open log; at once, without touching a disk. Raises `LogNotFound`, which names those that are `shown`."""

    def create(self, name: str, settings: Settings | None, subscribers: Sequence[str]) -> Served:
        """Make a log and open it; None means the settings of the configuration. Raises `LogExists`, `UsageError`."""
