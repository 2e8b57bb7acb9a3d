"""A heat map as SVG: a square for each cell, with a title, and a link where one is given.

In a page the classes get their colours from its style sheet; a file brings its own.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from xml.sax.saxutils import escape, quoteattr

import numpy as np
from numpy.typing import NDArray

from cidr.heatmap import colours, words
from cidr.heatmap.heat import DETAIL_GRID, NEGATIVE, NO_DATA, STEPS, ZERO, Heat
from cidr.heatmap.hilbert import places
from cidr.heatmap.sparse import corner, there
from cidr.types import Block

# Each square is an element that a browser keeps: more of them belong into a PNG.
DETAIL_SVG_MAX = 12
CELL = 28
SIDE = 16 * CELL
HEAD_HEIGHT = 62
LEGEND_HEIGHT = 48
STEP = 16
# Of the numbers of squares, in the 9 pixels of the style.
LETTER_WIDTH, LETTER_HEIGHT = 6, 10
# The first step on which white is read better than black.
_DARK_FROM = 4
_CLASSES = {NO_DATA: "none", ZERO: "zero", NEGATIVE: "minus"}


def grid(heat: Heat, link: Callable[[Block], str | None], name: str) -> str:
    """The picture for a page: `link` gives the address behind a cell, or None."""
    side = CELL << heat.order
    head = f'<svg class="heat" viewBox="0 0 {side} {side}" role="group" aria-label={quoteattr(name)}>'
    return f"{head}{_HATCH}{''.join(_cells(heat, link))}</svg>"


def file(heat: Heat) -> bytes:
    """A file of its own, with its title and a legend."""
    cell = max(2, (SIDE if heat.detail <= DETAIL_GRID else 2 * SIDE) >> heat.order)
    side = cell << heat.order
    height = HEAD_HEIGHT + side + LEGEND_HEIGHT
    title = f"{words.title(heat)}; {words.subtitle(heat)}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {side} {height}" width="{side}" height="{height}" '
        f'role="img" aria-label={quoteattr(title)}>',
        f"<title>{escape(title)}</title><style>{_style()}</style>{_HATCH}",
        f'<rect width="{side}" height="{height}" fill="#ffffff"/>',
        *_head(heat, side),
        f'<g transform="translate(0 {HEAD_HEIGHT})">',
        *_cells(heat, lambda _: None, cell),
        *(_squares(heat, side, there(heat, cell)) if heat.detail > DETAIL_GRID else []),
        "</g>",
        *_legend(heat, HEAD_HEIGHT + side),
        "</svg>\n",
    ]
    return "".join(parts).encode(errors="replace")


def _cells(heat: Heat, link: Callable[[Block], str | None], cell: int = CELL) -> list[str]:
    xs, ys = (axis.tolist() for axis in places(heat.order))
    labelled = heat.detail <= DETAIL_GRID and cell >= CELL
    parts = []
    for number, (block, value, level) in enumerate(heat.cells()):
        x, y = xs[number] * cell, ys[number] * cell
        name = _CLASSES.get(level, f"s{level}")
        text = f"{block}: {words.nothing(heat) if level == NO_DATA else words.value_text(value)}"
        square = (
            f'<rect class="{name}" x="{x}" y="{y}" width="{cell}" height="{cell}"><title>{escape(text)}</title></rect>'
        )
        if labelled:
            shown = (
                f'<text class="{_ink(level)}" x="{x + cell // 2}" y="{y + cell // 2 + 4}">{words.number(block)}</text>'
            )
            square += shown
        target = link(block) if level != NO_DATA else None
        parts.append(f"<a href={quoteattr(target)}>{square}</a>" if target else square)
    return parts


def _ink(level: int) -> str:
    return "on-dark" if level >= _DARK_FROM or level == NEGATIVE else "on-light"


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
        ".title{font:bold 17px sans-serif;text-anchor:start;fill:#1c1f24}.small{font-size:11px;fill:#545a63}"
        ".tick{font:11px sans-serif;fill:#1c1f24}.first{text-anchor:start}.box{stroke:#545a63}"
        ".edges{stroke:#8b919a;stroke-width:.5;fill:none}"
        ".square{text-anchor:start;fill:#1c1f24;stroke:#ffffff;stroke-width:2;paint-order:stroke}"
    )


def _head(heat: Heat, side: int) -> list[str]:
    found = [f'<text class="title" x="4" y="20">{escape(_fitting(words.title(heat), side // 9, 1)[0])}</text>']
    for at, line in enumerate(_fitting(words.subtitle(heat), side // 6, 2)):
        found.append(f'<text class="words small" x="4" y="{38 + 15 * at}">{escape(line)}</text>')
    return found


def _fitting(text: str, characters: int, lines: int) -> list[str]:
    return textwrap.wrap(text, characters, max_lines=lines, placeholder=" ...") or [""]


def _squares(heat: Heat, side: int, hidden: NDArray[np.bool_]) -> list[str]:
    """Lines around the squares that 16 by 16 cells are too small for, and their numbers. `hidden`: what they would
    hide."""
    blocks = words.squares(heat)
    across = int(len(blocks) ** 0.5)
    wide = side // across
    xs, ys = (axis.tolist() for axis in places(across.bit_length() - 1))
    edges = "".join(f"M{at * wide} 0V{side}M0 {at * wide}H{side}" for at in range(across + 1))
    found = [f'<path class="edges" d="{edges}"/>']
    for x, y, block in zip(xs, ys, blocks, strict=True):
        name = words.number(block)
        square = hidden[y * wide : (y + 1) * wide, x * wide : (x + 1) * wide]
        right, down = corner(square, (LETTER_WIDTH * len(name) + 2, LETTER_HEIGHT), 2)
        at = f'x="{x * wide + right + 1}" y="{y * wide + down + LETTER_HEIGHT - 2}"'
        found.append(f'<text class="square" {at}>{name}</text>')
    return found


def _legend(heat: Heat, top: int) -> list[str]:
    x, y = 4, top + 12
    parts = []
    plain = [
        ("none", words.nothing(heat)),
        ("zero", "0"),
        *([("minus", "below 0")] if words.has_negative(heat) else []),
    ]
    for name, text in plain:
        parts.append(f'<rect class="{name} box" x="{x}" y="{y}" width="14" height="14"/>')
        parts.append(f'<text class="words" x="{x + 18}" y="{y + 12}">{text}</text>')
        x += 30 + 7 * len(text)
    for step in range(1, STEPS + 1):
        parts.append(f'<rect class="s{step}" x="{x + (step - 1) * STEP}" y="{y}" width="{STEP}" height="14"/>')
    for step, text in words.ticks(heat):
        anchor = "" if step else " first"
        parts.append(f'<text class="tick{anchor}" x="{x + step * STEP}" y="{y + 27}">{escape(text)}</text>')
    parts.append(f'<text class="words small" x="{x + STEPS * STEP + 8}" y="{y + 11}">{words.scale(heat)}</text>')
    return parts
