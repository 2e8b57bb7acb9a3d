"""Maps in which few cells have an address: what is drawn so that each of them is seen."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cidr.heatmap.heat import Heat
from cidr.heatmap.hilbert import places

# At most one cell in so many: a denser map would lose its shape, and what a label hides there is a small part of it.
SPARSE_CELLS = 64


def is_sparse(heat: Heat) -> bool:
    """Whether few cells have an address."""
    return int((~np.isnan(heat.values)).sum()) * SPARSE_CELLS <= len(heat.values)


def there(heat: Heat, pixels: int) -> NDArray[np.bool_]:
    """Where a map of so many pixels a cell has what no label should hide: rows, columns. Nowhere in one that is not
    sparse."""
    cells = 1 << heat.order
    found = np.zeros((cells, cells), np.bool_)
    if is_sparse(heat):
        xs, ys = places(heat.order)
        found[ys, xs] = ~np.isnan(heat.values)
    return np.repeat(np.repeat(found, pixels, axis=0), pixels, axis=1)


def corner(square: NDArray[np.bool_], box: tuple[int, int], margin: int) -> tuple[int, int]:
    """Where in a square a label of that width and height hides the least, from the left and from the top; the first
    corner when it makes no difference."""
    side = len(square)
    rights, downs = (margin, side - box[0] - margin), (margin, side - box[1] - margin)
    corners = [(right, down) for down in downs for right in rights]
    hidden = [int(square[down : down + box[1], right : right + box[0]].sum()) for right, down in corners]
    return corners[hidden.index(min(hidden))]


__all__ = ["corner", "is_sparse", "there"]
