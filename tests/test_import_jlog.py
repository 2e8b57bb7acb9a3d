"""`import-jlog`: what libjlog wrote, whole or damaged, once, and its subscribers where they stood."""

from __future__ import annotations

import random
import struct
import sys
from pathlib import Path

import pytest
from cli_support import done, failed, jlogctl, process
from hypothesis import given, settings
from hypothesis import strategies as st
from libjlog_writer import OldLog

import jlogd
from jlogd.journal.batch import Batch
from jlogd.libjlog.importer import Tally, read
from jlogd.libjlog.layout import Directory

ORDERS = ["<", ">"]
FORMS = [(order, compressed) for order in ORDERS for compressed in (False, True)]
NUMBERS = iter(range(1 << 30))


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "spool" / "mainlog"
    done(jlogctl("create", path))
    return path


def records_of(path: Path) -> list[bytes]:
    with jlogd.open(path) as log:
        return [record for item in log.subscriber() for record in item]


def batches_of(path: Path) -> list[Batch]:
    with jlogd.open(path) as log:
        return [item for item in log.subscriber() if isinstance(item, Batch)]


def places_of(path: Path) -> dict[str, int]:
    with jlogd.open(path) as log:
        return {subscriber.name: subscriber.next for subscriber in log.subscribers()}


def old_log(tmp_path: Path, **options: object) -> OldLog:
    return OldLog(tmp_path / f"old{next(NUMBERS)}", **options)  # type: ignore[arg-type]


def read_all(old: OldLog) -> tuple[list[bytes], Tally]:
    tally = Tally()
    batches = list(read(Directory(old.path), 0, tally, lambda _done, _total: None))
    return [record for batch in batches for record in batch], tally


def snapshot(path: Path) -> dict[str, tuple[bytes, int]]:
    return {entry.name: (entry.read_bytes(), entry.stat().st_mtime_ns) for entry in path.iterdir()}


# ---- what is whole ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("order", "compressed"), FORMS)
def test_a_log_of_several_segments(tmp_path: Path, log: Path, order: str, compressed: bool) -> None:
    old = old_log(tmp_path, order=order, compressed=compressed, unit_limit=1000)
    for number in range(200):
        old.write(b"record %d " % number + b"x" * (number % 90), 1_000_000 + number // 10, number % 10 * 100_000)
    old.checkpoint("master", *old.records[99][:2])
    old.checkpoint("audit", 0, 0)
    assert old.storage_log > 5
    before = snapshot(old.path)
    ended = done(jlogctl("import-jlog", old.path, log))
    assert ended.err == ""
    assert ended.lines[0].startswith("imported 200 records (") and ended.lines[0].endswith("into mainlog")
    assert records_of(log) == [data for *_, data in old.records]
    assert places_of(log) == {"master": 101, "audit": 1}
    assert snapshot(old.path) == before
    times = {data: seconds for *_, seconds, data in old.records}
    for batch in batches_of(log):
        kept = batch.records()
        assert batch.first_time // 10**9 == times[kept[0]] and batch.last_time // 10**9 == times[kept[-1]]
        assert batch.last_time - batch.first_time <= 10**9


def test_microseconds_are_kept(tmp_path: Path, log: Path) -> None:
    old = old_log(tmp_path)
    old.write(b"x", 4_000_000_000, 999_999)
    done(jlogctl("import-jlog", old.path, log))
    assert [batch.first_time for batch in batches_of(log)] == [4_000_000_000_999_999_000]


RECORDS = st.lists(
    st.tuples(st.binary(max_size=200), st.integers(0, (1 << 32) - 1), st.integers(0, 999_999)), max_size=40
)


@settings(max_examples=40)
@given(st.sampled_from(FORMS), RECORDS, st.integers(50, 2000), st.sampled_from([12, 16]), st.integers(0, 3))
def test_any_records_come_back(
    tmp_path_factory: pytest.TempPathFactory,
    form: tuple[str, bool],
    records: list[tuple[bytes, int, int]],
    unit_limit: int,
    metastore: int,
    staged: int,
) -> None:
    order, compressed = form
    old = OldLog(tmp_path_factory.mktemp("old") / "log", order, compressed, unit_limit, metastore)
    written, last = records[: len(records) - staged], records[len(records) - staged :]
    for data, seconds, microseconds in written:
        old.write(data, seconds, microseconds)
    old.stage(b"".join(old.message(*one) for one in last))
    found, tally = read_all(old)
    assert found == [data for data, *_ in records]
    assert not tally.counts and tally.records == len(records)
    assert Directory(old.path).order == order or not records


def test_batches_stay_within_a_second_a_segment_and_their_size(tmp_path: Path) -> None:
    old = old_log(tmp_path, unit_limit=2 << 20)
    for number in range(4000):
        old.write(b"x" * 1000, 1000 + number // 2000)
    old.write(b"earlier", 500)
    batches = list(read(Directory(old.path), 0, Tally(), lambda _done, _total: None))
    assert sum(batch.count for batch in batches) == 4001
    assert max(len(batch.body) for batch in batches) <= 256 << 10 | 1000  # and the newlines between them
    assert all(batch.producer_to >> 32 == (batch.producer_to - batch.count) >> 32 for batch in batches)
    assert batches[-1].first_time == 500 * 10**9
    chain = [0, *(batch.producer_to for batch in batches)]
    assert [batch.producer_from for batch in batches] == chain[:-1]


@pytest.mark.parametrize("metastore", [0, 12, 16])
@pytest.mark.parametrize("order", ORDERS)
def test_an_old_or_missing_metastore(tmp_path: Path, order: str, metastore: int) -> None:
    old = old_log(tmp_path, order=order, metastore=metastore, unit_limit=100)
    for number in range(20):
        old.write(b"record %d" % number)
    if not metastore:
        (old.path / "metastore").unlink()
    assert read_all(old)[0] == [data for *_, data in old.records]


def test_a_metastore_that_does_not_know_of_the_compression(tmp_path: Path) -> None:
    old = old_log(tmp_path, compressed=True)
    old.write(b"record")
    old.compressed = False
    old._save()
    assert read_all(old)[0] == [b"record"]


@pytest.mark.parametrize("order", ORDERS)
def test_an_empty_log(tmp_path: Path, log: Path, order: str) -> None:
    old = old_log(tmp_path, order=order)
    old.checkpoint("master", 0, 0)
    assert done(jlogctl("import-jlog", old.path, log)).lines == [
        f"imported 0 records (0 B) from {old.path} into mainlog",
        "subscriber master goes on at 1, was at 00000000:00000000",
    ]


def test_indexes_are_not_needed_and_not_believed(tmp_path: Path) -> None:
    old = old_log(tmp_path, unit_limit=100)
    for number in range(20):
        old.write(b"record %d" % number)
    old.index(0, [0, 7, 3])
    (old.path / "00000001.idx").write_bytes(b"nonsense")
    assert read_all(old)[0] == [data for *_, data in old.records]


def test_large_and_long_records(tmp_path: Path, log: Path) -> None:
    old = old_log(tmp_path, unit_limit=64 << 20)
    large = random.Random(1).randbytes(8 << 20)
    for data in (b"before", large, large + b"!", b"after"):
        old.write(data)
    ended = jlogctl("import-jlog", old.path, log)
    assert ended.code == 1 and "too large: a record of 8388609 bytes; the limit is 8388608" in ended.out
    assert records_of(log) == [b"before", large, b"after"]


# ---- what a crash left -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("order", "compressed"), FORMS)
def test_a_record_cut_off_at_any_byte(tmp_path: Path, order: str, compressed: bool) -> None:
    for keep in range(1, len(old_log(tmp_path, order=order, compressed=compressed).message(b"the last one"))):
        old = old_log(tmp_path, order=order, compressed=compressed)
        old.write(b"one")
        old.write(b"two")
        old.tear(b"the last one", keep)
        found, tally = read_all(old)
        assert found == [b"one", b"two"], keep
        assert tally.counts == {"torn": 1} and tally.skipped_bytes == {"torn": keep} and not tally.lost


@pytest.mark.parametrize(("order", "compressed"), FORMS)
def test_records_after_a_torn_one_are_not_taken_for_its_body(tmp_path: Path, order: str, compressed: bool) -> None:
    for keep in (1, 3, 4, 10, 16, 20, 61, 300):
        old = old_log(tmp_path, order=order, compressed=compressed)
        old.write(b"before")
        old.tear(random.Random(keep).randbytes(1000), keep)
        for number in range(40):
            old.write(b"after %d" % number + b"." * 50)
        found, tally = read_all(old)
        assert found == [data for *_, data in old.records], keep
        assert tally.counts == {"damaged": 1} and tally.skipped_bytes["damaged"] == keep


def test_a_torn_record_that_reaches_past_what_follows(tmp_path: Path) -> None:
    old = old_log(tmp_path)
    old.tear(b"x" * 10_000, 30)
    old.write(b"one")
    old.write(b"two")
    found, tally = read_all(old)
    assert found == [b"one", b"two"] and tally.counts == {"damaged": 1}


@pytest.mark.parametrize(("order", "compressed"), FORMS)
def test_zeros_and_noise_between_records(tmp_path: Path, order: str, compressed: bool) -> None:
    for junk in (bytes(1), bytes(4096), b"\xff" * 33, random.Random(3).randbytes(5 << 20)):
        old = old_log(tmp_path, order=order, compressed=compressed)
        for number in range(5):
            old.write(b"before %d" % number)
        old.append_raw(junk)
        for number in range(5):
            old.write(b"after %d" % number)
        found, tally = read_all(old)
        assert found == [data for *_, data in old.records]
        assert tally.counts == {"damaged": 1} and tally.skipped_bytes == {"damaged": len(junk)} and tally.lost == 1


def test_zeros_at_the_end(tmp_path: Path) -> None:
    old = old_log(tmp_path)
    old.write(b"whole")
    old.append_raw(bytes(8192))
    found, tally = read_all(old)
    assert found == [b"whole"] and tally.places[0][1].why == "zeros"


def test_a_compressed_body_that_is_damaged(tmp_path: Path, log: Path) -> None:
    old = old_log(tmp_path, compressed=True)
    for number in range(5):
        old.write(b"record %d, record %d" % (number, number))
    at = len(old.message(b"record 0, record 0"))
    old.damage(0, at + 20, b"\xff" * 5)
    old.checkpoint("master", 0, 4)
    ended = jlogctl("import-jlog", old.path, log)
    assert ended.code == 1 and "unreadable: the body of a record cannot be decompressed" in ended.out
    assert records_of(log) == [data for *_, marker, _, data in old.records if marker != 2]
    # It was counted as a record, so the fourth is still the fourth: three of those before it are here.
    assert places_of(log) == {"master": 4}


@settings(max_examples=40)
@given(
    st.sampled_from(FORMS),
    st.integers(1, 60),
    st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(8, 200), st.booleans()), min_size=1, max_size=3),
    st.integers(0, 1 << 16),
)
def test_any_damage_costs_what_it_touched_and_what_it_touched_only(
    tmp_path_factory: pytest.TempPathFactory,
    form: tuple[str, bool],
    count: int,
    strikes: list[tuple[int, int, bool]],
    seed: int,
) -> None:
    rng = random.Random(seed)
    old = OldLog(tmp_path_factory.mktemp("old") / "log", *form)
    spans: list[tuple[int, int, bytes]] = []
    for number in range(count):
        start = old.segment().stat().st_size if number else 0
        data = b"%d " % number + rng.randbytes(rng.randrange(100))
        old.write(data)
        spans.append((start, old.segment().stat().st_size, data))
    size = spans[-1][1]
    touched = []
    for where, length, zeros in strikes:
        at = where % size
        length = min(length, size - at)
        old.damage(0, at, bytes(length) if zeros else rng.randbytes(length))
        touched.append((at, at + length))

    def hit(start: int, end: int) -> bool:
        return any(at < end and start < to for at, to in touched)

    whole = [data for start, end, data in spans if not hit(start, end)]
    found, tally = read_all(old) if knows_its_order(old) else ([], Tally())
    if found:
        # A record that was not touched is lost only when what follows it was, and it stands after damage itself.
        certain = [data for start, end, data in spans if not hit(start, min(end + 4, size))]
        assert [data for data in found if data in certain] == certain
        assert [data for data in found if data in whole] == [data for data in whole if data in found]
        assert sum(tally.skipped_bytes.values()) <= size


def knows_its_order(old: OldLog) -> bool:
    try:
        Directory(old.path)
    except jlogd.errors.FormatError:
        return False
    return True


# ---- the pre-commit buffer -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("order", "compressed"), FORMS)
def test_what_is_staged_comes_last(tmp_path: Path, log: Path, order: str, compressed: bool) -> None:
    old = old_log(tmp_path, order=order, compressed=compressed)
    old.write(b"written")
    staged = old.message(b"staged 1") + old.message(b"staged 2")
    old.stage(staged + old.message(b"not any more"), used=len(staged))
    old.checkpoint("master", 0, 9)
    done(jlogctl("import-jlog", old.path, log))
    assert records_of(log) == [b"written", b"staged 1", b"staged 2"]
    assert places_of(log) == {"master": 2}  # nobody ever reads from the buffer


def test_what_was_flushed_before_a_crash_is_told(tmp_path: Path, log: Path) -> None:
    old = old_log(tmp_path, unit_limit=100)
    old.write(b"x" * 50)
    old.stage(old.message(b"y" * 60))
    old.write(b"y" * 60)
    assert old.storage_log == 1
    assert "pre_commit: its 76 bytes are the end of the log as well" in done(jlogctl("import-jlog", old.path, log)).out
    assert records_of(log) == [b"x" * 50, b"y" * 60, b"y" * 60]


@pytest.mark.parametrize("full", [False, True])
def test_what_is_flushed_later_is_not_taken_again(tmp_path: Path, log: Path, full: bool) -> None:
    old = old_log(tmp_path)
    old.write(b"written")
    if full:
        old.unit_limit = 10
        old._save()
    old.stage(old.message(b"staged"))
    done(jlogctl("import-jlog", old.path, log))
    if full:
        old.roll()
    old.write(b"staged")
    old.write(b"later")
    old.stage(b"")
    assert done(jlogctl("import-jlog", old.path, log)).lines[0].startswith("imported 1 record ")
    assert records_of(log) == [b"written", b"staged", b"later"]


def test_a_buffer_that_lies_or_is_cut_off(tmp_path: Path, log: Path) -> None:
    old = old_log(tmp_path)
    old.write(b"written")
    old.stage(old.message(b"staged") + old.message(b"cut")[:10], used=100_000, size=0)
    ended = done(jlogctl("import-jlog", old.path, log))
    assert "pre_commit: the buffer says it holds 100000 bytes" in ended.out
    assert "skipped pre_commit bytes 22 to 31: torn" in ended.out
    assert records_of(log) == [b"written", b"staged"]
    (old.path / "pre_commit").write_bytes(b"\1")
    done(jlogctl("import-jlog", old.path, log))


# ---- subscribers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("log_", "marker", "next_", "said"),
    [
        (2, 0, 1, "segment 00000002 of its checkpoint is not there"),
        (3, 0, 1, ""),
        (3, 2, 3, ""),
        (3, 5, 6, ""),
        (3, 6, 6, "beyond the 5 records of the segment"),
        (4, 0, 6, ""),
        (4, 5, 11, ""),
        (5, 3, 11, "segment 00000005 of its checkpoint is not there"),
        (6, 1, 12, ""),
        (7, 2, 18, ""),
        (7, 99, 18, "beyond the 2 records of the segment"),
        (8, 0, 18, "beyond the end of the log"),
        (0xFFFFFFFF, 7, 18, "beyond the end of the log"),
    ],
)
def test_where_a_subscriber_goes_on(tmp_path: Path, log: Path, log_: int, marker: int, next_: int, said: str) -> None:
    """Segments 3, 4, 6 with five records each, and 7, with two, being written."""
    old = old_log(tmp_path)
    old.storage_log = 3
    for number in range(20):
        old.write(b"record %d" % number)
        if number % 5 == 4 and number < 15:
            old.roll()
        if number == 16:
            break
    assert old.storage_log == 6
    old.segment(6).rename(old.segment(7))
    old.segment(5).rename(old.segment(6))
    old.storage_log = 7
    old._save()
    old.checkpoint("master", log_, marker)
    ended = jlogctl("import-jlog", old.path, log)
    assert ended.code == 1 and "missing: segment 00000005 is not there" in ended.out
    assert places_of(log) == {"master": next_}
    (line,) = [line for line in ended.lines if line.startswith("subscriber")]
    assert said in line and bool(said) == (";" in line)


@pytest.mark.parametrize(("marker", "next_"), [(2, 3), (3, 4), (4, 4), (6, 4), (99, 4)])
def test_no_subscriber_goes_past_damage_it_may_stand_before(tmp_path: Path, log: Path, marker: int, next_: int) -> None:
    old = old_log(tmp_path)
    for number in range(8):
        old.write(b"record %d" % number)
    old.damage(0, 3 * 24, bytes(30))
    old.checkpoint("master", 0, marker)
    ended = jlogctl("import-jlog", old.path, log)
    assert ended.code == 1 and ("comes again" in ended.out) == (marker > 3)
    assert places_of(log) == {"master": next_}


@pytest.mark.parametrize("data", [b"", b"\1\0\0"])
def test_a_checkpoint_that_is_being_made(tmp_path: Path, log: Path, data: bytes) -> None:
    old = old_log(tmp_path)
    old.write(b"record")
    old.raw_checkpoint("master", data)
    ended = done(jlogctl("import-jlog", old.path, log))
    assert f"its checkpoint has {len(data)} bytes, not 8; it starts at the oldest record" in ended.out
    assert places_of(log) == {"master": 1}


def test_names_that_are_not_taken_over(tmp_path: Path, log: Path) -> None:
    old = old_log(tmp_path)
    old.write(b"record")
    for name in ("~jlog-tail-17", "with space", "x" * 65, "master"):
        old.checkpoint(name, 0, 1)
    (old.path / "cp.7").write_bytes(b"")
    ended = jlogctl("import-jlog", old.path, log)
    assert ended.code == 1 and places_of(log) == {"master": 2}
    assert "subscriber ~jlog-tail-17 was not taken over: it belongs to a reader that has ended" in ended.out
    assert "subscriber with space was not taken over: 'with space' cannot name a subscriber" in ended.out
    old.path.joinpath("cp." + b"with space".hex()).unlink()
    old.path.joinpath("cp." + (b"x" * 65).hex()).unlink()
    done(jlogctl("import-jlog", old.path, log))


def test_a_subscriber_is_never_moved_past_what_it_did_not_have(tmp_path: Path, log: Path) -> None:
    done(jlogctl("append", log, stdin=b"its own\n"))
    done(jlogctl("subscriber", "add", log, "master", "--from", "begin"))
    old = old_log(tmp_path)
    for number in range(5):
        old.write(b"record %d" % number)
    old.checkpoint("master", 0, 5)
    old.checkpoint("audit", 0, 3)
    done(jlogctl("import-jlog", old.path, log))
    assert places_of(log) == {"master": 1, "audit": 5}
    done(jlogctl("subscriber", "set", log, "master", "--to", "end"))
    done(jlogctl("import-jlog", old.path, log))
    assert places_of(log) == {"master": 7, "audit": 5}


def test_a_subscriber_that_was_made_beforehand_is_moved(tmp_path: Path, log: Path) -> None:
    done(jlogctl("subscriber", "add", log, "master"))
    old = old_log(tmp_path)
    for number in range(5):
        old.write(b"record %d" % number)
    old.checkpoint("master", 0, 3)
    done(jlogctl("import-jlog", old.path, log))
    assert places_of(log) == {"master": 4}


def test_a_subscriber_that_is_in_use_is_left_and_said(tmp_path: Path, log: Path) -> None:
    done(jlogctl("subscriber", "add", log, "master"))
    old = old_log(tmp_path)
    old.write(b"record")
    old.checkpoint("master", 0, 1)
    with jlogd.open(log) as opened, opened.subscriber("master"):
        ended = jlogctl("import-jlog", old.path, log)
    assert ended.code == 1 and "in use" in ended.out
    done(jlogctl("import-jlog", old.path, log))
    assert places_of(log) == {"master": 2}


# ---- again and again -------------------------------------------------------------------------------------------------


def test_run_again_it_takes_only_what_is_new_whatever_was_pruned(tmp_path: Path, log: Path) -> None:
    old = old_log(tmp_path, unit_limit=200)
    for number in range(30):
        old.write(b"record %d" % number)
    old.checkpoint("master", *old.records[9][:2])
    done(jlogctl("import-jlog", old.path, log))
    done(jlogctl("append", log, stdin=b"somebody else's\n"))
    ended = done(jlogctl("import-jlog", old.path, log))
    assert ended.lines[0].startswith("imported 0 records ") and ended.lines[1].startswith("went on after 0000000")
    for log_number in range(3):
        old.segment(log_number).unlink()
    for number in range(30, 40):
        old.write(b"record %d" % number)
    old.checkpoint("master", *old.records[34][:2])
    old.checkpoint("late", *old.records[9][:2])
    assert done(jlogctl("import-jlog", old.path, log)).lines[0].startswith("imported 10 records ")
    wanted = [data for *_, data in old.records]
    assert records_of(log) == [*wanted[:30], b"somebody else's", *wanted[30:]]
    # The segment of that checkpoint is gone, so its place there is not certain: it goes on at its start.
    assert places_of(log) == {"master": 31, "late": 10}


def test_another_log_in_the_same_place_is_noticed(tmp_path: Path, log: Path) -> None:
    old = old_log(tmp_path)
    for number in range(5):
        old.write(b"record %d" % number)
    done(jlogctl("import-jlog", old.path, log))
    for path in old.path.iterdir():
        path.unlink()
    old.path.rmdir()
    again = OldLog(old.path)
    again.write(b"another")
    ended = done(jlogctl("import-jlog", old.path, log))
    assert "is it the same log?" in ended.err
    assert done(jlogctl("import-jlog", old.path, log, "--producer", "two")).lines[0].startswith("imported 1 record ")


def test_killed_at_any_time_it_takes_everything_once(tmp_path: Path, log: Path) -> None:
    old = old_log(tmp_path, unit_limit=20_000)
    old.records = [(0, 0, 0, b"record %d" % number) for number in range(20_000)]
    for first in range(0, 20_000, 500):
        old.append_raw(b"".join(old.message(data, first + 1) for *_, data in old.records[first : first + 500]))
        old.roll()
    old.checkpoint("master", 20, 250)
    old.checkpoint("audit", 0, 0)  # without it, what master has consumed is pruned
    for kill_after in (50, 1500, 9000):
        with process("import-jlog", old.path, log) as running:
            while running.poll() is None and size_of(log) < kill_after * 12:
                pass
            running.kill()
            running.wait(30)
    done(jlogctl("import-jlog", old.path, log))
    assert records_of(log) == [data for *_, data in old.records]
    assert places_of(log) == {"master": 10_251, "audit": 1}


def size_of(log: Path) -> int:
    return sum(path.stat().st_size for path in log.glob("*.seg"))


# ---- mistakes --------------------------------------------------------------------------------------------------------


def test_a_dry_run_changes_nothing_and_tells_everything(tmp_path: Path, log: Path) -> None:
    old = old_log(tmp_path)
    old.write(b"record")
    old.tear(b"torn", 7)
    old.checkpoint("master", 0, 1)
    old.checkpoint("~x", 0, 1)
    before = snapshot(old.path), {path: path.read_bytes() for path in log.rglob("*") if path.is_file()}
    assert done(jlogctl("import-jlog", old.path, log, "--dry-run")).lines == [
        f"would import 1 record (6 B) from {old.path} into mainlog",
        "skipped 00000000 bytes 22 to 28: torn: a record is cut off at the end; its writer may be at it (harmless)",
        "torn: 1 place, 7 B skipped",
        "subscriber master: 00000000:00000001",
        "subscriber ~x was not taken over: it belongs to a reader that has ended",
    ]
    assert (snapshot(old.path), {path: path.read_bytes() for path in log.rglob("*") if path.is_file()}) == before


def test_what_is_no_log_of_libjlog(tmp_path: Path, log: Path) -> None:
    failed(jlogctl("import-jlog", tmp_path / "nothing", log), 1, "there is no directory")
    failed(jlogctl("import-jlog", tmp_path, log), 1, "is no log of libjlog")
    failed(jlogctl("import-jlog", log, log), 1, "is no log of libjlog")
    old = old_log(tmp_path)
    failed(jlogctl("import-jlog", old.path, tmp_path / "missing"), 1, "there is no log at", "jlogctl create")
    (old.path / "metastore").write_bytes(struct.pack("<IIII", 0, 4096, 1, 7))
    old.append_raw(b"this is no record of libjlog at all")
    failed(jlogctl("import-jlog", old.path, log), 3, "no segment holds a record of libjlog")
    failed(jlogctl("import-jlog", old.path, log, "--producer", ""), 2, "the producer's name is empty")


def test_without_lz4_the_extra_is_named(tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = old_log(tmp_path, compressed=True)
    old.write(b"record")
    monkeypatch.setitem(sys.modules, "lz4", None)
    failed(jlogctl("import-jlog", old.path, log), 3, "compressed with LZ4", "pip install 'jlogd[libjlog]'")
    assert records_of(log) == []
