"""The picture of the README, drawn from the numbers of a run.

Left, how fast each system appends a batch of 1000 durably; right, the same over the sizes of a batch. Only greys and
hues that stand out on white and on near-black alike, on a transparent ground: a README is read in both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.machine import busy
from bench.results import Row, Run, find
from bench.samples import duration, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BATCH = 1000
RECORD_BYTES = 100
INK, RULE = "#7d8590", "#8b949e40"
OURS = {"jlogd": "#2f81f7", "jlogd-zmq": "#a371f7"}
LIMIT, RIVAL = "#3fb950", "#8b949e"
# Least distance of two labels at the ends of lines, as a share of the axis.
LABEL_SHARE = 0.052
APART_ROUNDS = 200
SKIPPED = ("jlogd-threads",)
STYLE = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": RULE,
    "xtick.color": INK,
    "ytick.color": INK,
    "svg.fonttype": "path",
    "svg.hashsalt": "jlogd",  # the same numbers give the same file
}


def draw(run: Run, path: Path) -> None:
    """Write the picture as SVG."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    rows = [
        row
        for row in run.rows
        if row.case == "append" and row.record_bytes == RECORD_BYTES and row.producers == 1 and row.rate
        if row.system not in SKIPPED
    ]
    with pyplot.rc_context(STYLE):  # type: ignore[arg-type]
        figure, (bars, lines) = pyplot.subplots(1, 2, figsize=(11, 4.6), width_ratios=[1, 1.15])
        figure.patch.set_alpha(0)
        _bars(bars, [row for row in rows if row.batch == BATCH])
        _lines(lines, rows)
        figure.text(0.012, 0.012, _caption(run, rows), fontsize=8, color=INK)
        figure.tight_layout(rect=(0, 0.05, 1, 0.92), w_pad=3)
        for x, title in (
            (0.012, f"Durable records a second, in batches of {BATCH:,}"),
            (0.51, "In batches of other sizes"),
        ):
            figure.text(x, 0.945, title, fontsize=12, fontweight="bold", color=INK)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="svg", transparent=True, metadata={"Date": None})
        pyplot.close(figure)


def _colour(key: str) -> str:
    return OURS.get(key, LIMIT if key == "limit" else RIVAL)


def _bars(axes: Axes, rows: Sequence[Row]) -> None:
    ordered = sorted(rows, key=lambda row: row.rate)
    jlogd = find(rows, system="jlogd")
    axes.barh(
        range(len(ordered)), [row.rate for row in ordered], color=[_colour(row.system) for row in ordered], height=0.62
    )
    axes.set_yticks(range(len(ordered)), [row.label for row in ordered])
    for at, row in enumerate(ordered):
        text = f" {number(row.rate)}"
        if jlogd and not row.system.startswith(("jlogd", "limit")):
            text += f"   jlogd {jlogd.rate / row.rate:.3g}x"
        axes.text(row.rate, at, text, va="center", fontsize=9, color=INK)
    axes.set_xlim(0, max(row.rate for row in rows) * 1.18)
    axes.set_xticks([])
    axes.tick_params(length=0)
    for label, row in zip(axes.get_yticklabels(), ordered, strict=True):
        if row.system in OURS:
            label.set_color(OURS[row.system])
            label.set_fontweight("bold")
    bare(axes)


def _lines(axes: Axes, rows: Sequence[Row]) -> None:
    batches = sorted({row.batch for row in rows})
    axes.set_xscale("log")
    axes.set_yscale("log")
    ends: list[tuple[float, str, str]] = []
    for key, label in dict.fromkeys((row.system, row.label) for row in rows):
        points = sorted((row.batch, row.rate) for row in rows if row.system == key)
        ours = key in OURS
        style: dict[str, Any] = {"linestyle": "--"} if key == "limit" else {}
        weight: dict[str, Any] = (
            {"linewidth": 2.4, "markersize": 4, "zorder": 3} if ours else {"linewidth": 1.3, "markersize": 2.5}
        )
        axes.plot(*zip(*points, strict=True), color=_colour(key), marker="o", **style, **weight)
        ends.append((points[-1][1], label, key))
    _end_labels(axes, batches[-1], ends)
    axes.set_xticks(batches, [f"{batch:,}" for batch in batches])
    ticks = [10.0**power for power in range(3, 8) if axes.get_ylim()[0] <= 10.0**power <= axes.get_ylim()[1]]
    axes.set_yticks(ticks, [number(tick).replace(" ", "") for tick in ticks])
    axes.minorticks_off()
    axes.tick_params(length=0)
    axes.grid(axis="y", color=RULE, linewidth=0.8)
    axes.set_xlabel("records in a batch, synced together")
    bare(axes)


def _end_labels(axes: Axes, x: float, ends: Sequence[tuple[float, str, str]]) -> None:
    """Name each line at its end, moving names apart that would overlap."""
    ordered = sorted(ends)
    low, high = map(math.log10, axes.get_ylim())
    heights = _apart([math.log10(rate) for rate, _, _ in ordered], LABEL_SHARE * (high - low))
    for height, (rate, label, key) in zip(heights, ordered, strict=True):
        axes.annotate(
            label, (x, rate), xytext=(x * 1.35, 10**height), fontsize=8.5, va="center", color=_colour(key),
            fontweight="bold" if key in OURS else "normal", annotation_clip=False,
        )  # fmt: skip


def _apart(wanted: Sequence[float], least: float) -> list[float]:
    """Ascending positions near the wanted ones, each at least `least` from the next."""
    found = list(wanted)
    for _ in range(APART_ROUNDS):
        for at in range(len(found) - 1):
            short = least - (found[at + 1] - found[at])
            if short > 0:
                found[at] -= short / 2
                found[at + 1] += short / 2
    return found


def bare(axes: Axes) -> None:
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.patch.set_alpha(0)


def _caption(run: Run, rows: Sequence[Row]) -> str:
    machine = run.machine
    sync = find(rows, system="limit", batch=1)
    taken = duration(sync.p50 if sync else machine["fdatasync_seconds"])
    busy_note = f", load {machine['load']} from other work" if busy(machine) else ""
    kernel = machine["kernel"].split("-")[0]
    return (
        f"{RECORD_BYTES}-byte records, one producer, every system synced to disk before it acknowledges. "
        f"{machine['processor']}, {machine['cores']} cores, {machine['file_system']}, Linux {kernel}, "
        f"fdatasync {taken}, {machine['date'][:10]}{busy_note}."
    )
