"""Which segments count: one logger an interval, nothing twice, whatever lies in the directory."""

from __future__ import annotations

import tempfile
from collections import Counter
from datetime import date, datetime
from itertools import pairwise
from pathlib import Path

import pytest
from cidr_support import Maker
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cidr.addresses import disjoint, parse_block
from cidr.errors import SegmentDamaged, StoreNotFound
from cidr.spans import Spans, both, of, union, without
from cidr.store import Store
from cidr.timeline import Segment, Timeline, _outranking
from cidr.times import day_span, format_stamp, parse_stamp, unit, units, zone_named
from cidr.types import TIERS, Block, Family, Span
from jlogd.errors import UsageError

MINUTE = 60


def segment(start: int, end: int, **more: object) -> Segment:
    values: dict[str, object] = {
        "path": f"{more.get('origin', 'a')}-{more.get('epoch', 1)}-{more.get('commit', 1)}-{start}-{end}-{len(more)}",
        "series": "spam",
        "family": Family.V4,
        "tier": "minute",
        "start": start,
        "end": end,
        "kind": "full",
        "origin": "a",
        "epoch": 1,
        "commit": 1,
        "rows": 1,
        "bytes": 1,
        "least": 1,
        "most": 1,
        "digest": "",
        "total": 1,
        "covered": ((start, end),),
    }
    return Segment(**(values | more))  # type: ignore[arg-type]


pieces = st.tuples(
    st.integers(0, 4), st.sampled_from("abc"), st.integers(1, 3), st.sampled_from(["full", "partial", "late"])
)


@given(st.lists(pieces, max_size=14))
def test_in_each_interval_one_origin_counts_and_all_of_it(found: list[tuple[int, str, int, str]]) -> None:
    leaves = []
    for commit, (minute, origin, epoch, kind) in enumerate(found):
        start = minute * MINUTE
        leaves.append(segment(start, start + MINUTE, origin=origin, epoch=epoch, kind=kind, commit=commit))
    wanted: Counter[str] = Counter()
    for minute in range(5):
        here = [leaf for leaf in leaves if leaf.start == minute * MINUTE]
        by_origin = {o: [leaf for leaf in here if leaf.origin == o] for o in sorted({leaf.origin for leaf in here})}
        ranks = {o: (any(s.kind == "full" for s in some), max(s.epoch for s in some)) for o, some in by_origin.items()}
        if ranks:
            best = max(ranks.values())
            winner = next(origin for origin in ranks if ranks[origin] == best)
            wanted.update(leaf.path for leaf in by_origin[winner])
    chosen = Timeline(leaves).select(Span(0, 5 * MINUTE)).segments
    assert Counter(s.path for s in chosen) == wanted


@settings(max_examples=200)
@given(
    st.lists(st.tuples(st.integers(0, 20), st.integers(1, 9), st.sampled_from("abc"), st.integers(1, 2)), max_size=20)
)
@example([(0, 9, "a", 2), *((start, 1, "a", 2) for start in (1, 2, 3, 4)), (7, 1, "b", 1)])
def test_intervals_of_any_length_outrank_what_they_overlap(found: list[tuple[int, int, str, int]]) -> None:
    """An hour without counts is one interval, and may have late counts in it: many short ones beside a long one."""
    groups = {
        (start, start + length, origin): [segment(start, start + length, origin=origin, epoch=epoch, kind=kind)]
        for start, length, origin, epoch in found
        for kind in ("full" if length > 3 else "late",)
    }
    order = sorted(groups, key=lambda g: (g[2], g[0]))
    order.sort(key=lambda g: (groups[g][0].kind == "full", groups[g][0].epoch), reverse=True)
    wanted: list[tuple[int, int, str]] = []
    for start, end, origin in order:
        if not any(o != origin and s < end and start < e for s, e, o in wanted):
            wanted.append((start, end, origin))
    assert _outranking(groups) == wanted


def test_a_commit_written_again_after_a_crash_counts_once() -> None:
    old, new = segment(0, 60, epoch=1, commit=7), segment(0, 60, epoch=2, commit=7)
    assert Timeline([old, new]).select(Span(0, 60)).segments == (new,)


def _hour(upto: int, **more: object) -> Segment:
    values = {"tier": "hour", "kind": "condensed", "origin": "condensed", "winners": ((0, 3600, "a"),)}
    return segment(0, 3600, upto=(("a", upto),), commit=upto, **(values | more))


def test_a_condensed_segment_stands_for_what_it_holds_and_no_more() -> None:
    held, late = segment(60, 120, commit=4), segment(60, 120, commit=6, kind="late", covered=())
    foreign = segment(60, 120, origin="b", epoch=9, commit=1)
    hour = _hour(5)
    timeline = Timeline([held, late, hour])
    assert timeline.select(Span(0, 3600)).segments == (hour, late)
    assert timeline.select(Span(60, 120)).segments == (held, late)
    assert timeline.is_held(held)
    assert not timeline.is_held(late)
    # A logger whose counts of that time were not the ones that counted does not add to them.
    assert Timeline([foreign, hour]).select(Span(0, 3600)).segments == (hour,)


def test_the_newest_condensed_segment_takes_the_place_of_older_ones() -> None:
    old, new = _hour(5), _hour(6)
    assert Timeline([new, old]).select(Span(0, 3600)).segments == (new,)


def test_a_coarse_segment_behind_a_finer_one_is_not_used() -> None:
    behind = segment(
        0, 86400, tier="day", kind="condensed", origin="condensed", upto=(("a", 5),), winners=((0, 86400, "a"),)
    )
    hour = _hour(6)
    assert Timeline([behind, hour]).select(Span(0, 86400)).segments == (hour,)


def test_a_span_takes_the_coarsest_and_finer_ones_at_its_edges() -> None:
    minutes = [segment(start, start + MINUTE, commit=1) for start in range(0, 7200, MINUTE)]
    hours = [
        segment(
            start, start + 3600, tier="hour", kind="condensed", origin="condensed", upto=(("a", 1),),
            winners=((start, start + 3600, "a"),),
        )
        for start in (0, 3600)
    ]  # fmt: skip
    found = Timeline([*minutes, *hours]).select(Span(0, 3600 + 120))
    assert [(s.tier, s.start) for s in found.segments] == [("hour", 0), ("minute", 3600), ("minute", 3660)]
    assert found.covered.seconds == 3720
    assert Timeline(hours).select(Span(0, 3720)).cut.listed() == (Span(3600, 3720),)


stretches = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=6)


def _set(found: Spans) -> set[int]:
    return {second for span in found.listed() for second in range(span.start, span.end)}


@given(stretches, stretches)
def test_spans_are_sets_of_seconds(left: list[tuple[int, int]], right: list[tuple[int, int]]) -> None:
    a, b = of(*left), of(*right)
    one = {second for start, end in left for second in range(start, end)}
    other = {second for start, end in right for second in range(start, end)}
    assert (_set(a), _set(b)) == (one, other)
    assert _set(union(a, b)) == one | other
    assert _set(both(a, b)) == one & other
    assert _set(without(a, b)) == one - other
    assert a.seconds == len(one)
    assert all(x < y for x, y in zip(a.ends, a.starts[1:], strict=False))


ZONES = ["UTC", "Europe/Berlin", "Asia/Kolkata", "Australia/Lord_Howe", "America/Sao_Paulo", "Pacific/Apia"]


@settings(max_examples=60)
@given(st.sampled_from(ZONES), st.integers(0, 2**31), st.sampled_from(TIERS[1:]))
def test_units_tile_the_time_in_every_zone(name: str, seconds: int, tier: str) -> None:
    zone = zone_named(name)
    here = unit(tier, seconds, zone)
    assert here.start <= seconds < here.end
    assert unit(tier, here.start, zone) == here
    assert unit(tier, here.end - 1, zone) == here
    following = list(units(tier, Span(here.start, here.end + 3 * here.seconds), zone))
    assert all(a.end == b.start for a, b in pairwise(following))
    day = unit("day", seconds, zone)
    if tier == "hour":
        assert day.start <= here.start < here.end <= day.end


# A change of clocks by half an hour, some in the middle of an hour; by more, at midnight; by a day.
CHANGES = [
    ("Australia/Lord_Howe", "20240406T150000"), ("Australia/Lord_Howe", "20241005T153000"),
    ("America/Caracas", "20071209T070000"), ("America/Caracas", "20160501T070000"),
    ("Asia/Pyongyang", "20180504T150000"), ("Europe/Berlin", "20240331T010000"),
    ("America/Sao_Paulo", "20181104T030000"), ("Pacific/Apia", "20111230T100000"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "change"), CHANGES)
def test_units_tile_the_time_around_a_change_of_clocks(name: str, change: str) -> None:
    zone, at = zone_named(name), parse_stamp(change)
    assert datetime.fromtimestamp(at - 1, zone).utcoffset() != datetime.fromtimestamp(at, zone).utcoffset()
    for tier in TIERS[1:]:
        found = list(units(tier, Span(at - 90000, at + 90000), zone))
        assert all(a.end == b.start for a, b in pairwise(found))
        for second in (at - 1800, at - 1, at, at + 1, at + 1799, at + 1800, at + 3600):
            assert unit(tier, second, zone) in found
        days = {unit("day", span.start, zone) for span in found}
        assert tier != "hour" or all(any(d.start <= h.start and h.end <= d.end for d in days) for h in found)


def test_a_day_begins_at_midnight_where_the_store_is() -> None:
    berlin = zone_named("Europe/Berlin")
    assert day_span(date(2008, 4, 24), berlin).start == parse_stamp("20080423T220000")
    assert day_span(date(2008, 10, 26), berlin).seconds == 25 * 3600
    assert format_stamp(parse_stamp("20080424T001500", berlin), berlin) == "20080424T001500"
    with pytest.raises(UsageError, match="time zone"):
        zone_named("Mars/Olympus")


def test_blocks_are_read_as_people_write_them() -> None:
    assert str(parse_block("10.0.0.0/8")) == "10.0.0.0/8"
    assert str(parse_block("192.0.2.7")) == "192.0.2.7/32"
    assert str(parse_block("2001:DB8::/32")) == "2001:db8::/32"
    assert parse_block("::ffff:192.0.2.0/120") == parse_block("192.0.2.0/24")
    for wrong in ("10.0.0.0/33", "10.0.0.1/8", "10.0.0/8", "x", "10.0.0.0/", "10.0.0.0/-1", "::ffff:1.2.3.4/90", ""):
        with pytest.raises(UsageError):
            parse_block(wrong)
    nested = tuple(map(parse_block, ("10.1.0.0/16", "10.0.0.0/8", "::/0", "11.0.0.0/8")))
    assert disjoint(nested) == [parse_block("10.0.0.0/8"), parse_block("11.0.0.0/8"), parse_block("::/0")]
    assert Block(Family.V4, 0, 0).last == 0xFFFFFFFF


def test_what_is_no_store_is_told(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFound, match="base_dir"):
        Store(tmp_path / "none")
    with tempfile.TemporaryDirectory() as directory:
        maker = Maker(Path(directory))
        path = Path(directory) / maker.put("spam", 0, 60, {1: 1}).path
        path.write_bytes(b"PAR1 but nothing else")
        store = Store(Path(directory))
        assert store.series() == []
        from cidr.segment import read

        with pytest.raises(SegmentDamaged, match="no segment"):
            read(path, Family.V4)
