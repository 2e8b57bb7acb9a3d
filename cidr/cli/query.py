"""One query from the command line, or one a line from standard input."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from cidr.ask import Asking, Reply
from cidr.cli.root import wrong_query
from cidr.formats import render, status
from cidr.formats.status import is_empty
from cidr.language.errors import QueryError
from jlogd.cli.errors import DONE, NOT_FOUND, USAGE
from jlogd.cli.output import say, warn, write
from jlogd.errors import UsageError


def run(asking: Asking, text: str, form: str, output: Path | None, quiet: bool) -> int:
    """Ask, print, and say how complete it is; the exit code."""
    try:
        reply = asking.ask(text)
    except QueryError as error:
        return wrong_query(error)
    put(reply, form, output)
    if not quiet and (form != "table" or output is not None):
        warn(f"-- {status(reply)}")
    return NOT_FOUND if is_empty(reply) else DONE


def run_lines(asking: Asking, lines: Iterable[str], form: str, quiet: bool) -> int:
    """A query a line; blank lines and comments (#) say nothing. `help` and `exit` are what they are in the shell. Ends
    with the worst exit code."""
    worst = DONE
    for line in lines:
        text = line.strip()
        if text.lower() in ("exit", "quit"):
            break
        if text and not text.startswith("#"):
            worst = max(worst, _line(asking, text, form, quiet))
    return worst


def _line(asking: Asking, text: str, form: str, quiet: bool) -> int:
    word, _, topic = text.partition(" ")
    if word.lower() not in ("help", "?"):
        return run(asking, text, form, None, quiet)
    from cidr.cli.shell import help_text

    try:
        say(help_text(topic.strip()).rstrip("\n"))
    except UsageError as error:
        warn(f"error: {error}")
        return USAGE
    return DONE


def put(reply: Reply, form: str, output: Path | None) -> None:
    """To a file, or to standard output. Raises `UsageError`, OSError."""
    if output is not None:
        output.write_bytes(render(reply, form))
        return
    terminal = sys.stdout.isatty()
    if form == "parquet" and terminal:
        raise UsageError("Parquet is no text: send it to a file with --output FILE")
    write(render(reply, form, _columns() if terminal else None))


def _columns() -> int | None:
    with suppress(OSError):
        return os.get_terminal_size(sys.stdout.fileno()).columns
    return None
