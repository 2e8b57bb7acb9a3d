"""CSV: a line of names, then the rows; times in ISO 8601, an empty cell where there is no value. See RFC 4180."""

from __future__ import annotations

import csv
import io

from cidr.ask import Reply, Rows
from cidr.formats.cells import CIDR, TIME, cidrs, headers, plain, times, values


def render(reply: Reply) -> bytes:
    """The lines, ended by a newline alone as most programs expect."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    if isinstance(reply, Rows):
        answer = reply.answer
        moments = times(answer, reply.zone)
        writer.writerow([CIDR, *([TIME] if moments else []), *headers(answer)])
        columns: list[list[str] | list[int | float | None]] = [cidrs(answer)]
        columns += [moments] if moments else []
        columns += [values(column) for column in answer.columns]
        writer.writerows(zip(*columns, strict=True))
    else:
        names, rows = plain(reply)
        writer.writerow(names)
        writer.writerows(rows)
    return out.getvalue().encode(errors="surrogateescape")
