"""Parquet: the rows as columns; what the answer rests on is in the file's metadata under `cidr`, as JSON."""

from __future__ import annotations

import io
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from cidr.ask import Reply, Rows
from cidr.formats.cells import CIDR, TIME, cidrs, headers, plain
from cidr.formats.document import about


def render(reply: Reply) -> bytes:
    """The file."""
    columns = _columns(reply) if isinstance(reply, Rows) else _plain(reply)
    table = pa.table(columns).replace_schema_metadata({"cidr": msgspec.json.encode(about(reply))})
    out = io.BytesIO()
    pq.write_table(table, out, compression="zstd")
    return out.getvalue()


def _columns(reply: Rows) -> dict[str, Any]:
    answer = reply.answer
    columns: dict[str, Any] = {CIDR: pa.array(cidrs(answer), pa.string())}
    if answer.time is not None:
        columns[TIME] = pa.array(answer.time).cast(pa.timestamp("s", tz=reply.zone.key))
    for name, column in zip(headers(answer), answer.columns, strict=True):
        floating = column.values.dtype.kind == "f"
        columns[name] = pa.array(column.values, mask=column.uncounted, from_pandas=floating)
    return columns


def _plain(reply: Reply) -> dict[str, Any]:
    names, rows = plain(reply)
    return {name: [row[at] for row in rows] for at, name in enumerate(names)}
