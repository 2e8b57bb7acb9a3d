"""`cidr`: ask for counts by address block, from the shell, a script, a server or a page."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from cidr.cli.as_logger import as_logger
from cidr.cli.heatmap import heatmap
from cidr.cli.maintain import maintain
from cidr.cli.options import (
    BASE_DIR_DEFAULT,
    BASE_DIR_VARIABLE,
    CONFIG_VARIABLE,
    SERVER_VARIABLE,
    TOKEN_VARIABLE,
    root_base_dir,
)
from cidr.cli.root import CidrCommands
from cidr.cli.serve import serve
from cidr.cli.transfer import export, import_, rebuild
from cidr.formats import FORMATS
from jlogd.cli import errors
from jlogd.cli.params import CONTEXT, version_option
from jlogd.errors import UsageError


@click.group("cidr", cls=CidrCommands, context_settings=CONTEXT, invoke_without_command=True)
@click.option("-e", "--execute", "query", metavar="QUERY", help="Ask this one query, print the answer, and end.")
@click.option(
    "--base-dir",
    metavar="DIR",
    type=click.Path(path_type=Path),
    envvar=BASE_DIR_VARIABLE,
    default=BASE_DIR_DEFAULT,
    show_default=True,
    help=f"The directory of counts; or set {BASE_DIR_VARIABLE}.",
)
@click.option(
    "-c",
    "--config",
    "config_file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    envvar=CONFIG_VARIABLE,
    help=f"cidr.toml, whose base_dir is the directory of counts; or set {CONFIG_VARIABLE}.",
)
@click.option(
    "--server", metavar="URL", envvar=SERVER_VARIABLE, help=f"Ask this server instead; or set {SERVER_VARIABLE}."
)
@click.option(
    "--token-file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help=f"A file that holds the token for the server; or set {TOKEN_VARIABLE}.",
)
@click.option(
    "--format", "form", type=click.Choice(FORMATS), default="table", show_default=True, help="How answers are printed."
)
@click.option("--output", metavar="FILE", type=click.Path(path_type=Path), help="Write the answer to this file.")
@click.option("--quiet", is_flag=True, help="Leave out the line on standard error that says how complete it is.")
@version_option
@click.pass_context
def cli(
    ctx: click.Context,
    query: str | None,
    base_dir: Path,
    config_file: Path | None,
    server: str | None,
    token_file: Path | None,
    form: str,
    output: Path | None,
    quiet: bool,
) -> int | None:
    """Ask for counts by address block.

    Without -e and without a command it opens the shell, or, where standard input is no terminal, asks one query a line.
    The language is described in docs/cidr.md, and by `help` in the shell. Exit codes: 0 done, 1 nothing found, 2 wrong
    query or usage, 3 failed.

    \b
    Examples:
      cidr -e "show count for 0.0.0.0/0 in union(spam, virus) since 20080423 cidrsize 24 order by count limit 10"
      cidr --base-dir var/aslogger --format csv -e "show count for all in * cidrsize 8/32" > blocks.csv
      cidr --config /etc/jlogd/cidr.toml -e "show available"
      cidr --server http://127.0.0.1:9090
    """
    if ctx.invoked_subcommand is not None:
        if query is not None:
            raise UsageError(f"-e asks a query, {ctx.invoked_subcommand} is a command: give one of them")
        return None
    from cidr.cli import query as queries
    from cidr.cli.connect import connect

    if query is None and output is not None:
        raise UsageError("--output FILE is for one query: add -e QUERY")
    asking = connect(base_dir if server else root_base_dir(ctx), server, token_file)
    try:
        if query is not None:
            return queries.run(asking, query, form, output, quiet)
        if not sys.stdin.isatty():
            return queries.run_lines(asking, sys.stdin, form, quiet)
        from cidr.cli.shell import Shell

        return Shell(asking, form).run()
    finally:
        asking.close()


for command in (serve, heatmap, maintain, import_, export, rebuild, as_logger):
    cli.add_command(command)


def main() -> None:
    """Entry point."""
    errors.run(cli.main, "cidr")


if __name__ == "__main__":
    main()
