"""How `cidr` ends, and how it answers words that it does not know; the rest is as in `jlogctl`."""

from __future__ import annotations

import click

from cidr.language.errors import QueryError, nearest
from jlogd.cli.errors import USAGE, Commands
from jlogd.cli.output import warn

_BEGINNINGS = ("show", "explain", "cache")


class CidrCommands(Commands):
    """The root group. Nothing of the flags of old that `jlogctl` explains means anything here."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return click.Group.parse_args(self, ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            if name.split(" ")[0].lower() in _BEGINNINGS:
                ctx.fail(f'a query follows -e, as one word: cidr -e "{" ".join(args)}"')
            meant = nearest(name, self.commands)
            names = ", ".join(sorted(self.commands))
            ctx.fail(f"there is no command {name!r}; " + (f"did you mean {meant}?" if meant else f"there are: {names}"))
        return click.Group.resolve_command(self, ctx, args)


def wrong_query(error: QueryError) -> int:
    """Show the query with carets on stderr; the exit code."""
    warn(error.caret("error: "))
    return USAGE
