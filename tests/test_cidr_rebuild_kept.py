"""Rebuild deletes nothing: what the catalogue knows was committed counts, what may be unfinished is set aside, and
what is damaged or gone is named."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import pytest
from cidr_logger_support import Killed, Steps, append, config, counted, drained, failed
from cidr_support import FastFiles
from click.testing import CliRunner, Result

from cidr.catalogue import Catalogue
from cidr.cli.main import cli
from cidr.config import Maintain
from cidr.maintain import Maintainer
from cidr.names import CATALOGUE, segment_files
from cidr.rebuild import look, rebuild
from cidr.receipts import receipts

ROWS = 3
COUNTS = {f"192.0.2.{number}": number for number in range(1, ROWS + 1)}


def cidr(*args: object) -> Result:
    return CliRunner().invoke(cli, [str(arg) for arg in args], prog_name="cidr")


def _imported(root: Path, name: str = "counts.csv", minute: int = 0) -> Path:
    """A store whose newest commit is an import of several segments."""
    lines = [f"ssh,2025-12-10T0{minute}:{n:02}:00Z,192.0.2.{n},{n}" for n in range(1, ROWS + 1)]
    (root / name).write_text("\n".join(["series,end,address,count", *lines]) + "\n")
    assert cidr("import", root / name, "--base-dir", root / "store").exit_code == 0
    return root / "store"


def _logged(root: Path) -> Path:
    append(root, [failed(address) for address in ("192.0.2.1", "2001:db8::1")])
    drained(config(root))
    return root / "store"


def _contents(base: Path) -> list[bytes]:
    return sorted(path.read_bytes() for path in base.rglob("*") if path.is_file() and path.suffix != ".db")


def _damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[20:24] = b"XXXX"
    path.write_bytes(data)


@pytest.mark.parametrize("how", ["gone", "damaged"])
@pytest.mark.parametrize("make", [_imported, _logged])
def test_only_the_segment_that_is_lost_is_left_out(tmp_path: Path, make: object, how: str) -> None:
    base = make(tmp_path)  # type: ignore[operator]
    before, paths = counted(base), sorted(segment_files(base))
    lost = base / paths[0]
    (lost.unlink if how == "gone" else lambda: _damage(lost))()
    kept = _contents(base)
    for _ in range(2):
        result = cidr("rebuild", "--base-dir", base, "--dry-run")
        assert (result.exit_code, paths[0] in result.stderr) == (1, True), result.output
    result = cidr("rebuild", "--base-dir", base)
    assert result.exit_code == 1
    word = "missing: " if how == "gone" else "damaged: "
    assert [line for line in result.stderr.splitlines() if line.startswith(word) and paths[0] in line], result.stderr
    assert _contents(base) == kept
    assert len(counted(base)) == len(before) - 1
    assert counted(base).items() <= before.items()
    again = cidr("rebuild", "--base-dir", base)
    assert again.exit_code == (0 if how == "gone" else 1)  # what is damaged is still there


def test_a_commit_whose_files_are_all_gone_is_not_counted_again(tmp_path: Path) -> None:
    base = _imported(tmp_path)
    first = set(segment_files(base))
    _imported(tmp_path, "more.csv", minute=1)
    for path in set(segment_files(base)) - first:
        (base / path).unlink()
    assert cidr("rebuild", "--base-dir", base).exit_code == 1
    assert counted(base) == COUNTS
    assert len(list(receipts(base))) == 2
    catalogue = Catalogue.read(base / CATALOGUE)
    assert catalogue.origin("import")[1] == 2
    assert len(catalogue.positions("import")) == 2
    catalogue.close()


def test_without_a_catalogue_a_commit_that_lacks_a_file_is_set_aside(tmp_path: Path) -> None:
    base = _imported(tmp_path)
    (base / CATALOGUE).unlink()
    lost = base / min(segment_files(base))
    copy = lost.read_bytes()
    lost.unlink()
    rest, kept = sorted(segment_files(base)), _contents(base)
    dry = cidr("rebuild", "--base-dir", base, "--dry-run")
    assert (dry.exit_code, sorted(segment_files(base))) == (1, rest)
    assert f"unfinished: {rest[0]}: commit 1 of import lacks 1 of its {ROWS} files; would be moved" in dry.stderr
    result = cidr("rebuild", "--base-dir", base)
    assert result.exit_code == 1
    assert all(f"unfinished: {path}" in result.stderr for path in rest)
    assert "import that file again" in result.stderr
    assert _contents(base) == kept
    assert (counted(base), list(segment_files(base))) == ({}, [])
    assert cidr("rebuild", "--base-dir", base).exit_code == 0
    catalogue = Catalogue.create(base)
    assert catalogue.claim("import") == 2  # no file that is written now has the name of one that is put back
    catalogue.close()
    # What was lacking is found again: all of it is put back.
    aside = base / "unfinished-1"
    for path in [path for path in aside.rglob("*") if path.is_file()]:
        path.rename(base / path.relative_to(aside))
    lost.write_bytes(copy)
    assert cidr("rebuild", "--base-dir", base).exit_code == 0
    assert counted(base) == COUNTS


def test_what_a_damaged_catalogue_still_says_of_commits_is_believed(tmp_path: Path) -> None:
    base = _imported(tmp_path)
    with Catalogue.create(base)._connection as connection:
        connection.execute("DROP TABLE segments")
    (base / min(segment_files(base))).unlink()
    result = cidr("rebuild", "--base-dir", base)
    assert "0 unfinished" in result.stdout, result.output
    assert len(counted(base)) == ROWS - 1


def test_nothing_is_lost_wherever_a_rebuild_is_stopped(tmp_path: Path) -> None:
    for stop_at in range(1, 40):
        root = tmp_path / str(stop_at)
        root.mkdir()
        base = _imported(root)
        (base / CATALOGUE).unlink()
        (base / min(segment_files(base))).unlink()
        kept = _contents(base)
        files = Steps(stop_at)
        with suppress(Killed):
            rebuild(base, look(base, change=True), files)
        assert _contents(base) == kept, stop_at
        _imported(root, "more.csv", minute=1)  # who starts next removes nothing of it either
        assert set(kept) <= set(_contents(base)), stop_at
        if files.done < stop_at:
            return
    raise AssertionError("it has more steps than that")


@pytest.mark.parametrize("maintained", [False, True])
def test_no_import_removes_what_a_lost_catalogue_may_have_known(tmp_path: Path, maintained: bool) -> None:
    base = _imported(tmp_path)
    (base / CATALOGUE).unlink()
    (base / min(segment_files(base))).unlink()
    kept = _contents(base)
    if maintained:
        with Maintainer(base, Maintain(), dry_run=True) as maintainer:
            maintainer.run()
        assert not (base / CATALOGUE).exists()
        with Maintainer(base, Maintain(condense=False), files=FastFiles()) as maintainer:
            maintainer.run()
    _imported(tmp_path)
    assert set(kept) <= set(_contents(base))
    assert counted(base) == COUNTS


def test_what_a_transaction_left_is_taken_back(tmp_path: Path) -> None:
    base = _imported(tmp_path)
    pid = os.fork()
    if pid == 0:
        connection = Catalogue.create(base)._connection
        connection.execute("PRAGMA cache_size = 1")  # the file is written to before the end
        connection.execute("PRAGMA cache_spill = 1")
        connection.execute("BEGIN IMMEDIATE")
        for number in range(2000):
            connection.execute("INSERT INTO store VALUES (?, ?)", (f"key{number}", "x" * 100))
        os._exit(0)
    os.waitpid(pid, 0)
    assert (base / f"{CATALOGUE}-journal").exists()
    assert cidr("rebuild", "--base-dir", base).exit_code == 0
    assert counted(base) == COUNTS


def test_a_damaged_segment_is_told_in_one_line(tmp_path: Path) -> None:
    base = _imported(tmp_path)
    _damage(base / min(segment_files(base)))
    result = cidr("--base-dir", base, "-e", "show count for all in ssh")
    assert (result.exit_code, len(result.stderr.strip().splitlines())) == (3, 1), result.stderr
    assert "`cidr rebuild` leave it out" in result.stderr
