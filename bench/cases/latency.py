"""Time from append to subscriber at a steady rate: one producer process, one subscriber process.

Every record carries the moment it was due (not the moment it was sent, so that a stall counts for all the records it
delays). The subscriber reads the same clock when it has the record as `bytes`. Writers keep their defaults; jlogd's
lingers for company. jlogd shows a record only once it is durable, the others as soon as they have it.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Sequence

from bench import slots
from bench.context import Context
from bench.crew import GRACE_SECONDS, State
from bench.results import Row
from bench.rivals import Producer, Shape, System
from bench.samples import percentile

RATES = (1_000, 50_000)
TICK_SECONDS = 0.001
RECORD_BYTES = 100
STAMP_BYTES = 19
# The first records find cold caches and a connection that is being made.
SKIP_SHARE = 0.1
# The subscriber is given this long to connect before the first record, and to catch up after the last.
SETTLE_SECONDS = 1.0
# A system that has not sent everything by then cannot keep up; its row says how much it managed.
OVERTIME = 2.0
KEEPS_UP = 0.95


def run_latency(context: Context, systems: Sequence[type[System]]) -> list[Row]:
    """Every rate for every system that can be followed."""
    root = context.directory / "latency"
    rows = []
    for rate in RATES:
        for kind in systems:
            if not kind.follows:
                continue
            shutil.rmtree(root, ignore_errors=True)
            root.mkdir(parents=True)
            rows.append(_one(context, kind(), rate))
            context.advance(f"latency at {rate}/s, {kind.label}")
    shutil.rmtree(root, ignore_errors=True)
    return rows


def _one(context: Context, system: System, rate: int) -> Row:
    seconds = context.profile.latency_seconds
    interval = max(TICK_SECONDS, 1 / rate)
    shape = Shape(RECORD_BYTES, max(1, round(rate * interval)), 1)
    common = {
        "case": "latency", "system": system.key, "label": system.label, "durability": system.durability,
        "record_bytes": RECORD_BYTES, "batch": shape.batch, "offered": rate,
    }  # fmt: skip
    if failure := system.missing():
        return Row(**common, failure=failure)  # type: ignore[arg-type]
    limit = seconds * OVERTIME + 2 * SETTLE_SECONDS
    try:
        system.setup(context.directory / "latency", shape)
        context.crew.call(0, slots.connect, system, shape, 1)
        context.crew.begin(1, _receive, system, round(seconds / interval) * shape.batch, limit)
        time.sleep(SETTLE_SECONDS)
        sent, took = context.crew.call(0, _send, system.key, shape, interval, seconds, timeout=limit + GRACE_SECONDS)
        latencies = context.crew.result(1, limit + GRACE_SECONDS)
        context.crew.call(0, slots.disconnect, system.key)
    except Exception as error:  # whatever a competitor raises is a line in the table
        return Row(**common, failure=str(error)[:300])  # type: ignore[arg-type]
    finally:
        system.close()
    ordered = sorted(latencies[int(len(latencies) * SKIP_SHARE) :])
    achieved = sent / took
    note = "" if achieved >= KEEPS_UP * rate else f"cannot keep up: {achieved:,.0f} a second"
    return Row(
        **common, rate=achieved, p50=percentile(ordered, 0.5), p99=percentile(ordered, 0.99),  # type: ignore[arg-type]
        p999=percentile(ordered, 0.999), note=note,
    )  # fmt: skip


def _send(state: State, key: str, shape: Shape, interval: float, seconds: float) -> tuple[int, float]:
    """Send ticks on schedule; records sent and the time it took until all were durable."""
    producer: Producer = state[key][0]
    streams = type(producer).submit is not Producer.submit
    send = producer.submit if streams else producer.append
    filler = b" " + b"x" * (RECORD_BYTES - STAMP_BYTES - 1)
    begin = time.monotonic_ns()
    step, ticks, tick = int(interval * 1e9), round(seconds / interval), 0
    while tick < ticks and time.monotonic_ns() - begin < seconds * OVERTIME * 1e9:
        due = begin + tick * step
        if (wait := due - time.monotonic_ns()) > 0:
            time.sleep(wait / 1e9)
        send([b"%019d" % due + filler] * shape.batch)
        tick += 1
    if streams:
        producer.drain()
    return tick * shape.batch, max((time.monotonic_ns() - begin) / 1e9, tick * interval)


def _receive(state: State, system: System, expected: int, limit: float) -> list[float]:
    """Latency of each record, seconds, in order of arrival."""
    latencies: list[float] = []
    stream = system.follow(limit)
    with contextlib.closing(stream):
        for records in stream:
            now = time.monotonic_ns()
            latencies += [(now - int(record[:STAMP_BYTES])) / 1e9 for record in records]
            if len(latencies) >= expected:
                break
    return latencies
