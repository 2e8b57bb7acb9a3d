"""The colours of the steps: from yellow to dark blue, told apart by the colour-blind too and in grey (as cividis).

Pictures have a light ground, so dark is many: a lone cell with the largest count is what is seen first. Yellow for many
was dropped: one such pixel on white is what is seen last. The page in its dark scheme turns the scale round.
"""

from __future__ import annotations

# Of STEPS steps, the coolest first.
RAMP = ("#fde737", "#cfb95d", "#ad9f6d", "#918a74", "#757575", "#5d6270", "#46526e", "#2c4270", "#0b2f6b")
ZERO = "#dfe3ea"
NEGATIVE = "#8e2a6b"
HATCH_DARK, HATCH_FINE, HATCH_LIGHT = "#c9ccd1", "#eceef1", "#ffffff"


def rgb(text: str) -> tuple[int, int, int]:
    """`#0b2f6b` as numbers."""
    return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)
