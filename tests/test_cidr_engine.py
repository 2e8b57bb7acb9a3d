"""The engine against a dictionary: whatever is counted and asked, both say the same."""

from __future__ import annotations

import math
import tempfile
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cidr_support import Maker, Row, expected, rows_of
from hypothesis import given, settings
from hypothesis import strategies as st

from cidr import runs
from cidr.addresses import parse_block
from cidr.catalogue import Catalogue
from cidr.columns import Counts
from cidr.engine import Engine
from cidr.errors import SegmentGone, StoreNotFound, UnknownSeries
from cidr.names import CATALOGUE
from cidr.plan import Reading
from cidr.runs import SLICES_MAX
from cidr.terms import term
from cidr.types import (
    ALL_V4,
    ALL_V6,
    BLOCKS,
    BY_COUNT,
    Block,
    Column,
    CountQuery,
    Expression,
    Family,
    HeavyQuery,
    Levels,
    Minus,
    MoversQuery,
    Order,
    Ratio,
    Series,
    Span,
    Union,
)
from jlogd.errors import UsageError

T0 = 1_208_995_200  # 2008-04-24 00:00 UTC
MINUTE = 60
# Few addresses that share prefixes of every length, and both ends of the space.
V4 = [0, 1, 0x0A000001, 0x0A000002, 0x0A000107, 0x0A800000, 0xC0000209, 0xFFFFFFFE, 0xFFFFFFFF]
V6_BASE = 0x20010DB8 << 96
V6 = [0, V6_BASE, V6_BASE + 1, V6_BASE + (1 << 63), V6_BASE + (1 << 64), V6_BASE + (1 << 80), (1 << 128) - 1]
ADDRESSES = {Family.V4: V4, Family.V6: V6}

families = st.sampled_from([Family.V4, Family.V4, Family.V6])


@st.composite
def stores(draw: st.DrawFn) -> list[tuple[str, Family, int, dict[int, int]]]:
    """Intervals of some minutes: series, family, number of the minute, counts."""
    found = []
    for minute in range(draw(st.integers(1, 4))):
        for series in ("ham", "spam"):
            family = draw(families)
            addresses = st.sampled_from(ADDRESSES[family])
            counts = draw(st.dictionaries(addresses, st.integers(-3, 5) | st.just(1 << 40), max_size=6))
            found.append((series, family, minute, counts))
    return found


def blocks(family: Family) -> st.SearchStrategy[Block]:
    def make(address: int, bits: int) -> Block:
        keep = family.width - bits
        return Block(family, address >> keep << keep, bits)

    return st.builds(make, st.sampled_from(ADDRESSES[family]), st.integers(0, family.width))


def expressions() -> st.SearchStrategy[Expression]:
    series = st.sampled_from([Series("spam"), Series("ham")])
    pairs = st.lists(series, min_size=1, max_size=3).map(lambda parts: Union(tuple(parts)))
    plain = series | pairs | st.builds(Minus, series, series | pairs)
    return plain | st.builds(Ratio, plain, plain)


@st.composite
def queries(draw: st.DrawFn) -> CountQuery:
    asked = draw(st.lists(families.flatmap(blocks), min_size=1, max_size=3))
    levels = {
        family: draw(_levels(family, max((b.bits for b in asked if b.family is family), default=0)))
        for family in Family
    }
    found = draw(st.lists(expressions(), min_size=1, max_size=3))
    columns = tuple(Column(f"c{i}", e) for i, e in enumerate(found))
    start, end = draw(st.tuples(st.integers(-1, 3), st.integers(1, 5)).filter(lambda pair: pair[0] < pair[1]))
    span = Span(T0 + start * MINUTE, T0 + end * MINUTE)
    return CountQuery(
        blocks=tuple(asked),
        columns=columns,
        span=draw(st.none() | st.just(span)),
        levels=Levels(levels[Family.V4], levels[Family.V6]),
        threshold=draw(st.none() | st.integers(-2, 6)),
        order=draw(st.sampled_from([Order(), BY_COUNT, Order("hosts"), Order("column", 0, True)])),
        limit=draw(st.none() | st.integers(0, 4)),
        hosts=True,
    )


def _levels(family: Family, shortest: int) -> st.SearchStrategy[tuple[int, ...]]:
    lengths = st.integers(shortest, family.width)
    return st.lists(lengths, max_size=3, unique=True).map(lambda found: tuple(sorted(found)))


def build(base: Path, found: list[tuple[str, Family, int, dict[int, int]]]) -> Maker:
    maker = Maker(base)
    for series, family, minute, counts in found:
        start = T0 + minute * MINUTE
        maker.put(series, start, start + MINUTE, counts, family=family)
    return maker


def in_order(query: CountQuery, rows: list[Row]) -> list[tuple]:
    """What a query answers: threshold, order and limit by hand."""
    table = [(row.block, *_columns(query, row.values), row.hosts) for row in rows]
    if query.threshold is not None:
        table = [row for row in table if row[1] >= query.threshold]
    order = query.order
    if order.by != "cidr":
        place = -1 if order.by == "hosts" else 1 + order.column
        table.sort(key=lambda row: _sort_key(row[place], order.ascending))
    return table[: query.limit]


def _sort_key(value: float, ascending: bool) -> tuple[bool, float]:
    missing = math.isnan(value)
    return missing, 0 if missing else value if ascending else -value


def _columns(query: CountQuery, values: list[int]) -> list[float]:
    left = list(values)
    found: list[float] = []
    for column in query.columns:
        over = left.pop(0)
        if isinstance(column.expression, Ratio):
            under = left.pop(0)
            found.append(over / under if under else math.nan)
        else:
            found.append(over)
    return found


def same(left: list[tuple], right: list[tuple]) -> bool:
    return len(left) == len(right) and all(
        a == b or (isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b))
        for one, other in zip(left, right, strict=True)
        for a, b in zip(one, other, strict=True)
    )


@pytest.mark.slow
@settings(max_examples=60)
@given(stores(), st.lists(queries(), min_size=1, max_size=6))
def test_every_count_is_what_a_dictionary_says(found: list, asked: list[CountQuery]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        maker = build(Path(directory), found)
        with Engine(Path(directory), threads=2) as engine:
            for query in [*asked, *asked]:  # the second time from the cache
                answer = engine.answer(query)
                wanted = in_order(query, expected(maker.model, query))
                assert same(rows_of(answer), wanted), (rows_of(answer), wanted)


def _named(expression: Expression) -> set[str]:
    return {expression.name} if isinstance(expression, Series) else {n for p in expression.parts for n in _named(p)}


_unions = st.recursive(
    st.sampled_from([Series(name) for name in "abc"]),
    lambda inner: st.lists(inner, min_size=1, max_size=3).map(lambda parts: Union(tuple(parts))),
    max_leaves=6,
)


@settings(max_examples=50)
@given(_unions)
def test_what_is_named_twice_in_a_union_counts_once_however_deep(expression: Expression) -> None:
    assert term(expression) == tuple((name, 1) for name in sorted(_named(expression)))
    assert term(Minus(expression, expression)) == tuple((name, 0) for name in sorted(_named(expression)))
    less = Minus(expression, Series("d"))
    assert term(Union((less, Union((less, less))))) == term(less)


@settings(max_examples=25)
@given(stores(), queries())
def test_a_limit_only_cuts_and_an_order_is_total(found: list, query: CountQuery) -> None:
    with tempfile.TemporaryDirectory() as directory:
        build(Path(directory), found)
        with Engine(Path(directory), threads=1) as engine:
            from dataclasses import replace

            whole = rows_of(engine.answer(replace(query, limit=None)))
            for limit in range(len(whole) + 2):
                assert same(rows_of(engine.answer(replace(query, limit=limit))), whole[:limit])


@settings(max_examples=25)
@given(stores(), st.sampled_from([0, 8, 15, 24, 31]))
def test_a_roll_up_is_the_sum_of_the_next_longer_prefixes(found: list, bits: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        build(Path(directory), found)
        columns = (Column("spam", Series("spam")),)
        with Engine(Path(directory), threads=1) as engine:
            query = CountQuery(blocks=(ALL_V4,), columns=columns, levels=Levels((bits, bits + 1)), hosts=True)
            answer = engine.answer(query)
            total = engine.answer(CountQuery(blocks=(ALL_V4,), columns=columns, levels=BLOCKS, hosts=True))
    rows = rows_of(answer)
    for block, count, hosts in (row for row in rows if row[0].bits == bits):
        inside = [row for row in rows if row[0].bits == bits + 1 and block.holds(row[0])]
        assert (sum(row[1] for row in inside), sum(row[2] for row in inside)) == (count, hosts)
    assert sum(row[1] for row in rows if row[0].bits == bits) == sum(row[1] for row in rows_of(total))


@settings(max_examples=25)
@given(stores(), st.sampled_from(["minute", "hour", "day"]))
def test_stretches_of_time_add_up_to_the_whole(found: list, every: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        maker = build(Path(directory), found)
        with Engine(Path(directory), threads=1) as engine:
            columns = (Column("both", Union((Series("spam"), Series("ham")))),)
            query = CountQuery(
                blocks=(ALL_V4, ALL_V6),
                columns=columns,
                levels=Levels((8,), (32,)),
                every=every,
                order=BY_COUNT,
                limit=3,
            )
            answer = engine.answer(query)
            winners = in_order(query, expected(maker.model, CountQuery(**_plain(query))))
    added: dict[Block, int] = {}
    for block, count in rows_of(answer):
        added[block] = added.get(block, 0) + count
    assert list(added.items()) == [row[:2] for row in winners]


def _plain(query: CountQuery) -> dict:
    return {name: getattr(query, name) for name in ("blocks", "columns", "span", "levels")}


@settings(max_examples=40)
@given(
    st.dictionaries(st.integers(0, 255).map(lambda n: 0x0A000000 | n * 0x10101), st.integers(1, 20)), st.integers(1, 40)
)
def test_heavy_hitters_take_away_what_they_report(counts: dict[int, int], least: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        Maker(Path(directory)).put("spam", T0, T0 + MINUTE, counts)
        with Engine(Path(directory), threads=1) as engine:
            query = HeavyQuery(blocks=(ALL_V4,), column=Column("spam", Series("spam")), least=least, shortest=(0, 0))
            rows = [row[:3] for row in rows_of(engine.answer(query))]
    assert rows == _heavy(counts, least)


def _heavy(counts: dict[int, int], least: int) -> list[tuple]:
    """The definition, bit by bit."""
    left, reported = dict(counts), []
    for bits in range(32, -1, -1):
        sums: dict[int, int] = {}
        for address, number in left.items():
            prefix = address >> (32 - bits) << (32 - bits) if bits else 0
            sums[prefix] = sums.get(prefix, 0) + number
        for prefix, number in sums.items():
            block = Block(Family.V4, prefix, bits)
            if number >= least:
                inside = [a for a in counts if block.first <= a <= block.last]
                reported.append((block, sum(counts[a] for a in inside), number))
                left = {a: n for a, n in left.items() if a not in inside}
    return sorted(reported)


def test_movers_score_change_against_chance(tmp_path: Path) -> None:
    maker = Maker(tmp_path)
    maker.put("spam", T0, T0 + MINUTE, {1: 10, 2: 100_000, 3: 7})
    maker.put("spam", T0 + MINUTE, T0 + 2 * MINUTE, {1: 100, 2: 100_090, 4: 9})
    with Engine(tmp_path) as engine:
        query = MoversQuery(
            blocks=(ALL_V4,),
            column=Column("spam", Series("spam")),
            before=Span(T0, T0 + MINUTE),
            after=Span(T0 + MINUTE, T0 + 2 * MINUTE),
        )
        rows = rows_of(engine.answer(query))
    assert [row[0].first for row in rows] == [1, 4, 3, 2]
    _, before, after, change, factor, score = rows[0]
    assert (before, after, change, factor) == (10, 100, 90, 100.5 / 10.5)
    assert score == pytest.approx(90 / math.sqrt(111))


def test_a_narrow_block_of_a_long_plan_is_read_where_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cidr.runs.SLICE_ROWS", 1)
    maker = Maker(tmp_path)
    for minute in range(3):
        maker.put("spam", T0 + minute * MINUTE, T0 + (minute + 1) * MINUTE, dict.fromkeys(range(0, 1 << 20, 16), 1))
    columns = (Column("spam", Series("spam")),)
    small: list[int] = []
    with Engine(tmp_path) as engine:
        for number in [*range(12), *range(12)]:
            block = parse_block(f"0.0.{number}.0/24")
            answer = engine.answer(CountQuery(blocks=(block,), columns=columns, levels=BLOCKS, hosts=True))
            assert rows_of(answer) == [(block, 48, 16)]
            if number == SLICES_MAX - 1:
                small.append(engine.cache().bytes)
        assert small[0] < 1 << 19 < engine.cache().bytes  # one block more, and the whole is read and kept


def test_the_cache_keeps_to_its_bound(tmp_path: Path) -> None:
    maker = Maker(tmp_path)
    for minute in range(8):
        maker.put("spam", T0 + minute * MINUTE, T0 + (minute + 1) * MINUTE, dict.fromkeys(range(minute, 50_000, 7), 1))
    column = (Column("spam", Series("spam")),)
    with Engine(tmp_path, cache_bytes=1 << 19) as engine:
        for minute in [*range(8), *range(8)]:
            span = Span(T0 + minute * MINUTE, T0 + (minute + 1) * MINUTE)
            for levels in (Levels((24,)), BLOCKS):
                answer = engine.answer(CountQuery(blocks=(ALL_V4,), columns=column, span=span, levels=levels))
                assert sum(row[1] for row in rows_of(answer)) == len(range(minute, 50_000, 7))
            stat = engine.cache()
            assert stat.bytes <= stat.bytes_max
            assert stat.bytes == sum(entry.bytes for entry in stat.entries)
        assert 0 < engine.cache().hit_rate < 1


def test_what_was_not_counted_is_missing_and_not_zero(tmp_path: Path) -> None:
    maker = Maker(tmp_path)
    for minute in (0, 1, 4):
        maker.put("spam", T0 + minute * MINUTE, T0 + (minute + 1) * MINUTE, {1: 1})
    query = CountQuery(blocks=(ALL_V4,), columns=(Column("spam", Series("spam")),), span=Span(T0 + 30, T0 + 6 * MINUTE))
    with Engine(tmp_path) as engine:
        answer = engine.answer(query)
    coverage = answer.coverage
    assert rows_of(answer) == [(Block(Family.V4, 1, 32), 2)]
    assert coverage.cut == (Span(T0 + 30, T0 + MINUTE),)
    assert coverage.missing == (Span(T0 + 2 * MINUTE, T0 + 4 * MINUTE), Span(T0 + 5 * MINUTE, T0 + 6 * MINUTE))
    assert (coverage.covered_seconds, coverage.exact) == (120, False)


def test_a_catalogue_is_opened_once_and_anew_when_it_was_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker = Maker(tmp_path)
    maker.put("spam", T0, T0 + MINUTE, {1: 1})
    maker.catalogue().close()
    opened: list[Path] = []
    read = Catalogue.read
    monkeypatch.setattr(Catalogue, "read", classmethod(lambda _, path: opened.append(path) or read(path)))
    with Engine(tmp_path) as engine:
        for _ in range(3):
            engine.refresh()
        assert len(opened) == 1
        (tmp_path / CATALOGUE).rename(tmp_path / "aside")
        engine.refresh()
        assert [one.name for one in engine.series()] == ["spam"]
        maker.put("ham", T0, T0 + MINUTE, {1: 1})
        maker.catalogue().close()
        for _ in range(3):
            engine.refresh()
        assert [one.name for one in engine.series()] == ["ham", "spam"]
        assert len(opened) == 2


def test_a_threshold_tells_large_counts_apart(tmp_path: Path) -> None:
    large = 1 << 53
    Maker(tmp_path).put("spam", T0, T0 + MINUTE, {number: large + number for number in range(4)})
    spam = Column("spam", Series("spam"))
    with Engine(tmp_path) as engine:
        for query in (
            CountQuery(blocks=(ALL_V4,), columns=(spam,), threshold=large + 1),
            HeavyQuery(blocks=(ALL_V4,), column=spam, least=large + 1, shortest=(32, 128), longest=(32, 128)),
        ):
            assert [block.first for block, *_ in rows_of(engine.answer(query))] == [1, 2, 3]
        many = CountQuery(blocks=(ALL_V4,), columns=(spam,), threshold=1 << 70)
        assert len(engine.answer(many)) == 0


def test_segments_may_go_more_than_once_while_a_query_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    maker = Maker(tmp_path)
    names = ("a", "b", "c")
    minutes = {name: maker.put(name, T0, T0 + MINUTE, {1: 1}) for name in names}
    maker.catalogue().close()
    query = CountQuery(blocks=(ALL_V4,), columns=(Column("x", Union(tuple(map(Series, names)))),))
    read = runs.read
    left = list(names)

    def condensed_meanwhile(path: Path, *told: Any) -> Counts:
        if left:
            old, name = minutes[left[0]], left.pop(0)
            with closing(Catalogue.create(tmp_path)) as catalogue:
                catalogue.replace([maker.put(name, T0, T0 + MINUTE, {1: 1}, epoch=2, commit=old.commit)], [old.path])
            (tmp_path / old.path).unlink()
        return read(path, *told)

    monkeypatch.setattr(runs, "read", condensed_meanwhile)
    with Engine(tmp_path, threads=1) as engine:
        assert rows_of(engine.answer(query)) == [(Block(Family.V4, 1, 32), 3)]
        (tmp_path / maker.segments[-1].path).unlink()
        engine.forget()
        with pytest.raises(SegmentGone, match="deleted by hand"):
            engine.answer(query)


def test_a_plan_made_while_the_store_changed_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    maker = Maker(tmp_path)
    maker.put("spam", T0, T0 + MINUTE, {1: 1})
    maker.catalogue().close()
    query = CountQuery(blocks=(ALL_V4,), columns=(Column("spam", Series("spam")),), span=Span(T0, T0 + MINUTE))
    other = replace(query, span=Span(T0, T0 + 2 * MINUTE))
    with Engine(tmp_path) as engine:
        make = engine._planner._make

        def changed_meanwhile(*told: Any) -> Reading:
            made = make(*told)
            if len(maker.segments) == 1:
                with closing(Catalogue.create(tmp_path)) as catalogue:
                    catalogue.replace([maker.put("spam", T0, T0 + MINUTE, {1: 2}, kind="late", covered=[])])
                engine.refresh()
                engine.answer(other)  # which another thread asks in this moment
            return made

        monkeypatch.setattr(engine._planner, "_make", changed_meanwhile)
        assert rows_of(engine.answer(query)) == [(Block(Family.V4, 1, 32), 1)]
        assert rows_of(engine.answer(query)) == [(Block(Family.V4, 1, 32), 3)]


def test_top_movers_of_times_that_overlap_have_their_own_coverage(tmp_path: Path) -> None:
    maker = Maker(tmp_path)
    for minute in (0, 9):
        maker.put("spam", T0 + minute * MINUTE, T0 + (minute + 1) * MINUTE, {1: 1})
    before, after = Span(T0, T0 + 8 * MINUTE), Span(T0 + 2 * MINUTE, T0 + 12 * MINUTE)
    query = MoversQuery(blocks=(ALL_V4,), column=Column("spam", Series("spam")), before=before, after=after)
    for now, due, covered in ((T0 + 3600, 12, 2), (T0 + 6 * MINUTE, 7, 2)):
        with Engine(tmp_path, clock=lambda now=now: now) as engine:
            coverage = engine.answer(query).coverage
        assert (coverage.covered_seconds, coverage.due_seconds) == (covered * MINUTE, due * MINUTE)


def test_the_engine_sees_new_segments(tmp_path: Path) -> None:
    maker = Maker(tmp_path)
    maker.put("spam", T0, T0 + MINUTE, {1: 1})
    catalogue = maker.catalogue()
    query = CountQuery(blocks=(ALL_V4,), columns=(Column("spam", Series("spam")),))
    with Engine(tmp_path) as engine:
        first = engine.answer(query)
        catalogue.replace([maker.put("spam", T0 + MINUTE, T0 + 2 * MINUTE, {1: 2})])
        engine.refresh()
        second = engine.answer(query)
    assert [rows_of(a)[0][1] for a in (first, second)] == [1, 3]
    assert first.digest != second.digest


def test_mistakes_are_told(tmp_path: Path) -> None:
    Maker(tmp_path).put("spam", T0, T0 + MINUTE, {1: 1})
    spam = Column("spam", Series("spam"))
    ratio = Ratio(Series("spam"), Series("spam"))
    wrong = [
        CountQuery(blocks=(), columns=(spam,)),
        CountQuery(blocks=(ALL_V4,), columns=()),
        CountQuery(blocks=(parse_block("10.0.0.0/8"),), columns=(spam,), levels=Levels((4,))),
        CountQuery(blocks=(ALL_V4,), columns=(Column("x", Union((ratio,))),)),
        CountQuery(blocks=(ALL_V4,), columns=(spam,), order=Order("hosts")),
        CountQuery(blocks=(ALL_V4,), columns=(spam,), order=Order("column", 1)),
        HeavyQuery(blocks=(ALL_V4,), column=spam, least=0),
        CountQuery(blocks=(ALL_V4,), columns=(spam,), every="minute", span=Span(0, 1 << 30)),
    ]
    with Engine(tmp_path) as engine:
        for query in wrong:
            with pytest.raises(UsageError):
                engine.answer(query)
        with pytest.raises(UnknownSeries, match="did you mean spam"):
            engine.answer(CountQuery(blocks=(ALL_V4,), columns=(Column("s", Series("spamm")),)))
    with pytest.raises(StoreNotFound):
        Engine(tmp_path / "nowhere")
