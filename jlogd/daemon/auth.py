"""`[auth]` of the configuration: the daemon's key, who its clients are, and what each may do.

    [auth]                key, insecure, loopback
    [auth.keyless]        grants of whoever comes without a key: append, subscribe, read, admin
    [[auth.client]]       name, public_key or uid or gid, and grants

    listener                          what it demands
    ipc://PATH                        nothing: its mode says who may connect, the kernel says who did
    tcp:// on a loopback address      nothing; with loopback = "key" a key
    tcp:// on any other address       a key; with insecure = true nothing

Frozen values, checked when they are made. No locks.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from jlogd.errors import BadKey, ConfigError
from jlogd.journal.types import NAME
from jlogd.wire.address import host_of, is_loopback
from jlogd.wire.keys import check_public_key

CLIENTS_MAX = 10_000
PATTERNS_MAX = 1000
# Of one client, while it goes over from one to the next.
CLIENT_KEYS_MAX = 8
ID_MAX = (1 << 32) - 2

PATTERN_ACCEPTED = "1 to 64 letters, digits, '.', '_', '-', and '*' (any characters) or '?' (any one)"
SUBSCRIBE_ACCEPTED = '"LOG:SUBSCRIBER", such as "mainlog:master", "web*:archive-*" or "*:*"'
KEY_ACCEPTED = "a public key of 40 characters (`jlogd keys show` prints it), or an array of up to 8"
_PATTERN = re.compile(r"[A-Za-z0-9._*?-]{1,64}")

Patterns = Annotated[tuple[str, ...], Meta(max_length=PATTERNS_MAX, description="an array of patterns")]
Demand = Literal["unix", "loopback", "insecure", "key"]


class Grants(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What someone may do, as patterns over names of logs; of `subscribe`, over LOG:SUBSCRIBER."""

    append: Patterns = ()
    subscribe: Patterns = ()
    read: Patterns = ()
    admin: Patterns = ()

    def __post_init__(self) -> None:
        for field, patterns in (("append", self.append), ("read", self.read), ("admin", self.admin)):
            for pattern in patterns:
                if not _PATTERN.fullmatch(pattern):
                    raise ConfigError(f"{field}: found {pattern!r}; accepted: {PATTERN_ACCEPTED}")
        for pattern in self.subscribe:
            log, colon, name = pattern.partition(":")
            if not (colon and _PATTERN.fullmatch(log) and _PATTERN.fullmatch(name)):
                raise ConfigError(f"subscribe: found {pattern!r}; accepted: {SUBSCRIBE_ACCEPTED}")


EVERYTHING = Grants(append=("*",), subscribe=("*:*",), read=("*",), admin=("*",))


class AuthClient(Grants, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A client: known by its key, or on a unix socket by the user or the group of its process."""

    name: Annotated[str, Meta(description="a name for messages and metrics: 1 to 64 letters, digits, '.', '_' or '-'")]
    public_key: Annotated[str | tuple[str, ...], Meta(description=KEY_ACCEPTED)] = ()
    uid: Annotated[int, Meta(ge=0, le=ID_MAX)] | None = None
    gid: Annotated[int, Meta(ge=0, le=ID_MAX)] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not NAME.fullmatch(self.name):
            raise ConfigError(f"name: found {self.name!r}; accepted: 1 to 64 letters, digits, '.', '_' or '-'")
        if len(self.keys) > CLIENT_KEYS_MAX:
            raise ConfigError(f"public_key: found {len(self.keys)} keys; accepted: {KEY_ACCEPTED}")
        try:
            for key in self.keys:
                check_public_key(key)
        except BadKey as error:
            raise ConfigError(f"public_key: {error}") from None
        if (bool(self.keys), self.uid is not None, self.gid is not None).count(True) != 1:
            raise ConfigError("public_key: accepted: one of public_key, uid and gid, to know the client by")

    @property
    def keys(self) -> tuple[str, ...]:
        return (self.public_key,) if isinstance(self.public_key, str) else self.public_key


class Auth(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who may come in and what they may do."""

    key: Annotated[str, Meta(max_length=1024, description='the path of the daemon\'s secret key, or ""')] = ""
    insecure: bool = False
    loopback: Literal["plain", "key"] = "plain"
    keyless: Grants = EVERYTHING
    client: Annotated[tuple[AuthClient, ...], Meta(max_length=CLIENTS_MAX)] = ()

    def __post_init__(self) -> None:
        if self.insecure and self.key:
            raise ConfigError("insecure: found true beside a key; accepted: one of the two")
        if self.loopback == "key" and not self.key:
            raise ConfigError('loopback: found "key" without a key; accepted: "plain", or the path of a key in key')


def demand_of(address: str, auth: Auth) -> Demand:
    """What a listener on a checked address demands of who connects. Raises `ConfigError` when it cannot be had."""
    if address.startswith("ipc://"):
        return "unix"
    if is_loopback(address):
        return "loopback" if auth.loopback == "plain" else "key"
    if ":" not in (host := host_of(address)) and not host.replace(".", "").isdigit():
        raise ConfigError(f"{address}: to listen on, a numeric address, because a name may mean another one tomorrow")
    if auth.key:
        return "key"
    if auth.insecure:
        return "insecure"
    raise ConfigError(
        f"{address} is not a loopback address: it needs a key of this daemon: make one (jlogd keys new NODE), name its "
        "file in [auth] key, and its clients in [[auth.client]]; insecure = true in [auth] lets anyone in"
    )
