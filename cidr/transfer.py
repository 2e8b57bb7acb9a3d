"""Counts out of a store, as `exchange` describes them; `import_file` of `intake` brings them in again.

An export has the finest intervals of which all counts are there, so that a store made of it answers the same, coverage
included. Where a coarse interval was condensed and only some of the finer ones are kept, it is exported as it is, and
how many of the finer ones were left out is told. SiLK's text is a sum: it has neither times nor coverage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cidr.addresses import address_texts
from cidr.columns import Counts
from cidr.exchange import ALL_COLUMNS, COLUMNS, Format, Moved, covered_text, iso
from cidr.intake import import_file
from cidr.segment import read
from cidr.spans import of
from cidr.store import Store
from cidr.timeline import Segment
from cidr.types import Family, Span
from jlogd.errors import UsageError

_TIMESTAMP = pa.timestamp("s", "UTC")


def export_file(
    out: BinaryIO,
    base: Path,
    *,
    kind: Format,
    series: list[str],
    span: Span | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> Moved:
    """Write the counts of some series (none: of all) in a span. Raises UnknownSeries, UsageError."""
    store = Store(base)
    try:
        for name in series:
            store.check(name)
        names = series or [stat.name for stat in store.series()]
        if kind == "silk":
            if len(names) != 1:
                raise UsageError(f"SiLK's text holds one series; name one of {', '.join(names)}")
            return _write_silk(out, _tables(store, base, names[0], span), progress)
        found = [_finest(store, name, span) for name in names]
        moved = (_write_csv if kind == "csv" else _write_parquet)(
            out, base, (one for intervals, _ in found for one in intervals), progress
        )
        return Moved(moved.rows, moved.intervals, moved.empty, sum(within for _, within in found))
    finally:
        store.close()


@dataclass(frozen=True, slots=True)
class _Interval:
    """An interval of a series, and the segments that hold its counts."""

    series: str
    start: int
    end: int
    covered: tuple[tuple[int, int], ...]
    segments: tuple[Segment, ...]

    def tables(self, base: Path) -> list[Counts]:
        """Its counts; none of an interval without rows."""
        return [read(base / one.path, one.family) for one in self.segments if one.rows]


def _finest(store: Store, series: str, span: Span | None) -> tuple[list[_Interval], int]:
    """The intervals of a series in order, and how many finer ones are not among them."""
    parts: dict[tuple[int, int], list[Segment]] = {}
    covered: dict[tuple[int, int], list[tuple[int, int]]] = {}
    left_out = 0
    for family in Family:
        timeline = store.timeline(series, family)
        wanted = span or timeline.reach()
        if wanted is None:
            continue
        finest = timeline.finest(wanted)
        left_out += finest.within
        for segment in finest.segments:
            parts.setdefault((segment.start, segment.end), []).append(segment)
            covered.setdefault((segment.start, segment.end), []).extend(segment.covered)
        for segment in finest.hollow:
            parts.setdefault((segment.start, segment.end), [])
            covered.setdefault((segment.start, segment.end), [])
    intervals = [
        _Interval(series, *key, tuple((one.start, one.end) for one in of(*covered[key]).listed()), tuple(parts[key]))
        for key in sorted(parts)
    ]
    return intervals, left_out


def _tables(store: Store, base: Path, series: str, span: Span | None) -> Iterator[Counts]:
    for family in Family:
        timeline = store.timeline(series, family)
        wanted = span or timeline.reach()
        if wanted is not None:
            for segment in timeline.select(wanted).segments:
                yield read(base / segment.path, family)


def _addresses(counts: Counts) -> list[str]:
    families = np.full(len(counts), int(counts.family), np.uint8)
    high = counts.high if counts.high is not None else np.zeros(len(counts), np.uint64)
    return address_texts(families, high, counts.low.astype(np.uint64))


def _rows(tables: list[Counts]) -> tuple[list[str], list[int]]:
    """Addresses and counts; of an interval without rows one that has no address."""
    addresses = [address for table in tables for address in _addresses(table)]
    numbers = [number for table in tables for number in table.counts.tolist()]
    return (addresses, numbers) if addresses else ([""], [0])


def _write_csv(out: BinaryIO, base: Path, intervals: Iterator[_Interval], progress: Callable[[int], None]) -> Moved:
    out.write((",".join(ALL_COLUMNS) + "\n").encode())
    rows = number = empty = 0
    for one in intervals:
        tables = one.tables(base)
        head, tail = f"{one.series},{iso(one.end)},", f",{iso(one.start)},{_covered(one)}\n"
        out.write("".join(f"{head}{a},{n}{tail}" for a, n in zip(*_rows(tables), strict=True)).encode())
        rows, number, empty = rows + sum(map(len, tables)), number + 1, empty + (not tables)
        progress(rows)
    return Moved(rows, number, empty)


def _covered(one: _Interval) -> str:
    return covered_text(one.start, one.end, one.covered)


def _write_silk(out: BinaryIO, tables: Iterator[Counts], progress: Callable[[int], None]) -> Moved:
    """The sum of the span: a bag has no time."""
    total: dict[str, int] = {}
    intervals = 0
    for table in tables:
        for address, number in zip(_addresses(table), table.counts.tolist(), strict=True):
            total[address] = total.get(address, 0) + number
        intervals += 1
        progress(len(total))
    if any(number < 0 for number in total.values()):
        raise UsageError("SiLK's bags hold no negative counts, and there are some; export CSV or Parquet")
    out.write("".join(f"{address}|{number}\n" for address, number in total.items()).encode())
    return Moved(len(total), intervals)


def _write_parquet(out: BinaryIO, base: Path, intervals: Iterator[_Interval], progress: Callable[[int], None]) -> Moved:
    kinds = (pa.string(), _TIMESTAMP, pa.string(), pa.int64(), _TIMESTAMP, pa.string())
    schema = pa.schema(list(zip(ALL_COLUMNS, kinds, strict=True)))
    rows = number = empty = 0
    with pq.ParquetWriter(out, schema, compression="zstd") as writer:
        for one in intervals:
            tables = one.tables(base)
            addresses, counts = _rows(tables)
            size = len(addresses)
            columns = [[one.series] * size, [one.end] * size, [address or None for address in addresses], counts]
            columns += [[one.start] * size, [_covered(one)] * size]
            arrays = [pa.array(column, kind) for column, kind in zip(columns, kinds, strict=True)]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
            rows, number, empty = rows + sum(map(len, tables)), number + 1, empty + (not tables)
            progress(rows)
    return Moved(rows, number, empty)


__all__ = ["COLUMNS", "Format", "Moved", "export_file", "import_file"]
