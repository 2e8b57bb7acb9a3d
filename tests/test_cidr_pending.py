"""What is not over yet is not missing: the interval under way and the future, by a clock of the test's own."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from cidr_logger_support import append, config, failed
from cidr_support import Maker

from cidr.ask import Local
from cidr.catalogue import Catalogue
from cidr.engine import Engine
from cidr.formats import render
from cidr.formats.document import read
from cidr.formats.status import status
from cidr.logger import QUIET_SECONDS, Logger
from cidr.maintain import open_catalogue
from cidr.names import CATALOGUE
from cidr.plan import DUE_SECONDS
from cidr.types import ALL_V4, Column, CountQuery, Coverage, Family, MoversQuery, Series, Span

T0 = 1_208_995_200  # 2008-04-24 00:00 UTC
QUARTER = 900
DAY = 86400
SPAM = Column("spam", Series("spam"))


class Clock:
    """A clock that the test sets."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def store(base: Path, quarters: int, interval: int = QUARTER) -> Maker:
    maker = Maker(base)
    for at in range(quarters):
        start = T0 + at * QUARTER
        maker.put("spam", start, start + QUARTER, {1: 1}, interval=interval)
    return maker


def coverage(base: Path, now: float, span: Span | None) -> Coverage:
    with Engine(base, threads=1, clock=lambda: now) as engine:
        return engine.answer(CountQuery(blocks=(ALL_V4,), columns=(SPAM,), span=span)).coverage


def test_the_interval_under_way_is_not_missing(tmp_path: Path) -> None:
    store(tmp_path, 4)
    end = T0 + 4 * QUARTER
    for seconds in (0, 1, 60, QUARTER - 1, QUARTER, QUARTER + DUE_SECONDS - 1):
        now = end + seconds
        found = coverage(tmp_path, now, Span(T0, now))
        assert (found.exact, found.fraction, found.missing, found.cut) == (True, 1.0, (), ()), seconds
        assert found.pending == ((Span(end, now),) if seconds else ()), seconds


def test_an_interval_that_is_over_and_not_there_is_missing(tmp_path: Path) -> None:
    store(tmp_path, 4)
    end = T0 + 4 * QUARTER
    now = end + QUARTER + DUE_SECONDS
    found = coverage(tmp_path, now, Span(T0, now))
    assert (found.exact, found.fraction) == (False, 4 / 5)
    assert found.missing == (Span(end, end + QUARTER),)
    assert found.pending == (Span(end + QUARTER, now),)
    assert found.due_seconds == 5 * QUARTER


def test_the_future_is_not_missing_and_a_gap_is(tmp_path: Path) -> None:
    maker = store(tmp_path, 2)
    maker.put("spam", T0 + 3 * QUARTER, T0 + 4 * QUARTER, {1: 1}, interval=QUARTER)
    found = coverage(tmp_path, T0 + 4 * QUARTER + 60, Span(T0, T0 + DAY))
    assert found.missing == (Span(T0 + 2 * QUARTER, T0 + 3 * QUARTER),)
    assert found.pending == (Span(T0 + 4 * QUARTER, T0 + DAY),)
    assert (found.exact, found.fraction, found.covered_seconds) == (False, 3 / 4, 3 * QUARTER)
    found = coverage(tmp_path, T0, Span(T0 + DAY, T0 + 2 * DAY))  # all of it
    assert (found.exact, found.fraction, found.due_seconds, found.missing) == (True, 1.0, 0, ())


def test_what_comes_early_counts(tmp_path: Path) -> None:
    store(tmp_path, 4)
    found = coverage(tmp_path, T0 + QUARTER, Span(T0, T0 + 8 * QUARTER))  # this host's clock is behind the logger's
    assert found.covered_seconds == 4 * QUARTER
    assert found.pending == (Span(T0 + 4 * QUARTER, T0 + 8 * QUARTER),)


def test_where_there_never_was_a_logger_only_the_minute_and_the_future_are_not_due(tmp_path: Path) -> None:
    store(tmp_path, 4, interval=0)
    now = T0 + 5 * QUARTER + 30
    found = coverage(tmp_path, now, Span(T0, T0 + DAY))
    assert found.missing == (Span(T0 + 4 * QUARTER, now - 30),)
    assert found.pending == (Span(now - 30, T0 + DAY),)


def test_a_plan_that_is_remembered_does_not_stop_the_clock(tmp_path: Path) -> None:
    store(tmp_path, 4)
    clock = Clock(T0 + 4 * QUARTER + 1)
    query = CountQuery(blocks=(ALL_V4,), columns=(SPAM,), span=Span(T0, T0 + DAY))
    with Engine(tmp_path, threads=1, clock=clock) as engine:
        assert engine.answer(query).coverage.exact
        clock.now += QUARTER + DUE_SECONDS
        found = engine.answer(query).coverage
    assert not found.exact
    assert found.missing == (Span(T0 + 4 * QUARTER, T0 + 5 * QUARTER),)


def test_all_there_is_has_nothing_to_come(tmp_path: Path) -> None:
    store(tmp_path, 4)
    assert coverage(tmp_path, T0 + QUARTER, None).pending == ()


@pytest.mark.parametrize("catalogue", ["none", "made by a survey"])
def test_the_interval_is_known_from_the_segments(tmp_path: Path, catalogue: str) -> None:
    store(tmp_path, 2).put("ham", T0, T0 + 60, {1: 1}, origin="import", family=Family.V4)
    if catalogue != "none":
        open_catalogue(tmp_path).close()
        assert Catalogue.read(tmp_path / CATALOGUE).setting("interval") == str(QUARTER)
    now = T0 + 3 * QUARTER - 1
    assert coverage(tmp_path, now, Span(T0, now)).pending == (Span(T0 + 2 * QUARTER, now),)


def test_a_logger_and_a_reader_with_one_clock(tmp_path: Path) -> None:
    append(tmp_path, [failed("192.0.2.7")])
    start = int(time.time()) // 60 * 60 + 120  # the log's own clock is the host's
    clock = Clock(start)
    asked = Span(start + 60, start + 180)  # two minutes
    query = CountQuery(blocks=(ALL_V4,), columns=(Column("ssh", Series("ssh")),), span=asked)
    seen = []
    with Logger(config(tmp_path), clock=clock) as logger:
        while not logger.step(0.0):
            pass
        for second in range(0, 220, 5):
            clock.now = start + second
            logger.step(0.0)
            logger._sources[0].quiet_since -= QUIET_SECONDS  # the log has been quiet for long
            logger.step(0.0)
            if "ssh" in (stat.name for stat in Catalogue.read(tmp_path / "store" / CATALOGUE).series()):
                with Engine(tmp_path / "store", threads=1, clock=clock) as engine:
                    found = engine.answer(query).coverage
                assert (found.exact, found.missing) == (True, ()), (second, found)
                seen.append(found.covered_seconds)
    assert sorted(set(seen)) == [0, 60, 120]


def test_top_movers_take_a_day_that_is_not_over_for_what_it_is(tmp_path: Path) -> None:
    maker = Maker(tmp_path)
    for day, hours in ((0, 24), (1, 6)):
        for hour in range(hours):
            start = T0 + day * DAY + hour * 3600
            maker.put("spam", start, start + 3600, {1: 10}, tier="hour", interval=3600)
    query = MoversQuery(
        blocks=(ALL_V4,), column=SPAM, before=Span(T0, T0 + DAY), after=Span(T0 + DAY, T0 + 2 * DAY), limit=10
    )
    with Engine(tmp_path, threads=1, clock=lambda: T0 + DAY + 6 * 3600 + 60) as engine:
        answer = engine.answer(query)
    values = {column.label: column.values.tolist() for column in answer.columns}
    assert (values["before"], values["after"], values["change"]) == ([240], [60], [0.0])
    assert answer.coverage.exact


def test_the_line_below_and_the_document_say_it(tmp_path: Path) -> None:
    store(tmp_path, 4)
    now = T0 + 4 * QUARTER + 61
    with Engine(tmp_path, threads=1, clock=lambda: now) as engine:
        local = Local(engine, lambda _: "", clock=lambda: now)
        today = local.ask("show count for 0.0.0.0/0 in spam on today")
        later = local.ask("show count for 0.0.0.0/0 in spam since 2008-04-24T01:00")
    assert "2008-04-25 00:00 UTC, so far until 2008-04-24 01:00 [exact, " in status(today)
    assert "2008-04-24 01:01 UTC, not over yet [exact, " in status(later)
    again = read(render(today, "json"))
    assert again.answer.coverage == today.answer.coverage
