"""What a running daemon tells about itself: problems, `/stat`, and numbers for metrics. Asked by other threads.

No locks: what is read may change meanwhile, so tables are copied before they are walked, or walked again (`steady`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TypeVar

from jlogd.errors import JlogError
from vip.clock import boot_ns, seconds, wall_seconds
from vip.daemon import Daemon
from vip.status import AddressStatus, NodeStatus, addresses_of, nodes_of

# Changes of owner that `/stat` tells, and `vip history` can show.
HISTORY_TOLD_MAX = 1000
# A table that changes while it is walked is walked again; so many times in a row it does not.
WALKS_MAX = 20

T = TypeVar("T")


def steady(look: Callable[[], T]) -> T:
    """What `look` sees; it looks again when the deciding thread changed under its eyes what it was walking over."""
    for _ in range(WALKS_MAX - 1):
        try:
            return look()
        except RuntimeError:  # "dictionary changed size during iteration"
            continue
    return look()


def owner_counts(daemon: Daemon) -> dict[str, int]:
    """Addresses by live owner."""
    view = daemon.node.view
    counts: Counter[str] = Counter(dict.fromkeys(list(view.sessions), 0))
    counts.update(filter(None, map(view.owner, list(daemon.node.holdings.floatings))))
    return dict(counts)


def kernel_counts(daemon: Daemon) -> dict[str, int]:
    try:
        return dict(daemon.kernel.counters().values)
    except JlogError:
        return {}


def why_not(daemon: Daemon) -> list[str]:
    """Why this node may not have addresses up now; nothing when it may."""
    node = daemon.node
    if node.may_hold(boot_ns()):
        return []
    if node.phase == "live" and node.record.ready:
        return ["no heartbeat was committed in time: this node holds nothing until one is"]
    return ["this node may not put up addresses yet"]


def problems(daemon: Daemon) -> list[str]:
    """What is wrong, in words; nothing when all is well."""
    node = daemon.node
    found = list(node.trouble.values())
    if node.phase != "live":
        found.append(f"there is no session: {daemon.stream.failure or daemon.heart.failure or node.phase}")
    for address, mac in sorted(node.holdings.blocked().items()):
        found.append(f"{address} is BLOCKED: {mac}, which is none of ours, has it")
    found += [f"etcd: {alarm}" for alarm in daemon.keeper.alarms]
    if daemon.stream.failure and node.phase == "live":
        found.append(f"changes of the store are not heard: {daemon.stream.failure}")
    if daemon.heart.failure:
        found.append(f"the last heartbeat was not committed: {daemon.heart.failure}")
    if daemon.guard_failure:
        found.append(daemon.guard_failure)
    if daemon.history.failure:
        found.append(f"changes of owner are not written to {daemon.settings.log}: {daemon.history.failure}")
    found += [f"check {name} fails: {why}" for name, why in steady(daemon.checks.failing).items()]
    mine, highest = node.plan.settings.generation, node.view.generation
    if mine < highest:
        found.append(f"generation {highest} is in force, the configuration here has {mine}: bring it up to date")
    return found


def stat(daemon: Daemon) -> dict[str, object]:
    """Everything at once, for `/stat`."""
    now, wall, node = boot_ns(), wall_seconds(), daemon.node
    addresses: list[AddressStatus] = []
    nodes: list[NodeStatus] = []
    if node.view.synced is not None:
        addresses = steady(lambda: addresses_of(node.plan, node.view, wall))
        nodes = steady(lambda: nodes_of(node.plan, node.view, now, wall))
    return {
        "node": daemon.settings.node,
        "phase": node.phase,
        "ready": node.may_hold(now),
        "session": node.session.revision,
        "deadline_in": max(seconds(node.session.deadline - now), 0.0),
        "held": sorted(node.holdings.present),
        "here": {address: node.holdings.state(address, now) for address in sorted(node.holdings.mine())},
        "problems": problems(daemon),
        "conflicts": dict(daemon.conflicts),
        "nodes": nodes,
        "addresses": addresses,
        "history": daemon.history.last(HISTORY_TOLD_MAX),
    }
