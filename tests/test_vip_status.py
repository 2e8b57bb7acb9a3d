"""What `vip show` and `vip plan` say about a store in a given state: text in, words out."""

from __future__ import annotations

import pytest

from cluster.memory import MemoryCluster
from cluster.types import Delete, Put, Txn
from vip.config import parse
from vip.records import (
    ConfRecord,
    DrainRecord,
    GoneRecord,
    Keys,
    OwnRecord,
    PinRecord,
    SessionRecord,
    encode,
)
from vip.report import steady
from vip.session import GUARD_ENDED
from vip.situation import Plan, situation_of
from vip.status import addresses_of, holds_of, moves_of, nodes_of, staying_of
from vip.units import definitions_of, digest_of
from vip.view import View

KEYS = Keys("default")
WALL = 1_000_000.0
TEXT = """\
[vip]
node = "n1"
store = "etcd"
etcd = ["http://10.0.0.1:2379"]
generation = 3
[[vip.topology]]
block = "10.0.0.0/24"
interface = "eth1"
[[vip.group]]
name = "gold"
addresses = ["10.0.0.10", "10.0.0.11"]
prefer = ["n1", "n2"]
[[vip.group]]
name = "pool"
addresses = ["10.0.0.20-10.0.0.21"]
spread = true
"""


class World:
    """A store that is filled by hand."""

    def __init__(self) -> None:
        self.store = MemoryCluster()
        self.plan = Plan.of(parse(TEXT))

    def put(self, key: str, record) -> int:
        return self.store.commit(Txn(success=(Put(key, encode(record)),))).revision

    def session(self, node: str, **facts) -> int:
        facts = {"digest": self.plan.digest, "generation": 3, "ready": True, "age": 9999, "gate": "bpf", **facts}
        return self.put(KEYS.session(node), SessionRecord(**facts))

    def own(self, node: str, session: int, *addresses: str, generation: int = 3) -> None:
        for address in addresses:
            self.put(KEYS.own(address), OwnRecord(node, session, generation, WALL - 60, "n9", "it was free"))

    def view(self) -> View:
        view = View(KEYS, "", 0)
        view.sync(0, self.store.read(KEYS.prefix))
        return view

    def state(self, address: str) -> tuple[str, str, str]:
        rows = {row.address: row for row in addresses_of(self.plan, self.view(), WALL)}
        return rows[address].state, rows[address].owner, rows[address].why

    def node(self, name: str) -> tuple[str, str]:
        found = {node.node: node for node in nodes_of(self.plan, self.view(), 0, WALL)}[name]
        return found.state, found.why


@pytest.fixture
def world() -> World:
    """Two nodes; gold is on n1, the pool on n2."""
    world = World()
    first, second = world.session("n1"), world.session("n2")
    world.own("n1", first, "10.0.0.10", "10.0.0.11")
    world.own("n2", second, "10.0.0.20", "10.0.0.21")
    return world


def other_configuration(world: World, old: str, new: str, generation: int = 3) -> str:
    definitions = definitions_of(parse(TEXT.replace(old, new)))
    digest = digest_of(definitions)
    world.put(KEYS.conf(digest), ConfRecord(generation, definitions))
    return digest


def test_what_changes_while_it_is_told_is_told_all_the_same():
    """Pages are asked for while everything moves: that is when they must not fail."""
    table = dict.fromkeys(range(1000), "")
    more = iter(range(1000, 1005))

    def look() -> int:
        for _ in table:
            if (number := next(more, None)) is not None:
                table[number] = ""
        return len(table)

    assert steady(look) == 1005
    with pytest.raises(RuntimeError):
        steady(lambda: [table.pop(key) for key in table])


def test_owned(world: World):
    assert world.state("10.0.0.10") == ("owned", "n1", "it was free")


def test_free(world: World):
    world.store.commit(Txn(success=(Delete(KEYS.session("n1")),)))
    state, owner, why = world.state("10.0.0.10")
    assert (state, owner) == ("free", "")
    assert "n2 is number 2 of its preference" in why


def test_nobody_can(world: World):
    for node in ("n1", "n2"):
        world.session(node, down=("10.0.0.0/24",))
    world.store.commit(Txn(success=(Delete(KEYS.own("10.0.0.20")),)))
    state, _, why = world.state("10.0.0.20")
    assert state == "free"
    assert why == "no node can have it: n1: no link for 10.0.0.0/24; n2: no link for 10.0.0.0/24"


def test_blocked(world: World):
    world.session("n1", blocked={"10.0.0.10": "aa:bb:cc:dd:ee:ff"})
    assert world.state("10.0.0.10") == ("BLOCKED", "n1", "aa:bb:cc:dd:ee:ff, which is none of ours, has it")
    assert world.state("10.0.0.11")[0] == "owned"


def test_broken(world: World):
    digest = other_configuration(world, '"10.0.0.10", "10.0.0.11"', '"10.0.0.10", "10.0.0.12"')
    world.session("n2", digest=digest)
    state, owner, why = world.state("10.0.0.10")
    assert (state, owner) == ("BROKEN", "n1"), "whoever has it keeps it"
    assert "n2 has other addresses under this name" in why
    assert world.state("10.0.0.20")[0] == "owned"
    assert world.node("n2") == ("limited", "its configuration has not, or otherwise: gold")


def test_broken_only_at_the_same_generation(world: World):
    digest = other_configuration(world, '"10.0.0.11"', '"10.0.0.12"', generation=2)
    world.session("n2", digest=digest, generation=2)
    assert world.state("10.0.0.10")[0] == "owned"
    _, why = world.node("n2")
    assert "its configuration has generation 2, in force is 3" in why


def test_unsafe(world: World):
    digest = other_configuration(world, 'prefer = ["n1", "n2"]', 'prefer = ["n1", "n2"]\nservices = ["smtp"]')
    world.session("n2", digest=digest)
    assert world.state("10.0.0.10") == ("UNSAFE", "n1", "UNSAFE: n2 serves smtp on it")


def test_drained(world: World):
    world.put(KEYS.drain("n1"), DrainRecord(WALL, "me"))
    state, owner, why = world.state("10.0.0.10")
    assert (state, owner) == ("moving", "n1")
    assert why == "n1 gives it up (drained); n2 is number 2 of its preference"
    assert world.node("n1") == ("drained", "drained")


def test_an_order_holds_as_long_as_it_was_given_for(world: World):
    world.put(KEYS.pin("gold"), PinRecord("n2", WALL + 1))
    assert world.state("10.0.0.10")[0] == "moving"
    world.put(KEYS.pin("gold"), PinRecord("n2", WALL - 1))
    assert world.state("10.0.0.10")[0] == "owned"


def test_nodes(world: World):
    world.put(KEYS.gone("n3"), GoneRecord(1, clean=True))
    world.put(KEYS.gone("n4"), GoneRecord(1, clean=False))
    world.put(KEYS.gone("n5"), GoneRecord(1, clean=True, why=GUARD_ENDED))
    world.session("n2", failing=("smtp",), losses=2)
    assert world.node("n1") == ("fit", "")
    assert world.node("n2") == ("limited", "failing smtp; lost its session 2 times lately")
    assert world.node("n3")[0] == "left"
    world.session("n1", losses=1)
    assert world.node("n1") == ("limited", "lost its session once lately")
    assert world.node("n4")[0] == "gone"
    assert world.node("n5") == ("died", "its daemon died; its guard removed everything")


def test_what_would_move(world: World):
    assert moves_of(world.plan, world.view(), WALL) == []
    (move,) = moves_of(world.plan, world.view(), WALL, drained="n1")
    assert (move.bundle, move.before, move.after, move.addresses) == ("gold", "n1", "n2", ("10.0.0.10", "10.0.0.11"))
    lost = moves_of(world.plan, world.view(), WALL, lost="n2")
    assert [(found.bundle, found.after) for found in lost] == [("10.0.0.20", "n1"), ("10.0.0.21", "n1")]
    assert len(moves_of(world.plan, world.view(), WALL)) == 0, "asking changes nothing"


def planned(world: World, *changes: tuple[str, str]) -> list[tuple[str, tuple[str, ...], str, str, str]]:
    text = TEXT
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    moves = moves_of(Plan.of(parse(text)), world.view(), WALL)
    return [(move.bundle, move.addresses, move.before, move.after, move.kind) for move in moves]


def test_what_another_file_would_take_give_up_and_move(world: World):
    """As if every node ran it: who would take what is new, and what would be let go."""
    assert planned(world, ('"10.0.0.10", "10.0.0.11"]', '"10.0.0.10", "10.0.0.12"]')) == [
        ("gold", ("10.0.0.12",), "", "n1", "take"),
        ("10.0.0.11", ("10.0.0.11",), "n1", "", "release"),
    ]
    assert planned(world, ("10.0.0.20-10.0.0.21", "10.0.0.22")) == [
        ("10.0.0.22", ("10.0.0.22",), "", "n2", "take"),
        ("10.0.0.20 and others", ("10.0.0.20", "10.0.0.21"), "n2", "", "release"),
    ]
    joined = ('"10.0.0.11"', '"10.0.0.11", "10.0.0.21"'), ("10.0.0.20-10.0.0.21", "10.0.0.20")
    assert planned(world, *joined) == [("gold", ("10.0.0.21",), "n2", "n1", "move")]
    assert planned(world, ("10.0.0.20-10.0.0.21", "10.0.0.20-10.0.0.21")) == []


def test_what_is_being_rolled_out_is_planned_as_it_is(world: World):
    """A node runs it already: the others have to follow before they can have anything of it."""
    digest = other_configuration(world, "10.0.0.20-10.0.0.21", "10.0.0.22", generation=4)
    world.session("n2", digest=digest, generation=4)
    assert ("10.0.0.22", ("10.0.0.22",), "", "n2", "take") in planned(world, ("10.0.0.20-10.0.0.21", "10.0.0.22"))
    world.session("n2")
    world.session("n1", digest=digest, generation=4)
    assert ("10.0.0.22", ("10.0.0.22",), "", "n1", "take") in planned(world, ("10.0.0.20-10.0.0.21", "10.0.0.22"))


def test_a_hold_is_told(world: World):
    world.put(KEYS.pin("gold"), PinRecord("n1", WALL + 60, WALL, "me@here"))
    state, _, why = world.state("10.0.0.10")
    assert state == "owned" and why.startswith("held on n1 until 1970-01-") and why.endswith("by me@here; it was free")
    assert "held" not in world.state("10.0.0.20")[2]
    (hold,) = holds_of(world.plan, world.view(), WALL)
    assert (hold.bundle, hold.before, hold.after, hold.kind) == ("gold", "n1", "n1", "held")
    assert holds_of(world.plan, world.view(), WALL + 61) == []


def test_a_drained_node_that_keeps_something_says_why(world: World):
    world.put(KEYS.drain("n1"), DrainRecord(WALL, "me"))
    world.session("n2", down=("10.0.0.0/24",))
    assert world.state("10.0.0.10") == ("owned", "n1", "stays with n1, which is drained: no other node is better")


def test_what_stays_on_a_node_that_is_drained(world: World):
    assert staying_of(world.plan, world.view(), WALL, "n1") == [], "n2 takes all of it"
    world.session("n2", down=("10.0.0.0/24",))
    assert staying_of(world.plan, world.view(), WALL, "n1") == ["10.0.0.10", "10.0.0.11"]
    assert {move.before for move in moves_of(world.plan, world.view(), WALL, drained="n1")} == {"n2"}


def test_a_member_looks_the_same_until_something_can_change(world: World):
    """Ages between two that matter are one situation: nothing is planned anew every second."""
    world.session("n1", age=40)
    before = situation_of(world.plan, world.view(), WALL)
    world.session("n1", age=41)
    after = situation_of(world.plan, world.view(), WALL)
    assert before == after
    world.session("n1", age=4)
    assert situation_of(world.plan, world.view(), WALL) != before
