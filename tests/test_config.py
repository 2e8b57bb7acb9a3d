"""The configuration: what is accepted, and how mistakes are told."""

from __future__ import annotations

import datetime
import json
import subprocess
import sys
from pathlib import Path

import pytest
from config_support import FULL, ROOT, wrong
from hypothesis import given
from hypothesis import strategies as st

from jlogd.daemon.config import Config, Listen, Node, host_name, source_names
from jlogd.daemon.config_file import load, parse
from jlogd.daemon.toml_structs import MISTAKES_SHOWN_MAX, TEXT_BYTES_MAX
from jlogd.errors import ConfigError
from jlogd.journal.types import Caps, Settings


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


def test_what_is_wrong_with_values_comes_with_what_is_wrong_with_shapes() -> None:
    """In one round; and nothing is told that follows from another mistake only."""
    lines = wrong(
        "[node]\nnam = 'x'\n[log.a]\nsegment_size = '1KiB'\n[log.b]\ntext_sizes = 1\ndurability = 'x'\n"
        "[[source.stdin]]\nlog = 'b'\n[[manager.node]]\nname = 'n'\naddress = 'tcp://10.0.0.1:1'\n"
    )
    assert [line.split(": ")[1] for line in lines] == [
        "node.nam", "log.a.segment_size", "log.b.text_sizes", "manager.node[0].key",
    ]  # fmt: skip


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
