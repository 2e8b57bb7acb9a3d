"""`python -m bench`: run the benchmarks, print the tables, keep the numbers, draw the picture.

    python -m bench                            all cases, a few minutes
    python -m bench run --full                 longer turns, more rounds, a 10 GB backlog
    python -m bench run --case append --system jlogd --system limit
    python -m bench plot                       draw docs/images/bench.svg from the last run
    python -m bench counts                     cidr beside DuckDB, chDB and SQLite on a year of counts

Everything is written below one directory (`--dir`, by default var/bench: the file system a log would be on) and removed
afterwards. Servers run as child processes on loopback ports.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench import machine, plot, report
from bench.cases.aggregate import STEPS, run_aggregate
from bench.cases.append import run_cell
from bench.cases.latency import RATES, run_latency
from bench.cases.memory import run_memory
from bench.cases.read import run_decode, run_read
from bench.cases.syslog import run_syslog
from bench.context import FULL, QUICK, Context, Profile
from bench.crew import Crew
from bench.results import Row, Run, load, save
from bench.rivals import PARTS, SYSTEMS, Shape, System
from bench.targets import judge

ROOT = Path(__file__).resolve().parent
RESULT = ROOT / "results" / "latest.json"
COUNTS_RESULT = ROOT / "results" / "counts.json"
COUNTS = ("cidr", "duckdb", "chdb", "sqlite")
PICTURE = ROOT.parent / "docs" / "images" / "bench.svg"
WORKERS = 4
# Columns of the tables when they do not go to a terminal.
WIDTH = 132
CASES = ("append", "stream", "read", "latency", "syslog", "memory", "aggregate")
KEYS = [system.key for system in (*SYSTEMS, *PARTS)]
DEFAULT_KEYS = [system.key for system in SYSTEMS]
BATCHES = (1, 10, 100, 1000, 10_000)
# Four producers send these in a quick run; a server that syncs each record needs minutes for the others.
QUICK_BATCHES = (1, 100, 1000)
# Streaming matters where a round trip or a sync is long beside the batch: small batches, and the batch of the targets.
STREAM_SHAPES = tuple(Shape(100, batch, producers) for producers in (1, 4) for batch in (1, 100, 1000))


def append_shapes(profile: Profile) -> list[Shape]:
    """Cells of the append tables."""
    several = BATCHES if profile is FULL else QUICK_BATCHES
    batches = {1: BATCHES, 4: several}
    return [Shape(size, batch, count) for size in (100, 1000) for count in (1, 4) for batch in batches[count]]


@click.group(invoke_without_command=True)
@click.pass_context
def main(context: click.Context) -> None:
    """Measure jlogd beside what a user would pick instead."""
    if context.invoked_subcommand is None:
        context.invoke(run)


@main.command()
@click.option("--full", is_flag=True, help="Longer turns, more rounds, a 10 GB backlog (about half an hour).")
@click.option("--case", "cases", multiple=True, type=click.Choice(CASES), help="Only these cases.")
@click.option("--system", "keys", multiple=True, type=click.Choice(KEYS), help="Only these systems.")
@click.option("--batch", "batches", multiple=True, type=int, help="Only these batch sizes.")
@click.option("--dir", "directory", type=click.Path(path_type=Path), default=Path("var/bench"), show_default=True)
@click.option("--output", type=click.Path(path_type=Path), default=RESULT, show_default=True)
def run(
    full: bool, cases: Sequence[str], keys: Sequence[str], batches: Sequence[int], directory: Path, output: Path
) -> None:
    """Run the benchmarks. A partial run is not saved over the last full one unless --output says where."""
    profile = FULL if full else QUICK
    systems = [system for system in (*SYSTEMS, *PARTS) if system.key in (keys or DEFAULT_KEYS)]
    chosen = [case for case in CASES if not cases or case in cases]
    console = _console()
    directory = directory.resolve() / "run"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    crew = Crew(WORKERS)
    try:
        facts = machine.facts(directory)
        with _progress(console) as progress:
            task = progress.add_task("", total=_steps(profile, chosen, systems, batches))
            context = Context(directory, profile, crew, lambda text: progress.update(task, advance=1, description=text))
            rows = [row for case in chosen for row in _case(context, case, systems, batches)]
    finally:
        crew.close()
        shutil.rmtree(directory, ignore_errors=True)
    result = Run(profile=profile.name, machine=facts, rows=rows, targets=judge(rows))
    report.show(result, console)
    partial = bool(cases or keys or batches)
    if not partial or output != RESULT:
        save(result, output)
        console.print(f"kept in {output}")


@main.command("plot")
@click.option("--input", "source", type=click.Path(path_type=Path, exists=True), default=RESULT, show_default=True)
@click.option("--output", type=click.Path(path_type=Path), default=PICTURE, show_default=True)
def draw(source: Path, output: Path) -> None:
    """Draw the picture of the README from the numbers of the last run."""
    plot.draw(load(source), output)
    click.echo(f"drawn to {output}")


@main.command()
@click.option("--input", "source", type=click.Path(path_type=Path, exists=True), default=RESULT, show_default=True)
def show(source: Path) -> None:
    """Print the tables of the last run again."""
    report.show(load(source), _console())


@main.command()
@click.option("--days", type=click.IntRange(4, 3650), default=365, show_default=True, help="How many days of counts.")
@click.option("--system", "keys", multiple=True, type=click.Choice(COUNTS), help="Only these systems.")
@click.option("--dir", "directory", type=click.Path(path_type=Path), default=Path("var/bench"), show_default=True)
@click.option("--output", type=click.Path(path_type=Path), default=COUNTS_RESULT, show_default=True)
@click.option("--keep", is_flag=True, help="Keep what was made below --dir for the next run.")
def counts(days: int, keys: Sequence[str], directory: Path, output: Path, keep: bool) -> None:
    """Ask for counts by address block: cidr beside DuckDB, chDB and SQLite."""
    from bench import counts_run

    console = _console()
    directory = directory.resolve() / "counts"
    directory.mkdir(parents=True, exist_ok=True)
    try:
        result = counts_run.run(directory, days, keys, console)
    finally:
        if not keep:
            shutil.rmtree(directory, ignore_errors=True)
    counts_run.show(result, console)
    if not keys or output != COUNTS_RESULT:
        counts_run.write(result, output)
        console.print(f"kept in {output}")


def _case(context: Context, case: str, systems: Sequence[type[System]], batches: Sequence[int]) -> Iterator[Row]:
    if case in ("append", "stream"):
        for shape, kinds in _cells(context.profile, case, systems, batches):
            yield from run_cell(context, shape, kinds, case == "stream")
    elif case == "read":
        yield from run_read(context, systems)
        yield from run_decode(context)
    elif case == "latency":
        yield from run_latency(context, systems)
    elif any(system.key == "jlogd-zmq" for system in systems):
        run = {"syslog": run_syslog, "memory": run_memory, "aggregate": run_aggregate}[case]
        yield from run(context)


def _cells(
    profile: Profile, case: str, systems: Sequence[type[System]], batches: Sequence[int]
) -> Iterator[tuple[Shape, list[type[System]]]]:
    for shape in STREAM_SHAPES if case == "stream" else append_shapes(profile):
        if batches and shape.batch not in batches:
            continue
        # Threads of one process differ from one producer only where there are several.
        kinds = [s for s in systems if shape.producers > 1 or s.key != "jlogd-threads"]
        yield shape, [s for s in kinds if s.streams or case != "stream"]


def _steps(profile: Profile, cases: Sequence[str], systems: Sequence[type[System]], batches: Sequence[int]) -> int:
    """Steps of the progress bar."""
    total = 0
    for case in cases:
        if case in ("append", "stream"):
            total += sum(len(kinds) * profile.rounds for _, kinds in _cells(profile, case, systems, batches))
        elif case == "read":
            total += sum(2 if system.key.startswith("jlogd") else 1 for system in systems)
        elif case == "latency":
            total += sum(len(RATES) for system in systems if system.follows)
        else:
            total += STEPS if case == "aggregate" else 2
    return total


def _console() -> Console:
    """Tables need room; a pipe or a file has it."""
    console = Console()
    return console if console.is_terminal else Console(width=WIDTH)


def _progress(console: Console) -> Progress:
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    return Progress(*columns, console=console, transient=True)


if __name__ == "__main__":
    main()
