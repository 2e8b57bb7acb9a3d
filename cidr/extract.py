"""Events out of records: by a regular expression or by the fields of a JSON document.

A rule yields at most one event a record: an address, and perhaps the event's own time and amount. All of a batch is
done at once: the expression runs over the records in one loop of the interpreter's own C code, equal events are counted
by a `Counter`, and what costs Python code (parsing an amount, a time, an address) is done once for each different text.
That is about 0.4 microseconds an event; most of it is the expression.

    match = 'Failed password for .* from (?P<ip>\\S+)'       groups: ip, and perhaps time, n
    json = "client.ip"                                        a path of keys; json_time, json_n the same
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, tzinfo
from functools import lru_cache
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from cidr.names import check_series
from jlogd.errors import UsageError

# Clocks differ a little; an event further in the future than this is counted when it was logged instead.
FUTURE_SECONDS_MAX = 3600
# An amount beyond this would not survive being added up in 64 bits.
AMOUNT_MAX = 1 << 48
# A time without a year is of the last year in which it was not further ahead than this of when it was logged.
AHEAD_SECONDS = 36 * 3600
_MONTHS = {
    name: number
    for number, name in enumerate(
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"], 1
    )
}
_SYSLOG = re.compile(r"([A-Z][a-z]{2}) +(\d{1,2}) (\d\d):(\d\d):(\d\d)")

Text = Annotated[str, Meta(min_length=1, max_length=4096)]


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One `[[as_logger.extract]]`. `where`: JSON fields that must have the given values."""

    log: Text
    series: str
    match: str = ""
    json: str = ""
    json_time: str = ""
    json_n: str = ""
    where: dict[str, str | int | bool] = {}


def check_rule(rule: Rule) -> None:
    """Raises UsageError for a rule that cannot work."""
    check_series(rule.series)
    if bool(rule.match) == bool(rule.json):
        raise UsageError("a rule needs either match (a regular expression) or json (the path of a field)")
    if rule.match:
        _pattern(rule)
    elif rule.match and (rule.json_time or rule.json_n or rule.where):
        raise UsageError("json_time, json_n and where go with json, not with match")


def _pattern(rule: Rule) -> re.Pattern[bytes]:
    try:
        pattern = re.compile(rule.match.encode())
    except (re.error, OverflowError) as error:
        raise UsageError(f"match is not a regular expression: {error}") from None
    if "ip" not in pattern.groupindex:
        raise UsageError("match needs a group (?P<ip>...) around the address")
    unknown = set(pattern.groupindex) - {"ip", "time", "n"}
    if unknown:
        raise UsageError(f"match has a group {sorted(unknown)[0]}; the groups are ip, time and n")
    return pattern


# A counted event: address text, the text of its time, the text of its amount (empty when there is none).
Event = tuple[bytes, bytes, bytes]


class Extractor:
    """Runs one rule."""

    def __init__(self, rule: Rule) -> None:
        """Raises UsageError."""
        check_rule(rule)
        self.series = rule.series
        self.json = bool(rule.json)
        self._pattern = _pattern(rule) if rule.match else None
        self._groups = [name for name in ("ip", "time", "n") if self._pattern and name in self._pattern.groupindex]
        self._paths = {"ip": rule.json, "time": rule.json_time, "n": rule.json_n}
        self._where = {tuple(path.split(".")): value for path, value in rule.where.items()}

    @property
    def plain(self) -> bool:
        """Whether an event is nothing but an address: then `addresses` will do."""
        return self._groups == ["ip"]

    def addresses(self, records: Sequence[bytes]) -> list[bytes]:
        """The addresses of a batch, for a plain rule."""
        assert self._pattern is not None
        group = self._pattern.groupindex["ip"]
        return [match[group] or b"" for match in map(self._pattern.search, records) if match is not None]

    def events(self, records: Sequence[bytes], documents: Sequence[object]) -> Mapping[Event, int]:
        """The events of a batch and how often each occurs. `documents` are the records as JSON, for rules of that
        kind."""
        if self._pattern is None:
            return Counter(self._from_json(documents))
        found = [match for match in map(self._pattern.search, records) if match is not None]
        columns = [[m[name] or b"" for m in found] if name in self._groups else [b""] * len(found) for name in _ALL]
        return Counter(event for event in zip(*columns, strict=True) if event[0])

    def _from_json(self, documents: Iterable[object]) -> Iterable[Event]:
        paths = [tuple(self._paths[name].split(".")) if self._paths[name] else () for name in _ALL]
        for document in documents:
            if all(_field(document, path) == value for path, value in self._where.items()):
                ip, time, n = (_text(_field(document, path)) if path else b"" for path in paths)
                if ip:
                    yield ip, time, n


_ALL = ("ip", "time", "n")


def documents_of(records: Sequence[bytes]) -> list[Any]:
    """The records as JSON; None for one that is none."""
    found: list[Any] = []
    decode = msgspec.json.decode
    for record in records:
        try:
            found.append(decode(record))
        except msgspec.DecodeError:
            found.append(None)
    return found


def _field(document: object, path: tuple[str, ...]) -> object:
    for key in path:
        if not isinstance(document, dict):
            return None
        document = document.get(key)
    return document


def _text(value: object) -> bytes:
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, int | float) and not isinstance(value, bool):
        return repr(value).encode()
    return b""


def parse_amount(text: bytes) -> int | None:
    """A whole number, or None: fractions cannot be counted, and neither can what would overflow."""
    try:
        value = int(text)
    except ValueError:
        return None
    return value if -AMOUNT_MAX <= value <= AMOUNT_MAX else None


@lru_cache(maxsize=65536)
def parse_time(text: bytes, near: int, zone: tzinfo = UTC) -> int | None:
    """Seconds of an event's own time: seconds (or milli-, micro-, nanoseconds) since 1970, ISO 8601, or syslog's
    `Dec 10 06:55:46`, whose year is the last in which it was not ahead of `near`. None when it is none of these.

    A time without a zone is in `zone`.
    """
    word = text.decode("ascii", "replace").strip()
    try:
        number = float(word)
    except ValueError:
        return _iso(word, zone) if word[:1].isdigit() else _syslog(word, near, zone)
    if not 0 <= number < 1e20:
        return None
    while number >= 1e11:  # the year 5138 in seconds: larger numbers are in a smaller unit
        number /= 1000
    return int(number)


def _iso(word: str, zone: tzinfo) -> int | None:
    try:
        found = datetime.fromisoformat(word)
        found = found if found.tzinfo else found.replace(tzinfo=zone)
        return int(found.timestamp())
    except (ValueError, OverflowError):
        return None


def _syslog(word: str, near: int, zone: tzinfo) -> int | None:
    found = _SYSLOG.match(word)
    if found is None or found[1] not in _MONTHS:
        return None
    year = datetime.fromtimestamp(near, zone).year
    times = []
    for candidate in (year - 1, year, year + 1):
        try:
            moment = datetime(
                candidate, _MONTHS[found[1]], int(found[2]), int(found[3]), int(found[4]), int(found[5]), tzinfo=zone
            )
        except ValueError:
            continue  # 29 February of a year that has none
        times.append(int(moment.timestamp()))
    return max((at for at in times if at <= near + AHEAD_SECONDS), default=None)


def grouped_near(seconds: int) -> int:
    """`near` for `parse_time`, coarse enough that its memory is of use: the day."""
    return seconds // 86400 * 86400 + 43200
