"""The tables of the benchmarks of `vip`: for the terminal, and as Markdown for the pages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.machine import busy
from bench.samples import duration
from bench.vip.results import FailoverRun, KernelRun, Result, ScaleRun

FAULTS_ORDER = ("clean stop", "drain", "kill -9", "link lost", "frozen", "cut off", "dead")
# (fault, system) -> the gap that is wanted, in seconds.
TARGETS = {
    ("clean stop", "vip"): 0.1,
    ("drain", "vip"): 0.1,
    ("kill -9", "vip"): 0.5,
    ("cut off", "vip"): 4.5,
    ("frozen", "vip"): 4.5,
    ("dead", "vip"): 4.5,
    ("cut off", "vip-lan"): 1.8,
    ("frozen", "vip-lan"): 1.8,
    ("dead", "vip-lan"): 1.8,
}
# Times of what `ip -batch` needs for the same additions.
SCALE_TARGET = 2.0

# Percent of a core that keeping the gate open may take with all addresses.
GATE_TARGET = 1.0

Rows = tuple[Sequence[str], list[Sequence[str]]]


def conditions(machine: dict[str, Any]) -> str:
    """Where and when, in a sentence."""
    kernel = str(machine["kernel"]).split("-")[0]
    other = f", load {machine['load']} at the start" if busy(machine) else ""
    return f"{machine['date'][:10]}, {machine['cores']} cores, Linux {kernel}{other}"


# ---- failover ----


def failover_rows(run: FailoverRun) -> Rows:
    """A line for each system, a column for each fault."""
    faults = [fault for fault in FAULTS_ORDER if any(result.fault == fault for result in run.results)]
    by_cell = {(result.label, result.fault): result for result in run.results}
    labels = dict.fromkeys(result.label for result in run.results)
    return ("", *faults), [(label, *(_gap(by_cell.get((label, fault))) for fault in faults)) for label in labels]


def _gap(result: Result | None) -> str:
    if result is None or result.failure:
        return "-"
    twice = f", twice {result.spoke_twice}x" if result.spoke_twice else ""
    return f"{duration(result.gap)}{twice}"


def failover_goals(run: FailoverRun) -> Rows:
    """What is wanted, and what was found."""
    lines: list[Sequence[str]] = []
    for result in run.results:
        wanted = TARGETS.get((result.fault, result.system))
        if wanted is not None:
            found = duration(result.gap) if not result.failure else "not measured"
            met = not result.failure and result.gap < wanted
            lines.append((f"{result.label}: {result.fault}", f"under {wanted:g} s", found, _met(met)))
    ours = [result for result in run.results if result.system.startswith("vip") and not result.failure]
    twice = sum(result.spoke_twice for result in ours)
    lines.append(("vip: spoken for twice, in all of it", "never", f"{twice} times", _met(bool(ours) and not twice)))
    return ("", "wanted", "found", ""), lines


# ---- scale ----


def scale_rows(run: ScaleRun) -> Rows:
    """A line for each phase."""
    heads = (
        "",
        "whole",
        "from the first address to the last",
        "additions",
        "`ip -batch`, one node",
        "four at once",
        "times one `ip -batch`",
        "daemons' processor time",
    )
    lines: list[Sequence[str]] = [
        (
            phase.name,
            f"{phase.whole:.1f} s",
            f"{phase.work:.1f} s",
            f"{phase.additions:,}",
            f"{phase.ip_batch:.2f} s",
            f"{phase.ip_batch_spread:.2f} s",
            f"{phase.whole / phase.ip_batch:.1f}, {phase.work / phase.ip_batch:.1f} without the wait",
            f"{phase.daemon_seconds:.1f} s",
        )
        for phase in run.found.phases
    ]
    return heads, lines


def scale_goals(run: ScaleRun) -> Rows:
    lines: list[Sequence[str]] = []
    for phase in run.found.phases:
        ratio = phase.work / phase.ip_batch
        name = f"{phase.name}, additions against `ip -batch`"
        lines.append((name, f"at most {SCALE_TARGET:g}x", f"{ratio:.1f}x", _met(ratio <= SCALE_TARGET)))
    for name, values in (("daemon", run.found.quiet_daemon_percent), ("guard", run.found.quiet_guard_percent)):
        lines.append((f"a quiet {name}, of one core", "", f"{max(values):.1f} % at most", ""))
    return ("", "wanted", "found", ""), lines


# ---- kernel ----


def kernel_rows(run: KernelRun) -> Rows:
    lines: list[Sequence[str]] = []
    for one in run.measures:
        shown = [f"{v:.4f}" if "%" in one.name else _when(v) for v in (one.value, min(one.runs), max(one.runs))]
        lines.append((one.name, *shown, str(len(one.runs))))
    return ("", "median", "from", "to", "runs"), lines


def kernel_goals(run: KernelRun) -> Rows:
    shares = [one for one in run.measures if "%" in one.name and "IPv6" not in one.name]
    lines = [(one.name, f"under {GATE_TARGET:g}", f"{one.value:.4f}", _met(one.value < GATE_TARGET)) for one in shares]
    return ("", "wanted", "found", ""), list(lines)


def _when(seconds: float) -> str:
    """A time that may lie before what it is measured from."""
    return f"-{duration(-seconds)}" if seconds < 0 else duration(seconds)


# ---- as text ----


def markdown(rows: Rows) -> str:
    heads, lines = rows
    return "\n".join("| " + " | ".join(line) + " |" for line in (heads, ["---"] * len(heads), *lines))


def show(title: str, rows: Rows, console: Console) -> None:
    heads, lines = rows
    table = Table(title=title, title_justify="left")
    for head in heads:
        table.add_column(head.replace("`", ""))
    for line in lines:
        table.add_row(*(cell.replace("`", "") for cell in line))
    console.print(table)


def show_failover(run: FailoverRun, console: Console) -> None:
    show("Gap seen by the client, and how often two nodes spoke for the address", failover_rows(run), console)
    for words in _failures(run.results):
        console.print(words, style="yellow", highlight=False)
    show("Goals", failover_goals(run), console)


def show_scale(run: ScaleRun, console: Console) -> None:
    show(f"{run.found.addresses:,} addresses on four nodes", scale_rows(run), console)
    show("Goals", scale_goals(run), console)


def show_kernel(run: KernelRun, console: Console) -> None:
    show("The kernel's half", kernel_rows(run), console)
    show("Goals", kernel_goals(run), console)


def _failures(results: Iterable[Result]) -> Iterable[str]:
    return (f"not measured: {r.label}: {r.fault}: {r.failure}" for r in results if r.failure)


def _met(met: bool) -> str:
    return "met" if met else "missed"
