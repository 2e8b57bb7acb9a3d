"""Time: the store's zone, its calendar units, and stamps.

A store has one reporting zone, in which its hours, days and months begin. Units are spans of seconds since 1970 UTC, so
that a day of 23 or 25 hours is nothing special: it is just shorter or longer. An hour never reaches over midnight.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

from cidr.types import Span, Tier
from jlogd.errors import UsageError

HOUR = 3600
_STAMP = "%Y%m%dT%H%M%S"


def zone_named(name: str) -> ZoneInfo:
    """The zone of that name. Raises UsageError."""
    try:
        return ZoneInfo(name)
    except (OSError, ValueError, LookupError):
        raise UsageError(f'there is no time zone "{name}"; give a name such as UTC or Europe/Berlin') from None


def hours_begin(zone: tzinfo) -> int:
    """How many seconds after the hours of UTC those of a zone begin now: 1800 in India, 0 nearly everywhere."""
    return -_offset(datetime.now(zone)) % HOUR


def format_stamp(seconds: int, zone: tzinfo = UTC) -> str:
    """YYYYMMDDTHHMMSS."""
    return datetime.fromtimestamp(seconds, zone).strftime(_STAMP)


def parse_stamp(text: str, zone: tzinfo = UTC) -> int:
    """Seconds of a stamp YYYYMMDDTHHMMSS. Raises ValueError."""
    return int(datetime.strptime(text, _STAMP).replace(tzinfo=zone).timestamp())


def day_span(day: date, zone: tzinfo) -> Span:
    """The seconds of a calendar day: 23, 24 or 25 hours of them."""
    return Span(_midnight(day, zone), _midnight(day + timedelta(days=1), zone))


def unit(tier: Tier, seconds: int, zone: tzinfo, minute: int = 60) -> Span:
    """The calendar unit that holds an instant. For the tier `minute`, intervals of `minute` seconds."""
    if tier == "minute":
        start = seconds // minute * minute
        return Span(start, start + minute)
    moment = datetime.fromtimestamp(seconds, zone)
    if tier == "month":
        return _month(moment.date(), zone)
    day = day_span(moment.date(), zone)
    return day if tier == "day" else _hour(moment, day)


def units(tier: Tier, span: Span, zone: tzinfo, minute: int = 60) -> Iterator[Span]:
    """The units that overlap a span, in order."""
    at = span.start
    while at < span.end:
        found = unit(tier, at, zone, minute)
        yield found
        at = found.end


def _hour(moment: datetime, day: Span) -> Span:
    """Zones with an offset of 30 or 45 minutes have their hours begin there; a day that is cut there keeps its
    pieces, and so does an hour in which clocks change by less than one."""
    seconds, offset = int(moment.timestamp()), _offset(moment)
    start = (seconds + offset) // HOUR * HOUR - offset
    start, end = max(start, day.start), min(start + HOUR, day.end)
    if _is_odd(start, moment):
        start = _change(start, seconds, moment.tzinfo)
    if _is_odd(end - 1, moment):
        end = _change(seconds, end - 1, moment.tzinfo)
    return Span(start, end)


def _offset(moment: datetime) -> int:
    return int((moment.utcoffset() or timedelta()).total_seconds())


def _is_odd(seconds: int, moment: datetime) -> bool:
    """Whether clocks are changed between two instants, by what is not whole hours: those begin anew then."""
    return (_offset(datetime.fromtimestamp(seconds, moment.tzinfo)) - _offset(moment)) % HOUR != 0


def _change(before: int, after: int, zone: tzinfo | None) -> int:
    """The first second after the change of clocks between two instants."""
    offset = _offset(datetime.fromtimestamp(after, zone))
    while after - before > 1:
        middle = (before + after) // 2
        if _offset(datetime.fromtimestamp(middle, zone)) == offset:
            after = middle
        else:
            before = middle
    return after


def _month(day: date, zone: tzinfo) -> Span:
    first = day.replace(day=1)
    following = (first + timedelta(days=32)).replace(day=1)
    return Span(_midnight(first, zone), _midnight(following, zone))


def _midnight(day: date, zone: tzinfo) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=zone).timestamp())
