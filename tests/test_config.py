"""The configuration: what is accepted, how mistakes are told, what a reload applies, and that the docs say it all."""

from __future__ import annotations

import datetime
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from jlogd.daemon.auth import Auth, AuthClient, Grants
from jlogd.daemon.config import (
    UNIT_FIELDS,
    Config,
    Listen,
    LogConfig,
    Node,
    Sources,
    host_name,
    load,
    parse,
    source_names,
)
from jlogd.daemon.defaults import DEFAULT_TOML, default_config, paste_lines
from jlogd.daemon.reload import NEEDS_RESTART, Change, reload_plan
from jlogd.daemon.toml_lines import DEPTH_MAX, key_lines, line_of
from jlogd.daemon.toml_structs import MISTAKES_SHOWN_MAX, TEXT_BYTES_MAX
from jlogd.daemon.units import Duration, Size, duration_text, parse_duration, parse_size, size_text
from jlogd.errors import ConfigError
from jlogd.journal.types import Caps, Settings
from jlogd.manager.config import ManagedNode, ManagerConfig, PullRule
from jlogd.sources.config import FileSource, StdinSource, SyslogSource

ROOT = Path(__file__).parent.parent
PACKAGING = ROOT / "packaging"
DOCS = ROOT / "docs" / "configuration.md"

FULL = """\
[node]
name = "east1"
subcluster = "east"
spool = "/var/lib/jlogd/%{subcluster}/%{node}"

[listen]
zmq = ["tcp://127.0.0.1:5140", "ipc:///run/jlogd/jlogd.sock"]
http = "[::1]:5180"

[log.mainlog]
subscribers = ["master", "backup.2"]
segment_size = "16MiB"
durability = "interval=500ms"
compression = "zstd"
max_lag_bytes = "10GiB"
max_lag_age = "7d"
on_full = "drop-oldest"

[log."bounce.log"]

[[source.syslog]]
log = "mainlog"
listen = ["udp://127.0.0.1:5514", "tcp://127.0.0.1:5514"]
format = "json"
idle_timeout = "5m"
message_bytes_max = "8KiB"

[[source.file]]
log = "bounce.log"
paths = ["/var/log/*.log"]

[[source.stdin]]
log = "mainlog"
"""


def wrong(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text, "jlogd.toml")
    return str(caught.value).split("\n")


# What is accepted


def test_a_whole_configuration() -> None:
    config = parse(FULL)
    assert config.node == Node(name="east1", subcluster="east", spool="/var/lib/jlogd/%{subcluster}/%{node}")
    assert config.spool == Path("/var/lib/jlogd/east/east1")
    assert config.listen.zmq == ("tcp://127.0.0.1:5140", "ipc:///run/jlogd/jlogd.sock")
    assert config.http == ("::1", 5180) and str(config.http) == "[::1]:5180"
    assert list(config.log) == ["mainlog", "bounce.log"]
    caps = Caps(max_bytes=10 << 30, max_age=7 * 86400.0, on_full="drop-oldest")
    assert config.log["mainlog"].settings == Settings(
        segment_bytes=16 << 20, durability="interval=500ms", compression="zstd", caps=caps
    )
    assert config.log["bounce.log"].settings == Settings()
    assert [(kind, at, source.log) for kind, at, source in config.all_sources()] == [
        ("syslog", 0, "mainlog"),
        ("file", 0, "bounce.log"),
        ("stdin", 0, "mainlog"),
    ]
    assert config.source.syslog[0].idle_timeout == 300 and config.source.syslog[0].message_bytes_max == 8192


def test_an_empty_file_has_the_defaults() -> None:
    config = parse("")
    assert config == Config() and config.node.name == host_name()
    assert config.spool == Path("var/spool") and config.log == {}
    assert config.listen == Listen(zmq=("tcp://127.0.0.1:5140",), http="127.0.0.1:5180")


def test_a_byte_order_mark_and_dos_lines_are_accepted() -> None:
    assert parse("\ufeff" + FULL.replace("\n", "\r\n")) == parse(FULL)


def test_listeners_can_be_turned_off() -> None:
    config = parse('[listen]\nzmq = []\nhttp = ""')
    assert config.listen.zmq == () and config.http is None


def test_the_configuration_never_changes() -> None:
    with pytest.raises(AttributeError):
        parse(FULL).node.name = "other"  # type: ignore[misc]


def test_port_zero_may_be_asked_for_twice() -> None:
    config = parse('[listen]\nzmq = ["tcp://127.0.0.1:0", "tcp://127.0.0.1:0"]\nhttp = "127.0.0.1:0"')
    assert config.http is not None and config.http.port == 0


# Mistakes: file, line, field, found, accepted

LOG = '[log.mainlog]\nsubscribers = ["master"]\n'
MISTAKES = [
    ('[node]\nnaem = "x"', "jlogd.toml:2: node.naem: unknown setting; did you mean name?"),
    ('[nod]\nname = "x"', "jlogd.toml:1: nod: unknown setting; did you mean node?"),
    ("zzz = 1", "jlogd.toml:1: zzz: unknown setting; accepted: auth, listen, log, manager, node, source"),
    ("[[source.sylog]]", "jlogd.toml:1: source.sylog: unknown setting; did you mean syslog?"),
    ('[node]\n\nname = "a b"', 'jlogd.toml:3: node.name: found "a b"; accepted: 1 to 64 letters'),
    ('[node]\nname = "a\\n"', 'jlogd.toml:2: node.name: found "a\\n"; accepted'),
    ('node.name = ".x"', 'jlogd.toml:1: node.name: found ".x"'),
    ("node = 3", "jlogd.toml:1: node: found 3; accepted: a table"),
    ("[[log]]", "jlogd.toml:1: log: found an array; accepted: a table"),
    ("[source.syslog]\nlog = 'x'", "jlogd.toml:1: source.syslog: found a table; accepted: tables ([[...]])"),
    ("[listen]\nzmq = [\n  'tcp://127.0.0.1:1',\n  5,\n]", "jlogd.toml:4: listen.zmq[1]: found 5; accepted: a string"),
    ("[listen]\nzmq = 'tcp://127.0.0.1:1'", 'jlogd.toml:2: listen.zmq: found "tcp://127.0.0.1:1"; accepted: an array'),
    (
        "[listen]\nzmq = ['tcp://0.0.0.0:5140']",
        "listen.zmq[0]: tcp://0.0.0.0:5140 is not a loopback address: it needs a key of this daemon",
    ),
    (
        "[listen]\nzmq = ['udp://127.0.0.1:5140']",
        "jlogd.toml:2: listen.zmq[0]: 'udp://127.0.0.1:5140' is not an address",
    ),
    ("[listen]\nhttp = '0.0.0.0:80'", "another address of this host with http_open = true"),
    ("[listen]\nhttp = 5180", 'jlogd.toml:2: listen.http: found 5180; accepted: "127.0.0.1:PORT"'),
    ("[listen]\nhttp = '127.0.0.1:99999'", 'listen.http: found "127.0.0.1:99999"; accepted: "127.0.0.1:PORT"'),
    (
        "[listen]\nzmq = ['tcp://127.0.0.1:5180']",
        'listen.http: found "127.0.0.1:5180", which listen.zmq uses; accepted: an address of its own',
    ),
    (
        "[log.a]\nsegment_size = '64M'",
        'jlogd.toml:2: log.a.segment_size: found "64M"; accepted: a size such as "64MiB"',
    ),
    ("[log.a]\nsegment_size = '64M'", 'write "64MiB" (powers of 1024) or "64MB" (1000)'),
    ("[log.a]\nsegment_size = '1TiB'", 'log.a.segment_size: found "1TiB"; accepted: a size of 4KiB to 2GiB'),
    ("[log.a]\nsegment_size = true", "log.a.segment_size: found true; accepted: a size"),
    ("[log.a]\nmax_lag_age = 7", "found 7; accepted: a duration such as"),
    ("[log.a]\nmax_lag_age = 7", "a number needs a unit"),
    ("[log.a]\nmax_lag_age = '7d'", 'accepted: a cap on age with on_full = "drop-oldest"'),
    ("[log.a]\non_full = 'drop'", 'jlogd.toml:2: log.a.on_full: found "drop"; accepted: "block" or "drop-oldest"'),
    ("[log.a]\ndurability = 'fsync'", 'found "fsync"; accepted: "commit", "interval=500ms" (1ms to 60s) or "os"'),
    ("[log.a]\ndurability = 'interval=2h'", 'found "interval=2h"; accepted: "commit"'),
    (f"[log.a]\ndurability = 'interval={'9' * 900}s'", "log.a.durability: found"),
    ("[log.a]\nsubscribers = ['x', 'y', 'x']", 'log.a.subscribers[2]: found "x" twice; accepted: each subscriber once'),
    ('[log."-a"]', 'jlogd.toml:1: log.-a: found "-a"; accepted as the name of a log'),
    ('[log."a/b"]\nsegment_size = 1', 'log."a/b"'),
    (LOG + "[[source.syslog]]\nlog = 'mainlog'", "jlogd.toml:3: source.syslog[0].listen: missing; accepted: "),
    (
        LOG + "[[source.stdin]]\nlog = 'mainlgo'",
        'jlogd.toml:4: source.stdin[0].log: found "mainlgo", a log that no [log.NAME] declares; did you mean mainlog?',
    ),
    (LOG + "[[source.stdin]]\nlog = 'mainlog'\n" * 2, "jlogd.toml:5: source.stdin[1]: found a second table"),
    (
        LOG + "[[source.syslog]]\nlog = 'mainlog'\nlisten = ['udp://192.168.0.1:514']",
        'jlogd.toml:5: source.syslog[0].listen: found "udp://192.168.0.1:514"; accepted: only loopback',
    ),
    (
        LOG + "[[source.syslog]]\nlog = 'mainlog'\nlisten = ['tcp://127.0.0.1:5140']",
        'source.syslog[0].listen[0]: found "tcp://127.0.0.1:5140", which listen.zmq uses',
    ),
    (
        LOG + "[[source.syslog]]\nlog = 'mainlog'\nlisten = ['udp://127.0.0.1:514']\nidle_timeout = 5.5",
        "source.syslog[0].idle_timeout: found 5.5; accepted: a duration",
    ),
    ("[node]\nspool = '/x/%{nod}'", 'jlogd.toml:2: node.spool: found "%{nod}"; did you mean node?'),
    ("[node]\nspool = '/x/%{node'", "accepted: placeholders closed by a brace"),
    ('[node]\nspool = "/x/\\u0000"', "accepted: a path without control characters"),
    ("[node]\nspool = ''", 'node.spool: found ""; accepted: a text of 1 to 1024 characters'),
    ("[node\n", "jlogd.toml:1: not valid TOML: "),
    ("[node]\n\nname = \n", "jlogd.toml:3: not valid TOML: Invalid value"),
    ("[node]\nname = 'x", "jlogd.toml:2: not valid TOML: "),
    ("[log.a]\n[log.a]", "jlogd.toml:2: not valid TOML: Cannot declare"),
    ("x = " + "[" * 5000, "nested too deeply"),
    ("x = " + "9" * 5000, "not valid TOML"),
    ("node.name = 0x" + "f" * 5000, "found a number beyond 64 bits"),
    ("node.name = 1979-05-27T07:32:00Z", "found 1979-05-27 07:32:00+00:00; accepted"),
    ("#" * (TEXT_BYTES_MAX + 1), f"accepted: a configuration of at most {TEXT_BYTES_MAX}"),
    ("[node]\n'\\u001b[31m' = 1", "unknown setting"),
]


@pytest.mark.parametrize(("text", "message"), MISTAKES, ids=range(len(MISTAKES)))
def test_a_mistake_is_named(text: str, message: str) -> None:
    lines = wrong(text)
    assert any(message in line for line in lines), lines
    assert all(line.startswith("jlogd.toml") and line.isprintable() for line in lines)


def test_all_mistakes_are_reported_in_the_order_of_the_file() -> None:
    lines = wrong("[log.a]\non_full = 1\ncompresion = 'zstd'\n[node]\nname = ''\n[[source.stdin]]\n")
    assert [line.split(": ")[:2] for line in lines] == [
        ["jlogd.toml:2", "log.a.on_full"],
        ["jlogd.toml:3", "log.a.compresion"],
        ["jlogd.toml:5", "node.name"],
        ["jlogd.toml:6", "source.stdin[0].log"],
    ]


def test_very_many_mistakes_are_cut() -> None:
    lines = wrong("\n".join(f"unknown{number} = 1" for number in range(100)))
    assert len(lines) == MISTAKES_SHOWN_MAX + 1 and lines[-1] == "jlogd.toml: and 80 more mistakes"


def test_load_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    with pytest.raises(ConfigError, match=r"my\.toml: cannot be read: No such file or directory"):
        load(path)
    path.write_bytes(b"[node]\nname = 'a'\n# \xe9\n")
    with pytest.raises(ConfigError, match=r"my\.toml:3: not valid TOML: found byte 0xe9; accepted: text in UTF-8"):
        load(path)
    path.write_text("[node]\nname = 1\n")
    with pytest.raises(ConfigError, match=r"my\.toml:2: node\.name: found 1"):
        load(path)
    path.write_text(FULL)
    assert load(path) == parse(FULL)
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load(tmp_path)


# Nothing but Config or ConfigError

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


# Lines of keys

KEYS = st.sampled_from(["a", "b", "c-d", '"q.q"', "'lit[x]'", '"\\u0041\\""', "a.b", 'a . "x#"', "1", '""'])
SCALARS = st.sampled_from(
    [
        "1",
        "-1.5e3",
        "true",
        "inf",
        "1979-05-27 07:32:00",
        '"text # ] }"',
        "'lit \\'",
        '"\\"\\\\"',
        '""',
        "''",
        '"""\nmore\nlines"""',
        '"""a "quoted" ""two"" end\\""""',
        '"""""" ',
        '"""x"""""',
        "'''\n[not.a.table]\nk = 1\n'''",
        "'''it''s'''''",
        '"""\\\n   folded \\\\"""',
        '"""#\\\\"""',
    ]
)
VALUES_DEEP = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: "[" + ", ".join(items) + "]"),
        st.lists(inner, min_size=1, max_size=3).map(lambda items: "[ # ]\n " + ",\n\n # c ]\n".join(items) + ", \n]"),
        st.dictionaries(st.sampled_from(["x", '"y z"', "p.q"]), inner, max_size=3).map(
            lambda table: "{" + ", ".join(f"{key} = {value}" for key, value in table.items()) + " }"
        ),
    ),
    max_leaves=6,
)
STATEMENTS = st.one_of(
    st.builds("{} = {}".format, KEYS, VALUES_DEEP),
    st.builds("  {}= {} # comment = 1".format, KEYS, VALUES_DEEP),
    st.builds("[{}]".format, KEYS),
    st.builds("[[ {} ]]  # x".format, KEYS),
    st.just("# [comment]\n\t"),
    st.just(""),
)


def all_paths(value: object, path: tuple[str | int, ...] = ()) -> set[tuple[str | int, ...]]:
    found = {path} if path else set()
    if isinstance(value, dict):
        for key, item in value.items():
            found |= all_paths(item, (*path, key))
    elif isinstance(value, list):
        for at, item in enumerate(value):
            found |= all_paths(item, (*path, at))
    return found


def keep_valid(statements: list[str]) -> str:
    """The statements that make a valid text, in order."""
    text = ""
    for statement in statements:
        try:
            tomllib.loads(text + statement + "\n")
        except tomllib.TOMLDecodeError:
            continue
        text += statement + "\n"
    return text


@given(st.lists(STATEMENTS, max_size=8).map(keep_valid), st.booleans())
def test_every_key_of_a_text_has_a_line(text: str, dos: bool) -> None:
    text = text.replace("\n", "\r\n") if dos else text
    lines = key_lines(text)
    assert set(lines) == all_paths(tomllib.loads(text))
    assert all(1 <= line <= text.count("\n") for line in lines.values())


@given(st.lists(STATEMENTS, max_size=8).map(keep_valid), VALUES_DEEP)
def test_the_line_is_where_the_key_stands(text: str, value: str) -> None:
    """A key of its own, put anywhere after any valid text, is found on exactly its line."""
    before = text + f"[marker]\nfirst = {value}\n"
    lines = key_lines(before + "here = 1\n[[rows]]\nk = 1\n[[rows]]\nk = [1,\n2]\n")
    at = before.count("\n") + 1
    assert lines["marker", "here"] == at
    assert lines["rows",] == lines["rows", 0] == at + 1 and lines["rows", 1] == at + 3
    assert lines["rows", 1, "k"] == lines["rows", 1, "k", 0] == at + 4 and lines["rows", 1, "k", 1] == at + 5


def test_deep_keys_cost_no_more_than_their_text() -> None:
    lines = key_lines("\n" + "a." * 50_000 + "a = [" + "[" * 100 + "]" * 100 + "]")
    assert max(map(len, lines)) == DEPTH_MAX and set(lines.values()) == {2}


def test_line_of_falls_back_to_the_table_above() -> None:
    assert line_of({("a",): 3}, ("a", "b", 0)) == 3 and line_of({}, ("a",)) == 0


# Sizes and durations


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("64MiB", 64 << 20),
        ("10GB", 10**10),
        ("1.5KiB", 1536),
        ("512", 512),
        (512, 512),
        ("7 kb", 7000),
        ("0", 0),
        ("none", 0),
        ("2TiB", 2 << 40),
        ("9b", 9),
    ],
)
def test_sizes(text: str | int, size: int) -> None:
    assert parse_size(text) == size and isinstance(parse_size(text), Size)


@pytest.mark.parametrize(
    "text", ["", "MiB", "-1", -1, "1.5", "64M", "1e3", "1 2", "\u0663", "9" * 30, 1 << 61, True, 1.0, None]
)
def test_wrong_sizes(text: object) -> None:
    with pytest.raises(ValueError, match=r'a size such as "64MiB" or "10GB"'):
        parse_size(text)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("500ms", 0.5),
        ("30s", 30),
        ("1h30m", 5400),
        ("7d", 604800),
        ("1.5h", 5400),
        ("2w", 1209600),
        ("100us", 0.0001),
        ("0", 0),
        (0, 0),
        ("none", 0),
        (" 5 s ", 5),
    ],
)
def test_durations(text: str | int, seconds: float) -> None:
    assert parse_duration(text) == seconds and isinstance(parse_duration(text), Duration)


@pytest.mark.parametrize("text", ["", "5", 5, "-1s", "s", "1h 30", "1y", "5S", "\u0661s", "9" * 18 + "d", 0.5, None])
def test_wrong_durations(text: object) -> None:
    with pytest.raises(ValueError, match='a duration such as "500ms"'):
        parse_duration(text)  # type: ignore[arg-type]


@given(st.integers(0, 1 << 60))
def test_a_size_survives_its_text(size: int) -> None:
    assert parse_size(size_text(size)) == size and str(Size(size)) == size_text(size)


@given(st.integers(0, 10**14))
def test_a_duration_survives_its_text(microseconds: int) -> None:
    assert parse_duration(duration_text(microseconds / 1e6)) == microseconds / 1e6


@given(st.text(max_size=70), st.text(max_size=70))
def test_no_name_leaves_the_directory_of_its_template(node: str, subcluster: str) -> None:
    text = f"[node]\nname = {json.dumps(node)}\nsubcluster = {json.dumps(subcluster)}\n"
    try:
        config = parse(f'{text}spool = "/san/%{{subcluster}}/%{{node}}"')
    except ConfigError:
        return
    assert config.spool.parent.parent == Path("/san") and config.spool.resolve() == config.spool


@given(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True))
def test_every_accepted_name_is_one_step_down(name: str) -> None:
    config = parse(f'[node]\nname = "{name}"\nspool = "/san/%{{node}}"')
    assert config.spool == Path("/san") / name and config.spool.resolve().parent == Path("/san")


# Reload


def test_an_equal_configuration_needs_nothing() -> None:
    assert reload_plan(parse(FULL), parse(FULL)) == ([], [])


def plan(old: str, new: str) -> tuple[list[Change], list[Change]]:
    return reload_plan(parse(FULL), parse(FULL.replace(old, new)))


def test_caps_are_applied() -> None:
    applied, refused = plan('"7d"', '"8d"')
    assert refused == []
    assert applied == [Change("change", ("log", "mainlog", "max_lag_age"), 7 * 86400.0, 8 * 86400.0)]
    assert str(applied[0]) == 'log.mainlog.max_lag_age: "7d" -> "8d"'


@pytest.mark.parametrize(
    ("field", "old", "new"),
    [
        ("segment_size", "16MiB", "32MiB"),
        ("durability", "interval=500ms", "commit"),
        ("compression", '"zstd"', '"none"'),
        ("max_lag_bytes", "10GiB", "none"),
        ("on_full", '"7d"\non_full = "drop-oldest"', '"none"\non_full = "block"'),
    ],
)
def test_every_setting_of_a_log_is_applied(field: str, old: str, new: str) -> None:
    applied, refused = plan(old, new)
    assert refused == [] and ("log", "mainlog", field) in [change.path for change in applied]


@pytest.mark.parametrize(
    ("old", "new", "setting"),
    [
        ('"east1"', '"east2"', "node.name"),
        ('"east"', '"west"', "node.subcluster"),
        ("/var/lib/jlogd/", "/srv/", "node.spool"),
        ("tcp://127.0.0.1:5140", "tcp://127.0.0.1:5141", "listen.zmq"),
        ("[::1]:5180", "127.0.0.1:5180", "listen.http"),
        ('[[source.stdin]]\nlog = "mainlog"\n', "", "source.stdin"),
    ],
)
def test_what_needs_a_restart_says_why(old: str, new: str, setting: str) -> None:
    applied, refused = plan(old, new)
    assert applied == [] and [change.reason for change in refused] == [NEEDS_RESTART[setting]]
    assert NEEDS_RESTART[setting] in str(refused[0])


def test_logs_and_subscribers() -> None:
    applied, refused = plan('["master", "backup.2"]', '["master", "new"]')
    assert applied == [Change("add", ("log", "mainlog", "subscribers", "new"))]
    assert [change.path for change in refused] == [("log", "mainlog", "subscribers", "backup.2")]
    assert "jlogctl subscriber remove" in refused[0].reason
    assert str(applied[0]) == "log.mainlog.subscribers.new: added"
    applied, refused = plan("[[source.stdin]]", "[log.third]\n[[source.stdin]]")
    assert applied == [Change("add", ("log", "third"), None, LogConfig())] and refused == []
    applied, refused = reload_plan(parse("[log.a]\n[log.b]"), parse("[log.a]"))
    assert applied == [] and [change.path for change in refused] == [("log", "b")]


def test_sources_are_removed_before_they_are_added() -> None:
    applied, refused = plan("tcp://127.0.0.1:5514", "tcp://127.0.0.1:5515")
    assert [(change.action, change.path) for change in applied] == [
        ("remove", ("source", "syslog")),
        ("add", ("source", "syslog")),
    ]
    assert refused == [] and "tcp://127.0.0.1:5515" in str(applied[1])
    assert applied[0].old == parse(FULL).source.syslog[0]


def test_one_of_two_equal_sources_removed() -> None:
    one = '[[source.syslog]]\nlog = "a"\nlisten = ["udp://127.0.0.1:0"]\n'
    applied, _ = reload_plan(parse("[log.a]\n" + one + one), parse("[log.a]\n" + one))
    assert [change.action for change in applied] == ["remove"]


FILES = '[[source.file]]\nlog = "a"\npaths = ["/x"]\n'
SYSLOG = '[[source.syslog]]\nlog = "a"\nlisten = ["udp://127.0.0.1:0"]\n'


def test_sources_have_names_of_their_own() -> None:
    assert source_names(parse("[log.a]\n" + FILES + SYSLOG + SYSLOG)) == ["syslog", "syslog-2", "files"]
    named = FILES + 'name = "x"\n' + FILES + 'name = "y"\n'
    assert source_names(parse("[log.a]\n" + named)) == ["x", "y"]
    assert wrong("[log.a]\n" + FILES + FILES + 'name = "y"') == [
        "jlogd.toml:2: source.file[0].name: missing; accepted: a name of its own, because several sources follow files"
    ]
    taken = 'source.syslog[1].name: found "syslog", which another source has; accepted: a name of its own'
    assert wrong("[log.a]\n" + SYSLOG + SYSLOG + 'name = "syslog"') == [f"jlogd.toml:8: {taken}"]


# The default configuration


def test_the_default_configuration() -> None:
    config = default_config()
    assert config == parse(DEFAULT_TOML)
    assert config.spool == Path("var/spool") and list(config.log) == ["mainlog"]
    assert config.listen == Listen() and str(config.http) == "127.0.0.1:5180"
    assert config.source.syslog[0].listen == ("udp://127.0.0.1:5514", "tcp://127.0.0.1:5514")


def test_lines_to_paste() -> None:
    text = "\n".join(paste_lines(default_config()))
    assert "logger -n 127.0.0.1 -P 5514 --udp" in text and "logger -n 127.0.0.1 -P 5514 --tcp" in text
    assert "jlogctl tail --follow var/spool/mainlog" in text and "tcp://127.0.0.1:5140/mainlog" in text
    assert "jlogctl stat var/spool/mainlog" in text and "curl http://127.0.0.1:5180/metrics" in text
    assert paste_lines(parse("")) == []


def test_lines_to_paste_quote_what_a_shell_would_split() -> None:
    text = '[node]\nspool = "my spool"\n[log.a]\n[[source.syslog]]\nlog = "a"\nlisten = ["unix:///run/a b"]'
    lines = paste_lines(parse(text))
    assert any("'my spool/a'" in line for line in lines) and any("--socket '/run/a b'" in line for line in lines)


# Packaging


def test_the_packaged_example_is_right() -> None:
    config = load(PACKAGING / "jlogd.toml")
    assert config.spool == Path("/var/lib/jlogd/spool") and config.log


def test_everything_commented_out_in_the_example_is_right() -> None:
    """Lines that start with `#` and a setting or table are examples: with the `#` removed they must be accepted too."""
    text = (PACKAGING / "jlogd.toml").read_text()
    enabled = re.sub(r"(?m)^#(?=[a-z_]+ = |\[)", "", text)
    assert enabled != text
    config = parse(enabled)
    assert config.source.syslog and config.source.file and config.source.stdin
    assert len(config.listen.zmq) == 2


@pytest.mark.skipif(
    shutil.which("systemd-analyze") is None and os.environ.get("CI") != "true", reason="systemd-analyze is not here"
)
def test_the_unit_file_is_right(tmp_path: Path) -> None:
    command = tmp_path / "jlogd"
    command.write_text("#!/bin/sh\n")
    command.chmod(0o755)
    unit = (PACKAGING / "jlogd.service").read_text()
    assert "/usr/bin/jlogd" in unit
    # The command and the account need not be installed here.
    unit = unit.replace("/usr/bin/jlogd", str(command)).replace("User=jlogd", "User=root")
    path = tmp_path / "jlogd.service"
    path.write_text(unit)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(path)], capture_output=True, text=True, timeout=60, check=False
    )
    complaints = [line for line in done.stderr.splitlines() if str(path) in line or "jlogd.service" in line]
    assert done.returncode == 0 and complaints == [], done.stderr


def test_the_commands_of_the_unit_are_those_there_are() -> None:
    """Every `/usr/bin/jlogd ...` in the unit names a command and options that the command line has."""
    from jlogd.cli.jlogd import cli

    unit = (PACKAGING / "jlogd.service").read_text()
    commands = re.findall(r"(?m)^Exec\w+=/usr/bin/jlogd (.+)$", unit)
    assert len(commands) == 2
    for line in commands:
        name, *arguments = line.split()
        cli.commands[name].make_context(name, arguments)


def test_the_unit_says_what_the_daemon_does() -> None:
    unit = (PACKAGING / "jlogd.service").read_text()
    for line in ("Type=notify", "Restart=on-failure", "ExecReload=/bin/kill -HUP $MAINPID", "ProtectSystem=strict"):
        assert line in unit.splitlines()
    assert "d /var/lib/jlogd" in (PACKAGING / "jlogd.tmpfiles").read_text()
    assert (PACKAGING / "jlogd.sysusers").read_text().count("u jlogd ") == 1


# The docs

TABLES: dict[str, type[msgspec.Struct]] = {
    "[node]": Node,
    "[listen]": Listen,
    "[auth]": Auth,
    "[auth.keyless]": Grants,
    "[[auth.client]]": AuthClient,
    "[log.NAME]": LogConfig,
    "[[source.syslog]]": SyslogSource,
    "[[source.file]]": FileSource,
    "[[source.stdin]]": StdinSource,
    "[manager]": ManagerConfig,
    "[[manager.node]]": ManagedNode,
    "[[manager.pull]]": PullRule,
}


def documented() -> dict[str, dict[str, list[str]]]:
    """Heading -> setting -> [type, default, accepted, reload, ...] of the tables in docs/configuration.md."""
    found: dict[str, dict[str, list[str]]] = {}
    section = ""
    for line in DOCS.read_text().splitlines():
        if heading := re.fullmatch(r"## `(.*)`", line):
            section = heading[1]
            found[section] = {}
        elif row := re.match(r"\| `(\w+)` \|", line):
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[2:-1]]
            found[section][row[1]] = cells
    return found


def default_text(table: str, field: msgspec.structs.FieldInfo) -> str:
    if field.default_factory is not msgspec.NODEFAULT and field.default_factory is host_name:
        return "the host's short name"
    if field.required:
        return "required"
    default = UNIT_FIELDS.get(field.name, lambda value: value)(field.default)
    if isinstance(default, Size | Duration):
        return f'`"{default}"`' if default else '`"none"`' if table == "[log.NAME]" else "`0`"
    if field.default is None:
        return "not given"
    if field.name == "socket_mode":
        return f"`0o{default:o}`"
    return f"`{json.dumps(default)}`"


@pytest.mark.parametrize("table", TABLES)
def test_every_setting_is_documented_as_it_is(table: str) -> None:
    rows = documented()[table]
    fields = {field.encode_name: field for field in msgspec.structs.fields(TABLES[table])}
    if table == "[auth]":  # tables of their own
        del fields["keyless"], fields["client"]
    assert set(rows) == set(fields)
    for name, field in fields.items():
        assert rows[name][1] == default_text(table, field), (table, name)


@pytest.mark.parametrize("table", TABLES)
def test_the_docs_say_what_a_reload_applies(table: str) -> None:
    prefix = {"[node]": "node", "[listen]": "listen", "[log.NAME]": "log", "[manager]": "manager"}.get(table)
    prefix = table.strip("[]") if "auth" in table else prefix
    for name, row in documented()[table].items():
        setting = f"{prefix}.{name}" if prefix else table.strip("[]")
        needs_restart = setting in NEEDS_RESTART
        assert row[3].startswith("no" if needs_restart else "yes"), (table, name)


def test_every_table_of_the_configuration_is_documented() -> None:
    top = [field.name for field in msgspec.structs.fields(Config)]
    assert top == ["node", "listen", "auth", "log", "source", "manager"]
    kinds = [f"[[source.{field.name}]]" for field in msgspec.structs.fields(Sources)]
    auth = ["[auth]", "[auth.keyless]", "[[auth.client]]"]
    managers = ["[manager]", "[[manager.node]]", "[[manager.pull]]"]
    assert list(TABLES) == ["[node]", "[listen]", *auth, "[log.NAME]", *kinds, *managers]
    assert set(documented()) == set(TABLES)


def test_reasons_belong_to_settings() -> None:
    known = {
        f"{table}.{field}"
        for table, kind in (
            ("node", Node),
            ("listen", Listen),
            ("auth", Auth),
            ("log", LogConfig),
            ("manager", ManagerConfig),
        )
        for field in kind.__struct_fields__
    } | {f"source.{kind}" for kind in Sources.__struct_fields__}
    assert set(NEEDS_RESTART) <= known


def test_examples_in_the_docs_are_right() -> None:
    examples = re.findall(r"```toml\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert examples
    for text in examples:
        parse(text)


def test_the_configuration_needs_no_network_or_metrics_library() -> None:
    """`jlogd check-config` should not pay for what only the running daemon needs."""
    code = (
        "import sys, jlogd.daemon.config; print([name for name in ('zmq', 'prometheus_client') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"


def test_dates_are_shown_as_they_stand() -> None:
    assert str(datetime.date(1979, 5, 27)) in wrong("node.name = 1979-05-27")[0]
