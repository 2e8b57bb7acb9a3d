"""`vip`: floating addresses."""

from __future__ import annotations

from pathlib import Path

import click

from jlogd.cli import errors
from jlogd.cli.errors import Commands
from jlogd.cli.output import say, warn
from jlogd.cli.params import CONTEXT, version_option
from vip.cli.cluster import find_config
from vip.cli.orders import drain_command, move_command, undrain_command
from vip.cli.params import config_option
from vip.cli.show import history_command, plan_command, show_command


@click.group("vip", cls=Commands, context_settings=CONTEXT, no_args_is_help=True)
@version_option
def cli() -> None:
    """Floating addresses: spread over the live nodes, moved when one goes, never on two at once.

    Exit codes: 0 done, 1 nothing found or not healthy, 2 wrong usage, 3 failed.

    \b
    Examples:
      vip check-config /etc/vip/vip.toml
      vip run --config /etc/vip/vip.toml
      vip show
    """


@cli.command("run")
@config_option
def run_command(config: Path | None) -> int:
    """Run the daemon of this node until SIGTERM or Ctrl-C.

    It hands everything over before it ends. SIGHUP reads the configuration again.

    \b
    Examples:
      vip run --config /etc/vip/vip.toml
    """
    from vip import process

    return process.run(find_config(config))


@cli.command("check-config")
@click.argument("file", metavar="[FILE]", required=False, type=click.Path(path_type=Path))
def check_command(file: Path | None) -> None:
    """Read a configuration, tell the mistakes in it.

    Each mistake is told with line, field, what was found and what is accepted. First every setting that is wrong by
    itself; once there is none, every one that does not fit the others: run it until FILE is right. A log that is not
    there, or that this user may not write, is a warning: vip runs without it.

    \b
    Examples:
      vip check-config /etc/vip/vip.toml
    """
    from vip.config import load
    from vip.history import unfit
    from vip.units import bundles_of, units_of

    path = find_config(file)
    settings = load(path)
    units = units_of(settings)
    addresses = sum(len(unit.addresses) for unit in units)
    say(
        f"{path} is right: node {settings.node}, generation {settings.generation}, addresses: {addresses}, "
        f"moving as {len(bundles_of(units))}"
    )
    hindrance = unfit(settings.log)
    if hindrance:
        warn(f"warning: vip.log: changes of owner cannot be written: {hindrance}")


for command in (show_command, plan_command, drain_command, undrain_command, move_command, history_command):
    cli.add_command(command)


def main() -> None:
    """Entry point."""
    errors.run(cli.main, "vip")


if __name__ == "__main__":
    main()
