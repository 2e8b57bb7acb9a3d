"""The colours of the steps: from amber to nearly black, told apart by the colour-blind too and in grey (as inferno,
turned round and without its lightest). Many are dark: on white the cell that matters most is what is seen first,
however small it is. On a dark page it is the other way round; the style sheet of the page has those.
"""

from __future__ import annotations

# Of STEPS steps, the fewest first.
RAMP = ("#fbb41a", "#f98e09", "#ed6925", "#d84c3e", "#bc3754", "#932667", "#6a176e", "#420a68", "#160b39")
ZERO = "#dfe3ea"
NEGATIVE = "#0f8b8d"
HATCH_DARK, HATCH_FINE, HATCH_LIGHT = "#c9ccd1", "#eceef1", "#ffffff"


def rgb(text: str) -> tuple[int, int, int]:
    """`#0b2f6b` as numbers."""
    return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)
