"""What the daemon tells Prometheus, made from `stat()` and `stats()` when it is asked: nothing is counted here.

Every metric is one `Metric` in the tables below: its name, kind, help and labels, and where its value comes from. The
collector and the table in docs/metrics.md are both made from them. Counters that a part of the daemon counts but no
table names are not lost: they appear as `..._events_total` with the label `event`.

Locking: none. `SyncTimes.observe` is called by one thread at a time (under the mutex of the log's appender); a scrape
may see a sync counted in one bucket and not yet in the sum, which the next scrape puts right.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from jlogd.journal.types import LogStat, SubscriberStat

# fdatasync takes 50 us on an NVMe drive whose cache survives power loss, 10 ms on a disk; above 1 s it is an incident.
SYNC_BOUNDS_SECONDS = (
    0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0,
)  # fmt: skip

Kind = Literal["counter", "gauge", "histogram", "info"]
Counters: TypeAlias = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. `name` is without the `_total` and `_info` that the formats add; `exposed` is with it."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ("log",)

    @property
    def exposed(self) -> str:
        return self.name + {"counter": "_total", "info": "_info"}.get(self.kind, "")


def _counter(name: str, help: str, *labels: str) -> Metric:
    return Metric(f"jlogd_{name}", "counter", help, labels or ("log",))


def _gauge(name: str, help: str, *labels: str) -> Metric:
    return Metric(f"jlogd_{name}", "gauge", help, labels or ("log",))


# Key in LogStat.counters -> metric.
LOG_COUNTERS: dict[str, Metric] = {
    "records": _counter("appended_records", "Records appended to the log, duplicates not among them."),
    "bytes": _counter("appended_bytes", "Bytes appended to the log, with batch headers, as they stand on disk."),
    "batches": _counter("appended_batches", "Batches appended to the log."),
    "delivered_records": _counter("delivered_records", "Records handed to subscribers, each subscriber counted."),
    "delivered_bytes": _counter("delivered_bytes", "Bytes handed to subscribers, each subscriber counted."),
    "syncs": _counter("syncs", "Syncs (fdatasync) of segments: each covers all batches of one group commit."),
    "rolls": _counter("segment_rolls", "Full segments that were followed by a new one."),
    "recoveries": _counter("recoveries", "Times the end of the log was established anew: at opening, after a failure."),
    "write_failures": _counter("write_failures", "Writes or syncs that failed."),
    "duplicate_batches": _counter("duplicate_batches", "Batches dropped because their producer had sent them before."),
    "producer_gaps": _counter("producer_gaps", "Batches refused because an earlier one of their producer is missing."),
    "gap_records": _counter("gap_records", "Records delivered as gaps, for whatever reason."),
    "damaged_places": _counter("damaged_places", "Damaged places met while reading."),
    "damaged_records": _counter("damaged_records", "Records lost to damage, delivered as gaps."),
    "damaged_bytes": _counter("damaged_bytes", "Damaged bytes that were skipped."),
    "torn_bytes": _counter("torn_bytes", "Bytes that a recovery left behind the end of the log; nobody reads them."),
}
REFUSED = _counter("refused_batches", "Batches refused, by reason: `full` is a subscriber at its cap.", "log", "reason")
LOG_EVENTS = _counter("log_events", "Other things counted about a log.", "log", "event")
_REFUSED_PREFIX = "refused_"

LogValue = Callable[[LogStat], float]
LOG_GAUGES: tuple[tuple[Metric, LogValue], ...] = (
    (_gauge("log_size_bytes", "Bytes of the log on disk."), lambda stat: stat.bytes),
    (_gauge("log_segments", "Segments of the log on disk."), lambda stat: stat.segments),
    (_gauge("log_first_sequence", "Sequence number of the oldest record kept."), lambda stat: stat.first),
    (_gauge("log_next_sequence", "Sequence number the next record gets."), lambda stat: stat.next),
    (_gauge("log_epoch", "Epoch of the owner; it rises with every takeover."), lambda stat: stat.epoch),
    (_gauge("log_created_timestamp_seconds", "When the log was made."), lambda stat: stat.created),
    (
        _gauge("log_oldest_record_timestamp_seconds", "Time of the oldest record kept; 0 when there is none."),
        lambda stat: stat.oldest_time,
    ),
    (
        _gauge("log_newest_record_timestamp_seconds", "Time of the newest record; 0 when there is none."),
        lambda stat: stat.newest_time,
    ),
    (
        _gauge("log_failed", "1 when the log accepts nothing because it failed, else 0."),
        lambda stat: float(bool(stat.failed)),
    ),
    (
        _gauge("log_accepted_risks", "Risks of the spool's mount that were ever accepted; see `jlogctl stat`."),
        lambda stat: len(stat.risks),
    ),
)
LOG_PINNED = _gauge("log_pinned_by", "1 for the subscriber that keeps the oldest segment.", "log", "subscriber")
LOG_INFO = Metric("jlogd_log", "info", "Identity and policies of a log.", ("log", "uuid", "durability", "compression"))
SYNC_SECONDS = Metric("jlogd_sync_seconds", "histogram", "Time a sync (fdatasync) of a segment took.")

_SUBSCRIBER = ("log", "subscriber")
SubscriberValue = Callable[[SubscriberStat], float]
SUBSCRIBER_GAUGES: tuple[tuple[Metric, SubscriberValue], ...] = (
    (
        _gauge("subscriber_next_sequence", "Sequence number of the first record not checkpointed.", *_SUBSCRIBER),
        lambda subscriber: subscriber.next,
    ),
    (
        _gauge("subscriber_lag_records", "Records the subscriber has not checkpointed.", *_SUBSCRIBER),
        lambda subscriber: subscriber.lag_records,
    ),
    (
        _gauge("subscriber_lag_bytes", "Bytes the subscriber has not checkpointed.", *_SUBSCRIBER),
        lambda subscriber: subscriber.lag_bytes,
    ),
    (
        _gauge("subscriber_lag_seconds", "Age of the oldest record the subscriber has not checkpointed.", *_SUBSCRIBER),
        lambda subscriber: subscriber.lag_seconds,
    ),
    (
        _gauge("subscriber_connected", "1 when a consumer holds the name, else 0.", *_SUBSCRIBER),
        lambda subscriber: float(bool(subscriber.holder)),
    ),
    (
        _gauge("subscriber_cap_bytes", "Cap on the lag in bytes; 0 when there is none.", *_SUBSCRIBER),
        lambda subscriber: subscriber.caps.max_bytes,
    ),
    (
        _gauge("subscriber_cap_seconds", "Cap on the lag in seconds; 0 when there is none.", *_SUBSCRIBER),
        lambda subscriber: subscriber.caps.max_age,
    ),
)
SUBSCRIBER_COUNTERS: tuple[tuple[Metric, SubscriberValue], ...] = (
    (
        _counter("subscriber_dropped_records", "Records dropped at a cap: the subscriber got a gap.", *_SUBSCRIBER),
        lambda subscriber: subscriber.dropped,
    ),
    (
        _counter("subscriber_damaged_records", "Records lost to damage: the subscriber got a gap.", *_SUBSCRIBER),
        lambda subscriber: subscriber.damaged,
    ),
)

# Key in the stats() of a source -> metric.
SOURCE_COUNTERS: dict[str, Metric] = {
    "messages": _counter("source_records", "Records a source handed to its log.", "source"),
    "bytes": _counter("source_bytes", "Bytes of records a source handed to its log.", "source"),
    "connections": _counter("source_connections", "Connections a source accepted.", "source"),
    "refused": _counter("source_refused_connections", "Connections closed at once: too many are open.", "source"),
    "idle_closed": _counter("source_idle_connections", "Connections closed because nothing came.", "source"),
    "malformed": _counter("source_malformed_records", "Records that were not what their format says.", "source"),
    "oversized": _counter("source_oversized_records", "Records over the limit, which were cut in pieces.", "source"),
    "incomplete": _counter("source_incomplete_records", "Counted messages whose connection ended early.", "source"),
    "dropped": _counter("source_dropped_datagrams", "Datagrams the kernel dropped: the log was too slow.", "source"),
    "begun": _counter("source_begun_files", "Files a source began to follow.", "source"),
    "truncated": _counter("source_truncated_files", "Followed files that were truncated.", "source"),
    "released": _counter("source_released_files", "Followed files that were let go.", "source"),
    "state_errors": _counter("source_state_errors", "Times the state of followed files was not saved.", "source"),
}
SOURCE_GAUGES: dict[str, Metric] = {
    "connections_open": _gauge("source_open_connections", "Connections of a source at the moment.", "source"),
    "files": _gauge("source_files", "Files a source follows at the moment.", "source"),
    "files_open": _gauge("source_open_files", "Files a source holds open at the moment.", "source"),
    "skipped": _gauge("source_skipped_files", "Files not followed because there are too many.", "source"),
}
SOURCE_EVENTS = _counter("source_events", "Other things counted by a source.", "source", "event")
SOURCE_UP = _gauge("source_up", "1 while the source reads, 0 after it ended or failed.", "source")
WIRE_EVENTS = _counter("wire_events", "What the ZeroMQ server counts.", "event")
TURNED_AWAY = _counter(
    "wire_turned_away", "Connections and messages turned away, by reason; many peers become `others`.", "reason", "peer"
)
WIRE_NOW = _gauge("wire_current", "What the ZeroMQ server has at the moment.", "what")
BUILD_INFO = Metric("jlogd_build", "info", "Version and place of this daemon.", ("version", "node", "subcluster"))


def all_metrics() -> list[Metric]:
    """Every metric there is, in the order they are exposed."""
    return [
        BUILD_INFO,
        LOG_INFO,
        *LOG_COUNTERS.values(),
        REFUSED,
        LOG_EVENTS,
        SYNC_SECONDS,
        *(metric for metric, _ in LOG_GAUGES),
        LOG_PINNED,
        *(metric for metric, _ in SUBSCRIBER_GAUGES),
        *(metric for metric, _ in SUBSCRIBER_COUNTERS),
        SOURCE_UP,
        *SOURCE_COUNTERS.values(),
        *SOURCE_GAUGES.values(),
        SOURCE_EVENTS,
        WIRE_EVENTS,
        TURNED_AWAY,
        WIRE_NOW,
    ]


def metric_table(metrics: Sequence[Metric] = ()) -> str:
    """A table in docs/metrics.md, in Markdown; a test compares them. Without `metrics`, all of the daemon."""
    rows = [
        f"| `{metric.exposed}` | {metric.kind} | {', '.join(f'`{label}`' for label in metric.labels)} | {metric.help} |"
        for metric in metrics or all_metrics()
    ]
    return "\n".join(["| metric | kind | labels | meaning |", "|---|---|---|---|", *rows]) + "\n"


class SyncTimes:
    """How long the syncs of one log took, in buckets."""

    def __init__(self) -> None:
        self._counts = [0] * (len(SYNC_BOUNDS_SECONDS) + 1)
        self._sum_seconds = 0.0

    def observe(self, seconds: float) -> None:
        self._counts[bisect_left(SYNC_BOUNDS_SECONDS, seconds)] += 1
        self._sum_seconds += seconds

    def buckets(self) -> list[tuple[str, float]]:
        """(upper bound, number of syncs up to it), the last bound infinite."""
        total = 0
        buckets: list[tuple[str, float]] = []
        bounds = [*(str(bound) for bound in SYNC_BOUNDS_SECONDS), "+Inf"]
        for bound, count in zip(bounds, list(self._counts), strict=True):
            total += count
            buckets.append((bound, total))
        return buckets

    @property
    def sum_seconds(self) -> float:
        return self._sum_seconds


@dataclass(frozen=True, slots=True)
class SourceStat:
    """A source at the moment: its `stats()` and whether it reads."""

    name: str
    counters: Counters
    up: bool = True


def _no_counters() -> Counters:
    return {}


def _nobody() -> Mapping[tuple[str, str], int]:
    return {}


class JlogdCollector(Collector):
    """Asks the given callables at every scrape and renders their answers.

    `logs` and `sources` give what there is at the moment; `wire` and `wire_now` the counters and the current numbers
    (connections, ...) of the ZeroMQ server, `turned_away` what it refused by (reason, peer). Call
    `sync_times(log).observe` for every sync.
    """

    def __init__(
        self,
        *,
        logs: Callable[[], Iterable[LogStat]],
        sources: Callable[[], Iterable[SourceStat]] = tuple,
        wire: Callable[[], Counters] = _no_counters,
        wire_now: Callable[[], Counters] = _no_counters,
        turned_away: Callable[[], Mapping[tuple[str, str], int]] = _nobody,
        version: str = "",
        node: str = "",
        subcluster: str = "",
    ) -> None:
        self._logs, self._sources, self._wire, self._wire_now = logs, sources, wire, wire_now
        self._turned_away = turned_away
        self._build = {"version": version, "node": node, "subcluster": subcluster}
        self._sync_times: dict[str, SyncTimes] = {}

    def sync_times(self, log: str) -> SyncTimes:
        return self._sync_times.setdefault(log, SyncTimes())

    def describe(self) -> Iterable[Family]:
        """The names, without asking anybody: registering must not be a scrape."""
        return [_family(metric) for metric in all_metrics()]

    def collect(self) -> Iterator[Family]:
        families = {metric.name: _family(metric) for metric in all_metrics()}
        self._add(families, BUILD_INFO, list(self._build.values()), 1)
        for stat in self._logs():
            self._add_log(families, stat)
        for source in self._sources():
            self._add(families, SOURCE_UP, [source.name], float(source.up))
            self._add_counters(
                families, [source.name], source.counters, {**SOURCE_COUNTERS, **SOURCE_GAUGES}, SOURCE_EVENTS
            )
        self._add_counters(families, [], self._wire(), {}, WIRE_EVENTS)
        for labels, number in self._turned_away().items():
            self._add(families, TURNED_AWAY, labels, number)
        for what, number in self._wire_now().items():
            self._add(families, WIRE_NOW, [what], number)
        yield from families.values()

    def _add_log(self, families: Mapping[str, Family], stat: LogStat) -> None:
        self._add(families, LOG_INFO, [stat.name, stat.uuid, stat.durability, stat.compression], 1)
        refused = {key: number for key, number in stat.counters.items() if key.startswith(_REFUSED_PREFIX)}
        others = {key: number for key, number in stat.counters.items() if key not in refused}
        self._add_counters(families, [stat.name], others, LOG_COUNTERS, LOG_EVENTS)
        for key, number in refused.items():
            self._add(families, REFUSED, [stat.name, key.removeprefix(_REFUSED_PREFIX)], number)
        for log_metric, log_value in LOG_GAUGES:
            self._add(families, log_metric, [stat.name], log_value(stat))
        if stat.pinned_by:
            self._add(families, LOG_PINNED, [stat.name, stat.pinned_by], 1)
        for subscriber in stat.subscribers:
            for metric, value in (*SUBSCRIBER_GAUGES, *SUBSCRIBER_COUNTERS):
                self._add(families, metric, [stat.name, subscriber.name], value(subscriber))
        times = self._sync_times.get(stat.name)
        histogram = families[SYNC_SECONDS.name]
        if times is not None and isinstance(histogram, HistogramMetricFamily):
            histogram.add_metric([stat.name], buckets=times.buckets(), sum_value=times.sum_seconds)

    def _add_counters(
        self,
        families: Mapping[str, Family],
        labels: Sequence[str],
        counters: Counters,
        known: Mapping[str, Metric],
        events: Metric,
    ) -> None:
        for key, number in counters.items():
            if key in known:
                self._add(families, known[key], labels, number)
            else:
                self._add(families, events, [*labels, key], number)

    @staticmethod
    def _add(families: Mapping[str, Family], metric: Metric, labels: Sequence[str], value: float) -> None:
        families[metric.name].add_sample(metric.exposed, dict(zip(metric.labels, labels, strict=True)), value)


def _family(metric: Metric) -> Family:
    if metric.kind == "counter":
        return CounterMetricFamily(metric.name, metric.help, labels=metric.labels)
    if metric.kind == "gauge":
        return GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
    if metric.kind == "info":
        return InfoMetricFamily(metric.name, metric.help, labels=metric.labels)
    return HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)


def make_registry(*collectors: Collector) -> CollectorRegistry:
    """A registry of its own, with the memory, processor time and open files of this process besides."""
    registry = CollectorRegistry()
    for collector in collectors:
        registry.register(collector)
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    return registry
