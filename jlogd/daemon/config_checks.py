"""What must be right in a configuration beyond the shape of each table: names, addresses, and tables that name others.

Each check yields mistakes: where, and one line that says what was found and what is accepted. None of them raises, and
none looks at anything but the configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from jlogd.daemon.addresses import parse_http_address
from jlogd.daemon.auth import Auth, demand_of
from jlogd.daemon.config import (
    DURABILITY_ACCEPTED,
    LOGS_MAX,
    NAME_ACCEPTED,
    PLACEHOLDER,
    PLACEHOLDERS,
    Config,
    LogConfig,
    source_names,
)
from jlogd.daemon.toml_lines import Path as Location
from jlogd.daemon.toml_structs import Mistake, found_text, nearest, printable
from jlogd.daemon.units import size_text
from jlogd.errors import UsageError
from jlogd.journal.types import NAME as NAME_PATTERN
from jlogd.journal.types import SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, sync_interval_ms
from jlogd.manager.config import MODE, MODE_ACCEPTED, twice, without_keys
from jlogd.manager.template import Template
from jlogd.sources.config import parse_address
from jlogd.wire.address import check_address


def _check_node(config: Config) -> Iterator[Mistake]:
    spool = config.node.spool
    path = ("node", "spool")
    if not config.node.state.isprintable():
        found = found_text(config.node.state)
        yield Mistake(("node", "state"), f"found {found}; accepted: a path without control characters")
    if not spool.isprintable():
        yield Mistake(path, f"found {found_text(spool)}; accepted: a path without control characters")
    for match in PLACEHOLDER.finditer(spool):
        if match[1] not in PLACEHOLDERS:
            yield Mistake(path, f"found {found_text(match[0])}; {nearest(match[1], PLACEHOLDERS, 'accepted')}")
    if "%{" in PLACEHOLDER.sub("", spool):
        yield Mistake(path, f"found {found_text(spool)}; accepted: placeholders closed by a brace, such as %{{node}}")


def _check_logs(config: Config) -> Iterator[Mistake]:
    if len(config.log) > LOGS_MAX:
        yield Mistake(("log",), f"found {len(config.log)} logs; accepted: at most {LOGS_MAX}")
    for name, log in config.log.items():
        if not NAME_PATTERN.fullmatch(name):
            yield Mistake(("log", name), f"found {found_text(name)}; accepted as the name of a log: {NAME_ACCEPTED}")
        yield from _check_log(("log", name), log)


def _check_log(path: tuple[str, str], log: LogConfig) -> Iterator[Mistake]:
    for at, subscriber in enumerate(log.subscribers):
        if subscriber in log.subscribers[:at]:
            yield Mistake(
                (*path, "subscribers", at), f"found {found_text(subscriber)} twice; accepted: each subscriber once"
            )
    if not SEGMENT_BYTES_MIN <= log.segment_size <= SEGMENT_BYTES_MAX:
        limits = f"{size_text(SEGMENT_BYTES_MIN)} to {size_text(SEGMENT_BYTES_MAX)}"
        yield Mistake((*path, "segment_size"), f'found "{log.segment_size}"; accepted: a size of {limits}')
    try:
        sync_interval_ms(log.durability)
    except (UsageError, ValueError):
        reason = f"found {found_text(log.durability)}; accepted: {DURABILITY_ACCEPTED}"
        yield Mistake((*path, "durability"), reason)
    if log.text:
        try:
            Template(log.text)
        except ValueError as error:
            yield Mistake((*path, "text"), f"found {found_text(log.text)}; accepted: {error}")
    if not MODE.fullmatch(log.text_mode):
        yield Mistake((*path, "text_mode"), f"found {found_text(log.text_mode)}; accepted: {MODE_ACCEPTED}")
    if log.max_lag_age and log.on_full == "block":
        yield Mistake(
            (*path, "max_lag_age"),
            f'found "{log.max_lag_age}" with on_full = "block"; accepted: a cap on age with on_full = "drop-oldest", '
            "because refusing new records makes the old ones no younger",
        )


def _check_listeners(config: Config) -> Iterator[Mistake]:
    taken: dict[str, str] = {}
    for path, text, socket_key in _listeners(config):
        try:
            key = socket_key(text)
        except ValueError as error:
            yield Mistake(path, f"found {found_text(text)}; accepted: {error}")
            continue
        except UsageError as error:
            yield Mistake(path, printable(str(error)))
            continue
        if key in taken:
            yield Mistake(path, f"found {found_text(text)}, which {taken[key]} uses; accepted: an address of its own")
        elif not key.endswith(":0"):  # port 0 is another one each time
            taken[key] = ".".join(str(part) for part in path[:2])


def _listeners(config: Config) -> Iterator[tuple[Location, str, Callable[[str], str]]]:
    """(where, address as written, function that gives what can be bound only once on a machine)."""
    for at, text in enumerate(config.listen.zmq):
        yield ("listen", "zmq", at), text, lambda text: _zmq_socket(text, config.auth)
    if config.listen.http:
        anywhere = config.listen.http_open
        yield ("listen", "http"), config.listen.http, lambda text: f"tcp://{parse_http_address(text, anywhere)}"
    for position, source in enumerate(config.source.syslog):
        for at, text in enumerate(source.listen):
            yield ("source", "syslog", position, "listen", at), text, _syslog_socket


def _zmq_socket(text: str, auth: Auth) -> str:
    address = check_address(text)
    demand_of(address, auth)
    return address.replace("ipc://", "unix://")


def _syslog_socket(text: str) -> str:
    return str(parse_address(text, anywhere=True)).replace("unixgram://", "unix://")


def _check_clients(config: Config) -> Iterator[Mistake]:
    """Each client has a name of its own, and nobody is two of them."""
    taken: dict[object, str] = {}
    for at, client in enumerate(config.auth.client):
        marks = {"name": [client.name], "public_key": client.keys, "uid": [client.uid], "gid": [client.gid]}
        for field, values in marks.items():
            for value in values:
                if value is not None and (field, value) in taken:
                    used = taken[field, value]
                    reason = f"found {found_text(value)}, which client {used} has; accepted: its own"
                    yield Mistake(("auth", "client", at, field), reason)
                taken[field, value] = client.name


def _check_sources(config: Config) -> Iterator[Mistake]:
    for kind, position, source in config.all_sources():
        if source.log not in config.log:
            near = nearest(source.log, config.log, "declared logs")
            reason = f"found {found_text(source.log)}, a log that no [log.NAME] declares; {near}"
            yield Mistake(("source", kind, position, "log"), reason)
    yield from _check_source_names(config)
    if len(config.source.stdin) > 1:
        yield Mistake(
            ("source", "stdin", 1), "found a second table; accepted: one, because there is one standard input"
        )


def _check_manager(config: Config) -> Iterator[Mistake]:
    for at, node in enumerate(config.manager.node):
        try:
            check_address(node.address)
        except UsageError as error:
            yield Mistake(("manager", "node", at, "address"), printable(str(error)))
    for at, reason in without_keys(config.manager):
        yield Mistake(("manager", "node", at, "key"), reason)
    for at, field in twice(config.manager.node):
        found = found_text(getattr(config.manager.node[at], field))
        yield Mistake(
            ("manager", "node", at, field), f"found {found}, which another node has; accepted: one of its own"
        )


def _check_source_names(config: Config) -> Iterator[Mistake]:
    """Names tell sources apart in metrics, and followed files keep their positions under the name of their source.

    So of several file sources each needs its own: one made from the order in the file would change with the order.
    """
    taken: set[str] = set()
    for name, (kind, position, source) in zip(source_names(config), config.all_sources(), strict=True):
        path = ("source", kind, position, "name")
        if kind == "file" and not source.name and len(config.source.file) > 1:
            yield Mistake(path, "missing; accepted: a name of its own, because several sources follow files")
        elif name in taken:
            yield Mistake(path, f"found {found_text(name)}, which another source has; accepted: a name of its own")
        taken.add(name)


# Each check, and the tables that must be as they were meant for it to say anything that is of use.
CHECKS: tuple[tuple[Callable[[Config], Iterator[Mistake]], tuple[str, ...]], ...] = (
    (_check_node, ("node",)),
    (_check_logs, ()),  # each log by itself
    (_check_listeners, ("listen", "auth", "source")),
    (_check_clients, ("auth",)),
    (_check_sources, ("source", "log")),
    (_check_manager, ("manager",)),
)
