"""A new catalogue in the place of one that is damaged, or of none.

    1. what the catalogue still tells is read; then all segments are, their counts too
    2. files of a commit that lacks others are set aside: nothing is deleted
    3. a damaged catalogue, and SQLite's journal of it, get a new name beside it, and what can still be read in it of
       settings and epochs is read
    4. a new one is made of the segments and the receipts of imports, and of what was read

A sound catalogue says which commits were finished. Without one the newest commit of each logger is believed only when
all its files are there. Files are set aside before the new catalogue is written: a logger or an import that starts on
that one removes what looks like an unfinished commit of its own.

What no segment tells: the epochs of loggers that were started and wrote nothing yet. Where the old file does not tell
them either, every epoch leaps: whoever still runs with one of before is fenced, and none is given out twice.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cidr.aside import set_aside
from cidr.catalogue import Catalogue
from cidr.errors import CatalogueDamaged
from cidr.files import Files
from cidr.names import CATALOGUE
from cidr.survey import Found, Known, survey
from cidr.times import zone_named
from jlogd.errors import UsageError

# Beside the file: SQLite would take the journal of the old one for that of the new one.
_COMPANIONS = ("-journal", "-wal", "-shm")
# Nobody starts a logger so often without that it writes anything.
EPOCH_LEAP = 1000


@dataclass(slots=True)
class Rebuilt:
    """What became of it. `aside`: where the damaged file is now. `read` of it, `lost` with it: in words. `unfinished`:
    where the files are that were set aside."""

    unfinished: Path | None = None
    aside: Path | None = None
    reason: str = ""
    read: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)


def look(base: Path, *, change: bool, progress: Callable[[int, int], None] = lambda *_: None) -> Found:
    """All there is, every count of it read, and what the catalogue knows of it. Without `change` nothing is written,
    not even by SQLite. Raises StoreNotFound, CatalogueBroken."""
    return survey(base, known(base, change=change), pages=True, progress=progress)


def known(base: Path, *, change: bool) -> Known:
    """What the catalogue tells. Raises CatalogueBroken when it cannot be used now."""
    path = base / CATALOGUE
    if not path.exists():
        return Known()
    try:
        _check_not_empty(path)
        # What a transaction left that was stopped is taken back by who may write.
        with closing(Catalogue.create(base) if change else Catalogue.read(path)) as catalogue:
            catalogue.check()
            paths = frozenset(catalogue.paths())
            return Known(paths, catalogue.origins(), tuple(catalogue.all_positions()), sound=True)
    except CatalogueDamaged:
        rows = _rows(path, "SELECT origin, epoch, commit_number FROM origins") or ()
        return Known(origins={row[0]: (row[1], row[2]) for row in rows if _is_origin(row)})


def _is_origin(row: tuple[Any, ...]) -> bool:
    return isinstance(row[0], str) and all(isinstance(number, int) for number in row[1:])


def rebuild(base: Path, found: Found, files: Files | None = None) -> Rebuilt:
    """Make the catalogue of what a survey found, and set aside what it found unfinished. Raises CatalogueBroken."""
    files = files or Files()
    # Whoever wrote the last of them may have been stopped before it did so.
    files.sync_names(base / segment.path for segment in found.segments)
    done = Rebuilt(unfinished=set_aside(base, found.torn, files))
    try:
        _check_not_empty(base / CATALOGUE)
        _settle(base, found, {}, {})
    except CatalogueDamaged as error:
        done.reason = str(error.__cause__ or error)
        done.aside = _move_aside(base, files)
        settings, epochs = _salvage(done, found)
        _settle(base, found, settings, epochs)
        files.sync_directory(base)
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


def _rows(path: Path, statement: str) -> list[Any] | None:
    """What a statement still finds in a damaged file; None when it finds out that it cannot."""
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True)) as connection:
            return connection.execute(statement).fetchall()
    except sqlite3.Error:
        return None


__all__ = ["EPOCH_LEAP", "Rebuilt", "is_damaged", "known", "look", "rebuild"]
