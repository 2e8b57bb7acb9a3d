"""What is measured: each holds one address with three nodes, and n1 has it first.

A system is started in the namespaces of a `Lab` of the tests; a fault is done to the processes that it runs on n1.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vip_lab import Lab

VICTIM = "n1"
NODES = 3
SETTLE_SECONDS = 60.0
PREFER = f'prefer = ["{VICTIM}"]\n'


class System(ABC):
    """One system in one configuration."""

    # Faults that cannot be done to it here.
    without: tuple[str, ...] = ()

    def __init__(self, key: str, label: str) -> None:
        self.key, self.label = key, label

    def lab(self, directory: Path) -> Lab:
        """The network it runs in."""
        return Lab(directory, nodes=NODES, members=3, addresses=1, sampled=1)

    @abstractmethod
    def start(self, lab: Lab) -> None:
        """Start it on every node, until n1 holds the address."""

    @abstractmethod
    def processes(self, lab: Lab) -> list[int]:
        """The processes on n1: the daemon first."""

    def stop(self, lab: Lab) -> None:
        os.kill(self.processes(lab)[0], signal.SIGTERM)

    def kill(self, lab: Lab) -> None:
        """The daemon dies, with whatever it consists of but what is there for this case."""
        os.kill(self.processes(lab)[0], signal.SIGKILL)

    def drain(self, lab: Lab) -> None:
        """An operator wants n1 empty, and its daemon goes on."""
        raise NotImplementedError

    def knows(self, fault: str) -> bool:
        """Whether there is such a thing with this system."""
        return fault not in self.without and (fault != "drain" or type(self).drain is not System.drain)

    def freeze(self, lab: Lab, number: signal.Signals) -> None:
        for process in self.processes(lab):
            os.kill(process, number)


class Vip(System):
    """Ours."""

    def __init__(self, key: str, label: str, timing: str, etcd_options: tuple[str, ...] = ()) -> None:
        super().__init__(key, label)
        self._timing, self._etcd_options = timing, etcd_options

    def lab(self, directory: Path) -> Lab:
        lab = Lab(directory, nodes=NODES, addresses=1, sampled=1, timing=self._timing, etcd_options=self._etcd_options)
        lab.groups = lab.groups.replace("spread = true\n", PREFER)
        return lab

    def start(self, lab: Lab) -> None:
        lab.start()
        lab.until(lambda: lab.holder(lab.addresses[0]) == VICTIM, "n1 has the address", SETTLE_SECONDS)
        time.sleep(1.0)

    def processes(self, lab: Lab) -> list[int]:
        return [lab.process(VICTIM), lab.guard_of(VICTIM)]

    def drain(self, lab: Lab) -> None:
        lab.vip("n3", "drain", VICTIM)


class Foreign(System):
    """A program that needs no store: one command a node."""

    def __init__(self, key: str, label: str, command: Callable[[Lab, str, Path], list[str]]) -> None:
        super().__init__(key, label)
        self._command = command
        self._running: dict[str, subprocess.Popen[Any]] = {}

    def start(self, lab: Lab) -> None:
        from vip_net import start_echo

        for name in lab.names:
            command = self._command(lab, name, lab.directory)
            with (lab.directory / f"{name}.log").open("ab") as log:
                self._running[name] = lab.net.popen(name, command, stdout=log, stderr=log, start_new_session=True)
            start_echo(lab.net, name)
        lab.until(lambda: lab.holder(lab.addresses[0]) == VICTIM, "n1 has the address", SETTLE_SECONDS)
        time.sleep(1.0)

    def processes(self, lab: Lab) -> list[int]:
        first = self._running[VICTIM].pid
        children = Path(f"/proc/{first}/task/{first}/children").read_text().split()
        return [first, *map(int, children)]

    def kill(self, lab: Lab) -> None:
        os.killpg(self._running[VICTIM].pid, signal.SIGKILL)


class Ucarp(Foreign):
    """Advertises from a MAC that its nodes share, so a bridge cannot keep those of one node from the others."""

    without = ("cut off",)


def _keepalived(advert: float) -> Callable[[Lab, str, Path], list[str]]:
    def command(lab: Lab, name: str, directory: Path) -> list[str]:
        priority = 150 - 50 * lab.names.index(name)
        config = directory / f"{name}.conf"
        config.write_text(
            "global_defs {\n  vrrp_version 3\n  script_user root\n}\n"
            f"vrrp_instance one {{\n  state BACKUP\n  interface lan\n  virtual_router_id 51\n  priority {priority}\n"
            f"  advert_int {advert:g}\n  virtual_ipaddress {{\n    {lab.addresses[0]}/32 dev lan\n  }}\n}}\n"
        )
        own = directory / name
        return ["keepalived", "-n", "-l", "-P", "-f", str(config), "-p", f"{own}.pid", "-r", f"{own}.vrrp.pid"]

    return command


def _ucarp(lab: Lab, name: str, directory: Path) -> list[str]:
    for verb in ("add", "del"):
        script = directory / f"{verb}.sh"
        script.write_text(f"#!/bin/sh\nexec ip addr {verb} {lab.addresses[0]}/32 dev lan\n")
        script.chmod(0o755)
    skew = 50 * lab.names.index(name)
    return [
        "ucarp", "-i", "lan", "-s", lab.net.address(name), "-v", "51", "-p", "secret", "-a", lab.addresses[0],
        "-u", str(directory / "add.sh"), "-d", str(directory / "del.sh"), "-b", "1", "-k", str(skew), "-P", "-z",
    ]  # fmt: skip


FAST_ETCD = ("--heartbeat-interval", "50", "--election-timeout", "300")
SYSTEMS: tuple[System, ...] = (
    Vip("vip", "vip, default", "default"),
    Vip("vip-lan", "vip, lan", "lan", FAST_ETCD),
    Foreign("keepalived", "keepalived, 1 s", _keepalived(1.0)),
    Foreign("keepalived-fast", "keepalived, 0.1 s", _keepalived(0.1)),
    Ucarp("ucarp", "ucarp, 1 s", _ucarp),
)
