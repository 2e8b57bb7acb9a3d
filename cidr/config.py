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
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from cidr.extract import Rule, check_rule
from cidr.names import ORIGIN, default_origin
from cidr.times import HOUR, zone_named
from jlogd.daemon.toml_structs import Mistake, TomlText, read_struct
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
    series_include_default: Literal["all", "none"] = "none"
    series_include: tuple[str, ...] = ()
    series_exclude: tuple[str, ...] = ()
    extract: Annotated[tuple[Rule, ...], Meta(max_length=RULES_MAX)] = ()

    def __post_init__(self) -> None:
        zone_named(self.zone)
        if HOUR % self.log_interval:
            raise ValueError(
                f"log_interval: found {self.log_interval}; accepted: seconds that divide an hour, such as 60"
            )
        for pattern in (*self.series_include, *self.series_exclude):
            _regex(pattern)

    def wants(self, series: str) -> bool:
        """Whether the series is kept: as of old, patterns match anywhere in the name, and only one list is looked
        at."""
        if self.series_include_default == "all":
            return not any(re.search(pattern, series) for pattern in self.series_exclude)
        return any(re.search(pattern, series) for pattern in self.series_include)

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
        _regex(self.match)


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
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: cannot be read: it is no text in UTF-8") from None
    return parse(text, str(path))


def parse(text: str, path: str = "cidr.toml") -> Config:
    """The configuration in a text; `path` is only for messages. Raises ConfigError."""
    toml = TomlText(text, path)
    mistakes: list[Mistake] = []
    config = read_struct(Config, toml.table, mistakes)
    if config is not None:
        for at, rule in enumerate(config.as_logger.extract):
            try:
                check_rule(rule)
            except JlogError as error:
                mistakes.append(Mistake(("as_logger", "extract", at), str(error)))
    if config is None or mistakes:
        raise toml.error(mistakes)
    return config


def _regex(pattern: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f'"{pattern}" is not a regular expression: {error}') from None
