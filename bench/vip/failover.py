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
from rich.table import Table

from bench.machine import facts
from bench.vip.faults import FAULTS, Result, measure
from bench.vip.systems import SYSTEMS

RESULT = Path(__file__).resolve().parents[1] / "results" / "vip-failover.json"
# (fault, system) -> the gap that is wanted, in seconds.
TARGETS = {
    ("clean stop", "vip"): 0.1,
    ("kill -9", "vip"): 0.5,
    ("cut off", "vip"): 4.5,
    ("frozen", "vip"): 4.5,
    ("dead", "vip"): 4.5,
    ("cut off", "vip-lan"): 1.8,
    ("frozen", "vip-lan"): 1.8,
    ("dead", "vip-lan"): 1.8,
}


@click.command()
@click.option("--system", "keys", multiple=True, type=click.Choice([s.key for s in SYSTEMS]), help="Only these.")
@click.option("--fault", "faults", multiple=True, type=click.Choice(list(FAULTS)), help="Only these.")
@click.option("--rounds", default=1, show_default=True, help="How often each is done; the median is kept.")
@click.option("--output", type=click.Path(path_type=Path), default=RESULT, show_default=True)
def failover(keys: Sequence[str], faults: Sequence[str], rounds: int, output: Path) -> None:
    """Measure failover. A partial run is not saved over the last full one unless --output says where."""
    console = Console(width=120)
    found: list[Result] = []
    directory = Path(tempfile.mkdtemp(prefix="bench-vip-"))
    for system in (system for system in SYSTEMS if not keys or system.key in keys):
        for fault in (fault for fault in FAULTS if not faults or fault in faults):
            results = [_one(system, fault, directory / f"{system.key}-{fault}-{at}") for at in range(rounds)]
            found.append(_median(results))
            console.print(_line(found[-1]))
    shutil.rmtree(directory, ignore_errors=True)
    console.print(_table(found))
    if not (keys or faults) or output != RESULT:
        run = {"machine": facts(Path.cwd()), "rounds": rounds, "results": found}
        output.write_bytes(msgspec.json.format(msgspec.json.encode(run), indent=1) + b"\n")


def _one(system: object, fault: str, directory: Path) -> Result:
    try:
        return measure(system, fault, directory)  # type: ignore[arg-type]
    except Exception as error:  # one that does not start must not end the others
        words = str(error).splitlines()[0] if str(error) else type(error).__name__
        return Result(system=system.key, label=system.label, fault=fault, failure=words)  # type: ignore[attr-defined]


def _median(results: Sequence[Result]) -> Result:
    good = [result for result in results if not result.failure]
    if not good:
        return results[0]
    return msgspec.structs.replace(
        good[0],
        gap=statistics.median(result.gap for result in good),
        spoke_twice=max(result.spoke_twice for result in good),
        held_twice=max(result.held_twice for result in good),
    )


def _line(result: Result) -> str:
    if result.failure:
        return f"{result.label}: {result.fault}: not measured: {result.failure}"
    twice = f"spoken for twice {result.spoke_twice} times, held twice for {result.held_twice:.1f} s"
    return f"{result.label}: {result.fault}: gap {result.gap:.3f} s, {twice}"


def _table(results: Sequence[Result]) -> Table:
    table = Table(title="gap seen by the client, and (in brackets) how often two nodes spoke for the address")
    faults = [fault for fault in FAULTS if any(result.fault == fault for result in results)]
    for column in ("system", *faults):
        table.add_column(column)
    for label in dict.fromkeys(result.label for result in results):
        by_fault = {result.fault: result for result in results if result.label == label}
        table.add_row(label, *(_cell(by_fault.get(fault)) for fault in faults))
    return table


def _cell(result: Result | None) -> str:
    if result is None or result.failure:
        return "-"
    wanted = TARGETS.get((result.fault, result.system))
    goal = f" (goal {wanted:g})" if wanted else ""
    return f"{result.gap:.3f} s [{result.spoke_twice}]{goal}"
