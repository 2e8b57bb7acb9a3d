"""One fixed life of a log, with something going wrong at every single I/O call of it.

The life: made with two subscribers, opened, appended to until it rolls, consumed, pruned, appended to by a second
process, a subscriber removed and others added, closed. Its N calls are counted; then it is lived again for each of
them, with that call crashing before or after its effect (the process alone, or the whole machine), or failing. After
that a fresh process opens the log, producers send again what was not acknowledged, and the oracle counts.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from model_disk import CONTENTS, Crash, Fault, ModelDisk, ModelProcess
from oracle import Oracle, record

from jlogd.errors import JlogError, LogExists, LogNotFound
from jlogd.journal.batch import Batch, encode
from jlogd.journal.check import check
from jlogd.journal.journal import Journal
from jlogd.journal.types import Receipt, Settings

PATH = Path("/spool/log")
SETTINGS = Settings(segment_bytes=4096)
READ_ALL = 1 << 30
PRODUCER = 7
# Every how many calls the quick run looks; the slow one looks at all of them.
STRIDE = 9


class Life:
    """The life of one log on a model disk. Each step may fail; what follows goes on as well as it can."""

    def __init__(self) -> None:
        self.disk = ModelDisk()
        self.oracle = Oracle()
        self.homes = [self.disk.process(), self.disk.process()]
        self.journals: list[Journal | None] = [None, None]
        self.unsent: list[tuple[Batch, list[bytes]]] = []
        self.number = 0
        self.done = {"one": 1, "two": 1}

    def live(self) -> None:
        """All of it. Raises `Crash`."""
        self._step(lambda: Journal.create(PATH, SETTINGS, ["one", "two"], disk=self.homes[0]))
        for _ in range(6):
            self._append(0)
        self._consume("one")
        self._append(1)
        self._append(0)
        self._consume("two")
        self._append(0)
        self.done.pop("two")
        self.oracle.gone_below = max(self.oracle.gone_below, *self.done.values())
        self._step(lambda: self._journal(0).remove_subscriber("two"))
        self._step(lambda: self._journal(1).add_subscriber("three", "end"))
        self._step(lambda: self._journal(0).clone_subscriber("four", "one"))
        self._append(1)
        # From here on everything may go: "four" holds it back only if it could be made.
        self.oracle.gone_below = max([1, *self.oracle.acked]) + 1
        self._step(lambda: self._journal(0).set_subscriber("one", "end"))
        self._append(0)
        for process in (0, 1):
            self._step(lambda process=process: self._close(process))

    def afterwards(self) -> None:
        """Fresh processes: everything that was not acknowledged is sent again, then all is counted."""
        self.homes = [self.disk.process(), self.disk.process()]
        self.journals = [None, None]
        with suppress(LogExists):
            Journal.create(PATH, SETTINGS, ["one", "two"], disk=self.homes[0])
        self._append(0)
        assert not self.unsent, "a sound disk refused"
        self.count()
        assert [finding for finding in check(PATH, self.homes[0]) if not finding.harmless] == []

    def count(self) -> None:
        """Read the whole log and compare."""
        cursor = self._journal(0).cursor("begin")
        first = cursor.next
        items = []
        while found := cursor.read(READ_ALL):
            items += found
        self.oracle.whole(items, first)

    def _append(self, process: int) -> None:
        """Two batches of a producer that sends again what was not acknowledged, and one of nobody."""
        for count, size in ((1, 300), (3, 200)):
            records = [record(PRODUCER, self.number + n, size) for n in range(count)]
            batch = encode(records).numbered(PRODUCER, self.number, self.number + count)
            self.unsent.append((batch, records))
            self.number += count
        anonymous = [record(0, self.number, 100)]
        sent = [*self.unsent, (encode(anonymous), anonymous)]
        for _, records in sent:
            self.oracle.issue(records)
        self._step(lambda: self._commit(self._journal(process), sent))

    def _commit(self, journal: Journal, sent: list[tuple[Batch, list[bytes]]]) -> None:
        outcomes = journal.commit([batch for batch, _ in sent])
        for (batch, records), outcome in zip(sent, outcomes, strict=True):
            if isinstance(outcome, Receipt):
                self.oracle.ack(records, outcome)
                self.unsent = [item for item in self.unsent if item[0] is not batch]
        if journal.failed:
            self.journals = [None if found is journal else found for found in self.journals]
            journal.close()

    def _consume(self, name: str) -> None:
        def consume() -> None:
            hold = self._journal(0).hold(name)
            try:
                at = hold.cursor.next
                while items := hold.read(1500):
                    at = self.oracle.read(items, at)
                    self.done[name] = at - 1
                    self.oracle.gone_below = max(self.oracle.gone_below, min(self.done.values()))
                    hold.checkpoint(at - 1)  # in the middle of a batch
            finally:
                hold.release()

        self._step(consume)

    def _journal(self, process: int) -> Journal:
        found = self.journals[process]
        if found is None:
            found = self.journals[process] = Journal.open(PATH, disk=self.homes[process])
        return found

    def _close(self, process: int) -> None:
        journal, self.journals[process] = self.journals[process], None
        if journal is not None:
            journal.close()

    def _step(self, step: Callable[[], None]) -> None:
        try:
            step()
        except (OSError, JlogError):
            if not self.disk.last_fault and not any(fault.struck for fault in self.disk.faults):
                raise


def calls_of_a_life() -> int:
    life = Life()
    life.live()
    calls = life.disk.calls
    assert not life.unsent
    life.count()
    assert life.oracle.gone_below > 20, "nothing was pruned: the life is too quiet"
    return calls


N = calls_of_a_life()
CALLS = [
    pytest.param(range(start, N + 1, STRIDE), id=f"from {start}", marks=() if start == 1 else pytest.mark.slow)
    for start in range(1, STRIDE + 1)
]


def crashed_at(call: int, after: bool) -> Life:
    life = Life()
    life.disk.faults = [Fault(crash=True, at=call, after=after)]
    try:
        life.live()
    except Crash:
        life.disk.faults = []
        return life
    # There is no "after" of a call that fails: the unlink of what was not there.
    assert after and life.disk.trace[call - 1].op == "unlink"
    return crashed_at(call, after=False)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("calls", CALLS)
def test_the_process_dies_at_a_call(calls: range, after: bool) -> None:
    for call in calls:
        life = crashed_at(call, after)
        life.disk.kill()
        life.afterwards()
        life.disk.crash(call)
        life.homes, life.journals = [life.disk.process()] * 2, [None, None]
        life.count()


@pytest.mark.parametrize("contents", CONTENTS)
@pytest.mark.parametrize("calls", CALLS)
def test_the_machine_dies_at_a_call(calls: range, contents: str) -> None:
    for call in calls:
        life = crashed_at(call, after=bool(call % 2))
        life.disk.crash(call, contents)  # type: ignore[arg-type]
        life.afterwards()


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EINTR], ids=errno.errorcode.get)
@pytest.mark.parametrize("calls", CALLS)
def test_a_call_fails(calls: range, code: int) -> None:
    for call in calls:
        life = Life()
        life.disk.faults = [Fault(error=code, at=call)]
        life.live()
        life.disk.faults = []
        life.homes[0].kill()
        life.homes[1].kill()
        life.afterwards()
        life.disk.crash(call)
        life.homes, life.journals = [life.disk.process()] * 2, [None, None]
        life.count()


@pytest.mark.parametrize("calls", CALLS)
def test_every_call_fails_from_one_on_until_the_disk_is_mended(calls: range) -> None:
    for call in calls:
        life = Life()
        life.disk.faults = [Fault(error=errno.EIO, at=call, times=1 << 30)]
        with suppress(LogNotFound):
            life.live()
        life.disk.faults = []
        life.disk.kill()
        life.afterwards()


def test_a_disk_that_is_full_at_every_size() -> None:
    """No spin, no silence: refused, then accepted once there is room."""
    size = Life()
    size.live()
    for capacity in range(9000, size.disk.used() + 9000, 700):
        life = Life()
        life.disk.capacity = capacity
        life.disk.faults = [Fault(at=1 << 30)]  # nothing but the capacity strikes
        life.disk.last_fault = life.disk.faults[0]
        with suppress(OSError, JlogError):
            life.live()
        life.disk.capacity = None
        life.disk.kill()
        life.afterwards()


def test_the_model_process_is_what_the_journal_believes_it_is(disk: ModelProcess) -> None:
    """A second opening in one process shares its locks and not its state."""
    Journal.create(PATH, SETTINGS, disk=disk)
    first, second = Journal.open(PATH, disk=disk), Journal.open(PATH, disk=disk)
    assert first.commit([encode([b"a"])]) == [Receipt(1, 1)]
    assert second.commit([encode([b"b"])]) == [Receipt(2, 1)]
    assert first.commit([encode([b"c"])]) == [Receipt(3, 1)]
