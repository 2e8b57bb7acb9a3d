"""The picture of docs/vip.md: how long a client went without an answer, by fault and system, on a scale of decades.

Where two nodes spoke for the address at once, the bar says how often: there its length is worth nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.plot import INK, RIVAL, RULE, STYLE, bare
from bench.samples import duration
from bench.vip.results import FailoverRun, Result
from bench.vip.tables import FAULTS_ORDER, conditions

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OURS = {"vip": "#2f81f7", "vip-lan": "#a371f7"}
TWICE = "#d1242f"
# Seconds: the scale begins below what is measured a hundred times a second.
SHORTEST = 0.005
# Columns of the picture: what an operator does or a program suffers, and what befalls a machine.
COLUMNS = (FAULTS_ORDER[:4], FAULTS_ORDER[4:])
TITLES = ("Stopped, drained, killed, unplugged", "Frozen, cut off, dead")


def draw(run: FailoverRun, path: Path) -> None:
    """Write the picture as SVG."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    results = [result for result in run.results if not result.failure]
    with pyplot.rc_context(STYLE):  # type: ignore[arg-type]
        figure, columns = pyplot.subplots(1, 2, figsize=(11, 5.6))
        figure.patch.set_alpha(0)
        longest = max((result.gap for result in results), default=1.0) * 30  # room for what a bar says
        for axes, faults in zip(columns, COLUMNS, strict=True):
            _bars(axes, [result for fault in faults for result in results if result.fault == fault], longest)
        figure.text(
            0.012,
            0.012,
            f"Longest gap seen by a client that asks 100 times a second. {conditions(run.machine)}.",
            fontsize=8,
            color=INK,
        )
        figure.tight_layout(rect=(0, 0.04, 1, 0.93), w_pad=3)
        for x, title in zip((0.012, 0.51), TITLES, strict=True):
            figure.text(x, 0.95, title, fontsize=12, fontweight="bold", color=INK)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="svg", transparent=True, metadata={"Date": None})
        pyplot.close(figure)


def _bars(axes: Axes, results: Sequence[Result], longest: float) -> None:
    """One bar each, a gap between faults, the first on top."""
    at, places, names = 0.0, [], []
    fault = ""
    for result in results:
        if result.fault != fault:
            fault, at = result.fault, at - 0.9
            axes.text(SHORTEST, at + 0.55, fault, fontsize=10, fontweight="bold", color=INK, va="bottom")
        axes.barh(at, result.gap - SHORTEST, left=SHORTEST, height=0.68, color=_colour(result))
        twice = f"   two nodes at once, {result.spoke_twice} times" if result.spoke_twice else ""
        axes.text(result.gap * 1.08, at, f"{duration(result.gap)}{twice}", va="center", fontsize=8.5,
                  color=TWICE if twice else INK)  # fmt: skip
        places.append(at)
        names.append(result.label)
        at -= 0.85
    axes.set_xscale("log")
    axes.set_xlim(SHORTEST, longest)
    axes.set_yticks(places, names, fontsize=8.5)
    ticks = [0.01, 0.1, 1.0, 10.0]
    axes.set_xticks(ticks, ["10 ms", "0.1 s", "1 s", "10 s"])
    axes.minorticks_off()
    axes.tick_params(length=0)
    axes.grid(axis="x", color=RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    for label, result in zip(axes.get_yticklabels(), results, strict=True):
        if result.system in OURS:
            label.set_color(OURS[result.system])
            label.set_fontweight("bold")
    bare(axes)


def _colour(result: Result) -> str:
    if result.spoke_twice:
        return TWICE
    return OURS.get(result.system, RIVAL)
