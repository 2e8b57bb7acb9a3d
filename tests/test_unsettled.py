"""Which of a writer's batches the sink may have now: in order, a new producer's first one alone, all again after no."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from jlogd.journal.batch import Batch, encode
from jlogd.writer.unsettled import Sent, Unsettled

MINE = 7


def sent(start: int, producer: int = MINE) -> Sent:
    batch: Batch = encode([b"record"]).numbered(producer, start, start + 1)
    return Sent(batch, [], numbered=producer == MINE)


def waiting(count: int, *, introduced: bool = True) -> tuple[Unsettled, list[Sent]]:
    unsettled, batches = Unsettled(MINE, introduced), [sent(start) for start in range(count)]
    for each in batches:
        unsettled.add(each)
    return unsettled, batches


def handed_over(unsettled: Unsettled) -> list[Sent]:
    return list(iter(unsettled.next, None))


def test_they_are_handed_over_in_order_and_once() -> None:
    unsettled, batches = waiting(3)
    assert handed_over(unsettled) == batches
    unsettled.add(another := sent(3))
    assert handed_over(unsettled) == [another]
    assert unsettled.awaited == 4


def test_the_first_of_a_producer_that_the_log_does_not_know_travels_alone() -> None:
    unsettled, batches = waiting(3, introduced=False)
    assert handed_over(unsettled) == batches[:1]
    unsettled.accepted(batches[0])
    assert handed_over(unsettled) == batches[1:]


def test_what_others_numbered_needs_no_introduction() -> None:
    unsettled = Unsettled(MINE, introduced=False)
    theirs = [sent(start, producer=8) for start in range(3)]
    for each in theirs:
        unsettled.add(each)
    assert handed_over(unsettled) == theirs
    unsettled.accepted(theirs[0])
    unsettled.add(mine := sent(0))
    assert handed_over(unsettled) == [], "theirs did not introduce this writer"
    for each in theirs[1:]:
        unsettled.accepted(each)
    assert handed_over(unsettled) == [mine]


def test_after_a_refusal_for_now_all_are_handed_over_again() -> None:
    unsettled, batches = waiting(3)
    handed_over(unsettled)
    unsettled.add(sent(3))
    unsettled.refused_for_now()
    assert handed_over(unsettled) == [], "no other goes before the one that was refused"
    unsettled.accepted(batches[1])  # it was larger than what there was room for, and this one was not
    unsettled.refused_for_now()
    assert unsettled.awaited == 0
    unsettled.again(4)
    assert [each.batch.producer_from for each in handed_over(unsettled)] == [0, 2, 3]


def test_what_was_sent_before_may_be_in_the_log_already() -> None:
    unsettled, (first, second) = waiting(2)
    assert not unsettled.may_be_repeated(first)
    assert unsettled.may_be_repeated(sent(0, producer=8))
    unsettled.again(1)
    assert unsettled.may_be_repeated(first) and not unsettled.may_be_repeated(second)
    handed_over(unsettled)
    unsettled.take_back([first, second], 2)
    assert unsettled.may_be_repeated(second)


def test_a_refusal_settles_what_was_not_handed_over_too() -> None:
    unsettled, batches = waiting(2)
    handed_over(unsettled)
    unsettled.add(late := sent(2))
    unsettled.add(later := sent(3))
    settled = unsettled.refused(batches[0])
    assert settled[0] is batches[0] and {*settled[1:]} == {late, later}
    assert unsettled.bytes == batches[1].batch.size
    assert list(unsettled.batches) == batches[1:], "the sink still has that one, and will say what becomes of it"


def test_what_was_lost_on_the_way_is_handed_over_again() -> None:
    unsettled, batches = waiting(3)
    lost = handed_over(unsettled)
    unsettled.accepted(batches[0])  # before the interruption
    unsettled.take_back(lost, 3)
    assert unsettled.awaited == 0
    assert handed_over(unsettled) == batches[1:]


@given(st.lists(st.sampled_from(["add", "next", "accepted", "refused", "for now", "again", "lost"]), max_size=60))
def test_nothing_is_forgotten_and_what_is_counted_is_right(steps: list[str]) -> None:
    unsettled, position = Unsettled(MINE, introduced=False), 0
    there: list[Sent] = []  # not settled
    with_sink: list[Sent] = []
    for step in steps:
        if step == "add":
            there.append(sent(position))
            unsettled.add(there[-1])
            position += 1
        elif step == "next":
            with_sink += handed_over(unsettled)
        elif step == "lost" and not unsettled.stalled:
            unsettled.take_back(with_sink, position)
            with_sink = []
        elif step == "again" and unsettled.stalled and not with_sink:
            unsettled.again(position)
        elif with_sink and step in ("accepted", "refused", "for now"):
            each = with_sink.pop(0)
            if step == "for now":
                unsettled.refused_for_now()
            elif step == "accepted":
                unsettled.accepted(each)
                there.remove(each)
            else:
                for gone in unsettled.refused(each):
                    there.remove(gone)
        assert list(unsettled.batches) == there
        assert unsettled.awaited == len(with_sink)
        assert unsettled.bytes == sum(each.batch.size for each in there)
        assert with_sink == [each for each in there if each in with_sink], "the sink has them in order"
