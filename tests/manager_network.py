"""A small network on one machine: namespaces on a bridge, which has one of its own; made by the test, gone after it.

    node 0   node 1   node 2   manager 0   manager 1        each a namespace with eth0, 10.77.0.x
       '--------'--------+--------'-----------'
                     bridge (a namespace too)

Nothing of it touches the network of the host. Processes are started inside with `ip netns exec`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

NETWORK = "10.77.0"


def run(*words: object) -> str:
    """A command that must succeed; what it printed."""
    ended = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 0, f"{' '.join(map(str, words))}: {ended.stderr}"
    return ended.stdout


class Network:
    """Namespaces by name."""

    def __init__(self, names: list[str]) -> None:
        self._prefix = f"jl{os.getpid()}"
        self.names = names
        self._made: list[str] = []
        self._make("bridge")
        self.inside("bridge", "ip", "link", "add", "br0", "type", "bridge")
        self.inside("bridge", "ip", "link", "set", "br0", "up")
        for at, name in enumerate(names):
            self._connect(at, name)

    def space(self, name: str) -> str:
        return f"{self._prefix}-{name}"

    def address(self, name: str) -> str:
        return f"{NETWORK}.{self.names.index(name) + 11}"

    def inside(self, name: str, *words: object) -> str:
        return run("ip", "netns", "exec", self.space(name), *words)

    def link(self, name: str, up: bool) -> None:
        """Pull the plug of one namespace, at the bridge, or put it in."""
        self.inside("bridge", "ip", "link", "set", f"port{self.names.index(name)}", "up" if up else "down")

    def drop(self, name: str, other: str) -> None:
        """Have `name` drop what comes from `other`, in silence."""
        self.inside(name, "nft", "add", "table", "inet", "cut")
        self.inside(name, "nft", "add chain inet cut input { type filter hook input priority 0 ; }")
        self.inside(name, "nft", f"add rule inet cut input ip saddr {self.address(other)} drop")

    def heal(self, name: str) -> None:
        self.inside(name, "nft", "delete", "table", "inet", "cut")

    def close(self) -> None:
        for space in self._made:
            subprocess.run(["ip", "netns", "delete", space], capture_output=True, timeout=30, check=False)

    def _make(self, name: str) -> None:
        run("ip", "netns", "add", self.space(name))
        self._made.append(self.space(name))
        self.inside(name, "ip", "link", "set", "lo", "up")

    def _connect(self, at: int, name: str) -> None:
        self._make(name)
        ends = ("type", "veth", "peer", "name", f"port{at}", "netns", self.space("bridge"))
        self.inside(name, "ip", "link", "add", "eth0", *ends)
        self.inside("bridge", "ip", "link", "set", f"port{at}", "master", "br0", "up")
        self.inside(name, "ip", "address", "add", f"{self.address(name)}/24", "dev", "eth0")
        self.inside(name, "ip", "link", "set", "eth0", "up")


def missing() -> str:
    """Why there can be no such network here; empty when there can."""
    if os.geteuid() != 0:
        return "only root may make network namespaces"
    for program, package in (("ip", "iproute2"), ("nft", "nftables")):
        if shutil.which(program) is None and not Path(f"/usr/sbin/{program}").exists():
            return f"there is no {program}; install {package}"
    try:
        network = Network(["probe"])
    except (AssertionError, OSError, subprocess.SubprocessError) as error:
        return f"this machine makes no namespaces on a bridge: {error}"
    try:
        network.drop("probe", "probe")
    except AssertionError as error:
        return f"this kernel has no nftables: {error}"
    finally:
        network.close()
    return ""


@contextmanager
def network(names: list[str]) -> Iterator[Network]:
    """A network, or the test is skipped; in continuous integration it fails."""
    why = missing()
    if why and os.environ.get("CI") == "true":
        pytest.fail(why)
    if why:
        pytest.skip(why)
    made = None
    try:
        made = Network(names)
        yield made
    finally:
        if made is not None:
            made.close()
