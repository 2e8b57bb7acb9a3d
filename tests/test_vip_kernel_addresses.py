"""Addresses in bulk: what is asked for is there, what is not ours is not touched, and nothing outlives its time."""

from __future__ import annotations

import contextlib
import random
import signal
from collections.abc import Iterator

import pytest
from vip_kernel_support import SECOND, Holder, floating, kill_hard, running, shown, until
from vip_net import AddressOracle, Net, inside, need_namespaces, now_ns

from vip.kernel import addresses
from vip.kernel.errors import KernelError
from vip.kernel.interface import AddressGone, Floating
from vip.kernel.linux import LinuxKernel
from vip.kernel.netlink import Failure


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    need_namespaces()
    with Net(["n1", "n2"], networks=("lan", "mgmt")) as made:
        yield made


def there(kernel: LinuxKernel) -> set[Floating]:
    return {found.floating for found in kernel.present()}


GATES = pytest.mark.parametrize("gate", ["bpf", "lifetime"])


@GATES
def test_added_refreshed_removed(net: Net, gate: str) -> None:
    some = [floating(net.floating(n)) for n in range(300)] + [floating(net.floating6(n)) for n in range(20)]
    with running(net, "n1", gate=gate) as (kernel, _):
        until_ns = now_ns() + 60 * SECOND
        assert kernel.add(some, until_ns) == {}
        assert there(kernel) == set(some)
        found = kernel.present()
        assert all(one.valid_seconds is not None and 0 < one.valid_seconds <= 60 for one in found)
        assert set(kernel.foreign()) & {one.address for one in some} == set()
        kernel.refresh(now_ns() + 120 * SECOND)
        assert kernel.add(some[:3], until_ns) == {}  # they are there, and ours
        assert kernel.remove(some[:100]) == {}
        assert kernel.remove(some[:100]) == {}  # what is not there is no failure
        assert there(kernel) == set(some[100:])
        assert set(kernel.remove_all()) == set(some[100:])
        assert there(kernel) == set()
    assert shown(net, "n1") == [net.address("n1"), net.address6("n1")]


def test_the_machines_own_addresses_are_refused_and_stay(net: Net) -> None:
    own = [floating(net.address("n1")), Floating(net.address6("n1"), "lan", 64), Floating(net.address("n1"), "lan", 16)]
    elsewhere = floating(net.address("n1", "mgmt"))
    with running(net, "n1") as (kernel, _):
        failed = kernel.add([*own, elsewhere], now_ns() + 60 * SECOND)
        assert set(failed) == {*own, elsewhere}
        assert "own address, on lan" in failed[own[0]] and "on mgmt" in failed[elsewhere]
        assert kernel.foreign()[net.address("n1")] == "lan"
        assert kernel.remove_all() == []
    assert net.address("n1") in shown(net, "n1") and net.address6("n1") in shown(net, "n1")
    assert "valid_lft forever" in net.run("n1", "ip", "addr", "show", "dev", "lan")


@GATES
def test_an_interface_of_another_name_is_still_the_one_that_has_the_address(net: Net, gate: str) -> None:
    """Who is told that an address is gone hands it to another node: it is gone, whatever its interface is called."""
    four, six, other = floating(net.floating(3)), floating(net.floating6(3)), floating(net.floating(4))
    with running(net, "n1", gate=gate) as (kernel, _):
        assert kernel.add([four, six, other], now_ns() + 60 * SECOND) == {}
        net.run("n1", "ip", "link", "set", "lan", "name", "renamed")
        try:
            if "renamed" not in net.run("n1", "ip", "link"):
                pytest.skip("this kernel renames no interface that is up")
            assert kernel.remove([four, six]) == {}
            assert {found.floating.address for found in kernel.present()} == {other.address}
            net.run("n1", "ip", "link", "set", "mgmt", "name", "lan")  # the name is another's now
            assert kernel.remove([other]) == {}
            assert kernel.present() == []
        finally:
            with contextlib.suppress(AssertionError):
                net.run("n1", "ip", "link", "set", "lan", "name", "mgmt")
            net.run("n1", "ip", "link", "set", "renamed", "name", "lan")


def test_one_that_somebody_added_meanwhile_is_refused(net: Net) -> None:
    taken = floating(net.floating(7))
    with running(net, "n1") as (kernel, _):
        kernel.add([floating(net.floating(8))], now_ns() + 60 * SECOND)  # the machine's own are known from here on
        net.run("n1", "ip", "addr", "add", f"{taken.address}/32", "dev", "lan")
        failed = kernel.add([taken], now_ns() + 60 * SECOND)
        assert "already" in failed[taken].lower()
        assert taken.address in kernel.foreign()
    assert taken.address in shown(net, "n1")
    net.run("n1", "ip", "addr", "del", f"{taken.address}/32", "dev", "lan")


def test_what_cannot_be_put_anywhere_is_said_in_words(net: Net) -> None:
    with running(net, "n1") as (kernel, _):
        for wish, word in (
            (Floating(net.floating(1), "mgmt", 32), "not among the interfaces"),
            (Floating(net.floating(1), "lan", 33), "prefix length of 33"),
            (Floating(net.floating6(1), "lan", 129), "prefix length of 129"),
        ):
            assert word in kernel.add([wish], now_ns() + 60 * SECOND)[wish]
    with pytest.raises(KernelError, match="no interface nowhere"), running(net, "n1", interfaces=("nowhere",)):
        pass


@GATES
def test_nothing_is_added_at_or_after_the_deadline(net: Net, gate: str) -> None:
    late, in_time = floating(net.floating(9)), floating(net.floating(17))
    with AddressOracle(net) as oracle, running(net, "n1", gate=gate) as (kernel, _):
        assert "deadline" in kernel.add([late], now_ns())[late]
        assert kernel.add([in_time], now_ns() + 60 * SECOND) == {}
        until(lambda: oracle.holders(in_time.address), "the oracle hears of the other")
    assert late.address not in {change.address for change in oracle.changes}  # not even for a moment


def test_a_lifetime_never_reaches_past_the_deadline(net: Net) -> None:
    one = floating(net.floating(10))
    with running(net, "n1", gate="lifetime") as (kernel, _):
        for seconds in (1.2, 2.0, 3.9):
            assert kernel.add([one], now_ns() + int(seconds * SECOND)) == {}
            assert kernel.present()[0].valid_seconds in range(int(seconds) + 1)
            kernel.remove([one])
        assert kernel.add([one], now_ns() + SECOND // 2) != {}  # no lifetime is that short


def test_a_refresh_brings_nothing_back(net: Net) -> None:
    some = [floating(net.floating(11)), floating(net.floating6(11)), floating(net.floating(12))]
    with running(net, "n1", gate="lifetime") as (kernel, events):
        kernel.add(some, now_ns() + 60 * SECOND)
        known = dict(kernel._parts.addresses.known)
        for one in some[:2]:
            net.run("n1", "ip", "addr", "del", f"{one.address}/{one.prefix_length}", "dev", "lan")
        until(lambda: sum(isinstance(event, AddressGone) for event in events) == 2, "both are reported as gone")
        assert {event.floating for event in events if isinstance(event, AddressGone)} == set(some[:2])
        kernel._parts.addresses.known.update(known)  # as if the events had not come yet
        kernel.refresh(now_ns() + 600 * SECOND)
        assert there(kernel) == {some[2]}
        assert sum(isinstance(event, AddressGone) for event in events) == 4  # found missing, and said again


def test_a_refresh_that_the_kernel_refuses_is_no_loss(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    one = floating(net.floating(18))
    with running(net, "n1", gate="lifetime") as (kernel, events):
        kernel.add([one], now_ns() + 60 * SECOND)
        monkeypatch.setattr(kernel._parts.addresses._netlink, "bulk", lambda messages: [Failure(0, 22, "no")])
        with pytest.raises(KernelError, match="cannot be set: no"):
            kernel.refresh(now_ns() + 600 * SECOND)
        monkeypatch.undo()
        assert there(kernel) == {one} and not events
        kernel.refresh(now_ns() + 600 * SECOND)


@pytest.mark.parametrize("stop_seconds", [7, 12])
@pytest.mark.parametrize("doing", ["add", "refresh"])
def test_a_process_that_was_stopped_while_sending_corrects_it_or_takes_it_back(
    net: Net, monkeypatch: pytest.MonkeyPatch, doing: str, stop_seconds: int
) -> None:
    """The clock jumps between computing a lifetime and the kernel having taken it, with a deadline in 10 seconds."""
    one = floating(net.floating(13))
    with running(net, "n1", gate="lifetime") as (kernel, events):
        deadline = now_ns() + 10 * SECOND
        if doing == "refresh":
            kernel.add([one], deadline - 5 * SECOND)
        stopped_ns = 0
        bulk = kernel._parts.addresses._netlink.bulk

        def stopped(messages: list[tuple[int, int, bytes]]) -> object:
            nonlocal stopped_ns
            stopped_ns = stop_seconds * SECOND
            return bulk(messages)

        monkeypatch.setattr(kernel._parts.addresses._netlink, "bulk", stopped)
        monkeypatch.setattr(addresses, "now_ns", lambda: now_ns() + stopped_ns)
        failed = {}
        if doing == "add":
            failed = kernel.add([one], deadline)
        else:
            kernel.refresh(deadline)
        if stop_seconds < 10:
            assert not failed and not events
            [found] = kernel.present()
            assert found.valid_seconds is not None and found.valid_seconds <= 3
        else:
            assert there(kernel) == set()
            assert "removed again" in failed[one] if doing == "add" else AddressGone(one) in events


def test_what_a_former_run_left_goes_at_the_start(net: Net) -> None:
    own, by_metric = net.floating(14), net.floating(15)
    with Holder(net, "n1", [floating(own)], window=30.0) as holder:
        kill_hard(holder.pid, holder.guard)
    # As a kernel before 5.18 keeps it: without the tag, but with the metric.
    net.run("n1", "ip", "addr", "add", f"{by_metric}/32", "dev", "mgmt", "metric", str(0x6A6C6F67), "valid_lft", "60",
            "preferred_lft", "60")  # fmt: skip
    assert own in shown(net, "n1") and by_metric in shown(net, "n1", "mgmt")
    with running(net, "n1") as (kernel, _):
        assert there(kernel) == set()
    assert own not in shown(net, "n1") and by_metric not in shown(net, "n1", "mgmt")


def test_two_daemons_do_not_share_a_namespace(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vip.kernel.linux._ALONE_SECONDS_MAX", 0.1)
    with running(net, "n1") as (first, _):
        first.add([floating(net.floating(16))], now_ns() + 60 * SECOND)
        with pytest.raises(KernelError, match="another vip daemon"), running(net, "n1"):
            pass
        assert there(first) == {floating(net.floating(16))}
    with running(net, "n1"):
        pass


@GATES
def test_random_changes_by_us_and_by_others(net: Net, rng: random.Random, gate: str) -> None:
    """Whatever happens, what the kernel shows with our mark is what a plain set says."""
    pool = [floating(net.floating(n)) for n in range(100, 112)] + [floating(net.floating6(n)) for n in range(100, 106)]
    ours: set[Floating] = set()
    theirs: set[Floating] = set()
    with running(net, "n1", gate=gate) as (kernel, _):
        for _ in range(120):
            some = rng.sample(pool, rng.randint(1, 6))
            match rng.choice(["add", "add", "remove", "by hand", "foreign", "refresh", "remove all"]):
                case "add":
                    kernel._parts.addresses._foreign_ns = 0  # it may be five seconds old otherwise
                    failed = kernel.add(some, now_ns() + 100 * SECOND)
                    assert set(failed) == set(some) & theirs
                    ours |= set(some) - theirs
                case "remove":
                    mine = [one for one in some if one not in theirs]
                    assert kernel.remove(mine) == {}
                    ours -= set(mine)
                case "by hand":
                    for one in set(some) & (ours | theirs):
                        net.run("n1", "ip", "addr", "del", f"{one.address}/{one.prefix_length}", "dev", "lan")
                    ours, theirs = ours - set(some), theirs - set(some)
                case "foreign" if some[0] not in ours | theirs:
                    one = some[0]
                    net.run("n1", "ip", "addr", "add", f"{one.address}/{one.prefix_length}", "dev", "lan")
                    theirs.add(one)
                case "refresh":
                    kernel.refresh(now_ns() + 200 * SECOND)
                case "remove all":
                    assert set(kernel.remove_all()) == ours
                    ours = set()
            assert there(kernel) == ours
            assert {one.address for one in theirs} <= set(kernel.foreign())
    for one in theirs:
        net.run("n1", "ip", "addr", "del", f"{one.address}/{one.prefix_length}", "dev", "lan")


@pytest.mark.slow
def test_the_lifetimes_alone_end_them(net: Net) -> None:
    """Daemon and guard killed at once: the kernel takes the addresses away, no later than it is said to."""
    some = [floating(net.floating(20)), floating(net.floating6(20))]
    with AddressOracle(net) as oracle, Holder(net, "n2", some, window=3.0, settings={"gate": "lifetime"}) as holder:
        assert holder.start["gate"] == "lifetime"
        kill_hard(holder.pid, holder.guard)
        deadline = holder.deadline()
        until(lambda: not any(oracle.holders(one.address) for one in some), "the kernel takes them away")
        gone = [change.when for change in oracle.changes if not change.there]
    # Half a second for this process to hear of it.
    assert max(gone) < deadline + holder.start["lateness"] + SECOND // 2


@pytest.mark.slow
def test_thousands(net: Net) -> None:
    many = [floating(net.floating(1000 + n)) for n in range(10_240)]
    with running(net, "n1", gate="auto") as (kernel, events):
        for at in range(0, len(many), 500):
            assert kernel.add(many[at : at + 500], now_ns() + 600 * SECOND) == {}
        assert there(kernel) == set(many)
        assert kernel.remove(many[::2]) == {}
        assert there(kernel) == set(many[1::2])
        assert set(kernel.remove_all()) == set(many[1::2])
    assert not events


@pytest.mark.slow
def test_thousands_of_ipv6_are_added_in_time_without_the_gate(net: Net) -> None:
    """Each takes the kernel the longer the more there are; lifetimes that are sent late each time would be refused."""
    many = [floating(net.floating6(n)) for n in range(2000)]
    with running(net, "n1", gate="lifetime") as (kernel, _):
        for at in range(0, len(many), 500):
            assert kernel.add(many[at : at + 500], now_ns() + 60 * SECOND) == {}
        assert there(kernel) == set(many)


def test_signals_do_not_interrupt_a_bulk(net: Net) -> None:
    """A timer that strikes every millisecond is nothing but a few interrupted system calls."""
    many = [floating(net.floating(30_000 + n)) for n in range(500)]
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    try:
        with running(net, "n1") as (kernel, _):
            assert kernel.add(many, now_ns() + 60 * SECOND) == {}
            assert kernel.remove(many) == {}
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    with inside(net.namespace("n1")):
        assert addresses.present() == []
