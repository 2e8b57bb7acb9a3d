"""Hilbert's curve: the place of cell number `d` in a square of 2**order by 2**order cells."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Cells = NDArray[np.int32]


def places(order: int) -> tuple[Cells, Cells]:
    """Columns and rows of all cells in the order of the curve; cell 0 is at the top left."""
    rest = np.arange(1 << (2 * order), dtype=np.int32)
    x, y = np.zeros_like(rest), np.zeros_like(rest)
    for level in range(order):
        side = 1 << level
        right = (rest >> 1) & 1
        down = (rest ^ right) & 1
        flip = (down == 0) & (right == 1)
        x, y = np.where(flip, side - 1 - x, x), np.where(flip, side - 1 - y, y)
        x, y = np.where(down == 0, y, x), np.where(down == 0, x, y)
        x, y = x + side * right, y + side * down
        rest = rest >> 2
    return x, y
