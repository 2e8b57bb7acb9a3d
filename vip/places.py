"""Where this process is, and where on this node each address of a configuration goes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vip.addresses import block_finder, parse_addresses, parse_block
from vip.config import Settings
from vip.errors import NotAllowed
from vip.kernel.interface import Floating
from vip.units import units_of


@dataclass(frozen=True, slots=True)
class Identity:
    """What distinguishes this process: name, place (boot id and network namespace), version, kind of gate."""

    node: str
    place: str
    version: str = ""
    gate: str = ""


def floatings_of(settings: Settings) -> dict[str, Floating]:
    """Address -> interface and prefix length, by the smallest block that holds it."""
    blocks = {parse_block(topology.block): topology for topology in settings.topology}
    find = block_finder(blocks)
    found = {}
    for unit in units_of(settings):
        for address in unit.addresses:
            block = find(address)
            if block is not None:
                topology = blocks[block]
                found[address] = Floating(address, topology.interface, topology.prefix_length or block.max_prefixlen)
    return found


def addresses_of(settings: Settings) -> set[str]:
    """Every floating address of a checked configuration."""
    return {address for group in settings.group for text in group.addresses for address in parse_addresses(text)}


def refuse_own(settings: Settings, own: Mapping[str, str]) -> None:
    """Raises `NotAllowed` for what the machine has itself. `own`: address -> interface."""
    for address in sorted(own.keys() & addresses_of(settings)):
        raise NotAllowed(
            f"{address} is on {own[address]} already, and not by vip: a machine's own address must not float; "
            "take it out of the configuration, or remove it from the interface"
        )


def interfaces_of(settings: Settings) -> tuple[str, ...]:
    """Every interface that floating addresses may be put on."""
    return tuple(dict.fromkeys(topology.interface for topology in settings.topology))


def blocks_down(settings: Settings, up: set[str]) -> list[str]:
    """Blocks whose interface is not among those that are `up`."""
    return [str(parse_block(topology.block)) for topology in settings.topology if topology.interface not in up]


def place() -> str:
    """This kernel since it started, and this network namespace: no two processes hold addresses at one place."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}/{os.stat('/proc/self/ns/net').st_ino}"
