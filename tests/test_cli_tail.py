"""`jlogctl tail`: what it prints, where it starts and ends, and what it leaves behind."""

from __future__ import annotations

import base64
import shutil
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cli_support import ROOT, SECONDS_MAX, done, failed, jlogctl, process
from wire_support import Daemon

import jlogd

LINES = [b"%04d %s" % (number, b"even" if number % 2 == 0 else b"odd") for number in range(1, 21)]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "mainlog"
    done(jlogctl("create", path, "--subscriber", "master"))
    for at in range(0, 20, 5):
        append(path, LINES[at : at + 5])
    return path


@pytest.fixture
def log(template: Path, tmp_path: Path) -> Path:
    """Twenty lines in four batches, and a subscriber at the beginning."""
    return Path(shutil.copytree(template, tmp_path / "mainlog"))


def append(log: Path, lines: list[bytes]) -> None:
    with jlogd.open(log) as opened, opened.writer() as writer:
        writer.extend(lines)


def position(log: Path, name: str = "master") -> int:
    with jlogd.open(log) as opened:
        return next(one.next for one in opened.subscribers() if one.name == name)


def text(lines: list[bytes]) -> bytes:
    return b"".join(line + b"\n" for line in lines)


def test_everything_and_then_the_end(log: Path) -> None:
    assert done(jlogctl("tail", log, "--no-follow")).raw == text(LINES)
    assert position(log) == 1


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("begin", LINES),
        ("end", []),
        ("1", LINES),
        ("0", LINES),
        ("8", LINES[7:]),
        ("20", LINES[19:]),
        ("21", []),
        ("-1", LINES[19:]),
        ("-8", LINES[12:]),
        ("-999", LINES),
        ("-0", []),
        ("-1h", LINES),
        ("2001-01-01", LINES),
        ("2999-01-01T00:00:00Z", []),
    ],
)
def test_places(log: Path, place: str, expected: list[bytes]) -> None:
    assert done(jlogctl("tail", log, "--no-follow", "--from", place)).raw == text(expected)


def test_a_time_between_two_batches(log: Path) -> None:
    time.sleep(0.05)
    between = datetime.now(UTC).isoformat()
    append(log, [b"late"])
    assert done(jlogctl("tail", log, "--no-follow", "--from", between)).raw == b"late\n"


def test_a_number_past_the_end_is_refused(log: Path) -> None:
    failed(jlogctl("tail", log, "--no-follow", "--from", "22"), 2, "21")


@pytest.mark.parametrize("count", [1, 4, 5, 6, 19, 20, 50])
def test_count_stops_and_the_subscriber_stands_after_the_last_one_printed(log: Path, count: int) -> None:
    ended = done(jlogctl("tail", log, "--subscriber", "master", "--no-follow", "--count", count))
    assert ended.raw == text(LINES[:count])
    assert position(log) == min(count, 20) + 1
    assert done(jlogctl("tail", log, "--subscriber", "master", "--no-follow")).raw == text(LINES[count:])
    assert position(log) == 21


def test_a_subscriber_goes_on_where_it_stood_and_moves_only_when_asked(log: Path) -> None:
    peek = ("tail", log, "--subscriber", "master", "--no-follow", "--checkpoint", "none")
    assert done(jlogctl(*peek)).raw == text(LINES)
    assert position(log) == 1
    assert done(jlogctl(*peek[:-2])).raw == text(LINES)
    assert position(log) == 21
    append(log, [b"more"])
    assert done(jlogctl(*peek[:-2])).raw == b"more\n"


def test_grep(log: Path) -> None:
    ended = done(jlogctl("tail", log, "--no-follow", "--grep", "even$"))
    assert ended.raw == text(LINES[1::2])
    done(jlogctl("tail", log, "--no-follow", "--grep", "odd", "--subscriber", "master", "--count", 2))
    assert position(log) == 4
    nothing = jlogctl("tail", log, "--no-follow", "--grep", "neither")
    assert (nothing.code, nothing.raw, nothing.err) == (1, b"", "")
    failed(jlogctl("tail", log, "--no-follow", "--grep", "("), 2, "regular expression")


def test_json(log: Path) -> None:
    append(log, [b"\xff\xfe", "größe".encode(), b"two\nlines"])
    found = done(jlogctl("tail", log, "--no-follow", "--json")).objects
    assert [one["sequence"] for one in found] == list(range(1, 24))
    assert found[0]["record"] == "0001 odd"
    assert base64.b64decode(found[20]["base64"]) == b"\xff\xfe" and "record" not in found[20]
    assert [one["record"] for one in found[21:]] == ["größe", "two\nlines"]
    assert all(datetime.fromisoformat(one["time"]).tzinfo for one in found)
    only = done(jlogctl("tail", log, "--no-follow", "--json", "--grep", "größe")).objects
    assert [one["sequence"] for one in only] == [22]


def test_an_empty_log_is_no_failure(tmp_path: Path) -> None:
    done(jlogctl("create", tmp_path / "empty"))
    assert done(jlogctl("tail", tmp_path / "empty", "--no-follow")).raw == b""
    assert done(jlogctl("tail", tmp_path / "empty", "--no-follow", "--from", "-5")).raw == b""


def test_damage_is_one_line_on_stderr_and_an_object_in_json(log: Path) -> None:
    segment = next(log.glob("*.seg"))
    data = bytearray(segment.read_bytes())
    data[data.index(b"0008 even")] ^= 1
    segment.write_bytes(data)
    ended = jlogctl("tail", log, "--no-follow")
    assert ended.code == 1
    assert ended.raw == text(LINES[:5] + LINES[10:])
    assert ended.err.startswith("gap: 5 records lost (6 to 10), damaged") and ended.err.count("\n") == 1
    objects = jlogctl("tail", log, "--no-follow", "--json").objects
    (gap,) = [one["gap"] for one in objects if "gap" in one]
    assert (gap["first"], gap["last"], gap["count"], gap["reason"]) == (6, 10, 5, "damaged")
    assert len(objects) == 16
    assert jlogctl("tail", log, "--no-follow", "--subscriber", "master").code == 1
    assert position(log) == 21
    listed = done(jlogctl("subscriber", "list", log, "--json")).objects
    assert listed[0]["damaged"] == 5


def test_records_dropped_by_a_cap_are_told_and_no_failure(tmp_path: Path) -> None:
    log = tmp_path / "capped"
    caps = ("--max-lag-bytes", "32KiB", "--on-full", "drop-oldest", "--segment-size", "16KiB")
    done(jlogctl("create", log, "--subscriber", "slow", *caps))
    for _ in range(8):
        append(log, [b"x" * 100] * 100)
    ended = done(jlogctl("tail", log, "--subscriber", "slow", "--no-follow"))
    assert "gap: " in ended.err and "dropped" in ended.err
    assert 0 < ended.raw.count(b"\n") < 800
    assert "lost" in done(jlogctl("stat", log)).err


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("--subscriber", "master", "--from", "begin"), "jlogctl subscriber set LOG master --to PLACE"),
        (("--checkpoint", "auto"), "--checkpoint auto needs --subscriber"),
        (("--checkpoint", "always"), "always"),
        (("--count", "0"), "--count"),
        (("--from", "soon"), "no place in a log"),
        (("--subscriber", "../x"), "../x"),
        (("more", "words"), "more"),
    ],
)
def test_mistakes(log: Path, words: tuple[str, ...], hint: str) -> None:
    ended = jlogctl("tail", log, "--no-follow", *words)
    assert ended.code in (1, 2) and hint in ended.err and ended.err.count("error: ") == 1


def test_a_subscriber_that_is_not_there(log: Path) -> None:
    failed(jlogctl("tail", log, "--subscriber", "mastr", "--no-follow"), 1, "did you mean master?")


# In a process of its own


def test_follow_prints_as_it_comes_and_ctrl_c_ends_it_cleanly(log: Path) -> None:
    with process("tail", log, "--subscriber", "master") as started:
        assert started.stdout is not None and started.stderr is not None
        assert b"".join(started.stdout.readline() for _ in LINES) == text(LINES)
        append(log, [b"as it comes"])
        assert started.stdout.readline() == b"as it comes\n"
        busy = failed(jlogctl("tail", log, "--subscriber", "master", "--no-follow"), 3, f"pid {started.pid}")
        assert "one consumer at a time" in busy.err
        (listed,) = done(jlogctl("subscriber", "list", log, "--json")).objects
        assert f"pid {started.pid}" in listed["holder"]
        started.send_signal(signal.SIGINT)
        started.wait(SECONDS_MAX)
        assert (started.returncode, started.stdout.read(), started.stderr.read()) == (0, b"", b"")
    assert position(log) == 22


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_ephemeral_tail_leaves_nothing_behind_however_it_ends(log: Path, number: signal.Signals) -> None:
    before = sorted(path.name for path in log.rglob("*"))
    with process("tail", log, "--from", "begin") as started:
        assert started.stdout is not None
        assert started.stdout.readline() == LINES[0] + b"\n"
        started.send_signal(number)
        started.wait(SECONDS_MAX)
    assert started.returncode == (-9 if number == signal.SIGKILL else 0)
    assert sorted(path.name for path in log.rglob("*")) == before
    assert len(done(jlogctl("subscriber", "list", log, "--json")).objects) == 1


def test_the_default_starts_at_the_end_and_follows(log: Path) -> None:
    with process("tail", log, "--count", "2") as started:
        assert started.stdout is not None
        deadline = time.monotonic() + SECONDS_MAX
        while started.poll() is None and time.monotonic() < deadline:
            append(log, [b"new"])
            time.sleep(0.1)
        assert started.returncode == 0
        assert started.stdout.read() == b"new\nnew\n"


def test_head_ends_it_with_0_and_moves_the_subscriber_past_nothing_that_was_not_written(log: Path) -> None:
    for _ in range(40):
        append(log, [b"y" * 100] * 500)
    tail = [sys.executable, "-m", "jlogd.cli.jlogctl", "tail", str(log), "--subscriber", "master"]
    shell = f"{' '.join(tail)} | head -n 3; echo ended ${{PIPESTATUS[0]}}"
    ended = subprocess.run(
        ["bash", "-c", shell],
        capture_output=True,
        timeout=SECONDS_MAX,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
    )
    assert ended.stdout == text(LINES[:3]) + b"ended 0\n"
    assert ended.stderr == b""
    assert position(log) < 10_000


def test_a_reader_that_goes_away_while_nothing_comes_ends_it_too(log: Path) -> None:
    with process("tail", log, "--from", "-1") as started:
        assert started.stdout is not None
        assert started.stdout.readline() == LINES[-1] + b"\n"
        started.stdout.close()
        started.wait(SECONDS_MAX)
        assert started.returncode == 0
        assert started.stderr is not None and started.stderr.read() == b""


def test_a_full_disk_behind_stdout_is_told_and_moves_nothing(log: Path) -> None:
    with (
        open("/dev/full", "wb") as full,
        process("tail", log, "--subscriber", "master", "--no-follow", stdout=full) as started,
    ):
        _, told = started.communicate(timeout=SECONDS_MAX)
    assert started.returncode == 3
    assert b"error: no space left on device" in told and b"Traceback" not in told
    assert position(log) == 1


def test_a_daemon_that_goes_away_and_comes_back_is_told(daemon: Daemon) -> None:
    with jlogd.open(daemon.target()) as log, log.writer() as writer:
        writer.append(b"before")
    with process("tail", daemon.target(), "--from", "begin") as started:
        assert started.stdout is not None and started.stderr is not None
        assert started.stdout.readline() == b"before\n"
        daemon.stop()
        assert started.stderr.readline().decode() == f"lost {daemon.address}, trying again\n"
        daemon.start()
        assert started.stderr.readline().decode() == f"{daemon.address} is back\n"
        with jlogd.open(daemon.target()) as log, log.writer() as writer:
            writer.append(b"after")
        assert started.stdout.readline() == b"after\n"
        started.send_signal(signal.SIGINT)
        assert started.wait(SECONDS_MAX) == 0
