"""Replies as bytes: `table` for people, `legacy` for old scripts, `csv`, `json`, `ndjson`, `parquet` for programs.

    render(reply, "csv")   -> bytes
    status(reply)          -> "3 rows; ... [exact, 4 ms]", which every answer comes with

Column names and their order are the same in all formats.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from cidr.ask import Reply
from cidr.formats.status import status
from jlogd.errors import UsageError

FORMATS = ("table", "legacy", "csv", "json", "ndjson", "parquet")
TEXT_FORMATS = tuple(name for name in FORMATS if name != "parquet")
_MODULES = {"csv": "separated", "json": "document", "ndjson": "lines"}
CONTENT_TYPES = {
    "table": "text/plain; charset=utf-8",
    "legacy": "text/plain; charset=utf-8",
    "csv": "text/csv; charset=utf-8",
    "json": "application/json",
    "ndjson": "application/x-ndjson",
    "parquet": "application/vnd.apache.parquet",
}


def render(reply: Reply, name: str, width: int | None = None) -> bytes:
    """The reply in a format. `width` (columns of a terminal) is for `table`. Raises `UsageError`."""
    if name not in FORMATS:
        raise UsageError(f"there is no format {name!r}; there are {', '.join(FORMATS)}")
    module = import_module(f"cidr.formats.{_MODULES.get(name, name)}")
    write: Callable[..., bytes] = module.render
    return write(reply, width) if name == "table" else write(reply)


__all__ = ["CONTENT_TYPES", "FORMATS", "TEXT_FORMATS", "render", "status"]
