"""The footer of a Parquet file that is put together in memory from row groups of others.

A footer is a `FileMetaData` of parquet.thrift in Thrift's compact protocol: fields as (step from the last field's
number, type) in one byte, numbers as varints (signed ones zigzag), a zero byte at the end of a structure. Only what a
reader needs is written, and only for columns as segments have them: never null, under zstd.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MAGIC = b"PAR1"
_I32, _I64, _BINARY, _LIST, _STRUCT = 5, 6, 8, 9, 12
_INT32, _INT64 = 1, 2
_ZSTD = 6
# DELTA_BINARY_PACKED, PLAIN, RLE, RLE_DICTIONARY: whatever the pages say for themselves, these they may.
_ENCODINGS = (5, 0, 3, 8)
_VERSION = 2


@dataclass(frozen=True, slots=True)
class FooterColumn:
    """A column: `unsigned` is of how many bits, None for a signed 64-bit number."""

    name: str
    unsigned: int | None = None

    @property
    def type(self) -> int:
        """The physical type."""
        return _INT32 if self.unsigned == 32 else _INT64


# Of one column of one row group: where the dictionary and the data begin (no dictionary: 0), how many bytes they have.
Chunk = tuple[int, int, int]


def footer(columns: Sequence[FooterColumn], groups: Sequence[tuple[int, Sequence[Chunk]]]) -> bytes:
    """The last bytes of a file with these row groups (rows, a chunk for each column)."""
    schema = [_field(4, _BINARY) + _text("schema") + _field(1, _I32) + _number(len(columns)) + b"\0"]
    schema += map(_schema, columns)
    heads = [_chunk_head(column) for column in columns]
    written = [_group(heads, rows, chunks) for rows, chunks in groups]
    body = b"".join((
        _field(1, _I32), _number(_VERSION),
        _field(1, _LIST), _list(len(schema), _STRUCT), *schema,
        _field(1, _I64), _number(sum(rows for rows, _ in groups)),
        _field(1, _LIST), _list(len(written), _STRUCT), *written,
        b"\0",
    ))  # fmt: skip
    return body + len(body).to_bytes(4, "little") + MAGIC


def _schema(column: FooterColumn) -> bytes:
    """SchemaElement: type, repetition (0, required), name, and the converted type (UINT_32 is 13, UINT_64 is 14)."""
    named = _field(1, _I32) + _number(column.type) + _field(2, _I32) + _number(0) + _field(1, _BINARY)
    converted = {32: 13, 64: 14}.get(column.unsigned or 0)
    kind = _field(2, _I32) + _number(converted) if converted else b""
    return named + _text(column.name) + kind + b"\0"


def _chunk_head(column: FooterColumn) -> bytes:
    """ColumnMetaData as far as it is the same in every row group: type, encodings, path, codec."""
    encodings = b"".join(map(_number, _ENCODINGS))
    return b"".join((
        _field(1, _I32), _number(column.type),
        _field(1, _LIST), _list(len(_ENCODINGS), _I32), encodings,
        _field(1, _LIST), _list(1, _BINARY), _text(column.name),
        _field(1, _I32), _number(_ZSTD),
        _field(1, _I64),
    ))  # fmt: skip


def _group(heads: Sequence[bytes], rows: int, chunks: Sequence[Chunk]) -> bytes:
    """RowGroup: columns, bytes, rows."""
    values = _number(rows)
    parts = [_field(1, _LIST), _list(len(chunks), _STRUCT)]
    for head, (dictionary, data, size) in zip(heads, chunks, strict=True):
        length = _number(size)
        # ColumnChunk: where it begins, then its ColumnMetaData: values, bytes unpacked (which no reader looks at) and
        # packed, where data and dictionary begin.
        parts += (_BEGINS, _number(dictionary or data), _METADATA, head, values, _NEXT, length, _NEXT, length)
        parts += (_DATA, _number(data), _DICTIONARY + _number(dictionary) if dictionary else b"", b"\0\0")
    parts += (_NEXT, _number(sum(size for _, _, size in chunks)), _NEXT, values, b"\0")
    return b"".join(parts)


def _field(step: int, kind: int) -> bytes:
    return bytes((step << 4 | kind,))


_BEGINS, _METADATA, _NEXT = _field(2, _I64), _field(1, _STRUCT), _field(1, _I64)
_DATA, _DICTIONARY = _field(2, _I64), _field(2, _I64)


def _number(value: int) -> bytes:
    """A signed number that is not negative."""
    return _varint(value << 1)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _text(text: str) -> bytes:
    raw = text.encode()
    return _varint(len(raw)) + raw


def _list(length: int, kind: int) -> bytes:
    return bytes((length << 4 | kind,)) if length < 15 else bytes((0xF0 | kind,)) + _varint(length)
