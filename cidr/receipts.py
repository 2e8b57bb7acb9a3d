"""Receipts: that a file was imported, one small file for each import.

    <base_dir>/imports/<origin>-<epoch>-<commit>.json
    {"log":"file:5f1c...","next":1}                 the digest of the file, and how often it was imported

A logger reads few logs, and every segment of its newest commit says how far. Files are imported any number of times:
if each segment named all that were before it, segments would grow for ever. So a segment names the file of its own
commit only, and because maintenance deletes segments, the receipt stays when they are gone. It is written before
the segments of its commit: where these are whole, it is there. One of a commit that never happened is removed with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from cidr.errors import SegmentDamaged
from cidr.files import Files
from cidr.names import ORIGIN
from cidr.segment import LogPosition

DIRECTORY = "imports"
_NAME = re.compile(rf"({ORIGIN.pattern})-([0-9]+)-([0-9]+)\.json", re.ASCII)

# Origin, epoch, commit.
Mark = tuple[str, int, int]


def write(files: Files, base: Path, mark: Mark, log: str, following: int) -> None:
    """Say durably that a commit read all of a file."""
    path = base / DIRECTORY / f"{mark[0]}-{mark[1]}-{mark[2]}.json"
    files.write(path, msgspec.json.encode(LogPosition(log, following)))
    files.sync_directory(path.parent)


def receipts(base: Path) -> Iterator[tuple[str, Mark]]:
    """Path below `base`, and commit, of each receipt; nothing is read."""
    for path in sorted((base / DIRECTORY).glob("*.json")):
        mark = mark_of(path.name)
        if mark:
            yield f"{DIRECTORY}/{path.name}", mark


def mark_of(path: str) -> Mark | None:
    """The commit that the name of a receipt tells; None for a file that is called otherwise."""
    named = _NAME.fullmatch(path.rpartition("/")[2])
    return (named[1], int(named[2]), int(named[3])) if named else None


def read(path: Path) -> LogPosition:
    """What a receipt says. Raises SegmentDamaged."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=LogPosition)
    except (OSError, ValueError) as error:
        raise SegmentDamaged(f"{path} cannot be read: {error}; the file it is of can be imported again") from None


def happened(mark: Mark, origins: Mapping[str, tuple[int, int]]) -> bool:
    """Whether a commit is one of those that count, when each origin's last one is (epoch, number)."""
    epoch, number = origins.get(mark[0], (0, 0))
    return mark[2] < number or (mark[2] == number and mark[1] <= epoch)


__all__ = ["DIRECTORY", "Mark", "happened", "mark_of", "read", "receipts", "write"]
