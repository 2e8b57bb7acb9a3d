"""`jlogctl check`: every byte of a log against its checksums, while writers write."""

from __future__ import annotations

import click
import msgspec

from jlogd.cli import targets, units
from jlogd.cli.errors import DONE, NOT_FOUND
from jlogd.cli.output import print_json, progress, say
from jlogd.cli.params import json_option, log_argument
from jlogd.journal.disk import PosixDisk

_LOCAL_ONLY = "check reads the files themselves, so it runs on the machine that has them; give the log's directory"


@click.command("check", no_args_is_help=True)
@log_argument
@json_option
def check(target: str, as_json: bool) -> int:
    """Verify every byte of a log.

    One line is printed for each thing that is wrong. Nothing is changed and nobody is held up: it may run while
    others write and read. LOG is a directory. Exit code 1: something was found.

    \b
    Examples:
      jlogctl check var/spool/mainlog
      jlogctl check var/spool/mainlog --json
    """
    from jlogd.journal.check import check as findings_of

    path = targets.local_directory(target, _LOCAL_ONLY)
    found = 0
    size = sum(file.stat().st_size for file in path.glob("*.seg"))
    with progress(path.name, size) as advance:
        for finding in findings_of(path, PosixDisk(), advance):
            found += 1
            if as_json:
                print_json([msgspec.to_builtins(finding)])
            else:
                say(str(finding))
    if not as_json:
        say(
            f"{units.counted(found, 'finding')} in {units.format_size(size)}"
            if found
            else f"{units.format_size(size)} are sound"
        )
    return NOT_FOUND if found else DONE
