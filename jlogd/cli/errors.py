"""How a command ends: one place turns every failure into `error: ...` on stderr and an exit code.

    0  done
    1  nothing found, or not healthy
    2  wrong usage
    3  failed, or interrupted before it was done

A callback returns its exit code, or None for 0. A traceback is shown only when JLOGD_DEBUG=1. A reader that goes away
(`| head`) is no failure: the command ends quietly with 0.
"""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any, NoReturn

import click

from jlogd.access import DENIED, denied
from jlogd.cli.hints import Hinting
from jlogd.errors import JlogError, UsageError

DONE, NOT_FOUND, USAGE, FAILED = 0, 1, 2, 3
DEBUG_VARIABLE = "JLOGD_DEBUG"

_ADVICE = {
    errno.EACCES: "run as a user that may, or have the mode changed",
    errno.EPERM: "run as a user that may, or have the mode changed",
    errno.EROFS: "the file system is mounted read-only",
    errno.ENOSPC: "make room, then run it again",
    errno.EDQUOT: "the quota is used up: make room, then run it again",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
    errno.ENAMETOOLONG: "use a shorter name",
}


class Program(click.Command):
    """A command that is a program: `main` never lets a traceback out."""

    def main(self, *args: Any, **options: Any) -> Any:
        options["standalone_mode"] = False
        try:
            code = super().main(*args, **options)
        except SystemExit:
            raise
        except BaseException as error:
            if debugging():
                raise
            code = report(error)
        sys.exit(code if isinstance(code, int) else DONE)


class Commands(Program, Hinting):
    """The root group of a program: `invoke` knows a reader that went away."""

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        # A command remembers its help option from its first use, and that may be without its parents.
        cmd.context_settings.setdefault("help_option_names", ["-h", "--help"])
        super().add_command(cmd, name)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            quiet_stdout()
            return DONE
        except KeyboardInterrupt:
            raise click.Abort from None  # click itself would print an empty line first
        return result


def debugging() -> bool:
    """Whether tracebacks are wanted."""
    return os.environ.get(DEBUG_VARIABLE, "") not in ("", "0")


def report(error: BaseException) -> int:
    """Say on stderr what went wrong; the exit code for it."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        return USAGE
    code, message = explain(error)
    hint = ""
    if isinstance(error, click.UsageError) and error.ctx is not None:
        hint = f"\nsee: {error.ctx.command_path} --help"
    with suppress(OSError):
        click.echo(f"error: {message}{hint}", err=True)
    return code


def explain(error: BaseException) -> tuple[int, str]:
    """Exit code and message for a failure."""
    match error:
        case click.UsageError():
            return USAGE, error.format_message()
        case click.ClickException():
            return FAILED, error.format_message()
        case click.Abort() | KeyboardInterrupt():
            return FAILED, "interrupted"
        case JlogError():
            return error.exit_code, str(error)
        case OSError():
            return FAILED, explain_os_error(error)
    return (
        FAILED,
        f"{type(error).__name__}: {error}; this is a mistake of jlogd: show it with {DEBUG_VARIABLE}=1 and report it",
    )


def explain_os_error(error: OSError) -> str:
    """An error of the operating system in plain words, with the path."""
    what = (error.strerror or str(error) or type(error).__name__).lower()
    paths = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    where = f"{' -> '.join(paths)}: " if paths else ""
    if paths and error.errno in DENIED:
        what += f" to {denied(paths[0])}"
    advice = _ADVICE.get(error.errno or 0, "")
    return f"{where}{what}" + (f"; {advice}" if advice else "")


def quiet_stdout() -> None:
    """Let the interpreter flush what is left of stdout into nothing: its reader went away."""
    with suppress(OSError, ValueError):
        target = sys.stdout.fileno()
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, target)
        os.close(null)


def _check_stdout() -> None:
    if sys.stdout is None:
        # The next file that is opened would get its number, and a subscriber would be moved past what nobody got.
        sys.exit(report(UsageError("standard output is closed; send it to /dev/null when it is not wanted")))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # a path is printed with the bytes it has


def run(command: Callable[..., object], program: str) -> NoReturn:
    """Entry point of a program: SIGTERM ends it as Ctrl-C does, so that what was accepted is made durable first."""

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    try:
        signal.signal(signal.SIGTERM, interrupt)
        _check_stdout()
        command(prog_name=program)
    except KeyboardInterrupt as error:
        sys.exit(report(error))
    sys.exit(DONE)
