"""Path templates: where a record of a log of a node is written, by its own time.

    /var/log/cluster/%Y/%m/%d/%{log}/%{subcluster}/%{node}
    '------ base ---'

`%{node} %{log} %{subcluster} %{manager}` are names (`%{n} %{l} %{s}` are accepted too); the rest are conversions of
strftime, of which those are allowed that give one plain word. The time is that of the batch on its node: see
docs/aggregation.md. What a template gives never leaves its base directory: names hold no slash and do not begin with a
dot, conversions give letters and digits, and a template with `..` in it is refused.

A template is used by one thread: it remembers the last path of each origin.
"""

from __future__ import annotations

import calendar
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

TimeZone = Literal["local", "utc"]

PLACEHOLDERS = {"node": "node", "log": "log", "subcluster": "subcluster", "manager": "manager"}
# Those of the logs of old.
SHORT = {"n": "node", "l": "log", "s": "subcluster"}
# Conversions of strftime that give one word without slashes and spaces, whatever the locale.
CONVERSIONS = "YymdHMSjbBaAuwUWVGgFCp"
# The finest of them decide how long a path holds.
_BY_SECOND = frozenset("S")
_PART = re.compile(r"%(?:\{([^}]*)\}|(.)|$)", re.DOTALL)
# The kernel's limit on one name, and the ledger's on a path: it is the key of a file there.
COMPONENT_BYTES_MAX = 255
PATH_BYTES_MAX = 470
# Room for ".part1000.zst" and the like.
SUFFIX_BYTES = 32
TEMPLATE_ACCEPTED = (
    "a path with %{node}, %{log}, %{subcluster}, %{manager} and conversions of strftime that give one word "
    f"({' '.join(f'%{one}' for one in 'YmdHMSj')}, ...), without '..'"
)


class Origin(NamedTuple):
    """What a record comes from, in names."""

    node: str
    subcluster: str
    log: str
    manager: str = ""


class Template:
    """See the module's text."""

    def __init__(self, text: str, zone: TimeZone = "local") -> None:
        """Raises ValueError with what is accepted."""
        self.text = text
        self._zone = zone
        self._pattern, self._letters = _translate(text)
        self._period = 0 if not self._letters else 1 if _BY_SECOND & self._letters else 60
        self._last: dict[Origin, tuple[int, str]] = {}
        _check(text)

    @property
    def base(self) -> Path:
        """The directories before the first that depends on anything."""
        parts = Path(self.text).parts
        fixed = next((at for at, part in enumerate(parts) if "%" in part), len(parts) - 1)
        return Path(*parts[:fixed]) if fixed else Path()

    @property
    def dated(self) -> bool:
        """Whether the path depends on the time."""
        return bool(self._letters)

    def expand(self, origin: Origin, time_ns: int) -> str:
        """The path for a record of that time (ns since 1970 UTC). Raises ValueError when it would be too long."""
        seconds = time_ns // 1_000_000_000
        period = seconds // self._period if self._period else 0
        known = self._last.get(origin)
        if known is not None and known[0] == period:
            return known[1]
        path = self._expand(origin, seconds)
        self._last[origin] = (period, path)
        return path

    def over(self, origin: Origin, time_ns: int) -> int:
        """When the path for a record of that time is not that for new ones any more (seconds since 1970); 0: never."""
        if not self._letters:
            return 0
        seconds = time_ns // 1_000_000_000
        path = self._expand(origin, seconds)
        return next((end for end in self._ends(seconds) if self._expand(origin, end) != path), 0)

    def _ends(self, seconds: int) -> Iterator[int]:
        """The beginnings of the next second, minute, hour, day, month and year."""
        yield from (seconds + 1, seconds - seconds % 60 + 60, seconds - seconds % 3600 + 3600)
        at = time.localtime(seconds) if self._zone == "local" else time.gmtime(seconds)
        begins = time.mktime if self._zone == "local" else calendar.timegm
        for year, month, day in (
            (at.tm_year, at.tm_mon, at.tm_mday + 1), (at.tm_year, at.tm_mon + 1, 1), (at.tm_year + 1, 1, 1)
        ):  # fmt: skip
            if month > 12:
                year, month = year + 1, 1
            yield int(begins((year, month, day, 0, 0, 0, 0, 0, -1)))

    def _expand(self, origin: Origin, seconds: int) -> str:
        moment = time.localtime(seconds) if self._zone == "local" else time.gmtime(seconds)
        # Names are put in last, and strftime refuses zero bytes: so it is given the text between the names.
        parts = self._pattern.split("\0")
        for at, part in enumerate(parts):
            parts[at] = getattr(origin, part) if at % 2 else time.strftime(part, moment)
        path = "".join(parts)
        if len(path.encode()) + SUFFIX_BYTES > PATH_BYTES_MAX:
            raise ValueError(f"the path {path[:100]}... is longer than {PATH_BYTES_MAX - SUFFIX_BYTES} bytes")
        for part in path.split("/"):
            if len(part.encode()) + SUFFIX_BYTES > COMPONENT_BYTES_MAX:
                raise ValueError(
                    f"{part[:100]}... in the path is longer than {COMPONENT_BYTES_MAX - SUFFIX_BYTES} bytes"
                )
        return path


def _translate(text: str) -> tuple[str, frozenset[str]]:
    """The template with names between zero bytes, and the conversions it uses."""
    letters: set[str] = set()

    def put(found: re.Match[str]) -> str:
        name, letter = found[1], found[2]
        if name is not None:
            full = PLACEHOLDERS.get(SHORT.get(name, name))
            if full is None:
                raise ValueError(f"{TEMPLATE_ACCEPTED}; there is no %{{{name}}}")
            return f"\0{full}\0"
        if letter == "%":
            return "%%"
        if letter is None or letter not in CONVERSIONS:
            raise ValueError(f"{TEMPLATE_ACCEPTED}; not %{letter or ''}")
        letters.add(letter)
        return f"%{letter}"

    if "\0" in text:
        raise ValueError(TEMPLATE_ACCEPTED)
    return _PART.sub(put, text), frozenset(letters)


def _check(text: str) -> None:
    parts = text.split("/")
    if not text.isprintable() or not parts[-1] or any(part in ("..", ".") for part in parts):
        raise ValueError(TEMPLATE_ACCEPTED)
