"""Words of old, and words mistyped: what the user most likely meant.

The `jlogctl` of libjlog took flags (`-s`, `-a NAME`) and other subcommands; those who know it by heart are told the
command that does the same now.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from importlib import import_module

import click

_CHECK = "jlogctl check LOG: damaged records are not cut out, they are skipped and told to subscribers"

OLD_FLAGS = {
    "-s": "jlogctl subscriber list LOG",
    "-a": "jlogctl subscriber add LOG NAME",
    "-e": "jlogctl subscriber remove LOG NAME",
    "-u": "jlogctl subscriber set LOG NAME --to SEQ",
    "-C": "jlogctl subscriber set LOG NAME --to SEQ",
    "-p": "jlogctl stat LOG",
    "-l": "jlogctl stat LOG",
    "-i": "jlogctl check LOG",
    "-d": "jlogctl check LOG",
    "-r": _CHECK,
    "-R": "jlogctl repair LOG",
    "-c": "gone, because segments go by themselves once every subscriber has passed them",
    "-j": "jlogctl stat LOG, with the log as the first argument",
    "-v": "JLOGD_DEBUG=1 jlogctl ...",
}
# The same letter meant something else below `subscriber`.
OLD_SUBSCRIBER_FLAGS = {**OLD_FLAGS, "-l": "jlogctl subscriber list LOG"}
OLD_COMMANDS = {
    "subscribers": "jlogctl subscriber list LOG",
    "subscribe": "jlogctl subscriber add LOG NAME",
    "data": "jlogctl stat LOG, or jlogctl check LOG",
    "meta": "jlogctl stat LOG",
    "clean": "gone, because segments go by themselves once every subscriber has passed them",
    "alter": "the configuration of jlogd, or jlogctl create LOG with other options",
    "jlogtail": "jlogctl tail LOG",
    "cat": "jlogctl tail LOG --no-follow",
    "ls": "jlogctl list SPOOL, or jlogctl subscriber list LOG",
}


# The two programs of jlogd are easily taken for each other: where the commands of the other one are.
OTHERS = {"jlogctl": "jlogd.cli.jlogd", "jlogd": "jlogd.cli.jlogctl"}


def near(word: str, known: Iterable[str]) -> str:
    """The known word closest to `word`, or ""."""
    names = list(known)
    found = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if not found:
        folded = {name.lower(): name for name in names}
        return folded.get(word.lower(), "")
    return found[0]


class Hinting(click.Group):
    """A group whose errors for an unknown command or flag name the one that was meant."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            ctx.fail(f"there is no command {name!r}{self._meant(ctx, name)}")
        return super().resolve_command(ctx, args)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            flags = OLD_FLAGS if ctx.parent is None else OLD_SUBSCRIBER_FLAGS
            now = flags.get(error.option_name)
            if now is None:
                raise
            raise click.UsageError(f"{error.option_name} is a flag of the old jlogctl; it is now {now}", ctx) from None

    def _meant(self, ctx: click.Context, name: str) -> str:
        if name in OLD_COMMANDS:
            return f"; it is now {OLD_COMMANDS[name]}"
        other = _other_program(ctx)
        if other is not None and name in other.commands:
            return f"; that is `{other.name} {name}`"
        close = near(name, self.list_commands(ctx))
        if close:
            return f"; did you mean {close}?"
        if other is not None and (close := near(name, other.commands)):
            return f"; did you mean `{other.name} {close}`?"
        if ctx.parent is None and ("/" in name or name.startswith(".")):
            return f"; the command comes first: {ctx.command_path} stat {name}"
        return f"; there are: {', '.join(self.list_commands(ctx))}"


def _other_program(ctx: click.Context) -> click.Group | None:
    """jlogd for jlogctl, and the other way round; loaded only once a command was not found."""
    module = OTHERS.get(ctx.command.name or "") if ctx.parent is None else None
    other = import_module(module).cli if module is not None else None
    return other if isinstance(other, click.Group) else None
