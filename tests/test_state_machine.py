"""A log on the model disk, driven at random, against an oracle that stands outside.

Two writer processes of one host, numbered and anonymous producers that send again what was not acknowledged, named
subscribers and nameless cursors that live across rolls, prunes and recoveries, and everything the model disk can do: a
trouble may strike at any I/O call of any operation. Segments are 4 KiB, so that all of it happens every few records.
"""

from __future__ import annotations

import errno
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path

import pytest
from hypothesis import note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from model_disk import CONTENTS, NAMES, Crash, Fault, ModelDisk, ModelProcess
from oracle import Oracle, identity, record

from jlogd.errors import (
    FormatError,
    JlogError,
    LockUnavailable,
    LogFailed,
    LogFull,
    ProducerGap,
    SpoolFull,
    SubscriberBusy,
    SubscriberExists,
    SubscriberUnknown,
)
from jlogd.journal import batch as batches
from jlogd.journal.batch import Batch, Gap, encode
from jlogd.journal.cursor import Cursor
from jlogd.journal.journal import Journal
from jlogd.journal.segment import SEGMENT_HEADER_BYTES
from jlogd.journal.subscribers import Hold, Subscribers
from jlogd.journal.types import Caps, Receipt, Settings
from jlogd.journal.view import View

PATH = Path("/spool/log")
SEGMENT_BYTES = 4096
READ_ALL = 1 << 30
HOUR_NS = 3_600_000_000_000


@dataclass(eq=False)
class Client:
    """A producer: numbers its batches, keeps them until they are acknowledged, and sends them again in order."""

    producer: int  # 0: anonymous, sends nothing again
    label: int
    number: int = 0
    queue: list[tuple[Batch, list[bytes]]] = field(default_factory=list)

    def make(self, count: int, size: int, newline: bool) -> None:
        records = [record(self.label, self.number + at, size, newline) for at in range(count)]
        batch = encode(records)
        if self.producer:
            batch = batch.numbered(self.producer, self.number, self.number + count)
        self.number += count
        self.queue.append((batch, records))


class Name:
    """A subscriber: where it may stand now, and where the disk may think that it stands."""

    def __init__(self, place: int, caps: Caps) -> None:
        self.places = [place]
        self.past = [place]
        self.caps = caps

    def may_move(self, place: int) -> None:
        """It is being moved."""
        self.places.append(place)
        self.past.append(place)

    def is_at(self, place: int, durably: bool = False) -> None:
        assert place in self.places, f"a subscriber stands at {place}, and was only ever moved to {self.places}"
        self.places = [place]
        if durably:
            self.past = [place]


@dataclass
class Reader:
    """Somebody who reads, and where they stand."""

    process: int
    cursor: Cursor | Hold
    at: int


@dataclass
class Trouble:
    """What strikes during one operation. After a crash, `power` None means that only the process ended."""

    faults: list[Fault] = field(default_factory=list)
    room: int | None = None
    power: int | None = None

    @property
    def harmless(self) -> bool:
        """A short write is no failure."""
        return self.room is None and not any(fault.error or fault.crash or fault.action for fault in self.faults)


class Skip(Exception):
    """There is nothing to do: the operation ends here, and all is well."""


ats = st.one_of(st.integers(1, 6), st.integers(1, 40))
ops = ["sync", "sync", "append", "pwrite", "open", "sync_dir", "rename", "unlink", "lock", "pread", "listdir", "*"]
errors = st.builds(
    Fault, error=st.sampled_from([errno.EIO, errno.ENOSPC, errno.EINTR, errno.EDQUOT]), op=st.sampled_from(ops),
    at=ats, times=st.integers(1, 3), keep=st.sampled_from([0.0, 0.5, 1.0]),
)  # fmt: skip
crashes = st.builds(Fault, crash=st.just(True), at=ats, after=st.booleans())
shorts = st.builds(Fault, short=st.integers(1, 400), op=st.just("append"), times=st.integers(1, 20))
seeds = st.integers(0, 1 << 16)
troubles = st.one_of(
    st.none(), st.none(), st.none(),
    st.builds(Trouble, faults=st.lists(shorts, min_size=1, max_size=1)),
    st.builds(Trouble, faults=st.lists(errors, min_size=1, max_size=2)),
    st.builds(Trouble, faults=st.lists(crashes, min_size=1, max_size=1), power=st.none() | seeds),
    st.builds(Trouble, faults=st.tuples(errors, crashes).map(list), power=st.none() | seeds),
    st.builds(Trouble, room=st.integers(0, 6000)),
)  # fmt: skip
processes = st.integers(0, 1)
names = st.sampled_from(["one", "two", "three"])
sizes = st.sampled_from([0, 0, 0, 30, 300, 700, 1500, 5000])
makes = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4), sizes, st.booleans()), min_size=1, max_size=4)


def troubled(operation: Callable[..., None]) -> Callable[..., None]:
    """An operation during which trouble may strike. What it does to the oracle it does before it does it to the log."""

    @wraps(operation)
    def run(machine: LogMachine, process: int, trouble: Trouble | None, **arguments: object) -> None:
        machine.arm(trouble)
        try:
            operation(machine, process, **arguments)
        except Skip as why:
            note(f"  nothing to do: {why}")
        except Crash:
            machine.disarm()
            machine.died(process, trouble.power)
        except (OSError, JlogError) as error:
            machine.disarm()
            note(f"  raised {error!r}")
            if trouble is None or trouble.harmless:
                raise
            machine.settle()
        finally:
            machine.disarm()
            if trouble is not None and not trouble.harmless:
                machine.pages_may_be_lost()

    return run


class LogMachine(RuleBasedStateMachine):
    """See the module's text."""

    caps = st.just(Caps())
    compression = "none"
    durability = "commit"

    def __init__(self) -> None:
        super().__init__()
        self.disk = ModelDisk()
        self.oracle = Oracle()
        self.homes: list[ModelProcess] = [self._home(0), self._home(1)]
        self.journals: list[Journal | None] = [None, None]
        self.clients = [Client(0, 0), Client(7, 7), Client(8, 8), Client(1 << 63 | 9, 9)]
        self.labels = 100
        self.subscribers: dict[str, Name] = {}
        self.doubtful: set[str] = set()  # subscribers that were being added or removed
        self.readers: dict[str, Reader] = {}
        self.cursors: list[Reader] = []
        self.last: list[tuple[Batch, list[bytes]]] = []  # acknowledged a while ago
        self.trouble: Trouble | None = None
        self.appender: int | None = None  # who appended last
        self.clock = 1_700_000_000_000_000_000
        self._real_clock = time.time_ns
        time.time_ns = self._now

    def _home(self, process: int) -> ModelProcess:
        """A new process in the place of the one that ended."""
        return self.disk.process()

    def _sound_journal(self) -> Journal:
        """One that can read and write when nothing is wrong."""
        return self._journal(0)

    def _now(self) -> int:
        self.clock += 1000
        return self.clock

    def teardown(self) -> None:
        try:
            if self.disk.process().exists(PATH):
                self._read_whole(self._sound_journal())
                self._power_loss(1)
                self._read_whole(self._sound_journal())
        finally:
            time.time_ns = self._real_clock

    # ---- trouble ----------------------------------------------------------------------------------------------------

    def arm(self, trouble: Trouble | None) -> None:
        self.trouble = trouble
        if trouble:
            self.disk.faults = [Fault(**{k: v for k, v in vars(f).items() if k != "struck"}) for f in trouble.faults]
            self.disk.capacity = self.disk.used() + trouble.room if trouble.room is not None else None

    def disarm(self) -> None:
        self.trouble = None
        self.disk.faults.clear()
        self.disk.capacity = None

    def died(self, process: int, power: int | None) -> None:
        note(f"  crashed in call {self.disk.trace[-1]}")
        if power is None:
            self._kill(process)
            self.settle()
        else:
            self._power_loss(power)

    def _kill(self, process: int) -> None:
        self.homes[process].kill()
        self.homes[process] = self._home(process)
        self._forget(process)

    def _power_loss(self, seed: int, contents: str | None = None, names: str | None = None) -> None:
        self.disk.crash(random.Random(seed), contents, names)
        self.homes = [self._home(0), self._home(1)]
        for process in (0, 1):
            self._forget(process)
        for known in self.subscribers.values():
            known.places = list(known.past)
        self._acknowledged_too_soon()
        self.settle(durably=True)

    def _acknowledged_too_soon(self) -> None:
        """What a power loss may take under policies that acknowledge before the sync."""

    def pages_may_be_lost(self) -> None:
        """What a failed sync may take under a policy that knows of no syncs."""

    def _forget(self, process: int) -> None:
        """The process is gone, with its readers."""
        self.appender = None if self.appender == process else self.appender
        self.journals[process] = None
        self.readers = {name: reader for name, reader in self.readers.items() if reader.process != process}
        self.cursors = [reader for reader in self.cursors if reader.process != process]

    def settle(self, durably: bool = False) -> None:
        """Learn where the subscribers stand, when something happened that leaves it open; read past the journal."""
        view = View(PATH, self.disk.process())
        there = Subscribers(view)
        for name in set(there.names()) ^ set(self.subscribers):
            assert name in self.doubtful, f"subscriber {name} came or went by itself"
            self.subscribers.pop(name, None)
        for name in there.names():
            state = there.read(name)
            caps = state.caps or self.log_caps
            known = self.subscribers.setdefault(name, Name(state.position.next, caps))
            known.is_at(state.position.next, durably)
            assert known.caps == caps
        if durably:
            self.doubtful.clear()
        self._may_go()

    # ---- helpers ----------------------------------------------------------------------------------------------------

    def _journal(self, process: int) -> Journal:
        """The journal of a process, opened if it is not."""
        found = self.journals[process]
        if found is not None and found.failed:
            note(f"  reopen after: {found.failed}")
            self._close(process)
            found = None
        if found is None:
            try:
                found = self.journals[process] = Journal.open(PATH, disk=self.homes[process])
            except (OSError, JlogError):
                assert not self.homes[process].locks(), "a failed open keeps locks"
                raise
        return found

    def _close(self, process: int) -> None:
        journal = self.journals[process]
        for reader in list(self.readers.values()):
            if reader.process == process:
                reader.cursor.release()
        self._forget(process)
        journal.close()
        assert not self.homes[process].locks(), "a closed journal keeps locks"

    def _may_go(self) -> None:
        """What is below every subscriber may be pruned from now on."""
        tip = max([0, *self.oracle.acked, *self.oracle.delivered]) + 1
        places = [tip if n.caps.on_full == "drop-oldest" else max(n.places) for n in self.subscribers.values()]
        if not places and self.log_caps != Caps():  # the log's own caps hold when nobody subscribes
            places = [tip]
        if places:
            self.oracle.gone_below = max(self.oracle.gone_below, min(places))

    # ---- the log ----------------------------------------------------------------------------------------------------

    @initialize(subscribers=st.sets(names, max_size=2), caps=st.data())
    def create(self, subscribers: set[str], caps: st.DataObject) -> None:
        self.log_caps = caps.draw(self.caps)
        chosen = Settings(
            segment_bytes=SEGMENT_BYTES, compression=self.compression, caps=self.log_caps, durability=self.durability
        )
        Journal.create(PATH, chosen, sorted(subscribers), disk=self.homes[0])
        self.subscribers = {name: Name(1, self.log_caps) for name in subscribers}
        self.oracle.late = self.durability.startswith("interval")

    @rule(process=processes, groups=st.lists(makes, min_size=1, max_size=4))
    def append_on_a_sound_disk(self, process: int, groups: list[list[tuple[int, int, int, bool]]]) -> None:
        for group in groups:
            self.append(process, None, makes=group)

    @rule(process=processes, trouble=troubles, makes=makes)
    @troubled
    def append(self, process: int, makes: list[tuple[int, int, int, bool]]) -> None:
        journal = self._journal(process)
        for client, count, size, newline in makes:
            self.clients[client].make(count, size, newline)
        sent = [(client, *item) for client in self.clients for item in client.queue]
        for _, _, records in sent:
            self.oracle.issue(records)
        self.clients[0].queue.clear()
        self.appender = process
        sound = self._sound(process)
        outcomes = journal.commit([self._squeezed(batch) for _, batch, _ in sent])
        assert len(outcomes) == len(sent)
        for (client, batch, records), outcome in zip(sent, outcomes, strict=True):
            note(f"  {records[0][:12]!r} x{len(records)} -> {outcome!r}")
            if isinstance(outcome, Receipt):
                self._accepted(process)
                self.oracle.ack(records, outcome)
                if client.producer:
                    assert client.queue[0][0] is batch, "acknowledged out of order"
                    self.last = [*self.last[-3:], client.queue.pop(0)]
            else:
                self._refused(client, records, outcome, sound)

    def _accepted(self, process: int) -> None:
        """The process acknowledged something."""

    def _squeezed(self, batch: Batch) -> Batch:
        return batches.compress(batch) if self.compression == "zstd" else batch

    def _sound(self, process: int) -> bool:
        """Whether a commit has no reason to fail."""
        return (self.trouble is None or self.trouble.harmless) and not self.homes[process].unheard()

    def _refused(self, client: Client, records: list[bytes], outcome: JlogError, sound: bool) -> None:
        if isinstance(outcome, LogFull):
            assert any(n.caps.max_bytes and n.caps.on_full == "block" for n in self.subscribers.values()), outcome
            if not client.producer:
                self.oracle.refuse(records)
        elif isinstance(outcome, ProducerGap) and any(
            identity(r)[0] == client.label for r in self.oracle.rotten | self.oracle.lost
        ):
            # What it was acknowledged for is lost, and it has nothing to send again: it starts anew.
            if client in self.clients:
                self.labels += 1
                self.clients[self.clients.index(client)] = Client(self.labels, self.labels)
        elif isinstance(outcome, ProducerGap):
            assert client.queue and client.queue[0][1] is not records, f"it sends all it has: {outcome}"
        else:
            assert not sound, f"refused on a sound disk: {outcome!r}"
            assert isinstance(outcome, (LogFailed, SpoolFull, LockUnavailable)), repr(outcome)

    @rule(process=processes, trouble=troubles)
    @troubled
    def send_again_what_was_acknowledged(self, process: int) -> None:
        """Retries whose first answers were lost."""
        journal = self._journal(process)
        if self.oracle.rotten or self.oracle.lost:
            return
        for batch, records in self.last:
            sound = self._sound(process)
            (outcome,) = journal.commit([batch])
            if isinstance(outcome, Receipt):
                assert outcome.duplicate, f"duplicated: {records[0][:12]!r} is {outcome}"
                self.oracle.ack(records, outcome)
            else:
                assert not sound, f"refused on a sound disk: {outcome!r}"

    @rule(process=processes, trouble=troubles)
    @troubled
    def close(self, process: int) -> None:
        if self.journals[process]:
            self._close(process)

    @rule(process=processes, trouble=troubles)
    @troubled
    def maintain(self, process: int) -> None:
        journal = self._journal(process)
        tip = max([0, *self.oracle.acked]) + 1
        journal.maintain()
        journal.sync()
        # A process syncs what it wrote itself.
        if self.trouble is None and not journal.failed and self.appender == process:
            self.oracle.synced_below = tip

    # ---- readers ----------------------------------------------------------------------------------------------------

    @rule(process=processes, trouble=troubles, name=names, max_bytes=st.sampled_from([1, 500, READ_ALL]),
          part=st.sampled_from([0.0, 0.3, 0.7, 1.0]), release=st.sampled_from([False, False, True]))  # fmt: skip
    @troubled
    def consume(self, process: int, name: str, max_bytes: int, part: float, release: bool) -> None:
        """Read on as a subscriber, and checkpoint a part of it, in the middle of batches too."""
        journal = self._journal_to_administer(process)
        known = self.subscribers.get(name)
        if known is None:
            with pytest.raises(SubscriberUnknown):
                journal.hold(name)
            return
        reader = self.readers.get(name)
        if reader is None:
            hold = journal.hold(name)
            reader = self.readers[name] = Reader(process, hold, hold.cursor.next)
            known.is_at(reader.at)
        elif reader.process != process:
            with pytest.raises(SubscriberBusy):
                journal.hold(name)
            return
        self._may_go()
        reader.at = self.oracle.read(reader.cursor.read(max_bytes), reader.at)
        place = known.places[-1]
        sequence = place + round((reader.at - place) * part)
        if sequence > place:
            known.may_move(sequence)
            self._may_go()
            reader.cursor.checkpoint(sequence)
            known.is_at(sequence)
        if release:
            self.readers.pop(name).cursor.release()

    @rule(process=processes, trouble=troubles, start=st.sampled_from([None, None, "begin", "end"]),
          max_bytes=st.sampled_from([1, 1000, READ_ALL]))  # fmt: skip
    @troubled
    def read(self, process: int, start: str | None, max_bytes: int) -> None:
        """Read on with cursors that have no name, old ones or a new one."""
        journal = self._journal(process)
        if start:
            cursor = journal.cursor(start)
            self.cursors = [*self.cursors[-2:], Reader(process, cursor, cursor.next)]
        self._may_go()
        for reader in [reader for reader in self.cursors if reader.process == process]:
            self.cursors.remove(reader)  # a reading that fails is not read on
            reader.at = self.oracle.read(reader.cursor.read(max_bytes), reader.at)
            self.cursors.append(reader)

    @invariant()
    def the_whole_log_is_as_it_should_be(self) -> None:
        opened = self._opened()
        if opened:
            # On a full or failing disk a log may be open and not recovered: where it ends, the next commit will know.
            opened[0].commit([])
            if not opened[0].failed:
                self._read_whole(opened[0])

    def _opened(self) -> list[Journal]:
        return [journal for journal in self.journals if journal is not None]

    def _read_whole(self, journal: Journal) -> None:
        self._may_go()
        cursor = journal.cursor("begin")
        first = cursor.next
        items: list[Batch | Gap] = []
        while found := cursor.read(READ_ALL):
            items += found
        cursor.close()
        self.oracle.whole(items, first)

    # ---- subscribers ------------------------------------------------------------------------------------------------

    @rule(process=processes, trouble=troubles, name=names, other=names, start=st.sampled_from(["begin", "end"]),
          where=st.sampled_from([0.0, 0.5, 1.0]), caps=st.data(), what=st.integers(0, 3))  # fmt: skip
    @troubled
    def administer(
        self, process: int, what: int, name: str, other: str, start: str, where: float, caps: st.DataObject
    ) -> None:
        journal = self._journal_to_administer(process)
        if what == 0:
            self._add(journal, name, start, caps)
        elif what == 1:
            self._clone(journal, name, other)
        elif what == 2:
            self._remove(journal, name)
        else:
            self._set(journal, name, where)

    def _journal_to_administer(self, process: int) -> Journal:
        return self._journal(process)

    def _add(self, journal: Journal, name: str, start: str, caps: st.DataObject) -> None:
        chosen = caps.draw(self.caps)
        if name in self.subscribers:
            with pytest.raises(SubscriberExists):
                journal.add_subscriber(name, start)
            return
        self.doubtful.add(name)
        journal.add_subscriber(name, start, chosen)
        self._is_there(name)

    def _clone(self, journal: Journal, name: str, source: str) -> None:
        if name not in self.subscribers and source in self.subscribers:
            self.doubtful.add(name)
            journal.clone_subscriber(name, source)
            self._is_there(name)
            assert self.subscribers[name].places == self.subscribers[source].places[-1:]

    def _is_there(self, name: str) -> None:
        """It was added, durably."""
        self.settle()
        self.doubtful.discard(name)

    def _remove(self, journal: Journal, name: str) -> None:
        if name in self.readers:
            with pytest.raises(SubscriberBusy):
                journal.remove_subscriber(name)
        elif name in self.subscribers:
            self.doubtful.add(name)
            others = {other: known for other, known in self.subscribers.items() if other != name}
            kept, self.subscribers = self.subscribers, others
            self._may_go()
            self.subscribers = kept
            journal.remove_subscriber(name)
            self.subscribers = others
            self.doubtful.discard(name)

    def _set(self, journal: Journal, name: str, where: float) -> None:
        if name in self.subscribers and name not in self.readers:
            first, end = journal.cursor("begin").next, journal.cursor("end").next
            sequence = first + round((end - first) * where)
            self.subscribers[name].may_move(sequence)
            self._may_go()
            journal.set_subscriber(name, sequence)
            self.subscribers[name].is_at(sequence)

    # ---- what happens by itself -------------------------------------------------------------------------------------

    @rule(seed=seeds, contents=st.sampled_from([None, *CONTENTS]), names=st.sampled_from([None, *NAMES]))
    def power_loss(self, seed: int, contents: str | None, names: str | None) -> None:
        self._power_loss(seed, contents, names)

    @rule(process=processes, hours=st.integers(-48, 48), what=st.sampled_from(["kill", "evict", "clock"]))
    def something_happens(self, process: int, hours: int, what: str) -> None:
        if what == "kill":
            self._kill(process)
        elif what == "evict":
            self.disk.evict()
        else:
            self.clock += hours * HOUR_NS

    @rule(pick=seeds, mask=st.sampled_from([1, 0x80, 0xFF]))
    def rot(self, pick: int, mask: int) -> None:
        """Bits of a batch flip."""
        places = self._batches_on_disk() if pick % 3 == 0 else []
        if not places:
            return
        path, offset, batch = places[pick % len(places)]
        # After a power loss nothing tells rot from a torn write in the group that was written last: all of it may go.
        group = [b for p, _, b in places if p == path and b.first >= batch.first and b.committed == batch.committed]
        self.oracle.rot(sequence for b in group for sequence in range(b.first, b.next))
        self.disk.flip(path, offset + pick % batch.size, mask)

    def _batches_on_disk(self) -> list[tuple[Path, int, Batch]]:
        seed = View(PATH, self.disk.process()).seed
        places = []
        for path, data in self.disk.files(".seg").items():
            offset = SEGMENT_HEADER_BYTES
            while offset < len(data):
                try:
                    batch = batches.decode(data, offset, seed)
                except FormatError:
                    break
                if batch.count:
                    places.append((path, offset, batch))
                offset += batch.size
        return places


class DroppingMachine(LogMachine):
    """The same with caps that let records go, and caps that block."""

    caps = st.sampled_from([
        Caps(), Caps(9000, 0, "drop-oldest"), Caps(0, 3600, "drop-oldest"), Caps(9000, 0, "block"),
    ])  # fmt: skip
    compression = "zstd"


class IntervalMachine(LogMachine):
    """The same under a policy that acknowledges before the sync: only what was delivered or synced is promised."""

    durability = "interval=60s"

    def _acknowledged_too_soon(self) -> None:
        self.oracle.lose(max([self.oracle.synced_below, *(sequence + 1 for sequence in self.oracle.delivered)]))


class OsMachine(LogMachine):
    """The same under the policy that leaves it to the operating system: what was delivered may be lost too."""

    durability = "os"

    def _acknowledged_too_soon(self) -> None:
        self.oracle.lose(self.oracle.synced_below)

    def pages_may_be_lost(self) -> None:
        # The cache shows them until it drops them.
        tip = max([0, *self.oracle.acked, *self.oracle.delivered]) + 1
        self.oracle.rot(range(self.oracle.synced_below, tip))


def run(machine: type[LogMachine], share: float) -> None:
    """Run a machine for a share of the examples that the profile grants."""
    profile = settings()
    run_state_machine_as_test(machine, settings=settings(profile, max_examples=round(profile.max_examples * share)))


def test_the_log_keeps_its_promises():
    run(LogMachine, 0.4)


def test_the_log_keeps_its_promises_with_caps():
    run(DroppingMachine, 0.3)


def test_the_log_keeps_its_promises_under_the_policy_interval():
    run(IntervalMachine, 0.15)


def test_the_log_keeps_its_promises_under_the_policy_os():
    run(OsMachine, 0.15)
