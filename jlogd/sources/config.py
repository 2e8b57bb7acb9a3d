"""Settings of the sources, as they stand in a configuration file under `source`.

Frozen values, checked when they are made. A wrong one raises `ConfigError` with "FIELD: found X; accepted: Y".
Sizes are bytes, times are seconds.

Syslog knows no keys, so a listener stands where this machine alone can reach it, on loopback addresses and unix
sockets, unless its source says `open = true`.
"""

from __future__ import annotations

import ipaddress
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import SplitResult, urlsplit

import msgspec
from msgspec import Meta

from jlogd.errors import ConfigError, UsageError
from jlogd.journal.batch import RECORD_BYTES_MAX
from jlogd.journal.types import check_name

LISTEN_ACCEPTED = (
    '"udp://127.0.0.1:PORT", "tcp://127.0.0.1:PORT", "unix:///PATH" (stream) or "unixgram:///PATH" (datagram)'
)
_SOURCE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# sun_path of the kernel holds 108 bytes with the final NUL.
UNIX_PATH_BYTES_MAX = 107
# RFC 5424 wants 480 bytes accepted by every receiver, and 2048 by a good one.
MESSAGE_BYTES_MIN = 480
# Larger than any UDP datagram. Each connection may hold one unfinished message of this size.
MESSAGE_BYTES_DEFAULT = 64 << 10
LISTEN_MAX = 64
PATHS_MAX = 256


@dataclass(frozen=True, slots=True)
class Address:
    """Where a syslog listener stands: `kind` udp, tcp, unix or unixgram; `host` is a path for the last two."""

    kind: str
    host: str
    port: int = 0

    def __str__(self) -> str:
        if self.kind.startswith("unix"):
            return f"{self.kind}://{self.host}"
        return (
            f"{self.kind}://[{self.host}]:{self.port}" if ":" in self.host else f"{self.kind}://{self.host}:{self.port}"
        )


def parse_address(text: str, anywhere: bool = False) -> Address:
    """The address `text` names. Raises `ConfigError` when it is none, or, unless `anywhere`, one others could reach."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise _refused(text, LISTEN_ACCEPTED) from None
    if parts.scheme in ("unix", "unixgram"):
        return _unix_address(text, parts)
    if parts.scheme not in ("udp", "tcp") or parts.hostname is None or port is None:
        raise _refused(text, LISTEN_ACCEPTED)
    if parts.path or parts.query or parts.fragment or parts.username is not None:
        raise _refused(text, LISTEN_ACCEPTED)
    host = "127.0.0.1" if parts.hostname == "localhost" else parts.hostname
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        raise _refused(text, "a numeric address (127.0.0.1, [::1]) or localhost") from None
    if not loopback and not anywhere:
        raise _refused(
            text,
            "only loopback addresses (127.0.0.1, [::1]) and unix sockets; with open = true others too, on which "
            "whoever reaches them may write",
        )
    return Address(parts.scheme, host, port)


def _unix_address(text: str, parts: SplitResult) -> Address:
    path = text.partition("://")[2]
    if parts.netloc or not path.startswith("/") or "\0" in path or path.endswith("/"):
        raise _refused(text, f"an absolute path: {parts.scheme}:///run/jlogd/log")
    if len(path.encode()) > UNIX_PATH_BYTES_MAX:
        raise _refused(text, f"a path of at most {UNIX_PATH_BYTES_MAX} bytes (the kernel's limit)")
    return Address(parts.scheme, path)


def _refused(text: str, accepted: str) -> ConfigError:
    return ConfigError(f"listen: found {_shown(text)}; accepted: {accepted}")


def _shown(value: object) -> str:
    """A value on one short line."""
    shown = json.dumps(value)
    return shown if len(shown) <= 80 else shown[:77] + "..."


def _within(field: str, found: float, least: float, most: float) -> None:
    if not least <= found <= most:
        raise ConfigError(f"{field}: found {found}; accepted: {least} to {most}")


class _Common(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every source says: the log it writes to, and a name of its own (made from its kind when empty)."""

    log: Annotated[str, Meta(description="the name of a log")]
    name: Annotated[str, Meta(description="a name for the source, of letters, digits, '.', '_', '-'")] = ""

    def __post_init__(self) -> None:
        try:
            check_name("log", self.log)
        except UsageError:
            raise ConfigError(f"log: found {_shown(self.log)}; accepted: the name of a log") from None
        if self.name and not _SOURCE_NAME.fullmatch(self.name):
            raise ConfigError(
                f"name: found {_shown(self.name)}; accepted: 1 to 64 letters, digits, '.', '_' or '-', "
                "starting with a letter or digit"
            )


class SyslogSource(_Common, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Syslog listeners, all of them feeding one log.

    `format`: `raw` keeps each message's bytes as received, `json` stores the parsed header (see `syslog_parse`).
    `message_bytes_max`: a longer message becomes several records. Memory held for unfinished messages is at most
    this times `connections_max`. `idle_timeout`: a connection silent for so long is closed; 0 never.
    `open`: listeners may stand on addresses beyond this host. `connections_per_peer_max`: of one address, or of one
    user on a unix socket.
    `receive_buffer`: what is asked of the kernel for datagrams while the log is busy. `socket_mode`: of unix sockets.
    """

    listen: Annotated[tuple[str, ...], Meta(description=f"addresses: {LISTEN_ACCEPTED}")]
    format: Literal["raw", "json"] = "raw"
    message_bytes_max: int = MESSAGE_BYTES_DEFAULT
    open: bool = False
    connections_max: int = 512
    connections_per_peer_max: int = 256
    idle_timeout: float = 0.0
    receive_buffer: int = 8 << 20
    socket_mode: int = 0o666

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= len(self.listen) <= LISTEN_MAX:
            raise ConfigError(f"listen: found {len(self.listen)} addresses; accepted: 1 to {LISTEN_MAX}")
        addresses = self.addresses()
        fixed = [address for address in addresses if address.port or address.kind.startswith("unix")]
        if len(set(fixed)) < len(fixed):
            raise ConfigError(f"listen: found {_shown(self.listen)}; accepted: each address once")
        if self.format not in ("raw", "json"):
            raise ConfigError(f'format: found {_shown(self.format)}; accepted: "raw" or "json"')
        _within("message_bytes_max", self.message_bytes_max, MESSAGE_BYTES_MIN, RECORD_BYTES_MAX // 2)
        _within("connections_max", self.connections_max, 1, 65536)
        _within("connections_per_peer_max", self.connections_per_peer_max, 1, 65536)
        _within("idle_timeout", self.idle_timeout, 0, 7 * 86400)
        _within("receive_buffer", self.receive_buffer, 4096, 1 << 30)
        _within("socket_mode", self.socket_mode, 0o600, 0o777)

    def addresses(self) -> list[Address]:
        """`listen`, parsed."""
        return [parse_address(text, self.open) for text in self.listen]


class FileSource(_Common, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Files followed over rotation, each line exactly once.

    `paths`: globs (`**` included); `exclude`: globs on the whole path or the bare name. `start`: where files found on
    the very first run begin; files that come later are always read from their beginning. `open_max`: files held open
    at a time. `rotated_wait`: a file without a name is let go when nothing was added for so long. `copy_wait`: a file
    that equals the beginning of a followed one is taken for the copy a rotation makes, and waited for so long.
    """

    paths: Annotated[tuple[str, ...], Meta(description="an array of absolute paths or globs")]
    exclude: tuple[str, ...] = ("*.gz", "*.bz2", "*.xz", "*.zst", "*.zip")
    start: Literal["begin", "end"] = "begin"
    line_bytes_max: int = 1 << 20
    open_max: int = 256
    rotated_wait: float = 30.0
    copy_wait: float = 3.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= len(self.paths) <= PATHS_MAX:
            raise ConfigError(f"paths: found {len(self.paths)} globs; accepted: 1 to {PATHS_MAX}")
        for path in self.paths:
            if not Path(path).is_absolute() or "\0" in path:
                raise ConfigError(f"paths: found {_shown(path)}; accepted: absolute paths or globs")
        if self.start not in ("begin", "end"):
            raise ConfigError(f'start: found {_shown(self.start)}; accepted: "begin" or "end"')
        _within("line_bytes_max", self.line_bytes_max, 256, RECORD_BYTES_MAX // 2)
        _within("open_max", self.open_max, 1, 65536)
        _within("rotated_wait", self.rotated_wait, 0, 86400)
        _within("copy_wait", self.copy_wait, 0, 3600)


class StdinSource(_Common, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Lines from standard input, until it ends."""

    line_bytes_max: int = 1 << 20

    def __post_init__(self) -> None:
        super().__post_init__()
        _within("line_bytes_max", self.line_bytes_max, 256, RECORD_BYTES_MAX // 2)
