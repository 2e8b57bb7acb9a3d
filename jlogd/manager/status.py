"""What a manager tells of itself: one `PullStatus` for each log of each node, one `NodeStatus` for each node.

`jlogctl manager status` shows it, `/manager` of the HTTP listener gives it as JSON, metrics and health come from it.
Made from what the hub's thread holds, by whoever asks: numbers of one pull may be a moment apart.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Literal

import msgspec

from jlogd.manager.parcel import Source
from jlogd.manager.pull import Pull
from jlogd.manager.session import NodeSession

# A pull that stands still for so long, with something to do, is stuck; so is a node that is away for so long.
STUCK_SECONDS = 60.0


class NodeStatus(msgspec.Struct, kw_only=True):
    """One node. `seconds` is how long it has been up, or away."""

    name: str
    subcluster: str
    address: str
    up: bool
    seconds: float
    error: str = ""


class PullStatus(msgspec.Struct, kw_only=True):
    """One log of one node. `next` is the first sequence number that is not written; counts are those of the ledger,
    since the first contact.

    `state` is one of away, waiting, opening, looking, subscribing, streaming, blocked (what was read cannot be
    written), stopped (a person must decide).
    """

    node: str
    subcluster: str
    log: str
    subscriber: str
    output: str
    state: str
    next: int
    lag_records: int
    lag_bytes: int
    lag_seconds: float
    records: int
    bytes: int
    lost: int
    records_a_second: float
    bytes_a_second: float
    restarts: int = 0
    error: str = ""


Leaving = Literal["", "draining", "let go"]


class ManagerStatus(msgspec.Struct, kw_only=True):
    """A manager. `leaving` says how far it is with being decommissioned."""

    name: str
    held_bytes: int
    counters: dict[str, int]
    nodes: list[NodeStatus]
    pulls: list[PullStatus]
    problems: list[str] = []
    leaving: Leaving = ""


def node_status(session: NodeSession) -> NodeStatus:
    """How a node is."""
    node = session.node
    return NodeStatus(
        name=node.name, subcluster=node.subcluster, address=node.address, up=session.is_up,
        seconds=time.monotonic() - session.since, error=session.error,
    )  # fmt: skip


def pull_status(session: NodeSession, pull: Pull, trouble: str) -> PullStatus:
    """How a pull is; `trouble` is why what it read cannot be written."""
    source, state, stat = pull.source, pull.state, pull.stat
    following = pull.following
    lag_records = max(0, stat.next - max(following, stat.first)) if stat is not None else 0
    mine = next((one for one in stat.subscribers if one.name == source.subscriber), None) if stat is not None else None
    behind = mine if mine is not None and lag_records else None
    phase = pull.phase if session.is_up or pull.phase == "stopped" else "away"
    return PullStatus(
        node=source.origin.node, subcluster=source.origin.subcluster, log=source.origin.log,
        subscriber=source.subscriber, output=source.output, state="blocked" if trouble else phase, next=following,
        lag_records=lag_records, lag_bytes=behind.lag_bytes if behind else 0,
        lag_seconds=behind.lag_seconds if behind else 0.0, records=state.records if state else 0,
        bytes=state.bytes if state else 0, lost=state.lost if state else 0, records_a_second=pull.rate[0],
        bytes_a_second=pull.rate[1], restarts=state.restarts if state else 0, error=trouble or pull.error,
    )  # fmt: skip


def problems(
    sessions: Iterable[NodeSession], trouble: Callable[[Source], str], stuck_seconds: float = STUCK_SECONDS
) -> list[str]:
    """What is wrong, in words."""
    now = time.monotonic()
    found = []
    for session in sessions:
        if not session.is_up and now - session.since > stuck_seconds:
            found.append(f"node {session.node.name} is away: {session.error or 'no answer yet'}")
        for pull in list(session.pulls.values()):
            error = trouble(pull.source)
            if error:
                found.append(f"{pull.source} cannot be written: {error}")
            elif pull.phase == "stopped":
                found.append(pull.error)
            elif session.is_up and now - pull.moved > stuck_seconds and not _is_done(pull):
                found.append(f"{pull.source} is stuck: {pull.error or pull.phase}")
    return found


def is_drained(session: NodeSession, since: float) -> bool:
    """Whether everything a node had at `since` (monotonic seconds) is written."""
    pulls = list(session.pulls.values())
    return session.is_up and session.listed > since and all(p.told_at > since and _is_done(p) for p in pulls)


def _is_done(pull: Pull) -> bool:
    """Whether a pull has, as far as is known, nothing to do."""
    return pull.phase == "streaming" and (pull.stat is None or pull.stat.next <= max(pull.following, pull.stat.first))
