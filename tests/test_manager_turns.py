"""Rounds over time: rules that change while something waits, outputs that are given time, what is forgotten."""

from __future__ import annotations

import errno
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from manager_support import ROOT, Manager, Medium, ModelStore, Node
from model_disk import Fault

from jlogd.journal.batch import encode
from jlogd.manager import manager as manager_module
from jlogd.manager import store
from jlogd.manager.config import ManagerConfig
from jlogd.manager.files import FileOutput
from jlogd.manager.ledger import Changes
from jlogd.manager.outputs import StdoutOutput
from jlogd.manager.parcel import Parcel
from jlogd.manager.rounds import Rounds
from jlogd.manager.store import Directories
from jlogd.manager.template import Template

DAY_NS = 1_800_014_400 * 10**9


def node(output: str = "files") -> Node:
    return Node("n0", [encode([b"record %d" % n]).stamped(n + 1, 1, DAY_NS, 1) for n in range(6)], output=output)


def two_outputs() -> tuple[Medium, Manager, Node, Node]:
    """A node whose rule had its files below `bad`, where nothing can be written, and has them below `good` now."""
    medium = Medium()
    manager = Manager(medium)
    place = ModelStore(medium, manager.process)
    outputs = {
        name: FileOutput(place, manager.ledger, Template(f"{ROOT}/{name}/%{{node}}", "utc"), clock=lambda: 1e9)
        for name in ("bad", "good")
    }
    manager.rounds._output = outputs.__getitem__
    medium.disk.faults.append(Fault(op="append", path="*/bad/*", error=errno.EIO, times=10**9))
    return medium, manager, node("bad"), node("good")


def test_what_cannot_be_written_goes_where_a_rule_that_changed_says() -> None:
    """A wrong path is mended by a reload."""
    medium, manager, before, after = two_outputs()
    with pytest.raises(AssertionError, match="still waiting"):
        manager.pull([before])
    assert manager.rounds.trouble(before.source.key)
    manager.rounds.put(next(after.parcels(0)))
    assert not manager.rounds.trouble(before.source.key)
    manager.pull([after])
    assert medium.text(f"{ROOT}/good/n0") == after.text()


def test_so_does_what_is_being_tried_when_it_changes() -> None:
    medium, manager, before, after = two_outputs()
    parcels = after.parcels(0)
    changes = Fault(op="append", path="*/bad/*", error=errno.EIO, action=lambda: manager.rounds.put(next(parcels)))
    medium.disk.faults.insert(0, changes)
    manager.rounds.put(next(before.parcels(0)))
    manager.run()
    assert changes.struck
    manager.pull([after])
    assert medium.text(f"{ROOT}/good/n0") == after.text()


@pytest.mark.parametrize("trying", [False, True])
def test_so_does_what_other_rounds_are_to_write(trying: bool) -> None:
    """A journal that is away, and files instead; and back again."""
    medium, manager, before, after = two_outputs()
    rounds, ledger = manager.rounds, manager.ledger
    other = Rounds(ledger, rounds._output, manager.done.extend, lambda *_: None, manager._clock)  # type: ignore[arg-type]

    def change() -> None:
        rounds.leave(before.source.key, lambda parcel: other.put(replace(parcel, source=after.source)))

    if trying:
        changes = Fault(op="append", path="*/bad/*", error=errno.EIO, action=change)
        medium.disk.faults.insert(0, changes)
    for parcel in list(before.parcels(0))[:2]:
        rounds.put(parcel)
    rounds.step()
    if not trying:
        change()
    assert not rounds.waiting(before.source.key) and not rounds.trouble(before.source.key)
    while other.step():
        pass
    assert medium.text(f"{ROOT}/good/n0") == b"record 0\nrecord 1\nrecord 2\nrecord 3\n"
    medium.disk.faults.clear()
    manager.pull([before])
    assert medium.text(f"{ROOT}/bad/n0") == b"record 4\nrecord 5\n" and not manager.refused
    assert sum(parcel.bytes for parcel, _ in manager.done) == 300


def test_outputs_are_given_time_though_there_is_always_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """A manager that is never done closes files that nobody writes to, and compresses those whose day is over."""
    found, manager = node(), Manager(Medium())
    manager.rounds._idled = manager._clock()
    manager.rounds.busy_seconds = 1.0
    idled: list[float] = []
    monkeypatch.setattr(manager.output, "idle", lambda now: idled.append(now) or Changes())
    for item in found.items:
        manager.rounds.put(Parcel(found.source, "uuid", [item], 100))
        assert manager.rounds.step()
        assert idled.pop() and not idled


def test_a_disk_that_does_not_answer_keeps_its_ledger_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What still uses it when it is closed would use memory that is gone."""
    monkeypatch.setattr(manager_module, "STOP_SECONDS", 0.05)
    answered, asked = threading.Event(), threading.Event()
    found = node("files:x")
    manager = manager_module.Manager(ManagerConfig(), "mgr1", tmp_path / "ledger")

    class Hangs(StdoutOutput):
        def write(self, parcels: object) -> Changes:
            asked.set()
            assert answered.wait(60)
            return Changes()

    manager.rounds._output = lambda _: Hangs()
    manager.start()
    manager.rounds.put(Parcel(found.source, "uuid", found.items[:1], 100))
    assert asked.wait(60)
    manager.stop()
    assert manager.ledger.source(found.source.key) is None  # it is open
    answered.set()
    assert manager.rounds.stop(60)
    assert manager.ledger.source(found.source.key) is not None
    manager.ledger.close()


def test_directories_are_not_remembered_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """There are new ones every day."""
    monkeypatch.setattr(store, "DIRECTORIES_MAX", 10)
    medium = Medium()
    place = ModelStore(medium, medium.disk.process())
    directories = Directories(place, Path(ROOT), 0o755)
    for day in range(100):
        directories.ensure(f"{ROOT}/n0/{day}")
        directories.flush(map)
        assert len(directories._known) <= 13
    assert medium.disk.find(Path(f"{ROOT}/n0/99"))
