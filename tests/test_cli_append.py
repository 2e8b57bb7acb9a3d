"""`jlogctl create` and `append`: what goes in is there, byte for byte, and what was refused is named."""

from __future__ import annotations

import io
import os
import pty
import signal
import struct
import time
from contextlib import suppress
from pathlib import Path

import pytest
from cli_support import ROOT, SECONDS_MAX, done, failed, jlogctl, process
from daemon_support import until

import jlogd
from jlogd.cli.append import Tally, _pump
from jlogd.journal.batch import RECORD_BYTES_MAX


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "spool" / "mainlog"
    done(jlogctl("create", path, "--subscriber", "master"))
    return path


def records(log: Path) -> list[bytes]:
    with jlogd.open(log) as opened, opened.subscriber() as feed:
        return [record for batch in feed for record in batch]


def test_create_says_what_it_made(tmp_path: Path) -> None:
    ended = done(
        jlogctl(
            *(
                "create",
                tmp_path / "a" / "b" / "debug",
                "--subscriber",
                "x",
                "--subscriber",
                "y",
                "--segment-size",
                "1MiB",
            ),
            *("--durability", "interval=500ms", "--compression", "zstd"),
            *("--max-lag-bytes", "1GiB", "--max-lag-age", "2d", "--on-full", "drop-oldest"),
        )
    )
    assert "created" in ended.out and "subscribers x, y" in ended.out and "1 MiB" in ended.out
    (stat,) = done(jlogctl("stat", tmp_path / "a" / "b" / "debug", "--json")).objects
    assert (stat["segment_bytes"], stat["durability"], stat["compression"]) == (1 << 20, "interval=500ms", "zstd")
    assert [one["name"] for one in stat["subscribers"]] == ["x", "y"]
    assert stat["subscribers"][0]["caps"] == {"max_bytes": 1 << 30, "max_age": 172800.0, "on_full": "drop-oldest"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--durability", "sometimes"), "durability 'sometimes'"),
        (("--durability", "interval=0ms"), "interval=0ms"),
        (("--segment-size", "1"), "segment size"),
        (("--segment-size", "64M"), "64MiB"),
        (("--segment-size", "-1"), "-1"),
        (("--segment-size", "1PiB"), "1PiB"),
        (("--compression", "gzip"), "gzip"),
        (("--subscriber", "../etc"), "'../etc'"),
        (("--subscriber", ""), "''"),
        (("--subscriber", "a", "--subscriber", "a"), "named twice"),
        (("--on-full", "block"), "--max-lag-bytes"),
        (("--max-lag-bytes", "0"), "0"),
        (("--max-lag-age", "1h"), "drop-oldest"),
        (("--max-lag-age", "90"), "90"),
        (("--on-full", "explode"), "explode"),
    ],
)
def test_create_refuses_what_makes_no_sense(tmp_path: Path, options: tuple[str, ...], words: str) -> None:
    failed(jlogctl("create", tmp_path / "mainlog", *options), 2, words)
    assert not (tmp_path / "mainlog").exists()


@pytest.mark.parametrize("name", ["sp ace", ".hidden", "x" * 65, "ünicode", "a:b"])
def test_create_refuses_names_that_are_none(tmp_path: Path, name: str) -> None:
    failed(jlogctl("create", tmp_path / name), 2, name)


def test_create_refuses_what_is_there(log: Path, tmp_path: Path) -> None:
    failed(jlogctl("create", log), 3, str(log))
    (tmp_path / "file").write_text("x")
    failed(jlogctl("create", tmp_path / "file"), 3, "file")
    failed(jlogctl("create", tmp_path / "file" / "log"), 2, "file")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", []),
        (b"one\n", [b"one"]),
        (b"one\ntwo", [b"one", b"two"]),
        (b"\n\n", [b"", b""]),
        (b"\x00\xff\r\n", [b"\x00\xff\r"]),
    ],
)
def test_lines_keep_their_bytes(log: Path, data: bytes, expected: list[bytes]) -> None:
    ended = done(jlogctl("append", log, stdin=data))
    assert ended.out == f"{len(expected)} record{'' if len(expected) == 1 else 's'} durable in mainlog\n"
    assert records(log) == expected


def test_a_file_of_many_blocks(log: Path, tmp_path: Path) -> None:
    lines = [b"%07d %s" % (number, b"x" * (number % 200)) for number in range(60_000)]
    (tmp_path / "input").write_bytes(b"\n".join(lines) + b"\n")
    assert done(jlogctl("append", log, tmp_path / "input")).out == "60,000 records durable in mainlog\n"
    assert records(log) == lines


def test_length_and_json(log: Path) -> None:
    binary = [b"a\nb", b"", b"\xff" * 300]
    done(jlogctl("append", log, "--framing", "length", stdin=b"".join(struct.pack("<I", len(r)) + r for r in binary)))
    done(jlogctl("append", log, "-", "--framing", "json", stdin=b'{"a": 1}\n\n[2]'))
    assert records(log) == [*binary, b'{"a": 1}', b"[2]"]


@pytest.mark.parametrize(
    ("framing", "data", "kept", "where"),
    [
        ("json", b'{"a":1}\n{"b":\n{"c":3}\n', [b'{"a":1}'], "line 2 (byte 8)"),
        ("json", b"Jan  1 host program: hello\n", [], "line 1 (byte 0)"),
        ("length", b"\x02\x00\x00\x00hi\xff\xff\xff\xff", [b"hi"], "record 2 (byte 6)"),
        ("length", b"\x02\x00\x00\x00hi\x09\x00\x00\x00cut", [b"hi"], "ends inside record 2 (byte 6)"),
        ("lines", b"short\n" + b"x" * (RECORD_BYTES_MAX + 1), [b"short"], "line 2 (byte 6)"),
        ("lines", b"short\n" + b"x" * (RECORD_BYTES_MAX + 1) + b"\nafter\n", [b"short"], "line 2 (byte 6)"),
    ],
)
def test_garbage_is_named_and_what_came_before_is_durable(
    log: Path, framing: str, data: bytes, kept: list[bytes], where: str
) -> None:
    ended = failed(jlogctl("append", log, "--framing", framing, stdin=data), 3, where)
    assert f"{len(kept)} record{'' if len(kept) == 1 else 's'} durable, then:" in ended.err
    assert not ended.raw
    assert records(log) == kept


def test_the_largest_record_goes_in(log: Path) -> None:
    line = b"x" * RECORD_BYTES_MAX
    done(jlogctl("append", log, stdin=line + b"\n" + line))
    assert list(map(len, records(log))) == [RECORD_BYTES_MAX] * 2


def test_an_append_that_is_run_again_appends_nothing_twice(log: Path, tmp_path: Path) -> None:
    file = tmp_path / "old.log"
    file.write_bytes(b"1\n2\n3\n")
    assert done(jlogctl("append", log, file, "--producer", "import")).out == "3 records durable in mainlog\n"
    again = done(jlogctl("append", log, file, "--producer", "import"))
    assert again.lines == [
        "0 records durable in mainlog",
        "3 records skipped: the log has them from producer import",
    ]
    file.write_bytes(b"1\n2\n3\n4\n5\n")
    assert done(jlogctl("append", log, file, "--producer", "import")).lines[0] == "2 records durable in mainlog"
    done(jlogctl("append", log, "-", "--producer", "other", stdin=b"6\n"))
    assert records(log) == [b"1", b"2", b"3", b"4", b"5", b"6"]
    file.write_bytes(b"1\n")
    assert "is it the same input?" in done(jlogctl("append", log, file, "--producer", "import")).err


def test_a_killed_append_is_finished_by_running_it_again(log: Path, tmp_path: Path) -> None:
    lines = [b"%08d" % number for number in range(200_000)]
    file = tmp_path / "input"
    file.write_bytes(b"\n".join(lines) + b"\n")
    for seconds in (0.25, 0.35):
        with process("append", log, file, "--producer", "import"):
            time.sleep(seconds)
    done(jlogctl("append", log, file, "--producer", "import"))
    assert records(log) == lines


def test_a_producer_needs_an_input_that_can_be_given_again(log: Path) -> None:
    failed(jlogctl("append", log, "--producer", "import"), 2, "--producer needs an input")
    failed(jlogctl("append", log, "-", "--producer", ""), 2, "producer's name is empty")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_everything_before_it_durable(log: Path, number: signal.Signals) -> None:
    with process("append", log) as started:
        assert started.stdin is not None
        started.stdin.write(b"one\ntwo\nhalf a line")
        started.stdin.flush()
        deadline = time.monotonic() + SECONDS_MAX
        while records(log) != [b"one", b"two"] and time.monotonic() < deadline:
            time.sleep(0.02)
        started.send_signal(number)
        started.wait(SECONDS_MAX)
        assert started.stderr is not None
        told = started.stderr.read().decode()
    assert started.returncode == 3
    assert "2 records durable, then:" in told and "error: interrupted" in told and "Traceback" not in told
    assert records(log) == [b"one", b"two"]


def test_a_subscriber_at_its_cap_stops_the_append_and_says_who(tmp_path: Path) -> None:
    log = tmp_path / "capped"
    done(jlogctl("create", log, "--subscriber", "slow", "--max-lag-bytes", "64KiB", "--segment-size", "16KiB"))
    block = b"".join(b"%06d %s\n" % (number, b"x" * 100) for number in range(20))
    while (ended := jlogctl("append", log, stdin=block)).code == 0:
        assert len(records(log)) < 10_000
    failed(ended, 3, "slow")
    assert len(records(log)) >= 200
    watched = jlogctl("stat", log)
    assert "slow" in watched.err and "warning: capped" in watched.err


def test_with_wait_a_full_log_is_waited_for(tmp_path: Path) -> None:
    log = tmp_path / "capped"
    done(jlogctl("create", log, "--subscriber", "slow", "--max-lag-bytes", "32KiB", "--segment-size", "16KiB"))
    block = b"".join(b"%06d %s\n" % (number, b"x" * 100) for number in range(400))
    done(jlogctl("append", log, stdin=block))
    with process("append", log, "--wait") as started:
        assert started.stdin is not None
        started.stdin.write(block)
        started.stdin.close()
        time.sleep(0.4)
        assert started.poll() is None
        assert len(records(log)) == 400
        done(jlogctl("tail", log, "--subscriber", "slow", "--no-follow"))
        assert started.wait(SECONDS_MAX) == 0
    with jlogd.open(log) as opened:
        assert opened.stat().next == 801


def test_an_interrupt_while_the_log_is_full_waits_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A log at its cap takes nothing more however long one waits; the last words say that."""
    log = tmp_path / "capped"
    done(jlogctl("create", log, "--subscriber", "slow", "--max-lag-bytes", "4KiB", "--segment-size", "4KiB"))
    with jlogd.open(log) as opened:
        with opened.writer() as writer:
            writer.append(b"x" * 5000)
        writer = opened.writer(on_full="wait")
        waited: list[float | None] = []
        close = writer.close
        monkeypatch.setattr(writer, "close", lambda timeout=None: (waited.append(timeout), close(timeout)))

        class Interrupted(io.BytesIO):
            def read1(self, _size: int | None = -1) -> bytes:
                if block := self.read():
                    return block
                until(lambda: writer.full is not None, "the log is full")
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            _pump(Interrupted(b"a line\n"), "lines", writer, Tally(), lambda _done: None)
    assert waited == [0.0]
    told = capsys.readouterr().err
    assert told.startswith("no record is known to be durable; the log took no more: capped: subscriber slow"), told


def test_real_lines_come_back_byte_for_byte(log: Path) -> None:
    files = sorted((ROOT.parent / "shared" / "data" / "loghub").glob("*.log")) or [ROOT / "pyproject.toml"]
    whole = b""
    for file in files:
        done(jlogctl("append", log, file))
        whole += file.read_bytes().removesuffix(b"\n") + b"\n"
    assert done(jlogctl("tail", log, "--no-follow")).raw == whole


def test_a_terminal_sees_a_bar_and_the_result(log: Path, tmp_path: Path) -> None:
    (tmp_path / "input.log").write_bytes(b"a line of the input\n" * 400_000)
    for words in (("append", log, tmp_path / "input.log"), ("check", log)):
        ours, theirs = pty.openpty()
        with process(*words, stderr=theirs, environment={"TERM": "xterm", "COLUMNS": "100"}) as started:
            os.close(theirs)
            drawn = b""
            with suppress(OSError):  # the other end is closed
                while chunk := os.read(ours, 65536):
                    drawn += chunk
            assert started.wait(SECONDS_MAX) == 0
            assert started.stdout is not None
            assert b"400,000 records durable" in (out := started.stdout.read()) or b"sound" in out
        os.close(ours)
        assert words[1 if words[0] == "check" else 2].name.encode() in drawn and b"MiB" in drawn


@pytest.mark.parametrize("file", ["missing.log", "."])
def test_a_file_that_cannot_be_read_is_named(log: Path, tmp_path: Path, file: str) -> None:
    failed(jlogctl("append", log, tmp_path / file), 2 if file == "." else 3, str(tmp_path / file).removesuffix("/."))
    assert records(log) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of another user")
def test_root_acts_as_the_owner_of_the_log(tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    spool.mkdir()
    tmp_path.chmod(0o755)
    os.chown(spool, 65534, 65534)
    for parent in tmp_path.parents[:3]:
        if parent.stat().st_uid == 0 and parent != Path("/tmp"):
            parent.chmod(parent.stat().st_mode | 0o011)
    for words in (
        ("create", "--subscriber", "x"),
        ("append",),
        ("tail", "--subscriber", "x", "--no-follow"),
        ("stat",),
    ):
        with process(words[0], spool / "mainlog", *words[1:]) as started:
            _, told = started.communicate(b"a line\n", SECONDS_MAX)
        assert started.returncode == 0, told
    owners = {(path.stat().st_uid, path.stat().st_gid) for path in spool.rglob("*")}
    assert owners == {(65534, 65534)}
