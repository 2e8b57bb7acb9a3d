"""What a manager tells of itself: one `PullStatus` for each log of each node, one `NodeStatus` for each node.

`jlogctl manager status` shows it, `/manager` of the HTTP listener gives it as JSON, metrics and health come from it.
Made from what the hub's thread holds, by whoever asks: numbers of one pull may be a moment apart.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import msgspec

from jlogd.manager.parcel import Source
from jlogd.manager.pull import Pull
from jlogd.manager.session import NodeSession

# A pull that stands still for so long, with something to do, is stuck; so is a node that is away for so long, and a
# log that no node has.
STUCK_SECONDS = 60.0
# A node that is away for so long is not waited for by a manager that drains; it is tried every 10 s at least, and so at
# least once since draining was asked for.
AWAY_SECONDS = 30.0
TRIED_SECONDS = 15.0


_TAKE_OUT = "take it from the rule if it is not to be pulled"


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
    since the first contact. How far it lags is not known (null) while the node is away.

    `state` is one of away, absent (the node has no such log), waiting, opening, looking, subscribing, streaming,
    blocked (what was read cannot be written), stopped (a person must decide).
    """

    node: str
    subcluster: str
    log: str
    subscriber: str
    output: str
    state: str
    next: int
    lag_records: int | None
    lag_bytes: int | None
    lag_seconds: float | None
    records: int
    bytes: int
    lost: int
    records_a_second: float
    bytes_a_second: float
    restarts: int = 0
    error: str = ""


Leaving = Literal["", "draining", "let go"]


class ManagerStatus(msgspec.Struct, kw_only=True):
    """A manager. `leaving` says how far it is with being decommissioned, `waits` what draining waits for, in words; in
    `away` are nodes that are away, once they are all it waits for, and everything else is let go. `order` is the name
    of the order's file. `unclaimed` are files with what stood behind the recorded end of others after a crash and has
    not come again, in words.
    """

    name: str
    held_bytes: int
    counters: dict[str, int]
    nodes: list[NodeStatus]
    pulls: list[PullStatus]
    problems: list[str] = []
    leaving: Leaving = ""
    waits: list[str] = []
    away: list[str] = []
    order: str = ""
    unclaimed: list[str] = []


def node_status(session: NodeSession) -> NodeStatus:
    """How a node is."""
    node = session.node
    return NodeStatus(
        name=node.name, subcluster=node.subcluster, address=node.address, up=session.is_up,
        seconds=time.monotonic() - session.since, error=session.error,
    )  # fmt: skip


def pull_status(session: NodeSession, pull: Pull, trouble: str) -> PullStatus:
    """How a pull is; `trouble` is why what it read cannot be written."""
    source, state = pull.source, pull.state
    phase = pull.phase if session.is_up or pull.phase == "stopped" else "away"
    lag = _lag(pull) if session.is_up else (None, None, None)
    return PullStatus(
        node=source.origin.node, subcluster=source.origin.subcluster, log=source.origin.log,
        subscriber=source.subscriber, output=source.output, state="blocked" if trouble else phase, next=pull.following,
        lag_records=lag[0], lag_bytes=lag[1], lag_seconds=lag[2], records=state.records if state else 0,
        bytes=state.bytes if state else 0, lost=state.lost if state else 0, records_a_second=pull.rate[0],
        bytes_a_second=pull.rate[1], restarts=state.restarts if state else 0, error=trouble or pull.error,
    )  # fmt: skip


def _lag(pull: Pull) -> tuple[int | None, int | None, float | None]:
    """How far a pull is behind: records, bytes, seconds."""
    stat = pull.stat
    # Where it begins is known once it is subscribed, unless the ledger knows.
    if stat is None or pull.absent or (pull.state is None and pull.phase != "streaming"):
        return None, None, None
    records = max(0, stat.next - max(pull.following, stat.first))
    mine = next((one for one in stat.subscribers if one.name == pull.source.subscriber), None)
    return (records, mine.lag_bytes, mine.lag_seconds) if records and mine is not None else (records, 0, 0.0)


def problems(
    sessions: Iterable[NodeSession], trouble: Callable[[Source], str], stuck_seconds: float = STUCK_SECONDS
) -> list[str]:
    """What is wrong, in words."""
    now = time.monotonic()
    found = []
    sessions = list(sessions)
    for session in sessions:
        if not session.is_up and now - session.since > stuck_seconds:
            found.append(f"node {session.node.name} is away: {session.error or 'no answer yet'}")
        for pull in list(session.pulls.values()):
            error = trouble(pull.source)
            if error:
                found.append(f"{pull.source} cannot be written: {error}")
            elif pull.phase == "stopped":
                found.append(pull.error)
            elif session.is_up and not pull.absent and now - pull.moved > stuck_seconds and not _is_done(pull):
                found.append(f"{pull.source} is stuck: {pull.error or pull.phase}")
            elif not session.is_up and not pull.absent and session.since - pull.moved > stuck_seconds:
                # That its node went as well is not the end of it.
                found.append(f"{pull.source} is stuck: {pull.before_loss}")
    return found + _missing(sessions, now - stuck_seconds)


def _missing(sessions: Sequence[NodeSession], before: float) -> list[str]:
    """Logs that are named and were not there `before` (monotonic seconds): those that no node has, whose names may be
    wrong, and those that were there once. One that some nodes have is as it should be."""
    found = []
    same: dict[tuple[str, str], list[Pull]] = {}
    for session in sessions:
        for pull in list(session.pulls.values()):
            same.setdefault((pull.source.origin.log, pull.source.subscriber), []).append(pull)
    for (log, _), pulls in same.items():
        absent = [pull for pull in pulls if pull.absent == "log" and pull.absent_since < before]
        gone = [pull for pull in absent if pull.state is not None]
        found += [f"{p.source} is gone: it was pulled up to record {p.following - 1}, {_TAKE_OUT}" for p in gone]
        if len(absent) == len(pulls) and not gone:
            found.append(f"no node has a log {log}, which a rule names; is that its name? Else {_TAKE_OUT}")
    return found


def is_drained(session: NodeSession, since: float) -> bool:
    """Whether everything a node had at `since` (monotonic seconds) is written."""
    return (
        session.is_up and session.listed > since and all(_is_drained(session, pull, since) for pull in _pulls(session))
    )


def is_away(session: NodeSession, asked: float) -> bool:
    """Whether a node is not waited for by what was asked at that time (monotonic seconds)."""
    now = time.monotonic()
    return not session.is_up and now - session.since > AWAY_SECONDS and now - asked > TRIED_SECONDS


def waits_for(session: NodeSession, since: float) -> list[str]:
    """What is missing until a node is drained, in words."""
    if not session.is_up:
        return [f"{session.node.name}, which is away"]
    if session.listed <= since:
        return [f"the list of logs of {session.node.name}"]
    return [_what_is_left(pull) for pull in _pulls(session) if not _is_drained(session, pull, since)]


def _pulls(session: NodeSession) -> list[Pull]:
    return list(session.pulls.values())


def _what_is_left(pull: Pull) -> str:
    records, _, _ = _lag(pull)
    if pull.phase == "streaming":
        return f"{pull.source}, {records or 0} record{'' if records == 1 else 's'}"
    return f"{pull.source}, which is {pull.phase}{f' ({pull.error})' if pull.error else ''}"


def _is_drained(session: NodeSession, pull: Pull, since: float) -> bool:
    """A log that does not exist has nothing to drain, nor one whose subscriber was let go."""
    if pull.absent:
        return pull.absent == "subscriber" or pull.source.origin.log not in session.logs
    return pull.told_at > since and _is_done(pull)


def _is_done(pull: Pull) -> bool:
    """Whether a pull has, as far as is known, nothing to do."""
    return pull.phase == "streaming" and (pull.stat is None or pull.stat.next <= max(pull.following, pull.stat.first))
