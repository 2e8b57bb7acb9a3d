"""The goals of the project, each judged with the numbers of one run.

Ratios against Redis Streams are given twice: with a redis-py pipeline, which is what a user writes, and with commands
packed by hand, the fastest client we could write. Where the disk's limit itself does not reach a ratio, it says so.
"""

from __future__ import annotations

from collections.abc import Sequence

from bench.results import Row, Target, find
from bench.samples import duration, number

LIMIT_SHARE = 0.80
# Nothing that syncs every batch beats the limit by more than noise.
PLAUSIBLE_SHARE = 1.15
ZMQ_SHARE = 0.50
REDIS_TIMES = 10
NATS_TIMES = 50
DECODE_SECONDS = 150e-9
FORWARD_BYTES = 1e9
SYSLOG_RATE = 300_000
GROUP_TIMES = 3
GROUP_SYNCS = 5
MEMORY_BYTES = 150_000_000
AGGREGATE_TIMES = 5
AGGREGATE_SHARE = 0.60
AGGREGATE_P99_SECONDS = 0.050
LARGE_BATCHES = (1000, 10_000)


def judge(rows: Sequence[Row]) -> list[Target]:
    """Every goal."""
    targets = []
    for batch in LARGE_BATCHES:
        targets.append(_share(rows, f"append, batches of {batch}, of the limit", "append", batch, "jlogd", "limit"))
        targets += _times(rows, f"append, batches of {batch}", "append", batch, "jlogd", "redis", REDIS_TIMES)
    for case, how in (("append", "one batch at a time"), ("stream", "batches under way")):
        name = f"append over ZeroMQ, batches of 1000, {how}"
        targets.append(_share(rows, f"{name}, of the local rate", case, 1000, "jlogd-zmq", "jlogd", ZMQ_SHARE))
        targets += _times(rows, name, case, 1000, "jlogd-zmq", "redis", REDIS_TIMES)
        targets += _times(rows, name, case, 1000, "jlogd-zmq", "nats", NATS_TIMES)
    targets.append(_decode(rows))
    targets.append(_forward(rows))
    targets += [_syslog(rows, framing) for framing in ("lines", "octet-counted")]
    targets += _group_commit(rows)
    targets.append(_memory(rows))
    targets += _aggregate(rows)
    return targets


def _unmeasured(name: str, wanted: str) -> Target:
    return Target(name=name, wanted=wanted, found="not measured", met=None)


def _pair(rows: Sequence[Row], case: str, batch: int, ours: str, theirs: str) -> tuple[float, float] | None:
    cell = {"case": case, "record_bytes": 100, "batch": batch, "producers": 1}
    a, b = find(rows, system=ours, **cell), find(rows, system=theirs, **cell)
    return (a.rate, b.rate) if a and b and b.rate else None


def _share(
    rows: Sequence[Row], name: str, case: str, batch: int, ours: str, theirs: str, least: float = LIMIT_SHARE
) -> Target:
    wanted = f"at least {least:.0%}"
    pair = _pair(rows, case, batch, ours, theirs)
    if pair is None:
        return _unmeasured(name, wanted)
    share = pair[0] / pair[1]
    found = f"{share:.0%} ({number(pair[0])} of {number(pair[1])} records/s)"
    if theirs == "limit" and share > PLAUSIBLE_SHARE:
        return Target(name=name, wanted=wanted, found=f"{found}: not possible, something disturbed the run", met=None)
    return Target(name=name, wanted=wanted, found=found, met=share >= least)


def _times(rows: Sequence[Row], name: str, case: str, batch: int, ours: str, rival: str, least: int) -> list[Target]:
    """One goal for each client of the rival."""
    targets = []
    clients = {"redis": (("redis", "Redis Streams"), ("redis-tuned", "Redis Streams hand-packed"))}
    for key, label in clients.get(rival, ((rival, "NATS JetStream"),)):
        title, wanted = f"{name}, against {label}", f"at least {least}x"
        # redis-py's pipeline has no batches under way: it is compared by its own best.
        pair = _pair(rows, case, batch, ours, key) or _mixed(rows, case, batch, ours, key)
        if pair is None:
            targets.append(_unmeasured(title, wanted))
            continue
        ratio = pair[0] / pair[1]
        bound = _pair(rows, "append", batch, "limit", key)
        reach = f"; the disk's limit is {bound[0] / bound[1]:.1f}x" if bound and bound[0] < least * bound[1] else ""
        durable = find(rows, system=key, case="append", batch=batch)
        soft = "; the rival was not durable" if durable and durable.durability.startswith("NOT") else ""
        found = f"{ratio:.1f}x ({number(pair[0])} and {number(pair[1])} records/s{reach}{soft})"
        targets.append(Target(name=title, wanted=wanted, found=found, met=ratio >= least))
    return targets


def _mixed(rows: Sequence[Row], case: str, batch: int, ours: str, key: str) -> tuple[float, float] | None:
    a = find(rows, system=ours, case=case, record_bytes=100, batch=batch, producers=1)
    b = find(rows, system=key, case="append", record_bytes=100, batch=batch, producers=1)
    return (a.rate, b.rate) if a and b and b.rate else None


def _decode(rows: Sequence[Row]) -> Target:
    name, wanted = "decode, lines", "under 150 ns a record"
    row = find(rows, case="decode", note="lines")
    if row is None:
        return _unmeasured(name, wanted)
    return Target(name=name, wanted=wanted, found=duration(1 / row.rate), met=1 / row.rate < DECODE_SECONDS)


def _forward(rows: Sequence[Row]) -> Target:
    name, wanted = "a subscriber that takes batches whole", "over 1 GB/s"
    row = find(rows, case="forward", system="jlogd")
    if row is None:
        return _unmeasured(name, wanted)
    return Target(name=name, wanted=wanted, found=f"{number(row.bytes_rate)}B/s", met=row.bytes_rate > FORWARD_BYTES)


def _syslog(rows: Sequence[Row], framing: str) -> Target:
    name, wanted = f"syslog over TCP, {framing}", "at least 300,000 messages a core-second"
    row = find(rows, case="syslog", note=framing)
    if row is None or not row.cpu:
        return _unmeasured(name, wanted)
    each = row.rate / row.cpu
    found = f"{number(each)} a core-second ({number(row.rate)} messages/s on {row.cpu:.2f} cores)"
    return Target(name=name, wanted=wanted, found=found, met=each >= SYSLOG_RATE)


def _group_commit(rows: Sequence[Row]) -> list[Target]:
    name = "single records over ZeroMQ, 4 producers"
    cell = {"case": "append", "record_bytes": 100, "batch": 1}
    one, four = (find(rows, system="jlogd-zmq", producers=count, **cell) for count in (1, 4))
    sync = find(rows, system="limit", producers=1, **cell)
    if one is None or four is None or sync is None:
        return [_unmeasured(name, "at least 3x one producer"), _unmeasured(name, "p99 within 5 fdatasyncs")]
    ratio, syncs = four.rate / one.rate, four.p99 / sync.p50
    return [
        Target(
            name=name, wanted=f"at least {GROUP_TIMES}x one producer",
            found=f"{ratio:.1f}x ({number(four.rate)} and {number(one.rate)} records/s)", met=ratio >= GROUP_TIMES,
        ),
        Target(
            name=name, wanted=f"p99 within {GROUP_SYNCS} fdatasyncs",
            found=f"{syncs:.1f} ({duration(four.p99)}; one takes {duration(sync.p50)})", met=syncs <= GROUP_SYNCS,
        ),
    ]  # fmt: skip


def _memory(rows: Sequence[Row]) -> Target:
    row = find(rows, case="memory")
    name, wanted = "memory of the daemon, eight subscribers behind", "under 150 MB"
    if row is None:
        return _unmeasured(name, wanted)
    return Target(
        name=f"{name} by {row.backlog / 1e9:.1f} GB", wanted=wanted, found=f"{row.memory / 1e6:.0f} MB",
        met=row.memory < MEMORY_BYTES,
    )  # fmt: skip


def _aggregate(rows: Sequence[Row]) -> list[Target]:
    def row(system: str, note: str) -> Row | None:
        return find(rows, case="aggregate", system=system, note=note)

    live, late, limit = row("jlogd", "live"), row("jlogd", "catch-up"), row("limit", "live")
    rival, latency = row("rsyslog-disk", "live"), row("jlogd", "latency")
    targets = []
    name, wanted = "aggregate, against rsyslog with its queue synced", f"at least {AGGREGATE_TIMES}x"
    if live and rival:
        found = f"{live.rate / rival.rate:.1f}x ({number(live.rate)} and {number(rival.rate)} records/s)"
        targets.append(Target(name=name, wanted=wanted, found=found, met=live.rate >= AGGREGATE_TIMES * rival.rate))
    else:
        targets.append(_unmeasured(name, wanted))
    for how, mine in (("live", live), ("from a backlog", late)):
        name, wanted = f"aggregate, {how}, of write + fdatasync", f"at least {AGGREGATE_SHARE:.0%}"
        if mine and limit:
            share = mine.rate / limit.rate
            targets.append(Target(name=name, wanted=wanted, found=f"{share:.0%}", met=share >= AGGREGATE_SHARE))
        else:
            targets.append(_unmeasured(name, wanted))
    name, wanted = "aggregate, append to durable in the file at 50,000/s, p99", "under 50 ms"
    if latency:
        met = latency.p99 < AGGREGATE_P99_SECONDS
        targets.append(Target(name=name, wanted=wanted, found=duration(latency.p99), met=met))
    else:
        targets.append(_unmeasured(name, wanted))
    return targets
