"""`jlogctl`: everything one does to a log, local or served by a daemon."""

from __future__ import annotations

import click

from jlogd.cli import errors
from jlogd.cli.append import append
from jlogd.cli.check import check
from jlogd.cli.check_spool import check_spool
from jlogd.cli.create import create
from jlogd.cli.decommission import node
from jlogd.cli.errors import Commands
from jlogd.cli.export import export
from jlogd.cli.import_jlog import import_jlog
from jlogd.cli.listing import list_
from jlogd.cli.manager import manager
from jlogd.cli.ownership import owner, takeover
from jlogd.cli.params import CONTEXT, version_option
from jlogd.cli.repair import repair
from jlogd.cli.stat import stat
from jlogd.cli.subscriber import subscriber
from jlogd.cli.tail import tail


@click.group("jlogctl", cls=Commands, context_settings=CONTEXT, no_args_is_help=True)
@version_option
def cli() -> None:
    """Make, fill, read and watch durable logs.

    LOG is a directory (var/spool/mainlog) or an address (tcp://127.0.0.1:5140/mainlog, ipc:///run/jlogd.sock/mainlog).
    Exit codes: 0 done, 1 nothing found or not healthy, 2 wrong usage, 3 failed.

    \b
    Examples:
      jlogctl create var/spool/mainlog --subscriber master
      jlogctl append var/spool/mainlog /var/log/syslog
      jlogctl tail var/spool/mainlog
    """


for command in (
    create,
    append,
    tail,
    subscriber,
    stat,
    list_,
    check,
    check_spool,
    owner,
    takeover,
    repair,
    export,
    import_jlog,
    manager,
    node,
):
    cli.add_command(command)


def main() -> None:
    """Entry point."""
    errors.run(cli.main, "jlogctl")


if __name__ == "__main__":
    main()
