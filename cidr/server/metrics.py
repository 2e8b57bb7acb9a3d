"""What /metrics shows."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from cidr.ask import Answering
from cidr.server.desk import Desk

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# From what the cache answers to what a cold year takes.
_SECONDS = (0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 30.0)


class Metrics:
    """The server's numbers."""

    def __init__(self, engine: Answering, desk: Desk) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "cidr_requests_total", "Requests by route and status.", ["route", "status"], registry=self._registry
        )
        self.seconds = Histogram(
            "cidr_query_seconds", "How long queries took, in seconds.", registry=self._registry, buckets=_SECONDS
        )
        self.maintained = Counter(
            "cidr_maintain_runs_total", "Runs of maintain on schedule.", ["result"], registry=self._registry
        )
        self._registry.register(_Engine(engine, desk))

    def page(self) -> bytes:
        """The page."""
        return generate_latest(self._registry)


class _Engine(Collector):
    def __init__(self, engine: Answering, desk: Desk) -> None:
        self._engine = engine
        self._desk = desk

    def collect(self) -> Iterator[Metric]:
        cache = self._engine.cache(0)
        yield GaugeMetricFamily("cidr_cache_bytes", "Bytes of counts held in memory.", cache.bytes)
        yield GaugeMetricFamily("cidr_cache_bytes_max", "Bytes of counts held at most.", cache.bytes_max)
        yield CounterMetricFamily("cidr_cache_hits", "Segments found in memory.", cache.hits)
        yield CounterMetricFamily("cidr_cache_misses", "Segments read from disk.", cache.misses)
        yield GaugeMetricFamily("cidr_queries", "Queries that run or wait.", self._desk.taken)
