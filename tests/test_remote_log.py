"""A log behind a daemon is used like one in a directory, and loses and doubles nothing when a side comes and goes."""

from __future__ import annotations

import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import pytest
import zmq
from wire_proxy import Proxy
from wire_support import Daemon, held_commits, make_log, records_in

import jlogd
from jlogd.daemon import intake
from jlogd.errors import (
    Closed,
    FormatError,
    JlogError,
    LogExists,
    LogFull,
    LogNotFound,
    RemoteError,
    SubscriberBusy,
    SubscriberExists,
    SubscriberUnknown,
    UsageError,
)
from jlogd.journal.batch import ZSTD, Batch, Gap, encode
from jlogd.journal.types import Caps, Receipt, Settings
from jlogd.log import Log
from jlogd.subscriber.subscriber import Subscriber
from jlogd.wire import connection as connections
from jlogd.wire import feed as feeds
from jlogd.wire import messages, shared
from jlogd.wire.client import RemoteLog, create_remote, list_remote
from jlogd.wire.connection import Connection
from jlogd.wire.feed import RemoteFeed
from jlogd.wire.messages import Limits
from jlogd.wire.sink import RemoteSink

MIB = 1 << 20


@pytest.fixture
def log(daemon: Daemon) -> Iterator[RemoteLog]:
    with RemoteLog(daemon.target()) as log:
        yield log


def until(condition: Callable[[], bool], what: str = "it did not come about") -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def write(log: Log, *records: bytes) -> None:
    with log.writer() as writer:
        writer.extend(list(records))


def read(subscriber: Subscriber) -> list[bytes]:
    with subscriber:
        return [record for batch in subscriber for record in batch]


def numbers(start: int, count: int) -> list[bytes]:
    return [b"%08d" % n for n in range(start, start + count)]


# Both kinds of log do the same


@pytest.fixture(params=["directory", "tcp", "ipc"])
def any_log(request: pytest.FixtureRequest, spool: Path, tmp_path: Path) -> Iterator[Log]:
    make_log(spool, subscribers=["master"])
    if request.param == "directory":
        with jlogd.open(spool / "mainlog") as log:
            yield log
        return
    address = "tcp://127.0.0.1:0" if request.param == "tcp" else f"ipc://{tmp_path}/zmq.sock"
    with Daemon(spool, address) as daemon, jlogd.open(daemon.target()) as log:
        yield log


def test_write_and_read(any_log: Log) -> None:
    sent = [b"one", b"", b"with\nnewline", os.urandom(100), b"x" * 100_000]
    write(any_log, *sent)
    assert read(any_log.subscriber()) == sent
    assert read(any_log.subscriber("master")) == sent
    assert read(any_log.subscriber(start=4)) == sent[3:]
    assert read(any_log.subscriber(start="end")) == []
    assert read(any_log.subscriber(start=datetime(2000, 1, 1, tzinfo=UTC))) == sent
    assert read(any_log.subscriber(start=datetime(2100, 1, 1, tzinfo=UTC))) == []
    assert any_log.name == "mainlog" and any_log.stat().target == any_log.target


def test_receipts(any_log: Log) -> None:
    with any_log.writer() as writer:
        first = writer.append(b"a", receipt=True)
        second = writer.append(b"b", receipt=True)
        writer.flush()
        assert first is not None and second is not None
        assert (first.result(10), second.result(10)) == (Receipt(1, 1), Receipt(2, 1))
        assert writer.durable == 2


def test_checkpoints_are_where_the_next_consumer_starts(any_log: Log) -> None:
    for n in range(5):
        write(any_log, b"%d" % n)
    with any_log.subscriber("master") as subscriber:
        for batch in subscriber:
            batch.checkpoint()
            if batch.next == 4:
                break
        subscriber.checkpoint(2)  # a lower one changes nothing
    with any_log.subscriber("master") as subscriber:
        assert [record for batch in subscriber for record in batch] == [b"3", b"4"]
        with pytest.raises(UsageError, match="delivered"):
            subscriber.checkpoint(99)
    assert any_log.subscribers()[0].next == 4


def test_a_reader_at_the_end_sees_what_comes(any_log: Log) -> None:
    with any_log.subscriber("master") as subscriber:
        assert list(subscriber) == []
        write(any_log, b"a")
        assert [list(batch) for batch in subscriber] == [[b"a"]]
        assert subscriber.fetch() == []
        write(any_log, b"b")
        assert [list(batch) for batch in subscriber.fetch(timeout=10)] == [[b"b"]]
        assert subscriber.fetch(timeout=0.01) == []
        write(any_log, b"c")
        assert [list(batch) for batch in subscriber.fetch(timeout=0)] == [[b"c"]]


def test_following_ends_when_it_is_told_to(any_log: Log) -> None:
    stop = threading.Event()
    seen: list[bytes] = []

    def follow() -> None:
        with any_log.subscriber("master", follow=True, stop=stop) as subscriber:
            for batch in subscriber:
                seen.extend(batch)

    thread = threading.Thread(target=follow)
    thread.start()
    for n in range(5):
        write(any_log, b"%d" % n)
    until(lambda: len(seen) == 5)
    stop.set()
    thread.join(10)
    assert not thread.is_alive() and seen == [b"0", b"1", b"2", b"3", b"4"]


def test_one_consumer_for_a_name(any_log: Log) -> None:
    with any_log.subscriber("master"):
        with pytest.raises(SubscriberBusy, match=str(os.getpid())):
            any_log.subscriber("master")
        with pytest.raises(SubscriberBusy):
            any_log.remove_subscriber("master")
        assert str(os.getpid()) in any_log.subscribers()[0].holder
    any_log.subscriber("master").close()


def test_caps_may_change(any_log: Log) -> None:
    any_log.add_subscriber("capped", "begin", Caps(max_bytes=300_000))
    with any_log.writer(on_full="wait") as writer:
        for _ in range(10):
            writer.append(os.urandom(100_000))
        until(lambda: writer.full is not None)
        assert "jlogctl subscriber caps" in str(writer.full)
        any_log.set_caps("capped", Caps(max_bytes=8 * MIB))
        writer.flush(30)
    any_log.set_caps("capped", None)
    assert {one.name: one.caps for one in any_log.subscribers()} == {"capped": Caps(), "master": Caps()}
    assert len(read(any_log.subscriber("capped"))) == 10


def test_caps_change_under_a_consumer_of_the_daemon(log: RemoteLog) -> None:
    write(log, b"a", b"b")
    with log.subscriber("master") as consumer:
        first = next(iter(consumer))
        log.set_caps("master", Caps(max_bytes=MIB))
        first.checkpoint()
    (after,) = log.subscribers()
    assert (after.caps, after.next) == (Caps(max_bytes=MIB), 3)


def test_subscribers_come_and_go(any_log: Log) -> None:
    write(any_log, b"a", b"b", b"c")
    any_log.add_subscriber("late", "end")
    any_log.add_subscriber("capped", 2, Caps(max_bytes=MIB))
    any_log.clone_subscriber("copy", "capped")
    assert {s.name: s.next for s in any_log.subscribers()} == {"master": 1, "late": 4, "capped": 2, "copy": 2}
    any_log.set_subscriber("copy", "begin")
    assert read(any_log.subscriber("copy")) == [b"a", b"b", b"c"]
    any_log.remove_subscriber("copy")
    with pytest.raises(SubscriberUnknown):
        any_log.subscriber("copy")
    with pytest.raises(SubscriberUnknown):
        any_log.remove_subscriber("copy")
    with pytest.raises(SubscriberUnknown):
        any_log.set_caps("copy", None)
    with pytest.raises(SubscriberExists):
        any_log.add_subscriber("late")
    with pytest.raises(UsageError):
        any_log.add_subscriber("no/name")
    for name in ("no/name", "../owner", "..", "master.lock"):
        with pytest.raises(JlogError):
            any_log.subscriber(name)
    with pytest.raises(UsageError):
        any_log.subscriber(start=99)


def test_a_named_producer_finds_its_position_again(any_log: Log) -> None:
    assert any_log.producer_position("web3") is None
    with any_log.writer(producer="web3") as writer:
        writer.extend([b"a", b"b"])
    assert any_log.producer_position("web3") == 2
    with any_log.writer(producer="web3") as writer:
        assert writer.position == 2
        writer.send(encode([b"b again"]).numbered(writer._producer, 1, 2))  # what a restarted source may send
        writer.append(b"c")
    assert read(any_log.subscriber()) == [b"a", b"b", b"c"]


def test_a_full_log_refuses_and_goes_on(any_log: Log) -> None:
    any_log.add_subscriber("capped", "begin", Caps(max_bytes=300_000))
    with pytest.raises(LogFull, match="capped"), any_log.writer() as writer:
        for _ in range(10):
            writer.append(os.urandom(100_000))
            writer.flush()
    before = any_log.stat().next
    with any_log.writer(on_full="wait") as writer:
        for _ in range(10):
            writer.append(os.urandom(100_000))
        until(lambda: writer.full is not None)
        any_log.remove_subscriber("capped")
        writer.flush(30)
    assert any_log.stat().next == before + 10


def test_compression_is_the_logs_setting(any_log: Log, spool: Path) -> None:
    del any_log
    make_log(spool, "zipped", compression="zstd")
    with Daemon(spool) as daemon, RemoteLog(daemon.target("zipped")) as log:
        write(log, *[b"the same line"] * 1000)
        with log.subscriber() as subscriber:
            batches = [batch for batch in subscriber if isinstance(batch, Batch)]
    assert [batch.codec for batch in batches] == [ZSTD]
    assert len(batches[0].body) < 1000 and list(batches[0]) == [b"the same line"] * 1000


# What only a remote log has


def test_nobody_there_is_told_at_once() -> None:
    with pytest.raises(RemoteError, match=r"no daemon at tcp://127\.0\.0\.1:1: is jlogd running\? start it"):
        RemoteLog("tcp://127.0.0.1:1/mainlog", timeout=60)
    assert shared._shared == {}


def test_nobody_behind_a_unix_socket_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(RemoteError, match="no daemon at ipc://"):
        RemoteLog(f"ipc://{tmp_path}/zmq.sock/mainlog", timeout=60)
    left = socket.socket(socket.AF_UNIX)
    left.bind(f"{tmp_path}/left.sock")
    with pytest.raises(RemoteError, match="no daemon at ipc://"):
        RemoteLog(f"ipc://{tmp_path}/left.sock/mainlog", timeout=60)


def test_a_listener_that_is_no_daemon_is_told_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HELLO_SECONDS", 0.2)
    listener = socket.create_server(("127.0.0.1", 0))
    with pytest.raises(RemoteError, match="no daemon at"):
        RemoteLog(f"tcp://127.0.0.1:{listener.getsockname()[1]}/mainlog", timeout=30)
    listener.close()


def test_a_daemon_that_does_not_answer_is_told(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = daemon.logs.get("mainlog").journal
    go = threading.Event()
    with RemoteLog(daemon.target(), timeout=0.3) as log:
        monkeypatch.setattr(journal, "stat", lambda: go.wait(30))
        with pytest.raises(RemoteError, match="does not answer"):
            log.stat()
        go.set()


def test_a_daemon_of_another_protocol_is_told() -> None:
    context = zmq.Context()
    router = context.socket(zmq.ROUTER)
    router.linger = 0
    port = router.bind_to_random_port("tcp://127.0.0.1")

    def answer() -> None:
        identity, _ = router.recv_multipart()
        router.send_multipart([identity, messages.encode(messages.Welcome(1, 9, "9.0", Limits()))])

    thread = threading.Thread(target=answer)
    thread.start()
    with pytest.raises(RemoteError, match=r"jlogd 9\.0.*protocol 9.*upgrade"):
        RemoteLog(f"tcp://127.0.0.1:{port}/mainlog", timeout=5)
    thread.join()
    router.close()
    context.term()


def test_errors_arrive_as_what_they_are(daemon: Daemon) -> None:
    with pytest.raises(LogNotFound, match="nope"):
        RemoteLog(daemon.target("nope"))
    with pytest.raises(UsageError):
        RemoteLog("tcp://10.0.0.1:5140/mainlog")
    with pytest.raises(LogExists):
        create_remote(daemon.target())


def test_logs_are_made_and_listed(daemon: Daemon) -> None:
    create_remote(daemon.target("audit"), Settings(durability="os"), ["a", "b"])
    jlogd.create(daemon.target("second"))
    assert list_remote(daemon.address) == ["audit", "mainlog", "second"]
    with RemoteLog(daemon.target("audit")) as log:
        assert [subscriber.name for subscriber in log.subscribers()] == ["a", "b"]
        assert log.stat().durability == "os"


def test_one_connection_for_all_that_use_an_address(daemon: Daemon) -> None:
    with RemoteLog(daemon.target()) as first, RemoteLog(daemon.target()) as second:
        assert first._connection is second._connection
        assert daemon.server.current()["sessions"] == 1
        first.close()
        write(second, b"still there")
    assert shared._shared == {}
    until(lambda: daemon.server.current()["sessions"] == 0)
    assert daemon.server.stats()["sessions_left"] == 1


def test_a_closed_log_says_so(daemon: Daemon) -> None:
    log = RemoteLog(daemon.target())
    writer, subscriber = log.writer(), log.subscriber("master")
    log.close()
    log.close()
    for use in (log.stat, log.writer, lambda: subscriber.fetch(), lambda: writer.append(b"x") or writer.flush(10)):
        with pytest.raises(Closed):
            use()
    subscriber.close()


def test_a_forked_child_cannot_use_its_parents_log(log: RemoteLog) -> None:
    writer, subscriber = log.writer(linger_ms=1000), log.subscriber("master")
    child = os.fork()
    if not child:
        outcomes = []
        checkpoint, append = (lambda: subscriber.checkpoint(1)), (lambda: writer.append(b"x"))
        for use in (log.stat, log.writer, subscriber.fetch, checkpoint, append):
            try:
                use()
                outcomes.append(False)
            except Closed:
                outcomes.append(True)
            except BaseException:
                outcomes.append(False)
        subscriber.close()
        log.close()
        with RemoteLog(log.target) as own:
            outcomes.append(own.stat().name == "mainlog")
        os._exit(0 if all(outcomes) else 1)
    assert os.waitpid(child, 0)[1] == 0
    writer.append(b"the parent goes on")
    writer.close()
    assert [list(batch) for batch in subscriber] == [[b"the parent goes on"]]
    subscriber.close()


def test_a_consumer_that_does_not_consume_is_sent_its_credit_and_no_more(daemon: Daemon, log: RemoteLog) -> None:
    with log.writer() as writer:
        for _ in range(40):
            writer.extend([b"x" * 1000] * 1000)
    feed = RemoteFeed(log._connection, "mainlog", "master", credit=2 * MIB)
    time.sleep(0.3)
    assert daemon.server.stats()["delivered_bytes"] <= 4 * MIB
    with Subscriber(feed) as subscriber:
        assert sum(batch.count for batch in subscriber) == 40_000


def test_damage_on_the_way_is_noticed(log: RemoteLog, monkeypatch: pytest.MonkeyPatch) -> None:
    write(log, b"something")
    received = RemoteFeed._received

    def spoil(self: RemoteFeed, message: messages.FromDaemon, frame: memoryview | None) -> None:
        received(self, message, None if frame is None else memoryview(bytes(frame)[:-1] + b"!"))

    monkeypatch.setattr(RemoteFeed, "_received", spoil)
    with log.subscriber() as subscriber, pytest.raises(FormatError, match="checksum"):
        list(subscriber)


def test_gaps_arrive(spool: Path) -> None:
    make_log(spool, segment_bytes=4096)
    with Daemon(spool) as daemon, RemoteLog(daemon.target()) as log:
        log.add_subscriber("slow", "begin", Caps(max_bytes=8192, on_full="drop-oldest"))
        for n in range(0, 400, 10):
            write(log, *[b"%098d" % m for m in range(n, n + 10)])
        with log.subscriber("slow") as subscriber:
            items = list(subscriber)
            assert isinstance(items[0], Gap) and items[0].reason == "dropped" and items[0].first == 1
            assert all(before.next == after.first for before, after in pairwise(items))
            items[-1].checkpoint()
        stat = log.subscribers()[0]
        assert stat.next == 401 and stat.dropped == items[0].count


# Coming and going


def test_the_daemon_restarts_under_a_writer(daemon: Daemon, log: RemoteLog, spool: Path) -> None:
    with log.writer(linger_ms=1) as writer:
        for n in range(30):
            writer.extend(numbers(n * 100, 100))
            if n % 10 == 5:
                daemon.restart()
        writer.flush(60)
        assert writer.durable == 3000
    daemon.stop()
    assert records_in(spool) == numbers(0, 3000)
    daemon.start()


def test_answers_are_lost_again_and_again(daemon: Daemon, spool: Path, rng: random.Random) -> None:
    """Every record is there once and in order, although many batches are sent several times."""
    with Proxy(daemon.address) as proxy, RemoteLog(f"{proxy.address}/mainlog") as log:
        with log.writer(linger_ms=0.5) as writer:
            for n in range(40):
                if n % 3 == 0:
                    proxy.mute.set()
                writer.extend(numbers(n * 50, 50))
                time.sleep(rng.random() / 200)
                if n % 3 == 2:
                    before = proxy.connections
                    proxy.cut()
                    proxy.mute.clear()
                    until(lambda before=before: proxy.connections > before)  # type: ignore[misc]
            proxy.cut()
            proxy.mute.clear()
            writer.flush(60)
        assert proxy.connections > 10
        assert daemon.logs.get("mainlog").journal.counters["duplicate_batches"] > 0
        assert [record for batch in log.subscriber() for record in batch] == numbers(0, 2000)
        proxy.close()
    assert records_in(spool) == numbers(0, 2000)


def test_two_writers_and_a_follower_through_restarts_and_cuts(daemon: Daemon, spool: Path) -> None:
    with Proxy(daemon.address) as proxy, RemoteLog(f"{proxy.address}/mainlog") as log:
        stop = threading.Event()
        followed: list[bytes] = []

        def follow() -> None:
            with log.subscriber("master", follow=True, stop=stop) as subscriber:
                for batch in subscriber:
                    followed.extend(batch)
                    batch.checkpoint()

        def produce(name: bytes) -> None:
            with log.writer(linger_ms=1) as writer:
                for n in range(300):
                    writer.append(name + b"%05d" % n)
                    time.sleep(0.001)
                writer.flush(60)

        threads = [threading.Thread(target=produce, args=(name,)) for name in (b"a", b"b")]
        follower = threading.Thread(target=follow)
        for thread in (follower, *threads):
            thread.start()
        for n in range(6):
            time.sleep(0.05)
            daemon.restart() if n % 2 else proxy.cut()
        for thread in threads:
            thread.join(60)
        until(lambda: len(followed) >= 600, f"{len(followed)} of 600 were followed")
        stop.set()
        follower.join(10)
        for name in (b"a", b"b"):
            mine = [record for record in followed if record.startswith(name)]
            assert mine == [name + b"%05d" % n for n in range(300)]
        assert len(followed) == 600
        assert log.subscribers()[0].next == 601


def test_a_reader_that_does_not_follow_goes_on_after_a_restart(daemon: Daemon, log: RemoteLog) -> None:
    with log.writer() as writer:
        for n in range(20):
            writer.extend([b"%04d" % n + b"x" * 995] * 1000)
    feed = RemoteFeed(log._connection, "mainlog", credit=2 * MIB)
    seen = []
    with Subscriber(feed) as subscriber:
        for number, batch in enumerate(subscriber):
            seen += [record[:4] for record in batch]
            if number in (5, 30):
                daemon.restart()
    assert seen == [b"%04d" % n for n in range(20) for _ in range(1000)]


def test_a_checkpoint_survives_a_lost_answer(daemon: Daemon) -> None:
    with RemoteLog(daemon.target()) as log:
        write(log, b"a", b"b")
    with Proxy(daemon.address) as proxy, RemoteLog(f"{proxy.address}/mainlog") as log:
        with log.subscriber("master", follow=True) as subscriber:
            batch = subscriber.fetch(timeout=10)[0]
            proxy.mute.set()
            timer = threading.Timer(0.2, lambda: (proxy.cut(), proxy.mute.clear()))
            timer.start()
            batch.checkpoint()
            timer.join()
        assert log.subscribers()[0].next == 3


def test_writing_goes_on_when_the_daemon_comes_later(daemon: Daemon, log: RemoteLog, spool: Path) -> None:
    writer = log.writer(linger_ms=0)
    daemon.stop()
    for n in range(10):
        writer.append(b"%d" % n)
    daemon.start()
    writer.flush(30)
    writer.close()
    daemon.stop()
    assert records_in(spool) == [b"%d" % n for n in range(10)]
    daemon.start()


def test_a_daemon_that_stays_away_fails_the_writer(daemon: Daemon) -> None:
    log = RemoteLog(daemon.target(), retry_seconds=0.3)
    writer = log.writer(linger_ms=0)
    daemon.stop()
    writer.append(b"x")
    with pytest.raises(RemoteError, match="whether what was sent is durable is not known"):
        writer.flush(30)
    with pytest.raises(RemoteError):
        writer.close()
    log.close()
    daemon.start()


def test_a_daemon_that_stays_away_fails_a_reader_that_does_not_follow(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeds, "RETRY_SECONDS", 0.3)
    with RemoteLog(daemon.target()) as log, log.subscriber() as subscriber:
        assert list(subscriber) == []
        daemon.stop()
        with pytest.raises(RemoteError, match="is jlogd running"):
            list(subscriber)
        daemon.start()


def test_a_log_that_is_gone_after_a_restart_is_told(daemon: Daemon, log: RemoteLog, spool: Path) -> None:
    with log.subscriber(follow=True) as subscriber, log.writer(linger_ms=0) as writer:
        daemon.stop()
        (spool / "mainlog").rename(spool / "other")
        daemon.start()
        writer.append(b"x")
        with pytest.raises(LogNotFound):
            writer.flush(30)
        with pytest.raises(LogNotFound):
            for _ in range(100):
                subscriber.fetch(timeout=1)
        with pytest.raises(LogNotFound):
            writer.close()


def test_questions_survive_a_restart_or_say_that_they_may_not_have(daemon: Daemon, log: RemoteLog) -> None:
    daemon.stop()
    threading.Timer(0.3, daemon.start).start()
    assert log.stat().name == "mainlog"
    journal = daemon.logs.get("mainlog").journal
    go = threading.Event()
    journal.add_subscriber = lambda *_: go.wait(30)  # type: ignore[method-assign, assignment, return-value]
    with Proxy(daemon.address) as proxy, RemoteLog(f"{proxy.address}/mainlog") as other:
        threading.Timer(0.3, proxy.cut).start()
        with pytest.raises(RemoteError, match="whether it was done is not known"):
            other.add_subscriber("x")
        go.set()


def test_a_session_that_expired_is_begun_anew(spool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_log(spool, subscribers=["master"])
    with Daemon(spool, limits=Limits(session_seconds=0.6)) as daemon, RemoteLog(daemon.target()) as log:
        tick = Connection._tick
        with log.subscriber("master", follow=True) as subscriber, log.writer(linger_ms=0) as writer:
            monkeypatch.setattr(Connection, "_tick", lambda *_: None)  # it says nothing for a while
            until(lambda: daemon.server.stats().get("sessions_expired", 0) == 1)
            monkeypatch.setattr(Connection, "_tick", tick)
            writer.append(b"x")
            writer.flush(30)
            assert [list(batch) for batch in subscriber.fetch(timeout=30)] == [[b"x"]]


# Slowing down


def test_told_to_slow_down_it_does_and_nothing_is_lost(
    daemon: Daemon, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three clients, and together they may have less under way than one of them would like."""
    monkeypatch.setattr(intake, "APPEND_BYTES_TOTAL", 20_000)
    clients = [Connection(daemon.address) for _ in range(3)]
    outcomes: list[list[Receipt | JlogError]] = [[], [], []]
    with held_commits(daemon.logs.get("mainlog")):
        sinks = [RemoteSink(client, "mainlog") for client in clients]
        for producer, sink in enumerate(sinks):
            for n in range(50):
                batch = encode([b"%d-%02d" % (producer, n)]).numbered(producer + 1, n, n + 1)
                sink.submit(batch, outcomes[producer].append)
        until(lambda: daemon.server.stats().get("refused_slow_down", 0) > 0)
    until(lambda: all(len(found) == 50 for found in outcomes))
    for found in outcomes:
        assert all(isinstance(outcome, Receipt) and not outcome.duplicate for outcome in found)
        firsts = [outcome.first for outcome in found]  # type: ignore[union-attr]
        assert firsts == sorted(firsts)
    for sink, client in zip(sinks, clients, strict=True):
        sink.close()
        client.close()
    records = records_in(spool)
    for producer in range(3):
        mine = [record for record in records if record.startswith(b"%d-" % producer)]
        assert mine == [b"%d-%02d" % (producer, n) for n in range(50)]


def test_writers_of_one_process_share_the_window(spool: Path) -> None:
    make_log(spool)
    with Daemon(spool, limits=Limits(append_bytes=10_000)) as daemon, RemoteLog(daemon.target()) as log:

        def produce(name: bytes) -> None:
            with log.writer(linger_ms=0) as writer:
                for n in range(200):
                    writer.append(name * 100 + b"%d" % n)

        threads = [threading.Thread(target=produce, args=(name,)) for name in (b"a", b"b", b"c", b"d")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert log.stat().next == 801
        assert daemon.server.stats().get("refused_slow_down", 0) == 0


def test_a_sink_that_is_closed_settles_what_was_under_way(daemon: Daemon, log: RemoteLog) -> None:
    outcomes: list[Receipt | JlogError] = []
    sink = RemoteSink(log._connection, "mainlog")
    with held_commits(daemon.logs.get("mainlog")):
        for n in range(3):
            sink.submit(encode([b"x"]).numbered(1, n, n + 1), outcomes.append)
        sink.close()
        assert [type(outcome) for outcome in outcomes] == [Closed] * 3
    with pytest.raises(Closed):
        sink.submit(encode([b"x"]), outcomes.append)
    write(log, b"others go on")


def test_a_receiver_that_raises_does_not_stop_the_others(daemon: Daemon, log: RemoteLog) -> None:
    sink = RemoteSink(log._connection, "mainlog")
    sink.submit(encode([b"x"]).numbered(1, 0, 1), lambda _: 1 / 0)  # type: ignore[arg-type, return-value]
    write(log, b"others go on")
    sink.close()
