"""One fixed workload, and every single I/O call of it: crashed before and after, failed, looked at, taken over.

The workload makes a log, appends from two processes, rolls, consumes, prunes, adds, clones, moves and removes
subscribers, closes and opens again. It is small: its calls are counted by running it once, and then it is run again for
each of them.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from model_disk import CONTENTS, NAMES, Call, Crash, Fault, ModelDisk, ModelProcess
from oracle import Oracle, record

from jlogd.errors import JlogError, LogExists, LogNotFound, SubscriberExists, SubscriberUnknown
from jlogd.journal.batch import Batch, Gap, encode
from jlogd.journal.check import check
from jlogd.journal.cursor import Cursor, locate
from jlogd.journal.journal import Journal
from jlogd.journal.types import Receipt, Settings
from jlogd.journal.view import View

PATH = Path("/spool/log")
SETTINGS = Settings(segment_bytes=4096)
READ_ALL = 1 << 30
# A step is tried again that often in all: a fault that strikes three times fails a step at most as often.
FAILURES_MAX = 4
# The changes that mending a failed sync takes, and a few of what follows.
MENDING_CALLS = 16
ERRORS = (errno.EIO, errno.ENOSPC, errno.EINTR)


class Workload:
    """The workload, its oracle, and where it is. A step that failed is tried again, on a log that is opened again if
    it must be; a step that succeeded is not."""

    def __init__(self) -> None:
        self.disk = ModelDisk()
        self.homes = [self.disk.process(), self.disk.process()]
        self.oracle = Oracle()
        self.journals: list[Journal | None] = [None, None]
        self.pending: list[tuple[Batch, list[bytes]]] = []
        self.numbers = dict.fromkeys((0, 7, 8), 0)
        self.places = [1]  # where the subscriber "main" may stand
        self.failures: list[BaseException] = []

    # ---- steps ------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        for step in self.steps():
            self.step(step)

    def step(self, step: Callable[[], None]) -> None:
        while True:
            try:
                return step()
            except (OSError, JlogError) as error:
                self.failures.append(error)
                if len(self.failures) > FAILURES_MAX:
                    raise

    def steps(self) -> Iterator[Callable[[], None]]:
        yield self.create
        yield self.open
        yield from self.append((7, 2, 100), (0, 1, 50))
        yield from self.append((8, 3, 900), (7, 1, 10), process=1)
        yield from self.append((7, 2, 900), (0, 2, 100))  # rolls
        yield lambda: self.consume(0.5)
        yield from self.append((8, 1, 3000), (8, 1, 3000))  # rolls twice
        yield lambda: self.administer(lambda: self.open().add_subscriber("other", "end"))
        yield lambda: self.administer(lambda: self.open(1).clone_subscriber("third", "other"))
        yield lambda: self.consume(1.0)  # lets segments go
        yield from self.append((7, 1, 10), process=1)
        yield lambda: self.administer(lambda: self.open().set_subscriber("other", "end"))
        yield lambda: self.administer(lambda: self.open().remove_subscriber("other"))
        yield lambda: self.administer(lambda: self.open(1).remove_subscriber("third"))
        yield lambda: self.consume(1.0)
        yield self.close
        yield self.open
        yield from self.append((7, 1, 10), (8, 1, 10), (0, 1, 3000))
        yield from self.append((8, 1, 3000), process=1)

    def create(self) -> None:
        try:
            Journal.create(PATH, SETTINGS, ["main"], disk=self.homes[0])
        except LogExists:
            assert self.failures, "created by nobody"

    def open(self, process: int = 0) -> Journal:
        journal = self.journals[process]
        if journal is not None and not journal.failed:
            return journal
        self.close(process)
        journal = self.journals[process] = Journal.open(PATH, disk=self.homes[process])
        return journal

    def append(self, *parts: tuple[int, int, int], process: int = 0) -> Iterator[Callable[[], None]]:
        """For each part: a producer (0: nobody), how many records, of how many bytes."""
        for producer, count, size in parts:
            at = self.numbers[producer]
            self.numbers[producer] = at + count
            records = [record(producer, number, size) for number in range(at, at + count)]
            batch = encode(records)
            self.pending.append((batch.numbered(producer, at, at + count) if producer else batch, records))
        yield lambda: self.send(process)

    def send(self, process: int = 0) -> None:
        """Everything that was not acknowledged; what nobody numbered is sent once."""
        journal = self.open(process)
        for _, records in self.pending:
            self.oracle.issue(records)
        sent, self.pending = self.pending, [item for item in self.pending if item[0].producer]
        outcomes = journal.commit([batch for batch, _ in sent])
        for item, outcome in zip(sent, outcomes, strict=True):
            if isinstance(outcome, Receipt):
                self.oracle.ack(item[1], outcome)
                self.pending = [other for other in self.pending if other is not item]
        refused = [outcome for outcome in outcomes if isinstance(outcome, JlogError)]
        if refused:
            raise refused[0]

    def consume(self, part: float) -> None:
        hold = self.open().hold("main")
        try:
            at = start = hold.cursor.next
            assert at in self.places, f"the subscriber stands at {at}, and was only ever at {self.places}"
            while items := hold.read(READ_ALL):
                at = self.oracle.read(items, at)
            to = start + round((at - start) * part)
            self.places.append(to)
            self.oracle.gone_below = max(self.oracle.gone_below, to)
            hold.checkpoint(to)
        finally:
            hold.release()

    def administer(self, what: Callable[[], None]) -> None:
        try:
            what()
        except (SubscriberExists, SubscriberUnknown):
            assert self.failures, "an attempt before had its effect, or the one before it never had"

    def close(self, process: int | None = None) -> None:
        for number in (0, 1) if process is None else (process,):
            journal, self.journals[number] = self.journals[number], None
            if journal is not None:
                journal.close()

    # ---- afterwards -------------------------------------------------------------------------------------------------

    def check(self, journal: Journal) -> None:
        """Everything there is, against the oracle."""
        assert set(journal.subscriber_names()) <= {"main", "other", "third"}
        at = journal.subscribers.read("main").position.next
        assert at in self.places, f"the subscriber stands at {at}, and was only ever at {self.places}"
        self.read_whole(journal)

    def read_whole(self, journal: Journal) -> None:
        cursor = journal.cursor("begin")
        first, items = cursor.next, list[Batch | Gap]()
        while found := cursor.read(READ_ALL):
            items += found
        cursor.close()
        self.oracle.whole(items, first)

    def recover(self, *homes: ModelProcess) -> None:
        """What an operator does after a crash: start again. Then all must be as it was promised, and go on."""
        self.homes = [homes[0], homes[-1]]
        self.journals = [None, None]
        self.failures.append(Crash())
        try:
            self.open()
        except LogNotFound:
            assert not self.oracle.acked, "the log is gone"
            self.create()
        self.check(self.open())
        self.send()
        for step in self.append((7, 1, 10), (0, 1, 10), process=1):
            step()
        self.consume(1.0)
        self.check(self.open())
        faults = [finding for finding in check(PATH, self.homes[0]) if not finding.harmless]
        assert not faults, faults
        self.close()

    def recover_all(self, *, power: int | None = None) -> None:
        """The same on two new processes, after a power loss (its seed) or after the processes were killed."""
        if power is None:
            self.disk.kill()
        else:
            self.disk.crash(power)
        self.recover(self.disk.process(), self.disk.process())


def trace() -> list[Call]:
    workload = Workload()
    workload.run()
    return workload.disk.trace


TRACE = trace()
CALLS = [call.number for call in TRACE]
# Crashing before a call that changes nothing is crashing after the one before it.
CHANGES = [call.number for call in TRACE if call.changes]


def test_the_workload_is_the_same_every_time_and_does_everything():
    assert [(call.op, call.path) for call in trace()] == [(call.op, call.path) for call in TRACE]
    workload = Workload()
    workload.run()
    assert not workload.failures
    workload.check(workload.open())
    assert workload.open().view.chain()[0].first > 1, "it prunes"
    assert len(workload.disk.files(".seg")) > 1, "it rolls"
    assert len(CALLS) > 150


# ---- crashes -------------------------------------------------------------------------------------------------------


def crashed(call: int, after: bool) -> Workload:
    workload = Workload()
    workload.disk.faults.append(Fault(crash=True, at=call, after=after))
    with pytest.raises(Crash):
        workload.run()
    workload.disk.faults.clear()
    return workload


@pytest.mark.parametrize("after", [False, True])
def test_killed_at_every_call(after):
    for call in CHANGES:
        workload = crashed(call, after)
        workload.recover_all()
        workload.recover_all(power=call)


@pytest.mark.parametrize("after", [False, True])
def test_power_lost_at_every_call(after):
    for call in CHANGES:
        crashed(call, after).recover_all(power=call)


@pytest.mark.slow
@pytest.mark.parametrize("names", NAMES)
@pytest.mark.parametrize("contents", CONTENTS)
def test_power_lost_at_every_call_in_every_way(contents, names):
    for call in CHANGES:
        for seed in range(3):
            workload = crashed(call, after=True)
            workload.disk.crash(seed, contents, names)
            workload.recover(workload.disk.process(), workload.disk.process())


@pytest.mark.slow
@pytest.mark.parametrize("power", [False, True])
def test_crashed_again_in_every_call_of_the_recovery(power):
    """At every fourth call of the workload, and there at every call of what follows."""

    def once(call: int) -> Workload:
        workload = crashed(call, after=True)
        if power:
            workload.disk.crash(call)
        else:
            workload.disk.kill()
        return workload

    for call in CHANGES[::4]:
        workload = once(call)
        before = workload.disk.calls
        workload.recover(workload.disk.process())
        for again in [later.number - before for later in workload.disk.trace[before:] if later.changes]:
            workload = once(call)
            workload.disk.faults.append(Fault(crash=True, at=again, after=True))
            with pytest.raises(Crash):
                workload.recover(workload.disk.process())
            workload.disk.faults.clear()
            workload.recover_all(power=again if power else None)


# ---- failures ------------------------------------------------------------------------------------------------------


def failed(fault: Fault) -> None:
    workload = Workload()
    workload.disk.faults.append(fault)
    workload.run()
    workload.disk.faults.clear()
    assert not workload.pending, "what was not acknowledged was sent again"
    workload.check(workload.open())
    workload.recover_all(power=fault.struck)


def test_failed_at_every_call():
    for call in CALLS:
        failed(Fault(error=errno.EIO, at=call))


def test_out_of_space_at_every_change():
    for call in CHANGES:
        failed(Fault(error=errno.ENOSPC, at=call))


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize("code", ERRORS, ids=errno.errorcode.get)
def test_failed_at_every_call_in_every_way(code, times):
    """The errnos, and more than one failure in a row: the second attempt fails too."""
    for call in CALLS:
        failed(Fault(error=code, at=call, times=times))


@pytest.mark.parametrize("keep", [0.0, pytest.param(1.0, marks=pytest.mark.slow)])
def test_killed_while_it_mends_a_failed_sync(keep):
    """A sync of a segment fails, and the process dies in one of the calls after it. Whoever comes next finds pages that
    look clean: what they hold may be gone after a power loss, and must not be believed."""
    for sync in range(1, sum(call.op == "sync" and call.path.suffix == ".seg" for call in TRACE) + 1):
        whole = Workload()
        whole.disk.faults.append(Fault(error=errno.EIO, op="sync", path="*.seg", at=sync, keep=keep))
        whole.run()
        syncs = [call.number for call in whole.disk.trace if call.op == "sync" and call.path.suffix == ".seg"]
        later = [call.number for call in whole.disk.trace[syncs[sync - 1] :] if call.changes]
        for call in later[:MENDING_CALLS]:
            workload = Workload()
            workload.disk.faults = [
                Fault(error=errno.EIO, op="sync", path="*.seg", at=sync, keep=keep),
                Fault(crash=True, at=call),
            ]
            with pytest.raises(Crash):
                workload.run()
            workload.disk.faults.clear()
            workload.recover_all()
            workload.recover_all(power=call)


@pytest.mark.slow
@pytest.mark.parametrize("keep", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("code", ERRORS, ids=errno.errorcode.get)
@pytest.mark.parametrize("after", [False, True])
def test_failed_after_every_call(code, keep, after):
    """After its effect: the call did what it should, and said that it did not."""
    for call in CALLS:
        # Neither locks nor opens: those would leave something held.
        failed(Fault(error=code, at=call, keep=keep, after=after, op="[!lo]*"))


def test_short_writes_at_every_call():
    for append in range(1, sum(call.op == "append" for call in TRACE) + 1):
        failed(Fault(short=1, op="append", at=append, times=3))


@pytest.mark.parametrize("op", ["sync", "append", "sync_dir", pytest.param("*", marks=pytest.mark.slow)])
def test_a_disk_that_fails_for_good(op):
    """From some call on nothing works: the log says so at once, acknowledges nothing more, and loses nothing."""
    for call in range(1, sum(op in ("*", call.op) for call in TRACE) + 1):
        workload = Workload()
        workload.disk.faults.append(Fault(error=errno.EIO, op=op, at=call, times=1 << 30))
        with pytest.raises((OSError, JlogError)):
            workload.run()
            raise OSError("the fault was past the end")
        workload.disk.faults.clear()
        workload.recover_all(power=call)


def test_a_full_disk_at_every_size():
    """Space ends somewhere: nothing is accepted and lost, readers go on, and so does the log once there is space."""
    top = Workload()
    top.run()
    for capacity in range(0, top.disk.used() * 2, 700):
        workload = Workload()
        workload.disk.capacity = capacity
        with suppress(OSError, JlogError):
            workload.run()
        opened = next((journal for journal in workload.journals if journal is not None), None)
        if opened is not None:
            workload.read_whole(opened)
        workload.disk.capacity = None
        if opened is not None:
            workload.step(workload.send)
            workload.check(workload.open())
        workload.recover_all(power=capacity)


# ---- others, at every call -----------------------------------------------------------------------------------------


def test_what_readers_see_at_every_call_is_durable():
    """A reader of another process looks at every call; then the power goes. What it was given must still be there."""
    for call in CHANGES:
        workload = Workload()
        looker = workload.disk.process()

        def look(workload: Workload = workload, looker: ModelProcess = looker) -> None:
            if looker.exists(PATH):
                view = View(PATH, looker)
                cursor = Cursor(view, locate(view, "begin"))
                at = cursor.next
                while items := cursor.read(READ_ALL):
                    at = workload.oracle.read(items, at)
            workload.disk.kill()

        workload.disk.faults.append(Fault(action=look, at=call))
        with pytest.raises(Crash):
            workload.run()
        workload.disk.faults.clear()
        workload.recover_all(power=call)


def test_a_reader_that_stays_sees_everything():
    """A cursor of another process reads on at every call, across every roll, prune and recovery."""
    workload = Workload()
    looker = workload.disk.process()
    state: dict[str, object] = {}

    def look() -> None:
        if not looker.exists(PATH) or state.get("busy"):
            return
        state["busy"] = True
        if "cursor" not in state:
            view = View(PATH, looker)
            state["cursor"], state["at"] = Cursor(view, locate(view, "begin")), 1
        items = state["cursor"].read(READ_ALL)
        state["at"] = workload.oracle.read(items, state["at"])
        state["busy"] = False

    workload.disk.faults.append(Fault(action=look, times=1 << 30))
    workload.run()
    workload.disk.faults.clear()
    look()
    assert state["at"] == workload.open().view.head().visible
    assert set(workload.oracle.acked) <= set(workload.oracle.delivered)


def test_taken_over_at_every_call():
    """The lease of a paused host runs out, another host takes the log over and writes; then the first one wakes up."""
    for call in CHANGES:
        workload = Workload()
        other = workload.disk.process("b")
        taken: list[Journal] = []

        def take_over(workload: Workload = workload, other: ModelProcess = other, taken: list = taken) -> None:
            if not other.exists(PATH):
                return
            for home in workload.homes:
                workload.disk.lose_locks(home)
            journal = Journal.take_over(PATH, disk=other)
            taken.append(journal)
            records = [record(99, 0, 50)]
            workload.oracle.issue(records)
            (outcome,) = journal.commit([encode(records).numbered(99, 0, 1)])
            workload.oracle.ack(records, outcome)

        workload.disk.faults.append(Fault(action=take_over, at=call))
        with suppress(OSError, JlogError):
            workload.run()
        if not taken:
            continue
        journal = taken[0]
        workload.check(journal)
        records = [record(99, 1, 50)]
        workload.oracle.issue(records)
        (outcome,) = journal.commit([encode(records).numbered(99, 1, 2)])
        assert isinstance(outcome, Receipt), outcome
        workload.oracle.ack(records, outcome)
        workload.check(journal)
        workload.disk.crash(call)
        again = Journal.open(PATH, disk=workload.disk.process("b"))
        workload.check(again)


def test_two_openings_in_one_process_share_its_locks_and_not_its_state(disk):
    Journal.create(PATH, SETTINGS, disk=disk)
    first, second = Journal.open(PATH, disk=disk), Journal.open(PATH, disk=disk)
    for number, journal in enumerate([first, second, first, second], 1):
        assert journal.commit([encode([b"%d" % number])]) == [Receipt(number, 1)]
