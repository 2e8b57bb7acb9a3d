"""What goes in and out of a store, in files: the columns, and how an interval is told in them.

    csv       series,end,address,count,start,covered     a header line; times in ISO 8601
    parquet   the same columns: series string, end and start timestamp, address string, count int64, covered string
    silk      address|count                 one series, one interval: what `rwbagcat` prints and `rwbagbuild` reads

`end` is the end of an interval, `start` its beginning. A row without an address says that the interval was counted, and
that is all there is of an interval without counts. `covered` is empty where all of the interval was counted, `-` where
it has only counts that came late, otherwise the stretches that were: `start/end start/end`. Rows of the same series,
interval and address add up. `start` and `covered` may be left out: then each interval is as long as is said beside the
file, and was counted wholly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

Format = Literal["csv", "parquet", "silk"]
COLUMNS = ("series", "end", "address", "count")
START, COVERED = "start", "covered"
ALL_COLUMNS = (*COLUMNS, START, COVERED)
NOTHING = "-"


@dataclass(frozen=True, slots=True)
class Moved:
    """What was moved: rows with an address, intervals, and how many of these have no rows.

    `within`: intervals that were left out, because only some of what a coarser one holds is there as finely."""

    rows: int
    intervals: int
    empty: int = 0
    within: int = 0


def iso(seconds: int) -> str:
    """2008-04-24T00:15:00Z."""
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def covered_text(start: int, end: int, covered: Sequence[tuple[int, int]]) -> str:
    """How much of an interval was counted, as it stands in a file."""
    if tuple(covered) == ((start, end),):
        return ""
    return " ".join(f"{iso(first)}/{iso(last)}" for first, last in covered) or NOTHING


__all__ = ["ALL_COLUMNS", "COLUMNS", "COVERED", "NOTHING", "START", "Format", "Moved", "covered_text", "iso"]
