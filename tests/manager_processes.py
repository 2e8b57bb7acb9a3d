"""Nodes and managers as processes of their own, with a load that is never in doubt about what was acknowledged."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from daemon_support import ROOT, SECONDS_MAX, RunningDaemon, until
from ports import free_ports

import jlogd


class NodeProcess(RunningDaemon):
    """A daemon under a name of its own."""

    def __init__(self, directory: Path, name: str, extra: str = "", log: str = "") -> None:
        self.name = name
        directory.mkdir(exist_ok=True)
        super().__init__(directory, extra, log)

    @property
    def server(self) -> str:
        return f"tcp://127.0.0.1:{self.zmq}"

    def write_config(self, extra: str = "", log: str = "") -> None:
        self.config.write_text(
            f'[node]\nname = "{self.name}"\nspool = "{self.spool}"\nstate = "{self.directory / "state"}"\n'
            f'[listen]\nzmq = ["{self.server}"]\nhttp = "127.0.0.1:{self.http}"\n'
            f"[log.mainlog]\n{log}\n{extra}\n"
        )


class ManagerProcess:
    """`jlogd manager` with a configuration of its own."""

    def __init__(self, directory: Path, nodes: Sequence[NodeProcess], name: str = "mgr1", extra: str = "") -> None:
        directory.mkdir(exist_ok=True)
        self.name, self.nodes, self.directory = name, list(nodes), directory
        [self.http] = free_ports(1)
        self.config = directory / "manager.toml"
        self.errors = directory / "manager.log"
        self.write_config(extra)
        self.process = self.launch()

    def write_config(self, extra: str = "", nodes: Sequence[NodeProcess] | None = None) -> None:
        tables = "".join(
            f'[[manager.node]]\nname = "{node.name}"\naddress = "{node.server}"\n'
            for node in (self.nodes if nodes is None else nodes)
        )
        self.config.write_text(
            f'[node]\nname = "host"\nstate = "{self.directory / "state"}"\n[listen]\nhttp = "127.0.0.1:{self.http}"\n'
            f'[manager]\nname = "{self.name}"\nfiles = "{self.directory}/files/%{{node}}"\n{extra}\n{tables}'
        )

    def launch(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "jlogd.cli.jlogd", "manager", "--config", str(self.config)]
        with self.errors.open("ab") as errors:
            self.process = subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=errors, env={**os.environ, "PYTHONPATH": str(ROOT)}
            )
        return self.process

    get = RunningDaemon.get

    def status(self) -> Any:
        code, body = self.get("/manager")
        return json.loads(body) if code == 200 else None

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(SECONDS_MAX)

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(SECONDS_MAX)

    def text(self, node: str) -> bytes:
        base = self.directory / "files" / node
        paths = [base, *(base.with_name(f"{node}.part{number}") for number in range(2, 50))]
        return b"".join(path.read_bytes() for path in paths if path.exists())


class Load(threading.Thread):
    """Numbered records to one node, on and on, over its restarts; `acked` of them are durable there."""

    def __init__(self, node: NodeProcess) -> None:
        super().__init__(daemon=True)
        self._node = node
        self._ended = threading.Event()
        self.acked = 0
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            number = 0
            with jlogd.open(self._node.address) as log, log.writer(producer="load") as writer:
                while not self._ended.is_set():
                    writer.extend([b"%d" % (number + at) + b"x" * 40 for at in range(50)])
                    number += 50
                    writer.flush()
                    self.acked = number
                    self._ended.wait(0.002)
        except Exception as error:
            self.error = error

    def end(self) -> int:
        """Stop it; how many records are there."""
        self._ended.set()
        self.join(SECONDS_MAX * 2)
        assert not self.is_alive() and self.error is None, self.error
        return self.acked


def numbers(text: bytes) -> list[int]:
    """The numbers of a load's records."""
    return [int(line.rstrip(b"x")) for line in text.splitlines()]


@contextmanager
def running(directory: Path, nodes: int = 1, **options: Any) -> Iterator[tuple[ManagerProcess, list[NodeProcess]]]:
    """Nodes that are ready and a manager of them; all killed at the end."""
    started: list[Any] = []
    try:
        for at in range(nodes):
            started.append(NodeProcess(directory / f"node{at}", f"node{at}"))
        found = [node.wait_ready() for node in started]
        manager = ManagerProcess(directory / "manager", found, **options)
        started.append(manager)
        until(lambda: manager.get("/readyz")[0] == 200 or manager.process.poll() is not None, "the manager is ready")
        assert manager.process.poll() is None, manager.errors.read_text()
        yield manager, found
    finally:
        for one in started:
            if one.process.poll() is None:
                one.process.kill()
                one.process.wait()
