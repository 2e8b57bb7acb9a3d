"""A segment: the counts of one series, one family and one interval, as one Parquet file that any tool reads.

Columns, sorted by address, each address once:

    v4   address uint32              count int64
    v6   high uint64, low uint64     count int64

Addresses are DELTA_BINARY_PACKED, counts a dictionary (most are 1), both under zstd: 1.3 to 3 bytes an IPv4 entry,
depending on how close the addresses lie. Deltas of sorted addresses are near their entropy already; zstd takes out what
repeats in crowded blocks. Row groups of 16 Ki rows let a query for a narrow block read only where it lies. Pages carry
CRC-32 checksums.

The footer's key `cidr` holds a `Header` as JSON: all the catalogue knows, so that the catalogue can be rebuilt.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cidr import places
from cidr.columns import Counts, empty, find_block, merge
from cidr.errors import SegmentDamaged, SegmentGone, one_line
from cidr.sums import exact, fitting
from cidr.types import Block, Family, Tier

FORMAT = 1
# Small enough that a narrow block is one or two of them, large enough that all of them cost no more than one.
ROW_GROUP_ROWS = 1 << 14
KEY = b"cidr"
COLUMNS = {Family.V4: ("address", "count"), Family.V6: ("high", "low", "count")}
# zstd's own default is no smaller here than level 1, and slower.
ZSTD_LEVEL = 1

_ADVICE = "restore it from a copy, or let `cidr rebuild` leave it out"

Kind = Literal["full", "partial", "late", "condensed"]


class LogPosition(msgspec.Struct, frozen=True):
    """Up to where a logger had read a log: `next` is the first sequence number it had not."""

    log: str
    next: int


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """What the footer says.

    `start` to `end` is the interval; `covered` the parts of it that were really counted. `kind`: `full`, what one
    logger counted in the interval; `partial`, it was not there from the interval's beginning; `late`, events that came
    after the interval was written; `condensed`, the sum of all these. `origin`, `epoch`, `commit` name who wrote it: a
    logger's commit is a number that grows by one, and all segments of one commit count together or not at all:
    `together` says how many they are, `paths_digest` which; the first stores named them all in each (`siblings`), which
    is still read. `upto` of a condensed segment: per origin, the last commit whose counts of this interval are in it.
    `positions`: what the commit had read of each log. `interval`: seconds of the logger's intervals, 0 of who is none.
    """

    format: int = FORMAT
    series: str
    family: Family
    tier: Tier
    start: int
    end: int
    zone: str
    origin: str
    epoch: int
    commit: int
    kind: Kind
    covered: list[tuple[int, int]]
    siblings: list[str] = []
    together: int = 0
    paths_digest: str = ""
    positions: list[LogPosition] = []
    interval: int = 0
    upto: dict[str, int] = {}
    winners: list[tuple[int, int, str]] = []
    rows: int = 0
    total: int = 0
    least: int = 0
    most: int = 0
    digest: str = ""
    writer: str = "cidr 1"

    def is_whole(self, paths: Collection[str]) -> bool:
        """Whether these paths, which are all there are of its commit, are all there should be."""
        if self.paths_digest:
            return len(paths) == self.together and digest_of_paths(paths) == self.paths_digest
        return set(self.siblings) <= set(paths)


def digest_of_paths(paths: Iterable[str]) -> str:
    """A digest of paths below the base directory, in whatever order: as long for thousands as for one."""
    return hashlib.blake2b("\n".join(sorted(paths)).encode(), digest_size=16).hexdigest()


def encode(header: Header, counts: Counts) -> tuple[Header, memoryview]:
    """The file's bytes, and the header with what is computed from the counts."""
    header = _described(header, counts)
    columns = COLUMNS[counts.family]
    values = dict(zip(columns, (v for v in (counts.high, counts.low, counts.counts) if v is not None), strict=True))
    arrays = {name: pa.array(values[name]) for name in columns}
    # No column can be null, and saying so spares a reader the levels that tell which values are.
    fields = [pa.field(name, array.type, nullable=False) for name, array in arrays.items()]
    table = pa.table(arrays, pa.schema(fields))
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(
        sink,
        table.schema,
        compression="zstd",
        compression_level=ZSTD_LEVEL,
        use_dictionary=["count"],
        column_encoding=dict.fromkeys(columns[:-1], "DELTA_BINARY_PACKED"),
        write_page_checksum=True,
        store_schema=False,
    ) as writer:
        writer.write_table(table, row_group_size=ROW_GROUP_ROWS)
        # The last of them, so that it is found from the end of the file.
        line = places.place_holder(-(-len(counts) // ROW_GROUP_ROWS), len(columns))
        writer.add_key_value_metadata({KEY: msgspec.json.encode(header), places.KEY: line})
    data = memoryview(sink.getvalue())
    return header, places.put(data, pq.ParquetFile(pa.BufferReader(data)).metadata)


def _described(header: Header, counts: Counts) -> Header:
    values = counts.counts
    some = len(values) > 0
    return msgspec.structs.replace(
        header,
        rows=len(values),
        total=fitting(exact(values)),
        least=int(values.min()) if some else 0,
        most=int(values.max()) if some else 0,
        digest=digest(counts),
    )


def digest(counts: Counts) -> str:
    """A digest of the counts themselves, however they are encoded."""
    found = hashlib.blake2b(digest_size=16)
    for column in (counts.high, counts.low, counts.counts):
        if column is not None:
            found.update(np.ascontiguousarray(column).data)
    return found.hexdigest()


def read_header(path: Path) -> Header:
    """The footer of a segment. Raises SegmentDamaged, SegmentGone."""
    with _open(path) as file:
        return _header(file, path)


def verify(path: Path) -> Header:
    """The footer of a segment, all of whose counts were read and are those it was written with. Raises SegmentDamaged,
    SegmentGone."""
    header = read_header(path)
    if header.digest and digest(read(path, header.family)) != header.digest:
        raise SegmentDamaged(f"{path} holds other counts than its footer says; {_ADVICE}")
    return header


def read(path: Path, family: Family, blocks: Sequence[Block] = ()) -> Counts:
    """The counts of a segment; with `blocks`, only those in them, read from where they lie.

    Raises SegmentDamaged, SegmentGone.
    """
    with _open(path) as file:
        try:
            if not blocks:
                return decode(file.read(use_threads=False), family)
            groups = _groups_with(file.metadata, family, blocks)
            if not groups:
                return empty(family)
            counts = decode(file.read_row_groups(groups, use_threads=False), family)
        except (pa.ArrowException, OSError, KeyError) as error:
            raise SegmentDamaged(f"{path} cannot be read: {one_line(error)}; {_ADVICE}") from error
    found = [counts.rows(*find_block(counts, block)) for block in blocks]
    # A copy: a view would keep all that was decoded for it, and a long span would not find its memory warm.
    return merge(found) if len(found) > 1 else found[0].copy()


class _open:  # noqa: N801 - used as a function
    """A Parquet file, open; its checksums are checked as it is read."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> pq.ParquetFile:
        try:
            self._file = pq.ParquetFile(self._path, pre_buffer=False, page_checksum_verification=True)
        except FileNotFoundError:
            raise SegmentGone(f"{self._path} is gone; was it deleted by hand? `cidr rebuild` forgets it") from None
        except (pa.ArrowException, OSError) as error:
            raise SegmentDamaged(f"{self._path} is no segment of counts: {one_line(error)}; {_ADVICE}") from error
        return self._file

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _header(file: pq.ParquetFile, path: Path) -> Header:
    raw = (file.metadata.metadata or {}).get(KEY)
    if raw is None:
        raise SegmentDamaged(f"{path} is a Parquet file, but no segment of counts; move it out of the store")
    try:
        found = msgspec.json.decode(raw, type=Header)
    except ValueError as error:
        raise SegmentDamaged(
            f"the footer of {path} is not understood: {error}; a newer version may have written it"
        ) from error
    if found.format != FORMAT:
        raise SegmentDamaged(f"{path} has format {found.format}, and this version knows {FORMAT} only")
    return found


def decode(table: pa.Table, family: Family) -> Counts:
    """The columns of a segment, as numbers."""
    counts = _numpy(table, "count", np.int64)
    if family is Family.V4:
        return Counts(family, _numpy(table, "address", np.uint32), counts)
    return Counts(family, _numpy(table, "low", np.uint64), counts, _numpy(table, "high", np.uint64))


def _numpy(table: pa.Table, name: str, dtype: type[np.generic]) -> Any:
    """A column as it lies in memory: the library's own way loads pandas, where that is installed."""
    parts = [_values(chunk, np.dtype(dtype)) for chunk in table.column(name).chunks]
    return parts[0] if len(parts) == 1 else np.concatenate([np.empty(0, dtype), *parts])


def _values(chunk: pa.Array, dtype: np.dtype[Any]) -> Any:
    if chunk.null_count or chunk.type != pa.from_numpy_dtype(dtype):
        raise pa.ArrowInvalid(f"a column of {chunk.type} with {chunk.null_count} nulls, where {dtype} was expected")
    memory = chunk.buffers()[1]
    if memory is None or not len(chunk):
        return np.empty(0, dtype)
    return np.frombuffer(memory, dtype, len(chunk), chunk.offset * dtype.itemsize)


def _groups_with(metadata: Any, family: Family, blocks: Sequence[Block]) -> list[int]:
    """Row groups whose addresses may lie in the blocks. For IPv6 the high half decides.

    They ascend, so that those between the first and the last block are found by bisection: looking at one costs a
    microsecond or more, and a long span has thousands.
    """
    shift = 0 if family is Family.V4 else 64
    wanted = [(block.first >> shift, block.last >> shift) for block in blocks]
    if any(metadata.row_group(index).column(0).statistics is None for index in (0, metadata.num_row_groups - 1)):
        return list(range(metadata.num_row_groups))  # it has no rows
    groups = _Groups(metadata)
    start = bisect_left(groups, min(first for first, _ in wanted), key=lambda bounds: bounds[1])
    end = bisect_right(groups, max(last for _, last in wanted), lo=start, key=lambda bounds: bounds[0])
    found = range(start, end)
    if len(wanted) == 1 or not found:
        return list(found)
    bounds = [groups[index] for index in found]
    return [
        index
        for index, (least, most) in zip(found, bounds, strict=True)
        if any(first <= most and last >= least for first, last in wanted)
    ]


class _Groups(Sequence[tuple[int, int]]):
    """The least and the greatest number of the first column, by row group."""

    def __init__(self, metadata: Any) -> None:
        self._metadata = metadata

    def __len__(self) -> int:
        return int(self._metadata.num_row_groups)

    def __getitem__(self, index: Any) -> Any:
        statistics = self._metadata.row_group(index).column(0).statistics
        return statistics.min, statistics.max
