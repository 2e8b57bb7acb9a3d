"""The metrics: names and units by the conventions of Prometheus, values from `stat()`, and docs that agree."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from jlogd.daemon.metrics import (
    LOG_COUNTERS,
    SOURCE_COUNTERS,
    SOURCE_GAUGES,
    SYNC_BOUNDS_SECONDS,
    JlogdCollector,
    SourceStat,
    SyncTimes,
    all_metrics,
    make_registry,
    metric_table,
)
from jlogd.journal.types import Caps, LogStat, SubscriberStat

DOCS = Path(__file__).parent.parent / "docs" / "metrics.md"


def log_stat(name: str = "mainlog") -> LogStat:
    return LogStat(
        name=name,
        target=f"/spool/{name}",
        uuid="0" * 32,
        bytes=4096,
        segments=2,
        first=11,
        next=111,
        epoch=3,
        durability="interval=500ms",
        compression="zstd",
        segment_bytes=64 << 20,
        created=1.7e9,
        oldest_time=1.7e9 + 1,
        newest_time=1.7e9 + 2,
        pinned_by="slow",
        failed="",
        subscribers=[
            SubscriberStat(name="master", next=111, lag_records=0, lag_bytes=0, lag_seconds=0.0, holder="pid 12"),
            SubscriberStat(
                name="slow",
                next=11,
                lag_records=100,
                lag_bytes=4000,
                lag_seconds=12.5,
                dropped=7,
                damaged=2,
                caps=Caps(1 << 20, 60.0, "drop-oldest"),
                pins=True,
            ),
        ],
        counters={
            "records": 100,
            "bytes": 4096,
            "torn_bytes": 17,
            "duplicate_batches": 4,
            "refused_full": 5,
            "never_heard_of": 6,
        },
    )


def collector() -> JlogdCollector:
    made = JlogdCollector(
        logs=lambda: [log_stat(), log_stat('o"d\\d\n')],
        sources=lambda: [
            SourceStat("syslog-1", {"messages": 9, "bytes": 900, "connections_open": 1, "news": 3}),
            SourceStat("stdin", {"messages": 1}, up=False),
        ],
        wire=lambda: {"requests": 8},
        wire_now=lambda: {"connections": 2},
        version="0.1.0",
        node="east1",
        subcluster="east",
    )
    for seconds in (0.00005, 0.00006, 0.5, 7.0):
        made.sync_times("mainlog").observe(seconds)
    return made


def values(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.fixture
def registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(collector())
    return registry


def test_values(registry: CollectorRegistry) -> None:
    found = values(generate_latest(registry).decode())

    def value(name: str, **labels: str) -> float:
        return found[name, frozenset(labels.items())]

    log = {"log": "mainlog"}
    assert value("jlogd_build_info", version="0.1.0", node="east1", subcluster="east") == 1
    assert value("jlogd_log_info", **log, uuid="0" * 32, durability="interval=500ms", compression="zstd") == 1
    assert value("jlogd_appended_records_total", **log) == 100
    assert value("jlogd_appended_bytes_total", **log) == 4096
    assert value("jlogd_duplicate_batches_total", **log) == 4
    assert value("jlogd_refused_batches_total", **log, reason="full") == 5
    assert value("jlogd_log_events_total", **log, event="never_heard_of") == 6
    assert value("jlogd_log_size_bytes", **log) == 4096 and value("jlogd_log_segments", **log) == 2
    assert value("jlogd_log_first_sequence", **log) == 11 and value("jlogd_log_next_sequence", **log) == 111
    assert value("jlogd_log_epoch", **log) == 3
    assert value("jlogd_torn_bytes_total", **log) == 17
    assert value("jlogd_log_failed", **log) == 0
    assert value("jlogd_log_pinned_by", **log, subscriber="slow") == 1
    slow = {**log, "subscriber": "slow"}
    assert value("jlogd_subscriber_lag_records", **slow) == 100
    assert value("jlogd_subscriber_lag_bytes", **slow) == 4000
    assert value("jlogd_subscriber_lag_seconds", **slow) == 12.5
    assert value("jlogd_subscriber_connected", **slow) == 0
    assert value("jlogd_subscriber_connected", **log, subscriber="master") == 1
    assert value("jlogd_subscriber_cap_bytes", **slow) == 1 << 20
    assert value("jlogd_subscriber_cap_seconds", **slow) == 60
    assert value("jlogd_subscriber_dropped_records_total", **slow) == 7
    assert value("jlogd_subscriber_damaged_records_total", **slow) == 2
    assert value("jlogd_source_records_total", source="syslog-1") == 9
    assert value("jlogd_source_open_connections", source="syslog-1") == 1
    assert value("jlogd_source_events_total", source="syslog-1", event="news") == 3
    assert value("jlogd_source_up", source="syslog-1") == 1 and value("jlogd_source_up", source="stdin") == 0
    assert value("jlogd_wire_events_total", event="requests") == 8
    assert value("jlogd_wire_current", what="connections") == 2
    assert value("jlogd_log_epoch", log='o"d\\d\n') == 3


def test_the_sync_histogram(registry: CollectorRegistry) -> None:
    found = values(generate_latest(registry).decode())
    buckets = {
        dict(labels)["le"]: value for (name, labels), value in found.items() if name == "jlogd_sync_seconds_bucket"
    }
    assert len(buckets) == len(SYNC_BOUNDS_SECONDS) + 1
    assert buckets["5e-05"] == 1 and buckets["0.0001"] == 2 and buckets["0.5"] == 3 and buckets["+Inf"] == 4
    assert found["jlogd_sync_seconds_count", frozenset({("log", "mainlog")})] == 4
    assert found["jlogd_sync_seconds_sum", frozenset({("log", "mainlog")})] == pytest.approx(7.50011)


@given(st.lists(st.floats(0, 10)))
def test_buckets_only_grow_and_hold_everything(times: list[float]) -> None:
    observed = SyncTimes()
    for seconds in times:
        observed.observe(seconds)
    counts = [count for _, count in observed.buckets()]
    assert counts == sorted(counts) and counts[-1] == len(times)
    for bound, count in zip(SYNC_BOUNDS_SECONDS, counts, strict=False):
        assert count == sum(seconds <= bound for seconds in times)


def test_the_buckets_fit_what_disks_do() -> None:
    assert SYNC_BOUNDS_SECONDS[0] == 50e-6 and SYNC_BOUNDS_SECONDS[-1] == 1.0
    assert list(SYNC_BOUNDS_SECONDS) == sorted(SYNC_BOUNDS_SECONDS)


def test_openmetrics_is_valid(registry: CollectorRegistry) -> None:
    """The parser of OpenMetrics is strict: names, suffixes, order, duplicates."""
    families = list(parse_openmetrics(generate_openmetrics(registry).decode()))
    assert {family.name for family in families} == {metric.name for metric in all_metrics()}


def test_names_and_units_follow_the_conventions() -> None:
    names = [metric.name for metric in all_metrics()]
    assert len(set(names)) == len(names)
    for metric in all_metrics():
        assert re.fullmatch(r"jlogd_[a-z]+(_[a-z]+)*", metric.name), metric.name
        assert not metric.name.endswith(("_total", "_info", "_count", "_sum", "_bucket"))
        assert not re.search(r"_(ms|us|ns|milliseconds|minutes|kb|mb)\b", metric.name)
        assert metric.help.endswith(".") and len(metric.help) > 10
        assert "|" not in metric.help
        assert metric.exposed.endswith("_total") == (metric.kind == "counter")
        assert "le" not in metric.labels


def test_what_is_exposed_is_what_the_table_says(registry: CollectorRegistry) -> None:
    table = {metric.name: metric for metric in all_metrics()}
    for family in parse_openmetrics(generate_openmetrics(registry).decode()):
        assert family.type == table[family.name].kind and family.documentation == table[family.name].help
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(table[family.name].labels)


def test_registering_asks_nobody() -> None:
    def never() -> list[LogStat]:
        raise AssertionError("asked")

    registry = make_registry(JlogdCollector(logs=never))
    with pytest.raises(AssertionError, match="asked"):
        generate_latest(registry)


def test_an_idle_daemon() -> None:
    registry = make_registry(JlogdCollector(logs=list, version="1"))
    text = generate_latest(registry).decode()
    assert "process_resident_memory_bytes" in text and "jlogd_build_info" in text


def test_a_new_scrape_asks_again() -> None:
    stats: list[LogStat] = []
    registry = CollectorRegistry()
    registry.register(JlogdCollector(logs=lambda: stats))
    assert "mainlog" not in generate_latest(registry).decode()
    stats.append(log_stat())
    assert "mainlog" in generate_latest(registry).decode()


def test_the_docs_hold_the_table() -> None:
    assert metric_table() in DOCS.read_text(), "docs/metrics.md is not what jlogd.daemon.metrics.metric_table() gives"


def test_the_counters_of_the_journal_are_known() -> None:
    """A counter of the journal's appender without a metric of its own would only show as an event."""
    from jlogd.journal import appender

    counted = {name for name in appender._COUNTERS if not name.startswith("refused_")}
    assert counted <= set(LOG_COUNTERS)


def test_what_sources_count_is_known() -> None:
    from jlogd.sources import files, stdin, syslog

    counted = {*files.COUNTERS, *stdin.COUNTERS, *syslog.COUNTERS}
    assert counted <= {*SOURCE_COUNTERS, *SOURCE_GAUGES} and not set(SOURCE_COUNTERS) & set(SOURCE_GAUGES)
