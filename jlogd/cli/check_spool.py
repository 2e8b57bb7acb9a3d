"""`jlogctl check-spool`: whether a directory's mount does what a spool needs, here and between two hosts."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import msgspec

from jlogd.cli.errors import DONE, NOT_FOUND
from jlogd.cli.output import print_json, say, warn
from jlogd.cli.owner import act_as_owner
from jlogd.cli.params import DURATION, Target, json_option
from jlogd.cli.units import counted
from jlogd.errors import JlogError, LogNotFound, UsageError
from jlogd.spoolcheck.agent import SECONDS_MAX
from jlogd.spoolcheck.check import Checked, full_check, keep
from jlogd.spoolcheck.findings import Finding
from jlogd.spoolcheck.helpers import NoAnswer
from jlogd.spoolcheck.peer import Server, parse_address
from jlogd.spoolcheck.peer_checks import RING_SECONDS_MIN
from jlogd.version import VERSION

# PASS, FAIL and UNKNOWN, and a gap.
_STATUS_COLUMNS = 9


@click.command("check-spool", no_args_is_help=True)
@click.argument("directory", metavar="DIR", type=Target())
@click.option("--peer", metavar="HOST:PORT", help="Check with a second host too, where --serve runs.")
@click.option("--serve", metavar="HOST:PORT", help="Be the second host, until Ctrl-C.")
@click.option(
    "--ring-time",
    type=DURATION,
    metavar="TIME",
    default="30s",
    show_default=True,
    help="How long the two hosts hand locks round.",
)
@click.option("--insecure", is_flag=True, help="Allow addresses beyond this host; the peers have no keys.")
@json_option
def check_spool(
    directory: str, peer: str | None, serve: str | None, ring_time: float, insecure: bool, as_json: bool
) -> int:
    """Check what the mount of a spool does.

    Locks, syncs, names and appends are tried out in a scratch directory in DIR; logs that are there are not touched.
    One line is printed for each check: PASS, FAIL (a log can be lost there, and a daemon refuses it) or UNKNOWN (it
    cannot be told from here), with the reason and what to do. Exit code 1: something failed, or there was no room to
    try it. The verdict is kept in DIR, in .spool-check.json.

    With --peer it is shown as well what two hosts see of each other: run it with --serve on the other one first. Both
    listen and connect on loopback only, because they have no keys: reach the other host through an ssh tunnel.

    \b
    Examples:
      jlogctl check-spool var/spool
      jlogctl check-spool /san/logs --serve 127.0.0.1:5190
      jlogctl check-spool /san/logs --peer 127.0.0.1:5190 --json
    """
    if peer and serve:
        raise UsageError("--peer and --serve are for two hosts: give one of them")
    if not RING_SECONDS_MIN <= ring_time <= SECONDS_MAX:
        raise UsageError("--ring-time is from 1s to 1h")
    path = _directory(directory)
    if serve:
        return _serve(path, serve, insecure)
    address = parse_address(peer, insecure) if peer else None
    known, findings = Checked(), list[Finding]()
    try:
        with _bar() as on_progress:
            for one in full_check(path, known, peer=address, ring_seconds=ring_time, on_progress=on_progress):
                findings.append(one)
                if as_json:
                    print_json([msgspec.to_builtins(one)])
                else:
                    _tell(one)
    except NoAnswer as error:
        raise UsageError(f"{error}; run there: jlogctl check-spool DIR --serve HOST:PORT") from None
    failed, cut_short = sum(one.failed for one in findings), any(one.cut_short for one in findings)
    if cut_short:
        warn(f"warning: there is no room in {path} to check it; what the last check found stands")
        return NOT_FOUND
    try:
        act_as_owner(path)  # not before: helpers are started with Python's own files, and do so by themselves
        keep(path, known, findings)
    except (OSError, JlogError) as error:
        warn(f"warning: the verdict is not kept in {path}: {error}")
    if not as_json:
        _summary(path, findings)
    return NOT_FOUND if failed else DONE


def _directory(text: str) -> Path:
    path = Path(text)
    if "\0" in text or "://" in text:
        raise UsageError(f"{text!r}: check-spool tries out a directory of this host; give its path")
    if not path.is_dir():
        raise LogNotFound(f"there is no directory {path}; make it, or mount what belongs there")
    return path.absolute()


def _serve(path: Path, text: str, insecure: bool) -> int:
    try:
        server = Server(str(path), parse_address(text, insecure), VERSION)
    except OSError as error:
        raise UsageError(f"cannot listen on {text}: {(error.strerror or str(error)).lower()}") from None
    try:
        say(f"serving {path} at {server.address[0]}:{server.address[1]}; Ctrl-C ends it")
        server.serve(say)
    except KeyboardInterrupt:
        return DONE
    finally:
        server.close()
    return DONE


def _tell(one: Finding) -> None:
    say(f"{one.status:<{_STATUS_COLUMNS}}{one.check}: {one.reason}")
    if one.remedy and one.status != "PASS":
        say(f"{'':<{_STATUS_COLUMNS}}-> {one.remedy}")


def _summary(path: Path, findings: list[Finding]) -> None:
    counts = {status: sum(one.status == status for one in findings) for status in ("PASS", "FAIL", "UNKNOWN")}
    verdict = "not fit for logs" if counts["FAIL"] else "fit for logs"
    told = f"{counted(len(findings), 'check')}, {counts['FAIL']} failed, {counts['UNKNOWN']} unknown"
    say(f"{path}: {verdict}: {told}")


@contextmanager
def _bar() -> Iterator[Callable[[float, float], None] | None]:
    """A bar of seconds on stderr while hosts go round the ring, when that is a terminal."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("two hosts in the ring", total=None, visible=False)
        yield lambda done, total: bar.update(task, completed=done, total=total, visible=done < total)
