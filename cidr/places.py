"""Where the row groups of a segment lie, told in one line of its footer.

Opening a Parquet file takes about half as long as reading the one row group of it that a narrow block needs. So each
segment says once more, in a form that is found and read without understanding the footer, what the footer says of its
row groups. The line is the value of the key `cidr.places`, and lies in the last words of the file:

    "places " <base64 of the table> " " <CRC-32 of the table, 8 hexadecimal digits> ";"

    table, little-endian, per row group    first u64   its least address; of IPv6 the high half
                                           rows  u32
      and in it per column                 dictionary u32, data u32   where these pages begin; no dictionary: 0
                                           bytes u32                  how long all of them are

`cidr.narrow` reads it. Nothing else does: a segment without it is as good, and as readable.
"""

from __future__ import annotations

import binascii
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

KEY = b"cidr.places"
MARK = b"places "
_AROUND = len(MARK) + len(" 01234567;")
# Behind the line: who wrote the file, the order of its columns, the length of the footer.
BEHIND_BYTES = 512
# Offsets are 32 bits wide; no segment comes near.
FILE_BYTES_MAX = 1 << 32

Table = NDArray[np.void]


def table_type(columns: int) -> np.dtype[np.void]:
    """One row group."""
    chunk = np.dtype([("dictionary", "<u4"), ("data", "<u4"), ("bytes", "<u4")])
    return np.dtype([("first", "<u8"), ("rows", "<u4"), ("chunks", chunk, (columns,))])


def line_bytes(groups: int, columns: int) -> int:
    """How long the line is."""
    return _AROUND + -(-groups * table_type(columns).itemsize // 3) * 4


def place_holder(groups: int, columns: int) -> bytes:
    """What stands in the footer until the line is known: just as long."""
    return MARK + b"?" * (line_bytes(groups, columns) - len(MARK))


def put(data: memoryview, metadata: Any) -> memoryview:
    """The file with the line in the place of its place holder. `metadata`: its footer, as pyarrow understands it."""
    line = _line(table_of(metadata))
    at = bytes(data[-(BEHIND_BYTES + len(line)) :]).rfind(MARK + b"?")
    if at < 0 or len(data) >= FILE_BYTES_MAX:
        return data
    filled = bytearray(data)
    start = max(len(data) - BEHIND_BYTES - len(line), 0) + at
    filled[start : start + len(line)] = line
    return memoryview(filled)


def table_of(metadata: Any) -> Table:
    """The table, from the footer."""
    groups = metadata.num_row_groups if metadata.num_rows else 0  # no rows are written as a row group of none
    table = np.zeros(groups, table_type(metadata.num_columns))
    for index, row in enumerate(table):
        group = metadata.row_group(index)
        chunks = [group.column(number) for number in range(metadata.num_columns)]
        row["first"], row["rows"] = chunks[0].statistics.min, group.num_rows
        row["chunks"] = [(c.dictionary_page_offset or 0, c.data_page_offset, c.total_compressed_size) for c in chunks]
    return table


def _line(table: Table) -> bytes:
    raw = table.tobytes()
    return b"%s%s %08x;" % (MARK, binascii.b2a_base64(raw, newline=False), zlib.crc32(raw))


def find(tail: bytes, columns: int) -> Table | None:
    """The table, from the end of a file; None when there is none, or it is damaged."""
    start = tail.rfind(MARK) + len(MARK)
    end = tail.find(b";", start)
    if start < len(MARK) or end < start + 9:
        return None
    try:
        raw = binascii.a2b_base64(tail[start : end - 9])
        right = zlib.crc32(raw) == int(tail[end - 8 : end], 16)
    except ValueError:
        return None
    kind = table_type(columns)
    return np.frombuffer(raw, kind) if right and len(raw) % kind.itemsize == 0 else None
