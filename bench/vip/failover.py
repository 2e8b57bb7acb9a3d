"""`python -m bench.vip failover`: the gap a client sees, and how often an address is spoken for twice, by fault."""

from __future__ import annotations

import shutil
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

import click
import msgspec
from rich.console import Console
from vip_net import why_no_namespaces

from bench.machine import facts
from bench.vip.faults import FAULTS, measure
from bench.vip.results import RESULTS, WIDTH, FailoverRun, Result, keep
from bench.vip.systems import SYSTEMS, System
from bench.vip.tables import show_failover

RESULT = RESULTS / "vip-failover.json"


@click.command()
@click.option("--system", "keys", multiple=True, type=click.Choice([s.key for s in SYSTEMS]), help="Only these.")
@click.option("--fault", "faults", multiple=True, type=click.Choice(list(FAULTS)), help="Only these.")
@click.option("--rounds", default=1, show_default=True, help="How often each is done; the median is kept.")
@click.option("--output", type=click.Path(path_type=Path), default=RESULT, show_default=True)
def failover(keys: Sequence[str], faults: Sequence[str], rounds: int, output: Path) -> None:
    """Measure failover. A partial run is not saved over the last full one unless --output says where."""
    if why := why_no_namespaces():
        raise click.ClickException(why)
    console = Console(width=WIDTH)
    machine = facts(Path.cwd())
    found: list[Result] = []
    directory = Path(tempfile.mkdtemp(prefix="bench-vip-"))
    for system in (system for system in SYSTEMS if not keys or system.key in keys):
        for fault in (fault for fault in FAULTS if (not faults or fault in faults) and system.knows(fault)):
            results = [_one(system, fault, directory / f"{system.key}-{fault}-{at}") for at in range(rounds)]
            found.append(_median(results))
            console.print(_line(found[-1]), highlight=False, soft_wrap=True)
    shutil.rmtree(directory, ignore_errors=True)
    run = FailoverRun(machine=machine, rounds=rounds, results=found)
    show_failover(run, console)
    if not (keys or faults) or output != RESULT:
        keep(run, output)


def _one(system: System, fault: str, directory: Path) -> Result:
    try:
        return measure(system, fault, directory)
    except (Exception, AssertionError) as error:  # one that does not start must not end the others
        words = str(error).splitlines()[0] if str(error) else type(error).__name__
        return Result(system=system.key, label=system.label, fault=fault, failure=words)


def _median(results: Sequence[Result]) -> Result:
    good = [result for result in results if not result.failure]
    if not good:
        return results[0]
    return msgspec.structs.replace(
        good[0],
        gap=statistics.median(result.gap for result in good),
        spoke_twice=max(result.spoke_twice for result in good),
        held_twice=max(result.held_twice for result in good),
        gaps=[result.gap for result in good],
    )


def _line(result: Result) -> str:
    if result.failure:
        return f"{result.label}: {result.fault}: not measured: {result.failure}"
    twice = f"spoken for twice {result.spoke_twice} times, held twice for {result.held_twice:.1f} s"
    return f"{result.label}: {result.fault}: gap {result.gap:.3f} s, {twice}"
