"""The JSON of etcd's gateway <-> the words of `types.py`.

Bytes travel as base64, 64-bit numbers as strings, and whatever is zero, false or empty is left out - so a compare that
failed answers without the word `succeeded`, and an event without a type is a put. All of that is known here and
nowhere else.

No locks; pure functions.
"""

from __future__ import annotations

import base64
from typing import Any

import msgspec

from cluster.errors import (
    Compacted,
    NotLoggedIn,
    StoreError,
    StoreRefused,
    StoreUnavailable,
    WatchEnded,
)
from cluster.types import Compare, Delete, Event, Get, KeyValue, Operation, Put, Txn, WatchBatch

# Codes of gRPC, as etcd uses them.
_REFUSED = {3, 5, 6, 7, 8, 9, 12}  # invalid, not found, exists, denied, exhausted, precondition, unimplemented
_OUT_OF_RANGE, _UNAUTHENTICATED = 11, 16
# What etcd says, with the code of a mistake or inside of a watch, when it wants a login or another one.
_LOGIN_SIGNS = ("auth token", "user name is empty", "auth store is old")
_NO_SPACE = "NOSPACE: its quota is full, it accepts no change; compact it, defragment every member, disarm the alarm"
_TARGETS = {"create": "CREATE", "mod": "MOD", "version": "VERSION", "value": "VALUE"}
_NUMBERS = {"create": "create_revision", "mod": "mod_revision", "version": "version"}


class Header(msgspec.Struct, frozen=True):
    """What every answer begins with. `member_id` changes with the member that answers; the rest must never go back."""

    cluster_id: str = "0"
    member_id: str = "0"
    revision: str = "0"
    raft_term: str = "0"


class Item(msgspec.Struct, frozen=True):
    """A key-value pair."""

    key: str = ""
    value: str = ""
    create_revision: str = "0"
    mod_revision: str = "0"
    version: str = "0"


class RangeAnswer(msgspec.Struct, frozen=True):
    header: Header = Header()
    kvs: tuple[Item, ...] = ()
    more: bool = False


class Response(msgspec.Struct, frozen=True):
    """One response in a transaction; only a range says more than that it happened."""

    response_range: RangeAnswer | None = None


class TxnAnswer(msgspec.Struct, frozen=True):
    header: Header = Header()
    succeeded: bool = False
    responses: tuple[Response, ...] = ()


class RawEvent(msgspec.Struct, frozen=True):
    type: str = "PUT"
    kv: Item = Item()


class WatchAnswer(msgspec.Struct, frozen=True):
    header: Header = Header()
    created: bool = False
    canceled: bool = False
    compact_revision: str = "0"
    cancel_reason: str = ""
    events: tuple[RawEvent, ...] = ()


class Failure(msgspec.Struct, frozen=True):
    """An error; a stream wraps it and calls its words differently."""

    error: str | dict[str, Any] = ""
    message: str = ""
    code: int = 0
    grpc_code: int = 0


class WatchLine(msgspec.Struct, frozen=True):
    result: WatchAnswer | None = None
    error: Failure | None = None


class StatusAnswer(msgspec.Struct, frozen=True):
    header: Header = Header()
    version: str = ""
    size: str = msgspec.field(name="dbSize", default="0")
    errors: tuple[str, ...] = ()


class CompactionAnswer(msgspec.Struct, frozen=True):
    header: Header = Header()


class LoginAnswer(msgspec.Struct, frozen=True):
    header: Header = Header()
    token: str = ""


def encoded(text: str | bytes) -> str:
    return base64.b64encode(text.encode() if isinstance(text, str) else text).decode("ascii")


def prefix_end(prefix: str) -> str:
    """The first key after all keys that begin with `prefix`; "\\0" (every key) for the empty one."""
    raw = bytearray(prefix.encode())
    while raw:
        if raw[-1] < 0xFF:
            raw[-1] += 1
            return encoded(bytes(raw))
        raw.pop()
    return encoded(b"\0")


def range_body(key: str, prefix: bool) -> dict[str, Any]:
    """Without `serializable`: the answer is of the agreed state."""
    body: dict[str, Any] = {"key": encoded(key or "\0")}
    return body | {"range_end": prefix_end(key)} if prefix else body


def txn_body(txn: Txn) -> dict[str, Any]:
    return {
        "compare": [_compare(compare) for compare in txn.compares],
        "success": [_operation(operation) for operation in txn.success],
        "failure": [_operation(operation) for operation in txn.failure],
    }


def compaction_body(revision: int) -> dict[str, Any]:
    return {"revision": str(revision)}


def watch_body(prefix: str, start_revision: int) -> dict[str, Any]:
    request = range_body(prefix, prefix=True) | {"start_revision": str(start_revision), "progress_notify": True}
    return {"create_request": request}


def _compare(compare: Compare) -> dict[str, Any]:
    body = {"key": encoded(compare.key), "target": _TARGETS[compare.target], "result": "EQUAL"}
    if compare.target == "value":
        return body | {"value": encoded(compare.value)}
    return body | {_NUMBERS[compare.target]: str(compare.number)}


def _operation(operation: Operation) -> dict[str, Any]:
    match operation:
        case Put(key, value):
            return {"request_put": {"key": encoded(key), "value": encoded(value)}}
        case Delete(key, prefix):
            return {"request_delete_range": range_body(key, prefix)}
        case Get(key, prefix):
            return {"request_range": range_body(key, prefix)}


def key_value(item: Item) -> KeyValue:
    return KeyValue(
        base64.b64decode(item.key).decode("utf-8", "replace"),
        base64.b64decode(item.value),
        int(item.create_revision),
        int(item.mod_revision),
        int(item.version),
    )


def watch_batch(line: bytes) -> tuple[Header, WatchBatch | None]:
    """One line of a watch: header and batch; None for the line that says that the watch begins."""
    try:
        read = msgspec.json.decode(line, type=WatchLine)
    except (msgspec.DecodeError, ValueError) as error:
        raise WatchEnded(f"the watch says something that is not understood: {error}") from None
    if read.error is not None or read.result is None:
        raise WatchEnded(f"the watch failed: {_words(read.error or Failure())}")
    answer = read.result
    if int(answer.compact_revision):
        raise Compacted(f"changes before revision {answer.compact_revision} are forgotten")
    if answer.canceled:
        words = f"the store ended the watch: {answer.cancel_reason or 'no reason given'}"
        raise NotLoggedIn(words) if _is_about_login(words) else WatchEnded(words)
    if answer.created:
        return answer.header, None
    events = tuple(_event(event) for event in answer.events)
    # The header says how far the store is, which may be further than these events: more may be on their way.
    return answer.header, WatchBatch(events[-1].revision if events else 0, events)


def login_not_wanted(status: int, body: bytes) -> bool:
    """Whether a login was refused because this etcd knows no users."""
    return status != 200 and b"authentication is not enabled" in body


def _event(event: RawEvent) -> Event:
    item = key_value(event.kv)
    return Event(item.key, item.mod_revision, None if event.type == "DELETE" else item)


def refusal(status: int, body: bytes, endpoint: str) -> StoreError:
    """The error behind an answer that is not 200."""
    try:
        failure = msgspec.json.decode(body, type=Failure)
    except (msgspec.DecodeError, ValueError):
        failure = Failure()
    words = f"{endpoint}: {_words(failure) or f'HTTP status {status}'}"
    code = failure.code or failure.grpc_code
    if code == _UNAUTHENTICATED or status == 401 or _is_about_login(words):
        return NotLoggedIn(words)
    if "database space exceeded" in words:
        return StoreRefused(f"{words}: no change is accepted until etcd was compacted and its alarm disarmed")
    if code == _OUT_OF_RANGE:
        return Compacted(words) if "compacted" in words else StoreRefused(words)
    return StoreRefused(words) if code in _REFUSED else StoreUnavailable(words)


def alarms(answer: StatusAnswer) -> tuple[str, ...]:
    """What a member says is wrong, in words that say what to do about it."""
    return tuple(dict.fromkeys(_NO_SPACE if "NOSPACE" in error else error.strip() for error in answer.errors))


def _is_about_login(words: str) -> bool:
    """Whether a new login may help: there was none, it ran out, its member was restarted, or rights have changed."""
    return any(sign in words for sign in _LOGIN_SIGNS)


def _words(failure: Failure) -> str:
    return failure.message or (failure.error if isinstance(failure.error, str) else str(failure.error))
