"""`python -m bench counts`: questions to a year of counts, cold and warm, beside DuckDB, chDB and SQLite.

Cold is the first question to a system that was just opened, with the files in the operating system's cache: what is
compared is the work, not the disk. Warm is the median of further times. All systems answer in turn, question by
question, so that whatever disturbs the machine disturbs all; answers are compared. Ingest is a log of a million records
through as_logger, from the log to counts on disk.
"""

from __future__ import annotations

import random
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

import jlogd
from bench import machine
from bench.counts import DAY, START, Shape, generate
from bench.counts_rivals import Answer, ChDb, Cidr, DuckDb, Question, Sqlite, System
from bench.results import Target
from bench.samples import duration, number
from cidr.addresses import parse_block
from cidr.config import AsLogger
from cidr.engine import Engine
from cidr.extract import Rule
from cidr.logger import Logger
from cidr.types import Block, Family, Span

WARM_TIMES, COLD_TIMES = 7, 3
# A rival that takes longer than this is asked once.
PATIENCE_SECONDS = 5.0
WARM_DUCKDB, WARM_CHDB, COLD_DUCKDB = 10, 5, 1
TOTAL_SECONDS = 1e-3
INGEST_RATE = 1_000_000
ENTRY_BYTES = 4.0
RECORDS = 1_000_000


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """One question to one system; seconds. A failure has no times."""

    question: str
    system: str
    cold: float = 0.0
    warm: float = 0.0
    failure: str = ""


class CountsRun(msgspec.Struct, frozen=True, kw_only=True):
    """Everything one run found."""

    format: int = 1
    days: int
    rows: int
    entry_bytes: float
    ingest: float
    machine: dict[str, Any]
    cells: list[Cell]
    targets: list[Target]


def questions(days: int, top: Callable[[Span], Block]) -> list[Question]:
    """What is asked."""
    day = Span(START + 3 * DAY, START + 4 * DAY)
    month = Span(START, START + min(31, days) * DAY)
    year = Span(START, START + days * DAY)
    whole = "year" if days == 365 else f"{days} days"
    eight = parse_block("10.0.0.0/8")
    return [
        Question("top 10 /24, a day", "top", day),
        Question("top 10 /24, a month", "top", month),
        Question(f"top 10 /24, the {whole}", "top", year),
        Question("total of a /8, a month", "total", month, eight),
        Question(f"total of a /8, the {whole}", "total", year, eight),
        Question("addresses of a /24, a month", "drill", month, top(month)),
        Question(f"addresses of a /24, the {whole}", "drill", year, top(year)),
        Question("two series side by side, a month", "beside", month, series=("spam", "ham")),
    ]


def run(directory: Path, days: int, only: Sequence[str], console: Console) -> CountsRun:
    """Make the counts if they are not there, and ask everything."""
    base = directory / f"counts-{days}"
    if not (base / "done").exists():
        shutil.rmtree(base, ignore_errors=True)
        with console.status("making the counts") as status:
            generate(base, Shape(days=days), status.update)
        (base / "done").touch()
    with Engine(base) as engine:
        stats = engine.series()
        asked = questions(days, lambda span: engine.answer(Question("", "top", span).query()).block(0))
        hours = [s for s in engine._store.timeline("spam", Family.V4).segments() if s.tier != "minute"]
    systems = [Cidr(base), DuckDb(base), ChDb(base), Sqlite(base, directory / f"counts-{days}.sqlite")]
    systems = [system for system in systems if not only or system.label.lower() in only]
    cells = list(_cells(asked, systems, console))
    ingest = _ingest(directory)
    rows = sum(segment.rows for segment in hours)
    entry = sum(segment.bytes for segment in hours) / max(rows, 1)
    return CountsRun(
        days=days,
        rows=sum(stat.rows for stat in stats),
        entry_bytes=entry,
        ingest=ingest,
        machine=machine.facts(directory),
        cells=cells,
        targets=judge(cells, ingest, entry),
    )


def _cells(asked: Sequence[Question], systems: Sequence[System], console: Console) -> Iterator[Cell]:
    usable = []
    for system in systems:
        failure = system.missing()
        if failure:
            yield from (Cell(question=q.name, system=system.label, failure=failure) for q in asked)
        else:
            with console.status(f"{system.label}: preparing"):
                system.prepare()
            usable.append(system)
    for question in asked:
        expected: Answer | None = None
        for system in usable:
            try:
                with console.status(f"{question.name}: {system.label}"):
                    cell, answer = _measure(question, system)
            except Exception as error:  # a rival that fails has no figure; the others have theirs
                reason = f"{type(error).__name__}: {str(error)[:200]}"
                yield Cell(question=question.name, system=system.label, failure=reason)
                continue
            if expected is not None and answer != expected:
                cell = Cell(question=question.name, system=system.label, failure="another answer")
            expected = expected if expected is not None else answer
            yield cell


def _measure(question: Question, system: System) -> tuple[Cell, Answer]:
    cold, warm = [], []
    answer: Answer = []
    for _ in range(COLD_TIMES):
        system.open()
        try:
            took, answer = _timed(question, system)
            cold.append(took)
            if took > PATIENCE_SECONDS:
                warm.append(took)
                break
            warm += [_timed(question, system)[0] for _ in range(WARM_TIMES)][1:]
        finally:
            system.close()
    cell = Cell(question=question.name, system=system.label, cold=min(cold), warm=statistics.median(warm))
    return cell, answer


def _timed(question: Question, system: System) -> tuple[float, Answer]:
    started = time.perf_counter()
    answer = system.ask(question)
    return time.perf_counter() - started, answer


def _ingest(directory: Path) -> float:
    """Events a second from a log to counts on disk; the better of two."""
    root = directory / "ingest"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    rng = random.Random(5)
    addresses = [".".join(str(rng.randrange(256)) for _ in range(4)) for _ in range(20_000)]
    line = "12{:08d}@01/02-12345@R@user{}@example.com@{}@relay{}@550 5.7.1 refused, spam score {}"
    records = [line.format(i, i % 97, rng.choice(addresses), i % 7, i % 50).encode() for i in range(20_000)]
    jlogd.create(root / "mainlog")
    with jlogd.open(root / "mainlog") as log, log.writer() as writer:
        for _ in range(RECORDS // len(records)):
            writer.extend(records)
        writer.flush()
    rule = Rule(log="mainlog", series="spam", match=r"@R@.*@(?P<ip>[0-9a-fA-F.:]+)@.*spam")
    best = 0.0
    for turn in ("one", "two"):
        config = AsLogger(
            base_dir=str(root / turn), logs=str(root), subscriber=turn, series_include_default="all", extract=(rule,)
        )
        with Logger(config) as logger:
            started = time.perf_counter()
            logger.drain()
            best = max(best, logger.seen.events / (time.perf_counter() - started))
    shutil.rmtree(root)
    return best


def judge(cells: Sequence[Cell], ingest: float, entry: float) -> list[Target]:
    """Every goal, by its worst question."""
    return [
        _ratio(cells, "DuckDB", "warm", WARM_DUCKDB),
        _ratio(cells, "chDB", "warm", WARM_CHDB),
        _ratio(cells, "DuckDB", "cold", COLD_DUCKDB),
        _total(cells),
        Target(
            name="ingest, from the log to counts",
            wanted=f"at least {number(INGEST_RATE)} events/s",
            found=f"{number(ingest)} events/s",
            met=ingest >= INGEST_RATE,
        ),
        Target(
            name="an IPv4 entry on disk",
            wanted=f"at most {ENTRY_BYTES:g} bytes",
            found=f"{entry:.2f} bytes",
            met=entry <= ENTRY_BYTES,
        ),
    ]


def _ratio(cells: Sequence[Cell], rival: str, which: str, least: int) -> Target:
    name, wanted = f"{which}, against {rival}", f"at least {least}x"
    ours = {cell.question: cell for cell in cells if cell.system == "cidr"}
    pairs = [
        (getattr(cell, which) / getattr(ours[cell.question], which), cell.question)
        for cell in cells
        if cell.system == rival and not cell.failure and cell.question in ours
    ]
    if not pairs:
        return Target(name=name, wanted=wanted, found="not measured", met=None)
    worst, question = min(pairs)
    return Target(name=name, wanted=wanted, found=f"{worst:.3g}x at worst ({question})", met=worst >= least)


def _total(cells: Sequence[Cell]) -> Target:
    found = [cell.warm for cell in cells if cell.system == "cidr" and cell.question.startswith("total")]
    name, wanted = "total of any block, warm", "under 1 ms"
    if not found:
        return Target(name=name, wanted=wanted, found="not measured", met=None)
    return Target(name=name, wanted=wanted, found=duration(max(found)), met=max(found) < TOTAL_SECONDS)


def show(found: CountsRun, console: Console) -> None:
    """The tables."""
    systems = list(dict.fromkeys(cell.system for cell in found.cells))
    console.print(f"{found.days} days, {found.rows:,} counted addresses in segments; cold / warm")
    table = Table(title="Counts by address block", title_justify="left")
    for column in ("", *systems):
        table.add_column(column, justify="left" if not column else "right")
    for question in dict.fromkeys(cell.question for cell in found.cells):
        row = {cell.system: cell for cell in found.cells if cell.question == question}
        table.add_row(question, *(_cell(row.get(system)) for system in systems))
    console.print(table)
    for failure in dict.fromkeys((cell.system, cell.failure) for cell in found.cells if cell.failure):
        console.print(f"{failure[0]}: {failure[1]}", style="yellow", highlight=False)
    goals = Table(title="Goals", title_justify="left")
    for column in ("", "wanted", "found", "met"):
        goals.add_column(column)
    for target in found.targets:
        met = "-" if target.met is None else "yes" if target.met else "no"
        goals.add_row(target.name, target.wanted, target.found, met)
    console.print(goals)


def _cell(cell: Cell | None) -> str:
    return "-" if cell is None or cell.failure else f"{duration(cell.cold)} / {duration(cell.warm)}"


def write(found: CountsRun, path: Path) -> None:
    """Keep the run as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n")
