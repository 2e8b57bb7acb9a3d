"""Durable appends: every shape of batch, one and four producers, one batch at a time and with batches under way.

Systems take turns within a round, and rounds are repeated, so that a slow minute of a shared machine falls on all of
them. Each cell of the table is the median of its rounds.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import slots
from bench.context import Context
from bench.crew import GRACE_SECONDS, CallFailed, start_time
from bench.results import Row
from bench.rivals import Shape, System
from bench.samples import median, percentile
from bench.servers import ServerFailed

WARM_SECONDS = 0.05
# A system that took longer than this for its first append is not asked again: that one is its figure.
SLOW_SECONDS = 0.7


@dataclass
class Entry:
    """One system in one cell, and what came of its slots."""

    system: System
    shape: Shape
    rates: list[float]
    latencies: list[float]
    failure: str = ""
    slow: bool = False

    @property
    def workers(self) -> int:
        """Worker processes the producers are spread over."""
        return self.shape.producers if self.system.sharing == "processes" else 1


def run_cell(context: Context, shape: Shape, systems: Sequence[type[System]], stream: bool) -> list[Row]:
    """All systems in one cell of the table."""
    case = "stream" if stream else "append"
    entries = [Entry(kind(), shape, [], []) for kind in systems]
    root = context.directory / "cell"
    shutil.rmtree(root, ignore_errors=True)
    try:
        for entry in entries:
            _set_up(context, entry, root / entry.system.key)
        for entry in entries:
            begin = time.monotonic()
            _slot(context, entry, slots.Order(WARM_SECONDS, context.slot_bytes, stream))
            entry.slow = time.monotonic() - begin > SLOW_SECONDS
            if not entry.slow:
                entry.rates.clear()
                entry.latencies.clear()
        for turn in range(context.rounds):
            # To and fro: a disk that is fast until its credit is used up favours whoever comes early.
            for entry in entries if turn % 2 == 0 else reversed(entries):
                if not entry.slow:
                    _slot(context, entry, slots.Order(context.slot_seconds, context.slot_bytes, stream))
                context.advance(f"{case} {shape.batch} x {shape.record_bytes} B, {entry.system.label}")
    finally:
        for entry in entries:
            _tear_down(context, entry)
        shutil.rmtree(root, ignore_errors=True)
    return [_row(case, entry) for entry in entries]


def _set_up(context: Context, entry: Entry, directory: Path) -> None:
    entry.failure = entry.system.missing()
    if entry.failure:
        return
    directory.mkdir(parents=True)
    try:
        entry.system.setup(directory, entry.shape)
        each = entry.shape.producers // entry.workers
        context.crew.together([(slots.connect, entry.system, entry.shape, each)] * entry.workers)
    except (CallFailed, ServerFailed, OSError) as error:
        entry.failure = str(error) or type(error).__name__
    except Exception as error:  # whatever a competitor raises is a line in the table
        entry.failure = f"{type(error).__name__}: {error}"


def _slot(context: Context, entry: Entry, order: slots.Order) -> None:
    if entry.failure:
        return
    timed = slots.Order(order.seconds, order.bytes_max // entry.shape.producers, order.stream, start_time())
    call = (slots.run, entry.system.key, entry.shape, timed)
    try:
        results = context.crew.together([call] * entry.workers, order.seconds + GRACE_SECONDS)
    except CallFailed as error:
        entry.failure = str(error)
        return
    flat = [slot for worker in results for slot in worker]
    entry.rates.append(sum(slot.rate for slot in flat))
    for slot in flat:
        entry.latencies += slot.latencies


def _tear_down(context: Context, entry: Entry) -> None:
    try:
        context.crew.together([(slots.disconnect, entry.system.key)] * entry.workers)
    except CallFailed as error:
        entry.failure = entry.failure or f"closing: {error}"
    entry.system.close()


def _row(case: str, entry: Entry) -> Row:
    ordered = sorted(entry.latencies)
    return Row(
        case=case,
        system=entry.system.key,
        label=entry.system.label,
        durability=entry.system.durability,
        record_bytes=entry.shape.record_bytes,
        batch=entry.shape.batch,
        producers=entry.shape.producers,
        rate=median(entry.rates),
        rounds=entry.rates,
        p50=percentile(ordered, 0.50),
        p99=percentile(ordered, 0.99),
        p999=percentile(ordered, 0.999),
        note="one round" if entry.slow else "",
        failure=entry.failure if not entry.rates else "",
    )
