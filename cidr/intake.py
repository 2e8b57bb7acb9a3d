"""Counts into a store: a file of them is read, checked line by line, and added in one commit. See `exchange`."""

from __future__ import annotations

import csv
import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cidr.catalogue import Catalogue
from cidr.columns import Counts, empty, from_unsorted
from cidr.commits import Commits, Piece, tier_of
from cidr.errors import BadInput, one_line
from cidr.exchange import ALL_COLUMNS, COLUMNS, COVERED, NOTHING, START, Format, Moved, iso
from cidr.files import Files
from cidr.names import check_series
from cidr.segment import Kind
from cidr.spans import both, of
from cidr.sums import SUM_MAX
from cidr.tallies import COUNT_MAX, packed_address
from cidr.times import zone_named
from cidr.types import Family
from jlogd.errors import JlogError, UsageError

# Its name in the catalogue. Other origins are other loggers, and of those only one counts in an interval.
ORIGIN = "import"
# What queries can ask about, less a day for the zones.
_YEAR_MAX = 9998
_END_MAX = int(datetime(_YEAR_MAX, 12, 31, tzinfo=UTC).timestamp())
_HEADS = (COLUMNS, (*COLUMNS, START), ALL_COLUMNS)

# Series, start and end of an interval.
Key = tuple[str, int, int]
Stretches = tuple[tuple[int, int], ...]
# Where it stands, and the cells of ALL_COLUMNS.
Line = tuple[int, tuple[Any, ...]]


@dataclass(slots=True)
class _Bag:
    """What a file says of one interval. `size`: its counts added up without their signs."""

    counts: dict[bytes, int] = field(default_factory=dict)
    covered: set[Stretches] = field(default_factory=set)
    size: int = 0

    def add(self, address: bytes, count: int, covered: Stretches) -> bool:
        """Count an address, if the sum still fits."""
        self.counts[address] = self.counts.get(address, 0) + count
        self.covered.add(covered)
        self.size += abs(count)
        return self.size < SUM_MAX


Bags = dict[Key, _Bag]


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

    `interval`: seconds before each `end` that its counts are for, where the file does not say it. `series`, `end`: for
    SiLK's text, which names neither. The same file is refused a second time without `again`. Raises BadInput,
    UsageError, OSError.
    """
    if interval < 1:
        raise UsageError("the interval is at least one second")
    named = zone_named(zone or "UTC")
    digest = _digest(path)
    if kind == "silk":
        bags, rows = _bags(_silk_rows(path, (check_series(series), *_silk_interval(end, interval))), progress)
    else:
        bags, rows = _bags(_rows(path, kind, named, interval), progress)
    pieces = list(_pieces(bags))
    _check_names(path, pieces)
    (files or Files()).make_directory(base.absolute())
    catalogue = Catalogue.create(base)
    try:
        _commit(catalogue, base, pieces, digest, zone, again, files)
    finally:
        catalogue.close()
    return Moved(rows, len(bags), sum(not bag.counts for bag in bags.values()))


def _bags(lines: Iterator[tuple[str, Key, Stretches, bytes, int]], progress: Callable[[int], None]) -> tuple[Bags, int]:
    """What the rows add up to, and how many have an address."""
    bags: Bags = defaultdict(_Bag)
    rows = 0
    for where, key, covered, address, count in lines:
        bag = bags[key]
        if not address:
            bag.covered.add(covered)
            continue
        rows += 1
        if not bag.add(address, count, covered):
            raise BadInput(
                f"{where}: with this row the counts of {key[0]} in the interval to {iso(key[2])} add up to more than"
                f" {SUM_MAX - 1:,} without their signs, which is as far as sums go"
            )
        if rows % 100_000 == 0:
            progress(rows)
    return bags, rows


def _pieces(bags: Bags) -> Iterator[Piece]:
    for (series, start, end), bag in sorted(bags.items(), key=lambda item: item[0]):
        found = of(*(stretch for some in bag.covered for stretch in some)).listed()
        covered = tuple((stretch.start, stretch.end) for stretch in found)
        kind: Kind = "full" if covered == ((start, end),) else "partial" if covered else "late"
        for family, counts in (_columns(bag.counts) or {Family.V4: empty(Family.V4)}).items():
            yield Piece(series, family, start, end, kind, covered, counts)


def _check_names(path: Path, pieces: list[Piece]) -> None:
    """A segment is named by its tier and its end."""
    found: dict[object, Piece] = {}
    for piece in pieces:
        key = piece.series, piece.family, tier_of(piece.end - piece.start), piece.end, piece.kind == "late"
        other = found.setdefault(key, piece)
        if other is not piece:
            raise BadInput(
                f"{path}: of {piece.series}, one interval from {iso(other.start)} and one from {iso(piece.start)} end"
                f" at {iso(piece.end)}; accepted: one of them, or one for each of minutes, hours, days and months"
            )


def _commit(
    catalogue: Catalogue, base: Path, pieces: list[Piece], digest: str, zone: str, again: bool, files: Files | None
) -> None:
    """All of the file in one commit, whose only position says that the file was read."""
    known = catalogue.setting("zone")
    commits = Commits(base, catalogue, ORIGIN, known or zone or "UTC", files)
    positions = commits.positions()
    if digest in positions and not again:
        raise UsageError("this file was imported before; with --again its counts are added once more")
    _check_free(catalogue, pieces)
    if not known:  # that of a store stays: in it its days begin, and those that were condensed began
        catalogue.put_setting("zone", zone or "UTC")
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
                f"{series} was counted by {others[0].origin} from {iso(common[0].start)} on; import another series"
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


def _rows(path: Path, kind: Format, zone: tzinfo, interval: int) -> Iterator[tuple[str, Key, Stretches, bytes, int]]:
    lines = _csv_lines(path) if kind == "csv" else _parquet_lines(path)
    known: dict[tuple[Any, ...], tuple[Key, Stretches]] = {}
    for number, (series, end, address, count, start, covered) in lines:
        where = f"{path}, {'line' if kind == 'csv' else 'row'} {number}"
        told = series, end, start, covered
        if told not in known:
            known[told] = _interval(*told, zone, interval, where)
        key, stretches = known[told]
        if address:
            yield where, key, stretches, _packed(address, where), _count(count, where)
        elif count in ("", None) or _count(count, where) == 0:
            yield where, key, stretches, b"", 0
        else:
            raise BadInput(
                f"{where}: {str(count)[:40]} without an address; accepted there: 0, an interval without rows"
            )


def _interval(
    series: Any, end: Any, start: Any, covered: Any, zone: tzinfo, interval: int, where: str
) -> tuple[Key, Stretches]:
    _named(series, where)
    last = _seconds(end, zone, where, "end")
    first = _seconds(start, zone, where, START) if start else last - interval
    if not 0 <= first < last <= _END_MAX:
        raise BadInput(
            f"{where}: the interval from {start or f'{interval} s before'} to end {end} is refused; accepted: one that"
            f" begins in 1970 UTC or later, ends after that, and by {iso(_END_MAX)}"
        )
    return (str(series), first, last), _stretches(covered, first, last, zone, where)


def _stretches(text: Any, start: int, end: int, zone: tzinfo, where: str) -> Stretches:
    """How much of the interval was counted."""
    if not text:
        return ((start, end),)
    pairs = [] if text == NOTHING else [piece.partition("/") for piece in str(text).split()]
    found = [(_seconds(a, zone, where, COVERED), _seconds(b, zone, where, COVERED)) for a, _, b in pairs]
    if not all(start <= first < last <= end for first, last in found):
        raise BadInput(f"{where}: covered {str(text)[:80]} reaches beyond its interval; accepted: start/end within it")
    return tuple(found)


def _csv_lines(path: Path) -> Iterator[Line]:
    with path.open(encoding="utf-8", newline="") as file:
        lines = csv.reader(file)
        try:
            head = tuple(next(lines, ()))
            if head not in _HEADS:
                heads = " or ".join(",".join(one) for one in _HEADS)
                raise BadInput(f"{path}, line 1: found {','.join(head)[:80]}; accepted: {heads}")
            more = ("",) * (len(ALL_COLUMNS) - len(head))
            for row in lines:
                if len(row) != len(head):
                    raise BadInput(f"{path}, line {lines.line_num}: {len(row)} columns; accepted: {','.join(head)}")
                yield lines.line_num, (*row, *more)
        except (csv.Error, UnicodeDecodeError) as error:
            raise BadInput(f"{path}, after line {lines.line_num}: not CSV in UTF-8: {error}") from None


def _parquet_lines(path: Path) -> Iterator[Line]:
    try:
        with pq.ParquetFile(path) as file:
            there = file.schema_arrow.names
            if not set(COLUMNS) <= set(there):
                raise BadInput(f"{path} has the columns {there}; needed: {', '.join(COLUMNS)}")
            names = [name for name in ALL_COLUMNS if name in there]
            number = 0
            for batch in file.iter_batches(65536, columns=names):
                nothing = [None] * batch.num_rows
                columns = [batch.column(name).to_pylist() if name in names else nothing for name in ALL_COLUMNS]
                for row in zip(*columns, strict=True):
                    number += 1
                    yield number, row
    except pa.ArrowException as error:
        raise BadInput(f"{path} is not Parquet: {one_line(error)}") from None


def _silk_interval(end: int, interval: int) -> tuple[int, int]:
    if not end:
        raise UsageError("SiLK's text names no time: give the end of its interval")
    if not 0 <= end - interval < end <= _END_MAX:
        raise UsageError(f"its interval begins before 1970 UTC, or ends after {iso(_END_MAX)}; give another end")
    return end - interval, end


def _silk_rows(path: Path, key: Key) -> Iterator[tuple[str, Key, Stretches, bytes, int]]:
    """`rwbagcat`'s text: blanks around both, a title line perhaps, comments."""
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            text = line.partition("#")[0].strip()
            address, bar, rest = text.partition("|")
            if not text or (number == 1 and _is_title(address.strip(), rest)):
                continue
            where = f"{path}, line {number}"
            if not bar:
                raise BadInput(f"{where}: found {text[:80]}; accepted: address|count")
            yield where, key, (key[1:],), _packed(address.strip(), where), _count(rest.strip().rstrip("|"), where)


def _is_title(address: str, rest: str) -> bool:
    """Whether a first line has neither an address nor a count in its place; one that has either is a row."""
    return packed_address(address.encode()) is None and not rest.strip(" |").lstrip("-").isdigit()


def _named(series: str, where: str) -> None:
    try:
        check_series(str(series))
    except JlogError as error:
        raise BadInput(f"{where}: {error}") from None


def _seconds(text: Any, zone: tzinfo, where: str, what: str) -> int:
    try:
        moment = text if isinstance(text, datetime) else datetime.fromisoformat(str(text))
        moment = moment if moment.tzinfo else moment.replace(tzinfo=zone)
        return int(moment.timestamp())
    except (ValueError, OverflowError):
        raise BadInput(f"{where}: {what} {str(text)[:40]} is not a time such as 2008-04-24T20:00:00Z") from None


def _packed(address: Any, where: str) -> bytes:
    packed = packed_address(str(address).encode())
    if packed is None:
        raise BadInput(f"{where}: {str(address)[:60]} is not an IPv4 or IPv6 address")
    return packed


def _count(count: Any, where: str) -> int:
    try:
        number = int(count) if not isinstance(count, float) or count.is_integer() else COUNT_MAX + 1
    except (ValueError, TypeError):
        number = COUNT_MAX + 1
    if not -COUNT_MAX <= number <= COUNT_MAX:
        raise BadInput(f"{where}: {str(count)[:40]} is not a whole number of at most {COUNT_MAX}")
    return number


__all__ = ["ORIGIN", "import_file"]
