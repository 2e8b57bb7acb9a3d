"""`jlogctl check`: every byte of a log against its checksums, while writers write."""

from __future__ import annotations

import click
import msgspec

from jlogd.cli import targets, units
from jlogd.cli.errors import DONE, NOT_FOUND
from jlogd.cli.output import print_json, progress, say
from jlogd.cli.params import directory_argument, json_option
from jlogd.journal.check import Finding
from jlogd.journal.check import check as findings_of

_LOCAL_ONLY = "check reads the files themselves, so it runs on the machine that has them; give the log's directory"


@click.command("check", no_args_is_help=True)
@directory_argument
@json_option
def check(target: str, as_json: bool) -> int:
    """Verify every byte of a log.

    One line is printed for each thing that is found. Nothing is changed and nobody is held up: it may run while others
    write and read. LOG is a directory. Exit code 1: something acknowledged is damaged or missing. What a crash or
    a fenced owner left behind, bytes that were never acknowledged, is found as well and called harmless.

    \b
    Examples:
      jlogctl check var/spool/mainlog
      jlogctl check var/spool/mainlog --json
    """
    path = targets.local_directory(target, _LOCAL_ONLY)
    faults = harmless = 0
    size = sum(file.stat().st_size for file in path.glob("*.seg"))
    with progress(path.name) as report:
        for finding in findings_of(path, on_progress=report):
            if as_json:
                print_json([{**msgspec.to_builtins(finding), "harmless": finding.harmless}])
            else:
                say(_line(finding))
            faults += not finding.harmless
            harmless += finding.harmless
    if not as_json:
        sound = "sound" if not faults else units.counted(faults, "fault")
        extra = f", {units.counted(harmless, 'harmless leftover')}" if harmless else ""
        say(f"{path.name}: {units.format_size(size)} checked, {sound}{extra}")
    return NOT_FOUND if faults else DONE


def _line(finding: Finding) -> str:
    """damaged 00000000000000000001-00000001.seg byte 4096: what it is."""
    where = f" {finding.path}" if finding.path else ""
    at = f" byte {finding.offset}" if finding.offset else ""
    return f"{finding.kind}{where}{at}: {finding.message}{' (harmless)' if finding.harmless else ''}"
