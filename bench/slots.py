"""What a worker does for the append cases: hold producers, and append with one for a short, bounded time (a slot)."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from bench.crew import State
from bench.rivals import Producer, Shape, System
from bench.samples import make_records, thin

# Different batches a producer cycles through, so that nothing is served from a cache of equal bytes.
POOL_BATCHES = 8
POOL_BYTES = 20 << 20

Pool = list[list[bytes]]


@dataclass(frozen=True, slots=True)
class Slot:
    """What came of one slot of one producer."""

    records: int
    seconds: float
    latencies: list[float]  # of each append, seconds; none when streaming

    @property
    def rate(self) -> float:
        """Durable records per second."""
        return self.records / self.seconds


@dataclass(frozen=True, slots=True)
class Order:
    """How long and how a slot runs."""

    seconds: float
    bytes_max: int
    stream: bool = False
    start: float = 0.0


def connect(state: State, system: System, shape: Shape, producers: int) -> None:
    """Open this worker's producers."""
    state[system.key] = [system.connect(shape) for _ in range(producers)]


def disconnect(state: State, key: str) -> None:
    """Close this worker's producers of a system."""
    for producer in state.pop(key, []):
        producer.close()


def run(state: State, key: str, shape: Shape, order: Order) -> list[Slot]:
    """One slot by every producer of this worker, at the same time."""
    producers: list[Producer] = state.get(key) or []
    if not producers:
        raise RuntimeError("not connected")
    pool = _pool(state, shape)
    if len(producers) == 1:
        return [_slot(producers[0], shape, order, pool)]
    slots: list[Slot | Exception] = []
    threads = [threading.Thread(target=_collect, args=(slots, p, shape, order, pool)) for p in producers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures := [slot for slot in slots if isinstance(slot, Exception)]:
        raise failures[0]
    return [slot for slot in slots if isinstance(slot, Slot)]


def _collect(found: list[Slot | Exception], producer: Producer, shape: Shape, order: Order, pool: Pool) -> None:
    try:
        found.append(_slot(producer, shape, order, pool))
    except Exception as error:  # raised again by the thread that asked
        found.append(error)


def _pool(state: State, shape: Shape) -> Pool:
    """Batches of that shape; those of the last shape are kept, no others."""
    wanted = (shape.record_bytes, shape.batch)
    if state.get("pool shape") != wanted:
        count = max(2, min(POOL_BATCHES, POOL_BYTES // shape.batch_bytes))
        state["pool"] = [make_records(shape.record_bytes, shape.batch) for _ in range(count)]
        state["pool shape"] = wanted
    pool: Pool = state["pool"]
    return pool


def _slot(producer: Producer, shape: Shape, order: Order, pool: Pool) -> Slot:
    payloads = [producer.prepare(records) for records in pool]
    appends_max = max(1, order.bytes_max // shape.batch_bytes)
    clock = time.monotonic
    while (wait := order.start - clock()) > 0:
        time.sleep(wait)
    begin = clock()
    end, done = begin + order.seconds, 0
    latencies: list[float] = []
    if order.stream:
        while done < appends_max and (done == 0 or clock() < end):
            producer.submit(payloads[done % len(payloads)])
            done += 1
        producer.drain()
    else:
        last = begin
        while done < appends_max and (done == 0 or last < end):
            producer.append(payloads[done % len(payloads)])
            now = clock()
            latencies.append(now - last)
            last, done = now, done + 1
    return Slot(done * shape.batch, clock() - begin, thin(latencies))
