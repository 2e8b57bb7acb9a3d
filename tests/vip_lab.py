"""A whole cluster in network namespaces: three members of etcd, nodes with real daemons, a client, and three oracles.

    lab = Lab(tmp_path, nodes=4)           namespaces on two bridges: "lan" carries the floating addresses, "mgmt" etcd
    with lab: lab.start(); ...; lab.verdict()

Whatever a test does, at the end no two nodes may have announced one address (`verdict`): if they did, the logs, the
history of every address and what was seen on the wire are kept in the directory of the test, and the message says so.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from etcd_support import EtcdCluster, need_etcd
from vip_net import SECOND, AddressOracle, Change, Client, Net, Return, Sniffer, inside, need_namespaces, start_echo

from cluster.etcd import EtcdSettings, EtcdStore
from cluster.types import Store

ROOT = Path(__file__).parent.parent
# Real processes on a slow, shared machine.
SECONDS_MAX = 60.0
# Addresses that are asked for all the time; more would drown what is measured.
ASKED_MAX = 20
NETWORKS = ("lan", "mgmt")
ETCD = ("e1", "e2", "e3")


class Asker:
    """Asks everybody, ten times a second, who has each address: whoever holds one in silence is made to speak."""

    def __init__(self, net: Net, node: str, addresses: Sequence[str]) -> None:
        with inside(net.namespace(node)):
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
            self._socket.bind(("lan", 0x0806))
        mac, own = bytes.fromhex(net.mac(node).replace(":", "")), socket.inet_aton(net.address(node))
        head = b"\xff" * 6 + mac + struct.pack("!HHHBBH", 0x0806, 1, 0x0800, 6, 4, 1) + mac + own + bytes(6)
        self._frames = [head + socket.inet_aton(address) for address in addresses if ":" not in address]
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._end.set()
        self._thread.join()
        self._socket.close()

    def _run(self) -> None:
        while not self._end.wait(0.1):
            for frame in self._frames:
                with suppress(OSError):
                    self._socket.send(frame)


class Lab:
    """Namespaces, etcd, daemons, oracles. Nothing is left behind."""

    def __init__(
        self,
        directory: Path,
        nodes: int = 4,
        members: int = 3,
        addresses: int = 6,
        timing: str = "default",
        settings: str = "",
        groups: str = "",
        etcd_options: Sequence[str] = (),
        sampled: int = 3,
        login: tuple[str, str] | None = None,
        etcd_directory: Path | None = None,
    ) -> None:
        """`login`: user and password that etcd wants, by https. `etcd_directory`: where its data is."""
        need_namespaces()
        need_etcd()
        self.directory = directory
        self.names = [f"n{number + 1}" for number in range(nodes)]
        self.etcd_names = list(ETCD[:members])
        self.net = Net([*self.names, *self.etcd_names, "client"], NETWORKS)
        self.addresses = [self.net.floating(number) for number in range(addresses)]
        self.settings = f'timing = "{timing}"\nmature = "50ms"\nround = "500ms"\n{settings}'
        self.groups = groups or self.spread_group(addresses)
        self.sampled = self.addresses[:sampled]
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}
        self._etcd_options = etcd_options
        self.login = login
        self._etcd_directory = etcd_directory or directory
        self._client: Client | None = None
        self.moments: list[tuple[int, str]] = []

    def spread_group(self, count: int, extra: str = "") -> str:
        last = self.net.floating(count - 1)
        return (
            f'[[vip.group]]\nname = "all"\naddresses = ["{self.net.floating(0)}-{last}"]\nspread = true\n'
            f'failback_after = "50ms"\n{extra}'
        )

    # ---- life ----

    def __enter__(self) -> Lab:
        self.net.__enter__()
        try:
            self.kernel = AddressOracle(self.net).__enter__()
            self.wire = Sniffer(self.net, self.addresses).__enter__()
            self.asker = Asker(self.net, "client", self.addresses[:ASKED_MAX])
            wrap = [["ip", "netns", "exec", self.net.namespace(name)] for name in self.etcd_names]
            hosts = [self.net.address(name, "mgmt") for name in self.etcd_names]
            secure = self.login is not None
            place = self._etcd_directory
            self.etcd = EtcdCluster(place, hosts, wrap, self._etcd_options, client_port=2379, secure=secure)
            self.etcd.start()
            with inside(self.net.namespace("client")):
                self.etcd.wait_ready()
                if self.login is not None:
                    self.etcd.want_logins(*self.login, "/jlogd/vip/")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self.daemons):
            self.kill(name)
        if hasattr(self, "etcd"):
            self.etcd.stop()
        for oracle in ("asker", "kernel", "wire"):
            if hasattr(self, oracle):
                getattr(self, oracle).stop()
        self.net.__exit__()

    def config(self, name: str, generation: int = 0, groups: str = "", settings: str = "") -> Path:
        endpoints = json.dumps(self.endpoints(name))
        path = self.directory / f"{name}.toml"
        path.write_text(
            f'[vip]\nnode = "{name}"\nstore = "etcd"\netcd = {endpoints}\nhttp = "127.0.0.1:5185"\n'
            f"generation = {generation}\n{self.settings}\n{settings}\n{self._login_settings()}"
            '[[vip.topology]]\nblock = "10.77.0.0/16"\ninterface = "lan"\n'
            '[[vip.topology]]\nblock = "fd77::/64"\ninterface = "lan"\n'
            f"{groups or self.groups}\n"
        )
        return path

    def endpoints(self, name: str) -> list[str]:
        """Where a node is to find etcd."""
        return list(self.etcd.endpoints)

    def _login_settings(self) -> str:
        if self.login is None:
            return ""
        secret = self.directory / "password"
        secret.write_text(self.login[1] + "\n")
        return f'etcd_ca = "{self.etcd.tls.ca}"\netcd_user = "{self.login[0]}"\netcd_password_file = "{secret}"\n'

    def start(self, *names: str) -> Lab:
        """Start daemons (all, when none is named) and the echo that answers a client there."""
        for name in names or self.names:
            self.config(name)
            self.launch(name)
            start_echo(self.net, name)
        return self

    def launch(self, name: str, **environ: str) -> None:
        """A daemon on a node, whose configuration is there."""
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **environ}
        command = [sys.executable, "-m", "vip.cli.main", "run", "--config", str(self.directory / f"{name}.toml")]
        with (self.directory / f"{name}.log").open("ab") as log:
            self.daemons[name] = self.net.popen(name, command, stdout=log, stderr=log, env=environment)

    def process(self, name: str) -> int:
        """The process id of a daemon: `ip netns exec` has become it."""
        return self.daemons[name].pid

    def send(self, name: str, number: signal.Signals) -> None:
        self.mark(f"{number.name} {name}")
        os.kill(self.process(name), number)

    def guard_of(self, name: str) -> int:
        """The process id of the guard of a daemon."""
        children = Path(f"/proc/{self.process(name)}/task/{self.process(name)}/children").read_text().split()
        return int(children[0])

    def kill(self, name: str) -> None:
        process = self.daemons.pop(name)
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.kill()
        process.wait(SECONDS_MAX)

    def stop(self, name: str) -> int:
        """End a daemon cleanly; its exit code."""
        self.send(name, signal.SIGTERM)
        return self.daemons.pop(name).wait(SECONDS_MAX)

    # ---- looking ----

    def mark(self, words: str) -> None:
        self.moments.append((time.clock_gettime_ns(time.CLOCK_BOOTTIME), words))

    def holder(self, address: str) -> str:
        """The one node whose kernel has the address now; "" for none, or for several."""
        holders = self.kernel.holders(address)
        return next(iter(holders)) if len(holders) == 1 else ""

    def holders(self) -> dict[str, str]:
        return {address: self.holder(address) for address in self.addresses}

    def until(self, true: Callable[[], Any], what: str, seconds: float = SECONDS_MAX) -> Any:
        limit = time.monotonic() + seconds
        while not (found := true()):
            assert time.monotonic() < limit, f"not within {seconds:g} s: {what}\n{self.story()}"
            time.sleep(0.05)
        return found

    def until_all_held(self, by: Sequence[str] = ()) -> dict[str, str]:
        """Until every address is on one node, and (where named) only on these."""
        allowed = set(by or self.daemons)

        def held() -> bool:
            return all(holder in allowed for holder in self.holders().values())

        self.until(held, f"every address is held by one of {sorted(allowed)}")
        return self.holders()

    def until_spread(self, nodes: int) -> dict[str, str]:
        """Until so many nodes have some, and nothing moves for a second."""
        before: dict[str, str] = {}

        def quiet() -> bool:
            nonlocal before
            now = self.until_all_held()
            same, before = now == before, now
            time.sleep(0.6)
            return same and len(set(now.values())) == nodes and self.holders() == now

        self.until(quiet, f"the addresses are spread over {nodes} nodes")
        return self.holders()

    def vip(self, name: str, *words: str, code: int | None = 0) -> str:
        """A command on a node; its output."""
        command = ["ip", "netns", "exec", self.net.namespace(name), sys.executable, "-m", "vip.cli.main", *words]
        command += ["--config", str(self.directory / f"{name}.toml")]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS_MAX * 2, env=environment)
        assert code is None or done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def stat(self, name: str) -> dict[str, Any]:
        found = self.net.run(name, "curl", "-s", "-m", "10", "http://127.0.0.1:5185/stat")
        return json.loads(found)

    @contextmanager
    def store(self) -> Iterator[Store]:
        """The store, asked from the client's side."""
        with inside(self.net.namespace("client")):
            store = EtcdStore(EtcdSettings(tuple(self.etcd.endpoints), self.etcd.tls, *(self.login or ())))
            try:
                yield store
            finally:
                store.close()

    def etcd_leader(self) -> int:
        """Which member leads now: its position."""
        with inside(self.net.namespace("client")):
            for at, endpoint in enumerate(self.etcd.endpoints):
                store = EtcdStore(EtcdSettings((endpoint,), self.etcd.tls))
                try:
                    answer = json.loads(store._transport.post("/v3/maintenance/status", b"{}", 5.0).body)
                except Exception:
                    continue
                finally:
                    store.close()
                if answer["leader"] == answer["header"]["member_id"]:
                    return at
        raise AssertionError("etcd has no leader")

    @contextmanager
    def client(self) -> Iterator[Client]:
        """A client that asks some addresses 100 times a second meanwhile."""
        with Client(self.net, "client", self.sampled, self.directory) as client:
            self._client = client
            yield client

    # ---- judging ----

    @contextmanager
    def scenario(self, frozen: bool = False) -> Iterator[None]:
        """What happens in here is watched by oracles of its own, and judged at its end (`verdict`)."""
        held = list(self.kernel.changes)
        self.kernel.stop()
        self.wire.stop()
        self.moments.clear()
        self.mark("begin")
        kernel, self.wire = AddressOracle(self.net), Sniffer(self.net, self.addresses)
        kernel.changes = held
        self.kernel = kernel
        self.kernel.__enter__()
        self.wire.__enter__()
        yield
        self.verdict(frozen)
        if frozen:  # what was on two nodes, silently, is no matter of the next scenario
            now = {(address, holder) for address in self.addresses for holder in self.kernel.holders(address)}
            self.kernel.changes = [Change(0, holder, address, True) for address, holder in sorted(now)]

    def verdict(self, frozen: bool = False) -> None:
        """No address was announced by two nodes. `frozen`: addresses may be on two, silently: only the wire counts."""
        time.sleep(0.2)
        assert not self.kernel.lost, "events were lost: this run proves nothing"
        overlaps = [] if frozen else self.kernel.overlaps()
        returns = [found for found in self.wire.returns() if not self.moved(found)]
        if overlaps or returns:
            (self.directory / "wire.json").write_text(json.dumps([tuple(sight) for sight in self.wire.sights]))
            (self.directory / "kernel.json").write_text(json.dumps([tuple(change) for change in self.kernel.changes]))
            names = {sight.mac: self.net.owner_of(sight.mac) for sight in self.wire.sights}
            told = [(r.address, names[r.mac], names[r.other], r.after_ns / 1e6) for r in returns[:10]]
            raise AssertionError(
                f"ANNOUNCED TWICE: kernel {overlaps[:10]}, wire (address, again, after, ms) {told}; "
                f"kept in {self.directory}\n{self.story()}"
            )

    def moved(self, found: Return) -> bool:
        """A spoke, B spoke, A speaks again: innocent where the kernels say that it went from B to A in between."""
        again, other = self.net.owner_of(found.mac), self.net.owner_of(found.other)
        began, ended = found.when - found.after_ns, found.when + SECOND
        between = [c for c in self.kernel.changes if c.address == found.address and began <= c.when <= ended]
        came = any(change.node == again and change.there for change in between)
        return came and any(change.node == other and not change.there for change in between)

    def story(self) -> str:
        """What was done, and the last words of every daemon."""
        start = self.moments[0][0] if self.moments else 0
        done = "\n".join(f"{(at - start) / 1e9:8.3f} {words}" for at, words in self.moments)
        logs = "\n".join(
            f"--- {path.name}\n{path.read_text(errors='replace')[-2500:]}"
            for path in sorted(self.directory.glob("n*.log"))
        )
        return f"{done}\n{self.holders()}\n{logs}"
