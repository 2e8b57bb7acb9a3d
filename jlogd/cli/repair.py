"""`jlogctl repair`: the files around the segments of a log, put in order."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from jlogd.cli import targets, units
from jlogd.cli.output import print_json, say
from jlogd.cli.owner import act_as_owner
from jlogd.cli.params import directory_argument, json_option
from jlogd.errors import LogNotFound
from jlogd.journal.plan import Step
from jlogd.journal.repair import repair as repair_log

_LOCAL_ONLY = "repair works on the files themselves, so it runs on the machine that has them; give the log's directory"


@click.command("repair", no_args_is_help=True)
@directory_argument
@click.option("--dry-run", is_flag=True, help="Say what would be done; nothing is changed.")
@json_option
def repair(target: str, dry_run: bool, as_json: bool) -> None:
    """Put the files of a log in order.

    The segments are the log; what stands around them can be found again. State files that are damaged or missing are
    written anew, from the slot that is left or from the segments: log.json (with default settings), the owner, the
    head, the floor, the subscribers. A subscriber of which nothing is left goes on at the oldest record. Leftovers,
    segments of another log or of a fenced owner are taken out. Nothing is deleted: what is changed or taken out is kept
    in LOG/quarantine, with a report. Damaged batches stay where they are: readers skip them, and subscribers get them
    as gaps.

    LOG is a directory, and nobody may have it open: stop the daemon first. A crash alone needs no repair; opening
    the log to write is enough. Look with jlogctl check before, and after.

    \b
    Examples:
      jlogctl repair var/spool/mainlog --dry-run
      jlogctl repair var/spool/mainlog
    """
    path = _directory(target)
    act_as_owner(path)
    done = repair_log(path, dry_run=dry_run)
    if as_json:
        print_json(msgspec.to_builtins(done.steps))
        return
    for step in done.steps:
        say(_line(step))
    if not done.steps:
        say(f"{path.name}: nothing to repair")
        return
    what = units.counted(len(done.steps), "step")
    if dry_run:
        say(f"{path.name}: {what} to take; nothing was changed")
    else:
        say(f"{path.name}: {what} taken; what was changed or taken out is kept in {done.quarantine}")


def _directory(target: str) -> Path:
    """The log's directory, which may have lost its `log.json`."""
    try:
        return targets.local_directory(target, _LOCAL_ONLY)
    except LogNotFound:
        path = Path(target)
        if any(path.glob("*.seg")) and not (path / "log.json").exists():
            return path if path.name not in ("", "..") else path.resolve()
        raise


def _line(step: Step) -> str:
    """rebuilt owner: why (4608 bytes)."""
    held = ""
    if step.action == "moved":
        records = f", {units.counted(step.records, 'record')}" if step.records else ""
        held = f" ({units.format_size(step.bytes)}{records})"
    return f"{step.action} {step.path}: {step.why}{held}"
