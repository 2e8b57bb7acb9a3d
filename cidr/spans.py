"""Sets of time as sorted, disjoint, half-open stretches: what was counted, and what is missing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cidr.types import Span

Int = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Spans:
    """Stretch i is [starts[i], ends[i])."""

    starts: Int
    ends: Int

    @property
    def seconds(self) -> int:
        """Their total length."""
        return int((self.ends - self.starts).sum())

    def listed(self, most: int | None = None) -> tuple[Span, ...]:
        """As spans, the first `most` of them."""
        return tuple(Span(int(a), int(b)) for a, b in zip(self.starts[:most], self.ends[:most], strict=True))


def spans(starts: Int, ends: Int) -> Spans:
    """The union of stretches in any order, overlapping or not."""
    some = ends > starts
    starts, ends = starts[some], ends[some]
    if not len(starts):
        return NONE
    order = np.argsort(starts, kind="stable")
    starts, ends = starts[order], np.maximum.accumulate(ends[order])
    begin = np.concatenate(([True], starts[1:] > ends[:-1]))
    first = np.flatnonzero(begin)
    last = np.append(first[1:], len(starts)) - 1
    return Spans(starts[first], ends[last])


NONE = Spans(np.empty(0, np.int64), np.empty(0, np.int64))


def of(*pairs: tuple[int, int]) -> Spans:
    """The union of the given stretches."""
    table = np.array(pairs, np.int64).reshape(-1, 2)
    return spans(table[:, 0], table[:, 1])


def union(left: Spans, right: Spans) -> Spans:
    """What is in either."""
    return spans(np.concatenate((left.starts, right.starts)), np.concatenate((left.ends, right.ends)))


def without(whole: Spans, part: Spans) -> Spans:
    """What is in `whole` and not in `part`."""
    if not len(whole.starts) or not len(part.starts):
        return whole
    edges = np.concatenate((whole.starts, whole.ends, part.starts, part.ends))
    steps = np.concatenate(
        (
            np.full(len(whole.starts), 1),
            np.full(len(whole.ends), -1),
            np.full(len(part.starts), -2),
            np.full(len(part.ends), 2),
        )
    )
    order = np.argsort(edges, kind="stable")
    edges, depth = edges[order], np.cumsum(steps[order])
    inside = np.flatnonzero(depth[:-1] == 1)
    return spans(edges[inside], edges[inside + 1])


def both(left: Spans, right: Spans) -> Spans:
    """What is in both."""
    return without(left, without(left, right))
