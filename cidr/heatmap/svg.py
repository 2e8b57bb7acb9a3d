"""A heat map as SVG: a square for each cell, with a title, and a link where one is given.

In a page the classes get their colours from its style sheet; a file brings its own.
"""

from __future__ import annotations

from collections.abc import Callable
from xml.sax.saxutils import escape, quoteattr

from cidr.heatmap import colours
from cidr.heatmap.heat import NEGATIVE, NO_DATA, STEPS, ZERO, Heat
from cidr.heatmap.hilbert import places
from cidr.types import Block, Family

# Each square is an element that a browser keeps: more of them belong into a PNG.
DETAIL_SVG_MAX = 12
CELL = 28
LEGEND_HEIGHT = 56
_CLASSES = {NO_DATA: "none", ZERO: "zero", NEGATIVE: "minus"}
# Numbers in cells only where they are large enough to be read.
_LABELLED_DETAIL_MAX = 8


def grid(heat: Heat, link: Callable[[Block], str | None], name: str) -> str:
    """The picture for a page: `link` gives the address behind a cell, or None."""
    side = CELL << heat.order
    head = f'<svg class="heat" viewBox="0 0 {side} {side}" role="group" aria-label={quoteattr(name)}>'
    return f"{head}{_HATCH}{''.join(_cells(heat, link))}</svg>"


def file(heat: Heat, title: str) -> bytes:
    """A file of its own, with a legend."""
    cell = max(2, CELL >> max(0, heat.order - 4))
    side = cell << heat.order
    height = side + LEGEND_HEIGHT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {side} {height}" width="{side}" height="{height}" '
        f'role="img" aria-label={quoteattr(title)}>',
        f"<title>{escape(title)}</title><style>{_style()}</style>{_HATCH}",
        f'<rect width="{side}" height="{height}" fill="#ffffff"/>',
        *_cells(heat, lambda _: None, cell),
        *_legend(heat, title, side),
        "</svg>\n",
    ]
    return "".join(parts).encode(errors="replace")


def value_text(value: float) -> str:
    """A cell's value in words."""
    if value != value:
        return "no data"
    return f"{value:,.0f}" if value == int(value) else f"{value:,.4f}"


def _cells(heat: Heat, link: Callable[[Block], str | None], cell: int = CELL) -> list[str]:
    xs, ys = (axis.tolist() for axis in places(heat.order))
    labelled = heat.detail <= _LABELLED_DETAIL_MAX and cell == CELL
    parts = []
    for number, (block, value, level) in enumerate(heat.cells()):
        x, y = xs[number] * cell, ys[number] * cell
        name = _CLASSES.get(level, f"s{level}")
        text = f"{block}: {value_text(value)}"
        square = (
            f'<rect class="{name}" x="{x}" y="{y}" width="{cell}" height="{cell}"><title>{escape(text)}</title></rect>'
        )
        if labelled:
            shown = f'<text class="{_ink(level)}" x="{x + cell // 2}" y="{y + 18}">{_number(block)}</text>'
            square += shown
        target = link(block) if level != NO_DATA else None
        parts.append(f"<a href={quoteattr(target)}>{square}</a>" if target else square)
    return parts


def _number(block: Block) -> str:
    """What tells a cell from its neighbours: the last byte of its prefix."""
    byte = block.first >> (block.family.width - block.bits) & 0xFF
    return str(byte << (8 - block.bits % 8) % 8 & 0xFF) if block.family is Family.V4 else f"{byte:02x}"


def _ink(level: int) -> str:
    return "on-dark" if 1 <= level <= 5 or level == NEGATIVE else "on-light"


_HATCH = (
    '<defs><pattern id="hatch" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
    '<rect class="hatch-ground" width="6" height="6"/><rect class="hatch-line" width="2" height="6"/></pattern></defs>'
)


def _style() -> str:
    steps = "".join(f".s{at}{{fill:{colour}}}" for at, colour in enumerate(colours.RAMP, 1))
    return (
        f".none{{fill:url(#hatch)}}.zero{{fill:{colours.ZERO}}}.minus{{fill:{colours.NEGATIVE}}}{steps}"
        f".hatch-ground{{fill:{colours.HATCH_LIGHT}}}.hatch-line{{fill:{colours.HATCH_DARK}}}"
        "rect{stroke:#ffffff;stroke-width:.5}text{font:9px sans-serif;text-anchor:middle}"
        ".on-dark{fill:#ffffff}.on-light{fill:#1c1f24}.words{font:12px sans-serif;text-anchor:start;fill:#1c1f24}"
    )


def _legend(heat: Heat, title: str, side: int) -> list[str]:
    y = side + 20
    parts = [f'<text class="words" x="4" y="{y}">{escape(title)}</text>']
    x, y = 4, side + 32
    for name, words in (("none", "no data"), ("zero", "0")):
        parts.append(f'<rect class="{name}" x="{x}" y="{y}" width="14" height="14"/>')
        parts.append(f'<text class="words" x="{x + 18}" y="{y + 12}">{words}</text>')
        x += 30 + 7 * len(words)
    for step in range(1, STEPS + 1):
        parts.append(f'<rect class="s{step}" x="{x}" y="{y}" width="14" height="14"/>')
        x += 14
    parts.append(
        f'<text class="words" x="{x + 6}" y="{y + 12}">{value_text(heat.least)} to {value_text(heat.most)}</text>'
    )
    return parts
