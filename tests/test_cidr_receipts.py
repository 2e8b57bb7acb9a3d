"""Imports are remembered one by one: no segment grows with those before it, and a rebuild forgets none."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from cidr_logger_support import Killed, Steps, counted
from cidr_support import FastFiles
from cli_support import _run

from cidr import receipts
from cidr.catalogue import Catalogue
from cidr.cli.main import cli
from cidr.config import Maintain
from cidr.intake import ORIGIN, import_file
from cidr.maintain import Maintainer
from cidr.names import CATALOGUE, segment_files
from cidr.segment import read_header
from cidr.survey import survey
from jlogd.daemon.units import Duration
from jlogd.errors import UsageError

# The commit's number and the count of an import are written in each: some digits more.
DIGITS = 16
# Nothing is kept in a tier but the last.
CONDENSE = Maintain(keep_minutes=Duration(1), keep_hours=Duration(1), keep_days=Duration(1), settle=Duration(0))


def _file(root: Path, number: int) -> Path:
    """A file of one count, unlike all others."""
    path = root / f"{number}.csv"
    minute = f"2008-04-{1 + number // 1440:02d}T{number // 60 % 24:02d}:{number % 60:02d}:00Z"
    path.write_text(f"series,end,address,count\nspam,{minute},10.0.{number // 256}.{number % 256},1\n")
    return path


def _import(root: Path, number: int, files: FastFiles | Steps | None = None, again: bool = False) -> None:
    import_file(_file(root, number), root / "store", kind="csv", interval=60, files=files or FastFiles(), again=again)


def _positions(base: Path) -> dict[str, int]:
    catalogue = Catalogue.read(base / CATALOGUE)
    try:
        return catalogue.positions(ORIGIN)
    finally:
        catalogue.close()


def _rebuild(base: Path) -> None:
    (base / CATALOGUE).unlink()
    ended = _run(cli, "cidr", ["rebuild", "--base-dir", base], b"")
    assert ended.code == (1 if "unfinished: " in ended.err else 0), ended


def test_a_segment_does_not_grow_with_the_imports_before_it(tmp_path: Path) -> None:
    for number in range(60):
        _import(tmp_path, number)
    base = tmp_path / "store"
    sizes = {read_header(base / path).commit: (base / path).stat().st_size for path in segment_files(base)}
    assert len(sizes) == 60
    assert sizes[60] <= sizes[1] + DIGITS
    assert all(len(read_header(base / path).positions) == 1 for path in segment_files(base))
    assert max(path.stat().st_size for path in (base / receipts.DIRECTORY).iterdir()) < 100


def test_a_rebuild_knows_every_import_though_its_segments_are_gone(tmp_path: Path) -> None:
    for number in range(5):
        _import(tmp_path, number)
    _import(tmp_path, 2, again=True)
    base = tmp_path / "store"
    before = _positions(base)
    assert sorted(before.values()) == [1, 1, 1, 1, 2]
    with Maintainer(base, CONDENSE, files=FastFiles()) as maintainer:
        maintainer.run()
    assert sum(path.startswith("minute/") for path in segment_files(base)) == 1  # the newest commit
    counts = counted(base, "spam")
    _rebuild(base)
    assert _positions(base) == before
    assert counted(base, "spam") == counts
    for number in range(5):
        with pytest.raises(UsageError, match="imported before"):
            _import(tmp_path, number)


@pytest.mark.parametrize("by_rebuild", [False, True])
def test_a_receipt_of_an_import_that_never_happened_is_not_believed(tmp_path: Path, by_rebuild: bool) -> None:
    _import(tmp_path, 0)
    base = tmp_path / "store"
    steps = Steps()
    _import(tmp_path, 1, steps)
    for stop_at in range(1, steps.done + 1):
        number = 1 + stop_at
        before = _positions(base)
        with pytest.raises(Killed):
            _import(tmp_path, number, Steps(stop_at))
        if by_rebuild:
            _rebuild(base)
        with suppress(UsageError):  # it was whole, and was taken over
            _import(tmp_path, number)
        assert len(_positions(base)) == len(before) + 1
        assert len(list(receipts.receipts(base))) == len(before) + 1
    _rebuild(base)
    assert set(counted(base, "spam").values()) == {1}
    assert len(counted(base, "spam")) == len(_positions(base)) == 2 + steps.done


def test_a_damaged_receipt_is_named(tmp_path: Path) -> None:
    _import(tmp_path, 0)
    _import(tmp_path, 1)
    base = tmp_path / "store"
    path = next(iter(receipts.receipts(base)))[0]
    (base / path).write_text("{")
    assert [name for name, _ in survey(base).damaged] == [path]
    ended = _run(cli, "cidr", ["rebuild", "--base-dir", base], b"")
    assert (ended.code, path in ended.err) == (1, True)
    assert counted(base, "spam") == {"10.0.0.0": 1, "10.0.0.1": 1}
