"""`jlogctl import-jlog`: a log of libjlog, with its subscribers, into a log."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from jlogd.cli import targets, units
from jlogd.cli.errors import DONE, NOT_FOUND
from jlogd.cli.output import progress, say, warn
from jlogd.cli.params import log_argument
from jlogd.errors import JlogError, UsageError
from jlogd.journal.producers import producer_id

if TYPE_CHECKING:
    from jlogd.libjlog.importer import Tally, Target
    from jlogd.libjlog.layout import Directory
    from jlogd.log import Log

# How long an import that failed waits for what it had handed over before.
CLOSE_SECONDS_MAX = 5.0


@click.command("import-jlog", no_args_is_help=True)
@click.argument("directory", metavar="DIR", type=click.Path())
@log_argument
@click.option("--producer", metavar="NAME", help="Name under which the log remembers the import (default: from DIR).")
@click.option("--dry-run", is_flag=True, help="Read DIR and say what would be done; LOG is not changed.")
@click.option("--wait", is_flag=True, help="When the log or its disk is full, wait until it is not instead of failing.")
def import_jlog(directory: str, target: str, producer: str | None, dry_run: bool, wait: bool) -> int:
    """Take over a log written by libjlog.

    That is the jlog of Momentum. DIR is the directory of the old log, plain or compressed with LZ4, from a machine of
    either byte order; it is only read. LOG must be there. The records of all segments and of the pre-commit buffer are
    appended in their order; their times become those of the batches they are in. What is damaged or cut off is skipped
    and told. The log remembers how far the import came, so that one that was cut off is simply run again, and appends
    nothing twice; if DIR was moved in between, give the same --producer to both.

    Each subscriber is added to LOG and stands where it stood, or before that where its place is not certain: never
    after a record it had not consumed. Stop the old writer first; what it writes later is taken by running it again.
    Exit code 1: something was lost to damage, or a subscriber could not be moved.

    \b
    Examples:
      jlogctl import-jlog /var/log/ecelerity/mainlog.cluster var/spool/mainlog --dry-run
      jlogctl import-jlog /var/log/ecelerity/mainlog.cluster var/spool/mainlog
    """
    from jlogd.libjlog import importer
    from jlogd.libjlog.layout import Directory

    if producer is not None and not producer:
        raise UsageError("the producer's name is empty")
    path = Path(directory)
    name = producer or f"import-jlog {path.resolve()}"
    with targets.open_log(target) as log:
        source = Directory(path)
        tally, places = importer.Tally(), importer.targets_of(source)
        if dry_run:
            with progress(path.name) as report:
                for _ in importer.read(source, 0, tally, report):
                    pass
            say(f"would import {_amount(tally)} from {directory} into {log.name}")
        else:
            before = _take(source, log, name, places, tally, wait)
            say(f"imported {_amount(tally)} from {directory} into {log.name}")
            if before is not None:
                _tell_resumed(before, tally, name)
        healthy = _tell_skipped(source, tally)
        return DONE if _tell_subscribers(places, dry_run) and healthy else NOT_FOUND


def _take(source: Directory, log: Log, name: str, places: list[Target], tally: Tally, wait: bool) -> int | None:
    """Import; the place after which this went on, if the log had some of it. Everything is durable on return."""
    from jlogd.libjlog import importer

    before = log.producer_position(name)
    importer.add_subscribers(log, places, name, fresh=before is None)
    writer = log.writer(producer=name, on_full="wait" if wait else "raise")
    number = producer_id(name)
    try:
        with progress(source.path.name) as report:
            for batch in importer.read(source, before or 0, tally, report):
                writer.send(batch.numbered(number, batch.producer_from, batch.producer_to))
            writer.flush()
    except BaseException:
        with suppress(JlogError, TimeoutError):  # what brought us here is to be told
            writer.close(CLOSE_SECONDS_MAX)
        warn(f"{units.counted(writer.durable, 'record')} durable; run it again to go on, then:")
        raise
    writer.close()
    importer.move_subscribers(log, places, name)
    return before


def _amount(tally: Tally) -> str:
    return f"{units.counted(tally.records, 'record')} ({units.format_size(tally.bytes)})"


def _tell_resumed(before: int, tally: Tally, name: str) -> None:
    from jlogd.libjlog.importer import place

    say(f"went on after {place(before)}: the log has what is before it from producer {name!r}")
    if before > tally.end:
        warn(
            f"warning: the log has more from that producer than there is, which ends at {place(tally.end)}; "
            "is it the same log? For another one give another --producer"
        )


def _tell_skipped(source: Directory, tally: Tally) -> bool:
    """Say what was not imported; whether nothing was lost."""
    from jlogd.libjlog.importer import HARMLESS

    missing = source.missing()
    for first, last in missing:
        which = f"segment {first:08x} is" if first == last else f"segments {first:08x} to {last:08x} are"
        say(f"missing: {which} not there")
    staged = source.staged()
    if staged.problem:
        say(f"pre_commit: {staged.problem}")
    for file, what in tally.places:
        harmless = " (harmless)" if what.kind == HARMLESS else ""
        say(f"skipped {file} bytes {what.start} to {what.end - 1}: {what.kind}: {what.why}{harmless}")
    untold = sum(tally.counts.values()) - len(tally.places)
    if untold:
        say(f"skipped {units.counted(untold, 'more place')}")
    for kind, count in sorted(tally.counts.items()):
        say(f"{kind}: {units.counted(count, 'place')}, {units.format_size(tally.skipped_bytes[kind])} skipped")
    return not tally.lost and not missing


def _tell_subscribers(places: list[Target], dry_run: bool) -> bool:
    """Say where the subscribers stand; whether each could be taken over, or never was to be."""
    good = True
    for one in places:
        note = f"; {one.note}" if one.note else ""
        if one.refused:
            good &= one.checkpoint.ephemeral
            at = f" (it would stand at {one.next})" if one.next else ""
            say(f"subscriber {one.name} was not taken over: {one.refused}{at}")
        elif dry_run:
            say(f"subscriber {one.name}: {one.checkpoint}{note}")
        else:
            say(f"subscriber {one.name} goes on at {one.next}, was at {one.checkpoint}{note}")
    return good
