"""Options that the commands of `vip` share."""

from __future__ import annotations

from pathlib import Path

import click

config_option = click.option(
    "--config",
    "config",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="The configuration; ./vip.toml or /etc/vip/vip.toml by default.",
)
