"""From what the store says to what `assign` is asked: members, owners, pins, and what must not be touched.

Pure functions of a `View` and a configuration; every node computes the same from the same revision.
"""

from __future__ import annotations

from dataclasses import dataclass

from vip.assign import Limits, Wish, assign
from vip.config import Settings
from vip.fitness import Member, mature_after
from vip.units import (
    Bundle,
    Definition,
    Unit,
    bundles_of,
    definitions_of,
    differing,
    digest_of,
    disagreements,
    units_of,
)
from vip.view import SessionSeen, View

BROKEN = "BROKEN: "


@dataclass(frozen=True)
class Plan:
    """A configuration, digested once: what everything else is computed from."""

    settings: Settings
    units: tuple[Unit, ...]
    bundles: tuple[Bundle, ...]
    definitions: tuple[Definition, ...]
    digest: str
    limits: Limits
    # Ages at which something may change; between them a member looks the same, so nothing is computed anew.
    ages: tuple[float, ...]
    bundle_of: dict[str, Bundle]

    @classmethod
    def of(cls, settings: Settings) -> Plan:
        units = units_of(settings)
        bundles = bundles_of(units)
        definitions = definitions_of(settings)
        mature = float(settings.mature)
        ages = {mature, *(unit.failback_after for unit in units)}
        bundle_of = {address: bundle for bundle in bundles for unit in bundle.units for address in unit.addresses}
        return cls(
            settings,
            units,
            bundles,
            definitions,
            digest_of(definitions),
            Limits(settings.max_moves, mature),
            tuple(sorted(ages)),
            bundle_of,
        )


@dataclass(frozen=True)
class Situation:
    """All that `assign` depends on but the owners; with equal owners, equal situations have equal answers."""

    members: tuple[Member, ...]
    pins: tuple[tuple[str, str], ...]
    frozen: tuple[tuple[str, str], ...]


def situation_of(plan: Plan, view: View, wall: float) -> Situation:
    """What is the case, as all nodes see it."""
    others = {
        seen.node: view.confs[seen.record.digest].definitions
        for seen in view.sessions.values()
        if seen.record.digest != plan.digest
        and seen.record.digest in view.confs
        and seen.record.generation == plan.settings.generation
    }
    broken, _ = disagreements(plan.definitions, others)
    frozen = {}
    for bundle in plan.bundles if broken else ():
        for group in sorted(bundle.groups & broken.keys()):
            frozen[bundle.name] = f"{BROKEN}{broken[group]}"
    pins = {name: pin.node for name, (pin, _) in view.pins.items() if not pin.until or pin.until > wall}
    return Situation(
        tuple(member_of(plan, view, seen) for _, seen in sorted(view.sessions.items())),
        tuple(sorted(pins.items())),
        tuple(sorted(frozen.items())),
    )


def unsafe_groups(plan: Plan, view: View) -> dict[str, str]:
    """Groups whose services differ between live nodes, with the words for it."""
    others = {
        seen.node: view.confs[seen.record.digest].definitions
        for seen in view.sessions.values()
        if seen.record.digest != plan.digest and seen.record.digest in view.confs
    }
    return {group: f"UNSAFE: {why}" for group, why in disagreements(plan.definitions, others)[1].items()}


def member_of(plan: Plan, view: View, seen: SessionSeen) -> Member:
    record = seen.record
    conf = view.confs.get(record.digest)
    if record.digest == plan.digest:
        lacks: frozenset[str] = frozenset()
    elif conf is None:
        lacks = frozenset(definition.name for definition in plan.definitions)
    else:
        lacks = differing(plan.definitions, conf.definitions)
    steps = [mature_after(age, record.losses) for age in plan.ages]
    return Member(
        name=seen.node,
        weight=record.weight,
        drained=seen.node in view.drains,
        down=frozenset(record.down),
        failing=frozenset(record.failing),
        ready=record.ready,
        older=record.generation < view.generation,
        age=max((step for step in steps if step <= record.age), default=0.0),
        losses=record.losses,
        lacks=lacks,
    )


def owners_of(plan: Plan, view: View) -> dict[str, str]:
    """The live owner of each bundle: that of its first address that has one."""
    live = view.live_owners()
    # What is put in later stays: the first address of a bundle.
    return {bundle.name: live[address] for address, bundle in reversed(plan.bundle_of.items()) if address in live}


def wishes_of(plan: Plan, view: View, situation: Situation) -> dict[str, Wish]:
    """A wish for every bundle."""
    return assign(
        plan.bundles,
        situation.members,
        owners_of(plan, view),
        dict(situation.pins),
        plan.limits,
        dict(situation.frozen),
    )
