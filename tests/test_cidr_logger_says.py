"""as_logger says what it does not do: series that are left out, a log that was counted already, every mistake of its
configuration, and, when it starts, that it counts."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import pytest
from cidr_logger_support import SSH, append, counted, failed
from click.testing import CliRunner, Result

import jlogd
from cidr.cli.as_logger import as_logger
from cidr.config import parse
from jlogd.errors import ConfigError

RECORDS = [failed("192.0.2.7"), failed("192.0.2.8")]
BOTH = {"192.0.2.7": 1, "192.0.2.8": 1}


def run(root: Path, more: str = "", *args: str, base: str = "store") -> Result:
    """as_logger on the log `mainlog`, whose failed logins are the series ssh."""
    (root / "cidr.toml").write_text(
        f'[as_logger]\nbase_dir = "{root / base}"\nlogs = "{root}"\n{more}\n'
        f"[[as_logger.extract]]\nlog = 'mainlog'\nseries = 'ssh'\nmatch = '{SSH}'\n"
    )
    before = [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)]
    try:
        return CliRunner().invoke(as_logger, ["-c", str(root / "cidr.toml"), *(args or ("--once",))])
    finally:
        for one, handler in zip((signal.SIGTERM, signal.SIGINT), before, strict=True):
            signal.signal(one, handler)


def test_a_series_that_a_rule_names_is_counted(tmp_path: Path) -> None:
    append(tmp_path, RECORDS)
    assert "2 events counted" in run(tmp_path).output
    assert counted(tmp_path / "store") == BOTH


@pytest.mark.parametrize(
    ("more", "wanted"),
    [
        ("", ["ssh", "ham", "spam"]),
        ('series_exclude = ["am$"]', ["ssh"]),
        ('series_include = ["am$"]', ["ham", "spam"]),
        ('series_include = ["am$"]\nseries_exclude = ["ham"]', ["ham", "spam"]),
        ('series_include_default = "none"\nseries_exclude = ["ham"]', []),
        ('series_include_default = "all"\nseries_include = ["ham"]', ["ssh", "ham", "spam"]),
    ],
)
def test_what_holds_for_a_series_that_nothing_is_said_about(more: str, wanted: list[str]) -> None:
    settings = parse(f"[as_logger]\n{more}\n").as_logger
    assert [series for series in ("ssh", "ham", "spam") if settings.wants(series)] == wanted


@pytest.mark.parametrize("args", [("--check",), ("--once",)])
@pytest.mark.parametrize(
    "more", ['series_include_default = "none"', 'series_include = ["spam"]', 'series_exclude = ["s"]']
)
def test_a_configuration_by_which_nothing_is_counted_is_refused(
    tmp_path: Path, more: str, args: tuple[str, ...]
) -> None:
    append(tmp_path, RECORDS)
    result = run(tmp_path, more, *args)
    assert isinstance(result.exception, ConfigError)
    assert "ssh left out" in str(result.exception)
    with jlogd.open(tmp_path / "mainlog") as log:
        assert not log.subscribers()  # and the log is not eaten


def test_a_rule_that_is_left_out_is_named(tmp_path: Path) -> None:
    append(tmp_path, RECORDS)
    more = 'series_exclude = ["ssh"]\n[[as_logger.extract]]\nlog = "mainlog"\nseries = "any"\nmatch = "(?P<ip>none)"'
    for args in ("--check", "--once"):
        assert (
            "warning: ssh left out by series_exclude; these rules are not applied" in run(tmp_path, more, args).stderr
        )


def test_events_of_audit_that_are_left_out_are_told_by_series(tmp_path: Path) -> None:
    append(tmp_path, RECORDS)
    with jlogd.audit(tmp_path) as audit:
        audit.add("spam", "192.0.2.7")
        audit.add("spam", "192.0.2.8")
        audit.add("ham", "192.0.2.7")
    said = run(tmp_path, 'audit = "audit"\nseries_include = ["ssh", "ham"]').stderr
    assert "2 events of series spam left out: series_include_default" in said
    assert "ham" not in said


def test_a_subscriber_set_back_is_told_that_its_log_was_counted(tmp_path: Path) -> None:
    append(tmp_path, RECORDS)
    assert "subscriber" not in run(tmp_path).stderr
    with jlogd.open(tmp_path / "mainlog") as log:
        log.set_subscriber("as_logger", "begin")
    said = run(tmp_path)
    assert "0 events counted" in said.stdout
    assert "stands at record 1, but" in said.stderr
    assert "up to record 2 already" in said.stderr
    with jlogd.open(tmp_path / "mainlog") as log:
        log.set_subscriber("as_logger", "begin")
    assert "2 events counted" in run(tmp_path, base="other").stdout  # what it advises
    assert counted(tmp_path / "other") == BOTH


def test_a_start_says_what_is_counted_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    append(tmp_path, RECORDS)
    stopped = threading.Event()
    stopped.set()  # it starts, and is told to end at once
    monkeypatch.setattr("cidr.cli.as_logger.threading.Event", lambda: stopped)
    said = run(tmp_path, "", "--base-dir", str(tmp_path / "elsewhere")).stderr
    assert f"counting: 1 log, 1 rule, into {tmp_path}/elsewhere; the first counts appear when" in said


def test_every_mistake_is_told_at_once_with_its_line() -> None:
    text = "\n".join(
        [
            "[as_logger]",
            "log_interval = 7",
            'unknown = "x"',
            'zone = "Mars/Olympus"',
            'series_include = ["fine", "("]',
            "[[as_logger.extract]]",
            'log = "mainlog"',
            'series = "a b"',
            'match = "("',
            "[[as_logger.extract]]",
            'log = "mainlog"',
            'series = "ok"',
            'match = "(?P<ip>x)"',
            'where = { status = "x" }',
            "[[cidr.maintain.series]]",
            'match = "["',
        ]
    )
    with pytest.raises(ConfigError) as caught:
        parse(text, "f")
    found = [line.split(": ")[:2] for line in str(caught.value).splitlines()]
    assert found == [
        ["f:2", "as_logger.log_interval"],
        ["f:3", "as_logger.unknown"],
        ["f:4", "as_logger.zone"],
        ["f:5", "as_logger.series_include[1]"],
        ["f:8", "as_logger.extract[0].series"],
        ["f:9", "as_logger.extract[0].match"],
        ["f:10", "as_logger.extract[1]"],
        ["f:16", "cidr.maintain.series[0].match"],
    ]
