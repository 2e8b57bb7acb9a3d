"""What stands in the store, as JSON that people can read with `etcdctl get --prefix /jlogd/vip/`.

    sess/NODE       a node is alive; its create_revision is the identity of the session, rewritten by every heartbeat
    gone/NODE       how the last session of a node ended: clean (every address was removed before) or not
    own/ADDRESS     who may have an address: node and session; void as soon as that session is gone
    drain/NODE      an operator wants it empty
    pin/BUNDLE      an operator moved it
    conf/DIGEST     the definitions of a configuration that some node runs

Readers ignore fields they do not know; a value that cannot be read counts as one that says the least. What may stand
in a field is said by its type, here, and holds for whatever is read (`lenient.py`): nothing in the store, whoever wrote
it, can end a daemon. A key whose name nobody would have written is no record.
"""

from __future__ import annotations

import re
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from vip.clock import SECOND
from vip.config import NAME_PATTERN
from vip.lenient import decode as decode_any
from vip.timing import WINDOW_SECONDS_MAX
from vip.units import Definition, readable

PREFIX = "/jlogd/vip/"
# How many of its blocked addresses a node tells; all are in its own `vip show`.
BLOCKED_TOLD_MAX = 50
# Sessions lost within this time count against a node. Seconds.
LOSSES_SECONDS = 600.0
LOSSES_MAX = 16
# Twice the longest window that may be configured: no node of any configuration asks others to wait for longer.
WAIT_NS_MAX = 2 * round(WINDOW_SECONDS_MAX) * SECOND
# The year 5138; later ones no calendar here can tell.
WALL_SECONDS_MAX = 1e11
TEXT_MAX = 8192
ITEMS_MAX = 1024
DEFINITIONS_MAX = 10_240
KEY_NAME = re.compile(r"[A-Za-z0-9._:-]{1,128}")

Node = Annotated[str, Meta(pattern=rf"\A(?:{NAME_PATTERN})?\Z", max_length=64)]
Text = Annotated[str, Meta(max_length=TEXT_MAX, pattern=r"\A[^\x00-\x1f\x7f-\x9f]*\Z")]
Texts = Annotated[tuple[Text, ...], Meta(max_length=ITEMS_MAX)]
Count = Annotated[int, Meta(ge=0, le=(1 << 53) - 1)]
Revision = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
Wait = Annotated[int, Meta(ge=0, le=WAIT_NS_MAX)]
Weight = Annotated[float, Meta(ge=0.01, le=100)]
WallTime = Annotated[float, Meta(ge=0, le=WALL_SECONDS_MAX)]


class SessionRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a node says about itself with every heartbeat."""

    # Where it runs: boot id of the kernel and network namespace; two processes at one place cannot both run.
    place: Text = ""
    # What others wait after its last heartbeat, as its timing and its gate need it. Nanoseconds.
    wait: Wait = 0
    generation: Count = 0
    digest: Text = ""
    weight: Weight = 1.0
    ready: bool = False
    # Seconds since the session began, and sessions lost lately before it.
    age: Count = 0
    losses: Count = 0
    down: Texts = ()
    failing: Texts = ()
    blocked: Annotated[dict[Text, Text], Meta(max_length=ITEMS_MAX)] = {}
    gate: Text = ""
    version: Text = ""
    # When it was sent by the sender's wall clock, for people: what a command takes for silent. Decides nothing.
    at: WallTime = 0.0


class OwnRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """Who may have an address, under which configuration, and - for people - since when, from whom and why."""

    node: Node = ""
    session: Revision = 0
    generation: Count = 0
    since: WallTime = 0.0
    before: Text = ""
    why: Text = ""
    # Nobody forced this move: it counts against the moves of a round, on every node.
    shifted: bool = False


class GoneRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """The end of a session. `version`: how often the session had been written; `wait`: the longest ever asked for."""

    session: Revision = 0
    clean: bool = False
    version: Count = 0
    wait: Wait = 0
    losses: Annotated[tuple[WallTime, ...], Meta(max_length=ITEMS_MAX)] = ()
    # How a session ended that did not end itself: in words, for people.
    why: Text = ""


class DrainRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """An operator wants the node empty."""

    since: WallTime = 0.0
    by: Text = ""


class PinRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """An operator moved a bundle to a node; `until` (seconds since 1970), or 0: only once."""

    node: Node = ""
    until: WallTime = 0.0
    since: WallTime = 0.0
    by: Text = ""


class ConfRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """Definitions that a digest stands for."""

    generation: Count = 0
    definitions: Annotated[tuple[Definition, ...], Meta(max_length=DEFINITIONS_MAX)] = ()


R = TypeVar("R", bound=msgspec.Struct)
_ENCODER = msgspec.json.Encoder()


def encode(record: msgspec.Struct) -> bytes:
    return _ENCODER.encode(record)


def decode(value: bytes, kind: type[R]) -> R:
    """The record; what cannot be read of it says the least."""
    record = decode_any(value, kind)
    if isinstance(record, ConfRecord):
        record = msgspec.structs.replace(record, definitions=readable(record.definitions))
    return record


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
        """(kind, name) of a key of this cluster; two empty words for one that nobody of us would have written."""
        kind, _, name = key.removeprefix(self.prefix).partition("/")
        return (kind, name) if KEY_NAME.fullmatch(name) else ("", "")


def end_of(gone: GoneRecord) -> str:
    """How a session ended, in words."""
    if gone.clean:
        return gone.why or "it ended clean"
    return gone.why or "it fell silent, or was ended"


def recent_losses(losses: tuple[float, ...], wall: float) -> tuple[float, ...]:
    """Those that still count."""
    return tuple(at for at in losses if wall - LOSSES_SECONDS < at <= wall + LOSSES_SECONDS)[-LOSSES_MAX:]
