"""A real daemon in a process of its own, on ports and in a directory that only this test uses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ports import free_ports

import jlogd

ROOT = Path(__file__).parent.parent
# A daemon that is not where it should be in this time hangs.
SECONDS_MAX = 30.0


def until(true: Callable[[], Any], what: str) -> Any:
    """What `true` returns once that is true."""
    deadline = time.monotonic() + SECONDS_MAX
    while not (found := true()):
        assert time.monotonic() < deadline, f"not within {SECONDS_MAX:g} s: {what}"
        time.sleep(0.02)
    return found


class RunningDaemon:
    """A daemon, its output, and how to reach it."""

    def __init__(
        self,
        directory: Path,
        extra: str = "",
        log: str = "",
        stdin: Any = subprocess.DEVNULL,
        words: Sequence[str] = (),
    ) -> None:
        """`log` and `extra` are TOML: settings of the log `mainlog`, and further tables; `words` follow `jlogd run`."""
        self.directory = directory
        self.syslog, self.zmq, self.http = free_ports(3)
        self.config = directory / "jlogd.toml"
        self.errors = directory / "daemon.log"
        self.write_config(extra, log)
        self._stdin = stdin
        self.words = list(words)
        self.process = self.launch()

    @property
    def spool(self) -> Path:
        return self.directory / "spool"

    @property
    def mainlog(self) -> Path:
        return self.spool / "mainlog"

    @property
    def address(self) -> str:
        return f"tcp://127.0.0.1:{self.zmq}/mainlog"

    def write_config(self, extra: str = "", log: str = "") -> None:
        self.config.write_text(
            f'[node]\nname = "east1"\nspool = "{self.spool}"\n'
            f'[listen]\nzmq = ["tcp://127.0.0.1:{self.zmq}"]\nhttp = "127.0.0.1:{self.http}"\n'
            f'[log.mainlog]\nsubscribers = ["master"]\n{log}\n'
            f'[[source.syslog]]\nlog = "mainlog"\n'
            f'listen = ["udp://127.0.0.1:{self.syslog}", "tcp://127.0.0.1:{self.syslog}"]\n{extra}\n'
        )

    def launch(self, **environment: str) -> subprocess.Popen[bytes]:
        """Start the daemon (again), without waiting for it."""
        command = [sys.executable, "-m", "jlogd.cli.jlogd", "run", "--config", str(self.config), *self.words]
        surroundings = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
        with self.errors.open("ab") as errors:
            self.process = subprocess.Popen(
                command, stdin=self._stdin, stdout=subprocess.DEVNULL, stderr=errors, env=surroundings
            )
        return self.process

    def wait_ready(self) -> RunningDaemon:
        until(lambda: self.get("/readyz")[0] == 200 or self._died(), "the daemon is ready")
        return self

    def get(self, path: str) -> tuple[int, str]:
        """Status and body of a page; status 0 when nobody answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.http}{path}", timeout=SECONDS_MAX) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def stat(self, log: str = "mainlog") -> dict[str, Any]:
        return next(found for found in json.loads(self.get("/stat")[1]) if found["name"] == log)

    def until_records(self, count: int, log: str = "mainlog") -> None:
        until(lambda: self.stat(log)["next"] > count, f"{count} records in {log}")

    def said(self, words: str) -> bool:
        """Whether the daemon said that so far."""
        return words in self.errors.read_text()

    def records(self, log: str = "mainlog") -> list[bytes]:
        """All records, read past the daemon; a gap is a failure."""
        found: list[bytes] = []
        with jlogd.open(self.spool / log) as opened, opened.subscriber() as reader:
            for batch in reader:
                assert isinstance(batch, jlogd.Batch), batch
                found += batch
        return found

    def send_signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End the daemon with a signal; its exit code."""
        self.send_signal(number)
        return self.process.wait(SECONDS_MAX)

    def _died(self) -> bool:
        assert self.process.poll() is None, self.errors.read_text()
        return False


@contextmanager
def daemon(directory: Path, extra: str = "", log: str = "", **options: Any) -> Iterator[RunningDaemon]:
    """A daemon that is ready; killed at the end if it still runs."""
    running = RunningDaemon(directory, extra, log, **options)
    try:
        yield running.wait_ready()
    finally:
        if running.process.poll() is None:
            running.process.kill()
            running.process.wait()
