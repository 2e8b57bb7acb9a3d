"""The parts of the daemon alone: checks, hooks, history, links, hands, the farewell, and the view's integrity."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from daemon_support import until
from etcd_support import EtcdCluster
from ports import free_ports

import jlogd
from cluster.etcd import EtcdSettings, EtcdStore
from cluster.gateway import txn_body
from cluster.memory import MemoryCluster
from cluster.solo import SoloStore
from cluster.types import Compare, Delete, Event, KeyValue, Put, Txn, TxnResult, WatchBatch
from jlogd.daemon.units import Duration
from vip import farewell
from vip.actions import RemoveAll, Take, Taken
from vip.checks import Checks, run_once
from vip.claims import Claims
from vip.clock import MILLISECOND, SECOND
from vip.config import Check, parse
from vip.config import Hooks as HookSettings
from vip.hands import Hands
from vip.history import Entry, History, summary
from vip.hooks import Hooks
from vip.kernel.interface import Floating
from vip.links import STABLE_NS, Links
from vip.records import GoneRecord, Keys, OwnRecord, SessionRecord, encode
from vip.session import GUARD_ENDED, Session
from vip.stores import farewell_of
from vip.timing import PROFILES, RATE_ERROR, Timing, timing_of
from vip.view import Change, StreamHole, View

KEYS = Keys("default")
TIMING = Timing(SECOND // 2, 2 * SECOND, 20 * MILLISECOND)


# ---- history ---------------------------------------------------------------------------------------------------------


def test_many_changes_are_told_as_sums_with_who_how_many_and_why():
    few = [Change(f"10.0.0.{number}", "n1", "n2", "drained") for number in range(3)]
    assert summary(few)[0] == "10.0.0.0: n1 -> n2: drained" and len(summary(few)) == 3
    more = [*few, *(Change(f"10.0.1.{number}", "", "n3", "it was free") for number in range(6))]
    assert summary(more) == [
        "n1 -> n2: addresses: 3, the first 10.0.0.0: drained",
        "nobody -> n3: addresses: 6, the first 10.0.1.0: it was free",
    ]


@pytest.mark.parametrize(
    ("gone", "words"),
    [
        (GoneRecord(clean=True), "n1 ended: it ended clean"),
        (GoneRecord(clean=True, why=GUARD_ENDED), "n1 ended: its daemon died; its guard removed everything"),
        (GoneRecord(), "n1 ended: it fell silent, or was ended"),
        (None, "n1 is gone"),
    ],
)
def test_a_change_says_how_the_owner_ended(world, gone: GoneRecord | None, words: str):
    cluster, view, _ = world
    session = view.sessions["n1"].revision
    told = (Put(KEYS.gone("n1"), encode(msgspec.structs.replace(gone, session=session))),) if gone else ()
    cluster.commit(Txn(success=(Delete(KEYS.session("n1")), *told)))
    batch = WatchBatch(cluster.revision, tuple(cluster.since(KEYS.prefix, view.revision + 1)))
    assert [change.why for change in view.apply(SECOND, batch)] == [words]


# ---- timing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("lateness", [0, 20 * MILLISECOND, 1300 * MILLISECOND])
def test_a_successor_waits_past_the_deadline_whatever_the_clocks_do(profile: str, lateness: int):
    timing = timing_of(profile, lateness)
    slow_holder = timing.window * (1 + RATE_ERROR) + lateness
    fast_successor = timing.wait / (1 + RATE_ERROR)
    assert fast_successor >= slow_holder
    assert timing.silence > timing.wait


def test_only_one_module_reads_clocks():
    """A wall clock decides nothing, and nobody looks at another one by the way: so it may jump as it likes."""
    root = Path(__file__).parent.parent / "vip"
    for path in [*root.glob("*.py")]:
        if path.name not in ("clock.py", "farewell.py"):
            assert not re.search(r"\btime\.(time|monotonic|clock_gettime)|datetime", path.read_text()), path
    for path in (root / name for name in ("node.py", "holdings.py", "view.py", "session.py", "assign.py")):
        assert not re.search(r"boot_ns|wall_seconds", path.read_text()), f"{path}: time is handed in"


# ---- session ---------------------------------------------------------------------------------------------------------


def opened(sent: int = 0) -> Session:
    session = Session(KEYS, "n1", TIMING)
    assert session.opened(sent, TxnResult(True, 7))
    return session


def test_only_a_committed_heartbeat_moves_the_deadline_and_only_from_its_sending():
    session = opened(sent=100)
    assert session.deadline == 100 + TIMING.window
    session.beaten(5 * SECOND, TxnResult(True, 8))
    assert session.deadline == 5 * SECOND + TIMING.window
    session.beaten(3 * SECOND, TxnResult(True, 9))  # an older one that was answered late
    assert session.deadline == 5 * SECOND + TIMING.window


def test_a_failed_compare_ends_the_session_for_good():
    session = opened()
    assert session.beaten(SECOND, TxnResult(False, 9)) == 0
    assert session.lost
    assert session.beaten(2 * SECOND, TxnResult(True, 10)) == 0, "late answers change nothing"
    assert session.deadline == 0
    assert not session.opened(0, TxnResult(True, 11))


def test_what_a_session_sends():
    session = opened()
    beat = session.beat(SessionRecord(wait=5))
    assert beat.compares == (Compare("/jlogd/vip/default/sess/n1", "create", 7),)
    last = session.farewell(GoneRecord(wait=99 * SECOND, losses=(1.0,)))
    assert last.compares == beat.compares
    delete, put = last.success
    assert isinstance(delete, Delete) and isinstance(put, Put)
    told = msgspec.json.decode(put.value, type=GoneRecord)
    assert (told.session, told.clean, told.wait, told.losses) == (7, True, 99 * SECOND, (1.0,))


# ---- view ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def world() -> Iterator[tuple[MemoryCluster, View, Callable[[int], None]]]:
    """A store with two sessions, one of which owns an address, a view of it, and a way to catch up."""
    cluster = MemoryCluster()
    for node in ("n1", "n2"):
        cluster.commit(Txn(success=(Put(KEYS.session(node), encode(SessionRecord(wait=3 * SECOND))),)))
    session = cluster.keys[KEYS.session("n1")].create_revision
    cluster.commit(Txn(success=(Put(KEYS.own("10.0.0.1"), encode(OwnRecord("n1", session))),)))
    view = View(KEYS, "n2", 2 * SECOND)
    view.sync(1000, cluster.read(KEYS.prefix))

    def catch_up(now: int) -> None:
        view.apply(now, WatchBatch(cluster.revision, tuple(cluster.since(KEYS.prefix, view.revision + 1))))

    yield cluster, view, catch_up


def beat(cluster: MemoryCluster, node: str) -> None:
    cluster.commit(Txn(success=(Put(KEYS.session(node), encode(SessionRecord(wait=3 * SECOND))),)))


def test_an_unclean_end_holds_from_the_last_sight(world):
    cluster, view, catch_up = world
    beat(cluster, "n1")
    catch_up(5 * SECOND)
    cluster.commit(Txn(success=(Delete(KEYS.session("n1")),)))
    catch_up(6 * SECOND)
    assert view.owner("10.0.0.1") == ""
    assert view.holds["10.0.0.1"] == 5 * SECOND + 3 * SECOND, "what the holder itself asked to wait"


def test_a_clean_end_holds_nothing(world):
    cluster, view, catch_up = world
    session = view.sessions["n1"].revision
    words = encode(GoneRecord(session, clean=True))
    cluster.commit(Txn(success=(Delete(KEYS.session("n1")), Put(KEYS.gone("n1"), words))))
    catch_up(6 * SECOND)
    assert view.owner("10.0.0.1") == "" and not view.holds


def test_a_clean_end_of_another_session_is_none_of_this_one(world):
    cluster, view, catch_up = world
    cluster.commit(Txn(success=(Put(KEYS.gone("n1"), encode(GoneRecord(1, clean=True))),)))
    cluster.commit(Txn(success=(Delete(KEYS.session("n1")),)))
    catch_up(6 * SECOND)
    assert "10.0.0.1" in view.holds


def test_a_hold_survives_further_owners(world):
    cluster, view, catch_up = world
    cluster.commit(Txn(success=(Delete(KEYS.session("n1")),)))
    catch_up(2 * SECOND)
    until_ns = view.holds["10.0.0.1"]
    session = view.sessions["n2"].revision
    cluster.commit(Txn(success=(Put(KEYS.own("10.0.0.1"), encode(OwnRecord("n2", session))),)))
    cluster.commit(Txn(success=(Delete(KEYS.own("10.0.0.1")),)))
    catch_up(2 * SECOND)
    assert view.free_at("10.0.0.1") >= until_ns


def test_before_the_snapshot_anything_may_have_been(world):
    _, view, _ = world
    assert view.free_at("10.0.0.9") == 1000 + 3 * SECOND, "the longest that anybody ever asked to wait"


@pytest.mark.parametrize("missing", range(3))
def test_a_missing_event_is_noticed(world, missing: int):
    cluster, view, _ = world
    for _ in range(2):
        beat(cluster, "n1")
    cluster.commit(Txn(success=(Delete(KEYS.session("n1")), Put(KEYS.gone("n1"), encode(GoneRecord(2, version=3))))))
    beat(cluster, "n1")
    events = cluster.since(KEYS.prefix, view.revision + 1)
    revisions = sorted({event.revision for event in events})
    kept = [event for event in events if event.revision != revisions[missing]]
    with pytest.raises(StreamHole):
        view.apply(SECOND, WatchBatch(kept[-1].revision, tuple(kept)))


def test_a_repeated_event_is_no_second_one(world):
    cluster, view, catch_up = world
    beat(cluster, "n1")
    events = tuple(cluster.since(KEYS.prefix, 1))
    catch_up(SECOND)
    view.apply(9 * SECOND, WatchBatch(cluster.revision, events))
    assert view.sessions["n1"].seen == SECOND


def test_a_record_of_a_later_version_is_not_fatal(world):
    _, view, _ = world
    item = KeyValue(KEYS.session("n3"), b'{"wait": "long", "new": 1}', 50, 50, 1)
    view.apply(SECOND, WatchBatch(50, (Event(item.key, 50, item),)))
    assert view.sessions["n3"].record == SessionRecord()


# ---- checks ----------------------------------------------------------------------------------------------------------


def test_kinds_of_checks(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert run_once(Check(tcp=f"127.0.0.1:{server.getsockname()[1]}")) == ""
    (port,) = free_ports(1)
    assert "refused" in run_once(Check(tcp=f"127.0.0.1:{port}"))
    assert "refused" in run_once(Check(http=f"http://127.0.0.1:{port}/"))
    assert run_once(Check(exec=("/bin/true",))) == ""
    assert run_once(Check(exec=("/bin/false",))) == "exit code 1"
    assert "No such file" in run_once(Check(exec=("/nowhere",)))


def test_a_check_that_hangs_fails():
    assert run_once(Check(exec=("/bin/sleep", "60"), timeout=Duration(0.1))) == "no end within 100ms"


def test_what_a_check_leaves_running_does_not_hold_it_up(tmp_path: Path):
    """Nor does it stay: a shell that was killed leaves its children behind."""
    pids = tmp_path / "pids"
    command = f"sleep 600 & echo $! > {pids}; sleep 600"
    started = time.monotonic()
    assert run_once(Check(exec=("/bin/sh", "-c", command), timeout=Duration(1))) == "no end within 1s"
    assert time.monotonic() - started < 300
    until(lambda: not Path(f"/proc/{int(pids.read_text())}").exists() or is_dead(pids), "it went as well")


def is_dead(pids: Path) -> bool:
    return "\nState:\tZ" in Path(f"/proc/{int(pids.read_text())}/status").read_text()


def test_a_service_that_trickles_is_not_healthy():
    ended = threading.Event()

    def trickle(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection, contextlib.suppress(OSError):
            connection.sendall(b"HTTP/1.1 200 ")
            while not ended.wait(0.05):
                connection.sendall(b"O")

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=trickle, args=(server,), daemon=True)
        thread.start()
        page = f"http://127.0.0.1:{server.getsockname()[1]}/"
        assert run_once(Check(http=page, timeout=Duration(0.5))) == "no end within 500ms"
        ended.set()
        thread.join()


def test_names_that_cannot_be_are_failures_and_no_mistakes_of_ours():
    """A thread that fails ends the daemon."""
    for check in (Check(tcp="no..name:25"), Check(http="http://no..name/"), Check(exec=("/bin/\0",))):
        assert run_once(check)
    for page in ("http://127.0.0.1:99999/", "http:///only/a/path", "http://a:0/"):
        with pytest.raises(ValueError, match="accepted"):
            Check(http=page)


def test_rise_and_fall(tmp_path: Path):
    flag = tmp_path / "flag"
    changes: list[dict[str, str]] = []
    checks = Checks(lambda: changes.append(checks.failing()))
    check = Check(exec=("/usr/bin/test", "-e", str(flag)), interval=Duration(0.1), rise=2, fall=3)
    checks.configure({"there": check})
    assert checks.failing(), "unknown is not healthy"
    until(lambda: checks.failing().get("there") == "exit code 1", "the first run decides")
    flag.touch()
    until(lambda: not checks.failing(), "it rises")
    flag.unlink()
    until(lambda: checks.failing(), "it falls")
    checks.configure({})
    assert not checks.failing()
    checks.close()
    assert len(changes) >= 3


# ---- claims ----------------------------------------------------------------------------------------------------------


def test_claims_that_failed_long_ago_do_not_make_thousands_of_small_ones():
    """What others were about to have as well made them small; with the first that succeed they are large again."""
    claims, names, done = (
        Claims(),
        [[f"10.0.{number >> 8}.{number & 255}"] for number in range(853)],
        TxnResult(True, 7),
    )
    for _ in range(4):
        claims.sent(names[0])
        claims.answered(0, names[0], TxnResult(False, 6))
    left, transactions = names, 0
    while left:
        sent = []
        for addresses, _ in claims.portions(left, lambda address: ""):
            claims.sent(addresses)
            sent.append(addresses)
        assert sent, "and none is left"
        for addresses in sent:
            claims.answered(0, addresses, done)
        left = left[sum(map(len, sent)) :]
        transactions += len(sent)
    assert transactions < 50, "eight would do, had nothing failed"


# ---- hooks -----------------------------------------------------------------------------------------------------------


def hook(tmp_path: Path, body: str) -> tuple[str, ...]:
    script = tmp_path / "hook.py"
    script.write_text(body)
    return sys.executable, str(script)


def test_a_hook_gets_its_addresses(tmp_path: Path):
    out = tmp_path / "out"
    body = f"import sys; open({str(out)!r}, 'a').write(sys.argv[1] + ' ' + sys.stdin.read())"
    hooks = Hooks(HookSettings(take=hook(tmp_path, body)))
    hooks.start()
    hooks.tell("take", [{"address": "10.0.0.1"}, {"address": "10.0.0.2"}])
    hooks.tell("release", [{"address": "10.0.0.3"}])  # no program for it
    hooks.close()
    assert out.read_text() == 'take {"address":"10.0.0.1"}\n{"address":"10.0.0.2"}\n'
    assert (hooks.runs, hooks.failures) == (1, 0)


def test_hooks_that_hang_or_fail_are_counted_and_go_on(tmp_path: Path):
    pids = tmp_path / "pids"
    body = f"import os, time; open({str(pids)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    hooks = Hooks(HookSettings(take=hook(tmp_path, body), release=("/bin/false",), timeout=Duration(1)))
    hooks.start()
    hooks.tell("take", [{"address": "10.0.0.1"}])
    hooks.tell("release", [{"address": "10.0.0.1"}])
    until(lambda: hooks.failures == 2, "both failed")
    with pytest.raises(ProcessLookupError):
        os.kill(int(pids.read_text()), signal.SIG_DFL)
    hooks.close()


def test_what_a_hook_leaves_running_does_not_hold_up_the_next(tmp_path: Path):
    """It has a session of its own and keeps what it was given open, so no kill of a group reaches it."""
    pids = tmp_path / "pids"
    body = (
        "import os, time\n"
        "if os.fork() == 0:\n"
        f"    os.setsid(); open({str(pids)!r}, 'w').write(str(os.getpid())); time.sleep(600)\n"
        "time.sleep(600)"
    )
    hooks = Hooks(HookSettings(take=hook(tmp_path, body), release=("/bin/false",), timeout=Duration(1)))
    hooks.start()
    hooks.tell("take", [{"address": "10.0.0.1"}])
    hooks.tell("release", [{"address": "10.0.0.1"}])
    until(lambda: hooks.failures == 2, "both failed, and nothing waited")
    os.kill(int(pids.read_text()), signal.SIGKILL)
    hooks.close()


def test_the_last_words_of_a_hook_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    body = "import sys; sys.stderr.write('x' * 5_000_000 + 'the reason'); sys.exit(7)"
    hooks = Hooks(HookSettings(take=hook(tmp_path, body)))
    hooks.start()
    hooks.tell("take", [{"address": "10.0.0.1"}])
    hooks.close()
    assert re.search("exit code 7: x{190}the reason$", caplog.text, re.MULTILINE)


# ---- history ---------------------------------------------------------------------------------------------------------


def entry(number: int) -> Entry:
    return Entry(float(number), f"10.0.0.{number}", "gold", "n1", "n2", "drained", "n2")


def test_changes_are_written_to_a_log(tmp_path: Path):
    jlogd.create(tmp_path / "log", subscribers=["all"])
    history = History(str(tmp_path / "log"))
    history.start()
    for number in range(3):
        history.note(entry(number), write=number != 1)
    until(lambda: _records(tmp_path / "log") == 2, "two are written")
    history.close()
    assert [known.address for known in history.last(2)] == ["10.0.0.1", "10.0.0.2"]


def _records(path: Path) -> int:
    with jlogd.open(path) as log, log.subscriber() as reader:
        found = [json.loads(record) for batch in reader for record in batch]
    assert all(record["why"] == "drained" for record in found)
    return len(found)


def test_a_log_that_is_away_holds_up_nothing(tmp_path: Path):
    history = History(str(tmp_path / "none"))
    history.start()
    history.note(entry(1), write=True)
    until(lambda: history.failure, "it is told")
    history.close()


# ---- links and hands -------------------------------------------------------------------------------------------------


def test_a_link_must_stay_before_it_counts():
    links = Links()
    assert links.stable(0, {"eth1"}) == {"eth1"}, "at the start it counts at once"
    assert links.stable(SECOND, set()) == set()
    assert links.stable(2 * SECOND, {"eth1"}) == set()
    assert links.stable(2 * SECOND + STABLE_NS, {"eth1"}) == {"eth1"}


class SlowKernel:
    """Probes until it is let go."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.calls: list[str] = []

    def probe(self, addresses, window_ns):
        self.calls.append("probe")
        self.go.wait(30)
        return {}

    def add(self, addresses, deadline_ns):
        self.calls.append(f"add before {deadline_ns}")
        return dict.fromkeys(addresses, "past the deadline") if not deadline_ns else {}

    def announce(self, addresses):
        self.calls.append(f"announce {len(addresses)}")

    def remove_all(self):
        self.calls.append("remove all")
        return []


class Told:
    def __init__(self) -> None:
        self.told: list[object] = []

    def taken(self, taken: Taken) -> None:
        self.told.append(taken)

    def removed_all(self, failed: str) -> None:
        self.told.append(failed)


def test_removing_everything_goes_first_and_the_deadline_is_read_late():
    kernel, told, deadline = SlowKernel(), Told(), [9 * SECOND]
    hands = Hands(kernel, 1, lambda: deadline[0], told)  # type: ignore[arg-type]
    hands.start()
    one, two = Floating("10.0.0.1", "eth1", 32), Floating("10.0.0.2", "eth1", 32)
    hands.put(Take((one,)))
    until(lambda: kernel.calls == ["probe"], "it has begun")
    hands.put(Take((two,)))
    deadline[0] = 0
    hands.put(RemoveAll())
    kernel.go.set()
    until(lambda: "remove all" in kernel.calls, "everything is removed")
    hands.close()
    assert kernel.calls == ["probe", "add before 0", "announce 0", "remove all"]
    assert told.told == [
        Taken((two,), failed={"10.0.0.2": "everything is being removed"}),
        Taken((one,), failed={"10.0.0.1": "past the deadline"}),
        "",
    ]


# ---- farewell --------------------------------------------------------------------------------------------------------


def test_last_words_reach_etcd_past_a_dead_member(tmp_path: Path):
    etcd = EtcdCluster(tmp_path)
    try:
        etcd.start().wait_ready()
        store = EtcdStore(EtcdSettings(etcd.endpoints))
        session = Session(KEYS, "n1", TIMING)
        assert session.opened(0, store.commit(session.opening(SessionRecord()), within=30))
        (port,) = free_ports(1)
        endpoints = (f"http://127.0.0.1:{port}", *etcd.endpoints)
        words = farewell.compose(endpoints, txn_body(session.farewell(GoneRecord())))
        farewell.say(words)
        found = {KEYS.split(item.key)[0]: item.value for item in store.read(KEYS.prefix, within=30).items}
        assert set(found) == {"gone"}
        assert msgspec.json.decode(found["gone"], type=GoneRecord).clean
        store.close()
    finally:
        etcd.stop()


def test_last_words_reach_the_file_of_a_single_machine(tmp_path: Path):
    """They end that very session, and make no file where there is none."""
    path = tmp_path / "solo.db"
    store = SoloStore(path)
    session = Session(KEYS, "n1", TIMING)
    assert session.opened(0, store.commit(session.opening(SessionRecord()), within=30))
    settings = parse(f'[vip]\nnode = "n1"\nstore = "solo"\nsolo_file = "{path}"')
    words = farewell_of(settings, session.farewell(GoneRecord(wait=TIMING.wait)), "")
    farewell.say(words)
    found = {KEYS.split(item.key)[0]: item.value for item in store.read(KEYS.prefix, within=30).items}
    assert set(found) == {"gone"}
    gone = msgspec.json.decode(found["gone"], type=GoneRecord)
    assert (gone.clean, gone.session) == (True, session.revision)

    later = Session(KEYS, "n1", TIMING)
    assert later.opened(0, store.commit(later.opening(SessionRecord()), within=30))
    farewell.say(words)
    assert store.read(KEYS.session("n1"), within=30).items, "the end of one session is not that of the next"
    store.close()
    elsewhere = tmp_path / "no" / "file"
    farewell.say(farewell.compose_solo(str(elsewhere), ("a", 1), ("b", b"c")))
    assert not elsewhere.parent.exists()


@pytest.mark.parametrize("words", [b"", b"nonsense", farewell.compose(("http://127.0.0.1:1",), {})])
def test_last_words_never_raise_and_never_hang(words: bytes):
    started = time.monotonic()
    farewell.say(words)
    assert time.monotonic() - started < 30
