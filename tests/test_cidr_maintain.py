"""Condensing and deleting change no answer, stopped anywhere and run twice; what it says it does is what it does."""

from __future__ import annotations

import tempfile
from datetime import date, timedelta
from pathlib import Path

import pytest
from cidr_logger_support import Killed, Steps, counted
from cidr_support import Maker, added, rows_of
from cli_support import _run
from hypothesis import given, settings
from hypothesis import strategies as st

from cidr.cli.main import cli
from cidr.config import Maintain, SeriesKeep
from cidr.engine import Engine
from cidr.maintain import Maintainer, Summary, open_catalogue
from cidr.names import CATALOGUE
from cidr.oldconf import read_old_conf
from cidr.survey import survey
from cidr.times import day_span, units, zone_named
from cidr.types import ALL_V4, Column, CountQuery, Family, Levels, Series, Span
from jlogd.daemon.units import Duration
from jlogd.errors import ConfigError

BERLIN = "Europe/Berlin"
# The last Sunday of October: 25 hours; the last of March: 23.
LONG_DAY, SHORT_DAY = date(2008, 10, 26), date(2008, 3, 30)
QUARTER = 900
DAY = 86400
ALL = Maintain(keep_minutes=Duration(1), keep_hours=Duration(1), keep_days=Duration(1), settle=Duration(0))
KEEP_ALL = Maintain(
    keep_minutes=Duration(0), keep_hours=Duration(0), keep_days=Duration(0), keep_months=Duration(0), settle=Duration(0)
)


def maintained(base: Path, policy: Maintain = ALL, now: float = 2e9, files: Steps | None = None) -> Summary:
    with Maintainer(base, policy, clock=lambda: now, files=files or Steps()) as maintainer:
        return maintainer.run()


def quarters(day: date, zone: str = BERLIN) -> Span:
    return day_span(day, zone_named(zone))


@st.composite
def histories(draw: st.DrawFn) -> tuple[date, list[tuple[int, int, dict[int, int], str]]]:
    """A day, and pieces: quarter of an hour from its midnight (the day before and after too), counts, origin's name."""
    day = draw(st.sampled_from([LONG_DAY, SHORT_DAY, date(2008, 2, 29)]))
    pieces = []
    for _ in range(draw(st.integers(1, 10))):
        at = draw(st.sampled_from([-1, 0, 1, 3, 4, 8, 9, 11, 12, 91, 92, 95, 96, 99, 100, 120]))
        counts = draw(st.dictionaries(st.integers(0, 5), st.integers(-3, 5), max_size=4))
        pieces.append((at, draw(st.integers(0, 1)), counts, "a"))
    return day, pieces


def build(base: Path, day: date, pieces: list[tuple[int, int, dict[int, int], str]]) -> Maker:
    """All pieces of one origin count: the first of an interval closes it, the others came late."""
    maker = Maker(base, zone=BERLIN)
    start = quarters(day).start
    seen: set[int] = set()
    for at, _, counts, origin in pieces:
        begin = start + at * QUARTER
        late = {"kind": "late", "covered": []} if at in seen else {}
        seen.add(at)
        maker.put("spam", begin, begin + QUARTER, counts, origin=origin, **late)
    maker.catalogue().close()
    return maker


def spans_of(day: date) -> list[Span]:
    zone = zone_named(BERLIN)
    around = Span(quarters(day - timedelta(days=1)).start, quarters(day + timedelta(days=1)).end)
    found = [span for tier in ("hour", "day", "month") for span in units(tier, around, zone)]
    return [*found, around]


def same_answers(base: Path, maker: Maker, spans: list[Span]) -> None:
    columns = (Column("spam", Series("spam")),)
    with Engine(base, threads=1) as engine:
        for span in spans:
            wanted = {address: n for (_, address), n in added(maker.model, span)["spam"].items()}
            found = rows_of(engine.answer(CountQuery(blocks=(ALL_V4,), columns=columns, span=span)))
            assert {block.first: n for block, n in found} == wanted, span


@pytest.mark.slow
@settings(max_examples=10)
@given(histories(), st.booleans())
def test_condensing_changes_no_answer(history: tuple, delete: bool) -> None:
    day, pieces = history
    with tempfile.TemporaryDirectory() as directory:
        base = Path(directory)
        maker = build(base, day, pieces)
        zone = zone_named(BERLIN)
        months = list(units("month", Span(quarters(day).start - DAY, quarters(day).end + 2 * DAY), zone))
        maintained(base, ALL if delete else KEEP_ALL)
        same_answers(base, maker, months if delete else [*spans_of(day)[::3], *months])
        again = maintained(base, ALL if delete else KEEP_ALL)
        assert again.actions == ()
        (base / CATALOGUE).unlink()
        same_answers(base, maker, months)


@pytest.mark.slow
@settings(max_examples=8)
@given(histories(), histories())
def test_late_counts_are_added_to_what_was_condensed(first: tuple, second: tuple) -> None:
    day, pieces = first
    with tempfile.TemporaryDirectory() as directory:
        base = Path(directory)
        maker = build(base, day, pieces)
        maintained(base, KEEP_ALL)
        catalogue = open_catalogue(base)
        start = quarters(day).start
        for at, _, counts, _ in second[1]:
            begin = start + at * QUARTER
            catalogue.replace([maker.put("spam", begin, begin + QUARTER, counts, origin="a", kind="late", covered=[])])
        catalogue.close()
        same_answers(base, maker, spans_of(day)[::5])  # loose, beside the condensed ones
        maintained(base, KEEP_ALL)
        same_answers(base, maker, spans_of(day)[::5])
        maintained(base, ALL)
        (base / CATALOGUE).unlink()
        months = [span for span in spans_of(day) if span.seconds > 27 * DAY]
        same_answers(base, maker, months)


def _some_days(base: Path) -> Maker:
    maker = Maker(base, zone=BERLIN)
    start = quarters(LONG_DAY).start
    for at in (0, 1, 2, 5, 40, 97, 98, 101):
        maker.put("spam", start + at * QUARTER, start + (at + 1) * QUARTER, {at: at + 1, 7: 1})
    maker.put("spam", start, start + QUARTER, {7: 10}, kind="late", covered=[])
    maker.put("ham", start, start + QUARTER, {1 << 64: 3}, family=Family.V6)
    maker.put("ham", start + 9 * DAY, start + 9 * DAY + QUARTER, {1: 1})  # the newest commit stays whatever happens
    maker.catalogue().close()
    return maker


@pytest.mark.slow
def test_a_crash_at_any_step_changes_no_answer(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    whole.mkdir()
    _some_days(whole)
    files = Steps()
    maintained(whole, files=files)
    assert files.done > 40
    autumn = Span(quarters(date(2008, 10, 1)).start, quarters(date(2008, 12, 1)).start)  # whole months
    for stop_at in range(1, files.done + 1, 7):
        base = tmp_path / str(stop_at)
        base.mkdir()
        maker = _some_days(base)
        with pytest.raises(Killed):
            maintained(base, files=Steps(stop_at))
        same_answers(base, maker, [autumn])
        (base / CATALOGUE).unlink()
        assert not survey(base).damaged
        same_answers(base, maker, [autumn])
        maintained(base)
        same_answers(base, maker, [autumn])


def test_a_day_of_25_hours_is_one_day(tmp_path: Path) -> None:
    maker = Maker(tmp_path, zone=BERLIN)
    for day in (SHORT_DAY, LONG_DAY):
        span = quarters(day)
        for start in range(span.start, span.end, 3600):
            maker.put("spam", start, start + 3600, {1: 1}, tier="hour")
    maker.catalogue().close()
    maintained(tmp_path, KEEP_ALL)
    query = CountQuery(blocks=(ALL_V4,), columns=(Column("spam", Series("spam")),), levels=Levels((0,)), every="day")
    with Engine(tmp_path) as engine:
        answer = engine.answer(query)
        assert str(engine.zone) == BERLIN
    counts = dict(zip(answer.time.tolist(), answer.columns[0].values.tolist(), strict=True))
    assert {start: n for start, n in counts.items() if n} == {
        quarters(SHORT_DAY).start: 23,
        quarters(LONG_DAY).start: 25,
    }
    days = [s for s in open_catalogue(tmp_path).segments("spam") if s.tier == "day"]
    assert sorted((s.end - s.start) // 3600 for s in days) == [23, 25]


def test_condensing_does_not_change_since_when_a_series_is_counted(tmp_path: Path) -> None:
    maker = Maker(tmp_path)
    start = quarters(date(2008, 4, 24), "UTC").start
    for at in range(5):
        maker.put("spam", start + at * DAY, start + at * DAY + QUARTER, {1: 1})
    maker.catalogue().close()
    reaches = set()
    for _ in range(2):
        with Engine(tmp_path) as engine:
            reaches |= {(stat.first, stat.last) for stat in engine.series()}
        maintained(tmp_path, ALL)
    assert reaches == {(start, start + 4 * DAY + QUARTER)}
    tiers = {segment.tier for segment in open_catalogue(tmp_path).segments() if segment.start <= start}
    assert tiers == {"month"}  # which began before


def test_a_dry_run_says_what_a_run_does_and_does_nothing(tmp_path: Path) -> None:
    _some_days(tmp_path)
    before = {path: path.stat().st_size for path in tmp_path.rglob("*.parquet")}
    with Maintainer(tmp_path, ALL, dry_run=True, clock=lambda: 2e9, files=Steps(1)) as maintainer:
        planned = maintainer.run()
    assert {path: path.stat().st_size for path in tmp_path.rglob("*.parquet")} == before
    done = maintained(tmp_path)
    assert [(a.what, a.series, a.tier, a.span, a.segments) for a in planned.actions] == [
        (a.what, a.series, a.tier, a.span, a.segments) for a in done.actions
    ]
    gone = set(before) - set(tmp_path.rglob("*.parquet"))
    leaves = [a for a in done.actions if a.what == "delete" and a.tier == "minute"]
    assert sum(before[path] for path in gone) == sum(a.bytes for a in leaves)
    assert done.freed >= sum(a.bytes for a in leaves) > 0


@pytest.mark.parametrize("dry_run", [True, False])
def test_what_is_old_and_stays_is_told(tmp_path: Path, dry_run: bool) -> None:
    maker = Maker(tmp_path)
    start = quarters(date(2008, 4, 24), "UTC").start
    for at in range(3):
        maker.put("spam", start + at * QUARTER, start + (at + 1) * QUARTER, {1: 1})
    maker.catalogue().close()
    options = ["--dry-run"] if dry_run else []
    first = _run(cli, "cidr", ["maintain", "--base-dir", tmp_path, *options], b"")
    assert first.code == 0, first
    assert [word.lower() for word in first.out.split()[:3]] == ["series", "step", "tier"]
    assert "1 segment of a newest commit stays, though its time is up" in first.out
    left = [path.name for path in (tmp_path / "minute").rglob("*.parquet")]
    assert len(left) == (3 if dry_run else 1)
    if not dry_run:
        again = _run(cli, "cidr", ["maintain", "--base-dir", tmp_path], b"")
        assert again.out.startswith("nothing to do\n1 segment of a newest commit stays")


def test_each_tier_is_kept_for_its_time(tmp_path: Path) -> None:
    maker = Maker(tmp_path)
    start = quarters(date(2008, 4, 24), "UTC").start
    for day in range(4):
        maker.put("spam", start + day * DAY, start + day * DAY + QUARTER, {day: 1})
    maker.catalogue().close()
    policy = Maintain(keep_minutes=Duration(2 * DAY), keep_hours=Duration(3 * DAY), settle=Duration(0))
    maintained(tmp_path, policy, now=start + 4 * DAY)
    found = dict.fromkeys(("minute", "hour", "day", "month"), 0)
    for segment in open_catalogue(tmp_path).segments():
        found[segment.tier] += 1
    # Of four days: minutes of the last two, hours of the last three, all days; the month is not over.
    assert found == {"minute": 2, "hour": 3, "day": 4, "month": 0}
    assert counted(tmp_path, "spam") == {f"0.0.0.{day}": 1 for day in range(4)}


def test_what_is_older_than_every_tier_keeps_is_deleted(tmp_path: Path) -> None:
    maker = Maker(tmp_path)
    start = quarters(date(2008, 4, 24), "UTC").start
    for day in (0, 40, 100):
        maker.put("spam", start + day * DAY, start + day * DAY + QUARTER, {day: 1})
    maker.catalogue().close()
    policy = Maintain(keep_days=Duration(30 * DAY), keep_months=Duration(30 * DAY), settle=Duration(0))
    maintained(tmp_path, policy, now=start + 101 * DAY)
    assert counted(tmp_path, "spam") == {"0.0.0.100": 1}


def test_series_have_policies_of_their_own() -> None:
    rules = (SeriesKeep(match="^spam$", keep_minutes=Duration(5)), SeriesKeep(match="spam", condense=False))
    policy = Maintain(series=rules)
    assert policy.keep("spam").keep_minutes == 5
    assert policy.keep("spam").condense
    assert not policy.keep("spam2").condense
    assert policy.keep("ham").keep_minutes == Maintain().keep_minutes


def test_the_old_configuration_is_read(tmp_path: Path) -> None:
    conf = tmp_path / "cidr_maintain.conf"
    conf.write_text(
        "# Set to true to discover all series\nauto = false\nseries = rbl zombie\n"
        "retention = 30   # days\ncondense = 1\nbasedir = /var/log/eccluster/aslogger\n"
    )
    old = read_old_conf(conf)
    assert (old.base_dir, old.only) == (Path("/var/log/eccluster/aslogger"), ["rbl", "zombie"])
    keep = old.policy.keep("rbl")
    assert (keep.keep_months, keep.keep_minutes, keep.settle) == (30 * DAY, 2 * DAY, DAY)
    conf.write_text("auto = true\nretension = 5\n")
    with pytest.raises(ConfigError, match=r"cidr_maintain.conf:2: .*retension"):
        read_old_conf(conf)
