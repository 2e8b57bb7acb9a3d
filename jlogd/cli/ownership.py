"""`jlogctl owner` and `jlogctl takeover`: whose logs these are, and making them this host's."""

from __future__ import annotations

import time
from pathlib import Path

import click
import msgspec

from jlogd.cli import targets, units
from jlogd.cli.errors import DONE, NOT_FOUND
from jlogd.cli.output import print_json, say, show, table, warn
from jlogd.cli.owner import act_as_owner
from jlogd.cli.params import Target, json_option
from jlogd.errors import JlogError, LogNotFound, UsageError
from jlogd.journal.disk import PosixDisk
from jlogd.journal.head import utc
from jlogd.journal.layout import Layout
from jlogd.journal.locks import holder_elsewhere
from jlogd.journal.spool import DAEMON_LOCK, Identity, logs_of, read_identity, take_over_log, take_over_spool
from jlogd.journal.view import View

_LOCAL_ONLY = "owners are told by the files themselves, on a machine that has them; give the directory"
_COLUMNS = ("LOG", "HOST", "NAME", "BOOT", "EPOCH", "SINCE", "AGE", "HELD")
# The first characters of a uuid tell two boots apart.
_BOOT_COLUMNS = 8


class Ownership(msgspec.Struct, frozen=True, kw_only=True):
    """Who owns a spool or a log. `kind` is spool or log; `since` is in seconds since 1970 UTC, 0 when it is not known.

    `held`: whether processes hold it now, null when that cannot be told; `pid` is one of them, when it is of this host.
    """

    kind: str
    path: str
    host: str
    name: str
    this_host: bool
    since: float
    age: float
    held: bool | None
    pid: int = 0
    node: str = ""
    uuid: str = ""
    boot: str = ""
    epoch: int = 0


@click.command("owner", no_args_is_help=True)
@click.argument("place", metavar="SPOOL_OR_LOG", type=Target())
@json_option
def owner(place: str, as_json: bool) -> int:
    """Show which host owns a spool and its logs.

    For the spool: its identity, the node it belongs to, the host that runs it. For each log: the host, its boot, the
    epoch, since when, and whether processes hold it now, as the locks of this mount tell. Nothing is changed and nobody
    is held up. Exit code 1: there are no logs, or the owner of one cannot be read.

    \b
    Examples:
      jlogctl owner /san/logs/east1
      jlogctl owner var/spool/mainlog --json
    """
    spool, logs = _places(place)
    rows, code = [], DONE
    identity = read_identity(spool) if spool is not None else None
    if spool is not None and identity is not None:
        rows.append(_spool_row(spool, identity))
    for path in logs:
        try:
            rows.append(_log_row(path))
        except (JlogError, OSError) as error:
            warn(f"warning: {path}: {error}")
            code = NOT_FOUND
    if as_json:
        print_json(rows)
        return code if rows else NOT_FOUND
    if spool is not None:
        say(_told(spool, rows[0] if identity else None))
    found = [row for row in rows if row.kind == "log"]
    if found:
        show(table(_COLUMNS, [_drawn(row) for row in found], left=4))
    elif code == DONE:
        say(f"there are no logs in {spool}")
    return code if found else NOT_FOUND


@click.command("takeover", no_args_is_help=True)
@click.argument("place", metavar="SPOOL_OR_LOG", type=Target())
@click.option("--node", metavar="NAME", help="Make the spool that of another node, too.")
def takeover(place: str, node: str | None) -> None:
    """Make this host the owner of a spool or a log.

    For the logs of a host that is down. It is refused while a daemon runs on the spool or processes of the owner hold
    one of its logs, and nothing is changed then. Otherwise the epoch of each log is raised, what was acknowledged is
    sealed, and a new segment is begun. A former owner that wakes up later notices it, acknowledges nothing and stops;
    what it still writes nobody reads. Make sure that the other host is down all the same: the locks of a host that was
    cut off from the storage may be gone while it lives.

    \b
    Examples:
      jlogctl takeover /san/logs/east1
      jlogctl takeover /san/logs/east1 --node east2
      jlogctl takeover /san/logs/east1/mainlog
    """
    spool, logs = _places(place)
    act_as_owner(Path(place))
    if spool is None:
        if node:
            raise UsageError(f"{place} is a log; --node is for a spool, such as {logs[0].parent}")
        done = take_over_log(logs[0])
        say(done or f"{logs[0].name}: this host owns it already; nothing was changed")
        return
    told: list[str] = []

    def tell(line: str) -> None:
        told.append(line)
        say(line)

    take_over_spool(spool, node=node or "", tell=tell)
    if not told:
        say(f"{spool}: this host owns it already; nothing was changed")


def _places(place: str) -> tuple[Path | None, list[Path]]:
    """(spool, its logs) or (None, [log]). Raises LogNotFound, UsageError."""
    if "://" in place:
        raise UsageError(f"{place}: {_LOCAL_ONLY}")
    path = Path(place)
    if not path.exists():
        raise LogNotFound(f"there is neither a spool nor a log at {place}: is its mount missing?")
    if not path.is_dir() or (path / targets.LOG_FILE).is_file():
        return None, [targets.local_directory(place, _LOCAL_ONLY).absolute()]
    path = path.absolute()
    logs = logs_of(path, PosixDisk())
    if not logs and read_identity(path) is None:
        raise LogNotFound(f"there is no log in {place}, and no daemon has run on it")
    return path, logs


def _spool_row(spool: Path, identity: Identity) -> Ownership:
    held, pid = _held(spool / DAEMON_LOCK)
    since = identity.since / 1e9
    return Ownership(
        kind="spool", path=str(spool), uuid=identity.uuid, node=identity.node, host=identity.host, name=identity.name,
        this_host=identity.host == PosixDisk().host(), since=since, age=max(time.time() - since, 0.0), held=held,
        pid=pid,
    )  # fmt: skip


def _log_row(path: Path) -> Ownership:
    found = View(path, PosixDisk()).owner()
    held, pid = _held(Layout(path).owner_lock)
    since = found.since / 1e9
    return Ownership(
        kind="log", path=str(path), host=found.host, name=found.name, boot=found.boot, epoch=found.epoch,
        this_host=found.host == PosixDisk().host(), since=since, age=max(time.time() - since, 0.0) if since else 0.0,
        held=held, pid=pid,
    )  # fmt: skip


def _held(path: Path) -> tuple[bool | None, int]:
    try:
        pid = holder_elsewhere(path)
    except (JlogError, OSError):  # no permission, or no locks
        return None, 0
    return pid is not None, pid or 0


def _told(spool: Path, row: Ownership | None) -> str:
    if row is None:
        return f"{spool}: no daemon has run on it yet, so it belongs to no node"
    where = "this host" if row.this_host else f"host {row.host}"
    since = f"since {utc(int(row.since * 1e9))} ({units.format_duration(row.age)})"
    state = {
        True: f"a daemon runs on it{f', pid {row.pid}' if row.pid else ''}",
        False: "no daemon runs on it",
        None: "whether a daemon runs on it cannot be told",
    }[row.held]
    return f"{spool}: spool {row.uuid} of node {row.node}, on {where} ({row.name}) {since}; {state}"


def _drawn(row: Ownership) -> tuple[str, ...]:
    held = {True: f"by pid {row.pid}" if row.pid else "yes", False: "no", None: "?"}[row.held]
    since, age = (utc(int(row.since * 1e9)), units.format_duration(row.age)) if row.since else ("-", "-")
    host = f"{row.host} (this)" if row.this_host else row.host
    name, boot = row.name or "-", row.boot[:_BOOT_COLUMNS] or "-"
    return Path(row.path).name, host, name, boot, str(row.epoch), since, age, held
