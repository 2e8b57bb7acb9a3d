"""A cluster on a virtual clock: the real deciding code of every node, and an adversary around it.

Real: `Node` (view, session, holdings, plan) and the store's twin. Simulated: clocks that run at different rates,
processes that are paused anywhere and die anywhere, messages that are late or lost, watches that lag, break and are
compacted, a kernel that is slow, that keeps addresses when their process dies, and that closes its gate at the
deadline and as late as it may.

The oracle is exact, not sampled: an overlap can only begin when an address is added or when a deadline moves, and both
are looked at when they happen.

Weakened variants (`weak=`) leave out one thing the proof needs; a simulation that does not catch them is worth nothing:
    half-wait       successors wait half as long
    no-gate         nothing silences an address but the process itself
    late-deadline   the deadline counts from the answer, not from before the sending
    bare-keepalive  the store acknowledges heartbeats of sessions that were ended (as etcd does with leases)
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from cluster.errors import Compacted
from cluster.memory import MemoryCluster
from cluster.types import Delete, Event, Put, Snapshot, Txn, TxnResult, WatchBatch
from vip.actions import Announce, Commit, Look, Remove, RemoveAll, Resync, Say, Take, Taken
from vip.clock import MILLISECOND, SECOND
from vip.config import Settings, parse
from vip.kernel.interface import Floating, Present
from vip.node import Node
from vip.places import Identity
from vip.records import DrainRecord, Keys, PinRecord, encode
from vip.timing import RATE_ERROR, Timing

TICK_NS = 100 * MILLISECOND
WEAK = ("half-wait", "no-gate", "late-deadline", "bare-keepalive")


class HalfWait(Timing):
    @property
    def wait(self) -> int:
        return super().wait // 2


def settings_of(node: str, groups: int = 4, generation: int = 0, extra: str = "") -> Settings:
    """A configuration for `node`: some groups of two, some single ones, a preference, a follower."""
    text = f'[vip]\nnode = "{node}"\nstore = "etcd"\netcd = ["http://127.0.0.1:1"]\ngeneration = {generation}\n'
    text += 'mature = "1s"\nround = "1s"\nmax_moves = 2\n'
    text += '[[vip.topology]]\nblock = "10.0.0.0/24"\ninterface = "eth1"\n'
    for number in range(groups):
        name, first = f"g{number}", 10 + 2 * number
        text += f'[[vip.group]]\nname = "{name}"\naddresses = ["10.0.0.{first}-10.0.0.{first + 1}"]\n'
        text += 'failback_after = "2s"\n'
        if number == 0:
            text += 'prefer = ["n0", "n1"]\n'
        if number == 1:
            text += 'follow = "g0"\n'
        if number == 2:
            text += "spread = true\n"
    return parse(text + extra)


@dataclass(frozen=True)
class Overlap:
    """Two nodes announced one address."""

    at: float
    address: str
    nodes: tuple[str, str]


class Sim:
    """The world: time, the store, the nodes."""

    def __init__(self, seed: int, weak: str = "", nodes: int = 4, groups: int = 4) -> None:
        assert weak in ("", *WEAK)
        self.rng = random.Random(seed)
        self.weak = weak
        self.now = 0
        self.queue: list[tuple[int, int, Callable[[], None]]] = []
        self.count = itertools.count()
        self.cluster = MemoryCluster()
        self.keys = Keys("default")
        self.ended: dict[str, tuple[int, int]] = {}  # bare-keepalive: node -> session, until
        self.overlaps: list[Overlap] = []
        self.takes = 0
        self.held_ns = 0
        self.trace: deque[str] = deque(maxlen=400)
        kind = HalfWait if weak == "half-wait" else Timing
        self.timing = kind(heartbeat=SECOND // 2, window=2 * SECOND, lateness=50 * MILLISECOND)
        self.nodes = [SimNode(self, f"n{number}", groups) for number in range(nodes)]

    def at(self, delay: int, action: Callable[[], None]) -> None:
        heapq.heappush(self.queue, (self.now + max(delay, 0), next(self.count), action))

    def run(self, seconds: float) -> Sim:
        until = round(seconds * SECOND)
        while self.queue and self.queue[0][0] < until:
            self.now, _, action = heapq.heappop(self.queue)
            action()
        self.now = until
        return self

    def delay(self) -> int:
        """Of a message, one way."""
        at = self.rng.random()
        low, high = (1, 20) if at < 0.85 else (20, 500) if at < 0.95 else (500, 6000)
        return self.rng.randint(low * MILLISECOND, high * MILLISECOND)

    def commit(self, txn: Txn) -> TxnResult:
        """At the store."""
        before = self.cluster.revision
        sessions = {key: item for key, item in self.cluster.keys.items() if "/sess/" in key}
        result = self.cluster.commit(txn)
        if self.weak == "bare-keepalive":
            result = self._stale_acknowledgement(txn, result, sessions)
        if self.cluster.revision != before:
            self.publish()
        return result

    def _stale_acknowledgement(self, txn: Txn, result: TxnResult, sessions: dict) -> TxnResult:
        for key, item in sessions.items():
            if key not in self.cluster.keys:
                self.ended[key] = item.create_revision, self.now + 5 * SECOND
        (first, *_) = txn.compares or (None,)
        is_beat = len(txn.success) == 1 and isinstance(txn.success[0], Put) and "/sess/" in txn.success[0].key
        if not result.succeeded and is_beat and first is not None and first.number:
            revision, until = self.ended.get(first.key, (0, 0))
            if revision == first.number and self.now < until:
                return TxnResult(True, result.revision)
        return result

    def publish(self) -> None:
        for node in self.nodes:
            node.feed()

    def check(self, changed: SimNode, addresses: list[str]) -> None:
        """Somebody began to announce: is it the only one?"""
        for address in addresses:
            if not changed.announces(address):
                continue
            for other in self.nodes:
                if other is not changed and other.announces(address):
                    self.overlaps.append(Overlap(self.now / SECOND, address, (other.name, changed.name)))
                    self.note(f"OVERLAP of {address}: {other.name} and {changed.name}")

    def check_said(self, changed: SimNode, addresses: list[str]) -> None:
        """Somebody announces: does it have what it announces?"""
        if changed.clock() >= changed.deadline:
            return  # the gate drops it
        for address in addresses:
            if address not in changed.addresses:
                self.overlaps.append(Overlap(self.now / SECOND, address, (changed.name, "announced without having it")))
                self.note(f"FALSE WORD of {changed.name} on {address}")

    def note(self, words: str) -> None:
        self.trace.append(f"{self.now / SECOND:8.3f} {words}")


class SimNode:
    """A machine: its kernel outlives its process."""

    def __init__(self, sim: Sim, name: str, groups: int) -> None:
        self.sim = sim
        self.name = name
        self.groups = groups
        self.generation = 0
        self.rate = 1 + sim.rng.uniform(-RATE_ERROR, RATE_ERROR) / 2
        self.offset = sim.rng.randint(0, 1000 * SECOND)
        self.incarnation = 0
        self.alive = False
        self.paused_until = 0
        self.cut_until = 0
        self.cut_kind = "both"
        # The kernel.
        self.addresses: dict[str, Floating] = {}
        self.deadline = 0
        # The process.
        self.node: Node
        self.hands: deque[Take | Remove | RemoveAll | Look | Announce] = deque()
        self.hands_busy = False
        self.watching: int | None = None  # next revision to deliver; None while there is no watch
        self.feeding = False
        self.beating = False
        self.next_feed = 0

    def clock(self) -> int:
        return self.offset + round(self.sim.now * self.rate)

    def announces(self, address: str) -> bool:
        """What is on the wire, at the worst."""
        if address not in self.addresses:
            return False
        return self.sim.weak == "no-gate" or self.clock() < self.deadline + self.sim.timing.lateness

    # ---- the process in time ----

    def later(self, delay: int, action: Callable[[], None]) -> None:
        """In this process, after `delay` of its clock; not while it is paused, never when it has died."""
        incarnation = self.incarnation

        def run() -> None:
            if self.incarnation != incarnation:
                return
            if self.paused_until > self.sim.now:
                self.sim.at(self.paused_until - self.sim.now, run)
                return
            action()

        self.sim.at(round(delay / self.rate), run)

    def start(self) -> None:
        self.incarnation += 1
        self.alive, self.paused_until = True, 0
        self.hands.clear()
        self.hands_busy = self.feeding = self.beating = False
        self.watching = None
        settings = settings_of(self.name, self.groups, self.generation)
        self.node = Node(settings, Identity(self.name, f"place-{self.name}"), self.sim.timing)
        self.later(1, self.resync)
        self.later(1, self.tick)
        self.later(2, self.beat)

    def crash(self) -> None:
        """The process dies; the addresses stay where they are, and so does the deadline of the gate."""
        self.incarnation += 1
        self.alive = False

    def stop(self) -> None:
        self.node.stop(self.clock())
        self.act()

    def tick(self) -> None:
        self.act()
        self.later(TICK_NS, self.tick)

    def act(self) -> None:
        for action in self.node.act(self.clock(), self.sim.now / SECOND):
            match action:
                case Commit():
                    self.send_commit(action)
                case Take() | Remove() | RemoveAll() | Look() | Announce():
                    self.put_to_hands(action)
                case Resync():
                    self.watching = None
                    self.later(10 * MILLISECOND, self.resync)
                case Say(sentence):
                    self.sim.note(f"{self.name}: {sentence}")
        self.set_deadline()
        if self.node.phase == "ended" and self.alive:
            self.crash()

    def set_deadline(self) -> None:
        before, self.deadline = self.deadline, self.node.session.deadline
        if self.deadline > before:
            self.sim.check(self, list(self.addresses))

    # ---- messages ----

    def cut(self, direction: str) -> bool:
        return self.cut_until > self.sim.now and self.cut_kind in ("both", direction)

    def ask(self, serve: Callable[[], object], answer: Callable[[object], None], within: int) -> None:
        """A question to the store; `answer(None)` when none came in time."""
        done = [False]

        def once(result: object) -> None:
            if not done[0]:
                done[0] = True
                answer(result)

        def arrive() -> None:
            if self.cut("out") or self.sim.rng.random() < 0.03:
                return
            result = serve()
            if not self.cut("in") and self.sim.rng.random() >= 0.03:
                self.later(round(self.sim.delay() * self.rate), lambda: once(result))

        self.sim.at(self.sim.delay(), arrive)
        self.later(within, lambda: once(None))

    def send_commit(self, commit: Commit) -> None:
        sent = self.clock()

        def answered(result: object) -> None:
            assert result is None or isinstance(result, TxnResult)
            at = self.clock() if self.sim.weak == "late-deadline" else sent
            self.node.committed(self.clock(), commit, at, result)
            self.act()

        # Between reading the clock and sending anything may happen.
        self.later(
            self.hiccup(),
            lambda: self.ask(lambda: self.sim.commit(commit.txn), answered, self.sim.timing.answer_within),
        )

    def beat(self) -> None:
        session = self.node.session
        if self.beating or not session.revision or session.lost:
            self.later(50 * MILLISECOND, self.beat)
            return
        self.beating = True
        sent, txn = self.clock(), session.beat(self.node.record)

        def answered(result: object) -> None:
            self.beating = False
            if isinstance(result, TxnResult):
                session.beaten(self.clock() if self.sim.weak == "late-deadline" else sent, result)
                if session is self.node.session:
                    self.set_deadline()
            self.later(max(self.sim.timing.heartbeat - (self.clock() - sent), 0), self.beat)

        self.later(
            self.hiccup(), lambda: self.ask(lambda: self.sim.commit(txn), answered, self.sim.timing.answer_within)
        )

    def node_is_awake(self) -> bool:
        return self.alive

    def hiccup(self) -> int:
        return self.sim.rng.choice([0, 0, 0, 0, 5, 200]) * MILLISECOND

    # ---- the stream ----

    def resync(self) -> None:
        def answered(result: object) -> None:
            if not isinstance(result, Snapshot):
                self.later(100 * MILLISECOND, self.resync)
                return
            self.node.sync(self.clock(), result)
            self.watching = result.revision + 1
            self.act()
            self.feed()

        self.ask(lambda: self.sim.cluster.read(self.sim.keys.prefix), answered, SECOND)

    def feed(self) -> None:
        """Deliver what is new, in order, some time later."""
        if not self.alive or self.feeding or self.watching is None:
            return
        self.feeding = True
        lag = self.sim.delay() if self.sim.rng.random() < 0.1 else 5 * MILLISECOND
        self.later(lag, self.deliver)

    def deliver(self) -> None:
        self.feeding = False
        if self.watching is None:
            return
        if self.cut("in"):
            self.later(200 * MILLISECOND, self.feed)
            return
        try:
            events = self.sim.cluster.since(self.sim.keys.prefix, self.watching)
        except Compacted as error:
            self.watching = None
            self.node.hole(str(error))
            self.act()
            return
        if events:
            some = self.whole_revisions(events)
            self.watching = some[-1].revision + 1
            self.node.apply(self.clock(), WatchBatch(some[-1].revision, tuple(some)))
            self.act()
            if len(some) < len(events):
                self.feed()

    def whole_revisions(self, events: list[Event]) -> list[Event]:
        """Some of the events, never half of a revision."""
        cut = self.sim.rng.randint(1, len(events))
        return [event for event in events if event.revision <= events[cut - 1].revision]

    # ---- the kernel ----

    def put_to_hands(self, work: Take | Remove | RemoveAll | Look | Announce) -> None:
        if isinstance(work, RemoveAll):
            for dropped in [item for item in self.hands if isinstance(item, Take)]:
                self.hands.remove(dropped)
                why = {floating.address: "dropped" for floating in dropped.addresses}
                self.node.taken(self.clock(), Taken(dropped.addresses, failed=why))
        self.hands.append(work)
        self.next_work()

    def next_work(self) -> None:
        if self.hands_busy or not self.hands:
            return
        self.hands_busy = True
        work = self.hands.popleft()
        lag = self.sim.rng.choice([0, 1, 5, 50]) * MILLISECOND + (50 * MILLISECOND if isinstance(work, Take) else 0)
        self.later(lag, lambda: self.work(work))

    def work(self, work: Take | Remove | RemoveAll | Look | Announce) -> None:
        if isinstance(work, Take):
            deadline = self.node.session.deadline
            if self.clock() >= deadline:
                failed = {floating.address: "past the deadline" for floating in work.addresses}
                self.finish(lambda: self.node.taken(self.clock(), Taken(work.addresses, failed=failed)))
                return
            # Paused between the check and the system call: the gate must hold.
            self.later(self.hiccup() if self.sim.rng.random() < 0.1 else 0, lambda: self.add(work))
        elif isinstance(work, Announce):
            # Announcing is not adding: what it is told to say of an address that is not there is a false word.
            self.sim.check_said(self, [floating.address for floating in work.addresses])
            self.finish(lambda: None)
        elif isinstance(work, Look):
            there = [Present(floating, 5) for floating in self.addresses.values()]
            self.finish(lambda: self.node.looked(self.clock(), there))
        elif isinstance(work, RemoveAll):
            self.addresses.clear()
            self.finish(lambda: self.node.removed_all(self.clock(), ""))
        else:
            for floating in work.addresses:
                self.addresses.pop(floating.address, None)
            self.finish(lambda: self.node.removed(self.clock(), work.addresses, {}))

    def add(self, work: Take) -> None:
        for floating in work.addresses:
            self.addresses[floating.address] = floating
            self.sim.takes += 1
        self.sim.check(self, [floating.address for floating in work.addresses])
        self.finish(lambda: self.node.taken(self.clock(), Taken(work.addresses)))

    def finish(self, answer: Callable[[], None]) -> None:
        """The kernel's word reaches the deciding thread a little later."""

        def done() -> None:
            self.hands_busy = False
            answer()
            self.act()
            self.next_work()

        self.later(self.sim.rng.choice([0, 0, 2]) * MILLISECOND, done)


def chaos(sim: Sim, node: SimNode) -> None:
    """One bad thing."""
    rng, now, wall = sim.rng, sim.now, sim.now / SECOND
    kind = rng.random()
    if kind < 0.3:
        node.paused_until = max(node.paused_until, now + rng.choice([300, 1000, 3000, 8000]) * MILLISECOND)
        sim.note(f"pause {node.name}")
    elif kind < 0.45 and node.alive:
        sim.note(f"crash {node.name}")
        node.crash()
        sim.at(rng.randint(200, 6000) * MILLISECOND, lambda: None if node.alive else node.start())
    elif kind < 0.5 and node.alive and node.paused_until < now:
        sim.note(f"stop {node.name}")
        node.stop()
        sim.at(rng.randint(3000, 6000) * MILLISECOND, lambda: None if node.alive else node.start())
    elif kind < 0.65:
        sessions = [key for key in sim.cluster.keys if "/sess/" in key]
        if sessions:
            key = rng.choice(sessions)
            sim.note(f"delete {key}")
            sim.commit(Txn(success=(Delete(key),)))
    elif kind < 0.8:
        node.cut_until = now + rng.choice([500, 2000, 5000]) * MILLISECOND
        node.cut_kind = rng.choice(["both", "in", "out"])
        sim.note(f"cut {node.name} {node.cut_kind}")
    elif kind < 0.85:
        sim.cluster.compact(sim.cluster.revision)
    elif kind < 0.9:
        key = sim.keys.drain(node.name)
        sim.commit(Txn(success=(Delete(key) if key in sim.cluster.keys else Put(key, encode(DrainRecord())),)))
    elif kind < 0.95:
        until = rng.choice([0.0, wall + 3])
        sim.commit(Txn(success=(Put(sim.keys.pin(rng.choice(["g0", "g3"])), encode(PinRecord(node.name, until))),)))
    elif node.alive and node.paused_until < now:
        node.generation += 1
        node.node.configure(settings_of(node.name, rng.choice([3, node.groups]), node.generation))
    sim.at(rng.randint(200, 2000) * MILLISECOND, lambda: chaos(sim, rng.choice(sim.nodes)))


def run(seed: int, weak: str = "", seconds: float = 60) -> Sim:
    """One life of a cluster."""
    sim = Sim(seed, weak)
    for node in sim.nodes:
        sim.at(sim.rng.randint(0, 1000) * MILLISECOND, node.start)
    sim.at(5 * SECOND, lambda: chaos(sim, sim.nodes[0]))
    return sim.run(seconds)
