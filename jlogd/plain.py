"""JSON for programs, of whatever there is to tell.

A path of Linux is bytes, which Python keeps as text with surrogates where they are no UTF-8. JSON cannot hold these.
"""

from __future__ import annotations

from typing import Any

import msgspec


def encode_json(value: Any) -> bytes:
    """The value as JSON; `?` stands for what is no UTF-8."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return msgspec.json.encode(_readable(msgspec.to_builtins(value)))


def _readable(value: Any) -> Any:
    match value:
        case str():
            return value.encode("utf-8", "replace").decode()
        case list():
            return [_readable(item) for item in value]
        case dict():
            return {_readable(key): _readable(item) for key, item in value.items()}
    return value
