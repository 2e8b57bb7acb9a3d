"""A process that holds addresses, to be killed, stopped and starved: the kernel's half with the plainest of daemons.

    vip_holder.py '{"interfaces": ["lan"], "addresses": [["10.77.16.1", "lan", 32]], "window": 3.0, ...}'

It moves its deadline to `window` seconds from now every `every` seconds, as long as nobody says "quiet" on stdin; ends
cleanly when stdin is closed. On stdout, a line of JSON each: what `start` found, every deadline before it is set, every
event.
"""

from __future__ import annotations

import dataclasses
import json
import select
import sys
import time

from vip.kernel import open_kernel
from vip.kernel.interface import Floating, KernelSettings


def say(**what: object) -> None:
    print(json.dumps(what), flush=True)


def now_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def main(wish: dict) -> None:
    kernel = open_kernel(KernelSettings(interfaces=tuple(wish["interfaces"]), **wish.get("settings", {})))
    found = kernel.start(lambda event: say(event=type(event).__name__, **dataclasses.asdict(event)))
    addresses = [Floating(*floating) for floating in wish["addresses"]]
    kernel.set_farewell(wish.get("farewell", "").encode())
    beating = True
    until = beat(kernel, wish["window"])
    failed = {}
    for at in range(0, len(addresses), 500):
        failed |= kernel.add(addresses[at : at + 500], until)
        until = beat(kernel, wish["window"])
    kernel.announce(addresses)
    guard = kernel._parts.guard.pid  # the tests kill it
    say(
        ready=True, gate=found.gate, remarks=found.remarks, lateness=found.lateness_ns, guard=guard,
        failed=[[floating.address, why] for floating, why in failed.items()],
    )  # fmt: skip
    while True:
        if select.select([sys.stdin], [], [], wish.get("every", 0.3))[0]:
            line = sys.stdin.readline().strip()
            if not line:
                break
            beating = beating and line != "quiet"
        if beating:
            kernel.refresh(beat(kernel, wish["window"]))
    kernel.remove(addresses)
    kernel.stop()


def beat(kernel, window: float) -> int:
    until = now_ns() + int(window * 1e9)
    say(deadline=until)
    kernel.set_deadline(until)
    return until


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
