"""`jlogd`: the daemon."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from jlogd.cli import errors
from jlogd.cli.errors import Commands
from jlogd.cli.keys import keys
from jlogd.cli.output import say, warn
from jlogd.cli.params import CONTEXT, version_option
from jlogd.cli.units import counted
from jlogd.errors import UsageError

# Read when it is there and no other file is named.
CONFIG_DEFAULT = Path("jlogd.toml")


@click.group("jlogd", cls=Commands, context_settings=CONTEXT, no_args_is_help=True)
@version_option
def cli() -> None:
    """The daemon: takes log lines in, keeps them in durable logs, serves them to subscribers.

    Exit codes: 0 done, 1 nothing found or not healthy, 2 wrong usage, 3 failed.

    \b
    Examples:
      jlogd run --config /etc/jlogd/jlogd.toml
    """


@cli.command("run")
@click.option("--config", "config", metavar="FILE", type=click.Path(path_type=Path), help="The configuration.")
@click.option("--accept-risk", is_flag=True, help="Run though the spool's mount is not fit; the spool remembers it.")
def run(config: Path | None, accept_risk: bool) -> int:
    """Run the daemon until SIGTERM or Ctrl-C.

    SIGHUP reads the configuration again. Without --config it runs on built-in defaults: the spool under ./var, syslog
    on 127.0.0.1:5514, ZeroMQ on 127.0.0.1:5140, metrics and health on 127.0.0.1:5180.

    At every start it looks whether the mount of the spool and its locks are fit for logs, as jlogctl check-spool does,
    and refuses a spool where something failed. With --accept-risk it runs all the same; jlogctl stat and the metrics
    tell that of the spool's logs for ever after.

    \b
    Examples:
      jlogd run
      jlogd run --config /etc/jlogd/jlogd.toml
    """
    from jlogd.daemon import daemon

    return daemon.run(config, partial(daemon.admitted, accept_risk=accept_risk))


@cli.command("manager")
@click.option("--config", "config", metavar="FILE", type=click.Path(path_type=Path), help="The configuration.")
def manager(config: Path | None) -> int:
    """Run a manager alone, until SIGTERM or Ctrl-C.

    It pulls the logs of the nodes in [manager] into files.

    SIGHUP reads the configuration again: nodes and rules that changed take effect. FILE is ./jlogd.toml by default.
    `jlogd run` runs a manager too when its configuration has one.

    \b
    Examples:
      jlogd manager --config /etc/jlogd/jlogd.toml
    """
    from jlogd.daemon import daemon
    from jlogd.daemon.managing import ManagerDaemon

    if config is None and not CONFIG_DEFAULT.exists():
        raise UsageError(f"there is no {CONFIG_DEFAULT} here; name the file: jlogd manager --config FILE")
    return daemon.run(config or CONFIG_DEFAULT, ManagerDaemon)


@cli.command("check-config")
@click.argument("file", metavar="[FILE]", required=False, type=click.Path(path_type=Path))
def check_config(file: Path | None) -> None:
    """Read a configuration, tell every mistake in it.

    Each mistake is told with line, field, what was found and what is accepted. FILE is ./jlogd.toml by default.

    \b
    Examples:
      jlogd check-config /etc/jlogd/jlogd.toml
    """
    from jlogd.daemon.config_file import load
    from jlogd.errors import BadKey
    from jlogd.wire.keys import read_pair

    if file is None and not CONFIG_DEFAULT.exists():
        raise UsageError(f"there is no {CONFIG_DEFAULT} here; name the file: jlogd check-config FILE")
    path = file or CONFIG_DEFAULT
    config = load(path)
    sources = sum(1 for _ in config.all_sources())
    parts = [f"node {config.node.name}", counted(len(config.log), "log"), counted(sources, "source")]
    if config.manager.node:
        parts.append(f"manager of {counted(len(config.manager.node), 'node')}")
    say(f"{path} is right: {', '.join(parts)}")
    if config.auth.key:
        try:
            read_pair(config.auth.key)
        except BadKey as error:
            warn(f"warning: auth.key: here and for this user the daemon would not start: {error}")


cli.add_command(keys)


def main() -> None:
    """Entry point."""
    errors.run(cli.main, "jlogd")


if __name__ == "__main__":
    main()
