"""Options that the commands of `cidr` share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

BASE_DIR_DEFAULT = "var/aslogger"
BASE_DIR_VARIABLE = "CIDR_BASE_DIR"
SERVER_VARIABLE = "CIDR_SERVER"
TOKEN_VARIABLE = "CIDR_TOKEN"


def base_dir_option(command: F) -> F:
    """`--base-dir DIR` of a subcommand; without it that of `cidr` itself counts."""
    return click.option(
        "--base-dir",
        metavar="DIR",
        type=click.Path(path_type=Path),
        callback=_base_dir,
        help=f"The directory of counts. Default: {BASE_DIR_DEFAULT}, or what {BASE_DIR_VARIABLE} says.",
    )(command)


def _base_dir(ctx: click.Context, _param: click.Parameter, value: Path | None) -> Path:
    if value is not None:
        return value
    root = ctx.find_root().params.get("base_dir")
    return Path(root or BASE_DIR_DEFAULT)
