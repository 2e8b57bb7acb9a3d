"""Replies in all formats: the ancestor's lines byte for byte, and one set of names and values everywhere else."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest
from cidr_model import Model
from cidr_queries import NOW, PUBLISHED, VECTORS, build_store, published, quarter

from cidr.ask import Local, Reply, Rows
from cidr.engine import Engine
from cidr.formats import FORMATS, render, status
from cidr.formats.document import read
from cidr.formats.status import is_empty
from cidr.language.errors import QueryError
from jlogd.errors import RemoteError, UsageError

MIXED = {
    "spam": [quarter("20080424T001500", {"10.0.0.1": 5, "2001:db8::1": 7, "10.0.0.9": 0})],
    "ham": [quarter("20080424T001500", {"10.0.0.1": 2, "10.9.0.1": 1})],
}


def ask(text: str, data: object = VECTORS, **options: object) -> Reply:
    return Local(Model(data, **options), clock=lambda: NOW).ask(text)  # type: ignore[arg-type]


def legacy(text: str, data: object = VECTORS) -> list[str]:
    return render(ask(text, data), "legacy").decode().splitlines()


@pytest.fixture(scope="module", params=["model", "engine"])
def old(request, tmp_path_factory):
    """The published examples and the vectors, from dictionaries and from segments: (published, vectors)."""
    if request.param == "model":
        yield tuple(Local(Model(data), clock=lambda: NOW) for data in (PUBLISHED, VECTORS))
        return
    engines = [Engine(build_store(tmp_path_factory.mktemp("store"), data)) for data in (PUBLISHED, VECTORS)]
    yield tuple(Local(engine, clock=lambda: NOW) for engine in engines)
    for engine in engines:
        engine.close()


# ---- the ancestor's examples -----------------------------------------------------------------------------------------

# Its documentation's queries are asked later than the counts they are about.
LATER = NOW + 30 * 86400
EXAMPLES = [
    (
        "show count for 0.0.0.0/0 in spam since 20080423",
        ["10.79.18.1/32      :     35217", "10.79.18.2/32      :     25350", "10.79.18.3/32      :     21000"],
    ),
    (
        "show count for 0.0.0.0/0 in spam, virus since 20080423 order by count limit 10",
        ["10.79.18.1/32      : 35217,1264", "10.79.18.2/32      : 25350,0", "10.79.18.3/32      : 21000,2"],
    ),
    (
        "show count for 0.0.0.0/0 in union(spam, virus) on 20080424 cidrsize 24 order by count limit 1",
        ["10.79.18.0/24      :     18492"],
    ),
    (
        "show count for 10.79.18.0/24 in union(spam, virus) on 20080424",
        ["10.79.18.1/32      :     14071", "10.79.18.2/32      :      4421"],
    ),
]
TEN = "show count for 10.0.0.0/8 in spam "
DIGEST = [
    ("show available", ["spam : 20080424T001500 => 20080425T001500", "virus : 20080424T003000 => 20080424T003000"]),
    (TEN + "since 20080424", ["10.0.0.1/32 8", "10.0.0.2/32 3", "10.0.1.7/32 4"]),
    (TEN + "on 20080424", ["10.0.0.1/32 7", "10.0.0.2/32 3", "10.0.1.7/32 4"]),
    (
        "show count for 0.0.0.0/0 in spam, virus since 20080424 order by count limit 2",
        ["10.0.0.1/32        : 8,0", "10.0.1.7/32        : 4,0"],
    ),
    (
        "show count for 0.0.0.0/0 in union(spam, virus) since 20080424 cidrsize 24 order by count limit 1",
        ["10.0.0.0/24 17"],
    ),
    (
        "show count for 0.0.0.0/0 in union(spam,virus) since 20080424 order by count threshold 4",
        ["10.0.0.2/32 9", "10.0.0.1/32 8", "10.0.1.7/32 4"],
    ),
    # The boundary: the interval that ends at 00:15 begins before 00:15, and so is out.
    (TEN + "from 20080424T001500 to 20080424T003000", ["10.0.0.1/32 2", "10.0.1.7/32 4"]),
]


def single(line: str) -> str:
    """`10.0.0.1/32 8` as the ancestor aligns it."""
    if ":" in line:
        return line
    block, value = line.split()
    return f"{block:<19}:{value:>10}"


@pytest.mark.parametrize(("text", "lines"), EXAMPLES)
def test_the_published_examples_byte_for_byte(old, text, lines):
    old[0]._clock = lambda: LATER
    assert render(old[0].ask(text), "legacy") == "".join(f"{line}\n" for line in lines).encode()


@pytest.mark.parametrize(("text", "lines"), DIGEST)
def test_the_vectors_of_the_digest(old, text, lines):
    assert render(old[1].ask(text), "legacy").decode().splitlines() == [single(line) for line in lines]


def test_the_last_interval_of_a_day_belongs_to_it():
    data = {"spam": [quarter("20080425T000000", {"10.0.0.1": 5}), quarter("20080425T001500", {"10.0.0.1": 9})]}
    assert legacy(TEN + "on 20080424", data) == ["10.0.0.1/32        :         5"]


def test_legacy_lines_of_what_the_ancestor_did_not_have():
    assert legacy(TEN + "on 20080424 aggregate daily limit 1") == ["20080424 10.0.0.1/32        :         7"]
    hourly = legacy(TEN + "on 20080424 aggregate hourly limit 1")
    assert len(hourly) == 24 and hourly[0] == "20080424T000000 10.0.0.1/32        :         7"
    assert legacy("show count for 10.0.0.0/8 in ratio(spam, virus)") == [
        "10.0.0.1/32        :         -", "10.0.0.2/32        :       0.5", "10.0.1.7/32        :         -",
    ]  # fmt: skip
    assert legacy("cache details") == ["$VAR1 = [", "          'spam/spam.20080424T001500.v4.pq'", "        ];"]
    assert legacy("explain " + TEN) == ["spam v4 minute 3 5 100 0"]


# ---- one set of rows in every other format ---------------------------------------------------------------------------

QUERIES = [
    "show count for all in spam, ratio(spam, ham) cidrsize 24/64 distinct hosts percent cumulative",
    "show count for all in spam cidrsize 8/32 aggregate hourly on 20080424",
    "show count for 192.0.2.0/24 in spam",
    "show heavy for all in spam threshold 50%",
    "show top movers for all in spam between 20080423 and 20080424",
    "explain show count for all in spam",
    "show available",
    "cache details",
]


@pytest.mark.parametrize("text", QUERIES)
def test_names_and_values_are_the_same_in_csv_json_ndjson_and_parquet(text):
    reply = ask(text, MIXED)
    rows = list(csv.DictReader(io.StringIO(render(reply, "csv").decode())))
    lines = [msgspec.json.decode(line) for line in render(reply, "ndjson").splitlines()]
    assert [{k: "" if v is None else str(v) for k, v in line.items()} for line in lines] == rows
    table = pq.read_table(io.BytesIO(render(reply, "parquet")))
    assert table.num_rows == len(rows)
    if rows:
        assert table.column_names == list(rows[0])
    if isinstance(reply, Rows):
        assert msgspec.json.decode(render(reply, "json"))["rows"] == lines
        assert [str(one) for one in table["cidr"].to_pylist()] == [row["cidr"] for row in rows]
        assert msgspec.json.decode(table.schema.metadata[b"cidr"])["query"] == str(reply.show)


@pytest.mark.parametrize("text", QUERIES)
def test_a_document_is_read_back_as_the_same_reply(text):
    reply = ask(text, MIXED, zone=ZoneInfo("Europe/Berlin"))
    again = read(render(reply, "json"))
    for name in ("table", "legacy", "csv", "ndjson", "json"):
        assert render(again, name) == render(reply, name), name
    assert type(again) is type(reply) and again.text == reply.text


def test_the_columns_and_kinds():
    reply = ask(QUERIES[0], MIXED)
    lines = [msgspec.json.decode(line) for line in render(reply, "ndjson").splitlines()]
    names = ("cidr", "spam", "ratio(spam,ham)", "hosts", "percent", "cumulative")
    assert lines == [
        dict(zip(names, ("10.0.0.0/24", 5, 2.5, 2, 41.666667, 41.666667), strict=True)),
        dict(zip(names, ("10.9.0.0/24", 0, 0.0, 1, 0.0, 41.666667), strict=True)),
        dict(zip(names, ("2001:db8::/64", 7, None, 1, 58.333333, 100.0), strict=True)),
    ]
    only = ask("show count for all in spam percent", MIXED)
    assert list(msgspec.json.decode(render(only, "ndjson").splitlines()[0])) == ["cidr", "spam", "percent"]


def test_a_series_may_be_called_as_a_column_of_ours():
    data = {name: [quarter("20080424T001500", {"10.0.0.1": 5})] for name in ("cidr", "time", "hosts")}
    reply = ask("show count for all in cidr, time, hosts distinct hosts aggregate daily", data)
    header = render(reply, "csv").decode().splitlines()[0]
    assert header == "cidr,time,cidr_,time_,hosts" or header == "cidr,time,cidr_,time_,hosts,hosts_"


def test_the_table():
    shown = render(ask(QUERIES[0], MIXED), "table").decode().splitlines()
    assert [line.split() for line in shown[:2]] == [
        ["cidr", "spam", "ratio(spam,ham)", "hosts", "percent", "cumulative"],
        ["10.0.0.0/24", "5", "2.5000", "2", "41.7", "%", "41.7", "%"],
    ]
    assert shown[-1].startswith("-- 3 rows; 2 segments; 2008-04-24 00:00 to 2008-04-24 00:15 UTC [exact, ")
    daily = render(ask("show count for all in spam cidrsize 8/32 aggregate daily", MIXED), "table").decode()
    assert "2008-04-24" in daily and "T00" not in daily
    big = ask("show count for all in spam", {"spam": [quarter("20080424T001500", {"10.0.0.1": 1234567})]})
    assert "1,234,567" in render(big, "table").decode()


def test_nothing_in_a_table_steers_the_terminal():
    data = {"a\x1b[31mb": [quarter("20080424T001500", {"10.0.0.1": 5})]}
    for text in ("show count for all in *", "show available"):
        shown = render(ask(text, data), "table").decode()
        assert "\x1b" not in shown


# ---- the line under every answer -------------------------------------------------------------------------------------


def test_the_status_says_exact_or_partial_coverage_and_time():
    assert status(ask(TEN)).endswith("[exact, 0.2 ms]")
    partial = status(ask(TEN + "on 20080424"))
    assert "3 rows; 3 segments" in partial and "partial" not in status(ask(TEN))
    partial = status(ask(TEN + "since 20080423"))
    assert (
        "coverage " in partial and "missing 2008-04-23 00:00 to 2008-04-24 00:00" in partial and "[partial, " in partial
    )
    assert "missing 00:30 to 24:00" in status(ask(TEN + "on 20080424", {"spam": VECTORS["spam"][:2]}))
    assert "1 of 3 rows" in status(ask(TEN + "limit 1"))


@pytest.mark.parametrize(
    ("clauses", "shown"),
    [("limit 1", "1 of 3 blocks, 2 rows; "), ("limit 2", "2 of 3 blocks, 4 rows; "), ("", "3 blocks, 6 rows; ")],
)
def test_the_status_counts_blocks_and_their_rows_where_rows_are_stretches_of_time(clauses, shown):
    reply = ask(TEN + clauses + " aggregate daily")
    assert status(reply).startswith(shown), status(reply)
    assert shown.endswith(f" {len(render(reply, 'csv').splitlines()) - 1} rows; ")


def test_an_empty_answer_says_what_was_read():
    empty = ask("show count for 192.0.2.0/24 in spam")
    assert status(empty).startswith("no rows: 3 segments read, no address under 192.0.2.0/24 counted; ")
    assert is_empty(empty) and not is_empty(ask(TEN))
    assert "no address under 10.0.0.0/8 over the threshold" in status(ask(TEN + "threshold 99"))
    assert render(empty, "table").decode().startswith("-- no rows: ")
    assert render(empty, "csv") == b"cidr,spam\n" and render(empty, "legacy") == b""


def test_status_of_the_others():
    assert status(ask("show available")) == "2 series"
    assert "hit rate 75.0%" in status(ask("cache details"))
    assert "3 segments, 0 of them in the cache" in status(ask("explain " + TEN))


# ---- mistakes --------------------------------------------------------------------------------------------------------


def test_unknown_formats_and_broken_documents():
    with pytest.raises(UsageError, match="there is no format 'xml'"):
        render(ask(TEN), "xml")
    assert set(FORMATS) == {"table", "legacy", "csv", "json", "ndjson", "parquet"}
    good = msgspec.json.decode(render(ask(TEN), "json"))
    for broken in (b"", b"{}", b"[]", b"null", msgspec.json.encode({**good, "zone": "Nowhere/Else"})):
        with pytest.raises(RemoteError, match="cannot be read"):
            read(broken)
    for field in ("rows", "columns", "coverage", "work", "query", "matched"):
        for value in (None, 5, "x", [1]):
            with pytest.raises(RemoteError):
                read(msgspec.json.encode({**good, field: value, "kind": "rows" if field != "matched" else None}))


def test_fractions_are_exact_enough_and_counts_are_exact():
    data = {"spam": [quarter("20080424T001500", {"10.0.0.1": (1 << 62) + 1})]}
    assert str((1 << 62) + 1) in render(ask(TEN, data), "csv").decode()
    reply = read(render(ask(TEN, data), "json"))
    assert isinstance(reply, Rows) and reply.answer.columns[0].values.dtype == np.int64
    assert int(reply.answer.columns[0].values[0]) == (1 << 62) + 1


def test_lists_are_read_where_the_query_is_typed(tmp_path: Path):
    (tmp_path / "blocks").write_text("10.0.0.0/24\n")
    local = Local(published(), clock=lambda: NOW)
    with pytest.raises(QueryError, match="files where the query is typed"):
        local.ask(f"show count for list @{tmp_path}/blocks in spam")
