"""Where segments lie, and what they are called:

    <base_dir>/<tier>/<part of the end>/<series>.<end>.<family>.<tier>.<origin>-<epoch>-<commit>.parquet
    var/aslogger/minute/20080424/spam.20080424T200000.v4.minute.manager1-3-1207.parquet

`end` is the end of the interval, YYYYMMDDTHHMMSS in UTC: names never depend on the zone. The directory is the day of a
minute segment, the month of an hour, the year of a day or month, so that no directory grows for ever. The name tells
one file from all others; what a segment holds is told by its footer alone.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path

from cidr.files import TEMPORARY
from cidr.times import format_stamp
from cidr.types import TIERS, Family, Tier
from jlogd.errors import UsageError

SUFFIX = ".parquet"
CATALOGUE = "catalogue.db"
SERIES = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")
ORIGIN = re.compile(r"[A-Za-z0-9_]{1,32}")
_COMMIT = re.compile(rf"\.({ORIGIN.pattern})-([0-9]+)-([0-9]+)(?:-late)?{re.escape(SUFFIX)}$", re.ASCII)
_DIRECTORY_DIGITS: dict[Tier, int] = {"minute": 8, "hour": 6, "day": 4, "month": 4}


def check_series(name: str) -> str:
    """`name`, or UsageError when it cannot name a series."""
    if not SERIES.fullmatch(name):
        raise UsageError(
            f'"{name}" cannot name a series: 1 to 64 letters, digits, ".", "_" or "-", and not "." or "-" first'
        )
    return name


def check_origin(name: str) -> str:
    """`name`, or UsageError when it cannot name a logger."""
    if not ORIGIN.fullmatch(name):
        raise UsageError(f'"{name}" cannot name an origin: 1 to 32 letters, digits or "_"')
    return name


def default_origin() -> str:
    """This host's name, as an origin."""
    return re.sub(r"[^A-Za-z0-9_]", "_", socket.gethostname().partition(".")[0])[:32] or "host"


def segment_path(series: str, family: Family, tier: Tier, end: int, origin: str, epoch: int, commit: int) -> str:
    """Path of a segment below the base directory."""
    stamp = format_stamp(end)
    name = f"{series}.{stamp}.{family.label}.{tier}.{origin}-{epoch}-{commit}{SUFFIX}"
    return f"{tier}/{stamp[: _DIRECTORY_DIGITS[tier]]}/{name}"


def commit_of(path: str) -> tuple[str, int, int] | None:
    """Origin, epoch and commit that the name of a segment tells; None for a file that is called otherwise."""
    found = _COMMIT.search(path)
    return (found[1], int(found[2]), int(found[3])) if found else None


def segment_files(base: Path) -> Iterator[str]:
    """Paths below `base` of all its segments."""
    for tier in TIERS:
        yield from (str(path.relative_to(base)) for path in base.glob(f"{tier}/*/*{SUFFIX}"))


def leftovers(base: Path) -> Iterator[Path]:
    """Temporary files of writers that did not live to rename them, or are about to."""
    for tier in TIERS:
        yield from base.glob(f"{tier}/*/.*{TEMPORARY}")
