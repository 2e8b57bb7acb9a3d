"""`python -m bench.vip scale`: ten thousand addresses on four nodes - cold start, one node lost, its return.

Three members of etcd and four daemons in namespaces, all on this machine: they share its processors, so the seconds are
an upper bound. What the kernel alone needs is beside it: the same additions by `ip -batch`, in one namespace.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import click
from vip_lab import Lab
from vip_net import why_no_namespaces

from bench.machine import process_seconds

NODES = 4
COUNT = 10_240
# Nothing here takes as long, unless it does not work.
SECONDS_MAX = 600.0
# Over how long the processor time of quiet daemons is measured.
QUIET_SECONDS = 20.0
# A node that came back has its share when it has nearly a fourth.
SHARE = 0.9
SETTINGS = 'max_moves = 2560\nwindow = "6s"\n'


@dataclass(slots=True)
class Scale:
    """Seconds, moves (addresses that changed their node), and shares of a core in percent."""

    addresses: int
    cold_start: float = 0.0
    lost: float = 0.0
    lost_moves: int = 0
    rejoin: float = 0.0
    rejoin_moves: int = 0
    ip_batch: float = 0.0
    quiet_daemon_percent: list[float] = field(default_factory=list)
    quiet_guard_percent: list[float] = field(default_factory=list)


class Holdings:
    """Who has which address, kept up with the oracle: each change is looked at once."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._seen = 0
        self._wanted = set(lab.addresses)
        self.nodes: dict[str, set[str]] = {address: set() for address in lab.addresses}
        self.additions = 0

    def look(self) -> None:
        """Take in what is new."""
        changes = self._lab.kernel.changes
        end = len(changes)
        for change in changes[self._seen : end]:
            if change.address in self._wanted:
                nodes = self.nodes[change.address]
                self.additions += change.there and change.node not in nodes
                (nodes.add if change.there else nodes.discard)(change.node)
        self._seen = end

    def held_once(self, alive: set[str]) -> bool:
        """Every address is on exactly one of these nodes. What a dead one still shows is silent, and does not count."""
        self.look()
        return all(len(nodes & alive) == 1 for nodes in self.nodes.values())

    def share(self, node: str) -> int:
        """How many a node has."""
        return sum(node in nodes for nodes in self.nodes.values())


def measure_scale(count: int, directory: Path) -> Scale:
    """One run. Raises `TimeoutError` when something never comes."""
    found = Scale(count)
    with Lab(directory, nodes=NODES, addresses=count, settings=SETTINGS, sampled=2) as lab:
        holdings, everybody = Holdings(lab), set(lab.names)
        begin = time.monotonic()
        lab.start()
        found.cold_start = _until(lambda: holdings.held_once(everybody), begin, "every address is held")
        found.quiet_daemon_percent, found.quiet_guard_percent = _quiet(lab)
        before = holdings.additions
        guard = lab.guard_of("n1")
        begin = time.monotonic()
        os.kill(lab.process("n1"), signal.SIGSTOP)  # so that neither sees the other die: a dead node, not a dead daemon
        os.kill(guard, signal.SIGKILL)
        lab.kill("n1")
        found.lost = _until(lambda: holdings.held_once(everybody - {"n1"}), begin, "the others have all")
        found.lost_moves = holdings.additions - before
        before = holdings.additions
        begin = time.monotonic()
        lab.launch("n1")
        fair = SHARE * count / NODES
        found.rejoin = _until(
            lambda: holdings.held_once(everybody) and holdings.share("n1") >= fair, begin, "it has its share again"
        )
        found.rejoin_moves = holdings.additions - before
        found.ip_batch = _ip_batch(lab, count, directory)
        lab.verdict(frozen=True)  # the dead node still shows its addresses, silently: the wire is what counts
    return found


def _until(true: Callable[[], bool], begin: float, what: str) -> float:
    while not true():
        if time.monotonic() - begin > SECONDS_MAX:
            raise TimeoutError(f"not within {SECONDS_MAX:.0f} s: {what}")
        time.sleep(0.02)
    return time.monotonic() - begin


def _quiet(lab: Lab) -> tuple[list[float], list[float]]:
    """Processor time of each daemon and each guard while nothing happens, in percent of a core."""
    time.sleep(5.0)  # the announcements are over
    daemons = [lab.process(name) for name in lab.names]
    guards = [lab.guard_of(name) for name in lab.names]
    before = [process_seconds(pid) for pid in (*daemons, *guards)]
    time.sleep(QUIET_SECONDS)
    after = [process_seconds(pid) for pid in (*daemons, *guards)]
    percent = [(b - a) / QUIET_SECONDS * 100 for a, b in zip(before, after, strict=True)]
    return percent[:NODES], percent[NODES:]


def _ip_batch(lab: Lab, count: int, directory: Path) -> float:
    """The same additions by iproute2, on the client's node where nobody holds any."""
    batch = directory / "add.batch"
    lines = [f"addr add {a}/32 dev mgmt valid_lft 600 preferred_lft 600 noprefixroute\n" for a in lab.addresses]
    batch.write_text("".join(lines[:count]))
    begin = time.monotonic()
    subprocess.run(["ip", "-n", lab.net.namespace("client"), "-batch", str(batch)], check=True)
    return time.monotonic() - begin


@click.command()
@click.option("--addresses", "count", default=COUNT, show_default=True, help="How many addresses.")
@click.option("--output", type=click.Path(path_type=Path), help="Also keep the numbers in this file.")
def scale(count: int, output: Path | None) -> None:
    """Ten thousand addresses on four nodes: cold start, one lost, its return."""
    if why := why_no_namespaces():
        raise click.ClickException(why)
    with tempfile.TemporaryDirectory() as directory:
        found = measure_scale(count, Path(directory))
    numbers: dict[str, Any] = asdict(found)
    for name, value in numbers.items():
        shown = ", ".join(f"{one:.2f}" for one in value) if isinstance(value, list) else f"{value:.6g}"
        click.echo(f"{name.replace('_', ' '):24}{shown}")
    if output is not None:
        output.write_text(json.dumps(numbers, indent=1) + "\n")
