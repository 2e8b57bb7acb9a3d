"""What stands in the store, as JSON that people can read with `etcdctl get --prefix /jlogd/vip/`.

    sess/NODE       a node is alive; its create_revision is the identity of the session, rewritten by every heartbeat
    gone/NODE       how the last session of a node ended: clean (every address was removed before) or not
    own/ADDRESS     who may have an address: node and session; void as soon as that session is gone
    drain/NODE      an operator wants it empty
    pin/BUNDLE      an operator moved it
    conf/DIGEST     the definitions of a configuration that some node runs

Readers ignore fields they do not know; a value that cannot be read counts as one that says the least.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from vip.units import Definition

PREFIX = "/jlogd/vip/"
# How many of its blocked addresses a node tells; all are in its own `vip show`.
BLOCKED_TOLD_MAX = 50
# Sessions lost within this time count against a node. Seconds.
LOSSES_SECONDS = 600.0
LOSSES_MAX = 16


class SessionRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a node says about itself with every heartbeat."""

    # Where it runs: boot id of the kernel and network namespace; two processes at one place cannot both run.
    place: str = ""
    # What others wait after its last heartbeat, as its timing and its gate need it. Nanoseconds.
    wait: int = 0
    generation: int = 0
    digest: str = ""
    weight: float = 1.0
    ready: bool = False
    # Seconds since the session began, and sessions lost lately before it.
    age: int = 0
    losses: int = 0
    down: tuple[str, ...] = ()
    failing: tuple[str, ...] = ()
    blocked: dict[str, str] = {}
    gate: str = ""
    version: str = ""
    # When it was sent by the sender's wall clock, for people: what a command takes for silent. Decides nothing.
    at: float = 0.0


class OwnRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """Who may have an address, under which configuration, and - for people - since when, from whom and why."""

    node: str = ""
    session: int = 0
    generation: int = 0
    since: float = 0.0
    before: str = ""
    why: str = ""
    # Nobody forced this move: it counts against the moves of a round, on every node.
    shifted: bool = False


class GoneRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """The end of a session. `version`: how often the session had been written; `wait`: the longest ever asked for."""

    session: int = 0
    clean: bool = False
    version: int = 0
    wait: int = 0
    losses: tuple[float, ...] = ()
    why: str = ""


class DrainRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """An operator wants the node empty."""

    since: float = 0.0
    by: str = ""


class PinRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """An operator moved a bundle to a node; `until` (seconds since 1970), or 0: only once."""

    node: str = ""
    until: float = 0.0
    since: float = 0.0
    by: str = ""


class ConfRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """Definitions that a digest stands for."""

    generation: int = 0
    definitions: tuple[Definition, ...] = ()


R = TypeVar("R", bound=msgspec.Struct)
_ENCODER = msgspec.json.Encoder()


def encode(record: msgspec.Struct) -> bytes:
    return _ENCODER.encode(record)


def decode(value: bytes, kind: type[R]) -> R:
    """The record; the empty one when the value is not of that kind."""
    try:
        return msgspec.json.decode(value, type=kind)
    except (msgspec.DecodeError, ValueError):
        return kind()


class Keys:
    """The keys of one cluster."""

    def __init__(self, cluster: str) -> None:
        self.prefix = f"{PREFIX}{cluster}/"

    def key(self, kind: str, name: str) -> str:
        return f"{self.prefix}{kind}/{name}"

    def session(self, node: str) -> str:
        return self.key("sess", node)

    def gone(self, node: str) -> str:
        return self.key("gone", node)

    def own(self, address: str) -> str:
        return self.key("own", address)

    def drain(self, node: str) -> str:
        return self.key("drain", node)

    def pin(self, bundle: str) -> str:
        return self.key("pin", bundle)

    def conf(self, digest: str) -> str:
        return self.key("conf", digest)

    def split(self, key: str) -> tuple[str, str]:
        """(kind, name) of a key of this cluster."""
        kind, _, name = key.removeprefix(self.prefix).partition("/")
        return kind, name


def recent_losses(losses: tuple[float, ...], wall: float) -> tuple[float, ...]:
    """Those that still count."""
    return tuple(at for at in losses if wall - LOSSES_SECONDS < at <= wall + LOSSES_SECONDS)[-LOSSES_MAX:]
