"""What a store, a network and a clock do to a cluster in its later years; no address is announced twice by any of it.

Three nodes with real daemons and three members of etcd that want a login over https and whose disks can be made slow.
As in `test_vip_cluster`, one cluster lives through all of it, in this order, and every scenario is judged by the
kernel's word from all namespaces and by what was on the wire. Where nothing is to move, a move has its reason in the
log: on a machine that is too slow for the window.
"""

from __future__ import annotations

import os
import secrets
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fault_support import failing_mount, jumping_clock, missing
from vip_lab import Lab
from vip_net import inside

pytestmark = pytest.mark.slow

WINDOW = 2.0
SETTINGS = f'heartbeat = "200ms"\nwindow = "{WINDOW:g}s"\nmax_moves = 4\n'
ETCD = ("--heartbeat-interval", "50", "--election-timeout", "500", "--quota-backend-bytes", str(16 << 20))
FREEZER = Path("/sys/fs/cgroup/freezer")
Jump = Callable[[int], None]


class Cluster(Lab):
    """The lab, with the disk of etcd and the wall clock of one node in our hands."""

    disk: Path
    jump: Jump


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    directory = tmp_path_factory.mktemp("vip")
    disk = directory / "disk"
    with (
        failing_mount(disk) as control,
        jumping_clock(directory) as (environment, jump),
        Cluster(
            directory,
            nodes=3,
            addresses=6,
            settings=SETTINGS,
            etcd_options=ETCD,
            login=("vip", "secret"),
            etcd_directory=disk,
        ) as lab,
    ):
        lab.disk, lab.jump = control, jump
        lab.start("n2", "n3")
        lab.config("n1")
        lab.launch("n1", **environment)
        lab.until_spread(3)
        yield lab
        for name in list(lab.daemons):
            assert lab.stop(name) == 0


@pytest.fixture
def lab(cluster: Cluster) -> Cluster:
    """The cluster, whole again."""
    cluster.net.heal_all()
    cluster.disk.write_text("")
    for name in cluster.names:
        if name not in cluster.daemons:
            cluster.launch(name)
    cluster.until_spread(3)
    return cluster


def logs(lab: Lab) -> str:
    return "".join((lab.directory / f"{name}.log").read_text() for name in lab.names)


@contextmanager
def nothing_moves(lab: Lab) -> Iterator[None]:
    """Unless the machine was too slow for the window, which the log says then."""
    before, told = lab.holders(), len(logs(lab))
    with lab.scenario(), lab.client():
        yield
        lab.until_all_held()
    said = logs(lab)[told:]
    late = "no heartbeat was committed in time" in said or "was silent for" in said or "ended it" in said
    assert late or lab.holders() == before, f"moved without need\n{said}"


def streams_break(lab: Lab, name: str) -> float:
    metrics = lab.net.run(name, "curl", "-s", "-m", "10", "http://127.0.0.1:5185/metrics")
    return next(float(line.split()[1]) for line in metrics.splitlines() if line.startswith("vip_stream_breaks_total "))


def test_the_wall_clock_jumps(lab: Cluster):
    """An hour ahead, an hour back, to another century: it is for people, and decides nothing."""
    with nothing_moves(lab):
        for hours in (1, -1, 900_000, 0):
            lab.mark(f"the wall clock of n1 is {hours} hours off")
            lab.jump(hours * 3600)
            time.sleep(WINDOW * 0.75)
    assert "held up for" not in (lab.directory / "n1.log").read_text()


def test_connections_that_are_dead_and_do_not_know_it(lab: Cluster):
    """Whatever stands between n1 and etcd is forgotten on the way, silently; new connections work."""
    before = streams_break(lab, "n1")
    with nothing_moves(lab), half_open(lab, "n1"):
        lab.until(lambda: streams_break(lab, "n1") > before, "the watch was given up")
        time.sleep(WINDOW)
        assert "not there yet" not in lab.vip("n1", "show", code=None)
    victim = lab.until_all_held()[lab.sampled[0]]
    with lab.scenario():  # and they hear of each other again
        lab.vip("n1", "drain", victim)
        lab.until_all_held([name for name in lab.names if name != victim])
        lab.vip("n1", "undrain", victim)


@contextmanager
def half_open(lab: Lab, name: str) -> Iterator[None]:
    """What is connected to etcd now is dropped from now on, both ways."""
    with inside(lab.net.namespace(name)):
        text = Path("/proc/thread-self/net/tcp").read_text()
    rows = [line.split() for line in text.splitlines()[1:]]
    ports = [str(int(row[1].split(":")[1], 16)) for row in rows if row[2].endswith(f":{2379:04X}") and row[3] == "01"]
    assert len(ports) >= 2, "at least the heartbeats and the watch"
    dropped = f"{{ {', '.join(sorted(ports))} }}"
    for command in (
        "add table inet dead",
        "add chain inet dead in { type filter hook input priority 0; }",
        "add chain inet dead out { type filter hook output priority 0; }",
        f"add rule inet dead in tcp sport 2379 tcp dport {dropped} drop",
        f"add rule inet dead out tcp dport 2379 tcp sport {dropped} drop",
    ):
        lab.net.run(name, "nft", command)
    lab.mark(f"{len(ports)} connections of {name} are dead")
    try:
        yield
    finally:
        lab.net.run(name, "nft", "delete table inet dead")


def test_packets_are_lost(lab: Cluster):
    """Every tenth, both ways, of every node: TCP and the next heartbeat make up for it."""
    with nothing_moves(lab):
        lose(lab, 0.1)
        time.sleep(WINDOW * 2)
        lab.net.heal_all()


def test_most_packets_are_lost(lab: Cluster):
    """Then addresses move, again and again perhaps; never to two nodes."""
    with lab.scenario(), lab.client():
        lose(lab, 0.5)
        time.sleep(WINDOW * 3)
        lab.net.heal_all()
        lab.until_spread(3)


def lose(lab: Lab, part: float) -> None:
    lab.mark(f"{part:.0%} of all packets between nodes and etcd are lost")
    for name in lab.names:
        for member in lab.etcd_names:
            lab.net.cut(name, member, "mgmt", part)
            lab.net.cut(member, name, "mgmt", part)


def test_the_disks_of_etcd_are_slow(lab: Cluster):
    """Every sync of every member takes a third of a second: heartbeats are late, and still in time."""
    with nothing_moves(lab):
        lab.mark("slow disks")
        lab.disk.write_text("fsync=300")
        time.sleep(WINDOW * 3)
        lab.disk.write_text("")


def test_the_disks_of_etcd_stall(lab: Cluster):
    """Longer than the window: addresses go, and come back with the store."""
    with lab.scenario(), lab.client():
        lab.disk.write_text("fsync=4000")
        lab.until(lambda: not any(lab.kernel.holders(a) for a in lab.addresses), "every address is released")
        lab.disk.write_text("")
        lab.until_spread(3)


def test_a_rolling_restart_of_etcd(lab: Cluster):
    """One member after the other: nothing moves; each has forgotten who is logged in, and everybody logs in again."""
    with nothing_moves(lab):
        for at, member in enumerate(lab.etcd.members):
            lab.mark(f"restart {lab.etcd_names[at]}")
            member.send(signal.SIGTERM)
            assert member.process is not None
            member.process.wait(60)
            member.start()
            with inside(lab.net.namespace("client")):
                lab.etcd.wait_ready()
            time.sleep(0.5)
    victim = lab.until_all_held()[lab.sampled[0]]
    with lab.scenario():  # all of them hear of each other still
        lab.send(victim, signal.SIGKILL)
        lab.daemons.pop(victim).wait()
        lab.until_all_held([name for name in lab.names if name != victim])


def test_daemon_and_guard_are_frozen(lab: Cluster):
    """By the kernel, as when a container is paused: not one instruction is theirs, and only the gate is left."""
    victim = lab.holder(lab.sampled[0])
    others = {name for name in lab.names if name != victim}
    with lab.scenario(frozen=True), lab.client(), freezer(lab.process(victim), lab.guard_of(victim)) as freeze:
        lab.mark(f"{victim} is frozen")
        freeze(True)
        lab.until(lambda: all(lab.kernel.holders(a) & others for a in lab.addresses), "the others take over")
        time.sleep(WINDOW)
        lab.mark(f"{victim} is thawed")
        freeze(False)
        lab.until_spread(3)


@contextmanager
def freezer(*processes: int) -> Iterator[Callable[[bool], None]]:
    if not FREEZER.is_dir() or not os.access(FREEZER, os.W_OK):
        missing("there is no freezer of control groups, version 1")
    group = FREEZER / f"vipt-{secrets.token_hex(3)}"
    group.mkdir()
    for process in processes:
        (group / "cgroup.procs").write_text(str(process))

    def freeze(frozen: bool) -> None:
        (group / "freezer.state").write_text("FROZEN" if frozen else "THAWED")

    try:
        yield freeze
    finally:
        freeze(False)
        for process in (group / "cgroup.procs").read_text().split():
            (FREEZER / "cgroup.procs").write_text(process)
        group.rmdir()


def test_an_interface_gets_another_name(lab: Cluster):
    """For us it is gone, for the kernel it is not: its addresses go with the name they had."""
    victim = lab.holder(lab.sampled[0])
    with lab.scenario(), lab.client():
        lab.mark(f"lan of {victim} is called wan")
        lab.net.run(victim, "ip", "link", "set", "lan", "name", "wan")
        lab.until_all_held([name for name in lab.names if name != victim])
        lab.net.run(victim, "ip", "link", "set", "wan", "name", "lan")
        lab.until_spread(3)


def test_etcd_is_full(lab: Cluster):
    """No heartbeat is accepted: addresses go, every node says why, and they come back when there is room."""
    token = root_token(lab)
    with lab.scenario(), lab.client():
        lab.mark("fill etcd")
        with inside(lab.net.namespace("client")):
            fill(lab)
        lab.until(lambda: not any(lab.kernel.holders(a) for a in lab.addresses), "every address is released")
        for name in lab.names:
            lab.until(lambda name=name: "space exceeded" in str(lab.stat(name)["problems"]), "and it is said why")
        lab.mark("make room")
        with inside(lab.net.namespace("client")):
            make_room(lab, token)
        lab.until_spread(3)


def root_token(lab: Lab) -> str:
    with inside(lab.net.namespace("client")):
        return str(lab.etcd.ask("/v3/auth/authenticate", {"name": "root", "password": "secret"})["token"])


def fill(lab: Lab) -> None:
    from cluster.errors import StoreError
    from cluster.etcd import EtcdSettings, EtcdStore
    from cluster.types import Put, Txn

    store = EtcdStore(EtcdSettings(lab.etcd.endpoints, lab.etcd.tls, "root", "secret"))
    for number in range(200):
        try:
            store.commit(Txn(success=(Put(f"/filler/{number % 2}", bytes(900_000)),)), within=30)
        except StoreError as error:
            if "space exceeded" in str(error):
                break
    else:
        raise AssertionError("etcd does not fill up")
    store.close()


def make_room(lab: Lab, token: str) -> None:
    answer = lab.etcd.ask("/v3/kv/range", {"key": "AA=="}, token=token)
    revision = answer["header"]["revision"]  # type: ignore[index]
    lab.etcd.ask("/v3/kv/compaction", {"revision": revision, "physical": True}, token=token)
    for member in range(3):
        lab.etcd.ask("/v3/maintenance/defragment", {}, member, token)
    alarms = lab.etcd.ask("/v3/maintenance/alarm", {"action": "GET"}, token=token)["alarms"]
    for alarm in alarms:  # type: ignore[attr-defined]
        lab.etcd.ask("/v3/maintenance/alarm", {"action": "DEACTIVATE", **alarm}, token=token)
