"""The writer: what is durable, in which order, and what happens when the log refuses."""

from __future__ import annotations

import os
import random
import shutil
import threading
from collections import deque
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import jlogd
from jlogd.errors import Closed, JlogError, LogFailed, LogFull, ProducerGap, TooLarge, UsageError
from jlogd.journal.batch import RECORD_BYTES_MAX, Batch, Gap, encode
from jlogd.journal.disk import PosixFile
from jlogd.journal.journal import Journal
from jlogd.journal.producers import Producers
from jlogd.journal.types import Caps, Receipt
from jlogd.subscriber.subscriber import Subscriber, close_abandoned
from jlogd.writer import committer as committer_module
from jlogd.writer import writer as writer_module
from jlogd.writer.committer import Committer
from jlogd.writer.sink import Done
from jlogd.writer.writer import Writer

# What takes longer hangs.
SECONDS_MAX = 30.0


class FullSink:
    """A log that is full at random: judges as the journal does, answers in order from a thread of its own."""

    resends = False

    def __init__(self, full: list[bool]) -> None:
        self._full = deque(full)
        self._producers = Producers()
        self._queue: deque[tuple[Batch, Done]] = deque()
        self._changed = threading.Condition()
        self._open = True
        self.records: list[bytes] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def submit(self, batch: Batch, done: Done) -> None:
        with self._changed:
            self._queue.append((batch, done))
            self._changed.notify()

    def commit_here(self, items: list[tuple[Batch, Done]]) -> None:
        for batch, done in items:
            self.submit(batch, done)

    def position(self, producer: int) -> int | None:
        return None

    def close(self) -> None:
        with self._changed:
            self._open = False
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or not self._open)
                if not self._queue:
                    return
                batch, done = self._queue.popleft()
            done(self._answer(batch))

    def _answer(self, batch: Batch) -> Receipt | JlogError:
        verdict = self._producers.judge(batch, self._producers.get(batch.producer))
        if verdict is not None:
            return verdict
        if self._full and self._full.popleft():
            return LogFull("full")
        first = len(self.records) + 1
        self.records += batch
        self._producers.note(batch.stamped(first, first, 0, 1))
        return Receipt(first, batch.count)


@given(full=st.lists(st.booleans(), max_size=30), sizes=st.lists(st.integers(1, 3), min_size=1, max_size=20))
def test_a_full_log_neither_loses_nor_repeats_nor_reorders(full: list[bool], sizes: list[int]) -> None:
    sink = FullSink(full)
    expected: list[bytes] = []
    with pytest.MonkeyPatch.context() as patch, Writer(sink, on_full="wait") as writer:
        patch.setattr(writer_module, "RETRY_SECONDS", 0.001)
        for number, size in enumerate(sizes):
            records = [b"%d.%d" % (number, part) for part in range(size)]
            writer.send(encode(records))
            expected += records
        writer.flush(20)
        assert writer.durable == len(expected)
        assert writer.full is None
    assert sink.records == expected


def test_the_first_batch_of_an_unknown_producer_travels_alone() -> None:
    """Were the second taken while the first is refused, the log would take the retry of the first for a repetition."""

    class Holding(FullSink):
        def submit(self, batch: Batch, done: Done) -> None:
            waiting.append((batch, done))

        def close(self) -> None:
            return

    waiting: list[tuple[Batch, Done]] = []
    writer = Writer(Holding([]))
    writer.send(encode([b"1"]))
    writer.send(encode([b"2"]))
    writer.send(encode([b"3"]))
    assert [list(batch) for batch, _ in waiting] == [[b"1"]]
    waiting[0][1](Receipt(1, 1))
    assert [list(batch) for batch, _ in waiting] == [[b"1"], [b"2"], [b"3"]]
    for number, (_, done) in enumerate(waiting[1:], 2):
        done(Receipt(number, 1))
    writer.close()


def test_a_refusal_is_raised_by_the_next_call_and_fails_the_receipts() -> None:
    sink = FullSink([True])
    writer = Writer(sink)
    future = writer.append(b"lost", receipt=True)
    with pytest.raises(LogFull):
        writer.flush(20)
    assert future is not None
    with pytest.raises(LogFull):
        future.result(20)
    with pytest.raises(LogFull):
        writer.append(b"more")
    with pytest.raises(LogFull):
        writer.close()
    assert sink.records == []


def test_a_final_failure_ends_a_writer_that_waits() -> None:
    class Failing(FullSink):
        def _answer(self, batch: Batch) -> JlogError:
            return LogFailed("the disk is gone")

    writer = Writer(Failing([]), on_full="wait")
    futures = [writer.append(b"%d" % number, receipt=True) for number in range(3)]
    with pytest.raises(LogFailed):
        writer.flush(20)
    for future in futures:
        assert future is not None
        with pytest.raises(LogFailed):
            future.result(20)
    with pytest.raises(LogFailed):
        writer.close()


def test_a_flush_that_takes_too_long_says_why() -> None:
    writer = Writer(FullSink([True] * 10_000), on_full="wait")
    writer.append(b"waits")
    with pytest.raises(TimeoutError, match=r"1 batches are not durable after 0\.3 seconds: full"):
        writer.flush(0.3)
    with pytest.raises(TimeoutError):
        writer.close(0)
    with pytest.raises(Closed):
        writer.append(b"more")


def test_receipts_carry_the_numbers_of_their_records(spool: Path) -> None:
    jlogd.create(spool / "log")
    with jlogd.open(spool / "log") as log, log.writer() as writer:
        futures = [writer.append(b"%d" % number, receipt=True) for number in range(100)]
        writer.flush()
        assert [future.result(0).first for future in futures if future] == list(range(1, 101))


def test_many_threads_append_and_flush(spool: Path) -> None:
    jlogd.create(spool / "log")

    def produce(label: int) -> None:
        for number in range(2000):
            writer.append(b"%d %d" % (label, number))
            if number % 100 == 0:
                writer.flush()

    with jlogd.open(spool / "log") as log:
        with log.writer() as writer:
            threads = [threading.Thread(target=produce, args=(label,)) for label in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            writer.flush()
            assert writer.durable == 8000
        seen: dict[int, int] = dict.fromkeys(range(4), 0)
        for batch in log.subscriber():
            for record in batch:
                label, number = map(int, record.split())
                assert number == seen[label]
                seen[label] += 1
    assert set(seen.values()) == {2000}


def test_lines_are_taken_in_blocks_of_any_shape(spool: Path, rng: random.Random) -> None:
    jlogd.create(spool / "log")
    expected: list[bytes] = []
    with jlogd.open(spool / "log") as log:
        with log.writer() as writer:
            for _ in range(50):
                lines = [rng.randbytes(rng.randrange(60)).replace(b"\n", b"") for _ in range(rng.randrange(1, 40))]
                if not (lines[-1] or len(lines) > 1):
                    continue
                writer.extend_lines(b"\n".join(lines) + b"\n")
                expected += lines
            writer.extend_lines(b"the last one\nlacks its newline")
            writer.extend_lines(b"")
        assert [record for batch in log.subscriber() for record in batch] == [
            *expected,
            b"the last one",
            b"lacks its newline",
        ]


def test_a_named_producer_goes_on_where_it_was(spool: Path) -> None:
    jlogd.create(spool / "log")
    with jlogd.open(spool / "log") as log:
        with log.writer(producer="importer") as writer:
            writer.extend([b"a", b"b"])
        assert log.producer_position("importer") == 2
    with jlogd.open(spool / "log") as log:
        with log.writer(producer="importer") as writer:
            assert writer.position == 2
            writer.append(b"c")
        assert log.producer_position("importer") == 3
        assert log.producer_position("somebody else") is None


def test_a_record_over_the_limit_is_refused_and_nothing_else(spool: Path) -> None:
    jlogd.create(spool / "log")
    with jlogd.open(spool / "log") as log:
        with log.writer() as writer:
            writer.append(b"before")
            with pytest.raises(TooLarge):
                writer.append(b"x" * (RECORD_BYTES_MAX + 1))
            with pytest.raises(TooLarge):
                writer.extend([b"small", b"x" * (RECORD_BYTES_MAX + 1)])
            writer.append(b"after")
            writer.append(b"y" * RECORD_BYTES_MAX)
        assert [len(record) for batch in log.subscriber() for record in batch] == [6, 5, RECORD_BYTES_MAX]


def test_a_forked_child_cannot_use_the_writer(spool: Path) -> None:
    jlogd.create(spool / "log")
    with jlogd.open(spool / "log") as log, log.writer() as writer:
        writer.append(b"parent")
        writer.flush()
        child = os.fork()
        if child == 0:
            try:
                writer.append(b"child")
            except Closed:
                os._exit(0)
            os._exit(1)
        assert os.waitpid(child, 0)[1] == 0


def test_a_second_batch_is_not_taken_for_the_beginning(spool: Path) -> None:
    """An unknown producer's first batch met a full log; what follows is refused until the first one is there."""
    Journal.create(spool / "log")
    with Journal.open(spool / "log") as journal:
        journal.add_subscriber("slow", "begin", Caps(max_bytes=300))
        assert isinstance(journal.commit([encode([b"fills it"])])[0], Receipt)
        first, second = (encode([b"%d" % number]).numbered(5, number, number + 1) for number in range(2))
        assert isinstance(journal.commit([first])[0], LogFull)
        journal.remove_subscriber("slow")
        assert isinstance(journal.commit([second])[0], ProducerGap)
        assert journal.commit([first, second]) == [Receipt(2, 1), Receipt(3, 1)]
        assert journal.commit([first, second])[1] == Receipt(3, 1, duplicate=True)


@pytest.mark.parametrize("name", ["..", "../owner", "a/b", "", ".lock", "x.lock", "x.new", "a\0b"])
def test_names_do_not_leave_the_directory(spool: Path, name: str) -> None:
    Journal.create(spool / "log")
    with Journal.open(spool / "log") as journal:
        for refuse in (journal.hold, journal.remove_subscriber, journal.add_subscriber):
            with pytest.raises(UsageError):
                refuse(name)
        with pytest.raises(UsageError):
            journal.set_subscriber(name, "begin")
        with pytest.raises(UsageError):
            journal.clone_subscriber("good", name)


def test_a_cancelled_receipt_harms_nobody(spool: Path) -> None:
    Journal.create(spool / "log")
    with jlogd.open(spool / "log") as log:
        with log.writer() as writer:
            future = writer.append(b"x", receipt=True)
            assert future is not None
            future.cancel()
            writer.flush(20)
        with log.writer() as another:
            another.append(b"y")
            another.flush(20)
            assert another.durable == 1


def test_a_record_of_a_wrong_type_is_told(spool: Path) -> None:
    Journal.create(spool / "log")
    with jlogd.open(spool / "log") as log:
        writer = log.writer()
        with pytest.raises(TypeError, match="bytes, not str"):
            writer.append("text")  # type: ignore[arg-type]
        writer.extend([b"good", "text"])  # type: ignore[list-item]
        with pytest.raises(UsageError):
            writer.flush(20)
        with pytest.raises(UsageError):
            writer.close()


def test_an_interrupted_flush_may_be_repeated(spool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the middle of the sync: nothing hangs, and what was appended is there once."""
    Journal.create(spool / "log")
    with jlogd.open(spool / "log") as log:
        with log.writer() as writer:
            writer.append(b"before")
            writer.flush(20)
            with monkeypatch.context() as patch:
                patch.setattr(PosixFile, "sync", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
                writer.append(b"interrupted")
                with pytest.raises(KeyboardInterrupt):
                    writer.flush(20)
            writer.append(b"after")
            writer.flush(20)
        with log.writer() as another:
            another.append(b"of another")
        assert [record for batch in log.subscriber() for record in batch] == [
            b"before", b"interrupted", b"after", b"of another",
        ]  # fmt: skip


def test_the_working_directory_does_not_matter(spool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Journal.create(spool / "log")
    monkeypatch.chdir(spool)
    with jlogd.open("log") as log, log.writer() as writer:
        monkeypatch.chdir("/")
        writer.append(b"there")
        writer.flush(20)
        assert log.stat().next == 2
    with jlogd.open(spool / "log") as again:
        assert [record for batch in again.subscriber() for record in batch] == [b"there"]


def test_a_log_made_anew_in_the_same_place_is_not_written_by_mistake(spool: Path) -> None:
    Journal.create(spool / "log")
    with jlogd.open(spool / "log") as log:
        writer = log.writer()
        writer.append(b"old")
        writer.flush(20)
        shutil.rmtree(spool / "log")
        Journal.create(spool / "log")
        writer.append(b"new")
        with pytest.raises(LogFailed, match="open it again"):
            writer.flush(20)
        with pytest.raises(LogFailed):
            writer.close()
    with jlogd.open(spool / "log") as again:
        assert again.stat().next == 1


def test_a_name_that_is_being_given_up_is_waited_for() -> None:
    """The thread that closes what was dropped may be in the midst of it when the name is asked for again."""
    order: list[str] = []
    closing, go_on = threading.Event(), threading.Event()

    class Feed:
        def fetch(self, max_bytes: int, timeout: float) -> list[Batch | Gap]:
            return []

        def checkpoint(self, sequence: int) -> None:
            return

        def close(self) -> None:
            closing.set()
            assert go_on.wait(30)
            order.append("given up")

    def ask_again() -> None:
        close_abandoned()
        order.append("asked again")

    Subscriber(Feed())  # and dropped
    assert closing.wait(30)
    asking = threading.Thread(target=ask_again)
    asking.start()
    asking.join(0.1)  # it would be over by then
    go_on.set()
    asking.join(30)
    assert order == ["given up", "asked again"]


def test_a_subscriber_that_was_dropped_gives_its_name_up(spool: Path) -> None:
    Journal.create(spool / "log", subscribers=["m"])
    with jlogd.open(spool / "log") as log:
        with log.writer() as writer:
            writer.append(b"x")
        for _ in range(3):
            for batch in log.subscriber("m"):
                last = batch
        with pytest.raises(Closed, match="keep it in a variable"):
            last.checkpoint()
        with log.subscriber("m") as subscriber:
            assert [record for batch in subscriber.fetch() for record in batch] == [b"x"]
        with pytest.raises(Closed):
            subscriber.fetch()


def test_a_defect_while_a_log_is_looked_after_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread that looks after a log is the one that commits: were it gone, appends would wait for ever."""
    monkeypatch.setattr(committer_module, "MAINTAIN_SECONDS", 0.01)
    jlogd.create(tmp_path / "log")
    met = threading.Event()

    def maintain(_: Journal) -> None:
        met.set()
        raise RecursionError("a defect")

    monkeypatch.setattr(Journal, "maintain", maintain)
    with Journal.open(tmp_path / "log") as journal:
        committer = Committer(journal)
        assert met.wait(SECONDS_MAX)
        answered: list[object] = []
        heard = threading.Event()
        committer.submit(encode([b"x"]), lambda outcome: (answered.append(outcome), heard.set())[1])
        assert heard.wait(SECONDS_MAX) and answered == [Receipt(1, 1)]
        committer.close()
