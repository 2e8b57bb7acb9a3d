"""Work that nobody waits for ends, and what is too large is refused before it is made."""

from __future__ import annotations

import asyncio
import gc
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from cidr_queries import NOW
from cidr_server import serving
from cidr_support import Maker
from hypothesis import given
from hypothesis import strategies as st

from cidr import patience, runs
from cidr.engine import Engine
from cidr.errors import GaveUp, TooManyRows
from cidr.language import build, patterns, tree
from cidr.language.errors import QueryError
from cidr.language.parser import _lark, parse
from cidr.plan import Planner
from cidr.rows import KEY_COLUMNS
from cidr.server.desk import Desk
from cidr.timeline import Segment
from cidr.types import ALL_V4, Answer, Column, CountQuery, Levels, MoversQuery, Query, Series, Span
from jlogd.errors import UsageError

T0 = 1_208_995_200
HOUR = 3600
DAY = Span(T0, T0 + 24 * HOUR)
SPAM = (Column("spam", Series("spam")),)
DAILY = "show count for 0.0.0.0/0 in spam from 20080424 to 20080425 cidrsize 24 aggregate hourly"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    maker = Maker(tmp_path)
    for hour in range(24):
        maker.put("spam", T0 + hour * HOUR, T0 + (hour + 1) * HOUR, {n << 8: 1 for n in range(10)}, tier="hour")
    maker.catalogue().close()
    return tmp_path


def hourly(**more: object) -> CountQuery:
    query = CountQuery(blocks=(ALL_V4,), columns=SPAM, span=DAY, levels=Levels((24,)), every="hour")
    return replace(query, **more)


def test_nobody_is_impatient_where_nothing_was_said() -> None:
    patience.check()
    assert patience.work_until(time.monotonic() + 60, lambda: patience.check() or 7) == 7
    with pytest.raises(GaveUp):
        patience.work_until(time.monotonic() - 1, patience.check)
    patience.check()  # the thread is free for the next


def test_an_engine_stops_where_nobody_waits_any_more(store: Path) -> None:
    with Engine(store, threads=1) as engine:
        with pytest.raises(GaveUp):
            patience.work_until(time.monotonic() - 1, lambda: engine.answer(hourly()))
        assert len(engine.answer(hourly())) == 240


def test_a_long_plan_is_given_up_between_its_shares(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "SHARE_ROWS", 1)
    begun: list[int] = []
    goes_on = threading.Event()
    adds = runs.Runs._added

    def added(self: runs.Runs, share: list[tuple[int, Segment]], grain: int) -> object:
        begun.append(len(begun))
        assert len(begun) == 1 or goes_on.wait(60)
        return adds(self, share, grain)

    def check() -> None:
        if begun:
            raise GaveUp("nobody waits")

    monkeypatch.setattr(runs.Runs, "_added", added)
    monkeypatch.setattr(runs, "check", check)
    with Engine(store, threads=1) as engine:
        with pytest.raises(GaveUp):
            engine.answer(CountQuery(blocks=(ALL_V4,), columns=SPAM, span=DAY))
        goes_on.set()
    assert len(begun) <= 2  # of 24: the second may have begun before the first was looked at


class Endless:
    """An engine that works in steps until it is stopped."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.zone, self.series, self.cache = engine.zone, engine.series, engine.cache
        self.explain, self.close = engine.explain, engine.close
        self.ended = threading.Event()

    def answer(self, query: Query) -> Answer:
        try:
            while True:
                patience.check()
                time.sleep(0.01)
        finally:
            self.ended.set()


def test_a_query_that_is_given_up_gives_its_place_back(store: Path) -> None:
    with Engine(store, threads=1) as engine:
        endless = Endless(engine)
        with serving(endless, lambda: NOW, concurrency=1, queue=0, query_seconds=0.5) as running:
            for _ in range(2):
                found = running.query("show count for 0.0.0.0/0 in spam")
                assert (found.status, found.error["code"]) == (504, "gave-up")
                assert endless.ended.wait(60)
                endless.ended.clear()
                while running.app.desk.taken:
                    time.sleep(0.01)


def test_rows_that_would_not_be_sent_are_not_made(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spans = []
    reading = Planner.reading

    def watched(self: Planner, series: list[str], span: Span | None, *more: object) -> object:
        spans.append(span)
        return reading(self, series, span, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(Planner, "reading", watched)
    with Engine(store, threads=1) as engine:
        with pytest.raises(TooManyRows, match="240 rows, and at most 239"):
            engine.answer(hourly(rows_max=239))
        assert len(spans) == 1  # no hour was looked at
        assert len(engine.answer(hourly(rows_max=240))) == 240
        with serving(engine, lambda: NOW, rows_max=239) as running:
            found = running.query(DAILY)
            assert (found.status, found.error["code"]) == (413, "too-much")
            assert "add a limit" in found.error["message"]
            assert running.query(DAILY + " limit 9").status == 200


def test_cells_are_counted_in_columns_too(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cidr.count.CELLS_MAX", 240 * (1 + KEY_COLUMNS))
    with Engine(store, threads=1) as engine:
        assert len(engine.answer(hourly())) == 240
        with pytest.raises(UsageError, match="10 blocks by 24 stretches of time, 7 columns each"):
            engine.answer(hourly(hosts=True))


def test_rows_of_all_prefix_lengths_are_counted_before_they_are_made(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = tuple(range(33))  # ten addresses in ten /24: 10 rows for each of /24 to /32, fewer above
    rows = 9 * 10 + 5 + 3 + 2 + 21 * 1
    count = CountQuery(blocks=(ALL_V4,), columns=SPAM, levels=Levels(every), limit=3)
    move = MoversQuery(blocks=(ALL_V4,), column=SPAM[0], before=DAY, after=DAY, levels=Levels(every))
    for query, wide in (
        (count, KEY_COLUMNS + 1),
        (replace(count, hosts=True), KEY_COLUMNS + 2),
        (move, KEY_COLUMNS + 2),
    ):
        with Engine(store, threads=1) as engine:
            monkeypatch.setattr("cidr.rows.CELLS_MAX", rows * wide)
            assert engine.answer(query).matched == rows
            monkeypatch.setattr("cidr.rows.CELLS_MAX", rows * wide - 1)
            with pytest.raises(UsageError, match=f"{rows} IPv4 rows of {wide} columns"):
                engine.answer(query)


def test_the_expressions_of_a_query_have_one_time_limit_for_all_names(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = [f"{'a' * 60}{number}" for number in range(10_000)]
    with pytest.raises(TimeoutError):
        patterns.matching("(a+a+)+$", slow, time.monotonic() + 0.2)
    assert patterns.matching("^a+1$", slow, time.monotonic() + 60) == [f"{'a' * 60}1"]
    with pytest.raises(TimeoutError):
        patterns.matching("^b", slow, time.monotonic() - 1)
    given: list[float] = []
    monkeypatch.setattr(patterns, "matching", lambda _, names, until: given.append(until) or list(names))
    _built("show count for all in union(~a, ~b), ~c")
    assert len(given) == 3 and len(set(given)) == 1


@pytest.mark.parametrize(
    "text", ["((a{1000}){1000}){1000}", "(a{,200}){200}", "a{3,101}b{100}", "(?:a{ 9999}){9999", "(?:a){e<=20000}"]
)
def test_an_expression_that_would_fill_memory_is_not_compiled(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[str] = []
    monkeypatch.setattr(patterns, "_compiled", compiled.append)
    assert "at most 10,000 times" in patterns.mistake(text)
    assert not compiled
    for small in ("(a{3}){20}", "a{100}b{100}", "[a-z]{1,64}", "a{}", "a+", "x{,9}{", r"\d{8}"):
        assert patterns.mistake(small) == "" and compiled.pop() == small


def test_a_short_query_does_not_name_series_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "NAMED_MAX", 100)
    assert _built(f"show count for all in union({', '.join(['*'] * 50)})")
    for text in (f"union({', '.join(['*'] * 51)})", ", ".join(["*"] * 51), f"union({', '.join(['~a, ~b'] * 26)})"):
        with pytest.raises(QueryError, match="more than 100 series"):
            _built(f"show count for all in {text}")


def _built(text: str) -> object:
    show = parse(text)
    assert isinstance(show, tree.Show)
    return build.build(text, show, build.Context(ZoneInfo("UTC"), 1_700_000_000, ["ab", "ba"]))


_LONG = """
import sys
from cidr.language.complete import complete
from cidr.language.errors import QueryError
from cidr.language.parser import TEXT_MAX, parse
long = TEXT_MAX // 4
for text in (
    f"show count for {'1' * long}x", f"show count for {'a' * long}", f"show count for [{'1:' * (long // 2)}/x",
    f'show count for all in "{"~" * long}" (', f"show count for all in spam cidrsize {'1' * long}x",
    f"show count for all in spam limit {'1' * long}x", f"show count for all in spam since {'1' * long}%",
    f"show count for all in {'~(a' * (long // 3)}", f"{'a' * long} ",
):
    try:
        parse(text)
    except QueryError as error:
        error.caret()
    else:
        sys.exit(f"accepted: {text[:60]}")
    complete(text)
"""


def test_a_long_word_that_is_none_is_found_out_at_once() -> None:
    """It took time with its square: hours for a query of a megabyte, in which nothing else of the server ran."""
    subprocess.run([sys.executable, "-c", _LONG], check=True, timeout=120)


@given(st.text("0a1f.:/[]xG-", max_size=12))
def test_what_a_block_looks_like_is_what_it_was(text: str) -> None:
    plain = re.compile(r"\[?[0-9a-f]*[.:0-9][0-9a-f.:]*\]?(\/[0-9]*)?(?![\w.:\/-])", re.IGNORECASE)
    (now,) = (one.pattern.to_regexp() for one in _lark().terminals if one.name == "BLOCK")
    old, new = plain.match(text), re.match(now, text)
    assert (old and old[0]) == (new and new[0])


class Late(Future):  # type: ignore[type-arg]
    """Work that ends just after its waiter was told that time is up, and before it looks."""

    def __init__(self, end: Callable[[Future[int]], None]) -> None:
        super().__init__()
        self.set_running_or_notify_cancel()
        self._end = end

    def done(self) -> bool:
        if not super().done():
            self._end(self)
        return True


def test_work_that_ends_when_its_time_does_is_told_as_what_it_ended_in() -> None:
    """The work and whoever waits for it have the same deadline: either may be first."""

    async def outcome(end: Callable[[Future[int]], None]) -> object:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        desk = Desk(1, 0, 0.05)
        desk._pool.submit = lambda *_: Late(end)  # type: ignore[assignment, method-assign]
        try:
            return await desk.run(lambda: 7)
        except Exception as error:
            return type(error)
        finally:
            desk.close()
            gc.collect()

    told: list[dict[str, object]] = []
    assert asyncio.run(outcome(lambda future: future.set_exception(GaveUp("x")))) is GaveUp
    assert asyncio.run(outcome(lambda future: future.set_result(7))) == 7
    assert asyncio.run(outcome(lambda future: future.set_exception(UsageError("x")))) is UsageError
    assert told == []  # what nobody waits for is no news
