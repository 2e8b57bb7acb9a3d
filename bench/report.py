"""The tables a run prints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.machine import busy
from bench.results import Row, Run, find
from bench.samples import duration, number

_CAPTIONS = {
    "append": "records/s, share of write + fdatasync, times jlogd is faster",
    "stream": "records/s, times jlogd is faster",
}
_TITLES = {
    "append": "Durable appends, one batch at a time",
    "stream": "Durable appends, batches under way",
}


def show(run: Run, console: Console) -> None:
    """Everything."""
    machine = run.machine
    console.print(
        f"{machine['processor']}, {machine['cores']} cores, Linux {machine['kernel']}, {machine['file_system']}, "
        f"Python {machine['python']}; a 100-byte append with fdatasync takes {duration(machine['fdatasync_seconds'])}"
    )
    if busy(machine):
        console.print(
            f"the machine was busy when this began (load {machine['load']}): do not quote these numbers", style="yellow"
        )
    for table in _tables(run):
        console.print()
        console.print(table)
    for label, failure in dict.fromkeys((row.label, row.failure) for row in run.rows if row.failure):
        console.print(f"not run: {label}: {failure}", style="yellow", highlight=False, soft_wrap=True)


def _tables(run: Run) -> Iterator[Table]:
    for case in _TITLES:
        rows = [row for row in run.rows if row.case == case]
        for record_bytes, producers in dict.fromkeys((row.record_bytes, row.producers) for row in rows):
            yield _appends(case, [r for r in rows if (r.record_bytes, r.producers) == (record_bytes, producers)])
    simple = (_reads, _latencies, _aggregates, _others)
    for make in simple:
        table = make(run.rows)
        if table.row_count:
            yield table
    yield _targets(run)


def _appends(case: str, rows: Sequence[Row]) -> Table:
    first = rows[0]
    producers = "one producer" if first.producers == 1 else f"{first.producers} producers"
    table = Table(
        title=f"{_TITLES[case]}: {first.record_bytes}-byte records, {producers}",
        caption=_CAPTIONS[case],
        title_justify="left",
        caption_justify="left",
    )
    batches = sorted({row.batch for row in rows})
    table.add_column("batch of")
    for batch in batches:
        table.add_column(f"{batch:,}", justify="right")
    table.add_column("durability", style="dim", max_width=26)
    for key, label in dict.fromkeys((row.system, row.label) for row in rows):
        cells = [_cell(rows, key, batch) for batch in batches]
        durability = next(row.durability for row in rows if row.system == key)
        table.add_row(Text(label, style="bold" if key.startswith("jlogd") else ""), *cells, durability)
    return table


def _cell(rows: Sequence[Row], key: str, batch: int) -> Text:
    row = find(rows, system=key, batch=batch)
    if row is None or not row.rate:
        return Text("-", style="dim")
    text = Text(number(row.rate), style="bold")
    limit, ours = find(rows, system="limit", batch=batch), find(rows, system="jlogd", batch=batch)
    # With batches under way several share a sync: the limit of one sync each bounds nothing.
    notes = [f"{row.rate / limit.rate:.0%}"] if limit and row.case == "append" else []
    if ours and key != "jlogd":
        notes.append(f"{ours.rate / row.rate:.3g}x")
    return text.append(f"\n{' '.join(notes)}", style="not bold dim")


def _reads(rows: Sequence[Row]) -> Table:
    table = Table(title="Reading, from page cache", title_justify="left")
    for column in ("", "how", "records/s", "a record", "MB/s"):
        table.add_column(column, justify="left" if column in ("", "how") else "right")
    how = {"read": "each record as bytes", "forward": "batches whole", "decode": "decoding a batch in memory"}
    for row in rows:
        if row.case in how and row.rate:
            size = row.bytes_rate or row.rate * row.record_bytes
            table.add_row(row.label, how[row.case], number(row.rate), duration(1 / row.rate), f"{size / 1e6:,.0f}")
    return table


def _latencies(rows: Sequence[Row]) -> Table:
    table = Table(title="From append to subscriber, durable, at a steady rate", title_justify="left")
    for column in ("records/s", "", "p50", "p99", "p99.9", "", "durability"):
        table.add_column(column, justify="right" if column[:1] in ("p", "r") else "left")
    for row in rows:
        if row.case == "latency" and row.rate:
            times = (duration(row.p50), duration(row.p99), duration(row.p999))
            table.add_row(f"{row.offered:,}", row.label, *times, row.note, row.durability)
    return table


def _aggregates(rows: Sequence[Row]) -> Table:
    table = Table(title="Records of two nodes into files on a third party", title_justify="left")
    for column in ("", "how", "records/s", "of the limit", "p50", "p99", "durability"):
        table.add_column(column, justify="left" if column in ("", "how", "durability") else "right")
    limit = find(rows, case="aggregate", system="limit")
    for row in rows:
        if row.case == "aggregate" and row.rate:
            share = f"{row.rate / limit.rate:.0%}" if limit and row.note != "latency" else ""
            times = (duration(row.p50), duration(row.p99)) if row.p99 else ("", "")
            table.add_row(row.label, row.note, number(row.rate), share, *times, row.durability)
    return table


def _others(rows: Sequence[Row]) -> Table:
    table = Table(title="The daemon", title_justify="left", show_header=False)
    for row in rows:
        if row.case == "syslog" and row.rate:
            text = f"{number(row.rate)} messages/s with {row.cpu:.2f} cores: {number(row.rate / row.cpu)} a core-second"
            table.add_row(f"syslog over TCP, {row.note}", text)
        if row.case == "memory" and row.memory:
            table.add_row(f"memory behind a backlog of {row.backlog / 1e9:.1f} GB", row.note)
    return table


def _targets(run: Run) -> Table:
    table = Table(title="Targets", title_justify="left")
    for column in ("", "wanted", "found", ""):
        table.add_column(column)
    verdicts = {True: Text("met", style="green"), False: Text("missed", style="bold red"), None: Text("-", style="dim")}
    for target in run.targets:
        table.add_row(target.name, target.wanted, target.found, verdicts[target.met])
    return table
