"""What stands behind the recorded end of a file after a crash: what is ours comes again and is in the files once, what
somebody else appended is never lost, whatever strikes when.
"""

from __future__ import annotations

import errno
import random
from contextlib import suppress
from pathlib import Path

import pytest
from manager_support import ROOT, TEMPLATE, Manager, Medium, ModelStore, Node, batches, written
from model_disk import Crash, Fault

from jlogd.journal.batch import Gap, encode
from jlogd.manager import again, aside
from jlogd.manager.again import Search
from jlogd.manager.files import FileOutput
from jlogd.manager.handles import FileOptions
from jlogd.manager.ledger import Aside, LmdbLedger
from jlogd.manager.parcel import Parcel
from jlogd.manager.recovery import recover
from jlogd.manager.rounds import Rounds
from jlogd.manager.store import PosixStore
from jlogd.manager.template import Template
from jlogd.manager.verify import verify

SMALL = FileOptions(open_files_max=2)
SHARED = f"{ROOT}/%Y/%m%d/%{{log}}"
LATER = 1e12  # seconds since 1970, later than any clock of these tests


def nodes(rng: random.Random, size: int = 5) -> list[Node]:
    return [Node(f"n{at}", batches(rng, f"n{at}", size)) for at in range(3)]


def lines(medium: Medium) -> list[bytes]:
    """All lines of all files, those that were set aside too."""
    texts = [medium.text(path) for path in medium.paths() if path.startswith(ROOT) and not path.endswith(".new")]
    return [line for text in texts for line in text.splitlines()]


def sides(medium: Medium) -> list[str]:
    return [path for path in medium.paths() if ".aside-" in path or ".unclaimed-" in path]


def meddle(medium: Medium, path: str, text: bytes) -> None:
    node = medium.disk._file(Path(path))
    node.write(len(node.cached), text)


class Hands:
    """Somebody who appends a line to files, another one each time, and syncs it."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.lines: list[bytes] = []

    def touch(self, medium: Medium) -> None:
        paths = [path for path in medium.paths() if path.startswith(ROOT) and ".aside-" not in path]
        for path in self._rng.sample(paths, min(len(paths), 2)):
            self.lines.append(b"by hand %d" % len(self.lines))
            # Somebody looks at the end of the file first, or does not.
            before = b"" if medium.text(path)[-1:] in (b"", b"\n") else b"\n"
            meddle(medium, path, before + self.lines[-1] + b"\n")
            store = ModelStore(medium, medium.disk.process())
            store.open(path).sync()
            for place in Path(path).parents:
                store.sync_dir(str(place))


def killed(medium: Medium, found: list[Node], rng: random.Random, template: str, fault: Fault) -> None:
    """A manager that is killed."""
    medium.disk.faults.append(fault)
    with suppress(Crash):
        Manager(medium, SMALL, template).pull(found, rng)
    medium.disk.kill()
    medium.disk.faults.clear()


def calls_of_a_run(template: str) -> int:
    medium, rng = Medium(), random.Random(1)
    Manager(medium, SMALL, template).pull(nodes(rng), rng)
    return medium.disk.calls


def check(medium: Medium, found: list[Node], template: str) -> None:
    """Every record is there once, in order."""
    if template != SHARED:
        for node in found:
            assert written(medium, node, template, exactly=False) == node.text(), node.source
        return
    ours = sorted(b"".join(node.text() for node in found).splitlines())
    known = [medium.text(path)[: state.length] for path, state in medium.ledger[1].items()]
    hand = b"by hand"
    assert sorted(line for line in b"".join(known).splitlines() if not line.startswith(hand)) == ours


@pytest.mark.parametrize("template", [TEMPLATE, SHARED], ids=["own", "shared"])
def test_what_is_ours_comes_again_and_nothing_is_left_over(template: str) -> None:
    set_aside = 0
    for call in range(1, calls_of_a_run(template) + 1):
        medium, rng = Medium(), random.Random(1)
        found = nodes(rng)
        killed(medium, found, rng, template, Fault(crash=True, at=call, after=True))
        manager = Manager(medium, SMALL, template)
        set_aside += len(sides(medium))
        manager.pull(found)
        manager.rounds.end()
        assert sides(medium) == [] and medium.ledger[3] == {} and manager.asides.unclaimed() == [], call
        check(medium, found, template)
        assert sorted(lines(medium)) == sorted(b"".join(node.text() for node in found).splitlines())
    assert set_aside


@pytest.mark.parametrize("template", [TEMPLATE, SHARED], ids=["own", "shared"])
@pytest.mark.parametrize("power", [False, True], ids=["kill", "power loss"])
def test_what_somebody_appended_after_a_crash_at_any_call_is_kept(template: str, power: bool) -> None:
    """Also when the next process, or two, are struck while they set it aside."""
    for call in range(1, calls_of_a_run(template) + 1, 2):
        medium, rng, other = Medium(), random.Random(1), random.Random(call)
        found, hands = nodes(rng), Hands(other)
        killed(medium, found, rng, template, Fault(crash=True, at=call, after=call % 4 < 2))
        hands.touch(medium)
        for _ in range(2):
            step = other.randint(1, 30)
            killed(medium, found, rng, template, Fault(crash=True, at=step, after=bool(step % 2)))
            hands.touch(medium)
        if power:
            medium.crash(other)
        manager = Manager(medium, SMALL, template)
        manager.pull(found)
        manager.rounds.end()
        check(medium, found, template)
        there = lines(medium)
        for line in hands.lines:
            assert line in there, (call, line)
        for now in (LATER, LATER + 61):
            manager.asides.look(now)
        assert all(".unclaimed-" in path for path in sides(medium)), call
        assert len(manager.asides.unclaimed()) == len(sides(medium))


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC], ids=["EIO", "ENOSPC"])
def test_whatever_fails_while_it_is_set_aside_nothing_is_cut_that_is_not_safe(error: int) -> None:
    for call in range(1, 40):
        medium, manager, node, path = begun()
        crash(medium, manager, node, 4)
        meddle(medium, path, b"by hand\n")
        fault = Fault(error=error, at=call, op="[!c]*")
        medium.disk.faults.append(fault)
        again_ = Manager(medium)
        assert b"by hand" in lines(medium)
        again_.pull([node])
        assert written(medium, node) == node.text() and b"by hand" in lines(medium), call
        assert len(sides(medium)) == 1, call


# ---- one file ----------------------------------------------------------------------------------------------------


def begun() -> tuple[Medium, Manager, Node, str]:
    """A manager that wrote three of eight batches of one day into one file."""
    items = [encode([b"record %d" % n]).stamped(n + 1, 1, 1_800_014_400 * 10**9, 1) for n in range(8)]
    medium = Medium()
    manager = Manager(medium)
    node = Node("n0", items)
    manager.pull([Node("n0", items[:3])])
    [path] = [path for path in medium.paths() if path.startswith(ROOT)]
    return medium, manager, node, path


def crash(medium: Medium, manager: Manager, node: Node, until: int) -> None:
    """It is killed behind the append of the next ones, or before it, if these are none."""
    medium.disk.faults.append(Fault(op="append", crash=True, after=until > 3))
    with suppress(Crash):
        manager.rounds.put(Parcel(node.source, "uuid", node.items[3 : max(until, 4)], 100))
        manager.rounds.step()
    medium.disk.kill()
    medium.disk.faults.clear()


def side_of(medium: Medium, path: str) -> str:
    [side] = sides(medium)
    assert Path(side).parent == Path(path).parent and Path(path).name in Path(side).name
    return side


@pytest.mark.parametrize("hand", [b"by hand\n", b"record", b"\0\0\0", b"record 3\nrecord 4\nsomething else\n"])
def test_what_is_behind_ours_or_alone_is_told_and_stays(hand: bytes) -> None:
    for ours in (3, 5):
        medium, manager, node, path = begun()
        before = medium.text(path)
        crash(medium, manager, node, ours)
        meddle(medium, path, hand)
        tail = medium.text(path)[len(before) :]
        again_ = Manager(medium)
        assert medium.text(path) == before and medium.text(side_of(medium, path)) == tail
        assert again_.asides.stats() == {"files_aside": 1, "files_unclaimed": 0}
        again_.pull([node])
        assert medium.text(path) == node.text() and f"{path}.part2" not in medium.paths()
        if hand == b"record":  # the very bytes that came again, if they stood where these did
            assert bool(sides(medium)) == (ours > 5)
            continue
        for now in (LATER, LATER + 61):
            again_.asides.look(now)
        assert medium.text(side_of(medium, path)) == tail and "unclaimed" in side_of(medium, path)
        [told] = again_.asides.unclaimed()
        assert told.startswith(f"{side_of(medium, path)}: {len(tail)} bytes")
        assert again_.asides.stats() == {"files_aside": 1, "files_unclaimed": 1}


def unclaimed() -> tuple[Medium, Manager, Node, str]:
    """A line by hand that was told."""
    medium, manager, node, path = begun()
    crash(medium, manager, node, 5)
    meddle(medium, path, b"by hand\n")
    found = Manager(medium)
    for now in (LATER, LATER + 61):
        found.asides.look(now)
    assert len(found.asides.unclaimed()) == 1
    return medium, found, node, path


def test_it_is_told_again_after_a_restart_and_forgotten_when_a_person_has_moved_it_away() -> None:
    medium, manager, node, path = unclaimed()
    manager.pull([node])
    manager.rounds.end()
    found = Manager(medium)
    found.asides.look(LATER)
    assert len(found.asides.unclaimed()) == 1
    medium.disk.process().unlink(Path(side_of(medium, path)))
    found.asides.look(LATER)
    assert found.asides.unclaimed() == [] and found.asides.stats()["files_aside"] == 0
    found.rounds.end()
    assert medium.ledger[3] == {} and not Manager(medium).asides


def test_what_is_claimed_late_is_removed_though_it_was_told() -> None:
    """A node that was away while its manager was started."""
    medium, manager, node, path = begun()
    crash(medium, manager, node, 5)
    found = Manager(medium)
    for now in (LATER, LATER + 61):
        found.asides.look(now)
    assert len(found.asides.unclaimed()) == 1
    found.pull([node])
    assert sides(medium) == [] and found.asides.unclaimed() == [] and medium.text(path) == node.text()


def test_a_record_that_the_node_dropped_meanwhile_is_not_thrown_away() -> None:
    """It was in the file, if not in the ledger, and there is no other copy."""
    medium, manager, node, path = begun()
    crash(medium, manager, node, 5)
    found = Manager(medium)
    found.pull([Node("n0", [*node.items[:3], Gap(4, 5, "dropped"), *node.items[5:]])])
    assert b"record 3" not in medium.text(path) and medium.text(side_of(medium, path)) == b"record 3\nrecord 4\n"


def test_ours_goes_on_in_the_next_part() -> None:
    """The file is as long as it may be before all of it came again."""
    medium, manager, node, path = begun()
    crash(medium, manager, node, 7)
    found = Manager(medium, FileOptions(size_max=20))
    for item in node.items[3:]:
        found.rounds.put(Parcel(node.source, "uuid", [item], 100))
        found.rounds.step()
    assert sides(medium) == [] and f"{path}.part2" in medium.paths()
    assert written(medium, node) == node.text()


def test_a_crash_again_and_again_leaves_one_copy() -> None:
    medium, manager, node, path = begun()
    crash(medium, manager, node, 5)
    for op in ("cut", "cut", "commit", "sync", "cut"):
        medium.disk.faults.append(Fault(op=op, crash=True))
        with suppress(Crash):
            Manager(medium)
        medium.disk.kill()
        medium.disk.faults.clear()
    side = side_of(medium, path)
    found = Manager(medium)
    assert side_of(medium, path) == side and list(medium.ledger[3]) == [side]
    found.pull([node])
    assert sides(medium) == [] and medium.text(path) == node.text()


@pytest.mark.parametrize("op", ["unlink", "sync"])
@pytest.mark.parametrize("always", [False, True])
def test_somebody_who_appends_while_it_is_set_aside_loses_nothing(always: bool, op: str) -> None:
    medium, manager, node, path = begun()
    crash(medium, manager, node, 5)
    appended: list[bytes] = []

    def append() -> None:
        appended.append(b"x")
        meddle(medium, path, b"x\n")

    medium.disk.faults.append(Fault(op=op, path="*.aside-*", times=10**9 if always else 3, action=append))
    found = Manager(medium)
    assert appended and (op == "unlink" or (medium.text(path) == b"record 0\nrecord 1\nrecord 2\n") != always)
    medium.disk.faults.clear()
    found.pull([node])
    assert medium.text(path) == node.text() and lines(medium).count(b"x") == len(appended)
    assert [row.size for row in medium.ledger[3].values()] == [len(medium.text(side_of(medium, path)))]


def test_what_came_behind_a_cut_that_was_not_recorded_is_another_copy() -> None:
    medium, manager, node, path = begun()
    crash(medium, manager, node, 5)
    medium.disk.faults.append(Fault(op="commit", crash=True))
    with suppress(Crash):
        Manager(medium)
    medium.disk.kill()
    medium.disk.faults.clear()
    meddle(medium, path, b"by hand\n")
    found = Manager(medium)
    assert sorted(map(medium.text, sides(medium))) == [b"by hand\n", b"record 3\nrecord 4\n"]
    found.pull([node])
    assert [medium.text(side) for side in sides(medium)] == [b"by hand\n"]


def test_a_name_that_is_too_long_for_more_is_replaced() -> None:
    side = aside._side(f"/files/{'x' * 230}", 1 << 62, 2)
    assert len(Path(side).name) < 60 and len(Path(aside._shown(side)).name) < 60
    assert aside._shown(aside._side("/files/a.aside-b", 7, 1)) == "/files/a.aside-b.unclaimed-7"


# ---- comparing -----------------------------------------------------------------------------------------------------


def compared(tail: bytes, came: list[bytes]) -> tuple[Search, Medium]:
    """What is set aside behind a file, and what is written to the file then, round by round."""
    medium, manager, _, path = begun()
    at = len(medium.text(path))
    meddle(medium, f"{path}", b"")
    process = medium.disk.process()
    process.open(Path(f"{ROOT}/side"), "create").append([tail])
    row = Aside(path, path, medium.ledger[1][path].inode, at, len(tail))
    search = Search(manager.ledger, row)
    for data in came:
        manager.rounds.put(_parcel(manager, data))
        manager.rounds.step()
        side = manager.output._store.open(f"{ROOT}/side")
        search.go_on(manager.output._store, side)
    return search, medium


def _parcel(manager: Manager, data: bytes) -> Parcel:
    node = Node("n0", [])
    state = manager.ledger.source(node.source.key)
    assert state is not None
    batch = encode(data.removesuffix(b"\n").split(b"\n")).stamped(state.next, 1, 1_800_014_400 * 10**9, 1)
    return Parcel(node.source, "uuid", [batch], 100)


@pytest.mark.parametrize("piece", [1, 3, 7, 1 << 20])
def test_any_order_of_lines_is_found_and_one_too_many_is_not(
    piece: int, rng: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(again, "READ_BYTES", piece)
    for _ in range(20):
        own = [b"1" * rng.randrange(5) for _ in range(rng.randrange(1, 9))]
        came = own + [b"2" * rng.randrange(1, 5) for _ in range(3)]
        if rng.random() < 0.7:
            rng.shuffle(came)
        tail = b"".join(line + b"\n" for line in own)
        rounds = [b"".join(line + b"\n" for line in came[at : at + 4]) for at in range(0, len(came), 4)]
        assert compared(tail, rounds)[0].found
        cut = tail[: rng.randrange(1, len(tail) + 1)]
        assert compared(cut, rounds)[0].found, (cut, came)
        assert not compared(tail + own[0] + b"\n", rounds)[0].found
        assert not compared(b"x" + tail, rounds)[0].found


def test_it_is_not_searched_for_ever_nor_in_memory_without_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(again, "SEARCH_BYTES_MAX", 40)
    search, _ = compared(b"not there\n", [b"one line that comes\n"] * 2)
    assert search.ended and not search.found
    monkeypatch.setattr(again, "LINES_BYTES_MAX", 4)
    assert compared(b"not there\n", [b"one\n"])[0].ended
    assert compared(b"one\nand more that is the same\n", [b"one\n", b"and more that is the same\n"])[0].found


# ---- on a real disk ------------------------------------------------------------------------------------------------


class Real:
    """Rounds over real files and a real ledger, in this process."""

    def __init__(self, directory: Path) -> None:
        self.ledger = LmdbLedger(directory / "ledger")
        store = PosixStore()
        self.asides = aside.Asides(store, self.ledger)
        recover(store, self.ledger, self.asides)
        template = Template(str(directory / "files" / "%{node}"), "utc")
        self.output = FileOutput(store, self.ledger, template, asides=self.asides)
        self.rounds = Rounds(self.ledger, lambda _: self.output, lambda _: None, lambda *_: None, asides=self.asides)

    def write(self, first: int, count: int) -> bytes:
        node = Node("n0", [])
        records = [b"record %d" % number for number in range(first, first + count)]
        batch = encode(records).stamped(first, 1, 1_800_014_400 * 10**9, 1)
        self.rounds.put(Parcel(node.source, "uuid", [batch], 100))
        self.rounds.step()
        return batch.text()


def test_on_a_real_disk(tmp_path: Path) -> None:
    path = tmp_path / "files" / "n0"
    real = Real(tmp_path)
    text = real.write(1, 3)
    real.ledger.close()  # it is gone without a word
    with path.open("ab") as file:
        file.write(b"record 4\nrecord 5\nby hand\n")
    path.chmod(0o604)
    real = Real(tmp_path)
    [side] = path.parent.glob(".n0.aside-*")
    assert path.read_bytes() == text and side.read_bytes() == b"record 4\nrecord 5\nby hand\n"
    assert side.stat().st_mode & 0o777 == 0o604
    text += real.write(4, 3)
    for now in (LATER, LATER + 61):
        real.asides.look(now)
    [shown] = path.parent.glob("n0.unclaimed-*")
    assert path.read_bytes() == text and shown.read_bytes() == b"record 4\nrecord 5\nby hand\n"
    real.rounds.end()
    report = verify(real.ledger)
    assert report.right and len(report.aside) == 1 and str(shown) in report.aside[0]
    shown.unlink()
    assert verify(real.ledger).aside == []
    real.ledger.close()
    real = Real(tmp_path)
    real.asides.look(LATER)
    real.rounds.end()
    assert real.ledger.all_asides() == {}
    real.ledger.close()
