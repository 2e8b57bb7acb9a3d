"""`jlogctl manager decommission` and `jlogctl node drain`: a manager or a node goes, and no record with it.

Both look at the nodes themselves, may be interrupted at any moment, and go on where they were when they are run again.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from jlogd.cli import units
from jlogd.cli.errors import DONE, NOT_FOUND
from jlogd.cli.hints import Hinting
from jlogd.cli.manager import ask_manager, config_option, manager, manager_config, url_of
from jlogd.cli.output import say, warn
from jlogd.errors import JlogError, RemoteError, SubscriberUnknown, UsageError

if TYPE_CHECKING:
    from jlogd.daemon.config import Config
    from jlogd.manager.census import NodeCensus
    from jlogd.manager.config import ManagedNode
    from jlogd.manager.status import ManagerStatus

LOOK_SECONDS = 1.0
# How long a running manager has to let its subscribers go.
LET_GO_SECONDS = 30.0
# Of what draining waits for, so much is named.
WAITS_SHOWN = 5


class NotConfirmed(JlogError):
    """What was to be confirmed was not."""

    code = "not-confirmed"


@manager.command("decommission", no_args_is_help=True)
@click.argument("name", metavar="NAME")
@click.option("--drain", is_flag=True, help="First pull everything the nodes hold for it; needs the manager running.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@config_option
def decommission(name: str, drain: bool, yes: bool, config: Path | None) -> int:
    """Remove a manager's subscribers from every log of every node, so that nothing is kept for it any more.

    NAME is that of the manager, or of a subscriber of its rules. A running manager of that name on this machine lets
    them go by itself, with --drain once it has pulled everything; for one that is gone, run this where a configuration
    lists the nodes. It may be interrupted, and goes on when it is run again. Exit code 1: some nodes, which are named,
    were away for half a minute or could not be reached, and everything else is done, run it again when they are back;
    or no node has a subscriber of that name. One of the configuration's own names may be gone already: that is said,
    and is no failure.

    \b
    Examples:
      jlogctl manager decommission mgr1 --drain
      jlogctl manager decommission mgr-that-burnt --yes --config /etc/jlogd/jlogd.toml
    """
    found = manager_config(config)
    names = _subscribers(found, name)
    running = name == found.manager_name and _is_running(found)
    if drain and not running:
        raise UsageError(
            f"manager {name} does not run here, so it cannot drain: start it (jlogd manager), run this on its machine, "
            "or leave out --drain, and what it has not pulled is given up"
        )
    _check_known(found, name)
    if not yes:
        _confirm(found, name, names, drain)
    away: list[str] = []
    if running:
        try:
            away = _let_go(found, name, drain)
        except KeyboardInterrupt:
            warn(f"manager {name} goes on with it; run this again to have its subscribers removed from the nodes")
            raise
    return _remove(found, names, away)


@click.group("node", cls=Hinting, no_args_is_help=True)
def node() -> None:
    """Look after a node from a manager's machine.

    \b
    Examples:
      jlogctl node drain east1
    """


@node.command("drain", no_args_is_help=True)
@click.argument("name", metavar="NODE")
@click.option("--once", is_flag=True, help="Look once: exit code 1 when something is left.")
@config_option
def drain_node(name: str, once: bool, config: Path | None) -> int:
    """Wait until everything a node holds has been pulled, and say when it is safe to remove it.

    Stop what feeds the node first: as long as it takes records in, it is not drained. Every subscriber of every log
    must have passed everything; one that nobody consumes is named. NODE is one of the configuration. It only looks, so
    it may be interrupted and run again.

    \b
    Examples:
      jlogctl node drain east1
      jlogctl node drain east1 --once
    """
    from jlogd.manager.census import look

    found = manager_config(config)
    node_ = next((one for one in found.manager.node if one.name == name), None)
    if node_ is None:
        there = ", ".join(one.name for one in found.manager.node)
        raise UsageError(f"there is no node {name} in the configuration; there are: {there}")
    before: dict[str, int] = {}
    said: list[str] = []
    while True:
        census = look(found.manager, node_)
        if census.error:
            raise RemoteError(f"node {name} cannot be asked: {census.error}")
        left = _left(census, before)
        if not left and (before or once):
            lone = [stat.name for stat in census.logs if not stat.subscribers and stat.next > stat.first]
            for log in lone:
                warn(f"warning: nobody subscribes to {log}: what it holds goes with the node")
            say(f"node {name} is drained: every subscriber has everything; it is safe to remove it")
            return DONE
        if left != said:
            said = left
            for line in left:
                say(line)
        if once:
            return NOT_FOUND
        before = {stat.name: stat.next for stat in census.logs}
        time.sleep(LOOK_SECONDS)


def _left(census: NodeCensus, before: dict[str, int]) -> list[str]:
    """What is not pulled yet, in words; `before` is where the logs ended at the last look."""
    found = []
    for stat in census.logs:
        taken = stat.next - before.get(stat.name, stat.next)
        if taken:
            found.append(f"{stat.name}: still takes records in, {units.counted(taken, 'record')} since the last look")
        for one in stat.subscribers:
            if one.lag_records:
                nobody = "" if one.holder else f", and nobody consumes it: {_what_to_do(census, stat.name, one.name)}"
                found.append(f"{stat.name}: {one.name} lags {units.counted(one.lag_records, 'record')}{nobody}")
    return found


def _what_to_do(census: NodeCensus, log: str, name: str) -> str:
    command = f"jlogctl subscriber remove {census.node.address}/{log} {name}"
    return f"start what consumes as {name}, or give up what it has not read: {command}"


def _subscribers(config: Config, name: str) -> list[str]:
    """The subscribers that go with a manager."""
    if name != config.manager_name:
        return [name]
    return sorted({rule.subscriber or name for rule in config.manager.rules})


def _check_known(config: Config, name: str) -> None:
    """Raises `SubscriberUnknown` when no node has such a subscriber: not for one of this configuration, which may be
    gone already, and not when a node cannot be asked."""
    from jlogd.manager.census import look

    if name in (config.manager_name, *(rule.subscriber for rule in config.manager.rules)):
        return
    there: set[str] = set()
    for node_ in config.manager.node:
        census = look(config.manager, node_)
        if census.error:
            return
        there |= {one.name for stat in census.logs for one in stat.subscribers}
    if name not in there:
        raise SubscriberUnknown(
            f"no node has a subscriber {name}; there are: {', '.join(sorted(there)) or 'none at all'}"
        )


def _is_running(config: Config) -> bool:
    from jlogd.errors import LogInUse
    from jlogd.manager.ledger import LmdbLedger

    if not (config.manager_ledger / "data.mdb").exists():
        return False
    try:
        LmdbLedger(config.manager_ledger).close()
    except LogInUse:
        return True
    return False


def _confirm(config: Config, name: str, names: list[str], drain: bool) -> None:
    from jlogd.manager.census import look

    for node_ in config.manager.node:
        census = look(config.manager, node_)
        if census.error:
            warn(f"{node_.name}: cannot be asked: {census.error}")
        for one in names:
            for log, lag in census.held_by(one):
                left = f"{units.counted(lag, 'record')} not pulled" if lag else "everything pulled"
                say(f"{node_.name}: {log}: subscriber {one}, {left}")
    what = "drained and then removed" if drain else "removed, with what they have not pulled"
    try:
        goes_on = click.confirm(f"The subscribers of {name} are {what}. Go on?")
    except click.Abort:
        if sys.stdin.isatty():
            raise  # Ctrl-C
        say("")  # the question has no end of line
        goes_on = False
    if not goes_on:
        raise NotConfirmed("not confirmed, and nothing is removed; --yes does not ask")


def _let_go(config: Config, name: str, drain: bool) -> list[str]:
    """Have the running manager let its subscribers go, drained if wanted; show how far it is. Nodes that are away, and
    not drained."""
    from jlogd.manager import orders

    drain = drain and ask_manager(url_of(config)).leaving != "let go"
    orders.withdraw(config.manager_ledger, orders.Decommission)
    order = orders.give(config.manager_ledger, orders.Decommission(name, drain))
    said = ""
    deadline = time.monotonic() + LET_GO_SECONDS
    while True:
        status = ask_manager(url_of(config))
        if status.leaving == "let go":
            return []
        if drain and status.away and status.order == order.name:
            return status.away
        line = _progress(status)
        if drain and line != said:
            said = line
            say(line)
        if not drain and time.monotonic() > deadline:
            raise RemoteError(
                f"manager {name} did not let its subscribers go within {LET_GO_SECONDS:g} s; stop it and run this again"
            )
        time.sleep(LOOK_SECONDS / 4)


def _progress(status: ManagerStatus) -> str:
    """How far draining is, and what it waits for."""
    lag = sum(pull.lag_records or 0 for pull in status.pulls)
    more = len(status.waits) - WAITS_SHOWN
    names = "; ".join(status.waits[:WAITS_SHOWN]) + (f"; and {more} more" if more > 0 else "")
    return f"draining: {units.counted(lag, 'record')} left" + (f"; waits for {names}" if names else "")


def _remove(config: Config, names: list[str], away: list[str]) -> int:
    """Remove the subscribers from the nodes, except from those that are `away` and not drained."""
    from jlogd.manager.census import remove

    left: list[ManagedNode] = []
    removed_on: list[str] = []
    for node_ in config.manager.node:
        if node_.name in away:
            warn(f"{node_.name}: away, and not drained: the manager goes on with it when it is back")
            left.append(node_)
            continue
        for one in names:

            def done(log: str, name: str = one, where: str = node_.name) -> None:
                removed_on.append(where)
                say(f"{where}: {log}: removed {name}")

            error = remove(config.manager, node_, one, done)
            if error:
                warn(f"{node_.name}: {error}")
                left.append(node_)
                break
    say(_told_removed(removed_on, names, len(config.manager.node) - len(left)))
    if left:
        warn(f"not done on {', '.join(one.name for one in left)}: run this again when they can be reached")
    return NOT_FOUND if left else DONE


def _told_removed(removed_on: list[str], names: list[str], asked: int) -> str:
    """What was removed, given the node of each of them; `asked` is how many nodes could be."""
    if not removed_on:
        return f"0 subscribers removed: none of {units.counted(asked, 'node')} has {' or '.join(names)} (any more)"
    nodes = units.counted(len(set(removed_on)), "node")
    return f"{units.counted(len(removed_on), 'subscriber')} removed from {nodes}"
