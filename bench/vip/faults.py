"""What is done to n1, and what is measured: the gap the client sees, and how long two nodes spoke for the address."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

from vip_lab import Lab

from bench.vip.results import Result
from bench.vip.systems import VICTIM, System

# How long a frozen or cut-off node stays so: longer than any of the systems needs to replace it.
AWAY_SECONDS = 8.0
AFTER_SECONDS = 3.0
TAKEOVER_SECONDS = 30.0


def _freeze(system: System, lab: Lab) -> None:
    system.freeze(lab, signal.SIGSTOP)
    time.sleep(AWAY_SECONDS)
    system.freeze(lab, signal.SIGCONT)


def _cut(system: System, lab: Lab) -> None:
    """n1 hears and reaches the client, and nobody else; all others hear each other."""
    others = [name for name in (*lab.names, *lab.etcd_names) if name != VICTIM]
    for network in ("lan", "mgmt"):
        lab.net.partition([VICTIM], others, network=network)
    time.sleep(AWAY_SECONDS)
    lab.net.heal_all()


def _link(system: System, lab: Lab) -> None:
    lab.net.carrier(VICTIM, up=False)
    time.sleep(AWAY_SECONDS)


def _die(system: System, lab: Lab) -> None:
    """As if the power were gone: nothing comes from it any more, on no network."""
    for network in ("lan", "mgmt"):
        lab.net.carrier(VICTIM, up=False, network=network)
    time.sleep(AWAY_SECONDS)


FAULTS: dict[str, Callable[[System, Lab], None]] = {
    "clean stop": lambda system, lab: system.stop(lab),
    "drain": lambda system, lab: system.drain(lab),
    "kill -9": lambda system, lab: system.kill(lab),
    "link lost": _link,
    "frozen": _freeze,
    "cut off": _cut,
    "dead": _die,
}


def _taken(lab: Lab, before: int) -> bool:
    """Whether another node has put the address up since."""
    changes = lab.kernel.changes[before:]
    return any(one.there and one.node != VICTIM and one.address == lab.addresses[0] for one in changes)


def measure(system: System, fault: str, directory: Path) -> Result:
    """Do one fault to one system."""
    directory.mkdir(parents=True, exist_ok=True)
    with system.lab(directory) as lab:
        system.start(lab)
        with lab.client() as client:
            time.sleep(1.0)
            before = len(lab.kernel.changes)
            FAULTS[fault](system, lab)
            # It may have gone home again by now.
            lab.until(lambda: _taken(lab, before), "another node has it", TAKEOVER_SECONDS)
            time.sleep(AFTER_SECONDS)
        lab.kernel.stop()
        lab.wire.stop()
        now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        twice = sum((found.until or now) - found.since for found in lab.kernel.overlaps())
        returns = [found for found in lab.wire.returns() if not lab.moved(found)]
        return Result(
            system=system.key,
            label=system.label,
            fault=fault,
            gap=client.heard(lab.addresses[0]).longest_gap() / 1e9,
            spoke_twice=len(returns),
            held_twice=twice / 1e9,
        )
