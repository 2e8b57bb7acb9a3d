"""The first question: less is read, and the answer is the one that reading everything gives."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from cidr_support import Maker, counts_of
from hypothesis import given, settings
from hypothesis import strategies as st

from cidr import narrow, places, segment
from cidr.addresses import parse_block
from cidr.catalogue import Catalogue
from cidr.columns import Counts
from cidr.errors import SegmentDamaged, SegmentGone
from cidr.narrow import read_blocks
from cidr.timeline import Segment, Timeline
from cidr.types import Block, Family, Span, Tier

MINUTE = 60
# Close together and far apart; of IPv6 many with the same high half, so that it goes on in the next row group.
ADDRESSES = {
    Family.V4: st.integers(0, 40) | st.integers(0, 0xFFFFFFFF),
    Family.V6: st.integers(0, 40) | st.integers(0, 3).map(lambda high: high << 64) | st.integers(0, (1 << 128) - 1),
}


@pytest.fixture(autouse=True, scope="module")
def small_row_groups() -> object:
    """Four rows each: enough of them to choose from."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (segment, narrow):
            patch.setattr(module, "ROW_GROUP_ROWS", 4)
        yield


def dictionary(counts: Counts) -> dict[int, int]:
    high = counts.high.tolist() if counts.high is not None else [0] * len(counts)
    return {h << 64 | low: n for h, low, n in zip(high, counts.low.tolist(), counts.counts.tolist(), strict=True)}


def block_of(family: Family, address: int, bits: int) -> Block:
    keep = family.width - bits
    return Block(family, address >> keep << keep, bits)


@st.composite
def asked(draw: st.DrawFn) -> tuple[Family, list[dict[int, int]], list[Block]]:
    family = draw(st.sampled_from(list(Family)))
    numbers = st.integers(1, 3) | st.integers(-(1 << 40), 1 << 40)
    found = draw(st.lists(st.dictionaries(ADDRESSES[family], numbers, max_size=14), min_size=1, max_size=5))
    known = sorted({address for counts in found for address in counts}) or [0]
    some = st.builds(block_of, st.just(family), st.sampled_from(known), st.integers(0, family.width))
    blocks = draw(st.lists(some, min_size=1, max_size=narrow.BLOCKS_MAX + 1, unique=True))
    return family, found, [b for b in blocks if not any(o != b and o.holds(b) for o in blocks)]


@settings(max_examples=80)
@given(asked(), st.sampled_from([1, 100, narrow.BATCH_BYTES]), st.integers(0, 5))
def test_blocks_read_in_one_go_are_the_blocks_of_each(given: tuple, batch: int, without: int) -> None:
    family, found, blocks = given
    wanted: dict[int, int] = {}
    for counts in found:
        for address, number in counts.items():
            if any(block.first <= address <= block.last for block in blocks):
                wanted[address] = wanted.get(address, 0) + number
    with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        patch.setattr(narrow, "BATCH_BYTES", batch)
        put = places.put
        base = Path(directory)
        maker = Maker(base)
        for number, counts in enumerate(found):
            if number == without:  # written before segments said where their row groups lie
                patch.setattr(places, "put", lambda data, _: data)
            elif number > without:
                patch.setattr(places, "put", put)
            maker.put("spam", number * MINUTE, (number + 1) * MINUTE, counts, family=family)
        assert dictionary(read_blocks(base, maker.segments, blocks)) == dict(sorted(wanted.items()))


def test_segments_say_where_their_row_groups_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Maker(tmp_path).put("spam", 0, MINUTE, dict.fromkeys(range(100), 1))

    def never(*_: object) -> None:
        raise AssertionError("was read as a file of its own")

    monkeypatch.setattr(narrow, "read", never)
    assert dictionary(read_blocks(tmp_path, [made], [parse_block("0.0.0.16/28")])) == dict.fromkeys(range(16, 32), 1)


def test_where_row_groups_lie_is_found_behind_long_words(tmp_path: Path) -> None:
    positions = [segment.LogPosition(f"{number:032x}", number) for number in range(500)]
    made = Maker(tmp_path).put("spam", 0, MINUTE, dict.fromkeys(range(100), 1), positions=positions)
    tail = (tmp_path / made.path).read_bytes()[-(places.line_bytes(25, 2) + places.BEHIND_BYTES) :]
    table = places.find(tail, 2)
    assert table is not None
    assert table["first"].tolist() == list(range(0, 100, 4))


def test_a_segment_that_is_shorter_than_it_was_adds_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Maker(tmp_path).put("spam", 0, MINUTE, dict.fromkeys(range(40), 1))
    reads = []

    def short(file: int, size: int, at: int) -> bytes:
        reads.append(at)
        return pread(file, size, at)[: -1 if len(reads) == 3 else size]

    pread = os.pread
    monkeypatch.setattr("os.pread", short)
    assert dictionary(read_blocks(tmp_path, [made], [parse_block("0.0.0.0/27")])) == dict.fromkeys(range(32), 1)
    assert len(reads) == 3


def test_a_flipped_bit_never_becomes_another_answer(tmp_path: Path, rng: random.Random) -> None:
    maker = Maker(tmp_path)
    good = maker.put("spam", 0, MINUTE, {address: address + 7 for address in range(40)})
    bad = maker.put("spam", MINUTE, 2 * MINUTE, {address * 3: 1 for address in range(40)})
    path = tmp_path / bad.path
    whole = path.read_bytes()
    blocks = [parse_block("0.0.0.16/28")]
    right = dictionary(read_blocks(tmp_path, [good, bad], blocks))
    line = range(whole.rfind(places.MARK), len(whole))
    pages = range(4, whole.rfind(places.MARK) - 400)
    outcomes = set()
    for at in [*line, *rng.sample(pages, 200)]:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << rng.randrange(8)]) + whole[at + 1 :])
        try:
            found = dictionary(read_blocks(tmp_path, [good, bad], blocks))
        except SegmentDamaged as error:
            assert bad.path in str(error)
            outcomes.add("damaged")
            continue
        outcomes.add("right")
        if at in line:
            assert found == right, f"byte {at} of {len(whole)}"
        elif found != right:  # headers of pages have no checksum; then it is what reading the file by itself says
            alone = [dictionary(segment.read(tmp_path / one.path, Family.V4, blocks)) for one in (good, bad)]
            assert found == {a: alone[0].get(a, 0) + alone[1].get(a, 0) for a in sorted({*alone[0], *alone[1]})}
    assert outcomes == {"damaged", "right"}


def test_a_segment_that_is_gone_or_cut_off_is_named(tmp_path: Path) -> None:
    maker = Maker(tmp_path)
    made = [maker.put("spam", n * MINUTE, (n + 1) * MINUTE, dict.fromkeys(range(60), 1)) for n in range(3)]
    block = [parse_block("0.0.0.0/26")]
    path = tmp_path / made[1].path
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SegmentDamaged, match=path.name):
        read_blocks(tmp_path, made, block)
    path.write_bytes(whole[200:])  # the end of it is as it was
    with pytest.raises(SegmentDamaged, match=path.name):
        read_blocks(tmp_path, made, block)
    path.unlink()
    with pytest.raises(SegmentGone, match=path.name):
        read_blocks(tmp_path, made, block)


# Plans from fewer rows of the catalogue

TIER_MINUTES: dict[Tier, int] = {"minute": 1, "hour": 2, "day": 4, "month": 8}


@st.composite
def catalogues(draw: st.DrawFn) -> list[Segment]:
    """Leaves and condensed segments in any state: late, behind, of one logger or two."""
    found: list[Segment] = []
    origins = draw(st.sampled_from(["a", "a", "ab"]))
    for number in range(draw(st.integers(0, 14))):
        tier = draw(st.sampled_from(["minute", "minute", "hour", "day", "month"]))
        length = TIER_MINUTES[tier] * MINUTE
        start = draw(st.integers(0, 16 * MINUTE // length - 1)) * length
        leaf = tier == "minute" or draw(st.integers(0, 5)) == 0
        origin = draw(st.sampled_from(origins)) if leaf else "condensed"
        kind = draw(st.sampled_from(["full", "full", "partial", "late"])) if leaf else "condensed"
        upto = tuple((name, draw(st.integers(0, 9))) for name in origins if draw(st.booleans()))
        winners = tuple((start, start + length, name) for name in origins if draw(st.booleans()))
        end = start + length
        found.append(
            Segment(
                f"{number}", "spam", Family.V4, tier, start, end, kind, origin, draw(st.integers(1, 2)),
                draw(st.integers(0, 9)), 1, 1, 1, 1, "", 1, ((start, end),) if draw(st.booleans()) else (),
                () if leaf else upto, () if leaf else winners,
            )
        )  # fmt: skip
    return found


@settings(max_examples=300)
@given(catalogues(), st.integers(0, 15), st.integers(1, 16), st.sampled_from(["minute", "hour", "day", "month"]))
def test_a_plan_from_what_is_needed_is_the_plan_from_all(
    found: list[Segment], start: int, length: int, coarsest: Tier
) -> None:
    catalogue = Catalogue.memory()
    catalogue.replace(found)
    span = Span(start * MINUTE, (start + length) * MINUTE)
    few = Timeline(catalogue.segments_for("spam", Family.V4, span, coarsest)).select(span, coarsest)
    every = Timeline(found).select(span, coarsest)
    assert few.segments == every.segments
    assert few.covered.listed() == every.covered.listed()
    overlapping = Timeline(catalogue.segments("spam", Family.V4, span)).select(span, coarsest)
    if len({segment.origin for segment in found if not segment.condensed}) < 2:
        assert few.cut.listed() == overlapping.cut.listed()
    catalogue.close()


def test_what_was_condensed_is_not_read_from_the_catalogue() -> None:
    found = [_segment("minute", n, "full", commit=n + 1) for n in range(8)]
    found += [_segment("hour", n, "condensed", upto=(("a", 8),), origin="condensed") for n in range(4)]
    late = _segment("minute", 3, "late", commit=9)
    catalogue = Catalogue.memory()
    catalogue.replace([*found, late])
    read = catalogue.segments_for("spam", Family.V4, Span(0, 8 * MINUTE), "month")
    assert sorted(s.path for s in read) == sorted(s.path for s in [*found[8:], late])


def _segment(tier: Tier, number: int, kind: str, commit: int = 1, origin: str = "a", **more: object) -> Segment:
    start = number * TIER_MINUTES[tier] * MINUTE
    end = start + TIER_MINUTES[tier] * MINUTE
    path = f"{tier}-{number}-{kind}-{commit}"
    covered = ((start, end),)
    return Segment(
        path, "spam", Family.V4, tier, start, end, kind, origin, 1, commit, 1, 1, 1, 1, "", 1, covered, **more
    )  # type: ignore[arg-type]


def test_a_catalogue_of_old_gets_the_index_when_it_is_written(tmp_path: Path) -> None:
    maker = Maker(tmp_path)
    maker.put("spam", 0, MINUTE, {1: 1})
    catalogue = maker.catalogue()
    catalogue._connection.execute("DROP INDEX segments_by_kind")
    catalogue._connection.execute("CREATE INDEX idx_segments_series_family_start ON segments (series, family, start)")
    catalogue.close()
    with_old = Catalogue.read(tmp_path / "catalogue.db")
    assert with_old.has_series("spam")
    assert len(with_old.segments_for("spam", Family.V4, Span(0, MINUTE), "month")) == 1
    with_old.close()
    catalogue = Catalogue.create(tmp_path)
    names = {row[0] for row in catalogue._rows("SELECT name FROM sqlite_master WHERE type = 'index'")}
    catalogue.close()
    assert "segments_by_kind" in names
    assert "idx_segments_series_family_start" not in names


def test_a_copy_of_counts_is_the_same(rng: random.Random) -> None:
    for family in Family:
        counts = counts_of(family, {rng.getrandbits(family.width): rng.randrange(9) for _ in range(20)})
        again = counts.copy()
        assert dictionary(again) == dictionary(counts)
        assert not np.shares_memory(again.low, counts.low)


def test_a_question_loads_nothing_that_it_does_not_need(tmp_path: Path) -> None:
    maker = Maker(tmp_path)
    for number in range(2):
        maker.put("spam", number * MINUTE, (number + 1) * MINUTE, {1: 1, 2: 2})
    maker.catalogue().close()
    query = "show count for 0.0.0.0/8 in spam"
    program = (
        "import atexit, sys; from cidr.cli.main import cli\n"
        "atexit.register(lambda: print(*sorted({name.partition('.')[0] for name in sys.modules})))\n"
        f"cli(['--base-dir', {str(tmp_path)!r}, '--format', 'csv', '-e', {query!r}])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert {"pyarrow", "lark"} <= loaded, done.stdout
    unneeded = {"pandas", "sqlite_utils", "starlette", "uvicorn", "prompt_toolkit", "PIL", "jinja2", "zmq", "duckdb"}
    assert not loaded & unneeded
