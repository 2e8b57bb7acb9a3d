"""The colours of the steps: from dark blue to yellow, told apart by the colour-blind too and in grey (as cividis)."""

from __future__ import annotations

# Of STEPS steps, the coolest first.
RAMP = ("#0b2f6b", "#2c4270", "#46526e", "#5d6270", "#757575", "#918a74", "#ad9f6d", "#cfb95d", "#fde737")
ZERO = "#dfe3ea"
NEGATIVE = "#8e2a6b"
HATCH_DARK, HATCH_FINE, HATCH_LIGHT = "#c9ccd1", "#eceef1", "#ffffff"


def rgb(text: str) -> tuple[int, int, int]:
    """`#0b2f6b` as numbers."""
    return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)
