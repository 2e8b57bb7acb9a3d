"""The gate: past the deadline nothing leaves from a floating address, whatever became of the daemon; the rest does."""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import signal
import socket
import struct
import time
from collections.abc import Iterator

import pytest
from vip_kernel_support import LONG, SECOND, Holder, floating, kill_hard, running, shown, until
from vip_net import Client, Net, Sniffer, inside, need_namespaces, now_ns, start_echo

from vip.kernel import bpf, gate_program, packets
from vip.kernel.errors import KernelError
from vip.kernel.gate import Gate, NoGate

PASS, DROP = 0xFFFFFFFF, 2
_PROGRAM_TEST_RUN = 10


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    need_namespaces()
    with Net(["n1", "n2", "client"], networks=("lan", "mgmt")) as made:
        yield made


@pytest.fixture(scope="module", params=["boot", "monotonic"])
def clock(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Program:
    """The program itself, run by the kernel on frames that are handed to it."""

    def __init__(self, clock: str) -> None:
        self.deadline_fd = bpf.create_map(bpf.MAP_ARRAY, 4, 8, 1, bpf.MAP_MMAPABLE, "t")
        self.deadline = bpf.SharedNumber(self.deadline_fd)
        self.floating = bpf.HashSet(16, 64, "t")
        code = gate_program.build(self.deadline_fd, self.floating.fd, "boot" if clock == "boot" else "monotonic")
        self.fd = bpf.load(code, "t")

    def verdict(self, frame: bytes) -> int:
        data = ctypes.create_string_buffer(frame, len(frame))
        out = ctypes.create_string_buffer(len(frame) + 256)
        attributes = ctypes.create_string_buffer(
            struct.pack(
                "=IIIIQQII", self.fd, 0, len(frame), len(out), ctypes.addressof(data), ctypes.addressof(out), 1, 0
            ),
            128,
        )
        number = bpf._SYSCALLS[os.uname().machine]
        result = bpf._libc.syscall(number, _PROGRAM_TEST_RUN, attributes, 72)
        assert result == 0, os.strerror(ctypes.get_errno())
        return struct.unpack_from("=I", attributes, 4)[0]

    def close(self) -> None:
        os.close(self.fd)
        self.floating.close()
        self.deadline.close()
        os.close(self.deadline_fd)


@pytest.fixture
def program(clock: str) -> Iterator[Program]:
    need_namespaces()
    made = Program(clock)
    yield made
    made.close()


V4, V6 = bytes([10, 77, 16, 1]), bytes.fromhex("fd770000000000000000000000010001")
OTHER4, OTHER6 = bytes([10, 77, 0, 1]), bytes.fromhex("fd770000000000000000000000000001")
MAC = bytes.fromhex("020000000001")


def ethernet(protocol: int, payload: bytes) -> bytes:
    return (b"\xff" * 6 + MAC + protocol.to_bytes(2, "big") + payload).ljust(60, b"\0")


def ipv4(source: bytes) -> bytes:
    return ethernet(0x0800, struct.pack("!BBHHHBBH", 0x45, 0, 28, 0, 0, 64, 17, 0) + source + OTHER4 + bytes(8))


def ipv6(source: bytes, following: int = 17, body: bytes = bytes(8)) -> bytes:
    return ethernet(0x86DD, struct.pack("!IHBB", 6 << 28, len(body), following, 64) + source + OTHER6 + body)


def spoken(address: bytes) -> list[bytes]:
    """Every kind of frame that says that `address` is here."""
    said = [ethernet(packet.protocol, packet.payload) for packet in packets.announcements(address, MAC)]
    if len(address) == 4:
        return [*said, ipv4(address)]
    # An advertisement whose source is another address of the machine, as the kernel may answer.
    answer = bytes([136, 0, 0, 0, 0x60, 0, 0, 0]) + address + bytes([2, 1]) + MAC
    return [*said, ipv6(address), ipv6(OTHER6, 58, answer)]


def test_a_closed_gate_drops_what_speaks_for_a_floating_address_and_nothing_else(program: Program) -> None:
    for address in (V4, V6):
        program.floating.add(gate_program.key(address))
    for frame in (*spoken(V4), *spoken(V6)):
        assert program.verdict(frame) == DROP
    questions = [
        ethernet(packet.protocol, packet.payload) for packet in (packets.probe(V4, MAC), packets.probe(V6, MAC))
    ]
    router_advertisement = ipv6(OTHER6, 58, bytes([134]) + bytes(15) + V6)
    for frame in (*spoken(OTHER4), *spoken(OTHER6), *questions, router_advertisement, ethernet(0x88CC, V4 * 8)):
        assert program.verdict(frame) == PASS
    program.floating.discard(gate_program.key(V4))
    assert {program.verdict(frame) for frame in spoken(V4)} == {PASS}
    assert {program.verdict(frame) for frame in spoken(V6)} == {DROP}


def test_an_open_gate_drops_nothing_until_the_very_deadline(program: Program, clock: str) -> None:
    program.floating.add(gate_program.key(V4))
    which = time.CLOCK_BOOTTIME if clock == "boot" else time.CLOCK_MONOTONIC
    program.deadline.set(time.clock_gettime_ns(which) + LONG)
    assert {program.verdict(frame) for frame in spoken(V4)} == {PASS}
    deadline = time.clock_gettime_ns(which) + SECOND // 10
    program.deadline.set(deadline)
    while time.clock_gettime_ns(which) < deadline + SECOND // 100:
        before = time.clock_gettime_ns(which)
        verdict = program.verdict(ipv4(V4))
        after = time.clock_gettime_ns(which)
        assert verdict == (PASS if after < deadline else DROP if before >= deadline else verdict)
    program.deadline.set(0)
    assert program.verdict(ipv4(V4)) == DROP


def test_random_frames_have_the_verdict_of_a_plain_reading(program: Program, rng: random.Random) -> None:
    """The program against twenty lines of Python, on frames that nearly say something."""
    inside_set = [V4, V6]
    for address in inside_set:
        program.floating.add(gate_program.key(address))

    def plain(frame: bytes) -> int:
        protocol = frame[12:14]
        if protocol == b"\x08\x06":
            return DROP if frame[28:32] == V4 else PASS
        if protocol == b"\x08\x00":
            return DROP if frame[26:30] == V4 else PASS
        if protocol == b"\x86\xdd" and frame[22:38] == V6:
            return DROP
        if protocol == b"\x86\xdd" and len(frame) >= 78 and frame[20] == 58 and frame[54] == 136:
            return DROP if frame[62:78] == V6 else PASS
        return PASS

    good = [*spoken(V4), *spoken(V6), *spoken(OTHER4), *spoken(OTHER6)]
    verdicts = set()
    for _ in range(3000):
        frame = bytearray(rng.choice(good))
        for _ in range(rng.randint(0, 3)):
            frame[rng.randrange(12, len(frame))] = rng.choice([0, 1, 6, 8, 58, 134, 135, 136, 0x86, 0xDD, 255])
        frame = frame[: rng.choice([len(frame), rng.randint(60, max(60, len(frame)))])]
        assert program.verdict(bytes(frame)) == plain(bytes(frame)), frame.hex()
        verdicts.add(plain(bytes(frame)))
    assert verdicts == {PASS, DROP}


@pytest.mark.slow
def test_a_frozen_node_falls_silent_at_the_deadline_and_keeps_its_own_voice(net: Net, tmp_path) -> None:
    """Daemon and guard stopped: the addresses are still there, and nobody on the network hears of them."""
    some = [floating(net.floating(1)), floating(net.floating6(1))]
    addresses = [one.address for one in some]
    own = [net.address("n1"), net.address6("n1")]
    start_echo(net, "n1")
    with (
        Sniffer(net, [*addresses, *own]) as sniffer,
        Client(net, "client", [*addresses, *own], tmp_path),
        Holder(net, "n1", some, window=3.0) as holder,
    ):
        assert holder.start["gate"] == "bpf"
        until(lambda: all(sniffer.of(address, "data") for address in addresses), "they answer")
        for pid in (holder.pid, holder.guard):
            os.kill(pid, signal.SIGSTOP)
        deadline = holder.deadline()
        until(lambda: now_ns() > deadline + SECOND, "a second after the deadline")
        net.run("client", "ip", "neigh", "flush", "dev", "lan")
        until(lambda: now_ns() > deadline + 2 * SECOND, "another second, in which the client asks who has it")
        assert set(addresses) <= set(shown(net, "n1"))
    for address in addresses:
        assert max(sight.when for sight in sniffer.of(address)) < deadline + holder.start["lateness"] + SECOND // 10
    for address in own:
        assert max(sight.when for sight in sniffer.of(address)) > deadline + SECOND // 2


def test_a_killed_node_leaves_a_closed_gate_and_the_next_run_replaces_it(net: Net) -> None:
    one = floating(net.floating(2))
    with Holder(net, "n1", [one]) as holder:
        kill_hard(holder.pid, holder.guard)
    assert filters(net, "n1") == 1
    with running(net, "n1") as (kernel, _):
        assert filters(net, "n1") == 1
        assert kernel._gate is not None
    assert filters(net, "n1") == 0
    assert "clsact" not in net.run("n1", "tc", "qdisc", "show", "dev", "lan")


def filters(net: Net, node: str) -> int:
    return net.run(node, "tc", "filter", "show", "dev", "lan", "egress").count("handle 0x9c")


def test_filters_of_others_stay(net: Net) -> None:
    net.run("n1", "tc", "qdisc", "add", "dev", "lan", "clsact")
    other = "tc filter add dev lan egress prio 7 protocol ip u32 match ip dst 192.0.2.1 classid 1:1"
    net.run("n1", *other.split(" "))
    with running(net, "n1"):
        assert filters(net, "n1") == 1
    shown_filters = net.run("n1", "tc", "filter", "show", "dev", "lan", "egress")
    assert "u32" in shown_filters and "vip_gate" not in shown_filters
    net.run("n1", "tc", "qdisc", "del", "dev", "lan", "clsact")


def test_interfaces_come_and_go(net: Net) -> None:
    with running(net, "n1") as (kernel, _):
        one = floating(net.floating(3), "mgmt")
        assert "not among" in kernel.add([one], now_ns() + LONG)[one]
        kernel.set_interfaces(["mgmt"])
        assert filters(net, "n1") == 0
        assert kernel.add([one], now_ns() + LONG) == {}
        with pytest.raises(KernelError, match="no interface nowhere"):
            kernel.set_interfaces(["mgmt", "nowhere"])
        kernel.remove([one])


def test_an_interface_that_went_and_came_back_gets_a_gate_before_its_first_address(net: Net) -> None:
    def plug() -> None:
        net.run("n2", "ip", "link", "add", "spare", "type", "veth", "peer", "name", "spare2")
        net.run("n2", "ip", "link", "set", "spare", "up")

    plug()
    one = floating(net.floating(4), "spare")
    with running(net, "n2", interfaces=("spare",)) as (kernel, _):
        assert kernel.add([one], now_ns() + LONG) == {}
        net.run("n2", "ip", "link", "del", "spare")
        assert kernel.remove([one]) == {}  # it went with its interface
        assert "no interface" in kernel.add([one], now_ns() + LONG)[one]
        plug()
        assert kernel.add([one], now_ns() + LONG) == {}
        assert "vip_gate" in net.run("n2", "tc", "filter", "show", "dev", "spare", "egress")
    net.run("n2", "ip", "link", "del", "spare")


def test_what_is_no_ethernet_has_no_gate(net: Net) -> None:
    with pytest.raises(NoGate, match="lo is not an Ethernet"), running(net, "n1", interfaces=("lo",), gate="bpf"):
        pass
    with running(net, "n1", interfaces=("lo",)) as (kernel, _):
        assert kernel._gate is None


def test_the_gate_has_room_for_so_many_addresses_and_says_so(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vip.kernel.gate.ADDRESSES_MAX", 4)
    some = [floating(net.floating(50 + n)) for n in range(6)]
    with running(net, "n1") as (kernel, _):
        failed = kernel.add(some, now_ns() + LONG)
        assert len(failed) == 6 and "no room in the gate's set" in failed[some[0]]
        assert kernel.add(some[:4], now_ns() + LONG) == {}


def test_a_kernel_that_refuses_is_quoted(monkeypatch: pytest.MonkeyPatch, net: Net) -> None:
    def refused(command: int, attributes: bytes) -> int:
        raise OSError(1, "Operation not permitted")

    with inside(net.namespace("n1")):
        monkeypatch.setattr(bpf, "bpf", refused)
        with pytest.raises(NoGate, match="CAP_BPF and CAP_NET_ADMIN"):
            Gate()
        monkeypatch.setattr(bpf, "bpf", lambda *_: (_ for _ in ()).throw(OSError(38, "Function not implemented")))
        with pytest.raises(NoGate, match="has no bpf"):
            Gate()
    monkeypatch.undo()
    with pytest.raises(bpf.Rejected) as found:
        bpf.load(struct.pack("=BBhi", 0x95, 0, 0, 0), "no_return_value")
    assert "R0" in found.value.log


def test_without_the_boot_clock_the_other_one_is_used(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    load = bpf.load
    refused = []

    def without_boot_clock(program: bytes, name: str) -> int:
        if struct.pack("=BBhi", 0x85, 0, 0, 125) in program:
            refused.append(name)
            raise bpf.Rejected(22, "3: (85) call unknown#125\nunknown func unknown#125")
        return load(program, name)

    monkeypatch.setattr(bpf, "load", without_boot_clock)
    one = floating(net.floating(5))
    with Sniffer(net, [one.address]) as sniffer, running(net, "n1") as (kernel, _):
        assert refused and kernel._gate is not None and kernel._gate.clock == "monotonic"
        kernel.add([one], now_ns() + LONG)
        kernel.announce([one])
        until(lambda: sniffer.of(one.address, "arp"), "an open gate")
        kernel._gate.set_deadline(now_ns() + SECOND // 10)  # the gate alone; the announcer would go on
        deadline = now_ns() + SECOND // 10
        kernel.announce([one])
        until(lambda: now_ns() > deadline + SECOND // 10, "the deadline passes")
        kernel.announce([one])
        time.sleep(0.3)
        assert kernel.counters().values["announcements_failed"] > 0
    assert max(sight.when for sight in sniffer.of(one.address)) < deadline + SECOND // 10


def test_sockets_of_a_held_address_may_speak_until_the_deadline(net: Net) -> None:
    """Data, too, stops: an open connection of a frozen node does not go on speaking for the address."""
    one = floating(net.floating(6))
    with Sniffer(net, [one.address]) as sniffer, running(net, "n1") as (kernel, _):
        kernel.add([one], now_ns() + LONG)
        speaker = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        speaker.bind((one.address, 0))
        speaker.sendto(b"x", (net.address("client"), 9))
        until(lambda: sniffer.of(one.address, "data"), "an open gate")
        kernel.set_deadline(0)
        closed = now_ns()
        for _ in range(20):
            with contextlib.suppress(OSError):  # the kernel may say that it was dropped
                speaker.sendto(b"x", (net.address("client"), 9))
        speaker.close()
    assert all(sight.when < closed + SECOND // 100 for sight in sniffer.of(one.address))
