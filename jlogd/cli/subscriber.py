"""`jlogctl subscriber`: the named positions in a log.

A subscriber keeps the records it has not passed. So adding one late shows what is still there, and removing one that is
no longer read gives its space back at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from jlogd.cli import targets, units
from jlogd.cli.create import make_caps
from jlogd.cli.errors import DONE, NOT_FOUND
from jlogd.cli.hints import Hinting
from jlogd.cli.output import print_json, say, show, table
from jlogd.cli.params import caps_options, json_option, log_argument, start_option
from jlogd.errors import UsageError
from jlogd.journal.types import Caps, Start, SubscriberStat

if TYPE_CHECKING:
    from jlogd.log import Log

COLUMNS = ("SUBSCRIBER", "NEXT", "LAG", "LAG BYTES", "LAG TIME", "LOST", "CAPS", "HELD BY")


@click.group("subscriber", cls=Hinting, no_args_is_help=True)
def subscriber() -> None:
    """Manage the named subscribers of a log.

    A subscriber is a position in the log: the log keeps every record that a subscriber has not passed.

    \b
    Examples:
      jlogctl subscriber list var/spool/mainlog
      jlogctl subscriber add var/spool/mainlog audit --from end
    """


@subscriber.command("add", no_args_is_help=True)
@log_argument
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@start_option(
    "--from", "begin", "Where it starts: begin, end, a sequence number, -N (records before the end), or a time."
)
@caps_options
def add(
    target: str,
    names: tuple[str, ...],
    start: Start,
    max_lag_bytes: int | None,
    max_lag_age: float | None,
    on_full: str | None,
) -> None:
    """Add subscribers.

    From begin, a late subscriber sees everything that is still there. From now on the log keeps what it has not passed,
    as far as its caps allow; without options they are those of the log.

    \b
    Examples:
      jlogctl subscriber add var/spool/mainlog audit
      jlogctl subscriber add var/spool/mainlog debug --from -1h --max-lag-bytes 1GiB --on-full drop-oldest
    """
    caps = make_caps(max_lag_bytes, max_lag_age, on_full)
    with targets.open_log(target) as log:
        place = targets.start_in(log, start)
        for name in names:
            log.add_subscriber(name, place, caps=caps)
            say(f"added {name} at {_where(log, name)}")


@subscriber.command("remove", no_args_is_help=True)
@log_argument
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
def remove(target: str, names: tuple[str, ...]) -> None:
    """Remove subscribers.

    What only they held back is deleted at once.

    \b
    Examples:
      jlogctl subscriber remove var/spool/mainlog audit
    """
    with targets.open_log(target) as log:
        for name in names:
            with targets.subscribers_of(log, name):
                log.remove_subscriber(name)
            say(f"removed {name}")


@subscriber.command("list", no_args_is_help=True)
@log_argument
@json_option
def list_(target: str, as_json: bool) -> int:
    """List the subscribers of a log and their lag.

    LOST counts records that never came to it: dropped at its cap, or damaged on disk. HELD BY is the consumer that
    reads as that name now. Exit code 1: there are none.

    \b
    Examples:
      jlogctl subscriber list var/spool/mainlog
      jlogctl subscriber list tcp://127.0.0.1:5140/mainlog --json
    """
    with targets.open_log(target) as log:
        found = log.subscribers()
    if as_json:
        print_json(found)
    elif found:
        show(table(COLUMNS, rows(found)))
    else:
        say(f"{log.name} has no subscribers; make one: jlogctl subscriber add {target} NAME")
    return DONE if found else NOT_FOUND


@subscriber.command("set", no_args_is_help=True)
@log_argument
@click.argument("name", metavar="NAME")
@start_option("--to", None, "Where it goes on: begin, end, a sequence number, -N (records before the end), or a time.")
def set_(target: str, name: str, start: Start | None) -> None:
    """Move a subscriber, forward or back.

    Moved forward it skips records; moved back it reads them again, as far as they are still there.

    \b
    Examples:
      jlogctl subscriber set var/spool/mainlog audit --to end
      jlogctl subscriber set var/spool/mainlog audit --to -2h
    """
    if start is None:
        raise UsageError(f"where to? give --to: {units.START_WORDS}")
    with targets.open_log(target) as log, targets.subscribers_of(log, name):
        log.set_subscriber(name, targets.start_in(log, start))
        say(f"{name} goes on at {_where(log, name)}")


@subscriber.command("caps", no_args_is_help=True)
@log_argument
@click.argument("name", metavar="NAME")
@caps_options
@click.option("--default", "as_log", is_flag=True, help="As far as the log lets its subscribers fall behind.")
def caps(
    target: str,
    name: str,
    max_lag_bytes: int | None,
    max_lag_age: float | None,
    on_full: str | None,
    as_log: bool,
) -> None:
    """Change how far a subscriber may fall behind.

    What the new caps let go is deleted at once, if they drop the oldest. Through a daemon it works while a consumer of
    that daemon reads as NAME; in a directory, nobody may read as NAME meanwhile.

    \b
    Examples:
      jlogctl subscriber caps var/spool/mainlog audit --max-lag-bytes 20GiB
      jlogctl subscriber caps var/spool/mainlog audit --max-lag-age 2d --on-full drop-oldest
      jlogctl subscriber caps var/spool/mainlog audit --default
    """
    wanted = make_caps(max_lag_bytes, max_lag_age, on_full)
    if as_log == (wanted is not None):
        raise UsageError("give its caps (--max-lag-bytes, --max-lag-age, --on-full), or --default for those of the log")
    with targets.open_log(target) as log, targets.subscribers_of(log, name):
        log.set_caps(name, wanted)
        found = next((one.caps for one in log.subscribers() if one.name == name), Caps())
        say(f"{name} may fall behind: {_words(found)}")


@subscriber.command("clone", no_args_is_help=True)
@log_argument
@click.argument("name", metavar="NAME")
@click.option("--from", "source", metavar="SOURCE", required=True, help="The subscriber to copy.")
def clone(target: str, name: str, source: str) -> None:
    """Add a subscriber where another one stands.

    NAME begins at the position of SOURCE, with its caps.

    \b
    Examples:
      jlogctl subscriber clone var/spool/mainlog audit-copy --from audit
    """
    with targets.open_log(target) as log, targets.subscribers_of(log, source):
        log.clone_subscriber(name, source)
        say(f"added {name} at {_where(log, name)}, as {source}")


def rows(subscribers: list[SubscriberStat]) -> list[tuple[str, ...]]:
    """The cells of a table of subscribers, see COLUMNS."""
    return [
        (
            one.name,
            units.format_count(one.next),
            units.format_count(one.lag_records),
            units.format_size(one.lag_bytes),
            units.format_duration(one.lag_seconds),
            units.format_count(one.dropped + one.damaged),
            caps_text(one.caps),
            one.holder or "-",
        )
        for one in subscribers
    ]


def caps_text(caps: Caps) -> str:
    """10 GiB, 2d, drop-oldest."""
    parts = [units.format_size(caps.max_bytes)] if caps.max_bytes else []
    parts += [units.format_duration(caps.max_age)] if caps.max_age else []
    return ", ".join([*parts, caps.on_full]) if parts else "-"


def _words(caps: Caps) -> str:
    return caps_text(caps) if caps != Caps() else "without limit"


def _where(log: Log, name: str) -> str:
    """The place of a subscriber, for people."""
    found = next((one for one in log.subscribers() if one.name == name), None)
    if found is None:
        return "its place"
    return f"{found.next} ({units.counted(found.lag_records, 'record')} to read)"
