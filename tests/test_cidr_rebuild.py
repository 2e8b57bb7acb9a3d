"""Rebuild: a catalogue that is damaged is kept beside a new one, and what it alone knew is read in it, or said."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from cidr_logger_support import append, config, counted, drained, failed
from click.testing import CliRunner, Result

from cidr.catalogue import Catalogue
from cidr.cli.main import cli
from cidr.errors import LoggerFenced
from cidr.files import Files
from cidr.names import CATALOGUE
from cidr.rebuild import EPOCH_LEAP, rebuild
from cidr.store import Store
from cidr.survey import survey


def cidr(*args: object) -> Result:
    return CliRunner().invoke(cli, [str(arg) for arg in args], prog_name="cidr")


def _garbage(path: Path) -> None:
    path.write_bytes(b"garbage")


def _short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def _nothing(path: Path) -> None:
    path.write_bytes(b"")


def _half(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] + bytes(len(whole) // 2))


def _no_table(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE segments")


def _no_format(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("DELETE FROM store WHERE key = 'format'")


@pytest.mark.parametrize("damage", [_garbage, _short, _nothing, _half, _no_table, _no_format])
def test_a_damaged_catalogue_is_moved_aside_and_made_anew(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    append(tmp_path, [failed("192.0.2.7"), failed("2001:db8::1")])
    drained(config(tmp_path))
    base = tmp_path / "store"
    before = counted(base)
    damage(base / CATALOGUE)
    broken = (base / CATALOGUE).read_bytes()
    assert "damaged" in cidr("rebuild", "--base-dir", base, "--dry-run").stderr
    assert (base / CATALOGUE).read_bytes() == broken
    result = cidr("rebuild", "--base-dir", base)
    assert result.exit_code == 0, result.output
    aside = base / f"{CATALOGUE}.damaged-1"
    assert str(aside) in result.stderr
    assert aside.read_bytes() == broken
    assert counted(base) == before
    append(tmp_path, [failed("192.0.2.7")])
    drained(config(tmp_path))  # goes on where it was
    assert counted(base) == before | {"192.0.2.7": 2}
    assert "damaged" not in cidr("rebuild", "--base-dir", base).stderr


class _Stopping(Files):
    """The process ends before the change that has this number."""

    def __init__(self, at: int) -> None:
        self.at = at

    def step(self, what: str, path: Path) -> None:
        self.at -= 1
        if self.at == 0:
            raise KeyboardInterrupt(what)


def test_wherever_it_is_stopped_no_journal_of_the_old_one_meets_the_new_one(tmp_path: Path) -> None:
    append(tmp_path, [failed("192.0.2.7")])
    drained(config(tmp_path))
    base = tmp_path / "store"
    before, companions = counted(base), [base / f"{CATALOGUE}{name}" for name in ("-journal", "-wal", "-shm")]
    for at in range(1, 6):
        for path in [base / CATALOGUE, *companions]:
            path.write_bytes(b"garbage")
        with suppress(KeyboardInterrupt):
            rebuild(base, survey(base), _Stopping(at))
        if not (base / CATALOGUE).exists() or (base / CATALOGUE).read_bytes() != b"garbage":
            assert not any(path.exists() and path.read_bytes() == b"garbage" for path in companions), at
        rebuild(base, survey(base))
        assert counted(base) == before


@pytest.mark.parametrize("readable", [True, False])
def test_what_the_catalogue_alone_knew_is_read_or_said(tmp_path: Path, readable: bool) -> None:
    append(tmp_path, [failed("192.0.2.7")])
    drained(config(tmp_path))
    base = tmp_path / "store"
    catalogue = Catalogue.create(base)
    origin = next(iter(catalogue.segments())).origin
    catalogue.put_setting("zone", "Asia/Tokyo")
    number = catalogue.origin(origin)[1]
    older, newer = catalogue.claim(origin), catalogue.claim(origin)
    catalogue.close()
    (_no_table if readable else _garbage)(base / CATALOGUE)
    said = cidr("rebuild", "--base-dir", base).stderr
    store = Store(base)
    assert str(store.zone) == ("Asia/Tokyo" if readable else "UTC")
    store.close()
    catalogue = Catalogue.create(base)
    if readable:
        assert "zone Asia/Tokyo" in said
        assert catalogue.origin(origin) == (newer, number)
    else:
        assert "the zone: the newest segment says UTC" in said
        assert "restart every as_logger" in said
        assert catalogue.origin(origin)[0] > EPOCH_LEAP
        with pytest.raises(LoggerFenced):
            catalogue.commit(origin, newer, number + 1, [], {})
    with pytest.raises(LoggerFenced):
        catalogue.commit(origin, older, number + 1, [], {})
    assert catalogue.claim(origin) > newer
    catalogue.close()


def test_an_epoch_is_not_given_out_twice_by_a_rebuild(tmp_path: Path) -> None:
    catalogue = Catalogue.create(tmp_path)
    epoch = catalogue.claim("idle")
    catalogue.close()
    assert cidr("rebuild", "--base-dir", tmp_path).exit_code == 0
    catalogue = Catalogue.create(tmp_path)
    assert catalogue.claim("idle") > epoch
    catalogue.close()


def test_a_catalogue_in_use_or_of_a_newer_version_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cidr.catalogue.BUSY_SECONDS", 0.05)
    Catalogue.create(tmp_path).close()
    holder = sqlite3.connect(tmp_path / CATALOGUE, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    result = cidr("rebuild", "--base-dir", tmp_path)
    assert (result.exit_code, "locked" in result.stderr, "rebuild" in result.stderr) == (3, True, False)
    holder.execute("ROLLBACK")
    holder.execute("UPDATE store SET value = '99' WHERE key = 'format'")
    holder.close()
    result = cidr("rebuild", "--base-dir", tmp_path)
    assert (result.exit_code, "format 99" in result.stderr) == (3, True)
    assert not list(tmp_path.glob("*.damaged*"))
