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

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import msgspec

from vip.addresses import in_order
from vip.assign import OWNERLESS, Wish, assign
from vip.clock import seconds, wall_text
from vip.fitness import Member
from vip.records import PinRecord, end_of
from vip.situation import BROKEN, Plan, owners_of, situation_of, unsafe_groups
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
    # Until when an operator holds it where it is wanted (seconds since 1970); 0: nobody does.
    held_until: float = 0.0


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
    """What would move; `kind` as of a `Wish`, or "release": given up, or "held": an operator holds it at `after`."""

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
            hold = hold_of(view, plan.bundle_of[address].name, wall)
            if hold is not None:
                why = f"{words_of(hold)}; {status.why}"
                status = msgspec.structs.replace(status, why=why, held_until=hold.until)
            found.append(status)
    return found


def _address(view: View, address: str, group: str, wish: Wish, unsafe: str) -> AddressStatus:
    owner, own = view.owner(address), view.owns.get(address)
    since, why = (own.record.since, own.record.why) if own is not None and owner else (0.0, wish.why)
    state = "owned" if owner else "free"
    blocked = view.sessions[owner].record.blocked.get(address) if owner else None
    if blocked is not None:
        state, why = "BLOCKED", f"{blocked}, which is none of ours, has it"
    elif BROKEN in wish.why:
        state, why = "BROKEN", wish.why
    elif unsafe:
        state, why = "UNSAFE", unsafe
    elif owner and wish.kind in ("move", "shift"):
        state, why = "moving", wish.why
    elif owner in view.drains:
        why = wish.why  # why it has it still, not why it came here
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
        reasons.append(f"lost its session {'once' if record.losses == 1 else f'{record.losses} times'} lately")
    state = "silent" if silence else "drained" if member.drained else "fit" if not reasons else "limited"
    heard = seconds(now - seen.seen)
    return NodeStatus(
        member.name, state, held, record.age, heard, record.weight, record.generation, record.gate, "; ".join(reasons)
    )


def moves_of(plan: Plan, view: View, wall: float, drained: str = "", lost: str = "") -> list[Move]:
    """What would move, be taken or be given up now, or if a node were drained or lost besides. A configuration that no
    live node runs is answered as if every one of them did."""
    wishes = _wishes_if(plan, view, wall, drained, lost)
    found = []
    for bundle in plan.bundles:
        wish = wishes[bundle.name]
        owners: dict[str, list[str]] = {}
        for address in (address for unit in bundle.units for address in unit.addresses):
            owners.setdefault(view.owner(address), []).append(address)
        if BROKEN in wish.why or list(owners) == [wish.node]:
            continue
        for before, addresses in sorted(owners.items()):
            if before == wish.node:
                continue
            kind, why = (
                (wish.kind, wish.why) if wish.kind != "keep" else _joins(bundle.name, addresses, wish.node, before)
            )
            if lost and before == lost:
                why = why.replace(OWNERLESS, f"if {lost} were gone", 1)
            found.append(Move(bundle.name, tuple(addresses), before, wish.node, kind, why))
    return found + _given_up(plan, view, lost)


def _joins(bundle: str, addresses: Sequence[str], node: str, before: str) -> tuple[str, str]:
    """For addresses that are not where the rest of their bundle stays."""
    return ("move" if before else "take"), f"{_in_short(addresses)}: of {bundle}, which {node} has"


def _given_up(plan: Plan, view: View, lost: str) -> list[Move]:
    """What live nodes have, and this configuration has not."""
    owners: dict[str, list[str]] = {}
    for address in view.owns.keys() - plan.bundle_of.keys():
        owners.setdefault(view.owner(address), []).append(address)
    found = []
    for owner, addresses in sorted(owners.items()):
        if owner not in ("", lost):
            known = in_order(addresses)
            found.append(Move(_in_short(known), tuple(known), owner, "", "release", "not in this configuration"))
    return found


def _in_short(addresses: Sequence[str]) -> str:
    return addresses[0] if len(addresses) == 1 else f"{addresses[0]} and others"


def is_new(plan: Plan, view: View) -> bool:
    """Whether live nodes run configurations, and none of them this one."""
    digests = {seen.record.digest for seen in view.sessions.values()}
    return bool(digests) and plan.digest not in digests


def holds_of(plan: Plan, view: View, wall: float) -> list[Move]:
    """What operators hold somewhere for a time."""
    owners = owners_of(plan, view)
    found = []
    for bundle in plan.bundles:
        pin = hold_of(view, bundle.name, wall)
        if pin is not None:
            addresses = tuple(address for unit in bundle.units for address in unit.addresses)
            found.append(Move(bundle.name, addresses, owners.get(bundle.name, ""), pin.node, "held", words_of(pin)))
    return found


def hold_of(view: View, bundle: str, wall: float) -> PinRecord | None:
    """The order that holds a bundle somewhere for a time, if one does."""
    pin, _ = view.pins.get(bundle, (None, 0))
    return pin if pin is not None and pin.until > wall else None


def words_of(hold: PinRecord) -> str:
    by = f" by {hold.by}" if hold.by else ""
    return f"held on {hold.node} until {wall_text(hold.until)}{by}"


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
    frozen = dict(situation.frozen)
    if is_new(plan, view):
        members, frozen = [replace(member, lacks=frozenset(), older=False) for member in members], {}
    return _wishes(plan, view, tuple(members), dict(situation.pins), frozen, lost)


def _wishes(
    plan: Plan,
    view: View,
    members: tuple[Member, ...],
    pins: dict[str, str],
    frozen: dict[str, str],
    lost: str = "",
) -> dict[str, Wish]:
    owners = {name: node for name, node in owners_of(plan, view).items() if node != lost}
    return assign(plan.bundles, members, owners, pins, plan.limits, frozen)
