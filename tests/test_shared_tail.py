"""The tail of a log by itself: what one process learns of the others', and when it gives way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from model_disk import ModelProcess

from jlogd.errors import Fenced, OwnedElsewhere
from jlogd.journal.batch import encode
from jlogd.journal.journal import Journal
from jlogd.journal.shared_tail import SharedTail
from jlogd.journal.tail import Tail, write_all
from jlogd.journal.types import Settings
from jlogd.journal.view import View

PATH = Path("/spool/log")


@contextmanager
def locked(disk: ModelProcess) -> Iterator[None]:
    lock = disk.lock(PATH / "append.lock")
    try:
        yield
    finally:
        lock.release()


@pytest.fixture
def other(disk: ModelProcess) -> Iterator[Journal]:
    """The log as another process of the host writes it."""
    Journal.create(PATH, Settings(segment_bytes=4096), disk=disk)
    with Journal.open(PATH, disk=disk.disk.process()) as journal:
        yield journal


@pytest.fixture
def shared(disk: ModelProcess, other: Journal) -> Iterator[SharedTail]:
    """This process's side of it."""
    tail = SharedTail(View(PATH, disk), {"recoveries": 0, "torn_bytes": 0})
    yield tail
    if disk.locks():  # it was not killed
        tail.close()


def ready(shared: SharedTail, disk: ModelProcess) -> Tail:
    with locked(disk):
        return shared.ready()


def counters(shared: SharedTail) -> dict[str, int]:
    return shared._counters


def test_what_others_appended_is_learned_over_new_segments_too(
    disk: ModelProcess, other: Journal, shared: SharedTail
) -> None:
    assert ready(shared, disk).head.next == 1
    for number in range(12):
        other.commit([encode([b"x" * 900]).numbered(7, number, number + 1)])
        tail = ready(shared, disk)
        assert tail.head.next == number + 2
        assert tail.file.size() == tail.head.written
        heard = tail.producers.get(7)
        assert heard is not None and heard.position == number + 1
    assert other.counters["rolls"] == 3
    assert counters(shared)["recoveries"] == 0


def test_what_another_process_recovered_is_not_recovered_again(
    disk: ModelProcess, other: Journal, shared: SharedTail
) -> None:
    epoch = ready(shared, disk).head.epoch
    with locked(disk):
        shared.end_segment(rolling=True)
    other.commit([encode([b"after"])])
    tail = ready(shared, disk)
    assert (tail.head.epoch, shared.epoch, tail.head.next) == (epoch + 1, epoch + 1, 2)
    assert counters(shared)["recoveries"] == 0


def test_a_head_that_another_process_wrote_since_is_not_ended(
    disk: ModelProcess, other: Journal, shared: SharedTail
) -> None:
    epoch = ready(shared, disk).head.epoch
    other.commit([encode([b"since"])])
    with locked(disk):
        shared.end_segment(discard=True)
        shared.forget()
    tail = ready(shared, disk)
    assert (tail.head.epoch, tail.head.next) == (epoch, 2)


@pytest.mark.parametrize("refused", [False, True])
def test_what_was_refused_stays_behind_in_a_recovery(
    disk: ModelProcess, other: Journal, shared: SharedTail, refused: bool
) -> None:
    """What stands after the durable end may be a group that somebody waits for, or one that was refused."""
    tail = ready(shared, disk)
    batch = encode([b"unpublished"]).stamped(1, 1, tail.head.append_time, shared.epoch)
    write_all(tail.file, [batch.header(shared._view.seed), batch.body])
    shared.tail_refused = refused
    with locked(disk):
        tail = shared.recover()
    assert tail.head.next == (1 if refused else 2)
    assert counters(shared) == {"recoveries": 1, "torn_bytes": batch.size if refused else 0}
    assert not shared.tail_refused, "it holds for one recovery"


def test_after_a_takeover_nothing_is_published_and_nothing_looked_at(
    disk: ModelProcess, other: Journal, shared: SharedTail
) -> None:
    head = ready(shared, disk).head
    before = disk.disk.files("")[PATH / f"head-{head.epoch:08d}"]
    for process in (disk, other.view.disk):
        assert isinstance(process, ModelProcess)
        disk.disk.lose_locks(process)
    with Journal.take_over(PATH, disk=disk.disk.process("b")) as successor:
        assert shared.failed == ""
        with pytest.raises(Fenced, match="nothing was acknowledged since"):
            shared.publish(head)
        assert "was taken over" in shared.failed and shared.failed_as is Fenced
        with pytest.raises(OwnedElsewhere, match="jlogctl takeover"):
            shared.ready()
        assert shared.failed_as is OwnedElsewhere
        with pytest.raises(OwnedElsewhere):
            shared.recover()
        epoch = successor.view.owner().epoch
    assert epoch > head.epoch
    after = disk.disk.files("").get(PATH / f"head-{head.epoch:08d}", before)
    assert after == before


def test_who_may_not_join_holds_no_lock(disk: ModelProcess, other: Journal) -> None:
    stranger = disk.disk.process("b")
    with pytest.raises(OwnedElsewhere):
        SharedTail(View(PATH, stranger), {})
    assert stranger.locks() == []
    assert not stranger.open_files
