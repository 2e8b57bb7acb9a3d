"""What may be typed next: out of the grammar, with the store's series and the blocks that were seen.

complete("show count for 10.0.0.0/8 in sp", ...)   -> ["spam"], which replaces the last 2 characters
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cidr.language import tree
from cidr.language.errors import QueryError
from cidr.language.parser import DESCRIBED, expected, keyword, parse
from cidr.language.tree import SeriesName

BLOCKS_DEFAULT = ("0.0.0.0/0", "::/0", "10.0.0.0/8")
DATES_DEFAULT = ("-1h", "-6h", "-1d", "-7d", "-30d")
SIZES_DEFAULT = ("8", "16", "24", "32", "48", "64", "128")
NUMBERS_DEFAULT = ("10", "50", "100")
# A word that is not finished: everything since the last blank, comma or bracket.
_PARTIAL = re.compile(r'(?<![^\s,()"])[^\s,()"]*\Z')
_PARTIAL_QUOTED = re.compile(r'[@~]?"[^"\n]*\Z')


@dataclass(frozen=True, slots=True)
class Completion:
    """`text` in place of the last `replaced` characters."""

    text: str
    replaced: int


def complete(text: str, series: Sequence[str] = (), blocks: Sequence[str] = ()) -> list[Completion]:
    """What the last word of `text` may become, or, after a blank, what may follow. Empty where the text is wrong."""
    found = (_PARTIAL_QUOTED if text.count('"') % 2 else _PARTIAL).search(text)
    partial = found[0] if found else ""
    before = text[: len(text) - len(partial)]
    try:
        terminals = [name for name in expected(before) if keyword(name) not in _given(before)]
    except QueryError:
        return []
    words = dict.fromkeys(word for name in terminals for word in _words(name, series, blocks))
    return [Completion(word, len(partial)) for word in words if _begins(word, partial)]


def _given(text: str) -> set[str]:
    """The first words of clauses that are there already, where `text` is a whole query: none may come twice."""
    try:
        statement = parse(text)
    except QueryError:
        return set()
    show = statement.show if isinstance(statement, tree.Explain) else statement
    names = {one.name for one in show.clauses} if isinstance(show, tree.Show) else set()
    if names & {"since", "on", "from"}:
        names |= {"since", "on", "from"}
    return {name.partition(" ")[0] for name in names}


def _begins(word: str, partial: str) -> bool:
    return word.lower().startswith(partial.lower()) and word != partial


def _words(terminal: str, series: Sequence[str], blocks: Sequence[str]) -> Iterable[str]:
    match terminal:
        case "BLOCK":
            return [*blocks, *BLOCKS_DEFAULT]
        case "NAME":
            return [str(SeriesName(name)) for name in series]
        case "DATE":
            return DATES_DEFAULT
        case "SIZE":
            return SIZES_DEFAULT
        case "NUMBER":
            return NUMBERS_DEFAULT
        case "PERCENTAGE":
            return ["1%", "5%"]
        case "STAR":
            return ["*"]
        case "LIST":
            return ["list @"]
        case "UNION" | "RATIO" | "MINUS_OF":
            return [DESCRIBED[terminal]]
    return [] if terminal in DESCRIBED else [keyword(terminal)]
