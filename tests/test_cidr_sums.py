"""Sums beyond the 64 bits of a column are refused in words, wherever they would be made; what fits is exact."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from cidr_support import Maker, expected, rows_of
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from cidr.cli.main import cli
from cidr.engine import Engine
from cidr.errors import SumTooLarge
from cidr.segment import read_header
from cidr.sums import SUM_MAX, bound, exact, exact_size
from cidr.tallies import COUNT_MAX
from cidr.types import (
    ALL_V4,
    BLOCKS,
    Block,
    Column,
    CountQuery,
    Expression,
    Family,
    HeavyQuery,
    Levels,
    Minus,
    MoversQuery,
    Series,
    Span,
    Tier,
    Union,
)

T0 = 1_208_995_200
A, B = Series("a"), Series("b")
large = st.sampled_from([1, -1, COUNT_MAX, 1 << 60, -(1 << 60), (1 << 62) - 1, 1 << 62, SUM_MAX - 1, SUM_MAX])
intervals = st.lists(
    st.tuples(st.sampled_from("ab"), st.integers(0, 2), st.dictionaries(st.integers(0, 3), large, max_size=3)),
    min_size=1,
    max_size=4,
    unique_by=lambda one: one[:2],
)
some_blocks = st.sampled_from([ALL_V4, Block(Family.V4, 0, 31), Block(Family.V4, 2, 32)])


@settings(max_examples=60)
@given(intervals, some_blocks, st.sampled_from([A, B, Union((A, B)), Minus(A, B)]), st.sampled_from([None, "hour"]))
def test_an_answer_is_exact_or_refused(found: list, block: Block, column: Expression, every: Tier | None) -> None:
    with tempfile.TemporaryDirectory() as directory:
        maker = Maker(Path(directory))
        for series in "ab":
            maker.put(series, T0 - 60, T0, {9: 1})
        for series, minute, counts in found:
            maker.put(series, T0 + minute * 60, T0 + minute * 60 + 60, counts)
        levels = Levels((32,))
        query = CountQuery(blocks=(block,), columns=(Column("c", column), Column("a", A)), levels=levels, every=every)
        names = {name for part in (column, A) for name in "ab" if repr(Series(name)) in repr(part)}
        inside = [
            (series, number)
            for series, _, _, counts in maker.model
            for address, number in counts.items()
            if series in names and block.first <= address <= block.last
        ]
        size = max(
            sum(abs(number) for series, number in inside if repr(Series(series)) in repr(part)) for part in (column, A)
        )
        with Engine(Path(directory), threads=2) as engine:
            for _ in range(2):
                if size >= SUM_MAX:
                    with pytest.raises(SumTooLarge, match="less time, narrower blocks"):
                        engine.answer(query)
                    continue
                answer = engine.answer(query)
                wanted = [(row.block, *row.values) for row in expected(maker.model, query)]
                if every is None:
                    assert rows_of(answer) == wanted
                sums = [sum(row[at] for row in rows_of(answer)) for at in (1, 2)]
                assert sums == [sum(row[at] for row in wanted) for at in (1, 2)]


def _four_times_three_hundred(base: Path) -> Maker:
    maker = Maker(base)
    for minute in range(3):
        maker.put("a", T0 + minute * 60, T0 + minute * 60 + 60, dict.fromkeys(range(4), 300 * COUNT_MAX))
    return maker


def test_no_query_comes_round(tmp_path: Path) -> None:
    _four_times_three_hundred(tmp_path)
    minute, whole = Span(T0, T0 + 60), Span(T0, T0 + 180)
    with Engine(tmp_path) as engine:
        for query in (
            CountQuery(blocks=(ALL_V4,), columns=(Column("a", A),), levels=Levels((8,))),
            CountQuery(blocks=(ALL_V4,), columns=(Column("a", A),), levels=BLOCKS),
            HeavyQuery(blocks=(ALL_V4,), column=Column("a", A), least=10, percent=True),
            MoversQuery(blocks=(ALL_V4,), column=Column("a", A), before=minute, after=whole),
        ):
            with pytest.raises(SumTooLarge, match="counts of a in these blocks, 20080424T000000Z"):
                engine.answer(query)
        narrow = CountQuery(blocks=(Block(Family.V4, 0, 31),), columns=(Column("a", A),), levels=BLOCKS, span=minute)
        assert rows_of(engine.answer(narrow)) == [(narrow.blocks[0], 600 * COUNT_MAX)]


def test_what_does_not_fit_one_segment_is_not_condensed(tmp_path: Path) -> None:
    _four_times_three_hundred(tmp_path).catalogue().close()
    Maker(tmp_path / "other")
    before = sorted(tmp_path.rglob("*.parquet"))
    result = CliRunner().invoke(cli, ["maintain", "--base-dir", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert "not condensed: the counts add up to more than 2^63" in result.stdout
    assert sorted(tmp_path.rglob("*.parquet")) == before


def test_a_segment_whose_total_does_not_fit_says_so(tmp_path: Path) -> None:
    segment = Maker(tmp_path).put("a", T0, T0 + 60, dict.fromkeys(range(3), SUM_MAX))
    assert read_header(tmp_path / segment.path).total == SUM_MAX
    assert bound([segment]) >= SUM_MAX
    with Engine(tmp_path) as engine, pytest.raises(SumTooLarge):
        engine.answer(CountQuery(blocks=(ALL_V4,), columns=(Column("a", A),)))


@given(st.lists(st.integers(-SUM_MAX, SUM_MAX), min_size=1, max_size=20))
def test_a_bound_is_never_less(numbers: list[int]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        segment = Maker(Path(directory)).put("a", T0, T0 + 60, dict(enumerate(numbers)))
    size = sum(map(abs, numbers))
    assert bound([segment]) >= min(size, SUM_MAX)
    column = np.array(numbers, np.int64)
    assert (exact(column), exact_size(column)) == (sum(numbers), size)
