"""The file of the daemon's configuration: from its text to a `Config`, or to everything that is wrong with it.

A file that is wrong in any way raises ConfigError with one line per mistake: file, line, field, what was found, what
is accepted. First every table is read by itself; what can be read of them is then checked (config_checks.py), so that
all mistakes are told at once.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from jlogd.daemon.config import UNIT_FIELDS, Config
from jlogd.daemon.config_checks import CHECKS
from jlogd.daemon.toml_structs import Mistake, TomlText, read_struct, text_of


def load(path: str | os.PathLike[str]) -> Config:
    """The configuration in the file at `path`. Raises ConfigError."""
    return parse(text_of(path), os.fspath(path))


def parse(text: str, path: str = "jlogd.toml") -> Config:
    """The configuration in `text`; `path` is only for messages. Raises ConfigError."""
    toml = TomlText(text, path)
    mistakes: list[Mistake] = []
    config = read_struct(Config, toml.table, mistakes, units=UNIT_FIELDS)
    wrong = {mistake.path[0] for mistake in mistakes if mistake.path}
    # What stands in tables that can be read is checked all the same: all mistakes at once.
    sound = config or read_struct(Config, _without(toml.table, mistakes), [], units=UNIT_FIELDS)
    if sound is not None:
        checks = [check for check, tables in CHECKS if not wrong.intersection(tables)]
        mistakes += [mistake for check in checks for mistake in check(sound)]
    if config is None or mistakes:
        raise toml.error(mistakes)
    return config


def _without(table: Mapping[str, object], mistakes: Sequence[Mistake]) -> dict[str, object]:
    """The tables in which nothing is wrong; of the logs each by itself."""
    wrong = {mistake.path[:1] for mistake in mistakes}
    left = {key: value for key, value in table.items() if (key,) not in wrong}
    logs, bad = table.get("log"), {mistake.path[:2] for mistake in mistakes if mistake.path[:1] == ("log",)}
    if isinstance(logs, dict) and ("log",) not in bad:
        left["log"] = {name: log for name, log in logs.items() if ("log", name) not in bad}
    return left
