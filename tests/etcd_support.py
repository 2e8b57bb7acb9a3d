"""Real etcd servers of the Debian package, on ports and in a directory that only this test uses."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from ports import free_ports

from cluster.errors import StoreError
from cluster.etcd import EtcdSettings, EtcdStore
from cluster.transport import Tls

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
        secure: bool = False,
    ) -> None:
        """`wrap`: what each member's command is put behind (`ip netns exec NAME`). `secure`: clients need https."""
        program = need_etcd()
        self.tls = make_certificates(directory, addresses) if secure else Tls()
        scheme, secret = "https" if secure else "http", []
        if secure:
            secret = ["--cert-file", self.tls.cert, "--key-file", self.tls.key]
        self._root: tuple[str, ...] = ()
        ports = [(2379, 2380)] * len(addresses) if client_port else _ports(len(addresses))
        peers = [f"http://{address}:{peer}" for address, (_, peer) in zip(addresses, ports, strict=True)]
        self.endpoints = tuple(
            f"{scheme}://{address}:{client}" for address, (client, _) in zip(addresses, ports, strict=True)
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
                "--enable-v2=false", "--logger", "zap", "--log-level", "error", *secret, *extra,
            ]  # fmt: skip
            self.members.append(EtcdMember(name, command, directory / f"{name}.log"))

    def start(self) -> EtcdCluster:
        for member in self.members:
            member.start()
        return self

    def wait_ready(self) -> EtcdCluster:
        """Until every member answers from the agreed state."""
        for member, endpoint in zip(self.members, self.endpoints, strict=True):
            store = EtcdStore(EtcdSettings((endpoint,), self.tls, *self._root))
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

    def ask(self, path: str, body: dict[str, object], member: int = 0, token: str = "") -> dict[str, object]:
        """A question of etcd's own to one member, that must be answered."""
        store = EtcdStore(EtcdSettings((self.endpoints[member],), self.tls))
        headers = {"Authorization": token} if token else {}
        answer = store._transport.post(path, json.dumps(body).encode(), SECONDS_MAX, headers)
        store.close()
        assert answer.status == 200, (path, answer.body)
        return json.loads(answer.body)

    def want_logins(self, user: str, password: str, prefix: str) -> None:
        """From now on etcd knows `root` and a user with the right to one prefix, with one password, and nobody else."""
        bounds = prefix, prefix[:-1] + chr(ord(prefix[-1]) + 1)
        begin, end = (base64.b64encode(text.encode()).decode() for text in bounds)
        for name in ("root", user):
            self.ask("/v3/auth/user/add", {"name": name, "password": password})
            self.ask("/v3/auth/role/add", {"name": name})
            self.ask("/v3/auth/user/grant", {"user": name, "role": name})
        right = {"permType": "READWRITE", "key": begin, "range_end": end}
        self.ask("/v3/auth/role/grant", {"name": user, "perm": right})
        self.ask("/v3/auth/enable", {})
        self._root = "root", password

    def stop(self) -> None:
        for member in self.members:
            member.kill()


def make_certificates(directory: Path, addresses: Sequence[str]) -> Tls:
    """A certificate for servers at these addresses, signed by itself; ca, cert and key of it."""
    if shutil.which("openssl") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("openssl is missing; packaging/test-packages installs it")
        pytest.skip("openssl is not installed")
    names = ",".join(f"IP:{address}" for address in {*addresses, "127.0.0.1"})
    key, cert = directory / "tls.key", directory / "tls.crt"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", str(key), "-out", str(cert), "-days", "2", "-subj", "/CN=etcd"]
    subprocess.run([*command, "-addext", f"subjectAltName={names}"], check=True, capture_output=True)
    return Tls(str(cert), str(cert), str(key))


def _ports(count: int) -> list[tuple[int, int]]:
    ports = free_ports(2 * count)
    return list(zip(ports[::2], ports[1::2], strict=True))
