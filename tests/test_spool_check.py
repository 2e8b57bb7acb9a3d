"""`jlogctl check-spool` and what a daemon asks at its start, on the disk that the tests run on."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cli_support import done, failed, jlogctl, process
from fault_support import missing

from jlogd.errors import FormatError, LogNotFound, SpoolUnfit, UsageError
from jlogd.journal import disk
from jlogd.spoolcheck import agent as agent_module
from jlogd.spoolcheck import check, file_checks, helpers, peer_checks, verdict
from jlogd.spoolcheck.agent import OPERATIONS, Agent
from jlogd.spoolcheck.check import admit, quick_check
from jlogd.spoolcheck.file_checks import too_fast
from jlogd.spoolcheck.findings import Finding, failures
from jlogd.spoolcheck.findings import failed as fail
from jlogd.spoolcheck.findings import passed as pass_
from jlogd.spoolcheck.helpers import Crew, LocalHelper, NoAnswer
from jlogd.spoolcheck.lock_checks import classify, try_lock
from jlogd.spoolcheck.mountinfo import Device, Facts, Mount
from jlogd.spoolcheck.peer import RemoteHelper, Server, parse_address
from jlogd.spoolcheck.verdict import risks

LOCAL_DISKS = ("ext4", "xfs", "btrfs", "f2fs", "zfs", "overlay", "tmpfs")


def local(spool: Path) -> None:
    """Skip where the temporary directory is on something that the check rightly refuses."""
    kind = subprocess.run(["stat", "-f", "-c", "%T", spool], capture_output=True, text=True).stdout.strip()
    if kind not in (*LOCAL_DISKS, "ext2/ext3", "overlayfs"):
        missing(f"temporary files are on {kind}, which is not known to be fit for logs")


@contextmanager
def serving(directory: Path) -> Iterator[tuple[str, int]]:
    with process("check-spool", directory, "--serve", "127.0.0.1:0") as server:
        assert server.stdout is not None
        told = re.fullmatch(rb"serving .* at 127\.0\.0\.1:(\d+); Ctrl-C ends it\n", server.stdout.readline())
        assert told is not None
        yield "127.0.0.1", int(told[1])


def test_the_machines_disk_is_fit(spool: Path) -> None:
    local(spool)
    ended = done(jlogctl("check-spool", spool))
    for name in ("mount.", "lock.posix.excludes", "lock.posix.killed", "lock.posix.wait", "file.rename", "sync.time"):
        assert re.search(rf"^(PASS|UNKNOWN) +{re.escape(name)}", ended.out, re.M), ended.out
    assert f"{spool}: fit for logs: " in ended.lines[-1] and ", 0 failed, " in ended.lines[-1]
    assert sorted(path.name for path in spool.iterdir()) == [verdict.FILE, verdict.LOCK_FILE]


def test_json_is_a_line_a_check_and_what_the_spool_remembers(spool: Path) -> None:
    local(spool)
    found = done(jlogctl("check-spool", spool, "--json")).objects
    assert all(set(one) == {"check", "status", "reason", "remedy", "numbers"} for one in found)
    kept = verdict.read(spool)
    assert [one["check"] for one in found] == [one.check for one in kept.findings]
    assert kept.peer == "" and kept.version and time.time_ns() - kept.time < 60e9
    assert next(one for one in found if one["check"] == "sync.time")["numbers"]["p99_seconds"] > 0


def test_the_quick_checks_are_quick_and_leave_nothing(spool: Path) -> None:
    local(spool)
    found = quick_check(spool)
    assert not failures(found) and {"lock.posix.works", "lock.posix.fork"} <= {one.check for one in found}
    assert list(spool.iterdir()) == []


def test_scratch_directories_of_killed_checks_are_swept(spool: Path) -> None:
    old, young, other = (spool / name for name in (f".spool-check-{'0' * 16}", f".spool-check-{'1' * 16}", ".spool-x"))
    for path in (old, young, other):
        path.mkdir()
        (path / "file").touch()
    os.utime(old, (0, 0))
    os.utime(other, (0, 0))
    quick_check(spool)
    assert not old.exists() and young.exists() and other.exists()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("/no/such/place",), 1, "there is no directory"),
        (("tcp://127.0.0.1:5140",), 2, "give its path"),
        (("{spool}", "--peer", "127.0.0.1:1", "--serve", "127.0.0.1:1"), 2, "give one of them"),
        (("{spool}", "--peer", "10.0.0.1:5190"), 2, "not a loopback address"),
        (("{spool}", "--serve", "0.0.0.0:5190"), 2, "--insecure"),
        (("{spool}", "--serve", "san:5190"), 2, "not a loopback address"),
        (("{spool}", "--serve", "5190"), 2, "write HOST:PORT"),
        (("{spool}", "--serve", "127.0.0.1:99999"), 2, "write HOST:PORT"),
        (("{spool}", "--peer", "127.0.0.1:1"), 2, "there is no peer at 127.0.0.1:1"),
        (("{spool}", "--ring-time", "10ms"), 2, "--ring-time is from"),
    ],
)
def test_mistakes(spool: Path, arguments: tuple[str, ...], code: int, words: str) -> None:
    failed(jlogctl("check-spool", *(one.format(spool=spool) for one in arguments)), code, words)
    assert list(spool.iterdir()) == []


def test_addresses_beyond_this_host_are_allowed_when_that_is_declared() -> None:
    assert parse_address("10.0.0.1:5190", True) == ("10.0.0.1", 5190)
    assert parse_address("[fe80::1]:5190", True) == ("fe80::1", 5190)
    assert parse_address("localhost:5190", False) == ("127.0.0.1", 5190)
    assert parse_address("[::1]:0", False) == ("::1", 0)
    with pytest.raises(UsageError):
        parse_address("[fe80::1]:5190", False)


# Locks


def test_only_two_errors_of_a_lock_call_mean_that_somebody_has_it() -> None:
    assert {classify(number) for number in (errno.EAGAIN, errno.EACCES)} == {"contended"}
    assert classify(errno.EINTR) == "interrupted"
    for name in ("ENOLCK", "ENOSYS", "EOPNOTSUPP", "EINVAL", "EIO", "ESTALE", "EBADF"):
        assert classify(getattr(errno, name)) == "unusable"


def test_a_helper_that_does_not_answer_is_named_and_asked_no_more(spool: Path) -> None:
    with Crew(spool) as crew:
        crew.begin()
        with crew.pair() as (one, other):
            file, theirs = one.open("a", create=True), other.open("a")
            assert try_lock(one, file) and not try_lock(other, theirs)
            with pytest.raises(NoAnswer, match=r"lock did not return in 0 s"):
                other.ask("lock", file=theirs, flavour="posix", kind="exclusive", wait=True, within=0.2)
            with pytest.raises(NoAnswer, match=r"lock did not return in 0 s"):
                other.ask("listing")
            assert one.must("listing")["names"] == ["a"]
    assert list(spool.iterdir()) == []


def test_a_wait_ends_in_its_time(spool: Path) -> None:
    with Crew(spool) as crew:
        crew.begin()
        with crew.pair() as (one, other):
            file, theirs = one.open("a", create=True), other.open("a")
            try_lock(one, file)
            assert other.ask("lock", file=theirs, flavour="posix", kind="exclusive", wait=True, limit=0.1) == {
                "late": True
            }
            assert other.ask("listing") == {"names": ["a"]}


def test_an_answer_that_nobody_took_is_not_taken_for_the_next(spool: Path) -> None:
    with Crew(spool) as crew:
        crew.begin()
        crew.first.start("about")
        assert crew.first.must("listing") == {"names": []}


def test_a_hanging_mount_is_a_finding(spool: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    silent = tmp_path / "silent.py"
    silent.write_text("import time\ntime.sleep(60)\n")
    monkeypatch.setattr(helpers, "AGENT", silent)
    monkeypatch.setattr(helpers.Helper.ask, "__kwdefaults__", {"within": 0.3})
    monkeypatch.setattr(helpers.Helper.must, "__kwdefaults__", {"within": 0.3})
    (found,) = quick_check(spool)
    assert found.check == "mount.answers" and found.failed and "about did not return" in found.reason
    with pytest.raises(SpoolUnfit, match=r"about did not return"):
        admit(spool)


def test_a_directory_that_cannot_be_written(spool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(helpers.secrets, "token_hex", lambda size: "0" * 16)
    (spool / f".spool-check-{'0' * 16}").touch()  # as good as no permission, for root too
    assert [one.check for one in failures(quick_check(spool))] == ["mount.writable"]


# The agent does what it is told in its directory, and nothing else


def test_an_agent_leaves_its_directory_alone(spool: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    agent = Agent(str(spool))
    name = f".spool-check-{'a' * 16}"
    for bad in ("..", "../x", "/etc", "spool-check", f"{name}/..", "", 7, None, name * 9):
        assert "refused" in agent.answer({"do": "begin", "name": bad, "make": True})
    assert "refused" in agent.answer({"do": "open", "name": "a", "create": True})  # no scratch directory yet
    assert agent.answer({"do": "begin", "name": name, "make": True}) == {}
    for bad in ("..", "../secret", "/etc/passwd", "a/b", ".a", "", "A", 7, None, "a" * 99):
        for request in (
            {"do": "open", "name": bad, "create": True},
            {"do": "get", "name": bad},
            {"do": "put", "name": bad, "text": "x"},
            {"do": "unlink", "name": bad},
            {"do": "rename", "old": "a", "new": bad},
            {"do": "create_race", "prefix": bad, "count": 1},
        ):
            assert "refused" in agent.answer(request), request
    (spool / name / "link").symlink_to(secret)
    assert "errno" in agent.answer({"do": "get", "name": "link"})
    assert "errno" in agent.answer({"do": "put", "name": "link", "text": "x"})
    assert secret.read_text() == "secret"
    assert agent.answer({"do": "end"}) == {} and secret.exists() and list(spool.iterdir()) == []


@pytest.mark.parametrize(
    "request_",
    [
        None, 7, [], "about", {}, {"do": 7}, {"do": []}, {"do": "answer"}, {"do": "_open", "name": "a"},
        {"do": "__init__", "directory": "/"}, {"do": "lock"}, {"do": "lock", "file": 1, "flavour": "posix"},
        {"do": "lock", "file": 9, "flavour": "posix", "kind": "exclusive"},
        {"do": "append_loop", "name": "a", "tag": "a", "rounds": 10**9, "size": 1},
        {"do": "append_loop", "name": "a", "tag": "a", "rounds": 1, "size": 10**9},
        {"do": "ring", "name": "a", "locks": 3, "seconds": 1e9, "margin": 0},
        {"do": "ring", "name": "a", "locks": -1, "seconds": 1, "margin": 0},
        {"do": "read_loop", "name": "a", "seconds": "x"}, {"do": "put", "name": "a", "text": "x" * (2 << 20)},
        {"do": "about", "more": 1}, {"do": "sync", "file": 1, "how": "x"},
    ],
)  # fmt: skip
def test_requests_that_are_none_are_refused(spool: Path, request_: Any) -> None:
    agent = Agent(str(spool))
    agent.answer({"do": "begin", "name": f".spool-check-{'a' * 16}", "make": True})
    assert "refused" in agent.answer(request_), OPERATIONS.keys()


# A file that is replaced by rename


def test_loops_do_something_however_busy_the_machine_is(spool: Path) -> None:
    """A process that was not scheduled for the time of a loop must not leave unmade what the next one reads."""
    agent = Agent(str(spool))
    agent.answer({"do": "begin", "name": f".spool-check-{'a' * 16}", "make": True})
    assert agent.answer({"do": "replace_loop", "name": "a", "seconds": 0}) == {"done": 1}
    assert agent.answer({"do": "read_loop", "name": "a", "seconds": 0}) == {
        "reads": 1, "missing": 0, "late": 0, "stale": 0, "mixed": 0,
    }  # fmt: skip
    assert agent.answer({"do": "write_loop", "name": "b", "size": 512, "seconds": 0}) == {"done": 1}
    assert agent.answer({"do": "torn_loop", "name": "b", "size": 512, "seconds": 0}) == {"reads": 1, "torn": 0}


def stale_opens(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """The next `count` times a file is opened to read, it is stale."""
    real, left = os.open, [count]

    def opened(path: Any, flags: int, *args: Any, **options: Any) -> int:
        if left[0] and not flags & (os.O_RDWR | os.O_DIRECTORY | os.O_PATH):
            left[0] -= 1
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return real(path, flags, *args, **options)

    monkeypatch.setattr(os, "open", opened)


def test_a_stale_file_is_looked_at_again_as_the_journal_does(spool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert agent_module.STALE_LOOKS == disk.STALE_LOOKS
    agent = Agent(str(spool))
    agent.answer({"do": "begin", "name": f".spool-check-{'a' * 16}", "make": True})
    agent.answer({"do": "replace_loop", "name": "a", "seconds": 0})
    (spool / "b").write_bytes(b"x")
    for count, late, stale in ((disk.STALE_LOOKS - 1, 1, 0), (disk.STALE_LOOKS, 1, 1)):
        stale_opens(monkeypatch, count)
        seen = agent.answer({"do": "read_loop", "name": "a", "seconds": 0})
        assert (seen["late"], seen["stale"], seen["missing"]) == (late, stale, 0)
        stale_opens(monkeypatch, count)
        if stale:
            with pytest.raises(OSError, match="Stale"):
                disk.read_all(disk.PosixDisk(), spool / "b")
        else:
            assert disk.read_all(disk.PosixDisk(), spool / "b") == b"x"
        monkeypatch.undo()


@pytest.mark.parametrize(
    ("seen", "status"),
    [({}, "PASS"), ({"late": 3}, "UNKNOWN"), ({"late": 3, "stale": 1}, "FAIL"), ({"missing": 1}, "FAIL"),
     ({"mixed": 1}, "FAIL")],
)  # fmt: skip
def test_what_the_reads_of_a_replaced_file_mean(seen: dict[str, int], status: str) -> None:
    class Answers:
        def must(self, do: str, **_: object) -> dict[str, int]:
            return {"reads": 9, "missing": 0, "late": 0, "stale": 0, "mixed": 0, **seen}

        def start(self, do: str, **_: object) -> None: ...

        def finish(self) -> dict[str, int]:
            return {"done": 5}

    helper: Any = Answers()
    assert file_checks._replacing(helper, helper).status == status


# Two hosts


def test_two_processes_stand_in_for_two_hosts(spool: Path) -> None:
    local(spool)
    with serving(spool) as (host, port):
        peer = ("--peer", f"{host}:{port}", "--ring-time", "1s")
        told = {one["check"]: one for one in done(jlogctl("check-spool", spool, "--json", *peer)).objects}
        assert told["peer.host"]["status"] == "UNKNOWN"  # nobody is to think that this was two
        assert {"peer.ring", "peer.append", "peer.names", "peer.create", "peer.killed"} <= set(told)
        assert verdict.read(spool).peer == socket.gethostname()
        again = done(jlogctl("check-spool", spool, *peer)).out  # one after another
        assert "PASS     peer.append: in 100 rounds" in again
    assert sorted(path.name for path in spool.iterdir()) == [verdict.FILE, verdict.LOCK_FILE]


def test_ctrl_c_ends_serving(spool: Path) -> None:
    with process("check-spool", spool, "--serve", "127.0.0.1:0") as server:
        assert server.stdout is not None and server.stdout.readline().startswith(b"serving")
        server.send_signal(signal.SIGINT)
        assert server.wait(20) == 0


def test_a_peer_that_is_no_peer(spool: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def answer() -> None:
            for line in (b"220 mail ESMTP\r\n", b'{"time": "x", "boot": 1}\n', b"[]\n"):
                connection, _ = listener.accept()
                with connection:
                    connection.recv(1000)
                    connection.sendall(line)

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        for _ in range(3):
            failed(jlogctl("check-spool", spool, "--peer", f"127.0.0.1:{port}"), 2, "does not answer as a peer does")
        thread.join(20)


def test_a_peer_that_talks_nonsense_later_is_a_finding(spool: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection, connection.makefile("rb") as lines:
                lines.readline()
                connection.sendall(b'{"time": 1e9, "boot": "b", "node": "n", "kernel": "k"}\n')
                for _ in lines:
                    connection.sendall(b'{"text": 7, "names": 7}\n')

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        ended = jlogctl("check-spool", spool, "--peer", f"127.0.0.1:{listener.getsockname()[1]}")
        thread.join(20)
    assert ended.code == 1 and "FAIL     peer" in ended.out and "Traceback" not in ended.err


def test_a_server_outlives_clients_that_are_none(spool: Path) -> None:
    with serving(spool) as address:
        for data in (b"", b"GET / HTTP/1.0\r\n\r\n", b"\x00" * 100, b"[]\n", b'{"do": "about"}\n', b"x" * (5 << 20)):
            with socket.create_connection(address) as client:
                try:
                    client.sendall(data)
                    client.shutdown(socket.SHUT_WR)
                    client.recv(1000)
                except OSError:
                    pass  # it hung up
        helper = RemoteHelper(address)
        assert helper.must("begin", name=f".spool-check-{'b' * 16}", make=True) == {}
        with pytest.raises(NoAnswer, match="refused"):
            helper.ask("begin", name="../..", make=True)
        helper.must("end")
        helper.close()


def test_the_locks_of_a_peer_go_with_its_connection(spool: Path) -> None:
    with serving(spool) as address, Crew(spool) as crew:
        crew.begin()
        remote = RemoteHelper(address)
        remote.must("begin", name=crew.scratch, make=False)
        theirs, file = remote.open("a", create=True), crew.first.open("a", create=True)
        assert try_lock(remote, theirs) and not try_lock(crew.first, file)
        remote.close()
        until = time.monotonic() + 10
        while not try_lock(crew.first, file):
            assert time.monotonic() < until
            time.sleep(0.02)


def ring(turns: int, *steps: tuple[int, int], conflicts: int = 0) -> dict[str, Any]:
    return {"turns": turns, "steps": list(steps), "conflicts": conflicts, "worst": 0.01}


@pytest.mark.parametrize(
    ("answers", "total", "status", "words"),
    [
        ([ring(100, (2, 80)), ring(101, (2, 81))], 201, "PASS", "always in turn"),
        ([ring(100, (2, 80)), ring(101, (2, 81))], 200, "FAIL", "1 of what they counted is lost"),
        ([ring(100, (1, 80)), ring(100, (1, 81))], 100, "FAIL", "100 of what they counted is lost"),
        ([ring(100, (2, 80)), ring(100, (2, 81))], 250, "FAIL", "too much"),
        ([ring(100, (2, 80), conflicts=3), ring(100, (2, 81))], 200, "FAIL", "3 locks had two holders"),
        ([ring(100, (1, 80)), ring(100, (1, 81))], 200, "FAIL", "never took turns"),
        ([ring(100, (2, 79), (1, 1)), ring(100, (2, 81))], 200, "UNKNOWN", "in 1 they did not"),
    ],
)
def test_what_a_ring_means(answers: list[dict[str, Any]], total: int, status: str, words: str) -> None:
    found = peer_checks.judge_ring(answers, total, 2.0)
    assert found.status == status and words in found.reason
    assert found.numbers["locks_per_second"] == sum(answer["turns"] for answer in answers) / 2


def test_a_host_that_began_late_took_no_turns_and_that_means_nothing() -> None:
    answers = [ring(100, (1, 80)), ring(100, (1, 81))]
    assert peer_checks.judge_ring(answers, 200, 2.0, together=False).status == "UNKNOWN"
    assert peer_checks.judge_ring(answers, 100, 2.0, together=False).status == "FAIL"  # counts are lost all the same


def test_one_disk_on_two_hosts() -> None:
    disk = Device(number="8:1", wwids=("naa.1",))
    facts = Facts(mount=Mount(type="xfs"), device=disk)
    here = {"boot": "one"}
    for there, status in (
        ({"boot": "two", "type": "xfs", "disks": ["naa.1"]}, "FAIL"),
        ({"boot": "two", "type": "ext4", "disks": ["naa.2"]}, "UNKNOWN"),
        ({"boot": "two", "type": "xfs"}, "UNKNOWN"),
    ):
        found = peer_checks.judge_disks(here, there, facts)
        assert found is not None and found.status == status
    assert peer_checks.judge_disks(here, {"boot": "one", "type": "xfs", "disks": ["naa.1"]}, facts) is None
    assert peer_checks.judge_disks(here, {"boot": "two", "type": "nfs4"}, facts) is None
    clustered = Facts(mount=Mount(type="gfs2"), device=disk)
    assert peer_checks.judge_disks(here, {"boot": "two", "type": "gfs2", "disks": ["naa.1"]}, clustered) is None


def test_syncs_that_are_too_fast_to_be_true() -> None:
    assert too_fast(10e-6, Facts(mount=Mount(type="ext4")))
    assert not too_fast(10e-6, Facts(mount=Mount(type="tmpfs")))  # that they do nothing is said elsewhere
    assert not too_fast(50e-6, Facts(mount=Mount(type="ext4")))


# What a spool remembers

BROKEN = [pass_("mount.type", "fine"), fail("peer.ring", "counts are lost", "mount it otherwise", turns=7)]


def remember(spool: Path, findings: list[Finding], **changed: str) -> None:
    known = check.Checked()
    list(check._run(spool, known, full=False))  # the host, kernel and mount that a verdict is about
    for name, value in changed.items():
        setattr(known, name, value)
    check.keep(spool, known, findings)


def test_what_failed_in_a_full_check_stands_until_one_passes(spool: Path) -> None:
    local(spool)
    assert not failures(admit(spool))
    remember(spool, BROKEN)
    with pytest.raises(
        SpoolUnfit, match=r"peer\.ring: counts are lost.*check-spool.*mount it otherwise.*--accept-risk"
    ):
        admit(spool)
    remember(spool, BROKEN[:1])
    assert not failures(admit(spool))


@pytest.mark.parametrize("changed", ["host", "kernel", "mount"])
def test_a_verdict_about_another_host_kernel_or_mount_does_not_stand(spool: Path, changed: str) -> None:
    local(spool)
    remember(spool, BROKEN, **{changed: "another"})
    assert not failures(admit(spool))


def test_an_accepted_risk_is_recorded_once_and_for_ever(spool: Path) -> None:
    local(spool)
    remember(spool, BROKEN)
    for _ in range(2):
        assert [one.check for one in failures(admit(spool, accept_risk=True))] == ["peer.ring"]
    (risk,) = risks(spool)
    assert risk.checks == ["peer.ring"] and risk.reasons == ["counts are lost"] and risk.node == socket.gethostname()
    with pytest.raises(SpoolUnfit):
        admit(spool)  # it was accepted for one start
    done(jlogctl("check-spool", spool))
    assert not failures(admit(spool, accept_risk=True)) and risks(spool) == [risk]


def test_a_damaged_verdict_is_told_and_put_aside(spool: Path) -> None:
    local(spool)
    remember(spool, BROKEN)
    path = spool / verdict.FILE
    good = path.read_bytes()
    path.write_bytes(good.replace(b"counts are lost", b"counts are kept"))
    with pytest.raises(FormatError, match="checksum"):
        risks(spool)
    assert [one.check for one in admit(spool) if one.status == "UNKNOWN" and one.check == "verdict"] == ["verdict"]
    done(jlogctl("check-spool", spool))
    assert len(list(spool.glob(f"{verdict.FILE}.damaged-*"))) == 1 and risks(spool) == []
    for unreadable in (b"{", b'{"kernel": "\xff"}'):
        path.write_bytes(unreadable)
        with pytest.raises(FormatError, match="cannot be read"):
            risks(spool)


def test_the_verdict_is_read_as_it_was_written(spool: Path) -> None:
    verdict.record_check(spool, BROKEN, host="h", kernel="k", mount="m", version="1", peer="p")
    kept = verdict.read(spool)
    assert kept.findings == BROKEN and kept.stands_for("h", "k", "m") and not kept.stands_for("h", "k", "")
    object_ = msgspec.json.decode((spool / verdict.FILE).read_bytes())
    assert json.dumps(object_["findings"][1]["numbers"]) == '{"turns": 7}'
    assert verdict.read(spool / "elsewhere") == verdict.Verdict()


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    for call in (quick_check, admit):
        with pytest.raises(LogNotFound, match="make or mount it"):
            call(tmp_path / "nothing")


def test_helpers_end_with_the_process_that_started_them(spool: Path) -> None:
    helper = LocalHelper(str(spool))
    pid = int(helper.must("about")["pid"])
    helper.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    code = (
        "import sys, os\nfrom jlogd.spoolcheck.helpers import LocalHelper\n"
        "print(LocalHelper(sys.argv[1]).must('about')['pid'], flush=True)\nos._exit(0)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(spool)], capture_output=True, text=True, timeout=30)
    until = time.monotonic() + 10
    while Path(f"/proc/{int(ended.stdout)}").exists() and time.monotonic() < until:
        time.sleep(0.02)
    assert not Path(f"/proc/{int(ended.stdout)}").exists()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can act as another user")
def test_root_acts_as_the_owner_of_the_spool() -> None:
    nobody = 65534
    with tempfile.TemporaryDirectory() as parent:  # that of pytest is closed to others
        spool = Path(parent, "spool")
        spool.mkdir()
        os.chmod(parent, 0o755)
        os.chown(spool, nobody, nobody)
        with process("check-spool", spool) as ended:
            out, err = ended.communicate(timeout=60)
        assert b"FAIL" not in out and b"fit for logs" in out, (out, err)
        assert {path.stat().st_uid for path in spool.iterdir()} == {nobody}
        spool.chmod(0o500)
        assert [one.check for one in failures(quick_check(spool))] == ["mount.writable"]


def test_a_server_is_closed(spool: Path) -> None:
    server = Server(str(spool), ("127.0.0.1", 0), "1")
    server.close()
    with pytest.raises(NoAnswer, match="there is no peer"):
        RemoteHelper(server.address)
