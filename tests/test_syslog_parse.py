"""Syslog headers: what RFC 5424 and RFC 3164 show, what is really sent, and what is neither.

How this could fail: an exception on odd input; a byte lost; a host name taken for a tag; a year that is wrong at new
year; a pattern that takes for ever; a record with a newline in it.
"""

from __future__ import annotations

import base64
import json
import string
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jlogd.sources.syslog_parse import FACILITIES, SEVERITIES, to_json

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


def parsed(data: bytes, now: datetime = NOW, peer: str = "") -> dict[str, Any]:
    text, whole = to_json(data, peer, now)
    record: dict[str, Any] = json.loads(text)
    assert b"\n" not in text
    assert whole == ("unparsed" not in record)
    return record


def without_priority(data: bytes) -> dict[str, Any]:
    record = parsed(data)
    for key in ("facility", "facility_code", "severity", "severity_code"):
        del record[key]
    return record


def test_rfc5424_example_with_all_fields() -> None:
    data = (
        b'<165>1 2003-08-24T05:14:15.000003-07:00 192.0.2.1 myproc 8710 ID47 [exampleSDID@32473 iut="3" '
        b'eventSource="App\\"lication\\]\\\\"][examplePriority@32473 class="high"] '
        b"\xef\xbb\xbfAn application event \xe2\x82\xac"
    )
    assert parsed(data, peer="127.0.0.1:4") == {
        "facility": "local4", "facility_code": 20, "severity": "notice", "severity_code": 5,
        "timestamp": "2003-08-24T05:14:15.000003-07:00", "hostname": "192.0.2.1", "app_name": "myproc",
        "procid": "8710", "msgid": "ID47", "peer": "127.0.0.1:4",
        "structured_data": {
            "exampleSDID@32473": {"iut": "3", "eventSource": 'App"lication]\\'},
            "examplePriority@32473": {"class": "high"},
        },
        "message": "An application event €",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"<34>1 - - - - - -", {}),
        (b"<34>1 - - - - - - ", {"message": ""}),
        (b"<34>1 - h a p m - text - more",
         {"hostname": "h", "app_name": "a", "procid": "p", "msgid": "m", "message": "text - more"}),
        (b"<34>1 - - - - - [a][b x=\"\"]", {"structured_data": {"a": {}, "b": {"x": ""}}}),
        (b'<34>1 - - - - - [o ip="1" ip="2" ip="3"] m',
         {"structured_data": {"o": {"ip": ["1", "2", "3"]}}, "message": "m"}),
        (b'<34>1 - - - - - [o x="a]b" y="\\n"] m',
         {"structured_data": {"o": {"x": "a]b", "y": "\\n"}}, "message": "m"}),
        (b'<34>1 - - - - - [broken x=1] m', {"message": "[broken x=1] m", "unparsed": "structured data"}),
        (b'<34>1 - - - - - [a x="1"]text', {"message": '[a x="1"]text', "unparsed": "structured data"}),
        (b"<34>1 - - - - -", {"message": "", "unparsed": "structured data"}),
        (b"<34>1 yesterday - - - - - m", {"message": "1 yesterday - - - - - m", "unparsed": "header"}),
        (b"<34>1 - - - - - - m\n", {"message": "m"}),
        (b"<34>1 - - - - - - m\r\n\0", {"message": "m"}),
    ],
)  # fmt: skip
def test_rfc5424_variations(data: bytes, expected: dict[str, Any]) -> None:
    assert without_priority(data) == expected


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"<34>Oct 11 22:14:15 mymachine su: 'su root' failed",
         ("2026-10-11T22:14:15+00:00", "mymachine", "su", "", "'su root' failed")),
        (b"<13>Feb  5 17:32:18 10.0.0.99 Use the BFG!",
         ("2026-02-05T17:32:18+00:00", "10.0.0.99", "", "", "Use the BFG!")),
        (b"<38>Nov 22 10:00:00 sshd[123]: Accepted", ("2026-11-22T10:00:00+00:00", "", "sshd", "123", "Accepted")),
        (b"<38>Nov 22 10:00:00 fe80::1 sshd[123]: x", ("2026-11-22T10:00:00+00:00", "fe80::1", "sshd", "123", "x")),
        (b"<13>Nov 22 10:00:00 host CRON[1]:x", ("2026-11-22T10:00:00+00:00", "host", "", "", "CRON[1]:x")),
        (b"<13>Nov 22 2024 10:00:00 asa : %ASA-6: x", ("2024-11-22T10:00:00+00:00", "asa", "", "", ": %ASA-6: x")),
        (b"<13>Nov 22 10:00:00.125 h t: x", ("2026-11-22T10:00:00.125000+00:00", "h", "t", "", "x")),
        (b"<13>2026-11-22T10:00:00.123456+01:00 h t[9]: x", ("2026-11-22T10:00:00.123456+01:00", "h", "t", "9", "x")),
        (b"<13>tag: no time", ("", "", "tag", "", "no time")),
        (b"<13>just words", ("", "", "", "", "just words")),
        (b"<13>", ("", "", "", "", "")),
        (b"<0>x", ("", "", "", "", "x")),
    ],
)  # fmt: skip
def test_rfc3164_as_it_is_really_sent(data: bytes, expected: tuple[str, ...]) -> None:
    record = parsed(data)
    assert tuple(record.get(key, "") for key in ("timestamp", "hostname", "app_name", "procid", "message")) == expected
    assert "unparsed" not in record


@pytest.mark.parametrize(
    "data", [b"", b"no priority", b"<>x", b"<192>x", b"<-1>x", b"<1234>x", b"<13 x", b" <13>x", b"<1a>x"]
)
def test_without_a_priority_all_is_message(data: bytes) -> None:
    assert parsed(data) == {"message": data.decode(), "unparsed": "priority"}


def test_a_time_that_does_not_exist_is_marked() -> None:
    for data in (b"<13>Feb 30 10:00:00 h t: x", b"<13>Nov 22 25:00:00 h t: x", b"<13>Nov 22 0000 10:00:00 h t: x"):
        assert parsed(data)["unparsed"] == "header"
        assert parsed(data)["message"] == data.decode()[4:]


@pytest.mark.parametrize(
    ("now", "sent", "year"),
    [
        (datetime(2026, 1, 1, 0, 5, tzinfo=UTC), b"Dec 31 23:59:00", 2025),
        (datetime(2025, 12, 31, 23, 59, tzinfo=UTC), b"Jan  1 00:01:00", 2026),
        (datetime(2025, 1, 3, tzinfo=UTC), b"Feb 29 00:00:00", 2024),
        (datetime(2026, 11, 22, tzinfo=UTC), b"Nov 23 00:00:00", 2026),
        (datetime(2026, 11, 22, tzinfo=UTC), b"Feb  5 00:00:00", 2026),
        (datetime(2026, 11, 22, tzinfo=UTC), b"Nov 24 00:00:00", 2025),
        (datetime(2104, 1, 3, tzinfo=UTC), b"Feb 29 00:00:00", 2096),
    ],
)
def test_a_time_without_a_year_is_the_latest_that_may_be(now: datetime, sent: bytes, year: int) -> None:
    assert parsed(b"<13>" + sent + b" h t: x", now)["timestamp"].startswith(str(year))


def test_a_time_without_a_zone_has_ours() -> None:
    now = NOW.astimezone(timezone(timedelta(hours=5, minutes=30)))
    assert parsed(b"<13>Nov 22 10:00:00 h t: x", now)["timestamp"] == "2026-11-22T10:00:00+05:30"
    assert "2" in json.loads(to_json(b"<13>Nov 22 10:00:00 h t: x")[0])["timestamp"]


def test_facility_and_severity_cover_all_priorities() -> None:
    seen = {(parsed(b"<%d>x" % p)["facility"], parsed(b"<%d>x" % p)["severity"]) for p in range(192)}
    assert seen == {(facility, severity) for facility in FACILITIES for severity in SEVERITIES}


def test_bytes_that_are_no_utf8_are_all_there() -> None:
    data = b"<13>1 - h\xff - - - - caf\xe9"
    record = parsed(data)
    assert record["message"] == "caf�"
    assert base64.b64decode(record["raw_base64"]) == data


@given(st.binary(max_size=300) | st.text(alphabet='<>[]="\\ -1:\n\0aé', max_size=200).map(str.encode))
def test_nothing_is_refused_and_nothing_is_lost(tail: bytes) -> None:
    for data in (tail, b"<13>" + tail, b"<13>1 - - - - - " + tail, b"<13>Nov 22 10:00:00 " + tail):
        record = parsed(data)
        if "raw_base64" in record:
            assert base64.b64decode(record["raw_base64"]) == data
        elif "unparsed" in record:
            assert data.decode().rstrip("\r\n\0").endswith(record["message"])


PRINTABLE = st.text(alphabet=string.ascii_letters + string.digits + "._-/@:", min_size=1, max_size=12).filter(
    lambda s: s != "-"
)
NAME = st.text(alphabet=string.ascii_letters + string.digits + "@._", min_size=1, max_size=10)
VALUE = st.text(alphabet=st.characters(codec="utf-8"), max_size=20)


@given(
    st.integers(0, 191),
    st.none() | st.datetimes(min_value=datetime(1970, 1, 1)),
    st.tuples(*[st.none() | PRINTABLE] * 4),
    st.dictionaries(NAME, st.dictionaries(NAME, VALUE, max_size=3), max_size=3),
    st.none() | st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\r\n\0\ufeff"), max_size=40),
)
def test_round_trip_of_rfc5424(
    priority: int,
    when: datetime | None,
    names: tuple[str | None, ...],
    data: dict[str, dict[str, str]],
    message: str | None,
) -> None:
    def escaped(value: str) -> str:
        return value.replace("\\", "\\\\").replace('"', '\\"').replace("]", "\\]")

    elements = "".join(
        "[" + name + "".join(f' {key}="{escaped(value)}"' for key, value in parameters.items()) + "]"
        for name, parameters in data.items()
    )
    timestamp = when.isoformat() + "Z" if when else "-"
    header = f"<{priority}>1 {timestamp} " + " ".join(name or "-" for name in names) + " " + (elements or "-")
    record = parsed((header + ("" if message is None else " " + message)).encode())
    assert "unparsed" not in record
    assert (record["facility_code"], record["severity_code"]) == divmod(priority, 8)
    assert record.get("timestamp", "-") == timestamp
    assert tuple(record.get(key) for key in ("hostname", "app_name", "procid", "msgid")) == names
    assert record.get("structured_data", {}) == data
    assert record.get("message") == message


def test_hostile_structured_data_takes_no_time() -> None:
    for bad in (
        b"[a " * 20000,
        b'[a x="' + b"\\" * 40001,
        b"[a" + b' x="1"' * 20000,
        b"[" * 40000,
        b'[a x="1"' + b" " * 40000,
    ):
        assert parsed(b"<13>1 - - - - - " + bad)["unparsed"] == "structured data"
