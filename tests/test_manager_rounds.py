"""Exactly once into files, on the model disk: a crash at every call of the commit sequence, every call that fails, full
disks, and files that others rename, truncate, remove or write to.
"""

from __future__ import annotations

import errno
import random
from contextlib import suppress
from pathlib import Path

import pytest
from crc32c import crc32c
from manager_support import ROOT, TEMPLATE, Manager, Medium, Node, batches, written
from model_disk import Crash, Fault

from jlogd.journal.batch import Gap, encode
from jlogd.manager.handles import FileOptions
from jlogd.manager.ledger import LedgerFailed, counts
from jlogd.manager.parcel import Mark, Parcel

SMALL = FileOptions(open_files_max=2)


def nodes(rng: random.Random, count: int = 3, size: int = 6) -> list[Node]:
    return [Node(f"n{at}", batches(rng, f"n{at}", size)) for at in range(count)]


def check(medium: Medium, found: list[Node], template: str = TEMPLATE) -> None:
    """Every record is there once, in order; ledger and files agree."""
    for node in found:
        assert written(medium, node, template) == node.text(), node.source
    for path, state in medium.ledger[1].items():
        if "#" not in path and state.status != "left":
            text = medium.text(path)
            assert (len(text), crc32c(text), text.count(b"\n")) == (state.length, state.crc, state.lines), path


def calls_of_a_run(seed: int) -> int:
    medium = Medium()
    rng = random.Random(seed)
    Manager(medium, SMALL).pull(nodes(rng), rng)
    return medium.disk.calls


def crash_at(seed: int, call: int, after: bool, power: bool) -> None:
    """A run that ends at a call, and another one that goes on."""
    medium = Medium()
    rng = random.Random(seed)
    found = nodes(rng)
    medium.disk.faults.append(Fault(crash=True, at=call, after=after))
    with suppress(Crash):
        Manager(medium, SMALL).pull(found, rng)
    after_it = random.Random(seed * 1000 + call)
    if power:
        medium.crash(after_it)
    else:
        medium.disk.kill()
        medium.disk.faults.clear()
    Manager(medium, SMALL).pull(found, after_it)
    check(medium, found)
    # What is in the ledger is on the disk, whoever synced it.
    medium.crash(after_it)
    check(medium, found)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("power", [False, True], ids=["kill", "power loss"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_crash_at_every_call_loses_and_repeats_nothing(seed: int, after: bool, power: bool) -> None:
    for call in range(1, calls_of_a_run(seed) + 1):
        crash_at(seed, call, after, power)


def crashed(seed: int, call: int) -> tuple[Medium, list[Node]]:
    """What a manager leaves that is killed at a call."""
    medium = Medium()
    rng = random.Random(seed)
    found = nodes(rng)
    medium.disk.faults.append(Fault(crash=True, at=call, after=True))
    with suppress(Crash):
        Manager(medium, SMALL).pull(found, rng)
    medium.disk.kill()
    medium.disk.faults.clear()
    return medium, found


def calls_of_a_recovery(seed: int, call: int) -> int:
    medium, _ = crashed(seed, call)
    before = medium.disk.calls
    Manager(medium, SMALL)
    return medium.disk.calls - before


def test_a_recovery_that_is_killed_and_loses_power_is_gone_on_with() -> None:
    for call in range(1, calls_of_a_run(0) + 1, 2):
        for step in range(1, calls_of_a_recovery(0, call) + 1):
            medium, found = crashed(0, call)
            medium.disk.faults.append(Fault(crash=True, at=step, after=bool(step % 2)))
            with suppress(Crash):
                Manager(medium, SMALL)
            medium.crash(random.Random(call))
            Manager(medium, SMALL).pull(found)
            check(medium, found)


@pytest.mark.parametrize("op", ["open", "cut", "sync"])
def test_a_file_that_cannot_be_recovered_at_the_start_is_later(op: str) -> None:
    struck = 0
    for call in range(1, calls_of_a_run(0) + 1, 2):
        medium, found = crashed(0, call)
        fault = Fault(op=op, error=errno.EIO)
        medium.disk.faults.append(fault)
        manager = Manager(medium, SMALL)
        struck += fault.struck
        medium.disk.faults.clear()
        manager.pull(found)
        check(medium, found)
    assert struck


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC], ids=["EIO", "ENOSPC"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_every_call_may_fail(error: int, after: bool) -> None:
    total = calls_of_a_run(1)
    for call in range(1, total + 1):
        medium = Medium()
        rng = random.Random(1)
        found = nodes(rng)
        medium.disk.faults.append(Fault(error=error, at=call, after=after, op="[!c]*"))
        manager = Manager(medium, SMALL)
        manager.pull(found, rng)
        check(medium, found)
        # What was synced is there after a power loss too.
        medium.crash(random.Random(call))
        check(medium, found)


def test_short_writes_are_gone_on_with(rng: random.Random) -> None:
    medium = Medium()
    found = nodes(rng)
    medium.disk.faults.append(Fault(op="append", short=7, times=1000))
    Manager(medium).pull(found, rng)
    check(medium, found)


def test_a_ledger_that_fails_is_opened_anew_and_believed(rng: random.Random) -> None:
    """Whether the transaction took effect is not known: both answers are right."""
    for took_effect in (False, True):
        for at in range(1, 12):
            medium = Medium()
            found = nodes(rng)
            manager = Manager(medium, SMALL)
            commit, state = manager.ledger.commit, {"left": at}

            def failing(changes, commit=commit, state=state, took_effect=took_effect):  # type: ignore[no-untyped-def]
                state["left"] -= bool(changes)
                if state["left"] == 0 and changes:
                    if took_effect:
                        commit(changes)
                    raise LedgerFailed("no space")
                commit(changes)

            manager.ledger.commit = failing  # type: ignore[method-assign]
            manager.pull(found, rng)
            check(medium, found)
            # Each parcel is given back once, or the memory there is for them would seem to grow.
            done = [id(parcel) for parcel, _ in manager.done]
            assert len(done) == len(set(done))


def test_a_full_disk_stops_and_goes_on_when_there_is_room(rng: random.Random) -> None:
    medium = Medium()
    found = nodes(rng, size=12)
    medium.disk.capacity = 1500
    manager = Manager(medium)
    with pytest.raises(AssertionError, match="still waiting"):
        manager.pull(found, rng)
    assert any("No space" in manager.rounds.trouble(node.source.key) for node in found)
    medium.disk.capacity = None
    manager.run()
    check(medium, found)


def test_one_file_that_cannot_be_written_holds_up_nothing_else(rng: random.Random) -> None:
    medium = Medium()
    found = nodes(rng)
    bad, *good = found
    medium.disk.faults.append(Fault(op="append", path="*/n0*", error=errno.EIO, times=10**9))
    manager = Manager(medium)
    with pytest.raises(AssertionError, match="still waiting"):
        manager.pull(found, rng)
    check(medium, good)
    assert manager.rounds.trouble(bad.source.key) and not manager.rounds.trouble(good[0].source.key)
    medium.disk.faults.clear()
    manager.run()
    check(medium, found)


# ---- files that others touch ---------------------------------------------------------------------------------------


def one(count: int = 3) -> tuple[Medium, Manager, Node, str]:
    """A manager that wrote `count` of six batches of one day into one file."""
    items = [encode([b"record %d" % n]).stamped(n + 1, 1, 1_800_014_400 * 10**9, 1) for n in range(6)]
    medium = Medium()
    manager = Manager(medium)
    node = Node("n0", items)
    manager.pull([Node("n0", items[:count])])
    [path] = [path for path in medium.paths() if path.startswith(ROOT)]
    return medium, manager, node, path


@pytest.fixture(params=[False, True], ids=["running", "restarted"])
def restarted(request: pytest.FixtureRequest) -> bool:
    """Whether the manager is ended, cleanly, before the file is touched, and begins again after it."""
    return bool(request.param)


def touched(medium: Medium, manager: Manager, restarted: bool) -> Manager:
    if not restarted:
        return manager
    return Manager(medium)


def end(manager: Manager, restarted: bool) -> None:
    if restarted:
        manager.rounds.end()


def test_a_file_someone_appended_to_is_left_alone(restarted: bool) -> None:
    medium, manager, node, path = one()
    end(manager, restarted)
    before = medium.text(path)
    medium.disk.put(path, before + b"a line by hand\n")
    touched(medium, manager, restarted).pull([node])
    assert medium.text(path) == before + b"a line by hand\n"
    assert medium.text(path + ".part2") == b"record 3\nrecord 4\nrecord 5\n"


def test_a_file_someone_appended_to_after_the_restart_of_a_killed_manager_is_left_alone() -> None:
    """What a round had not committed goes at the start; what comes later is somebody's."""
    medium, manager, node, path = one()
    before = medium.text(path)
    medium.disk.faults.append(Fault(op="append", crash=True, after=True))
    with suppress(Crash):
        manager.pull([Node("n0", node.items[:4])])
    medium.disk.kill()
    medium.disk.faults.clear()
    assert medium.text(path) == before + b"record 3\n"
    again = Manager(medium)
    assert medium.text(path) == before and not medium.ledger[1][path].open
    medium.disk.put(path, before + b"a line by hand\n")
    again.pull([node])
    assert medium.text(path) == before + b"a line by hand\n"
    assert medium.text(path + ".part2") == b"record 3\nrecord 4\nrecord 5\n"
    assert medium.ledger[1][path].status == "left"


@pytest.mark.parametrize("length", [0, 5])
def test_a_file_someone_truncated_is_left_alone(length: int, restarted: bool) -> None:
    medium, manager, node, path = one()
    end(manager, restarted)
    medium.disk.put(path, medium.text(path)[:length])
    touched(medium, manager, restarted).pull([node])
    assert len(medium.text(path)) == length
    assert medium.text(path + ".part2") == b"record 3\nrecord 4\nrecord 5\n"
    assert medium.ledger[1][path].status == "left"


def test_a_file_that_was_rotated_is_followed_by_a_new_one(restarted: bool) -> None:
    medium, manager, node, path = one()
    end(manager, restarted)
    before = medium.text(path)
    medium.disk.process().rename(Path(path), Path(path + ".1"))
    touched(medium, manager, restarted).pull([node])
    assert medium.text(path + ".1") == before
    assert medium.text(path) == b"record 3\nrecord 4\nrecord 5\n"


def test_a_file_that_was_removed_is_begun_anew(restarted: bool) -> None:
    medium, manager, node, path = one()
    end(manager, restarted)
    medium.disk.process().unlink(Path(path))
    touched(medium, manager, restarted).pull([node])
    assert medium.text(path) == b"record 3\nrecord 4\nrecord 5\n"


def test_files_removed_in_the_second_they_were_made_are_all_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk gives the inode of a removed file to the next one; so does this one."""
    monkeypatch.setattr(Medium, "inode", lambda *_: 1000)
    medium, manager, node, path = one()
    for count in (4, 5, 6):
        medium.disk.process().unlink(Path(path))
        manager.pull([Node("n0", node.items[:count])])
    sources, files, *_ = medium.ledger
    assert counts(files)[node.source.key] == (sources[node.source.key].records, 0) == (6, 0)


def test_another_file_in_its_place_is_left_alone(restarted: bool) -> None:
    medium, manager, node, path = one()
    end(manager, restarted)
    process = medium.disk.process()
    process.rename(Path(path), Path(path + ".1"))
    process.open(Path(path), "create").append([b"not ours\n"])
    touched(medium, manager, restarted).pull([node])
    assert medium.text(path) == b"not ours\n"
    assert medium.text(path + ".part2") == b"record 3\nrecord 4\nrecord 5\n"


def test_an_empty_file_in_its_place_is_taken(restarted: bool) -> None:
    """What logrotate's `create` leaves."""
    medium, manager, node, path = one()
    end(manager, restarted)
    process = medium.disk.process()
    process.rename(Path(path), Path(path + ".1"))
    process.open(Path(path), "create")
    touched(medium, manager, restarted).pull([node])
    assert medium.text(path) == b"record 3\nrecord 4\nrecord 5\n"


def test_someone_who_appends_at_the_same_moment_loses_nothing() -> None:
    medium, manager, node, path = one()

    def meddle() -> None:
        node_ = medium.disk._file(Path(path))
        node_.write(len(node_.cached), b"by hand\n")

    medium.disk.faults.append(Fault(op="append", action=meddle))
    manager.pull([Node("n0", node.items[:4])])
    manager.pull([node])
    text = medium.text(path)
    assert text == b"record 0\nrecord 1\nrecord 2\nby hand\nrecord 3\n"
    assert medium.text(path + ".part2") == b"record 4\nrecord 5\n"
    state = medium.ledger[1][path]
    assert (state.length, state.crc, state.lines) == (len(text), crc32c(text), 5)


def test_a_node_named_like_a_part_has_files_of_its_own() -> None:
    medium, manager, node, path = one()
    medium.disk.put(path, b"")
    manager.pull([node])  # into n0.part2
    other = Node("n0.part2", node.items)
    manager.pull([other])
    assert medium.text(path + ".part2") == b"record 3\nrecord 4\nrecord 5\n"
    assert medium.text(path + ".part2.part2") == other.text()


def test_a_file_the_ledger_does_not_know_is_left_alone() -> None:
    _, _, node, path = one()
    medium = Medium()
    process = medium.disk.process()
    for parent in reversed(Path(path).parents):
        if not process.exists(parent):
            process.mkdir(parent)
    process.open(Path(path), "create").append([b"was here before\n"])
    Manager(medium).pull([node])
    assert medium.text(path) == b"was here before\n"
    assert medium.text(path + ".part2") == node.text()


# ---- what follows what ---------------------------------------------------------------------------------------------


def test_what_comes_twice_is_written_once(rng: random.Random) -> None:
    medium = Medium()
    [node] = nodes(rng, 1)
    manager = Manager(medium)
    manager.pull([node], rng)
    for parcel in node.parcels(0, rng):
        manager.rounds.put(parcel)
    manager.run()
    check(medium, [node])
    assert not manager.refused


def test_a_hole_is_refused() -> None:
    medium, manager, node, path = one()
    manager.rounds.put(Parcel(node.source, "uuid", node.items[4:]))
    manager.run()
    assert manager.refused == [node.source]
    manager.pull([node])
    assert medium.text(path) == node.text()


def test_another_log_is_refused_unless_it_is_said_to_begin_anew() -> None:
    medium, manager, node, path = one()
    manager.rounds.put(Parcel(node.source, "another", node.items[:1]))
    manager.run()
    assert manager.refused == [node.source]
    parcel = Parcel(node.source, "another", [Mark(1, "--- it begins anew ---"), *node.items[:1]], restart=0)
    manager.rounds.put(parcel)
    manager.rounds.put(parcel)  # the connection was lost, and it came again
    manager.run()
    assert medium.text(path) == b"record 0\nrecord 1\nrecord 2\n--- it begins anew ---\nrecord 0\n"


def test_a_gap_is_one_marked_line_and_counted() -> None:
    medium, manager, node, path = one()
    manager.rounds.put(Parcel(node.source, "uuid", [Gap(4, 9, "dropped")]))
    manager.run()
    last = medium.text(path).splitlines()[-1].decode()
    assert last.startswith("--- jlogd: 6 records of mainlog at n0 are missing here, 4 to 9: dropped"), last
    assert medium.ledger[0][node.source.key].lost == 6 and medium.ledger[1][path].sources[node.source.key] == (3, 6)


def test_a_full_part_is_followed_by_the_next() -> None:
    _, _, node, path = one()
    medium = Medium()
    manager = Manager(medium, FileOptions(size_max=18))
    for count in range(1, 7):
        manager.pull([Node("n0", node.items[:count])])
    assert medium.text(path) == b"record 0\nrecord 1\n" and medium.text(path + ".part3") == b"record 4\nrecord 5\n"
    check(medium, [node])


def test_what_fails_behind_the_ledger_is_not_written_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what is not in the ledger may be tried again, whatever else goes wrong."""
    medium = Medium()
    manager, node = Manager(medium), Node("n0", [encode([b"once"]).stamped(1, 1, 1_800_014_400 * 10**9, 1)])
    with monkeypatch.context() as patch:
        patch.setattr(manager.output, "settled", lambda _: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            manager.pull([node])
    assert manager.rounds.state(node.source) == medium.ledger[0][node.source.key]
    Manager(medium).pull([node])
    check(medium, [node])
