"""Text -> tree, and what may come next at any place of a text: both from `grammar.lark`.

    parse("show count for 10.0.0.0/8 in spam")   -> tree.Show
    expected("show count for 10.0.0.0/8 in ")    -> the terminals that may stand at the end

A text that is not accepted is a `QueryError` with its place. The parser is built once and is used by many threads.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import cache
from importlib import resources
from typing import Any, cast

from lark import Lark, Token, Transformer, UnexpectedInput
from lark.exceptions import VisitError

from cidr.language import patterns, tree
from cidr.language.errors import Mark, QueryError, nearest

# A query is typed or linked; one that is longer holds a list of blocks, and those are few.
TEXT_MAX = 1 << 20
# union(union(...)): deeper than anybody means.
DEPTH_MAX = 16

# Terminals that are no keywords, in words.
DESCRIBED = {
    "BLOCK": "a block such as 10.0.0.0/8",
    "DATE": "a date such as 20080424 or -6h",
    "FILE": "@file",
    "NAME": "a series",
    "TEXT": "a series in quotes",
    "PATTERN": "~regex",
    "STAR": "*",
    "SIZE": "a prefix length such as 24",
    "NUMBER": "a number",
    "PERCENTAGE": "a share such as 5%",
    "UNION": "union(",
    "RATIO": "ratio(",
    "MINUS_OF": "minus(",
    "LIST": "list @file",
    "COMMA": "a comma",
    "LPAR": "(",
    "RIGHT": ")",
    "$END": "the end",
}
_ORDER = ("since", "on", "from", "between", "in list", "cidrsize", "aggregate", "order by", "limit", "threshold")
_TIMES = ("since", "on", "from")
_WORD = re.compile(r'"[^"\n]*"?|[^\s,()"]+|.', re.DOTALL)
# Without quotes a regular expression may have brackets that close, none of them in another, nor blanks in them.
_PATTERN_BEFORE = re.compile(r'~[^\s,"]+$')
_BRACKETS = 'brackets are not closed, or the regular expression needs quotes: ~"^a(b|c)"'
_BARE_WORD = re.compile(r"[A-Za-z]+", re.ASCII)


def parse(text: str) -> tree.Statement:
    """The tree of a query. Raises `QueryError`."""
    if len(text) > TEXT_MAX:
        raise QueryError(text[:80], Mark(79, 80), f"the query has {len(text)} characters; the limit is {TEXT_MAX}")
    try:
        return cast(tree.Statement, _lark().parse(text))
    except UnexpectedInput as error:
        raise _unexpected(text, error) from None
    except VisitError as error:
        raise error.orig_exc from None
    except _Mistake as mistake:
        raise QueryError(text, mistake.mark, str(mistake)) from None


def expected(text: str) -> list[str]:
    """The names of the terminals that may follow `text`, which ends at a boundary of words. Raises `QueryError`."""
    interactive = _lark().parse_interactive(text)
    try:
        for _ in interactive.iter_parse():
            pass
        return sorted(interactive.accepts())  # type: ignore[no-untyped-call]
    except UnexpectedInput as error:
        raise _unexpected(text, error) from None
    except _Mistake as mistake:
        raise QueryError(text, mistake.mark, str(mistake)) from None


def describe(terminals: Iterable[str]) -> list[str]:
    """Terminals in words: keywords as themselves, and before everything else."""
    names = set(terminals)
    if "NAME" in names:
        names.discard("TEXT")
    keywords = sorted(keyword(name) for name in names if name not in DESCRIBED)
    return keywords + [DESCRIBED[name] for name in DESCRIBED if name in names]


def keyword(terminal: str) -> str:
    """The word of a terminal."""
    return DESCRIBED.get(terminal, terminal.lower())


class _Mistake(Exception):
    """Something that the grammar lets through and the language does not."""

    def __init__(self, mark: Mark, message: str) -> None:
        super().__init__(message)
        self.mark = mark


@cache
def _lark() -> Lark:
    grammar = resources.files("cidr.language").joinpath("grammar.lark").read_text()
    return Lark(grammar, start="statement", parser="lalr", lexer="contextual", transformer=_Builder())


def _unexpected(text: str, error: UnexpectedInput) -> QueryError:
    """The error for characters that cannot stand where they do."""
    position = error.pos_in_stream if error.pos_in_stream is not None else len(text)
    at_end = isinstance(getattr(error, "token", None), Token) and error.token.type == "$END"  # type: ignore[attr-defined]
    if at_end or position < 0:
        position = len(text)
    terminals = expected(text[:position].rstrip()) if position else expected("")
    found = _WORD.match(text, position)
    word = found[0] if found else ""
    if not word.strip():
        what = "the query ends too early" if text.strip() else "the query is empty"
        return QueryError(text, Mark(len(text.rstrip()) + bool(text.strip()), 0), what, describe(terminals))
    words = [keyword(name).rstrip("(").partition(" ")[0] for name in terminals if _BARE_WORD.match(keyword(name))]
    meant = nearest(word, [one for one in words if one not in ("a", "the")])
    remark = _remark(word, text[:position], text[position + len(word) :], terminals)
    return QueryError(text, Mark(position, position + len(word)), remark, describe(terminals), meant)


def _remark(word: str, before: str, after: str, terminals: list[str]) -> str:
    """What is worth saying about a word, between what is before and after it, beside what was expected."""
    if word == "~" and after.startswith('"'):
        return "the quote is not closed"
    bracket = word == "(" and _PATTERN_BEFORE.search(before[-patterns.PATTERN_CHARS_MAX :])
    if bracket or (word.startswith("~") and after.startswith("(")):
        return _BRACKETS
    if word.startswith('"') and not word.endswith('"', 1):
        return "the quote is not closed"
    if word == "," and "MINUS" in terminals:
        return "only one column is looked at; add series up with union(a, b)"
    return ""


def _mark(*tokens: Any) -> Mark:
    """From the first to the last of tokens and nodes."""
    first, last = tokens[0], tokens[-1]
    start = first.start_pos if isinstance(first, Token) else first.mark.start
    end = last.end_pos if isinstance(last, Token) else last.mark.end
    return Mark(start or 0, end or 0)


def _unquoted(token: Token, skip: int = 0) -> str:
    return str(token)[skip:].strip('"')


def _clause(build: Callable[..., Any]) -> Callable[[Any, list[Any]], Any]:
    """A rule whose node is made from its children, and marked from the first to the last of them."""

    def rule(_self: Any, children: list[Any]) -> Any:
        return build(children, _mark(*children))

    return rule


class _Builder(Transformer[Token, Any]):
    """Makes the nodes while the parser runs: no tree of lark's is built, and no depth of nesting is a recursion."""

    statement = staticmethod(lambda children: children[0])
    explain = staticmethod(lambda children: tree.Explain(children[1]))
    available = staticmethod(lambda _: tree.Available())
    cache = staticmethod(lambda _: tree.CacheDetails())

    block = _clause(lambda c, mark: tree.Block(str(c[0]).replace("[", "").replace("]", "").lower(), mark))
    all_blocks = _clause(lambda _, mark: tree.AllBlocks(mark))
    listed_blocks = _clause(lambda c, mark: tree.ListFile(_unquoted(c[1], 1), mark))
    blocks = staticmethod(tuple)
    columns = staticmethod(tuple)

    series = _clause(lambda c, mark: tree.SeriesName(_unquoted(c[0]), mark))
    everything = _clause(lambda _, mark: tree.Pattern(None, mark))

    def pattern(self, children: list[Any]) -> tree.Pattern:
        regex = _unquoted(children[0], 1)
        mark = _mark(*children)
        if wrong := patterns.mistake(regex):
            raise _Mistake(mark, wrong)
        return tree.Pattern(regex, mark)

    def less(self, children: list[Any]) -> tree.Call:
        return _call("minus", (children[0], children[2]), _mark(*children))

    def call(self, children: list[Any]) -> tree.Call:
        parts = [child for child in children if not isinstance(child, Token)]
        return _call(str(children[0]).lower(), tuple(parts), _mark(*children))

    moment = _clause(lambda c, mark: tree.Moment(_moment(c[0]), mark))
    since = _clause(lambda c, mark: tree.Since(c[1], mark))
    on = _clause(lambda c, mark: tree.On(c[1], mark))
    from_to = _clause(lambda c, mark: tree.FromTo(c[1], c[3], mark))
    stretch = _clause(lambda c, mark: tree.Stretch(c[0], c[2] if len(c) > 1 else None, mark))
    between = _clause(lambda c, mark: tree.Between(c[1], c[3], mark))
    in_list = _clause(lambda c, mark: tree.InList(tree.ListFile(_unquoted(c[2], 1), _mark(c[1], c[2])), mark))
    hosts = _clause(lambda _, mark: tree.Flag("distinct hosts", mark))
    share = _clause(lambda c, mark: tree.Flag(cast(Any, str(c[0]).lower()), mark))
    aggregate = _clause(lambda c, mark: tree.Aggregate(cast(Any, str(c[1]).lower()) if len(c) > 1 else None, mark))

    def cidrsize(self, children: list[Any]) -> tree.Cidrsize:
        mark = _mark(*children)
        if children[1].type == "BLOCKS":
            return tree.Cidrsize(None, None, mark)
        sizes = [tree.Size(str(child), _mark(child)) for child in children[1:] if child.type == "SIZE"]
        return tree.Cidrsize(sizes[0], sizes[1] if len(sizes) > 1 else None, mark)

    def order(self, children: list[Any]) -> tree.OrderBy:
        key: Any = children[2]
        ascending = len(children) > 3 and children[3].type == "ASCENDING"
        match key.type:
            case "NUMBER":
                value: Any = _whole(key, "a column's number")
            case "NAME" | "TEXT":
                value = tree.SeriesName(_unquoted(key), _mark(key))
            case _:
                value = str(key).lower()
        return tree.OrderBy(value, ascending, _mark(*children))

    def limit(self, children: list[Any]) -> tree.Limit:
        return tree.Limit(_whole(children[1], "a limit"), _mark(*children))

    def threshold(self, children: list[Any]) -> tree.Threshold:
        number = str(children[1])
        if len(number) > 30:
            raise _Mistake(_mark(children[1]), "the number is too long")
        return tree.Threshold(number.rstrip("%"), number.endswith("%"), _mark(*children))

    def count(self, children: list[Any]) -> tree.Show:
        return _show("count", children[3], children[5], children[6:], _mark(*children[:5]))

    def heavy(self, children: list[Any]) -> tree.Show:
        return _show("heavy", children[3], (children[5],), children[6:], _mark(*children[:5]))

    def movers(self, children: list[Any]) -> tree.Show:
        return _show("top movers", children[4], (children[6],), children[7:], _mark(*children[:6]))


def _moment(token: Token) -> str:
    """Words and units in lower case, the T and Z of a date in upper case."""
    is_date = token.type == "DATE" and not token.startswith("-")
    return token.upper() if is_date else token.lower()


def _whole(token: Token, what: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", token) or int(token) < 1:
        raise _Mistake(_mark(token), f"{what} is a whole number from 1 to 999999999")
    return int(token)


def _call(function: Any, parts: tuple[Any, ...], mark: Mark) -> tree.Call:
    depth = 1 + max(part.depth if isinstance(part, tree.Call) else 0 for part in parts)
    if depth > DEPTH_MAX:
        raise _Mistake(mark, f"nested deeper than {DEPTH_MAX}")
    for part in parts:
        if isinstance(part, tree.Call) and part.function == "ratio":
            raise _Mistake(part.mark, f"a ratio is no count: it cannot stand inside {function}(...)")
    return tree.Call(function, parts, mark, depth)


def _show(what: Any, blocks: Any, columns: Any, clauses: list[Any], mark: Mark) -> tree.Show:
    """The statement with its clauses in canonical order; a clause that is there twice is a mistake."""
    seen: dict[str, Any] = {}
    for clause in clauses:
        key = "time" if clause.name in _TIMES else clause.name
        if key in seen:
            raise _Mistake(clause.mark, _twice(seen[key], clause))
        seen[key] = clause
    if what == "top movers" and "between" not in seen:
        end = clauses[-1].mark.end if clauses else columns[-1].mark.end
        raise _Mistake(Mark(end + 1, 0), "top movers compares two times: add, for example, between yesterday and today")
    rank = {name: at for at, name in enumerate(_ORDER)}
    ordered = sorted(clauses, key=lambda clause: rank.get(clause.name, len(_ORDER) + (clause.name != "distinct hosts")))
    flags = [one for one in ordered if one.name in ("percent", "cumulative")]
    ordered = [one for one in ordered if one not in flags] + sorted(flags, key=lambda one: one.name != "percent")
    return tree.Show(what, blocks, columns, tuple(ordered), mark)


def _twice(first: tree.Clause, second: tree.Clause) -> str:
    if first.name == second.name:
        return f"{second.name} is given twice: {first}, and {second}"
    return f"the time is given twice: {first}, and {second}"
