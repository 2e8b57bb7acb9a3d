"""Whatever stands in a configuration: it is one, or an error that says what is wrong."""

from __future__ import annotations

import json

from config_support import FULL
from hypothesis import example, given
from hypothesis import strategies as st

from jlogd.daemon.config import Config
from jlogd.daemon.config_file import parse
from jlogd.errors import ConfigError

WORDS = ["node", "listen", "log", "source", "syslog", "file", "stdin", "name", "spool", "zmq", "http", "subscribers"]
WORDS += [
    "segment_size",
    "max_lag_age",
    "on_full",
    "a",
    "'b c'",
    '"\\u0007"',
    "paths",
    "idle_timeout",
    "log.a.durability",
]
VALUES = [
    "1",
    "-1",
    "1.5",
    "nan",
    "true",
    "''",
    "'x'",
    "'64MiB'",
    "'7d'",
    "'block'",
    "[]",
    "['a', 'a']",
    "[1, [2]]",
    "{}",
]
VALUES += [
    "{a = 1}",
    "'tcp://127.0.0.1:5140'",
    "['ipc://x']",
    "1979-05-27",
    "07:32:00",
    "'%{node}'",
    "'%{'",
    '"\\u0000"',
]
LINES = st.one_of(
    st.builds(" = ".join, st.tuples(st.sampled_from(WORDS), st.sampled_from(VALUES))),
    st.builds("[{}]".format, st.lists(st.sampled_from(WORDS), min_size=1, max_size=3).map(".".join)),
    st.builds("[[{}]]".format, st.lists(st.sampled_from(WORDS), min_size=1, max_size=3).map(".".join)),
    st.sampled_from(FULL.split("\n")),
    st.text(max_size=20),
)


def only_config_or_config_error(text: str) -> None:
    try:
        assert isinstance(parse(text), Config)
    except ConfigError as error:
        assert str(error)


@given(st.lists(LINES, max_size=12).map("\n".join))
def test_fuzz_lines(text: str) -> None:
    only_config_or_config_error(text)


@given(st.text(max_size=200))
@example("\ud800 = 1")
@example("x = '\ud800'")
@example("a.b = 1\na = {}")
def test_fuzz_text(text: str) -> None:
    only_config_or_config_error(text)


@given(st.integers(0, len(FULL) - 1), st.text(max_size=3), st.integers(0, 3))
def test_fuzz_a_right_file_made_wrong(at: int, put: str, cut: int) -> None:
    only_config_or_config_error(FULL[:at] + put + FULL[at + cut :])


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=3),
        max_leaves=10,
    ),
    st.sampled_from(
        ["node", "listen.zmq", "log", "log.a", "source", "source.syslog", "source.file", "log.a.subscribers"]
    ),
)
def test_fuzz_types(value: object, where: str) -> None:
    only_config_or_config_error(f"{where} = {_toml(value)}")


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return json.dumps(value) if isinstance(value, str | bool) else repr(value)
