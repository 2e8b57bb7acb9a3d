"""Real daemons far from their etcd: half a second each way moves nothing, and a stall only what is behind it.

Four nodes, each with a way of its own to one member of etcd: 50 ms each way, between 50 and 500 ms, and 500 ms twice.
Judged as in `test_vip_cluster`, by the kernel's word from all namespaces and by what was on the wire: what comes before
what counts here, and not when.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from vip_lab import Lab
from vip_net import Change
from vip_relay import Relay

pytestmark = pytest.mark.slow

# Seconds, each way: from, to. Heartbeats of the last two take a second at least: one keeps its addresses so, the other
# is to lose them.
DELAYS = {"n1": (0.05, 0.05), "n2": (0.05, 0.5), "n3": (0.5, 0.5), "n4": (0.5, 0.5)}
VICTIM = "n4"
EACH = 2
# A third of the window is what a heartbeat may take. Nobody is asked for before an address is put up: that would hide
# a holder that has yet to let go.
SETTINGS = 'heartbeat = "400ms"\nwindow = "3.6s"\nmax_moves = 4\nprobe = "0s"\n'
# A machine that holds everything up for seconds, which the log says then, has another try.
TRIES = 4
LATE = "no heartbeat was committed in time", "the session is lost", "the deadline passed"


class Far(Lab):
    """The lab, with a relay between each node and etcd."""

    relays: dict[str, Relay]

    def endpoints(self, name: str) -> list[str]:
        return [f"http://127.0.0.1:{self.relays[name].port}"]

    def logs(self) -> dict[str, str]:
        return {name: (self.directory / f"{name}.log").read_text() for name in self.names}


@contextmanager
def far(directory: Path, rng: random.Random) -> Iterator[Far]:
    with (
        Far(directory, nodes=len(DELAYS), members=1, addresses=EACH * len(DELAYS), settings=SETTINGS) as lab,
        ExitStack() as ways,
    ):
        target = lab.net.address(lab.etcd_names[0], "mgmt"), 2379
        lab.relays = {name: ways.enter_context(Relay(lab.net.namespace(name), target, rng)) for name in lab.names}
        lab.start()
        yield lab
        for name in list(lab.daemons):
            lab.kill(name)


def test_delays_move_nothing_and_a_stall_only_what_is_behind_it(tmp_path: Path, rng: random.Random):
    with far(tmp_path, rng) as lab:
        tries = 1
        while moved := stalled(lab, VICTIM):
            assert tries < TRIES, f"moved without need, again and again: {moved}\n{lab.story()}"
            tries += 1


def stalled(lab: Far, victim: str) -> list[Change]:
    """Longer than the window nothing comes through to one node; what moved of the others, and need not have."""
    others, told = [name for name in lab.names if name != victim], lab.logs()
    lab.until(lambda: set(Counter(lab.until_all_held().values()).values()) == {EACH}, "nothing is left to be balanced")
    for name, delay in DELAYS.items():
        lab.relays[name].delay = delay
    with lab.scenario(), lab.client():
        known, before = len(lab.kernel.changes), lab.holders()
        lab.mark(f"nothing comes through to {victim}; connections of the others are cut")
        lab.relays[victim].stall()
        assert all(lab.relays[name].cut() for name in others)
        lab.until_all_held(others)
        seen = lab.kernel.changes[known:]
        lab.mark(f"what was held up on the way to {victim} arrives")
        lab.relays[victim].resume()
        for relay in lab.relays.values():
            relay.delay = (0.0, 0.0)
        lab.until(lambda: victim in lab.until_all_held().values(), f"{victim} has some again")
    lost = [address for address, holder in before.items() if holder == victim]
    assert lost
    for address in lost:
        steps = [(change.node, change.there) for change in seen if change.address == address]
        taken = next(at for at, (node, _) in enumerate(steps) if node != victim)
        assert taken and steps[taken - 1] == (victim, False), f"{address}: {steps}\n{lab.story()}"
    said = {name: text[len(told[name]) :] for name, text in lab.logs().items()}
    moved = [change for change in seen if change.address not in lost]
    late = any(sign in said[name] for name in others for sign in LATE)
    assert late or not moved, f"moved without need: {moved}\n{lab.story()}"
    return moved
