"""A cluster of three nodes and two managers on a network of their own, with keys: links cut, packets dropped, every
process killed in turn, while a load runs; and cuts that outlast every patience. At the end each manager's files hold
what was acknowledged, once.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from daemon_support import ROOT, SECONDS_MAX, until
from manager_network import Network, network
from manager_processes import Load, numbers

import jlogd
from jlogd.errors import JlogError
from jlogd.wire.keys import KeyPair, make_pair, write_pair

NODES = ["node0", "node1", "node2"]
MANAGERS = ["mgr0", "mgr1"]
PORT = 5141


class Process:
    """A daemon inside a namespace."""

    def __init__(self, net: Network, name: str, directory: Path, words: tuple[str, ...]) -> None:
        directory.mkdir(exist_ok=True)
        self.name, self.directory = name, directory
        self._net, self._words = net, words
        self.config = directory / "jlogd.toml"
        self.errors = directory / "log"
        self.process: subprocess.Popen[bytes] | None = None

    def launch(self) -> None:
        command = ["ip", "netns", "exec", self._net.space(self.name), sys.executable, "-m", "jlogd.cli.jlogd"]
        with self.errors.open("ab") as errors:
            self.process = subprocess.Popen(
                [*command, *self._words, "--config", str(self.config)],
                stdout=subprocess.DEVNULL, stderr=errors, env={**os.environ, "PYTHONPATH": str(ROOT)},
            )  # fmt: skip

    def end(self, number: signal.Signals = signal.SIGKILL) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(SECONDS_MAX)


class Node(Process):
    """A node: keys beyond its host, a unix socket for the load, which no namespace keeps out."""

    def __init__(self, net: Network, name: str, directory: Path, pair: KeyPair, managers: dict[str, KeyPair]) -> None:
        super().__init__(net, name, directory, ("run",))
        secret, _ = write_pair(pair, directory)
        # The path of a unix socket may have 107 bytes.
        self.socket = Path(f"/tmp/jl{os.getpid()}-{name}.sock")
        self.address = f"ipc://{self.socket}/mainlog"
        clients = "".join(
            f'[[auth.client]]\nname = "{who}"\npublic_key = "{key.public}"\n'
            f'subscribe = ["*:{who}"]\nread = ["*"]\nadmin = ["*"]\n'
            for who, key in managers.items()
        )
        self.config.write_text(
            f'[node]\nname = "{name}"\nspool = "{directory}/spool"\nstate = "{directory}/state"\n'
            f'[listen]\nhttp = ""\nzmq = ["tcp://{net.address(name)}:{PORT}", "ipc://{self.socket}"]\n'
            f'[auth]\nkey = "{secret}"\n{clients}[log.mainlog]\n'
        )

    def is_ready(self) -> bool:
        try:
            with jlogd.open(self.address) as log:
                log.stat()
        except JlogError:
            return False
        return True


class Manager(Process):
    def __init__(self, net: Network, name: str, directory: Path, pair: KeyPair, nodes: dict[str, KeyPair]) -> None:
        super().__init__(net, name, directory, ("manager",))
        secret, _ = write_pair(pair, directory)
        tables = "".join(
            f'[[manager.node]]\nname = "{who}"\naddress = "tcp://{net.address(who)}:{PORT}"\nkey = "{key.public}"\n'
            for who, key in nodes.items()
        )
        self.config.write_text(
            f'[node]\nname = "{name}"\nstate = "{directory}/state"\n[listen]\nhttp = ""\n'
            f'[manager]\nkey = "{secret}"\nfiles = "{directory}/files/%{{node}}"\n{tables}'
        )

    def has_lost(self, node: str) -> bool:
        return f"node {node}: lost the node" in self.errors.read_text()

    def text(self, node: str) -> bytes:
        base = self.directory / "files" / node
        paths = [base, *(base.with_name(f"{node}.part{number}") for number in range(2, 50))]
        return b"".join(path.read_bytes() for path in paths if path.exists())


def until_moving(managers: list[Manager], but: tuple[str, ...] = ()) -> None:
    """Every manager writes something of every node, but these."""
    for manager in managers:
        for node in NODES:
            if node not in but:
                before = len(manager.text(node))
                until(lambda m=manager, n=node, b=before: len(m.text(n)) > b, f"{manager.name} pulls from {node}")


def disturbances(net: Network, everybody: list[Process], rng: random.Random) -> list[Any]:
    """What happens, in this order."""

    def killed(process: Process) -> Any:
        def happen() -> None:
            process.end(signal.SIGKILL)
            process.launch()

        return happen

    def unplugged(name: str) -> Any:
        def happen() -> None:
            net.link(name, up=False)
            time.sleep(rng.uniform(0.5, 2.0))
            net.link(name, up=True)

        return happen

    def dropped(name: str, other: str) -> Any:
        def happen() -> None:
            net.drop(name, other)
            time.sleep(rng.uniform(0.5, 2.0))
            net.heal(name)

        return happen

    found = [killed(process) for process in everybody]
    found += [unplugged(name) for name in (rng.choice(NODES), rng.choice(MANAGERS))]
    found += [dropped(rng.choice(MANAGERS), rng.choice(NODES)), dropped(rng.choice(NODES), rng.choice(MANAGERS))]
    rng.shuffle(found)
    return found


class Cluster:
    """All of it, with a load on every node."""

    def __init__(self, net: Network, directory: Path) -> None:
        keys = {name: make_pair(name) for name in (*NODES, *MANAGERS)}
        self.nodes = [Node(net, n, directory / n, keys[n], {m: keys[m] for m in MANAGERS}) for n in NODES]
        self.managers = [Manager(net, m, directory / m, keys[m], {n: keys[n] for n in NODES}) for m in MANAGERS]
        self.everybody: list[Process] = [*self.nodes, *self.managers]
        self._loads: list[Load] = []

    def begin(self) -> None:
        for process in self.everybody:
            process.launch()
        for node in self.nodes:
            until(node.is_ready, f"{node.name} is ready")
        self._loads = [Load(node) for node in self.nodes]  # type: ignore[arg-type]
        for load in self._loads:
            load.start()
        until_moving(self.managers)

    def end(self) -> None:
        """No more load; everything acknowledged is in each manager's files, once, in order."""
        totals = [load.end() for load in self._loads]
        for manager in self.managers:
            for node, total in zip(NODES, totals, strict=True):
                until(lambda m=manager, n=node, t=total: m.text(n).count(b"\n") >= t, "everything is there")
                assert numbers(manager.text(node)) == list(range(total)), (manager.name, node)
        for process in self.everybody:
            process.end(signal.SIGTERM)
            assert "Traceback" not in process.errors.read_text(), process.errors.read_text()

    def close(self) -> None:
        for process in self.everybody:
            if process.process is not None and process.process.poll() is None:
                process.end()
        for node in self.nodes:
            node.socket.unlink(missing_ok=True)


@contextmanager
def cluster(directory: Path) -> Iterator[tuple[Network, Cluster]]:
    """A cluster that runs, on its network."""
    with network([*NODES, *MANAGERS]) as net:
        made = Cluster(net, directory)
        try:
            made.begin()
            yield net, made
        finally:
            made.close()


@pytest.mark.slow
def test_a_cluster_through_cuts_and_kills(tmp_path: Path, rng: random.Random) -> None:
    with cluster(tmp_path) as (net, found):
        for happen in disturbances(net, found.everybody, rng):
            happen()
            until_moving(found.managers)
        found.end()


@pytest.mark.slow
def test_partitions_that_outlast_every_patience(tmp_path: Path) -> None:
    """Until the managers took the nodes for gone: a node without a link, one whose packets do not arrive at a manager,
    and one that a manager's packets do not arrive at."""
    with cluster(tmp_path) as (net, found):
        left, right = found.managers
        net.link("node0", up=False)
        net.drop("mgr0", "node1")
        net.drop("node2", "mgr1")
        cut = [(left, "node0"), (right, "node0"), (left, "node1"), (right, "node2")]
        for manager, node in cut:
            until(lambda m=manager, n=node: m.has_lost(n), f"{manager.name} takes {node} for gone")
        before = {(m.name, n): len(m.text(n)) for m, n in cut}
        # Who is not cut goes on meanwhile.
        until_moving([left], but=("node0", "node1"))
        until_moving([right], but=("node0", "node2"))
        assert before == {(m.name, n): len(m.text(n)) for m, n in cut}, "something came through"
        net.link("node0", up=True)
        net.heal("mgr0")
        net.heal("node2")
        until_moving(found.managers)
        found.end()
