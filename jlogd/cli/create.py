"""`jlogctl create`: a new, empty log."""

from __future__ import annotations

import click
import msgspec

from jlogd.cli import targets, units
from jlogd.cli.output import say
from jlogd.cli.params import SIZE, caps_options, log_argument
from jlogd.errors import UsageError
from jlogd.journal.types import SEGMENT_BYTES_DEFAULT, Caps, Settings


@click.command("create", no_args_is_help=True)
@log_argument
@click.option(
    "--subscriber",
    "subscribers",
    multiple=True,
    metavar="NAME",
    help="A subscriber that starts at its beginning; repeatable.",
)
@click.option("--segment-size", type=SIZE, metavar="SIZE", help="Size at which a segment is full (default 64MiB).")
@click.option(
    "--durability",
    metavar="POLICY",
    default="commit",
    show_default=True,
    help="commit, interval=500ms or os; see above.",
)
@click.option(
    "--compression",
    type=click.Choice(["none", "zstd"]),
    default="none",
    show_default=True,
    help="How records lie on disk.",
)
@caps_options
def create(
    target: str,
    subscribers: tuple[str, ...],
    segment_size: int | None,
    durability: str,
    compression: str,
    max_lag_bytes: int | None,
    max_lag_age: float | None,
    on_full: str | None,
) -> None:
    """Make a new, empty log.

    An append is acknowledged: with --durability commit, after the disk has it; with interval=500ms, when it is
    written, and a power loss may take the last 500 ms; with os, a power loss may take a whole segment. The caps bound
    how far each new subscriber may fall behind; without them a subscriber that never reads keeps everything.

    \b
    Examples:
      jlogctl create var/spool/mainlog --subscriber master
      jlogctl create var/spool/debug --compression zstd --max-lag-bytes 10GiB --on-full drop-oldest
    """
    if len(set(subscribers)) < len(subscribers):
        raise UsageError("a subscriber is named twice")
    settings = Settings(
        segment_bytes=SEGMENT_BYTES_DEFAULT if segment_size is None else segment_size,
        durability=durability,
        compression=compression,  # type: ignore[arg-type]
        caps=make_caps(max_lag_bytes, max_lag_age, on_full) or Caps(),
    )
    targets.create_log(target, settings, subscribers)
    names = f"subscribers {', '.join(subscribers)}" if subscribers else "no subscribers"
    segments = f"segments of {units.format_size(settings.segment_bytes)}"
    say(f"created {target}: {names}, {segments}, durability {durability}")


def make_caps(max_lag_bytes: int | None, max_lag_age: float | None, on_full: str | None) -> Caps | None:
    """The caps of the options; None when none was given. Raises UsageError for a pair that makes no sense."""
    if max_lag_bytes is None and max_lag_age is None and on_full is None:
        return None
    if not max_lag_bytes and not max_lag_age:
        raise (
            UsageError("--on-full needs a cap: --max-lag-bytes or --max-lag-age")
            if on_full
            else UsageError("a cap of 0 is no cap; leave it out")
        )
    try:
        return msgspec.convert(
            {"max_bytes": max_lag_bytes or 0, "max_age": max_lag_age or 0.0, "on_full": on_full or "block"}, Caps
        )
    except msgspec.ValidationError as error:
        raise UsageError(f"the caps are not accepted: {error}") from None
