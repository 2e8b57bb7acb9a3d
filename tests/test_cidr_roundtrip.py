"""A store that is exported and imported answers as it did: counts, rows, and how much of the time was counted."""

from __future__ import annotations

import io
import re
import tempfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from cidr_support import Maker, rows_of
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from cidr.catalogue import Catalogue
from cidr.cli.main import cli
from cidr.config import Maintain
from cidr.engine import Engine
from cidr.errors import BadInput
from cidr.maintain import Maintainer
from cidr.store import Store
from cidr.sums import SUM_MAX
from cidr.tallies import COUNT_MAX
from cidr.transfer import Moved, export_file, import_file
from cidr.types import ALL_V4, ALL_V6, Column, CountQuery, Coverage, Family, Levels, Minus, Series, Span

T0 = 1_208_995_200  # 2008-04-24 00:00 UTC
STEP = 900
DAY = 86400
SECONDS = (0, 900, 1800, 3600, 5400, 7200, 43200, DAY, DAY + 900, 2 * DAY)
HEAD = "series,end,address,count,start,covered\n"


def cidr(*args: object) -> Result:
    return CliRunner().invoke(cli, [str(arg) for arg in args], prog_name="cidr")


def exported(base: Path, kind: str) -> tuple[bytes, Moved]:
    out = io.BytesIO()
    moved = export_file(out, base, kind=kind, series=[])
    return out.getvalue(), moved


slots = st.sampled_from([0, 1, 2, 3, 4, 5, 95, 96, 97])
pieces = st.tuples(
    st.sampled_from("ab"),
    slots,
    st.sampled_from(["full", "full", "partial", "late"]),
    st.sampled_from([Family.V4, Family.V4, Family.V6]),
    st.dictionaries(st.integers(0, 3), st.integers(-2, 5), max_size=2),
)


def build(maker: Maker, found: list) -> None:
    for series, slot, kind, family, counts in found:
        start, end = T0 + slot * STEP, T0 + slot * STEP + STEP
        covered = {"full": [(start, end)], "partial": [(start + 300, end)], "late": []}[kind]
        maker.put(series, start, end, counts, family=family, kind=kind, covered=covered, tier="minute")


def answers(base: Path) -> list:
    found: list[tuple[list, Coverage]] = []
    edges = [T0 + seconds for seconds in SECONDS]
    spans = [None, *(Span(a, b) for a in edges for b in edges if a < b)]
    store = Store(base)
    series = [Series(stat.name) for stat in store.series()]
    store.close()
    with Engine(base, threads=1, clock=lambda: T0 + 10 * DAY) as engine:
        for expression in [*series, Minus(series[0], series[-1])]:
            for span in spans:
                query = CountQuery(
                    blocks=(ALL_V4, ALL_V6), columns=(Column("c", expression),), span=span, levels=Levels(), hosts=True
                )
                answer = engine.answer(query)
                found.append((rows_of(answer), answer.coverage))
    return found


@pytest.mark.slow
@settings(max_examples=30)
@given(
    st.lists(pieces, min_size=1, max_size=8, unique_by=lambda one: one[:4]),
    st.lists(pieces, max_size=2),
    st.sampled_from(["csv", "parquet"]),
    st.sampled_from([None, 0, 1, DAY]),
    st.sampled_from([T0 + 3 * 3600, T0 + DAY + 1800, T0 + DAY + 3600, T0 + 40 * DAY]),
)
def test_a_copy_answers_as_the_store_did(found: list, late: list, kind: str, keep: int | None, now: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        base, copy, file = Path(directory) / "one", Path(directory) / "two", Path(directory) / "counts"
        base.mkdir()
        maker = Maker(base)
        build(maker, found)
        maker.catalogue().close()
        if keep is not None:
            policy = Maintain(keep_minutes=keep, keep_hours=keep, keep_days=0, settle=0)
            with Maintainer(base, policy, clock=lambda: now) as maintainer:
                maintainer.run()
        known = len(maker.segments)
        build(maker, [(series, slot, "late", family, counts) for series, slot, _, family, counts in late])
        catalogue = Catalogue.create(base)
        catalogue.replace(maker.segments[known:])
        catalogue.close()
        data, moved = exported(base, kind)
        file.write_bytes(data)
        again = import_file(file, copy, kind=kind, interval=60)
        assert (again.rows, again.intervals, again.empty) == (moved.rows, moved.intervals, moved.empty)
        if moved.within == 0:
            for one, other in zip(answers(base), answers(copy), strict=True):
                assert one == other
        if not late:  # what came late is a row of its own until it is imported
            assert exported(copy, "csv")[0] == exported(base, "csv")[0]


def test_intervals_without_rows_stay_counted(tmp_path: Path) -> None:
    base, copy, file = tmp_path / "one", tmp_path / "two", tmp_path / "counts.csv"
    maker = Maker(base)
    maker.put("spam", T0, T0 + 60, {1: 2})
    maker.put("spam", T0 + 60, T0 + 120, {})
    maker.put("spam", T0 + 120, T0 + 180, {}, kind="partial", covered=[(T0 + 150, T0 + 180)])
    result = cidr("export", "--base-dir", base, "-o", file)
    assert "1 row of 3 intervals (2 without rows) exported" in result.stderr
    assert file.read_text() == HEAD + (
        "spam,2008-04-24T00:01:00Z,0.0.0.1,2,2008-04-24T00:00:00Z,\n"
        "spam,2008-04-24T00:02:00Z,,0,2008-04-24T00:01:00Z,\n"
        "spam,2008-04-24T00:03:00Z,,0,2008-04-24T00:02:00Z,2008-04-24T00:02:30Z/2008-04-24T00:03:00Z\n"
    )
    result = cidr("import", file, "--base-dir", copy)
    assert "1 row in 3 intervals (2 without rows) imported" in result.stdout
    with Engine(copy) as engine:
        coverage = engine.answer(CountQuery(blocks=(ALL_V4,), columns=(Column("c", Series("spam")),))).coverage
    assert (coverage.covered_seconds, coverage.missing) == (150, (Span(T0 + 120, T0 + 150),))


def test_what_an_export_leaves_out_is_told(tmp_path: Path) -> None:
    maker = Maker(tmp_path)
    for minute in range(3):
        maker.put("spam", T0 + minute * 60, T0 + minute * 60 + 60, {minute: 1})
    maker.catalogue().close()
    for keep, now in ((0, T0 + 7200), (60, T0 + 121)):
        with Maintainer(tmp_path, Maintain(keep_minutes=keep, settle=0), clock=lambda now=now: now) as maintainer:
            maintainer.run()
    result = cidr("export", "--base-dir", tmp_path)
    assert "not exported: 2 finer intervals" in result.stderr
    assert result.stdout.count("2008-04-24T01:00:00Z") == 3
    silk = cidr("export", "--base-dir", tmp_path, "--format", "silk")
    assert "no series, no times, and does not say what was counted" in silk.stderr


def test_a_file_may_say_only_when_intervals_start(tmp_path: Path) -> None:
    file = tmp_path / "x.csv"
    file.write_text(
        "series,end,address,count,start\na,2008-04-24T00:01:00,10.0.0.1,1,2008-04-24\n"
        "a,2008-04-25,10.0.0.2,1,2008-04-24\na,2008-04-25,10.0.0.3,1,\na,2008-04-24T00:03:00,,,\n"
    )
    assert import_file(file, tmp_path / "s", kind="csv", interval=60) == Moved(3, 4, 1)
    assert exported(tmp_path / "s", "csv")[0].decode().splitlines()[1:] == [
        "a,2008-04-24T00:01:00Z,10.0.0.1,1,2008-04-24T00:00:00Z,",
        "a,2008-04-25T00:00:00Z,10.0.0.2,1,2008-04-24T00:00:00Z,",
        "a,2008-04-24T00:03:00Z,,0,2008-04-24T00:02:00Z,",
        "a,2008-04-25T00:00:00Z,10.0.0.3,1,2008-04-24T23:59:00Z,",
    ]
    table = pq.read_table(io.BytesIO(exported(tmp_path / "s", "parquet")[0]))
    assert ",".join(table.schema.names) + "\n" == HEAD
    assert table.column("address").null_count == 1


_MANY = SUM_MAX // COUNT_MAX + 1


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ("a,0001-01-01T00:00:00+14:00,10.0.0.1,1,,", "line 2: .*0001.*accepted: one that begins in 1970 UTC or later"),
        ("a,0001-01-01T00:00:00Z,10.0.0.1,1,,", "line 2: .*accepted: one that begins in 1970"),
        ("a,1970-01-01T00:00:30Z,10.0.0.1,1,,", "line 2: .*accepted: one that begins in 1970"),
        ("a,9999-12-31T23:59:59-14:00,10.0.0.1,1,,", "line 2: .*by 9998-12-31T00:00:00Z"),
        ("a,2008-04-24,10.0.0.1,1,2008-04-24,", "line 2: the interval from 2008-04-24 to end 2008-04-24"),
        ("a,2008-04-24,10.0.0.1,1,soon,", "line 2: start soon is not a time"),
        ("a,2008-04-24,10.0.0.1,1,,2008", "line 2: covered .* is not a time"),
        ("a,2008-04-24,10.0.0.1,1,,2008-04-23/2008-04-24", "line 2: covered .* reaches beyond"),
        ("a,2008-04-24,,1,,", "line 2: 1 without an address"),
        ("a,2008-04-24,10.0.0.1,1,2008-04-23,\na,2008-04-24,10.0.0.1,1,2008-04-23T00:10,", "both|one interval from"),
        (f"a,2008-04-24,10.0.0.1,{COUNT_MAX},,\n" * _MANY, f"line {_MANY + 1}: with this row .* add up to more than"),
        (f"a,2008-04-24,10.0.0.1,{-COUNT_MAX},,\n" * _MANY, f"line {_MANY + 1}: with this row"),
    ],
)
def test_what_cannot_be_kept_is_refused_and_nothing_is_left(tmp_path: Path, lines: str, reason: str) -> None:
    file = tmp_path / "x.csv"
    file.write_text(HEAD + lines.rstrip("\n") + "\n")
    with pytest.raises(BadInput) as refused:
        import_file(file, tmp_path / "s", kind="csv", interval=60)
    assert re.search(reason, str(refused.value), re.DOTALL), refused.value
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("end", ["9999-12-31T23:59:59-14:00", "0001-01-01", "0001-01-01T00:00:00+14:00", "soon"])
def test_an_end_beyond_all_time_is_a_wrong_option(tmp_path: Path, end: str) -> None:
    file = tmp_path / "bag.txt"
    file.write_text("10.0.0.1|5\n")
    for zone in ("", "Asia/Tokyo"):
        more = ("--zone", zone) if zone else ()
        result = cidr("import", file, "--base-dir", tmp_path / "s", "--series", "a", "--end", end, *more)
        assert (result.exit_code, "mistake" in result.stderr) == (2, False), result.output
    wrong = cidr(
        "import", file, "--base-dir", tmp_path / "s", "--series", "a", "--end", "2008-04-24", "--zone", "No/Where"
    )
    assert wrong.exit_code == 2
    assert not (tmp_path / "s").exists()
