"""Probing: a foreign host that has an address says so, with its MAC; nobody else does."""

from __future__ import annotations

import random
import socket
import struct
import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vip_kernel_support import LONG, SECOND, floating, running, until
from vip_net import Net, Sniffer, inside, need_namespaces, now_ns

from vip.kernel import packets
from vip.kernel.announcer import Announcer
from vip.kernel.listener import Listener
from vip.kernel.schedule import Rhythm

MAC = bytes.fromhex("020000000001")
WINDOW = SECOND // 5

addresses = st.one_of(st.binary(min_size=4, max_size=4), st.binary(min_size=16, max_size=16)).filter(any)


@given(addresses, st.binary(min_size=6, max_size=6).filter(lambda mac: any(mac) and mac != b"\xff" * 6))
def test_what_is_built_is_understood(address: bytes, mac: bytes) -> None:
    for packet in packets.announcements(address, mac):
        assert packets.heard(packet.protocol, packet.payload, mac) == packets.Heard(address, mac)
    asked = packets.probe(address, mac)
    assert packets.heard(asked.protocol, asked.payload, mac) == packets.Heard(address, mac, asking=True)


def test_an_announcement_is_a_request_and_a_reply() -> None:
    """Some hosts learn only from the one, some only from the other."""
    said = packets.announcements(bytes([10, 0, 0, 1]), MAC)
    assert [packet.payload[6:8] for packet in said] == [b"\0\1", b"\0\2"]
    assert {(packet.protocol, packet.to) for packet in said} == {(0x0806, b"\xff" * 6)}


@given(st.sampled_from([packets.ETH_P_ARP, packets.ETH_P_IPV6, 0x0800]), st.binary(max_size=100))
def test_any_bytes_are_no_error(protocol: int, payload: bytes) -> None:
    packets.heard(protocol, payload, MAC)


@given(st.binary(min_size=16, max_size=16))
def test_the_checksum_adds_up(address: bytes) -> None:
    for payload in (packets.announcements(address, MAC)[0].payload, packets.probe(address, MAC).payload):
        body = payload[40:]
        summed = payload[8:40] + struct.pack("!II", len(body), 58) + body
        total = sum(struct.unpack(f"!{len(summed) // 2}H", summed))
        while total >> 16:
            total = (total & 0xFFFF) + (total >> 16)
        assert total == 0xFFFF


def test_our_own_voice_on_another_of_our_interfaces_is_not_foreign() -> None:
    """Two interfaces in one network: what leaves the one comes in at the other."""
    own, other, reported = MAC, bytes.fromhex("020000000002"), []
    listener = Listener(None, lambda: {"lan": own, "second": other}, reported.append)  # type: ignore[arg-type]
    address = bytes([10, 77, 16, 1])
    listener._asked = {("lan", address): None}
    for asking in (False, True):
        listener._consider("lan", packets.Heard(address, other, asking))
    assert listener._asked == {("lan", address): None} and not reported
    stranger = bytes.fromhex("020000000003")
    listener._consider("lan", packets.Heard(address, stranger))
    assert listener._asked == {("lan", address): stranger}


def test_what_concerns_nobody_here_is_dropped_at_once_while_announcements_are_sent() -> None:
    """Where thousands of addresses move, every node hears of all of them: it must neither look things up nor wait."""

    def macs() -> dict[str, bytes]:
        raise AssertionError("it is asked who we are for what is about nobody here")

    announcer = Announcer(Rhythm(5, 10**9, 45 * 10**9), 1000, dict, lambda: 0)
    listener = Listener(announcer, macs, lambda conflict: None)
    with announcer._lock:  # as while it sends
        listener._consider("lan", packets.Heard(bytes([10, 77, 16, 1]), MAC))


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    need_namespaces()
    with Net(["n1", "n2", "host"], networks=("lan", "mgmt")) as made:
        yield made


@pytest.fixture
def foreign(net: Net) -> Iterator[list[str]]:
    """Addresses that a foreign host has."""
    taken = [net.floating(1), net.floating6(1)]
    for address in taken:
        bits = "128" if ":" in address else "32"
        net.run("host", "ip", "addr", "add", f"{address}/{bits}", "dev", "lan", *(["nodad"] if ":" in address else []))
    yield taken
    for address in taken:
        net.run("host", "ip", "addr", "del", f"{address}/{'128' if ':' in address else '32'}", "dev", "lan")


def test_a_foreign_host_answers_with_its_mac(net: Net, foreign: list[str]) -> None:
    free = [net.floating(2), net.floating6(2)]
    with running(net, "n1") as (kernel, events), Sniffer(net, [*foreign, *free]) as sniffer:
        found = kernel.probe([floating(address) for address in (*foreign, *free)], WINDOW)
        assert found == dict.fromkeys(foreign, net.mac("host"))
        assert kernel.counters().values["probes_sent"] == 12  # three for each
        until(lambda: len(sniffer.of(foreign[0], "arp")) >= 1, "the answer on the wire")
    assert {sight.mac for sight in sniffer.sights} == {net.mac("host")}  # a probe says nothing for an address
    assert not events


def test_what_we_hold_ourselves_is_not_foreign(net: Net) -> None:
    some = [floating(net.floating(3)), floating(net.floating6(3)), floating(net.floating(4), "mgmt")]
    with running(net, "n1", interfaces=("lan", "mgmt")) as (kernel, _):
        kernel.add(some, now_ns() + LONG)
        assert kernel.probe(some, WINDOW) == {}


def test_a_holder_under_a_closed_gate_does_not_answer(net: Net) -> None:
    """It is silent to everybody, so an address may be taken from a frozen node."""
    some = [floating(net.floating(5)), floating(net.floating6(5))]
    ready, done = threading.Event(), threading.Event()

    def hold() -> None:
        with running(net, "n2", gate="bpf") as (kernel, _):
            kernel.add(some, now_ns() + LONG)
            kernel._gate.set_deadline(0)  # type: ignore[union-attr]  # the gate alone: a frozen node
            ready.set()
            done.wait(60)

    holder = threading.Thread(target=hold)
    holder.start()
    try:
        assert ready.wait(60)
        with running(net, "n1") as (kernel, _):
            assert kernel.probe(some, WINDOW) == {}
    finally:
        done.set()
        holder.join()


def test_somebody_who_probes_for_it_at_the_same_time_counts(net: Net) -> None:
    wanted = floating(net.floating(6))
    stop = threading.Event()

    def rival() -> None:
        with inside(net.namespace("host")):
            mac = bytes.fromhex(net.mac("host").replace(":", ""))
            with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0) as asking:
                packet = packets.probe(socket.inet_aton(wanted.address), mac)
                while not stop.wait(0.02):
                    asking.sendto(packet.payload, ("lan", packet.protocol, 0, 0, packet.to))

    thread = threading.Thread(target=rival)
    thread.start()
    try:
        with running(net, "n1") as (kernel, _):
            assert kernel.probe([wanted], WINDOW) == {wanted.address: net.mac("host")}
    finally:
        stop.set()
        thread.join()


def test_an_answer_on_another_interface_is_about_another_network(net: Net) -> None:
    address = net.floating(7)
    net.run("host", "ip", "addr", "add", f"{address}/32", "dev", "lan")
    net.setting("host", "ipv4/conf/all/arp_ignore", "1")
    with running(net, "n1", interfaces=("lan", "mgmt")) as (kernel, _):
        assert kernel.probe([floating(address, "mgmt")], WINDOW) == {}
        assert kernel.probe([floating(address, "lan")], WINDOW) == {address: net.mac("host")}
    net.run("host", "ip", "addr", "del", f"{address}/32", "dev", "lan")


def test_an_interface_that_is_down_answers_nothing(net: Net, foreign: list[str]) -> None:
    with running(net, "n1") as (kernel, events):
        net.carrier("n1", False)
        until(lambda: events, "the loss is known")
        assert kernel.probe([floating(foreign[0])], WINDOW) == {}
        net.carrier("n1", True)
        until(lambda: kernel.links()["lan"].up, "it is back")


def test_an_answer_that_nobody_has_read_yet_counts(
    net: Net, foreign: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The watcher's thread gets no processor until the window is over."""
    with running(net, "n1") as (kernel, _):
        watcher = kernel._parts.watcher
        assert watcher is not None
        go_on = threading.Event()
        monkeypatch.setattr(watcher, "_hear_kernel", lambda: go_on.wait(60))
        net.run("n1", "ip", "link", "set", "mgmt", "down")
        net.run("n1", "ip", "link", "set", "mgmt", "up")
        time.sleep(0.3)
        try:
            found = kernel.probe([floating(address) for address in foreign], WINDOW)
        finally:
            go_on.set()
            monkeypatch.undo()
        assert found == dict.fromkeys(foreign, net.mac("host"))


def test_five_hundred_at_once(net: Net, rng: random.Random) -> None:
    numbers = rng.sample(range(1000, 9000), 500)
    taken = {net.floating(number) for number in rng.sample(numbers, 40)}
    for address in taken:
        net.run("host", "ip", "addr", "add", f"{address}/32", "dev", "lan")
    with running(net, "n1") as (kernel, _):
        found = kernel.probe([floating(net.floating(number)) for number in numbers], SECOND)
    assert found == dict.fromkeys(taken, net.mac("host"))
