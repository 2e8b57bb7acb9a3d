"""Regular expressions of queries: found in the names of series, within a time limit.

They come from whoever may ask, and one such as `(a+)+$` would keep the server busy for years; `re` cannot be stopped,
`regex` can.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Sequence
from functools import lru_cache

import regex

# Of one expression; names are short.
PATTERN_CHARS_MAX = 200
# What repetitions such as {3} come to, one in the other: `((a{999}){999}){999}` is unrolled, and would fill memory.
REPEATED_MAX = 10_000
# Of the search of all expressions of a query in all names.
SEARCH_SECONDS_MAX = 0.5
_BRACES = re.compile(r"\{[^{}]*")
_NUMBER = re.compile("[0-9]+")


def mistake(pattern: str) -> str:
    """Why `pattern` is not accepted, or ""."""
    if len(pattern) > PATTERN_CHARS_MAX:
        return f"a regular expression has at most {PATTERN_CHARS_MAX} characters"
    if _repeated(pattern) > REPEATED_MAX:
        return f"a regular expression repeats a part of it at most {REPEATED_MAX:,} times"
    try:
        _compiled(pattern)
    except (regex.error, OverflowError, RecursionError, ValueError) as error:
        return f"{pattern!r} is not a regular expression: {error}"
    return ""


def _repeated(pattern: str) -> int:
    """How often a part of it may be repeated by numbers at most, be it unrolled or not."""
    numbers = [[int(digits) for digits in _NUMBER.findall(braces)] for braces in _BRACES.findall(pattern)]
    return math.prod(max(1, *some) for some in numbers if some)


def matching(pattern: str, names: Sequence[str], until: float) -> list[str]:
    """The names in which `pattern` finds something. Raises TimeoutError once `time.monotonic()` is past `until`."""
    search = _compiled(pattern).search
    found = []
    for name in names:
        left = until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        if search(name, timeout=left):
            found.append(name)
    return found


@lru_cache(maxsize=64)
def _compiled(pattern: str) -> regex.Pattern[str]:
    return regex.compile(pattern)
