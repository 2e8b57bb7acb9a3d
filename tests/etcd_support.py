"""Real etcd servers of the Debian package, on ports and in a directory that only this test uses."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from daemon_support import free_ports

from cluster.errors import StoreError
from cluster.etcd import EtcdSettings, EtcdStore

# A server that is not there in this time will not come.
SECONDS_MAX = 60.0


def need_etcd() -> str:
    """The path of the server; without it the test is skipped, in continuous integration it fails."""
    found = shutil.which("etcd")
    if found is None:
        if os.environ.get("CI") == "true":
            pytest.fail("etcd is missing; packaging/test-packages installs it")
        pytest.skip("etcd is not installed (Debian: etcd-server)")
    return found


class EtcdMember:
    """One server process."""

    def __init__(self, name: str, command: Sequence[str], log: Path) -> None:
        self.name = name
        self.log = log
        self._command = list(command)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self._command, stdout=log, stderr=log)

    def send(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(SECONDS_MAX)


class EtcdCluster:
    """One or more members, each reached at 127.0.0.1 or in a network namespace of its own."""

    def __init__(
        self,
        directory: Path,
        addresses: Sequence[str] = ("127.0.0.1",),
        wrap: Sequence[Sequence[str]] = (),
        extra: Sequence[str] = (),
        client_port: int = 0,
    ) -> None:
        """`wrap`: for each member what its command is put behind (`ip netns exec NAME`)."""
        program = need_etcd()
        ports = [(2379, 2380)] * len(addresses) if client_port else _ports(len(addresses))
        peers = [f"http://{address}:{peer}" for address, (_, peer) in zip(addresses, ports, strict=True)]
        self.endpoints = tuple(
            f"http://{address}:{client}" for address, (client, _) in zip(addresses, ports, strict=True)
        )
        names = [f"m{at}" for at in range(len(addresses))]
        initial = ",".join(f"{name}={peer}" for name, peer in zip(names, peers, strict=True))
        self.members = []
        for at, name in enumerate(names):
            listen = [self.endpoints[at], *([f"http://127.0.0.1:{ports[at][0]}"] if client_port else [])]
            command = [
                *(wrap[at] if wrap else ()), program, "--name", name, "--data-dir", str(directory / name),
                "--listen-client-urls", ",".join(listen), "--advertise-client-urls", self.endpoints[at],
                "--listen-peer-urls", peers[at], "--initial-advertise-peer-urls", peers[at],
                "--initial-cluster", initial, "--initial-cluster-token", directory.name,
                "--enable-v2=false", "--logger", "zap", "--log-level", "error", *extra,
            ]  # fmt: skip
            self.members.append(EtcdMember(name, command, directory / f"{name}.log"))

    def start(self) -> EtcdCluster:
        for member in self.members:
            member.start()
        return self

    def wait_ready(self) -> EtcdCluster:
        """Until every member answers from the agreed state."""
        for member, endpoint in zip(self.members, self.endpoints, strict=True):
            store = EtcdStore(EtcdSettings((endpoint,)))
            deadline = time.monotonic() + SECONDS_MAX
            while True:
                try:
                    store.read("ready", within=2.0)
                    break
                except StoreError as error:
                    assert member.process is not None and member.process.poll() is None, member.log.read_text()
                    assert time.monotonic() < deadline, f"{member.name}: {error}\n{member.log.read_text()[-2000:]}"
                    time.sleep(0.1)
            store.close()
        return self

    def stop(self) -> None:
        for member in self.members:
            member.kill()


def _ports(count: int) -> list[tuple[int, int]]:
    ports = free_ports(2 * count)
    return list(zip(ports[::2], ports[1::2], strict=True))
