"""`jlogctl append`: a file or standard input into a log, durable when the command ends.

Input is read in blocks and handed to the writer whole; for `lines` no Python runs per record. What the writer has
taken is always flushed before the command ends, so that a mistake in the input, Ctrl-C or a full disk leaves
everything before it durable, and the last line says how much that is.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from jlogd.cli import targets, units
from jlogd.cli.framing import Part, count_of, framer, without_first
from jlogd.cli.output import progress, say, warn
from jlogd.cli.params import log_argument
from jlogd.errors import JlogError, UsageError

if TYPE_CHECKING:
    from jlogd.writer.writer import Writer

# Large enough that a block costs nothing beside its bytes, small enough that Ctrl-C and the bar are prompt.
BLOCK_BYTES = 1 << 20
# How long an append that failed waits for what it had handed over before.
CLOSE_SECONDS_MAX = 5.0


@dataclass
class Tally:
    """Records that the log has from the same producer already, and how many of them were left out."""

    skipped: int = 0
    to_skip: int = 0


@click.command("append", no_args_is_help=True)
@log_argument
@click.argument("file", metavar="[FILE]", required=False, type=click.Path(allow_dash=True))
@click.option(
    "--framing",
    type=click.Choice(["lines", "length", "json"]),
    default="lines",
    show_default=True,
    help="How the input is cut into records; see above.",
)
@click.option(
    "--producer", metavar="NAME", help="Go on where an earlier append of the same input by this name stopped."
)
@click.option("--wait", is_flag=True, help="When the log or its disk is full, wait until it is not instead of failing.")
def append(target: str, file: str | None, framing: str, producer: str | None, wait: bool) -> None:
    """Append FILE, or standard input, to a log.

    The command ends when everything is durable, and says how many records that are. Framings: with lines, each line
    is a record, without its newline; with length, each record is preceded by its length in bytes (u32,
    little-endian); with json, each line is one JSON document, which is validated and kept as it is. Input that breaks
    its framing, or a record over 8 MiB, stops the command with line and byte; what came before it is in the log.

    With --producer the log remembers how many records it has from that name and skips as many of the input, so that an
    append that was cut off can simply be run again, and appends nothing twice. One name stands for one input.

    \b
    Examples:
      jlogctl append var/spool/mainlog /var/log/syslog
      journalctl -o json | jlogctl append tcp://127.0.0.1:5140/mainlog --framing json
      jlogctl append var/spool/mainlog old.log --producer import-of-old.log
    """
    if producer and file is None:
        raise UsageError(
            "--producer needs an input that can be given again from its start: a FILE, or - when standard input is one"
        )
    if producer is not None and not producer:
        raise UsageError("the producer's name is empty")
    with _input(file) as (stream, total), targets.open_log(target) as log:
        tally = Tally(to_skip=(log.producer_position(producer) or 0) if producer else 0)
        writer = log.writer(producer=producer or "", on_full="wait" if wait else "raise")
        with progress(Path(file or "-").name, total) as report:
            _pump(stream, framing, writer, tally, lambda done: report(done, total))
        writer.close()
        _report(writer.durable, tally, producer, log.name)


def _pump(stream: BinaryIO, framing: str, writer: Writer, tally: Tally, report: Callable[[int], None]) -> None:
    """Everything from `stream` to `writer`, durable on return; after a failure, what was handed over before it."""
    done = 0
    try:
        cut = framer(framing)
        while block := _read(stream):
            for part in cut.feed(block):
                _hand_over(part, writer, tally)
            done += len(block)
            report(done)
        for part in cut.finish():
            _hand_over(part, writer, tally)
        writer.flush()
    except BaseException:
        # What brought us here is to be told; that the writer fails as well says nothing new.
        full, unsure = writer.full, False
        try:
            # A log that is full takes nothing more within any time that somebody would wait.
            writer.close(0.0 if full is not None else CLOSE_SECONDS_MAX)
        except TimeoutError:
            unsure = True
        except JlogError:
            pass
        why = f"; the log took no more: {full}" if full is not None else ""
        warn(f"{_told(writer.durable, unsure)}{why}; then:" if why else f"{_told(writer.durable, unsure)}, then:")
        raise


def _told(durable: int, unsure: bool) -> str:
    if unsure and not durable:
        return "no record is known to be durable"
    return f"{'at least ' if unsure else ''}{units.counted(durable, 'record')} durable"


def _hand_over(part: Part, writer: Writer, tally: Tally) -> None:
    count = count_of(part)
    if tally.skipped < tally.to_skip:
        skip = min(count, tally.to_skip - tally.skipped)
        tally.skipped += skip
        if skip == count:
            return
        part = without_first(part, skip)
    if isinstance(part, bytes):
        writer.extend_lines(part)
    else:
        writer.extend(part)


def _read(stream: BinaryIO) -> bytes:
    """What is there, at most a block: a slow pipe is appended as it comes."""
    return stream.read1(BLOCK_BYTES) if hasattr(stream, "read1") else stream.read(BLOCK_BYTES)


def _report(durable: int, tally: Tally, producer: str | None, name: str) -> None:
    say(f"{units.counted(durable, 'record')} durable in {name}")
    if not tally.to_skip:
        return
    say(f"{units.counted(tally.skipped, 'record')} skipped: the log has them from producer {producer}")
    if tally.skipped < tally.to_skip:
        warn(
            f"warning: the log has {units.counted(tally.to_skip, 'record')} from producer {producer}, more than the "
            "input holds; is it the same input?"
        )


@contextmanager
def _input(file: str | None) -> Iterator[tuple[BinaryIO, int | None]]:
    """The stream to read, and its length in bytes when that is known."""
    if file is None or file == "-":
        if sys.stdin is None:
            raise UsageError("standard input is closed; name a FILE")
        if file is None and sys.stdin.isatty():
            warn("reading lines from the terminal; end with Ctrl-D")
        yield sys.stdin.buffer, _length(sys.stdin.buffer)
        return
    if Path(file).is_dir():
        raise UsageError(f"{file} is a directory; name a file to append")
    with open(file, "rb") as stream:
        yield stream, _length(stream)


def _length(stream: BinaryIO) -> int | None:
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None
