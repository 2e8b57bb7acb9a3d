"""Memory of the daemon under a backlog: a log with eight subscribers, none of which has read anything yet; then all
eight read at once, in eight connections. The figure is the most the daemon ever held (VmRSS, which counts pages of
files it maps, and RssAnon, its own), sampled while it was filled and while it was read.
"""

from __future__ import annotations

import shutil
import threading
import time

from bench import slots
from bench.context import Context
from bench.crew import State, start_time
from bench.machine import resident_bytes
from bench.results import Row
from bench.rivals import JlogdDaemon, Shape

SUBSCRIBERS = 8
READERS_PER_WORKER = 2
SHAPE = Shape(1000, 1000, 1)
FILL_SECONDS_MAX = 300.0
READ_SECONDS = 10.0
SAMPLE_SECONDS = 0.05


class _Peak:
    """Samples the memory of a process until stopped."""

    def __init__(self, pid: int) -> None:
        self.resident = self.own = 0
        self._pid = pid
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._done.wait(SAMPLE_SECONDS):
            resident, own = resident_bytes(self._pid)
            self.resident, self.own = max(self.resident, resident), max(self.own, own)

    def stop(self) -> None:
        """End the sampling."""
        self._done.set()
        self._thread.join()


def run_memory(context: Context) -> list[Row]:
    """One row."""
    system = JlogdDaemon(subscribers=SUBSCRIBERS)
    common = {
        "case": "memory", "system": system.key, "label": "jlogd", "durability": system.durability,
        "record_bytes": SHAPE.record_bytes, "batch": SHAPE.batch,
    }  # fmt: skip
    if failure := system.missing():
        return [Row(**common, failure=failure)]  # type: ignore[arg-type]
    root = context.directory / "memory"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    try:
        system.setup(root, SHAPE)
        assert system.server is not None
        peak = _Peak(system.server.pid)
        try:
            backlog = _fill(context, system)
            filled = peak.resident
            context.advance("memory, reading")
            calls = [(_read, system, system.names[at * 2 : at * 2 + READERS_PER_WORKER]) for at in range(4)]
            read = sum(context.crew.together(calls, READ_SECONDS * 3 + 30))
        finally:
            peak.stop()
    except Exception as error:
        return [Row(**common, failure=f"{type(error).__name__}: {error}"[:300])]  # type: ignore[arg-type]
    finally:
        system.close()
        shutil.rmtree(root, ignore_errors=True)
    note = (
        f"{filled >> 20} MB while filled, {peak.resident >> 20} MB at most, of which {peak.own >> 20} MB its own;"
        f" eight subscribers read {read / READ_SECONDS / 1e9:.2f} GB/s together"
    )
    return [Row(**common, memory=peak.resident, backlog=backlog, note=note)]  # type: ignore[arg-type]


def _fill(context: Context, system: JlogdDaemon) -> int:
    context.advance("memory, filling")
    order = slots.Order(FILL_SECONDS_MAX, context.profile.backlog_bytes, True, start_time())
    context.crew.call(0, slots.connect, system, SHAPE, 1)
    done: list[slots.Slot] = context.crew.call(0, slots.run, system.key, SHAPE, order, timeout=FILL_SECONDS_MAX + 30)
    context.crew.call(0, slots.disconnect, system.key)
    return sum(slot.records for slot in done) * SHAPE.record_bytes


def _read(state: State, system: JlogdDaemon, names: list[str]) -> int:
    """Read under these names for a while; bytes read."""
    totals = [0] * len(names)
    threads = [threading.Thread(target=_drain, args=(system, name, totals, at)) for at, name in enumerate(names)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(totals)


def _drain(system: JlogdDaemon, name: str, totals: list[int], at: int) -> None:
    end = time.monotonic() + READ_SECONDS
    with system.open() as log:
        for batch in log.subscriber(name):
            totals[at] += len(batch.body)
            if time.monotonic() > end:
                return
