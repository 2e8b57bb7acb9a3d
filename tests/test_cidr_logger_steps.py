"""When a logger closes an interval, commits, and says what it has read: by a clock and a log of the test's own."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cidr_logger_support import Killed, Steps, append, config, counted, drained, failed
from cidr_support import Maker

import jlogd
from cidr import logger as logger_module
from cidr.catalogue import Catalogue
from cidr.logger import GRACE_SECONDS, QUIET_SECONDS, Logger
from cidr.names import CATALOGUE
from cidr.segment import LogPosition
from cidr.survey import survey
from cidr.timeline import Segment
from jlogd.errors import RemoteError

T0 = 1_208_995_200
RENAMED = "[[as_logger.extract]]\nlog = 'mainlog'\nseries = 'other'\nmatch = '(?P<ip>none)'\n"


@dataclass
class Clock:
    """A clock that the test sets."""

    now: float = field(default_factory=lambda: int(time.time()) // 60 * 60 + 120.0)

    def __call__(self) -> float:
        return self.now


def segments(root: Path, series: str = "ssh") -> list[Segment]:
    catalogue = Catalogue.read(root / "store" / CATALOGUE)
    try:
        return catalogue.segments(series)
    finally:
        catalogue.close()


def position(root: Path) -> int:
    """What the log knows of the logger: what may be pruned."""
    with jlogd.open(root / "mainlog") as log:
        return next((one.next for one in log.subscribers() if one.name == "as_logger"), 1)


def read_all(logger: Logger) -> None:
    """Read until there was something, and then nothing."""
    while not logger.step(0.0):
        pass
    while logger.step(0.0):
        pass


def quiet(logger: Logger) -> None:
    """As if nothing had come for long."""
    for source in logger._sources:
        source.quiet_since -= QUIET_SECONDS


def test_an_interval_waits_for_what_may_be_under_way(tmp_path: Path) -> None:
    append(tmp_path, [failed("192.0.2.7")])
    clock = Clock()
    end = clock.now + 60
    with Logger(config(tmp_path), clock=clock) as logger:
        read_all(logger)
        clock.now = end + GRACE_SECONDS - 0.5
        quiet(logger)
        logger.step(0.0)
        assert max((one.end for one in segments(tmp_path)), default=0) < end  # the clock alone is past it
        clock.now = end + GRACE_SECONDS + 0.5
        logger.step(0.0)
        assert max(one.end for one in segments(tmp_path)) == end


def test_a_log_that_fell_silent_just_now_is_not_at_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logger_module, "QUIET_SECONDS", 3600.0)
    append(tmp_path, [failed("192.0.2.7")])
    clock = Clock()
    with Logger(config(tmp_path), clock=clock) as logger:
        read_all(logger)
        clock.now += 600
        for _ in range(3):
            logger.step(0.0)
        assert segments(tmp_path) == []


@pytest.mark.parametrize("limit", ["ENTRIES_MAX", "KEYS_MAX"])
def test_what_is_in_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    monkeypatch.setattr(logger_module, limit, 0)
    append(tmp_path, [failed(f"192.0.2.{number}") for number in range(50)])
    with Logger(config(tmp_path)) as logger:
        while not logger.step(0.0):
            pass
        assert logger._tallies.entries == 0
        assert sum(one.rows for one in segments(tmp_path)) == 50  # before their interval is over
    drained(config(tmp_path))
    assert len(counted(tmp_path / "store")) == 50


def test_while_it_catches_up_intervals_are_closed_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    append(tmp_path, [failed("192.0.2.7")])
    clock = Clock()
    with Logger(config(tmp_path), clock=clock) as logger:
        read_all(logger)
        clock.now += 600
        quiet(logger)
        logger._sources[0].reached = clock.now
        monkeypatch.setattr(logger_module, "TOGETHER_SECONDS", 3600.0)
        assert not logger._time_to_close(busy=True)
        assert logger._time_to_close(busy=False)
        monkeypatch.setattr(logger_module, "TOGETHER_SECONDS", 0.0)
        assert logger._time_to_close(busy=True)


def test_the_log_is_told_what_was_read_and_only_once_it_is_committed(tmp_path: Path) -> None:
    append(tmp_path, [failed("192.0.2.7")] * 5)
    steps = Steps()
    told = []

    def note(what: str, path: Path) -> None:
        steps.done += 1
        told.append(position(tmp_path))

    steps.step = note  # type: ignore[method-assign]
    with Logger(config(tmp_path), files=steps) as logger:
        logger.drain()
        assert set(told) == {1}  # nothing was moved while anything was still to be written
        assert position(tmp_path) == 6


def test_a_checkpoint_that_was_not_made_is_made_good(tmp_path: Path) -> None:
    append(tmp_path, [failed("192.0.2.7")] * 5)

    class AfterTheCatalogue(Steps):
        def step(self, what: str, path: Path) -> None:
            if what == "after the catalogue":
                raise Killed(what)

    with pytest.raises(Killed), Logger(config(tmp_path), files=AfterTheCatalogue()) as logger:
        logger.drain()
    assert position(tmp_path) == 1
    drained(config(tmp_path))
    assert position(tmp_path) == 6
    assert counted(tmp_path / "store") == {"192.0.2.7": 5}


def test_a_daemon_that_went_away_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logger_module, "RETRY_SECONDS", 0.0)
    append(tmp_path, [failed("192.0.2.7")])
    with Logger(config(tmp_path)) as logger:
        source = logger._sources[0]
        fetch = source.subscriber.fetch
        source.subscriber.fetch = _away  # type: ignore[method-assign]
        assert not logger.step(0.0)
        assert source.reached == 0.0  # nothing is known of the log
        source.subscriber.fetch = fetch  # type: ignore[method-assign]
        logger.drain()
    assert counted(tmp_path / "store") == {"192.0.2.7": 1}


def _away(*_: object) -> list[jlogd.Batch | jlogd.Gap]:
    raise RemoteError("the daemon went away")


def test_records_that_are_lost_are_told(tmp_path: Path) -> None:
    append(tmp_path, [failed("192.0.2.7")])
    with Logger(config(tmp_path)) as logger:
        logger.drain()
        source = logger._sources[0]
        logger._take(source, jlogd.Gap(1, 9, "dropped"))  # its first record was read
        assert (logger.seen.lost, source.next) == (8, 10)


def test_a_series_goes_on_being_counted_when_nothing_names_it_any_more(tmp_path: Path) -> None:
    append(tmp_path, [failed("192.0.2.7")])
    drained(config(tmp_path))
    before = max(one.end for one in segments(tmp_path))
    clock = Clock()
    clock.now += 600
    with Logger(config(tmp_path, rules=RENAMED), clock=clock) as logger:
        for _ in range(4):
            logger.step(0.0)
            quiet(logger)
            clock.now += 60
    assert max(one.end for one in segments(tmp_path)) > before
    assert counted(tmp_path / "store") == {"192.0.2.7": 1}


def test_an_epoch_is_higher_than_all_that_ever_wrote(tmp_path: Path) -> None:
    maker = Maker(tmp_path)
    maker.put("spam", T0, T0 + 60, {1: 1}, origin="a", epoch=9)
    catalogue = Catalogue.create(tmp_path)
    catalogue.replace(maker.segments)
    assert catalogue.claim("b") == 10
    assert catalogue.claim("b") == 11
    catalogue.reset(maker.segments, {"b": (9, 4)}, [("b", "log", 7)])
    assert catalogue.origin("b") == (11, 4)  # a rebuild does not let a logger that was replaced come back
    assert catalogue.positions("b") == {"log": 7}
    catalogue.close()


def test_a_survey_takes_the_furthest_position_whatever_the_order_of_the_files(tmp_path: Path) -> None:
    maker = Maker(tmp_path)
    for number, start in enumerate((T0 + 3600, T0), 1):  # what came last was for an earlier interval
        maker.put("spam", start, start + 60, {1: 1}, origin="a", positions=[LogPosition("x", number)])
    assert survey(tmp_path).positions == [("a", "x", 2)]
