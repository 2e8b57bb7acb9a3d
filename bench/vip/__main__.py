"""`python -m bench.vip`: measure `vip`, print the tables, keep the numbers.

    python -m bench.vip kernel                 addresses in bulk, the gate, lifetimes: about a minute
    python -m bench.vip kernel --rounds 10
    python -m bench.vip failover               the others, in five ways to fail: some five minutes
    python -m bench.vip failover --system ucarp --trial kill

Needs root, for network namespaces. Numbers are kept beside those of `python -m bench`.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table
from vip_net import why_no_namespaces

from bench.samples import duration
from bench.vip.failover import TRIALS, Trial, run_trial
from bench.vip.kernel import measure
from bench.vip.rivals import RIVALS

RESULTS = Path(__file__).resolve().parents[1] / "results"
WIDTH = 132


@click.group()
def main() -> None:
    """Measure vip: its kernel half beside `ip -batch`, failover beside keepalived and ucarp."""


@main.command()
@click.option("--rounds", default=5, show_default=True, help="How often each bulk is done.")
@click.option("--output", type=click.Path(path_type=Path), default=RESULTS / "vip-kernel.json", show_default=True)
def kernel(rounds: int, output: Path) -> None:
    """Addresses in bulk beside `ip -batch`, the cost of the gate, how late lifetimes are."""
    if why := why_no_namespaces():
        raise click.ClickException(why)
    with tempfile.TemporaryDirectory() as directory:
        found = measure(Path(directory), rounds)
    table = Table("what", "median", "from", "to", "runs")
    for one in found:
        shown = [f"{v:.4f}" if "%" in one.name else duration(v) for v in (one.value, min(one.runs), max(one.runs))]
        table.add_row(one.name, *shown, str(len(one.runs)))
    Console(width=WIDTH).print(table)
    output.write_text(json.dumps({"machine": _facts(), "measures": [asdict(one) for one in found]}, indent=1) + "\n")


@main.command()
@click.option("--system", "keys", multiple=True, type=click.Choice([one.key for one in RIVALS]), help="Only these.")
@click.option("--trial", "trials", multiple=True, type=click.Choice(TRIALS), help="Only these.")
@click.option("--rounds", default=1, show_default=True, help="How often each trial is done.")
@click.option("--output", type=click.Path(path_type=Path), default=RESULTS / "vip-failover.json", show_default=True)
def failover(keys: Sequence[str], trials: Sequence[str], rounds: int, output: Path) -> None:
    """The gap a client sees, and what two nodes held or said at once."""
    if why := why_no_namespaces():
        raise click.ClickException(why)
    found = []
    table = Table("system", "trial", "gap", "taken over", "two had it for", "spoke after another had")
    with tempfile.TemporaryDirectory() as directory:
        for kind in (one for one in RIVALS if not keys or one.key in keys):
            if why := kind.missing():
                click.echo(f"left out: {why}", err=True)
                continue
            for trial in (one for one in TRIALS if not trials or one in trials):
                for _ in range(rounds):
                    one = run_trial(kind, trial, Path(directory))
                    found.append(one)
                    table.add_row(kind.label, trial, *_shown(one))
    Console(width=WIDTH).print(table)
    output.write_text(json.dumps({"machine": _facts(), "trials": [asdict(one) for one in found]}, indent=1) + "\n")


def _shown(one: Trial) -> list[str]:
    if one.failure:
        return [one.failure, "", "", ""]
    both = duration(one.overlap_addresses) if one.overlap_addresses else "never"
    spoke = f"{one.overlap_wire} times" if one.overlap_wire else "never"
    return [duration(one.gap), "yes" if one.taken_over else "NO", both, spoke]


def _facts() -> dict[str, object]:
    """What a reader needs to compare; the load is that of all that ran besides."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "kernel": platform.release(),
        "cores": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "iproute2": subprocess.run(["ip", "-V"], capture_output=True, text=True).stdout.strip(),
    }


if __name__ == "__main__":
    main()
