"""The systems of the counts benchmark: cidr, and what one would use instead on the same files or the same rows.

DuckDB and chDB read the very Parquet files that cidr's planner picks for the question, named one by one: nothing is
searched for. SQLite holds the days in a table whose key is (series, day, address) and which is nothing but that index
(WITHOUT ROWID). Every system answers with rows, which are compared: a fast wrong answer is worth nothing.
"""

from __future__ import annotations

import importlib
import itertools
import os
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cidr.engine import Engine
from cidr.memory import keep_freed_memory
from cidr.segment import read
from cidr.types import ALL_V4, BLOCKS, BY_COUNT, HOSTS, Block, Column, CountQuery, Family, Levels, Series, Span

Answer = list[tuple[int, ...]]
Kind = Literal["top", "total", "drill", "beside"]


@dataclass(frozen=True, slots=True)
class Question:
    """One question. `top`: ten largest /24; `total`: of a block; `drill`: addresses of a block; `beside`: two
    series."""

    name: str
    kind: Kind
    span: Span
    block: Block = ALL_V4
    series: tuple[str, ...] = ("spam",)

    def query(self) -> CountQuery:
        """As cidr is asked."""
        columns = tuple(Column(name, Series(name)) for name in self.series)
        common: dict[str, Any] = {"blocks": (self.block,), "columns": columns, "span": self.span}
        if self.kind == "total":
            return CountQuery(**common, levels=BLOCKS)
        if self.kind == "drill":
            return CountQuery(**common, levels=HOSTS)
        return CountQuery(**common, levels=Levels((24,)), order=BY_COUNT, limit=10)


def sql(question: Question, sources: Sequence[str]) -> str:
    """As an SQL engine is asked; `sources` are what to select from, one for each series, with `address` and `count`."""
    first, last = question.block.first, question.block.last
    where = f" WHERE address BETWEEN {first} AND {last}" if question.block.bits else ""
    if question.kind == "total":
        return f"SELECT sum(count) FROM {sources[0]}{where}"
    if question.kind == "drill":
        return f"SELECT address, sum(count) FROM {sources[0]}{where} GROUP BY address ORDER BY address"
    if question.kind == "top":
        return (
            f"SELECT k * 256, s FROM (SELECT address >> 8 AS k, sum(count) AS s FROM {sources[0]}{where} GROUP BY k)"
            " ORDER BY s DESC, k LIMIT 10"
        )
    return (
        "SELECT k * 256, a, b FROM (SELECT k, sum(a) AS a, sum(b) AS b FROM ("
        f"SELECT address >> 8 AS k, count AS a, 0 AS b FROM {sources[0]} UNION ALL "
        f"SELECT address >> 8 AS k, 0 AS a, count AS b FROM {sources[1]}) GROUP BY k) ORDER BY a DESC, k LIMIT 10"
    )


class System:
    """One system. `open` starts it cold, `ask` answers, `close` ends it."""

    label = ""
    note = ""

    def missing(self) -> str:
        """Why it cannot run here; empty when it can."""
        return ""

    def prepare(self) -> None:
        """What it needs done once, outside of all times."""

    def open(self) -> None:
        """Start with nothing in its own memory."""

    def ask(self, question: Question) -> Answer:
        """The answer."""
        raise NotImplementedError

    def close(self) -> None:
        """End."""


class Cidr(System):
    """Ours."""

    label = "cidr"
    note = "numpy, its own cache"

    def __init__(self, base: Path) -> None:
        self._base = base
        self._engine: Engine | None = None

    def prepare(self) -> None:
        keep_freed_memory()  # as its command and its server do; it holds for whoever uses the C library's memory here

    def open(self) -> None:
        self._engine = Engine(self._base)

    def ask(self, question: Question) -> Answer:
        assert self._engine is not None
        answer = self._engine.answer(question.query())
        columns = [column.values.tolist() for column in answer.columns]
        if question.kind == "total":
            return [(columns[0][0],)]
        return list(zip(answer.low.tolist(), *columns, strict=True))

    def close(self) -> None:
        if self._engine is not None:
            self._engine.close()
            self._engine = None


class Planned(System):
    """A system that is given the files of cidr's own plan."""

    module = ""

    def __init__(self, base: Path) -> None:
        self._base = base
        self._plans: dict[Question, list[list[str]]] = {}
        self._engine = Engine(base)

    def missing(self) -> str:
        try:
            importlib.import_module(self.module)
        except ImportError as error:
            return f"{self.module} is not installed ({error})"
        return ""

    def files(self, question: Question) -> list[list[str]]:
        """Paths for each series."""
        found = self._plans.get(question)
        if found is None:
            reading = self._engine._planner.reading(list(question.series), question.span)
            found = [
                [str(self._base / segment.path) for segment in reading.of(name, Family.V4).segments]
                for name in question.series
            ]
            self._plans[question] = found
        return found


class DuckDb(Planned):
    """DuckDB over the same Parquet files."""

    label = "DuckDB"
    note = "the same Parquet files, all cores"
    module = "duckdb"

    def open(self) -> None:
        self._connection = importlib.import_module("duckdb").connect()

    def ask(self, question: Question) -> Answer:
        sources = [f"read_parquet([{', '.join(map(repr, files))}])" for files in self.files(question)]
        return _rows(self._connection.execute(sql(question, sources)).fetchall())

    def close(self) -> None:
        self._connection.close()


class ChDb(Planned):
    """ClickHouse in this process, over the same Parquet files."""

    label = "chDB"
    note = "the same Parquet files, all cores"
    module = "chdb"

    def open(self) -> None:
        self._session = importlib.import_module("chdb.session").Session()

    def ask(self, question: Question) -> Answer:
        sources = [_clickhouse_files(files) for files in self.files(question)]
        text = sql(question, sources).replace("address >> 8", "bitShiftRight(address, 8)")
        answer = self._session.query(text, "CSV")
        return _rows(line.split(",") for line in str(answer).split())

    def close(self) -> None:
        self._session.close()


def _clickhouse_files(files: Sequence[str]) -> str:
    """The files as ClickHouse wants them: braces hold names of one directory, and more than one name."""
    parts = []
    for directory, group in itertools.groupby(files, os.path.dirname):
        names = [os.path.basename(path) for path in group]
        pattern = names[0] if len(names) == 1 else "{" + ",".join(names) + "}"
        parts.append(f"SELECT address, count FROM file('{directory}/{pattern}', Parquet)")
    return f"({' UNION ALL '.join(parts)})"


class Sqlite(System):
    """A table that is its own index; days only."""

    label = "SQLite"
    note = "WITHOUT ROWID, key (series, day, address), days only"

    def __init__(self, base: Path, path: Path) -> None:
        self._base = base
        self._path = path

    def prepare(self) -> None:
        if self._path.exists():
            return
        part = self._path.with_suffix(".part")
        part.unlink(missing_ok=True)
        connection = sqlite3.connect(part)
        connection.execute("PRAGMA journal_mode = OFF")
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute(
            "CREATE TABLE counts (series, day, address, count, PRIMARY KEY (series, day, address)) WITHOUT ROWID"
        )
        with Engine(self._base) as engine:
            for series in ("ham", "spam"):
                segments = [s for s in engine._store.timeline(series, Family.V4).segments() if s.tier == "day"]
                for segment in sorted(segments, key=lambda s: s.start):
                    counts = read(self._base / segment.path, Family.V4)
                    rows = zip(counts.low.tolist(), counts.counts.tolist(), strict=True)
                    values = ((series, segment.start, address, number) for address, number in rows)
                    connection.executemany("INSERT INTO counts VALUES (?, ?, ?, ?)", values)
        connection.commit()
        connection.close()
        part.rename(self._path)

    def open(self) -> None:
        self._connection = sqlite3.connect(self._path)

    def ask(self, question: Question) -> Answer:
        span = f"day >= {question.span.start} AND day < {question.span.end}"
        sources = [
            f"(SELECT address, count FROM counts WHERE series = '{name}' AND {span})" for name in question.series
        ]
        return _rows(self._connection.execute(sql(question, sources)).fetchall())

    def close(self) -> None:
        self._connection.close()


def _rows(found: Any) -> Answer:
    return [tuple(int(value or 0) for value in row) for row in found]
