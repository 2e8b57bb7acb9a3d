"""`jlogctl check`: what it finds, in words and as JSON, while others write."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_support import done, failed, jlogctl, process

import jlogd


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "mainlog"
    done(jlogctl("create", path, "--subscriber", "master", "--segment-size", "4KiB"))
    with jlogd.open(path) as opened, opened.writer() as writer:
        for _ in range(5):
            writer.extend([b"a record"] * 500)
            writer.flush()
    return path


def test_a_sound_log(log: Path) -> None:
    assert "mainlog: " in done(jlogctl("check", log)).out
    assert done(jlogctl("check", log)).out.endswith("checked, sound\n")
    assert done(jlogctl("check", log, "--json")).raw == b""


def test_damage_is_found_and_the_exit_code_says_so(log: Path) -> None:
    segment = sorted(log.glob("*.seg"))[1]
    data = bytearray(segment.read_bytes())
    data[data.index(b"a record") + 3] ^= 0x40
    segment.write_bytes(data)
    before = {path: path.read_bytes() for path in log.rglob("*") if path.is_file()}
    ended = jlogctl("check", log)
    assert ended.code == 1 and ended.err == ""
    assert ended.lines[0].startswith(f"damaged {segment.name} byte ")
    assert any(line.startswith(f"missing {segment.name}: records ") for line in ended.lines)
    assert ended.lines[-1].endswith("2 faults")
    found = jlogctl("check", log, "--json")
    assert found.code == 1
    assert [(one["kind"], one["path"], one["harmless"]) for one in found.objects] == [
        ("damaged", segment.name, False),
        ("missing", segment.name, False),
    ]
    assert {path: path.read_bytes() for path in log.rglob("*") if path.is_file()} == before


def test_a_segment_that_is_gone(log: Path) -> None:
    sorted(log.glob("*.seg"))[2].unlink()
    ended = jlogctl("check", log)
    assert ended.code == 1 and "missing" in ended.out


def test_what_a_crash_left_is_harmless(log: Path) -> None:
    first = min(log.glob("*.seg"))
    with first.open("ab") as torn:
        torn.write(b"torn")
    ended = done(jlogctl("check", log))
    assert "(harmless)" in ended.lines[0] and ended.lines[-1].endswith("sound, 1 harmless leftover")
    assert done(jlogctl("check", log, "--json")).objects[0]["harmless"] is True


def test_an_address_is_refused_with_the_reason() -> None:
    failed(
        jlogctl("check", "tcp://127.0.0.1:5140/mainlog"), 2, "reads the files themselves", "give the log's directory"
    )


def test_it_runs_while_others_write(log: Path) -> None:
    with process("append", log) as writing:
        assert writing.stdin is not None
        for number in range(20):
            writing.stdin.write(b"more %d\n" % number * 200)
            writing.stdin.flush()
            ended = done(jlogctl("check", log))
            assert ended.out.endswith("checked, sound\n")
        writing.stdin.close()
        assert writing.wait(30) == 0
