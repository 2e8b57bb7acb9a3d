"""What `vip show` and `vip plan` tell: the state of every address and node, in words, from a view of the store.

States of an address:
    owned     a live node has it
    SILENT    its owner's session is in the store, but its heartbeats are not: nobody keeps it up
    BLOCKED   its owner does not put it up: a foreign host, whose MAC is shown, has it already
    BROKEN    nodes disagree about what the group is; nobody takes it, whoever has it keeps it
    UNSAFE    owned, but live nodes serve different things on it
    moving    owned, and on its way to another node
    free      nobody has it; `why` says what is awaited, or that no node can have it

Pure functions of a `View` and a plan.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

import msgspec

from vip.assign import Member, Wish, assign
from vip.clock import seconds
from vip.records import end_of
from vip.situation import Plan, owners_of, situation_of, unsafe_groups
from vip.view import View

NOBODY_SILENT: Mapping[str, str] = MappingProxyType({})


class AddressStatus(msgspec.Struct, frozen=True):
    """One address."""

    address: str
    group: str
    state: str
    owner: str
    since: float
    why: str
    wanted: str


class NodeStatus(msgspec.Struct, frozen=True):
    """One node that lives, or that ended lately."""

    node: str
    state: str
    addresses: int
    age: int
    heard: float
    weight: float
    generation: int
    gate: str
    why: str


class Move(msgspec.Struct, frozen=True):
    """What would move."""

    bundle: str
    addresses: tuple[str, ...]
    before: str
    after: str
    kind: str
    why: str


def addresses_of(plan: Plan, view: View, wall: float, silent: Mapping[str, str] = NOBODY_SILENT) -> list[AddressStatus]:
    """Every address of the configuration, in its order. `silent`: nodes that are not heard, with the words for it."""
    situation = situation_of(plan, view, wall)
    wishes = _wishes(plan, view, situation.members, dict(situation.pins), dict(situation.frozen))
    unsafe = unsafe_groups(plan, view)
    found = []
    for unit in plan.units:
        for address in unit.addresses:
            wish = wishes[plan.bundle_of[address].name]
            status = _address(view, address, unit.group, wish, unsafe.get(unit.group, ""))
            if status.owner in silent:
                why = f"{status.owner}, which owns it, is silent: {silent[status.owner]}"
                status = msgspec.structs.replace(status, state="SILENT", why=why)
            found.append(status)
    return found


def _address(view: View, address: str, group: str, wish: Wish, unsafe: str) -> AddressStatus:
    owner, own = view.owner(address), view.owns.get(address)
    since, why = (own.record.since, own.record.why) if own is not None and owner else (0.0, wish.why)
    state = "owned" if owner else "free"
    blocked = view.sessions[owner].record.blocked.get(address) if owner else None
    if blocked is not None:
        state, why = "BLOCKED", f"{blocked}, which is none of ours, has it"
    elif wish.why.find("BROKEN") >= 0:
        state, why = "BROKEN", wish.why
    elif unsafe:
        state, why = "UNSAFE", unsafe
    elif owner and wish.kind in ("move", "shift"):
        state, why = "moving", wish.why
    return AddressStatus(address, group, state, owner, since, why, wish.node)


def nodes_of(
    plan: Plan, view: View, now: int, wall: float, silent: Mapping[str, str] = NOBODY_SILENT
) -> list[NodeStatus]:
    """Every node that is known, live ones first. `silent` as of `addresses_of`."""
    situation = situation_of(plan, view, wall)
    held: dict[str, int] = {}
    for address in view.owns:
        owner = view.owner(address)
        held[owner] = held.get(owner, 0) + 1
    found = [
        _node(view, member, held.get(member.name, 0), now, silent.get(member.name, "")) for member in situation.members
    ]
    for node, gone in sorted(view.gones.items()):
        if node not in view.sessions:
            state = "gone" if not gone.clean else "died" if gone.why else "left"
            found.append(NodeStatus(node, state, 0, 0, 0.0, 0.0, 0, "", end_of(gone)))
    return found


def _node(view: View, member: Member, held: int, now: int, silence: str) -> NodeStatus:
    seen = view.sessions[member.name]
    record = seen.record
    reasons = [silence] if silence else []
    if member.drained:
        reasons.append("drained")
    if member.down:
        reasons.append(f"no link for {', '.join(sorted(member.down))}")
    if member.failing:
        reasons.append(f"failing {', '.join(sorted(member.failing))}")
    if member.older:
        reasons.append(f"its configuration has generation {record.generation}, in force is {view.generation}")
    if member.lacks:
        reasons.append(f"its configuration has not, or otherwise: {', '.join(sorted(member.lacks)[:5])}")
    if not record.ready:
        reasons.append("waits until no former owner can be left")
    if record.losses:
        reasons.append(f"lost its session {record.losses} times lately")
    state = "silent" if silence else "drained" if member.drained else "fit" if not reasons else "limited"
    heard = seconds(now - seen.seen)
    return NodeStatus(
        member.name, state, held, record.age, heard, record.weight, record.generation, record.gate, "; ".join(reasons)
    )


def moves_of(plan: Plan, view: View, wall: float, drained: str = "", lost: str = "") -> list[Move]:
    """What would move now, or if a node were drained or lost besides."""
    owners = owners_of(plan.bundles, view)
    wishes = _wishes_if(plan, view, wall, drained, lost)
    found = []
    for bundle in plan.bundles:
        wish, before = wishes[bundle.name], owners.get(bundle.name, "")
        if wish.kind != "keep" and wish.node != before:
            addresses = tuple(address for unit in bundle.units for address in unit.addresses)
            found.append(Move(bundle.name, addresses, before, wish.node, wish.kind, wish.why))
    return found


def staying_of(plan: Plan, view: View, wall: float, drained: str) -> list[str]:
    """Addresses that a node would keep if it were drained, because no other can have them now."""
    wishes = _wishes_if(plan, view, wall, drained, "")
    return [
        address
        for address, bundle in plan.bundle_of.items()
        if wishes[bundle.name].node == drained and view.owner(address) == drained
    ]


def _wishes_if(plan: Plan, view: View, wall: float, drained: str, lost: str) -> dict[str, Wish]:
    situation = situation_of(plan, view, wall)
    members = [
        replace(member, drained=member.drained or member.name == drained)
        for member in situation.members
        if member.name != lost
    ]
    return _wishes(plan, view, tuple(members), dict(situation.pins), dict(situation.frozen), lost)


def _wishes(
    plan: Plan,
    view: View,
    members: tuple[Member, ...],
    pins: dict[str, str],
    frozen: dict[str, str],
    lost: str = "",
) -> dict[str, Wish]:
    owners = {name: node for name, node in owners_of(plan.bundles, view).items() if node != lost}
    return assign(plan.bundles, members, owners, pins, plan.limits, frozen)
