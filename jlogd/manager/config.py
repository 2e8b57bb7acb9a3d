"""Settings of a manager, as they stand in `[manager]`, and what follows from them: which log goes where.

Frozen values. What a table says by itself is checked when it is made; a wrong value raises `ConfigError` with
"FIELD: found X; accepted: Y". Sizes are bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from jlogd.errors import BadKey, ConfigError, UsageError
from jlogd.manager.parcel import Source
from jlogd.manager.template import Origin, Template, TimeZone
from jlogd.wire.address import check_address, is_loopback
from jlogd.wire.keys import check_public_key

NODES_MAX = 5000
PULLS_MAX = 1000
GLOBS_MAX = 100
OPEN_FILES_MIN = 8
OPEN_FILES_MAX = 1_000_000
MEMORY_MIN = 16 << 20
MEMORY_DEFAULT = 256 << 20
FILES_DEFAULT = "var/cluster/%Y/%m/%d/%{log}/%{subcluster}/%{node}"
MODE_ACCEPTED = 'a mode in octal digits, such as "0640"'
JOURNAL_ACCEPTED = "a log: DIRECTORY/LOG or ADDRESS/LOG, whose name may hold %{node}, %{log}, %{subcluster}"
SYSLOG_ACCEPTED = '"tcp://HOST:PORT"'
_SYSLOG = re.compile(r"tcp://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+):\d{1,5}")
# Names of nodes, logs and subscribers, as everywhere.
NAME_ACCEPTED = "1 to 64 letters, digits, '.', '_' or '-', starting with a letter or digit"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
MODE = re.compile(r"0?[0-7]{3}")

Globs = Annotated[tuple[str, ...], Meta(min_length=1, max_length=GLOBS_MAX)]


class ManagedNode(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A node to pull from."""

    name: Annotated[str, Meta(description=NAME_ACCEPTED)]
    subcluster: Annotated[str, Meta(description=NAME_ACCEPTED)] = "default"
    address: Annotated[str, Meta(description='"tcp://HOST:PORT" or "ipc://PATH"')]
    key: str | tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_name("name", self.name)
        _check_name("subcluster", self.subcluster)
        for key in self.keys:
            try:
                check_public_key(key)
            except BadKey as error:
                raise ConfigError(f"key: {error}") from None

    @property
    def keys(self) -> tuple[str, ...]:
        """The public keys it may have."""
        if isinstance(self.key, str):
            return (self.key,) if self.key else ()
        return self.key


class PullRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is pulled from whom, as which subscriber, and where it goes. Patterns are globs."""

    nodes: Globs = ("*",)
    subclusters: Globs = ("*",)
    logs: Globs = ("*",)
    subscriber: Annotated[str, Meta(description=NAME_ACCEPTED)] = ""
    files: str = ""
    journal: Annotated[str, Meta(description=JOURNAL_ACCEPTED)] = ""
    syslog: Annotated[str, Meta(description=SYSLOG_ACCEPTED)] = ""
    stdout: bool = False

    def __post_init__(self) -> None:
        if self.subscriber:
            _check_name("subscriber", self.subscriber)
        if self.files:
            _check_template("files", self.files)
        if self.journal:
            self._check_journal()
        if self.syslog and not _SYSLOG.fullmatch(self.syslog):
            raise _refused("syslog", self.syslog, SYSLOG_ACCEPTED)
        given = [name for name in ("files", "journal", "syslog", "stdout") if getattr(self, name)]
        if len(given) > 1:
            raise ConfigError(f"{given[1]}: given beside {given[0]}; accepted: one output for a rule")

    def _check_journal(self) -> None:
        place, _, name = self.journal.rpartition("/")
        try:
            if "%" in place or Template(name).dated:
                raise ValueError(JOURNAL_ACCEPTED)
            if "://" in self.journal:
                check_address(place)
        except (ValueError, UsageError) as error:
            raise _refused("journal", self.journal, str(error)) from None

    def fits(self, node: ManagedNode, log: str) -> bool:
        """Whether it is about that log of that node."""
        return self.fits_node(node) and any(fnmatchcase(log, pattern) for pattern in self.logs)

    def fits_node(self, node: ManagedNode) -> bool:
        """Whether it is about that node."""
        return any(fnmatchcase(node.name, pattern) for pattern in self.nodes) and any(
            fnmatchcase(node.subcluster, pattern) for pattern in self.subclusters
        )

    def named_logs(self) -> list[str]:
        """Logs that are named in full: they are missed where they are not there."""
        return [name for name in self.logs if _NAME.fullmatch(name)]


class ManagerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A manager. Without nodes there is none."""

    name: Annotated[str, Meta(description=NAME_ACCEPTED)] = ""
    files: str = FILES_DEFAULT
    file_mode: str = "0640"
    dir_mode: str = "0755"
    time_zone: TimeZone = "local"
    compress_closed: Literal["none", "zstd"] = "none"
    open_files_max: int = 1000
    memory: int = MEMORY_DEFAULT
    key: str = ""
    insecure: bool = False
    node: Annotated[tuple[ManagedNode, ...], Meta(max_length=NODES_MAX)] = ()
    pull: Annotated[tuple[PullRule, ...], Meta(max_length=PULLS_MAX)] = ()

    def __post_init__(self) -> None:
        if self.name:
            _check_name("name", self.name)
        _check_template("files", self.files)
        for field in ("file_mode", "dir_mode"):
            if not MODE.fullmatch(getattr(self, field)):
                raise _refused(field, getattr(self, field), MODE_ACCEPTED)
        if not OPEN_FILES_MIN <= self.open_files_max <= OPEN_FILES_MAX:
            raise _refused("open_files_max", self.open_files_max, f"{OPEN_FILES_MIN} to {OPEN_FILES_MAX}")
        if self.memory < MEMORY_MIN:
            raise _refused("memory", self.memory, 'a size of at least "16MiB"')

    @property
    def rules(self) -> Sequence[PullRule]:
        """The rules; without any, everything of everybody into the files."""
        return self.pull or (PullRule(),)


class TextLog(msgspec.Struct, frozen=True):
    """Where the text of one log goes; `size_max` (bytes) begins the next part, 0 never; `compress` closed days."""

    template: str
    size_max: int = 0
    file_mode: str = "0640"
    time_zone: TimeZone = "local"
    compress: Literal["none", "zstd"] = "none"


def wanted(config: ManagerConfig, name: str, node: ManagedNode, logs: Sequence[str]) -> list[Source]:
    """What the manager `name` pulls from a node that has these logs. The first rule that fits decides; a later one adds
    to it only as another subscriber."""
    found: dict[str, Source] = {}
    for rule in config.rules:
        if not rule.fits_node(node):
            continue
        for log in sorted({*logs, *rule.named_logs()}):
            if rule.fits(node, log):
                origin = Origin(node.name, node.subcluster, log, name)
                source = Source(origin, rule.subscriber or name, output_of(config, rule))
                found.setdefault(source.key, source)
    return list(found.values())


def output_of(config: ManagerConfig, rule: PullRule) -> str:
    """The name of the output of a rule: its kind, and what it is told."""
    for kind in ("journal", "syslog"):
        if getattr(rule, kind):
            return f"{kind}:{getattr(rule, kind)}"
    return "stdout:" if rule.stdout else f"files:{rule.files or config.files}"


def without_keys(config: ManagerConfig) -> Iterator[tuple[int, str]]:
    """(position, what is missing) of nodes whose address demands keys that are not there."""
    for at, node in enumerate(config.node):
        if node.keys and not config.key:
            yield at, "a key of the node needs one of the manager: set key in [manager]"
        elif (
            not node.keys and not config.insecure and node.address.startswith("tcp:") and not is_loopback(node.address)
        ):
            yield at, "missing; accepted: its public key, because its address is beyond this host"


def twice(nodes: Sequence[ManagedNode]) -> Iterator[tuple[int, str]]:
    """(position, what) of nodes whose name or address another one has."""
    for field in ("name", "address"):
        seen: set[str] = set()
        for at, node in enumerate(nodes):
            value = getattr(node, field)
            if value in seen:
                yield at, field
            seen.add(value)


def _check_name(field: str, name: str) -> None:
    if not _NAME.fullmatch(name):
        raise _refused(field, name, NAME_ACCEPTED)


def _check_template(field: str, text: str) -> None:
    try:
        Template(text)
    except ValueError as error:
        raise _refused(field, text, str(error)) from None


def _refused(field: str, found: object, accepted: str) -> ConfigError:
    return ConfigError(f"{field}: found {json.dumps(found)}; accepted: {accepted}")
