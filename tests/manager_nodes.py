"""A manager in this process over servers in this process: nodes that can be stopped, changed and started again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from daemon_support import until
from wire_support import Daemon

import jlogd
from jlogd.journal.types import Settings
from jlogd.manager.config import ManagedNode, ManagerConfig
from jlogd.manager.manager import Manager

LOG = "mainlog"


class Cluster:
    """Nodes n0, n1, ... with a log each, and a manager that can be ended and begun again."""

    def __init__(self, directory: Path, count: int = 1, **options: Any) -> None:
        self.directory = directory
        self.nodes = [self.add_node(f"n{at}") for at in range(count)]
        self.options = options
        self.manager: Manager | None = None

    def add_node(self, name: str, log: str = LOG, settings: Settings | None = None) -> Daemon:
        spool = self.directory / name
        spool.mkdir(exist_ok=True)
        jlogd.create(spool / log, settings)
        return Daemon(spool)

    def config(self, nodes: Sequence[ManagedNode] | None = None, **options: Any) -> ManagerConfig:
        there = tuple(
            ManagedNode(name=f"n{at}", address=node.address, subcluster="even" if at % 2 == 0 else "odd")
            for at, node in enumerate(self.nodes)
        )
        files = str(self.directory / "files" / "%{log}" / "%{node}")
        chosen = {"files": files, "node": there if nodes is None else tuple(nodes), **self.options, **options}
        return ManagerConfig(**chosen)

    def begin(self, config: ManagerConfig | None = None, name: str = "mgr1") -> Manager:
        self.manager = Manager(config or self.config(), name, self.directory / f"ledger-{name}")
        self.manager.start()
        return self.manager

    def end(self) -> None:
        if self.manager is not None:
            self.manager.stop()
            self.manager = None

    def text(self, node: int = 0, log: str = LOG) -> bytes:
        """What is in the files of a node."""
        base = self.directory / "files" / log / f"n{node}"
        found = b""
        for path in [base, *(base.with_name(f"{base.name}.part{number}") for number in range(2, 20))]:
            found += path.read_bytes() if path.exists() else b""
        return found

    def until_lines(self, count: int, node: int = 0) -> list[bytes]:
        """The lines of a node, once there are so many in its files."""
        until(lambda: self.text(node).count(b"\n") >= count, f"{count} lines of n{node}")
        return self.text(node).splitlines()

    def pull(self, node: int = 0) -> Any:
        """The status of the one pull of a node; None while there is none."""
        assert self.manager is not None
        found = [pull for pull in self.manager.status().pulls if pull.node == f"n{node}"]
        return found[0] if found else None

    def until_state(self, state: str, node: int = 0) -> Any:
        return until(lambda: (p := self.pull(node)) is not None and p.state == state and p, f"n{node} is {state}")

    def close(self) -> None:
        self.end()
        for node in self.nodes:
            node.stop()


@contextmanager
def cluster(directory: Path, count: int = 1, **options: Any) -> Iterator[Cluster]:
    made = Cluster(directory, count, **options)
    try:
        yield made
    finally:
        made.close()


def append(node: Daemon, *records: bytes, log: str = LOG) -> None:
    """Records into a log, durable when this returns."""
    with jlogd.open(f"{node.address}/{log}") as opened, opened.writer() as writer:
        writer.extend(list(records))
        writer.flush()


def numbered(first: int, count: int) -> list[bytes]:
    return [b"record %d" % number for number in range(first, first + count)]


def subscriber(node: Daemon, name: str = "mgr1", log: str = LOG) -> Any:
    """A subscriber as its node sees it; None when there is none."""
    stat = node.logs.get(log).journal.stat()
    return next((one for one in stat.subscribers if one.name == name), None)
