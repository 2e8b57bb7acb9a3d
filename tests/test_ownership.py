"""Whose a spool is: one node, one host, one daemon; told in words, taken over on demand, never made by mistake."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cli_support import ROOT, done, failed, jlogctl
from daemon_support import SECONDS_MAX, RunningDaemon, daemon, until
from model_disk import ModelDisk, ModelProcess
from wire_support import Daemon as Served
from wire_support import make_log

import jlogd
from jlogd.errors import Fenced, FormatError, JlogError, OwnedElsewhere, SpoolInUse, SpoolMissing, UsageError
from jlogd.journal.batch import encode
from jlogd.journal.disk import PosixDisk
from jlogd.journal.head import OWNER, Owner, decode_owner
from jlogd.journal.journal import Journal
from jlogd.journal.locks import acquire, holder_elsewhere
from jlogd.journal.slots import SlotFile
from jlogd.journal.spool import FILE, HeldSpool, check_identity, hold_spool, read_identity, take_over_spool
from jlogd.journal.types import Receipt

SPOOL = Path("/spool")
OTHER = "11111111-2222-3333-4444-555555555555"


@pytest.fixture
def disk() -> ModelDisk:
    return ModelDisk()


def hold(process: ModelProcess, node: str = "east1", **options: Any) -> HeldSpool:
    return hold_spool(SPOOL, node, disk=process, **options)


def with_logs(process: ModelProcess, *names: str) -> None:
    for name in names:
        Journal.create(SPOOL / name, disk=process)
        with Journal.open(SPOOL / name, process) as journal:
            assert isinstance(journal.commit([encode([name.encode()])])[0], Receipt)


def owners(process: ModelProcess) -> dict[str, tuple[str, int]]:
    found = {}
    for name in sorted(process.listdir(SPOOL)):
        if not name.startswith("."):
            file = SlotFile.open(process, SPOOL / name / "owner", OWNER)
            owner = decode_owner(file.read(), name)
            found[name] = (owner.host, owner.epoch)
    return found


# ---- the identity ----------------------------------------------------------------------------------------------------


def test_a_spool_keeps_its_identity_and_its_host(disk: ModelDisk) -> None:
    first = hold(disk.process("a"))
    first.release()
    again = hold(disk.process("a"))
    assert again.identity == first.identity == read_identity(SPOOL, disk.process("a"))
    assert (first.identity.node, first.identity.host) == ("east1", "host-a")


def test_one_daemon_for_a_spool(disk: ModelDisk) -> None:
    first = hold(disk.process("a"))
    with pytest.raises(SpoolInUse, match=r"in use by node east1, host host-a \(a\), pid \d+ since"):
        hold(disk.process("a"))
    first.release()
    hold(disk.process("a")).release()


def test_two_nodes_pointed_at_one_directory(disk: ModelDisk) -> None:
    held = hold(disk.process("a"))
    for process in (disk.process("a"), disk.process("b")):
        with pytest.raises(OwnedElsewhere, match=r"that of node east1 on host host-a .* this is node east2.*%\{node\}"):
            hold(process, "east2")
        with pytest.raises(OwnedElsewhere, match="--node east2"):
            hold(process, "east2", take_over=True)  # another host, yes; another node, only by hand
    held.release()


def test_a_second_host_is_told_whose_it_is_and_what_to_do(disk: ModelDisk) -> None:
    hold(disk.process("a")).release()
    with pytest.raises(
        OwnedElsewhere, match=r"node east1 on host host-a \(a, since 20.*this is host host-b.*jlogctl takeover /spool"
    ):
        hold(disk.process("b"))


def test_a_spool_that_was_never_held_is_not_claimed_over_the_logs_of_another_host(disk: ModelDisk) -> None:
    with_logs(disk.process("a"), "one")
    with pytest.raises(OwnedElsewhere, match=r"/spool/one is owned by host host-a since epoch 1 .*takeover /spool"):
        hold(disk.process("b"))
    assert read_identity(SPOOL, disk.process("a")) is None
    hold(disk.process("a")).release()


def test_a_demanded_spool(disk: ModelDisk) -> None:
    process = disk.process("a")
    with pytest.raises(SpoolMissing, match=r"nothing there says so\. Is its mount missing"):
        hold(process, demanded=OTHER)
    assert read_identity(SPOOL, process) is None
    with pytest.raises(SpoolMissing):
        check_identity(SPOOL / "nothing", "east1", demanded=OTHER, disk=process)
    held = hold(process)
    held.release()
    with pytest.raises(SpoolMissing, match=f"that is {held.identity.uuid}, of node east1"):
        hold(process, demanded=OTHER)
    hold(process, demanded=held.identity.uuid).release()


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"uuid": 7}'])
def test_a_damaged_identity_is_not_guessed(disk: ModelDisk, data: bytes) -> None:
    process = disk.process("a")
    hold(process).release()
    good = process.open(SPOOL / FILE, "read").pread(4096, 0)
    for bad in (data, good.replace(b"east1", b"east2")):
        process.unlink(SPOOL / FILE)
        process.open(SPOOL / FILE, "create").append([bad])
        with pytest.raises(FormatError, match="identity of the spool"):
            hold(process)


def test_a_crash_at_every_call_leaves_a_spool_that_can_be_held(disk: ModelDisk) -> None:
    process = disk.process("a")
    with_logs(process, "one")
    for seed in range(20):
        hold(process).release()
        after = disk.crash(seed)
        found = read_identity(SPOOL, after)
        assert found is not None and found.node == "east1"
        process = after


# ---- taking over -----------------------------------------------------------------------------------------------------


def test_a_takeover_of_a_spool_takes_all_of_its_logs(disk: ModelDisk) -> None:
    a, b = disk.process("a"), disk.process("b")
    former = hold(a)
    with_logs(a, "one", "two")
    with_logs(b, "mine")
    with pytest.raises(SpoolInUse, match="node east1"):
        take_over_spool(SPOOL, disk=b)
    assert not former.lost()
    disk.lose_locks(a)
    told: list[str] = []
    take_over_spool(SPOOL, disk=b, tell=told.append)
    assert [line.split(":")[0] for line in told] == ["one", "two", "/spool"]
    assert all("host-a" in line for line in told)
    assert {host for host, _ in owners(b).values()} == {"host-b"} and owners(b)["one"][1] > 1
    assert "was taken over: it is that of node east1 on host host-b" in former.lost()
    held = hold(b)
    assert held.identity.uuid == former.identity.uuid
    with Journal.open(SPOOL / "one", b) as journal:
        assert [list(batch) for batch in journal.cursor("begin").read(1 << 20)] == [[b"one"]]
    held.release()
    told.clear()
    take_over_spool(SPOOL, disk=b, tell=told.append)
    assert told == [], "a second time there is nothing to do"


def test_a_takeover_is_refused_before_anything_is_changed(disk: ModelDisk) -> None:
    a, b = disk.process("a"), disk.process("b")
    hold(a).release()
    with_logs(a, "one", "two")
    writer = Journal.open(SPOOL / "two", a)
    before = owners(a)
    with pytest.raises(OwnedElsewhere, match=r"/spool/two is in use: it is owned by host host-a"):
        take_over_spool(SPOOL, disk=b)
    with pytest.raises(OwnedElsewhere, match="is in use"):
        hold(b, take_over=True)
    assert owners(a) == before and read_identity(SPOOL, b).host == "host-a"  # type: ignore[union-attr]
    writer.close()
    take_over_spool(SPOOL, disk=b)


def test_a_daemon_takes_over_only_where_it_is_told_to(disk: ModelDisk) -> None:
    a, b = disk.process("a"), disk.process("b")
    hold(a).release()
    with_logs(a, "one")
    with pytest.raises(OwnedElsewhere):
        hold(b)
    told: list[str] = []
    assert hold(b, take_over=True, tell=told.append).identity.host == "host-b"
    assert len(told) == 1 and owners(b)["one"][0] == "host-b"


def test_a_takeover_gives_a_spool_to_another_node(disk: ModelDisk) -> None:
    process = disk.process("a")
    with pytest.raises(UsageError, match="belongs to no node"):
        take_over_spool(SPOOL, node="east2", disk=process)
    first = hold(process).identity
    with pytest.raises(UsageError):
        take_over_spool(SPOOL, node="../x", disk=disk.process("a"))
    disk.lose_locks(process)
    take_over_spool(SPOOL, node="east2", disk=process)
    second = hold(process, "east2").identity
    assert (second.uuid, second.created, second.host) == (first.uuid, first.created, first.host)


def test_since_when_a_host_owns_a_log_outlives_its_recoveries(disk: ModelDisk) -> None:
    a, b = disk.process("a"), disk.process("b")
    with_logs(a, "one")

    def owner() -> Owner:
        return decode_owner(SlotFile.open(b, SPOOL / "one" / "owner", OWNER).read(), "one")

    first = owner()
    again = disk.crash(1)
    Journal.open(SPOOL / "one", again).close()
    b = disk.process("b")
    assert owner().epoch > first.epoch and owner().since == first.since > 0 and owner().name == "a"
    Journal.take_over(SPOOL / "one", b).close()
    assert owner().since > first.since and owner().name == "b"


def test_an_owner_of_old_is_read(disk: ModelDisk) -> None:
    new = Owner(7, "h", "b", 5, "näme")
    assert decode_owner(new.encode(), "x") == new
    old = new.encode()[: 8 + 2]
    assert decode_owner(old, "x") == Owner(7, "h", "b")
    assert decode_owner(old, "x").told == "host h since epoch 7"


# ---- the commands ----------------------------------------------------------------------------------------------------


@pytest.fixture
def elsewhere(spool: Path) -> Path:
    """A spool with two logs and a daemon's identity, all of another host."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JLOGD_HOST_ID": "other-host"}
    code = (
        "import sys, jlogd\nfrom pathlib import Path\nfrom jlogd.journal.spool import hold_spool\n"
        "hold_spool(Path(sys.argv[1]), 'east1').release()\n"
        "for name in ('one', 'two'):\n    jlogd.create(f'{sys.argv[1]}/{name}')\n"
    )
    subprocess.run([sys.executable, "-c", code, str(spool)], check=True, env=environment, timeout=SECONDS_MAX)
    return spool


def test_owner_shows_who_where_and_since_when(elsewhere: Path) -> None:
    jlogd.create(elsewhere / "three")
    ended = done(jlogctl("owner", elsewhere))
    assert "of node east1, on host other-host (" in ended.lines[0] and ended.lines[0].endswith("no daemon runs on it")
    assert "one" in ended.lines[2] and "other-host" in ended.lines[2] and " no" in ended.lines[2]
    assert "(this)" in next(line for line in ended.lines if line.startswith("three"))
    found = done(jlogctl("owner", elsewhere, "--json")).objects
    assert [(one["kind"], Path(one["path"]).name, one["this_host"]) for one in found] == [
        ("spool", "spool", False), ("log", "one", False), ("log", "three", True), ("log", "two", False),
    ]  # fmt: skip
    assert all(one["held"] is False and one["since"] > 1.7e9 and 0 <= one["age"] < 1e6 for one in found)
    assert found[1]["boot"].endswith("/other-host") and found[1]["epoch"] == 1 and found[0]["uuid"]
    [single] = done(jlogctl("owner", elsewhere / "one", "--json")).objects
    assert single["host"] == "other-host"


HOLD = """
import sys
from jlogd.journal.journal import Journal

journal = Journal.open(sys.argv[1])
print(1, flush=True)
sys.stdin.read()
"""
ASK = """
import sys
from pathlib import Path
from jlogd.journal.locks import holder_elsewhere

print(holder_elsewhere(Path(sys.argv[1])))
"""


def surroundings(host: str = "") -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), **({"JLOGD_HOST_ID": host} if host else {})}


@contextmanager
def holding(log: Path, host: str = "") -> Iterator[int]:
    """Another process, of this host or another, that has a log open to write."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(log)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=surroundings(host)
    )
    try:
        assert process.stdout is not None and process.stdout.readline() == b"1\n"
        yield process.pid
    finally:
        process.kill()
        process.communicate(timeout=SECONDS_MAX)


def test_owner_tells_who_holds_a_log_and_disturbs_nobody(spool: Path) -> None:
    log = spool / "one"
    jlogd.create(log)
    with holding(log) as pid:
        [found] = done(jlogctl("owner", log, "--json")).objects
        assert (found["held"], found["pid"]) == (True, pid)
        assert f"by pid {pid}" in done(jlogctl("owner", log)).out
    until(lambda: holder_elsewhere(log / "owner.lock") is None, "the lock is free")
    assert holder_elsewhere(spool / "nothing.lock") is None and not (spool / "nothing.lock").exists()


def test_looking_for_a_holder_drops_no_lock_of_this_process(spool: Path) -> None:
    path = spool / "x.lock"
    with acquire(path):
        assert holder_elsewhere(path) is None  # it is this process
        command = [sys.executable, "-c", ASK, str(path)]
        told = subprocess.run(command, capture_output=True, text=True, env=surroundings(), timeout=SECONDS_MAX)
        assert told.stdout == f"{os.getpid()}\n"


def test_takeover_of_one_log_and_of_a_spool(elsewhere: Path) -> None:
    failed(jlogctl("append", elsewhere / "one", stdin=b"x\n"), 3, "other-host", f"jlogctl takeover {elsewhere / 'one'}")
    assert "was owned by host other-host since epoch 1" in done(jlogctl("takeover", elsewhere / "one")).out
    done(jlogctl("append", elsewhere / "one", stdin=b"x\n"))
    assert "owns it already" in done(jlogctl("takeover", elsewhere / "one")).out
    failed(jlogctl("takeover", elsewhere / "one", "--node", "x"), 2, "--node is for a spool")
    lines = done(jlogctl("takeover", elsewhere)).lines
    assert [line.split(":")[0] for line in lines] == ["two", str(elsewhere)]
    assert "owns it already" in done(jlogctl("takeover", elsewhere)).out
    done(jlogctl("takeover", elsewhere, "--node", "east2"))
    assert read_identity(elsewhere).node == "east2"  # type: ignore[union-attr]


def test_takeover_is_refused_while_the_owner_lives(elsewhere: Path) -> None:
    with holding(elsewhere / "two", "other-host"):
        failed(jlogctl("takeover", elsewhere), 3, "two is in use", "owned by host other-host")
        failed(jlogctl("takeover", elsewhere / "two"), 3, "is in use", "stop jlogd there")
        [one] = done(jlogctl("owner", elsewhere / "one", "--json")).objects
        assert one["host"] == "other-host", "nothing is changed when it is refused"
    done(jlogctl("takeover", elsewhere))


@pytest.mark.parametrize("command", ["owner", "takeover"])
def test_mistakes(command: str, spool: Path) -> None:
    failed(jlogctl(command, spool), 1, "no daemon has run on it")
    failed(jlogctl(command, spool / "nothing"), 1, "is its mount missing?")
    failed(jlogctl(command, "tcp://127.0.0.1:5140/mainlog"), 2, "give the directory")


def test_an_owner_that_cannot_be_read_hides_no_other(spool: Path) -> None:
    for name in ("one", "two"):
        jlogd.create(spool / name)
    (spool / "one" / "owner").write_bytes(b"x" * 5000)
    ended = jlogctl("owner", spool)
    assert ended.code == 1 and "two" in ended.out and "warning" in ended.err


# ---- the host's identity ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["a b", "x" * 129, "ä", "a/b"])
def test_a_host_identity_that_cannot_be_one(spool: Path, given: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "jlogd.cli.jlogctl", "create", str(spool / "log")],
        env={**os.environ, "PYTHONPATH": str(ROOT), "JLOGD_HOST_ID": given}, capture_output=True, text=True,
    )  # fmt: skip
    assert ended.returncode == 2 and "JLOGD_HOST_ID=" in ended.stderr and "Traceback" not in ended.stderr


# ---- daemons ---------------------------------------------------------------------------------------------------------


@contextmanager
def refused(running: RunningDaemon, code: int = 3) -> Iterator[str]:
    """A daemon that does not start, and what it said."""
    try:
        assert running.process.wait(SECONDS_MAX) == code, running.errors.read_text()
        said = running.errors.read_text()
        assert "Traceback" not in said
        yield said
    finally:
        running.process.kill()
        running.process.wait()


def second(
    running: RunningDaemon, directory: Path, name: str = "east1", node: str = "", **environment: str
) -> RunningDaemon:
    """Another daemon with ports of its own on the spool of `running`."""
    directory.mkdir()
    other = RunningDaemon(directory)
    other.process.kill()
    other.process.wait()
    text = other.config.read_text().replace(str(other.spool), str(running.spool)).replace('"east1"', f'"{name}"')
    other.config.write_text(text.replace("[listen]", f"{node}\n[listen]"))
    other.launch(**environment)
    return other


def test_daemons_that_are_pointed_at_one_spool(tmp_path: Path) -> None:
    with daemon(tmp_path) as running:
        [spool] = [one for one in done(jlogctl("owner", running.spool, "--json")).objects if one["kind"] == "spool"]
        assert (spool["node"], spool["held"], spool["pid"]) == ("east1", True, running.process.pid)
        with refused(second(running, tmp_path / "b")) as said:
            assert "is in use by node east1" in said and f"pid {running.process.pid}" in said
        with refused(second(running, tmp_path / "c", "east2")) as said:
            assert "is that of node east1 on host" in said and "this is node east2" in said
        with refused(second(running, tmp_path / "d", JLOGD_HOST_ID="host-two")) as said:
            assert "is that of node east1 on host" in said and "this is host host-two" in said
        with refused(second(running, tmp_path / "e", node="take_over = true", JLOGD_HOST_ID="host-two")) as said:
            assert "is in use by node east1" in said, "the first one lives"
        failed(jlogctl("takeover", running.spool), 3, "is in use by node east1")
        assert running.get("/healthz")[0] == 200
        assert running.end() == 0
        other = second(running, tmp_path / "f", node="take_over = true", JLOGD_HOST_ID="host-two")
        try:
            other.wait_ready()
            assert other.said("mainlog: was owned by host")
            assert json.loads(other.get("/stat")[1])[0]["owner"] == "host-two"
            assert other.end() == 0
        finally:
            other.process.kill()
            other.process.wait()


class Elsewhere(PosixDisk):
    """The same files, seen by another host."""

    def host(self) -> str:
        return "host-two"


def test_a_writer_over_the_wire_is_told_whose_the_log_is_now(spool: Path) -> None:
    make_log(spool)
    told = pytest.raises((Fenced, OwnedElsewhere), match="owned by host host-two")
    with Served(spool) as served, jlogd.open(served.target()) as log, told, log.writer() as writer:
        writer.append(b"before")
        writer.flush()
        for path in list(spool.rglob("*.lock")):
            path.unlink()  # as when the lease of a host that was cut off is over
        Journal.take_over(spool / "mainlog", Elsewhere()).close()
        writer.append(b"after")
        writer.flush()
    with jlogd.open(spool / "mainlog") as log, log.subscriber() as reader:
        assert [record for batch in reader for record in batch] == [b"before"]


def test_a_missing_mount_is_told_and_nothing_is_made_in_its_place(tmp_path: Path) -> None:
    with daemon(tmp_path) as running:
        identity = read_identity(running.spool)
        assert identity is not None and running.end() == 0
        config = running.config.read_text()
        running.config.write_text(config.replace("[listen]", f'spool_identity = "{identity.uuid}"\n[listen]'))
        running.launch()
        running.wait_ready()
        assert running.end() == 0
        running.spool.rename(tmp_path / "unmounted")
        for make in (lambda: None, running.spool.mkdir):  # no directory, and the empty one of a mount point
            make()
            running.launch()
            with refused(running) as said:
                assert "Is its mount missing?" in said
        assert list(running.spool.iterdir()) == []


def test_a_node_of_the_template_gets_a_spool_of_its_own(tmp_path: Path) -> None:
    running = RunningDaemon(tmp_path)
    running.process.kill()
    running.process.wait()
    running.config.write_text(running.config.read_text().replace(str(running.spool), str(tmp_path / "san" / "%{node}")))
    running.launch()
    try:
        running.wait_ready()
        assert (tmp_path / "san" / "east1" / "mainlog").is_dir()
        assert running.end() == 0
    finally:
        running.process.kill()
        running.process.wait()


def test_errors_of_ownership_are_known_on_the_wire() -> None:
    from jlogd.errors import from_wire

    for kind in (SpoolMissing, SpoolInUse):
        assert type(from_wire(kind.code, "x")) is kind and issubclass(kind, JlogError)
