"""Options that the commands of `cidr` share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

BASE_DIR_DEFAULT = "var/aslogger"
BASE_DIR_VARIABLE = "CIDR_BASE_DIR"
CONFIG_VARIABLE = "CIDR_CONFIG"
SERVER_VARIABLE = "CIDR_SERVER"
TOKEN_VARIABLE = "CIDR_TOKEN"


def base_dir_option(command: F) -> F:
    """`--base-dir DIR` of a subcommand; without it that of `cidr` itself counts."""
    return click.option(
        "--base-dir",
        metavar="DIR",
        type=click.Path(path_type=Path),
        callback=_base_dir,
        help=f"The directory of counts. Default: {BASE_DIR_DEFAULT}, or what {BASE_DIR_VARIABLE} or --config says.",
    )(command)


def _base_dir(ctx: click.Context, _param: click.Parameter, value: Path | None) -> Path:
    return value if value is not None else root_base_dir(ctx)


def is_base_dir_given(ctx: click.Context) -> bool:
    """Whether a directory is named on the command line: it comes before the one in a configuration."""
    given = click.core.ParameterSource.COMMANDLINE
    return given in (ctx.get_parameter_source("base_dir"), ctx.find_root().get_parameter_source("base_dir"))


def root_base_dir(ctx: click.Context) -> Path:
    """The directory that the options before the command name: as such, or by a configuration."""
    root = ctx.find_root()
    named, config = root.params.get("base_dir"), root.params.get("config_file")
    by_line = root.get_parameter_source("base_dir") is click.core.ParameterSource.COMMANDLINE
    if config is not None and not by_line:
        return configured_base_dir(config)
    return Path(named or BASE_DIR_DEFAULT)


def configured_base_dir(file: Path) -> Path:
    """The directory that a configuration names. Raises ConfigError; StoreNotFound where it is not seen from here."""
    from cidr.config import load
    from cidr.oldconf import read_old_conf

    old = file.suffix == ".conf"
    found = read_old_conf(file).base_dir if old else Path(load(file).as_logger.base_dir)
    beside = file.parent / found
    if not found.is_dir() and beside.is_dir() and not os.path.samefile(file.parent, Path.cwd()):
        from cidr.errors import StoreNotFound

        raise StoreNotFound(
            f"{file} names the directory {found}, which is not in {Path.cwd()} but in {file.parent.resolve()}: run this"
            " there, or write the whole path into the file, so that as_logger and cidr find the same from everywhere"
        )
    return found
