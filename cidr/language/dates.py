"""Dates of the language -> seconds since 1970 UTC.

    20080424  2008-04-24                      a day in the zone; as an instant, its first moment
    20080424T1200  2008-04-24T12:00[:00]      local time in the zone; with Z or +0530 that of the zone named
    today  yesterday  now                     as seen from `now`
    -6h  -1d12h  (s m h d w)                  so long before `now`

A local time that a change of clocks skips means the instant it would have been; one that comes twice is the first.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

from cidr.times import day_span
from cidr.types import Span

ACCEPTED = "write 20080424, 2008-04-24T12:00, today, yesterday, now, or -6h (s, m, h, d, w)"
_DATE = re.compile(
    r"(?P<year>\d{4})(?P<dash>-?)(?P<month>\d\d)(?P=dash)(?P<day>\d\d)"
    r"(?:T(?P<hour>\d\d):?(?P<minute>\d\d)(?::?(?P<second>\d\d))?"
    r"(?P<zone>z|[+-]\d\d:?(?:\d\d)?)?)?",
    re.ASCII | re.IGNORECASE,
)
_AGO = re.compile(r"-((?:[0-9]{1,9}[smhdw])+)", re.ASCII | re.IGNORECASE)
_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
# Stamps have four digits for the year.
YEAR_MIN, YEAR_MAX = 1970, 9998


def instant(text: str, zone: ZoneInfo, now: int) -> int:
    """The instant that `text` names. Raises ValueError saying what is accepted."""
    if text == "now":
        return now
    ago = _ago(text)
    if ago is not None:
        return now - ago
    if text in ("today", "yesterday"):
        return day_span(_date_of(text, zone, now), zone).start
    found = _DATE.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no date; {ACCEPTED}")
    return _written(found, zone)


def day(text: str, zone: ZoneInfo, now: int) -> Span:
    """The day that `text` names or lies in, in the zone: 23 or 25 hours long when clocks change."""
    if text in ("today", "yesterday"):
        on = _date_of(text, zone, now)
    else:
        on = datetime.fromtimestamp(instant(text, zone, now), zone).date()
    return day_span(on, zone)


def is_day(text: str) -> bool:
    """Whether `text` names a day rather than an instant."""
    found = _DATE.fullmatch(text)
    return text in ("today", "yesterday") or (found is not None and found["hour"] is None)


def iso(seconds: int, zone: ZoneInfo) -> str:
    """`2008-04-24T12:00:00+02:00`."""
    return datetime.fromtimestamp(seconds, zone).isoformat()


def short(seconds: int, zone: ZoneInfo) -> str:
    """`2008-04-24 12:00`, with seconds where there are any."""
    at = datetime.fromtimestamp(seconds, zone)
    return f"{at:%Y-%m-%d %H:%M}" + (f":{at:%S}" if at.second else "")


def _ago(text: str) -> int | None:
    found = _AGO.fullmatch(text)
    if found is None:
        return None
    parts = re.findall(r"([0-9]+)([smhdw])", found[1].lower())
    seconds = sum(int(number) * _UNIT_SECONDS[unit] for number, unit in parts)
    if seconds > 100 * 366 * 86400:
        raise ValueError(f"{text} is more than a hundred years ago")
    return seconds


def _date_of(word: str, zone: ZoneInfo, now: int) -> date:
    today = datetime.fromtimestamp(now, zone).date()
    return today if word == "today" else today - timedelta(days=1)


def _written(found: re.Match[str], zone: ZoneInfo) -> int:
    year = int(found["year"])
    if not YEAR_MIN <= year <= YEAR_MAX:
        raise ValueError(f"the year {year} is not between {YEAR_MIN} and {YEAR_MAX}")
    numbers = [int(found[name] or 0) for name in ("month", "day", "hour", "minute", "second")]
    try:
        at = datetime(year, *numbers, tzinfo=_zone(found["zone"], zone))  # type: ignore[misc, arg-type]
    except ValueError as error:
        raise ValueError(f"{found[0]} is no date: {error}") from None
    return int(at.timestamp())


def _zone(text: str | None, zone: ZoneInfo) -> ZoneInfo | timezone:
    if text is None:
        return zone
    if text.lower() == "z":
        return UTC
    digits = text[1:].replace(":", "").ljust(4, "0")
    offset = timedelta(hours=int(digits[:2]), minutes=int(digits[2:]))
    if offset >= timedelta(hours=24):
        raise ValueError(f"{text} is no offset from UTC")
    return timezone(-offset if text[0] == "-" else offset)
