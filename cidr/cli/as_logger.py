"""`as_logger`: count the events of logs, for as long as it runs. Also `cidr as-logger`."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import click
import msgspec

from jlogd.cli import errors
from jlogd.cli.output import say, warn
from jlogd.cli.params import CONTEXT, version_option
from jlogd.cli.units import counted

# Of so many series that were left out it is said how many events had them.
SERIES_SHOWN_MAX = 20
CONFIG_DEFAULT = Path("/etc/jlogd/cidr.toml")


@click.command("as-logger", context_settings=CONTEXT)
@click.option(
    "-c",
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    default=CONFIG_DEFAULT,
    show_default=True,
    metavar="FILE",
    help="The configuration.",
)
@click.option("--base-dir", metavar="DIR", type=click.Path(path_type=Path), help="Instead of base_dir in FILE.")
@click.option("--once", is_flag=True, help="Count what is in the logs now, then end.")
@click.option("--check", is_flag=True, help="Only check the configuration.")
def as_logger(config_file: Path, base_dir: Path | None, once: bool, check: bool) -> None:
    """Count the events of logs by source address.

    Interval by interval, into segments of counts.
    It is an ordinary named subscriber of each log in FILE. SIGTERM ends it: what was counted is written first. However
    it ends, no event is lost and none is counted twice.

    \b
    Examples:
      as_logger -c cidr.toml
      as_logger -c cidr.toml --once
    """
    from cidr.config import load
    from cidr.logger import Logger

    ctx = click.get_current_context()
    if ctx.get_parameter_source("config_file") is click.core.ParameterSource.DEFAULT:
        config_file = ctx.find_root().params.get("config_file") or config_file  # `cidr --config FILE as-logger`
    config = load(config_file).as_logger
    if base_dir is not None:
        config = msgspec.structs.replace(config, base_dir=str(base_dir))
    config.check_counts()
    what = f"{counted(len(config.targets()), 'log')}, {counted(len(config.extract), 'rule')}"
    if config.not_wanted():
        warn(
            f"warning: {config.why_not(config.not_wanted())}; these rules are not applied, and nothing counts it later"
        )
    if check:
        say(f"{config_file} is right: {what}")
        return
    stop = threading.Event()
    for ending in (signal.SIGTERM, signal.SIGINT):
        signal.signal(ending, lambda *_: stop.set())
    with Logger(config, stop=stop) as logger:
        for note in logger.notes:
            warn(note)
        if not once:
            warn(
                f"counting: {what}, into {config.base_dir}; the first counts appear when an interval of"
                f" {config.log_interval} s closes"
            )
        logger.drain() if once else logger.run()
        seen = logger.seen
    say(f"{counted(seen.records, 'record')} read, {counted(seen.events, 'event')} counted")
    for series, number in seen.not_wanted.most_common(SERIES_SHOWN_MAX):
        warn(f"{counted(number, 'event')} of series {config.why_not([series])}")
    for number, what in (
        (seen.left_out, "of the audit log that are none of `jlogd.audit`"),
        (seen.not_an_address, "without an address in its place"),
        (seen.not_an_amount, "without a whole number in its place"),
        (seen.not_a_time, "with a time that is none, counted when they were logged"),
        (seen.lost, "lost in gaps of the log"),
    ):
        if number:
            warn(f"{counted(number, 'record')} {what}")


program = version_option(
    errors.Program(
        "as_logger",
        callback=as_logger.callback,
        params=[*as_logger.params],
        help=as_logger.help,
        context_settings=CONTEXT,
    )
)


def main() -> None:
    """Entry point of `as_logger`."""
    errors.run(program.main, "as_logger")


if __name__ == "__main__":
    main()
