"""`vip show`, `vip plan` and `vip history`: what is, what would be, what was."""

from __future__ import annotations

import ipaddress
import json
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from jlogd.cli.output import print_json, say, show, table, warn
from jlogd.cli.params import json_option
from jlogd.cli.units import format_duration
from jlogd.errors import RemoteError
from vip.cli.cluster import Cluster, find_config, opened
from vip.cli.params import config_option
from vip.cli.silence import Listener, listen
from vip.clock import boot_ns, wall_text
from vip.config import load
from vip.status import AddressStatus, Move, NodeStatus, addresses_of, holds_of, is_new, moves_of, nodes_of, staying_of
from vip.view import View

if TYPE_CHECKING:
    from rich.console import RenderableType

# More addresses than this are shown as a count by state and owner, unless all are asked for.
ROWS_MAX = 200
HISTORY_SECONDS_MAX = 5.0


@click.command("show")
@click.argument("words", metavar="[ADDRESS|GROUP|NODE]...", nargs=-1)
@click.option("--nodes", "only_nodes", is_flag=True, help="Only the nodes.")
@click.option(
    "--all", "every", is_flag=True, help=f"Every address by itself, even when there are more than {ROWS_MAX}."
)
@click.option("--watch", is_flag=True, help="Again every second, until Ctrl-C.")
@json_option
@config_option
def show_command(
    words: Sequence[str], only_nodes: bool, every: bool, watch: bool, as_json: bool, config: Path | None
) -> int:
    """Show who has which address, since when, and why.

    The answer is read from the store. The exit code is 1 when an address has no owner, or is SILENT, BLOCKED or
    BROKEN, and when there is no such address, group or node. A node whose last heartbeat is old is listened to first,
    for as long as others would wait to take over. Addresses that follow each other and are alike are one line.

    \b
    Examples:
      vip show
      vip show outbound-gold --json
      vip show --nodes --watch
    """
    with opened(config) as cluster:
        wanted = [cluster.asked(word) for word in words]
        listener = Listener()
        while True:
            silent = _silent(cluster, listener)
            rows = _wanted(addresses_of(cluster.plan, cluster.view, cluster.wall, silent), wanted)
            nodes = nodes_of(cluster.plan, cluster.view, boot_ns(), cluster.wall, silent)
            if watch and sys.stdout.isatty():
                click.clear()
            _print(cluster, rows, nodes, only_nodes, every, as_json)
            if not watch:
                return 1 if any(row.state in ("free", "SILENT", "BLOCKED", "BROKEN") for row in rows) else 0
            time.sleep(1.0)


def _silent(cluster: Cluster, listener: Listener) -> dict[str, str]:
    """Read again until it is known of every node whether it is heard."""

    def look() -> tuple[View, int, float]:
        cluster.read()
        return cluster.view, boot_ns(), cluster.wall

    return listen(listener, look)


def _wanted(rows: Sequence[AddressStatus], wanted: Sequence[str]) -> list[AddressStatus]:
    words = set(wanted)
    return [row for row in rows if not words or words & {row.address, row.group, row.owner}]


def _print(
    cluster: Cluster,
    rows: Sequence[AddressStatus],
    nodes: Sequence[NodeStatus],
    only_nodes: bool,
    every: bool,
    as_json: bool,
) -> None:
    if as_json:
        print_json(nodes if only_nodes else rows)
        return
    show(_nodes_table(nodes))
    if only_nodes:
        return
    say("")
    if len(rows) > ROWS_MAX and not every:
        counts = Counter((row.state, row.owner or "nobody") for row in rows)
        show(table(("STATE", "OWNER", "ADDRESSES"), [(s, o, str(c)) for (s, o), c in sorted(counts.items())], left=2))
        rows = [row for row in rows if row.state != "owned"][:ROWS_MAX]
        if not rows:
            return
        say("")
    if not rows:
        say("there are no addresses to show")
        return
    columns = ("ADDRESS", "GROUP", "STATE", "OWNER", "SINCE", "WHY")
    lines = [_row(row, cluster.wall) for row in rows]
    show(table(columns, lines if every else folded(lines), left=4))


def folded(lines: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Lines that follow each other and differ in nothing but the address, one higher each time, as one with a range."""
    found: list[tuple[str, ...]] = []
    next_one = (0, 0)
    for line in lines:
        address = ipaddress.ip_address(line[0])
        here = address.version, int(address)
        if found and line[1:] == found[-1][1:] and here == next_one:
            found[-1] = (f"{found[-1][0].partition('-')[0]}-{line[0]}", *line[1:])
        else:
            found.append(line)
        next_one = address.version, int(address) + 1
    return found


def _row(row: AddressStatus, wall: float) -> tuple[str, ...]:
    since = format_duration(max(wall - row.since, 0)) if row.since else "-"
    return row.address, row.group, row.state, row.owner or "nobody", since, row.why


def _nodes_table(nodes: Sequence[NodeStatus]) -> RenderableType:
    columns = ("NODE", "STATE", "ADDRESSES", "SESSION", "GENERATION", "GATE", "WHY")
    rows = [
        (n.node, n.state, str(n.addresses), format_duration(n.age) if n.gate else "-", str(n.generation), n.gate, n.why)
        for n in nodes
    ]
    return table(columns, rows, left=2)


@click.command("plan")
@click.option("--drain", metavar="NODE", default="", help="As if this node were drained besides.")
@click.option("--lost", metavar="NODE", default="", help="As if this node were gone.")
@json_option
@config_option
def plan_command(drain: str, lost: str, as_json: bool, config: Path | None) -> int:
    """Show what would move, without moving it.

    Each move comes with its reason. With a file as --config that no node runs yet it shows what would be if all of them
    did: which addresses would be taken, moved, or given up because the file has them not. What an operator holds
    somewhere is listed as well. The exit code is 1 when nothing would move.

    \b
    Examples:
      vip plan
      vip plan --config new.toml
      vip plan --drain mta2
      vip plan --lost mta1 --json
    """
    with opened(config) as cluster:
        for name in (drain, lost):
            if name:
                cluster.node(name)
        moves = moves_of(cluster.plan, cluster.view, cluster.wall, drain, lost)
        staying = staying_of(cluster.plan, cluster.view, cluster.wall, drain) if drain and drain != lost else []
        holds = holds_of(cluster.plan, cluster.view, cluster.wall)
        _tell_about_file(cluster)
    if as_json:
        print_json([*moves, *holds])
    elif not moves:
        say("nothing would move")
    else:
        show(table(("WHAT", "ADDRESSES", "FROM", "TO", "WHY"), [_move_row(move) for move in moves]))
        say(f"addresses that would move: {sum(len(move.addresses) for move in moves)}")
    for hold in holds if not as_json else ():
        say(f"{hold.bundle} is {hold.why}")
    if staying and not as_json:
        say(f"addresses that stay on {drain}, because no other node can have them: {len(staying)}")
    return 0 if moves else 1


def _tell_about_file(cluster: Cluster) -> None:
    """What a configuration that no node runs needs before it can be what the plan says."""
    if not is_new(cluster.plan, cluster.view):
        return
    mine, highest = cluster.settings.generation, cluster.view.generation
    warn("no live node runs this configuration: this is what would be if all of them did")
    if mine <= highest:
        warn(f"it has generation {mine}, and {highest} is in force: it needs a higher one")


def _move_row(move: Move) -> tuple[str, ...]:
    return move.bundle, str(len(move.addresses)), move.before or "nobody", move.after or "nobody", move.why


@click.command("history")
@click.option("-n", "count", type=click.IntRange(1, 1000), metavar="N", default=50, show_default=True,
              help="How many of the last changes.")  # fmt: skip
@json_option
@config_option
def history_command(count: int, as_json: bool, config: Path | None) -> int:
    """Show the last changes of owner.

    Those that the daemon of this machine saw since it started, after what it found then, as that stood in the store.
    They are in its memory; all are kept in the jlogd log that vip.log names, when one is configured.

    \b
    Examples:
      vip history -n 20
      vip history --json
    """
    settings = load(find_config(config))
    if not settings.http:
        raise RemoteError("vip.http is empty, so the daemon cannot be asked; read the log that vip.log names")
    url = f"http://{settings.http}/stat"
    try:
        with urllib.request.urlopen(url, timeout=HISTORY_SECONDS_MAX) as answer:
            entries = json.load(answer)["history"][-count:]
    except (OSError, ValueError, KeyError) as error:
        raise RemoteError(f"{url}: {error}; is the daemon running?") from None
    if as_json:
        print_json(entries)
    elif entries:
        rows = [
            (
                wall_text(e["at"], "milliseconds"),
                e["address"],
                e["before"] or "nobody",
                e["after"] or "nobody",
                e.get("why", ""),
            )
            for e in entries
        ]
        show(table(("AT", "ADDRESS", "FROM", "TO", "WHY"), rows, left=4))
    return 0 if entries else 1
