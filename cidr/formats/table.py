"""A table for people: right-aligned numbers with thousands, and under it the line of `status`. Drawn by rich."""

from __future__ import annotations

import io
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cidr.ask import Reply, Rows
from cidr.formats.cells import CIDR, TIME, Value, cidrs, headers, plain
from cidr.formats.status import size, status
from cidr.language import dates
from cidr.language.errors import printable
from cidr.types import Answer, AnswerColumn

# Without a terminal a table is as wide as its contents.
PIPE_COLUMNS = 400
_LEFT = {CIDR, TIME, "series", "families", "family", "tier", "path", "first", "last", "start", "end"}


def render(reply: Reply, width: int | None = None) -> bytes:
    """The table and its status. `width`: columns of the terminal, None for a pipe."""
    names, rows = _rows(reply) if isinstance(reply, Rows) else _plain(reply)
    out = io.StringIO()
    console = Console(file=out, width=width or PIPE_COLUMNS, highlight=False, markup=False, color_system=None)
    if rows:
        console.print(_drawn(names, rows))
    lines = [line.rstrip() for line in out.getvalue().splitlines()]
    return "".join(f"{line}\n" for line in [*lines, f"-- {status(reply)}"]).encode(errors="surrogateescape")


def _drawn(names: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in names:
        table.add_column(Text(printable(name)), justify="left" if name in _LEFT else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    return table


def _rows(reply: Rows) -> tuple[list[str], list[Sequence[str]]]:
    answer = reply.answer
    names = [CIDR]
    columns: list[list[str]] = [cidrs(answer)]
    if answer.time is not None:
        names.append(TIME)
        columns.append(_times(answer, reply))
    names += headers(answer)
    columns += [[cell(column, row) for row in range(len(answer))] for column in answer.columns]
    return names, list(zip(*columns, strict=True))


def _times(answer: Answer, reply: Rows) -> list[str]:
    assert answer.time is not None
    daily = str(reply.show.clause("aggregate") or "") != "aggregate hourly"
    shown = {at: dates.short(at, reply.zone) for at in set(answer.time.tolist())}
    return [shown[at][:10] if daily else shown[at] for at in answer.time.tolist()]


def cell(column: AnswerColumn, row: int) -> str:
    """A value as people read it; nothing where nobody counted, a dash for a quotient that there is not."""
    value = column.values[row]
    if column.uncounted is not None and column.uncounted[row]:
        return "-" if column.kind == "ratio" else ""
    if value != value:
        return "-"
    match column.kind:
        case "count" | "hosts" | "rest":
            return f"{int(value):,}"
        case "percent" | "cumulative":
            return f"{value:.1f} %"
        case "ratio":
            return f"{value:.4f}"
        case "factor":
            return f"x{value:,.1f}" if value >= 10 else f"x{value:.2g}"
    return f"{value:+,.1f}"


def _plain(reply: Reply) -> tuple[list[str], list[Sequence[str]]]:
    names, rows = plain(reply)
    return names, [[_text(name, value) for name, value in zip(names, row, strict=True)] for row in rows]


def _text(name: str, value: Value) -> str:
    if name == "bytes" and isinstance(value, int):
        return size(value)
    if name in ("first", "last", "start", "end"):
        return str(value)[:16].replace("T", " ")
    return f"{value:,}" if isinstance(value, int) else str(value)
