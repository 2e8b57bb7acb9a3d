"""Single statements of docs/guarantees.md, each on a model disk in the smallest case that shows it.

The state machine and the run over every I/O call look for what nobody thought of; here is what the page says in so many
words, what it does not promise included: a statement that stops being true is to be changed there.
"""

from __future__ import annotations

import errno
import time
from pathlib import Path

import pytest
from model_disk import Fault, ModelDisk, ModelProcess

from jlogd.errors import Fenced, LogFailed, OwnedElsewhere, SpoolFull
from jlogd.journal.batch import Batch, Gap, encode
from jlogd.journal.journal import Journal
from jlogd.journal.producers import ANONYMOUS_MAX, producer_id
from jlogd.journal.types import Caps, Receipt, Settings

LOG = Path("/spool/log")
SMALL = Settings(segment_bytes=4096)
READ_ALL = 1 << 30
# Half a segment: two of these, and the next one starts a new segment.
LARGE = b"x" * 1900


def make(disk: ModelProcess, settings: Settings = SMALL, *subscribers: str) -> Journal:
    Journal.create(LOG, settings, subscribers, disk=disk)
    return Journal.open(LOG, disk=disk)


def append(journal: Journal, *records: bytes) -> Receipt:
    [outcome] = journal.commit([encode(records)])
    assert isinstance(outcome, Receipt), outcome
    return outcome


def records(items: list[Batch | Gap]) -> list[bytes]:
    return [record for item in items for record in item]


def everything(journal: Journal) -> list[Batch | Gap]:
    return journal.cursor("begin").read(READ_ALL)


# ---- what survives what ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
def test_a_power_loss_takes_no_checkpoint_that_a_deleted_segment_depended_on(disk: ModelProcess, seed: int) -> None:
    journal = make(disk, SMALL, "master")
    for number in range(8):
        append(journal, b"%d" % number, LARGE)
    hold = journal.hold("master")
    items = hold.read(READ_ALL)
    hold.checkpoint(items[5].next)
    hold.release()
    first = journal.view.chain()[0].first
    assert first > 1, "nothing was pruned"
    [subscriber] = Journal.open(LOG, disk=disk.disk.crash(seed, contents="nothing")).stat().subscribers
    assert subscriber.next >= first


def test_a_power_loss_may_take_the_last_checkpoint_and_its_records_come_again(disk: ModelProcess) -> None:
    journal = make(disk, SMALL, "master")
    append(journal, b"one", b"two")
    hold = journal.hold("master")
    [batch] = hold.read(READ_ALL)
    hold.checkpoint(batch.next)
    after = Journal.open(LOG, disk=disk.disk.crash(1, contents="nothing"))
    assert records(after.hold("master").read(READ_ALL)) == [b"one", b"two"]


def test_a_kill_takes_no_checkpoint(disk: ModelProcess) -> None:
    journal = make(disk, SMALL, "master")
    append(journal, b"one", b"two")
    hold = journal.hold("master")
    [batch] = hold.read(READ_ALL)
    hold.checkpoint(batch.next)
    disk.disk.kill(disk)
    assert Journal.open(LOG, disk=disk.disk.process()).hold("master").read(READ_ALL) == []


def test_a_sync_that_fails_once_costs_nothing_and_is_not_believed_later(disk: ModelProcess) -> None:
    journal = make(disk)
    append(journal, b"before")
    disk.disk.faults.append(Fault(error=errno.EIO, op="sync", path="*.seg"))
    append(journal, b"during")
    assert disk.disk.faults[0].struck
    append(journal, b"after")
    after = Journal.open(LOG, disk=disk.disk.crash(3, contents="nothing"))
    assert records(everything(after)) == [b"before", b"during", b"after"]


def test_a_disk_that_fails_again_ends_the_log_until_it_is_opened_anew(disk: ModelProcess) -> None:
    journal = make(disk)
    append(journal, b"before")
    disk.disk.faults.append(Fault(error=errno.EIO, op="sync", path="*.seg", times=4))
    [refused] = journal.commit([encode([b"during"])])
    assert isinstance(refused, LogFailed)
    disk.disk.faults.clear()
    [refused] = journal.commit([encode([b"never written"])])
    assert isinstance(refused, LogFailed) and journal.failed
    journal.close()
    again = Journal.open(LOG, disk=disk.disk.process())
    append(again, b"after")
    # What was refused was not acknowledged: it may be there or not.
    assert [record for record in records(everything(again)) if record != b"during"] == [b"before", b"after"]


def test_a_full_disk_refuses_appends_and_not_checkpoints() -> None:
    medium = ModelDisk()
    disk = medium.process()
    journal = make(disk, SMALL, "master")
    append(journal, b"one")
    medium.capacity = medium.used()
    [refused] = journal.commit([encode([b"two"])])
    assert isinstance(refused, SpoolFull)
    hold = journal.hold("master")
    [batch] = hold.read(READ_ALL)
    hold.checkpoint(batch.next)
    hold.release()
    assert journal.stat().subscribers[0].lag_records == 0
    medium.capacity = None
    append(journal, b"three")
    assert records(everything(journal)) == [b"one", b"three"]


def test_after_a_takeover_the_former_owner_acknowledges_nothing_and_nobody_reads_what_it_writes() -> None:
    medium = ModelDisk()
    former = medium.process("a")
    old = make(former)
    append(old, b"one")
    with pytest.raises(OwnedElsewhere):
        Journal.open(LOG, disk=medium.process("b"))
    with pytest.raises(OwnedElsewhere):
        Journal.take_over(LOG, disk=medium.process("b"))
    medium.lose_locks(former)  # paused for longer than its locks live
    new = Journal.take_over(LOG, disk=medium.process("b"))
    append(new, b"two")
    [refused] = old.commit([encode([b"stale"])])
    assert isinstance(refused, Fenced | OwnedElsewhere)
    append(new, b"three")
    assert records(everything(new)) == [b"one", b"two", b"three"]
    with pytest.raises(OwnedElsewhere):
        Journal.open(LOG, disk=medium.process("a"))


def test_a_capped_subscriber_gets_what_another_one_keeps(disk: ModelProcess) -> None:
    journal = make(disk, SMALL, "keeper")
    journal.add_subscriber("capped", caps=Caps(max_bytes=4096, on_full="drop-oldest"))
    for number in range(8):
        append(journal, b"%d" % number, LARGE)
    hold = journal.hold("capped")
    assert not any(isinstance(item, Gap) for item in hold.read(READ_ALL))
    hold.release()
    journal.remove_subscriber("keeper")
    first, *_ = journal.hold("capped").read(READ_ALL)
    assert isinstance(first, Gap) and first.reason == "dropped" and first.first == 1


# ---- what is not promised --------------------------------------------------------------------------------------------


def test_rot_in_the_last_group_before_a_power_loss_passes_for_a_torn_write(disk: ModelProcess) -> None:
    journal = make(disk)
    append(journal, b"one")
    receipt = append(journal, b"two" * 50)
    [segment] = journal.view.chain()
    path = journal.view.layout.segment(segment)
    after = disk.disk.crash(5, contents="nothing")
    disk.disk.flip(path, len(disk.disk.files(".seg")[path]) - 1)
    again = Journal.open(LOG, disk=after)
    assert records(everything(again)) == [b"one"]
    assert append(again, b"three").first == receipt.first


def test_rot_before_the_last_group_is_a_gap_after_a_power_loss_too(disk: ModelProcess) -> None:
    journal = make(disk)
    before = journal.view.head().written
    append(journal, b"one")
    append(journal, b"two")
    [segment] = journal.view.chain()
    after = disk.disk.crash(5, contents="nothing")
    disk.disk.flip(journal.view.layout.segment(segment), before + 97)
    gap, batch = everything(Journal.open(LOG, disk=after))
    assert isinstance(gap, Gap) and gap.reason == "damaged" and (gap.first, gap.last) == (1, 1)
    assert records([batch]) == [b"two"]


def test_two_writers_of_one_name_take_each_other_for_repetitions(disk: ModelProcess) -> None:
    journal = make(disk)
    name = producer_id("import")
    first, second = (encode([text]).numbered(name, 0, 1) for text in (b"of one", b"of the other"))
    assert journal.commit([first]) == [Receipt(1, 1)]
    assert journal.commit([second]) == [Receipt(1, 1, duplicate=True)]
    assert records(everything(journal)) == [b"of one"]


@pytest.mark.slow
def test_a_producer_that_was_forgotten_may_repeat_itself(disk: ModelProcess) -> None:
    journal = make(disk, Settings())
    batch = encode([b"once"]).numbered(1, 0, 1)
    journal.commit([batch])
    journal.commit([encode([b"."]).numbered(other, 0, 1) for other in range(2, ANONYMOUS_MAX + 1)])
    [known] = journal.commit([batch])
    assert known.duplicate
    journal.commit([encode([b"."]).numbered(other, 0, 1) for other in range(5000, 5000 + ANONYMOUS_MAX)])
    [forgotten] = journal.commit([batch])
    assert not forgotten.duplicate


def test_a_clock_that_ran_ahead_leaves_the_append_time_ahead(
    disk: ModelProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = make(disk)
    now = time.time_ns()
    for shift in (0, 3600, 0):
        monkeypatch.setattr("jlogd.journal.appender.time.time_ns", lambda shift=shift: now + shift * 10**9)
        append(journal, b"%d" % shift)
    times = [batch.append_time for batch in everything(journal)]
    assert times == sorted(times) and times[-1] == now + 3600 * 10**9
