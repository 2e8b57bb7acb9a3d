"""What nobody counted is not 0. A cell of an answer of whose time no second was counted has no value; one of whose time
some was counted has what was.

A mask of such cells goes beside the values of a column, which are 0 there: the lines of old print them so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cidr.plan import Reading
from cidr.terms import Term
from cidr.types import Family

Mask = NDArray[np.bool_]


def is_uncounted(wanted: Term, reading: Reading) -> bool:
    """Whether none of the series of a term was counted at any second of the span, in no family."""
    span = reading.span
    found = (reading.of(name, family).covered for name, _ in wanted for family in Family)
    return not any(bool(((one.starts < span.end) & (one.ends > span.start)).any()) for one in found)


def mask(gaps: Sequence[Mask | bool], values: Sequence[NDArray[Any]]) -> Mask | None:
    """The cells without a value: those where one of the terms is uncounted, and has no late counts either."""
    found = np.zeros(len(values[0]), np.bool_)
    for gap, column in zip(gaps, values, strict=True):
        found |= (column == 0) & gap
    return found if found.any() else None


__all__ = ["Mask", "is_uncounted", "mask"]
