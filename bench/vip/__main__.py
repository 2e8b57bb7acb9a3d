"""`python -m bench.vip`: measure `vip`, print the tables, keep the numbers, write them into the pages.

    python -m bench.vip kernel                 addresses in bulk, the gate, lifetimes: some two minutes
    python -m bench.vip scale                  ten thousand addresses on four nodes: some two minutes
    python -m bench.vip failover               us, keepalived and ucarp, fault by fault: some fifteen minutes
    python -m bench.vip failover --system vip --fault "kill -9"
    python -m bench.vip report                 tables of docs/vip.md and docs/vip-kernel.md, and the picture

Measuring needs root, for network namespaces. Numbers are kept beside those of `python -m bench`.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import click
from rich.console import Console

from bench import vip  # noqa: F401  (the tests' networks are found through it)
from bench.machine import facts
from bench.vip.failover import failover
from bench.vip.report import report
from bench.vip.results import RESULTS, WIDTH, KernelRun, keep
from bench.vip.scale import scale
from bench.vip.tables import show_kernel


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
    machine = facts(Path.cwd())
    with tempfile.TemporaryDirectory() as directory:
        run = KernelRun(machine=machine, measures=measure(Path(directory), rounds))
    show_kernel(run, Console(width=WIDTH))
    keep(run, output)


main.add_command(failover)
main.add_command(report)
main.add_command(scale)


if __name__ == "__main__":
    main()
