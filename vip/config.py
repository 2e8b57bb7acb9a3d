"""The configuration of `vip`: a TOML file as frozen structs, read by `load` and `parse`.

    [vip]               node, cluster, store, etcd, generation, timing, weight, limits of moving, http, log
    [vip.hooks]         take, release, timeout
    [vip.check.NAME]    tcp, http or exec; interval, timeout, rise, fall
    [[vip.topology]]    block, interface, prefix_length
    [[vip.group]]       name, addresses, spread, prefer, follow, checks, services, failback, failback_after

A file that is wrong in any way raises ConfigError with one line per mistake: file, line, field, what was found, what
is accepted. What is wrong by itself is declared with the types and told at once; only without any of that it can be
said what does not fit together (`_check`). `docs/vip.md` describes every setting.

No locks; a Config never changes.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterator
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from jlogd.daemon.addresses import HTTP_ACCEPTED, parse_http_address
from jlogd.daemon.toml_lines import Path as Location
from jlogd.daemon.toml_structs import Checked, Mistake, TomlText, found_text, nearest, read_struct, text_of
from jlogd.daemon.units import Duration
from vip.addresses import (
    ADDRESSES_ACCEPTED,
    BLOCK_ACCEPTED,
    outside_finder,
    parse_addresses,
    parse_block,
    parse_range,
)
from vip.timing import HEARTBEATS_MIN, PROFILES, WINDOW_SECONDS_MAX, WINDOW_SECONDS_MIN

ADDRESSES_MAX = 10_240
GROUPS_MAX = 10_240
# A group moves in one transaction of the store, which takes 128 operations; see `spread` for more.
GROUP_ADDRESSES_MAX = 100
CHECKS_MAX = 64
TOPOLOGY_MAX = 256
HEARTBEAT_SECONDS_MIN, HEARTBEAT_SECONDS_MAX = 0.05, WINDOW_SECONDS_MAX / HEARTBEATS_MIN
OF_PROFILE = "that of the profile"
# Less would cut off watches that were away for a moment; more fills etcd.
ETCD_KEEP_SECONDS_MIN, ETCD_KEEP_SECONDS_MAX = 60.0, 30 * 86400.0

NAME_ACCEPTED = "1 to 64 letters, digits, '.', '_' or '-', starting with a letter or digit"
NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
Name = Annotated[str, Meta(pattern=rf"\A{NAME_PATTERN}\Z", description=NAME_ACCEPTED)]
INTERFACE_ACCEPTED = "the name of an interface: 1 to 15 characters without blanks, control characters, ':' or '/'"
Interface = Annotated[str, Meta(pattern=r"\A[^\s/:\x00-\x1f\x7f-\x9f]{1,15}\Z", description=INTERFACE_ACCEPTED)]
Text = Annotated[str, Meta(min_length=1, max_length=1024, description="a text of 1 to 1024 characters")]
ENDPOINT_ACCEPTED = 'the address of a member, "http://HOST:PORT" or "https://HOST:PORT"'
CHECK_ACCEPTED = 'exactly one of tcp = "HOST:PORT", http = "http://HOST:PORT/PATH", exec = ["/PROGRAM", ...]'
Failback = Literal["auto", "never", "manual"]


def _between(low: float, high: float, zero: str = "") -> Checked:
    """Seconds from `low` to `high`; 0 as well when it stands for something, which `zero` says."""

    def check(value: float) -> None:
        if not low <= value <= high and not (zero and value == 0):
            raise ValueError(f'"{Duration(low)}" to "{Duration(high)}"' + (f', or "0s" for {zero}' if zero else ""))

    return Checked(check)


def _check_endpoint(text: str) -> None:
    try:
        parts = urlsplit(text)
        right = parts.scheme in ("http", "https") and bool(parts.hostname) and bool(parts.port)
    except ValueError:
        right = False
    if not right or parts.path not in ("", "/") or parts.query or parts.username is not None:
        raise ValueError(ENDPOINT_ACCEPTED)


def _check_http(text: str) -> None:
    address = parse_http_address(text, anywhere=True) if text else None
    if address is not None and not ipaddress.ip_address(address.host).is_loopback:  # no setting would allow it
        raise ValueError(f"{HTTP_ACCEPTED}; other addresses are refused")


def _check_program(words: tuple[str, ...]) -> None:
    if words and not words[0].startswith("/"):
        raise ValueError(f"the full path of a program first, which {found_text(words[0])} is not")


Endpoint = Annotated[str, Meta(description=ENDPOINT_ACCEPTED), Checked(_check_endpoint)]
Block = Annotated[str, Meta(description=BLOCK_ACCEPTED), Checked(parse_block)]
AddressRange = Annotated[str, Meta(description=ADDRESSES_ACCEPTED), Checked(parse_range)]
Program = Annotated[tuple[Text, ...], Checked(_check_program)]


class Hooks(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Programs that are run after addresses were taken and before they are released."""

    take: Program = ()
    release: Program = ()
    timeout: Annotated[Duration, _between(0.1, 300)] = Duration(5)


class Check(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whether a service on this node works. It fails after `fall` failures in a row, works after `rise` successes."""

    tcp: str = ""
    http: str = ""
    exec: tuple[Text, ...] = ()
    interval: Annotated[Duration, _between(0.1, 3600)] = Duration(2)
    timeout: Annotated[Duration, _between(0.05, 60)] = Duration(1)
    rise: Annotated[int, Meta(ge=1, le=100)] = 2
    fall: Annotated[int, Meta(ge=1, le=100)] = 3

    def __post_init__(self) -> None:
        if sum(map(bool, (self.tcp, self.http, self.exec))) != 1:
            raise ValueError(f"found {_named(self)}; accepted: {CHECK_ACCEPTED}")
        host, _, port = self.tcp.rpartition(":")
        if self.tcp and not (host and port.isdigit() and 0 < int(port) < 65536):
            raise ValueError(f'tcp: found {found_text(self.tcp)}; accepted: "HOST:PORT"')
        if self.http and not _is_page(self.http):
            raise ValueError(f'http: found {found_text(self.http)}; accepted: "http://HOST:PORT/PATH"')
        if self.exec and not self.exec[0].startswith("/"):
            raise ValueError(f"exec: found {found_text(self.exec[0])}; accepted: the full path of a program first")


def _is_page(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme == "http" and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is none
        return False


def _named(check: Check) -> str:
    named = [name for name in ("tcp", "http", "exec") if getattr(check, name)]
    return " and ".join(named) or "none of them"


class Topology(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which interface carries a block of addresses on this node."""

    block: Block
    interface: Interface
    # 32 (128 for IPv6) adds no route and makes no address depend on another; None means that.
    prefix_length: Annotated[int, Meta(ge=1, le=128)] | None = None


class Group(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Addresses that move together; with `spread` each for itself."""

    name: Name
    addresses: Annotated[tuple[AddressRange, ...], Meta(min_length=1, max_length=ADDRESSES_MAX)]
    spread: bool = False
    prefer: Annotated[tuple[Name, ...], Meta(max_length=64)] = ()
    follow: str = ""
    checks: Annotated[tuple[Name, ...], Meta(max_length=CHECKS_MAX)] = ()
    # What is served on these addresses, in free words: nodes that differ in them are told apart (UNSAFE).
    services: Annotated[tuple[Name, ...], Meta(max_length=64)] = ()
    failback: Failback = "auto"
    failback_after: Duration = Duration(30)


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All of `[vip]`."""

    node: Name
    store: Literal["etcd", "solo"]
    cluster: Name = "default"
    etcd: Annotated[tuple[Endpoint, ...], Meta(max_length=9)] = ()
    etcd_user: str = ""
    etcd_password_file: str = ""
    etcd_ca: str = ""
    etcd_cert: str = ""
    etcd_key: str = ""
    # How much of etcd's past stays: older changes are let go by one of the nodes; 0 leaves that to etcd.
    etcd_keep: Annotated[Duration, _between(ETCD_KEEP_SECONDS_MIN, ETCD_KEEP_SECONDS_MAX, "never")] = Duration(3600)
    solo_file: Text = "/run/vip/solo.db"
    generation: Annotated[int, Meta(ge=0, lt=1 << 53)] = 0
    timing: Literal["default", "lan", "patient"] = "default"
    heartbeat: Annotated[Duration, _between(HEARTBEAT_SECONDS_MIN, HEARTBEAT_SECONDS_MAX, OF_PROFILE)] = Duration(0)
    window: Annotated[Duration, _between(WINDOW_SECONDS_MIN, WINDOW_SECONDS_MAX, OF_PROFILE)] = Duration(0)
    weight: Annotated[float, Meta(ge=0.01, le=100, description="a number from 0.01 to 100")] = 1.0
    # Moves that nobody forces (balance, failback), at most so many in a round; 0 means 5 % of all, at least one.
    max_moves: Annotated[int, Meta(ge=0, le=ADDRESSES_MAX)] = 0
    round: Annotated[Duration, _between(0.1, 3600)] = Duration(10)
    # How long a node is up before it takes more than what nobody else has.
    mature: Annotated[Duration, _between(0, 900)] = Duration(5)
    probe: Annotated[Duration, _between(0, 1)] = Duration(0.05)
    gate: Literal["auto", "bpf", "lifetime"] = "auto"
    announce_rate_max: Annotated[int, Meta(ge=10, le=1_000_000)] = 10_000
    announce_refresh: Annotated[Duration, _between(5, 3600)] = Duration(45)
    http: Annotated[str, Meta(description=HTTP_ACCEPTED), Checked(_check_http)] = "127.0.0.1:5185"
    # A jlogd log, by directory or address, that every change of owner is written to.
    log: str = ""
    hooks: Hooks = Hooks()
    check: dict[Name, Check] = {}
    topology: Annotated[tuple[Topology, ...], Meta(max_length=TOPOLOGY_MAX)] = ()
    group: Annotated[tuple[Group, ...], Meta(max_length=GROUPS_MAX)] = ()


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A whole configuration, checked."""

    vip: Settings


def load(path: str | os.PathLike[str]) -> Settings:
    """The configuration in the file at `path`. Raises ConfigError."""
    return parse(text_of(path), os.fspath(path))


def parse(text: str, path: str = "vip.toml") -> Settings:
    """The configuration in `text`; `path` is only for messages. Raises ConfigError."""
    toml = TomlText(text, path)
    mistakes: list[Mistake] = []
    config = read_struct(Config, toml.table, mistakes)
    if config is not None:
        mistakes = list(_check(config.vip))
    if config is None or mistakes:
        raise toml.error(mistakes)
    return config.vip


def _check(settings: Settings) -> Iterator[Mistake]:
    yield from _check_store(settings)
    yield from _check_timing(settings)
    yield from _check_names(settings)
    yield from _check_topology(settings)
    yield from _check_groups(settings)


def _check_store(settings: Settings) -> Iterator[Mistake]:
    if settings.store == "etcd" and not settings.etcd:
        yield Mistake(
            ("vip", "etcd"), f'missing with store = "etcd"; accepted: an array; each item {ENDPOINT_ACCEPTED}'
        )
    for at, endpoint in enumerate(settings.etcd):
        if endpoint in settings.etcd[:at]:
            yield Mistake(("vip", "etcd", at), f"found {found_text(endpoint)} twice; accepted: each member once")
    if bool(settings.etcd_user) != bool(settings.etcd_password_file):
        yield Mistake(
            ("vip", "etcd_user"), "found only one of etcd_user and etcd_password_file; accepted: both or none"
        )
    if bool(settings.etcd_cert) != bool(settings.etcd_key):
        yield Mistake(("vip", "etcd_cert"), "found only one of etcd_cert and etcd_key; accepted: both or none")


def _check_timing(settings: Settings) -> Iterator[Mistake]:
    usual_heartbeat, usual_window = PROFILES[settings.timing]
    heartbeat, window = float(settings.heartbeat) or usual_heartbeat, float(settings.window) or usual_window
    if heartbeat * HEARTBEATS_MIN > window:
        yield Mistake(
            ("vip", "heartbeat"),
            f'found "{Duration(heartbeat)}" with a window of "{Duration(window)}"; accepted: at most a quarter of the '
            "window, so that one lost heartbeat moves nothing",
        )


def _check_names(settings: Settings) -> Iterator[Mistake]:
    if len(settings.check) > CHECKS_MAX:
        yield Mistake(("vip", "check"), f"found {len(settings.check)} checks; accepted: at most {CHECKS_MAX}")
    first: set[str] = set()
    for at, group in enumerate(settings.group):
        path = ("vip", "group", at)
        if group.name in first:
            yield Mistake((*path, "name"), f"found {found_text(group.name)} twice; accepted: a name of its own")
        first.add(group.name)
        for place, name in enumerate(group.checks):
            if name not in settings.check:
                near = nearest(name, settings.check, "declared checks")
                reason = f"found {found_text(name)}, a check that no [vip.check.NAME] declares; {near}"
                yield Mistake((*path, "checks", place), reason)
        for place, node in enumerate(group.prefer):
            if node in group.prefer[:place]:
                reason = f"found {found_text(node)} twice; accepted: each node once, the best first"
                yield Mistake((*path, "prefer", place), reason)


def _check_topology(settings: Settings) -> Iterator[Mistake]:
    seen: dict[str, int] = {}
    for at, topology in enumerate(settings.topology):
        path = ("vip", "topology", at)
        block = parse_block(topology.block)
        if str(block) in seen:
            yield Mistake((*path, "block"), f"found {found_text(topology.block)} twice; accepted: each block once")
        seen[str(block)] = at
        if topology.prefix_length is not None and topology.prefix_length > block.max_prefixlen:
            reason = f"found {topology.prefix_length}; accepted: at most {block.max_prefixlen} for {block}"
            yield Mistake((*path, "prefix_length"), reason)


def _check_groups(settings: Settings) -> Iterator[Mistake]:
    outside = outside_finder(parse_block(topology.block) for topology in settings.topology)
    named = {group.name: group for group in settings.group}
    owner: dict[str, str] = {}
    for at, group in enumerate(settings.group):
        path: Location = ("vip", "group", at)
        yield from _check_follow(path, group, named)
        found = 0
        for place, text in enumerate(group.addresses):
            where = (*path, "addresses", place)
            addresses = parse_addresses(text)
            found += len(addresses)
            for address in addresses:
                if address in owner:
                    reason = f"found {address}, which group {owner[address]} has; accepted: each address in one group"
                    yield Mistake(where, reason)
                owner[address] = group.name
            lost = outside(text)
            if lost is not None:
                reason = f"found {lost}, which no [[vip.topology]] block holds; accepted: an address inside a block"
                yield Mistake(where, reason)
        if found > GROUP_ADDRESSES_MAX and not group.spread:
            reason = (
                f"found {found} addresses that move together; accepted: at most {GROUP_ADDRESSES_MAX}, or spread = true"
            )
            yield Mistake((*path, "addresses"), reason)
    if len(owner) > ADDRESSES_MAX:
        yield Mistake(("vip", "group"), f"found {len(owner)} addresses in all; accepted: at most {ADDRESSES_MAX}")


def _check_follow(path: Location, group: Group, named: dict[str, Group]) -> Iterator[Mistake]:
    if not group.follow:
        return
    where = (*path, "follow")
    leader = named.get(group.follow)
    if leader is None:
        near = nearest(group.follow, named, "groups")
        yield Mistake(where, f"found {found_text(group.follow)}, a group that there is not; {near}")
    elif leader is group:
        yield Mistake(where, "found its own name; accepted: the name of another group")
    elif leader.follow:
        yield Mistake(where, f"found {leader.name}, which follows itself; accepted: a group that follows none")
    elif leader.spread or group.spread:
        yield Mistake(where, "found a group with spread = true on one side; accepted: groups that move as one")
    if group.prefer:
        yield Mistake((*path, "prefer"), "found beside follow; accepted: one of them, because the leader decides")
