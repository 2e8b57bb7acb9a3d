"""Every byte of a small log flipped, every length of its files cut: damage never becomes data.

What is read afterwards is what was appended, at its number, or a gap that covers it; `check` sees every flip; and a log
that is opened to write goes on. The log holds both encodings, compression, a sealed segment and one in use, and
subscribers.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from model_disk import ModelDisk

from jlogd.errors import FormatError, LogNotFound
from jlogd.journal.batch import Batch, Gap, compress, encode
from jlogd.journal.check import Finding, check
from jlogd.journal.cursor import Cursor
from jlogd.journal.journal import Journal
from jlogd.journal.types import Position, Receipt, Settings
from jlogd.journal.view import View

PATH = Path("/spool/log")
GROUPS = [
    [b"first", b"second"],
    [b"with\nnewline", b"", b"\0\xff"],
    [b"squeezed " * 12] * 3,
    [b"x" * 900, b"y" * 900],
    [b"z" * 1800],
    [b"the last but one"],
    [b"the last"],
]


def make_log() -> tuple[ModelDisk, dict[int, bytes]]:
    """A log of two segments, closed; its records by number."""
    disk = ModelDisk()
    home = disk.process()
    Journal.create(PATH, Settings(segment_bytes=4096), ["reader"], disk=home)
    records: dict[int, bytes] = {}
    with Journal.open(PATH, disk=home) as journal:
        for number, group in enumerate(GROUPS):
            batch = encode(group).numbered(7, number, number + 1)
            (receipt,) = journal.commit([compress(batch) if number == 2 else batch])
            assert isinstance(receipt, Receipt)
            records.update(enumerate(group, receipt.first))
        hold = journal.hold("reader")
        hold.read(1)
        hold.checkpoint(2)
        hold.release()
        assert len(journal.view.chain()) == 2
    return disk, records


DISK, RECORDS = make_log()
FILES = {path: data for path, data in DISK.files().items() if not path.name.endswith(".lock")}
SEGMENTS = [path for path in FILES if path.name.endswith(".seg")]


def read(disk: ModelDisk) -> tuple[dict[int, bytes], list[Gap]]:
    """Everything a reader without a name gets, from record 1 to the end it sees."""
    cursor = Cursor(View(PATH, disk.process()), Position(1))
    found: dict[int, bytes] = {}
    gaps: list[Gap] = []
    expected = 1
    while items := cursor.read(1 << 20):
        for item in items:
            assert item.first == expected
            expected = item.next
            if isinstance(item, Gap):
                gaps.append(item)
            else:
                assert isinstance(item, Batch)
                found.update(enumerate(item, item.first))
    return found, gaps


def must_be_sound(disk: ModelDisk, end_known: bool) -> None:
    """What is read is right, and what is not read is in a gap. `end_known`: the head is not what was damaged."""
    found, gaps = read(disk)
    for number, data in found.items():
        assert RECORDS.get(number) == data, f"record {number} is {data[:40]!r}"
    lost = {number for gap in gaps for number in range(gap.first, gap.next)}
    assert not lost & set(found)
    if end_known:
        assert set(found) | lost == set(RECORDS)


def must_go_on(disk: ModelDisk) -> None:
    """The log can be opened to write, keeps what could be read, and takes a record more."""
    before, _ = read(disk)
    with Journal.open(PATH, disk=disk.process()) as journal:
        (receipt,) = journal.commit([encode([b"afterwards"])])
        assert isinstance(receipt, Receipt), receipt
        found, _ = read(disk)
        assert found.pop(receipt.first) == b"afterwards"
        assert before.items() <= found.items()
        for number, data in found.items():
            assert RECORDS.get(number) == data
    assert [finding for finding in check(PATH, disk.process()) if finding.kind == "order"] == []


def findings(disk: ModelDisk) -> list[Finding] | str:
    try:
        return list(check(PATH, disk.process()))
    except (FormatError, LogNotFound) as error:
        return str(error)


def test_the_undamaged_log_is_what_it_should_be() -> None:
    assert read(DISK.clone()) == (RECORDS, [])
    assert findings(DISK.clone()) == []


# The quick run looks at every fifth byte, the slow one at all of them.
QUICK = 5
STRIDES = pytest.mark.parametrize(
    "start", [0, *(pytest.param(start, marks=pytest.mark.slow) for start in range(1, QUICK))], ids="from {}".format
)


def flips(path: Path, start: int) -> list[int]:
    """Offsets to flip; of the zeros between two slots only some."""
    offsets = range(start, len(FILES[path]), QUICK)
    return [offset for offset in offsets if path in SEGMENTS or not 512 <= offset < 4096 or offset % 499 == 0]


@STRIDES
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_check_sees_every_flip(path: Path, start: int) -> None:
    for offset in flips(path, start):
        disk = DISK.clone()
        disk.flip(path, offset, 1 << offset % 8)
        assert findings(disk), f"check does not see byte {offset}"


@STRIDES
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_flip_becomes_data(path: Path, start: int) -> None:
    for offset in flips(path, start):
        disk = DISK.clone()
        disk.flip(path, offset, 0xFF if offset % 2 else 1 << offset % 8)
        try:
            must_be_sound(disk, end_known=not path.name.startswith("head-"))
            if offset % 11 == 0:
                must_go_on(disk)
        except FormatError:
            assert path.name in ("log.json", "owner"), f"byte {offset} of {path.name} makes the log unreadable"


@STRIDES
@pytest.mark.parametrize("path", SEGMENTS, ids=lambda path: path.name)
def test_every_length_cut(path: Path, start: int) -> None:
    for length in range(start, len(FILES[path]), QUICK):
        disk = DISK.clone()
        disk.put(path, FILES[path][:length])
        must_be_sound(disk, end_known=True)
        assert findings(disk), f"check does not see the cut at {length}"
        if length % 11 == 0:
            must_go_on(disk)


@pytest.mark.parametrize("path", SEGMENTS, ids=lambda path: path.name)
def test_every_length_cut_and_the_machine_restarted(path: Path) -> None:
    """Without a head of this boot, the segments alone tell what was durable."""
    for length in range(0, len(FILES[path]), 3 * QUICK):
        disk = DISK.clone()
        disk.put(path, FILES[path][:length])
        disk.crash(length)
        must_go_on(disk)


@pytest.mark.parametrize("path", SEGMENTS, ids=lambda path: path.name)
def test_a_segment_that_is_gone_is_a_gap(path: Path) -> None:
    disk = DISK.clone()
    disk.lose(path)
    must_be_sound(disk, end_known=False)
    assert findings(disk)


def test_state_files_that_are_gone() -> None:
    """The head is found again, the floor is not needed; without an owner nobody may write, and everybody may read."""
    for name in ("head-00000001", "floor"):
        disk = DISK.clone()
        disk.lose(PATH / name)
        must_go_on(disk)
    disk = DISK.clone()
    disk.lose(PATH / "owner")
    must_be_sound(disk, end_known=True)


def test_a_copy_of_the_log_inside_a_record_is_not_taken_for_the_log() -> None:
    """A record may hold anything, a segment of another log too: its batches are bound to that log by their checksum."""
    inner, _ = make_log()
    copied = next(data for path, data in inner.files(".seg").items())
    disk = ModelDisk()
    home = disk.process()
    Journal.create(PATH, Settings(), disk=home)
    with Journal.open(PATH, disk=home) as journal:
        journal.commit([encode([copied])])
        journal.commit([encode([b"after it"])])
    segment = next(iter(disk.files(".seg")))
    disk.flip(segment, 128 + 96 + 10)  # the header of the batch that holds the copy
    found, gaps = read(disk)
    assert found == {2: b"after it"}
    assert [(gap.first, gap.last, gap.reason) for gap in gaps] == [(1, 1, "damaged")]
