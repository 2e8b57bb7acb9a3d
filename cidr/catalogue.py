"""The catalogue: which segments there are, how far each logger has come, and the store's zone. One SQLite file.

    segments   one row a segment: the footer's words, the path, the size
    origins    one row a logger: its epoch (grows with each start) and its last commit
    positions  per logger and log: the next sequence number to be read
    store      key and value: format, zone

What makes a count exact is one transaction: the rows of a commit's segments, the logger's commit number, and the
positions they cover. The files were synced and renamed before it. A logger whose epoch is no longer the one in
`origins` was replaced and commits nothing.

The segments are the truth, the catalogue an index: `survey` makes it again from the footers. The journal mode is
SQLite's default (a rollback journal), which needs no shared memory and leaves one file behind; a reader may open it
read-only.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from cidr.errors import CatalogueBroken, CatalogueDamaged, LoggerFenced
from cidr.names import CATALOGUE
from cidr.segment import FORMAT, Header
from cidr.timeline import Segment, unheld
from cidr.types import Family, SeriesStat, Span, Tier

if TYPE_CHECKING:
    import sqlite_utils

# Two loggers, a maintainer and readers share the file; each holds it for milliseconds.
BUSY_SECONDS = 60.0
_NUMBERS = ("family", "start", "end", "epoch", "commit_number", "rows", "bytes", "least", "most", "total")
_INDEX = ("series", "family", "kind", "start", "end", "commit_number", "origin")
# SQLITE_ERROR: it has not the tables and columns of a catalogue.
_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_FORMAT)
_ADVICE = "`cidr rebuild` moves it aside and makes a new one from the segments"
# Kinds of what a logger wrote; everything else was condensed from these.
_LEAVES = ("full", "partial", "late")
_COLUMNS = (
    "path", "series", "family", "tier", "start", "end", "kind", "origin", "epoch", "commit_number",
    "rows", "bytes", "least", "most", "digest", "total", "covered", "upto", "winners",
)  # fmt: skip

_ORIGIN = "origin, epoch, commit_number"
_TABLES = {
    "segments": _COLUMNS,
    "origins": ("origin", "epoch", "commit_number"),
    "positions": ("origin", "log", "next"),
    "store": ("key", "value"),
}


class Catalogue:
    """The catalogue of a store. One connection; use it from one thread at a time."""

    def __init__(self, connection: sqlite3.Connection, path: Path | None) -> None:
        self.path = path
        self._connection = connection

    @classmethod
    def create(cls, base: Path, path: Path | None = None) -> Catalogue:
        """Open for writing, making it when it is not there. `base` must be a directory."""
        path = path or base / CATALOGUE
        with _explained(path):
            connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
            connection.execute("PRAGMA synchronous = FULL")
            catalogue = cls(connection, path)
            catalogue._make_tables()
        return catalogue

    @classmethod
    def read(cls, path: Path) -> Catalogue:
        """Open one that is there, to look only."""
        with _explained(path):
            uri = f"{path.resolve().as_uri()}?mode=ro"
            connection = sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS, check_same_thread=False)
            connection.execute("SELECT count(*) FROM store")
        return cls(connection, path)

    @classmethod
    def memory(cls) -> Catalogue:
        """One that is in no file."""
        connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        catalogue = cls(connection, None)
        catalogue._make_tables()
        return catalogue

    @cached_property
    def _db(self) -> sqlite_utils.Database:
        """For writing. Who only asks does not wait until it is loaded: it brings pandas along where that is there."""
        import sqlite_utils

        return sqlite_utils.Database(self._connection)

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def check(self) -> None:
        """Read all of it. Raises CatalogueDamaged."""
        found = self._rows("PRAGMA integrity_check(1)")[0][0]
        if found != "ok":
            raise CatalogueDamaged(f"the catalogue {self.path} is damaged: {found}; {_ADVICE}")
        for table, columns in _TABLES.items():
            self._rows(f"SELECT {', '.join(columns)} FROM {table} LIMIT 1")
        self._check_format()

    def version(self) -> int:
        """A number that changes when another connection changed the catalogue."""
        with _explained(self.path):
            return int(self._connection.execute("PRAGMA data_version").fetchone()[0])

    # What is there

    def series(self) -> list[SeriesStat]:
        """All series, by name."""
        rows = self._rows(
            f"SELECT series, group_concat(DISTINCT family), coalesce({_COUNTED_FROM}, min(start)),"
            f' coalesce({_COUNTED_TO}, max("end")), count(*), sum(rows), sum(bytes), min("end")'
            " FROM segments GROUP BY series ORDER BY series"
        )
        return [
            SeriesStat(name, tuple(Family(int(f)) for f in sorted(families.split(","))), *numbers)
            for name, families, *numbers in rows
        ]

    def segments(
        self, series: str | None = None, family: Family | None = None, span: Span | None = None
    ) -> list[Segment]:
        """The segments of a series and family that overlap a span; without them, of all."""
        wanted: list[tuple[str, object]] = [("series = ?", series), ("family = ?", family)]
        if span is not None:
            wanted += [("start < ?", span.end), ('"end" > ?', span.start)]
        wanted = [(words, value) for words, value in wanted if value is not None]
        where = " AND ".join(words for words, _ in wanted) or "1"
        rows = self._rows(f"SELECT {', '.join(_COLUMNS)} FROM segments WHERE {where}", [v for _, v in wanted])
        return [_segment(row) for row in rows]

    def segments_for(self, series: str, family: Family, span: Span, coarsest: Tier) -> list[Segment]:
        """The segments of a series and family that tell what a span holds, `coarsest` being the coarsest tier that is
        used: all that overlap it, without what those that were condensed hold. A year of hours is read as its days."""
        columns = ", ".join(_COLUMNS)
        where = 'series = ? AND family = ? AND start < ? AND "end" > ? AND kind'
        here = [series, family, span.end, span.start]
        rows = self._rows(f"SELECT {columns} FROM segments WHERE {where} = 'condensed'", here)
        condensed = [_segment(row) for row in rows]
        slim = f'SELECT rowid, start, "end", commit_number, origin FROM segments WHERE {where} IN {_LEAVES}'
        wanted = unheld(condensed, self._rows(slim, here), span, coarsest) if condensed else None
        if wanted is None:
            return self._with_rivals(series, family, span)
        rows = self._rows(
            f"SELECT {columns} FROM segments WHERE rowid IN (SELECT value FROM json_each(?))",
            [msgspec.json.encode(wanted).decode()],
        )
        return condensed + [_segment(row) for row in rows]

    def _with_rivals(self, series: str, family: Family, span: Span) -> list[Segment]:
        """All that overlap a span. Where several origins counted, who wins may be decided beyond its edges, by what
        overlaps those that reach over them, and so on."""
        found = self.segments(series, family, span)
        while len({s.origin for s in found if not s.condensed}) > 1:
            leaves = [s for s in found if not s.condensed]
            wider = Span(min(span.start, *(s.start for s in leaves)), max(span.end, *(s.end for s in leaves)))
            if wider == span:
                break
            span = wider
            found = self.segments(series, family, span)
        return found

    def has_series(self, name: str) -> bool:
        """Whether there is a series of that name: cheaper than all that `series` tells."""
        return bool(self._rows("SELECT 1 FROM segments WHERE series = ? LIMIT 1", [name]))

    def reach(self, series: str) -> Span | None:
        """From the start of its first interval to the end of its last."""
        first, last = self._rows('SELECT min(start), max("end") FROM segments WHERE series = ?', [series])[0]
        return Span(first, last) if first is not None else None

    def paths(self) -> set[str]:
        """Paths of all segments."""
        return {row[0] for row in self._rows("SELECT path FROM segments")}

    def setting(self, key: str) -> str:
        """A value of the table `store`; empty when there is none."""
        rows = self._rows("SELECT value FROM store WHERE key = ?", [key])
        return str(rows[0][0]) if rows else ""

    def origin(self, name: str) -> tuple[int, int]:
        """Epoch and last commit of a logger; 0, 0 before its first."""
        rows = self._rows("SELECT epoch, commit_number FROM origins WHERE origin = ?", [name])
        return (int(rows[0][0]), int(rows[0][1])) if rows else (0, 0)

    def origins(self) -> dict[str, tuple[int, int]]:
        """Epoch and last commit of every logger."""
        return {name: (epoch, number) for name, epoch, number in self._rows(f"SELECT {_ORIGIN} FROM origins")}

    def all_positions(self) -> list[tuple[str, str, int]]:
        """Per logger and log, the next sequence number it has to read."""
        return self._rows("SELECT origin, log, next FROM positions")

    def positions(self, origin: str) -> dict[str, int]:
        """Per log, the next sequence number this logger has to read."""
        return dict(self._rows("SELECT log, next FROM positions WHERE origin = ?", [origin]))

    # What changes it

    def put_setting(self, key: str, value: str) -> None:
        """Set a value of the table `store`."""
        with self._transaction():
            self._db.table("store").upsert({"key": key, "value": value}, pk="key")

    def claim(self, origin: str, at_least: int = 0) -> int:
        """Start as this logger: its new epoch, higher than any in the store and than `at_least`."""
        with self._transaction():
            highest = self._rows(
                "SELECT max(e) FROM (SELECT max(epoch) e FROM origins UNION SELECT max(epoch) FROM segments)"
            )
            epoch = max(int(highest[0][0] or 0), at_least) + 1
            commit = self.origin(origin)[1]
            self._db.table("origins").upsert({"origin": origin, "epoch": epoch, "commit_number": commit}, pk="origin")
        return epoch

    def commit(
        self, origin: str, epoch: int, number: int, added: Iterable[Segment], positions: Mapping[str, int]
    ) -> None:
        """What a logger counted, and how far it had read: together or not at all. Raises LoggerFenced."""
        with self._transaction():
            current = self.origin(origin)
            if current != (epoch, number - 1):
                raise LoggerFenced(
                    f'another logger writes as origin "{origin}" (epoch {current[0]}, commit {current[1]}; this one has'
                    f" epoch {epoch}, commit {number - 1}): give each logger its own origin"
                )
            self._insert(added)
            self._db.table("origins").upsert({"origin": origin, "epoch": epoch, "commit_number": number}, pk="origin")
            rows = [{"origin": origin, "log": log, "next": following} for log, following in positions.items()]
            self._db.table("positions").upsert_all(rows, pk=("origin", "log"))

    def replace(self, added: Iterable[Segment], removed: Iterable[str] = ()) -> None:
        """Add segments and forget others, in one step."""
        with self._transaction():
            self._connection.executemany("DELETE FROM segments WHERE path = ?", [(path,) for path in removed])
            self._insert(added)

    def reset(
        self,
        added: Iterable[Segment],
        origins: Mapping[str, tuple[int, int]],
        positions: Sequence[tuple[str, str, int]],
    ) -> None:
        """Replace all of it by what a survey found. An origin's epoch never falls, be nothing left of what it wrote."""
        with self._transaction():
            epochs = dict(self._rows("SELECT origin, epoch FROM origins"))
            for table in ("segments", "origins", "positions"):
                self._connection.execute(f"DELETE FROM {table}")
            self._insert(added)
            known = {**dict.fromkeys(epochs, (0, 0)), **origins}
            rows = [
                {"origin": name, "epoch": max(epoch, epochs.get(name, 0)), "commit_number": number}
                for name, (epoch, number) in known.items()
            ]
            self._db.table("origins").insert_all(rows)
            self._db.table("positions").insert_all([{"origin": o, "log": log, "next": n} for o, log, n in positions])

    def _insert(self, added: Iterable[Segment]) -> None:
        self._db.table("segments").upsert_all((_row(segment) for segment in added), pk="path")

    def _make_tables(self) -> None:
        with self._transaction():
            if self._db.table("store").exists():
                self._check_format()
                self._make_index()
                return
            self._db.table("store").create({"key": str, "value": str}, pk="key")
            self._db.table("store").insert({"key": "format", "value": str(FORMAT)})
            types: dict[str, Any] = {name: int if name in _NUMBERS else str for name in _COLUMNS}
            self._db.table("segments").create(types, pk="path")
            self._make_index()
            self._db.table("origins").create({"origin": str, "epoch": int, "commit_number": int}, pk="origin")
            self._db.table("positions").create({"origin": str, "log": str, "next": int}, pk=("origin", "log"))

    def _make_index(self) -> None:
        """By kind, so that what was condensed is found among what it was made of; with all that `unheld` needs, so that
        the rows of a year of hours are not read to find that none is needed."""
        self._db.table("segments").create_index(_INDEX, index_name="segments_by_kind", if_not_exists=True)
        self._connection.execute("DROP INDEX IF EXISTS idx_segments_series_family_start")

    def _check_format(self) -> None:
        found = self.setting("format")
        if not found:
            raise CatalogueDamaged(f"{self.path} is no catalogue: it says no format; {_ADVICE}")
        if found != str(FORMAT):
            raise CatalogueBroken(f"{self.path} has format {found}, and this version knows {FORMAT} only")

    def _rows(self, statement: str, parameters: Sequence[object] = ()) -> list[Any]:
        with _explained(self.path):
            return self._connection.execute(statement, parameters).fetchall()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """SQLite's own words for it: sqlite-utils joins a transaction that is open."""
        with _explained(self.path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise


@contextmanager
def _explained(path: Path | None) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        if _is_damage(error):
            raise CatalogueDamaged(f"the catalogue {path} cannot be used: {error}; {_ADVICE}") from error
        raise CatalogueBroken(f"the catalogue {path} cannot be used now: {error}") from error


def _is_damage(error: sqlite3.Error) -> bool:
    """Whether the file itself is wrong; not that it is locked, read-only, or its disk full."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    return code == sqlite3.SQLITE_IOERR_SHORT_READ or code & 0xFF in _DAMAGE


def segment_of(path: str, header: Header, size: int) -> Segment:
    """A row of the catalogue from a footer."""
    return Segment(
        path=path,
        series=header.series,
        family=header.family,
        tier=header.tier,
        start=header.start,
        end=header.end,
        kind=header.kind,
        origin=header.origin,
        epoch=header.epoch,
        commit=header.commit,
        rows=header.rows,
        bytes=size,
        least=header.least,
        most=header.most,
        digest=header.digest,
        total=header.total,
        covered=tuple(header.covered),
        upto=tuple(sorted(header.upto.items())),
        winners=tuple(header.winners),
    )


def _row(segment: Segment) -> dict[str, Any]:
    row = {name: getattr(segment, name) for name in _COLUMNS if name not in ("commit_number", *_LISTS)}
    row["family"] = int(segment.family)
    row["commit_number"] = segment.commit
    row.update({name: msgspec.json.encode(getattr(segment, name)).decode() for name in _LISTS})
    if segment.whole:
        row["covered"] = ""  # what nearly all are: not a word to parse
    return row


# A month may have been counted from its 24th on: what is covered says so, not the interval.
_COUNTED_FROM = "min(CASE WHEN covered = '' THEN start ELSE json_extract(covered, '$[0][0]') END)"
_COUNTED_TO = """max(CASE WHEN covered = '' THEN "end" ELSE json_extract(covered, '$[#-1][1]') END)"""
_LISTS = ("covered", "upto", "winners")
_decode_covered = msgspec.json.Decoder(tuple[tuple[int, int], ...]).decode
_decode_upto = msgspec.json.Decoder(tuple[tuple[str, int], ...]).decode
_decode_winners = msgspec.json.Decoder(tuple[tuple[int, int, str], ...]).decode


def _segment(row: tuple[Any, ...]) -> Segment:
    values = list(row)
    values[2] = Family(values[2])
    covered, upto, winners = values[16:]
    values[16] = _decode_covered(covered) if covered else ((values[4], values[5]),)
    values[17] = _decode_upto(upto) if upto != "[]" else ()
    values[18] = _decode_winners(winners) if winners != "[]" else ()
    return Segment(*values)
