"""`cidr maintain`: condense and delete, by series, or say what would be."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from cidr.cli.bars import bar
from cidr.cli.options import base_dir_option, configured_base_dir, is_base_dir_given
from cidr.config import Maintain, load
from cidr.oldconf import read_old_conf
from jlogd.cli.output import print_json, say, show, table
from jlogd.cli.params import json_option
from jlogd.cli.units import counted, format_size

if TYPE_CHECKING:
    from cidr.maintain import Summary


@click.command("maintain")
@base_dir_option
@click.option(
    "-c",
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="cidr.toml, or a cidr_maintain.conf of old. Without one the defaults hold.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be merged and deleted; nothing is changed.")
@json_option
@click.pass_context
def maintain(ctx: click.Context, base_dir: Path, config_file: Path | None, dry_run: bool, as_json: bool) -> None:
    """Condense what is over, and delete what is old enough.

    Minutes become hours, hours days, days months.
    How long each tier is kept is said in [cidr.maintain], for all series or for some. Counts are not lost by
    condensing, only their minutes are. It may be stopped at any time and run again; loggers and servers need not be
    stopped.

    \b
    Examples:
      cidr maintain --base-dir var/aslogger --dry-run
      cidr maintain -c /etc/jlogd/cidr.toml
      cidr maintain -c /opt/msys/ecelerity/etc/cidr_maintain.conf
    """
    from cidr.maintain import Action, Maintainer

    policy, only, base = _policy(ctx, config_file, base_dir)
    with Maintainer(base, policy, dry_run=dry_run, only=only) as maintainer, bar("maintain") as progress:
        summary = maintainer.run(progress)
    if as_json:
        print_json(msgspec.to_builtins(list(summary.actions), str_keys=True))
        return
    groups: dict[tuple[str, str, str], list[Action]] = defaultdict(list)
    for action in summary.actions:
        groups[action.series, action.what, action.tier].append(action)
    if not groups:
        say("nothing to do")
        _say_left(summary)
        return
    # Condensed segments are larger than the largest of what they are made of: how much, only writing them says.
    about = "about " if dry_run else ""
    rows = [
        (series, what, tier, str(len(some)), about + format_size(sum(a.bytes for a in some)))
        for (series, what, tier), some in groups.items()
    ]
    show(table(("series", "step", "tier", "segments", "bytes"), rows, left=3))
    would = "would return" if dry_run else "returned"
    say(
        f"{counted(len(summary.actions), 'step')}; deletions {would} {about}{format_size(summary.freed)}, "
        f"condensed segments take {about}{format_size(summary.written)}"
    )
    _say_left(summary)


def _say_left(summary: Summary) -> None:
    """Why something is still there."""
    if summary.too_large:
        say(f"{counted(summary.too_large, 'interval')} not condensed: the counts add up to more than 2^63")
    number = summary.newest
    if number:
        stay = "stays, though its" if number == 1 else "stay, though their"
        say(
            f"{counted(number, 'segment')} of a newest commit {stay} time is up: a rebuild knows from that commit where"
            " its logger was; a run after the next one deletes it"
        )


def _policy(ctx: click.Context, file: Path | None, base: Path) -> tuple[Maintain, Sequence[str] | None, Path]:
    """The policy, the series it is for (None: all), and the directory: the one on the command line comes first."""
    file = file or ctx.find_root().params.get("config_file")
    if file is None:
        return Maintain(), None, base
    base = base if is_base_dir_given(ctx) else configured_base_dir(file)
    if file.suffix == ".conf":
        old = read_old_conf(file)
        return old.policy, old.only, base
    return load(file).cidr.maintain, None, base
