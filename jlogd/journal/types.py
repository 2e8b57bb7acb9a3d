"""The plain values that cross the journal's border: settings, receipts, positions, statistics."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from jlogd.errors import UsageError

MIB = 1 << 20
# Small enough that pruning returns space soon and that a restart reads little; large enough that a roll is rare.
SEGMENT_BYTES_DEFAULT = 64 * MIB
SEGMENT_BYTES_MIN = 4096
SEGMENT_BYTES_MAX = 2048 * MIB
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_INTERVAL = re.compile(r"interval=(\d+)(ms|s)")
# Above a minute the policy would be `os` in all but name.
INTERVAL_MS_MAX = 60_000

OnFull = Literal["block", "drop-oldest"]
Start = Literal["begin", "end"] | int | datetime


class Caps(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far a subscriber may fall behind; 0 means no cap.

    At the cap, `block` refuses appends until the subscriber moves, `drop-oldest` lets whole segments go and delivers
    a gap. Age (seconds) works with `drop-oldest` only.
    """

    max_bytes: Annotated[int, Meta(ge=0)] = 0
    max_age: Annotated[float, Meta(ge=0)] = 0.0
    on_full: OnFull = "block"

    def __post_init__(self) -> None:
        if self.max_age and self.on_full == "block":
            raise UsageError("a cap on age needs on_full = drop-oldest: blocking would not make the records younger")


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of a log, kept in its `log.json`.

    `durability`: `commit` (an append is acknowledged after an fdatasync that covers it), `interval=500ms` (acknowledged
    when written, synced that often: a power loss may take the last interval) or `os` (synced only when a segment is
    full: a power loss may take a segment). `caps` holds for every subscriber without caps of its own.
    """

    segment_bytes: Annotated[int, Meta(ge=SEGMENT_BYTES_MIN, le=SEGMENT_BYTES_MAX)] = SEGMENT_BYTES_DEFAULT
    durability: str = "commit"
    compression: Literal["none", "zstd"] = "none"
    caps: Caps = Caps()

    def __post_init__(self) -> None:
        if not SEGMENT_BYTES_MIN <= self.segment_bytes <= SEGMENT_BYTES_MAX:
            raise UsageError(
                f"segment size {self.segment_bytes} is not between {SEGMENT_BYTES_MIN} and {SEGMENT_BYTES_MAX} bytes"
            )
        if self.compression not in ("none", "zstd"):
            raise UsageError(f"compression {self.compression!r} is neither 'none' nor 'zstd'")
        sync_interval_ms(self.durability)


def sync_interval_ms(durability: str) -> int | None:
    """Milliseconds between syncs: 0 for `commit`, None for `os` (never in between). Raises UsageError."""
    if durability == "commit":
        return 0
    if durability == "os":
        return None
    found = _INTERVAL.fullmatch(durability)
    ms = int(found[1]) * (1 if found[2] == "ms" else 1000) if found else 0
    if not 1 <= ms <= INTERVAL_MS_MAX:
        raise UsageError(f"durability {durability!r} is not 'commit', 'os' or 'interval=' with 1ms to 60s")
    return ms


def check_name(kind: str, name: str) -> str:
    """`name` itself, or UsageError when it cannot be the name of a `kind` (log, subscriber)."""
    if not NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} cannot name a {kind}: 1 to 64 letters, digits, '.', '_' or '-', starting with a letter or digit"
        )
    return name


@dataclass(frozen=True, slots=True)
class Receipt:
    """Sequence numbers given to a durable batch. A duplicate that is not its producer's last batch has `first` 0."""

    first: int
    count: int
    duplicate: bool = False

    @property
    def next(self) -> int:
        """Sequence number that follows the batch."""
        return self.first + self.count


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A place in the log: sequence number `next`, to be found at byte `offset` or later of segment (first, epoch).

    `bytes` counts the bytes before it in the life of the log: the difference of two is a lag.
    """

    next: int
    segment_first: int = 0
    segment_epoch: int = 0
    offset: int = 0
    bytes: int = 0


class SubscriberStat(msgspec.Struct, kw_only=True):
    """One subscriber, as `stat` shows it. Ages are seconds; `holder` is empty when no consumer holds the name."""

    name: str
    next: int
    lag_records: int
    lag_bytes: int
    lag_seconds: float
    holder: str = ""
    dropped: int = 0
    damaged: int = 0
    caps: Caps = Caps()
    pins: bool = False


class LogStat(msgspec.Struct, kw_only=True):
    """One log, as `stat` shows it. Times are seconds since 1970 UTC, 0 when there is no record.

    `failed`: why it accepts nothing; `full`: why there was no room for what came last. Only the process that met it
    knows. `risks` are those of its spool's mount that were ever accepted, a line each; whoever shows the log adds them.
    """

    name: str
    target: str
    uuid: str
    bytes: int
    segments: int
    first: int
    next: int
    epoch: int
    durability: str
    compression: str
    segment_bytes: int
    created: float
    oldest_time: float
    newest_time: float
    owner: str = ""
    pinned_by: str = ""
    failed: str = ""
    full: str = ""
    risks: list[str] = []
    subscribers: list[SubscriberStat] = []
    counters: dict[str, int] = {}
