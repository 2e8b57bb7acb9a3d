"""Disks that are full or fail, and what the log says and keeps; single stories that the random tests rarely tell."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from model_disk import Fault, ModelDisk, ModelProcess

import jlogd
from jlogd.errors import LogFailed, LogFull, SpoolFull, UsageError
from jlogd.journal import journal as journals
from jlogd.journal import retention
from jlogd.journal.batch import Batch, encode
from jlogd.journal.journal import Journal
from jlogd.journal.types import Caps, Receipt, Settings

PATH = Path("/spool/log")


def records(journal: Journal) -> list[bytes]:
    found: list[bytes] = []
    cursor = journal.cursor("begin")
    while items := cursor.read(1 << 20):
        for item in items:
            assert isinstance(item, Batch), item
            found += item
    return found


def filled(disk: ModelProcess) -> Journal:
    """A log whose disk is full."""
    Journal.create(PATH, Settings(segment_bytes=4096), ["reader"], disk=disk)
    journal = Journal.open(PATH, disk=disk)
    for number in range(8):
        assert isinstance(journal.commit([encode([b"%d" % number * 900])])[0], Receipt)
    disk.disk.capacity = disk.disk.used() + 40
    assert isinstance(journal.commit([encode([b"x" * 900])])[0], SpoolFull)
    return journal


def test_a_full_disk_and_a_restart_do_not_lock_the_log(disk: ModelProcess) -> None:
    """It can be opened, consumed and pruned, which makes room; and trying costs no epoch."""
    filled(disk)
    disk.kill()
    home = disk.disk.process()
    with Journal.open(PATH, disk=home) as journal:
        for _ in range(20):
            assert isinstance(journal.commit([encode([b"y" * 900])])[0], SpoolFull)
        assert journal.producer_position(5) is None
        epoch = journal.view.owner().epoch
        assert epoch <= 3
        hold = journal.hold("reader")
        got = [record for batch in hold.read(1 << 20) for record in batch]
        assert got == [b"%d" % number * 900 for number in range(8)]
        hold.checkpoint(hold.cursor.next)
        hold.release()
        outcome = journal.commit([encode([b"z"])])[0]
        assert outcome == Receipt(9, 1), outcome


def test_a_full_disk_is_told_until_an_append_succeeds(disk: ModelProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    with filled(disk) as journal:
        assert journal.full == journal.stat().full and "no space for" in journal.full
        disk.disk.capacity = None
        assert isinstance(journal.commit([encode([b"fits"])])[0], Receipt)
        assert journal.full == journal.stat().full == ""
        disk.disk.capacity = disk.disk.used() + 40
        journal.commit([encode([b"x" * 900])])
        assert journal.full
        monkeypatch.setattr(journals, "FULL_TOLD_SECONDS", 0.0)  # long ago: it is not known any more
        assert journal.full == ""


def test_what_was_refused_is_nobody_elses_either(disk: ModelProcess) -> None:
    """A group that met a full disk was written in part: no other process may take that part for the log."""
    Journal.create(PATH, disk=disk)
    with Journal.open(PATH, disk=disk) as first:
        first.commit([encode([b"there"])])
        disk.disk.capacity = disk.disk.used() + 250
        outcomes = first.commit([encode([b"refused"]), encode([b"refused as well " * 20])])
        assert [type(outcome) for outcome in outcomes] == [SpoolFull, SpoolFull]
        disk.disk.capacity = None
        with Journal.open(PATH, disk=disk.disk.process()) as second:
            assert second.commit([encode([b"of another"])]) == [Receipt(2, 1)]
            assert records(second) == [b"there", b"of another"]


@pytest.mark.parametrize("times", [1, 2])
def test_a_failed_sync_is_final_under_interval_too(disk: ModelProcess, times: int) -> None:
    """What was acknowledged before the sync is written again; a second failure ends the log. Neither is believed."""
    Journal.create(PATH, Settings(durability="interval=60s"), disk=disk)
    journal = Journal.open(PATH, disk=disk)
    journal.commit([encode([b"synced"])])
    journal.sync()
    journal.commit([encode([b"acknowledged"])])
    disk.disk.faults = [Fault(error=errno.EIO, op="sync", path="*.seg", times=times)]
    journal.maintain()
    disk.disk.faults = []
    journal.maintain()
    assert journal.counters["write_failures"] == 1
    assert bool(journal.failed) == (times == 2)
    seen = records(journal)
    disk.disk.evict()
    assert records(journal) == seen, "what readers saw was in the page cache only"
    if times == 1:
        assert seen == [b"synced", b"acknowledged"]
    else:
        assert isinstance(journal.commit([encode([b"more"])])[0], LogFailed)
    home = disk.disk.crash()
    with Journal.open(PATH, disk=home) as after:
        assert records(after)[: len(seen)] == seen


@pytest.mark.parametrize("durability", ["commit", "interval=60s"])
@pytest.mark.parametrize("op", ["append", "sync", "*"])
def test_a_disk_that_works_again_is_written_again(disk: ModelProcess, durability: str, op: str) -> None:
    """Without opening the log anew: what was refused stays behind, what was acknowledged is there, and is durable."""
    Journal.create(PATH, Settings(durability=durability), disk=disk)
    journal = Journal.open(PATH, disk=disk)
    journal.commit([encode([b"before"]).numbered(7, 0, 1)])
    journal.sync()
    disk.disk.faults = [Fault(error=errno.EIO, op=op, times=1 << 30)]
    refused = encode([b"refused"]).numbered(7, 1, 2)
    [outcome] = journal.commit([refused])
    if isinstance(outcome, Receipt):  # acknowledged before its sync, which fails now
        journal.sync()
    assert journal.failed or op == "*"
    assert not journal.try_again() or not journal.failed
    disk.disk.faults = []
    assert journal.try_again() and not journal.failed
    assert isinstance(journal.commit([refused])[0], Receipt)
    journal.commit([encode([b"after"])])
    journal.sync()
    assert records(journal) == [b"before", b"refused", b"after"]
    with Journal.open(PATH, disk=disk.disk.crash(contents="nothing")) as again:
        assert records(again) == [b"before", b"refused", b"after"]


def test_interval_syncs_by_itself(disk: ModelProcess) -> None:
    Journal.create(PATH, Settings(durability="interval=60s"), disk=disk)
    journal = Journal.open(PATH, disk=disk)
    journal.commit([encode([b"a"])])
    assert records(journal) == []
    journal.maintain()
    assert records(journal) == [b"a"]
    with Journal.open(PATH, disk=disk.disk.crash()) as after:
        assert records(after) == [b"a"]


def test_os_shows_at_once_and_syncs_when_the_segment_is_full(disk: ModelProcess) -> None:
    Journal.create(PATH, Settings(durability="os", segment_bytes=4096), disk=disk)
    journal = Journal.open(PATH, disk=disk)
    for number in range(6):
        journal.commit([encode([b"%d" % number * 900])])
    assert len(records(journal)) == 6
    with Journal.open(PATH, disk=disk.disk.crash(contents="nothing")) as after:
        assert records(after)[:3] == [b"%d" % number * 900 for number in range(3)]


def test_a_second_writer_of_a_producers_name_is_told(spool: Path) -> None:
    """Its batches look like repetitions of the first one's: they must not be acknowledged as if they were there."""
    jlogd.create(spool / "log")
    with jlogd.open(spool / "log") as log:
        first, second = log.writer(producer="same"), log.writer(producer="same")
        first.append(b"of the first")
        first.flush()
        second.append(b"of the second")
        with pytest.raises(UsageError, match="one writer at a time"):
            second.flush()
        assert second.durable == 0
        first.close()
        with pytest.raises(UsageError):
            second.close()


def test_a_cap_that_another_process_sets_is_kept(disk: ModelProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log is open, with no cap in sight; then another process adds a subscriber that blocks."""
    monkeypatch.setattr(retention, "LOOK_AGAIN_SECONDS", 0.0)
    Journal.create(PATH, disk=disk)
    with Journal.open(PATH, disk=disk) as journal, Journal.open(PATH, disk=disk.disk.process()) as other:
        assert isinstance(journal.commit([encode([b"x" * 900])])[0], Receipt)
        other.add_subscriber("slow", "end", Caps(max_bytes=2000))
        outcomes = [journal.commit([encode([b"x" * 900])])[0] for _ in range(5)]
        assert [type(outcome) for outcome in outcomes] == [Receipt] * 3 + [LogFull] * 2
        other.configure(Settings(caps=Caps(max_bytes=1)))
        other.set_subscriber("slow", "end")
        assert isinstance(journal.commit([encode([b"x" * 900])])[0], Receipt)


def test_what_a_cap_took_counts_before_the_subscriber_hears_of_it(disk: ModelProcess) -> None:
    settings = Settings(segment_bytes=4096, caps=Caps(max_bytes=5000, on_full="drop-oldest"))
    Journal.create(PATH, settings, ["dead"], disk=disk)
    with Journal.open(PATH, disk=disk) as journal:
        for number in range(40):
            journal.commit([encode([b"%d" % number * 450])])
        (dead,) = journal.stat().subscribers
        first = journal.stat().first
        assert (dead.next, dead.dropped) == (1, first - 1)
        assert dead.lag_records == 41 - first
        assert dead.lag_bytes <= journal.stat().bytes


def test_model_capacity_is_what_the_stories_need() -> None:
    disk = ModelDisk(capacity=100)
    file = disk.process().open(Path("/spool/x"), "create")
    assert file.append([b"y" * 90]) == 90
