"""An expression that finds the first match of every record in one call, over all records as lines of one text.

Calling `search` record by record costs a call of Python's and an object for each. Running an expression over the joined
text is one loop in C, but might let a match go on in the next record. It cannot when nothing in the expression takes a
newline; and where no record holds one, an expression that is kept from taking newlines matches exactly what it matched
before. So the expression is read into its tree (by the parser of `re`), every part of it is kept from newlines, and two
more parts follow it: the rest of the line, and its end. They always match, at once, so that what comes before them is
found as if they were not there, and the next match begins in the next record.

    end of a record       where the text ended there is a newline now, which nothing takes: the same to every part
    ^ $ \\A \\Z             begin and end of a line (MULTILINE)
    \\b                    a newline is no part of a word, as the end of the text was not
    \\B                    given up: it does not match in an empty text, but between two newlines
    . [^x] \\s \\W \\D        without the newline that they would take
    \\n                    given up: it never matches a record, and nobody writes it
    *+ (?>              given up: Python 3.11.2, which Debian 12 has, gets possessive parts wrong

What is not known here is given up too, and with it what another version of `re` may bring: `over_lines` says None, and
the records are searched one by one. Tests compare both on expressions and records of all kinds.
"""

from __future__ import annotations

import re
from typing import Any

from jlogd.errors import JlogError

try:
    from re import _compiler, _parser  # type: ignore[attr-defined]
    from re import _constants as op
except ImportError:  # they are private: the records will do one by one
    _parser = None

_NEWLINE = 10
_FLAGS_KNOWN = re.IGNORECASE | re.MULTILINE | re.DOTALL | re.VERBOSE


class _GivenUp(JlogError):
    """There is something in the expression of which this is not known."""


def over_lines(expression: bytes) -> re.Pattern[bytes] | None:
    """The expression with the rest of the line behind it, for `findall` on lines that all end in a newline: one match
    for each line in which it is found, the first. None when that cannot be had."""
    if _parser is None:
        return None
    try:
        tree = _parser.parse(expression)
        if tree.state.flags & ~_FLAGS_KNOWN:
            return None
        tree.state.flags &= ~re.DOTALL.value
        _keep_from_newlines(tree)
        rest = _parser.SubPattern(tree.state, [(op.NOT_LITERAL, _NEWLINE)])
        tree.append((op.MAX_REPEAT, (0, op.MAXREPEAT, rest)))
        tree.append((op.LITERAL, _NEWLINE))
        return _compiler.compile(tree, re.MULTILINE.value)  # type: ignore[no-any-return]
    except (_GivenUp, re.error, AttributeError, TypeError, ValueError, OverflowError, RecursionError):
        return None


def _keep_from_newlines(tree: Any) -> None:
    """Every part of the tree, in place. Raises _GivenUp."""
    for index, (kind, value) in enumerate(tree.data):
        tree.data[index] = _kept(kind, value)


def _kept(kind: Any, value: Any) -> tuple[Any, Any]:
    if (kind is op.LITERAL and value != _NEWLINE) or kind in (op.ANY, op.GROUPREF, op.FAILURE):
        return kind, value
    if kind is op.NOT_LITERAL:
        return op.IN, [(op.NEGATE, None), (op.LITERAL, value), (op.LITERAL, _NEWLINE)]
    if kind is op.IN:
        return op.IN, _set(value)
    if kind is op.AT:
        return op.AT, _place(value)
    if kind is op.SUBPATTERN:
        group, added, removed, inner = value
        _keep_from_newlines(inner)
        if (added | removed) & ~_FLAGS_KNOWN:
            raise _GivenUp("flags")
        return kind, (group, added & ~re.DOTALL.value, removed & ~re.MULTILINE.value, inner)
    for inner in _inner(kind, value):
        _keep_from_newlines(inner)
    return kind, value


def _inner(kind: Any, value: Any) -> list[Any]:
    """The parts that a part is made of."""
    if kind is op.BRANCH:
        return list(value[1])
    if kind in (op.MAX_REPEAT, op.MIN_REPEAT):
        return [value[2]]
    if kind in (op.ASSERT, op.ASSERT_NOT):
        return [value[1]]
    if kind is op.GROUPREF_EXISTS:
        return [inner for inner in value[1:] if inner is not None]
    raise _GivenUp(str(kind))


def _place(where: Any) -> Any:
    if where is op.AT_BEGINNING_STRING:
        return op.AT_BEGINNING
    if where is op.AT_END_STRING:
        return op.AT_END
    if where in (op.AT_BEGINNING, op.AT_END, op.AT_BOUNDARY):
        return where
    raise _GivenUp(str(where))


def _set(items: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """A set of characters without the newline."""
    if items[0][0] is op.NEGATE:
        return [*items, (op.LITERAL, _NEWLINE)]
    return [found for item in items for found in _without_newline(*item)]


def _without_newline(kind: Any, value: Any) -> list[tuple[Any, Any]]:
    if kind is op.LITERAL and value != _NEWLINE:
        return [(kind, value)]
    if kind is op.RANGE:
        low, high = value
        pairs = [(low, min(high, _NEWLINE - 1)), (max(low, _NEWLINE + 1), high)]
        return [(kind, pair) for pair in pairs if pair[0] <= pair[1]]
    if kind is op.CATEGORY and value in _CATEGORIES:
        matches = re.compile(_CATEGORIES[value]).match
        return [(op.LITERAL, one) for one in range(256) if one != _NEWLINE and matches(bytes((one,)))]
    raise _GivenUp(str(kind))


_CATEGORIES: dict[Any, bytes] = {}
if _parser is not None:
    _CATEGORIES = {
        op.CATEGORY_DIGIT: rb"\d", op.CATEGORY_NOT_DIGIT: rb"\D",
        op.CATEGORY_SPACE: rb"\s", op.CATEGORY_NOT_SPACE: rb"\S",
        op.CATEGORY_WORD: rb"\w", op.CATEGORY_NOT_WORD: rb"\W",
    }  # fmt: skip
