"""The way out of the log: reading everything back as Python `bytes`, taking batches whole, and decoding a batch.

What is read was just written, so it comes from the page cache. A competitor that is slow to fill is read as far as it
got within the time: the rate does not depend on the amount.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence

from bench import slots
from bench.context import Context
from bench.crew import CallFailed, State, start_time
from bench.results import Row
from bench.rivals import JlogdLocal, Shape, System
from bench.samples import make_records, median

SHAPE = Shape(100, 1000, 1)
FILL_SECONDS = 4.0
READ_SECONDS_MAX = 60.0
DECODE_ROUNDS = 200


def run_read(context: Context, systems: Sequence[type[System]]) -> list[Row]:
    """Fill each system, then read it in turns."""
    root = context.directory / "read"
    shutil.rmtree(root, ignore_errors=True)
    rows = []
    try:
        for kind in systems:
            system = kind()
            directory = root / system.key
            directory.mkdir(parents=True)
            rows += _one(context, system)
            shutil.rmtree(directory)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    return rows


def _one(context: Context, system: System) -> list[Row]:
    common = {"system": system.key, "label": system.label, "record_bytes": SHAPE.record_bytes, "batch": SHAPE.batch}
    rows = []
    reads: list[tuple[str, str]] = [("read", "read_all")]
    if isinstance(system, JlogdLocal):
        reads.append(("forward", "forward_all"))
    failure = system.missing()
    try:
        if not failure:
            system.setup(context.directory / "read" / system.key, SHAPE)
            context.crew.call(0, slots.connect, system, SHAPE, 1)
            order = slots.Order(FILL_SECONDS, context.profile.read_bytes, system.streams, start_time())
            context.crew.call(0, slots.run, system.key, SHAPE, order, timeout=FILL_SECONDS + READ_SECONDS_MAX)
            context.crew.call(0, slots.disconnect, system.key)
        for case, method in reads:
            rates: list[float] = []
            for _ in range(0 if failure else context.rounds):
                amount, seconds = context.crew.call(0, _timed, system, method, timeout=READ_SECONDS_MAX)
                rates.append(amount / seconds)
            context.advance(f"{case}, {system.label}")
            rate = median(rates)
            records, size = (rate, rate * SHAPE.record_bytes) if case == "read" else (rate / SHAPE.record_bytes, rate)
            rows.append(
                Row(case=case, rate=records, bytes_rate=size, rounds=rates, durability=system.durability,
                    failure=failure, **common)  # type: ignore[arg-type]
            )  # fmt: skip
    except Exception as error:  # whatever a competitor raises is a line in the table
        rows.append(Row(case="read", durability=system.durability, failure=str(error)[:300], **common))  # type: ignore[arg-type]
    finally:
        system.close()
    return rows


def _timed(state: State, system: System, method: str) -> tuple[int, float]:
    begin = time.perf_counter()
    amount = getattr(system, method)()
    return amount, time.perf_counter() - begin


def run_decode(context: Context) -> list[Row]:
    """Nanoseconds a record to turn a batch into a list of `bytes`, for both encodings."""
    try:
        return [context.crew.call(0, _decode, encoding) for encoding in ("lines", "lengths")]
    except CallFailed as error:
        return [Row(case="decode", system="jlogd", label="jlogd", durability="", failure=str(error))]


def _decode(state: State, encoding: str) -> Row:
    """From the bytes of a message to the records, checksum included."""
    from jlogd.journal.batch import decode, encode

    records = make_records(SHAPE.record_bytes, SHAPE.batch)
    if encoding == "lengths":
        records[0] = b"\n" * SHAPE.record_bytes
    message = encode(records).to_wire()
    times = []
    for _ in range(DECODE_ROUNDS):
        begin = time.perf_counter()
        decoded = decode(message).records()
        times.append(time.perf_counter() - begin)
    assert decoded == records
    seconds = median(times)
    return Row(
        case="decode", system="jlogd", label=f"jlogd, {encoding}", durability="", record_bytes=SHAPE.record_bytes,
        batch=SHAPE.batch, rate=SHAPE.batch / seconds, note=encoding,
    )  # fmt: skip
