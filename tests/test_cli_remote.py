"""The same commands against a running daemon, and the daemon's own command."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_support import SECONDS_MAX, done, failed, jlogctl, process

CONFIG = """
[node]
name = "east1"
spool = "{spool}"

[listen]
zmq = ["ipc://{socket}"]
http = ""

[log.mainlog]
subscribers = ["master"]
"""
LINES = b"".join(b"%05d a line\n" % number for number in range(1, 5001))


def configured(tmp_path: Path) -> Path:
    file = tmp_path / "jlogd.toml"
    file.write_text(CONFIG.format(spool=tmp_path / "spool", socket=tmp_path / "sock"))
    return file


def wait_for(daemon: subprocess.Popen[bytes], address: str) -> None:
    deadline = time.monotonic() + SECONDS_MAX
    while not Path(address.removeprefix("ipc://")).exists():
        assert daemon.poll() is None and time.monotonic() < deadline, daemon.communicate()
        time.sleep(0.02)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a daemon that runs in a process of its own."""
    place = tmp_path_factory.mktemp("d")
    with (
        open(place / "stderr", "wb") as stderr,
        process("run", "--config", configured(place), module="jlogd", stderr=stderr) as daemon,
    ):
        address = f"ipc://{place}/sock"
        wait_for(daemon, address)
        yield address
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(SECONDS_MAX) == 0
    assert b"Traceback" not in (place / "stderr").read_bytes()


@pytest.fixture
def log(address: str, request: pytest.FixtureRequest) -> str:
    """A fresh log at the daemon, with a subscriber."""
    name = "".join(letter if letter.isalnum() else "-" for letter in request.node.name)[:60].strip("-")
    done(jlogctl("create", f"{address}/{name}", "--subscriber", "master", "--compression", "zstd"))
    return f"{address}/{name}"


def test_everything_works_as_on_a_directory(log: str, address: str, tmp_path: Path) -> None:
    (tmp_path / "input").write_bytes(LINES)
    name = log.rpartition("/")[2]
    assert done(jlogctl("append", log, tmp_path / "input")).out == f"5,000 records durable in {name}\n"
    assert done(jlogctl("tail", log, "--no-follow")).raw == LINES
    assert done(jlogctl("tail", log, "--no-follow", "--from", "-2")).raw == LINES[-26:]
    assert done(jlogctl("tail", log, "--no-follow", "--from", "-1h", "--grep", "^00042")).raw == b"00042 a line\n"
    part = done(jlogctl("tail", log, "--subscriber", "master", "--no-follow", "--count", 10, "--json"))
    assert [one["sequence"] for one in part.objects] == list(range(1, 11))
    done(jlogctl("subscriber", "add", log, "audit", "--from", "-5", "--max-lag-bytes", "1GiB"))
    done(jlogctl("subscriber", "clone", log, "copy", "--from", "master"))
    done(jlogctl("subscriber", "set", log, "copy", "--to", "100"))
    listed = done(jlogctl("subscriber", "list", log, "--json")).objects
    assert {one["name"]: one["next"] for one in listed} == {"audit": 4996, "copy": 100, "master": 11}
    assert next(one["caps"]["max_bytes"] for one in listed if one["name"] == "audit") == 1 << 30
    done(jlogctl("subscriber", "remove", log, "audit", "copy"))
    (about,) = done(jlogctl("stat", log, "--json")).objects
    assert (about["next"], about["compression"], about["target"]) == (5001, "zstd", log)
    assert name in done(jlogctl("list", address)).out
    assert name in done(jlogctl("stat", log)).out


def test_a_producer_is_remembered(log: str, tmp_path: Path) -> None:
    (tmp_path / "input").write_bytes(b"1\n2\n")
    done(jlogctl("append", log, tmp_path / "input", "--producer", "import"))
    assert "2 records skipped" in done(jlogctl("append", log, tmp_path / "input", "--producer", "import")).out
    assert done(jlogctl("tail", log, "--no-follow")).raw == b"1\n2\n"


def test_garbage_over_the_wire(log: str) -> None:
    ended = failed(jlogctl("append", log, "--framing", "json", stdin=b"1\n2\nthree\n"), 3, "line 3 (byte 4)")
    assert "2 records durable, then:" in ended.err
    assert done(jlogctl("tail", log, "--no-follow")).raw == b"1\n2\n"


def test_follow_and_the_name_that_is_held(log: str) -> None:
    with process("tail", log, "--subscriber", "master") as started:
        assert started.stdout is not None and started.stderr is not None
        done(jlogctl("append", log, stdin=b"one\n"))
        assert started.stdout.readline() == b"one\n"
        failed(jlogctl("tail", log, "--subscriber", "master", "--no-follow"), 3, f"{started.pid}")
        started.send_signal(signal.SIGINT)
        assert started.wait(SECONDS_MAX) == 0
        assert started.stderr.read() == b""
    assert done(jlogctl("subscriber", "list", log, "--json")).objects[0]["next"] == 2


@pytest.mark.parametrize(
    ("words", "code", "hint"),
    [
        (("tail", "LOG", "--subscriber", "mastr", "--no-follow"), 1, "did you mean master?"),
        (("subscriber", "remove", "LOG", "mastr"), 1, "did you mean master?"),
        (("subscriber", "add", "LOG", "master"), 3, "already"),
        (("subscriber", "add", "LOG", "bad name"), 2, "'bad name'"),
        (("subscriber", "set", "LOG", "master", "--to", "99"), 2, "1"),
        (("create", "LOG"), 3, "already"),
        (("check", "LOG"), 2, "give the log's directory"),
        (("tail", "LOG", "--no-follow", "--from", "99"), 2, "1"),
    ],
)
def test_mistakes_at_a_daemon(log: str, words: tuple[str, ...], code: int, hint: str) -> None:
    failed(jlogctl(*(log if word == "LOG" else word for word in words)), code, hint)


def test_a_log_the_daemon_does_not_have(address: str) -> None:
    for words in (("stat",), ("append",), ("tail", "--no-follow")):
        failed(jlogctl(words[0], f"{address}/nowhere", *words[1:]), 1, "nowhere")
    failed(jlogctl("stat", f"{address}/mainlgo"), 1, f"did you mean {address}/mainlog?")


def test_a_daemon_that_is_not_there(tmp_path: Path) -> None:
    for target in (f"ipc://{tmp_path}/none/mainlog", "tcp://127.0.0.1:9/mainlog"):
        began = time.monotonic()
        ended = failed(jlogctl("stat", target), 3, target.rpartition("/")[0])
        assert "jlogd run" in ended.err or "is jlogd running" in ended.err
        assert time.monotonic() - began < 8
    failed(jlogctl("list", f"ipc://{tmp_path}/none"), 3, "none")


def test_the_daemon_starts_says_what_is_wrong_and_ends_on_sigterm(tmp_path: Path) -> None:
    config = configured(tmp_path)
    with process("run", "--config", config, module="jlogd") as daemon:
        wait_for(daemon, f"ipc://{tmp_path}/sock")
        with process("run", "--config", config, module="jlogd") as second:
            _, told = second.communicate(timeout=SECONDS_MAX)
            assert second.returncode in (2, 3)
            assert b"error: " in told and f"pid {daemon.pid}".encode() in told and b"Traceback" not in told
        done(jlogctl("append", f"ipc://{tmp_path}/sock/mainlog", stdin=LINES))
        daemon.send_signal(signal.SIGTERM)
        _, told = daemon.communicate(timeout=SECONDS_MAX)
        assert daemon.returncode == 0 and b"Traceback" not in told, told
    assert done(jlogctl("tail", tmp_path / "spool" / "mainlog", "--no-follow")).raw == LINES
    assert "sound" in done(jlogctl("check", tmp_path / "spool" / "mainlog")).out


def test_an_append_outlives_a_restart_of_the_daemon(tmp_path: Path) -> None:
    config = configured(tmp_path)
    target = f"ipc://{tmp_path}/sock/mainlog"
    with process("run", "--config", config, module="jlogd") as daemon:
        wait_for(daemon, f"ipc://{tmp_path}/sock")
        with process("append", target) as started:
            assert started.stdin is not None and started.stdout is not None
            started.stdin.write(LINES[:6500])
            started.stdin.flush()
            while not done(jlogctl("stat", target, "--json")).objects[0]["next"] > 1:
                assert started.poll() is None
                time.sleep(0.02)
            daemon.send_signal(signal.SIGKILL)
            daemon.wait(SECONDS_MAX)
            with process("run", "--config", config, module="jlogd") as again:
                started.stdin.write(LINES[6500:])
                started.stdin.close()
                assert started.wait(SECONDS_MAX) == 0
                assert started.stdout.read() == b"5,000 records durable in mainlog\n"
                again.send_signal(signal.SIGTERM)
                again.wait(SECONDS_MAX)
    assert done(jlogctl("tail", tmp_path / "spool" / "mainlog", "--no-follow")).raw == LINES
