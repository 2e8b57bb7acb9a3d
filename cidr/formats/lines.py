"""NDJSON: an object a line for each row, with the names of the columns; `null` where there is no value."""

from __future__ import annotations

from typing import Any

import msgspec

from cidr.ask import Reply, Rows
from cidr.formats.cells import CIDR, TIME, cidrs, headers, plain, times, values


def render(reply: Reply) -> bytes:
    """The lines."""
    return msgspec.json.Encoder().encode_lines(objects(reply))


def objects(reply: Reply) -> list[dict[str, Any]]:
    """The rows as dictionaries."""
    if isinstance(reply, Rows):
        answer = reply.answer
        moments = times(answer, reply.zone)
        names = [CIDR, *([TIME] if moments is not None else []), *headers(answer)]
        columns: list[Any] = [cidrs(answer), *([moments] if moments is not None else [])]
        columns += [values(column) for column in answer.columns]
        return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
    names, rows = plain(reply)
    return [dict(zip(names, row, strict=True)) for row in rows]
