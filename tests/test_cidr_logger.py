"""as_logger: what is in the log is counted once, whatever stops it, and what was not counted is told from zero."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cidr_logger_support import SSH, Killed, Steps, append, config, counted, drained, failed
from daemon_support import daemon, until

import jlogd
from cidr.catalogue import Catalogue
from cidr.config import Maintain
from cidr.engine import Engine
from cidr.errors import CatalogueBroken, LoggerFenced
from cidr.extract import Extractor, Records, Rule, check_rule, parse_time
from cidr.logger import Logger
from cidr.maintain import Maintainer
from cidr.names import CATALOGUE
from cidr.survey import survey
from cidr.times import HOUR
from cidr.types import ALL_V4, BLOCKS, Column, CountQuery, Series, Span
from jlogd.errors import ConfigError, SubscriberBusy, UsageError
from jlogd.journal.batch import encode

ADDRESSES = ["192.0.2.7", "192.0.2.7", "198.51.100.1", "2001:db8::5", "::ffff:192.0.2.7"]
EXPECTED = {"192.0.2.7": 3, "198.51.100.1": 1, "2001:db8::5": 1}


def test_failed_logins_are_counted_by_source_address(tmp_path: Path) -> None:
    append(tmp_path, [*map(failed, ADDRESSES), b"something else", failed("999.1.1.1"), failed("1.2.3.4.5")])
    logger = drained(config(tmp_path))
    assert counted(tmp_path / "store") == EXPECTED
    assert (logger.seen.records, logger.seen.events, logger.seen.not_an_address) == (8, 7, 2)


def test_a_second_run_counts_only_what_is_new(tmp_path: Path) -> None:
    append(tmp_path, [failed("192.0.2.7")])
    drained(config(tmp_path))
    drained(config(tmp_path))
    append(tmp_path, [failed("192.0.2.7"), failed("192.0.2.8")])
    drained(config(tmp_path))
    assert counted(tmp_path / "store") == {"192.0.2.7": 2, "192.0.2.8": 1}


def test_a_crash_at_any_step_neither_loses_nor_doubles(tmp_path: Path) -> None:
    total = _steps_of_a_run(tmp_path / "whole")
    assert total > 8
    for stop_at in range(1, total + 1):
        root = tmp_path / str(stop_at)
        root.mkdir()
        _crash_twice(root, stop_at)
        assert counted(root / "store") == EXPECTED, stop_at
        rebuilt = survey(root / "store")
        assert not rebuilt.torn, stop_at
        (root / "store" / CATALOGUE).unlink()
        assert counted(root / "store") == EXPECTED, stop_at


def _steps_of_a_run(root: Path) -> int:
    root.mkdir()
    append(root, [failed(address) for address in ADDRESSES])
    files = Steps()
    drained(config(root), files)
    return files.done


def _crash_twice(root: Path, stop_at: int) -> None:
    """Stopped in the first commit, stopped at the same step of the next start, and then left alone."""
    append(root, [failed(address) for address in ADDRESSES[:3]])
    for _ in range(2):
        files = Steps(stop_at)
        try:
            with Logger(config(root), files=files) as logger:
                logger.drain()
        except Killed:
            pass
    append(root, [failed(address) for address in ADDRESSES[3:]])
    drained(config(root))


@pytest.mark.slow
def test_kill_9_at_every_write(tmp_path: Path) -> None:
    total = _steps_of_a_run(tmp_path / "whole")
    for stop_at in range(1, total + 1, 2):
        root = tmp_path / str(stop_at)
        root.mkdir()
        append(root, [failed(address) for address in ADDRESSES])
        worker = Path(__file__).parent / "cidr_kill_worker.py"
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
        ended = subprocess.run([sys.executable, worker, root, str(stop_at)], timeout=120, env=environment, check=False)
        assert ended.returncode == -9, stop_at
        drained(config(root))
        assert counted(root / "store") == EXPECTED, stop_at


def test_a_commit_of_which_files_are_missing_never_happened(tmp_path: Path) -> None:
    append(tmp_path, [failed(address) for address in ADDRESSES])
    with pytest.raises(Killed), Logger(config(tmp_path), files=Steps(_step_named("before the catalogue"))) as logger:
        logger.drain()
    files = sorted((tmp_path / "store").rglob("*.parquet"))
    assert len(files) == 2  # one of each family
    files[0].unlink()
    assert counted(tmp_path / "store") == {}  # by the catalogue
    (tmp_path / "store" / CATALOGUE).unlink()
    assert counted(tmp_path / "store") == {}  # by the segments
    assert len(survey(tmp_path / "store").torn) == 1
    drained(config(tmp_path))
    assert counted(tmp_path / "store") == EXPECTED


def _step_named(name: str) -> int:
    """The number of that step in a first run of two segments."""
    import tempfile

    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        append(root, [failed(address) for address in ADDRESSES])
        files = _Named()
        drained(config(root), files)
        return files.names.index(name) + 1


class _Named(Steps):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def step(self, what: str, path: Path) -> None:
        self.names.append(what)


def test_a_failing_disk_is_told_and_counts_come_again(tmp_path: Path) -> None:
    class Full(Steps):
        def stop(self, what: str, path: Path) -> None:
            raise OSError(28, "no space left", str(path))

    append(tmp_path, [failed(address) for address in ADDRESSES])
    with pytest.raises(OSError, match="no space"), Logger(config(tmp_path), files=Full(5)) as logger:
        logger.drain()
    drained(config(tmp_path))
    assert counted(tmp_path / "store") == EXPECTED


def test_two_loggers_of_one_log_count_everything_once(tmp_path: Path) -> None:
    append(tmp_path, [failed(address) for address in ADDRESSES])
    for origin in ("east", "west"):
        drained(config(tmp_path, f'origin = "{origin}"\nsubscriber = "{origin}"'))
    assert counted(tmp_path / "store") == EXPECTED
    append(tmp_path, [failed("192.0.2.7")])
    drained(config(tmp_path, 'origin = "east"\nsubscriber = "east"'))
    drained(config(tmp_path, 'origin = "west"\nsubscriber = "west"'))
    assert counted(tmp_path / "store") == EXPECTED | {"192.0.2.7": 4}


def test_a_second_logger_of_the_same_origin_is_stopped(tmp_path: Path) -> None:
    append(tmp_path, [failed("192.0.2.7")])
    with Logger(config(tmp_path)) as first:
        with pytest.raises(SubscriberBusy):
            Logger(config(tmp_path))
        with Logger(config(tmp_path, 'subscriber = "other"')) as second:
            second.drain()
            with pytest.raises(LoggerFenced):
                first.drain()
    assert counted(tmp_path / "store") == {"192.0.2.7": 1}


def test_a_catalogue_older_than_the_segments_is_refused(tmp_path: Path) -> None:
    append(tmp_path, [failed("192.0.2.7")])
    drained(config(tmp_path))
    old = (tmp_path / "store" / CATALOGUE).read_bytes()
    for _ in range(2):
        append(tmp_path, [failed("192.0.2.7")])
        drained(config(tmp_path))
    (tmp_path / "store" / CATALOGUE).write_bytes(old)
    with pytest.raises(CatalogueBroken, match="rebuild"):
        Logger(config(tmp_path))


# Time


class _Clock:
    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def _coverage(base: Path, series: str = "ssh") -> tuple[int, int]:
    with Engine(base) as engine:
        answer = engine.answer(CountQuery(blocks=(ALL_V4,), columns=(Column("s", Series(series)),), levels=BLOCKS))
    return answer.coverage.covered_seconds, answer.coverage.span.seconds


def test_intervals_without_events_are_written_as_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cidr.logger.QUIET_SECONDS", 0.0)
    append(tmp_path, [failed("192.0.2.7")])
    clock = _Clock(time.time())
    with Logger(config(tmp_path), clock=clock) as logger:
        logger.drain()
        clock.now += 7200
        for _ in range(3):
            logger.step(0.0)
    covered, span = _coverage(tmp_path / "store")
    assert span - 120 <= covered <= span
    assert covered >= 7000
    segments = Catalogue.read(tmp_path / "store" / CATALOGUE).segments("ssh")
    assert 3 <= len(segments) <= 6  # not one for each of 120 minutes: they are written by the hour


def test_another_interval_begins_where_hours_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cidr.logger.QUIET_SECONDS", 0.0)
    append(tmp_path, [failed("192.0.2.7")])
    hour = int(time.time()) // HOUR * HOUR + HOUR
    for interval, at in ((60, hour + 7 * 60 + 5), (300, hour + HOUR + 5), (900, hour + 2 * HOUR + 5)):
        with Logger(config(tmp_path, f"log_interval = {interval}"), clock=_Clock(at)) as logger:
            for _ in range(3):
                logger.step(0.0)
            logger.commit()
    with closing(Catalogue.read(tmp_path / "store" / CATALOGUE)) as catalogue:
        ends = {(segment.start // HOUR, (segment.end - 1) // HOUR) for segment in catalogue.segments("ssh")}
    assert all(first == last for first, last in ends)
    with Maintainer(tmp_path / "store", Maintain(), clock=lambda: hour + 3 * HOUR) as maintainer:
        done = {action.span for action in maintainer.run().actions if action.what == "condense"}
    assert Span(hour, hour + HOUR) in done
    assert counted(tmp_path / "store") == {"192.0.2.7": 1}


def test_a_clock_that_jumps_loses_and_doubles_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cidr.logger.QUIET_SECONDS", 0.0)
    clock = _Clock(time.time())
    append(tmp_path, [failed("192.0.2.7")])
    with Logger(config(tmp_path), clock=clock) as logger:
        for jump in (0, 86400, -200_000, 3600, -50):
            clock.now += jump
            append(tmp_path, [failed("192.0.2.7"), failed("198.51.100.1")])
            for _ in range(3):
                logger.step(0.0)
        logger.commit()
    assert counted(tmp_path / "store") == {"192.0.2.7": 6, "198.51.100.1": 5}


def test_an_event_counts_at_its_own_time(tmp_path: Path) -> None:
    rules = (
        "[[as_logger.extract]]\nlog = 'mainlog'\nseries = 'hits'\nmatch = '^(?P<time>\\S+) (?P<ip>\\S+) (?P<n>\\S+)$'\n"
    )
    records = [
        b"2008-04-24T00:00:59Z 192.0.2.1 5",
        b"2008-04-24T00:01:00Z 192.0.2.1 -2",
        b"2008-04-24T02:01:30+02:00 192.0.2.1 7",
        b"1208995260 192.0.2.2 1",
        b"1208995260000 192.0.2.2 1",
        b"2008-04-24T00:01:00Z 192.0.2.3 1.5",
        b"someday 192.0.2.4 1",
        b"2999-01-01T00:00:00Z 192.0.2.5 1",
    ]
    append(tmp_path, records)
    logger = drained(config(tmp_path, rules=rules))
    minute = int(datetime(2008, 4, 24, tzinfo=UTC).timestamp())
    assert counted(tmp_path / "store", "hits", Span(minute, minute + 60)) == {"192.0.2.1": 5}
    assert counted(tmp_path / "store", "hits", Span(minute + 60, minute + 120)) == {"192.0.2.1": 5, "192.0.2.2": 2}
    assert counted(tmp_path / "store", "hits")["192.0.2.5"] == 1  # counted when it was logged
    assert (logger.seen.not_an_amount, logger.seen.not_a_time) == (1, 2)


def test_an_old_log_covers_the_time_of_its_events(tmp_path: Path) -> None:
    rules = "[[as_logger.extract]]\nlog = 'mainlog'\nseries = 'hits'\nmatch = '^(?P<time>\\S+) (?P<ip>\\S+)$'\n"
    start = 1_208_995_200
    minutes = [0, 1, 90, 91, 3000]
    append(tmp_path, [f"{start + minute * 60 + 5} 192.0.2.1".encode() for minute in minutes])
    drained(config(tmp_path, rules=rules))
    drained(config(tmp_path, rules=rules))
    query = CountQuery(blocks=(ALL_V4,), columns=(Column("s", Series("hits")),), levels=BLOCKS)
    with Engine(tmp_path / "store") as engine:
        asked = replace(query, span=Span(start, start + 92 * 60))
        answer = engine.answer(asked)
        assert (answer.coverage.exact, answer.columns[0].values.tolist()) == (True, [4])
        answer = engine.answer(replace(query, span=Span(start, start + 3001 * 60)))
    assert answer.columns[0].values.tolist() == [5]
    assert answer.coverage.missing == (Span(start + 92 * 60, start + 3000 * 60),)


def test_times_as_logs_write_them() -> None:
    near = int(datetime(2024, 12, 31, 12, tzinfo=UTC).timestamp())
    assert parse_time(b"Dec 31 06:55:46", near) == int(datetime(2024, 12, 31, 6, 55, 46, tzinfo=UTC).timestamp())
    assert parse_time(b"Jan  1 06:55:46", near) == int(datetime(2025, 1, 1, 6, 55, 46, tzinfo=UTC).timestamp())
    november = int(datetime(2026, 11, 22, tzinfo=UTC).timestamp())
    assert parse_time(b"Dec 10 06:55:46", november) == int(datetime(2025, 12, 10, 6, 55, 46, tzinfo=UTC).timestamp())
    assert parse_time(b"Feb 29 00:00:00", near) == int(datetime(2024, 2, 29, tzinfo=UTC).timestamp())
    assert parse_time(b"1735689600.25", near) == parse_time(b"1735689600250000", near) == 1735689600
    beyond = (b"0001-01-01T00:00:00+14:00", b"0001-01-01", b"1969-12-31T23:59:59Z", b"9999-12-31T23:59:59-23:59")
    for wrong in (b"", b"nan", b"-5", b"Foo 1 00:00:00", b"2024-99-01", b"1e300", b"\xff\xfe", *beyond):
        assert parse_time(wrong, near) is None, wrong


# Rules


def test_events_from_json(tmp_path: Path) -> None:
    rules = (
        "[[as_logger.extract]]\nlog = 'mainlog'\nseries = 'bytes'\njson = 'client.ip'\njson_n = 'bytes'\n"
        "json_time = 'at'\nwhere = { 'status.code' = 500 }\n"
    )
    good = {"client": {"ip": "192.0.2.1"}, "bytes": 10, "at": 1208995200, "status": {"code": 500}}
    records = [good, good, good | {"status": {"code": 200}}, good | {"client": "x"}, [1], good | {"bytes": None}]
    append(tmp_path, [*(json.dumps(r).encode() for r in records), b"not json"])
    drained(config(tmp_path, rules=rules))
    assert counted(tmp_path / "store", "bytes") == {"192.0.2.1": 21}


@pytest.mark.parametrize("hostile", [b'{"ip": "\xff"}', b'{"\xff": 1}', b"[" * 100_000, b'{"ip":' * 5_000])
def test_a_record_that_only_looks_like_json_is_passed_over(tmp_path: Path, hostile: bytes) -> None:
    """Whoever may log chooses its bytes: they must not stop the counting, now and at every start after."""
    append(tmp_path, [b'{"ip": "192.0.2.1"}', hostile, b'{"ip": "192.0.2.2"}'])
    drained(config(tmp_path, rules="[[as_logger.extract]]\nlog = 'mainlog'\nseries = 'seen'\njson = 'ip'\n"))
    assert counted(tmp_path / "store", "seen") == {"192.0.2.1": 1, "192.0.2.2": 1}


@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Pacific/Kiritimati"])
def test_no_time_that_a_record_says_stops_the_counting(tmp_path: Path, zone: str) -> None:
    """Not even the first and the last day that Python knows, which some zones do not have."""
    beyond = ["0001-01-01T00:00:00+14:00", "0001-01-01", "9999-12-31T23:59:59-23:59", "1969-12-31T23:59:59Z"]
    words = [*beyond, "0", "1e11"]
    append(tmp_path, [json.dumps({"ip": "192.0.2.1", "at": word}).encode() for word in words])
    seconds = [b"0", b"99999999999", b"100000000000", b"253402300800", b"%d" % (1 << 40), b"9" * 5000]
    append(tmp_path, [b"audit1 %b said 192.0.2.2=1" % word for word in seconds], "audit")
    rules = "[[as_logger.extract]]\nlog = 'mainlog'\nseries = 'seen'\njson = 'ip'\njson_time = 'at'\n"
    logger = drained(config(tmp_path, f"zone = '{zone}'\naudit = 'audit'\n", rules))
    assert (logger.seen.events, logger.seen.not_a_time, logger.seen.left_out) == (len(words) + 2, 4, 4)
    assert counted(tmp_path / "store", "seen") == {"192.0.2.1": len(words)}
    assert counted(tmp_path / "store", "said") == {"192.0.2.2": 2}
    with Maintainer(tmp_path / "store", Maintain()) as maintainer:
        maintainer.run()


def test_only_the_series_that_are_wanted(tmp_path: Path) -> None:
    settings = config(tmp_path, 'series_include = ["spa", "^virus$"]').__class__
    old = {"series_include": ("spa", "^virus$"), "series_exclude": ("spam",)}
    none, every = settings(**old), settings(**old, series_include_default="all")
    assert [none.wants(name) for name in ("spam", "virus", "viruses", "ham")] == [True, True, False, False]
    assert [every.wants(name) for name in ("spam", "virus", "ham")] == [False, True, True]


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        ({"match": "(?P<ip>x"}, "regular expression"),
        ({"match": "ip"}, "needs a group"),
        ({"match": "(?P<ip>x)(?P<port>y)"}, "group port"),
        ({"match": "(?P<ip>x)", "json": "ip"}, "either"),
        ({}, "either"),
        ({"match": "(?P<ip>x)", "series": "a b"}, "cannot name a series"),
        ({"match": "(?P<ip>x)", "json_n": "bytes"}, "go with json"),
        ({"match": "(?P<ip>x)", "where": {"status": 500}}, "go with json"),
    ],
)
def test_a_rule_that_cannot_work_is_refused(rule: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        check_rule(Rule(**({"log": "x", "series": "s"} | rule)))


def test_a_wrong_configuration_names_the_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cidr.toml:\d+: .*log_interval.*divide an hour"):
        config(tmp_path, "log_interval = 7")
    with pytest.raises(ConfigError, match=r"log_interval: found 3600; accepted: seconds that divide 1800, for so the"):
        config(tmp_path, 'log_interval = 3600\nzone = "Asia/Kolkata"')
    config(tmp_path, 'log_interval = 900\nzone = "Asia/Kathmandu"')
    with pytest.raises(ConfigError, match="zone"):
        config(tmp_path, 'zone = "Mars/Olympus"')
    with pytest.raises(ConfigError, match=r"extract\[0\]|extract\.0"):
        config(tmp_path, rules="[[as_logger.extract]]\nlog = 'x'\nseries = 's'\nmatch = '('\n")


def test_the_first_match_of_a_record_counts() -> None:
    rule = Extractor(Rule(log="x", series="s", match=r"from (?P<ip>\S+)"))
    records = [b"from 1.1.1.1 from 2.2.2.2", b"a\nfrom 3.3.3.3", b"none", b"from "]
    assert rule.addresses(Records(encode(records))) == [b"1.1.1.1", b"3.3.3.3"]
    assert rule.addresses(Records(encode(records[:1]))) == [b"1.1.1.1"]


# The API


def test_audit_counts_reach_the_store(tmp_path: Path) -> None:
    with jlogd.audit(tmp_path) as audit:
        for address in ADDRESSES[:4]:
            audit.add("spam", address)
        audit.add("spam", "192.0.2.7", -5)
        audit.add("virus", "198.51.100.9", 3)
        audit.flush()
        for wrong in (
            ("spam", "nonsense", 1),
            ("sp am", "1.1.1.1", 1),
            ("spam", "1.1.1.1", 1.5),
            ("s", "1.1.1.1", True),
        ):
            with pytest.raises(UsageError):
                audit.add(*wrong)  # type: ignore[arg-type]
    assert len(list(jlogd.open(tmp_path / "audit").subscriber())) >= 1
    drained(config(tmp_path, 'audit = "audit"', rules=" "))
    assert counted(tmp_path / "store", "spam") == {"192.0.2.7": -3, "198.51.100.1": 1, "2001:db8::5": 1}
    assert counted(tmp_path / "store", "virus") == {"198.51.100.9": 3}


def test_audit_records_that_are_wrong_are_left_out(tmp_path: Path) -> None:
    records = [b"", b"audit1", b"audit1 x spam 1.1.1.1=1", b"audit1 5 sp/am 1.1.1.1=1", b"audit2 5 spam 1.1.1.1=1"]
    append(tmp_path, [*records, b"audit1 5 spam 1.1.1.1=x =3 1.1.1.1=4"], "audit")
    logger = drained(config(tmp_path, 'audit = "audit"', rules=" "))
    assert counted(tmp_path / "store", "spam") == {"1.1.1.1": 4}
    assert (logger.seen.left_out, logger.seen.not_an_amount) == (5, 2)


def test_audit_splits_long_records(tmp_path: Path) -> None:
    with jlogd.audit(tmp_path) as audit:
        for number in range(5000):
            audit.add("spam", f"10.0.{number >> 8}.{number & 255}", number)
    records = [record for batch in jlogd.open(tmp_path / "audit").subscriber() for record in batch]
    assert len(records) > 1
    assert max(map(len, records)) <= 32 << 10
    found = Counter({e.split(b"=")[0]: int(e.split(b"=")[1]) for r in records for e in r.split(b" ")[3:]})
    assert found.total() == sum(range(5000))


# A daemon's logs


def test_a_daemons_logs_are_counted_like_those_of_a_directory(tmp_path: Path) -> None:
    with daemon(tmp_path) as running:
        place = running.address.removesuffix("/mainlog")
        with jlogd.open(running.address) as log, log.writer() as writer:
            writer.extend([failed(address) for address in ADDRESSES])
            writer.flush()
        with jlogd.audit(place) as audit:
            audit.add("spam", "192.0.2.7", 4)
        settings = msgspec.structs.replace(config(tmp_path, 'audit = "audit"'), logs=place)
        drained(settings)
        assert counted(tmp_path / "store") == EXPECTED
        assert counted(tmp_path / "store", "spam") == {"192.0.2.7": 4}
        with jlogd.open(running.address) as log, log.writer() as writer:
            writer.append(failed("192.0.2.7"))
            writer.flush()
        drained(settings)
        assert counted(tmp_path / "store") == EXPECTED | {"192.0.2.7": 4}


def test_the_program_counts_until_it_is_told_to_end(tmp_path: Path) -> None:
    append(tmp_path, [failed("192.0.2.7")])
    (tmp_path / "cidr.toml").write_text(
        f'[as_logger]\nbase_dir = "{tmp_path}/store"\nlogs = "{tmp_path}"\nseries_include_default = "all"\n'
        f"[[as_logger.extract]]\nlog = 'mainlog'\nseries = 'ssh'\nmatch = '{SSH}'\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    command = [sys.executable, "-m", "cidr.cli.as_logger", "-c", str(tmp_path / "cidr.toml")]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        until(lambda: _next(tmp_path / "mainlog") is not None or process.poll() is not None, "the subscriber is there")
        append(tmp_path, [failed("192.0.2.7")])
        until(lambda: process.poll() is not None or counted_so_far(tmp_path), "the program runs")
        process.terminate()
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, err
    assert "counted" in out
    drained(config(tmp_path))
    assert counted(tmp_path / "store") == {"192.0.2.7": 2}


def counted_so_far(root: Path) -> bool:
    return (root / "store" / CATALOGUE).exists()


def _next(log: Path) -> int | None:
    with jlogd.open(log) as opened:
        return next((s.next for s in opened.subscribers() if s.name == "as_logger"), None)
