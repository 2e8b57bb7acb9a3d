"""What a query says, as a tree: nothing is looked up, no date is computed yet.

Every node knows where it stands in the text (`mark`, which takes no part in comparisons) and prints itself in one
canonical way: `str(parse(text))` parses to an equal tree.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from cidr.language.errors import Mark

_NAME = re.compile(r"[A-Za-z0-9_][\w.-]*", re.ASCII)
_BARE_PATTERN = re.compile(r'([^\s,()"]|\([^\s()"]*\))+')
_BARE_FILE = re.compile(r'[^\s,()"]+')


_UNMARKED = Mark()


@dataclass(frozen=True, slots=True)
class Block:
    """An address block as it was written, without brackets."""

    text: str
    mark: Mark = field(default=_UNMARKED, compare=False, repr=False)

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class AllBlocks:
    """`all`: every address of both families."""

    mark: Mark = field(default=_UNMARKED, compare=False, repr=False)

    def __str__(self) -> str:
        return "all"


@dataclass(frozen=True, slots=True)
class ListFile:
    """`list @file`: the blocks in a file."""

    path: str
    mark: Mark = field(default=_UNMARKED, compare=False, repr=False)

    def __str__(self) -> str:
        return f"list @{self.path}" if _BARE_FILE.fullmatch(self.path) else f'list @"{self.path}"'


@dataclass(frozen=True, slots=True)
class SeriesName:
    """One series."""

    name: str
    mark: Mark = field(default=_UNMARKED, compare=False, repr=False)

    def __str__(self) -> str:
        return self.name if _NAME.fullmatch(self.name) else f'"{self.name}"'


@dataclass(frozen=True, slots=True)
class Pattern:
    """`~regex`: the series whose name it finds something in; `regex` None is `*`, every series."""

    regex: str | None
    mark: Mark = field(default=_UNMARKED, compare=False, repr=False)

    def __str__(self) -> str:
        if self.regex is None:
            return "*"
        return f"~{self.regex}" if _BARE_PATTERN.fullmatch(self.regex) else f'~"{self.regex}"'


@dataclass(frozen=True, slots=True)
class Call:
    """`union(…)`, `minus(a, b)` and its other spelling `a minus b`, `ratio(a, b)`. `depth` of nesting is bounded."""

    function: Literal["union", "minus", "ratio"]
    parts: tuple[Expression, ...]
    mark: Mark = field(default=_UNMARKED, compare=False, repr=False)
    depth: int = field(default=1, compare=False)

    def __str__(self) -> str:
        return f"{self.function}({', '.join(map(str, self.parts))})"


Expression = SeriesName | Pattern | Call


@dataclass(frozen=True, slots=True)
class Moment:
    """A date as it was written: `20080424`, `2008-04-24T12:00`, `-6h`, `today`, `yesterday`, `now`."""

    text: str
    mark: Mark = field(default=_UNMARKED, compare=False, repr=False)

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Since:
    """`since D`: from D up to now."""

    start: Moment
    mark: Mark = field(default=_UNMARKED, compare=False, repr=False)
    name = "since"

    def __str__(self) -> str:
        return f"since {self.start}"


@dataclass(frozen=True, slots=True)
class On:
    """`on D`: the day D."""

    day: Moment
    mark: Mark = field(default=_UNMARKED, compare=False, repr=False)
    name = "on"

    def __str__(self) -> str:
        return f"on {self.day}"


@dataclass(frozen=True, slots=True)
class FromTo:
    """`from A to B`."""

    start: Moment
    end: Moment
    mark: Mark = field(default=_UNMARKED, compare=False, repr=False)
    name = "from"

    def __str__(self) -> str:
        return f"from {self.start} to {self.end}"


@dataclass(frozen=True, slots=True)
class Stretch:
    """One side of `between`: a day, or A to B."""

    start: Moment
    end: Moment | None
    mark: Mark = field(default=_UNMARKED, compare=False, repr=False)

    def __str__(self) -> str:
        return str(self.start) if self.end is None else f"{self.start} to {self.end}"


@dataclass(frozen=True, slots=True)
class Between:
    """`between S and S`."""

    before: Stretch
    after: Stretch
    mark: Mark = field(default=_UNMARKED, compare=False, repr=False)
    name = "between"

    def __str__(self) -> str:
        return f"between {self.before} and {self.after}"


@dataclass(frozen=True, slots=True)
class InList:
    """`in list @file`: only addresses in the blocks of a file."""

    file: ListFile
    mark: Mark = field(default=_UNMARKED, compare=False, repr=False)
    name = "in list"

    def __str__(self) -> str:
        return f"in {self.file}"


@dataclass(frozen=True, slots=True)
class Size:
    """A prefix length, `24`, or one for each family, `24/64`."""

    text: str
    mark: Mark = field(default=_UNMARKED, compare=False, repr=False)

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Cidrsize:
    """`cidrsize A`, `cidrsize A to B`, or `cidrsize blocks` (`low` None): a row for each block asked about."""

    low: Size | None
    high: Size | None = None
    mark: Mark = field(default=_UNMARKED, compare=False, repr=False)
    name = "cidrsize"

    def __str__(self) -> str:
        if self.low is None:
            return "cidrsize blocks"
        return f"cidrsize {self.low}" if self.high is None else f"cidrsize {self.low} to {self.high}"


@dataclass(frozen=True, slots=True)
class Aggregate:
    """`aggregate`: one total; `aggregate daily`: a row for each day."""

    every: Literal["hourly", "daily", "monthly"] | None = None
    mark: Mark = field(default=_UNMARKED, compare=False, repr=False)
    name = "aggregate"

    def __str__(self) -> str:
        return "aggregate" if self.every is None else f"aggregate {self.every}"


@dataclass(frozen=True, slots=True)
class OrderBy:
    """`order by KEY`: `cidr`, `count`, `hosts`, the number of a column (`int`), or a series (`SeriesName`)."""

    key: Literal["cidr", "count", "hosts"] | int | SeriesName
    ascending: bool = False
    mark: Mark = field(default=_UNMARKED, compare=False, repr=False)
    name = "order by"

    def __str__(self) -> str:
        key = self.key
        # A series called as a word of the language, or as a number, is told apart by its quotes.
        if isinstance(key, SeriesName) and re.fullmatch(r"cidr|count|hosts|-?[0-9]+(\.[0-9]+)?", key.name, re.I):
            return f'order by "{key.name}"{" ascending" if self.ascending else ""}'
        return f"order by {key}{' ascending' if self.ascending else ''}"


@dataclass(frozen=True, slots=True)
class Limit:
    """`limit N`."""

    rows: int
    mark: Mark = field(default=_UNMARKED, compare=False, repr=False)
    name = "limit"

    def __str__(self) -> str:
        return f"limit {self.rows}"


@dataclass(frozen=True, slots=True)
class Threshold:
    """`threshold N` or `threshold N%`; the text of the number is kept."""

    number: str
    percent: bool = False
    mark: Mark = field(default=_UNMARKED, compare=False, repr=False)
    name = "threshold"

    def __str__(self) -> str:
        return f"threshold {self.number}{'%' if self.percent else ''}"


@dataclass(frozen=True, slots=True)
class Flag:
    """`distinct hosts`, `percent`, `cumulative`."""

    name: Literal["distinct hosts", "percent", "cumulative"]
    mark: Mark = field(default=_UNMARKED, compare=False, repr=False)

    def __str__(self) -> str:
        return self.name


Time = Since | On | FromTo | Between
Clause = Time | InList | Cidrsize | Aggregate | OrderBy | Limit | Threshold | Flag
BlockItem = Block | AllBlocks | ListFile


@dataclass(frozen=True, slots=True)
class Show:
    """`show count`, `show heavy` or `show top movers`, with its clauses in canonical order."""

    what: Literal["count", "heavy", "top movers"]
    blocks: tuple[BlockItem, ...]
    columns: tuple[Expression, ...]
    clauses: tuple[Clause, ...] = ()
    mark: Mark = field(default=_UNMARKED, compare=False, repr=False)

    def __str__(self) -> str:
        words = [f"show {self.what} for {', '.join(map(str, self.blocks))} in {', '.join(map(str, self.columns))}"]
        return " ".join([*words, *map(str, self.clauses)])

    def clause(self, name: str) -> Clause | None:
        """Its clause of that name."""
        return next((clause for clause in self.clauses if clause.name == name), None)

    @property
    def time(self) -> Time | None:
        """Its time clause."""
        return next((clause for clause in self.clauses if isinstance(clause, Since | On | FromTo | Between)), None)

    def names(self) -> Iterator[SeriesName]:
        """The series it names, in order."""
        stack = list(reversed(self.columns))
        while stack:
            one = stack.pop()
            if isinstance(one, SeriesName):
                yield one
            elif isinstance(one, Call):
                stack += reversed(one.parts)


@dataclass(frozen=True, slots=True)
class Explain:
    """`explain show …`."""

    show: Show

    def __str__(self) -> str:
        return f"explain {self.show}"


@dataclass(frozen=True, slots=True)
class Available:
    """`show available`."""

    def __str__(self) -> str:
        return "show available"


@dataclass(frozen=True, slots=True)
class CacheDetails:
    """`cache details`."""

    def __str__(self) -> str:
        return "cache details"


Statement = Show | Explain | Available | CacheDetails
