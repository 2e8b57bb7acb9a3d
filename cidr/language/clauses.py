"""Clauses -> values: spans of time, and prefix lengths for each family."""

from __future__ import annotations

from typing import cast
from zoneinfo import ZoneInfo

from cidr.language import dates, tree
from cidr.language.errors import Mark, QueryError
from cidr.types import BLOCKS, HOSTS, Block, Family, Levels, Span

# "Until now" ends with the last whole minute: what is asked twice in a minute is the same question.
NOW_SECONDS = 60
# Of `heavy`, where nothing is said: (v4, v6).
HEAVY_SHORTEST = {Family.V4: 8, Family.V6: 16}
HEAVY_LONGEST = {Family.V4: 32, Family.V6: 64}


def span(text: str, time: tree.Time | None, zone: ZoneInfo, now: int) -> Span | None:
    """The time that a clause means; None for all there is."""
    match time:
        case tree.Since(start=start):
            found = Span(_instant(text, start, zone, now), now // NOW_SECONDS * NOW_SECONDS)
            if found.seconds <= 0:
                raise QueryError(
                    text, start.mark, f"nothing is counted yet since {start}: it is {_shown(now, zone)} now"
                )
            return found
        case tree.On(day=day):
            found = _day(text, day, zone, now)
            if found.start >= now:
                raise QueryError(text, day.mark, f"{day} lies in the future: it is {_shown(now, zone)} now")
            return found
        case tree.FromTo(start=start, end=end):
            return _between(text, start, end, zone, now)
    return None


def stretch(text: str, written: tree.Stretch, zone: ZoneInfo, now: int) -> Span:
    """One side of `between`."""
    if written.end is not None:
        return _between(text, written.start, written.end, zone, now)
    found = _day(text, written.start, zone, now)
    if not dates.is_day(written.start.text):
        raise QueryError(text, written.start.mark, f"{written.start} is an instant; write a day, or A to B")
    return found


def levels(text: str, show: tree.Show, blocks: tuple[Block, ...]) -> Levels:
    """The prefix lengths of the rows."""
    clause = show.clause("cidrsize")
    if not isinstance(clause, tree.Cidrsize):
        return HOSTS
    if clause.low is None:
        return BLOCKS
    ranges = _ranges(text, clause, blocks)
    found = {}
    for family, (low, high) in ranges.items():
        _check_width(text, clause.low.mark, family, low, blocks)
        found[family] = tuple(range(low, high + 1))
    return Levels(found.get(Family.V4, HOSTS.v4), found.get(Family.V6, HOSTS.v6))


def heavy_range(text: str, show: tree.Show, blocks: tuple[Block, ...]) -> tuple[tuple[int, int], tuple[int, int]]:
    """The shortest and the longest prefix lengths that `heavy` looks at, each as (v4, v6)."""
    clause = show.clause("cidrsize")
    shortest, longest = dict(HEAVY_SHORTEST), dict(HEAVY_LONGEST)
    for family in Family:
        widest = min((block.bits for block in blocks if block.family is family), default=0)
        shortest[family] = max(shortest[family], widest)
        longest[family] = max(longest[family], shortest[family])
    if isinstance(clause, tree.Cidrsize):
        for family, (low, high) in _ranges(text, clause, blocks).items():
            _check_width(text, cast(tree.Size, clause.low).mark, family, low, blocks, narrow=False)
            shortest[family], longest[family] = low, high
    return (shortest[Family.V4], shortest[Family.V6]), (longest[Family.V4], longest[Family.V6])


def _ranges(text: str, clause: tree.Cidrsize, blocks: tuple[Block, ...]) -> dict[Family, tuple[int, int]]:
    """From and to, for each family that is asked about."""
    low = cast(tree.Size, clause.low)
    high = clause.high or low
    families = sorted({block.family for block in blocks})
    found = {}
    for family in families:
        first, last = (_bits(text, size, family, families) for size in (low, high))
        if first > last:
            raise QueryError(text, high.mark, f"cidrsize goes from the shorter prefix to the longer: {last} to {first}")
        found[family] = (first, last)
    return found


def _bits(text: str, size: tree.Size, family: Family, families: list[Family]) -> int:
    four, slash, six = size.text.partition("/")
    if not slash and len(families) > 1:
        what = f"IPv4 and IPv6 are asked about: say both prefix lengths, such as {four}/{min(128, 2 * int(four[:3]))}"
        raise QueryError(text, size.mark, what)
    digits = six if slash and family is Family.V6 else four
    bits = int(digits) if len(digits) <= 3 else 999
    if bits > family.width:
        raise QueryError(text, size.mark, f"an IPv{family.value} prefix has at most {family.width} bits, not {digits}")
    return bits


def _check_width(
    text: str, mark: Mark, family: Family, bits: int, blocks: tuple[Block, ...], narrow: bool = True
) -> None:
    """A row must not reach beyond the block asked about. `narrow`: beyond the narrowest of them, else the widest."""
    asked = [block.bits for block in blocks if block.family is family]
    least = max(asked) if narrow else min(asked)
    if bits < least:
        what = f"cidrsize {bits} is wider than the /{least} asked about; use {least} to {family.width}"
        raise QueryError(text, mark, what)


def _instant(text: str, moment: tree.Moment, zone: ZoneInfo, now: int) -> int:
    try:
        return dates.instant(moment.text, zone, now)
    except (ValueError, OverflowError, OSError) as error:
        raise QueryError(text, moment.mark, str(error)) from None


def _day(text: str, moment: tree.Moment, zone: ZoneInfo, now: int) -> Span:
    try:
        return dates.day(moment.text, zone, now)
    except (ValueError, OverflowError, OSError) as error:
        raise QueryError(text, moment.mark, str(error)) from None


def _between(text: str, start: tree.Moment, end: tree.Moment, zone: ZoneInfo, now: int) -> Span:
    found = Span(_instant(text, start, zone, now), _instant(text, end, zone, now))
    if found.seconds < 0:
        raise QueryError(text, end.mark, f"the time ends before it begins; write {end} to {start}")
    if found.seconds == 0:
        raise QueryError(text, end.mark, f"no time lies between {start} and {end}")
    return found


def _shown(seconds: int, zone: ZoneInfo) -> str:
    return f"{dates.short(seconds, zone)} {zone.key}"
