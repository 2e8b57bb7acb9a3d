"""What a reload applies, and what needs a restart."""

from __future__ import annotations

import pytest
from config_support import FULL

from jlogd.daemon.config import LogConfig
from jlogd.daemon.config_file import parse
from jlogd.daemon.reload import NEEDS_RESTART, Change, in_effect, reload_plan
from jlogd.errors import ConfigError


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


def test_values_are_told_as_they_stand_in_the_file_and_defaults_not_at_all() -> None:
    source = '[[source.syslog]]\nlog = "a"\nlisten = ["unix:///run/log"]\n'
    more = 'message_bytes_max = "128KiB"\nsocket_mode = 0o600\nidle_timeout = "5m"\n'
    applied, _ = reload_plan(parse("[log.a]\n" + source), parse("[log.a]\n" + source + more))
    plain = 'log = "a", listen = ["unix:///run/log"]'
    assert [str(change) for change in applied] == [
        f"source.syslog: removed ({plain})",
        f'source.syslog: added ({plain}, message_bytes_max = "128KiB", idle_timeout = "5m", socket_mode = 0o600)',
    ]
    _, left = reload_plan(parse("[listen]\nsocket_mode = 0o660\n"), parse("[listen]\nsocket_mode = 0o600\n"))
    assert str(left[0]).startswith("listen.socket_mode: 0o660 -> 0o600: ")
    # A name of the user's own is no setting.
    client = '[[auth.client]]\nname = "memory"\nuid = 7\nread = ["*"]\n'
    applied, _ = reload_plan(parse("[log.a]\n"), parse("[log.a]\n" + client))
    assert str(applied[0]) == 'auth.client.memory: added (read = ["*"], name = "memory", uid = 7)'


def test_one_of_two_equal_sources_removed() -> None:
    one = '[[source.syslog]]\nlog = "a"\nlisten = ["udp://127.0.0.1:0"]\n'
    applied, _ = reload_plan(parse("[log.a]\n" + one + one), parse("[log.a]\n" + one))
    assert [change.action for change in applied] == ["remove"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"east1"', '"east2"'),
        ("/var/lib/jlogd/", "/srv/"),
        ("tcp://127.0.0.1:5140", "tcp://127.0.0.1:5141"),
        ("[::1]:5180", "127.0.0.1:5180"),
        ('[[source.stdin]]\nlog = "mainlog"\n', ""),
        ('[[source.stdin]]\nlog = "mainlog"', '[[source.stdin]]\nlog = "bounce.log"'),
    ],
)
def test_what_was_not_applied_does_not_run(old: str, new: str) -> None:
    """And is told again by every reload until it is put back, which changes nothing."""
    running, wanted = parse(FULL), parse(FULL.replace(old, new))
    assert in_effect(running, wanted) == running
    assert reload_plan(in_effect(running, wanted), wanted)[1] == reload_plan(running, wanted)[1]


def test_what_was_applied_runs() -> None:
    wanted = parse(FULL.replace('"8KiB"', '"9KiB"').replace('"7d"', '"8d"') + "[auth.keyless]\n")
    assert in_effect(parse(FULL), wanted) == wanted


def test_a_manager_that_is_made_by_a_reload_has_every_setting() -> None:
    wanted = parse('[manager]\nname = "m2"\n[[manager.node]]\nname = "n"\naddress = "tcp://127.0.0.1:1"\n')
    none, made = parse('[manager]\nname = "m1"\n'), in_effect(parse('[manager]\nname = "m1"\n'), wanted)
    assert made == wanted and reload_plan(none, wanted)[1] == []
    other = parse('[manager]\nname = "m3"\n[[manager.node]]\nname = "n"\naddress = "tcp://127.0.0.1:1"\n')
    assert in_effect(made, other).manager.name == "m2"
    assert [change.path for change in reload_plan(made, other)[1]] == [("manager", "name")]


def test_a_new_source_cannot_have_the_name_that_standard_input_keeps() -> None:
    taken = FULL.replace('listen = ["udp', 'name = "stdin"\nlisten = ["udp').replace("[[source.stdin]]", "[log.x]")
    wanted = parse(taken.replace('[log.x]\nlog = "mainlog"', "[log.x]"))
    with pytest.raises(ConfigError, match="source stdin: standard input has that name until the restart"):
        in_effect(parse(FULL), wanted)
