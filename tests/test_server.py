"""The daemon's ZeroMQ side, over real sockets: what it grants and refuses, and that no client can harm another."""

from __future__ import annotations

import json
import os
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq
import zstandard
from crc32c import crc32c
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from wire_support import Daemon, Raw, held_commits, make_log, numbered, records_in

from jlogd.daemon import intake, roster
from jlogd.daemon import server as servers
from jlogd.daemon.server import Server
from jlogd.errors import CannotListen, UsageError
from jlogd.journal.batch import HEADER, Batch, encode
from jlogd.journal.journal import Journal
from jlogd.wire import messages as m
from jlogd.wire.messages import Limits

MIB = 1 << 20
FIELDS = (
    "magic", "encoding", "codec", "kind", "reserved", "count", "body_bytes", "raw_bytes", "body_crc", "producer",
    "producer_from", "producer_to", "first_time", "last_time", "first", "committed", "append_time", "epoch", "crc",
)  # fmt: skip
CONTROLS = [m.encode(message) for message in (m.Ping(1), m.Append(2, "mainlog"), m.Bye(), m.Hello(3, 1, "x"))]


@pytest.fixture
def raw(daemon: Daemon) -> Iterator[Raw]:
    with Raw(daemon.address) as raw:
        yield raw


def until(condition: Callable[[], bool], what: str = "") -> None:
    """Wait for something that must come about by itself."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, what or "it did not come about"
        time.sleep(0.01)


def refused(answer: m.FromDaemon, code: str) -> bool:
    return isinstance(answer, m.Refused) and answer.code == code


# Appending


def test_batches_are_acknowledged_and_there(daemon: Daemon, raw: Raw, spool: Path) -> None:
    first = raw.append(numbered(0, 3), numbered(3, 2))
    assert raw.outcomes(2) == {first: m.Ack(first, 1, 3), first + 1: m.Ack(first + 1, 4, 2)}
    assert records_in(spool) == [b"7-%d......." % n for n in range(5)]


def test_every_batch_is_answered_by_its_own_id(daemon: Daemon, raw: Raw) -> None:
    good, again, hole = numbered(0), numbered(0), numbered(5)
    first = raw.append(good, again, hole)
    found = raw.outcomes(3)
    assert found[first] == m.Ack(first, 1, 1)
    assert found[first + 1] in (m.Ack(first + 1, 1, 1, True), m.Ack(first + 1, 0, 1, True))
    assert refused(found[first + 2], "producer-gap")  # type: ignore[arg-type]


def test_batches_of_many_producers_share_a_sync(daemon: Daemon) -> None:
    served = daemon.logs.get("mainlog")
    clients = [Raw(daemon.address) for _ in range(4)]
    syncs = served.journal.counters["syncs"]
    with held_commits(served) as released:
        for number, client in enumerate(clients):
            for start in range(5):
                client.append(numbered(start, producer=number + 1))
            client.settle()  # the daemon has taken them in; the first may be in the commit that waits
        released.set()
        for client in clients:
            assert all(isinstance(outcome, m.Ack) for outcome in client.outcomes(5).values())
    assert served.journal.counters["syncs"] - syncs <= 2
    for client in clients:
        client.close()


def test_acknowledgements_of_one_commit_come_in_one_message(daemon: Daemon, raw: Raw) -> None:
    with held_commits(daemon.logs.get("mainlog")) as released:
        raw.append(*(numbered(n) for n in range(40)))
        raw.settle()
        released.set()
        messages = 0
        found = 0
        while found < 40:
            answer = raw.receive()
            assert isinstance(answer, m.Acks)
            messages, found = messages + 1, found + len(answer.acks)
    assert messages < 40


def _spoiled(**changes: int) -> bytes:
    """A batch whose header says something else, with a checksum that agrees with it."""
    wire = numbered(0, 2).to_wire()
    fields = {**dict(zip(FIELDS, HEADER.unpack_from(wire), strict=True)), **changes}
    head = HEADER.pack(*fields.values())[:92]
    return head + struct.pack("<I", crc32c(head)) + wire[96:]


def _bomb() -> bytes:
    """A body of some bytes that decompresses to much more than the header says."""
    body = zstandard.compress(b"\n" * MIB)
    return Batch(2, body, codec=1, raw_bytes=3, body_crc=crc32c(body)).to_wire()


@pytest.mark.parametrize(
    "wire",
    [
        b"",
        b"JLB1",
        os.urandom(200),
        numbered(0).to_wire()[:-1],
        numbered(0).to_wire() + b"x",
        numbered(0).to_wire() * 2,
        numbered(0).to_wire()[:-1] + b"!",
        _spoiled(kind=1, count=0),
        _spoiled(kind=1),
        _spoiled(encoding=2),
        _spoiled(codec=2),
        _spoiled(codec=1),
        _spoiled(count=0),
        _spoiled(count=1 << 21),
        _spoiled(raw_bytes=5),
        _spoiled(raw_bytes=1 << 30),
        _spoiled(body_bytes=(1 << 32) - 1),
        _spoiled(producer_from=9, producer_to=9),
        _spoiled(producer_from=9, producer_to=3),
        _bomb(),
    ],
)
def test_a_bad_batch_is_refused_and_nothing_of_it_kept(daemon: Daemon, raw: Raw, spool: Path, wire: bytes) -> None:
    id_ = raw.send(m.Append(0, "mainlog"), wire)
    assert refused(raw.outcomes(1)[id_], "format")  # type: ignore[arg-type]
    assert daemon.server.stats()["malformed_batch"] == 1
    raw.append(numbered(0))
    assert isinstance(next(iter(raw.outcomes(1).values())), m.Ack)
    assert records_in(spool) == [b"7-0......."]


def test_an_append_to_no_log_is_refused_once_for_all_its_batches(raw: Raw) -> None:
    first = raw.append(numbered(0), numbered(1), log="nope")
    answer = raw.receive()
    assert isinstance(answer, m.Refused)
    assert (answer.id, answer.code, answer.count) == (first, "log-not-found", 2)


def test_an_append_without_batches_or_with_too_many_is_refused(daemon: Daemon, raw: Raw) -> None:
    assert refused(raw.ask(m.Append(0, "mainlog")), "protocol")
    assert refused(raw.ask(m.Append(0, "mainlog"), *[numbered(0).to_wire()] * 65), "protocol")
    assert refused(raw.ask(m.Ping(0), b"a batch?"), "protocol")
    assert daemon.server.stats()["malformed_frames"] == 3


def test_over_the_window_a_client_is_told_to_slow_down_and_its_order_is_kept(spool: Path) -> None:
    make_log(spool)
    with Daemon(spool, limits=Limits(append_bytes=4096)) as daemon, Raw(daemon.address) as raw:
        with held_commits(daemon.logs.get("mainlog")):
            ids = [raw.append(numbered(n)) for n in range(6)]  # each counts as 1024
            answers = raw.settle()
        assert [answer.id for answer in answers if refused(answer, "slow-down")] == ids[4:]  # type: ignore[union-attr]
        found = raw.outcomes(4)
        assert sorted(found) == ids[:4]
        # There is room again, but the one before is missing.
        late = raw.append(numbered(5))
        assert refused(raw.outcomes(1)[late], "slow-down")  # type: ignore[arg-type]
        again = raw.append(numbered(4), numbered(5))
        assert [type(outcome) for outcome in raw.outcomes(2).values()] == [m.Ack, m.Ack]
        assert again
        assert daemon.server.stats()["refused_slow_down"] == 3
    assert records_in(spool) == [b"7-%d......." % n for n in range(6)]


def test_the_first_batch_of_a_new_producer_is_not_overtaken(spool: Path) -> None:
    """A producer that is not known may start anywhere, so the order must be kept before the journal sees it."""
    make_log(spool)
    with Daemon(spool, limits=Limits(append_bytes=2048)) as daemon, Raw(daemon.address) as raw:
        with held_commits(daemon.logs.get("mainlog")):
            raw.append(numbered(0, producer=1), numbered(1, producer=1))
            lost = raw.append(numbered(0, producer=2))
            assert [refused(answer, "slow-down") for answer in raw.settle()] == [True]
        raw.outcomes(2)
        over = raw.append(numbered(1, producer=2))
        assert refused(raw.outcomes(1)[over], "slow-down")  # type: ignore[arg-type]
        raw.append(numbered(0, producer=2), numbered(1, producer=2))
        assert all(isinstance(outcome, m.Ack) and not outcome.duplicate for outcome in raw.outcomes(2).values())
        assert lost


def test_a_single_batch_may_be_larger_than_the_window(spool: Path) -> None:
    make_log(spool)
    with Daemon(spool, limits=Limits(append_bytes=4096)) as daemon, Raw(daemon.address) as raw:
        raw.append(encode([b"x" * 100_000]))
        assert isinstance(next(iter(raw.outcomes(1).values())), m.Ack)


def test_all_clients_together_are_bounded(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "APPEND_BYTES_TOTAL", 3 * 1024)
    clients = [Raw(daemon.address) for _ in range(5)]
    with held_commits(daemon.logs.get("mainlog")):
        for number, client in enumerate(clients):
            client.append(numbered(0, producer=number + 1))
            client.settle()
        assert daemon.server.current()["append_bytes_under_way"] <= 3 * 1024
        assert daemon.server.stats()["refused_slow_down"] == 2
    until(lambda: daemon.server.current()["append_bytes_under_way"] == 0)
    for client in clients:
        client.close()


# Hostile clients


def test_nothing_but_hello_is_taken_without_a_session(daemon: Daemon, spool: Path) -> None:
    with Raw(daemon.address, hello=False) as raw:
        assert refused(raw.ask(m.Ping(0)), "no-session")
        raw.append(numbered(0), numbered(1))
        answer = raw.receive()
        assert isinstance(answer, m.Refused) and (answer.code, answer.count) == ("no-session", 2)
    assert records_in(spool) == []
    assert daemon.server.stats()["without_session"] == 2


def test_a_client_of_a_later_protocol_is_told_the_one_both_speak(daemon: Daemon) -> None:
    with Raw(daemon.address, hello=False) as raw:
        welcome = raw.ask(m.Hello(0, 99, "later"))
        assert isinstance(welcome, m.Welcome) and welcome.protocol == m.PROTOCOL
    with Raw(daemon.address, hello=False) as raw:
        assert refused(raw.ask(m.Hello(0, 0, "earlier")), "protocol")


def test_unknown_and_oversized_controls_are_answered_and_counted(daemon: Daemon, raw: Raw) -> None:
    raw.socket.send(b'{"verb":"dance","id":17}')
    answer = raw.receive()
    assert isinstance(answer, m.Refused) and (answer.id, answer.code) == (17, "protocol")
    raw.socket.send(b'{"verb":"ping","id":18,"x":"' + b"y" * m.CONTROL_BYTES_MAX + b'"}')
    assert refused(raw.receive(), "protocol")
    raw.socket.send(b"")
    assert refused(raw.receive(), "protocol")
    stats = daemon.server.stats()
    assert (stats["malformed_not_understood"], stats["malformed_control_too_long"]) == (2, 1)
    assert raw.settle() == []


def test_a_frame_over_the_limit_costs_its_sender_the_connection(daemon: Daemon, raw: Raw) -> None:
    with Raw(daemon.address) as other:
        monitor = other.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        other.socket.send(b"x" * (m.FRAME_BYTES_MAX + 1))
        assert monitor.poll(20_000)
        other.socket.disable_monitor()
        monitor.close()
    assert raw.settle() == []


frames = st.lists(
    st.binary(max_size=300)
    | st.sampled_from(CONTROLS)
    | st.sampled_from([numbered(0).to_wire(), _bomb(), b"{}", b"[", b"\0" * 5]),
    min_size=1,
    max_size=6,
)


def test_no_frames_stop_the_daemon(spool: Path) -> None:
    make_log(spool)
    with Daemon(spool) as daemon, Raw(daemon.address) as witness:

        @settings(max_examples=150, suppress_health_check=list(HealthCheck))
        @given(st.lists(frames, min_size=1, max_size=8), st.booleans())
        def fuzz(sent: list[list[bytes]], hello: bool) -> None:
            with Raw(daemon.address, hello=hello) as hostile:
                for parts in sent:
                    hostile.socket.send_multipart(parts)
                # The daemon is past all of it when it has answered this.
                hostile.socket.send(b'{"verb":"dance","id":4711}')
                while True:
                    answer = hostile.receive()
                    if isinstance(answer, m.Refused) and answer.id == 4711:
                        break
            assert witness.settle() == []

        fuzz()
        assert daemon.server.stats().get("internal_errors", 0) == 0
    assert set(records_in(spool)) <= {b"7-0......."}


def test_fields_of_any_value_do_not_stop_the_daemon(daemon: Daemon) -> None:
    verbs = [kind.__struct_config__.tag for kind in m.FromClient.__args__ if kind is not m.Bye]
    names = ["log", "name", "start", "sub", "next", "bytes", "credit", "follow", "producer", "source", "caps"]
    values = st.none() | st.booleans() | st.integers(-(1 << 70), 1 << 70) | st.text(max_size=8) | st.sampled_from(
        ["mainlog", "master", "begin", "end", {}, [], 1, 2, {"max_bytes": 1}, "../x", "2026-01-31T12:00:00Z", 1e300]
    )  # fmt: skip
    with Raw(daemon.address) as witness:

        @settings(max_examples=150, suppress_health_check=list(HealthCheck))
        @given(st.lists(st.tuples(st.sampled_from(verbs), st.dictionaries(st.sampled_from(names), values)), max_size=6))
        def fuzz(sent: list[tuple[str, dict[str, object]]]) -> None:
            with Raw(daemon.address) as hostile:
                for number, (verb, fields) in enumerate(sent, 10):
                    hostile.socket.send(json.dumps({"verb": verb, "id": number, **fields}).encode())
                hostile.socket.send(b'{"verb":"dance","id":4711}')
                while getattr(hostile.receive(), "id", 0) != 4711:
                    pass
            assert witness.settle() == []

        fuzz()
    assert daemon.server.stats().get("internal_errors", 0) == 0


def test_a_client_that_reads_nothing_loses_its_session(daemon: Daemon, raw: Raw) -> None:
    deaf = Raw(daemon.address, hello=False)
    deaf.socket.close()
    deaf.socket = zmq.Context.instance().socket(zmq.DEALER)
    deaf.socket.linger, deaf.socket.rcvhwm, deaf.socket.rcvbuf = 0, 1, 4096
    deaf.socket.connect(daemon.address)
    deaf.send(m.Hello(0, 1, "deaf"))

    def gone() -> bool:
        for _ in range(5000):
            try:
                deaf.socket.send(m.encode(m.Checkpoint(1, 99, 1)), zmq.DONTWAIT)  # refused, in more words than a pong
            except zmq.Again:
                break
        for _ in range(5000):
            try:
                deaf.socket.send(m.encode(m.Ping(1)), zmq.DONTWAIT)
            except zmq.Again:
                break
        return daemon.server.stats().get("sessions_stalled", 0) == 1

    until(gone)
    deaf.close()
    assert raw.settle() == []


# Subscribing


def _fill(raw: Raw, batches: int, records: int = 1000, start: int = 0) -> None:
    for n in range(batches):
        raw.append(numbered(start + n * records, records, size=100))
        if n % 50 == 49 or n == batches - 1:  # within the window
            assert all(isinstance(outcome, m.Ack) for outcome in raw.outcomes(n % 50 + 1).values())


def _receive_all(raw: Raw, sub: int, *, credit: bool = True) -> tuple[list[Batch], m.End]:
    found: list[Batch] = []
    while True:
        message = raw.receive()
        if isinstance(message, m.End):
            return found, message
        assert isinstance(message, m.Delivery) and message.sub == sub
        found += raw.batches()
        if credit:
            raw.send(m.Credit(sub, message.cost))


def test_stored_batches_arrive_as_they_were_sent(raw: Raw) -> None:
    sent = [numbered(0, 3), encode([b"with\nnewline"]).numbered(7, 3, 4)]
    raw.append(*sent)
    raw.outcomes(2)
    sub = raw.subscribe().id
    found, end = _receive_all(raw, sub)
    assert end == m.End(sub, sub, 5)
    assert [(batch.first, batch.body) for batch in found] == [(1, sent[0].body), (4, sent[1].body)]
    assert [(batch.producer, batch.producer_to) for batch in found] == [(7, 3), (7, 4)]


def test_delivery_ends_with_the_credit_and_goes_on_with_it(raw: Raw) -> None:
    _fill(raw, 20)
    granted = raw.subscribe(credit=250_000)
    first = raw.receive()
    assert isinstance(first, m.Delivery)
    received = len(raw.frame)
    while received < 250_000:
        delivery = raw.receive()
        assert isinstance(delivery, m.Delivery)
        received += len(raw.frame)
    # Overdrawn by less than a batch, and then nothing: what was asked meanwhile is answered at once.
    assert received < 250_000 + 110_000
    assert raw.settle() == []
    raw.send(m.Credit(granted.id, received))
    assert isinstance(raw.receive(), m.Delivery)


def test_credit_does_not_grow_above_what_was_granted(raw: Raw) -> None:
    _fill(raw, 20)
    granted = raw.subscribe(credit=1024)
    raw.receive()
    for _ in range(3):
        raw.send(m.Credit(granted.id, (1 << 63) - 1))
    received = 0
    for message in [raw.receive(), *raw.settle()]:
        assert isinstance(message, m.Delivery)
        received += 1
    assert received <= 3


def test_a_subscription_without_credit_gets_nothing(raw: Raw) -> None:
    _fill(raw, 1)
    raw.subscribe(credit=0)
    assert raw.settle() == []


def test_the_daemon_grants_less_when_there_are_many(daemon: Daemon, raw: Raw, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roster, "CREDIT_BYTES_TOTAL", 8 * MIB)
    granted = [raw.subscribe(credit=16 * MIB, follow=True).credit for _ in range(30)]
    assert granted[0] == 2 * MIB
    assert granted == sorted(granted, reverse=True)
    assert granted[-1] == roster.CREDIT_BYTES_MIN
    assert sum(granted) <= 8 * MIB + 30 * roster.CREDIT_BYTES_MIN


def test_a_subscriber_that_does_not_read_delays_nobody(daemon: Daemon, raw: Raw) -> None:
    with Raw(daemon.address) as silent:
        silent.subscribe(credit=4 * MIB, follow=True)
        _fill(raw, 100)
        sub = raw.subscribe(credit=4 * MIB).id
        found, _ = _receive_all(raw, sub)
        assert sum(batch.count for batch in found) == 100_000
        _fill(raw, 1, start=100_000)


def test_turns_are_fair(daemon: Daemon, raw: Raw) -> None:
    _fill(raw, 100)
    with Raw(daemon.address) as other:
        big = other.subscribe(credit=16 * MIB).id
        small = raw.subscribe(credit=16 * MIB).id
        assert sum(batch.count for batch in _receive_all(raw, small)[0]) == 100_000
        assert sum(batch.count for batch in _receive_all(other, big)[0]) == 100_000


def test_following_sees_what_is_appended_later(daemon: Daemon, raw: Raw) -> None:
    sub = raw.subscribe(start="end", follow=True).id
    assert raw.settle() == []
    with Raw(daemon.address) as other:
        other.append(numbered(0, 3))
        delivery = raw.receive()
        assert isinstance(delivery, m.Delivery) and (delivery.sub, delivery.next) == (sub, 4)
        other.outcomes(1)


def test_following_sees_what_another_process_appends(daemon: Daemon, raw: Raw, spool: Path) -> None:
    raw.subscribe(start="end", follow=True)
    with Journal.open(spool / "mainlog") as journal:  # its commits are not announced to the daemon
        journal.commit([numbered(0, 3)])
        delivery = raw.receive()
        assert isinstance(delivery, m.Delivery) and delivery.next == 4


def test_more_after_the_end(raw: Raw) -> None:
    sub = raw.subscribe().id
    assert raw.receive() == m.End(sub, sub, 1)
    _fill(raw, 1, 2)
    assert raw.settle() == []  # not asked
    more = raw.send(m.More(0, sub))
    assert isinstance(raw.receive(), m.Delivery)
    assert raw.receive() == m.End(sub, more, 3)
    assert raw.ask(m.More(0, sub)) == m.End(sub, more + 1, 3)
    raw.send(m.More(0, sub, follow=True))
    raw.append(numbered(2))
    assert {type(raw.receive()), type(raw.receive())} == {m.Delivery, m.Acks}
    assert refused(raw.ask(m.More(0, 999)), "subscriber-unknown")


def test_a_dropped_range_arrives_as_a_gap(spool: Path) -> None:
    make_log(spool, segment_bytes=4096)
    with Daemon(spool) as daemon, Raw(daemon.address) as raw:
        raw.ask(m.SubscriberAdd(0, "mainlog", "slow", "begin", m.Caps(max_bytes=8192, on_full="drop-oldest")))
        for n in range(0, 300, 10):
            raw.append(numbered(n, 10, size=100))
            raw.outcomes(1)
        sub = raw.subscribe("slow").id
        delivery = raw.receive()
        assert isinstance(delivery, m.Delivery) and delivery.gaps
        gap = delivery.gaps[0]
        assert (gap.first, gap.reason) == (1, "dropped")
        assert raw.batches()[0].first == gap.last + 1
        assert delivery.sub == sub


# Names


def test_a_name_has_one_consumer(daemon: Daemon, raw: Raw) -> None:
    sub = raw.hold("master")
    with Raw(daemon.address) as other:
        answer = other.ask(m.Subscribe(0, "mainlog", "master", follow=True))
        assert refused(answer, "subscriber-busy") and "raw" in answer.message  # type: ignore[union-attr]
        assert refused(raw.ask(m.Subscribe(0, "mainlog", "master", follow=True)), "subscriber-busy")
        assert refused(other.ask(m.SubscriberRemove(0, "mainlog", "master")), "subscriber-busy")
        stat = other.ask(m.Stat(0, "mainlog"))
        assert isinstance(stat, m.StatIs) and stat.stat.subscribers[0].holder == "raw"
        assert isinstance(raw.ask(m.Unsubscribe(0, sub)), m.Done)
        other.hold("master")


def test_a_name_is_free_after_a_goodbye(daemon: Daemon) -> None:
    with Raw(daemon.address) as first, Raw(daemon.address) as second:
        first.hold("master")
        first.send(m.Bye())
        assert refused(first.ask(m.Ping(0)), "no-session")
        second.hold("master")


def test_a_name_is_free_once_its_consumer_is_gone(daemon: Daemon) -> None:
    """No goodbye: the process died. Whoever comes next does not wait for the session to expire."""
    first = Raw(daemon.address)
    first.hold("master")
    first.close()
    with Raw(daemon.address) as second:
        until(lambda: isinstance(second.ask(m.Subscribe(0, "mainlog", "master", follow=True)), m.Subscribed))
    assert daemon.server.stats()["sessions_gone"] == 1


def test_a_silent_client_loses_its_session_and_its_names(spool: Path) -> None:
    make_log(spool, subscribers=["master"])
    with Daemon(spool, limits=Limits(session_seconds=1.0)) as daemon, Raw(daemon.address) as silent:
        silent.hold("master")
        with Raw(daemon.address) as other:
            until(lambda: isinstance(other.ask(m.Subscribe(0, "mainlog", "master", follow=True)), m.Subscribed))
        assert daemon.server.stats()["sessions_expired"] == 1
        assert refused(silent.ask(m.Ping(0)), "no-session")


def test_pings_keep_a_session(spool: Path) -> None:
    make_log(spool, subscribers=["master"])
    with Daemon(spool, limits=Limits(session_seconds=1.5)) as daemon, Raw(daemon.address) as raw:
        raw.hold("master")
        for _ in range(12):
            time.sleep(0.25)
            assert raw.settle() == []
        assert daemon.server.current()["sessions"] == 1


def test_a_client_that_comes_back_has_its_names_at_once(daemon: Daemon, raw: Raw) -> None:
    raw.hold("master")
    with Raw(daemon.address, client=raw.client) as again:  # the daemon still believes in the first connection
        again.hold("master")
        assert refused(raw.ask(m.Ping(0)), "no-session")


def test_checkpoints(daemon: Daemon, raw: Raw) -> None:
    _fill(raw, 3, 10)
    sub = raw.subscribe("master", follow=True).id
    assert isinstance(raw.receive(), m.Delivery)
    ids = [raw.send(m.Checkpoint(0, sub, sequence)) for sequence in (5, 21, 11, 99)]
    answers = {answer.id: answer for answer in (raw.receive() for _ in ids)}  # type: ignore[union-attr]
    assert [type(answers[id_]) for id_ in ids] == [m.Done, m.Done, m.Done, m.Refused]
    assert refused(answers[ids[3]], "usage")
    raw.ask(m.Unsubscribe(0, sub))
    assert raw.subscribe("master", credit=0, follow=True).next == 21
    assert refused(raw.ask(m.Checkpoint(0, sub, 25)), "subscriber-unknown")


def test_a_checkpoint_sent_just_before_the_end_counts(daemon: Daemon, raw: Raw) -> None:
    _fill(raw, 3, 10)
    sub = raw.subscribe("master").id
    raw.receive()
    raw.send(m.Checkpoint(0, sub, 31))
    raw.send(m.Bye())
    until(lambda: daemon.server.current()["sessions"] == 0)
    with Raw(daemon.address) as other:
        assert other.subscribe("master").next == 31


def test_a_named_subscription_goes_on_where_the_client_says(daemon: Daemon, raw: Raw) -> None:
    _fill(raw, 10, 100)
    granted = raw.subscribe("master", start=457)
    assert granted.next == 457
    found, end = _receive_all(raw, granted.id)
    records = [record for batch in found for record in batch]
    assert records[0].startswith(b"7-456.") and len(records) == 1000 - 456
    assert end.next == 1001
    assert isinstance(raw.ask(m.Checkpoint(0, granted.id, 500)), m.Done)
    with Raw(daemon.address) as other:
        assert refused(other.ask(m.Subscribe(0, "mainlog", "master", "end")), "usage")


def test_limits_of_one_client(spool: Path) -> None:
    make_log(spool)
    with Daemon(spool, limits=Limits(subscriptions=3)) as daemon, Raw(daemon.address) as raw:
        for _ in range(3):
            raw.subscribe(follow=True)
        assert refused(raw.ask(m.Subscribe(0, "mainlog")), "slow-down")


def test_too_many_clients(daemon: Daemon, raw: Raw, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roster, "SESSIONS_MAX", 2)
    with Raw(daemon.address), Raw(daemon.address, hello=False) as third:
        assert refused(third.ask(m.Hello(0, 1, "third")), "slow-down")


def test_requests_that_wait_are_bounded(daemon: Daemon, raw: Raw) -> None:
    journal = daemon.logs.get("mainlog").journal
    go = threading.Event()
    stat = journal.stat
    journal.stat = lambda: go.wait(60) and stat()  # type: ignore[method-assign, assignment, return-value]
    ids = [raw.send(m.Stat(0, "mainlog")) for _ in range(servers.REQUESTS_MAX + 5)]
    assert [refused(answer, "slow-down") for answer in raw.settle()] == [True] * 5
    go.set()
    assert len([raw.receive() for _ in ids[5:]]) == servers.REQUESTS_MAX
    assert isinstance(raw.ask(m.Stat(0, "mainlog")), m.StatIs)


# Listening and closing


def test_an_address_in_use_is_told(daemon: Daemon) -> None:
    with pytest.raises(CannotListen, match="another jlogd"):
        Server(daemon.logs, [daemon.address])


def test_a_unix_socket_in_use_is_not_taken_over(spool: Path, tmp_path: Path) -> None:
    make_log(spool)
    address = f"ipc://{tmp_path}/zmq.sock"
    with Daemon(spool, address) as daemon:
        with pytest.raises(UsageError, match="another process"):
            Server(daemon.logs, [address])
        with Raw(address) as raw:
            raw.append(numbered(0))
            raw.outcomes(1)
        assert (tmp_path / "zmq.sock").stat().st_mode & 0o777 == 0o660
    with Daemon(spool, address):  # what a dead daemon left behind is no hindrance
        pass


def test_only_loopback_is_listened_on(daemon: Daemon) -> None:
    with pytest.raises(UsageError, match="loopback"):
        Server(daemon.logs, ["tcp://0.0.0.0:0"])


def test_several_addresses(spool: Path, tmp_path: Path) -> None:
    make_log(spool)
    with Daemon(spool) as daemon:
        server = Server(daemon.logs, ["tcp://127.0.0.1:0", "tcp://[::1]:0", f"ipc://{tmp_path}/s"])
        server.start()
        for address in server.addresses:
            with Raw(address) as raw:
                assert raw.settle() == []
        server.close()


def test_batches_under_way_are_answered_before_it_closes(daemon: Daemon, raw: Raw, spool: Path) -> None:
    with held_commits(daemon.logs.get("mainlog")) as released:
        raw.append(numbered(0), numbered(1))
        raw.settle()
        threading.Timer(0.2, released.set).start()
        daemon.server.close()
    assert all(isinstance(outcome, m.Ack) for outcome in raw.outcomes(2).values())
    assert len(records_in(spool)) == 2


def test_names_are_free_when_it_has_closed(daemon: Daemon, raw: Raw) -> None:
    raw.subscribe("master", follow=True)
    journal = daemon.logs.get("mainlog").journal
    daemon.server.close()
    journal.hold("master").release()
    daemon.server.close()


def test_a_server_that_was_never_started_closes(daemon: Daemon) -> None:
    Server(daemon.logs, ["tcp://127.0.0.1:0"]).close()
