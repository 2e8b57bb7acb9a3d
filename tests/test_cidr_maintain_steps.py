"""Maintenance at every step: nothing is named that is not there, nothing goes before its counts are safe elsewhere."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from cidr_logger_support import Killed, Steps, counted
from cidr_support import FastFiles, Maker
from msgspec import structs

from cidr.catalogue import Catalogue
from cidr.config import Maintain
from cidr.errors import SegmentDamaged
from cidr.maintain import LEFTOVER_SECONDS, Maintainer, Summary
from cidr.names import CATALOGUE, segment_files
from cidr.segment import encode, read, read_header
from cidr.types import Family
from jlogd.daemon.units import Duration

T0 = 1_208_995_200  # 2008-04-24 00:00 UTC
QUARTER, HOUR, DAY = 900, 3600, 86400
NOW = 2e9
ALL = Maintain(keep_minutes=Duration(1), keep_hours=Duration(1), keep_days=Duration(1), settle=Duration(0))
NEVER = Duration(0)
KEEP_ALL = Maintain(keep_minutes=NEVER, keep_hours=NEVER, keep_days=NEVER, keep_months=NEVER, settle=Duration(0))


def maintained(
    base: Path,
    policy: Maintain = ALL,
    now: float = NOW,
    files: FastFiles | Steps | None = None,
    only: list[str] | None = None,
) -> Summary:
    with Maintainer(base, policy, clock=lambda: now, files=files or FastFiles(), only=only) as maintainer:
        return maintainer.run()


def store(base: Path, *starts: int, series: str = "spam") -> Maker:
    """Quarters of an hour with one count each."""
    maker = Maker(base)
    for at, start in enumerate(starts):
        maker.put(series, start, start + QUARTER, {at: 1})
    maker.catalogue().close()
    return maker


def named(base: Path) -> set[str]:
    catalogue = Catalogue.read(base / CATALOGUE)
    try:
        return catalogue.paths()
    finally:
        catalogue.close()


class Watched(FastFiles):
    """Looks at the whole store before everything that changes it."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.steps = 0

    def step(self, what: str, path: Path) -> None:
        self.steps += 1
        lacking = named(self.base) - set(segment_files(self.base))
        assert not lacking, f"at {what} {path} the catalogue names files that are gone"


def altered(path: Path, family: Family = Family.V4) -> None:
    """Another segment in the place of one: whole, and with one count more."""
    counts = read(path, family)
    more = replace(counts, counts=counts.counts + 1)
    path.write_bytes(encode(read_header(path), more)[1])


def test_the_catalogue_never_names_what_is_gone_and_forgets_what_is_deleted(tmp_path: Path) -> None:
    store(tmp_path, *range(T0, T0 + 3 * HOUR, QUARTER), T0 + 5 * DAY)
    before = named(tmp_path)
    files = Watched(tmp_path)
    maintained(tmp_path, files=files)
    assert files.steps > 20
    assert named(tmp_path) == set(segment_files(tmp_path))
    assert len(before & named(tmp_path)) == 1  # the newest commit
    assert set(counted(tmp_path, "spam").values()) == {1}


def test_a_segment_that_reads_back_otherwise_takes_nobodys_place(tmp_path: Path) -> None:
    store(tmp_path, T0, T0 + QUARTER)
    before = named(tmp_path)

    class Lying(FastFiles):
        def write(self, path: Path, data: bytes | memoryview) -> None:
            super().write(path, data)
            altered(path)

    with pytest.raises(SegmentDamaged, match="reads back other than it was written"):
        maintained(tmp_path, files=Lying())
    assert named(tmp_path) == before <= set(segment_files(tmp_path))
    assert counted(tmp_path, "spam") == {"0.0.0.0": 1, "0.0.0.1": 1}


def test_inputs_that_are_not_what_the_catalogue_says_are_not_condensed(tmp_path: Path) -> None:
    maker = store(tmp_path, T0, T0 + QUARTER)
    altered(tmp_path / maker.segments[0].path)
    with pytest.raises(SegmentDamaged, match="do not add up"):
        maintained(tmp_path)
    assert named(tmp_path) == set(segment_files(tmp_path)) == {segment.path for segment in maker.segments}


def test_a_condensed_segment_is_durable_before_the_catalogue_names_it(tmp_path: Path) -> None:
    store(tmp_path, T0, T0 + QUARTER)
    told: list[tuple[str, str]] = []

    class Told(FastFiles):
        def step(self, what: str, path: Path) -> None:
            told.append((what, str(path)))

        def sync_directory(self, path: Path) -> None:
            self.step("sync directory", path)

    maintained(tmp_path, KEEP_ALL, files=Told())
    words = [what for what, _ in told]
    named_at = [at for at, what in enumerate(words) if what == "before the catalogue"]
    assert len(named_at) == 3  # the hour, the day, the month
    for at in named_at:
        assert words[at - 4 : at] == ["write", "sync", "rename", "sync directory"]
        assert Path(told[at - 2][1]).parent == Path(told[at - 1][1])


def test_what_is_kept_is_counted_from_its_end(tmp_path: Path) -> None:
    store(tmp_path, T0, T0 + 10 * DAY)
    policy = structs.replace(KEEP_ALL, keep_minutes=Duration(DAY), condense=False)
    maintained(tmp_path, policy, now=T0 + QUARTER + DAY - 1)
    assert len(named(tmp_path)) == 2
    maintained(tmp_path, policy, now=T0 + QUARTER + DAY)
    assert len(named(tmp_path)) == 1


def test_where_nothing_is_condensed_a_tier_is_deleted_when_its_own_time_is_up(tmp_path: Path) -> None:
    store(tmp_path, T0, T0 + 10 * DAY)
    policy = Maintain(keep_minutes=Duration(DAY), condense=False)  # hours, days and months are kept for longer
    maintained(tmp_path, policy, now=T0 + 5 * DAY)
    assert counted(tmp_path, "spam") == {"0.0.0.1": 1}


def test_an_interval_that_has_not_settled_is_not_condensed(tmp_path: Path) -> None:
    store(tmp_path, T0)
    policy = structs.replace(KEEP_ALL, settle=Duration(600))
    maintained(tmp_path, policy, now=T0 + HOUR + 599)
    assert len(named(tmp_path)) == 1
    maintained(tmp_path, policy, now=T0 + HOUR + 600)
    assert sorted(path.partition("/")[0] for path in named(tmp_path)) == ["hour", "minute"]


def test_late_counts_that_have_not_settled_wait(tmp_path: Path) -> None:
    maker = store(tmp_path, T0)
    maintained(tmp_path, KEEP_ALL, now=T0 + HOUR)
    late = maker.put("spam", T0, T0 + QUARTER, {9: 1}, kind="late", covered=[])
    catalogue = Catalogue.create(tmp_path)
    catalogue.replace([late])
    catalogue.close()
    policy = structs.replace(KEEP_ALL, settle=Duration(HOUR))
    assert maintained(tmp_path, policy, now=T0 + QUARTER + HOUR - 1).actions == ()
    done = maintained(tmp_path, policy, now=T0 + QUARTER + HOUR)
    assert [action.what for action in done.actions] == ["add late", "delete"]
    assert counted(tmp_path, "spam") == {"0.0.0.0": 1, "0.0.0.9": 1}


def test_what_reaches_over_an_edge_is_in_no_unit(tmp_path: Path) -> None:
    maker = Maker(tmp_path)
    maker.put("spam", T0, T0 + QUARTER, {1: 1})
    maker.put("spam", T0 + HOUR - QUARTER, T0 + HOUR + QUARTER, {2: 1})  # half in this hour, half in the next
    maker.catalogue().close()
    maintained(tmp_path, KEEP_ALL)
    tiers = sorted(path.partition("/")[0] for path in named(tmp_path))
    assert "hour" not in tiers
    assert counted(tmp_path, "spam") == {"0.0.0.1": 1, "0.0.0.2": 1}


def test_a_newer_segment_of_an_interval_takes_the_place_of_the_older(tmp_path: Path) -> None:
    maker = store(tmp_path, T0)
    maintained(tmp_path, KEEP_ALL)
    maker.put("spam", T0 + QUARTER, T0 + 2 * QUARTER, {9: 1})
    catalogue = Catalogue.create(tmp_path)
    catalogue.replace([maker.segments[-1]])
    catalogue.close()
    maintained(tmp_path, KEEP_ALL)
    tiers = sorted(path.partition("/")[0] for path in segment_files(tmp_path))
    assert tiers == ["day", "hour", "minute", "minute", "month"]


def test_only_the_series_that_are_named(tmp_path: Path) -> None:
    maker = store(tmp_path, T0)
    maker.put("ham", T0, T0 + QUARTER, {1: 1})
    maker.catalogue().close()
    maintained(tmp_path, KEEP_ALL, only=["ham"])
    assert {Path(path).name.partition(".")[0] for path in named(tmp_path) if not path.startswith("minute")} == {"ham"}


def test_temporary_files_go_when_nobody_can_be_writing_them(tmp_path: Path) -> None:
    maker = store(tmp_path, T0)
    directory = (tmp_path / maker.segments[0].path).parent
    young, old = directory / ".young.1.tmp", directory / ".old.1.tmp"
    for path, age in ((young, LEFTOVER_SECONDS - 60), (old, LEFTOVER_SECONDS + 60)):
        path.write_bytes(b"")
        os.utime(path, (NOW - age, NOW - age))
    maintained(tmp_path)
    assert (young.exists(), old.exists()) == (True, False)


def test_late_counts_go_into_the_coarsest_first(tmp_path: Path) -> None:
    """A day of which not all hours are left must not be behind one of them: nothing else holds the others."""
    base = tmp_path / "store"
    base.mkdir()
    maker = store(base, T0, T0 + 23 * HOUR)
    maintained(base, KEEP_ALL)
    keep = Duration(int(NOW) - (T0 + 2 * HOUR))
    maintained(base, structs.replace(KEEP_ALL, keep_minutes=Duration(1), keep_hours=keep))
    assert sorted(path.partition("/")[0] for path in named(base)) == ["day", "hour", "minute", "month"]
    late = maker.put("spam", T0 + 23 * HOUR, T0 + 23 * HOUR + QUARTER, {9: 1}, kind="late", covered=[])
    catalogue = Catalogue.create(base)
    catalogue.replace([late])
    catalogue.close()
    whole = {"0.0.0.0": 1, "0.0.0.1": 1, "0.0.0.9": 1}
    steps = Steps()
    copy = shutil.copytree(base, tmp_path / "whole")
    maintained(copy, KEEP_ALL, files=steps)
    assert counted(copy, "spam") == whole
    for stop_at in range(1, steps.done + 1):
        copy = shutil.copytree(base, tmp_path / str(stop_at))
        with pytest.raises(Killed):
            maintained(copy, KEEP_ALL, files=Steps(stop_at))
        assert counted(copy, "spam") == whole, stop_at
