"""`jlogctl tail`: records to standard output, as they are or as JSON.

Bodies are written whole: a batch of lines already is text. A named subscriber is moved only after what was printed
has been handed to the operating system, so a pipe that breaks, or a kill, never moves it past what was not written:
those records come again. Without a name the reading is ephemeral: it holds nothing back and leaves nothing behind.

Threads: the main one reads and writes. `_watch_stdout` waits for the reader of a pipe to go away, so that
`tail | head` ends at once and not at the next record.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import stat
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from jlogd.cli import targets, units
from jlogd.cli.errors import DONE, NOT_FOUND, quiet_stdout
from jlogd.cli.grep import Grep
from jlogd.cli.output import json_lines, warn, write
from jlogd.cli.params import log_argument, start_option
from jlogd.errors import UsageError
from jlogd.journal.batch import Batch, Gap
from jlogd.journal.types import Start
from jlogd.subscriber.subscriber import NEWS

if TYPE_CHECKING:
    from jlogd.subscriber.subscriber import Subscriber

# Gaps by a cap are the log's policy; any other means that something is wrong.
_BY_POLICY = "dropped"


@dataclass(frozen=True)
class Options:
    """What to print of what is read; `limit` 0 is no limit."""

    grep: Grep | None
    as_json: bool
    limit: int
    checkpoint: bool


@click.command("tail", no_args_is_help=True)
@log_argument
@click.option("--subscriber", metavar="NAME", help="Read as this subscriber, from where it stands.")
@start_option("--from", None, "Where to start without --subscriber (default end; with --no-follow, begin).")
@click.option(
    "-f", "--follow/--no-follow", default=True, show_default=True, help="Wait for more at the end, or stop there."
)
@click.option(
    "--checkpoint",
    type=click.Choice(["auto", "none"]),
    help="Whether to move the subscriber past what was printed (default auto).",
)
@click.option("--grep", "pattern", metavar="REGEX", help="Only records that match this regular expression.")
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="Stop after N records were printed.")
@click.option("--json", "as_json", is_flag=True, help="A JSON object a record, with its number and time.")
def tail(
    target: str,
    subscriber: str | None,
    start: Start | None,
    follow: bool,
    checkpoint: str | None,
    pattern: str | None,
    count: int | None,
    as_json: bool,
) -> int:
    """Print the records of a log, and go on as more come.

    Without --subscriber it holds nothing back and leaves nothing behind. It starts at the end, or at PLACE: begin,
    end, a sequence number, -N for the last N records, or a time such as 2024-05-01T12:00 or -2h. With --subscriber it
    goes on where that subscriber stands and moves it past what was printed; one consumer at a time may do so.

    Records are printed as they are, each followed by a newline. With --json each is an object with sequence, time (when
    it was appended) and record, or base64 for bytes that are not UTF-8. Lost records are told in one line on
    standard error, with --json as an object with gap. When the daemon goes away, standard error says so; it is tried
    again until it is back, and no record is left out. Exit code 1: with --grep and --no-follow, nothing matched; or
    records were lost to damage.

    \b
    Examples:
      jlogctl tail tcp://127.0.0.1:5140/mainlog
      jlogctl tail var/spool/mainlog --from -10 --no-follow
      jlogctl tail var/spool/mainlog --from -2h --no-follow --grep 'Failed password' --json
      jlogctl tail var/spool/mainlog --subscriber master --no-follow > batch.log
    """
    _check_usage(subscriber, start, checkpoint)
    options = Options(Grep(pattern) if pattern is not None else None, as_json, count or 0, checkpoint != "none")
    with _stop_on_signals() as stop, targets.open_log(target) as log:
        begin = targets.start_in(log, start if start is not None else ("end" if follow else "begin"))
        with (
            targets.subscribers_of(log, subscriber),
            log.subscriber(subscriber, start=begin, follow=follow, stop=stop) as feed,
            _watch_stdout(stop),
            _told_of_the_daemon(),
        ):
            tally = _copy(feed, options)
    if tally.lost or (tally.printed == 0 and options.grep and not follow):
        return NOT_FOUND
    return DONE


def _check_usage(subscriber: str | None, start: Start | None, checkpoint: str | None) -> None:
    if subscriber is not None and start is not None:
        raise UsageError(
            f"--from is not for a named subscriber, which goes on where it stands; move it first: "
            f"jlogctl subscriber set LOG {subscriber} --to PLACE"
        )
    if subscriber is None and checkpoint == "auto":
        raise UsageError("--checkpoint auto needs --subscriber NAME: without a name there is nothing to move")


@dataclass
class _Tally:
    printed: int = 0
    lost: int = 0


def _copy(feed: Subscriber, options: Options) -> _Tally:
    """Print what comes until the feed ends, the limit is reached or nobody reads any more."""
    tally = _Tally()
    try:
        for item in feed:
            if isinstance(item, Gap):
                _print_gap(item, options)
                tally.lost += item.count if item.reason != _BY_POLICY else 0
                done = item.next
            else:
                left = options.limit - tally.printed if options.limit else item.count
                data, count, done = render(item, options, left)
                if data:
                    write(data)
                tally.printed += count
            if options.checkpoint:
                feed.checkpoint(done)
            if options.limit and tally.printed >= options.limit:
                break
    except BrokenPipeError:
        quiet_stdout()
    return tally


def render(batch: Batch, options: Options, left: int) -> tuple[bytes, int, int]:
    """At most `left` records of the batch as bytes to print, how many they are, and the sequence number after them."""
    if options.grep is None and not options.as_json and batch.count <= left:
        return batch.text(), batch.count, batch.next
    chosen = options.grep.find(batch) if options.grep else list(enumerate(batch.records()))
    done = batch.next
    if len(chosen) > left or (options.limit and len(chosen) == left):
        chosen = chosen[:left]
        done = batch.first + chosen[-1][0] + 1
    if not chosen:
        return b"", 0, done
    if options.as_json:
        return _as_json(batch, chosen), len(chosen), done
    return b"".join(record + b"\n" for _, record in chosen), len(chosen), done


def _as_json(batch: Batch, chosen: Sequence[tuple[int, bytes]]) -> bytes:
    when = units.iso_time(batch.append_time)
    objects: list[dict[str, Any]] = []
    for at, record in chosen:
        about: dict[str, Any] = {"sequence": batch.first + at, "time": when}
        try:
            about["record"] = record.decode()
        except UnicodeDecodeError:
            about["base64"] = record  # msgspec writes bytes as base64
        objects.append(about)
    return json_lines(objects)


def _print_gap(gap: Gap, options: Options) -> None:
    if options.as_json:
        about = {"first": gap.first, "last": gap.last, "count": gap.count, "reason": gap.reason, "detail": gap.detail}
        write(json_lines([{"gap": about}]))
        return
    detail = f": {gap.detail}" if gap.detail else ""
    warn(f"gap: {units.counted(gap.count, 'record')} lost ({gap.first} to {gap.last}), {gap.reason}{detail}")


@contextmanager
def _stop_on_signals() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C or SIGTERM sets, so that the batch at hand is finished; a second interrupts."""
    stop = threading.Event()

    def handle(_signal: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    signals = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    before = [(number, signal.signal(number, handle)) for number in signals]
    try:
        yield stop
    finally:
        for number, handler in before:
            signal.signal(number, handler)


class _ToStderr(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        with suppress(OSError):
            warn(record.getMessage())


@contextmanager
def _told_of_the_daemon() -> Iterator[None]:
    """Say on stderr when the daemon is lost, and when it is back."""
    news, handler = logging.getLogger(NEWS), _ToStderr()
    level = news.level
    news.addHandler(handler)
    news.setLevel(logging.INFO)
    try:
        yield
    finally:
        news.removeHandler(handler)
        news.setLevel(level)


@contextmanager
def _watch_stdout(stop: threading.Event) -> Iterator[None]:
    """Set `stop` when the reader of our stdout goes away, even while there is nothing to print."""
    try:
        out = sys.stdout.fileno()
        mode = os.fstat(out).st_mode
    except (OSError, ValueError):
        yield
        return
    if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):
        yield
        return
    done, ended = os.pipe()
    thread = threading.Thread(target=_wait_for_hangup, args=(out, done, stop), name="stdout watcher", daemon=True)
    thread.start()
    try:
        yield
    finally:
        os.close(ended)
        thread.join()
        os.close(done)


def _wait_for_hangup(out: int, done: int, stop: threading.Event) -> None:
    poll = select.poll()
    poll.register(out, 0)  # only errors, which are always reported
    poll.register(done, 0)
    with suppress(OSError):
        if any(descriptor == out for descriptor, _ in poll.poll()):
            stop.set()
