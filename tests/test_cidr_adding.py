"""Adding up a plan: every thread has its share of it, groups add up right, and freed memory is used again."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cidr import runs
from cidr.columns import group_sums
from cidr.timeline import Segment
from cidr.types import Family


def _segment(number: int, rows: int) -> Segment:
    start, end = number * 86400, (number + 1) * 86400
    return Segment(
        f"{number}", "spam", Family.V4, "day", start, end, "full", "a", 1, number,
        rows, rows * 2, 0, 1, "", rows, ((start, end),),
    )  # fmt: skip


@given(
    st.lists(st.lists(st.integers(0, 100), min_size=1, max_size=40), max_size=5),
    st.integers(1, 8),
    st.integers(50, 5000),
)
def test_threads_get_shares_of_about_the_same_size(parts: list[list[int]], threads: int, most: int) -> None:
    numbers = itertools.count()
    segments = [[_segment(next(numbers), rows) for rows in part] for part in parts]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "SHARE_ROWS", most)
        shares = runs._shares(segments, threads)
    assert [pair for share in shares for pair in share] == [(n, s) for n, part in enumerate(segments) for s in part]
    total = sum(segment.rows + 1 for part in segments for segment in part)
    sizes = [sum(segment.rows + 1 for _, segment in share) for share in shares]
    even = total / max(1, -(-total // (threads * most)) * threads)
    assert all(size <= even + 101 for size in sizes)  # the segment at each edge belongs to one of two


@given(st.lists(st.lists(st.integers(-(1 << 63), (1 << 63) - 1), min_size=1, max_size=9), max_size=9))
def test_sums_of_groups_come_right_where_prefix_sums_come_round(groups: list[list[int]]) -> None:
    values = np.array([value for group in groups for value in group], np.int64)
    starts = np.cumsum([0, *map(len, groups)])[:-1].astype(np.int64)
    expected = [(sum(group) + (1 << 63)) % (1 << 64) - (1 << 63) for group in groups]
    assert group_sums(values, starts).tolist() == expected
