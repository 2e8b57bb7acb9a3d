"""The line of every key in a TOML text, so that a mistake can be reported where it stands.

Python's `tomllib` reads values but forgets where they were. `key_lines` walks the same text once more and remembers
only that:

    key_lines('a = 1\\n[b]\\nc = [2,\\n3]')
        ->  {("a",): 1, ("b",): 2, ("b", "c"): 3, ("b", "c", 0): 3, ("b", "c", 1): 4}

A path is the tuple of keys and array positions that leads to the value in the result of `tomllib.loads`; every such
path of the text is in the answer, down to DEPTH_MAX. The text must be one that `tomllib` has accepted: it is not
checked a second time.

No locks; pure functions.
"""

from __future__ import annotations

import re
import tomllib

Path = tuple[str | int, ...]

_BLANK = re.compile(r"[ \t]*")
_BLANK_LINES = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
# The four kinds of strings. Multi-line ones may end in up to two quotes of their own before the closing three. No
# possessive quantifiers: Python 3.11.2, which Debian 12 has, gets them wrong. Nothing here can match in two ways.
_STRING = re.compile(
    r'"""[^"\\]*(?:(?:\\.|"(?!""))[^"\\]*)*"""+'
    r"|'''[^']*(?:'(?!'')[^']*)*'''+"
    r'|"[^"\\\n]*(?:\\.[^"\\\n]*)*"'
    r"|'[^'\n]*'",
    re.DOTALL,
)
# No setting lies deeper. Deeper keys get the line of what holds them, so that a hostile file costs no more than its
# own size.
DEPTH_MAX = 16
_PLAIN_VALUE = re.compile(r"[^,\]}#\r\n]+")


def key_lines(text: str) -> dict[Path, int]:
    """The line (from 1) where each key path of a valid TOML text is first set."""
    walker = _Walker(text.replace("\r\n", "\n"))
    walker.document()
    return walker.lines


def line_of(lines: dict[Path, int], path: Path) -> int:
    """The line of `path`, or of the nearest table above it that has one; 0 when there is none."""
    while path:
        if path in lines:
            return lines[path]
        path = path[:-1]
    return 0


def _under(path: Path, key: str | int) -> Path:
    return (*path, key) if len(path) < DEPTH_MAX else path


class _Walker:
    """One pass over the text. `at` is the reading position, `line` the line it stands on."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.line = 1
        self.lines: dict[Path, int] = {}
        self.array_sizes: dict[Path, int] = {}

    def document(self) -> None:
        table: Path = ()
        self.take(_BLANK_LINES)
        while self.at < len(self.text):
            if self.text.startswith("[[", self.at):
                table = self.array_header()
            elif self.text.startswith("[", self.at):
                table = self.table_header()
            else:
                self.key_value(table)
            self.take(_BLANK_LINES)

    def take(self, pattern: re.Pattern[str]) -> str:
        """Move past `pattern` and return what it matched; the text is valid, so it always matches."""
        match = pattern.match(self.text, self.at)
        if match is None:
            raise ValueError(f"not valid TOML at line {self.line}")
        self.line += match[0].count("\n")
        self.at = match.end()
        return match[0]

    def skip(self, count: int) -> None:
        self.at += count

    def peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def key(self) -> list[str]:
        """A key, dotted or quoted, with the blanks around it."""
        parts = []
        while True:
            self.take(_BLANK)
            if self.peek() in ('"', "'"):
                parts.append(str(tomllib.loads("k=" + self.take(_STRING))["k"]))
            else:
                parts.append(self.take(_BARE_KEY))
            self.take(_BLANK)
            if self.peek() != ".":
                return parts
            self.skip(1)

    def note(self, path: Path, line: int) -> None:
        self.lines.setdefault(path, line)

    def descend(self, base: Path, keys: list[str], line: int) -> Path:
        """The path of `keys` under `base`; a name of an array of tables means its last table."""
        path = base
        for key in keys:
            path = _under(path, key)
            self.note(path, line)
            if path in self.array_sizes:
                path = _under(path, self.array_sizes[path] - 1)
        return path

    def table_header(self) -> Path:
        line = self.line
        self.skip(1)
        path = self.descend((), self.key(), line)
        self.skip(1)
        return path

    def array_header(self) -> Path:
        line = self.line
        self.skip(2)
        *parents, last = self.key()
        self.skip(2)
        path = _under(self.descend((), parents, line), last)
        self.note(path, line)
        position = self.array_sizes.get(path, 0)
        self.array_sizes[path] = position + 1
        self.note(_under(path, position), line)
        return _under(path, position)

    def key_value(self, table: Path) -> None:
        line = self.line
        keys = self.key()
        self.skip(1)
        self.take(_BLANK)
        path = table
        for key in keys:
            path = _under(path, key)
            self.note(path, line)
        self.value(path)

    def value(self, path: Path) -> None:
        first = self.peek()
        if first in ('"', "'"):
            self.take(_STRING)
        elif first == "[":
            self.array(path)
        elif first == "{":
            self.inline_table(path)
        else:
            self.take(_PLAIN_VALUE)

    def array(self, path: Path) -> None:
        self.skip(1)
        position = 0
        self.take(_BLANK_LINES)
        while self.peek() != "]":
            self.note(_under(path, position), self.line)
            self.value(_under(path, position))
            position += 1
            self.take(_BLANK_LINES)
            if self.peek() == ",":
                self.skip(1)
                self.take(_BLANK_LINES)
        self.skip(1)

    def inline_table(self, path: Path) -> None:
        """Line breaks and a trailing comma are let through, as later versions of TOML allow them."""
        self.skip(1)
        self.take(_BLANK_LINES)
        while self.peek() != "}":
            self.key_value(path)
            self.take(_BLANK_LINES)
            if self.peek() == ",":
                self.skip(1)
                self.take(_BLANK_LINES)
        self.skip(1)
