"""What begins anew, because the log was made anew or a person decided so, begins anew once: whatever becomes of the
session, and whenever what was read before is committed.
"""

from __future__ import annotations

import itertools
import random
from collections import deque
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from jlogd.journal.batch import Batch, encode
from jlogd.journal.types import LogStat, SubscriberStat
from jlogd.manager.follow import HoleError, follow
from jlogd.manager.ledger import SourceState
from jlogd.manager.local import LocalPull
from jlogd.manager.parcel import Parcel, Source
from jlogd.manager.pull import Pull
from jlogd.manager.template import Origin
from jlogd.wire import messages
from jlogd.wire.messages import FromDaemon

BATCHES = 6


class World:
    """A node with one log, the session with it, and rounds: each does something when it is told to."""

    is_leaving = False

    def __init__(self, uuid: str) -> None:
        self.batches = [encode([b"%d" % n]).stamped(n, 1, n, 1) for n in range(1, BATCHES + 1)]
        self.ledger = SourceState("before", 21, 1, records=20)
        self.written: list[bytes] = []
        self.waiting: deque[Parcel] = deque()
        self.questions: deque[Callable[[], None]] = deque()
        self.decisions = 0
        self._uuid = uuid
        self._subs = itertools.count(1)
        self._sub = 0  # the subscription there is, and what comes next on it
        self._next = 0
        self._received: Callable[[FromDaemon, memoryview | None], None] = lambda *_: None
        self.pull = Pull(self, Source(Origin("n0", "", "mainlog"), "mgr1", "files"), self.ledger)
        self.pull.up()

    # ---- what a pull needs of its session --------------------------------------------------------------------------

    def ask(self, message: messages.FromClient, answered: Callable[[FromDaemon], None]) -> None:
        if isinstance(message, messages.OpenLog):
            self.questions.append(lambda: answered(messages.Opened(1, "mainlog", self._uuid, "none", "commit")))
        elif isinstance(message, messages.Stat):
            self.questions.append(lambda: answered(messages.StatIs(1, self._stat())))

    def subscribe(self, message: messages.Subscribe, received: Callable[[FromDaemon, memoryview | None], None]) -> int:
        def begin() -> None:
            if sub == self._sub:  # else it was forgotten
                self._received, self._next = received, message.start if isinstance(message.start, int) else 1
                received(messages.Subscribed(sub, self._next, 1000), None)

        sub = self._sub = next(self._subs)
        self.questions.append(begin)
        return sub

    def forget(self, subscription: int) -> None:
        self._sub = self._next = 0

    def send(self, message: messages.FromClient) -> None:
        """Credit is not counted here."""

    def put(self, parcel: Parcel) -> None:
        self.waiting.append(parcel)

    def broken(self, why: str) -> None:
        raise AssertionError(why)

    def window(self) -> int:
        return 1000

    def _stat(self) -> LogStat:
        mine = SubscriberStat(name="mgr1", next=1, lag_records=0, lag_bytes=0, lag_seconds=0.0)
        return LogStat(
            name="mainlog", target="", uuid=self._uuid, bytes=0, segments=1, first=1, next=BATCHES + 1, epoch=1,
            durability="", compression="", segment_bytes=0, created=0, oldest_time=0, newest_time=0, subscribers=[mine],
        )  # fmt: skip

    # ---- what happens ----------------------------------------------------------------------------------------------

    def answer(self) -> bool:
        if self.questions:
            self.questions.popleft()()
            return True
        return False

    def deliver(self) -> bool:
        if not 0 < self._next <= BATCHES or self.questions:
            return False
        batch = self.batches[self._next - 1]
        self._next += 1
        self._received(messages.Delivery(self._sub, self._next, 10), memoryview(batch.to_wire()))
        return True

    def commit(self) -> bool:
        if not self.waiting:
            return False
        parcel = self.waiting.popleft()
        try:
            items, self.ledger = follow(parcel, self.ledger)
        except HoleError:
            return self.waiting.append(parcel) or self.refuse()
        for item in items:
            if isinstance(item, Batch):
                self.written += item.records()
        self.pull.committed(parcel, self.ledger)
        return True

    def refuse(self) -> bool:
        """What waits is thrown away: it came damaged, say."""
        if self.waiting:
            self.waiting.clear()
            self.pull.again(self.ledger)
        return True

    def lose(self) -> bool:
        self.questions.clear()
        self._sub = self._next = 0
        self.pull.down("lost")
        self.pull.up()
        return True

    def decide(self) -> bool:
        if self.pull.phase != "stopped":
            return False
        self.decisions += 1
        self.pull.resume(None)
        return True

    def finish(self) -> None:
        while self.answer() or self.deliver() or self.commit() or self.decide() or self.tick() or self.answer():
            pass

    def tick(self) -> bool:
        self.pull.hurry()
        self.pull.tick(0.0)
        return False


def happens(world: World) -> list[Callable[[], bool]]:
    sound = [world.answer, world.answer, world.deliver, world.commit, world.decide, world.tick]
    return [*sound, *sound, world.lose, world.lose, world.refuse]


ALL = [b"%d" % number for number in range(1, BATCHES + 1)]


def begun() -> World:
    """A log that was made anew: its first batch was read, and is not committed."""
    world = World("anew")
    while world.answer():
        pass
    assert world.deliver() and world.waiting
    return world


def test_what_is_committed_between_two_sessions_does_not_begin_anew_again() -> None:
    world = begun()
    world.lose()
    while world.answer():  # it is subscribed, and would begin anew
        pass
    world.commit()
    world.finish()
    assert world.written == ALL and world.ledger.restarts == 1


def test_what_is_committed_while_the_last_batch_is_looked_at_again_is_no_other_history() -> None:
    world = begun()
    world.commit()
    world.deliver()
    world.lose()
    while world.answer():
        pass
    assert world.pull.phase == "looking"
    world.commit()
    world.deliver()
    assert world.pull.phase == "subscribing", world.pull.error
    world.finish()
    assert world.written == ALL and not world.decisions


@pytest.mark.parametrize("uuid", ["anew", "before"], ids=["made anew", "decided"])
def test_it_begins_anew_once(uuid: str, rng: random.Random) -> None:
    for _ in range(400):
        world = World(uuid)
        for _ in range(rng.randrange(40)):
            rng.choice(happens(world))()
        world.finish()
        assert world.written == ALL
        assert world.decisions <= 1 and world.ledger.restarts == 1 and world.pull.phase == "streaming"


def test_nor_does_the_text_of_a_node_begin_anew_again() -> None:
    """Its thread failed, and began again, before what it had handed over was committed."""
    world = World("anew")
    put: list[Parcel] = []
    pull = LocalPull(lambda: journal, world.pull.source, put.append, world.ledger)  # type: ignore[arg-type,return-value]
    journal = SimpleNamespace(uuid="anew")
    hold = SimpleNamespace(
        read=lambda _size: world.batches[:2], state=SimpleNamespace(position=SimpleNamespace(next=1)),
        cursor=SimpleNamespace(next=1),
    )  # fmt: skip
    for _ in range(2):
        pull._next = None
        mark = pull._compare(journal)  # type: ignore[arg-type]
        if put:
            _, state = follow(put[0], world.ledger)
            pull.committed(put[0], state)
        assert mark and pull._turn(journal, hold, mark) == ""  # type: ignore[arg-type]
    for parcel in put:
        items, world.ledger = follow(parcel, world.ledger)
        world.written += [record for item in items if isinstance(item, Batch) for record in item.records()]
    assert world.written == ALL[:2] and world.ledger.restarts == 1
