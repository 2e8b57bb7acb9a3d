"""`cidr import`, `cidr export` and `cidr rebuild`: counts in and out, and the catalogue from the segments."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from cidr.cli.bars import bar
from cidr.cli.options import base_dir_option
from cidr.times import zone_named
from jlogd.cli.output import say, warn
from jlogd.cli.params import DURATION
from jlogd.cli.units import counted
from jlogd.errors import UsageError

if TYPE_CHECKING:
    from cidr.rebuild import Rebuilt
    from cidr.survey import Found
    from cidr.transfer import Format, Moved
    from cidr.types import Span

_KINDS = {".csv": "csv", ".parquet": "parquet", ".pq": "parquet", ".txt": "silk", ".silk": "silk"}
_FORMATS = click.Choice(["csv", "parquet", "silk"])


@click.command("import", no_args_is_help=True)
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@base_dir_option
@click.option("--format", "kind", type=_FORMATS, help="What FILE is; otherwise its ending says it.")
@click.option(
    "--interval",
    type=DURATION,
    default="60s",
    show_default=True,
    metavar="TIME",
    help="How long each interval is, where FILE does not say when it starts.",
)
@click.option("--series", default="", metavar="NAME", help="The series, for SiLK's text, which names none.")
@click.option("--end", default="", metavar="TIME", help="The end of the interval (ISO 8601), for SiLK's text.")
@click.option("--zone", default="", metavar="NAME", help="Zone of times that name none, and of a new store's days.")
@click.option("--again", is_flag=True, help="Add the counts of a file that was imported before once more.")
def import_(
    file: Path, base_dir: Path, kind: str | None, interval: float, series: str, end: str, zone: str, again: bool
) -> None:
    """Add the counts in FILE to a store: all of them, or none.

    The store is made if need be.
    CSV has the columns series,end,address,count and Parquet the same; `end` is the end of an interval in ISO 8601. A
    column `start` says when it began, and `covered` how much of it was counted, as an export writes them; a row
    without an address is an interval without counts.
    SiLK's text is address|count, as rwbagcat prints it. A file is not imported twice by mistake, and not into intervals
    that a logger has counted.

    \b
    Examples:
      cidr import history.csv --base-dir var/aslogger --interval 1h
      rwbagcat spam.bag > spam.txt; cidr import spam.txt --series spam --end 2024-05-01T00:00:00Z --interval 1d
    """
    from cidr.transfer import import_file

    if not file.is_file():
        raise UsageError(f"there is no file {file}")
    moved = import_file(
        file,
        base_dir,
        kind=_kind(kind, file),
        interval=int(interval),
        series=series,
        end=_seconds(end, zone) if end else 0,
        zone=zone,
        again=again,
    )
    say(f"{counted(moved.rows, 'row')} in {counted(moved.intervals, 'interval')}{_empty(moved)} imported")


@click.command("export")
@base_dir_option
@click.option("--series", "names", multiple=True, metavar="NAME", help="This series, and no other; repeatable.")
@click.option("--since", default="", metavar="TIME", help="From this time on (ISO 8601).")
@click.option("--until", default="", metavar="TIME", help="Up to this time.")
@click.option("--format", "kind", type=_FORMATS, help="Otherwise the ending of the output says it; csv.")
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="Otherwise standard output.")
def export(
    base_dir: Path, names: tuple[str, ...], since: str, until: str, kind: str | None, output: Path | None
) -> None:
    """Write counts as CSV, Parquet, or SiLK's text.

    A row for each address and interval.
    With it, how much of each interval was counted: an import answers the same. Where minutes were condensed and
    deleted, the intervals are the hours, days or months that they are in now.

    \b
    Examples:
      cidr export --base-dir var/aslogger --series spam --since 2024-05-01 -o may.csv
      cidr export --series spam --format silk | rwbagbuild --bag-input=stdin --output-path=spam.bag
    """
    from cidr.transfer import export_file

    chosen = _kind(kind, output) if kind or output else "csv"
    span = _span(base_dir, since, until)
    if output is None:
        if chosen == "parquet" and sys.stdout.isatty():
            raise UsageError("Parquet is nothing for a terminal; give -o FILE")
        moved = export_file(sys.stdout.buffer, base_dir, kind=chosen, series=list(names), span=span)
    else:
        moved = _to_file(output, base_dir, chosen, list(names), span)
    if chosen == "silk":
        warn(
            f"{counted(moved.rows, 'row')} exported, the sum of {counted(moved.intervals, 'segment')}:"
            " SiLK's text has no series, no times, and does not say what was counted"
        )
        return
    warn(f"{counted(moved.rows, 'row')} of {counted(moved.intervals, 'interval')}{_empty(moved)} exported")
    if moved.within:
        warn(
            f"not exported: {counted(moved.within, 'finer interval')} of hours, days or months of which others were"
            " deleted; these are exported whole, as they were condensed"
        )


def _empty(moved: Moved) -> str:
    return f" ({moved.empty:,} without rows)" if moved.empty else ""


def _to_file(output: Path, base: Path, kind: Format, names: list[str], span: Span | None) -> Moved:
    """Whole or not at all: a file that is half there would be taken for all of it."""
    from cidr.transfer import export_file

    part = output.with_name(f".{output.name}.part")
    try:
        file: BinaryIO
        with part.open("wb") as file:
            moved = export_file(file, base, kind=kind, series=names, span=span)
        part.replace(output)
    finally:
        part.unlink(missing_ok=True)
    return moved


@click.command("rebuild")
@base_dir_option
@click.option("--dry-run", is_flag=True, help="Only say what the segments amount to.")
def rebuild(base_dir: Path, dry_run: bool) -> int:
    """Make the catalogue again from the segments alone.

    Stop as_logger first.
    All counts are read. A catalogue that is damaged is kept under another name, which is printed. Segments that cannot
    be read are left where they are, and do not count; those that are gone are forgotten; those of a commit
    that lacks others, and of which no catalogue says that it was finished, are moved to a directory `unfinished-1`, and
    a logger reads their events again. All of them are named, and the exit code is 1. Nothing is deleted.

    \b
    Examples:
      cidr rebuild --base-dir var/aslogger --dry-run
      cidr rebuild --base-dir var/aslogger
    """
    from cidr.aside import place
    from cidr.rebuild import is_damaged, look
    from cidr.rebuild import rebuild as make

    with bar("rebuild") as progress:
        found = look(base_dir, change=not dry_run, progress=lambda done, of: progress("segments", done, of))
    for _, reason in found.damaged:
        warn(f"damaged: {reason}")
    for path in found.missing:
        warn(f"missing: {path}: the catalogue has it, and there is no such file; restore it from a copy, rebuild again")
    if not dry_run:
        done = make(base_dir, found)
        _say_moved(done)
        _say_unfinished(found, f"moved to {done.unfinished}")
    else:
        if reason := is_damaged(base_dir):
            warn(f"the catalogue is damaged ({reason}): it would be moved aside")
        _say_unfinished(found, f"would be moved to {place(base_dir)}")
    series = len({segment.series for segment in found.segments})
    verb = "would be in" if dry_run else "are in"
    say(
        f"{counted(len(found.segments), 'segment')} of {series} series {verb} the catalogue; "
        f"{len(found.torn)} unfinished, {len(found.missing)} missing, {len(found.damaged)} damaged"
    )
    return 1 if found.damaged or found.torn or found.missing else 0


def _say_unfinished(found: Found, moved: str) -> None:
    from cidr.intake import ORIGIN
    from cidr.names import commit_of
    from cidr.receipts import mark_of

    for path in found.torn:
        warn(f"unfinished: {path}: {found.why[path]}; {moved}")
    marks = [commit_of(path) or mark_of(path) for path in found.torn]
    if any(mark and mark[0] == ORIGIN for mark in marks):
        warn(
            "no log has what was imported: import that file again; or put back what is lacking and what was moved, and"
            " rebuild again"
        )


def _say_moved(done: Rebuilt) -> None:
    if done.aside is None:
        return
    warn(f"the catalogue was damaged ({done.reason}): it is kept as {done.aside}")
    if done.read:
        warn(f"still read in it: {', '.join(done.read)}")
    for what in done.lost:
        warn(f"lost with it: {what}")


def _kind(kind: str | None, path: Path | None) -> Format:
    found = kind or _KINDS.get(path.suffix.lower() if path else "")
    if found is None:
        raise UsageError(f"the ending of {path} says no format; give --format csv, parquet or silk")
    return found  # type: ignore[return-value]


def _seconds(text: str, zone: str) -> int:
    from datetime import datetime

    try:
        moment = datetime.fromisoformat(text)
        return int((moment if moment.tzinfo else moment.replace(tzinfo=zone_named(zone or "UTC"))).timestamp())
    except (ValueError, OverflowError):
        raise UsageError(f"{text} is no time in ISO 8601, such as 2024-05-01T12:00:00Z or 2024-05-01") from None


def _span(base: Path, since: str, until: str) -> Span | None:
    """The time asked for; a time without a zone is in the store's."""
    if not since and not until:
        return None
    from cidr.store import Store
    from cidr.types import Span

    store = Store(base)
    zone = str(store.zone)
    store.close()
    end = _seconds(until, zone) if until else 1 << 40
    span = Span(_seconds(since, zone) if since else 0, end)
    if span.seconds <= 0:
        raise UsageError(f"--until {until} is not after --since {since}")
    return span
