"""The kernel's half: thousands of addresses beside `ip -batch`, what the gate costs, how late lifetimes are.

`ip -batch` adds the same addresses with the same lifetimes, in turns with ours on the same machine: what both need
most of the time is the kernel's own walk over the list of addresses.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median

from vip_net import Net, Sniffer, inside

from bench.vip.results import Measure
from vip.kernel import bpf, gate_program, open_kernel, packets
from vip.kernel.address_messages import Spot, add, listed, remove_ours
from vip.kernel.clock import now_ns
from vip.kernel.interface import Floating, Kernel, KernelSettings
from vip.kernel.linux import LinuxKernel
from vip.kernel.netlink import Netlink

SECOND_NS = 1_000_000_000
HOUR_NS = 3600 * SECOND_NS
IPV4_COUNT = 10_240
IPV6_COUNT = 2_000
# What the deciding half hands over at once.
CALL_MAX = 500
GATE_STORES = 200_000
PROGRAM_RUNS = 1_000_000
_PROGRAM_TEST_RUN = 10
# Heartbeats a second in the quickest profile: that often the deadline is moved.
HEARTBEATS = 4


def measure(directory: Path, rounds: int) -> list[Measure]:
    """Everything, in a network of its own."""
    found: list[Measure] = []
    with Net(["a", "b"]) as net, inside(net.namespace("a")):
        for name, count, address in (("IPv4", IPV4_COUNT, net.floating), ("IPv6", IPV6_COUNT, net.floating6)):
            found += _bulk(directory, rounds, name, [address(number) for number in range(count)])
        found += _gate()
        found.append(_closing(net, rounds * 4))
        found += _lifetimes(rounds * 4)
    return found


@contextmanager
def _kernel(gate: str) -> Iterator[Kernel]:
    kernel = open_kernel(KernelSettings(gate="bpf" if gate == "bpf" else "lifetime", interfaces=("lan",)))
    kernel.start(lambda event: None)
    kernel.set_deadline(now_ns() + HOUR_NS)
    try:
        yield kernel
    finally:
        kernel.stop()


def _bulk(directory: Path, rounds: int, name: str, addresses: Sequence[str]) -> list[Measure]:
    """Added, read, refreshed and removed, in turns with `ip -batch`."""
    bits = 128 if ":" in addresses[0] else 32
    wanted = [Floating(address, "lan", bits) for address in addresses]
    adding, removing = directory / "add.batch", directory / "del.batch"
    flags = "nodad noprefixroute" if bits == 128 else "noprefixroute"
    adding.write_text(
        "".join(f"addr add {a}/{bits} dev lan valid_lft 600 preferred_lft 600 {flags}\n" for a in addresses)
    )
    removing.write_text("".join(f"addr del {a}/{bits} dev lan\n" for a in addresses))
    times: dict[str, list[float]] = {}

    def timed(what: str, work: Callable[[], object]) -> None:
        begin = time.perf_counter()
        work()
        times.setdefault(what, []).append(time.perf_counter() - begin)

    for _ in range(rounds):
        timed("add, ip -batch", lambda: subprocess.run(["ip", "-batch", str(adding)], check=True))
        timed("remove, ip -batch", lambda: subprocess.run(["ip", "-batch", str(removing)], check=True))
        for gate in ("lifetime", "bpf"):
            with _kernel(gate) as kernel:
                timed(f"add, ours, gate {gate}", lambda k=kernel: _add(k, wanted))  # type: ignore[misc]
                timed(f"read back, ours, gate {gate}", kernel.present)
                if gate == "lifetime":
                    timed("refresh lifetimes, ours", lambda k=kernel: k.refresh(now_ns() + 2 * HOUR_NS))  # type: ignore[misc]
                else:
                    times.setdefault("lifetimes behind the gate, share of a core, %", []).append(_backstop(kernel))
                timed(f"remove, ours, gate {gate}", lambda k=kernel: k.remove(wanted))  # type: ignore[misc]
                if gate == "lifetime":
                    _add(kernel, wanted)
                    timed("remove, as the guard does, with reading before and after", _as_the_guard)
    return [_measure(f"{len(addresses):,} {name}: {what}", values) for what, values in times.items()]


def _add(kernel: Kernel, wanted: Sequence[Floating]) -> None:
    until = now_ns() + HOUR_NS
    for at in range(0, len(wanted), CALL_MAX):
        failed = kernel.add(wanted[at : at + CALL_MAX], until)
        assert not failed, failed


def _backstop(kernel: Kernel) -> float:
    """Percent of a core that lifetimes behind the gate take: processor time of setting all, every half of them."""
    assert isinstance(kernel, LinuxKernel) and kernel._parts is not None
    kernel._parts.addresses._refreshed_ns = 0  # as if it were time
    begin = time.thread_time()
    kernel.refresh(now_ns() + 2 * HOUR_NS)
    spent = time.thread_time() - begin
    return spent / (KernelSettings().backstop_lifetime_seconds / 2) * 100


def _as_the_guard() -> None:
    netlink = Netlink()
    remove_ours(netlink)
    assert not [row for row in listed(netlink) if row.ours]
    netlink.close()


def _gate() -> list[Measure]:
    """A move of the deadline, and a packet through the program."""
    with _kernel("bpf") as kernel:
        until = now_ns() + HOUR_NS
        begin = time.process_time()
        for number in range(GATE_STORES):
            kernel.set_deadline(until + number)
        each = (time.process_time() - begin) / GATE_STORES
    found = [
        _measure("deadline moved once: gate, guard, announcer", [each]),
        _measure(f"share of a core, deadline moved {HEARTBEATS} times a second, %", [each * HEARTBEATS * 100]),
    ]
    announcement = packets.announcements(bytes([10, 77, 16, 1]), bytes(6))[0]
    frame = bytes(12) + packets.ETH_P_ARP.to_bytes(2, "big") + announcement.payload
    for name, open_until in (("open", until), ("closed", 0)):
        nanoseconds = _program_ns(frame.ljust(60, b"\0"), open_until)
        found.append(_measure(f"gate {name}, a packet of a floating address", [nanoseconds / 1e9]))
    return found


def _closing(net: Net, samples: int) -> Measure:
    """The last packet on the wire after the deadline, while a program sends from the address as fast as it can.

    Only the gate knows the deadline: what a queue or a clock adds is in it. Below zero: the last one was before.
    """
    address, late = net.floating(5), []
    with _kernel("bpf") as kernel:
        assert isinstance(kernel, LinuxKernel) and kernel._gate is not None
        kernel.add([Floating(address, "lan", 32)], now_ns() + HOUR_NS)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as speaker:
            speaker.bind((address, 0))
            for _ in range(samples):
                with Sniffer(net, [address]) as sniffer:
                    deadline = now_ns() + SECOND_NS // 10
                    kernel._gate.set_deadline(deadline)  # the guard would remove the address
                    while now_ns() < deadline + SECOND_NS // 20:
                        with suppress(OSError):  # dropped, and said so
                            speaker.sendto(b"x", (net.address("b"), 9))
                late.append((max(sight.when for sight in sniffer.of(address, "data")) - deadline) / 1e9)
                kernel._gate.set_deadline(now_ns() + HOUR_NS)
    return _measure("gate: the last packet on the wire, after the deadline", late)


def _program_ns(frame: bytes, deadline: int) -> float:
    """What the kernel measures for one run of the program, averaged over many."""
    deadline_fd = bpf.create_map(bpf.MAP_ARRAY, 4, 8, 1, bpf.MAP_MMAPABLE)
    shared = bpf.SharedNumber(deadline_fd)
    shared.set(deadline)
    floating = bpf.HashSet(16, 16_384, "bench")
    for number in range(10_240):
        floating.add(gate_program.key(bytes([10, 77, 16 + (number >> 8), number & 255])))
    program = bpf.load(gate_program.build(deadline_fd, floating.fd, "boot"), "bench")
    data, out = ctypes.create_string_buffer(frame, len(frame)), ctypes.create_string_buffer(512)
    pointers = ctypes.addressof(data), ctypes.addressof(out)
    attributes = ctypes.create_string_buffer(
        struct.pack("=IIIIQQI", program, 0, len(frame), len(out), *pointers, PROGRAM_RUNS), 128
    )
    number = bpf._SYSCALLS[os.uname().machine]
    assert bpf._libc.syscall(number, _PROGRAM_TEST_RUN, attributes, 72) == 0, "BPF_PROG_TEST_RUN"
    for descriptor in (program, floating.fd, deadline_fd):
        os.close(descriptor)
    return float(struct.unpack_from("=I", attributes, 36)[0])


def _lifetimes(samples: int) -> list[Measure]:
    """How late the kernel ends an address whose lifetime of a second is over, polled every millisecond.

    Any change of an address makes the kernel look for ended ones, and then not again for a second. So an end shortly
    after some other change is the late one.
    """
    found = []
    netlink = Netlink()
    index = socket.if_nametoindex("lan")
    ipv6 = bytes.fromhex("fd77" + "00" * 13 + "99")
    for name, raw, bits in (("IPv4", bytes([10, 77, 16, 1]), 32), ("IPv6", ipv6, 128)):
        for disturbed in (False, True):
            late = []
            for sample in range(samples):
                begin = time.monotonic()
                netlink.bulk([add(Spot(raw, index, bits), 1)])
                if disturbed:
                    time.sleep(0.1 + 0.85 * sample / samples)
                    netlink.bulk([add(Spot(raw[:-1] + b"\xfe", index, bits), 600)])
                while any(row.ours and row.spot.address == raw for row in listed(netlink)):
                    time.sleep(0.001)
                late.append(time.monotonic() - begin - 1)
                remove_ours(netlink)
            when = "after another change" if disturbed else "alone"
            found.append(_measure(f"{name}: a lifetime of 1 s, {when}, ends late by", late))
    netlink.close()
    return found


def _measure(name: str, values: Sequence[float]) -> Measure:
    return Measure(name=name, value=median(values), runs=list(values))
