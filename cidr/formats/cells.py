"""What all formats share: names of columns, values of columns, and lists of series, plans and caches as rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from zoneinfo import ZoneInfo

from cidr.addresses import address_texts
from cidr.ask import Cached, Explained, Listed, Reply
from cidr.types import Answer, AnswerColumn

# Of every row, before its values.
CIDR, TIME = "cidr", "time"
Value = int | float | str | None


def headers(answer: Answer) -> list[str]:
    """The names of the value columns, none twice and none `cidr` or `time`."""
    taken = {CIDR, TIME}
    found = []
    for column in answer.columns:
        name = column.label
        while name in taken:
            name += "_"
        taken.add(name)
        found.append(name)
    return found


def cidrs(answer: Answer) -> list[str]:
    """The blocks of the rows."""
    addresses = address_texts(answer.family, answer.high, answer.low)
    return [f"{address}/{bits}" for address, bits in zip(addresses, answer.bits.tolist(), strict=True)]


def times(answer: Answer, zone: ZoneInfo) -> list[str] | None:
    """The beginnings of the rows' stretches of time in ISO 8601; None where rows have none."""
    if answer.time is None:
        return None
    texts = {at: datetime.fromtimestamp(at, zone).isoformat() for at in set(answer.time.tolist())}
    return [texts[at] for at in answer.time.tolist()]


def values(column: AnswerColumn) -> list[int | float | None]:
    """The values of a column; None where there is none. Fractions are rounded to six places."""
    found: list[int | float | None]
    if column.values.dtype.kind in "iu":
        found = column.values.tolist()
    else:
        found = [None if math.isnan(value) else round(value, 6) for value in column.values.tolist()]
    if column.uncounted is not None:
        for row in column.uncounted.nonzero()[0].tolist():
            found[row] = None
    return found


def plain(reply: Reply) -> tuple[list[str], list[Sequence[Value]]]:
    """Series, plan or cache as a table: names of columns, and rows."""
    match reply:
        case Listed(series, zone):
            names = ["series", "families", "first", "last", "segments", "rows", "bytes"]
            rows: list[Sequence[Value]] = [
                (
                    one.name,
                    " ".join(family.label for family in one.families),
                    datetime.fromtimestamp(one.first, zone).isoformat(),
                    datetime.fromtimestamp(one.last, zone).isoformat(),
                    one.segments,
                    one.rows,
                    one.bytes,
                )
                for one in series
            ]
            return names, rows
        case Explained(_, plan, _):
            names = ["series", "family", "tier", "segments", "rows", "bytes", "cached"]
            return names, [
                (one.series, one.family.label, one.tier, one.segments, one.rows, one.bytes, one.cached)
                for one in plan.parts
            ]
        case Cached(cache, zone):
            names = ["path", "series", "family", "start", "end", "segments", "rows", "bytes", "hits"]
            return names, [
                (
                    one.path,
                    one.series,
                    one.family.label,
                    datetime.fromtimestamp(one.start, zone).isoformat(),
                    datetime.fromtimestamp(one.end, zone).isoformat(),
                    one.segments,
                    one.rows,
                    one.bytes,
                    one.hits,
                )
                for one in cache.entries
            ]
    raise AssertionError("rows are not plain")
