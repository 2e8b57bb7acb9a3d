"""etcd is looked after: its past does not grow until it is full, and what is wrong with it is told."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemon_support import until
from etcd_support import EtcdCluster
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import Compacted, StoreRefused
from cluster.etcd import EtcdSettings, EtcdStore
from cluster.memory import MemoryStore
from cluster.types import Put, Txn
from vip.clock import SECOND, ns
from vip.keeper import Keeper, Marks
from vip.records import Keys, SessionRecord, encode
from vip.view import View

KEYS = Keys("default")
WITHIN = 30.0
KEEP = 3600.0


@given(st.lists(st.integers(1, 4000), max_size=60), st.integers(60, 7200))
def test_what_is_let_go_is_old_and_what_is_old_is_let_go(pauses: list[int], keep: int):
    marks, told = Marks(keep * SECOND), 0
    times = list(itertools.accumulate(pauses))
    for revision, at in enumerate(times, start=1):
        old = marks.note(at * SECOND, revision)
        told = max(told, old)
        assert old == 0 or at - times[old - 1] >= keep, "younger than what is to stay"
        assert len(marks._marks) <= 10, "no more than some marks, however long it runs"
    late = [revision for revision, at in enumerate(times, start=1) if times and times[-1] - at >= keep * 2]
    if late and max(pauses) <= keep // 10:
        assert told >= late[-1] - keep // 8, "old, and still there"


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[EtcdCluster]:
    cluster = EtcdCluster(tmp_path, extra=("--quota-backend-bytes", str(8 << 20)))
    try:
        yield cluster.start().wait_ready()
    finally:
        cluster.stop()


def connect(etcd: EtcdCluster) -> EtcdStore:
    return EtcdStore(EtcdSettings(etcd.endpoints))


def view_of(store: EtcdStore) -> View:
    view = View(KEYS, "n1", 0)
    view.sync(0, store.read(KEYS.prefix, within=WITHIN))
    return view


def put(store: EtcdStore, key: str, value: bytes = b"x") -> int:
    return store.commit(Txn(success=(Put(key, value),)), within=WITHIN).revision


def is_known(store: EtcdStore, revision: int) -> bool:
    watch = store.watch(KEYS.prefix, revision, idle=WITHIN, within=WITHIN)
    try:
        return bool(watch.next().events)
    except Compacted:
        return False
    finally:
        watch.close()


@pytest.mark.slow
def test_the_past_is_let_go_by_the_first_node(etcd: EtcdCluster):
    store = connect(etcd)
    for node in ("n1", "n2"):
        put(store, KEYS.session(node), encode(SessionRecord()))
    first = put(store, KEYS.drain("x"))
    keepers = {node: Keeper(connect(etcd), node, KEEP, lambda: view_of(store)) for node in ("n1", "n2")}
    for hours in (0, 2):
        keepers["n2"].look(ns(KEEP) * hours)
        put(store, KEYS.drain("x"))
    assert is_known(store, first), "the second by name leaves it to the first"
    keepers["n1"].look(0)
    last = put(store, KEYS.drain("x"))
    keepers["n1"].look(ns(KEEP) - 1)
    assert is_known(store, first), "it is not old yet"
    keepers["n1"].look(ns(KEEP))
    assert not is_known(store, first)
    assert is_known(store, last)
    keepers["n1"].look(ns(KEEP) * 3)
    never = Keeper(connect(etcd), "n1", 0, lambda: view_of(store))
    assert never._marks is None


@pytest.mark.slow
def test_a_full_etcd_is_told_in_words(etcd: EtcdCluster, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO, logger="vip")
    store = connect(etcd)
    keeper = Keeper(connect(etcd), "n1", KEEP, lambda: view_of(store))
    keeper.start()
    until(lambda: keeper.bytes > 0, "it was asked")
    assert not keeper.alarms
    with pytest.raises(StoreRefused, match="until etcd was compacted and its alarm disarmed"):
        for number in range(100):
            put(store, f"/filler/{number}", bytes(500_000))
    keeper.look(0)
    assert len(keeper.alarms) == 1
    assert "NOSPACE: its quota is full" in caplog.text
    keeper.look(0)
    assert caplog.text.count("NOSPACE") == 1, "told once"
    keeper.close()


def test_other_stores_need_no_care(caplog: pytest.LogCaptureFixture):
    keeper = Keeper(MemoryStore(), "n1", KEEP, lambda: View(KEYS, "n1", 0))
    keeper.look(0)
    assert (keeper.bytes, keeper.alarms, caplog.text) == (0, (), "")


def test_a_store_that_is_away_is_told_once(caplog: pytest.LogCaptureFixture):
    store = MemoryStore()
    store.cluster.set_down("gone")
    keeper = Keeper(store, "n1", 0, lambda: View(KEYS, "n1", 0))
    keeper.start()
    until(lambda: keeper.failure == "gone", "it was tried")
    assert "could not be looked after: gone" in caplog.text
    keeper.close()
