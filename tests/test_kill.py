"""Real processes on a real disk, killed at random, hundreds of times; the oracle is the parent, which nobody kills.

Writers number their batches and send again, after a restart, whatever the parent has no receipt of. Subscribers read,
tell the parent what they got, and checkpoint. A checker verifies every byte, over and over. Each tells the parent what
it is about to do and what it has done through a pipe of its own. SIGKILL leaves the page cache: nothing acknowledged
may be lost, nothing may come twice under different numbers, and no subscriber may miss a record or fall back behind a
checkpoint it was told of.
"""

from __future__ import annotations

import os
import random
import selectors
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from oracle import Oracle, record

from jlogd.errors import JlogError, SubscriberBusy
from jlogd.journal.batch import Batch, encode
from jlogd.journal.check import check
from jlogd.journal.journal import Journal
from jlogd.journal.subscribers import Hold
from jlogd.journal.types import Receipt, Settings

WRITERS = (11, 12, 1 << 63 | 13)
SUBSCRIBERS = ("one", "two")
SETTINGS = Settings(segment_bytes=16 << 10)
# Longer than a child ever takes to say something, on a machine that does ten other things.
PATIENCE_SECONDS = 60


class Child:
    """A process, and the lines it has written so far. What it was writing when it was killed is not a line."""

    def __init__(self, body: Callable[[Callable[[str], None]], None]) -> None:
        reading, writing = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            os.close(reading)
            code = 1
            try:
                body(lambda line: _write_all(writing, line.encode() + b"\n"))
                code = 0
            except BaseException as error:
                _write_all(writing, f"failed {type(error).__name__}: {error}".replace("\n", " ").encode() + b"\n")
            finally:
                os._exit(code)
        os.close(writing)
        os.set_blocking(reading, False)
        self.pipe = reading
        self._rest = b""

    def lines(self) -> list[str]:
        """What it wrote since the last call."""
        try:
            while data := os.read(self.pipe, 1 << 16):
                self._rest += data
        except BlockingIOError:
            pass
        *whole, self._rest = self._rest.split(b"\n")
        return [line.decode() for line in whole]

    def end(self, how: int | None = signal.SIGKILL) -> list[str]:
        """Kill it, or wait for its end; its last lines."""
        if how is not None:
            os.kill(self.pid, how)
        os.waitpid(self.pid, 0)
        lines = self.lines()
        os.close(self.pipe)
        return lines


def _write_all(pipe: int, data: bytes) -> None:
    while data:
        data = data[os.write(pipe, data) :]


# ---- the children --------------------------------------------------------------------------------------------------


def batch_of(producer: int, number: int) -> tuple[Batch, list[bytes]]:
    """The batch of a producer that starts at `number`: always the same one, so that a retry is one."""
    shape = random.Random(f"{producer} {number}")
    count, size = shape.randint(1, 8), shape.choice([0, 50, 500, 3000])
    records = [record(producer, number + at, size) for at in range(count)]
    return encode(records).numbered(producer, number, number + count), records


def write(path: Path, producer: int, number: int, say: Callable[[str], None]) -> None:
    """Append from `number` on, until killed. Two batches at a time: the second may be lost with the first kept."""
    with Journal.open(path) as journal:
        while True:
            first, second = batch_of(producer, number), None
            second = batch_of(producer, first[0].producer_to)
            say(f"issued {number} {second[0].producer_from}")
            for (batch, _), outcome in zip((first, second), journal.commit([first[0], second[0]]), strict=True):
                assert isinstance(outcome, Receipt), repr(outcome)
                say(f"acked {batch.producer_from} {outcome.first} {int(outcome.duplicate)}")
            number = second[0].producer_to
            time.sleep(0.001)  # the subscribers keep up


def consume(path: Path, name: str, say: Callable[[str], None]) -> None:
    """Read on as `name`, until killed."""
    with Journal.open(path) as journal:
        hold = _hold(journal, name)
        say(f"at {hold.cursor.next}")
        while True:
            items = hold.read(20_000)
            for item in items:
                assert isinstance(item, Batch), item
                got = [f"got {n} {data.split(b'|')[0].decode()} {len(data)}" for n, data in enumerate(item, item.first)]
                say("\n".join(got))
                if item.next % 3:
                    say(f"checkpointing {item.next}")
                    hold.checkpoint(item.next)
                    say(f"checkpointed {item.next}")
            if not items:
                say("end")
                journal.wait(hold.cursor.next, 0.05)


def _hold(journal: Journal, name: str) -> Hold:
    deadline = time.monotonic() + 5
    while True:
        try:
            return journal.hold(name)
        except SubscriberBusy:  # the killed one is not quite gone yet
            if time.monotonic() > deadline:
                raise
            time.sleep(0.001)


def verify(path: Path, say: Callable[[str], None]) -> None:
    """Check the log over and over; any finding but leftovers is a fault."""
    while True:
        # That an epoch has no head yet is true for as long as a recovery takes.
        found = [str(finding) for finding in check(path) if not finding.harmless]
        faults = [finding for finding in found if "no head yet" not in finding]
        assert not faults, faults
        say("checked")


# ---- the parent ----------------------------------------------------------------------------------------------------


class Scene:
    """All the processes, and what they told."""

    def __init__(self, path: Path, rng: random.Random) -> None:
        self.path = path
        self.rng = rng
        self.oracle = Oracle()
        self.numbers = dict.fromkeys(WRITERS, 0)
        self.got: dict[str, dict[int, str]] = {name: {} for name in SUBSCRIBERS}
        self.places = dict.fromkeys(SUBSCRIBERS, (1, 1))  # checkpointed, and being checkpointed
        self.ended: set[str] = set()
        self.checks = 0
        self.children: dict[str | int, Child] = {}

    def start(self, who: str | int) -> None:
        path = self.path
        if isinstance(who, int):
            number = self.numbers[who]
            self.children[who] = Child(lambda say: write(path, who, number, say))
        elif who == "checker":
            self.children[who] = Child(lambda say: verify(path, say))
        else:
            self.children[who] = Child(lambda say: consume(path, who, say))

    def kill(self, who: str | int) -> None:
        self.hear(who, self.children.pop(who).end())

    def listen(self, seconds: float) -> None:
        """Hear what the children say for a while."""
        deadline = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            for who, child in self.children.items():
                selector.register(child.pipe, selectors.EVENT_READ, who)
            while (left := deadline - time.monotonic()) > 0:
                for key, _ in selector.select(left):
                    self.hear(key.data, self.children[key.data].lines())

    def hear(self, who: str | int, lines: list[str]) -> None:
        for line in lines:
            word, *rest = line.split(" ")
            assert word != "failed", f"{who}: {line}"
            getattr(self, f"_{word}")(who, *rest)

    def _issued(self, who: int, *numbers: str) -> None:
        for number in numbers:
            self.oracle.issue(batch_of(who, int(number))[1])

    def _acked(self, who: int, number: str, first: str, duplicate: str) -> None:
        batch, records = batch_of(who, int(number))
        self.oracle.ack(records, Receipt(int(first), batch.count, duplicate == "1"))
        assert self.numbers[who] == int(number)
        self.numbers[who] = batch.producer_to

    def _at(self, who: str, at: str) -> None:
        low, high = self.places[who]
        assert int(at) in (low, high), f"{who} stands at {at}; it checkpointed {low}, and was at {high}"
        self.places[who] = (int(at), int(at))

    def _got(self, who: str, sequence: str, what: str, size: str) -> None:
        producer, _, number = what[1:].partition(":")
        data = record(int(producer), int(number), int(size))
        if data not in self.oracle.issued:  # its writer said so before, through another pipe
            for writer in WRITERS:
                if writer in self.children:
                    self.hear(writer, self.children[writer].lines())
        assert data in self.oracle.issued, f"spurious: {sequence} is {what}"
        known = self.oracle.delivered.setdefault(int(sequence), data)
        assert known == data, f"corrupted: {sequence} was {known[:20]!r}, is {what}"
        acked = self.oracle.acked.get(int(sequence), data)
        assert acked == data, f"corrupted: {sequence} was acked as {acked[:20]!r}, is {what}"
        before = max(self.got[who], default=0)
        assert int(sequence) <= before + 1, f"missing: {who} got {sequence} after {before}"
        self.got[who][int(sequence)] = what
        self.ended.discard(who)

    def _checkpointing(self, who: str, to: str) -> None:
        self.places[who] = (self.places[who][0], int(to))

    def _checkpointed(self, who: str, to: str) -> None:
        self.places[who] = (int(to), int(to))

    def _end(self, who: str) -> None:
        self.ended.add(who)

    def _checked(self, who: str) -> None:
        self.checks += 1

    def finish(self) -> None:
        """Nobody is killed any more: everything that was acknowledged must have come to every subscriber."""
        for who in [*WRITERS, "checker"]:
            self.kill(who)
        self.ended.clear()
        heard = time.monotonic()
        while self.ended < set(SUBSCRIBERS):
            before = sum(map(len, self.got.values()))
            self.listen(0.1)
            if sum(map(len, self.got.values())) > before:
                heard = time.monotonic()
            assert time.monotonic() - heard < PATIENCE_SECONDS, "a subscriber hangs"
        for name in SUBSCRIBERS:
            self.kill(name)
            missing = sorted(set(self.oracle.acked) - set(self.got[name]))
            assert not missing, f"missing: {name} never got {missing[:20]}"
            self.oracle._no_duplicates(self.oracle.delivered)
            self.oracle._in_order(self.oracle.delivered)

    def end(self) -> None:
        for who in list(self.children):
            self.children.pop(who).end()


def run(path: Path, rng: random.Random, kills: int) -> Scene:
    Journal.create(path, SETTINGS, SUBSCRIBERS)
    scene = Scene(path, rng)
    try:
        for who in (*WRITERS, *SUBSCRIBERS, "checker"):
            scene.start(who)
        for _ in range(kills):
            scene.listen(rng.choice([0.0, 0.002, 0.01, 0.05]))
            victims = rng.sample([*WRITERS, *SUBSCRIBERS], rng.choice([1, 1, 1, 2, 5]))
            for who in victims:
                scene.kill(who)
            for who in victims:
                scene.start(who)
        scene.listen(0.2)
        scene.finish()
    finally:
        scene.end()
    return scene


def test_a_few_kills(spool, rng):
    scene = run(spool / "log", rng, 25)
    assert scene.oracle.acked


@pytest.mark.slow
def test_hundreds_of_kills(spool, rng):
    scene = run(spool / "log", rng, 250)
    assert len(scene.oracle.acked) > 1000 and scene.checks > 3
    with Journal.open(spool / "log") as journal:
        assert journal.view.chain()[0].first > 1, "nothing was pruned"
        for producer, number in scene.numbers.items():
            batch, _ = batch_of(producer, number)
            assert journal.producer_position(producer) >= number
            (outcome,) = journal.commit([batch])
            assert not isinstance(outcome, JlogError)
