"""Announcing: when what goes out, as a property of the schedule, and on a wire."""

from __future__ import annotations

import itertools
import os
import random
import signal
import sys
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vip_kernel_support import LONG, SECOND, Holder, floating, running, until
from vip_net import Net, Sniffer, need_namespaces, now_ns

from vip.kernel import addresses
from vip.kernel.announcer import Announcer
from vip.kernel.interface import AddressGone, Conflict, LinkChanged
from vip.kernel.schedule import Budget, Rhythm, Schedule

GAP, REFRESH, TIMES = 1100, 45_000, 5  # milliseconds, in the tests of the schedule


def key(number: int) -> bytes:
    return number.to_bytes(4, "big")


@given(
    changes=st.lists(
        st.tuples(st.integers(0, 3000), st.sampled_from(["start", "stop", "restart"]), st.integers(0, 5)), max_size=30
    ),
    portion=st.integers(1, 4),
)
def test_gaps_counts_and_withdrawals(changes: list[tuple[int, str, int]], portion: int) -> None:
    """In any history: a repetition no sooner than a gap after the last, a refresh no sooner than its time, nothing of
    what was withdrawn, and everything as often as it should."""
    schedule = Schedule(Rhythm(TIMES, GAP, REFRESH))
    now = 0
    begun: dict[bytes, int] = {}  # when it was last to begin, and since then:
    out: dict[bytes, list[int]] = {}

    def run_until(end: int) -> None:
        nonlocal now
        while True:
            for taken in schedule.take(portion, now):
                assert taken in begun, "withdrawn, and announced"
                times = out[taken]
                if times:
                    assert now - times[-1] >= (GAP if len(times) < TIMES else REFRESH)
                times.append(now)
            due = schedule.next_due()
            if due is None or max(now + 1, due) > end:
                now = end
                return
            now = max(now + 1, due)

    for wait, change, number in changes:
        run_until(now + wait)
        if change == "start":
            schedule.start([key(number)], now)
            begun[key(number)], out[key(number)] = now, []
        elif change == "stop":
            schedule.stop([key(number)])
            begun.pop(key(number), None)
        else:
            schedule.restart(now)
            begun = dict.fromkeys(begun, now)
            out |= {one: [] for one in begun}
    run_until(now + TIMES * GAP + 2 * REFRESH)
    for one, since in begun.items():
        assert len(out[one]) >= TIMES + 1
        assert out[one][0] - since <= 12  # six addresses at most in portions of one, a millisecond each
        assert out[one][TIMES - 1] - since <= TIMES * (GAP + 12)
    assert len(schedule) == len(begun)


def test_a_new_address_waits_behind_nobody() -> None:
    schedule = Schedule(Rhythm(TIMES, GAP, REFRESH))
    old = [key(number) for number in range(10_000)]
    schedule.start(old, 0)
    assert schedule.take(10_000, 0) == old
    assert schedule.take(10, GAP - 1) == []
    schedule.start([key(77_777)], GAP)
    assert schedule.take(3, GAP) == [key(77_777), *old[:2]]  # before ten thousand repetitions


def test_the_budget_is_kept_over_any_second(rng: random.Random) -> None:
    budget = Budget(rate=2000, now=0)
    now, sent = 0, []
    for _ in range(5000):
        now += rng.randint(0, SECOND // 500)
        some = min(budget.allowed(now), rng.randint(0, 64))
        budget.spend(some)
        sent += [now] * some
    first = 0
    for last, at in enumerate(sent):
        while at - sent[first] > SECOND:
            first += 1
        assert last - first + 1 <= 2000 + 200 + 1  # the rate, and what the bucket holds
    assert len(sent) > 1000


def test_the_budget_says_how_long_to_wait() -> None:
    budget = Budget(rate=1000, now=0)
    budget.spend(budget.allowed(0))
    assert budget.allowed(0) == 0
    wait = budget.wait_ns(2)
    assert 0 < wait <= SECOND // 400
    assert budget.allowed(wait) >= 1


class Wire:
    """A socket on which the deadline passes after so many packets: the process was stopped between two of them."""

    def __init__(self, packets: int) -> None:
        self.left = packets
        self.sent = 0

    def deadline(self) -> int:
        return now_ns() + LONG if self.left else 0

    def sendto(self, payload: bytes, where: object) -> None:
        self.sent += 1
        self.left -= 1


def test_the_deadline_is_looked_at_before_every_packet() -> None:
    wire = Wire(packets=7)
    announcer = Announcer(Rhythm(5, GAP, REFRESH), 100_000, lambda: {"lan": bytes(6)}, wire.deadline)
    announcer._socket = wire  # type: ignore[assignment]
    announcer.announce("lan", [key(number) for number in range(1, 50)])
    announcer._round()
    announcer.defend("lan", key(1))
    assert wire.sent == 7


# ---- on a wire -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    need_namespaces()
    with Net(["n1", "n2", "client"]) as made:
        yield made


def neighbour(net: Net, address: str) -> str:
    words = net.run("client", "ip", "neigh", "show", address).split()
    return words[words.index("lladdr") + 1] if "lladdr" in words else ""


def ask(net: Net, address: str) -> None:
    family = 10 if ":" in address else 2
    net.run("client", sys.executable, "-c", f"import socket; socket.socket({family}, 2).sendto(b'x', ('{address}', 9))")


@pytest.mark.slow
def test_request_reply_and_advertisement_again_and_again(net: Net) -> None:
    some = [floating(net.floating(1)), floating(net.floating6(1))]
    with (
        Sniffer(net, [one.address for one in some]) as sniffer,
        running(net, "n1", announce_times=3, announce_refresh_seconds=2.0) as (kernel, _),
    ):
        kernel.add(some, now_ns() + LONG)
        begun = now_ns()
        kernel.announce(some)
        until(lambda: len(sniffer.of(some[0].address, "arp")) >= 8, "three announcements and a refresh")
        until(lambda: len(sniffer.of(some[1].address, "na")) >= 4, "three advertisements and a refresh")
    arp = [sight.when for sight in sniffer.of(some[0].address, "arp")]
    advertised = [sight.when for sight in sniffer.of(some[1].address, "na")]
    assert {sight.mac for sight in sniffer.sights} == {net.mac("n1")}
    assert arp[1] - arp[0] < SECOND  # request and reply are one announcement
    for times in (arp[0::2], arp[1::2], advertised):
        assert times[0] >= begun
        gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
        # Counted from when it was sent; when it was seen may be a little later for the first of two.
        assert all(gap > SECOND for gap in gaps[:2]) and gaps[2] > 1.9 * SECOND


def test_a_takeover_changes_the_neighbours_of_a_client_at_once(net: Net) -> None:
    for address in (net.floating(2), net.floating6(2)):
        one = floating(address)
        with running(net, "n1") as (kernel, _):
            kernel.add([one], now_ns() + LONG)
            ask(net, address)
            until(lambda: neighbour(net, address) == net.mac("n1"), "the client knows the first")  # noqa: B023
            kernel.remove([one])
        time.sleep(1.1)  # a Linux host ignores a change within a second of the last
        with running(net, "n2") as (kernel, _):
            kernel.add([one], now_ns() + LONG)
            kernel.announce([one])
            until(lambda: neighbour(net, address) == net.mac("n2"), "the client knows the second")  # noqa: B023


def test_nothing_is_said_after_a_withdrawal(net: Net) -> None:
    some = [floating(net.floating(100 + n)) for n in range(300)]
    with (
        Sniffer(net, [one.address for one in some]) as sniffer,
        running(net, "n1", announce_gap_seconds=0.02, announce_times=1000, announce_rate_max=100_000) as (kernel, _),
    ):
        kernel.add(some, now_ns() + LONG)
        kernel.announce(some)
        until(lambda: len(sniffer.sights) > 1000, "much is said")
        assert kernel.remove(some[:150]) == {}
        removed = now_ns()
        until(lambda: any(s.when > removed + SECOND // 2 for s in sniffer.of(some[299].address)), "the others go on")
    gone = {one.address for one in some[:150]}
    assert max(sight.when for sight in sniffer.sights if sight.address in gone) < removed
    assert not sniffer.lost


@pytest.mark.parametrize("gate", ["bpf", "lifetime"])
def test_nothing_is_said_past_the_deadline_and_all_of_it_again_when_it_moves(net: Net, gate: str) -> None:
    one = floating(net.floating(3))
    with (
        Sniffer(net, [one.address]) as sniffer,
        running(net, "n1", gate=gate, announce_gap_seconds=0.05) as (kernel, _),
    ):
        kernel.add([one], now_ns() + LONG)
        kernel.announce([one])
        until(lambda: len(sniffer.of(one.address, "arp")) == 10, "all five, twice each")
        kernel.announce([one])
        kernel.set_deadline(0)
        closed = now_ns()
        time.sleep(0.5)
        before = len(sniffer.sights)
        assert all(sight.when < closed for sight in sniffer.sights)
        kernel.set_deadline(now_ns() + LONG)
        until(lambda: len(sniffer.sights) >= before + 10, "from the beginning")
        assert kernel.counters().values["announce_stalls"] == 1


@pytest.mark.slow
def test_a_process_that_was_stopped_announces_again(net: Net) -> None:
    """Long enough for another node to have spoken; the address is held all the time."""
    one = floating(net.floating(4))
    quick = {"announce_times": 1, "announce_refresh_seconds": 3600.0}
    with Sniffer(net, [one.address]) as sniffer, Holder(net, "n1", [one], window=3600.0, settings=quick) as holder:
        until(lambda: len(sniffer.of(one.address, "arp")) == 2, "the first and only announcement")
        os.kill(holder.pid, signal.SIGSTOP)
        time.sleep(2.5)
        os.kill(holder.pid, signal.SIGCONT)
        until(lambda: len(sniffer.of(one.address, "arp")) == 4, "once more")
        holder.end()


def test_what_is_not_there_is_not_announced(net: Net) -> None:
    some = [floating(net.floating(7)), floating(net.floating6(7)), floating(net.floating(8))]
    gone, never, held = some
    with Sniffer(net, [one.address for one in some]) as sniffer, running(net, "n1") as (kernel, events):
        kernel.add([gone, held], now_ns() + LONG)
        kernel.announce(some)
        until(lambda: all(sniffer.of(one.address, "arp") for one in (gone, held)), "what is there")
        net.run("n1", "ip", "addr", "del", f"{gone.address}/32", "dev", "lan")
        until(lambda: AddressGone(gone) in events, "its loss is known")
        since = now_ns()
        kernel.set_deadline(0)
        time.sleep(0.3)
        kernel.set_deadline(now_ns() + LONG)  # all is announced again, from the beginning
        until(lambda: any(sight.when > since for sight in sniffer.of(held.address)), "what is there, again")
        time.sleep(0.3)
    assert all(sight.when < since for sight in sniffer.of(gone.address))
    assert not sniffer.of(never.address)


def test_a_carrier_that_comes_back_is_a_reason_to_announce(net: Net) -> None:
    one = floating(net.floating(5))
    with (
        Sniffer(net, [one.address]) as sniffer,
        running(net, "n1", announce_times=1, announce_refresh_seconds=3600.0) as (kernel, events),
    ):
        kernel.add([one], now_ns() + LONG)
        kernel.announce([one])
        until(lambda: len(sniffer.of(one.address, "arp")) == 2, "the first and only announcement")
        net.carrier("n1", False)
        until(lambda: any(isinstance(e, LinkChanged) and not e.link.up for e in events), "the loss is reported")
        assert not kernel.links()["lan"].up
        net.carrier("n1", True)
        until(lambda: any(isinstance(e, LinkChanged) and e.link.up for e in events), "the return is reported")
        until(lambda: len(sniffer.of(one.address, "arp")) >= 4, "once more")
        assert kernel.links()["lan"].carrier_changes >= 2


def test_somebody_else_who_says_that_he_has_it_is_reported_and_answered_once(net: Net) -> None:
    some = [floating(net.floating(6)), floating(net.floating6(6))]
    with running(net, "n1", announce_times=1) as (kernel, events), Sniffer(net, [some[0].address]) as sniffer:
        kernel.add(some, now_ns() + LONG)
        kernel.announce(some)
        until(lambda: len(sniffer.of(some[0].address, "arp")) == 2, "the announcement")
        with running(net, "n2", announce_times=5, announce_gap_seconds=0.1) as (other, others_events):
            for one in some:  # without having it: a foreign host could do no worse
                other._parts.announcer.announce("lan", [addresses.raw(one.address)])
            until(lambda: kernel.counters().values["conflicts"] >= 10, "all of it is heard")
        heard = [event for event in events if isinstance(event, Conflict)]
        assert {(event.address, event.mac) for event in heard} == {(one.address, net.mac("n2")) for one in some}
        assert sum(event.defended for event in heard) == 2  # once for each address in ten seconds
        assert any(isinstance(event, Conflict) and event.mac == net.mac("n1") for event in others_events)
        until(lambda: len([s for s in sniffer.of(some[0].address) if s.mac == net.mac("n1")]) >= 3, "the defence")


def test_ten_thousand_refreshes_do_not_delay_a_new_one(net: Net) -> None:
    many = [floating(net.floating(1000 + n)) for n in range(3000)]
    new = floating(net.floating(20_000))
    settings = {"announce_rate_max": 2000, "announce_times": 2, "announce_refresh_seconds": 1.0}
    with Sniffer(net, [new.address]) as sniffer, running(net, "n1", **settings) as (kernel, _):
        for at in range(0, len(many), 500):
            kernel.add(many[at : at + 500], now_ns() + LONG)
        kernel.add([new], now_ns() + LONG)
        kernel.announce(many)
        until(lambda: kernel.counters().values["announcements_sent"] > 6500, "they are on to their repetitions")
        sent = kernel.counters().values["announcements_sent"]
        kernel.announce([new])
        until(lambda: sniffer.of(new.address), "the new one")
        # In packets, not in time: it waited for no more than what was on its way.
        assert kernel.counters().values["announcements_sent"] - sent < 1500
