"""What the benchmarks of `vip` keep, one JSON file each; the tables, the pages and the picture are made of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

RESULTS = Path(__file__).resolve().parents[1] / "results"
# Columns of the tables when they do not go to a terminal.
WIDTH = 132

R = TypeVar("R")


class Measure(msgspec.Struct, frozen=True, kw_only=True):
    """Of the kernel's half: what was measured, in seconds unless the name says otherwise: the median, and each run."""

    name: str
    value: float
    runs: list[float]


class KernelRun(msgspec.Struct, frozen=True, kw_only=True):
    machine: dict[str, Any]
    measures: list[Measure]


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One fault, one system. Seconds; `gap` is the longest the client went without an answer."""

    system: str
    label: str
    fault: str
    gap: float = 0.0
    # How often a node spoke again after another had taken the address, and how long two kernels had it.
    spoke_twice: int = 0
    held_twice: float = 0.0
    # The gap of each round, and why there is none.
    gaps: list[float] = []
    failure: str = ""


class FailoverRun(msgspec.Struct, frozen=True, kw_only=True):
    machine: dict[str, Any]
    rounds: int
    results: list[Result]


class Phase(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds: from the cause until all is held, and of these from the first address that came up; then iproute2's."""

    name: str
    whole: float
    work: float
    # Addresses that came up somewhere: more than there are when some moved twice.
    additions: int
    # Processor time of all daemons together.
    daemon_seconds: float
    ip_batch: float = 0.0
    ip_batch_spread: float = 0.0


class Scale(msgspec.Struct, frozen=True, kw_only=True):
    addresses: int
    phases: list[Phase]
    quiet_daemon_percent: list[float]
    quiet_guard_percent: list[float]


class ScaleRun(msgspec.Struct, frozen=True, kw_only=True):
    machine: dict[str, Any]
    found: Scale


def keep(run: msgspec.Struct, path: Path) -> None:
    """Write a run as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(run), indent=1) + b"\n")
    click.echo(f"kept in {path}")


def read(path: Path, kind: type[R]) -> R | None:
    """A run that was kept; None when there is none."""
    return msgspec.json.decode(path.read_bytes(), type=kind) if path.exists() else None
