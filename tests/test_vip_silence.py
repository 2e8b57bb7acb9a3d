"""What a command that looks for a moment takes for silent: old heartbeats that stand still, whatever the clocks say."""

from __future__ import annotations

import pytest

from cluster.memory import MemoryCluster
from cluster.types import Delete, Put, Txn
from vip.cli.silence import Listener
from vip.clock import SECOND, ns
from vip.config import parse
from vip.records import Keys, OwnRecord, SessionRecord, encode
from vip.situation import Plan
from vip.status import addresses_of, nodes_of
from vip.view import View

KEYS = Keys("default")
WALL = 1_000_000.0
WAIT = ns(3.55)
TEXT = """\
[vip]
node = "n1"
store = "solo"
[[vip.topology]]
block = "10.0.0.0/24"
interface = "eth1"
[[vip.group]]
name = "gold"
addresses = ["10.0.0.10"]
"""


class Watched:
    """A store with sessions, and somebody who looks at it at times of the test's choice."""

    def __init__(self) -> None:
        self.store = MemoryCluster()
        self.plan = Plan.of(parse(TEXT))
        self.listener = Listener()

    def beat(self, node: str, at: float, wait: int = WAIT) -> int:
        record = SessionRecord(digest=self.plan.digest, ready=True, age=99, wait=wait, gate="bpf", at=at)
        return self.store.commit(Txn(success=(Put(KEYS.session(node), encode(record)),))).revision

    def look(self, now: float, wall: float) -> tuple[list[str], list[str]]:
        """(undecided, silent)"""
        view = self.view()
        self.listener.hear(view, ns(now))
        undecided = self.listener.undecided(view, ns(now), wall)
        return sorted(undecided), sorted(self.listener.silent(view, ns(now), wall))

    def view(self) -> View:
        view = View(KEYS, "", 0)
        view.sync(0, self.store.read(KEYS.prefix))
        return view


@pytest.fixture
def watched() -> Watched:
    return Watched()


def test_a_fresh_heartbeat_is_believed_at_once(watched: Watched):
    watched.beat("n1", WALL - 3)
    assert watched.look(100, WALL) == ([], [])


@pytest.mark.parametrize("at", [WALL - 60, WALL + 60, 0.0])
def test_an_old_heartbeat_that_stands_still_is_silent(watched: Watched, at: float):
    """0: a daemon that does not tell the time."""
    watched.beat("n1", at)
    assert watched.look(100, WALL) == (["n1"], [])
    assert watched.look(103.5, WALL + 3.5) == (["n1"], []), "not before the whole wait is over"
    assert watched.look(103.6, WALL + 3.6) == ([], ["n1"])


@pytest.mark.parametrize("skew", [-3600.0, 3600.0])
def test_a_node_with_a_wrong_clock_is_alive_as_soon_as_it_beats(watched: Watched, skew: float):
    watched.beat("n1", WALL + skew)
    assert watched.look(100, WALL) == (["n1"], [])
    watched.beat("n1", WALL + skew + 0.5)
    assert watched.look(100.5, WALL + 0.5) == ([], [])


def test_it_falls_silent_while_one_watches(watched: Watched):
    watched.beat("n1", WALL)
    assert watched.look(100, WALL) == ([], [])
    assert watched.look(104, WALL + 4) == ([], ["n1"])
    watched.beat("n1", WALL + 5)
    assert watched.look(105, WALL + 5) == ([], [])


def test_a_new_session_of_the_same_name_is_listened_to_anew(watched: Watched):
    watched.beat("n1", WALL - 60)
    watched.look(100, WALL)
    watched.store.commit(Txn(success=(Delete(KEYS.session("n1")),)))
    watched.beat("n1", 0.0)
    assert watched.look(104, WALL) == (["n1"], [])


def test_a_session_that_asks_for_no_wait_is_listened_to_for_a_moment(watched: Watched):
    watched.beat("n1", WALL - 60, wait=0)
    assert watched.look(100, WALL) == (["n1"], [])
    assert watched.look(101, WALL) == ([], ["n1"])


def test_what_is_said_about_a_silent_node(watched: Watched):
    session = watched.beat("n1", WALL - 60)
    own = OwnRecord("n1", session, 0, WALL - 90, "", "it was free")
    watched.store.commit(Txn(success=(Put(KEYS.own("10.0.0.10"), encode(own)),)))
    watched.look(100, WALL)
    watched.look(104, WALL)
    view = watched.view()
    silent = watched.listener.silent(view, 104 * SECOND, WALL)
    (node,) = nodes_of(watched.plan, view, 0, WALL, silent)
    assert (node.state, node.why) == (
        "silent",
        "no heartbeat for 60 s: its daemon is dead, stopped, or has no way to the store",
    )
    (address,) = addresses_of(watched.plan, view, WALL, silent)
    assert (address.state, address.owner) == ("SILENT", "n1")
    assert address.why.startswith("n1, which owns it, is silent: no heartbeat for 60 s")
    (address,) = addresses_of(watched.plan, view, WALL)
    assert address.state == "owned"
