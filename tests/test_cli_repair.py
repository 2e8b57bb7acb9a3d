"""`jlogctl repair`: what it says, what it keeps, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_support import done, failed, jlogctl, log_of_small_segments, process

RECORDS = [b"record %d" % number for number in range(1000)]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return log_of_small_segments(tmp_path / "spool" / "mainlog", RECORDS)


def test_repair_of_a_sound_log(log: Path) -> None:
    assert done(jlogctl("repair", log)).out == "mainlog: nothing to repair\n"
    assert done(jlogctl("repair", log, "--json")).raw == b""
    assert not (log / "quarantine").exists()


def test_repair_says_what_it_does_and_keeps_what_was_there(log: Path) -> None:
    (log / "log.json").write_bytes(b"{oops")
    (log / "subscribers" / "master").write_bytes(b"x" * 4608)
    (log / "owner.new").write_bytes(b"leftover")
    failed(jlogctl("stat", log), 3, "log.json cannot be read")
    planned = done(jlogctl("repair", log, "--dry-run"))
    assert planned.lines[-1] == "mainlog: 3 steps to take; nothing was changed"
    assert (log / "log.json").read_bytes() == b"{oops"
    ended = done(jlogctl("repair", log))
    assert ended.lines[:-1] == planned.lines[:-1]
    assert ended.lines[0].startswith("rebuilt log.json: it is damaged, or was edited by hand; identity ")
    assert ended.lines[1] == "moved owner.new: left over from a file that was being replaced (8 B)"
    assert ended.lines[2].startswith("rebuilt subscribers/master: slot 0 is damaged, ")
    (place,) = (log / "quarantine").iterdir()
    assert str(place) in ended.lines[-1]
    assert (place / "log.json").read_bytes() == b"{oops" and (place / "owner.new").read_bytes() == b"leftover"
    assert [step["path"] for step in json.loads((place / "report.json").read_bytes())["steps"]] == [
        "log.json", "owner.new", "subscribers/master",
    ]  # fmt: skip
    assert done(jlogctl("check", log)).out.endswith("sound\n")
    assert done(jlogctl("export", log)).raw == b"".join(record + b"\n" for record in RECORDS)
    assert done(jlogctl("repair", log)).out == "mainlog: nothing to repair\n"


def test_repair_as_json(log: Path) -> None:
    (log / "floor").unlink()
    (one,) = done(jlogctl("repair", log, "--json")).objects
    assert (one["path"], one["action"], one["bytes"], one["records"]) == ("floor", "made", 0, 0)


def test_repair_of_a_log_without_its_log_json(log: Path) -> None:
    (log / "log.json").unlink()
    failed(jlogctl("stat", log), 1, f"jlogctl repair {log} --dry-run")
    assert done(jlogctl("repair", log)).lines[0].startswith("made log.json: it is not there; identity ")
    assert done(jlogctl("check", log)).out.endswith("sound\n")


def test_repair_refuses_a_log_in_use_an_address_and_what_is_no_log(log: Path, tmp_path: Path) -> None:
    with process("append", log) as writing:
        assert writing.stdin is not None
        writing.stdin.write(b"more\n")
        writing.stdin.flush()
        while b"more" not in max(log.glob("*.seg")).read_bytes():
            pass
        failed(jlogctl("repair", log), 3, f"{log} is in use; stop the daemon and every program that has it open")
        failed(jlogctl("repair", log, "--dry-run"), 3, "is in use")
    failed(jlogctl("repair", "tcp://127.0.0.1:5140/mainlog"), 2, "works on the files themselves")
    failed(jlogctl("repair", tmp_path / "nothing"), 1, "there is no log")
    failed(jlogctl("repair", log.parent), 1, "is a spool, not a log")
    assert not (tmp_path / "owner.lock").exists()
