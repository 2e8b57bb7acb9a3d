"""The words around a picture: what it shows, which block a square is, and what its colours mean."""

from __future__ import annotations

from cidr.heatmap.heat import DETAIL_GRID, STEPS, Heat
from cidr.types import Block, Family

# Every third step of the scale has its number, where the values are far enough apart to differ.
_TICKS = (0, 3, 6, STEPS)
_FACTOR_MIN = 8


def title(heat: Heat) -> str:
    """What is counted, and where."""
    return f"{heat.label} in {heat.block}"


def subtitle(heat: Heat) -> str:
    """How large a cell is, and the time."""
    squares = f", squares of /{squares_bits(heat)}" if heat.detail > DETAIL_GRID else ""
    return f"cells of /{heat.block.bits + heat.detail}{squares}; {heat.when}"


def scale(heat: Heat) -> str:
    """How the steps follow each other."""
    return "linear scale" if heat.linear else "logarithmic scale"


def squares_bits(heat: Heat) -> int:
    """Prefix length of the labelled squares: the cells, or when those are too small 16 by 16 of them."""
    return heat.block.bits + min(heat.detail, DETAIL_GRID)


def squares(heat: Heat) -> list[Block]:
    """The labelled squares, in the order of their addresses."""
    block, bits = heat.block, squares_bits(heat)
    width = block.family.width - bits
    return [Block(block.family, block.first | n << width, bits) for n in range(1 << (bits - block.bits))]


def number(block: Block) -> str:
    """What tells a block from its neighbours: the last byte of its prefix."""
    byte = block.first >> (block.family.width - block.bits) & 0xFF
    return str(byte << (8 - block.bits % 8) % 8 & 0xFF) if block.family is Family.V4 else f"{byte:02x}"


def short(block: Block) -> str:
    """An IPv4 block without the zeros behind its prefix: `10.1/16`."""
    if block.family is not Family.V4:
        return str(block)
    shown = str(block).partition("/")[0].split(".")[: max(1, (block.bits + 7) // 8)]
    return f"{'.'.join(shown)}/{block.bits}"


def ticks(heat: Heat) -> list[tuple[int, str]]:
    """Numbers along the scale: after how many of its steps, and which."""
    least, most = heat.least, heat.most
    if most <= 0:
        return []
    if heat.linear:
        return [(step, f"{most * step / STEPS:,.3g}") for step in _TICKS]
    if most <= least:
        return [(STEPS, value_text(most))]
    between = _TICKS if most / least >= _FACTOR_MIN else (0, STEPS)
    return [(step, value_text(round(least * (most / least) ** (step / STEPS)))) for step in between]


def value_text(value: float) -> str:
    """A cell's value in words."""
    return f"{value:,.0f}" if value == int(value) else f"{value:,.4f}"


def nothing(heat: Heat) -> str:
    """What a hatched cell says."""
    return "no ratio" if heat.linear else "no address counted"


def has_negative(heat: Heat) -> bool:
    """Whether the colour of what is below 0 needs to be told."""
    return bool((heat.values < 0).any())
