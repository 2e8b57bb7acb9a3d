"""`jlogctl manager`: how a manager is, whether its files are right, and what only a person can decide."""

from __future__ import annotations

import shlex
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
import msgspec

from jlogd.cli import units
from jlogd.cli.errors import DONE, NOT_FOUND
from jlogd.cli.hints import Hinting
from jlogd.cli.output import print_json, progress, say, show, table, warn
from jlogd.cli.params import DURATION, json_option
from jlogd.errors import RemoteError, UsageError

if TYPE_CHECKING:
    from jlogd.daemon.config import Config
    from jlogd.manager.journals import JournalReport
    from jlogd.manager.ledger import LmdbLedger
    from jlogd.manager.orders import Resume
    from jlogd.manager.status import ManagerStatus, PullStatus

F = TypeVar("F", bound=Callable[..., Any])

# Looked for in this order when none is named.
CONFIGS = (Path("jlogd.toml"), Path("/etc/jlogd/jlogd.toml"))
COLUMNS = ("NODE", "LOG", "SUBSCRIBER", "STATE", "LAG", "BYTES", "AGE", "RATE", "WRITTEN", "LOST", "ERROR")
# An answer is made from memory; a manager that needs longer is not well.
HTTP_SECONDS = 10.0
# How long a manager has to see an order.
ORDER_SECONDS = 15.0
INTERVAL_SECONDS_MIN = 0.1

config_option = click.option(
    "--config", "config", metavar="FILE", type=click.Path(path_type=Path),
    help="The manager's configuration; by default ./jlogd.toml, else /etc/jlogd/jlogd.toml.",
)  # fmt: skip

text_option = click.option("--text", is_flag=True, help="About the text logs that a node writes of its own logs.")


@click.group("manager", cls=Hinting, no_args_is_help=True)
def manager() -> None:
    """Look at a manager, verify its files, decide what it cannot.

    A manager is named by its configuration: where it answers and where its ledger is are read from there. The commands
    run on the manager's own machine.

    \b
    Examples:
      jlogctl manager status
      jlogctl manager verify --config /etc/jlogd/jlogd.toml
    """


@manager.command("status")
@config_option
@click.option("--watch", is_flag=True, help="Show it again and again.")
@click.option(
    "--interval", type=DURATION, metavar="TIME", default="1s", show_default=True, help="Time between two looks."
)
@json_option
def status(config: Path | None, watch: bool, interval: float, as_json: bool) -> int:
    """Show how each log of each node is pulled.

    For each: its state, how far it lags in records, bytes and age, the rate of the last seconds, what was written and
    what gaps named as lost since the first contact, and what is wrong. Exit code 1: something is; or the manager is
    decommissioned and pulls from no node any more, or waits only for nodes that are away. A node that is away and a
    pull that stands still are wrong after a minute; until then only their rows say so.

    \b
    Examples:
      jlogctl manager status
      jlogctl manager status --watch
      jlogctl manager status --json
    """
    if interval < INTERVAL_SECONDS_MIN:
        raise UsageError("--interval is 100ms at least")
    url = url_of(manager_config(config))
    code = _show_status(ask_manager(url, config), as_json)
    try:
        while watch:
            time.sleep(interval)
            found = ask_manager(url, config)
            if not as_json:
                click.clear()
            code = _show_status(found, as_json)
    except KeyboardInterrupt:
        pass
    return code


@manager.command("verify")
@config_option
@text_option
@click.option("--journals", is_flag=True, help="Compare the files with what the nodes still hold, too.")
@json_option
def verify(config: Path | None, text: bool, journals: bool, as_json: bool) -> int:
    """Prove that nothing is missing, doubled or changed in the files.

    Every file is read: its length, checksum and lines must be those of the ledger; and the counts of all files must add
    up to what was pulled, number by number. The manager may run meanwhile. Exit code 1: something is not right. What
    someone appended to a file is named, and is no reason to doubt what is before it.

    With --journals the nodes are asked for the records that they still hold, all of them, and the files must have these
    once and in order. A log that cannot be compared, because its node is away for example, is named; exit code 1 then.

    \b
    Examples:
      jlogctl manager verify
      jlogctl manager verify --journals
      jlogctl manager verify --config /etc/jlogd/jlogd.toml --json
      jlogctl manager verify --text
    """
    from jlogd.manager.ledger import LmdbLedger
    from jlogd.manager.verify import HARMLESS
    from jlogd.manager.verify import verify as verify_ledger

    ledger = LmdbLedger(_ledger(config, text), write=False)
    try:
        with progress("verifying") as advance:
            report = verify_ledger(ledger, lambda done, total: advance(done, total))
        compared = _compared(ledger, config, text) if journals else []
    finally:
        ledger.close()
    right = report.right and all(one.judgement == "right" for one in compared)
    if as_json:
        more = {"journals": msgspec.to_builtins(compared)} if journals else {}
        print_json([{**msgspec.to_builtins(report), **more, "right": right}])
        return DONE if right else NOT_FOUND
    for file in report.files:
        if file.verdict == "added" or file.verdict not in HARMLESS:
            warn(f"{file.path}: {file.text}")
    for aside in report.aside:
        warn(aside)
    for source in report.sources:
        if not source.right:
            warn(f"{source.source}: {source.text}")
    records = sum(source.records for source in report.sources)
    size = sum(file.bytes for file in report.files)
    looked = (
        f"{units.counted(len(report.files), 'file')}, {units.format_size(size)}, {units.counted(records, 'record')}"
    )
    lost = sum(source.lost for source in report.sources)
    gaps = f"; {units.counted(lost, 'record')} marked as lost before they were pulled" if lost else ""
    say(f"{looked} of {units.counted(len(report.sources), 'log')}: {'right' if report.right else 'NOT right'}{gaps}")
    if journals:
        _tell_compared(compared)
    return DONE if right else NOT_FOUND


def _compared(ledger: LmdbLedger, path: Path | None, text: bool) -> list[JournalReport]:
    """The files beside what the nodes hold."""
    from jlogd.manager.journals import compare, pulled, written
    from jlogd.manager.template import Origin

    config = _load(path)
    node = config.node
    origin = Origin(node.name, node.subcluster, "", node.name)
    place_of = written(config.texts, origin, config.spool) if text else pulled(config.manager, config.manager_name)
    with progress("comparing") as advance:
        return compare(ledger, place_of, lambda done, total: advance(done, total))


def _tell_compared(compared: list[JournalReport]) -> None:
    for one in compared:
        if one.judgement != "right":
            warn(f"{one.source}: {'' if one.judgement == 'wrong' else 'not compared: '}{one.text}")
    records = units.counted(sum(one.records for one in compared if one.judgement == "right"), "record")
    wrong = sum(one.judgement == "wrong" for one in compared)
    unknown = sum(one.judgement == "unknown" for one in compared)
    right = len(compared) - wrong - unknown
    verdict = f"{right} right, {wrong} NOT right, {unknown} not compared" if wrong or unknown else "right"
    say(f"{records} that the nodes still hold, of {units.counted(len(compared), 'log')}: {verdict}")


@manager.command("resume", no_args_is_help=True)
@click.argument("node", metavar="NODE")
@click.argument("log", metavar="LOG")
@click.option("--at", type=click.IntRange(min=1), metavar="NUMBER", help="Go on at this record of the log.")
@config_option
@text_option
def resume(node: str, log: str, at: int | None, config: Path | None, text: bool) -> None:
    """Go on with a pull that stopped because the log has another history now.

    A pull stops when the numbers of a log went back, as they do when an old copy of its spool was restored. Look at the
    log first (jlogctl tail). It then goes on at the subscriber's own position, or at the record that --at names; a
    marked line in the file says so.

    \b
    Examples:
      jlogctl manager resume east1 mainlog
      jlogctl manager resume east1 mainlog --at 500001
    """
    from jlogd.manager import orders

    if text:
        _order(_ledger(config, text), orders.Resume(node, log))
        return say(f"the text of {log} goes on")
    found = manager_config(config)
    pulls = [pull for pull in ask_manager(url_of(found), config).pulls if (pull.node, pull.log) == (node, log)]
    if not pulls:
        raise UsageError(f"this manager pulls no log {log} of a node {node}; what it pulls: jlogctl manager status")
    if not any(pull.state == "stopped" for pull in pulls):
        raise UsageError(f"the pull of {log} at {node} has not stopped; see jlogctl manager status")
    _order(found.manager_ledger, orders.Resume(node, log, at))
    say(f"{log} at {node} goes on{f' at record {at}' if at else ''}")


def _order(ledger: Path, order: Resume) -> None:
    """Have a running manager do something. Raises `RemoteError` when it does not."""
    from jlogd.manager import orders

    path = orders.give(ledger, order)
    deadline = time.monotonic() + ORDER_SECONDS
    while path.exists():
        if time.monotonic() > deadline:
            raise RemoteError(f"the order was not taken within {ORDER_SECONDS:g} s; it is kept in {path}")
        time.sleep(0.05)


def _ledger(path: Path | None, text: bool) -> Path:
    if not text:
        return manager_config(path).manager_ledger
    config = _load(path)
    if not config.texts and not config.text_ledger.exists():
        raise UsageError("no log of this configuration has a text ([log.NAME] text = ...); leave out --text")
    return config.text_ledger


def _load(path: Path | None) -> Config:
    from jlogd.daemon.config_file import load

    chosen = path or next((one for one in CONFIGS if one.exists()), None)
    if chosen is None:
        raise UsageError("there is no jlogd.toml here and no /etc/jlogd/jlogd.toml; name the manager's: --config FILE")
    return load(chosen)


def manager_config(path: Path | None) -> Config:
    """The configuration of a manager. Raises `ConfigError`, `UsageError`."""
    config = _load(path)
    if not config.manager.node:
        raise UsageError("there is no [[manager.node]] in the configuration: it is not that of a manager")
    return config


def url_of(config: Config) -> str:
    """Where the manager answers."""
    if config.http is None:
        raise UsageError('the manager answers nowhere: [listen] http is ""')
    return f"http://{config.http}/manager"


def ask_manager(url: str, config: Path | None = None) -> ManagerStatus:
    """What it says of itself; `config` is the file that was named. Raises `RemoteError`."""
    from jlogd.manager.status import ManagerStatus

    try:
        with urllib.request.urlopen(url, timeout=HTTP_SECONDS) as answer:
            return msgspec.json.decode(answer.read(), type=ManagerStatus)
    except (urllib.error.URLError, OSError) as error:
        reason = getattr(error, "reason", error)
        command = f"jlogd manager --config {shlex.quote(str(config))}" if config else "jlogd manager"
        raise RemoteError(f"no manager answers at {url}: {reason}; is it running? start it: {command}") from None
    except ValueError as error:
        raise RemoteError(f"what answers at {url} is no manager of this version: {error}") from None


def _show_status(found: ManagerStatus, as_json: bool) -> int:
    all_let_go = bool(found.leaving) and not found.nodes
    code = NOT_FOUND if found.problems or found.away or all_let_go else DONE
    if as_json:
        print_json([{**msgspec.to_builtins(found), "healthy": code == DONE}])
        return code
    away = [node for node in found.nodes if not node.up]
    up = f"{len(found.nodes) - len(away)} of {units.counted(len(found.nodes), 'node')} up"
    leaving = f"; decommissioned: {found.leaving}" if found.leaving else ""
    pulls = "pulls from no node any more" if all_let_go else f"{up}, {units.counted(len(found.pulls), 'log')}"
    say(f"manager {found.name}: {pulls}{leaving}")
    if found.pulls:
        show(table(COLUMNS, [_row(pull) for pull in found.pulls], left=4))
    for node in away:
        if not any(pull.node == node.name for pull in found.pulls):
            warn(f"{node.name}: {node.error or 'not connected yet'}")
    for name in found.away:
        warn(f"warning: {name} is away and not drained; everything else is")
    for problem in found.problems:
        warn(f"warning: {problem}")
    for text in found.unclaimed:
        warn(f"note: {text}")
    return code


def _row(pull: PullStatus) -> tuple[str, ...]:
    return (
        pull.node, pull.log, pull.subscriber, pull.state, *_lag(pull),
        "-" if pull.state in ("away", "absent") else units.format_rate(pull.records_a_second, pull.bytes_a_second),
        units.format_count(pull.records), units.format_count(pull.lost), pull.error,
    )  # fmt: skip


def _lag(pull: PullStatus) -> tuple[str, str, str]:
    """How far it lags: records, bytes, age. A log that is not there does not; one that is out of sight does who knows
    how far."""
    if pull.lag_records is None or pull.lag_bytes is None:
        return ("-", "-", "-") if pull.state == "absent" else ("?", "?", "?")
    age = units.format_duration(pull.lag_seconds) if pull.lag_seconds else "-"
    return units.format_count(pull.lag_records), units.format_size(pull.lag_bytes), age
