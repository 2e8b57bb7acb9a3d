"""Two hosts on one model disk: takeovers at any moment, and former owners that go on as if nothing had happened.

The log is that of `test_state_machine.py`, with all its troubles; but its two processes are two hosts. The one that
owns the log writes. The other one takes it over: politely, when the owner's process has ended, or behind its back,
when its locks were lost (a paused host, a lost lease), between two of its operations or in the middle of one. The
former owner keeps its open log, its cursors and its named consumers, and uses them. What must hold beside all the
rest: it acknowledges nothing that it began after the takeover, what it writes then is never read, its consumers move
no position, and whoever owns the log finds it in good order.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import rule
from model_disk import Fault, ModelDisk, ModelProcess
from oracle import record
from test_state_machine import (
    PATH,
    READ_ALL,
    SEGMENT_BYTES,
    Client,
    LogMachine,
    Reader,
    Skip,
    Trouble,
    ats,
    makes,
    processes,
    run,
    troubled,
    troubles,
)

from jlogd.errors import Fenced, JlogError, LogFailed, OwnedElsewhere, SubscriberBusy
from jlogd.journal.batch import Batch, encode
from jlogd.journal.check import check
from jlogd.journal.journal import Journal
from jlogd.journal.subscribers import Hold
from jlogd.journal.types import Receipt, Settings
from jlogd.journal.view import View


class TwoHostMachine(LogMachine):
    """See the module's text. Process 0 is host a, process 1 is host b."""

    def __init__(self) -> None:
        self.boots = [0, 0]
        self.owner = 0
        self.left_behind: list[Reader] = []  # named consumers whose locks were lost
        super().__init__()

    # ---- what the log's machine asks for -----------------------------------------------------------------------------

    def _home(self, process: int) -> ModelProcess:
        home = self.disk.process("ab"[process])
        home._boot += f".{self.boots[process]}"
        return home

    def _journal(self, process: int) -> Journal:
        opened = self.journals[process]
        if process == self.owner or (opened is not None and not opened.failed):
            return super()._journal(process)
        if opened is not None:
            self._close(process)
        if self.trouble is None:
            with pytest.raises(OwnedElsewhere):
                Journal.open(PATH, disk=self.homes[process])
        raise Skip("another host owns the log")

    def _journal_to_administer(self, process: int) -> Journal:
        journal = self._journal(process)
        if process != self.owner:
            for name in self.subscribers if self.trouble is None else ():
                with pytest.raises((Fenced, SubscriberBusy)):
                    journal.hold(name)
            raise Skip("commands and consumers go to the owner")
        return journal

    def _sound_journal(self) -> Journal:
        return self._journal(self.owner)

    def _opened(self) -> list[Journal]:
        journal = self.journals[self.owner]
        return [journal] if journal is not None else []

    def _sound(self, process: int) -> bool:
        self._learn_owner()  # the opening of the journal may have been the moment of a takeover
        self.stale = process != self.owner
        return super()._sound(process) and not self.stale

    def _accepted(self, process: int) -> None:
        assert not self.stale, "a former owner acknowledged"

    def _refused(self, client: Client, records: list[bytes], outcome: JlogError, sound: bool) -> None:
        if self.stale and not client.producer:
            self.oracle.refuse(records)
        if isinstance(outcome, Fenced | OwnedElsewhere) and not sound:
            return
        super()._refused(client, records, outcome, sound)

    def _forget(self, process: int) -> None:
        super()._forget(process)
        self.left_behind = [reader for reader in self.left_behind if reader.process != process]

    def disarm(self) -> None:
        super().disarm()
        # A former owner that was about to raise the epoch when it lost the log takes it back; so look at the disk.
        self._learn_owner()

    def settle(self, durably: bool = False) -> None:
        self._learn_owner()
        super().settle(durably)

    def _learn_owner(self) -> None:
        """Read past whatever goes wrong just now."""
        faults, self.disk.faults = self.disk.faults, []
        owner = View(PATH, self.disk.process()).owner()
        self.owner = [home.host() for home in self.homes].index(owner.host)
        self.disk.faults = faults

    # ---- takeovers ---------------------------------------------------------------------------------------------------

    @rule(process=processes, trouble=troubles, behind_its_back=st.booleans())
    @troubled
    def take_over(self, process: int, behind_its_back: bool) -> None:
        former = self.owner
        if process == former:
            raise Skip("it is the owner")
        if self.journals[process] is not None:
            self._close(process)
        if self.journals[former] is not None:
            if not behind_its_back:
                with pytest.raises(OwnedElsewhere):
                    Journal.take_over(PATH, disk=self.homes[process])
                return
            self._lose_locks(former)
        try:
            self.journals[process] = Journal.take_over(PATH, disk=self.homes[process])
        finally:
            self.disarm()
            if self.owner == former and behind_its_back:  # it would go on without the locks that it believes to hold
                self._kill(former)
        assert self.owner == process

    def _lose_locks(self, process: int) -> None:
        self.disk.lose_locks(self.homes[process])
        for name, reader in list(self.readers.items()):
            if reader.process == process:
                self.left_behind.append(self.readers.pop(name))

    def _seize(self, victim: int) -> Callable[[], None]:
        """What makes the other host take the log over from `victim`, at the moment it is called."""

        def seize() -> None:
            taker = 1 - victim
            if self.owner != victim or not self.homes[taker].exists(PATH):
                return
            faults, self.disk.faults = self.disk.faults, []
            if self.journals[taker] is not None:
                self._close(taker)
            self._lose_locks(victim)
            journal = self.journals[taker] = Journal.take_over(PATH, disk=self.homes[taker])
            self.owner, self.labels = taker, self.labels + 1
            records = [record(0, self.labels << 20)]
            self.oracle.issue(records)
            (outcome,) = journal.commit([encode(records)])
            note(f"  taken over; {outcome!r}")
            self.oracle.ack(records, outcome)
            self.disk.faults = faults

        return seize

    def _taken_over(self, process: int, at: int, after: bool) -> Trouble:
        return Trouble(faults=[Fault(action=self._seize(process), at=at, after=after)])

    @rule(process=processes, at=ats, after=st.booleans(), makes=makes)
    def append_while_it_is_taken_over(self, process: int, at: int, after: bool, makes: list) -> None:
        self.append(process, self._taken_over(process, at, after), makes=makes)

    @rule(process=processes, at=ats, after=st.booleans(), what=st.sampled_from(["maintain", "close", "take_over"]))
    def something_else_while_it_is_taken_over(self, process: int, at: int, after: bool, what: str) -> None:
        """`take_over` by a process that is itself the victim: of the host that it takes the log from."""
        arguments = {"behind_its_back": True} if what == "take_over" else {}
        getattr(self, what)(process, self._taken_over(process, at, after), **arguments)

    @rule(process=processes)
    def reboot(self, process: int) -> None:
        """A host goes down and comes back. The disk has its own battery: power losses are another rule."""
        self.boots[process] += 1
        self._kill(process)
        self.settle()

    # ---- those that were left behind ---------------------------------------------------------------------------------

    @rule(pick=st.integers(0, 5), max_bytes=st.sampled_from([1, 500, READ_ALL]))
    def a_consumer_that_was_left_behind_goes_on(self, pick: int, max_bytes: int) -> None:
        """It reads the log as it is, and moves nothing."""
        if not self.left_behind:
            return
        reader = self.left_behind[pick % len(self.left_behind)]
        self._may_go()
        reader.at = self.oracle.read(reader.cursor.read(max_bytes), reader.at)
        if reader.process != self.owner:
            assert isinstance(reader.cursor, Hold)
            with pytest.raises(Fenced):
                reader.cursor.replace()
            self.settle()

    @rule()
    def check_every_byte(self) -> None:
        opened = self._opened()
        if not opened or self.oracle.exempt:
            return
        opened[0].commit([])
        if not opened[0].failed:
            findings = [finding for finding in check(PATH, self.homes[self.owner]) if not finding.harmless]
            assert not findings, findings


def test_two_hosts_keep_the_promises_of_the_log() -> None:
    run(TwoHostMachine, 0.4)


# ---- single stories ------------------------------------------------------------------------------------------------


def read(journal: Journal) -> list[bytes]:
    return [data for item in journal.cursor("begin").read(READ_ALL) for data in item]


@pytest.mark.parametrize("op", ["append", "sync", "pwrite"])
@pytest.mark.parametrize("after", [False, True])
def test_what_a_former_owner_wrote_is_counted_as_zombie_bytes(op: str, after: bool) -> None:
    """It is paused in the middle of a commit, and wakes up when the log has moved on."""
    disk = ModelDisk()
    former, successor = disk.process("a"), disk.process("b")
    Journal.create(PATH, Settings(segment_bytes=SEGMENT_BYTES), ["reader"], disk=former)
    old = Journal.open(PATH, disk=former)
    assert old.commit([encode([b"one"])]) == [Receipt(1, 1)]
    taken: list[Journal] = []

    def seize() -> None:
        disk.lose_locks(former)
        taken.append(Journal.take_over(PATH, disk=successor))

    disk.faults.append(Fault(action=seize, op=op, after=after))
    stale = encode([b"stale" * 40])
    (outcome,) = old.commit([stale])
    written_too_late = op == "append" and not after
    # What was on the disk when the successor looked is part of the log; whether it is acknowledged is another question.
    assert isinstance(outcome, Receipt if op == "pwrite" else Fenced), outcome
    journal = taken[0]
    zombies = [finding for finding in check(PATH, successor) if finding.kind == "zombie"]
    # What stood beyond the former owner's head is there twice: where it wrote it, and in the successor's segment.
    assert [zombie.bytes for zombie in zombies] == ([] if op == "pwrite" and after else [stale.size])
    assert journal.commit([encode([b"two"])])[0].count == 1
    assert read(journal) == [b"one", b"two"] if written_too_late else [b"one", b"stale" * 40, b"two"]
    refused = old.commit([encode([b"again"])])[0]
    assert isinstance(refused, Fenced | OwnedElsewhere | LogFailed)
    assert "host-b" in str(refused), "it does not say who has the log"


def test_a_consumer_that_slept_through_a_takeover_moves_nothing() -> None:
    """Else it would throw the new owner's consumer back, below what was pruned since."""
    disk = ModelDisk()
    former, successor = disk.process("a"), disk.process("b")
    Journal.create(PATH, Settings(segment_bytes=SEGMENT_BYTES), ["reader"], disk=former)
    old = Journal.open(PATH, disk=former)
    for number in range(8):
        old.commit([encode([b"%d" % number * 900])])
    sleeper = old.hold("reader")
    items = sleeper.read(READ_ALL)
    disk.lose_locks(former)
    new = Journal.take_over(PATH, disk=successor)
    hold = new.hold("reader")
    hold.read(READ_ALL)
    hold.checkpoint(hold.cursor.next)
    assert new.view.chain()[0].first > items[1].next
    with pytest.raises(Fenced, match="host-b"):
        sleeper.checkpoint(items[1].next)
    hold.release()
    with pytest.raises(Fenced):
        old.hold("reader")
    assert new.subscribers.read("reader").position.next == hold.cursor.next
    assert all(isinstance(item, Batch) for item in items)
