"""`python -m bench.vip`: measure `vip`, print the tables, keep the numbers.

    python -m bench.vip kernel                 addresses in bulk, the gate, lifetimes: about a minute
    python -m bench.vip kernel --rounds 10
    python -m bench.vip failover               us, keepalived and ucarp, fault by fault: some ten minutes
    python -m bench.vip scale                  ten thousand addresses on four nodes: some five minutes
    python -m bench.vip failover --system vip --fault "kill -9"

Needs root, for network namespaces. Numbers are kept beside those of `python -m bench`.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
import tempfile
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from bench import vip  # noqa: F401  (the tests' networks are found through it)
from bench.samples import duration
from bench.vip.failover import failover
from bench.vip.scale import scale

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
    from vip_net import why_no_namespaces

    from bench.vip.kernel import measure

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


main.add_command(failover)
main.add_command(scale)


if __name__ == "__main__":
    main()
