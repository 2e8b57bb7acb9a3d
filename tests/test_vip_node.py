"""Single decisions of a node, by a driver that answers at once: what must come out, and what must never."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from vip_sim import settings_of

from cluster.memory import MemoryCluster
from cluster.types import Delete, Put, Txn, WatchBatch
from vip.actions import Action, Announce, Changed, Commit, Look, Remove, RemoveAll, Say, Take, Taken
from vip.assign import Wish
from vip.clock import MILLISECOND, SECOND
from vip.kernel.interface import Floating, Present
from vip.node import Node
from vip.places import Identity
from vip.records import DrainRecord, GoneRecord, Keys, OwnRecord, PinRecord, SessionRecord, decode, encode
from vip.situation import wishes_of
from vip.timing import Timing

KEYS = Keys("default")
TIMING = Timing(SECOND // 2, 2 * SECOND, 20 * MILLISECOND)
WAIT = 2 * TIMING.wait


@dataclass
class Driver:
    """A node `n0`, a store, and a kernel that does what it is told at once - unless `hold` says otherwise."""

    store: MemoryCluster = field(default_factory=MemoryCluster)
    present: dict[str, Floating] = field(default_factory=dict)
    now: int = 1000 * SECOND
    hold: set[type] = field(default_factory=set)
    foreign: dict[str, str] = field(default_factory=dict)
    seen: list[Action] = field(default_factory=list)
    kernel_refuses: str = ""
    solo: bool = False

    def __post_init__(self) -> None:
        self.node = Node(settings_of("n0"), Identity("n0", "here"), TIMING, alone=self.solo)

    def step(self, seconds: float = 0.1, beat: bool = True) -> list[Action]:
        """Time passes, what changed is told, and what comes out is done."""
        self.now += round(seconds * SECOND)
        if self.node.view.synced is None:
            self.node.sync(self.now, self.store.read(KEYS.prefix))
        session = self.node.session
        if beat and session.revision and not session.lost:
            session.beaten(self.now, self.store.commit(session.beat(self.node.record)))
        events = self.store.since(KEYS.prefix, self.node.view.revision + 1)
        if events:
            self.node.apply(self.now, WatchBatch(events[-1].revision, tuple(events)))
        actions = self.node.act(self.now, self.now / SECOND)
        self.seen += actions
        for action in actions:
            if type(action) not in self.hold:
                self.carry_out(action)
        return actions

    def carry_out(self, action: Action) -> None:
        match action:
            case Commit():
                self.node.committed(self.now, action, self.now, self.store.commit(action.txn))
            case Take(addresses):
                added = [floating for floating in addresses if floating.address not in self.foreign]
                self.present.update({floating.address: floating for floating in added})
                foreign = {a.address: self.foreign[a.address] for a in addresses if a.address in self.foreign}
                self.node.taken(self.now, Taken(addresses, foreign=foreign))
            case Remove(addresses):
                for floating in addresses:
                    self.present.pop(floating.address, None)
                self.node.removed(self.now, addresses, {})
            case RemoveAll():
                if not self.kernel_refuses:
                    self.present.clear()
                self.node.removed_all(self.now, self.kernel_refuses)
            case Look():
                self.node.looked(self.now, [Present(floating, 5) for floating in self.present.values()])
            case _:
                pass

    def run(self, seconds: float) -> Driver:
        for _ in range(round(seconds * 10)):
            self.step()
        return self

    def put(self, key: str, record) -> int:
        return self.store.commit(Txn(success=(Put(key, encode(record)),))).revision

    def other(self, name: str = "n1") -> int:
        """Another live node with the same configuration; it says nothing more."""
        record = SessionRecord(place="there", wait=TIMING.wait, digest=self.node.plan.digest, ready=True, age=9999)
        return self.put(KEYS.session(name), record)

    def own(self, address: str) -> OwnRecord:
        return decode(self.store.keys[KEYS.own(address)].value, OwnRecord)

    def words(self) -> str:
        return "\n".join(action.sentence for action in self.seen if isinstance(action, Say))


@pytest.fixture
def alone() -> Driver:
    """A node that holds everything."""
    driver = Driver().run(6)
    assert len(driver.present) == 8
    return driver


def test_nothing_is_taken_before_nobody_else_can_be_left():
    driver = Driver()
    while not driver.present:
        before = driver.now
        driver.step()
    assert before >= 1000 * SECOND + TIMING.wait


def test_on_one_machine_the_first_start_waits_for_nobody():
    driver = Driver(solo=True).run(1)
    assert driver.present and "begins; no former holder can be left" in driver.words()


def test_on_one_machine_the_next_start_says_that_it_waits():
    driver = Driver(solo=True)
    driver.put(KEYS.gone("n0"), GoneRecord(1, clean=False, wait=TIMING.wait))
    driver.step()
    while not driver.present:
        before = driver.now
        driver.step()
    assert before >= 1000 * SECOND + TIMING.wait
    assert "begins; addresses wait 1.9 s, for former holders" in driver.words()


def test_what_was_claimed_last_is_put_up_before_a_new_plan_is_made(monkeypatch: pytest.MonkeyPatch):
    """A plan of ten thousand takes as long as putting hundreds of them up."""
    seen: list[str] = []

    def planned(*facts: Any) -> dict[str, Wish]:
        seen.append("plan")
        return wishes_of(*facts)

    monkeypatch.setattr("vip.wishes.wishes_of", planned)
    driver = Driver()
    while not driver.present:
        seen += ["take" for action in driver.step() if isinstance(action, Take)]
    assert seen[-2:] == ["plan", "take"] and len(driver.present) == 8, "the plan is carried out as a whole"
    driver.run(1)
    assert seen[-2:] == ["take", "plan"], "and then there is another one"


def test_the_store_hears_of_a_gift_only_after_the_kernel_said_so(alone: Driver):
    alone.other()
    alone.put(KEYS.pin("g3"), PinRecord("n1", 1e12))
    alone.hold = {Remove}
    alone.run(1)
    (remove,) = [action for action in alone.seen if isinstance(action, Remove)]
    given = {floating.address for floating in remove.addresses}
    assert len(given) == 2
    assert {alone.own(address).node for address in given} == {"n0"}
    alone.hold = set()
    alone.carry_out(remove)
    alone.step()
    assert {alone.own(address).node for address in given} == {"n1"}, "handed over, not only let go"


def test_what_is_being_given_is_not_taken_again_under_the_same_record(alone: Driver):
    """The answer of the store is lost; the wish goes back; still it must go through the store first."""
    alone.other()
    alone.put(KEYS.pin("g3"), PinRecord("n1", 1e12))
    alone.hold = {Commit}
    alone.run(1)
    gone = {f.address for f in alone.node.plan and alone.node.holdings.floatings.values()} - set(alone.present)
    assert len(gone) == 2
    alone.store.commit(Txn(success=(Delete(KEYS.pin("g3")),)))
    revisions = {address: alone.store.keys[KEYS.own(address)].mod_revision for address in gone}
    alone.run(1)
    assert not gone & set(alone.present)
    alone.hold = set()
    for action in alone.seen:
        if isinstance(action, Commit) and action.kind == "give":
            alone.node.committed(alone.now, action, alone.now, None)
    alone.run(2)
    for address in gone:
        item = alone.store.keys.get(KEYS.own(address))
        assert item is None or item.mod_revision != revisions[address]


def test_what_is_on_its_way_out_is_not_announced_after_a_stall(alone: Driver):
    """The process was held up, and just then an address leaves: announcing all of them again would be a false word."""
    alone.other()
    alone.put(KEYS.pin("g3"), PinRecord("n1", 1e12))
    alone.hold = {Remove}
    alone.step(seconds=1.0, beat=False)  # held up
    alone.run(1)
    announced = {f.address for action in alone.seen if isinstance(action, Announce) for f in action.addresses}
    leaving = {f.address for action in alone.seen if isinstance(action, Remove) for f in action.addresses}
    assert len(leaving) == 2
    assert len(announced) == 6
    assert not announced & leaving


def test_past_the_deadline_everything_goes_and_comes_back_with_a_heartbeat(alone: Driver):
    for _ in range(25):
        alone.step(beat=False)
    assert not alone.present
    assert "no heartbeat was committed in time" in alone.words()
    alone.run(1)
    assert len(alone.present) == 8


def test_a_lost_session_removes_everything_before_a_new_one_begins(alone: Driver):
    alone.kernel_refuses = "device or resource busy"
    alone.store.commit(Txn(success=(Delete(KEYS.session("n0")),)))
    alone.run(3)
    assert KEYS.session("n0") not in alone.store.keys, "no session while an address is left"
    assert alone.node.session.deadline == 0
    assert alone.node.trouble["kernel"]
    alone.kernel_refuses = ""
    alone.run(6)
    assert KEYS.session("n0") in alone.store.keys
    assert len(alone.present) == 8


def test_a_stop_says_farewell_only_after_the_kernel(alone: Driver):
    alone.hold = {RemoveAll}
    alone.node.stop(alone.now)
    alone.run(1)
    assert KEYS.session("n0") in alone.store.keys
    alone.hold = set()
    alone.carry_out(RemoveAll())
    alone.step()
    assert alone.node.phase == "ended"
    assert KEYS.session("n0") not in alone.store.keys
    assert decode(alone.store.keys[KEYS.gone("n0")].value, GoneRecord).clean


def test_a_stop_without_a_store_ends_all_the_same(alone: Driver):
    alone.node.stop(alone.now)
    alone.hold = {Commit}
    alone.run(1)
    assert alone.node.phase == "stop" and not alone.present
    alone.run(2)
    assert alone.node.phase == "ended"


def test_a_former_session_of_this_place_needs_no_waiting():
    """The process was killed and starts again where it was: it has removed everything itself."""
    driver = Driver()
    driver.put(KEYS.session("n0"), SessionRecord(place="here", wait=TIMING.wait))
    driver.run(0.5)
    assert driver.node.phase == "live"
    assert decode(driver.store.keys[KEYS.gone("n0")].value, GoneRecord).clean


def test_a_former_session_of_another_place_is_waited_for():
    driver = Driver()
    driver.put(KEYS.session("n0"), SessionRecord(place="there", wait=TIMING.wait))
    driver.run(1)
    assert driver.node.phase == "open" and not driver.node.refused
    driver.run(3)
    assert driver.node.phase == "live"
    assert not decode(driver.store.keys[KEYS.gone("n0")].value, GoneRecord).clean


def test_a_name_that_lives_elsewhere_is_refused():
    driver = Driver()
    driver.put(KEYS.session("n0"), SessionRecord(place="there"))
    driver.step()
    driver.put(KEYS.session("n0"), SessionRecord(place="there"))
    driver.step()
    assert "is alive elsewhere (there)" in driver.node.refused


def test_a_foreign_host_is_not_fought():
    driver = Driver(foreign={"10.0.0.10": "aa:bb:cc:dd:ee:ff"}).run(6)
    assert len(driver.present) == 7
    assert driver.node.holdings.state("10.0.0.10", driver.now)[0] == "BLOCKED"
    driver.step()
    assert driver.node.record.blocked == {"10.0.0.10": "aa:bb:cc:dd:ee:ff"}
    driver.run(20)
    assert 3 <= sum(isinstance(action, Take) for action in driver.seen) <= 6, "asked again every five seconds"
    driver.foreign.clear()
    driver.run(6)
    assert len(driver.present) == 8 and not driver.node.record.blocked


def test_what_was_removed_by_hand_comes_back_and_surplus_goes(alone: Driver):
    floating = alone.present.pop("10.0.0.10")
    alone.node.gone(alone.now, "10.0.0.10")
    alone.run(0.5)
    assert alone.present["10.0.0.10"] == floating
    alone.present["10.0.0.99"] = Floating("10.0.0.99", "eth1", 32)
    alone.run(2)
    assert "10.0.0.99" not in alone.present


def test_a_group_that_left_the_configuration_is_let_go(alone: Driver):
    alone.node.configure(settings_of("n0", groups=3, generation=1))
    alone.run(1)
    assert len(alone.present) == 6
    assert KEYS.own("10.0.0.16") not in alone.store.keys


def test_an_older_configuration_takes_nothing(alone: Driver):
    session = alone.store.keys[KEYS.session("n0")].create_revision
    alone.put(KEYS.own("10.0.0.10"), OwnRecord("n0", session, generation=7))
    alone.store.commit(Txn(success=(Delete(KEYS.own("10.0.0.11")),)))
    alone.run(2)
    assert "10.0.0.11" not in alone.present
    assert len(alone.present) == 7, "what it has it keeps"


def test_a_drained_node_that_is_the_only_one_keeps_all(alone: Driver):
    alone.put(KEYS.drain("n0"), DrainRecord())
    alone.run(1)
    assert len(alone.present) == 8


def test_silent_sessions_are_ended_with_what_was_seen(alone: Driver):
    alone.other()
    alone.run(TIMING.silence / SECOND + 1)
    gone = decode(alone.store.keys[KEYS.gone("n1")].value, GoneRecord)
    assert not gone.clean and gone.version == 1 and len(gone.losses) == 1
    assert "n1 was silent for" in alone.words()


def test_a_silence_is_told_once_however_often_it_is_tried_to_end_it(alone: Driver):
    alone.other()
    alone.hold = {Commit}
    for _ in range(20):
        alone.run(TIMING.silence / SECOND / 4)
        for action in [action for action in alone.seen if isinstance(action, Commit) and action.kind == "end"][-1:]:
            alone.node.committed(alone.now, action, alone.now, None)
    assert len([action for action in alone.seen if isinstance(action, Commit) and action.kind == "end"]) > 2
    assert alone.words().count("n1 was silent for") == 1


def test_what_becomes_of_the_end_of_a_silent_session_is_told(alone: Driver):
    alone.other()
    alone.hold = {Commit}
    alone.run(TIMING.silence / SECOND + 1)
    assert "n1 was silent for" in alone.words() and "asking the store" in alone.words()
    assert "the session of n1 is" not in alone.words(), "nobody knows yet"
    (end,) = [action for action in alone.seen if isinstance(action, Commit) and action.kind == "end"]
    alone.other()  # a heartbeat comes before it
    alone.node.committed(alone.now, end, alone.now, alone.store.commit(end.txn))
    alone.hold = set()
    alone.step()
    assert "the session of n1 is not ended by this node: it was heard meanwhile" in alone.words()
    alone.run(TIMING.silence / SECOND + 1)
    assert "the session of n1 is ended" in alone.words()


def test_what_is_known_at_the_start_is_no_change():
    driver = Driver()
    session = driver.other()
    driver.put(KEYS.own("10.0.0.10"), OwnRecord("n1", session, 0, 77.0, "n9", "it was free"))
    driver.put(KEYS.own("10.0.0.11"), OwnRecord("n8", session, 0, 78.0, "n9", "void"))
    driver.step()
    (first,) = [action for action in driver.seen if isinstance(action, Changed)]
    (change,) = first.changes
    assert first.known and (change.before, change.after, change.since) == ("n9", "n1", 77.0)
    driver.put(KEYS.own("10.0.0.12"), OwnRecord("n1", session, 0, 79.0))
    driver.step()
    assert [a.known for a in driver.seen if isinstance(a, Changed)] == [True, False]


def test_after_a_loss_nothing_of_the_older_session_is_announced(alone: Driver):
    """Held up, replaced meanwhile, and back: it owns nothing, and says nothing else."""
    alone.other()
    alone.store.commit(Txn(success=(Delete(KEYS.session("n0")),)))
    alone.seen.clear()
    alone.step(TIMING.stall / SECOND + 1)
    alone.run(6)
    assert "held up for" in alone.words() and "the session is lost" in alone.words()
    assert "still the owner" not in alone.words()
    assert not any(isinstance(action, Announce) for action in alone.seen)


def test_a_node_whose_deadline_has_passed_may_hold_nothing(alone: Driver):
    assert alone.node.may_hold(alone.now)
    for _ in range(30):
        alone.step(beat=False)
    assert not alone.present and alone.node.record.ready
    assert not alone.node.may_hold(alone.now)
    alone.run(1)
    assert alone.node.may_hold(alone.now)


def test_every_change_of_owner_is_told(alone: Driver):
    changes = [change for action in alone.seen if isinstance(action, Changed) for change in action.changes]
    assert {(change.address, change.after) for change in changes} == {(a, "n0") for a in alone.present}
    assert all(change.why for change in changes)


@pytest.mark.parametrize("heard_first", [False, True])
def test_the_end_of_a_node_is_told_once(alone: Driver, heard_first: bool):
    """By itself, whether its own farewell comes back by the stream before it ends or not."""
    everything = set(alone.present)
    alone.seen.clear()
    alone.hold = {Commit} if heard_first else set()
    alone.node.stop(alone.now)
    alone.run(0.2)
    if heard_first:
        (farewell,) = {action for action in alone.seen if isinstance(action, Commit) and action.kind == "farewell"}
        result = alone.store.commit(farewell.txn)
        alone.step(beat=False)
        alone.node.committed(alone.now, farewell, alone.now, result)
    assert alone.node.phase == "ended"
    alone.seen += alone.node.act(alone.now, alone.now / SECOND)  # what a daemon still carries out before it ends
    told = [change for action in alone.seen if isinstance(action, Changed) for change in action.changes]
    assert sorted(change.address for change in told) == sorted(everything)
    assert {(change.before, change.after) for change in told} == {("n0", "")}


def test_a_pin_for_once_is_gone_when_it_is_done(alone: Driver):
    alone.put(KEYS.pin("g3"), PinRecord("n0"))
    alone.run(1)
    assert KEYS.pin("g3") not in alone.store.keys


def test_claims_survive_a_lost_answer(alone: Driver):
    """The outcome is unknown: the store is asked again, and the stream tells what became of it."""
    alone.store.commit(Txn(success=(Delete(KEYS.own("10.0.0.16")), Delete(KEYS.own("10.0.0.17")))))
    alone.hold = {Commit}
    alone.run(0.5)
    claims = [action for action in alone.seen if isinstance(action, Commit) and action.kind == "claim"]
    alone.hold = set()
    alone.node.committed(alone.now, claims[-1], alone.now, None)
    alone.run(1)
    assert {"10.0.0.16", "10.0.0.17"} <= set(alone.present)


def test_a_granted_claim_is_not_made_again_before_the_stream_has_told_it():
    """The answer may be seconds ahead of the stream: claiming again would fail, and look like somebody's resistance."""
    driver = Driver()
    claims: list[Action] = []
    for _ in range(100):
        claims = claims or [a for a in driver.step() if isinstance(a, Commit) and a.kind == "claim"]
        if claims:
            break
    assert claims
    session = driver.node.session
    for _ in range(20):  # heartbeats are answered, but the stream is silent: nothing comes through `apply`
        driver.now += SECOND // 10
        session.beaten(driver.now, driver.store.commit(session.beat(driver.node.record)))
        assert not [a for a in driver.node.act(driver.now, 0.0) if isinstance(a, Commit) and a.kind == "claim"]
    driver.run(1)
    assert len(driver.present) == 8


def test_a_plan_is_made_anew_when_it_is_not_kept(alone: Driver):
    """Another node got what this one was to have, and nothing else changed."""
    other = 0
    for _ in range(12):  # it lives, and gets its share
        other = other or alone.other()
        alone.put(KEYS.session("n1"), decode(alone.store.keys[KEYS.session("n1")].value, SessionRecord))
        alone.run(0.5)
    holdings = alone.node.holdings
    address = next(iter(alone.present))
    name = alone.node.plan.bundle_of[address].name
    assert (holdings.wishes[name].node, holdings.wishes[name].kind) == ("n0", "keep")
    for one in (a for unit in alone.node.plan.bundle_of[address].units for a in unit.addresses):
        alone.put(KEYS.own(one), OwnRecord("n1", other, 0, 1.0, "n0", "against the plan"))
    alone.run(0.5)
    assert (holdings.wishes[name].node, holdings.wishes[name].kind) != ("n0", "keep")
    assert address not in alone.present
