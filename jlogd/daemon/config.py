"""The configuration of the daemon: `jlogd.toml` as frozen structs, read by `load` and `parse`.

    [node]              name, subcluster, spool, spool_identity, take_over
    [listen]            zmq, http, socket_mode
    [auth]              see jlogd/daemon/auth.py
    [log.NAME]          subscribers, segment_size, durability, compression, max_lag_bytes, max_lag_age, on_full
    [[source.syslog]]   see jlogd/sources/config.py, as for
    [[source.file]]
    [[source.stdin]]
    [manager]           see jlogd/manager/config.py, as for
    [[manager.node]]
    [[manager.pull]]

A file that is wrong in any way raises ConfigError with one line per mistake: file, line, field, what was found, what
is accepted. First every table is read by itself; only when all are right are they checked against each other.
`docs/configuration.md` describes every setting; `jlogd/daemon/reload.py` says which of them a reload applies.

No locks; a Config never changes.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from jlogd.daemon.addresses import HTTP_ACCEPTED, HttpAddress, parse_http_address
from jlogd.daemon.auth import Auth, demand_of
from jlogd.daemon.toml_lines import Path as Location
from jlogd.daemon.toml_structs import Mistake, TomlText, found_text, nearest, printable, read_struct
from jlogd.daemon.units import Duration, Size, size_text
from jlogd.errors import ConfigError, UsageError
from jlogd.journal.types import NAME as NAME_PATTERN
from jlogd.journal.types import (
    SEGMENT_BYTES_DEFAULT,
    SEGMENT_BYTES_MAX,
    SEGMENT_BYTES_MIN,
    Caps,
    Settings,
    sync_interval_ms,
)
from jlogd.manager.config import MODE, MODE_ACCEPTED, ManagerConfig, TextLog, twice, without_keys
from jlogd.manager.template import TEMPLATE_ACCEPTED, Template, TimeZone
from jlogd.sources.config import FileSource, StdinSource, SyslogSource, parse_address
from jlogd.wire.address import check_address

LOGS_MAX = 1000
SUBSCRIBERS_MAX = 1000
SOURCES_MAX = 1000
LISTENERS_MAX = 64

SPOOL_IDENTITY = r"\A([0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})?\Z"
SPOOL_IDENTITY_ACCEPTED = 'a uuid as `jlogctl owner SPOOL` shows it, or "" for any spool'
NAME_ACCEPTED = "1 to 64 letters, digits, '.', '_' or '-', starting with a letter or digit"
# Settings of the sources that are written as sizes and durations; the sources themselves count in bytes and seconds.
UNIT_FIELDS: dict[str, type] = {
    "message_bytes_max": Size,
    "line_bytes_max": Size,
    "receive_buffer": Size,
    "idle_timeout": Duration,
    "rotated_wait": Duration,
    "copy_wait": Duration,
    "memory": Size,
}
# What a source without a name is called; the second of its kind gets "-2".
SOURCE_NAMES = {"syslog": "syslog", "file": "files", "stdin": "stdin"}
DURABILITY_ACCEPTED = '"commit", "interval=500ms" (1ms to 60s) or "os"'
_PLACEHOLDER = re.compile(r"%\{([^}]*)\}")
_PLACEHOLDERS = ("node", "subcluster")

Name = Annotated[str, Meta(pattern=rf"\A{NAME_PATTERN.pattern}\Z", description=NAME_ACCEPTED)]
Text = Annotated[str, Meta(min_length=1, max_length=1024, description="a text of 1 to 1024 characters")]


def host_name() -> str:
    """The short name of this machine, made acceptable as the name of a node."""
    name = re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname().split(".")[0])[:64].lstrip("._-")
    return name or "node"


class Node(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who this daemon is and where its logs lie."""

    name: Name = msgspec.field(default_factory=host_name)
    subcluster: Name = "default"
    spool: Text = "var/spool"
    spool_identity: Annotated[str, Meta(pattern=SPOOL_IDENTITY, description=SPOOL_IDENTITY_ACCEPTED)] = ""
    take_over: bool = False
    state: Text = "var/state"


class Listen(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the daemon listens; an empty list or text turns a listener off."""

    zmq: Annotated[tuple[str, ...], Meta(max_length=LISTENERS_MAX)] = ("tcp://127.0.0.1:5140",)
    http: Annotated[str, Meta(description=HTTP_ACCEPTED)] = "127.0.0.1:5180"
    http_open: bool = False
    socket_mode: Annotated[int, Meta(ge=0o600, le=0o777, description="0o600 to 0o777")] = 0o660


class LogConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One log. Caps bound how far a subscriber may fall behind; 0 and "none" mean no cap."""

    subscribers: Annotated[tuple[Name, ...], Meta(max_length=SUBSCRIBERS_MAX)] = ()
    segment_size: Size = Size(SEGMENT_BYTES_DEFAULT)
    durability: Annotated[str, Meta(description=DURABILITY_ACCEPTED)] = "commit"
    compression: Literal["none", "zstd"] = "none"
    max_lag_bytes: Size = Size(0)
    max_lag_age: Duration = Duration(0)
    on_full: Literal["block", "drop-oldest"] = "block"
    text: Annotated[str, Meta(description=TEMPLATE_ACCEPTED)] = ""
    text_size: Size = Size(0)
    text_mode: Annotated[str, Meta(description=MODE_ACCEPTED)] = "0640"
    text_time_zone: TimeZone = "local"
    text_compress: Literal["none", "zstd"] = "none"

    @property
    def text_log(self) -> TextLog | None:
        """How its text is written; None when it has none."""
        if not self.text:
            return None
        return TextLog(self.text, int(self.text_size), self.text_mode, self.text_time_zone, self.text_compress)

    @property
    def caps(self) -> Caps:
        return Caps(max_bytes=int(self.max_lag_bytes), max_age=float(self.max_lag_age), on_full=self.on_full)

    @property
    def settings(self) -> Settings:
        """What the journal is made with."""
        return Settings(
            segment_bytes=int(self.segment_size),
            durability=self.durability,
            compression=self.compression,
            caps=self.caps,
        )


class Sources(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where records come from, besides ZeroMQ."""

    syslog: Annotated[tuple[SyslogSource, ...], Meta(max_length=SOURCES_MAX)] = ()
    file: Annotated[tuple[FileSource, ...], Meta(max_length=SOURCES_MAX)] = ()
    stdin: tuple[StdinSource, ...] = ()


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A whole configuration, checked."""

    node: Node = msgspec.field(default_factory=Node)
    listen: Listen = Listen()
    auth: Auth = Auth()
    log: dict[str, LogConfig] = {}
    source: Sources = Sources()
    manager: ManagerConfig = ManagerConfig()

    @property
    def manager_name(self) -> str:
        """The name of the manager: its own, or that of the node."""
        return self.manager.name or self.node.name

    @property
    def texts(self) -> dict[str, TextLog]:
        """The logs that are also written as text."""
        return {name: found for name, log in self.log.items() if (found := log.text_log) is not None}

    @property
    def text_ledger(self) -> Path:
        """Where the ledger of the text logs is kept."""
        return Path(self.node.state) / "text"

    @property
    def manager_ledger(self) -> Path:
        """Where the manager keeps its ledger."""
        return Path(self.node.state) / "manager"

    @property
    def spool(self) -> Path:
        """The spool directory with `%{node}` and `%{subcluster}` filled in; relative to the working directory."""
        known = {"node": self.node.name, "subcluster": self.node.subcluster}
        return Path(_PLACEHOLDER.sub(lambda match: known[match[1]], self.node.spool))

    @property
    def http(self) -> HttpAddress | None:
        return parse_http_address(self.listen.http, self.listen.http_open) if self.listen.http else None

    def all_sources(self) -> Iterator[tuple[str, int, SyslogSource | FileSource | StdinSource]]:
        """(kind, position, source) of every source, in the order of the file within a kind."""
        for at, syslog in enumerate(self.source.syslog):
            yield "syslog", at, syslog
        for at, file in enumerate(self.source.file):
            yield "file", at, file
        for at, stdin in enumerate(self.source.stdin):
            yield "stdin", at, stdin


def source_names(config: Config) -> list[str]:
    """The name of every source, in the order of `all_sources`: its own, or one made from its kind."""
    return [
        source.name or SOURCE_NAMES[kind] + (f"-{at + 1}" if at else "") for kind, at, source in config.all_sources()
    ]


def open_to_anyone(config: Config) -> list[str]:
    """Listeners that the configuration opens to other hosts without keys, besides those of an insecure ZeroMQ."""
    found = [f"listen.http ({config.http})"] if config.http and not _is_loopback(config.http.host) else []
    for name, (_, _, source) in zip(source_names(config), config.all_sources(), strict=True):
        if isinstance(source, SyslogSource):
            beyond = [
                str(at) for at in source.addresses() if not at.kind.startswith("unix") and not _is_loopback(at.host)
            ]
            found += [f"the source {name} ({', '.join(beyond)})"] if beyond else []
    return found


def load(path: str | os.PathLike[str]) -> Config:
    """The configuration in the file at `path`. Raises ConfigError."""
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise ConfigError(f"{path}: cannot be read: {reason}") from None
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        found = f"found byte 0x{raw[error.start]:02x}"
        raise ConfigError(f"{path}:{line}: not valid TOML: {found}; accepted: text in UTF-8") from None
    return parse(text, os.fspath(path))


def parse(text: str, path: str = "jlogd.toml") -> Config:
    """The configuration in `text`; `path` is only for messages. Raises ConfigError."""
    toml = TomlText(text, path)
    mistakes: list[Mistake] = []
    config = read_struct(Config, toml.table, mistakes, units=UNIT_FIELDS)
    wrong = {mistake.path[0] for mistake in mistakes if mistake.path}
    # What stands in tables that can be read is checked all the same: all mistakes at once.
    sound = config or read_struct(Config, _without(toml.table, mistakes), [], units=UNIT_FIELDS)
    if sound is not None:
        checks = [check for check, tables in _CHECKS if not wrong.intersection(tables)]
        mistakes += [mistake for check in checks for mistake in check(sound)]
    if config is None or mistakes:
        raise toml.error(mistakes)
    return config


def _without(table: Mapping[str, object], mistakes: Sequence[Mistake]) -> dict[str, object]:
    """The tables in which nothing is wrong; of the logs each by itself."""
    wrong = {mistake.path[:1] for mistake in mistakes}
    left = {key: value for key, value in table.items() if (key,) not in wrong}
    logs, bad = table.get("log"), {mistake.path[:2] for mistake in mistakes if mistake.path[:1] == ("log",)}
    if isinstance(logs, dict) and ("log",) not in bad:
        left["log"] = {name: log for name, log in logs.items() if ("log", name) not in bad}
    return left


def _check_node(config: Config) -> Iterator[Mistake]:
    spool = config.node.spool
    path = ("node", "spool")
    if not config.node.state.isprintable():
        found = found_text(config.node.state)
        yield Mistake(("node", "state"), f"found {found}; accepted: a path without control characters")
    if not spool.isprintable():
        yield Mistake(path, f"found {found_text(spool)}; accepted: a path without control characters")
    for match in _PLACEHOLDER.finditer(spool):
        if match[1] not in _PLACEHOLDERS:
            yield Mistake(path, f"found {found_text(match[0])}; {nearest(match[1], _PLACEHOLDERS, 'accepted')}")
    if "%{" in _PLACEHOLDER.sub("", spool):
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


def _is_loopback(host: str) -> bool:
    return ipaddress.ip_address(host).is_loopback


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
_CHECKS: tuple[tuple[Callable[[Config], Iterator[Mistake]], tuple[str, ...]], ...] = (
    (_check_node, ("node",)),
    (_check_logs, ()),  # each log by itself
    (_check_listeners, ("listen", "auth", "source")),
    (_check_clients, ("auth",)),
    (_check_sources, ("source", "log")),
    (_check_manager, ("manager",)),
)
