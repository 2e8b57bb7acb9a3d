"""What a daemon tells Prometheus, made when it is asked. The table in docs/vip.md is checked against METRICS.

Locking: none; the numbers are read from the daemon as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from vip.clock import boot_ns, seconds
from vip.daemon import Daemon
from vip.report import kernel_counts, owner_counts

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

# name -> (kind, help, labels)
METRICS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "vip_addresses_held": ("gauge", "Addresses that are on this node now.", ()),
    "vip_addresses_owned": ("gauge", "Addresses that the store says a live node owns, by node.", ("node",)),
    "vip_addresses_blocked": ("gauge", "Addresses of this node that a foreign host has.", ()),
    "vip_addresses_free": ("gauge", "Configured addresses that no live node owns.", ()),
    "vip_deadline_seconds": ("gauge", "How long this node may hold its addresses without another heartbeat.", ()),
    "vip_ready": (
        "gauge",
        "1 when this node may have up what it owns: ready, and before its deadline.",
        (),
    ),
    "vip_nodes_alive": ("gauge", "Nodes with a live session.", ()),
    "vip_check_failing": ("gauge", "1 when a check of this node fails.", ("check",)),
    "vip_heartbeat_seconds": ("gauge", "How long the last committed heartbeat took.", ()),
    "vip_heartbeats": ("counter", "Heartbeats that were committed.", ()),
    "vip_heartbeat_failures": ("counter", "Heartbeats without a known outcome.", ()),
    "vip_stream_breaks": ("counter", "How often the stream of changes broke.", ()),
    "vip_snapshots": ("counter", "How often everything was read from the store.", ()),
    "vip_changes": ("counter", "Changes of owner seen.", ()),
    "vip_taken": ("counter", "Addresses that this node put up.", ()),
    "vip_removed": ("counter", "Addresses that this node laid down.", ()),
    "vip_sessions": ("counter", "Sessions that this process began.", ()),
    "vip_hook_runs": ("counter", "Hooks that were run.", ()),
    "vip_hook_failures": ("counter", "Hooks that failed, or did not end in time.", ()),
    "vip_store_bytes": ("gauge", "What etcd has on its disk, by the member that this node asks.", ()),
    "vip_store_alarms": ("gauge", "Alarms of etcd; with NOSPACE it accepts no change.", ()),
    "vip_history_dropped": ("counter", "Changes that could not be written to the log.", ()),
    "vip_kernel_events": ("counter", "What the kernel's half counts, by its name.", ("event",)),
}


class VipCollector(Collector):
    """Reads a daemon."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    def collect(self) -> Iterator[Metric]:
        values = self._values()
        for name, (kind, text, labels) in METRICS.items():
            make = GaugeMetricFamily if kind == "gauge" else CounterMetricFamily
            family = make(name, text, labels=labels)
            for label, value in values[name]:
                family.add_metric([label] if labels else [], value)
            yield family

    def _values(self) -> dict[str, Iterable[tuple[str, float]]]:
        daemon = self._daemon
        node, now = daemon.node, boot_ns()
        owners = owner_counts(daemon)
        owned = sum(owners.values())

        def one(value: float) -> list[tuple[str, float]]:
            return [("", float(value))]

        return {
            "vip_addresses_held": one(len(node.holdings.present)),
            "vip_addresses_owned": sorted((name, float(count)) for name, count in owners.items()),
            "vip_addresses_blocked": one(len(node.holdings.blocked())),
            "vip_addresses_free": one(max(len(node.holdings.floatings) - owned, 0)),
            "vip_deadline_seconds": one(max(seconds(node.session.deadline - now), 0.0)),
            "vip_ready": one(node.may_hold(now)),
            "vip_nodes_alive": one(len(node.view.sessions)),
            "vip_check_failing": [(name, float(name in daemon.failing())) for name in sorted(daemon.settings.check)],
            "vip_heartbeat_seconds": one(daemon.heart.last_took),
            "vip_heartbeats": one(daemon.heart.beats),
            "vip_heartbeat_failures": one(daemon.heart.failures),
            "vip_stream_breaks": one(daemon.stream.breaks),
            "vip_snapshots": one(daemon.stream.snapshots),
            "vip_changes": one(daemon.counts["changes"]),
            "vip_taken": one(daemon.counts["taken"]),
            "vip_removed": one(daemon.counts["removed"]),
            "vip_sessions": one(daemon.counts["sessions"]),
            "vip_hook_runs": one(daemon.hooks.runs),
            "vip_hook_failures": one(daemon.hooks.failures),
            "vip_store_bytes": one(daemon.keeper.bytes),
            "vip_store_alarms": one(len(daemon.keeper.alarms)),
            "vip_history_dropped": one(daemon.history.dropped),
            "vip_kernel_events": sorted((name, float(value)) for name, value in kernel_counts(daemon).items()),
        }


def registry_of(daemon: Daemon) -> CollectorRegistry:
    """A registry of its own, with memory and processor time of this process besides."""
    registry = CollectorRegistry()
    registry.register(VipCollector(daemon))
    ProcessCollector(registry=registry)
    return registry
