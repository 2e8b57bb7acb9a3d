"""Rules of the core that only a rare turn of events shows, each in the story that shows it.

The random and the exhaustive tests meet most of them sooner or later; here each one fails at once, and alone, when its
line is taken out of the code.
"""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from model_disk import Crash, Fault, ModelDisk, ModelProcess

from jlogd.errors import LogFull, ProducerGap, UsageError
from jlogd.journal.batch import Batch, Gap, encode
from jlogd.journal.journal import Journal
from jlogd.journal.producers import producer_id
from jlogd.journal.scan import Scanner
from jlogd.journal.slots import SLOT_BYTES, STRIDE, SlotFile
from jlogd.journal.types import Caps, Receipt, Settings

PATH = Path("/spool/log")
READ_ALL = 1 << 30
# Two of these fill a segment of `SMALL`.
LARGE = b"x" * 1900
SMALL = Settings(segment_bytes=4096)


def make(disk: ModelProcess, settings: Settings = SMALL, *subscribers: str) -> Journal:
    Journal.create(PATH, settings, subscribers, disk=disk)
    return Journal.open(PATH, disk=disk)


def read(journal: Journal) -> list[bytes]:
    items: list[Batch | Gap] = []
    cursor = journal.cursor("begin")
    while found := cursor.read(READ_ALL):
        items += found
    assert not any(isinstance(item, Gap) for item in items), items
    return [record for item in items for record in item]


# ---- groups ----------------------------------------------------------------------------------------------------------


def test_half_of_a_group_that_reached_the_disk_is_not_there_twice(disk: ModelProcess) -> None:
    """The write stops between two batches and fails: both are written again from memory, and the first attempt stays
    behind, its whole batch too."""
    journal = make(disk)
    first = encode([b"first"])
    disk.disk.faults = [Fault(short=first.size, op="append"), Fault(error=errno.EIO, op="append", at=2)]
    assert journal.commit([first, encode([b"second"])]) == [Receipt(1, 1), Receipt(2, 1)]
    assert read(journal) == [b"first", b"second"]


def test_a_batch_that_comes_twice_in_one_group_is_there_once(disk: ModelProcess) -> None:
    journal = make(disk)
    batch = encode([b"once"]).numbered(7, 0, 1)
    first, again = journal.commit([batch, batch])
    assert not first.duplicate and again.duplicate
    assert read(journal) == [b"once"]


def test_a_group_stops_at_the_cap_that_it_reaches(disk: ModelProcess) -> None:
    journal = make(disk, Settings(), "slow")
    journal.subscribers.set_caps("slow", Caps(max_bytes=3000))
    outcomes = journal.commit([encode([LARGE]) for _ in range(4)])
    assert [type(outcome) for outcome in outcomes] == [Receipt, Receipt, LogFull, LogFull]


def test_a_producers_second_batch_is_not_its_beginning_when_the_first_was_refused(disk: ModelProcess) -> None:
    journal = make(disk, Settings(), "slow")
    journal.subscribers.set_caps("slow", Caps(max_bytes=1))
    journal.commit([encode([LARGE])])
    first, second = (encode([b"%d" % number]).numbered(5, number, number + 1) for number in range(2))
    assert isinstance(journal.commit([first])[0], LogFull)
    journal.set_subscriber("slow", "end")
    assert isinstance(journal.commit([second])[0], ProducerGap)
    assert [type(outcome) for outcome in journal.commit([first])] == [Receipt]


# ---- producers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("producer", [7, producer_id("named")])
def test_a_retry_is_known_after_a_roll_by_another_process(disk: ModelProcess, producer: int) -> None:
    journal = make(disk)
    journal.commit([encode([LARGE])])
    other = Journal.open(PATH, disk=disk.disk.process())
    before = encode([b"before the roll"]).numbered(producer, 0, 1)
    after = encode([b"after it"]).numbered(producer ^ 1, 0, 1)
    other.commit([before, encode([LARGE]), encode([LARGE]), after])
    assert other.counters["rolls"]
    assert [outcome.duplicate for outcome in journal.commit([before, after])] == [True, True]


# ---- syncs that failed -----------------------------------------------------------------------------------------------


def test_nobody_believes_a_segment_whose_sync_failed_twice(disk: ModelProcess) -> None:
    """Acknowledged under `interval` and not durable: whoever opens the log next writes it again."""
    journal = make(disk, Settings(durability="interval=60s"))
    journal.commit([encode([b"acknowledged"])])
    disk.disk.faults = [
        Fault(error=errno.EIO, op="sync", path="*.seg"),
        Fault(error=errno.EIO, op="pwrite", path="*/owner"),  # nor does the recovery get anywhere
    ]
    journal.maintain()
    assert journal.failed
    other = Journal.open(PATH, disk=disk.disk.process())
    other.sync()
    disk.disk.evict()
    assert read(other) == [b"acknowledged"]


def test_nor_does_the_process_itself_that_tries_again(disk: ModelProcess) -> None:
    """Not even where it could leave no mark: the head could not be written either."""
    journal = make(disk, Settings(durability="interval=60s"))
    journal.commit([encode([b"acknowledged"])])
    disk.disk.faults = [
        Fault(error=errno.EIO, op="sync", path="*.seg"),
        Fault(error=errno.EIO, op="pwrite", path="*/owner"),
        Fault(error=errno.EIO, op="pwrite", path="*/head-*"),
    ]
    journal.maintain()
    assert journal.failed
    disk.disk.faults = []
    assert journal.try_again()
    journal.sync()
    disk.disk.evict()
    assert read(journal) == [b"acknowledged"]


def test_a_sync_that_was_due_is_said_by_a_synced_head(disk: ModelProcess) -> None:
    """Else damage in the first of the batches would pass for a torn write, and cost the others, after a power loss."""
    for seed in range(40):
        disk = ModelDisk().process()
        journal = make(disk, Settings(durability="interval=60s"))
        journal.commit([encode([b"first"])])
        journal._appender._synced_at = -1e9
        journal.commit([encode([b"second"])])
        assert journal.counters["syncs"] == 1
        segment = next(iter(disk.disk.files(".seg")))
        disk.disk.flip(segment, disk.disk.files()[segment].index(b"first"))
        disk.disk.crash(seed)
        gap, second = Journal.open(PATH, disk=disk.disk.process()).cursor("begin").read(READ_ALL)
        assert isinstance(gap, Gap) and list(second) == [b"second"], seed


def test_a_roll_syncs_what_the_policy_left_unsynced(disk: ModelProcess) -> None:
    """Nobody syncs a segment that is not in use any more."""
    journal = make(disk, Settings(segment_bytes=4096, durability="interval=60s"))
    for number in range(3):
        journal.commit([encode([b"%d" % number + LARGE])])
    journal.sync()
    home = disk.disk.crash(contents="nothing")
    assert read(Journal.open(PATH, disk=home)) == [b"%d" % number + LARGE for number in range(3)]


# ---- recovery --------------------------------------------------------------------------------------------------------


def test_numbers_that_a_subscriber_has_passed_are_not_given_out_again(disk: ModelProcess) -> None:
    """Under `os` a power loss takes records that were consumed already."""
    journal = make(disk, Settings(durability="os"), "reader")
    for number in range(3):
        journal.commit([encode([b"%d" % number])])
    hold = journal.hold("reader")
    hold.read(READ_ALL)
    hold.checkpoint(4)
    journal.subscribers.sync()
    again = Journal.open(PATH, disk=disk.disk.crash(contents="nothing"))
    assert again.commit([encode([b"new"])]) == [Receipt(4, 1)]


def test_what_a_recovery_only_began_is_not_believed(disk: ModelProcess) -> None:
    """Killed while it writes the acknowledged batches again, it leaves a segment that seems to end before them."""
    journal = make(disk, Settings(durability="interval=60s"))
    for number in range(3):
        journal.commit([encode([b"%d" % number + LARGE])])
    disk.disk.faults = [Fault(crash=True, op="append", path="*.seg", after=True)]
    with pytest.raises(Crash):
        journal.commit([encode([b"not acknowledged"])])
    disk.kill()
    home = disk.disk.process()
    disk.disk.faults = [
        Fault(short=3000, op="append", path="*-00000002.seg"),
        Fault(crash=True, op="append", path="*-00000002.seg", at=2),
    ]
    with pytest.raises(Crash):
        Journal.open(PATH, disk=home)
    disk.disk.faults = []
    disk.disk.kill()
    again = Journal.open(PATH, disk=disk.disk.process())
    again.sync()
    assert read(again)[:3] == [b"%d" % number + LARGE for number in range(3)]


def test_a_torn_group_is_left_behind_whole(disk: ModelProcess) -> None:
    """A batch that follows damage, and that no later sync vouches for, may have been refused: it is not taken up."""
    journal = make(disk)
    journal.commit([encode([b"there"])])
    disk.disk.faults = [Fault(crash=True, op="sync", path="*.seg", after=True)]
    with pytest.raises(Crash):
        journal.commit([encode([b"torn"]), encode([b"whole"])])
    home = disk.disk.crash(contents="everything")
    segment = max(disk.disk.files(".seg"))
    disk.disk.flip(segment, disk.disk.files()[segment].index(b"torn"))
    assert read(Journal.open(PATH, disk=home)) == [b"there"]


def test_an_epoch_is_durable_before_anything_is_written_in_it() -> None:
    """Else a host that fails right then would give the epoch to its successor too."""
    disk = ModelDisk()
    make(disk.process()).commit([encode([b"one"])])
    home = disk.crash(1)
    owner, unsynced = disk._file(PATH / "owner"), []
    disk.faults = [Fault(action=lambda: unsynced.append(len(owner.pending)), op="append", path="*.seg")]
    epoch = Journal.open(PATH, disk=home).view.owner().epoch
    assert (epoch, unsynced) == (2, [0])


# ---- small states ----------------------------------------------------------------------------------------------------


def test_a_damaged_slot_costs_the_last_write_only(disk: ModelProcess) -> None:
    path = Path("/spool/state")
    SlotFile.create(disk, path, b"SU", b"made")
    file = SlotFile.open(disk, path, b"SU")
    for payload in (b"first", b"second", b"third"):
        file.read()
        file.write(payload, sync=True)
    whole = disk.disk.files()[path]
    newest = max((0, STRIDE), key=lambda at: whole[at + 8 : at + 16][::-1])
    disk.disk.flip(path, newest + SLOT_BYTES - 1)
    assert SlotFile.open(disk, path, b"SU").read() == b"second"


# ---- readers ---------------------------------------------------------------------------------------------------------


def test_a_reading_that_was_interrupted_comes_again(disk: ModelProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C strikes when something was read and not returned."""
    journal = make(disk, Settings())
    for number in range(4):
        journal.commit([encode([b"%d" % number])])
    cursor, step, calls = journal.cursor("begin"), Scanner.step, []

    def interrupted(self: Scanner, end: int, expected: int) -> object:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return step(self, end, expected)

    monkeypatch.setattr(Scanner, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cursor.read(READ_ALL)
    assert [record for item in cursor.read(READ_ALL) for record in item] == [b"0", b"1", b"2", b"3"]


def test_a_consumer_cannot_be_done_with_what_it_was_not_given(disk: ModelProcess) -> None:
    journal = make(disk, SMALL, "reader")
    journal.commit([encode([b"one"])])
    hold = journal.hold("reader")
    with pytest.raises(UsageError, match="only records below 1 were delivered"):
        hold.checkpoint(2)


def test_the_append_time_does_not_go_back_with_the_clock(disk: ModelProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = make(disk)
    for now in (2_000_000_000, 1_000_000_000):
        monkeypatch.setattr("jlogd.journal.appender.time.time_ns", lambda now=now: now * 10**9)
        journal.commit([encode([b"x"])])
    first, second = journal.cursor("begin").read(READ_ALL)
    assert first.append_time <= second.append_time


def test_a_retry_of_an_older_batch_is_a_repetition_too(disk: ModelProcess) -> None:
    journal = make(disk)
    batches = [encode([b"%d" % number]).numbered(7, number, number + 1) for number in range(3)]
    journal.commit(batches)
    [again] = journal.commit(batches[:1])
    assert again == Receipt(0, 1, duplicate=True)


def test_zombie_bytes_are_not_read_where_the_header_that_seals_them_off_is_damaged() -> None:
    """Then the successor's first number alone says where the segment ends."""
    medium = ModelDisk()
    former, successor = medium.process("a"), medium.process("b")
    old = make(former)
    old.commit([encode([b"one"])])

    def take_over() -> None:
        medium.lose_locks(former)
        Journal.take_over(PATH, disk=successor).commit([encode([b"two"])])

    medium.faults = [Fault(action=take_over, op="append", path="*.seg")]
    old.commit([encode([b"stale"])])
    medium.flip(max(medium.files(".seg")), 20)
    with Journal.open(PATH, disk=successor) as journal:
        assert read(journal) == [b"one", b"two"]
