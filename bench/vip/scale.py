"""`python -m bench.vip scale`: ten thousand addresses on four nodes - cold start, one node lost, its return.

Three members of etcd and four daemons in namespaces, all on this machine: they share its processors, so the seconds are
an upper bound. Of each phase two times are kept: the whole, with what the protocol has everybody wait for former
holders, which is the same for one address and for ten thousand; and from the first address that comes up to the last.
Beside them stands what iproute2 needs for as many additions: in one namespace, and in four at once.
"""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import msgspec
from rich.console import Console
from vip_lab import Lab
from vip_net import why_no_namespaces

from bench.machine import facts, process_seconds
from bench.vip.results import RESULTS, WIDTH, Phase, Scale, ScaleRun, keep
from bench.vip.tables import show_scale

NODES = 4
COUNT = 10_240
RESULT = RESULTS / "vip-scale.json"
# Nothing here takes as long, unless it does not work.
SECONDS_MAX = 600.0
# Over how long the processor time of quiet daemons is measured.
SETTLE_SECONDS = 5.0
QUIET_SECONDS = 20.0
# The median of so many runs of iproute2 counts.
IP_ROUNDS = 3
# A node that came back has its share when it has nearly a fourth.
SHARE = 0.9
# All of its share comes back in one round; etcd and timing are as they are installed.
SETTINGS = "max_moves = 2560\n"


class Holdings:
    """Who has which address, kept up with the oracle: each change is looked at once."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._seen = 0
        self._wanted = set(lab.addresses)
        self.nodes: dict[str, set[str]] = {address: set() for address in lab.addresses}
        self.additions = 0
        self.first_ns = 0

    def look(self) -> None:
        """Take in what is new."""
        changes = self._lab.kernel.changes
        end = len(changes)
        for change in changes[self._seen : end]:
            if change.address in self._wanted:
                nodes = self.nodes[change.address]
                if change.there and change.node not in nodes:
                    self.additions += 1
                    self.first_ns = self.first_ns or change.when
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
    with Lab(directory, nodes=NODES, addresses=count, settings=SETTINGS, sampled=2) as lab:
        holdings, everybody = Holdings(lab), set(lab.names)
        cold = _phase("cold start", lab, holdings, lambda: _ignore(lab.start()), lambda: holdings.held_once(everybody))
        daemons, guards = _quiet(lab)
        lost = _phase("node lost", lab, holdings, lambda: _lose(lab), lambda: holdings.held_once(everybody - {"n1"}))
        time.sleep(SETTLE_SECONDS)
        fair = SHARE * count / NODES
        back = _phase(
            "its return",
            lab,
            holdings,
            lambda: lab.launch("n1"),
            lambda: holdings.held_once(everybody) and holdings.share("n1") >= fair,
        )
        lab.verdict(frozen=True)  # the dead node still shows its addresses, silently: the wire is what counts
        phases = [_beside_ip(lab, phase, directory) for phase in (cold, lost, back)]
    return Scale(addresses=count, phases=phases, quiet_daemon_percent=daemons, quiet_guard_percent=guards)


def _ignore(_: object) -> None:
    """For what returns something that nobody needs."""


def _phase(name: str, lab: Lab, holdings: Holdings, begin: Callable[[], None], done: Callable[[], bool]) -> Phase:
    before, used, holdings.first_ns = holdings.additions, _used(lab), 0
    started = time.monotonic()
    begin()
    while not done():
        if time.monotonic() - started > SECONDS_MAX:
            raise TimeoutError(f"not within {SECONDS_MAX:.0f} s: {name}")
        time.sleep(0.02)
    whole = time.monotonic() - started
    work = (time.clock_gettime_ns(time.CLOCK_BOOTTIME) - holdings.first_ns) / 1e9
    moves = holdings.additions - before
    after = _used(lab)
    spent = sum(seconds - used.get(pid, 0.0) for pid, seconds in after.items())
    return Phase(name=name, whole=whole, work=work, additions=moves, daemon_seconds=spent)


def _used(lab: Lab) -> dict[int, float]:
    """Processor time of every daemon so far."""
    return {process.pid: process_seconds(process.pid) for process in lab.daemons.values()}


def _lose(lab: Lab) -> None:
    guard = lab.guard_of("n1")
    os.kill(lab.process("n1"), signal.SIGSTOP)  # so that neither sees the other die: a dead node, not a dead daemon
    os.kill(guard, signal.SIGKILL)
    lab.kill("n1")


def _quiet(lab: Lab) -> tuple[list[float], list[float]]:
    """Processor time of each daemon and each guard while nothing happens, in percent of a core."""
    time.sleep(SETTLE_SECONDS)  # the announcements are over
    daemons = [lab.process(name) for name in lab.names]
    guards = [lab.guard_of(name) for name in lab.names]
    before = [process_seconds(pid) for pid in (*daemons, *guards)]
    time.sleep(QUIET_SECONDS)
    after = [process_seconds(pid) for pid in (*daemons, *guards)]
    percent = [(b - a) / QUIET_SECONDS * 100 for a, b in zip(before, after, strict=True)]
    return percent[:NODES], percent[NODES:]


def _beside_ip(lab: Lab, phase: Phase, directory: Path) -> Phase:
    """As many additions by iproute2, where nobody holds any: on the client's node, and on four at once."""
    some = (lab.addresses * (phase.additions // len(lab.addresses) + 1))[: phase.additions]
    some = list(dict.fromkeys(some))  # what moved twice is added once
    one = statistics.median(_ip_batch(lab, ["client"], [some], directory) for _ in range(IP_ROUNDS))
    share = -(-len(some) // NODES)
    spaces = [*lab.etcd_names, "client"]
    parts = [some[at * share : (at + 1) * share] for at in range(NODES)]
    spread = statistics.median(_ip_batch(lab, spaces, parts, directory) for _ in range(IP_ROUNDS))
    return msgspec.structs.replace(phase, ip_batch=one, ip_batch_spread=spread)


def _ip_batch(lab: Lab, spaces: Sequence[str], parts: Sequence[Sequence[str]], directory: Path) -> float:
    commands = []
    for space, addresses in zip(spaces, parts, strict=True):
        batch = directory / f"add-{space}.batch"
        flags = "valid_lft 600 preferred_lft 600 noprefixroute"
        batch.write_text("".join(f"addr add {address}/32 dev mgmt {flags}\n" for address in addresses))
        commands.append(["ip", "-n", lab.net.namespace(space), "-batch", str(batch)])
    begin = time.monotonic()
    running = [subprocess.Popen(command) for command in commands]
    failed = [process.wait(SECONDS_MAX) for process in running]
    took = time.monotonic() - begin
    assert not any(failed), "ip -batch failed"
    for space in spaces:
        subprocess.run(
            ["ip", "-n", lab.net.namespace(space), "addr", "flush", "dev", "mgmt", "to", "10.77.0.0/16"],
            check=True,
            capture_output=True,
        )
    return took


@click.command()
@click.option("--addresses", "count", default=COUNT, show_default=True, help="How many addresses.")
@click.option("--output", type=click.Path(path_type=Path), default=RESULT, show_default=True)
def scale(count: int, output: Path) -> None:
    """Ten thousand addresses on four nodes: cold start, one lost, its return.

    With another number of addresses nothing is saved over the last full run unless --output says where.
    """
    if why := why_no_namespaces():
        raise click.ClickException(why)
    machine = facts(Path.cwd())
    with tempfile.TemporaryDirectory() as directory:
        found = measure_scale(count, Path(directory))
    run = ScaleRun(machine=machine, found=found)
    show_scale(run, Console(width=WIDTH))
    if count == COUNT or output != RESULT:
        keep(run, output)
