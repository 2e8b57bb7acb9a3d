"""What the server knows of one client, from its hello to its silence; and the log a request is about.

A session belongs to the server's thread. Other threads hold on to it only to say whom an answer is for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from jlogd.daemon.grants import Party
from jlogd.journal.journal import Journal
from jlogd.journal.types import Settings
from jlogd.writer.committer import Committer

if TYPE_CHECKING:
    from jlogd.daemon.delivery import Subscription


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


@dataclass(eq=False, slots=True)
class Session:
    """One client. `under_way` counts bytes (see `COST_MIN`) of batches that are not answered yet.

    `user`: what the gate said of its connection; `peer`, `descriptor`: its address and socket; `party`: who that is and
    what it may do, looked up with each message.
    `owed`: a batch of this log and producer was refused for now, and no later one is taken before it: where it starts.
    """

    identity: bytes
    client: str
    note: str
    user: str
    peer: str
    party: Party
    descriptor: int
    alive: bool = True
    since: float = field(default_factory=time.monotonic)
    heard: float = field(default_factory=time.monotonic)
    under_way: int = 0
    requests: int = 0
    subscriptions: dict[int, Subscription] = field(default_factory=dict)
    owed: dict[tuple[str, int], int] = field(default_factory=dict)
