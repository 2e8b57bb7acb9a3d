"""The options that commands share, and how their values are read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from jlogd.cli import units
from jlogd.errors import UsageError
from jlogd.version import VERSION

F = TypeVar("F", bound=Callable[..., Any])

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


class Word(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions only
    """A value read by a function of `units`; its `UsageError` names the option."""

    def __init__(self, name: str, read: Callable[[str], object]) -> None:
        self.name = name
        self._read = read

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return self._read(value)
        except UsageError as error:
            self.fail(str(error), param, ctx)


class Target(click.ParamType):  # type: ignore[type-arg]
    """A directory or an address, as text; the shell completes directories."""

    name = "log"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(incomplete, type="dir")]


SIZE = Word("size", units.size)
DURATION = Word("duration", units.duration)
START = Word("start", units.parse_start)

KEYS = "jlogd.keys"  # where, in the context of a command, its keys are


def _note_key(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    """Remember an option about keys where `given_keys` finds it: commands need not hand it on."""
    if value:
        ctx.find_root().meta.setdefault(KEYS, {})[param.name] = value


def given_keys() -> dict[str, Any]:
    """The arguments of `jlogd.open` that options of the running command gave."""
    ctx = click.get_current_context(silent=True)
    return dict(ctx.find_root().meta.get(KEYS, {})) if ctx is not None else {}


def keys_options(command: F) -> F:
    """What an address beyond this host needs."""
    for option in reversed(
        (
            click.option(
                "--key", metavar="FILE", type=click.Path(), expose_value=False, callback=_note_key,
                help="Your secret key, for an address that demands one (or JLOGD_KEY).",
            ),
            click.option(
                "--server-key", metavar="KEY", multiple=True, expose_value=False, callback=_note_key,
                help="The daemon's public key, as text or a .pub file (or JLOGD_SERVER_KEY).",
            ),
            click.option(
                "--insecure", is_flag=True, expose_value=False, callback=_note_key,
                help="Go without keys to an address beyond this host (or JLOGD_INSECURE=1).",
            ),
        )
    ):  # fmt: skip
        command = option(command)
    declared: list[click.Parameter] = command.__click_params__  # type: ignore[attr-defined]
    declared[:] = declared[-3:] + declared[:-3]  # declared last, so that the help names them last
    return command


def log_argument(command: F) -> F:
    """A log in a directory or at an address."""
    return directory_argument(keys_options(command))


def logs_argument(command: F) -> F:
    """Several of them."""
    return click.argument("targets_", metavar="LOG...", type=Target(), nargs=-1, required=True)(keys_options(command))


directory_argument = click.argument("target", metavar="LOG", type=Target())
json_option = click.option("--json", "as_json", is_flag=True, help="Exact numbers, one JSON object a line.")


def start_option(flag: str, default: str | None, text: str, name: str = "start") -> Callable[[F], F]:
    """An option that names a place in a log."""
    return click.option(flag, name, type=START, metavar="PLACE", default=default, show_default=bool(default), help=text)


def caps_options(command: F) -> F:
    """How far a subscriber may fall behind."""
    for option in reversed(
        (
            click.option(
                "--max-lag-bytes", type=SIZE, metavar="SIZE", help="Cap on how many bytes a subscriber may lag."
            ),
            click.option(
                "--max-lag-age", type=DURATION, metavar="TIME", help="Cap on the age of what a subscriber lags."
            ),
            click.option(
                "--on-full",
                type=click.Choice(["block", "drop-oldest"]),
                help="At the cap: refuse appends, or let the oldest records go (default block).",
            ),
        )
    ):
        command = option(command)
    return command


def _print_version(ctx: click.Context, _param: click.Parameter, wanted: bool) -> None:
    if not wanted or ctx.resilient_parsing:
        return
    click.echo(f"{ctx.info_name} {VERSION}")
    ctx.exit()


version_option = click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Show the version."
)
