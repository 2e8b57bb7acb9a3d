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
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cidr.columns import Counts, empty, find_block, merge
from cidr.errors import SegmentDamaged, SegmentGone
from cidr.types import Block, Family, Tier

FORMAT = 1
# Small enough that a narrow block is one or two of them, large enough that all of them cost no more than one.
ROW_GROUP_ROWS = 1 << 14
KEY = b"cidr"
# zstd's own default is no smaller here than level 1, and slower.
ZSTD_LEVEL = 1

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
    columns, sorted_columns = _columns(counts)
    table = pa.table(columns)
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(
        sink,
        table.schema,
        compression="zstd",
        compression_level=ZSTD_LEVEL,
        use_dictionary=["count"],
        column_encoding=dict.fromkeys(sorted_columns, "DELTA_BINARY_PACKED"),
        write_page_checksum=True,
        store_schema=False,
    ) as writer:
        writer.write_table(table, row_group_size=ROW_GROUP_ROWS)
        writer.add_key_value_metadata({KEY: msgspec.json.encode(header)})
    return header, memoryview(sink.getvalue())


def _columns(counts: Counts) -> tuple[dict[str, Any], list[str]]:
    if counts.high is None:
        return {"address": counts.low, "count": counts.counts}, ["address"]
    return {"high": counts.high, "low": counts.low, "count": counts.counts}, ["high", "low"]


def _described(header: Header, counts: Counts) -> Header:
    values = counts.counts
    some = len(values) > 0
    return msgspec.structs.replace(
        header,
        rows=len(values),
        total=int(values.sum()),
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


def read(path: Path, family: Family, blocks: Sequence[Block] = ()) -> Counts:
    """The counts of a segment; with `blocks`, only those in them, read from where they lie.

    Raises SegmentDamaged, SegmentGone.
    """
    with _open(path) as file:
        try:
            if not blocks:
                return _decode(file.read(use_threads=False), family)
            groups = _groups_with(file.metadata, family, blocks)
            if not groups:
                return empty(family)
            counts = _decode(file.read_row_groups(groups, use_threads=False), family)
        except (pa.ArrowException, OSError, KeyError) as error:
            raise SegmentDamaged(f"{path} cannot be read: {error}; restore it from a copy or remove it") from error
    return merge([empty(family), *(counts.rows(*find_block(counts, block)) for block in blocks)])


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
            raise SegmentDamaged(
                f"{self._path} is no segment of counts: {error}; restore it from a copy or remove it"
            ) from error
        return self._file

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _header(file: pq.ParquetFile, path: Path) -> Header:
    raw = (file.metadata.metadata or {}).get(KEY)
    if raw is None:
        raise SegmentDamaged(f"{path} is a Parquet file, but no segment of counts; move it out of the store")
    try:
        found = msgspec.json.decode(raw, type=Header)
    except msgspec.MsgspecError as error:
        raise SegmentDamaged(
            f"the footer of {path} is not understood: {error}; a newer version may have written it"
        ) from error
    if found.format != FORMAT:
        raise SegmentDamaged(f"{path} has format {found.format}, and this version knows {FORMAT} only")
    return found


def _decode(table: pa.Table, family: Family) -> Counts:
    counts = _numpy(table, "count", np.int64)
    if family is Family.V4:
        return Counts(family, _numpy(table, "address", np.uint32), counts)
    return Counts(family, _numpy(table, "low", np.uint64), counts, _numpy(table, "high", np.uint64))


def _numpy(table: pa.Table, name: str, dtype: type[np.generic]) -> Any:
    return table.column(name).to_numpy().astype(dtype, copy=False)


def _groups_with(metadata: Any, family: Family, blocks: Sequence[Block]) -> list[int]:
    """Row groups whose addresses may lie in the blocks. For IPv6 the high half decides."""
    shift = 0 if family is Family.V4 else 64
    wanted = [(block.first >> shift, block.last >> shift) for block in blocks]
    found = []
    for index in range(metadata.num_row_groups):
        statistics = metadata.row_group(index).column(0).statistics
        known = statistics is not None and statistics.has_min_max
        if not known or any(first <= statistics.max and last >= statistics.min for first, last in wanted):
            found.append(index)
    return found
