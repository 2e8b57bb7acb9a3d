"""What is new of what a node delivers: every number once, in order, and a gap for each that will not come."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from jlogd.journal.batch import Batch, Gap, encode
from jlogd.manager.follow import follow, unseen
from jlogd.manager.ledger import SourceState
from jlogd.manager.parcel import Item, Parcel, Source
from jlogd.manager.template import Origin


def batch(first: int, count: int) -> Batch:
    return encode([b"%d" % number for number in range(first, first + count)]).stamped(first, first, 1, 1)


def told(items: list[Item]) -> dict[int, str]:
    """What is said of each number: the record, or why there is none. Each once."""
    found: dict[int, str] = {}
    for item in items:
        if isinstance(item, Batch):
            said = {item.first + at: record.decode() for at, record in enumerate(item)}
        else:
            assert isinstance(item, Gap)
            said = dict.fromkeys(range(item.first, item.next), item.reason)
        assert not said.keys() & found.keys()
        found |= said
    return found


def test_what_is_below_is_left_out_and_what_overlaps_is_cut() -> None:
    assert unseen([batch(1, 5)], 6) == []
    assert told(unseen([batch(1, 5), batch(4, 4)], 3)) == {n: str(n) for n in range(3, 8)}
    assert unseen([Gap(1, 9, "damaged", "of a sector")], 5) == [Gap(5, 9, "damaged", "of a sector")]


def test_a_hole_is_a_gap_that_says_so() -> None:
    assert unseen([batch(8, 1)], 5)[0] == Gap(5, 7, "passed")
    assert told(unseen([batch(1, 1), batch(3, 1)], None)) == {1: "1", 2: "passed", 3: "3"}


def test_where_nothing_is_expected_the_first_is_the_beginning() -> None:
    assert told(unseen([batch(40, 2)], None)) == {40: "40", 41: "41"}


@given(
    st.lists(st.tuples(st.integers(1, 30), st.integers(1, 8), st.booleans()), min_size=1, max_size=8),
    st.none() | st.integers(1, 40),
)
def test_whatever_arrives_the_ledger_finds_no_hole(arrived: list[tuple[int, int, bool]], expected: int | None) -> None:
    found = [
        batch(first, count) if some else Gap(first, first + count - 1, "damaged") for first, count, some in arrived
    ]
    items = unseen(found, expected)
    if not items:
        assert expected is not None and all(item.next <= expected for item in found)
        return
    start = found[0].first if expected is None else expected
    numbers = told(items)
    assert list(numbers) == list(range(start, max(item.next for item in found)))
    assert all(said in (str(number), "damaged", "passed") for number, said in numbers.items())
    parcel = Parcel(Source(Origin("node", "default", "log"), "m", "files"), "uuid", items)
    state = SourceState("uuid", start, start)
    assert follow(parcel, state)[1].next == items[-1].next
