"""Who subscribes to what on the nodes, asked of the nodes themselves: what decommissioning and draining stand on.

It uses the library as any client does, node after node, and needs no manager to run. A node that cannot be reached is
told as such; nothing is assumed of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from jlogd.entry import open as open_log
from jlogd.errors import JlogError, SubscriberUnknown
from jlogd.journal.types import LogStat
from jlogd.log import Log
from jlogd.manager.config import ManagedNode, ManagerConfig
from jlogd.wire.client import list_remote
from jlogd.wire.credentials import Keys


@dataclass(slots=True)
class NodeCensus:
    """One node: its logs as they are now, or why it could not be asked."""

    node: ManagedNode
    logs: list[LogStat] = field(default_factory=list)
    error: str = ""

    def held_by(self, name: str) -> Iterator[tuple[str, int]]:
        """(log, records not passed) of each log that has that subscriber."""
        for stat in self.logs:
            for subscriber in stat.subscribers:
                if subscriber.name == name:
                    yield stat.name, subscriber.lag_records


def keys_of(config: ManagerConfig, node: ManagedNode) -> Keys:
    """What to show to a node, and to expect of it."""
    return Keys(config.key or None, node.keys or None, config.insecure) if node.keys else Keys(insecure=config.insecure)


def look(config: ManagerConfig, node: ManagedNode) -> NodeCensus:
    """Ask one node."""
    found = NodeCensus(node)
    try:
        for name in list_remote(node.address, keys_of(config, node)):
            with open_on(config, node, name) as log:
                found.logs.append(log.stat())
    except (JlogError, OSError) as error:
        found.error = str(error)
    return found


def remove(config: ManagerConfig, node: ManagedNode, name: str, done: Callable[[str], None]) -> str:
    """Remove a subscriber from every log of a node; why that failed, or nothing. `done` is told of each log."""
    census = look(config, node)
    if census.error:
        return census.error
    for log_name, _ in census.held_by(name):
        try:
            with open_on(config, node, log_name) as log:
                log.remove_subscriber(name)
        except SubscriberUnknown:
            continue
        except (JlogError, OSError) as error:
            return str(error)
        done(log_name)
    return ""


def open_on(config: ManagerConfig, node: ManagedNode, log: str) -> Log:
    """A log of a node, with the manager's keys."""
    keys = keys_of(config, node)
    return open_log(
        f"{node.address}/{log}", key=keys.key, server_key=keys.server_key, insecure=keys.insecure
    )  # fmt: skip
