"""What nobody counted is no 0: an empty cell, null, a gap in the line, in every format but that of old."""

from __future__ import annotations

import csv
import io
import json
import random
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from cidr.ask import Local, Rows, read_file
from cidr.cli.main import cli
from cidr.engine import Engine
from cidr.formats import document, render
from cidr.formats.cells import headers
from cidr.web.sparks import draw, line

HOURS = 24
DAY = "2025-12-10"
QUERY = "show count for 10.0.0.0/8 in spam on 20251210 cidrsize 8 aggregate hourly"


def store(base: Path, intervals: dict[str, dict[int, int | None]], day: str = DAY) -> None:
    """Quarters of an hour by series and number; None is one in which nothing was counted."""
    lines = ["series,end,address,count"]
    for series, found in intervals.items():
        for quarter, count in found.items():
            hour, minute = divmod(15 * (quarter + 1), 60)
            end = f"{day}T{hour:02}:{minute:02}:00Z"
            lines.append(f"{series},{end},{'10.0.0.1' if count else ''},{count or 0}")
    base.parent.mkdir(exist_ok=True)
    file = base.parent / f"{day}.csv"
    file.write_text("\n".join(lines) + "\n")
    made = CliRunner().invoke(cli, ["import", str(file), "--base-dir", str(base), "--interval", "15m"])
    assert made.exit_code == 0, made.output


def asked(base: Path, query: str) -> Rows:
    with Engine(base, threads=1) as engine:
        reply = Local(engine, str(base), read_file).ask(query)
    assert isinstance(reply, Rows)
    return reply


def cells(base: Path, query: str, column: int = 2) -> list[str]:
    return [row[column] for row in csv.reader(io.StringIO(render(asked(base, query), "csv").decode()))][1:]


def test_an_hour_has_a_number_where_some_of_it_was_counted(tmp_path: Path, rng: random.Random) -> None:
    quarters = {n: rng.choice([None, rng.randint(1, 9)]) for n in rng.sample(range(4 * HOURS - 1), 20)}
    quarters[1] = 5
    store(tmp_path / "store", {"spam": quarters})
    expected = []
    for hour in range(HOURS):
        found = [quarters[n] or 0 for n in range(4 * hour, 4 * hour + 4) if n in quarters]
        expected.append(str(sum(found)) if found else "")
    assert cells(tmp_path / "store", QUERY) == expected


def test_every_format_tells_what_was_not_counted(tmp_path: Path) -> None:
    base = tmp_path / "store"
    store(base, {"spam": {0: 3, 4: None}, "ham": {0: 2, 8: 4}})
    reply = asked(base, QUERY.replace("in spam", "in spam, ratio(spam, ham)") + " distinct hosts percent cumulative")
    ratio = headers(reply.answer)[1]
    first = {"time": "2025-12-10T00:00:00+00:00", "cidr": "10.0.0.0/8", "spam": 3, ratio: 1.5, "hosts": 1}
    again = document.read(render(reply, "json"))
    for one in (reply, again):
        rows = [json.loads(text) for text in render(one, "ndjson").splitlines()]
        assert {name: rows[0][name] for name in first} == first
        assert [row["spam"] for row in rows[:4]] == [3, 0, None, None]
        assert [row[ratio] for row in rows[:4]] == [1.5, None, None, None]
        assert [row["percent"] for row in rows[:4]] == [100.0, 0.0, None, None]
        assert [row["cumulative"] for row in rows[:4]] == [100.0, 100.0, None, None]
        assert [row["hosts"] for row in rows[:4]] == [1, 0, 1, None]  # ham was counted in the third
        table = [text.split() for text in render(one, "table").decode().splitlines()[1:5]]
        assert [row[3:4] for row in table] == [["3"], ["0"], ["-"], ["-"]]
        legacy = [text.split(":")[1].strip().split(",")[0] for text in render(one, "legacy").decode().splitlines()]
        assert legacy == ["3", *["0"] * (HOURS - 1)]
    assert document.document(again)["rows"] == document.document(reply)["rows"]
    parquet = pq.read_table(io.BytesIO(render(reply, "parquet")))
    assert parquet["spam"].to_pylist()[:3] == [3, 0, None]
    assert str(parquet["spam"].type) == "int64"
    assert parquet[ratio].to_pylist()[:3] == [1.5, None, None]


def test_a_series_that_was_not_counted_then_has_no_zeros(tmp_path: Path) -> None:
    base = tmp_path / "store"
    store(base, {"spam": {0: 3}, "ham": {4: 2}})
    query = "show count for all in spam, ham, union(spam, ham) from 20251210 to 20251210T001500"
    assert render(asked(base, query), "csv").decode().splitlines()[1:] == ["10.0.0.1/32,3,,3"]


def test_nothing_grew_by_a_factor_from_a_day_that_nobody_counted(tmp_path: Path) -> None:
    base = tmp_path / "store"
    store(base, {"spam": {0: 3}})
    for days, row in (
        ("20251209 and 20251210", ["10.0.0.0/8", "", "3", "", "", ""]),
        ("20251210 and 20251211", ["10.0.0.0/8", "3", "", "", "", ""]),
    ):
        reply = asked(base, f"show top movers for 0.0.0.0/0 in spam between {days} cidrsize 8")
        for one in (reply, document.read(render(reply, "json"))):
            assert list(csv.reader(io.StringIO(render(one, "csv").decode())))[1] == row
            assert render(one, "table").decode().splitlines()[1].split() == ["10.0.0.0/8", "3"]
    store(base, {"spam": {0: None}}, "2025-12-11")
    found = render(asked(base, "show top movers for 0.0.0.0/0 in spam between 20251210 and 20251211"), "csv").decode()
    assert found.splitlines()[1].split(",")[1:3] == ["3", "0"]  # that one was counted


def test_a_line_has_gaps_and_dots(tmp_path: Path) -> None:
    base = tmp_path / "store"
    store(base, {"spam": {0: 3, 4: 5, 4 * 12: 7}})
    reply = asked(base, QUERY.replace(" aggregate hourly", ""))
    with Engine(base, threads=1) as engine:
        local = Local(engine, str(base), read_file)
        query = local.built(reply.text, reply.show)[1]
        drawn = draw(local, query, reply.answer)[0]
    picture = next(iter(drawn.values()))
    assert [len(points.split()) for points in re.findall(r'points="([^"]*)"', picture)] == [2]
    assert len(re.findall("<circle", picture)) == 1


@pytest.mark.parametrize("values", [[float("nan")] * 3, []])
def test_a_line_of_nothing_says_so(values: list[float]) -> None:
    import numpy as np

    assert "not counted" in line(np.array(values, float), "10.0.0.0/8")
