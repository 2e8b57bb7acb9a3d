"""Where a producer begins whose first batch was refused: the log lets one that it does not know start anywhere."""

from __future__ import annotations

from jlogd.errors import ProducerGap, SpoolFull
from jlogd.journal.batch import Batch, encode
from jlogd.journal.producers import OWED_MAX, Heard, Owed
from jlogd.journal.types import Receipt

FULL = SpoolFull("no space")


def batch(start: int, producer: int = 7) -> Batch:
    return encode([b"record"]).numbered(producer, start, start + 10)


def owing(*starts: int) -> Owed:
    """Batches that begin there were refused, in this order."""
    owed = Owed()
    owed.note([batch(start) for start in starts], [FULL] * len(starts))
    return owed


def test_what_was_refused_first_is_what_others_must_follow() -> None:
    owed = owing(0, 10)
    assert owed.before(batch(0)) is None
    assert owed.before(batch(10)) == Heard(0, 0, 0)
    owed.note([batch(20)], [FULL])
    assert owed.before(batch(10)) == Heard(0, 0, 0)


def test_nobody_else_owes_anything() -> None:
    assert owing(0).before(batch(10, producer=8)) is None
    assert owing().before(batch(10)) is None


def test_a_batch_that_was_accepted_settles_it() -> None:
    owed = owing(0)
    owed.note([batch(0)], [Receipt(1, 1)])
    assert owed.before(batch(10)) is None


def test_a_hole_is_not_a_beginning() -> None:
    """The producer has to send what is before it, so what it began with is not here."""
    owed = Owed()
    owed.note([batch(20)], [ProducerGap("send again")])
    assert owed.before(batch(30)) is None


def test_so_many_are_waited_for_and_the_oldest_is_given_up() -> None:
    owed = owing(0)
    others = [batch(0, producer) for producer in range(1000, 1000 + OWED_MAX)]
    owed.note(others, [FULL] * OWED_MAX)
    assert owed.before(batch(10)) is None
    assert owed.before(batch(10, producer=1000)) == Heard(0, 0, 0)
