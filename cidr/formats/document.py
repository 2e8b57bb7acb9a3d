"""JSON: one document with the rows, the columns, and what the answer rests on; `read` makes a reply of it again.

    {"kind": "rows", "query": "show count ...", "zone": "UTC", "exact": true, "coverage": {...}, "work": {...},
     "matched": 1234, "digest": "...", "notes": [], "columns": [{"name": "spam", "kind": "count", "total": 12}],
     "rows": [{"cidr": "10.0.0.0/24", "spam": 7}]}

`kind` is rows, plan, series or cache. Times are ISO 8601 in the store's zone, and seconds where a name says so.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
from numpy.typing import NDArray

from cidr.addresses import parse_block, split
from cidr.ask import Cached, Explained, Listed, Reply, Rows
from cidr.formats.cells import CIDR, TIME, headers
from cidr.formats.lines import objects
from cidr.language import tree
from cidr.language.parser import parse
from cidr.types import Answer, AnswerColumn, CacheStat, Coverage, Plan, SeriesStat, Span, Work
from jlogd.errors import RemoteError, UsageError

_WHOLE = ("count", "hosts", "rest")


def render(reply: Reply) -> bytes:
    """The document, ended by a newline."""
    return msgspec.json.encode(document(reply)) + b"\n"


def document(reply: Reply) -> dict[str, Any]:
    """The document as dictionaries and lists."""
    if isinstance(reply, Rows):
        return {**about(reply), "rows": objects(reply)}
    match reply:
        case Explained(_, plan, _):
            detail: Any = {"parts": plan.parts, "milliseconds": plan.milliseconds}
        case Listed(series, _):
            detail = {"series": series}
        case Cached(cache, _):
            detail = {"cache": cache, "hit_rate": cache.hit_rate}
    return {**about(reply), **msgspec.to_builtins(detail)}


def about(reply: Reply) -> dict[str, Any]:
    """Everything but the rows."""
    head: dict[str, Any] = {"query": reply.text, "zone": reply.zone.key}
    match reply:
        case Rows(_, answer, zone):
            columns = [
                {"name": name, "label": one.label, "kind": one.kind, "total": _number(one.total)}
                for name, one in zip(headers(answer), answer.columns, strict=True)
            ]
            return {
                "kind": "rows",
                **head,
                "exact": answer.coverage.exact,
                "coverage": _coverage(answer.coverage, zone),
                "work": msgspec.to_builtins(answer.work),
                "matched": answer.matched,
                "digest": answer.digest,
                "notes": list(answer.notes),
                "columns": columns,
            }
        case Explained(_, plan, zone):
            return {"kind": "plan", **head, "coverage": _coverage(plan.coverage, zone), "notes": list(plan.notes)}
        case Listed():
            return {"kind": "series", **head}
        case Cached():
            return {"kind": "cache", **head}


def read(data: bytes) -> Reply:
    """The reply that a document was made of. Raises `RemoteError` when it is none."""
    try:
        found = msgspec.json.decode(data)
        return _reply(found, ZoneInfo(found["zone"]))
    except (LookupError, ValueError, RecursionError, TypeError, AttributeError, OSError, UsageError) as error:
        raise RemoteError(f"the server's answer cannot be read: {error}") from None


def _reply(found: dict[str, Any], zone: ZoneInfo) -> Reply:
    match found["kind"]:
        case "series":
            return Listed(tuple(msgspec.convert(found["series"], list[SeriesStat])), zone)
        case "cache":
            return Cached(msgspec.convert(found["cache"], CacheStat), zone)
    statement = parse(found["query"])
    if found["kind"] == "plan" and isinstance(statement, tree.Explain):
        plan = {**{name: found[name] for name in ("parts", "milliseconds", "notes")}, "coverage": _no_coverage()}
        read_plan = msgspec.convert(plan, Plan)
        coverage = _read_coverage(found["coverage"])
        return Explained(statement.show, Plan(read_plan.parts, coverage, read_plan.milliseconds, read_plan.notes), zone)
    if found["kind"] == "rows" and isinstance(statement, tree.Show):
        return Rows(statement, _answer(found), zone)
    raise ValueError(f"kind {found['kind']!r}")


def _answer(found: dict[str, Any]) -> Answer:
    rows = found["rows"]
    blocks = [parse_block(row[CIDR]) for row in rows]
    halves = [split(block.first) for block in blocks]
    times = [_seconds(row[TIME]) for row in rows] if rows and TIME in rows[0] else None
    return Answer(
        family=np.array([block.family for block in blocks], np.uint8),
        high=np.array([high for high, _ in halves], np.uint64),
        low=np.array([low for _, low in halves], np.uint64),
        bits=np.array([block.bits for block in blocks], np.uint8),
        columns=_columns(found["columns"], rows),
        matched=found["matched"],
        coverage=_read_coverage(found["coverage"]),
        work=msgspec.convert(found["work"], Work),
        digest=found["digest"],
        time=None if times is None else np.array(times, np.int64),
        notes=tuple(found["notes"]),
    )


def _columns(described: list[dict[str, Any]], rows: list[dict[str, Any]]) -> tuple[AnswerColumn, ...]:
    """A count without a value was not counted; and so was what is made of one."""
    whole = [one["name"] for one in described if one["kind"] in _WHOLE]
    short = np.array([any(row[name] is None for name in whole) for row in rows], np.bool_)
    return tuple(_column(one, [row[one["name"]] for row in rows], short) for one in described)


def _column(one: dict[str, Any], cells: list[Any], short: NDArray[np.bool_]) -> AnswerColumn:
    empty = np.array([cell is None for cell in cells], np.bool_) & short
    values: Any = (
        np.array([cell or 0 for cell in cells], np.int64)
        if one["kind"] in _WHOLE
        else np.array([np.nan if cell is None else cell for cell in cells], float)
    )
    return AnswerColumn(one["label"], one["kind"], values, one["total"], empty if empty.any() else None)


def _coverage(coverage: Coverage, zone: ZoneInfo) -> dict[str, Any]:
    return {
        "start": _iso(coverage.span.start, zone),
        "end": _iso(coverage.span.end, zone),
        "covered_seconds": coverage.covered_seconds,
        "fraction": round(coverage.fraction, 6),
        "missing": [[_iso(one.start, zone), _iso(one.end, zone)] for one in coverage.missing],
        "cut": [[_iso(one.start, zone), _iso(one.end, zone)] for one in coverage.cut],
        "pending": [[_iso(one.start, zone), _iso(one.end, zone)] for one in coverage.pending],
    }


def _read_coverage(found: dict[str, Any]) -> Coverage:
    missing, cut, pending = (
        tuple(Span(_seconds(start), _seconds(end)) for start, end in found.get(name, ()))
        for name in ("missing", "cut", "pending")
    )
    span = Span(_seconds(found["start"]), _seconds(found["end"]))
    return Coverage(span, found["covered_seconds"], missing, cut, pending)


def _no_coverage() -> dict[str, Any]:
    return {"span": {"start": 0, "end": 0}, "covered_seconds": 0}


def _iso(seconds: int, zone: ZoneInfo) -> str:
    return datetime.fromtimestamp(seconds, zone).isoformat()


def _seconds(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp())


def _number(value: float | None) -> float | None:
    """JSON knows no infinity and no not-a-number."""
    return None if value is None or value != value or abs(value) == float("inf") else value
