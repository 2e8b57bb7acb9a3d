"""Nothing in the store, whoever wrote it, ends a daemon or a command: not a later version, not a hand, not a fault.

Records of any bytes under any key go through all that decides and tells; the same is done with records that are right
but for their values.
"""

from __future__ import annotations

import json
import math

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from vip_sim import settings_of

from cluster.types import Event, KeyValue, Snapshot, WatchBatch
from vip.clock import SECOND
from vip.kernel.interface import Floating
from vip.node import Node
from vip.places import Identity
from vip.records import (
    TEXT_MAX,
    WAIT_NS_MAX,
    ConfRecord,
    DrainRecord,
    GoneRecord,
    Keys,
    OwnRecord,
    PinRecord,
    SessionRecord,
    decode,
    encode,
)
from vip.situation import Plan, situation_of, wishes_of
from vip.status import addresses_of, moves_of, nodes_of, staying_of
from vip.timing import PROFILES, WINDOW_SECONDS_MAX, Timing, timing_of
from vip.units import Definition
from vip.view import StreamHole, View

KEYS = Keys("default")
TIMING = Timing(SECOND // 2, 2 * SECOND, 20_000_000)
PLAN = Plan.of(settings_of("n0"))
WALL = 1_700_000_000.0
KINDS = {
    "sess": SessionRecord,
    "own": OwnRecord,
    "gone": GoneRecord,
    "drain": DrainRecord,
    "pin": PinRecord,
    "conf": ConfRecord,
}

numbers = st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.sampled_from([0, -1, 2**63]))
texts = st.one_of(st.text(max_size=20), st.sampled_from(["n0", "n1", "g0", "10.0.0.10", PLAN.digest, "\x1b[2J", "\0"]))
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=8,
)
names = st.one_of(st.sampled_from(["n0", "n1", "g0", "10.0.0.10", "10.0.0.11", "garbage", PLAN.digest]), texts)


@st.composite
def records(draw: st.DrawFn) -> tuple[str, bytes]:
    """A key and its value: often a record of its kind with some fields that are anything."""
    kind = draw(st.sampled_from([*KINDS, "new"]))
    key = KEYS.key(kind, draw(names))
    if kind == "new" or draw(st.integers(0, 4)) == 0:
        return key, draw(st.one_of(st.binary(max_size=40), values.map(lambda value: json.dumps(value).encode())))
    right = {"digest": PLAN.digest, "ready": True, "age": 9999, "node": "n1", "session": 1, "clean": True}
    fields = [field.name for field in msgspec.structs.fields(KINDS[kind])]
    said = {name: right[name] for name in fields if name in right}
    said |= draw(st.dictionaries(st.sampled_from(fields), values, max_size=4))
    return key, json.dumps(said).encode()


def snapshot(found: list[tuple[str, bytes]]) -> Snapshot:
    items = {key: KeyValue(key, value, at + 1, at + 1, 1) for at, (key, value) in enumerate(found)}
    return Snapshot(100, tuple(items.values()))


EVIL = [
    (KEYS.session("evil"), b'{"digest":"%b","weight":0,"ready":true,"age":1000}' % PLAN.digest.encode()),
    (
        KEYS.session("evil"),
        b'{"weight":-1e308,"wait":-5,"generation":-1,"age":1e300,"losses":-9,"at":1e300,"ready":true}',
    ),
    (KEYS.session("evil"), b"[" * 100_000),
    (KEYS.session("evil"), b'{"new":' * 100_000),
    (KEYS.conf("zzz"), b'{"definitions":[["g",["garbage"],true,[],""],7,["g0",["10.0.0.10-10.0.0.11"]]]}'),
    (KEYS.conf(PLAN.digest), b'{"definitions":[["\\u001b",["10.0.0.1"]],["g",[],false,["\\u0000"]]]}'),
    (KEYS.pin("g0"), b'{"node":"n1","until":1e300}'),
    (KEYS.own("10.0.0.10"), b'{"node":"n1","session":1,"since":1e300,"before":"\\u001b[2J"}'),
    (KEYS.gone("n1"), b'{"session":18446744073709551616,"losses":[1e300,"x",-1],"wait":1e300}'),
]


@pytest.mark.slow
@given(st.lists(records(), max_size=12))
@example(EVIL)
@example([EVIL[0], (KEYS.session("n0"), encode(SessionRecord(digest=PLAN.digest, ready=True, age=9999)))])
@example([(KEYS.session("n1"), b'{"digest":"zzz","ready":true}'), EVIL[4]])
def test_whatever_stands_in_the_store_it_can_be_decided_and_told(found: list[tuple[str, bytes]]):
    view = View(KEYS, "n0", TIMING.wait)
    view.sync(SECOND, snapshot(found))
    wishes = wishes_of(PLAN, view, situation_of(PLAN, view, WALL))
    assert set(wishes) == {bundle.name for bundle in PLAN.bundles}
    told = [addresses_of(PLAN, view, WALL), nodes_of(PLAN, view, 2 * SECOND, WALL), moves_of(PLAN, view, WALL)]
    for lost in [*view.sessions][:2]:
        told += [moves_of(PLAN, view, WALL, drained=lost), moves_of(PLAN, view, WALL, lost=lost)]
        staying_of(PLAN, view, WALL, lost)
    words = msgspec.json.decode(msgspec.json.encode(told))
    assert not any(ord(letter) < 32 or 127 <= ord(letter) < 160 for letter in "".join(_texts(words)))


def _texts(value: object) -> list[str]:
    if isinstance(value, list | dict):
        inner = value if isinstance(value, list) else value.values()
        return [text for one in inner for text in _texts(one)]
    return [value] if isinstance(value, str) else []


@pytest.mark.slow
@given(st.lists(records(), max_size=8), st.lists(st.tuples(records(), st.booleans()), max_size=8))
@example([EVIL[0], EVIL[4]], [])
def test_a_node_goes_on_deciding(found: list[tuple[str, bytes]], later: list[tuple[tuple[str, bytes], bool]]):
    """As a daemon does: a hole in what it hears is answered by reading everything again."""
    node = Node(settings_of("n0"), Identity("n0", "here"), TIMING)
    now = 1000 * SECOND
    node.sync(now, snapshot(found))
    for at, ((key, value), deleted) in enumerate(later):
        item = None if deleted else KeyValue(key, value, 200 + at, 200 + at, 1)
        node.apply(now, WatchBatch(200 + at, (Event(key, 200 + at, item),)))
        if node.view.synced is None:
            node.sync(now, snapshot(found))
        for _ in range(3):
            now += SECOND
            node.act(now, WALL)
    node.removed_all(now, "")
    node.holdings.present = {"10.0.0.10": Floating("10.0.0.10", "eth1", 32)}
    for _ in range(20):
        now += SECOND
        node.act(now, WALL)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@given(st.binary(max_size=60) | values.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_a_record_within_its_bounds(kind: type[msgspec.Struct], value: bytes):
    record = decode(value, kind)
    assert decode(encode(record), kind) == record


@given(st.dictionaries(st.sampled_from([f.name for f in msgspec.structs.fields(SessionRecord)]), values))
def test_every_field_of_a_session_is_within_its_bounds(said: dict[str, object]):
    record = decode(json.dumps(said).encode(), SessionRecord)
    assert 0.01 <= record.weight <= 100
    assert 0 <= record.wait <= WAIT_NS_MAX
    assert min(record.generation, record.age, record.losses) >= 0
    assert math.isfinite(record.at) and len(record.gate) <= TEXT_MAX
    assert decode(encode(record), SessionRecord) == record, "what is read can be written, and read as it is"


def test_one_wrong_value_takes_nothing_away_from_the_others():
    value = b'{"wait":5,"weight":1000,"age":"old","down":["10.0.0.0/8",7],"blocked":{"a":"b","c":1},"gate":"\\u001b"}'
    assert decode(value, SessionRecord) == SessionRecord(
        wait=5, weight=100.0, down=("10.0.0.0/8",), blocked={"a": "b"}, gate=""
    )
    long = json.dumps({"why": "x" * (TEXT_MAX + 1), "wait": 10**30}).encode()
    assert decode(long, GoneRecord) == GoneRecord(why="x" * TEXT_MAX, wait=WAIT_NS_MAX)


def test_no_node_asks_others_to_wait_longer_than_can_be_said():
    for profile in PROFILES:
        assert timing_of(profile, 10 * SECOND, window=WINDOW_SECONDS_MAX).wait < WAIT_NS_MAX


def test_definitions_that_no_configuration_can_have_are_none():
    good = Definition("g", ("10.0.0.1-10.0.0.9",))
    many = tuple(Definition(f"m{at}", ("10.1.0.0-10.1.39.255",)) for at in range(1000))
    found = decode(encode(ConfRecord(1, (good, Definition("bad", ("here",)), *many))), ConfRecord)
    assert found == ConfRecord(1, (good,)), "neither what cannot be read nor more than fits"
    assert decode(encode(ConfRecord(1, many)), ConfRecord).definitions == many[:1]


def test_keys_that_nobody_of_us_would_have_written_are_none():
    view = View(KEYS, "n0", 0)
    names = ("a b", "\x1b[2J", "x" * 200, "", "a/b", "\ufffd")
    view.sync(0, snapshot([(KEYS.session(name), b"{}") for name in names]))
    assert not view.sessions
    view.apply(0, WatchBatch(101, (Event(KEYS.session("a b"), 101, None),)))
    with pytest.raises(StreamHole):
        view.apply(0, WatchBatch(102, (Event(KEYS.session("ab"), 102, None),)))
