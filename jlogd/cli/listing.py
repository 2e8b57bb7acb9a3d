"""`jlogctl list`: the logs of a spool or of a daemon."""

from __future__ import annotations

import time

import click

from jlogd.cli import targets, units
from jlogd.cli.errors import DONE, NOT_FOUND
from jlogd.cli.output import print_json, say, show, table, warn
from jlogd.cli.params import Target, json_option, keys_options
from jlogd.cli.stat import health
from jlogd.errors import JlogError, NotGranted
from jlogd.journal.layout import no_meta
from jlogd.journal.types import LogStat

_COLUMNS = ("LOG", "RECORDS", "NEXT", "SIZE", "SEGMENTS", "NEWEST", "SUBSCRIBERS (LAG)")


@click.command("list", no_args_is_help=True)
@click.argument("place", metavar="SPOOL", type=Target())
@keys_options
@json_option
def list_(place: str, as_json: bool) -> int:
    """List the logs of a spool or a daemon.

    SPOOL is a directory of logs or the address of a daemon. Of a log that this client may neither read nor administer,
    only the name is shown. Exit code 1: there are none, or one cannot be read, or has lost its log.json.

    \b
    Examples:
      jlogctl list var/spool
      jlogctl list tcp://127.0.0.1:5140 --json
    """
    found: list[LogStat | str] = []
    code = DONE
    for target in targets.logs_at(place):
        try:
            found.append(_look(target))
        except (JlogError, OSError) as error:
            # One broken log must not hide the others.
            warn(f"warning: {target}: {error}")
            code = NOT_FOUND
    for path in targets.headless_in(place):
        warn(f"warning: {no_meta(path)}")
        code = NOT_FOUND
    if as_json:
        print_json({"name": one} if isinstance(one, str) else one for one in found)
    elif found:
        show(table(_COLUMNS, [_row(one) for one in found]))
    elif code == DONE:
        seen = " that this client may see" if "://" in place else ""
        say(f"there are no logs in {place}{seen}; make one: jlogctl create {place.rstrip('/')}/NAME")
    for stat in [one for one in found if isinstance(one, LogStat) and not as_json]:
        for trouble in health(stat)[0]:
            warn(f"warning: {stat.name}: {trouble}")
    return code if found else NOT_FOUND


def _look(target: str) -> LogStat | str:
    """The log as it is, or only its name, where no more is granted."""
    with targets.open_log(target) as log:
        try:
            return log.stat()
        except NotGranted:
            return log.name


def _row(stat: LogStat | str) -> tuple[str, ...]:
    if isinstance(stat, str):
        return (stat, *["-"] * (len(_COLUMNS) - 1))
    records = stat.next - stat.first
    newest = (
        f"{units.format_duration(max(time.time() - stat.newest_time, 0))} ago" if records and stat.newest_time else "-"
    )
    followers = ", ".join(f"{one.name} ({units.format_count(one.lag_records)})" for one in stat.subscribers)
    return (
        stat.name,
        units.format_count(records),
        units.format_count(stat.next),
        units.format_size(stat.bytes),
        units.format_count(stat.segments),
        newest,
        followers or "-",
    )
