"""The rows of a run and the JSON file that keeps them.

    {"format": 1, "profile": "quick", "machine": {...}, "rows": [Row, ...], "targets": [Target, ...]}

Rates are records a second, times seconds. A row with `failure` has no numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

FORMAT = 1


class Row(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One measured number and its circumstances. Fields that do not apply to a case are left out."""

    case: str
    system: str
    label: str
    durability: str
    record_bytes: int = 0
    batch: int = 0
    producers: int = 1
    rate: float = 0.0
    rounds: list[float] = []
    p50: float = 0.0
    p99: float = 0.0
    p999: float = 0.0
    offered: int = 0  # latency: records a second the producer was told to send
    bytes_rate: float = 0.0  # read: bytes a second
    cpu: float = 0.0  # syslog: processor seconds of the daemon per second
    memory: int = 0  # memory: resident bytes of the daemon
    backlog: int = 0  # memory: bytes behind the subscribers
    note: str = ""
    failure: str = ""


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """A goal and whether this run met it. `met` is null when it could not be measured."""

    name: str
    wanted: str
    found: str
    met: bool | None


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """Everything one run found."""

    format: int = FORMAT
    profile: str
    machine: dict[str, Any]
    rows: list[Row]
    targets: list[Target]


def save(run: Run, path: Path) -> None:
    """Write the run as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(run), indent=1) + b"\n")


def load(path: Path) -> Run:
    """Read a run back."""
    return msgspec.json.decode(path.read_bytes(), type=Run)


def find(rows: Sequence[Row], **wanted: object) -> Row | None:
    """The row with these fields, if it has numbers."""
    for row in rows:
        if not row.failure and all(getattr(row, name) == value for name, value in wanted.items()):
            return row
    return None
