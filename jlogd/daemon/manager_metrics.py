"""What a manager tells Prometheus, made from its status when it is asked: nothing is counted here.

Locking: none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from jlogd.daemon.metrics import Metric
from jlogd.manager.status import ManagerStatus, NodeStatus, PullStatus

_PULL = ("node", "log", "subscriber")
_NODE = ("node", "subcluster")


def _metric(name: str, kind: str, help: str, labels: tuple[str, ...]) -> Metric:
    return Metric(f"jlogd_manager_{name}", kind, help, labels)  # type: ignore[arg-type]


NODE_UP = _metric("node_up", "gauge", "1 while the manager is connected to the node, else 0.", _NODE)
PULL_GAUGES: tuple[tuple[Metric, Callable[[PullStatus], float | None]], ...] = (
    (
        _metric("pull_up", "gauge", "1 while the log is pulled, 0 while something prevents it.", _PULL),
        lambda pull: float(pull.state == "streaming"),
    ),
    (
        _metric("pull_stopped", "gauge", "1 when a person must decide how the pull goes on, else 0.", _PULL),
        lambda pull: float(pull.state == "stopped"),
    ),
    (
        _metric(
            "pull_lag_records", "gauge", "Records on the node that are not written yet; none while it is away.", _PULL
        ),
        lambda pull: pull.lag_records,
    ),
    (
        _metric("pull_lag_bytes", "gauge", "Bytes on the node that are not written yet; none while it is away.", _PULL),
        lambda pull: pull.lag_bytes,
    ),
    (
        _metric("pull_lag_seconds", "gauge", "Age of the oldest record on the node that is not written yet.", _PULL),
        lambda pull: pull.lag_seconds,
    ),
)
# These are kept in the ledger: they go on over restarts.
PULL_COUNTERS: tuple[tuple[Metric, Callable[[PullStatus], float]], ...] = (
    (_metric("written_records", "counter", "Records written since the first contact.", _PULL), lambda p: p.records),
    (
        _metric("written_bytes", "counter", "Bytes of records written since the first contact.", _PULL),
        lambda p: p.bytes,
    ),
    (
        _metric("lost_records", "counter", "Records that gaps named: dropped, damaged, missing.", _PULL),
        lambda p: p.lost,
    ),
    (_metric("restarts", "counter", "Times the log began anew, or a person decided.", _PULL), lambda p: p.restarts),
)
HELD = _metric("held_bytes", "gauge", "Bytes read from nodes and not yet written.", ())
# Key in the counters of the rounds -> metric.
GAUGES = {
    "files_open": _metric("open_files", "gauge", "Text files open at the moment.", ()),
    "files_aside": _metric(
        "aside_files", "gauge", "Files with what stood behind recorded ends after a crash, and has not come again.", ()
    ),
    "files_unclaimed": _metric(
        "unclaimed_files", "gauge", "Those of them that have not come again for a minute, or are somebody's.", ()
    ),
}
COUNTERS = {
    "rounds": _metric("rounds", "counter", "Rounds committed: files synced, then the ledger.", ()),
    "failures": _metric("failed_rounds", "counter", "Rounds that failed and were done again.", ()),
    "refused": _metric("refused", "counter", "Times what arrived did not follow what was written.", ()),
    "files_made": _metric("made_files", "counter", "Text files that were made.", ()),
    "files_left": _metric("left_files", "counter", "Text files left alone because someone changed them.", ()),
    "files_moved": _metric("moved_files", "counter", "Text files that were renamed or removed by others.", ()),
    "files_cut_back": _metric("cut_back_files", "counter", "Text files cut back to what the ledger says.", ()),
    "files_compressed": _metric("compressed_files", "counter", "Text files that were compressed when closed.", ()),
    "files_evicted": _metric("evicted_files", "counter", "Text files closed to keep to open_files_max.", ()),
}


def manager_metrics() -> list[Metric]:
    """Every metric of a manager, in the order they are exposed."""
    pulls = [metric for metric, _ in (*PULL_GAUGES, *PULL_COUNTERS)]
    return [NODE_UP, *pulls, HELD, *GAUGES.values(), *COUNTERS.values()]


class ManagerCollector(Collector):
    """Asks for the status at every scrape; there may be no manager."""

    def __init__(self, status: Callable[[], ManagerStatus | None]) -> None:
        self._status = status

    def describe(self) -> Iterable[Family]:
        """The names, without asking anybody."""
        return [_family(metric) for metric in manager_metrics()]

    def collect(self) -> Iterator[Family]:
        status = self._status()
        if status is None:
            return
        families = {metric.name: _family(metric) for metric in manager_metrics()}
        for node in status.nodes:
            _add(families, NODE_UP, _node_labels(node), float(node.up))
        for pull in status.pulls:
            labels = {"node": pull.node, "log": pull.log, "subscriber": pull.subscriber}
            for metric, value in (*PULL_GAUGES, *PULL_COUNTERS):
                if (found := value(pull)) is not None:
                    _add(families, metric, labels, found)
        _add(families, HELD, {}, status.held_bytes)
        for key, metric in (*GAUGES.items(), *COUNTERS.items()):
            _add(families, metric, {}, status.counters.get(key, 0))
        yield from families.values()


def _node_labels(node: NodeStatus) -> dict[str, str]:
    return {"node": node.name, "subcluster": node.subcluster}


def _add(families: dict[str, Family], metric: Metric, labels: dict[str, str], value: float) -> None:
    families[metric.name].add_sample(metric.exposed, labels, value)


def _family(metric: Metric) -> Family:
    made = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    return made(metric.name, metric.help, labels=metric.labels)
