"""Followed files: each line once, whatever happens to the files and to us.

How this could fail: a file taken for another because its inode was used again, or its first line is the same; a copy
read twice; a truncation that is not noticed because the file has grown again; lines between the last look and a
rename; a batch lost on its way to the log, and the position not; a position saved before the identity; an unfinished
line sent too early or never; a long line cut at another place after a restart; one busy file that keeps others
waiting; a state file half written.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from source_support import LogUnderTest, eventually

from jlogd.errors import ConfigError, FormatError, JlogError, SpoolFull
from jlogd.journal.batch import Batch
from jlogd.journal.producers import Producers, producer_id
from jlogd.journal.types import Receipt
from jlogd.sources import followed as followed_module
from jlogd.sources.config import FileSource
from jlogd.sources.files import FileFollower
from jlogd.sources.framing import cut

LINE_MAX = 256


class ToyLog:
    """A log in memory with the journal's own judgement of producers; batches are under way until `commit`."""

    def __init__(self) -> None:
        self.records: list[bytes] = []
        self.under_way: list[Batch] = []
        self.producers = Producers()

    def send(self, batch: Batch) -> None:
        assert batch.producer and batch.producer_to > batch.producer_from
        self.under_way.append(batch)

    def extend(self, records: object) -> None:
        raise AssertionError("followed files are always numbered")

    def flush(self, timeout: float | None = None) -> None:
        self.commit()

    def commit(self, batches: int = 1 << 30) -> None:
        taken, self.under_way = self.under_way[:batches], self.under_way[batches:]
        for batch in taken:
            outcome = self.producers.judge(batch, self.producers.get(batch.producer))
            if outcome is None:
                self.producers.note(replace(batch, first=len(self.records) + 1))
                self.records += batch
            else:
                assert isinstance(outcome, Receipt), outcome

    def position(self, producer: str) -> int | None:
        heard = self.producers.get(producer_id(producer))
        return heard.position if heard else None


class World:
    """A directory of log files, a toy log, a follower that may be killed, and a clock."""

    def __init__(self, root: Path, *globs: str, **options: Any) -> None:
        self.logs = root / "logs"
        self.logs.mkdir(parents=True)
        self.state = root / "state"
        self.state.mkdir()
        self.log = ToyLog()
        self.now = 1000.0
        options = {"line_bytes_max": LINE_MAX, "rotated_wait": 5.0, "copy_wait": 3.0, **options}
        self.config = FileSource(log="main", paths=tuple(str(self.logs / g) for g in globs or ("app.log",)), **options)
        self.follower: FileFollower | None = None
        self.start()

    def start(self) -> None:
        self.follower = FileFollower(self.config, self.state, self.log.position)
        self.follower.load()

    def kill(self, arrived: int = 0) -> None:
        """SIGKILL: `arrived` batches that were under way still reach the log."""
        assert self.follower is not None
        self.follower._close()
        self.follower = None
        self.log.commit(arrived)
        self.log.under_way.clear()

    def step(self, seconds: float = 1.1) -> bool:
        assert self.follower is not None
        self.now += seconds
        return self.follower.step(self.log, self.now)

    def settle(self, seconds: float = 1.1, rounds: int = 3) -> list[bytes]:
        """Until nothing moves any more; all records."""
        quiet = 0
        while quiet < rounds:
            quiet = 0 if self.step(seconds) else quiet + 1
            self.log.commit()
        return self.log.records

    def stats(self) -> dict[str, int]:
        assert self.follower is not None
        return self.follower.stats()

    def knows(self, name: str) -> bool:
        """Whether the identity of a file is saved: from now on it is found again whatever its name."""
        path = self.logs / name
        assert self.follower is not None
        followed = [f for f in self.follower._files.values() if f.record and f.saved]
        return path.exists() and any(f.key == (path.stat().st_dev, path.stat().st_ino) for f in followed)

    def add(self, data: bytes, name: str = "app.log") -> None:
        with (self.logs / name).open("ab") as file:
            file.write(data)

    def rotate(self, to: str = "app.log.1") -> None:
        (self.logs / "app.log").rename(self.logs / to)

    def copy_truncate(self, to: str = "app.log.1", between: Callable[[], object] = lambda: None) -> None:
        (self.logs / to).write_bytes((self.logs / "app.log").read_bytes())
        between()
        os.truncate(self.logs / "app.log", 0)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def wide(tmp_path: Path) -> World:
    return World(tmp_path, "app.log*")


# One thing at a time


def test_lines_as_they_come_and_the_last_one_held(world: World) -> None:
    assert world.settle() == []
    world.add(b"half")
    assert world.settle() == []
    world.add(b" and half\n\nthird\nfo")
    assert world.settle() == [b"half and half", b"", b"third"]
    world.add(b"urth\n")
    assert world.settle() == [b"half and half", b"", b"third", b"fourth"]
    assert world.stats()["messages"] == 4 and world.stats()["bytes"] == 13 + 0 + 5 + 6


def test_renamed_and_created(world: World) -> None:
    world.add(b"a\n")
    world.settle()
    world.add(b"b\n")
    world.rotate()
    world.add(b"c\n")
    world.add(b"late\n", "app.log.1")
    assert sorted(world.settle()) == [b"a", b"b", b"c", b"late"]
    world.add(b"later\nunfinished", "app.log.1")
    assert sorted(world.settle()) == [b"a", b"b", b"c", b"late", b"later"]
    world.settle(rounds=8)
    assert world.log.records[-1] == b"unfinished"
    assert world.stats()["files"] == 1 and world.stats()["released"] == 1


def test_renamed_within_the_globs(wide: World) -> None:
    for at in range(5):
        wide.add(b"%d\n" % at)
        wide.settle()
        for old in range(at, 0, -1):
            (wide.logs / f"app.log.{old}").rename(wide.logs / f"app.log.{old + 1}")
        wide.rotate()
    assert wide.settle(rounds=10) == [b"%d" % at for at in range(5)]
    assert wide.stats()["begun"] == 5


def test_renamed_while_we_were_down(world: World) -> None:
    world.add(b"a\n")
    world.settle()
    world.kill()
    world.add(b"b\nc")
    world.rotate("old.1")
    world.add(b"new\n")
    world.start()
    assert sorted(world.settle(rounds=10)) == [b"a", b"b", b"c", b"new"]


def test_deleted_while_open_and_created_anew(world: World) -> None:
    world.add(b"a\n")
    world.settle()
    world.add(b"b\nc")
    (world.logs / "app.log").unlink()
    world.add(b"d\n")
    assert sorted(world.settle(rounds=10)) == [b"a", b"b", b"c", b"d"]


def test_a_file_without_a_whole_line_is_taken_when_it_is_gone(world: World) -> None:
    world.add(b"only this")
    world.settle()
    (world.logs / "app.log").unlink()
    assert world.settle(rounds=10) == [b"only this"]
    world.add(b"")
    world.add(b"x")
    world.settle()
    os.truncate(world.logs / "app.log", 0)
    (world.logs / "app.log").unlink()
    assert world.settle(rounds=10) == [b"only this"]
    assert world.stats()["files"] == 0 and world.stats()["files_open"] == 0


def test_truncated_with_the_copy_out_of_sight(world: World) -> None:
    world.add(b"a\nb\nunfin")
    world.settle()
    world.copy_truncate()
    world.add(b"c\n")
    assert world.settle() == [b"a", b"b", b"unfin", b"c"]
    assert world.stats()["truncated"] == 1


def test_truncated_and_grown_beyond_our_position_between_two_looks(world: World) -> None:
    world.add(b"a\nb\n")
    world.settle()
    world.copy_truncate()
    world.add(b"c\nd\ne\nf\n")
    assert world.settle() == [b"a", b"b", b"c", b"d", b"e", b"f"]


def test_truncated_and_grown_to_the_same_size_at_once(world: World) -> None:
    for at in range(300):
        os.truncate(world.logs / "app.log", 0) if at else None
        world.add(b"%03d\n" % at)
        while world.step(0.02 if at else 1.1) or world.log.under_way:
            world.log.commit()
    assert world.log.records == [b"%03d" % at for at in range(300)]


def test_truncated_and_grown_to_the_same_size_within_one_tick_of_the_clock(world: World) -> None:
    tick = time.time_ns()
    for line in (b"a\n", b"b\n", b"c\n"):
        (world.logs / "app.log").write_bytes(line)
        os.utime(world.logs / "app.log", ns=(tick, tick))
        while world.step(0.001 if world.log.records else 1.1) or world.log.under_way:
            world.log.commit()
    assert world.log.records == [b"a", b"b", b"c"]


@pytest.mark.parametrize("looks", [0, 1, 2])
def test_the_copy_takes_the_place_of_the_truncated(wide: World, looks: int) -> None:
    wide.add(b"a\nb\n")
    wide.settle()
    wide.add(b"c\n")
    wide.copy_truncate(between=lambda: [wide.step() for _ in range(looks)])
    wide.add(b"d\n")
    assert sorted(wide.settle(rounds=10)) == [b"a", b"b", b"c", b"d"]
    assert wide.stats()["begun"] == 2


def test_the_copy_takes_the_place_of_what_was_truncated_while_we_were_down(wide: World) -> None:
    wide.add(b"a\nb\n")
    wide.settle()
    wide.kill()
    wide.add(b"c\n")
    wide.copy_truncate()
    wide.add(b"d\ne\nf\ng\n")
    wide.start()
    assert sorted(wide.settle(rounds=10)) == [b"a", b"b", b"c", b"d", b"e", b"f", b"g"]


def test_files_that_begin_alike_are_all_read(wide: World) -> None:
    for name in ("app.log", "app.log.b", "app.log.c"):
        wide.add(b"# header\n", name)
    assert wide.settle(rounds=10) == [b"# header"] * 3
    wide.add(b"b\n", "app.log.b")
    wide.add(b"c\n", "app.log.c")
    wide.add(b"# header\nmore\n", "app.log.d")
    assert sorted(wide.settle(rounds=10)) == [b"# header"] * 4 + [b"b", b"c", b"more"]


def test_an_inode_used_again_is_another_file(world: World) -> None:
    path = world.logs / "app.log"
    seen = set()
    for at in range(30):
        world.add(b"%d\n%s" % (at, b"x\n" * at))
        seen.add(path.stat().st_ino)
        world.settle()
        world.kill()
        path.unlink()
        world.start()
    assert [record for record in world.log.records if record != b"x"] == [b"%d" % at for at in range(30)]
    assert world.log.records.count(b"x") == sum(range(30))


def test_gone_and_come_back(world: World) -> None:
    world.add(b"a\nb\nc\n")
    world.settle()
    world.rotate("elsewhere")
    world.settle(rounds=10)
    assert world.stats()["released"] == 1
    world.kill()
    world.add(b"d\n", "elsewhere")
    (world.logs / "elsewhere").rename(world.logs / "app.log")
    world.start()
    assert world.settle(rounds=10) == [b"a", b"b", b"c", b"d"]


def test_another_device_number_is_the_same_file(world: World) -> None:
    world.add(b"a\nb\n")
    world.settle()
    world.follower._save()  # type: ignore[union-attr]
    state = next(world.state.iterdir())
    world.kill()
    device = str((world.logs / "app.log").stat().st_dev)
    state.write_text(state.read_text().replace(f'"device":{device}', '"device":999999'))
    world.add(b"c\n")
    world.start()
    assert world.settle(rounds=10) == [b"a", b"b", b"c"]


def test_hard_links_symbolic_links_and_what_is_no_file(tmp_path: Path) -> None:
    world = World(tmp_path, "*", exclude=("*.gz", "*/skip*"))
    world.add(b"a\n")
    os.link(world.logs / "app.log", world.logs / "hard")
    os.symlink("app.log", world.logs / "soft")
    os.symlink("nowhere", world.logs / "dangling")
    os.mkfifo(world.logs / "fifo")
    (world.logs / "directory").mkdir()
    world.add(b"not lines", "app.log.gz")
    world.add(b"no\n", "skipped")
    assert world.settle(rounds=10) == [b"a"]


def test_a_name_that_is_no_text_is_followed_and_remembered(tmp_path: Path) -> None:
    """Whoever may make a file where files are followed chooses its name; the state file is JSON."""
    world = World(tmp_path, "*")
    names = [os.fsdecode(name) for name in (b"bad\xff\xfe.log", b"split\nline", "\u00fc %s".encode())]
    for at, name in enumerate(names):
        world.add(b"%d\n" % at, name)
    world.add(b"app\n")
    assert sorted(world.settle()) == [b"0", b"1", b"2", b"app"]
    world.kill()
    for at, name in enumerate(names):
        world.add(b"more %d\n" % at, name)
    world.start()
    assert sorted(world.settle())[3:] == [b"app", b"more 0", b"more 1", b"more 2"]
    assert world.stats()["begun"] == 0


class Faults:
    """Calls that fail once, the n-th of them; or all, while `broken`."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.broken = False

    def strike(self) -> None:
        self.at -= 1
        if self.at == 0 or self.broken:
            raise OSError(errno.EIO, os.strerror(errno.EIO))


def lives_of_some_files(world: World) -> list[bytes]:
    """Written, rotated by both ways, found again after a kill, gone and come back; all that must be in the log."""
    world.add(b"1 one\n")
    world.settle()
    world.add(b"1 two\n")
    world.rotate()
    world.add(b"2 one\n")
    world.settle()
    world.copy_truncate("app.log.2")
    world.add(b"3 one, no copy of any other file here\n")
    world.settle(rounds=5)
    world.add(b"3 two\n")
    world.settle(rounds=5)
    world.kill()
    (world.logs / "app.log").rename(world.logs.parent / "away")
    world.start()
    world.add(b"other\n", "app.log.x")
    world.settle(rounds=10)
    (world.logs.parent / "away").rename(world.logs / "app.log")
    world.add(b"3 three\n")
    world.settle(rounds=10)
    return [b"1 one", b"1 two", b"2 one", b"3 one, no copy of any other file here", b"3 three", b"3 two", b"other"]


@pytest.mark.parametrize("call", ["pread", "fstat"])
def test_a_file_that_cannot_be_read_for_a_moment_costs_nobody_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """A sector, a server of a mount: whichever look at a file fails, it is looked at again, and the others go on.

    In the very moment of a rotation it may be taken for another one: then lines come twice, but never not at all.
    """
    real = getattr(os, call)
    for at in range(1, 110, 3):
        world, faults = World(tmp_path / str(at), "app.log*"), Faults(at)

        def flaky(*arguments: Any, faults: Faults = faults) -> Any:
            faults.strike()
            return real(*arguments)

        with monkeypatch.context() as patched:
            patched.setattr(os, call, flaky)
            expected = lives_of_some_files(world)
        assert sorted(set(world.log.records)) == expected, at
        world.kill()


def test_a_log_that_cannot_be_asked_is_waited_for(tmp_path: Path) -> None:
    """Where its disk fails, or there is no descriptor left, it does not know how far it has a file."""
    for at in range(1, 40, 2):
        world, faults = World(tmp_path / str(at), "app.log*"), Faults(at)
        position = world.log.position

        def asked(producer: str, position: Any = position, faults: Faults = faults, full: bool = at % 4 == 1) -> Any:
            try:
                faults.strike()
            except OSError as error:
                raise (SpoolFull("no space") if full else error) from None
            return position(producer)

        world.log.position = asked  # type: ignore[method-assign]
        assert world.follower is not None
        world.follower._positions = asked
        try:
            expected = lives_of_some_files(world)
        except JlogError:  # at the very start: then the daemon does not start
            assert world.follower is not None and not world.follower._open_files
            continue
        assert sorted(world.log.records) == expected, at
        world.kill()


def test_a_file_that_stays_unreadable_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    world, faults = World(tmp_path, "*"), Faults(0)
    real = os.pread

    def flaky(fd: int, *arguments: Any) -> bytes:
        if os.readlink(f"/proc/self/fd/{fd}").endswith("bad"):
            faults.strike()
        return real(fd, *arguments)

    monkeypatch.setattr(os, "pread", flaky)
    faults.broken = True
    world.add(b"never mind\n", "bad")
    world.add(b"good\n")
    assert world.settle(rounds=5) == [b"good"]
    assert [record.message for record in caplog.records if "bad" in record.message] == [
        f"cannot read {world.logs}/bad: [Errno 5] Input/output error; trying again"
    ]
    faults.broken = False
    assert world.settle(rounds=5) == [b"good", b"never mind"]


def test_start_at_the_end_only_for_what_was_there_first(tmp_path: Path) -> None:
    world = World(tmp_path, "*.log", start="end")
    world.add(b"old\nunfinished")
    world.add(b"x" * 2000, "long.log")
    world.settle()
    world.kill()
    world.add(b" line\n")
    world.add(b"all\nof it\n", "new.log")
    world.add(b"yyy\nz\n", "long.log")
    world.start()
    assert sorted(world.settle(rounds=10)) == [b"all", b"of it", b"unfinished line", b"yyy", b"z"]


def test_start_at_the_end_is_remembered_when_there_was_nothing(tmp_path: Path) -> None:
    world = World(tmp_path, start="end")
    world.settle()
    world.kill()
    world.add(b"first\n")
    world.start()
    assert world.settle() == [b"first"]


def test_long_lines_are_cut_and_counted(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(followed_module, "BLOCK_BYTES", 300)
    lines = [b"x" * size for size in (0, 1, 255, 256, 257, 511, 512, 513, 1024, 3000, 0, 7)]
    data = b"\n".join(lines) + b"\n"
    for at in range(0, len(data), 97):
        world.add(data[at : at + 97])
        world.step(1.1)
        world.log.commit()
    assert world.settle() == [piece for line in lines for piece in cut(line, LINE_MAX) or [b""]]
    assert world.stats()["oversized"] == sum(len(line) > LINE_MAX for line in lines)


def test_few_files_open_and_all_of_them_read(tmp_path: Path) -> None:
    world = World(tmp_path, "*", open_max=3)
    names = [f"f{at:02}" for at in range(20)]
    for turn in range(3):
        for name in names:
            world.add(f"{name} {turn}\n".encode(), name)
        world.settle(rounds=5)
        assert world.stats()["files_open"] <= 3
    assert Counter(world.log.records) == Counter(f"{name} {turn}".encode() for name in names for turn in range(3))
    for name in names:
        world.add(b"end\n", name)
        (world.logs / name).rename(world.logs.parent / name)
    for _ in range(20):
        world.settle(rounds=8)
        assert world.stats()["files_open"] <= 3
    assert world.stats()["files"] == 0


def test_renamed_files_wait_for_a_place_to_be_opened(tmp_path: Path) -> None:
    world = World(tmp_path, "*.log", open_max=1)
    for at in range(4):
        world.add(b"%d\n" % at, f"{at}.log")
    world.settle(rounds=6)
    world.kill()
    for at in range(4):
        world.add(b"more %d\n" % at, f"{at}.log")
        (world.logs / f"{at}.log").rename(world.logs / f"{at}.old")
    world.start()
    for _ in range(8):
        world.settle(rounds=8)
    assert Counter(world.log.records) == Counter([b"%d" % at for at in range(4)] + [b"more %d" % at for at in range(4)])
    assert world.stats()["files"] == 0


def test_the_first_batch_of_a_file_travels_alone(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(followed_module, "BLOCK_BYTES", 300)
    world.add(b"".join(b"%0100d\n" % at for at in range(20)))
    for _ in range(5):
        world.step()
    assert len(world.log.under_way) == 1
    world.log.commit()
    world.step()
    assert len(world.log.under_way) > 1


def test_an_identity_is_saved_before_anything_is_sent(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.add(b"a\n")
    os.rename(world.state, world.state.with_name("away"))
    assert world.settle() == []
    assert world.stats()["state_errors"] > 0
    os.rename(world.state.with_name("away"), world.state)
    assert world.settle() == [b"a"]


def test_a_state_file_that_cannot_be_understood_is_not_ignored(world: World) -> None:
    world.add(b"a\n")
    world.settle()
    world.kill()
    state = next(world.state.iterdir())
    whole = state.read_text()
    for broken in (whole[:-5], "", "[]", whole.replace('"version":1', '"version":2')):
        state.write_text(broken)
        with pytest.raises(FormatError, match="move the file away"):
            world.start()
    state.write_text(whole)
    world.start()
    assert world.settle() == [b"a"]


def test_a_file_we_may_not_read_is_read_once_we_may(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.add(b"a\n")
    monkeypatch.setattr(followed_module, "open_regular", lambda path: -1)
    assert world.settle() == []
    monkeypatch.undo()
    assert world.settle() == [b"a"]


def test_a_log_that_has_forgotten_the_producer_goes_on_from_the_saved_position(world: World) -> None:
    world.add(b"a\nb\n")
    world.settle()
    world.follower._save()  # type: ignore[union-attr]
    world.kill()
    world.log.producers = Producers()
    world.add(b"c\n")
    world.start()
    assert world.settle() == [b"a", b"b", b"c"]


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"paths": ()}, "paths"), ({"paths": ("relative/*.log",)}, "paths"), ({"start": "middle"}, "start"),
        ({"line_bytes_max": 1}, "line_bytes_max"),
        ({"open_max": 0}, "open_max"), ({"rotated_wait": -1.0}, "rotated_wait"),
    ],
)  # fmt: skip
def test_wrong_settings_name_the_field(options: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError, match=f"^{field}: found .*; accepted: "):
        FileSource(**{"log": "main", "paths": ("/x",), **options})


# Anything in any order


class Rotations(RuleBasedStateMachine):
    """Files written, rotated and truncated, a follower killed and started, batches lost on their way."""

    @initialize(wide=st.booleans(), open_max=st.integers(1, 4), root=st.randoms(use_true_random=False))
    def begin(self, wide: bool, open_max: int, root: random.Random) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="jlogd-files-"))
        self.block = followed_module.BLOCK_BYTES
        followed_module.BLOCK_BYTES = 300
        self.wide = wide
        self.world = World(self.root, "app.log*" if wide else "app.log", open_max=open_max)
        self.lines = 0
        self.generation = 0
        self.expected: Counter[bytes] = Counter()
        self.unfinished = b""
        self.seen = False  # the follower has saved what the file in use is

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        try:
            self.finish_line()
            if self.world.follower is None:
                self.world.start()
            self.world.settle(rounds=12)
            assert Counter(self.world.log.records) == self.expected
            self.world.kill()
        finally:
            followed_module.BLOCK_BYTES = self.block
            shutil.rmtree(self.root)

    def expect(self, line: bytes) -> None:
        self.expected.update(cut(line, LINE_MAX) or [b""])

    def finish_line(self) -> None:
        if self.unfinished:
            self.world.add(b"\n")
            self.expect(self.unfinished)
            self.unfinished = b""

    @property
    def running(self) -> bool:
        return self.world.follower is not None

    @property
    def rotatable(self) -> bool:
        return (self.world.logs / "app.log").exists() and (self.wide or self.seen)

    @rule(sizes=st.lists(st.sampled_from([0, 1, 10, 100, 700]), min_size=1, max_size=6), unfinished=st.booleans())
    def append(self, sizes: list[int], unfinished: bool) -> None:
        self.finish_line()
        texts = []
        for size in sizes:
            self.lines += 1
            texts.append(b"%d:" % self.lines + b"x" * size)
        for text in texts[:-1] if unfinished else texts:
            self.expect(text)
        self.unfinished = texts[-1] if unfinished else b""
        self.world.add(b"\n".join(texts) + (b"" if unfinished else b"\n"))

    @precondition(lambda self: self.running)
    @rule(seconds=st.sampled_from([0.01, 0.1, 1.1]), times=st.integers(1, 3))
    def look(self, seconds: float, times: int) -> None:
        for _ in range(times):
            self.world.step(seconds)
        self.seen = self.seen or self.world.knows("app.log")

    @rule(batches=st.integers(1, 5))
    def commit(self, batches: int) -> None:
        self.world.log.commit(batches)

    @precondition(lambda self: self.running)
    @rule(arrived=st.integers(0, 3))
    def kill(self, arrived: int) -> None:
        self.world.kill(arrived)

    @precondition(lambda self: not self.running)
    @rule()
    def start(self) -> None:
        self.world.start()

    @precondition(lambda self: self.rotatable)
    @rule()
    def rename(self) -> None:
        self.finish_line()
        self.generation += 1
        self.world.rotate(f"app.log.{self.generation}")
        self.seen = False

    @precondition(lambda self: self.rotatable and self.wide)
    @rule(look=st.booleans())
    def copy_and_truncate(self, look: bool) -> None:
        self.finish_line()
        self.generation += 1
        between = self.world.step if look and self.running else lambda: None
        self.world.copy_truncate(f"app.log.{self.generation}", between)

    @precondition(lambda self: self.rotatable and self.running)
    @rule(how=st.sampled_from(["truncate", "delete"]))
    def lose_what_is_in_the_log(self, how: str) -> None:
        """Without a copy, a file may only be cut or deleted once all of it was taken."""
        self.finish_line()
        self.world.settle(rounds=12)  # long enough for nameless files to give up their place
        if how == "truncate":
            os.truncate(self.world.logs / "app.log", 0)
        else:
            (self.world.logs / "app.log").unlink()
        self.seen = False


TestRotations = Rotations.TestCase


# The real log


def follower_on(target: LogUnderTest, root: Path, **options: Any) -> FileFollower:
    config = FileSource(log="main", paths=(str(root / "*.log"),), **options)
    return FileFollower(config, root, target.log.producer_position)


def test_into_a_real_log_over_restarts(tmp_path: Path) -> None:
    for turn in range(3):
        with (tmp_path / "app.log").open("ab") as file:
            file.write(b"".join(b"%d %d\n" % (turn, at) for at in range(5000)))
        target = LogUnderTest(tmp_path / "log")
        source = follower_on(target, tmp_path)
        source.start(target.writer)
        eventually(lambda source=source: source.stats()["messages"] == 5000)  # type: ignore[misc]
        assert source.stop(10) and source.failed is None
        assert target.records() == [b"%d %d" % (t, at) for t in range(turn + 1) for at in range(5000)]
        target.close()


CHILD = """
    import sys
    from pathlib import Path
    sys.path.insert(0, {tests!r})
    from source_support import LogUnderTest
    from test_file_source import follower_on
    target = LogUnderTest(Path({root!r}) / "log")
    source = follower_on(target, Path({root!r}), line_bytes_max=1000)
    source.start(target.writer)
    print("running", flush=True)
    source.join()
"""


@pytest.mark.slow
def test_killed_for_real_at_random(tmp_path: Path, rng: random.Random) -> None:
    LogUnderTest(tmp_path / "log").close()
    script = textwrap.dedent(CHILD).format(tests=str(Path(__file__).parent), root=str(tmp_path))
    lines, generation = 0, 0
    for _ in range(25):
        child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
        assert child.stdout is not None and child.stdout.readline() == b"running\n"
        for _ in range(rng.randrange(30)):
            with (tmp_path / "app.log").open("ab") as file:
                for _ in range(rng.randrange(2000)):
                    lines += 1
                    file.write(b"%d\n" % lines)
            if rng.random() < 0.2:
                generation += 1
                (tmp_path / "app.log").rename(tmp_path / f"{generation}.log")
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
    target = LogUnderTest(tmp_path / "log")
    source = follower_on(target, tmp_path, line_bytes_max=1000)
    source.start(target.writer)
    eventually(lambda: len(target.records()) >= lines)
    assert source.stop(10)
    assert Counter(target.records()) == Counter(b"%d" % at for at in range(1, lines + 1))
    target.close()


TestRotations.settings = settings(stateful_step_count=30)
