"""`jlogctl stat`, `list` and `subscriber`: numbers, moves, and who holds what."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

import msgspec
import pytest
from cli_support import SECONDS_MAX, done, failed, jlogctl, process

import jlogd
from jlogd.cli.stat import Sample, health, rate_of
from jlogd.journal.types import Caps, LogStat, SubscriberStat


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "mainlog"
    done(jlogctl("create", path, "--subscriber", "slow", "--segment-size", "16KiB"))
    append(path, 1000)
    done(jlogctl("subscriber", "add", path, "quick", "--from", "end"))
    return path


@pytest.fixture
def log(template: Path, tmp_path: Path) -> Path:
    """A thousand records in small segments; `slow` at the beginning, `quick` at the end."""
    return Path(shutil.copytree(template, tmp_path / "spool" / "mainlog"))


def append(log: Path, count: int) -> None:
    with jlogd.open(log) as opened, opened.writer() as writer:
        for _ in range(count // 100):
            writer.extend([b"x" * 100] * 100)
            writer.flush()


def places(log: Path) -> dict[str, int]:
    return {one["name"]: one["next"] for one in jlogctl("subscriber", "list", log, "--json").objects}


def test_json_of_a_path_that_is_no_text(log: Path, tmp_path: Path) -> None:
    """JSON cannot hold it, and is JSON all the same."""
    spool = tmp_path / os.fsdecode(b"sp\xffool")
    log.parent.rename(spool)
    for command in (("stat", spool / "mainlog"), ("list", spool), ("owner", spool)):
        ended = done(jlogctl(*command, "--json"))
        assert ended.objects and "sp?ool" in ended.out, ended


def test_stat_shows_everything(log: Path) -> None:
    ended = done(jlogctl("stat", log))
    shown = ended.out
    assert ended.err == ""
    for word in (
        "mainlog",
        "1,000 records: 1 to 1000",
        "segments of 16 KiB",
        "records/s",
        "on average",
        "oldest",
        "commit",
    ):
        assert word in shown, shown
    slow, quick = (next(line for line in ended.lines if line.startswith(name)) for name in ("slow", "quick"))
    assert slow.split()[1:3] == ["1", "1,000"] and quick.split()[1:3] == ["1,001", "0"]
    assert any(line.split() == ["pinned", "by", "slow"] for line in ended.lines)
    assert all(line == line.rstrip() for line in ended.lines)


def test_stat_json_is_exact(log: Path) -> None:
    (about,) = done(jlogctl("stat", log, "--json")).objects
    assert (about["name"], about["first"], about["next"], about["pinned_by"]) == ("mainlog", 1, 1001, "slow")
    assert about["segments"] > 5 and about["bytes"] > 100_000
    assert about["healthy"] is True and about["warnings"] == []
    assert about["rate"]["over"] == "kept"
    slow = next(one for one in about["subscribers"] if one["name"] == "slow")
    assert slow["lag_records"] == 1000 and slow["lag_bytes"] > 100_000 and slow["lag_seconds"] > 0 and slow["pins"]
    assert set(LogStat.__struct_fields__) <= set(about)


def test_stat_of_several_logs_and_of_an_empty_one(log: Path) -> None:
    done(jlogctl("create", log.parent / "empty"))
    shown = done(jlogctl("stat", log, log.parent / "empty"))
    assert "0 records; next is 1" in shown.out
    assert len(done(jlogctl("stat", log, log.parent / "empty", "--json")).objects) == 2


def test_watch_shows_the_rate_between_two_looks_until_ctrl_c(log: Path) -> None:
    with process("stat", log, "--watch", "--interval", "200ms", "--json") as started:
        assert started.stdout is not None and started.stderr is not None
        first = msgspec.json.decode(started.stdout.readline())
        append(log, 500)
        looks = [first]
        deadline = time.monotonic() + SECONDS_MAX
        while sum(look["rate"]["records"] * 0.2 for look in looks[1:]) < 400 and time.monotonic() < deadline:
            looks.append(msgspec.json.decode(started.stdout.readline()))
        started.send_signal(signal.SIGINT)
        started.wait(SECONDS_MAX)
        assert started.returncode == 0
        assert started.stderr.read() == b""
    assert looks[-1]["next"] == 1501 and looks[-1]["rate"]["over"] == "interval"


@pytest.mark.parametrize("interval", ["0", "1ms", "2d", "soon", "5"])
def test_watch_refuses_an_interval_that_makes_no_sense(log: Path, interval: str) -> None:
    failed(jlogctl("stat", log, "--watch", "--interval", interval), 2, "--interval")


def a_stat(**changes: object) -> LogStat:
    plain = LogStat(
        name="mainlog", target="mainlog", uuid="", bytes=1000, segments=1, first=1, next=101, epoch=1,
        durability="commit", compression="none", segment_bytes=1 << 20, created=0.0,
        oldest_time=100.0, newest_time=110.0,
    )  # fmt: skip
    return msgspec.structs.replace(plain, **changes)


def lagging(**changes: object) -> SubscriberStat:
    plain = SubscriberStat(name="slow", next=1, lag_records=100, lag_bytes=1000, lag_seconds=5.0)
    return msgspec.structs.replace(plain, **changes)


def test_health() -> None:
    assert health(a_stat()) == ([], False)
    troubles, sick = health(a_stat(failed="the disk failed twice"))
    assert sick and "the disk failed twice" in troubles[0]
    troubles, sick = health(a_stat(full="no space for it"))
    assert sick and troubles == ["appends are refused: no space for it"]
    troubles, sick = health(a_stat(subscribers=[lagging(caps=Caps(max_bytes=1000))]))
    assert sick and "slow is at its cap" in troubles[0]
    troubles, sick = health(a_stat(subscribers=[lagging(lag_bytes=95 << 20, caps=Caps(max_bytes=100 << 20))]))
    assert not sick and "95%" in troubles[0]
    dropping = lagging(caps=Caps(max_bytes=900, on_full="drop-oldest"), dropped=7, damaged=1)
    troubles, sick = health(a_stat(subscribers=[dropping]))
    assert not sick and "7 records at its cap" in troubles[1] and "1 record to damage" in troubles[2]


def test_rates() -> None:
    assert rate_of(Sample(5.0, a_stat()), None).records == 10.0
    later = rate_of(Sample(7.0, a_stat(next=301, bytes=5000)), Sample(5.0, a_stat()))
    assert (later.records, later.bytes, later.kept) == (100.0, 2000.0, False)
    pruned = rate_of(Sample(7.0, a_stat(next=301, bytes=10)), Sample(5.0, a_stat()))
    assert pruned.bytes == 0.0
    assert rate_of(Sample(5.0, a_stat(oldest_time=0.0, newest_time=0.0)), None).records == 0.0


# list


def test_list(log: Path) -> None:
    done(jlogctl("create", log.parent / "debug"))
    ended = done(jlogctl("list", log.parent))
    assert [line.split()[0] for line in ended.lines] == ["LOG", "debug", "mainlog"]
    assert "quick (0), slow (1,000)" in ended.lines[2]
    assert [one["name"] for one in done(jlogctl("list", log.parent, "--json")).objects] == ["debug", "mainlog"]


def test_list_of_nothing_and_of_what_is_no_spool(log: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    nothing = jlogctl("list", tmp_path / "empty")
    assert nothing.code == 1 and f"jlogctl create {tmp_path / 'empty'}/NAME" in nothing.out
    assert (jlogctl("list", tmp_path / "empty", "--json").code, jlogctl("list", tmp_path / "empty", "--json").raw) == (
        1,
        b"",
    )
    failed(jlogctl("list", tmp_path / "none"), 1, "there is no directory")
    failed(jlogctl("list", log), 2, "is a log, not a spool", str(log.parent))
    (tmp_path / "file").touch()
    failed(jlogctl("list", tmp_path / "file"), 1, "is a file")


def test_one_broken_log_does_not_hide_the_others(log: Path) -> None:
    done(jlogctl("create", log.parent / "broken"))
    (log.parent / "broken" / "log.json").write_text("{")
    ended = jlogctl("list", log.parent)
    assert ended.code == 1 and "mainlog" in ended.out
    assert "warning:" in ended.err and "broken" in ended.err
    failed(jlogctl("stat", log.parent / "broken"), 3, "log.json")


# subscriber


def test_add_list_set_clone_remove(log: Path) -> None:
    assert done(jlogctl("subscriber", "add", log, "late", "later", "--from", "begin")).out.startswith(
        "added late at 1 (1,000"
    )
    done(jlogctl("subscriber", "add", log, "recent", "--from", "-10"))
    done(jlogctl("subscriber", "add", log, "hour", "--from", "-1h"))
    done(jlogctl("subscriber", "set", log, "later", "--to", "500"))
    done(jlogctl("subscriber", "clone", log, "copy", "--from", "later"))
    assert places(log) == {"copy": 500, "hour": 1, "late": 1, "later": 500, "quick": 1001, "recent": 991, "slow": 1}
    assert "goes on at 1001 (0 records to read)" in done(jlogctl("subscriber", "set", log, "copy", "--to", "end")).out
    done(jlogctl("subscriber", "set", log, "copy", "--to", "begin"))
    assert places(log)["copy"] == 1
    done(jlogctl("subscriber", "remove", log, "copy", "late", "later", "recent", "hour"))
    assert places(log) == {"quick": 1001, "slow": 1}


def test_caps_are_kept_and_shown(log: Path) -> None:
    caps = ("--max-lag-bytes", "1GiB", "--max-lag-age", "2d", "--on-full", "drop-oldest")
    done(jlogctl("subscriber", "add", log, "capped", *caps))
    shown = done(jlogctl("subscriber", "list", log)).out
    assert "1 GiB, 2d, drop-oldest" in shown
    failed(jlogctl("subscriber", "add", log, "x", "--max-lag-age", "1h"), 2, "drop-oldest")
    failed(jlogctl("subscriber", "add", log, "x", "--on-full", "block"), 2, "--max-lag-bytes")


def test_caps_may_be_changed(log: Path) -> None:
    changed = done(jlogctl("subscriber", "caps", log, "slow", "--max-lag-bytes", "20GiB"))
    assert changed.out == "slow may fall behind: 20 GiB, block\n"
    assert "20 GiB, block" in done(jlogctl("subscriber", "list", log)).out
    assert done(jlogctl("subscriber", "caps", log, "slow", "--default")).out == "slow may fall behind: without limit\n"
    for words in ((), ("--default", "--max-lag-bytes", "1MiB")):
        failed(jlogctl("subscriber", "caps", log, "slow", *words), 2, "--default")
    failed(jlogctl("subscriber", "caps", log, "slwo", "--default"), 1, "did you mean slow?")


def test_caps_that_drop_give_the_space_back_at_once(log: Path) -> None:
    before = len(list(log.glob("*.seg")))
    done(jlogctl("subscriber", "caps", log, "slow", "--max-lag-bytes", "1KiB", "--on-full", "drop-oldest"))
    assert len(list(log.glob("*.seg"))) < before


def test_removing_who_pinned_gives_the_space_back_at_once(log: Path) -> None:
    before = len(list(log.glob("*.seg")))
    done(jlogctl("subscriber", "remove", log, "slow"))
    assert len(list(log.glob("*.seg"))) < before


def test_a_log_without_subscribers(tmp_path: Path) -> None:
    done(jlogctl("create", tmp_path / "alone"))
    ended = jlogctl("subscriber", "list", tmp_path / "alone")
    assert ended.code == 1 and "jlogctl subscriber add" in ended.out
    failed(jlogctl("tail", tmp_path / "alone", "--subscriber", "x"), 1, "jlogctl subscriber add", " x")


@pytest.mark.parametrize(
    ("words", "code", "hint"),
    [
        (("add", "slow"), 3, "already"),
        (("add", "bad name"), 2, "'bad name'"),
        (("add", ""), 2, "''"),
        (("add", "x.lock"), 2, "x.lock"),
        (("add", "x", "--from", "5000"), 2, "1001"),
        (("add", "x", "--from", "noon"), 2, "no place in a log"),
        (("remove", "slwo"), 1, "did you mean slow?"),
        (("remove", "unlike"), 1, "there are: quick, slow"),
        (("set", "slwo", "--to", "end"), 1, "did you mean slow?"),
        (("set", "slow"), 2, "where to? give --to"),
        (("set", "slow", "--to", "5000"), 2, "1001"),
        (("set", "slow", "end"), 2, "end"),
        (("clone", "x"), 2, "--from"),
        (("clone", "x", "--from", "slwo"), 1, "did you mean slow?"),
        (("clone", "slow", "--from", "quick"), 3, "already"),
    ],
)
def test_mistakes(log: Path, words: tuple[str, ...], code: int, hint: str) -> None:
    before = places(log)
    failed(jlogctl("subscriber", words[0], log, *words[1:]), code, hint)
    assert places(log) == before


def test_a_subscriber_that_is_held_is_not_moved_or_removed(log: Path) -> None:
    with jlogd.open(log) as opened, opened.subscriber("slow") as feed:
        next(iter(feed))
        for words in (("set", log, "slow", "--to", "end"), ("remove", log, "slow")):
            failed(jlogctl("subscriber", *words), 3, f"pid {os.getpid()}")
    assert places(log)["slow"] == 1
