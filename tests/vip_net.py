"""Networks of namespaces for the tests of `vip`, and what watches them.

    Net            namespaces around a bridge (or several), named by a prefix of their own, removed at the end
    AddressOracle  kernel truth: every address that comes or goes in any namespace, in the order of the kernel
    Sniffer        wire truth: who (by MAC) announced, answered or sent from an address, in the order of the bridge
    Client         client truth: a process that asks addresses 100 times a second and notes what answered

A frame from A to B is dropped by a program at B's port of the bridge: one way or both, all or a part, silently - the
carrier stays. Nothing outside of the namespaces is touched, and no package but iproute2 is needed.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import json
import os
import secrets
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

TESTS = Path(__file__).parent
SECOND = 1_000_000_000
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)

LAN = "lan"


def now_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def need_namespaces() -> None:
    """Skip the test where namespaces cannot be made; in continuous integration that is a failure."""
    import pytest  # the benchmarks use this module without it

    why = why_no_namespaces()
    if why and os.environ.get("CI") == "true":
        pytest.fail(why)
    if why:
        pytest.skip(why)


def why_no_namespaces() -> str:
    """Why network namespaces cannot be made here; nothing when they can."""
    why = "" if os.geteuid() == 0 else "needs root, for network namespaces"
    if not why and subprocess.run(["ip", "-V"], capture_output=True).returncode:
        why = "needs iproute2"
    if not why:
        name = f"vipt-{secrets.token_hex(3)}"
        made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
        subprocess.run(["ip", "netns", "del", name], capture_output=True)
        why = f"network namespaces cannot be made here: {made.stderr.strip()}" if made.returncode else ""
    return why


def run(*command: str) -> str:
    """A command that must work; what it printed."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip()}"
    return done.stdout


@contextlib.contextmanager
def inside(namespace: str) -> Iterator[None]:
    """This thread is in a namespace meanwhile; a socket made there stays there."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    away = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    try:
        _setns(away)
        yield
    finally:
        _setns(home)
        os.close(home)
        os.close(away)


def _setns(descriptor: int) -> None:
    if _libc.setns(descriptor, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


class Net:
    """`Net(["n1", "n2"])`: a namespace for each, joined by the bridge of each network; a context manager.

    With networks `("lan", "mgmt")` node N (from 1, in the order given) has an interface `lan` with 10.77.0.N/16 and
    fd77::N/64, and an interface `mgmt` with 10.78.0.N/16 and fd78::N/64. Addresses to float: `floating`, `floating6`.
    """

    def __init__(self, nodes: Sequence[str], networks: Sequence[str] = (LAN,)) -> None:
        self.nodes = list(nodes)
        self.networks = list(networks)
        self.prefix = f"vipt-{secrets.token_hex(3)}"
        self.hub = f"{self.prefix}-hub"
        self._dropped: dict[tuple[str, str], dict[str, float]] = {}
        self._processes: list[subprocess.Popen[Any]] = []
        self._macs: dict[str, str] = {}

    def __enter__(self) -> Net:
        try:
            self._build()
        except BaseException:
            self._destroy()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._destroy()

    # ---- where things are --------------------------------------------------------------------------------------------

    def namespace(self, node: str) -> str:
        return f"{self.prefix}-{node}"

    def address(self, node: str, network: str = LAN) -> str:
        return f"10.{77 + self.networks.index(network)}.0.{self.nodes.index(node) + 1}"

    def address6(self, node: str, network: str = LAN) -> str:
        return f"fd{77 + self.networks.index(network)}::{self.nodes.index(node) + 1:x}"

    def floating(self, number: int) -> str:
        """The Nth address of the first network that no node has: from 10.77.16.0 on."""
        return f"10.77.{16 + (number >> 8)}.{number & 255}"

    def floating6(self, number: int) -> str:
        return f"fd77::1:{number:x}"

    def mac(self, node: str, network: str = LAN) -> str:
        with inside(self.namespace(node)):
            return _mac(network)

    def owner_of(self, mac: str, network: str = LAN) -> str:
        """The node with that MAC; the MAC when it is nobody's."""
        if mac not in self._macs:
            self._macs |= {self.mac(node, network): node for node in self.nodes}
        return self._macs.get(mac, mac)

    # ---- what runs in them -------------------------------------------------------------------------------------------

    def run(self, node: str, *command: str) -> str:
        return run("ip", "netns", "exec", self.namespace(node), *command)

    def setting(self, node: str, name: str, value: str) -> None:
        """A setting of the node's network, by its path below /proc/sys/net."""
        with inside(self.namespace(node)):
            Path(f"/proc/sys/net/{name}").write_text(value)

    def popen(self, node: str, command: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Start a process in a node's namespace; it is killed at the end."""
        process = subprocess.Popen(["ip", "netns", "exec", self.namespace(node), *command], **options)
        self._processes.append(process)
        return process

    # ---- what goes wrong ---------------------------------------------------------------------------------------------

    def carrier(self, node: str, up: bool, network: str = LAN) -> None:
        """Pull or plug the cable."""
        run("ip", "-n", self.hub, "link", "set", self._port(node, network), "up" if up else "down")

    def cut(self, source: str, target: str, network: str = LAN, part: float = 1.0) -> None:
        """From now on frames from `source` to `target` are lost, or a `part` of them; one way, silently."""
        self._dropped.setdefault((target, network), {})[self.mac(source, network)] = part
        self._apply(target, network)

    def heal(self, source: str, target: str, network: str = LAN) -> None:
        if self._dropped.setdefault((target, network), {}).pop(self.mac(source, network), None) is not None:
            self._apply(target, network)

    def partition(self, *sides: Iterable[str], network: str = LAN) -> None:
        """Nodes of different sides do not hear each other any more."""
        groups = [list(side) for side in sides]
        for here in groups:
            for there in groups:
                if here is not there:
                    for source in here:
                        for target in there:
                            self.cut(source, target, network)

    def heal_all(self) -> None:
        for target, network in list(self._dropped):
            self._dropped[target, network].clear()
            self._apply(target, network)

    # ---- helpers -----------------------------------------------------------------------------------------------------

    def _port(self, node: str, network: str) -> str:
        return f"p{self.networks.index(network)}n{self.nodes.index(node)}"

    def _build(self) -> None:
        run("ip", "netns", "add", self.hub)
        run("ip", "-n", self.hub, "link", "set", "lo", "up")
        for network in self.networks:
            # Multicast snooping would keep solicitations from ports that have not reported their groups yet.
            run("ip", "-n", self.hub, "link", "add", network, "type", "bridge", "mcast_snooping", "0")
            run("ip", "-n", self.hub, "link", "set", network, "up")
        for number, node in enumerate(self.nodes):
            run("ip", "netns", "add", self.namespace(node))
            run("ip", "-n", self.namespace(node), "link", "set", "lo", "up")
            # The listener of all namespaces tells them apart by this number.
            run("ip", "-n", self.hub, "netns", "set", self.namespace(node), str(number))
            for network in self.networks:
                self._plug(node, network)

    def _plug(self, node: str, network: str) -> None:
        port, space = self._port(node, network), self.namespace(node)
        run("ip", "-n", self.hub, "link", "add", port, "type", "veth", "peer", "name", network, "netns", space)
        run("ip", "-n", self.hub, "link", "set", port, "master", network)
        run("ip", "-n", self.hub, "link", "set", port, "up")
        run("ip", "-n", space, "addr", "add", f"{self.address(node, network)}/16", "dev", network)
        run("ip", "-n", space, "link", "set", network, "up")
        run("ip", "-n", space, "addr", "add", f"{self.address6(node, network)}/64", "dev", network, "nodad")

    def _apply(self, target: str, network: str) -> None:
        dropped = self._dropped[target, network]
        with inside(self.hub):
            _replace_filter(socket.if_nametoindex(self._port(target, network)), dropped)

    def _destroy(self) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
        for process in self._processes:
            process.wait(30)
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
        for name in (self.hub, *map(self.namespace, self.nodes)):
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


def _mac(interface: str) -> str:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as asked:
        asked.bind((interface, 0))
        return asked.getsockname()[4].hex(":")


def _replace_filter(index: int, dropped: Mapping[str, float]) -> None:
    """At the egress of a port: drop frames from these MACs, with a probability each."""
    from pyroute2 import IPRoute

    from vip.kernel import bpf
    from vip.kernel.bpf import R0, R1, R2, R3, R4, R6, R10

    code = bpf.Assembler()
    code.copy(R6, R1)
    for mac, part in dropped.items():
        raw = bytes.fromhex(mac.replace(":", ""))
        after = f"not {mac}"
        for offset, length in ((6, 4), (10, 2)):  # the source of an Ethernet frame, in two readings
            code.copy(R1, R6)
            code.move(R2, offset)
            code.copy(R3, R10)
            code.plus(R3, -8)
            code.move(R4, length)
            code.call(26)  # bpf_skb_load_bytes
            code.jump_unequal(R0, 0, after)
            code.load(length, R2, R10, -8)
            want = int.from_bytes(raw[offset - 6 : offset - 6 + length], sys.byteorder)
            code.jump_unequal_32(R2, want - (1 << 32) if want >= 1 << 31 else want, after)
        if part < 1.0:
            code.call(7)  # bpf_get_prandom_u32
            code.move_long(R1, int(part * (1 << 32)))
            code.jump_less(R1, R0, after)
        code.leave(2)
        code.label(after)
    code.leave(-1)
    with IPRoute() as route:
        with contextlib.suppress(Exception):
            route.tc("add", "clsact", index)
        with contextlib.suppress(Exception):
            route.tc("del-filter", "bpf", index, 1, parent=0xFFFFFFF3, prio=1, protocol=3)
        if dropped:
            program = bpf.load(code.program(), "cut")
            route.tc(
                "add-filter", "bpf", index, 1,
                fd=program, name="cut", parent=0xFFFFFFF3, prio=1, protocol=3, direct_action=True,
            )  # fmt: skip
            os.close(program)


# ---- kernel truth ----------------------------------------------------------------------------------------------------


class Change(NamedTuple):
    """An address came (`there`) to a node, or went. `when` is when we heard of it; the order is the kernel's."""

    when: int
    node: str
    address: str
    there: bool


class Overlap(NamedTuple):
    """Two nodes had an address at once. `until` is None when it had not ended."""

    address: str
    nodes: tuple[str, str]
    since: int
    until: int | None


class AddressOracle:
    """Hears of every address in all namespaces of a net from `start` to `stop`; a context manager."""

    def __init__(self, net: Net) -> None:
        self._net = net
        self.changes: list[Change] = []
        self.lost = False  # events were lost: the run proves nothing
        self._stopping = threading.Event()
        with inside(net.hub):
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._socket.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
        self._socket.setsockopt(270, 8, 1)  # NETLINK_LISTEN_ALL_NSID
        self._socket.bind((0, 0x10 | 0x100))
        self._socket.settimeout(0.05)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> AddressOracle:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Take in what has come so far, and end. A second call does nothing."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()
        self._socket.close()

    def holders(self, address: str) -> set[str]:
        """Who has it by what was heard so far."""
        held: set[str] = set()
        for change in list(self.changes):
            if change.address == address:
                held = held | {change.node} if change.there else held - {change.node}
        return held

    def overlaps(self) -> list[Overlap]:
        """Every time two nodes had the same address. The nodes' own addresses are theirs from before."""
        found: list[Overlap] = []
        held: dict[str, dict[str, int]] = {}
        open_: dict[tuple[str, tuple[str, str]], int] = {}
        for change in list(self.changes):
            nodes = held.setdefault(change.address, {})
            if change.there and change.node not in nodes:
                for other in nodes:
                    open_[change.address, tuple(sorted((other, change.node)))] = change.when  # type: ignore[index]
                nodes[change.node] = change.when
            elif not change.there and nodes.pop(change.node, None) is not None:
                for key in [key for key in open_ if key[0] == change.address and change.node in key[1]]:
                    found.append(Overlap(*key, open_.pop(key), change.when))
        return found + [Overlap(*key, since, None) for key, since in open_.items()]

    def _run(self) -> None:
        while True:
            last = self._stopping.is_set()
            try:
                data, ancillary, _, _ = self._socket.recvmsg(1 << 16, 256)
            except TimeoutError:
                if last:
                    return
                continue
            except OSError:  # ENOBUFS
                self.lost = True
                continue
            self._take(data, ancillary)

    def _take(self, data: bytes, ancillary: list[tuple[int, int, bytes]]) -> None:
        from vip.kernel.address_messages import RTM_DELADDR, RTM_NEWADDR, parse
        from vip.kernel.netlink import HEADER, split

        when = now_ns()
        numbers = [struct.unpack("=i", value[:4])[0] for level, kind, value in ancillary if (level, kind) == (270, 8)]
        if not numbers or not 0 <= numbers[0] < len(self._net.nodes):
            return
        for message in split(data):
            kind = HEADER.unpack_from(message)[1]
            if kind in (RTM_NEWADDR, RTM_DELADDR):
                raw = parse(message).spot.address
                text = socket.inet_ntop(socket.AF_INET if len(raw) == 4 else socket.AF_INET6, raw)
                self.changes.append(Change(when, self._net.nodes[numbers[0]], text, kind == RTM_NEWADDR))


# ---- wire truth ------------------------------------------------------------------------------------------------------


class Sight(NamedTuple):
    """`address` was announced, answered for or sent from by `mac`; `kind`: arp, na, data."""

    when: int
    address: str
    mac: str
    kind: str


class Return(NamedTuple):
    """`mac` spoke again for an address, so soon after another one had that it cannot have been a move."""

    address: str
    mac: str
    other: str
    after_ns: int
    when: int


class Sniffer:
    """Reads every frame on a bridge, for the addresses given; a context manager."""

    def __init__(self, net: Net, addresses: Iterable[str], network: str = LAN) -> None:
        self._wanted = {
            socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address): address
            for address in addresses
        }
        self.sights: list[Sight] = []
        self.lost = 0
        self._stopping = threading.Event()
        with inside(net.hub):
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
            self._socket.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)
            self._socket.setsockopt(socket.SOL_SOCKET, 35, 1)  # SO_TIMESTAMPNS
            self._socket.bind((network, 3))
            # A bridge hands up what it only forwards when it is promiscuous.
            membership = struct.pack("iHH8s", socket.if_nametoindex(network), 1, 0, b"")
            self._socket.setsockopt(263, 1, membership)
        self._socket.settimeout(0.05)
        self._to_boottime = _wall_to_boottime()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Sniffer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Take in what has come so far, and end. A second call does nothing."""
        if self._socket.fileno() < 0:
            return
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()
        self.lost = struct.unpack("II", self._socket.getsockopt(263, 6, 8))[1]  # PACKET_STATISTICS
        self._socket.close()

    def of(self, address: str, kind: str = "") -> list[Sight]:
        return [sight for sight in list(self.sights) if sight.address == address and kind in ("", sight.kind)]

    def returns(self, window_ns: int = SECOND) -> list[Return]:
        """Where A spoke, then B, then A again within the window after B's first word: both held the address.

        A single late word of A after B began counts too: it is what steals the address back in the world's tables.
        """
        found: list[Return] = []
        runs: dict[str, list[tuple[str, int]]] = {}
        for sight in sorted(self.sights):
            run_of = runs.setdefault(sight.address, [])
            if run_of and run_of[-1][0] == sight.mac:
                continue
            if len(run_of) >= 2 and run_of[-2][0] == sight.mac and sight.when - run_of[-1][1] < window_ns:
                after = sight.when - run_of[-1][1]
                found.append(Return(sight.address, sight.mac, run_of[-1][0], after, sight.when))
            run_of.append((sight.mac, sight.when))
        return found

    def _run(self) -> None:
        while True:
            last = self._stopping.is_set()
            try:
                frame, ancillary, _, _ = self._socket.recvmsg(128, 128)
            except TimeoutError:
                if last:
                    return
                continue
            for address, mac, kind in _spoken_for(frame):
                text = self._wanted.get(address)
                if text is not None:
                    self.sights.append(Sight(self._when(ancillary), text, mac.hex(":"), kind))

    def _when(self, ancillary: list[tuple[int, int, bytes]]) -> int:
        for level, kind, value in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, 35):
                seconds, nanoseconds = struct.unpack("qq", value)
                return int(seconds * SECOND + nanoseconds + self._to_boottime)
        return now_ns()


def _wall_to_boottime() -> int:
    """What to add to the kernel's wall-clock stamps: the best of some tries, as this process may be interrupted."""
    tries = []
    for _ in range(20):
        before, wall, after = now_ns(), time.time_ns(), now_ns()
        tries.append((after - before, (before + after) // 2 - wall))
    return min(tries)[1]


def _spoken_for(frame: bytes) -> Iterator[tuple[bytes, bytes, str]]:
    """(address, MAC, kind) for what a frame says about who has an address."""
    kind, source = frame[12:14], frame[6:12]
    if kind == b"\x08\x06" and len(frame) >= 42:
        if frame[28:32] != bytes(4):
            yield frame[28:32], frame[22:28], "arp"
    elif kind == b"\x08\x00" and len(frame) >= 34:
        yield frame[26:30], source, "data"
    elif kind == b"\x86\xdd" and len(frame) >= 54:
        is_advertisement = len(frame) >= 78 and frame[20] == 58 and frame[54] == 136
        yield (frame[62:78], source, "na") if is_advertisement else (frame[22:38], source, "data")


# ---- client truth ----------------------------------------------------------------------------------------------------


@dataclass
class Heard:
    """What a client noted for one address: (sent, received, node), in ns of CLOCK_BOOTTIME, and how many it sent."""

    answers: list[tuple[int, int, str]] = field(default_factory=list)
    sent: int = 0

    def gaps(self, longer_than_ns: int = SECOND // 20) -> list[tuple[int, int]]:
        """(since, how long) between questions that were answered, where that took longer than usual."""
        times = sorted(sent for sent, _, _ in self.answers)
        return [(a, b - a) for a, b in itertools.pairwise(times) if b - a > longer_than_ns]

    def longest_gap(self) -> int:
        return max((length for _, length in self.gaps(0)), default=0)

    def nodes(self) -> list[str]:
        """Who answered, in order, without repetition."""
        found: list[str] = []
        for _, node in sorted((received, node) for _, received, node in self.answers):
            if not found or found[-1] != node:
                found.append(node)
        return found


class Client:
    """`Client(net, "client", addresses, tmp_path)`: asks from one node, while echoes answer on others.

    `with Client(...) as client: ...` and then `client.heard(address)`.
    """

    def __init__(self, net: Net, node: str, addresses: Sequence[str], directory: Path, per_second: int = 100) -> None:
        self._file = directory / f"client-{secrets.token_hex(3)}.jsonl"
        self._addresses = list(addresses)
        self._heard: dict[str, Heard] | None = None
        script = [sys.executable, str(TESTS / "vip_echo.py"), "ask", str(self._file), str(per_second), *addresses]
        self._process = net.popen(node, script, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert self._process.wait(30) == 0

    def heard(self, address: str) -> Heard:
        """What was noted; after `stop`."""
        if self._heard is None:
            self._heard = {name: Heard() for name in self._addresses}
            for line in self._file.read_text().splitlines():
                note = json.loads(line)
                if "sent" in note:
                    for name, count in note["sent"].items():
                        self._heard[name].sent = count
                else:
                    self._heard[note["address"]].answers.append((note["asked"], note["received"], note["node"]))
        return self._heard[address]


def start_echo(net: Net, node: str) -> subprocess.Popen[Any]:
    """A process on a node that answers a `Client`, from whatever address it was asked at."""
    echo = net.popen(node, [sys.executable, str(TESTS / "vip_echo.py"), "echo", node], stdout=subprocess.PIPE)
    assert echo.stdout is not None
    assert echo.stdout.readline() == b"ready\n"
    return echo
