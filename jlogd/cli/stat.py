"""`jlogctl stat`: how a log is, and how its subscribers follow."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click
import msgspec

from jlogd.cli import targets, units
from jlogd.cli.errors import DONE, NOT_FOUND
from jlogd.cli.output import print_json, say, show, table, warn
from jlogd.cli.params import DURATION, json_option, logs_argument
from jlogd.cli.subscriber import COLUMNS, rows
from jlogd.errors import UsageError
from jlogd.journal.types import LogStat
from jlogd.writer.writer import BATCH_BYTES

if TYPE_CHECKING:
    from rich.console import RenderableType

    from jlogd.log import Log

# Faster than this nobody reads, and each sample costs the log a few small reads.
INTERVAL_SECONDS_MIN = 0.1
INTERVAL_SECONDS_MAX = 86400.0
# A subscriber this close to its cap is worth a warning: with `block` appends stop next, with `drop-oldest` records go.
NEAR_CAP = 0.9
# An append is refused when it does not fit below the cap; a writer's batches are about as large as this.
APPEND_BYTES = BATCH_BYTES


@dataclass(frozen=True)
class Sample:
    """One look at a log: when (seconds, monotonic) and what."""

    at: float
    stat: LogStat


@dataclass(frozen=True)
class Rate:
    """Records and bytes a second that came in; `kept` when it is an average over what the log holds."""

    records: float
    bytes: float
    kept: bool


@click.command("stat", no_args_is_help=True)
@logs_argument
@click.option("--watch", is_flag=True, help="Show it again and again, with the rate between two looks.")
@click.option(
    "--interval", type=DURATION, metavar="TIME", default="1s", show_default=True, help="Time between two looks."
)
@json_option
def stat(targets_: tuple[str, ...], watch: bool, interval: float, as_json: bool) -> int:
    """Show how logs are and how subscribers lag.

    Size, rate, range, age, durability, and for every subscriber its lag in records, bytes and time. Without --watch
    the rate is an average over the records that the log holds. What is wrong is told in lines that begin with
    "warning:". Exit code 1: a log is not healthy, that is, it has failed and takes no appends, or it refuses them
    because a subscriber is at its cap, or because in the last minute there was no room on the disk. That a disk failed
    or is full is known to the process that met it: for a log that a daemon writes, ask at the daemon's address.

    \b
    Examples:
      jlogctl stat var/spool/mainlog
      jlogctl stat tcp://127.0.0.1:5140/mainlog --watch
      jlogctl stat var/spool/* --json
    """
    if not INTERVAL_SECONDS_MIN <= interval <= INTERVAL_SECONDS_MAX:
        raise UsageError("--interval is from 100ms to 1d")
    logs: list[Log] = []
    try:
        logs.extend(targets.open_log(target) for target in targets_)
        if watch:
            return _watch(logs, interval, as_json)
        return _print([Sample(time.monotonic(), log.stat()) for log in logs], [None] * len(logs), as_json)
    finally:
        for log in logs:
            log.close()


def _watch(logs: Sequence[Log], interval: float, as_json: bool) -> int:
    """Look again and again until Ctrl-C; the exit code is that of the last look."""
    before: list[Sample | None] = [None] * len(logs)
    code = DONE
    try:
        while True:
            now = [Sample(time.monotonic(), log.stat()) for log in logs]
            if any(before) and not as_json:
                click.clear()
            code = _print(now, before, as_json)
            before = list(now)
            time.sleep(interval)
    except KeyboardInterrupt:
        return code


def _print(samples: Sequence[Sample], before: Sequence[Sample | None], as_json: bool) -> int:
    code = DONE
    for at, (sample, earlier) in enumerate(zip(samples, before, strict=True)):
        troubles, sick = health(sample.stat)
        code = NOT_FOUND if sick else code
        rate = rate_of(sample, earlier)
        if as_json:
            print_json([as_object(sample.stat, rate, troubles, not sick)])
            continue
        if at:
            say("")
        show(*_drawn(sample.stat, rate))
        for trouble in troubles:
            warn(f"warning: {sample.stat.name}: {trouble}")
    return code


def rate_of(sample: Sample, earlier: Sample | None) -> Rate:
    """The rate between two looks; without an earlier one, the average over what the log holds."""
    stat = sample.stat
    if earlier is None:
        seconds = max(stat.newest_time - stat.oldest_time, 0.0)
        records, size = stat.next - stat.first, stat.bytes
    else:
        seconds = sample.at - earlier.at
        records = stat.next - earlier.stat.next
        # Pruning takes bytes away; what came in is at least what is there more.
        size = max(stat.bytes - earlier.stat.bytes, 0)
    if seconds <= 0:
        return Rate(0.0, 0.0, earlier is None)
    return Rate(records / seconds, size / seconds, earlier is None)


def health(stat: LogStat) -> tuple[list[str], bool]:
    """What is worth a warning, and whether the log is not healthy."""
    troubles: list[str] = []
    sick = False
    if stat.failed:
        troubles.append(f"failed and takes no appends: {stat.failed}")
        sick = True
    if stat.full:
        troubles.append(f"appends are refused: {stat.full}")
        sick = True
    troubles += stat.risks
    for one in stat.subscribers:
        cap = one.caps.max_bytes
        if cap and one.caps.on_full == "block" and one.lag_bytes >= max(cap - APPEND_BYTES, NEAR_CAP * cap):
            troubles.append(f"appends are refused: subscriber {one.name} is at its cap of {units.format_size(cap)}")
            sick = True
        elif cap and one.lag_bytes >= NEAR_CAP * cap:
            troubles.append(
                f"subscriber {one.name} has used {one.lag_bytes / cap:.0%} of its cap of {units.format_size(cap)}"
            )
        if one.dropped:
            troubles.append(f"subscriber {one.name} lost {units.counted(one.dropped, 'record')} at its cap")
        if one.damaged:
            troubles.append(f"subscriber {one.name} lost {units.counted(one.damaged, 'record')} to damage on disk")
    return troubles, sick


def as_object(stat: LogStat, rate: Rate, troubles: list[str], healthy: bool) -> dict[str, Any]:
    """The statistics with exact numbers."""
    about: dict[str, Any] = msgspec.to_builtins(stat)
    about["rate"] = {"records": rate.records, "bytes": rate.bytes, "over": "kept" if rate.kept else "interval"}
    about["warnings"] = troubles
    about["healthy"] = healthy
    return about


def _drawn(stat: LogStat, rate: Rate) -> list[RenderableType]:
    """One log as a block of named lines and a table of its subscribers."""
    records = stat.next - stat.first
    now = time.time()
    held = (
        f"{units.counted(records, 'record')}: {stat.first} to {stat.next - 1}"
        if records
        else f"0 records; next is {stat.next}"
    )
    age = "-"
    if records and stat.oldest_time:
        oldest, newest = (units.format_duration(now - moment) for moment in (stat.oldest_time, stat.newest_time))
        age = f"oldest {oldest}, newest {newest}"
    compression = "" if stat.compression == "none" else f", {stat.compression}"
    segments = f"{units.counted(stat.segments, 'segment')} of {units.format_size(stat.segment_bytes)}"
    lines = [
        ("records", held),
        ("size", f"{units.format_size(stat.bytes)} in {segments}"),
        ("rate", units.format_rate(rate.records, rate.bytes) + (" on average" if rate.kept else "")),
        ("age", age),
        ("durability", stat.durability + compression),
        ("pinned by", stat.pinned_by or "-"),
    ]
    parts = [table((stat.name, stat.target), lines)]
    if stat.subscribers:
        parts += ["", table(COLUMNS, rows(stat.subscribers))]
    return parts
