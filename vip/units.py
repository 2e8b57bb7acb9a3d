"""What moves: the groups of a configuration as units and bundles, and how two configurations disagree about them.

A unit is what is owned at once: a group, or a single address of a group that is spread. A bundle is a unit with its
followers: it is placed as one. Pure functions; everything is in the order of the configuration.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import msgspec

from vip.addresses import IpNetwork, block_finder, count_addresses, parse_addresses, parse_block
from vip.config import ADDRESSES_MAX, NAME_PATTERN, Failback, Group, Settings

_NAME = re.compile(NAME_PATTERN)
SERVICES_MAX = 64


@dataclass(frozen=True, slots=True)
class Unit:
    """Addresses that one node owns together."""

    name: str
    group: str
    addresses: tuple[str, ...]
    # The blocks its addresses lie in, and the checks that must work where it is.
    blocks: frozenset[str] = frozenset()
    checks: frozenset[str] = frozenset()
    prefer: tuple[str, ...] = ()
    follow: str = ""
    failback: Failback = "auto"
    failback_after: float = 30.0


@dataclass(frozen=True, slots=True)
class Bundle:
    """A unit and those that follow it."""

    leader: Unit
    units: tuple[Unit, ...]
    blocks: frozenset[str]
    checks: frozenset[str]
    groups: frozenset[str]
    # The leader's; asked for some times for each of ten thousand whenever a plan is made.
    name: str = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.leader.name)


class Definition(msgspec.Struct, frozen=True, array_like=True):
    """What nodes must agree on about a group; stored once for each configuration in use."""

    name: str
    addresses: tuple[str, ...]
    spread: bool = False
    services: tuple[str, ...] = ()
    follow: str = ""


def units_of(settings: Settings) -> tuple[Unit, ...]:
    """All units of a checked configuration."""
    find = block_finder(parse_block(topology.block) for topology in settings.topology)
    found: list[Unit] = []
    for group in settings.group:
        addresses = [address for text in group.addresses for address in parse_addresses(text)]
        checks = frozenset(group.checks)
        parts = [(address, (address,)) for address in addresses] if group.spread else [(group.name, tuple(addresses))]
        for name, together in parts:
            held = _names(frozenset(map(find, together)))
            found.append(_unit(group, name, together, held, checks))
    return tuple(found)


@lru_cache(maxsize=1 << 10)
def _names(blocks: frozenset[IpNetwork | None]) -> frozenset[str]:
    return frozenset(map(str, blocks))


def _unit(group: Group, name: str, addresses: tuple[str, ...], blocks: frozenset[str], checks: frozenset[str]) -> Unit:
    return Unit(
        name=name,
        group=group.name,
        addresses=addresses,
        blocks=blocks,
        checks=checks,
        prefer=group.prefer,
        follow=group.follow,
        failback=group.failback,
        failback_after=float(group.failback_after),
    )


def bundles_of(units: Iterable[Unit]) -> tuple[Bundle, ...]:
    """Units with their followers, by the name of the leader."""
    listed = list(units)
    followers: dict[str, list[Unit]] = {}
    for unit in listed:
        if unit.follow:
            followers.setdefault(unit.follow, []).append(unit)
    bundles = []
    for leader in listed:
        if leader.follow:
            continue
        members = (leader, *followers.get(leader.name, ()))
        if len(members) == 1:
            bundles.append(Bundle(leader, members, leader.blocks, leader.checks, frozenset({leader.group})))
            continue
        blocks = frozenset[str]().union(*(unit.blocks for unit in members))
        checks = frozenset[str]().union(*(unit.checks for unit in members))
        bundles.append(Bundle(leader, members, blocks, checks, frozenset(unit.group for unit in members)))
    return tuple(sorted(bundles, key=lambda bundle: bundle.name))


def definitions_of(settings: Settings) -> tuple[Definition, ...]:
    """What other nodes are to know of a configuration."""
    return tuple(
        Definition(group.name, group.addresses, group.spread, tuple(sorted(group.services)), group.follow)
        for group in sorted(settings.group, key=lambda group: group.name)
    )


def readable(definitions: Iterable[Definition]) -> tuple[Definition, ...]:
    """Those that some configuration can have, as far as they fit into one: what others wrote may be anything."""
    found, left = [], ADDRESSES_MAX
    for definition in definitions:
        count = _count(definition, left)
        if count is not None:
            found.append(definition)
            left -= count
    return tuple(found)


def _count(definition: Definition, most: int) -> int | None:
    """How many addresses it has; None when they cannot be read or are more than `most`."""
    names = (definition.name, *definition.services, *filter(None, [definition.follow]))
    if len(definition.services) > SERVICES_MAX or not all(map(_NAME.fullmatch, names)):
        return None
    count = 0
    for text in definition.addresses:
        try:
            count += count_addresses(text)
        except ValueError:
            return None
        if count > most:
            return None
    return count


def digest_of(definitions: Sequence[Definition]) -> str:
    """A short name for definitions: equal for equal ones."""
    return hashlib.sha256(msgspec.json.encode(definitions)).hexdigest()[:16]


def differing(mine: Sequence[Definition], theirs: Sequence[Definition]) -> frozenset[str]:
    """Groups of `mine` that `theirs` has not, or has otherwise."""
    have = {definition.name: definition for definition in theirs}
    return frozenset(definition.name for definition in mine if not _same(definition, have.get(definition.name)))


def _same(one: Definition, other: Definition | None) -> bool:
    if other is None:
        return False
    return _addresses(one) == _addresses(other) and (one.spread, one.follow) == (other.spread, other.follow)


def disagreements(
    mine: Sequence[Definition], others: Mapping[str, Sequence[Definition]]
) -> tuple[dict[str, str], dict[str, str]]:
    """(BROKEN, UNSAFE): group -> why, comparing `mine` with what other nodes (by name) say at the same generation.

    BROKEN: a name stands for other addresses there, or an address for another name. UNSAFE: the services differ.
    """
    broken: dict[str, str] = {}
    unsafe: dict[str, str] = {}
    if not others:
        return broken, unsafe
    own = {definition.name: definition for definition in mine}
    own_addresses = _by_address(mine)
    for node, theirs in sorted(others.items()):
        for other in theirs:
            same = own.get(other.name)
            if same is not None and _addresses(same) != _addresses(other):
                broken.setdefault(same.name, f"{node} has other addresses under this name")
            elif same is not None and (same.spread, same.follow) != (other.spread, other.follow):
                broken.setdefault(same.name, f"{node} has it with another spread or follow")
            elif same is not None and same.services != other.services:
                unsafe.setdefault(same.name, f"{node} serves {', '.join(other.services) or 'nothing'} on it")
            for address in _addresses(other):
                name = own_addresses.get(address)
                if name is not None and name != other.name:
                    broken.setdefault(name, f"{node} has {address} in its group {other.name}")
    return broken, unsafe


@lru_cache(maxsize=1 << 15)
def _addresses(definition: Definition) -> frozenset[str]:
    return frozenset(address for text in definition.addresses for address in parse_addresses(text))


def _by_address(definitions: Iterable[Definition]) -> dict[str, str]:
    return {address: definition.name for definition in definitions for address in _addresses(definition)}
