"""The lines of the ancestor, byte for byte, for the scripts that read them.

    10.79.18.1/32      :     35217           the block in 19 columns, a colon, the count in 10
    10.79.18.1/32      : 35217,1264          several columns: a blank, and the values with commas
    20080424 10.79.18.1/32      :     14071  with `aggregate daily`; undocumented there, so the day comes first
    spam : 20080423T123000 => 20080610T201500
    $VAR1 = [ ... ];                         cache details, as Perl prints a list

Values that it did not know (ratios, shares) are written with up to six places, and one that does not exist as `-`. A
count of a time that nobody counted is 0: it knew no other.
"""

from __future__ import annotations

from cidr.ask import Cached, Explained, Listed, Reply, Rows
from cidr.formats.cells import cidrs, plain, values
from cidr.times import format_stamp
from cidr.types import AnswerColumn


def render(reply: Reply) -> bytes:
    """The lines."""
    match reply:
        case Rows():
            lines = _rows(reply)
        case Listed(series, zone):
            # Intervals are named by their end there; that of a month may lie after the last count.
            spans = [(s.name, min(s.first_end or s.first, s.last), s.last) for s in series]
            lines = [f"{name} : {format_stamp(a, zone)} => {format_stamp(b, zone)}" for name, a, b in spans]
        case Cached(cache, _):
            lines = _dumped([entry.path for entry in cache.entries])
        case Explained():
            lines = [" ".join(map(str, row)) for row in plain(reply)[1]]
    return "".join(f"{line}\n" for line in lines).encode(errors="surrogateescape")


def _rows(reply: Rows) -> list[str]:
    answer = reply.answer
    columns = [["-" if value is None else str(value) for value in _values(column)] for column in answer.columns]
    blocks = [f"{block:<19}:" for block in cidrs(answer)]
    if len(columns) == 1:
        lines = [f"{block}{value:>10}" for block, value in zip(blocks, columns[0], strict=True)]
    else:
        lines = [f"{block} {','.join(row)}" for block, row in zip(blocks, zip(*columns, strict=True), strict=True)]
    if answer.time is None:
        return lines
    aggregate = reply.show.clause("aggregate")
    digits = 15 if aggregate is not None and str(aggregate) == "aggregate hourly" else 8
    stamps = {at: format_stamp(at, reply.zone)[:digits] for at in set(answer.time.tolist())}
    return [f"{stamps[at]} {line}" for at, line in zip(answer.time.tolist(), lines, strict=True)]


def _values(column: AnswerColumn) -> list[int | float | None]:
    return column.values.tolist() if column.values.dtype.kind in "iu" else values(column)


def _dumped(paths: list[str]) -> list[str]:
    """As Data::Dumper prints it."""
    if not paths:
        return ["$VAR1 = [];"]
    quoted = ["'" + path.replace("\\", "\\\\").replace("'", "\\'") + "'" for path in paths]
    return ["$VAR1 = [", *(f"          {one}," for one in quoted[:-1]), f"          {quoted[-1]}", "        ];"]
