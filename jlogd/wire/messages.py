"""The control messages between a client and a daemon; `docs/protocol.md` describes them for other languages.

A message is one ZeroMQ multipart message:

    frame 1    control: one JSON object; `verb` says which of the messages below it is
    frame 2..  batches, byte for byte as `jlogd/journal/batch.py` draws them (their sequence numbers 0 in an append)
               append: one batch a frame, the batch in frame 2 + n has the number `id` + n
               delivery: one frame, one or more batches back to back

A request carries an `id` chosen by the client; its answer carries the same. Unknown fields are ignored, so that a newer
peer may add some; an unknown verb is refused. Nothing here is bound to a thread: encode and decode are pure.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, ClassVar, Literal, cast

import msgspec
from msgspec import Meta

from jlogd.errors import JlogError, ProtocolError, UsageError
from jlogd.journal.batch import BATCH_BYTES_MAX, HEADER_BYTES
from jlogd.journal.types import Caps, LogStat, Settings, Start

# The one version there is. A client says the highest it speaks; the daemon answers the one both speak, or refuses.
PROTOCOL = 1
PROTOCOL_MIN = 1

# Control of a request: names, a start, a few dozen subscribers. More is not a request of ours.
CONTROL_BYTES_MAX = 64 << 10
# One batch with its header: nothing larger is ever sent to a daemon in one frame.
FRAME_BYTES_MAX = HEADER_BYTES + BATCH_BYTES_MAX
# Batches in one append: enough to spread the cost of a message over small batches.
APPEND_BATCHES_MAX = 64
# A delivery holds batches up to about TURN_BYTES, or one larger batch; a client accepts frames up to the sum of both.
TURN_BYTES = 1 << 20
DELIVERY_BYTES_MAX = FRAME_BYTES_MAX + TURN_BYTES
# A batch in an append, and a delivery, count as this much at least: what a small one costs in memory beside its bytes.
COST_MIN = 1 << 10
# Characters of the line that says who a client is; it is shown to people.
NOTE_LENGTH_MAX = 200

# Ids, sequence numbers and counts of bytes are whole numbers that fit in 63 bits.
INTEGER_MAX = (1 << 63) - 1

Id = Annotated[int, Meta(ge=1, le=INTEGER_MAX)]
Sequence = Annotated[int, Meta(ge=0, le=INTEGER_MAX)]


Name = Annotated[str, Meta(max_length=64)]
StartOnWire = Annotated[str, Meta(max_length=40)] | Sequence


def _kebab(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "-", name).lower()


class _Message(msgspec.Struct, tag_field="verb", tag=_kebab, omit_defaults=True):
    """A message; its verb is its class name in lower case, words joined by '-'."""


class _Request(_Message):
    """A message from a client. `again`: doing it twice is the same as doing it once, so a retry needs no thought."""

    again: ClassVar[bool] = False
    id: Id


# Requests --------------------------------------------------------------------------------------------------------


class Hello(_Request):
    """First message of a connection. `client` names this client across its connections, `note` is for people."""

    protocol: int
    client: Annotated[str, Meta(min_length=1, max_length=64)]
    note: Annotated[str, Meta(max_length=NOTE_LENGTH_MAX)] = ""


class Ping(_Request):
    """Keeps the session; answered by a pong."""

    again = True


class ListLogs(_Request):
    """Which logs are there."""

    again = True


class OpenLog(_Request):
    """What a writer needs to know about a log."""

    again = True
    log: Name


class CreateLog(_Request):
    """Make a log."""

    log: Name
    subscribers: list[Name] = []
    settings: Settings | None = None


class Stat(_Request):
    """The statistics of a log."""

    again = True
    log: Name


class Append(_Request):
    """Batches follow in frames of their own."""

    log: Name


class Position(_Request):
    """Where a producer's last accepted batch ended, in its own counting."""

    again = True
    log: Name
    producer: Annotated[int, Meta(ge=0)]  # 64 bits, the top one set for a named producer


class Subscribe(_Request):
    """Deliveries follow; they name this request's `id` as `sub`.

    Without a name the subscription is ephemeral. For a named one, `start` may be given to go on after what was
    delivered already; without it, delivery starts at the checkpoint. `credit` is in bytes.
    """

    log: Name
    name: Name = ""
    start: StartOnWire | None = None
    follow: bool = False
    credit: Sequence = 0


class More(_Request):
    """Go on after the end: wait for more (`follow`), or say once what is new and answer with another end."""

    sub: Id
    follow: bool = False


class Unsubscribe(_Request):
    """End a subscription; after the answer nothing more of it arrives."""

    sub: Id


class Checkpoint(_Request):
    """Everything before sequence number `next` is done with."""

    sub: Id
    next: Sequence


class SubscriberAdd(_Request):
    """Make a subscriber."""

    log: Name
    name: Name
    start: StartOnWire = "begin"
    caps: Caps | None = None


class SubscriberRemove(_Request):
    """Remove a subscriber."""

    log: Name
    name: Name


class SubscriberSet(_Request):
    """Move a subscriber."""

    log: Name
    name: Name
    start: StartOnWire


class SubscriberCaps(_Request):
    """Change how far a subscriber may fall behind; without caps, as far as the log lets it."""

    again = True
    log: Name
    name: Name
    caps: Caps | None = None


class SubscriberClone(_Request):
    """Make a subscriber that stands where `source` stands."""

    log: Name
    name: Name
    source: Name


class Credit(_Message):
    """More bytes may be delivered to `sub`. Not answered."""

    sub: Id
    bytes: Sequence


class Bye(_Message):
    """The client goes; its session ends. Not answered."""


# Answers ---------------------------------------------------------------------------------------------------------


class Limits(msgspec.Struct, frozen=True):
    """What a client must keep to; bytes unless it says otherwise.

    `append_bytes`: batches under way, each counted as 1024 at least; one batch alone may be larger. `append_batches`:
    batches in one append. `credit_bytes`: the most a subscription may hold. `session_seconds`: silence that ends a
    session.
    """

    batch_bytes: int = FRAME_BYTES_MAX
    append_bytes: int = 8 << 20
    append_batches: int = APPEND_BATCHES_MAX
    credit_bytes: int = 16 << 20
    subscriptions: int = 64
    session_seconds: float = 30.0


class Welcome(_Message):
    """Answer to hello."""

    id: int
    protocol: int
    version: str
    limits: Limits
    node: str = ""


class Pong(_Message):
    """Answer to ping. With `id` 0 it was not asked for: the daemon looks whether anyone is there; ignore it."""

    id: int = 0


class Done(_Message):
    """It is done."""

    id: int


class Refused(_Message):
    """It is not done, and why; `code` is a word of the table of errors. `id` 0: the request's id could not be read.

    An append may be refused for several of its batches at once: those numbered `id` to `id` + `count` - 1.
    """

    id: int
    code: str
    message: str
    count: int = 1


class Logs(_Message):
    """Answer to list-logs."""

    id: int
    logs: list[str]


class Opened(_Message):
    """Answer to open-log and create-log."""

    id: int
    log: str
    uuid: str
    compression: str
    durability: str


class StatIs(_Message):
    """Answer to stat."""

    id: int
    stat: LogStat


class PositionIs(_Message):
    """Answer to position; None: the log does not know that producer."""

    id: int
    position: int | None


class Ack(msgspec.Struct, array_like=True):
    """One accepted batch: the `id` it was sent under, its first sequence number, its records."""

    id: int
    first: int
    count: int
    duplicate: bool = False


class Acks(_Message):
    """Batches that are durable (as far as the log's policy promises), in the order they were accepted."""

    acks: list[Ack]


class Subscribed(_Message):
    """Answer to subscribe: the next sequence number to come, and the credit granted, at most what was asked."""

    id: int
    next: int
    credit: int


class GapIs(msgspec.Struct, array_like=True):
    """Records that will not come, see `jlogd.journal.batch.Gap`."""

    first: int
    last: int
    reason: str
    detail: str = ""


class Delivery(_Message):
    """Records of `sub` in the frame that follows, `cost` of its credit, and gaps between them; then comes `next`."""

    sub: int
    next: int
    cost: int
    gaps: list[GapIs] = []


class End(_Message):
    """A subscription that does not follow is at the durable end; `next` is the first number it did not see.

    `id` is that of the subscribe or the more that this answers. The subscription stays, and delivers nothing until a
    more.
    """

    sub: int
    id: int
    next: int


class Ended(_Message):
    """The daemon ended a subscription, and why."""

    sub: int
    code: str
    message: str


FromClient = (
    Hello | Ping | ListLogs | OpenLog | CreateLog | Stat | Append | Position | Subscribe | More | Unsubscribe
    | Checkpoint | SubscriberAdd | SubscriberRemove | SubscriberSet | SubscriberCaps | SubscriberClone
    | Credit | Bye
)  # fmt: skip
FromDaemon = (
    Welcome | Pong | Done | Refused | Logs | Opened | StatIs | PositionIs | Acks | Subscribed | Delivery | End | Ended
)  # fmt: skip
AnyRequest = (
    Hello | Ping | ListLogs | OpenLog | CreateLog | Stat | Position | Unsubscribe | SubscriberAdd | SubscriberRemove
    | SubscriberSet | SubscriberCaps | SubscriberClone
)  # fmt: skip

_from_client = msgspec.json.Decoder(FromClient)
_from_daemon = msgspec.json.Decoder(FromDaemon)


# What bytes of any kind may make the decoder raise.
_NOT_UNDERSTOOD = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class _OnlyId(msgspec.Struct):
    id: Id


_only_id = msgspec.json.Decoder(_OnlyId)
encode = msgspec.json.Encoder().encode


def decode_request(control: bytes) -> FromClient:
    """A client's message. Raises `ProtocolError` that says what is wrong with it."""
    try:
        return cast(FromClient, _from_client.decode(control))
    except (*_NOT_UNDERSTOOD, JlogError) as error:
        raise ProtocolError(f"the daemon does not understand this message: {error}") from error


def decode_answer(control: bytes) -> FromDaemon:
    """A daemon's message. Raises `ProtocolError` that says what is wrong with it."""
    try:
        return cast(FromDaemon, _from_daemon.decode(control))
    except (*_NOT_UNDERSTOOD, JlogError) as error:
        raise ProtocolError(f"the daemon sent a message this client does not understand: {error}") from error


def request_id(control: bytes) -> int:
    """The id of a request that could not be decoded, as far as it can be read; else 0."""
    try:
        return _only_id.decode(control).id
    except _NOT_UNDERSTOOD:
        return 0


def start_to_wire(start: Start) -> str | int:
    """A start as JSON: `begin`, `end`, a sequence number, or a time as RFC 3339 with its zone."""
    if isinstance(start, datetime):
        return start.astimezone().isoformat()
    return start


def start_from_wire(start: str | int) -> Start:
    """Raises UsageError for anything but what `start_to_wire` makes."""
    if isinstance(start, int):
        return start
    if start in ("begin", "end"):
        return cast(Literal["begin", "end"], start)
    try:
        moment = msgspec.convert(start, datetime, strict=False)
    except msgspec.ValidationError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise UsageError(
            f"start {start!r} is neither 'begin', 'end', a sequence number nor a time like 2026-01-31T12:00:00Z"
        )
    return moment


def refused(id_: int, error: JlogError, count: int = 1) -> Refused:
    """The error as an answer."""
    return Refused(id_, error.code, str(error), count)
