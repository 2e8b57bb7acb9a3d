"""What happens without our asking is heard: links, addresses, and that something was not heard."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from vip_kernel_support import LONG, SECOND, floating, running, until
from vip_net import Net, inside, need_namespaces, now_ns

from vip.kernel import advice, open_kernel
from vip.kernel.address_messages import remove_all
from vip.kernel.errors import KernelError
from vip.kernel.interface import AddressGone, EventsLost, KernelSettings, LinkChanged, LinkState
from vip.kernel.netlink import Netlink


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    need_namespaces()
    with Net(["n1", "n2"], networks=("lan", "mgmt")) as made:
        yield made


def test_links_as_they_are(net: Net) -> None:
    with running(net, "n1") as (kernel, _):
        links = kernel.links()
        assert set(links) == {"lo", "lan", "mgmt"}
        assert links["lan"].up and links["lan"].mac == net.mac("n1") and links["lan"].name == "lan"
        net.run("n1", "ip", "link", "set", "mgmt", "down")
        assert not kernel.links()["mgmt"].up
        net.run("n1", "ip", "link", "set", "mgmt", "up")


def test_a_link_that_comes_and_goes(net: Net) -> None:
    with running(net, "n1") as (_, events):
        net.run("n1", "ip", "link", "add", "spare", "type", "veth", "peer", "name", "spare2")
        net.run("n1", "ip", "link", "set", "spare", "up")
        net.run("n1", "ip", "link", "set", "spare2", "up")

        def last(name: str) -> bool | None:
            return next(
                (e.link.up for e in reversed(events) if isinstance(e, LinkChanged) and e.link.name == name), None
            )

        until(lambda: last("spare") is True, "it is up")
        net.run("n1", "ip", "link", "del", "spare")
        until(lambda: last("spare") is False, "it is gone")


def test_our_own_changes_are_no_events_and_those_of_others_are(net: Net) -> None:
    some = [floating(net.floating(n)) for n in range(600)] + [floating(net.floating6(1))]
    with running(net, "n1") as (kernel, events):
        kernel.add(some[:300], now_ns() + LONG)
        kernel.add(some[300:], now_ns() + LONG)
        kernel._parts.addresses._refreshed_ns = 0
        kernel.refresh(now_ns() + LONG)
        kernel.remove(some[:100])
        net.run("n1", "ip", "addr", "del", f"{some[200].address}/32", "dev", "lan")
        net.run("n1", "ip", "addr", "del", f"{some[600].address}/128", "dev", "lan")
        until(lambda: len(events) >= 2, "two are gone")
        kernel.remove_all()
        net.run("n1", "ip", "addr", "add", "192.0.2.1/32", "dev", "lan")
        net.run("n1", "ip", "addr", "del", "192.0.2.1/32", "dev", "lan")
    assert {event.floating for event in events if isinstance(event, AddressGone)} == {some[200], some[600]}
    assert len(events) == 2


def test_a_link_that_goes_takes_its_addresses_along(net: Net) -> None:
    one = floating(net.floating(700), "spare")
    net.run("n2", "ip", "link", "add", "spare", "type", "veth", "peer", "name", "spare2")
    with running(net, "n2", interfaces=("spare",)) as (kernel, events):
        assert kernel.add([one], now_ns() + LONG) == {}
        net.run("n2", "ip", "link", "del", "spare")
        until(lambda: AddressGone(one) in events, "it went with its link")
        assert kernel.present() == []
        kernel.refresh(now_ns() + LONG)


def test_events_that_were_lost_are_said_to_be(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    some = [floating(net.floating(1000 + n)) for n in range(2000)]
    with running(net, "n1", gate="lifetime") as (kernel, events):
        watcher = kernel._parts.watcher
        assert watcher is not None
        watcher._events.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        for at in range(0, len(some), 500):
            kernel.add(some[at : at + 500], now_ns() + 60 * SECOND)
        known = dict(kernel._parts.addresses.known)
        # Behind our back and all at once, while the thread that hears of it is held up.
        go_on = threading.Event()
        gone = watcher._gone
        monkeypatch.setattr(watcher, "_gone", lambda one: (go_on.wait(60), gone(one)))
        behind = Netlink()
        remove_all(behind, list(known))
        behind.close()
        go_on.set()
        until(lambda: EventsLost() in events, "some were lost, and that is said")
        assert kernel.counters().values["events_lost"] >= 1
        kernel.refresh(now_ns() + 120 * SECOND)  # which finds what was not heard
        until(lambda: sum(isinstance(event, AddressGone) for event in events) >= len(some), "all are known to be gone")
        assert {event.floating for event in events if isinstance(event, AddressGone)} == set(some)


def test_an_interface_that_answers_for_the_others_is_named(net: Net, tmp_path: Path) -> None:
    def advised(ours: tuple[str, ...]) -> tuple[str, ...]:
        with inside(net.namespace("n2")):
            kernel = open_kernel(KernelSettings(interfaces=ours))
            try:
                return kernel.start(lambda event: None).remarks
            finally:
                kernel.stop()

    [remark] = advised(("lan",))
    assert remark.startswith("mgmt would answer ARP") and "arp_ignore to 1" in remark
    assert advised(("lan", "mgmt")) == ()
    net.setting("n2", "ipv4/conf/mgmt/arp_ignore", "1")
    assert advised(("lan",)) == ()
    net.setting("n2", "ipv4/conf/mgmt/arp_ignore", "0")
    many = {f"eth{number}": LinkState(f"eth{number}", number, True, "02:00:00:00:00:01") for number in range(6)}
    for name in ("all", *many):
        (tmp_path / name).mkdir()
        (tmp_path / name / "arp_ignore").write_text("0\n")
    [remark] = advice.remarks(many, ["eth0"], tmp_path)
    assert remark.startswith("eth1, eth2, eth3, ... would")
    (tmp_path / "all" / "arp_ignore").write_text("2\n")
    assert advice.remarks(many, ["eth0"], tmp_path) == []


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_failed_is_said_and_nothing_more_is_taken(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    before, after = floating(net.floating(800)), floating(net.floating(801))
    with running(net, "n1") as (kernel, _):
        assert kernel.add([before], now_ns() + LONG) == {}
        announcer = kernel._parts.announcer
        monkeypatch.setattr(announcer, "_round", lambda: [][0])
        until(lambda: not announcer.alive, "the announcer has failed")
        assert "restart vip" in kernel.add([after], now_ns() + LONG)[after]
        with pytest.raises(KernelError, match="has failed"):
            kernel.refresh(now_ns() + LONG)
        assert kernel.remove([before]) == {}  # giving away always works
