"""What the random and the exhaustive tests found once, each in its smallest form."""

from __future__ import annotations

import errno
import random
from contextlib import suppress
from pathlib import Path

import pytest
from model_disk import Crash, Fault, ModelDisk, ModelProcess

from jlogd.errors import JlogError, LogExists, SpoolFull
from jlogd.journal.batch import Batch, Gap, encode
from jlogd.journal.check import check
from jlogd.journal.cursor import Cursor, locate
from jlogd.journal.journal import Journal
from jlogd.journal.types import Caps, Position, Receipt, Settings
from jlogd.journal.view import View

PATH = Path("/spool/log")
SMALL = Settings(segment_bytes=4096)
READ_ALL = 1 << 30


def make(disk: ModelProcess, settings: Settings = SMALL, subscribers: tuple[str, ...] = ()) -> Journal:
    Journal.create(PATH, settings, subscribers, disk=disk)
    return Journal.open(PATH, disk=disk)


def read(cursor: Cursor) -> list[Batch | Gap]:
    items: list[Batch | Gap] = []
    while found := cursor.read(READ_ALL):
        items += found
    return items


def test_a_roll_takes_the_producers_along(disk):
    journal = make(disk)
    batch = encode([b"x" * 5000]).numbered(7, 0, 1)
    assert journal.commit([batch, encode([b"y"])]) == [Receipt(1, 1), Receipt(2, 1)]
    other = Journal.open(PATH, disk=disk.disk.process())
    assert other.commit([batch]) == [Receipt(1, 1, duplicate=True)]


def test_settings_are_read_as_they_were_written(disk):
    """A whole number where the field is a float: the checksum must not depend on how it was spelled."""
    journal = make(disk, Settings(segment_bytes=4096, caps=Caps(0, 3600, "drop-oldest")))
    assert journal.settings.caps.max_age == 3600


@pytest.mark.parametrize("call", range(1, 40))
def test_an_open_that_fails_keeps_no_locks(disk, call):
    make(disk, subscribers=("one",)).close()
    disk.disk.faults.append(Fault(error=errno.EMFILE, at=call))
    with suppress(OSError):
        Journal.open(PATH, disk=disk).close()
    assert disk.locks() == []


@pytest.mark.parametrize("call", range(1, 60))
def test_a_recovery_that_was_cut_off_leaves_no_reader_behind(call):
    """A reader that has the old head open learns of the new one, whoever finishes what the recovery began."""
    disk = ModelDisk()
    first, looker = disk.process(), disk.process()
    journal = make(first)
    journal.commit([encode([b"a"])])
    view = View(PATH, looker)
    cursor = Cursor(view, locate(view, "begin"))
    assert len(read(cursor)) == 1
    disk.faults.append(Fault(error=errno.EIO, op="append"))
    disk.faults.append(Fault(crash=True, at=call))
    with suppress(Crash):
        journal.commit([encode([b"b"])])
    disk.faults.clear()
    disk.kill(first)
    journal = Journal.open(PATH, disk=disk.process())
    assert isinstance(journal.commit([encode([b"c"])])[0], Receipt)
    assert [record for item in read(cursor) for record in item][-1] == b"c"


def test_who_stands_inside_a_batch_is_not_thrown_back_by_damage_before_it(disk):
    journal = make(disk)
    journal.commit([encode([b"a", b"b", b"c"])])
    journal.commit([encode([b"d", b"e", b"f", b"g"])])
    segment = next(iter(disk.disk.files(".seg")))
    disk.disk.flip(segment, disk.disk.files()[segment].index(b"a\nb\nc"))
    items = read(Cursor(journal.view, Position(6)))
    assert [list(item) for item in items] == [[b"f", b"g"]]


def test_segments_that_a_power_loss_brought_back_are_not_missed():
    """Of three unlinks that were not synced, the middle one survives."""
    for seed in range(40):
        disk = ModelDisk()
        journal = make(disk.process(), subscribers=("one",))
        for _ in range(4):
            journal.commit([encode([b"x" * 3000])])
        hold = journal.hold("one")
        hold.read(READ_ALL)
        disk.faults.append(Fault(crash=True, op="sync_dir"))
        with pytest.raises(Crash):
            hold.checkpoint(5)
        home = disk.crash(seed, names="subset")
        journal = Journal.open(PATH, disk=home)
        assert [finding for finding in check(PATH, home) if not finding.harmless] == []
        assert journal.commit([encode([b"y"])])[0].first == 5


@pytest.mark.parametrize("op", ["pread", "open", "listdir", "*"])
def test_a_reading_that_fails_loses_nothing(op):
    """Whoever reads on after an error gets what the failed reading had found."""
    for call in range(1, 40):
        disk = ModelDisk()
        home = disk.process()
        journal = make(home)
        for number in range(5):
            journal.commit([encode([b"%d" % number + b"." * 1500])])
        cursor = journal.cursor("begin")
        disk.faults.append(Fault(error=errno.EIO, op=op, at=call, times=2))
        items: list[Batch | Gap] = []
        for _ in range(12):
            with suppress(OSError):
                items += cursor.read(READ_ALL)
        assert [item.first for item in items] == [1, 2, 3, 4, 5]
        assert not any(isinstance(item, Gap) for item in items)


def test_damage_in_one_batch_costs_no_other_that_the_same_sync_made_durable():
    """Under `interval` many batches wait for one sync, and no header of theirs says that it came."""
    for seed in range(40):
        disk = ModelDisk()
        journal = make(disk.process(), Settings(durability="interval=60s"))
        for data in (b"first", b"second", b"third"):
            journal.commit([encode([data])])
        segment = next(iter(disk.files(".seg")))
        disk.flip(segment, disk.files()[segment].index(b"first"))
        journal.sync()
        disk.crash(random.Random(seed))
        items = read(Journal.open(PATH, disk=disk.process()).cursor("begin"))
        assert [list(item) for item in items] == [[], [b"second"], [b"third"]], seed


@pytest.mark.parametrize("op", ["append", "sync", "pread", "open", "*"])
def test_a_former_owner_whose_disk_fails_does_not_take_the_log_back(op):
    """Its write fails, as writes over a lost lease do, and it goes to recover: the log is not its own any more."""
    for call in range(1, 30):
        disk = ModelDisk()
        former, successor = disk.process("a"), disk.process("b")
        old = make(former)
        old.commit([encode([b"one"])])
        taken: list[Journal] = []

        def take_over(former=former, successor=successor, disk=disk, taken=taken):
            disk.lose_locks(former)
            taken.append(Journal.take_over(PATH, disk=successor))
            disk.faults.append(Fault(error=errno.EIO, op=op, times=2))

        disk.faults.append(Fault(action=take_over, at=call))
        outcome = old.commit([encode([b"stale"])])[0]
        disk.faults.clear()
        if not taken:
            break
        assert taken[0].view.owner().host == successor.host(), (call, outcome)
        assert isinstance(taken[0].commit([encode([b"two"])])[0], Receipt)
        there = [record for item in read(taken[0].cursor("begin")) for record in item]
        assert (b"stale" in there) >= isinstance(outcome, Receipt), (call, outcome)
        assert there[0] == b"one" and there[-1] == b"two"


@pytest.mark.parametrize("refused", [False, True])
@pytest.mark.parametrize("later", [0, 1, 2, 3])
def test_a_recovery_that_was_overtaken_leaves_nothing_in_the_log(refused, later):
    """A host recovers from its head, and is paused; another one takes over and accepts more than that head said. What
    the first one then creates starts below what was accepted: it must not be read, nor hide what was."""
    for call in range(1, 100):
        disk = ModelDisk()
        former, successor = disk.process("a"), disk.process("b")
        old = make(former)
        old.commit([encode([b"one"])])
        fault = Fault(error=errno.ENOSPC, op="sync") if refused else Fault(crash=True, op="sync", after=True)
        disk.faults.append(fault)
        with suppress(Crash):
            old.commit([encode([b"two"]), encode([b"three"])])
        disk.kill(former)
        disk.faults.clear()
        home = disk.process("a")
        taken: list[Journal] = []

        def take_over(disk=disk, home=home, successor=successor, taken=taken):
            faults, disk.faults = disk.faults, []
            disk.lose_locks(home)
            taken.append(Journal.take_over(PATH, disk=successor))
            assert isinstance(taken[0].commit([encode([b"four"])])[0], Receipt)
            disk.faults = faults

        disk.faults.append(Fault(action=take_over, at=call))
        disk.faults += [Fault(crash=True, at=call + later)] if later else []
        with suppress(Crash, JlogError, OSError):
            Journal.open(PATH, disk=home)
        disk.faults.clear()
        if not taken:
            break
        items = read(taken[0].cursor("begin"))
        assert not any(isinstance(item, Gap) for item in items), (call, items)
        there = [record for item in items for record in item]
        assert (there[0], there[-1]) == (b"one", b"four") and len(set(there)) == len(there), (call, there)
        assert [finding for finding in check(PATH, successor) if not finding.harmless] == []
        disk.kill()
        owner = View(PATH, disk.process()).owner().host
        journal = Journal.open(PATH, disk=disk.process(owner[-1]))
        again = [record for item in read(journal.cursor("begin")) for record in item]
        assert again == there, call


def test_a_recovery_looks_who_owns_the_log_before_it_raises_the_epoch():
    """A host that opens its log, and is overtaken while it lists the names, does not take the log back."""
    struck = 0
    for call in range(1, 20):
        disk = ModelDisk()
        former, successor = disk.process("a"), disk.process("b")
        make(former).commit([encode([b"one"])])
        disk.kill(former)
        disk.boots += 1
        home = disk.process("a")

        def take_over(disk=disk, home=home, successor=successor):
            disk.lose_locks(home)
            Journal.take_over(PATH, disk=successor)

        fault = Fault(action=take_over, op="listdir", at=call)
        disk.faults.append(fault)
        with suppress(JlogError, OSError):
            Journal.open(PATH, disk=home)
        disk.faults.clear()
        struck += fault.struck
        assert not fault.struck or View(PATH, successor).owner().host == "host-b", call
    assert struck


def test_a_lock_that_no_descriptor_is_left_for_is_waited_for(disk):
    """Where more locks are in use than are kept open, a commit opens its own: that is no lock that does not work."""
    journal = make(disk)
    disk.disk.faults.append(Fault(error=errno.EMFILE, op="lock", path="*append.lock"))
    (refused,) = journal.commit([encode([b"a"])])
    assert isinstance(refused, SpoolFull) and "open files" in str(refused)
    assert journal.commit([encode([b"a"])]) == [Receipt(1, 1)]


def test_a_sound_log_that_is_there_already_is_not_told_to_be_repaired(disk):
    make(disk)
    with pytest.raises(LogExists, match=r"there is already a log log: .*use it as it is, or choose another name"):
        Journal.create(PATH, disk=disk)
    disk.unlink(PATH / "log.json")
    with pytest.raises(LogExists, match=r"no log\.json.* jlogctl repair"):
        Journal.create(PATH, disk=disk)
