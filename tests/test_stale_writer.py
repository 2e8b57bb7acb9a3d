"""A writer that was paused while another host took its log over: it acknowledges nothing more, says why, and ends.

Real processes. The two are hosts by `JLOGD_HOST_ID`. On one machine the kernel would keep the locks of a process that
stands still, and the takeover would rightly be refused; a server takes them away from a client that it has not heard of
for the time of a lease. Here the lock files are removed at that moment, which does the same: the former host holds
locks that nobody asks for any more. `test_spool_mounts.py` has it on two mounts whose locks do not see each other.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from daemon_support import SECONDS_MAX, RunningDaemon, until
from stale_writer import FORMER, MOMENTS, SUCCESSOR, drive, jlogctl, judge, stopped, surroundings

pytestmark = pytest.mark.slow
LINES = 6000


def lose_locks(place: Path) -> None:
    for path in list(place.rglob("*.lock")):
        path.unlink()


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_writer_that_was_paused(moment: str, tmp_path: Path) -> None:
    log = tmp_path / "mainlog"
    assert jlogctl(FORMER, "create", log).returncode == 0
    judge(moment, drive(moment, log, log, lambda: lose_locks(log)))


def test_a_takeover_is_refused_while_the_paused_one_has_its_locks(tmp_path: Path) -> None:
    log = tmp_path / "mainlog"
    assert jlogctl(FORMER, "create", log).returncode == 0
    refused = b""

    def try_first() -> None:
        nonlocal refused
        refused = jlogctl(SUCCESSOR, "takeover", log).stderr
        lose_locks(log)

    judge("write", drive("write", log, log, try_first))
    assert b"is in use: it is owned by host host-former" in refused


def test_a_daemon_that_was_paused_ends_and_its_file_is_taken_in_once(tmp_path: Path) -> None:
    """It follows a file; the daemon of the other host goes on with that file where the log says it is to go on."""
    followed = tmp_path / "app.log"
    lines = [f"{number:06d} {'x' * 60}" for number in range(LINES)]
    extra = f'[[source.file]]\nlog = "mainlog"\npaths = ["{followed}"]\n'
    followed.touch()
    former, writing = host_daemon(tmp_path, extra, FORMER), write_slowly(followed, lines)
    successor: RunningDaemon | None = None
    try:
        former.until_records(LINES // 6)
        former.process.send_signal(signal.SIGSTOP)
        until(lambda: stopped(former.process.pid), "it stands still")
        lose_locks(former.spool)
        taken = jlogctl(SUCCESSOR, "takeover", former.spool)
        assert taken.returncode == 0, taken.stderr
        (tmp_path / "other").mkdir()
        successor = host_daemon(tmp_path / "other", extra, SUCCESSOR, former.spool)
        former.process.send_signal(signal.SIGCONT)
        assert former.process.wait(2 * SECONDS_MAX) == 3
        said = former.errors.read_text()
        assert "was taken over" in said and "host host-successor" in said and "Traceback" not in said
        assert writing.wait(SECONDS_MAX) == 0
        successor.until_records(LINES)
        assert former.records() == [line.encode() for line in lines], "each line once"
        assert successor.end() == 0
        assert jlogctl(SUCCESSOR, "check", former.mainlog).returncode == 0
    finally:
        for process in (former.process, writing, *([successor.process] if successor else [])):
            process.kill()
            process.wait()


def test_a_daemon_without_work_notices_too(tmp_path: Path) -> None:
    former = host_daemon(tmp_path, "", FORMER)
    try:
        former.process.send_signal(signal.SIGSTOP)
        until(lambda: stopped(former.process.pid), "it stands still")
        lose_locks(former.spool)
        assert jlogctl(SUCCESSOR, "takeover", former.mainlog).returncode == 0
        former.process.send_signal(signal.SIGCONT)
        assert former.process.wait(2 * SECONDS_MAX) == 3
        assert former.said("mainlog was taken over: it is owned by host host-successor")
    finally:
        former.process.kill()
        former.process.wait()


def host_daemon(directory: Path, extra: str, host: str, spool: Path | None = None) -> RunningDaemon:
    """A daemon of that host, with ports of its own, on its own spool or another's."""
    running = RunningDaemon(directory, extra)
    running.process.kill()
    running.process.wait()
    if spool is not None:
        running.config.write_text(running.config.read_text().replace(str(running.spool), str(spool)))
    running.launch(JLOGD_HOST_ID=host)
    return running.wait_ready()


def write_slowly(path: Path, lines: list[str]) -> subprocess.Popen[bytes]:
    """Another program that writes the file, so that it goes on whatever the daemons do."""
    code = (
        "import sys, time\nwith open(sys.argv[1], 'a') as out:\n"
        f"    for n in range({len(lines)}):\n        print(f'{{n:06d}}', 'x' * 60, file=out)\n"
        "        n % 100 or (out.flush(), time.sleep(0.05))\n"
    )
    return subprocess.Popen([sys.executable, "-c", code, str(path)], env=surroundings(FORMER))
