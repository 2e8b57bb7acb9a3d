"""Regular expressions of queries: found in the names of series, within a time limit.

They come from whoever may ask, and one such as `(a+)+$` would keep the server busy for years; `re` cannot be stopped,
`regex` can.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import lru_cache

import regex

# Of one expression, and of its search in all names; they are short.
PATTERN_CHARS_MAX = 200
SEARCH_SECONDS_MAX = 0.5
_LEAST_SECONDS = 0.001


def mistake(pattern: str) -> str:
    """Why `pattern` is not accepted, or ""."""
    if len(pattern) > PATTERN_CHARS_MAX:
        return f"a regular expression has at most {PATTERN_CHARS_MAX} characters"
    try:
        _compiled(pattern)
    except (regex.error, OverflowError, RecursionError, ValueError) as error:
        return f"{pattern!r} is not a regular expression: {error}"
    return ""


def matching(pattern: str, names: Sequence[str]) -> list[str]:
    """The names in which `pattern` finds something. Raises TimeoutError."""
    search = _compiled(pattern).search
    until = time.monotonic() + SEARCH_SECONDS_MAX
    found = []
    for name in names:
        if search(name, timeout=max(until - time.monotonic(), _LEAST_SECONDS)):
            found.append(name)
    return found


@lru_cache(maxsize=64)
def _compiled(pattern: str) -> regex.Pattern[str]:
    return regex.compile(pattern)
