"""The guard: when the daemon dies the addresses go at once; when it is stopped they go at the deadline."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from vip_kernel_support import LONG, SECOND, Holder, floating, kill_hard, running, shown, until
from vip_net import AddressOracle, Net, Sniffer, need_namespaces, now_ns

from vip.kernel import guard
from vip.kernel.errors import KernelError
from vip.kernel.guard import Guard
from vip.kernel.guard_process import FAREWELL_BYTES_MAX, _last_words
from vip.kernel.interface import AddressGone, GuardDied


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    need_namespaces()
    with Net(["n1", "n2"]) as made:
        yield made


def own(net: Net, node: str) -> list[str]:
    return [net.address(node), net.address6(node)]


@pytest.mark.parametrize("gate", ["bpf", "lifetime"])
def test_a_killed_daemon_loses_its_addresses_long_before_the_deadline(net: Net, gate: str) -> None:
    some = [floating(net.floating(n)) for n in range(50)] + [floating(net.floating6(n)) for n in range(10)]
    with Holder(net, "n1", some, window=3600.0, settings={"gate": gate}) as holder:
        assert set(shown(net, "n1")) == {*own(net, "n1"), *(one.address for one in some)}
        os.kill(holder.pid, signal.SIGKILL)
        until(lambda: shown(net, "n1") == own(net, "n1"), "the guard removes them")
        until(lambda: not Path(f"/proc/{holder.guard}").exists(), "the guard ends")
        until(lambda: "the daemon died; removed 60 addresses" in holder.errors, "it says so")


def test_a_killed_daemon_leaves_a_closed_gate(net: Net) -> None:
    """Closed before the addresses are removed: what a frozen child or a queue still sends does not get out."""
    one = floating(net.floating(60))
    with Sniffer(net, [one.address]) as sniffer, Holder(net, "n1", [one], window=3600.0) as holder:
        until(lambda: sniffer.of(one.address, "arp"), "it is announced")
        os.kill(holder.pid, signal.SIGKILL)
        until(lambda: shown(net, "n1") == own(net, "n1"), "the guard removes them")
        heard = len(sniffer.sights)
        # By hand again, without us: under the closed gate of the dead daemon it stays silent.
        net.run("n1", "ip", "addr", "add", f"{one.address}/32", "dev", "lan")
        subprocess.run(
            ["ip", "netns", "exec", net.namespace("n2"), sys.executable, "-c",
             f"import socket; socket.socket(2, 2).sendto(b'x', ('{one.address}', 9))"], check=True,
        )  # fmt: skip
        time.sleep(0.5)
        assert len(sniffer.sights) == heard
    net.run("n1", "ip", "addr", "del", f"{one.address}/32", "dev", "lan")


def test_a_log_that_nobody_reads_does_not_hold_up_the_guard(net: Net) -> None:
    script = (
        "import os, time; from vip.kernel.guard import Guard; r, w = os.pipe(); os.set_blocking(w, False)\n"
        "try:\n while True: os.write(w, bytes(4096))\nexcept BlockingIOError: os.set_blocking(w, True)\n"
        "os.dup2(w, 2); g = Guard(); g.start(); print(g.pid, flush=True); time.sleep(600)"
    )
    root = str(Path(__file__).parents[1])
    daemon = net.popen(
        "n1", [sys.executable, "-c", script], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": root}
    )
    reader = daemon.stdout
    assert reader is not None
    guard_pid = int(reader.readline())
    pipe = os.open(f"/proc/{daemon.pid}/fd/2", os.O_RDONLY)  # so that the pipe has a reader, who does not read
    address = net.floating(74)
    marked(net, address)
    daemon.kill()
    until(lambda: address not in shown(net, "n1"), "the guard removes it")
    until(lambda: not Path(f"/proc/{guard_pid}").exists(), "the guard ends")
    os.close(pipe)


def test_a_clean_end_is_no_death(net: Net) -> None:
    with Holder(net, "n1", [floating(net.floating(61))]) as holder:
        holder.end()
        assert not Path(f"/proc/{holder.guard}").exists()
        assert "died" not in holder.errors
    assert shown(net, "n1") == own(net, "n1")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_what_ends_a_service_or_a_terminal_does_not_end_the_guard(net: Net, number: signal.Signals) -> None:
    one = floating(net.floating(62))
    with Holder(net, "n1", [one], window=3600.0) as holder:
        os.kill(holder.guard, number)
        time.sleep(0.3)
        assert not holder.events("GuardDied")
        assert os.getsid(holder.guard) == holder.guard  # not in the session that a terminal ends
        os.kill(holder.pid, signal.SIGKILL)
        until(lambda: one.address not in shown(net, "n1"), "the guard removes it")


def test_a_child_that_inherited_everything_does_not_hide_the_death(net: Net) -> None:
    """Its copy of the socket keeps the guard's end open; the process id does not lie."""
    script = (
        "import os, sys, time; from vip.kernel.guard import Guard; g = Guard(); g.start();"
        "os.fork() or (time.sleep(600), os._exit(0)); print(g.pid, flush=True); time.sleep(600)"
    )
    root = str(Path(__file__).parents[1])
    daemon = net.popen(
        "n1", [sys.executable, "-c", script], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": root},
        start_new_session=True,
    )  # fmt: skip
    assert daemon.stdout is not None
    guard_pid = int(daemon.stdout.readline())
    daemon.kill()
    try:
        until(lambda: not Path(f"/proc/{guard_pid}").exists(), "the guard notices and ends")
    finally:
        os.killpg(daemon.pid, signal.SIGKILL)


def test_the_next_run_waits_for_the_guard_of_the_last(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would remove, by their mark, what the next run has just added."""
    one = floating(net.floating(73))
    with Holder(net, "n1", [one], window=3600.0) as holder:
        os.kill(holder.guard, signal.SIGSTOP)
        os.kill(holder.pid, signal.SIGKILL)
        monkeypatch.setattr("vip.kernel.linux._ALONE_SECONDS_MAX", 0.3)
        with pytest.raises(KernelError, match="or the guard of the last one"), running(net, "n1"):
            pass
        assert one.address in shown(net, "n1")
        monkeypatch.undo()
        os.kill(holder.guard, signal.SIGCONT)
        with running(net, "n1") as (kernel, _):
            assert kernel.present() == []


@pytest.mark.slow
def test_a_stopped_daemon_loses_its_addresses_at_the_deadline(net: Net) -> None:
    one = floating(net.floating(63))
    with AddressOracle(net) as oracle, Holder(net, "n1", [one], window=2.0) as holder:
        until(lambda: oracle.holders(one.address) == {"n1"}, "it is there")
        os.kill(holder.pid, signal.SIGSTOP)
        deadline = holder.deadline()
        until(lambda: oracle.holders(one.address) == set(), "the guard removes it")
        gone = oracle.changes[-1].when
        assert gone >= deadline
        until(lambda: "the deadline passed" in holder.errors, "it says so")
        # An addition that was on its way when the daemon was stopped is removed, too.
        net.run("n1", "ip", "addr", "add", f"{one.address}/32", "dev", "lan", "metric", str(0x6A6C6F67))
        until(lambda: one.address not in shown(net, "n1"), "the guard removes it again")
        os.kill(holder.pid, signal.SIGCONT)
        until(lambda: holder.events("AddressGone"), "the daemon hears of it")
        holder.end()


def test_a_deadline_that_moves_on_keeps_them(net: Net) -> None:
    one = floating(net.floating(64))
    with AddressOracle(net) as oracle, Holder(net, "n1", [one], window=1.0, every=0.1) as holder:
        first = holder.deadline()
        until(lambda: holder.deadline() > first + 2 * SECOND, "the deadline moved past what it first was")
        assert shown(net, "n1").count(one.address) == 1
        holder.quiet()
        until(lambda: one.address not in shown(net, "n1"), "without a heartbeat it goes")
    assert [change.there for change in oracle.changes if change.address == one.address][-1] is False


def test_a_dead_guard_is_replaced_and_the_new_one_guards(net: Net) -> None:
    one = floating(net.floating(65))
    with running(net, "n1") as (kernel, events):
        kernel.add([one], now_ns() + LONG)
        first = kernel._parts.guard.pid
        os.kill(first, signal.SIGKILL)
        until(lambda: any(isinstance(event, GuardDied) for event in events), "its death is reported")
        [died] = [event for event in events if isinstance(event, GuardDied)]
        assert died.restarted and "signal 9" in died.why
        second = kernel._parts.guard.pid
        assert second != first and kernel.counters().values["guard_restarts"] == 1
        assert [found.floating for found in kernel.present()] == [one]
        kernel.set_deadline(now_ns() - 1)
        until(lambda: AddressGone(one) in events, "the new guard keeps the deadline")


def test_a_guard_that_does_not_start_is_an_error_at_first_and_a_report_later(
    net: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = guard._CALL
    monkeypatch.setattr(guard, "_CALL", "sys.exit(5)")
    with pytest.raises(KernelError, match="exit code 5"), running(net, "n1"):
        pass
    monkeypatch.setattr(guard, "_CALL", started)
    monkeypatch.setattr("vip.kernel.watcher._LOOK_NS", SECOND // 5)
    with running(net, "n1") as (kernel, events):
        monkeypatch.setattr(guard, "_CALL", "sys.exit(6)")
        os.kill(kernel._parts.guard.pid, signal.SIGKILL)
        until(lambda: any(isinstance(event, GuardDied) for event in events), "its death is reported")
        assert [event.restarted for event in events if isinstance(event, GuardDied)] == [False]
        monkeypatch.setattr(guard, "_CALL", started)
        until(lambda: any(isinstance(e, GuardDied) and e.restarted for e in events), "a later try works")
        assert kernel._parts.guard.died() is None


# ---- farewell --------------------------------------------------------------------------------------------------------

# The guard with a farewell that writes into a file what it is told, and which addresses there are then.
_SPY = """
import subprocess, types
said = types.ModuleType("vip.farewell")
def say(words):
    there = subprocess.run(["ip", "-o", "addr", "show", "dev", "lan"], capture_output=True).stdout
    open({path!r}, "wb").write(words + b"|" + there)
said.say = say
sys.modules["vip.farewell"] = said
main(*map(int, sys.argv[1:]))
"""


class Daemon:
    """A process with a guard that writes its farewell into `path`; it does nothing but wait to be killed."""

    def __init__(self, net: Net, path: Path, farewells: list[bytes], deadline: int = 0) -> None:
        script = (
            "import time; from vip.kernel import guard;"
            f"guard._CALL = {'exec(' + repr(_SPY.format(path=str(path))) + ')'!r}; made = guard.Guard(); made.start();"
            f"made.set_deadline({deadline}); [made.set_farewell(words) for words in {farewells!r}];"
            "print(made.pid, flush=True); time.sleep(600)"
        )
        root = str(Path(__file__).parents[1])
        self._process = net.popen(
            "n1", [sys.executable, "-c", script], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": root}
        )
        assert self._process.stdout is not None
        self.guard = int(self._process.stdout.readline())

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


def marked(net: Net, address: str) -> None:
    net.run("n1", "ip", "addr", "add", f"{address}/32", "dev", "lan", "metric", str(0x6A6C6F67))


@pytest.mark.parametrize("words", [[b"last words"], [b"first", b"second", b"last words"], [b"x" * 60_000]])
def test_the_farewell_is_said_when_nothing_is_left(net: Net, tmp_path: Path, words: list[bytes]) -> None:
    spied = tmp_path / "farewell"
    address = net.floating(70)
    daemon = Daemon(net, spied, words)
    marked(net, address)
    daemon.kill()
    until(lambda: spied.exists() and b"|" in spied.read_bytes(), "the farewell")
    said, there = spied.read_bytes().rsplit(b"|", 1)
    assert said == words[-1]
    assert address.encode() not in there and net.address("n1").encode() in there


def test_no_farewell_at_a_deadline_and_none_without_words(net: Net, tmp_path: Path) -> None:
    spied = tmp_path / "farewell"
    address = net.floating(71)
    daemon = Daemon(net, spied, [b"last words"], deadline=now_ns() + SECOND // 2)
    marked(net, address)
    until(lambda: address not in shown(net, "n1"), "the deadline passes")
    time.sleep(0.3)
    assert not spied.exists()  # the daemon lives, and may believe that it holds the address
    daemon.kill()
    until(spied.exists, "now it is dead")
    spied.unlink()
    silent = Daemon(net, spied, [b"taken back", b""])
    silent.kill()
    until(lambda: not Path(f"/proc/{silent.guard}").exists(), "the guard ends")
    assert not spied.exists()


def test_a_farewell_that_is_too_long_is_refused(net: Net) -> None:
    made = Guard()
    with pytest.raises(KernelError, match="at most 65536"):
        made.set_farewell(b"x" * (FAREWELL_BYTES_MAX + 1))
    made.close()


def test_a_death_while_the_farewell_is_written_leaves_the_last_whole_one() -> None:
    made = Guard()
    made.set_farewell(b"the first")
    made._where = ctypes.c_uint64(made._where.value)  # the store that makes it valid is never reached
    made.set_farewell(b"second")
    assert _last_words(made._memory) == b"the first"
    made._where = ctypes.c_uint64(0)
    made.close()


def test_daemon_and_guard_killed_together_leave_a_closed_gate(net: Net) -> None:
    one = floating(net.floating(72))
    with Sniffer(net, [one.address]) as sniffer, Holder(net, "n1", [one], window=1.5) as holder:
        until(lambda: sniffer.of(one.address, "arp"), "it is announced")
        kill_hard(holder.pid, holder.guard)
        deadline = holder.deadline()
        until(lambda: now_ns() > deadline + SECOND // 2, "the deadline passes")
        assert one.address in shown(net, "n1")
        asking = f"import socket; socket.socket(2, 2).sendto(b'x', ('{one.address}', 9))"
        net.run("n2", sys.executable, "-c", asking)
        time.sleep(0.3)
    assert max(sight.when for sight in sniffer.of(one.address)) < deadline + holder.start["lateness"] + SECOND // 10
