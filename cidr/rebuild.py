"""A new catalogue in the place of one that is damaged, or of none.

    1. the damaged file, and SQLite's journal of it, get a new name beside it: nothing is deleted
    2. what can still be read in it of settings and epochs is read
    3. a new one is made of the segments and the receipts of imports, and of what was read

What no segment tells: the epochs of loggers that were started and wrote nothing yet. Where the old file does not tell
them either, every epoch leaps: whoever still runs with one of before is fenced, and none is given out twice.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cidr.catalogue import Catalogue
from cidr.errors import CatalogueDamaged
from cidr.files import Files
from cidr.names import CATALOGUE
from cidr.survey import Found
from cidr.times import zone_named
from jlogd.errors import UsageError

# Beside the file: SQLite would take the journal of the old one for that of the new one.
_COMPANIONS = ("-journal", "-wal", "-shm")
# Nobody starts a logger so often without that it writes anything.
EPOCH_LEAP = 1000


@dataclass(slots=True)
class Rebuilt:
    """What became of it. `aside`: where the damaged file is now. `read` of it, `lost` with it: in words."""

    aside: Path | None = None
    reason: str = ""
    read: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)


def rebuild(base: Path, found: Found, files: Files | None = None) -> Rebuilt:
    """Make the catalogue of what a survey found, and remove what it found unfinished. Raises CatalogueBroken."""
    files = files or Files()
    done = Rebuilt()
    # Whoever wrote the last of them may have been stopped before it did so.
    files.sync_names(base / segment.path for segment in found.segments)
    try:
        _check_not_empty(base / CATALOGUE)
        _settle(base, found, {}, {})
    except CatalogueDamaged as error:
        done.reason = str(error.__cause__ or error)
        done.aside = _move_aside(base, files)
        settings, epochs = _salvage(done, found)
        _settle(base, found, settings, epochs)
        files.sync_directory(base)
    for path in found.torn:
        files.unlink(base / path)
    return done


def is_damaged(base: Path) -> str:
    """What is wrong with the catalogue; empty when it is sound, or not there. Changes nothing."""
    if not (base / CATALOGUE).exists():
        return ""
    try:
        _check_not_empty(base / CATALOGUE)
        with closing(Catalogue.read(base / CATALOGUE)) as catalogue:
            catalogue.check()
    except CatalogueDamaged as error:
        return str(error.__cause__ or error)
    return ""


def _check_not_empty(path: Path) -> None:
    """SQLite takes an empty file for a new one; what it once told would be lost without a word."""
    if path.exists() and path.stat().st_size == 0:
        raise CatalogueDamaged(f"{path} is empty")


def _settle(base: Path, found: Found, settings: Mapping[str, str], epochs: Mapping[str, int]) -> None:
    with closing(Catalogue.create(base)) as catalogue:
        catalogue.check()
        for key, value in settings.items():
            catalogue.put_setting(key, value)
        if epochs:
            catalogue.reset([], {name: (epoch, 0) for name, epoch in epochs.items()}, [])
        found.settle(catalogue)


def _move_aside(base: Path, files: Files) -> Path:
    """The file last: whenever this is stopped, no journal of the old one lies beside a new one."""
    number = 1
    while (aside := base / f"{CATALOGUE}.damaged-{number}").exists():
        number += 1
    for companion in (*_COMPANIONS, ""):
        beside = base / f"{CATALOGUE}{companion}"
        if beside.exists():
            files.rename(beside, base / f"{aside.name}{companion}")
    files.sync_directory(base)
    return aside


def _salvage(done: Rebuilt, found: Found) -> tuple[dict[str, str], dict[str, int]]:
    """Settings and epochs, from the old file where it still tells them, otherwise from the segments."""
    assert done.aside is not None
    settings = _settings(done, found, _rows(done.aside, "SELECT key, value FROM store"))
    rows = _rows(done.aside, "SELECT origin, epoch FROM origins")
    if rows is not None and all(isinstance(name, str) and isinstance(epoch, int) for name, epoch in rows):
        done.read.append("the epochs of its loggers")
        return settings, dict(rows)
    done.lost.append("the epochs of loggers that had written nothing yet: restart every as_logger of this store")
    return settings, {name: epoch + EPOCH_LEAP for name, (epoch, _) in found.origins.items()}


def _settings(done: Rebuilt, found: Found, rows: list[tuple[Any, Any]] | None) -> dict[str, str]:
    kept = {}
    for key, sound in (("zone", _is_zone), ("interval", _is_interval)):
        value = dict(rows or ()).get(key)
        if isinstance(value, str) and sound(value):
            kept[key] = value
            done.read.append(f"{key} {value}")
        elif key == "zone":
            said = f"the newest segment says {found.zone}" if found.zone else "no segment says one, UTC holds"
            done.lost.append(f"the zone: {said}")
    # A survey's words come last: of two that differ, those of the file were the newer ones.
    found.zone, found.interval = kept.get("zone", found.zone), int(kept.get("interval", found.interval))
    return kept


def _is_zone(value: str) -> bool:
    try:
        zone_named(value)
    except UsageError:
        return False
    return True


def _is_interval(value: str) -> bool:
    return value.isascii() and value.isdigit() and len(value) < 10


def _rows(path: Path, statement: str) -> list[tuple[Any, Any]] | None:
    """What a statement still finds in a damaged file; None when it finds out that it cannot."""
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True)) as connection:
            return connection.execute(statement).fetchall()
    except sqlite3.Error:
        return None


__all__ = ["EPOCH_LEAP", "Rebuilt", "is_damaged", "rebuild"]
