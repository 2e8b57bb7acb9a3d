"""The table `[cidr.server]` of the configuration.

[cidr.server]
listen = "127.0.0.1:9090"
query_seconds = 30
rows_max = 100000
concurrency = 2
maintain_every = "1h"

[[cidr.server.token]]
name = "noc"
sha256 = "5e88..."            # of the token; `cidr serve --make-token noc` makes one
series = ["spam", "virus.*"]  # regular expressions for whole names; none given: all
prefixes = ["10.0.0.0/8"]     # none given: all
"""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Any

import msgspec

from cidr.addresses import parse_block
from jlogd.daemon.toml_structs import Mistake, TomlText, read_struct, text_of
from jlogd.errors import ConfigError, UsageError

LISTEN_DEFAULT = "127.0.0.1:9090"
_LISTEN = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+|localhost)):([0-9]{1,5})", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_DURATION = re.compile(r"([0-9]{1,6})([smhd])")
_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class TokenConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Someone who may ask, and for what."""

    name: str
    sha256: str
    series: tuple[str, ...] | None = None
    prefixes: tuple[str, ...] | None = None


class ServerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table. `concurrency` queries run at a time, `queue` wait; `rows_max` of an answer are sent."""

    listen: str = LISTEN_DEFAULT
    hosts: tuple[str, ...] = ()
    query_seconds: float = 30.0
    rows_max: int = 100_000
    concurrency: int = 2
    queue: int = 32
    connections: int = 128
    cache: int = 512 << 20
    maintain_every: str = ""
    tls_certificate: str = ""
    tls_key: str = ""
    token: tuple[TokenConfig, ...] = ()


class _Cidr(msgspec.Struct, frozen=True):
    server: ServerConfig = ServerConfig()
    maintain: dict[str, Any] = {}


class _File(msgspec.Struct, frozen=True):
    as_logger: dict[str, Any] = {}
    cidr: _Cidr = _Cidr()


class Address(msgspec.Struct, frozen=True):
    """Where to listen."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return ipaddress.ip_address(self.host).is_loopback

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def load(path: Path | None) -> ServerConfig:
    """The table in a file; the defaults when it has none, or no file is given. Raises `ConfigError`."""
    if path is None:
        return ServerConfig()
    toml = TomlText(text_of(path), str(path))
    mistakes: list[Mistake] = []
    found = read_struct(_File, toml.table, mistakes)
    if found is None or mistakes:
        raise toml.error(mistakes)
    check(found.cidr.server, str(path))
    return found.cidr.server


def parse(table: dict[str, Any], where: str) -> ServerConfig:
    """The table, checked. Raises `ConfigError`."""
    try:
        config = msgspec.convert(table, ServerConfig)
    except msgspec.ValidationError as error:
        text = str(error).replace("`$.", "`cidr.server.").replace("`$`", "`cidr.server`")
        raise ConfigError(f"{where}: {text}") from None
    check(config, where)
    return config


def check(config: ServerConfig, where: str) -> None:
    """Raises `ConfigError` for what cannot be."""
    limits = {"query_seconds": (0.1, 3600), "rows_max": (1, 10_000_000), "concurrency": (1, 64), "queue": (0, 10_000)}
    limits |= {"connections": (4, 10_000), "cache": (1 << 20, 1 << 45)}
    for name, (least, most) in limits.items():
        if not least <= getattr(config, name) <= most:
            raise ConfigError(f"{where}: cidr.server.{name} is {getattr(config, name)}; from {least} to {most}")
    address = parse_listen(config.listen, where)
    if not address.is_loopback and not config.token:
        raise ConfigError(
            f"{where}: cidr.server.listen is {address}, which others can reach, and there are no tokens: "
            "make one with cidr serve --make-token NAME, or listen on 127.0.0.1"
        )
    if bool(config.tls_certificate) != bool(config.tls_key):
        raise ConfigError(f"{where}: cidr.server.tls_certificate and tls_key come together")
    maintain_seconds(config.maintain_every, where)
    for token in config.token:
        _check_token(token, where)


def parse_listen(text: str, where: str = "--listen") -> Address:
    """`127.0.0.1:9090` or `[::1]:9090`. Raises `ConfigError`."""
    found = _LISTEN.fullmatch(text)
    host = (found[1] or found[2]).replace("localhost", "127.0.0.1") if found else ""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        found = None
    if found is None or int(found[3]) > 65535:
        raise ConfigError(f'{where}: {text!r} is no address; write "127.0.0.1:9090" or "[::1]:9090"')
    return Address(host, int(found[3]))


def maintain_seconds(text: str, where: str = "cidr.server") -> float | None:
    """How often the store is maintained; None for never. Raises `ConfigError`."""
    if not text:
        return None
    found = _DURATION.fullmatch(text)
    if found is None or not int(found[1]):
        raise ConfigError(f'{where}: maintain_every is {text!r}; write a time such as "1h" or "30m"')
    return int(found[1]) * _UNIT_SECONDS[found[2]]


def _check_token(token: TokenConfig, where: str) -> None:
    at = f"{where}: cidr.server.token {token.name!r}"
    if not _SHA256.fullmatch(token.sha256):
        raise ConfigError(f"{at}: sha256 is 64 hexadecimal digits; cidr serve --make-token {token.name} prints them")
    for name in ("series", "prefixes"):
        if getattr(token, name) == ():
            raise ConfigError(f"{at}: {name} is empty, and nothing could be seen; leave it out for all of them")
    for pattern in token.series or ():
        try:
            re.compile(pattern)
        except re.error as error:
            raise ConfigError(f"{at}: series {pattern!r} is not a regular expression: {error}") from None
    for prefix in token.prefixes or ():
        try:
            parse_block(prefix)
        except UsageError as error:
            raise ConfigError(f"{at}: {error}") from None
