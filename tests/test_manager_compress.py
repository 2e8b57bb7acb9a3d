"""Closed files are compressed, and no crash, late record or file of somebody else costs a byte."""

from __future__ import annotations

import errno
import random
from contextlib import suppress
from pathlib import Path

import pytest
import zstandard
from daemon_support import until
from manager_nodes import append, cluster, numbered
from manager_support import NOON_NS, Manager, Medium, Node
from model_disk import Crash, Fault

from jlogd.journal.batch import encode
from jlogd.manager.compress import Compressor
from jlogd.manager.ledger import LmdbLedger
from jlogd.manager.template import Origin, Template
from jlogd.manager.verify import verify

NOON = NOON_NS // 10**9
# Long after the day of the first records is over.
LATER = NOON + 3 * 86_400


def node(count: int = 4, at: int = NOON_NS) -> Node:
    batches = [encode([b"record %d" % n] * 20).stamped(20 * n + 1, 1, at + n * 10**9, 1) for n in range(count)]
    return Node("n0", batches)


def manager(medium: Medium) -> Manager:
    made = Manager(medium)
    made.output.compress(Compressor(made.output._store, made.ledger, lambda work: work()))
    return made


def closed(made: Manager, steps: int = 4, start: float = 0.0) -> None:
    """Time passes: idle files are closed, then compressed, then removed."""
    for step in range(steps):
        made.ledger.commit(made.output.idle(LATER + 1e9 + start + step * 1000))


def contents(medium: Medium) -> bytes:
    """What is in all files, compressed ones decompressed."""
    text = b""
    for path in medium.paths():
        data = medium.text(path)
        if path.endswith(".zst"):
            assert path.removesuffix(".zst") not in medium.paths(), "both are there"
            data = zstandard.ZstdDecompressor().decompress(data)
        text += data
    return text


def test_a_closed_file_is_compressed() -> None:
    medium, found = Medium(), node()
    made = manager(medium)
    made.pull([found])
    [path] = medium.paths()
    closed(made)
    assert medium.paths() == [f"{path}.zst"] and contents(medium) == found.text()
    assert medium.ledger[1][path].status == "compressed" and made.output.stats()["compressed"] == 1


def test_a_full_disk_holds_it_up_and_no_more(caplog: pytest.LogCaptureFixture) -> None:
    """What was begun takes no room, and it is tried again."""
    medium, found = Medium(), node()
    made = manager(medium)
    made.pull([found])
    [path] = medium.paths()
    medium.disk.faults.append(Fault(op="append", path="*.zst.new", short=7))
    medium.disk.faults.append(Fault(op="append", path="*.zst.new", error=errno.ENOSPC, times=10**9))
    closed(made, 8)
    assert medium.paths() == [path]
    assert len([record for record in caplog.records if "not compressed yet" in record.getMessage()]) == 1
    medium.disk.faults.clear()
    closed(made, start=100_000)
    assert medium.paths() == [f"{path}.zst"] and contents(medium) == found.text()


def test_what_someone_puts_in_the_place_of_a_compressed_file_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even when the disk gives it the inode of the one that was there."""
    monkeypatch.setattr(Medium, "inode", lambda *_: 1000)
    medium = Medium()
    made = manager(medium)
    made.pull([node()])
    [path] = medium.paths()
    start = 0
    while medium.ledger[1][path].status != "compressed":
        closed(made, 1, start)
        start += 1000
    process = medium.disk.process()
    if path in medium.paths():
        process.unlink(Path(path))
    process.open(Path(path), "create").append([b"to look at it"])
    closed(made, 4, start)
    assert medium.text(path) == b"to look at it"


def test_what_comes_late_goes_into_the_next_part_and_is_compressed_too() -> None:
    medium, found = Medium(), node(6)
    made = manager(medium)
    made.pull([Node("n0", found.items[:4])])
    closed(made)
    made.pull([found])
    assert len(medium.paths()) == 2 and sorted(medium.paths())[0].endswith(".part2")
    closed(made, 5, start=100_000)
    assert all(path.endswith(".zst") for path in medium.paths())
    assert sorted(contents(medium).splitlines()) == sorted(found.text().splitlines())


def test_what_another_output_of_the_ledger_writes_to_is_left_alone() -> None:
    """And two outputs have one compressor: each would take what the other is at."""
    medium, found = Medium(), node()
    made = manager(medium)
    made.pull([found])
    [path] = medium.paths()
    writing = [path]
    made.output._compressor.watch(writing.__contains__)  # type: ignore[union-attr]
    closed(made)
    assert path in medium.paths() and medium.ledger[1][path].status == "live"
    writing.clear()
    closed(made, start=100_000)
    assert medium.paths() == [f"{path}.zst"] and contents(medium) == found.text()


def calls_of_a_run() -> tuple[int, int]:
    medium = Medium()
    made = manager(medium)
    made.pull([node()])
    before = medium.disk.calls
    closed(made)
    return before, medium.disk.calls


@pytest.mark.parametrize("power", [False, True], ids=["kill", "power loss"])
def test_a_crash_at_every_call_leaves_every_record_once(power: bool) -> None:
    before, after = calls_of_a_run()
    for call in range(1, after - before + 1):
        medium, found = Medium(), node()
        made = manager(medium)
        made.pull([found])
        medium.disk.faults.append(Fault(crash=True, at=call))
        with suppress(Crash):
            closed(made)
        if power:
            medium.crash(random.Random(call))
        else:
            medium.disk.kill()
            medium.disk.faults.clear()
        made = manager(medium)
        made.pull([found])
        closed(made, 6)
        left = [path for path in medium.paths() if not path.endswith(".new")]
        assert left and contents(medium) == found.text(), (call, left)


def test_a_file_that_was_changed_or_has_a_namesake_is_left_alone() -> None:
    for change in (lambda m, p: m.disk.put(p, m.text(p)[:-1] + b"X"), lambda m, p: _namesake(m, p)):
        medium, found = Medium(), node()
        made = manager(medium)
        made.pull([found])
        [path] = medium.paths()
        change(medium, path)
        before = {one: medium.text(one) for one in medium.paths()}
        closed(made)
        assert {one: medium.text(one) for one in medium.paths()} == before


def _namesake(medium: Medium, path: str) -> None:
    data = zstandard.ZstdCompressor().compress(b"of somebody else")
    medium.disk.process().open(Path(path + ".zst"), "create").append([data])


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("/a/%Y%m%d", 43_200), ("/a/%Y%m%d-%H", 3600), ("/a/%H%M%S", 1), ("/a/%Y-%m", 16 * 86_400 + 43_200), ("/a/x", 0)],
)
def test_when_the_date_of_a_path_is_over(text: str, seconds: int) -> None:
    over = Template(text, "utc").over(Origin("n", "s", "l"), NOON_NS)
    assert over == (NOON + seconds if seconds else 0)


def test_a_real_manager_compresses_and_verifies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jlogd.manager.compress.GRACE_SECONDS", 0.0)
    monkeypatch.setattr("jlogd.manager.compress.LOOK_SECONDS", 0.1)
    monkeypatch.setattr("jlogd.manager.handles.IDLE_SECONDS", 0.0)
    files = str(tmp_path / "files" / "%{node}-%Y%m%d-%H%M%S")
    with cluster(tmp_path, files=files, compress_closed="zstd") as found:
        append(found.nodes[0], *numbered(0, 1000))
        found.begin()

        def only_compressed() -> bool:
            names = [path.name for path in (tmp_path / "files").glob("*")]
            return bool(names) and all(name.endswith(".zst") for name in names)

        until(only_compressed, "it is compressed, and what it was made from is gone")
        append(found.nodes[0], *numbered(1000, 10))
        until(lambda: len(list((tmp_path / "files").glob("*"))) > 1 and only_compressed(), "so is the next one")
    ledger = LmdbLedger(tmp_path / "ledger-mgr1")
    report = verify(ledger)
    ledger.close()
    assert report.right and sum(file.records for file in report.files) == 1010
