"""The configuration: `cidr.toml` as frozen structs.

    [as_logger]             base_dir, log_interval, zone, origin, subscriber, logs, series_include_default,
    series_include, ... [[as_logger.extract]]   log, series, match or json
    [cidr.maintain]         keep_minutes, keep_hours, keep_days, keep_months, settle
    [[cidr.maintain.series]]  match, and any of the above: the first that matches a series holds for it
    [cidr.server]           the server's own

A mistake is a ConfigError that names file, line and setting, as in `jlogd.toml`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from math import gcd
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from cidr.extract import Rule, rule_mistakes
from cidr.names import ORIGIN, default_origin
from cidr.times import HOUR, hours_begin, zone_named
from jlogd.daemon.toml_structs import Mistake, TomlText, read_struct, text_of
from jlogd.daemon.units import Duration
from jlogd.errors import ConfigError, JlogError

DAY = 86400
FOREVER = 0
Text = Annotated[str, Meta(min_length=1, max_length=1024)]
# A rule is run over every record of its log.
RULES_MAX = 200


class AsLogger(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is counted, from which logs, into which directory."""

    base_dir: Text = "var/aslogger"
    log_interval: Annotated[int, Meta(ge=1, le=HOUR)] = 60
    zone: str = "UTC"
    origin: Annotated[str, Meta(pattern=rf"\A{ORIGIN.pattern}\Z")] = msgspec.field(default_factory=default_origin)
    subscriber: Text = "as_logger"
    logs: Text = "var/spool"
    start: Literal["begin", "end"] = "begin"
    audit: str = ""
    series_include_default: Literal["all", "none"] | None = None
    series_include: tuple[str, ...] = ()
    series_exclude: tuple[str, ...] = ()
    extract: Annotated[tuple[Rule, ...], Meta(max_length=RULES_MAX)] = ()

    @property
    def includes(self) -> Literal["all", "none"]:
        """What holds for a series that no pattern is about. Who names neither this nor any series to include wants
        those of the rules, and has nothing else."""
        return self.series_include_default or ("none" if self.series_include else "all")

    def wants(self, series: str) -> bool:
        """Whether the series is kept: as of old, patterns match anywhere in the name, and only one list is looked
        at."""
        if self.includes == "all":
            return not any(re.search(pattern, series) for pattern in self.series_exclude)
        return any(re.search(pattern, series) for pattern in self.series_include)

    def not_wanted(self) -> list[str]:
        """Series of rules that are not kept: their rules are not applied."""
        return [series for series in dict.fromkeys(rule.series for rule in self.extract) if not self.wants(series)]

    def why_not(self, series: Sequence[str]) -> str:
        """Why these are not kept, and what to change, in words."""
        names = ", ".join(series)
        if self.includes == "all":
            return f"{names} left out by series_exclude"
        found = "no pattern of series_include is found in it" if self.series_include else "series_include names none"
        return f'{names} left out: series_include_default is "none", and {found}'

    def check_counts(self) -> None:
        """Raises ConfigError when nothing could ever be counted: the logs would be read for nothing, and be pruned."""
        by_audit = self.audit and (self.includes == "all" or self.series_include)
        if self.extract and not by_audit and len(self.not_wanted()) == len({rule.series for rule in self.extract}):
            raise ConfigError(
                f"as_logger would count nothing: {self.why_not(self.not_wanted())}; add it to series_include, or leave"
                " out series_include_default and series_include: then the series of all rules are counted"
            )

    def target(self, log: str) -> str:
        """Where a log is: a directory or an address is taken as it is, a name is one of `logs`."""
        return log if "/" in log else f"{self.logs.rstrip('/')}/{log}"

    def targets(self) -> list[str]:
        """All logs that are read."""
        named = [rule.log for rule in self.extract] + ([self.audit] if self.audit else [])
        return list(dict.fromkeys(self.target(log) for log in named))


class Keep(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long each tier is kept; 0 is for ever. `settle`: how long after its end an interval may still be added to."""

    keep_minutes: Duration = Duration(2 * DAY)
    keep_hours: Duration = Duration(35 * DAY)
    keep_days: Duration = Duration(400 * DAY)
    keep_months: Duration = Duration(FOREVER)
    settle: Duration = Duration(600)
    condense: bool = True


class SeriesKeep(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is different for the series that match."""

    match: str
    keep_minutes: Duration | None = None
    keep_hours: Duration | None = None
    keep_days: Duration | None = None
    keep_months: Duration | None = None
    settle: Duration | None = None
    condense: bool | None = None

    def __post_init__(self) -> None:
        if reason := _not_a_regex(self.match):
            raise ValueError(f"match: {reason}")


class Maintain(Keep, frozen=True, forbid_unknown_fields=True):
    """Retention and condensing: what holds for every series, and what is different for some."""

    series: tuple[SeriesKeep, ...] = ()

    def keep(self, series: str) -> Keep:
        """What holds for a series."""
        values: dict[str, Any] = {name: getattr(self, name) for name in Keep.__struct_fields__}
        for rule in self.series:
            if re.search(rule.match, series):
                found = {name: getattr(rule, name) for name in Keep.__struct_fields__}
                values |= {name: value for name, value in found.items() if value is not None}
                break
        return Keep(**values)


class Cidr(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The tables below `cidr`."""

    maintain: Maintain = Maintain()
    server: dict[str, Any] = {}


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All of `cidr.toml`."""

    as_logger: AsLogger = AsLogger()
    cidr: Cidr = Cidr()


def load(path: Path) -> Config:
    """The configuration in a file. Raises ConfigError."""
    return parse(text_of(path), str(path))


def parse(text: str, path: str = "cidr.toml") -> Config:
    """The configuration in a text; `path` is only for messages. Raises ConfigError."""
    toml = TomlText(text, path)
    mistakes: list[Mistake] = []
    config = read_struct(Config, toml.table, mistakes)
    mistakes += _mistakes(toml.table.get("as_logger"))
    if config is None or mistakes:
        raise toml.error(mistakes)
    return config


def _mistakes(given: object) -> Iterator[Mistake]:
    """What is wrong with values of [as_logger] that have the right type. Of the values as they are in the file, so that
    a mistake elsewhere hides none of these."""
    settings = given if isinstance(given, dict) else {}
    zone, interval = settings.get("zone"), settings.get("log_interval")
    hour = HOUR
    if isinstance(zone, str):
        try:
            hour = gcd(HOUR, hours_begin(zone_named(zone)))
        except JlogError as error:
            yield Mistake(("as_logger", "zone"), str(error))
    if isinstance(interval, int) and 1 <= interval <= HOUR and hour % interval:
        what = "an hour" if hour == HOUR else f"{hour}, for so the hours of {zone} begin"
        yield Mistake(
            ("as_logger", "log_interval"), f"found {interval}; accepted: seconds that divide {what}, such as 60"
        )
    for name in ("series_include", "series_exclude"):
        for at, pattern in enumerate(_list(settings.get(name))):
            if isinstance(pattern, str) and (reason := _not_a_regex(pattern)):
                yield Mistake(("as_logger", name, at), reason)
    for at, table in enumerate(_list(settings.get("extract"))):
        rule = read_struct(Rule, table, []) if isinstance(table, dict) else None
        for name, reason in rule_mistakes(rule) if rule else ():
            yield Mistake(("as_logger", "extract", at, *([name] if name else [])), reason)


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _not_a_regex(pattern: str) -> str:
    """What is wrong with it; empty when it is one."""
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        return f'"{pattern}" is not a regular expression: {error}'
    return ""
