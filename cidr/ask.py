"""From the text of a query to a reply: the one way in for the command, the shell, the server and the web page.

    Local(engine).ask("show count for 10.0.0.0/8 in spam")   -> Rows

A reply is what was asked for, in canonical words, and what came back; `cidr.formats` turns it into bytes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol
from zoneinfo import ZoneInfo

from cidr.language import tree
from cidr.language.build import Context, build, inline_lists
from cidr.language.lists import refuse
from cidr.language.parser import parse
from cidr.types import Answer, CacheStat, Plan, Query, SeriesStat

# A file of blocks: as many of the longest lines as are accepted, and comments.
LIST_BYTES_MAX = 4 << 20


@dataclass(frozen=True, slots=True)
class Rows:
    """The answer to `show count`, `show heavy` or `show top movers`."""

    show: tree.Show
    answer: Answer
    zone: ZoneInfo

    @property
    def text(self) -> str:
        """The query in canonical words."""
        return str(self.show)


@dataclass(frozen=True, slots=True)
class Explained:
    """What `explain` says a query would do."""

    show: tree.Show
    plan: Plan
    zone: ZoneInfo

    @property
    def text(self) -> str:
        """The query in canonical words."""
        return f"explain {self.show}"


@dataclass(frozen=True, slots=True)
class Listed:
    """The series there are: `show available`."""

    series: tuple[SeriesStat, ...]
    zone: ZoneInfo
    text = "show available"


@dataclass(frozen=True, slots=True)
class Cached:
    """What is held in memory: `cache details`."""

    cache: CacheStat
    zone: ZoneInfo
    text = "cache details"


Reply = Rows | Explained | Listed | Cached


class Answering(Protocol):
    """What is needed of an engine."""

    @property
    def zone(self) -> ZoneInfo:
        """In which days begin."""

    def answer(self, query: Query) -> Answer:
        """The rows."""

    def explain(self, query: Query) -> Plan:
        """What `answer` would read."""

    def series(self) -> list[SeriesStat]:
        """All series, by name."""

    def cache(self, entries: int = 100) -> CacheStat:
        """What is held in memory."""

    def close(self) -> None:
        """Let go of it."""


class Asking(Protocol):
    """Something that answers queries given as text: an engine in this process, or a server."""

    def ask(self, text: str) -> Reply:
        """Raises `QueryError`, and what the engine or the server raises."""

    def series_names(self) -> list[str]:
        """For completion."""

    def describe(self) -> str:
        """What is asked: a directory or an address."""

    def close(self) -> None:
        """Let go of it."""


class Local:
    """Queries to an engine. `read` gives the text of a list's file; None where none may be read (in a server)."""

    def __init__(
        self,
        engine: Answering,
        where: str = "",
        read: Callable[[str], str] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._engine = engine
        self._where = where
        self._read = read or refuse
        self._clock = clock

    def ask(self, text: str) -> Reply:
        statement = parse(text)
        zone = self._engine.zone
        match statement:
            case tree.Available():
                return Listed(tuple(self._engine.series()), zone)
            case tree.CacheDetails():
                return Cached(self._engine.cache(), zone)
            case tree.Explain(show):
                show, query = self.built(text, show)
                return Explained(show, self._engine.explain(query), zone)
            case tree.Show():
                show, query = self.built(text, statement)
                return Rows(show, trimmed(self._engine.answer(query), show), zone)

    def built(self, text: str, show: tree.Show) -> tuple[tree.Show, Query]:
        """The tree without lists, and its query."""
        show = inline_lists(text, show, self._read)
        return show, build(text, show, Context(self._engine.zone, int(self._clock()), self.series_names()))

    def series_names(self) -> list[str]:
        return [one.name for one in self._engine.series()]

    def series_stats(self) -> list[SeriesStat]:
        """All series, by name."""
        return self._engine.series()

    def answer(self, query: Query) -> Answer:
        """The rows of a query that was built already."""
        return self._engine.answer(query)

    @property
    def zone(self) -> ZoneInfo:
        """In which days begin."""
        return self._engine.zone

    def describe(self) -> str:
        return self._where

    def close(self) -> None:
        self._engine.close()


def trimmed(answer: Answer, show: tree.Show) -> Answer:
    """The engine makes percent and cumulative together; only what was asked for is shown."""
    unasked = {kind for kind in ("percent", "cumulative") if show.clause(kind) is None}
    if show.what != "count" or not any(column.kind in unasked for column in answer.columns):
        return answer
    return replace(answer, columns=tuple(column for column in answer.columns if column.kind not in unasked))


def read_file(path: str) -> str:
    """The text of a file of blocks. Raises OSError, ValueError."""
    data = b""
    with Path(path).expanduser().open("rb") as file:
        data = file.read(LIST_BYTES_MAX + 1)
    if len(data) > LIST_BYTES_MAX:
        raise ValueError(f"it has more than {LIST_BYTES_MAX >> 20} MiB")
    return data.decode()
