"""The ancestor's `cidr_maintain.conf`, as a policy of ours.

    auto = true | false        every series, or only those of `series`
    series = rbl zombie
    retention = 30             days; what is older is deleted, in whatever tier
    condense = 0               days after which counts are condensed; 0: as soon as the hour, day or month is over
    basedir = /var/log/eccluster/aslogger

Its own documentation contradicts itself on `condense`; this is the reading under which all its examples make sense.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cidr.config import DAY, Maintain
from jlogd.daemon.units import Duration
from jlogd.errors import ConfigError

KEYS = ("auto", "series", "retention", "condense", "basedir")
DEFAULT_BASE = Path("/var/log/eccluster/aslogger")


@dataclass(frozen=True, slots=True)
class OldConf:
    """What the file says. `only`: these series; None: all."""

    base_dir: Path
    only: list[str] | None
    policy: Maintain


def read_old_conf(path: Path) -> OldConf:
    """Raises ConfigError, which names the line."""
    try:
        lines = path.read_text("utf-8", "replace").splitlines()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    found: dict[str, str] = {}
    where: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        key, equals, value = (part.strip() for part in text.partition("="))
        if not equals or key not in KEYS:
            raise ConfigError(f"{path}:{number}: found {key}; accepted: KEY = VALUE, with one of {', '.join(KEYS)}")
        found[key], where[key] = value.strip("\"'"), number

    def read(key: str, default: str, convert: Callable[[str], int]) -> int:
        try:
            return convert(found.get(key, default))
        except (ValueError, KeyError):
            raise ConfigError(f"{path}:{where[key]}: {key}: found {found[key]}; accepted: {_ACCEPTED[key]}") from None

    every = read("auto", "true", lambda word: _YES[word.lower()])
    retention = read("retention", "30", _days)
    settle = read("condense", "0", _days)
    return OldConf(
        Path(found.get("basedir", DEFAULT_BASE)),
        None if every else found.get("series", "").split(),
        _policy(retention * DAY, settle * DAY),
    )


_YES = {"true": 1, "yes": 1, "1": 1, "on": 1, "false": 0, "no": 0, "0": 0, "off": 0}
_ACCEPTED = {"auto": "true or false", "retention": "days", "condense": "days"}


def _days(word: str) -> int:
    days = int(word)
    if not 0 <= days <= 100_000:
        raise ValueError(word)
    return days


def _policy(retention: int, settle: int) -> Maintain:
    usual = Maintain()

    def shorter(seconds: Duration) -> Duration:
        return Duration(min(int(seconds) or retention, retention)) if retention else seconds

    return Maintain(
        keep_minutes=shorter(usual.keep_minutes),
        keep_hours=shorter(usual.keep_hours),
        keep_days=shorter(usual.keep_days),
        keep_months=shorter(usual.keep_months),
        settle=Duration(settle or usual.settle),
    )
