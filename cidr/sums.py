"""How far sums go: counts are columns of 64 bits, and numpy's additions beyond them come round without a word.

Everything that is added up is known before: each segment says its rows, its total, its least and its greatest count. So
a bound of what they amount to, whatever the order and the block, is a sum of Python's numbers. Below `SUM_MAX` no sum
can come round. Above, a query looks at the counts in the blocks it asks about; what does not fit there is refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

# Not quite the greatest number of the column: a total that is this one may stand for a greater one.
SUM_MAX = (1 << 63) - 1


class Summed(Protocol):
    """What a segment says of its counts."""

    @property
    def rows(self) -> int: ...
    @property
    def total(self) -> int: ...
    @property
    def least(self) -> int: ...
    @property
    def most(self) -> int: ...


def bound(segments: Iterable[Summed]) -> int:
    """What the counts of segments add up to at most, without their signs."""
    return sum(s.total if s.least >= 0 and s.most <= s.total else _bound(s) for s in segments)


def _bound(segment: Summed) -> int:
    """Where some are negative, or the total came round when an older version wrote it."""
    rough = segment.rows * max(-segment.least, segment.most)
    if segment.least >= 0 or abs(segment.total) >= SUM_MAX:
        return rough
    return min(rough, segment.total - 2 * segment.rows * segment.least)


def exact(values: NDArray[np.int64]) -> int:
    """The sum of a column, however large: of its upper and its lower halves."""
    return (int((values >> 32).sum()) << 32) + int((values & 0xFFFFFFFF).sum())


def exact_size(values: NDArray[np.int64]) -> int:
    """The same without signs."""
    return exact(values[values > 0]) - exact(values[values < 0])


def fitting(total: int) -> int:
    """A total as a catalogue holds it: `SUM_MAX` stands for everything from there on."""
    return max(-SUM_MAX, min(total, SUM_MAX))
