"""Small stores, and queries against them, for the tests of `cidr`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
from cidr_model import UTC as UTC_ZONE
from cidr_model import Model, address

from cidr import segment
from cidr.columns import from_unsorted
from cidr.files import Files
from cidr.names import segment_path
from cidr.types import Family

Series_ = Mapping[str, Sequence[tuple[int, int, Mapping[str, int]]]]

# Friday the 25th of April 2008, noon UTC.
NOW = int(datetime(2008, 4, 25, 12, tzinfo=UTC).timestamp())


def at(text: str, zone: ZoneInfo = UTC_ZONE) -> int:
    """Seconds of YYYYMMDDTHHMMSS."""
    return int(datetime.strptime(text, "%Y%m%dT%H%M%S").replace(tzinfo=zone).timestamp())


def quarter(end: str, counts: dict[str, int]) -> tuple[int, int, dict[str, int]]:
    """A quarter of an hour that ends at a stamp."""
    return at(end) - 900, at(end), counts


# The synthetic vectors of the old documentation's digest: stamps name the end of an interval.
VECTORS = {
    "spam": [
        quarter("20080424T001500", {"10.0.0.1": 5, "10.0.0.2": 3}),
        quarter("20080424T003000", {"10.0.0.1": 2, "10.0.1.7": 4}),
        quarter("20080425T001500", {"10.0.0.1": 1}),
    ],
    "virus": [quarter("20080424T003000", {"10.0.0.2": 6, "192.0.2.9": 1})],
}
# The addresses of the old documentation's examples, with counts that give the numbers printed there.
PUBLISHED = {
    "spam": [
        quarter("20080424T120000", {"10.79.18.1": 14000, "10.79.18.2": 4421}),
        quarter("20080430T120000", {"10.79.18.1": 21217, "10.79.18.2": 20929, "10.79.18.3": 21000}),
    ],
    "virus": [
        quarter("20080424T120000", {"10.79.18.1": 71}),
        quarter("20080430T120000", {"10.79.18.1": 1193, "10.79.18.3": 2}),
    ],
}


def vectors() -> Model:
    return Model(VECTORS)


def published() -> Model:
    return Model(PUBLISHED)


def build_store(base: Path, series: Series_, zone: str = "UTC") -> Path:
    """A directory of segments that holds the same counts as `Model(series)`; a tier `minute` of one commit each."""
    files = Files()
    for name, intervals in series.items():
        for commit, (start, end, counts) in enumerate(intervals, 1):
            for family in Family:
                numbers = {address(text)[1]: n for text, n in counts.items() if address(text)[0] is family}
                if numbers or family is Family.V4:
                    _write(files, base, name, family, (start, end), numbers, zone, commit)
    return base


def _write(
    files: Files,
    base: Path,
    name: str,
    family: Family,
    interval: tuple[int, int],
    numbers: dict[int, int],
    zone: str,
    commit: int,
) -> None:
    header = segment.Header(
        series=name, family=family, tier="minute", start=interval[0], end=interval[1], zone=zone, origin="test",
        epoch=1, commit=commit, kind="full", covered=[interval],
    )  # fmt: skip
    low = np.array([n & (1 << 64) - 1 for n in numbers], np.uint32 if family is Family.V4 else np.uint64)
    high = None if family is Family.V4 else np.array([n >> 64 for n in numbers], np.uint64)
    columns = from_unsorted(family, low, np.array(list(numbers.values()), np.int64), high)
    _, data = segment.encode(header, columns)
    path = segment_path(name, family, "minute", interval[1], header.origin, 1, commit)
    files.write(base / path, data)
