"""Aggregation: records of two nodes into files on a third party, durable there, beside rsyslog and syslog-ng.

    live       two producers send as fast as they are taken
    catch-up   the nodes hold everything already, and a manager is started
    latency    50,000 records a second; from the append on a node until the round that wrote it is committed

Counted is what flows: of jlogd what the ledger has, from the first commit to the last, of the others what is in the
file, from its first bytes to its last. Processes that start and connections that are made are not in it; what is in the
first commit is not, either. The latency is taken from a manager and producers that have been at it for a second.

jlogd is exactly once. The others do the nearest thing: a queue on disk, synced, at each node, a file that is synced at
the end; they repeat or lose records when something dies. They are sent fewer records: they are slow enough.

The limit is `write` and `fdatasync` of the same bytes, a MiB at a time, by one process: the median of several turns,
one before each that it is compared with, because memory that was not used lately costs more. Live, node and manager
write everything twice on this one disk; so there is a limit for that, too: each MiB to one file, then to another.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from bench.cases.aggregate_rivals import Rival, rivals
from bench.context import Context
from bench.crew import State
from bench.results import Row
from bench.samples import make_records, median, percentile, thin
from bench.servers import Server, free_port

if TYPE_CHECKING:
    from jlogd.manager.ledger import LmdbLedger
    from jlogd.manager.manager import Manager
    from jlogd.manager.pull import Pull

NODES = 2
RECORD_BYTES = 100
BLOCK_RECORDS = 10_000
BLOCK_BYTES = BLOCK_RECORDS * (RECORD_BYTES + 1)
# Live, it is all written twice, and sent over loopback twice.
LIVE_BYTES_MAX = 2 << 30
# A system that has not written everything by then is measured by what it has.
SECONDS_MAX = 60.0
FILL_SECONDS_MAX = 300.0
POLL_SECONDS = 0.01
LATENCY_RATE = 50_000
LATENCY_TICK_SECONDS = 0.005
# Fewer batches have no 99th percentile to speak of; those of the first second meet start-up.
LATENCY_SECONDS_MIN = 10.0
LATENCY_WARM_SECONDS = 1.0
LIMIT_BYTES = 1 << 20


def run_aggregate(context: Context) -> list[Row]:
    """All of it."""
    limits: list[float] = []
    makers: list[tuple[str, Callable[[Context, Path], Row]]] = [
        ("limit", lambda c, d: _limit(c, d, limits)), ("jlogd, live", _live),
        ("limit", lambda c, d: _limit(c, d, limits)), ("jlogd, catch-up", _catch_up),
        ("limit", lambda c, d: _limit(c, d, limits)), ("limit, twice", _limit_twice), ("jlogd, latency", _latency),
        *((rival.label, lambda c, d, rival=rival: _rival(c, d, rival)) for rival in rivals()),
    ]  # fmt: skip
    rows: dict[str, Row] = {}
    for label, make in makers:
        directory = context.directory / "aggregate"
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        try:
            rows[label] = make(context, directory)
        except Exception as error:
            rows[label] = _row("failed", label, failure=f"{type(error).__name__}: {error}"[:300])
        finally:
            shutil.rmtree(directory, ignore_errors=True)
        context.advance(f"aggregate, {label}")
    return list(rows.values())


# Turns of the above, for the progress bar.
STEPS = 7 + len(rivals())


def _row(system: str, label: str, durability: str = "", note: str = "live", **more: object) -> Row:
    return Row(
        case="aggregate", system=system, label=label, durability=durability, record_bytes=RECORD_BYTES, note=note,
        producers=NODES, **more,  # type: ignore[arg-type]
    )  # fmt: skip


def _blocks(size: int) -> int:
    """Blocks that each node sends."""
    return max(1, size // NODES // BLOCK_BYTES)


def _live_blocks(context: Context) -> int:
    return _blocks(min(context.profile.backlog_bytes, LIVE_BYTES_MAX))


def _rival_blocks(context: Context) -> int:
    return max(1, context.profile.syslog_messages // NODES // BLOCK_RECORDS)


# ---- the limit -------------------------------------------------------------------------------------------------------


def _limit(context: Context, directory: Path, turns: list[float]) -> Row:
    turns.append(_written_plainly(context, [directory / "file"]))
    rate = median(turns)
    size = rate * (RECORD_BYTES + 1)
    return _row("limit", "write + fdatasync, 1 MiB", "fdatasync", rate=rate, bytes_rate=size, rounds=list(turns))


def _limit_twice(context: Context, directory: Path) -> Row:
    rate = _written_plainly(context, [directory / "journal", directory / "file"])
    size = rate * (RECORD_BYTES + 1)
    return _row("limit", "the same, everything twice", "fdatasync", "twice", rate=rate, bytes_rate=size)


def _written_plainly(context: Context, paths: Sequence[Path]) -> float:
    """Records a second that one process writes and syncs to each of the files."""
    total = NODES * _live_blocks(context) * BLOCK_BYTES
    data = (b"\n".join(make_records(RECORD_BYTES, BLOCK_RECORDS + BLOCK_RECORDS // 10)) + b"\n")[:LIMIT_BYTES]
    files = [path.open("wb", buffering=0) for path in paths]
    begin = time.monotonic()
    for _ in range(-(-total // len(data))):
        for file in files:
            file.write(data)
            os.fdatasync(file.fileno())
    seconds = time.monotonic() - begin
    for file in files:
        file.close()
    return total / (RECORD_BYTES + 1) / seconds


# ---- jlogd -----------------------------------------------------------------------------------------------------------


class _Cluster:
    """Nodes and, when it is started, a manager of them: a process each."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.servers: list[Server] = []
        self._ledger: LmdbLedger | None = None
        self.addresses = [self._node(at) for at in range(NODES)]

    def _node(self, at: int) -> str:
        port, place = free_port(), self.directory / f"node{at}"
        place.mkdir()
        text = (
            f'[node]\nname = "node{at}"\nspool = "{place}/spool"\nstate = "{place}/state"\n'
            f'[listen]\nzmq = ["tcp://127.0.0.1:{port}"]\nhttp = ""\n[log.bench]\n'
        )
        self._start(place, "run", text).wait_for_port(port)
        return f"tcp://127.0.0.1:{port}"

    def start_manager(self) -> None:
        place, port = self.directory / "manager", free_port()
        place.mkdir()
        nodes = "".join(
            f'[[manager.node]]\nname = "node{at}"\naddress = "{address}"\n' for at, address in enumerate(self.addresses)
        )
        text = (
            f'[node]\nname = "manager"\nstate = "{place}/state"\n[listen]\nhttp = "127.0.0.1:{port}"\n'
            f'[manager]\nfiles = "{self.directory}/files/%{{node}}"\n{nodes}'
        )
        self._start(place, "manager", text).wait_for_port(port)

    def _start(self, place: Path, what: str, text: str) -> Server:
        config = place / "jlogd.toml"
        config.write_text(text)
        command = [sys.executable, "-m", "jlogd.cli.jlogd", what, "--config", str(config)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self.servers.append(Server(command, place, environment))
        return self.servers[-1]

    def committed(self) -> int:
        """Bytes of the files that the ledger has. The manager runs."""
        from jlogd.manager.ledger import LmdbLedger

        if self._ledger is None:  # kept open: what it costs is taken from what is measured
            self._ledger = LmdbLedger(self.directory / "manager" / "state" / "manager", write=False)
        return sum(state.length for _, state in self._ledger.all_files())

    def close(self) -> None:
        if self._ledger is not None:
            self._ledger.close()
        for server in reversed(self.servers):
            server.stop()


def _live(context: Context, directory: Path) -> Row:
    cluster, blocks = _Cluster(directory), _live_blocks(context)
    try:
        cluster.start_manager()
        for at, address in enumerate(cluster.addresses):
            context.crew.begin(at, _append, address, blocks)
        rate = _flow(cluster.committed, blocks)
        for at in range(NODES):
            context.crew.result(at, SECONDS_MAX)
    finally:
        cluster.close()
    size = rate * (RECORD_BYTES + 1)
    return _row("jlogd", "jlogd", "fdatasync at node and manager, exactly once", rate=rate, bytes_rate=size)


def _catch_up(context: Context, directory: Path) -> Row:
    cluster, blocks = _Cluster(directory), _blocks(context.profile.backlog_bytes)
    try:
        for at, address in enumerate(cluster.addresses):
            context.crew.begin(at, _append, address, blocks)
        for at in range(NODES):
            context.crew.result(at, FILL_SECONDS_MAX)
        cluster.start_manager()
        rate = _flow(cluster.committed, blocks)
    finally:
        cluster.close()
    return _row(
        "jlogd", "jlogd, from a backlog", "fdatasync, exactly once", "catch-up", rate=rate,
        bytes_rate=rate * (RECORD_BYTES + 1), backlog=NODES * blocks * BLOCK_BYTES,
    )  # fmt: skip


def _latency(context: Context, directory: Path) -> Row:
    cluster = _Cluster(directory)
    seconds = LATENCY_WARM_SECONDS + max(LATENCY_SECONDS_MIN, context.profile.latency_seconds)
    try:
        context.crew.call(0, _manage, cluster.addresses, str(directory), timeout=SECONDS_MAX)
        for at, address in enumerate(cluster.addresses):
            context.crew.begin(1 + at, _drip, address, LATENCY_RATE // NODES, seconds)
        for at in range(NODES):
            context.crew.result(1 + at, 2 * SECONDS_MAX)
        times = sorted(context.crew.call(0, _managed, timeout=SECONDS_MAX))
    finally:
        cluster.close()
    return _row(
        "jlogd", "jlogd", "fdatasync at node and manager, exactly once", "latency", rate=LATENCY_RATE,
        offered=LATENCY_RATE, p50=percentile(times, 0.5), p99=percentile(times, 0.99), p999=percentile(times, 0.999),
    )  # fmt: skip


def _append(state: State, address: str, blocks: int) -> None:
    import jlogd

    data = b"\n".join(make_records(RECORD_BYTES, BLOCK_RECORDS)) + b"\n"
    with jlogd.open(f"{address}/bench") as log, log.writer() as writer:
        for _ in range(blocks):
            writer.extend_lines(data)
        writer.flush()


def _drip(state: State, address: str, rate: int, seconds: float) -> None:
    import jlogd

    count = round(rate * LATENCY_TICK_SECONDS)
    records = make_records(RECORD_BYTES, count)
    with jlogd.open(f"{address}/bench") as log, log.writer() as writer:
        begin = time.monotonic()
        for tick in range(round(seconds / LATENCY_TICK_SECONDS)):
            time.sleep(max(0.0, begin + tick * LATENCY_TICK_SECONDS - time.monotonic()))
            writer.extend(records)


def _manage(state: State, addresses: list[str], directory: str) -> None:
    """A manager in this process, which goes on: for each batch that is committed, when its first record was appended,
    and how long ago that was."""
    from jlogd.journal.batch import Batch
    from jlogd.manager.config import ManagedNode, ManagerConfig
    from jlogd.manager.ledger import SourceState
    from jlogd.manager.manager import Manager
    from jlogd.manager.parcel import Parcel

    nodes = tuple(ManagedNode(name=f"node{at}", address=address) for at, address in enumerate(addresses))
    manager = Manager(ManagerConfig(files=f"{directory}/files/%{{node}}", node=nodes), "bench", Path(directory) / "led")
    times: list[tuple[int, int]] = []
    tell = manager.hub.committed

    def committed(done: Sequence[tuple[Parcel, SourceState]]) -> None:
        now = time.time_ns()
        for parcel, _ in done:
            times.extend((item.first_time, now - item.first_time) for item in parcel.items if isinstance(item, Batch))
        tell(done)

    manager.hub.committed = committed  # type: ignore[method-assign]
    manager.start()
    state["manager"], state["times"] = manager, times
    while not all(pull.phase == "streaming" for pull in _pulls(manager)) or len(_pulls(manager)) < len(nodes):
        time.sleep(POLL_SECONDS)


def _pulls(manager: Manager) -> list[Pull]:
    return [pull for session in manager.hub.sessions.values() for pull in session.pulls.values()]


def _managed(state: State) -> list[float]:
    """The times, once everything was committed."""
    time.sleep(1.0)
    state.pop("manager").stop()
    times: list[tuple[int, int]] = state.pop("times")
    warm = min(moment for moment, _ in times) + LATENCY_WARM_SECONDS * 1e9
    return thin([took / 1e9 for moment, took in times if moment >= warm])


# ---- the others ------------------------------------------------------------------------------------------------------


def _rival(context: Context, directory: Path, rival: Rival) -> Row:
    if not rival.command:
        return _row(rival.key, rival.label, failure=rival.missing)
    blocks = _rival_blocks(context)
    data = b"".join(b"<13>%s\n" % record[4:] for record in make_records(RECORD_BYTES, BLOCK_RECORDS))
    with rival.running(directory, NODES) as (file, ports):
        for at, port in enumerate(ports):
            context.crew.begin(at, rival.send, port, data, blocks)
        rate = _flow(lambda: file.stat().st_size, blocks)
    for at in range(NODES):
        context.crew.result(at, SECONDS_MAX)
    return _row(rival.key, rival.label, rival.durability, rate=rate)


def _flow(written: Callable[[], int], blocks: int) -> float:
    """Records a second, from the first that are seen to the last; `written` gives bytes, and may fail at first."""
    wanted, until = NODES * blocks * BLOCK_BYTES, time.monotonic() + SECONDS_MAX
    before = found = 0
    begin = now = time.monotonic()
    while found < wanted and now < until:
        time.sleep(POLL_SECONDS)
        with suppress(Exception):  # it is not there yet
            found = written()
        now = time.monotonic()
        if not before:
            before, begin = found, now
    return (found - before) / (RECORD_BYTES + 1) / (now - begin)
