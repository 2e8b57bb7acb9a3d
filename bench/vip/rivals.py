"""What else keeps an address on one of several nodes: keepalived and ucarp, started as their manuals say.

Each subject runs a daemon on every node of a network of namespaces. `processes` are all of a node's, so that a kill or
a stop hits the whole of it, as it hits a daemon and its guard of ours.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vip_net import Net

# Different priorities, so that there is a first, a second and a third as in every manual.
_PRIORITY = 150
_PRIORITY_STEP = 20


class Subject(ABC):
    """Something that keeps `address` on one of `nodes`."""

    key: str
    label: str

    def __init__(self, net: Net, nodes: Sequence[str], address: str, directory: Path) -> None:
        self.net = net
        self.nodes = list(nodes)
        self.address = address
        self.directory = directory

    @classmethod
    @abstractmethod
    def missing(cls) -> str:
        """Why it cannot be run here; nothing when it can."""

    @abstractmethod
    def start(self) -> None:
        """Start it on every node."""

    @abstractmethod
    def processes(self, node: str) -> list[int]:
        """Everything of it that runs on a node."""

    @abstractmethod
    def stop(self, node: str) -> None:
        """End it on a node, as an operator would."""

    def signal(self, node: str, number: signal.Signals) -> None:
        """To everything of it on a node."""
        for pid in self.processes(node):
            os.kill(pid, number)

    def networks(self) -> tuple[str, ...]:
        """On which networks it talks to its peers: what a partition cuts."""
        return ("lan",)

    def close(self) -> None:
        """Kill what of it still runs."""
        for node in self.nodes:
            for pid in self.processes(node):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


class _Daemons(Subject):
    """One process on each node, with whatever children it makes."""

    program: str

    def __init__(self, net: Net, nodes: Sequence[str], address: str, directory: Path) -> None:
        super().__init__(net, nodes, address, directory)
        self._running: dict[str, subprocess.Popen[Any]] = {}

    @classmethod
    def missing(cls) -> str:
        return "" if shutil.which(cls.program) else f"{cls.program} is not installed"

    @abstractmethod
    def command(self, node: str) -> list[str]:
        """What starts it on a node."""

    def start(self) -> None:
        for node in self.nodes:
            log = (self.directory / f"{self.key}-{node}.log").open("wb")
            self._running[node] = self.net.popen(node, self.command(node), stdout=log, stderr=log)
            log.close()

    def processes(self, node: str) -> list[int]:
        if node not in self._running or self._running[node].poll() is not None:
            return []
        found = [self._running[node].pid]
        for pid in found:
            children = Path(f"/proc/{pid}/task/{pid}/children")
            if children.exists():
                found += [int(child) for child in children.read_text().split()]
        return found

    def stop(self, node: str) -> None:
        self._running[node].send_signal(signal.SIGTERM)


class Keepalived(_Daemons):
    """VRRP, an advertisement a second: what a distribution's example has."""

    key = "keepalived"
    label = "keepalived, advert 1 s"
    program = "keepalived"
    advert_seconds = 1.0

    def command(self, node: str) -> list[str]:
        config = self.directory / f"{self.key}-{node}.conf"
        config.write_text(self._config(node))
        pids = [f"--{kind}={self.directory}/{self.key}-{node}.{kind}" for kind in ("pid", "vrrp_pid")]
        return ["keepalived", "--dont-fork", "--log-console", "--vrrp", f"--use-file={config}", *pids]

    def _config(self, node: str) -> str:
        priority = _PRIORITY - _PRIORITY_STEP * self.nodes.index(node)
        # Version 3 of the protocol is the one that knows fractions of a second.
        version = "vrrp_version 3" if self.advert_seconds < 1 else "vrrp_version 2"
        return f"""
global_defs {{
    router_id {node}
    {version}
}}
vrrp_instance bench {{
    state BACKUP
    interface lan
    virtual_router_id 51
    priority {priority}
    advert_int {self.advert_seconds:g}
    virtual_ipaddress {{
        {self.address}/32 dev lan
    }}
}}
"""


class QuickKeepalived(Keepalived):
    """VRRP, ten advertisements a second."""

    key = "keepalived-quick"
    label = "keepalived, advert 0.1 s"
    advert_seconds = 0.1


class Ucarp(_Daemons):
    """CARP, an advertisement a second, the addresses by its scripts."""

    key = "ucarp"
    label = "ucarp, advert 1 s"
    program = "ucarp"

    def command(self, node: str) -> list[str]:
        up, down = (self._script(node, name, verb) for name, verb in (("up", "add"), ("down", "del")))
        skew = 10 * self.nodes.index(node)
        return [
            "ucarp", "--interface=lan", f"--srcip={self.net.address(node)}", "--vhid=51", "--pass=bench",
            f"--addr={self.address}", f"--upscript={up}", f"--downscript={down}", "--advbase=1", f"--advskew={skew}",
            "--shutdown", "--neutral",
        ]  # fmt: skip

    def _script(self, node: str, name: str, verb: str) -> Path:
        path = self.directory / f"ucarp-{node}-{name}"
        path.write_text(f'#!/bin/sh\nexec ip addr {verb} "$2"/32 dev "$1"\n')
        path.chmod(0o755)
        return path


RIVALS: tuple[type[Subject], ...] = (Keepalived, QuickKeepalived, Ucarp)
