"""What watches the tests of `vip` sees what it should: an oracle that sees nothing proves nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from vip_net import SECOND, AddressOracle, Client, Net, Sniffer, need_namespaces, start_echo

SECONDS_MAX = 60.0


def until(true: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + SECONDS_MAX
    while not true():
        assert time.monotonic() < deadline, f"not within {SECONDS_MAX:g} s: {what}"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    need_namespaces()
    with Net(["n1", "n2", "client"], networks=("lan", "mgmt")) as made:
        yield made


def take(net: Net, node: str, address: str) -> None:
    net.run(node, "ip", "addr", "add", address, "dev", "lan", *(["nodad"] if ":" in address else []))


def leave(net: Net, node: str, address: str) -> None:
    net.run(node, "ip", "addr", "del", address, "dev", "lan")


def test_the_oracle_sees_two_holders_and_not_a_move(net: Net) -> None:
    moved, doubled = net.floating(1), net.floating6(2)
    with AddressOracle(net) as oracle:
        take(net, "n1", moved)
        leave(net, "n1", moved)
        take(net, "n2", moved)
        take(net, "n1", doubled)
        take(net, "n2", doubled)
        leave(net, "n1", doubled)
        until(lambda: oracle.holders(doubled) == {"n2"}, "the oracle hears of the last change")
        assert oracle.holders(moved) == {"n2"}
    assert not oracle.lost
    [overlap] = oracle.overlaps()
    assert overlap.address == doubled and overlap.nodes == ("n1", "n2") and overlap.until is not None
    leave(net, "n2", moved)
    leave(net, "n2", doubled)


def test_an_overlap_that_has_not_ended_is_one(net: Net) -> None:
    address = net.floating(3)
    with AddressOracle(net) as oracle:
        take(net, "n1", address)
        take(net, "n2", address)
        until(lambda: oracle.holders(address) == {"n1", "n2"}, "the oracle hears of both")
    [overlap] = oracle.overlaps()
    assert overlap.until is None
    leave(net, "n1", address)
    leave(net, "n2", address)


def test_the_client_and_the_sniffer_see_who_answers(net: Net, tmp_path: Path) -> None:
    addresses = [net.floating(4), net.floating6(4)]
    for address in addresses:
        take(net, "n1", address)
    echoes = [start_echo(net, "n1"), start_echo(net, "n2")]
    with Sniffer(net, addresses) as sniffer, Client(net, "client", addresses, tmp_path) as client:
        until(lambda: all(sniffer.of(address, "data") for address in addresses), "an answer on the wire")
        for address in addresses:
            leave(net, "n1", address)
            take(net, "n2", address)
        net.run("client", "ip", "neigh", "flush", "dev", "lan")
        second = net.mac("n2")
        until(lambda: all(sniffer.of(a, "data")[-1].mac == second for a in addresses), "an answer of the second")
        until(lambda: sniffer.of(addresses[1], "na") and sniffer.of(addresses[0], "arp"), "who has it, and the answer")
    for address in addresses:
        heard = client.heard(address)
        assert heard.nodes() == ["n1", "n2"] and heard.sent >= len(heard.answers) > 1
        assert heard.longest_gap() > 0
        assert {net.owner_of(sight.mac) for sight in sniffer.of(address)} == {"n1", "n2"}
        leave(net, "n2", address)
    assert not sniffer.returns() and not sniffer.lost
    for echo in echoes:
        echo.kill()


def test_the_sniffer_sees_a_word_of_the_old_holder_after_the_new_ones(net: Net) -> None:
    address = net.floating(5)
    announce = (
        "import socket,sys; s=socket.socket(socket.AF_PACKET,socket.SOCK_DGRAM); s.bind(('lan',0x806));"
        "m=s.getsockname()[4]; a=socket.inet_aton(sys.argv[1]);"
        "s.sendto(bytes.fromhex('0001080006040002')+m+a+m+a,('lan',0x806,0,0,b'\\xff'*6))"
    )
    with Sniffer(net, [address]) as sniffer:
        for node in ("n1", "n2", "n1"):
            net.run(node, sys.executable, "-c", announce, address)
        until(lambda: len(sniffer.of(address)) == 3, "all three words on the wire")
    [found] = sniffer.returns(60 * SECOND)
    assert net.owner_of(found.mac) == "n1" and net.owner_of(found.other) == "n2"


def test_a_cut_is_one_way_and_one_network(net: Net, tmp_path: Path) -> None:
    echo = start_echo(net, "n1")

    def answers(network: str) -> int:
        with Client(net, "client", [net.address("n1", network)], tmp_path) as client:
            time.sleep(0.2)
        return len(client.heard(net.address("n1", network)).answers)

    assert answers("lan") > 0
    net.cut("n1", "client")  # questions arrive, answers do not
    assert answers("lan") == 0 and answers("mgmt") > 0
    with Sniffer(net, [net.address("n1")]) as sniffer:
        answers("lan")
    assert sniffer.sights  # the node still speaks
    net.heal("n1", "client")
    assert answers("lan") > 0
    net.partition(["n1"], ["n2", "client"])
    assert answers("lan") == 0
    net.heal_all()
    net.cut("n1", "client", part=0.5)
    some = answers("lan")
    assert some > 0
    net.heal_all()
    echo.kill()


def test_a_pulled_cable_is_a_lost_carrier(net: Net) -> None:
    net.carrier("n1", False)
    until(lambda: "NO-CARRIER" in net.run("n1", "ip", "link", "show", "lan"), "the carrier goes")
    net.carrier("n1", True)
    until(lambda: "NO-CARRIER" not in net.run("n1", "ip", "link", "show", "lan"), "the carrier comes back")
