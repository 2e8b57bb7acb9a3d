"""What systemd is told, on sockets with a path and without one, and that nobody there is no trouble."""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from jlogd.daemon.notify import STATUS_CHARACTERS_MAX, Notifier


@pytest.fixture(params=["path", "abstract"])
def supervisor(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    """(value of NOTIFY_SOCKET, the socket that receives)."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@jlogd-test-{uuid.uuid4()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(name.replace("@", "\0", 1) if name.startswith("@") else name)
        sock.settimeout(5)
        yield name, sock


def test_every_message(supervisor: tuple[str, socket.socket]) -> None:
    name, sock = supervisor
    notifier = Notifier({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())})
    assert notifier.active and notifier.watchdog_interval == 15.0
    notifier.ready("1 log, 2 listeners")
    assert sock.recv(4096) == b"READY=1\nSTATUS=1 log, 2 listeners"
    notifier.ready()
    assert sock.recv(4096) == b"READY=1"
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    notifier.reloading()
    first, second = sock.recv(4096).decode().split("\n")
    assert first == "RELOADING=1" and second.startswith("MONOTONIC_USEC=")
    assert before <= int(second.partition("=")[2]) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    notifier.status("all is\nwell\t\N{SNOWMAN}")
    assert sock.recv(4096).decode() == "STATUS=all is well \N{SNOWMAN}"
    notifier.watchdog()
    assert sock.recv(4096) == b"WATCHDOG=1"
    notifier.stopping("bye")
    assert sock.recv(4096) == b"STOPPING=1\nSTATUS=bye"


def test_a_status_is_one_short_line(supervisor: tuple[str, socket.socket]) -> None:
    name, sock = supervisor
    notifier = Notifier({"NOTIFY_SOCKET": name})
    notifier.status("x" * 100_000 + "\nREADY=1")
    assert sock.recv(200_000) == b"STATUS=" + b"x" * STATUS_CHARACTERS_MAX
    notifier.status("")
    notifier.status("\n")
    notifier.stopping()
    assert sock.recv(4096) == b"STOPPING=1"


def test_without_a_supervisor_nothing_happens() -> None:
    for environment in ({}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "@"}, {"NOTIFY_SOCKET": "vsock:2:1"}):
        notifier = Notifier({**environment, "WATCHDOG_USEC": "1000000"})
        assert not notifier.active and notifier.watchdog_interval is None
        notifier.ready("x")
        notifier.reloading()
        notifier.stopping()
        notifier.watchdog()


def test_the_environment_of_the_process_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not Notifier().active
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/nobody/listens/here")
    assert Notifier().active


def test_a_supervisor_that_went_away_or_does_not_read_stops_nothing(tmp_path: Path) -> None:
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready()
    name = str(tmp_path / "deaf")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(name)
        notifier = Notifier({"NOTIFY_SOCKET": name})
        started = time.monotonic()
        for _ in range(2000):
            notifier.status("x" * 900)
        assert time.monotonic() - started < 10


@pytest.mark.parametrize(
    ("environment", "interval"),
    [
        ({"WATCHDOG_USEC": "2000000"}, 1.0),
        ({"WATCHDOG_USEC": "2000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "x"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_is_only_for_this_process(environment: dict[str, str], interval: float | None) -> None:
    assert Notifier({"NOTIFY_SOCKET": "/x", **environment}).watchdog_interval == interval


def test_no_socket_is_kept(supervisor: tuple[str, socket.socket]) -> None:
    """Nothing for a child process to inherit."""
    notifier = Notifier({"NOTIFY_SOCKET": supervisor[0]})
    before = len(os.listdir("/proc/self/fd"))
    notifier.ready()
    assert len(os.listdir("/proc/self/fd")) == before
