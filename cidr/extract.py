"""Events out of records: by a regular expression or by the fields of a JSON document.

A rule yields at most one event a record: an address, and perhaps the event's own time and amount. All of a batch is
done at once: the expression runs over all records in one call (`cidr.lines`; where that cannot be, record by record),
equal events are counted by a `Counter`, and what costs Python code (parsing an amount, a time, an address) is done once
for each different text. Most of the time is the expression's own.

    match = 'Failed password for .* from (?P<ip>\\S+)'       groups: ip, and perhaps time, n
    json = "client.ip"                                        a path of keys; json_time, json_n the same
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, tzinfo
from functools import cached_property, lru_cache
from operator import itemgetter
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta

from cidr.lines import over_lines
from cidr.names import check_series
from jlogd.errors import UsageError

if TYPE_CHECKING:
    import jlogd

# Clocks differ a little; an event further in the future than this is counted when it was logged instead.
FUTURE_SECONDS_MAX = 3600
# An amount beyond this would not survive being added up in 64 bits.
AMOUNT_MAX = 1 << 48
# The year 5138: larger numbers are in a smaller unit than seconds. Every zone has a calendar from 1970 until then.
SECONDS_MAX = 10**11
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
    for _, reason in rule_mistakes(rule):
        raise UsageError(reason)


def rule_mistakes(rule: Rule) -> Iterator[tuple[str, str]]:
    """All that is wrong with a rule: the setting (empty for the rule as such), and why."""
    try:
        check_series(rule.series)
    except UsageError as error:
        yield "series", str(error)
    if bool(rule.match) == bool(rule.json):
        yield "", "a rule needs either match (a regular expression) or json (the path of a field)"
    if rule.match and (rule.json_time or rule.json_n or rule.where):
        yield "", "json_time, json_n and where go with json, not with match"
    if rule.match:
        try:
            _pattern(rule)
        except UsageError as error:
            yield "match", str(error)


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


class Records:
    """The records of a batch: as one text of lines where none holds a newline, and one by one for who needs that."""

    def __init__(self, batch: jlogd.Batch) -> None:
        """Raises FormatError when the batch does not hold as many records as it says."""
        self._batch = batch
        text = batch.text()
        self.lines = text if text.count(b"\n") == batch.count else None
        if self.lines is None:
            self.each  # noqa: B018 - a batch that is wrong is refused here

    def __len__(self) -> int:
        return self._batch.count

    @cached_property
    def each(self) -> list[bytes]:
        """One by one."""
        return self._batch.records()


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
        self._over_lines = over_lines(rule.match.encode()) if rule.match else None
        self._groups = dict(self._pattern.groupindex) if self._pattern else {}
        self._paths = {"ip": rule.json, "time": rule.json_time, "n": rule.json_n}
        self._where = {tuple(path.split(".")): value for path, value in rule.where.items()}

    @property
    def plain(self) -> bool:
        """Whether an event is nothing but an address: then `addresses` will do."""
        return list(self._groups) == ["ip"]

    def addresses(self, records: Records) -> list[bytes]:
        """The addresses of a batch, for a plain rule."""
        return self._column("ip", self._found(records))

    def events(self, records: Records, documents: Sequence[object]) -> Mapping[Event, int]:
        """The events of a batch and how often each occurs. `documents` are the records as JSON, for rules of that
        kind."""
        if self._pattern is None:
            return Counter(self._from_json(documents))
        found = self._found(records)
        events = Counter(zip(*(self._column(name, found) for name in _ALL), strict=True))
        for event in [event for event in events if not event[0]]:
            del events[event]
        return events

    def _found(self, records: Records) -> list[Any]:
        """Of each record in which the expression is found, the text of its group, or of its groups if it has several;
        empty for one that took no part."""
        assert self._pattern is not None
        if self._over_lines is not None and records.lines is not None:
            return self._over_lines.findall(records.lines)
        found = [match for match in map(self._pattern.search, records.each) if match is not None]
        return [match[1] or b"" for match in found] if self._pattern.groups == 1 else [m.groups(b"") for m in found]

    def _column(self, name: str, found: list[Any]) -> list[bytes]:
        if name not in self._groups:
            return [b""] * len(found)
        several = self._pattern is not None and self._pattern.groups > 1
        return list(map(itemgetter(self._groups[name] - 1), found)) if several else found

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
        except (ValueError, RecursionError):  # msgspec: not JSON, not UTF-8, nested too deep
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
    `Dec 10 06:55:46`, whose year is the last in which it was not ahead of `near`. None when it is none of these, or
    before 1970.

    A time without a zone is in `zone`.
    """
    word = text.decode("ascii", "replace").strip()
    try:
        number = float(word)
    except ValueError:
        return _iso(word, zone) if word[:1].isdigit() else _syslog(word, near, zone)
    if not 0 <= number < 1e20:
        return None
    while number >= SECONDS_MAX:
        number /= 1000
    return int(number)


def _iso(word: str, zone: tzinfo) -> int | None:
    try:
        found = datetime.fromisoformat(word)
        found = found if found.tzinfo else found.replace(tzinfo=zone)
        seconds = int(found.timestamp())
    except (ValueError, OverflowError):
        return None
    return seconds if 0 <= seconds < SECONDS_MAX else None


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
