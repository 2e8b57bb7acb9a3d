"""Counts in and out of a store: CSV, Parquet, and SiLK's text of bags.

    csv       series,end,address,count     a header line; `end` in ISO 8601, the end of an interval
    parquet   the same columns: series string, end timestamp, address string, count int64
    silk      address|count                 one series, one interval: what `rwbagcat` prints and `rwbagbuild` reads

An export has one row for each address and interval of the segments that answer for its span, so that an import of it
gives the same answers. Rows of the same series, end and address add up.
"""

from __future__ import annotations

import csv
import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cidr.addresses import address_texts
from cidr.catalogue import Catalogue
from cidr.columns import Counts, from_unsorted
from cidr.commits import Commits, Piece
from cidr.errors import BadInput
from cidr.files import Files
from cidr.names import check_series
from cidr.segment import read
from cidr.spans import both, of
from cidr.store import Store
from cidr.tallies import COUNT_MAX, packed_address
from cidr.times import zone_named
from cidr.types import Family, Span
from jlogd.errors import JlogError, UsageError

Format = Literal["csv", "parquet", "silk"]
COLUMNS = ("series", "end", "address", "count")
# Its name in the catalogue. Other origins are other loggers, and of those only one counts in an interval.
ORIGIN = "import"
_TIMESTAMP = pa.timestamp("s", "UTC")


@dataclass(frozen=True, slots=True)
class Moved:
    """What was moved."""

    rows: int
    intervals: int


Key = tuple[str, int]
Bags = dict[Key, dict[bytes, int]]


# In


def import_file(
    path: Path,
    base: Path,
    *,
    kind: Format,
    interval: int,
    series: str = "",
    end: int = 0,
    zone: str = "",
    again: bool = False,
    files: Files | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> Moved:
    """Add the counts of a file to a store, making it if need be; all of them or none.

    `interval`: seconds before each `end` that its counts are for. `series`, `end`: for SiLK's text, which names
    neither. The same file is refused a second time without `again`. Raises BadInput, UsageError, OSError.
    """
    if interval < 1:
        raise UsageError("the interval is at least one second")
    digest = _digest(path)
    rows = (
        _silk_rows(path, check_series(series), end) if kind == "silk" else _rows(path, kind, zone_named(zone or "UTC"))
    )
    bags: Bags = defaultdict(dict)
    number = 0
    for number, (key, address, count) in enumerate(rows, 1):
        bag = bags[key]
        bag[address] = bag.get(address, 0) + count
        if number % 100_000 == 0:
            progress(number)
    (files or Files()).make_directory(base.absolute())
    catalogue = Catalogue.create(base)
    try:
        _commit(catalogue, base, bags, interval, digest, zone, again, files)
    finally:
        catalogue.close()
    return Moved(number, len(bags))


def _commit(
    catalogue: Catalogue,
    base: Path,
    bags: Bags,
    interval: int,
    digest: str,
    zone: str,
    again: bool,
    files: Files | None,
) -> None:
    """All of the file in one commit, whose only position says that the file was read."""
    known = catalogue.setting("zone")
    if not known or zone:
        catalogue.put_setting("zone", zone or "UTC")
    commits = Commits(base, catalogue, ORIGIN, zone or known or "UTC", files)
    positions = commits.positions()
    if digest in positions and not again:
        raise UsageError("this file was imported before; with --again its counts are added once more")
    pieces = [
        Piece(series, family, end - interval, end, "full", ((end - interval, end),), counts)
        for (series, end), bag in sorted(bags.items())
        for family, counts in _columns(bag).items()
    ]
    _check_free(catalogue, pieces)
    commits.write(pieces, {digest: positions.get(digest, 0) + 1}, receipt=digest)


def _check_free(catalogue: Catalogue, pieces: list[Piece]) -> None:
    """Of several origins only one counts in an interval: an import beside a logger would take its place, or be
    ignored."""
    for series in {piece.series for piece in pieces}:
        others = [s for s in catalogue.segments(series) if ORIGIN not in (s.origin, *dict(s.upto))]
        taken = of(*((s.start, s.end) for s in others))
        mine = of(*((piece.start, piece.end) for piece in pieces if piece.series == series))
        common = both(taken, mine).listed(1)
        if common:
            raise UsageError(
                f"{series} was counted by {others[0].origin} from {_iso(common[0].start)} on; import another series"
            )


def _columns(bag: dict[bytes, int]) -> dict[Family, Counts]:
    v4 = {packed: n for packed, n in bag.items() if len(packed) == 4}
    v6 = {packed: n for packed, n in bag.items() if len(packed) == 16}
    found = {}
    if v4:
        low = np.frombuffer(b"".join(v4), ">u4").astype(np.uint32)
        found[Family.V4] = from_unsorted(Family.V4, low, np.array(list(v4.values()), np.int64))
    if v6:
        halves = np.frombuffer(b"".join(v6), ">u8").astype(np.uint64).reshape(-1, 2)
        values = np.array(list(v6.values()), np.int64)
        found[Family.V6] = from_unsorted(Family.V6, halves[:, 1].copy(), values, halves[:, 0].copy())
    return found


def _digest(path: Path) -> str:
    found = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            found.update(piece)
    return f"file:{found.hexdigest()}"


def _rows(path: Path, kind: Format, zone: tzinfo) -> Iterator[tuple[Key, bytes, int]]:
    lines = _csv_lines(path) if kind == "csv" else _parquet_lines(path)
    ends: dict[Any, int] = {}
    names: set[str] = set()
    for number, (series, end, address, count) in lines:
        where = f"{path}, {'line' if kind == 'csv' else 'row'} {number}"
        if series not in names:
            _named(series, where)
            names.add(series)
        if end not in ends:
            ends[end] = _seconds(end, zone, where)
        yield (series, ends[end]), _packed(address, where), _count(count, where)


def _csv_lines(path: Path) -> Iterator[tuple[int, tuple[str, str, str, Any]]]:
    with path.open(encoding="utf-8", newline="") as file:
        lines = csv.reader(file)
        try:
            head = tuple(next(lines, ()))
            if head != COLUMNS:
                raise BadInput(f"{path}, line 1: found {','.join(head)[:80]}; accepted: {','.join(COLUMNS)}")
            for row in lines:
                if len(row) != len(COLUMNS):
                    raise BadInput(f"{path}, line {lines.line_num}: {len(row)} columns; accepted: {','.join(COLUMNS)}")
                yield lines.line_num, (row[0], row[1], row[2], row[3])
        except (csv.Error, UnicodeDecodeError) as error:
            raise BadInput(f"{path}, after line {lines.line_num}: not CSV in UTF-8: {error}") from None


def _parquet_lines(path: Path) -> Iterator[tuple[int, tuple[str, Any, str, Any]]]:
    try:
        with pq.ParquetFile(path) as file:
            if not set(COLUMNS) <= set(file.schema_arrow.names):
                raise BadInput(f"{path} has the columns {file.schema_arrow.names}; needed: {', '.join(COLUMNS)}")
            number = 0
            for batch in file.iter_batches(65536, columns=list(COLUMNS)):
                for row in zip(*(batch.column(name).to_pylist() for name in COLUMNS), strict=True):
                    number += 1
                    yield number, row
    except pa.ArrowException as error:
        raise BadInput(f"{path} is not Parquet: {error}") from None


def _silk_rows(path: Path, series: str, end: int) -> Iterator[tuple[Key, bytes, int]]:
    """`rwbagcat`'s text: blanks around both, a title line perhaps, comments."""
    if end <= 0:
        raise UsageError("SiLK's text names no time: give the end of its interval")
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            text = line.partition("#")[0].strip()
            address, bar, rest = text.partition("|")
            if not text or (number == 1 and not address.strip()[:1].isalnum()) or _is_title(number, rest):
                continue
            where = f"{path}, line {number}"
            if not bar:
                raise BadInput(f"{where}: found {text[:80]}; accepted: address|count")
            yield (series, end), _packed(address.strip(), where), _count(rest.strip().rstrip("|"), where)


def _is_title(number: int, rest: str) -> bool:
    return number == 1 and not rest.strip(" |").lstrip("-").isdigit()


def _named(series: str, where: str) -> None:
    try:
        check_series(str(series))
    except JlogError as error:
        raise BadInput(f"{where}: {error}") from None


def _seconds(end: Any, zone: tzinfo, where: str) -> int:
    try:
        moment = end if isinstance(end, datetime) else datetime.fromisoformat(str(end))
        moment = moment if moment.tzinfo else moment.replace(tzinfo=zone)
        return int(moment.timestamp())
    except (ValueError, OverflowError):
        raise BadInput(f"{where}: end {str(end)[:40]} is not a time such as 2008-04-24T20:00:00Z") from None


def _packed(address: Any, where: str) -> bytes:
    packed = packed_address(str(address).encode())
    if packed is None:
        raise BadInput(f"{where}: {str(address)[:60]} is not an IPv4 or IPv6 address")
    return packed


def _count(count: Any, where: str) -> int:
    try:
        number = int(count)
    except (ValueError, TypeError):
        number = COUNT_MAX + 1
    if not -COUNT_MAX <= number <= COUNT_MAX:
        raise BadInput(f"{where}: {str(count)[:40]} is not a whole number of at most {COUNT_MAX}")
    return number


# Out


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
        if kind == "silk" and len(names) != 1:
            raise UsageError(f"SiLK's text holds one series; name one of {', '.join(names)}")
        tables = _tables(store, base, names, span)
        if kind == "silk":
            return _write_silk(out, tables, progress)
        return (_write_csv if kind == "csv" else _write_parquet)(out, tables, progress)
    finally:
        store.close()


@dataclass(frozen=True, slots=True)
class _Interval:
    series: str
    end: int
    counts: Counts


def _tables(store: Store, base: Path, names: list[str], span: Span | None) -> Iterator[_Interval]:
    for name in names:
        for family in Family:
            timeline = store.timeline(name, family)
            wanted = span or timeline.reach()
            if wanted is not None:
                for segment in timeline.select(wanted).segments:
                    yield _Interval(name, segment.end, read(base / segment.path, family))


def _addresses(counts: Counts) -> list[str]:
    families = np.full(len(counts), int(counts.family), np.uint8)
    high = counts.high if counts.high is not None else np.zeros(len(counts), np.uint64)
    return address_texts(families, high, counts.low.astype(np.uint64))


def _iso(seconds: int) -> str:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def _write_csv(out: BinaryIO, tables: Iterator[_Interval], progress: Callable[[int], None]) -> Moved:
    out.write((",".join(COLUMNS) + "\n").encode())
    rows = intervals = 0
    for table in tables:
        head = f"{table.series},{_iso(table.end)},"
        lines = [
            f"{head}{a},{n}\n" for a, n in zip(_addresses(table.counts), table.counts.counts.tolist(), strict=True)
        ]
        out.write("".join(lines).encode())
        rows, intervals = rows + len(lines), intervals + 1
        progress(rows)
    return Moved(rows, intervals)


def _write_silk(out: BinaryIO, tables: Iterator[_Interval], progress: Callable[[int], None]) -> Moved:
    """The sum of the span: a bag has no time."""
    total: dict[str, int] = {}
    intervals = 0
    for table in tables:
        for address, number in zip(_addresses(table.counts), table.counts.counts.tolist(), strict=True):
            total[address] = total.get(address, 0) + number
        intervals += 1
        progress(len(total))
    if any(number < 0 for number in total.values()):
        raise UsageError("SiLK's bags hold no negative counts, and there are some; export CSV or Parquet")
    out.write("".join(f"{address}|{number}\n" for address, number in total.items()).encode())
    return Moved(len(total), intervals)


def _write_parquet(out: BinaryIO, tables: Iterator[_Interval], progress: Callable[[int], None]) -> Moved:
    schema = pa.schema([("series", pa.string()), ("end", _TIMESTAMP), ("address", pa.string()), ("count", pa.int64())])
    rows = intervals = 0
    with pq.ParquetWriter(out, schema, compression="zstd") as writer:
        for table in tables:
            size = len(table.counts)
            columns = [[table.series] * size, [table.end] * size, _addresses(table.counts), table.counts.counts]
            arrays = [pa.array(column, kind) for column, kind in zip(columns, schema.types, strict=True)]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
            rows, intervals = rows + size, intervals + 1
            progress(rows)
    return Moved(rows, intervals)


__all__ = ["COLUMNS", "Format", "Moved", "export_file", "import_file"]
