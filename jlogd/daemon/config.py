"""The configuration of the daemon: `jlogd.toml` as frozen structs.

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

They are read by `config_file.py`, which accepts nothing that `config_checks.py` finds wrong. `docs/configuration.md`
describes every setting; `jlogd/daemon/reload.py` says which of them a reload applies.

No locks; a Config never changes.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from jlogd.daemon.addresses import HTTP_ACCEPTED, HttpAddress, parse_http_address
from jlogd.daemon.auth import Auth
from jlogd.daemon.units import Duration, Size
from jlogd.journal.types import NAME as NAME_PATTERN
from jlogd.journal.types import (
    SEGMENT_BYTES_DEFAULT,
    Caps,
    Settings,
)
from jlogd.manager.config import MODE_ACCEPTED, ManagerConfig, TextLog
from jlogd.manager.template import TEMPLATE_ACCEPTED, TimeZone
from jlogd.sources.config import FileSource, StdinSource, SyslogSource

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
# What a spool's path may name.
PLACEHOLDER = re.compile(r"%\{([^}]*)\}")
PLACEHOLDERS = ("node", "subcluster")

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
        return Path(PLACEHOLDER.sub(lambda match: known[match[1]], self.node.spool))

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


def _is_loopback(host: str) -> bool:
    return ipaddress.ip_address(host).is_loopback
