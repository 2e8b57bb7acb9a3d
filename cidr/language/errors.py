"""A query that is not accepted: which characters, why, and what is accepted there.

show count for 10.0.0.0/8 in spam cidersize 24
                                  ^^^^^^^^^ expected: aggregate, cidrsize, ...; did you mean cidrsize?
"""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

from jlogd.errors import UsageError

# More alternatives than this help nobody; the nearest is always named.
EXPECTED_SHOWN_MAX = 16


@dataclass(frozen=True, slots=True)
class Mark:
    """Where something stands in the text of a query: characters from `start` up to, not including, `end`."""

    start: int = 0
    end: int = 0

    def to(self, other: Mark) -> Mark:
        """From the beginning of this to the end of `other`."""
        return Mark(self.start, other.end)


class QueryError(UsageError):
    """A query is wrong at `mark`; `message` says how, `expected` what may stand there, `nearest` what was meant."""

    code = "query"

    def __init__(self, text: str, mark: Mark, message: str, expected: Iterable[str] = (), nearest: str = "") -> None:
        self.text = text
        self.mark = Mark(min(mark.start, len(text)), min(max(mark.end, mark.start + 1), len(text) + 1))
        self.message = message
        self.expected = tuple(expected)
        self.nearest = nearest
        super().__init__(f"{self.explanation()} (at character {self.mark.start + 1})")

    def explanation(self) -> str:
        """What is wrong, what was expected, what was meant, in one line."""
        parts = [self.message] if self.message else []
        if self.expected:
            shown = list(self.expected[:EXPECTED_SHOWN_MAX])
            if len(self.expected) > len(shown):
                shown.append("...")
            parts.append(f"expected: {', '.join(shown)}")
        if self.nearest:
            parts.append(f"did you mean {self.nearest}?")
        return printable("; ".join(parts))

    def caret(self, prompt: str = "") -> str:
        """The line of the query that is wrong, and under it carets and the explanation. `prompt` goes before it."""
        start = self.text.rfind("\n", 0, self.mark.start) + 1
        end = self.text.find("\n", self.mark.start)
        line = self.text[start : len(self.text) if end < 0 else end]
        before, marked = line[: self.mark.start - start], line[self.mark.start - start : self.mark.end - start]
        pad = " " * (width(printable(prompt)) + width(printable(before)))
        return f"{prompt}{printable(line)}\n{pad}{'^' * max(1, width(printable(marked)))} {self.explanation()}"


def nearest(word: str, known: Iterable[str]) -> str:
    """The known word that `word` most likely stands for, or ""."""
    names = list(known)
    folded = {name.lower(): name for name in reversed(names)}
    found = difflib.get_close_matches(word.lower(), list(folded), n=1, cutoff=0.6)
    return folded[found[0]] if found else ""


def printable(text: str) -> str:
    """Control characters as blanks or a mark, one for one: nothing in a query steers the terminal."""
    return "".join(
        " " if char in "\t\r\n" else char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text
    )


def width(text: str) -> int:
    """How many columns of a terminal `text` takes."""
    return sum(_char_width(char) for char in text)


def _char_width(char: str) -> int:
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1
