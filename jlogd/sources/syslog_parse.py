"""Syslog headers as JSON: RFC 5424, RFC 3164, and what is really sent.

    {"facility": "auth", "facility_code": 4, "severity": "crit", "severity_code": 2,
     "timestamp": "2003-10-11T22:14:15.003Z", "hostname": "east1", "app_name": "su", "procid": "711", "msgid": "ID47",
     "structured_data": {"exampleSDID@32473": {"iut": "3"}}, "message": "'su root' failed", "peer": "127.0.0.1:41234"}

A field the message does not have is left out. A parameter that comes twice in one element has a list as its value.
A time without a year (RFC 3164) gets the latest year in which it is not more than a day ahead of us, and the offset of
this machine's zone; any other is kept as it was sent. A trailing CR, LF or NUL is no part of the message.

Nothing is refused. `unparsed` says what could not be read ("priority", "header", "structured data"): then `message`
holds the text from that place on. When the bytes are not UTF-8, the texts show U+FFFD in place of what is not, and
`raw_base64` holds the whole message as received, so nothing is lost.

Locking: none; pure functions.
"""

from __future__ import annotations

import base64
import re
from datetime import datetime, timedelta
from functools import lru_cache
from time import time as clock

import msgspec

FACILITIES = (
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp",
    "ntp", "audit", "alert", "clock", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7",
)  # fmt: skip
SEVERITIES = ("emerg", "alert", "crit", "err", "warning", "notice", "info", "debug")
PRIORITY_MAX = 191
# How far a sender's clock may be ahead, zones included, before its time is taken for one of last year.
AHEAD_MAX = timedelta(days=1)
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

_PRIORITY = re.compile(r"<([0-9]{1,3})>")
_ISO_TIME = r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:[.,][0-9]{1,9})?(?:Z|[+-][0-9]{2}:?[0-9]{2})?"
# Lengths are not checked against the RFC's limits: a long name is better kept than refused.
_HEADER_5424 = re.compile(rf"1 (-|{_ISO_TIME}) ([^ ]+) ([^ ]+) ([^ ]+) ([^ ]+)(?: |$)")
_ELEMENT = re.compile(r'\[([^ =\]"]+)((?: +[^ =\]"]+="[^"\\]*(?:\\.[^"\\]*)*")*) *\]', re.DOTALL)
_PARAMETER = re.compile(r' +([^ =\]"]+)="([^"\\]*(?:\\.[^"\\]*)*)"', re.DOTALL)
_ESCAPE = re.compile(r'\\(["\\\]])')
# "Oct 11 22:14:15", with the year or fractions some devices add, or the ISO time that rsyslog writes to files.
_CLOCK = r"([0-9]{2}):([0-9]{2}):([0-9]{2})(\.[0-9]{1,6})?"
_BSD_TIME = rf"\*?({'|'.join(_MONTHS)}) +([0-9]{{1,2}}) (?:([0-9]{{4}}) )?{_CLOCK}"
_TIME_3164 = re.compile(rf"(?:({_ISO_TIME})|{_BSD_TIME}):? ")
_TAG = re.compile(r"([^ :\[\]]{1,128})(?:\[([^ \]]{0,128})\])?:(?: |$)")
_HOST = re.compile(r"([^ :\[\]]{1,255}|[0-9A-Fa-f:.]{2,45}) ")


class SyslogRecord(msgspec.Struct, omit_defaults=True, kw_only=True):
    """One message; see the module's text."""

    facility: str = ""
    facility_code: int | None = None
    severity: str = ""
    severity_code: int | None = None
    timestamp: str = ""
    hostname: str = ""
    app_name: str = ""
    procid: str = ""
    msgid: str = ""
    structured_data: dict[str, dict[str, str | list[str]]] = {}
    message: str | None = None
    peer: str = ""
    unparsed: str = ""
    raw_base64: str = ""


_encoder = msgspec.json.Encoder()


def to_json(data: bytes, peer: str = "", now: datetime | None = None) -> tuple[bytes, bool]:
    """The message as one line of JSON, and whether all of its header could be read."""
    record = parse(data, peer, now)
    return _encoder.encode(record), not record.unparsed


def parse(data: bytes, peer: str = "", now: datetime | None = None) -> SyslogRecord:
    """The message `data`; never raises. `now` (with a zone) dates times that have no year."""
    try:
        text, raw = data.decode(), ""
    except UnicodeDecodeError:
        text, raw = data.decode(errors="replace"), base64.b64encode(data).decode()
    text = text.rstrip("\r\n\0")
    found = _PRIORITY.match(text)
    if found is None or int(found[1]) > PRIORITY_MAX:
        return SyslogRecord(message=text, peer=peer, unparsed="priority", raw_base64=raw)
    facility, severity = divmod(int(found[1]), 8)
    record = SyslogRecord(
        facility=FACILITIES[facility], facility_code=facility, severity=SEVERITIES[severity], severity_code=severity,
        peer=peer, raw_base64=raw,
    )  # fmt: skip
    if text.startswith("1 ", found.end()):
        _read_5424(record, text, found.end())
    else:
        _read_3164(record, text, found.end(), now)
    return record


def _read_5424(record: SyslogRecord, text: str, at: int) -> None:
    header = _HEADER_5424.match(text, at)
    if header is None:
        record.message, record.unparsed = text[at:], "header"
        return
    given = [value if value != "-" else "" for value in header.groups()]
    record.timestamp, record.hostname, record.app_name, record.procid, record.msgid = given
    at = header.end()
    if text.startswith("-", at) and text[at + 1 : at + 2] in ("", " "):
        at += 1
    else:
        start = at
        while element := _ELEMENT.match(text, at):
            _add_element(record.structured_data, element[1], element[2])
            at = element.end()
        if at == start or text[at : at + 1] not in ("", " "):
            record.structured_data = {}
            record.message, record.unparsed = text[start:], "structured data"
            return
    if at < len(text):
        record.message = text[at + 1 :].removeprefix("\ufeff")


def _add_element(data: dict[str, dict[str, str | list[str]]], name: str, parameters: str) -> None:
    element = data.setdefault(name, {})
    for key, value in _PARAMETER.findall(parameters):
        plain = _ESCAPE.sub(r"\1", value) if "\\" in value else value
        known = element.get(key)
        if known is None:
            element[key] = plain
        elif isinstance(known, list):
            known.append(plain)
        else:
            element[key] = [known, plain]


def _read_3164(record: SyslogRecord, text: str, at: int, now: datetime | None) -> None:
    time = _TIME_3164.match(text, at)
    if time is not None:
        record.timestamp = time[1] or (_dated(time[0], now) if now else _dated_now(time[0], int(clock() // 3600)))
        if not record.timestamp:
            record.message, record.unparsed = text[at:], "header"
            return
        at = time.end()
        # What a program writes to /dev/log has no host name; a word that ends like a tag is one.
        host = None if _TAG.match(text, at) else _HOST.match(text, at)
        if host is not None:
            record.hostname = host[1]
            at = host.end()
    tag = _TAG.match(text, at)
    if tag is not None:
        record.app_name, record.procid = tag[1], tag[2] or ""
        at = tag.end()
    record.message = text[at:]


@lru_cache(maxsize=1024)
def _dated_now(text: str, hour: int) -> str:
    """`_dated` for now; the messages of one second share their time, and the calendar is slow (5 microseconds)."""
    return _dated(text, None)


def _dated(text: str, now: datetime | None) -> str:
    """The time in ISO form; empty when there is no such time. `now` is the clock's local time by default."""
    time = _TIME_3164.match(text)
    assert time is not None
    month, day, hour, minute, second = _MONTHS.index(time[2]) + 1, *map(int, time.group(3, 5, 6, 7))
    fraction = int((time[8] or ".0")[1:].ljust(6, "0"))
    latest = (now or datetime.now().astimezone()) + AHEAD_MAX
    # Eight years back there was a 29th of February.
    for year in (int(time[4]),) if time[4] else range(latest.year, latest.year - 9, -1):
        try:
            # A leap second is kept as the second before it: the calendar knows no 60.
            naive = datetime(year, month, day, hour, minute, second - (second == 60), fraction)
            dated = naive.replace(tzinfo=now.tzinfo) if now else naive.astimezone()
        except (ValueError, OverflowError):
            continue
        if time[4] or dated <= latest:
            return dated.isoformat()
    return ""
