"""What any live node does for all: end the sessions of those that fell silent, say what configurations stand for, and
take away the orders of operators that are done.

Pure functions: each says what is to be done now, as a transaction that fails where somebody else was first.
"""

from __future__ import annotations

from collections.abc import Callable

from cluster.types import Compare, Delete, Put, Txn
from vip.records import ConfRecord, GoneRecord, encode, recent_losses
from vip.situation import Plan
from vip.timing import silence_of
from vip.view import SessionSeen, View

# Configurations that no live node uses, swept in one transaction.
SWEPT_MAX = 20


def silent(view: View, now: int, but: str) -> SessionSeen | None:
    """A session that may be ended by anybody, of any node `but` one."""
    for node, seen in sorted(view.sessions.items()):
        if node != but and now - seen.seen > silence_of(wait_for(view, seen)):
            return seen
    return None


def wait_for(view: View, seen: SessionSeen) -> int:
    """How long its holder may go on after it was last seen."""
    return max(seen.record.wait, view.wait)


def ending_silent(view: View, seen: SessionSeen, wall: float) -> Txn:
    """End a silent session, unless it was heard meanwhile: its addresses are to be had once the wait is over."""
    before = view.gones.get(seen.node, GoneRecord())
    losses = (*recent_losses(before.losses, wall), wall)
    gone = GoneRecord(seen.revision, False, seen.version, max(before.wait, wait_for(view, seen)), losses)
    key = view.keys.session(seen.node)
    return Txn(
        (Compare(key, "mod", seen.mod_revision),),
        (Delete(key), Put(view.keys.gone(seen.node), encode(gone))),
    )


def telling_conf(view: View, plan: Plan) -> Txn | None:
    """What the digest of our configuration stands for must be known; what no live node uses is swept."""
    if plan.digest in view.confs:
        return None
    used = {seen.record.digest for seen in view.sessions.values()}
    old = [Delete(view.keys.conf(digest)) for digest in sorted(view.confs) if digest not in used]
    record = ConfRecord(plan.settings.generation, plan.definitions)
    return Txn((), (Put(view.keys.conf(plan.digest), encode(record)), *old[:SWEPT_MAX]))


def unpinning(view: View, wall: float, has: Callable[[str], bool]) -> tuple[str, Txn] | None:
    """A move that was asked for once is done when it is done, and one for a time when that is over; which one, and how
    it is taken away. `has`: whether this node has a bundle."""
    for name, (pin, mod_revision) in sorted(view.pins.items()):
        over = pin.until and pin.until <= wall
        if over or (not pin.until and has(name) and pin.node == view.node):
            key = view.keys.pin(name)
            return name, Txn((Compare(key, "mod", mod_revision),), (Delete(key),))
    return None
