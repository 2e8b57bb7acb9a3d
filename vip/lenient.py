"""Reading a record that somebody else wrote: another version, a hand, a fault. Whatever the bytes, a record comes out.

A record that is right in every field is read at once. Otherwise each field is read alone: a number out of its bounds
counts as the nearest that is accepted, a text that is too long is cut off, an item of a list that cannot be read is
left out, and what is of another kind altogether is as if it had not been said. So one value that a later version may
write does not take away the others, of which some are what safety rests on (`wait`).

Pure functions; the bounds are those of the fields' types (`msgspec.Meta`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, TypeVar, get_args, get_origin

import msgspec
from msgspec import inspect

R = TypeVar("R", bound=msgspec.Struct)
# Deep nesting ends in a RecursionError, the rest in one of the others.
UNREADABLE = (msgspec.DecodeError, ValueError, RecursionError)


def decode(value: bytes, kind: type[R]) -> R:
    """The record, as much of it as can be read; the empty one when nothing can."""
    try:
        return msgspec.json.decode(value, type=kind)
    except UNREADABLE:
        return _field_by_field(value, kind)


def _field_by_field(value: bytes, kind: type[R]) -> R:
    try:
        said = msgspec.json.decode(value, type=dict[str, msgspec.Raw])
    except UNREADABLE:
        return kind()
    found: dict[str, Any] = {}
    described = inspect.type_info(kind)
    assert isinstance(described, inspect.StructType)
    types = msgspec.structs.fields(kind)
    for field, plain in zip(described.fields, types, strict=True):
        if field.encode_name in said:
            for read in _read(said[field.encode_name], plain.type, field.type):
                found[field.name] = read
    return kind(**found)


def _read(raw: msgspec.Raw, kind: Any, described: inspect.Type) -> Iterator[Any]:
    """The value, if there is one."""
    try:
        yield msgspec.json.decode(raw, type=kind)
        return
    except UNREADABLE:
        pass
    try:
        match described:
            case inspect.IntType() | inspect.FloatType():
                yield _nearest(msgspec.json.decode(raw, type=float), described)
            case inspect.StrType(max_length=int(most)):
                yield msgspec.json.decode(msgspec.json.encode(msgspec.json.decode(raw, type=str)[:most]), type=kind)
            case inspect.VarTupleType(item_type=item, max_length=most):
                items = msgspec.json.decode(raw, type=list[msgspec.Raw])[:most]
                yield tuple(read for one in items for read in _read(one, _item_of(kind), item))
            case inspect.DictType():
                pairs = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
                yield dict(pair for key, one in pairs.items() for pair in _pair(key, one, kind))
    except UNREADABLE:
        pass


def _pair(key: str, raw: msgspec.Raw, kind: Any) -> Iterator[tuple[str, Any]]:
    try:
        yield from msgspec.json.decode(b"{%b:%b}" % (msgspec.json.encode(key), bytes(raw)), type=kind).items()
    except UNREADABLE:
        return


def _item_of(kind: Any) -> Any:
    """X of `tuple[X, ...]`, bounded or not."""
    return get_args(get_args(kind)[0] if get_origin(kind) is Annotated else kind)[0]


def _nearest(number: float, bounds: inspect.IntType | inspect.FloatType) -> int | float:
    """Every number of a record has both bounds."""
    low, high = bounds.ge, bounds.le
    assert low is not None and high is not None
    if isinstance(bounds, inspect.IntType):
        return int(min(max(number, low), high))
    return float(min(max(number, low), high))
