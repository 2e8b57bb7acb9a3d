"""One contract, three stores: memory, the file of one machine, and a real etcd. What `vip` proves rests on these."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from etcd_support import EtcdCluster
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster.errors import Compacted, StoreUnavailable, WatchEnded
from cluster.etcd import EtcdSettings, EtcdStore
from cluster.memory import MemoryCluster, MemoryStore
from cluster.solo import SoloStore
from cluster.types import TXN_OPERATIONS_MAX, Compare, Delete, Event, Get, Put, Store, Txn, TxnResult

WITHIN = 30.0
_prefixes = itertools.count()


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdCluster]:
    cluster = EtcdCluster(tmp_path_factory.mktemp("etcd"))
    try:
        yield cluster.start().wait_ready()
    finally:
        cluster.stop()


Connect = Callable[[], Store]


@pytest.fixture(params=["memory", "solo", "etcd"])
def connect(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Connect]:
    """Opens connections to one store of each kind."""
    opened: list[Store] = []
    memory = MemoryCluster()
    makers: dict[str, Connect] = {
        "memory": lambda: MemoryStore(memory),
        "solo": lambda: SoloStore(tmp_path / "solo.db"),
        "etcd": lambda: EtcdStore(EtcdSettings(request.getfixturevalue("etcd").endpoints)),
    }

    def make() -> Store:
        opened.append(makers[request.param]())
        return opened[-1]

    yield make
    for store in opened:
        store.close()


@pytest.fixture
def store(connect: Connect) -> Store:
    return connect()


@pytest.fixture
def prefix() -> str:
    """Keys that only this test uses: the etcd is shared."""
    return f"/test/{next(_prefixes)}/"


def put(store: Store, key: str, value: bytes = b"x") -> TxnResult:
    return store.commit(Txn(success=(Put(key, value),)), within=WITHIN)


def values(store: Store, prefix: str) -> dict[str, bytes]:
    return {item.key: item.value for item in store.read(prefix, within=WITHIN).items}


def test_numbers_of_a_key(store: Store, prefix: str):
    first = put(store, prefix + "a", b"1").revision
    second = put(store, prefix + "a", b"2").revision
    assert second > first
    (item,) = store.read(prefix, within=WITHIN).items
    assert (item.key, item.value) == (prefix + "a", b"2")
    assert (item.create_revision, item.mod_revision, item.version) == (first, second, 2)


def test_a_key_made_again_has_a_new_identity(store: Store, prefix: str):
    first = put(store, prefix + "a").revision
    store.commit(Txn(success=(Delete(prefix + "a"),)), within=WITHIN)
    again = put(store, prefix + "a").revision
    (item,) = store.read(prefix, within=WITHIN).items
    assert item.create_revision == again > first
    assert item.version == 1


def test_empty_and_binary_values(store: Store, prefix: str):
    every = bytes(range(256))
    put(store, prefix + "empty", b"")
    put(store, prefix + "every", every)
    assert values(store, prefix) == {prefix + "empty": b"", prefix + "every": every}


def test_odd_keys_are_found_by_their_prefix(store: Store, prefix: str):
    odd = [prefix + name for name in ("a%b", "a_b", "a*b", "a\u00e9", "2001:db8::1", "a b")]
    for key in odd:
        put(store, key)
    assert list(values(store, prefix)) == sorted(odd)
    assert list(values(store, prefix + "a%")) == [prefix + "a%b"]


def test_a_prefix_is_not_more_than_a_prefix(store: Store, prefix: str):
    for name in ("a", "aa", "b"):
        put(store, prefix + name)
    assert list(values(store, prefix + "a")) == [prefix + "a", prefix + "aa"]
    store.commit(Txn(success=(Delete(prefix + "a", prefix=True),)), within=WITHIN)
    assert list(values(store, prefix)) == [prefix + "b"]


@pytest.mark.parametrize("target", ["create", "mod", "version", "value"])
def test_compares_decide(store: Store, prefix: str, target: str):
    put(store, prefix + "a", b"1")
    put(store, prefix + "a", b"2")
    (item,) = store.read(prefix, within=WITHIN).items
    right = {
        "create": Compare(prefix + "a", "create", item.create_revision),
        "mod": Compare(prefix + "a", "mod", item.mod_revision),
        "version": Compare(prefix + "a", "version", 2),
        "value": Compare(prefix + "a", "value", value=b"2"),
    }[target]
    wrong = Compare(right.key, right.target, right.number + 1, right.value + b"!")
    for compares, succeeds in (((right,), True), ((wrong,), False), ((right, wrong), False)):
        key = prefix + ("yes" if succeeds else "no")
        txn = Txn(compares, success=(Put(prefix + "yes", b""),), failure=(Put(prefix + "no", b""),))
        assert store.commit(txn, within=WITHIN).succeeded is succeeds
        assert key in values(store, prefix)


def test_an_absent_key_has_zero_for_all_numbers_and_no_value(store: Store, prefix: str):
    absent = tuple(Compare(prefix + "a", target, 0) for target in ("create", "mod", "version"))
    assert store.commit(Txn(absent), within=WITHIN).succeeded
    assert not store.commit(Txn((Compare(prefix + "a", "value", value=b""),)), within=WITHIN).succeeded


def test_a_failed_compare_changes_nothing(store: Store, prefix: str):
    put(store, prefix + "a")
    before = store.read(prefix, within=WITHIN)
    result = store.commit(Txn((Compare(prefix + "a", "create", 1),), (Delete(prefix + "a"),)), within=WITHIN)
    assert not result.succeeded
    assert result.revision == before.revision == store.read(prefix, within=WITHIN).revision


def test_what_a_transaction_reads(store: Store, prefix: str):
    put(store, prefix + "a", b"1")
    put(store, prefix + "b", b"2")
    found = store.commit(
        Txn(success=(Get(prefix + "a"), Get(prefix + "none"), Get(prefix, prefix=True))), within=WITHIN
    ).found
    assert [[item.value for item in items] for items in found] == [[b"1"], [], [b"1", b"2"]]


def test_a_transaction_is_one_revision_and_one_batch(store: Store, connect: Connect, prefix: str):
    start = store.read(prefix, within=WITHIN).revision
    watch = connect().watch(prefix, start + 1, idle=WITHIN, within=WITHIN)
    put(store, prefix + "old")
    many = tuple(Put(f"{prefix}{number:03}", b"x") for number in range(TXN_OPERATIONS_MAX - 1))
    result = store.commit(Txn(success=(*many, Delete(prefix + "old"))), within=WITHIN)
    events = collect(watch, result.revision)
    assert {event.revision for event in events[1:]} == {result.revision}
    assert len(events) == 1 + TXN_OPERATIONS_MAX
    assert (events[-1].key, events[-1].item) == (prefix + "old", None)


def collect(watch, until_revision: int) -> list[Event]:
    """All events up to a revision, at least one."""
    events: list[Event] = []
    while not events or events[-1].revision < until_revision:
        events += watch.next().events
    return events


def test_too_many_operations_are_a_mistake_of_the_program(store: Store, prefix: str):
    many = tuple(Put(f"{prefix}{number}", b"") for number in range(TXN_OPERATIONS_MAX + 1))
    with pytest.raises(ValueError, match="more than 128"):
        store.commit(Txn(success=many), within=WITHIN)
    with pytest.raises(ValueError, match="twice"):
        store.commit(Txn(success=(Put(prefix, b""), Put(prefix, b""))), within=WITHIN)


def test_a_watch_delivers_all_once_and_in_order(store: Store, connect: Connect, prefix: str):
    start = put(store, prefix + "before").revision
    watch = connect().watch(prefix, start, idle=WITHIN, within=WITHIN)
    writer = threading.Thread(target=lambda: [put(store, f"{prefix}{number % 7}") for number in range(200)])
    writer.start()
    events: list[Event] = []
    while len(events) < 201:
        events += watch.next().events
    writer.join()
    assert [event.revision for event in events] == sorted({event.revision for event in events})
    assert events[0].key == prefix + "before"
    versions: dict[str, int] = {}
    for event in events:
        assert event.item is not None
        assert event.item.version == versions.get(event.key, 0) + 1, "a change is missing"
        versions[event.key] = event.item.version


def test_a_watch_sees_only_its_prefix(store: Store, connect: Connect, prefix: str):
    start = store.read(prefix, within=WITHIN).revision
    watch = connect().watch(prefix + "in/", start + 1, idle=WITHIN, within=WITHIN)
    put(store, prefix + "out/a")
    last = put(store, prefix + "in/a").revision
    assert [event.key for event in collect(watch, last)] == [prefix + "in/a"]


def test_a_watch_from_the_past_catches_up(store: Store, connect: Connect, prefix: str):
    first = put(store, prefix + "a", b"1").revision
    last = put(store, prefix + "a", b"2").revision
    events = collect(connect().watch(prefix, first, idle=WITHIN, within=WITHIN), last)
    assert [event.item.value for event in events if event.item] == [b"1", b"2"]


def test_a_silent_watch_ends(store: Store, prefix: str):
    start = store.read(prefix, within=WITHIN).revision
    watch = store.watch(prefix, start + 1, idle=0.2, within=WITHIN)
    with pytest.raises(WatchEnded):
        while True:  # etcd may report progress in between
            watch.next()


def test_a_watch_is_closed_from_another_thread(connect: Connect, prefix: str):
    store = connect()
    watch = store.watch(prefix, store.read(prefix, within=WITHIN).revision + 1, idle=WITHIN * 10, within=WITHIN)
    threading.Timer(0.2, watch.close).start()
    with pytest.raises(WatchEnded):
        while True:
            watch.next()


def test_a_closed_store_answers_nothing(store: Store, prefix: str):
    store.close()
    store.close()
    with pytest.raises(StoreUnavailable):
        store.read(prefix, within=WITHIN)


def test_what_was_forgotten_is_said(tmp_path: Path, etcd: EtcdCluster, monkeypatch: pytest.MonkeyPatch):
    """Each kind forgets in its own way; the answer is the same."""
    memory = MemoryCluster()
    put(MemoryStore(memory), "a")
    memory.compact(memory.revision)
    with pytest.raises(Compacted):
        MemoryStore(memory).watch("", 1, idle=1, within=WITHIN)

    monkeypatch.setattr("cluster.solo.CHANGES_MAX", 10)
    solo = SoloStore(tmp_path / "solo.db")
    while solo.read("", within=WITHIN).revision < 1000:
        put(solo, "a")
    with pytest.raises(Compacted):
        solo.watch("", 2, idle=1, within=WITHIN)

    store = EtcdStore(EtcdSettings(etcd.endpoints))
    revision = put(store, "/forgotten").revision
    store._transport.post("/v3/kv/compaction", b'{"revision": "%d", "physical": true}' % revision, WITHIN)
    with pytest.raises(Compacted):
        store.watch("", 1, idle=5, within=WITHIN).next()


KEYS = st.sampled_from(["a", "b", "ab"])
OPERATIONS = st.one_of(
    st.builds(Put, KEYS, st.sampled_from([b"", b"1", b"2"])), st.builds(Delete, KEYS), st.builds(Get, KEYS)
)


@st.composite
def txns(draw: st.DrawFn) -> Txn:
    def branch() -> tuple[Put | Delete | Get, ...]:
        operations = draw(st.lists(OPERATIONS, max_size=3, unique_by=lambda operation: operation.key))
        return tuple(operations)

    compares = draw(st.lists(st.builds(Compare, KEYS, st.just("version"), st.integers(0, 2)), max_size=2).map(tuple))
    return Txn(compares, branch(), branch())


@pytest.mark.slow
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(txns(), min_size=1, max_size=6))
def test_any_transactions_do_the_same_everywhere(etcd: EtcdCluster, tmp_path: Path, program: list[Txn]):
    """The twin, the file and etcd agree on every answer, value and version."""
    number = next(_prefixes)
    prefix = f"/same/{number}/"
    stores = [
        MemoryStore(),
        SoloStore(tmp_path / f"{number}-{time.monotonic_ns()}.db"),
        EtcdStore(EtcdSettings(etcd.endpoints)),
    ]
    seen = [[_outcome(store, prefix, txn) for txn in program] for store in stores]
    for store in stores:
        store.close()
    assert seen[0] == seen[1]
    assert seen[0] == seen[2]


def _outcome(store: Store, prefix: str, txn: Txn) -> object:
    def under(operation):
        return type(operation)(
            **{**{f: getattr(operation, f) for f in operation.__dataclass_fields__}, "key": prefix + operation.key}
        )

    moved = Txn(*(tuple(under(part) for part in parts) for parts in (txn.compares, txn.success, txn.failure)))
    result = store.commit(moved, within=WITHIN)
    found = [[(item.key, item.value, item.version) for item in items] for items in result.found]
    after = [(item.key, item.value, item.version) for item in store.read(prefix, within=WITHIN).items]
    return result.succeeded, found, after
