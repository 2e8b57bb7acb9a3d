"""`vip drain`, `undrain`, `move`: what an operator orders. Orders stand in the store; whoever they concern acts."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import click

from cluster.types import Put
from jlogd.cli.output import say, warn
from jlogd.cli.params import DURATION
from jlogd.errors import UsageError
from vip.cli.cluster import Cluster, opened, whoami
from vip.cli.params import config_option
from vip.errors import NotFound
from vip.records import DrainRecord, PinRecord, encode
from vip.situation import owners_of
from vip.status import hold_of, staying_of, words_of
from vip.units import Bundle

wait_option = click.option(
    "--wait",
    type=DURATION,
    metavar="TIME",
    default="30s",
    show_default=True,
    help="How long to wait until it is done; 0 for not at all.",
)
_POLL_SECONDS = 0.2


@click.command("drain", no_args_is_help=True)
@click.argument("node", metavar="NODE")
@wait_option
@click.option("--force", is_flag=True, help="Even a node that nobody has heard of: it is drained when it comes.")
@config_option
def drain_command(node: str, wait: float, force: bool, config: Path | None) -> int:
    """Empty a node, and give it nothing more.

    It hands over everything it has, and gets nothing until `vip undrain`.

    Each address moves cleanly: it is gone from the node before another takes it. The exit code is 1 when the node has
    still some after --wait: a node keeps what no other can have.

    \b
    Examples:
      vip drain mta2
      vip drain mta2 --wait 2m
    """
    with opened(config) as cluster:
        if not force and not cluster.known(node):
            alive = ", ".join(sorted(cluster.view.sessions)) or "none"
            raise NotFound(
                f"there is no node {node}, and no group prefers it; alive: {alive}; --force drains it when it comes"
            )
        if node not in cluster.view.sessions:
            warn(f"{node} is not alive; it will be drained when it comes")
        cluster.commit(Put(cluster.keys.drain(node), encode(DrainRecord(cluster.wall, whoami()))))

        def left() -> int:
            return sum(cluster.view.owner(address) == node for address in cluster.view.owns)

        cluster.read()
        staying = staying_of(cluster.plan, cluster.view, cluster.wall, node)
        if staying:
            warn(f"addresses that stay on {node}, because no other node can have them now: {len(staying)}")
        done = _until(cluster, lambda: not left(), wait)
        say(f"{node} is drained" if done else f"{node} is drained, but has {left()} addresses still; see vip show")
        return 0 if done else 1


@click.command("undrain", no_args_is_help=True)
@click.argument("node", metavar="NODE")
@config_option
def undrain_command(node: str, config: Path | None) -> int:
    """Let a drained node have addresses again.

    The exit code is 1 when it was not drained.

    \b
    Examples:
      vip undrain mta2
    """
    with opened(config) as cluster:
        known = node in cluster.view.drains
        cluster.drop(cluster.keys.drain(node))
    say(f"{node} is no longer drained" if known else f"{node} was not drained")
    return 0 if known else 1


@click.command("move", no_args_is_help=True)
@click.argument("what", metavar="ADDRESS|GROUP")
@click.argument("node", metavar="[NODE]", required=False)
@click.option("--for", "duration", type=DURATION, metavar="TIME", help="Hold it there so long; else once, without.")
@click.option("--release", is_flag=True, help="End a hold before its time; no NODE then.")
@wait_option
@config_option
def move_command(
    what: str, node: str | None, duration: float | None, release: bool, wait: float, config: Path | None
) -> int:
    """Move an address to a node.

    All that moves with it goes along: a follower takes its leader with it. Without --for it is moved once, and stays as
    long as nothing else says otherwise: a group that prefers another node and has failback "auto" goes home after a
    while. With --for it is held there; vip show says until when, another move replaces that, --release ends it. A node
    that cannot have it, or is drained, does not get it.

    \b
    Examples:
      vip move 10.1.1.10 mta3
      vip move outbound-gold mta3 --for 1h
      vip move outbound-gold --release
    """
    if release == (node is not None) or (release and duration):
        raise UsageError("name either the NODE to move to or --release, which takes no --for")
    with opened(config) as cluster:
        bundle = cluster.bundle(what)
        if node is None:
            return _release(cluster, bundle)
        cluster.node(node)
        if node in cluster.view.drains:
            raise UsageError(f"{node} is drained; vip undrain {node} first")
        _tell_beforehand(cluster, bundle, what, node, held=bool(duration))
        until = cluster.wall + duration if duration else 0.0
        record = PinRecord(node, until, cluster.wall, whoami())
        cluster.commit(Put(cluster.keys.pin(bundle.name), encode(record)))
        done = _until(cluster, lambda: owners_of(cluster.plan, cluster.view).get(bundle.name) == node, wait)
        later = f"ordered to {node}, not there yet; see vip show and vip plan"
        say(f"{_names(bundle)}: {f'now on {node}' if done else later}")
        return 0 if done or not wait else 1


def _names(bundle: Bundle) -> str:
    return ", ".join(unit.name for unit in bundle.units)


def _tell_beforehand(cluster: Cluster, bundle: Bundle, what: str, node: str, held: bool) -> None:
    """What an order does besides what its words say."""
    if len(bundle.units) > 1:
        warn(f"{what} moves together with the rest of: {_names(bundle)}")
    hold = hold_of(cluster.view, bundle.name, cluster.wall)
    if hold is not None:
        warn(f"{bundle.name} was {words_of(hold)}; this order replaces that")
    home = bundle.leader.prefer
    if not held and bundle.leader.failback == "auto" and home and home[0] != node:
        warn(f"{bundle.name} prefers {home[0]} and will go there again; hold it with --for TIME")


def _release(cluster: Cluster, bundle: Bundle) -> int:
    hold = hold_of(cluster.view, bundle.name, cluster.wall)
    cluster.drop(cluster.keys.pin(bundle.name))
    if hold is None:
        say(f"{_names(bundle)}: nobody held it")
        return 1
    say(f"{_names(bundle)}: no longer {words_of(hold)}")
    return 0


def _until(cluster: Cluster, true: Callable[[], bool], seconds: float) -> bool:
    """Read again until something is true, or the time is over."""
    limit = time.monotonic() + seconds
    while True:
        cluster.read()
        if true():
            return True
        if time.monotonic() >= limit:
            return False
        sys.stdout.flush()
        time.sleep(_POLL_SECONDS)
