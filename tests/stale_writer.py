"""A writer that is paused in the middle of a commit: `stale_writer.py MOMENT LOG`, which is `jlogctl append LOG`.

When it is to commit a record that holds `STOP`, it stops itself (SIGSTOP) at MOMENT, once:

    write      it found that it owns the log, and is about to write
    sync       it has written, and is about to sync
    publish    it has synced and found that it still owns the log, and is about to publish and to acknowledge
    between    the commit is done

`drive` plays the whole of it: the writer on one host, another host that takes over while it stands still. What it needs
to know of the two is where each sees the log; the caller has made sure that their locks do not see each other.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
MOMENTS = ("write", "sync", "publish", "between")
FORMER, SUCCESSOR = "host-former", "host-successor"
# What is not there in this time does not come.
SECONDS_MAX = 60.0


def surroundings(host: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "JLOGD_HOST_ID": host, "PYTHONUNBUFFERED": "1"}


def jlogctl(host: str, *words: object, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "jlogd.cli.jlogctl", *map(str, words)]
    return subprocess.run(command, input=given, capture_output=True, env=surroundings(host), timeout=SECONDS_MAX)


def until(true: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + SECONDS_MAX
    while not true():
        assert time.monotonic() < deadline, f"not within {SECONDS_MAX:g} s: {what}"
        time.sleep(0.02)


def stopped(pid: int) -> bool:
    """Whether every thread of a process stands still."""
    stats = [(path / "stat").read_text() for path in Path(f"/proc/{pid}/task").iterdir()]
    return {text.rpartition(")")[2].split()[0] for text in stats} == {"T"}


def next_record(log: Path) -> int:
    return int(json.loads(jlogctl(SUCCESSOR, "stat", log, "--json").stdout)["next"])


def records(log: Path) -> list[str]:
    ended = jlogctl(SUCCESSOR, "tail", log, "--no-follow", "--from", "begin")
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.decode().splitlines()


def drive(moment: str, former_log: Path, successor_log: Path, lose_locks: Callable[[], None]) -> dict[str, Any]:
    """The whole story; what came of it as plain values. The log is there, made by the former host."""
    writer = subprocess.Popen(
        [sys.executable, __file__, moment, str(former_log)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=surroundings(FORMER),
    )  # fmt: skip
    try:
        assert writer.stdin is not None
        writer.stdin.write(b"one\n")
        writer.stdin.flush()
        until(lambda: next_record(successor_log) == 2, "the first record is there")
        writer.stdin.write(b"STOP\n")
        writer.stdin.flush()
        until(lambda: stopped(writer.pid), "the writer stands still")
        lose_locks()
        taken = jlogctl(SUCCESSOR, "takeover", successor_log)
        assert taken.returncode == 0, taken.stderr
        assert jlogctl(SUCCESSOR, "append", successor_log, given=b"two\n").returncode == 0
        writer.send_signal(signal.SIGCONT)
        out, err = b"", b""
        for _ in range(100):  # it notices at its next commit
            try:
                writer.stdin.write(b"later\n")
                writer.stdin.flush()
            except BrokenPipeError:
                break
            if writer.poll() is not None:
                break
            time.sleep(0.05)
        out, err = communicate(writer)
        checked = jlogctl(SUCCESSOR, "check", successor_log, "--json")
        assert jlogctl(SUCCESSOR, "append", successor_log, given=b"three\n").returncode == 0
        return {
            "code": writer.returncode, "out": out.decode(), "err": err.decode(), "records": records(successor_log),
            "checked": checked.returncode, "found": [json.loads(line) for line in checked.stdout.splitlines()],
        }  # fmt: skip
    finally:
        writer.kill()
        communicate(writer)


def communicate(writer: subprocess.Popen[bytes]) -> tuple[bytes, bytes]:
    try:
        return writer.communicate(timeout=SECONDS_MAX)
    except ValueError:  # a second time
        return b"", b""


def judge(moment: str, came: dict[str, Any]) -> None:
    """What must have come of it, whatever the mount."""
    assert came["code"] == 3, came
    assert "was taken over" in came["err"] or "is owned by host host-successor" in came["err"], came
    assert "host host-successor" in came["err"] and "Traceback" not in came["err"], came
    # What was not acknowledged may be there, if it was durable before the other host looked; nothing later may be.
    middle = {"write": [[]], "sync": [["STOP"], []], "publish": [["STOP"]], "between": [["STOP"]]}[moment]
    assert came["records"] in [["one", *stop, "two", "three"] for stop in middle], came
    durable = int(came["err"].split(" record")[0].split()[-1])
    assert durable == {"write": 1, "sync": 1, "publish": 2, "between": 2}[moment], came
    assert came["checked"] == 0, came
    zombies = sum(one["bytes"] for one in came["found"] if one["kind"] == "zombie")
    assert (zombies > 0) == (moment == "write"), came


def stop_at(moment: str) -> None:
    """Patch the disk of this process."""
    from jlogd.journal.disk import PosixFile

    armed = False

    def stop() -> None:
        nonlocal armed
        armed = False
        # To this thread: sent to the process, it may reach another one first, and this one goes on for a moment.
        signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)

    append, sync, pwrite = PosixFile.append, PosixFile.sync, PosixFile.pwrite

    def stopping_append(self: PosixFile, buffers: Sequence[Any]) -> int:
        nonlocal armed
        armed = any(b"STOP" in bytes(one) for one in buffers)
        if armed and moment == "write":
            stop()
        return append(self, buffers)

    def stopping_sync(self: PosixFile) -> None:
        if armed and moment == "sync":
            stop()
        sync(self)

    def stopping_pwrite(self: PosixFile, data: Any, offset: int) -> None:
        if armed and moment == "publish":
            stop()
        pwrite(self, data, offset)
        if armed and moment == "between":
            stop()

    PosixFile.append, PosixFile.sync, PosixFile.pwrite = (  # type: ignore[method-assign]
        stopping_append, stopping_sync, stopping_pwrite,
    )  # fmt: skip


if __name__ == "__main__":
    stop_at(sys.argv[1])
    sys.argv[1:2] = ["append"]
    from jlogd.cli.jlogctl import main

    main()
