"""Failover: what a client and the wire see when a node that holds an address goes, in one of five ways.

    stop        the daemon is ended as an operator ends it
    kill        everything of it on the node is killed with SIGKILL
    freeze      everything of it on the node is stopped with SIGSTOP, and goes on after the takeover
    partition   the node and its peers do not hear each other; the client hears all
    link        the node's cable is pulled

A client asks the address 100 times a second throughout. The gap is the longest time between two questions that were
answered. An overlap is a time in which two nodes had the address, as the kernel tells, or spoke for it, as the wire
tells: after a partition the client may get answers from both, and which one is luck.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vip_net import SECOND, AddressOracle, Client, Net, Sniffer, now_ns, start_echo

from bench.vip.rivals import Subject

NODES = ("n1", "n2", "n3")
STORE = ("e1", "e2", "e3")
CLIENT = "client"
TRIALS = ("stop", "kill", "freeze", "partition", "link")
# A daemon that has found no owner by then never will. Seconds.
SETTLE_SECONDS_MAX = 40.0
TAKEOVER_SECONDS_MAX = 20.0
# How long it must have been quiet before, and is watched afterwards.
QUIET_SECONDS = 3.0
AFTER_SECONDS = 3.0
# The same address from two MACs in turn, so close together: no move is that quick.
RETURN_WINDOW_NS = SECOND


@dataclass(frozen=True, slots=True)
class Trial:
    """One trial: times in seconds."""

    system: str
    trial: str
    gap: float
    taken_over: bool
    overlap_addresses: float  # two nodes had it
    overlap_wire: int  # how often a node spoke again after another one had
    failure: str = ""


def run_trial(kind: type[Subject], trial: str, directory: Path) -> Trial:
    """One subject, one way to fail, in a network of its own."""
    with Net([*NODES, *STORE, CLIENT], ("lan", "mgmt")) as net:
        address = net.floating(1)
        with (
            contextlib.closing(kind(net, NODES, address, directory)) as subject,
            AddressOracle(net) as oracle,
            Sniffer(net, [address]) as sniffer,
        ):
            for node in NODES:
                start_echo(net, node)
            subject.start()
            try:
                holder = _settled(oracle, address)
            except TimeoutError as error:
                return Trial(subject.key, trial, 0.0, False, 0.0, 0, str(error))
            with Client(net, CLIENT, [address], directory) as client:
                time.sleep(QUIET_SECONDS)
                begin = now_ns()
                taken = _fail(subject, trial, holder, sniffer)
                time.sleep(AFTER_SECONDS)
            end = now_ns()
            gap = max((length for since, length in client.heard(address).gaps(0) if since + length > begin), default=0)
            # What happens while daemons start is another matter.
            overlaps = [overlap for overlap in oracle.overlaps() if overlap.since > begin]
            both = sum((overlap.until or end) - overlap.since for overlap in overlaps)
            spoke = sum(found.when > begin for found in sniffer.returns(RETURN_WINDOW_NS))
            return Trial(subject.key, trial, gap / SECOND, taken, both / SECOND, spoke)


def _settled(oracle: AddressOracle, address: str) -> str:
    """Who holds it, once it has been one and the same for a while."""
    limit = time.monotonic() + SETTLE_SECONDS_MAX
    since, last = time.monotonic(), set[str]()
    while time.monotonic() < limit:
        now = oracle.holders(address)
        if now != last:
            since, last = time.monotonic(), now
        if len(now) == 1 and time.monotonic() - since > QUIET_SECONDS:
            return str(next(iter(now)))
        time.sleep(0.05)
    raise TimeoutError(f"no single node held the address {SETTLE_SECONDS_MAX:.0f} s after the start: {sorted(last)}")


def _fail(subject: Subject, trial: str, holder: str, sniffer: Sniffer) -> bool:
    """Let the holder fail; whether another node spoke for the address then. What can be undone is."""
    net, others = subject.net, [node for node in NODES if node != holder]
    begin = now_ns()

    def taken() -> bool:
        return _wait(lambda: any(net.owner_of(s.mac) in others for s in sniffer.of(subject.address) if s.when > begin))

    if trial == "stop":
        subject.stop(holder)
        return taken()
    if trial == "kill":
        subject.signal(holder, signal.SIGKILL)
        return taken()
    if trial == "freeze":
        subject.signal(holder, signal.SIGSTOP)
        found = taken()
        time.sleep(AFTER_SECONDS)
        subject.signal(holder, signal.SIGCONT)
        return found
    if trial == "partition":
        for network in subject.networks():
            peers = [*others, *(STORE if network == "mgmt" else ())]
            net.partition([holder], peers, network=network)
        found = taken()
        time.sleep(AFTER_SECONDS)
        net.heal_all()
        return found
    net.carrier(holder, False)
    found = taken()
    time.sleep(AFTER_SECONDS)
    net.carrier(holder, True)
    return found


def _wait(true: Callable[[], bool]) -> bool:
    limit = time.monotonic() + TAKEOVER_SECONDS_MAX
    while time.monotonic() < limit:
        if true():
            return True
        time.sleep(0.01)
    return False
