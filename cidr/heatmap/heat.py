"""The cells of a heat map: which block each is, its value, and how hot that is.

A cell without any counted address has no data: NaN, and hatched ("no address counted"). A cell that was counted and
adds up to 0 is zero, and has a colour. Colours are steps of a logarithmic scale from the smallest value to the largest;
a ratio's are linear.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cidr.ask import Rows
from cidr.formats.status import covered
from cidr.types import Answer, Block, Family
from jlogd.errors import UsageError

# Of a picture in links and titles, and of one in pixels: 4096 by 4096 is a /24 of all IPv4 a pixel.
DETAIL_GRID = 8
DETAIL_MAX = 24
# Of one that a server draws for others: a larger one takes a gigabyte for a moment.
DETAIL_SERVED_MAX = 16
STEPS = 9
# Levels of a cell.
NO_DATA, ZERO, NEGATIVE = -1, 0, -2


@dataclass(frozen=True, slots=True)
class Heat:
    """2**detail cells of a block in the order of their addresses; NaN is no data."""

    block: Block
    detail: int
    values: NDArray[np.float64]
    label: str
    when: str
    linear: bool = False

    @property
    def order(self) -> int:
        """The picture has 2**order cells a side."""
        return self.detail // 2

    @property
    def most(self) -> float:
        """The largest value; 0 when there is none."""
        known = self.values[~np.isnan(self.values)]
        return float(known.max()) if len(known) else 0.0

    @property
    def least(self) -> float:
        """The smallest value above 0; 0 when there is none."""
        some = self.values[self.values > 0]
        return float(some.min()) if len(some) else 0.0

    def levels(self) -> NDArray[np.int64]:
        """For each cell NO_DATA, ZERO, NEGATIVE, or 1 to STEPS."""
        values = np.nan_to_num(self.values)
        most, least = max(self.most, 1e-9), max(self.least, 1e-9)
        if self.linear or most <= least:
            share = values.clip(0) / most
        else:
            share = np.log(values.clip(least) / least) / np.log(most / least)
        steps = np.clip(np.ceil(share * STEPS), 1, STEPS).astype(np.int64)
        found = np.where(values > 0, steps, np.where(values < 0, NEGATIVE, ZERO))
        return np.where(np.isnan(self.values), NO_DATA, found)

    def cell(self, number: int) -> Block:
        """The block of a cell."""
        bits = self.block.bits + self.detail
        return Block(self.block.family, self.block.first | number << (self.block.family.width - bits), bits)

    def cells(self) -> Iterator[tuple[Block, float, int]]:
        """Block, value and level of every cell."""
        for number, (value, level) in enumerate(zip(self.values.tolist(), self.levels().tolist(), strict=True)):
            yield self.cell(number), value, level


def detail_of(block: Block, wanted: int = DETAIL_GRID) -> int:
    """How many bits below the block are shown: `wanted`, or what is left of the address, always an even number."""
    return min(wanted, block.family.width - block.bits) // 2 * 2


def check_detail(block: Block, wanted: int) -> int:
    """`wanted`, or UsageError saying what can be shown of the block."""
    left = min(DETAIL_MAX, block.family.width - block.bits)
    if wanted % 2 or not 2 <= wanted <= left:
        raise UsageError(f"a map of {block} shows an even number of bits below it, 2 to {left // 2 * 2}, not {wanted}")
    return wanted


def query_text(block: Block, expression: str, time: str, detail: int) -> str:
    """The query whose rows are the cells that have data."""
    return f"show count for {block} in {expression} {time} cidrsize {block.bits + detail}".replace("  ", " ")


def heat(rows: Rows, block: Block, detail: int) -> Heat:
    """The cells of the answer to `query_text`. Raises UsageError when rows are missing: they would look empty."""
    if rows.answer.time is not None:
        raise UsageError("a map shows all of the time as one sum: leave `aggregate` out")
    if rows.answer.matched > len(rows.answer):
        what = (
            f"{rows.answer.matched:,} cells have data, and {len(rows.answer):,} were sent: ask for fewer bits of detail"
        )
        raise UsageError(what)
    values = np.full(1 << detail, np.nan)
    column = rows.answer.columns[0]
    values[_numbers(rows.answer, block, detail)] = column.values.astype(np.float64)
    when = covered(rows.answer.coverage, rows.zone)
    return Heat(block, detail, values, column.label, when, linear=column.kind == "ratio")


def _numbers(answer: Answer, block: Block, detail: int) -> NDArray[np.int64]:
    """The number of each row's cell: the `detail` bits of its address after those of the block."""
    end = block.bits + detail
    mask = np.uint64((1 << detail) - 1)
    if block.family is Family.V4:
        found = answer.low >> np.uint64(32 - end)
    elif end <= 64:
        found = answer.high >> np.uint64(64 - end)
    else:
        found = answer.low >> np.uint64(128 - end)
        if end - 64 < detail:
            found = found | answer.high << np.uint64(end - 64)
    return (found & mask).astype(np.int64)
