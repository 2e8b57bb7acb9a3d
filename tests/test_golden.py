"""Logs that were written once, by the first jlogd of format 1, and that every later one has to read.

`make_golden.py` made them. A change that fails here is a change of the format: it takes a new format number, not a new
golden log.
"""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path

import format_reader as reader
import pytest
from cli_support import jlogctl
from format_reader import read_log
from format_support import read_by_jlogd
from make_golden import BOOT, GOLDEN, HOST, MAKERS, make

import jlogd
from jlogd import Caps, OwnedElsewhere
from jlogd.journal.journal import Journal

NAMES = sorted(MAKERS)
EXPECTED: dict[str, dict[int, bytes]] = {
    name: {int(at): base64.b64decode(record) for at, record in records.items()}
    for name, records in json.loads((GOLDEN / "expected.json").read_text()).items()
}
# The first record that was not pruned, positions of subscribers, bytes that are no part of the log, what `check` finds
# before and after somebody opened the log to write
FIRST = {"rolled": 47}
POSITIONS = {
    "lines": {"all": 1, "half": 7},
    "lengths": {"all": 1},
    "zstd": {"all": 1},
    "rolled": {"capped": 161, "quick": 130, "slow": 87},
    "torn": {"all": 1},
    "fenced": {"all": 1},
}
LEFTOVERS = {
    "torn": [("00000000000000000001-00000001.seg", 150)],
    "fenced": [("00000000000000000028-00000001.seg", 3962), ("00000000000000000001-00000001.seg", 3006)],
}
FOUND = {"fenced": ["zombie", "zombie"]}
# What stood beyond the old head of "torn" is written again by whoever takes the log over: it is there twice, whole.
FOUND_AFTER = {"torn": ["zombie"], "fenced": ["zombie", "zombie"]}


def expected(name: str) -> dict[int, bytes]:
    return {at: record for at, record in EXPECTED[name].items() if at >= FIRST.get(name, 1)}


@pytest.fixture
def log(spool: Path, request: pytest.FixtureRequest) -> Path:
    """A copy of the golden log of the test's parameter `name`."""
    name = request.node.callspec.params["name"]
    return Path(shutil.copytree(GOLDEN / name, spool / name))


def findings(log: Path) -> list[str]:
    """What `check` finds; all of it is harmless."""
    found = jlogctl("check", log, "--json").objects
    assert all(one["harmless"] for one in found), found
    return [one["kind"] for one in found]


def test_all_golden_logs_are_there() -> None:
    assert sorted(path.name for path in GOLDEN.iterdir() if path.is_dir()) == NAMES == sorted(EXPECTED)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_read_as_it_is(name: str, log: Path) -> None:
    """By anybody who may read, though another host owns it: up to where its head was."""
    records, gaps, positions = read_by_jlogd(log, recover=False)
    want = expected(name)
    assert records == (want if name != "torn" else {at: want[at] for at in range(1, 10)})
    assert gaps == [] and positions == POSITIONS[name]
    assert findings(log) == FOUND.get(name, [])
    with jlogd.open(log) as opened, pytest.raises(OwnedElsewhere, match=HOST):
        opened.writer()


@pytest.mark.parametrize("name", NAMES)
def test_it_is_consumed_and_written_on(name: str, log: Path) -> None:
    """After this host took it over."""
    Journal.take_over(log).close()
    records, gaps, positions = read_by_jlogd(log, recover=True)
    want = expected(name)
    assert (records, gaps, positions) == (want, [], POSITIONS[name])
    with jlogd.open(log) as opened, opened.writer() as writer:
        future = writer.append(b"one more", receipt=True)
        writer.flush()
        assert future is not None and future.result(0).first == max(want) + 1
    for subscriber, position in POSITIONS[name].items():
        with jlogd.open(log) as opened, opened.subscriber(subscriber) as consumer:
            delivered = [record for batch in consumer for record in batch]
        assert delivered == [*(record for at, record in want.items() if at >= position), b"one more"]
    assert findings(log) == FOUND_AFTER.get(name, [])


@pytest.mark.parametrize("name", NAMES)
def test_the_independent_reader_reads_it(name: str, log: Path) -> None:
    contents = read_log(log)
    assert contents.records == expected(name)
    assert contents.gaps == []
    assert {one: at.next for one, at in contents.subscribers.items() if at} == POSITIONS[name]
    assert [(one.segment, one.size) for one in contents.leftovers] == LEFTOVERS.get(name, [])
    assert contents.owner == reader.Owner(2 if name == "fenced" else 1, HOST, BOOT)
    assert contents.floor == reader.Floor(FIRST.get(name, 1), 0)


@pytest.mark.parametrize("name", ["rolled"])
def test_settings_caps_and_producers_of_it(name: str, log: Path) -> None:
    Journal.take_over(log).close()
    with jlogd.open(log) as opened:
        stat = opened.stat()
        assert [opened.producer_position(f"producer-{number}") for number in range(3)] == [60, 60, None]
    caps = {one.name: one.caps for one in stat.subscribers}
    assert caps["capped"] == Caps(max_bytes=5000, max_age=60.5, on_full="drop-oldest")
    assert caps["quick"] == caps["slow"] == Caps(max_bytes=1 << 20, on_full="block")
    assert (stat.segment_bytes, stat.durability, stat.compression) == (4096, "commit", "none")


@pytest.mark.parametrize(
    ("name", "encodings", "codecs"), [("lines", {0}, {0}), ("lengths", {1}, {0}), ("zstd", {0, 1}, {0, 1})]
)
def test_every_way_to_write_records_is_there(name: str, encodings: set[int], codecs: set[int]) -> None:
    headers = [batch.header for _, batch in read_log(GOLDEN / name).batches if batch.header.kind == 0]
    assert {header.encoding for header in headers} == encodings
    assert {header.codec for header in headers} == codecs


def test_the_script_still_makes_them(tmp_path: Path) -> None:
    """Not to the byte: a writer may change what it writes, as long as it is the format."""
    directory = tmp_path / "golden"
    make(directory)
    assert (directory / "expected.json").read_text() == (GOLDEN / "expected.json").read_text()
    for name in NAMES:
        contents = read_log(directory / name)
        assert contents.records == expected(name)
        assert {one: at.next for one, at in contents.subscribers.items() if at} == POSITIONS[name]
