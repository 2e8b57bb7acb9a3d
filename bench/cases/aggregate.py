"""Aggregation: records of two nodes into files on a third party, durable there, beside rsyslog and syslog-ng.

    live       two producers send as fast as they are taken; from the first byte until the last record is in the files
    catch-up   the nodes hold everything already; from the start of the manager until the last record is in the files
    latency    50,000 records a second; from the append on a node until the round that wrote it is committed

jlogd is exactly once. The others do the nearest thing: a queue on disk, synced, at each node, a file that is synced at
the end; they repeat or lose records when something dies. The limit is `write` and `fdatasync` of the same bytes, a MiB
at a time, by one process.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from bench.context import Context
from bench.crew import State
from bench.results import Row
from bench.samples import make_records, percentile, thin
from bench.servers import Server, free_port

NODES = 2
RECORD_BYTES = 100
BLOCK_RECORDS = 10_000
# A system that has not written everything by then is measured by what it has.
SECONDS_MAX = 60.0
POLL_SECONDS = 0.01
LATENCY_RATE = 50_000
LATENCY_TICK_SECONDS = 0.005
LIMIT_BYTES = 1 << 20
# Where packaging/bench-syslog-ng unpacks it.
NG_UNPACKED = Path(__file__).parents[2] / "var/bench/syslog-ng"

_NODE = """\
global(workDirectory="{directory}" processInternalMessages="off" maxMessageSize="64k")
module(load="imtcp")
template(name="raw" type="string" string="%rawmsg%\\n")
ruleset(name="out") {{
  action(type="omfwd" target="127.0.0.1" port="{central}" protocol="tcp" template="raw" action.resumeRetryCount="-1"
         queue.type="{queue}" queue.filename="queue" queue.syncQueueFiles="on" queue.saveOnShutdown="on"
         queue.maxDiskSpace="8g" queue.checkpointInterval="1000")
}}
input(type="imtcp" port="{port}" address="127.0.0.1" ruleset="out")
"""
_CENTRAL = """\
global(workDirectory="{directory}" processInternalMessages="off" maxMessageSize="64k")
module(load="imtcp")
template(name="raw" type="string" string="%rawmsg%\\n")
ruleset(name="in") {{
  action(type="omfile" file="{file}" template="raw" sync="on" flushOnTXEnd="on" asyncWriting="off")
}}
input(type="imtcp" port="{port}" address="127.0.0.1" ruleset="in")
"""
_NG_NODE = """\
@version: {version}
source in {{ network(ip("127.0.0.1") port({port}) transport("tcp") flags(no-parse)); }};
destination out {{ network("127.0.0.1" port({central}) transport("tcp") template("$MSG\\n")
  disk-buffer(reliable(yes) disk-buf-size(4294967296) dir("{directory}"))); }};
log {{ source(in); destination(out); flags(flow-control); }};
"""
_NG_CENTRAL = """\
@version: {version}
source in {{ network(ip("127.0.0.1") port({port}) transport("tcp") flags(no-parse)); }};
destination out {{ file("{file}" template("$MSG\\n") fsync(yes)); }};
log {{ source(in); destination(out); flags(flow-control); }};
"""


def run_aggregate(context: Context) -> list[Row]:
    """All of it."""
    rows = []
    makers: list[tuple[str, Callable[[Context, Path], Row]]] = [
        ("limit", _limit), ("jlogd, live", _live), ("jlogd, catch-up", _catch_up), ("jlogd, latency", _latency),
        ("rsyslog", lambda c, d: _rsyslog(c, d, "LinkedList")), ("rsyslog, disk", lambda c, d: _rsyslog(c, d, "Disk")),
        ("syslog-ng", _syslog_ng),
    ]  # fmt: skip
    for label, make in makers:
        directory = context.directory / "aggregate"
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        try:
            rows.append(make(context, directory))
        except Exception as error:
            rows.append(_row("failed", label, failure=f"{type(error).__name__}: {error}"[:300]))
        finally:
            shutil.rmtree(directory, ignore_errors=True)
        context.advance(f"aggregate, {label}")
    return rows


def _row(system: str, label: str, durability: str = "", note: str = "live", **more: object) -> Row:
    return Row(
        case="aggregate", system=system, label=label, durability=durability, record_bytes=RECORD_BYTES, note=note,
        producers=NODES, **more,  # type: ignore[arg-type]
    )  # fmt: skip


def _blocks(context: Context) -> int:
    """Blocks that each node sends."""
    return max(1, context.profile.syslog_messages // NODES // BLOCK_RECORDS)


# ---- the limit -------------------------------------------------------------------------------------------------------


def _limit(context: Context, directory: Path) -> Row:
    total = NODES * _blocks(context) * BLOCK_RECORDS * (RECORD_BYTES + 1)
    data = (b"\n".join(make_records(RECORD_BYTES, BLOCK_RECORDS)) + b"\n")[:LIMIT_BYTES]
    begin = time.monotonic()
    with (directory / "file").open("wb", buffering=0) as file:
        for _ in range(-(-total // len(data))):
            file.write(data)
            os.fdatasync(file.fileno())
    seconds = time.monotonic() - begin
    rate = total / (RECORD_BYTES + 1) / seconds
    return _row("limit", "write + fdatasync, 1 MiB", "fdatasync", rate=rate, bytes_rate=total / seconds)


# ---- jlogd -----------------------------------------------------------------------------------------------------------


class _Cluster:
    """Nodes and, when it is started, a manager of them: a process each."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.servers: list[Server] = []
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

    def written(self) -> int:
        return sum(path.stat().st_size for path in (self.directory / "files").glob("*"))

    def close(self) -> None:
        for server in reversed(self.servers):
            server.stop()


def _live(context: Context, directory: Path) -> Row:
    cluster = _Cluster(directory)
    try:
        cluster.start_manager()
        begin = time.monotonic()
        for at, address in enumerate(cluster.addresses):
            context.crew.begin(at, _append, address, _blocks(context))
        records, seconds = _until_written(context, cluster.written, begin)
        for at in range(NODES):
            context.crew.result(at)
    finally:
        cluster.close()
    return _row("jlogd", "jlogd", "fdatasync at node and manager, exactly once", rate=records / seconds)


def _catch_up(context: Context, directory: Path) -> Row:
    cluster = _Cluster(directory)
    try:
        for at, address in enumerate(cluster.addresses):
            context.crew.begin(at, _append, address, _blocks(context))
        for at in range(NODES):
            context.crew.result(at, SECONDS_MAX)
        begin = time.monotonic()
        cluster.start_manager()
        records, seconds = _until_written(context, cluster.written, begin)
    finally:
        cluster.close()
    size = records * (RECORD_BYTES + 1) / seconds
    return _row(
        "jlogd", "jlogd, from a backlog", "fdatasync, exactly once", "catch-up", rate=records / seconds, bytes_rate=size
    )


def _latency(context: Context, directory: Path) -> Row:
    cluster = _Cluster(directory)
    seconds = context.profile.latency_seconds
    try:
        context.crew.begin(0, _manage, cluster.addresses, str(directory), seconds)
        for at, address in enumerate(cluster.addresses):
            context.crew.begin(1 + at, _drip, address, LATENCY_RATE // NODES, seconds)
        for at in range(NODES):
            context.crew.result(1 + at, 2 * SECONDS_MAX)
        times = sorted(context.crew.result(0, 2 * SECONDS_MAX))
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


def _manage(state: State, addresses: list[str], directory: str, seconds: float) -> list[float]:
    """A manager in this process: for each batch that is committed, how long ago its first record was appended."""
    from jlogd.journal.batch import Batch
    from jlogd.manager.config import ManagedNode, ManagerConfig
    from jlogd.manager.ledger import SourceState
    from jlogd.manager.manager import Manager
    from jlogd.manager.parcel import Parcel

    nodes = tuple(ManagedNode(name=f"node{at}", address=address) for at, address in enumerate(addresses))
    manager = Manager(ManagerConfig(files=f"{directory}/files/%{{node}}", node=nodes), "bench", Path(directory) / "led")
    times: list[float] = []
    tell = manager.hub.committed

    def committed(done: Sequence[tuple[Parcel, SourceState]]) -> None:
        now = time.time_ns()
        for parcel, _ in done:
            times.extend((now - item.first_time) / 1e9 for item in parcel.items if isinstance(item, Batch))
        tell(done)

    manager.hub.committed = committed  # type: ignore[method-assign]
    manager.start()
    time.sleep(seconds + 1.0)
    manager.stop()
    return thin(times[len(times) // 10 :])


# ---- the others ------------------------------------------------------------------------------------------------------


def _rsyslog(context: Context, directory: Path, queue: str) -> Row:
    label = "rsyslog, disk-assisted queue" if queue == "LinkedList" else "rsyslog, queue on disk"
    program = _program("rsyslogd")
    if not program:
        return _row("rsyslog", label, failure="rsyslogd is not installed")
    arguments = ("-n", "-iNONE", "-f")
    durability = "queue synced when on disk, file synced" if queue == "LinkedList" else "queue synced, file synced"
    key = "rsyslog" if queue == "LinkedList" else "rsyslog-disk"
    values = {"queue": queue}
    return _relayed(context, directory, (key, label, durability), [program, *arguments], (_NODE, _CENTRAL), values)


def _syslog_ng(context: Context, directory: Path) -> Row:
    base = _ng_command()
    if not base:
        why = "syslog-ng is not installed (it excludes rsyslog on Debian), nor unpacked by packaging/bench-syslog-ng"
        return _row("syslog-ng", "syslog-ng", failure=why)
    told = subprocess.run([*base, "--version"], capture_output=True, text=True, timeout=SECONDS_MAX, check=False)
    version = re.search(r"^Config version: (\S+)", told.stdout, re.MULTILINE)
    if version is None:
        return _row("syslog-ng", "syslog-ng", failure=f"syslog-ng does not start: {told.stderr.strip()[-200:]}")
    named = ("syslog-ng", "syslog-ng", "disk-buffer reliable, file fsync")
    command = [*base, "-F", "--no-caps", "-f"]
    return _relayed(context, directory, named, command, (_NG_NODE, _NG_CENTRAL), {"version": version[1]})


def _ng_command() -> list[str]:
    """How syslog-ng is started: as it is installed, or with what it was unpacked with; empty when it is not there."""
    program, unpacked = _program("syslog-ng"), NG_UNPACKED / "usr/sbin/syslog-ng"
    if program or not unpacked.exists():
        return [program] if program else []
    libraries = dict.fromkeys(str(path.parent) for path in NG_UNPACKED.rglob("*.so.*"))
    modules = [str(path) for path in NG_UNPACKED.glob("usr/lib/syslog-ng/[0-9]*")]
    paths = f"LD_LIBRARY_PATH={os.pathsep.join(libraries)}"
    return ["env", paths, str(unpacked), f"--module-path={os.pathsep.join(modules)}"]


def _relayed(
    context: Context, directory: Path, named: tuple[str, str, str], command: list[str], forms: tuple[str, str],
    values: dict[str, str],
) -> Row:  # fmt: skip
    """A central server and nodes of somebody else's, fed over TCP."""
    servers: list[Server] = []
    file, central = directory / "all", free_port()

    def start(name: str, form: str, port: int) -> None:
        place = directory / name
        place.mkdir()
        config = place / "conf"
        config.write_text(form.format(directory=place, file=file, port=port, central=central, **values))
        extra = ["-i", str(place / "pid")] if "rsyslogd" in command[0] else _ng_files(place)
        base = [word for word in command if word != "-iNONE"]
        servers.append(Server([*base[:-1], *extra, base[-1], str(config)], place))
        servers[-1].wait_for_port(port)

    try:
        start("central", forms[1], central)
        ports = [free_port() for _ in range(NODES)]
        for at, port in enumerate(ports):
            start(f"node{at}", forms[0], port)
        begin = time.monotonic()
        for at, port in enumerate(ports):
            context.crew.begin(at, _send, port, _blocks(context))
        written = lambda: file.stat().st_size if file.exists() else 0  # noqa: E731
        records, seconds = _until_written(context, written, begin)
    finally:
        for server in reversed(servers):
            server.stop()
    for at in range(NODES):
        context.crew.result(at, SECONDS_MAX)
    key, label, durability = named
    return _row(key, label, durability, rate=records / seconds)


def _ng_files(place: Path) -> list[str]:
    return [f"--{what}={place}/{what}" for what in ("persist-file", "pidfile", "control")]


def _send(state: State, port: int, blocks: int) -> None:
    """Lines over TCP; the end of the server ends it."""
    data = b"".join(b"<13>%s\n" % record[4:] for record in make_records(RECORD_BYTES, BLOCK_RECORDS))
    try:
        with socket.create_connection(("127.0.0.1", port)) as connection:
            for _ in range(blocks):
                connection.sendall(data)
    except OSError:
        return


def _program(name: str) -> str:
    return shutil.which(name) or next((str(p) for p in _places(name) if p.exists()), "")


def _places(name: str) -> Iterator[Path]:
    yield from (Path(place) / name for place in ("/usr/sbin", "/usr/local/sbin"))


def _until_written(context: Context, written: Callable[[], int], begin: float) -> tuple[float, float]:
    """(records in the files, seconds until the last of them)."""
    wanted = NODES * _blocks(context) * BLOCK_RECORDS * (RECORD_BYTES + 1)
    while (found := written()) < wanted and time.monotonic() - begin < SECONDS_MAX:
        time.sleep(POLL_SECONDS)
    return found / (RECORD_BYTES + 1), time.monotonic() - begin
