"""A heat map as PNG: up to a pixel for each /24 of IPv4. Drawn by numpy, its words and lines by Pillow.

head      what is counted, where, when
map       cells; lines and labels of 16 by 16 squares
legend    what the colours mean

Where few cells have an address, each is drawn larger, into the hatching around it: nobody finds one pixel of a million.
A label stands in the corner of its square in which it hides the least.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from cidr.heatmap import colours, words
from cidr.heatmap.heat import DETAIL_GRID, NEGATIVE, NO_DATA, STEPS, Heat
from cidr.heatmap.hilbert import places
from cidr.heatmap.sparse import corner, is_sparse

# Cells are drawn larger until the picture has about this many pixels a side. What follows is for such a picture, and
# grows with a larger one.
SIDE_PIXELS = 1024
HEAD_PIXELS = 92
LEGEND_PIXELS = 68
TITLE_PIXELS, TEXT_PIXELS, LABEL_PIXELS = 24, 15, 11
STEP_PIXELS = 34
MARGIN = 10
SUBTITLE_LINES_MAX = 2
_HATCH_PERIOD = 6
Levels = NDArray[np.int8]
# Cells smaller than this are not seen on dark hatching.
_FINE_PIXELS = 16
# A cell of a sparse map is drawn as large as this.
MARK_PIXELS = 7
_INK, _GREY, _LINE = (28, 31, 36), (84, 90, 99), (196, 200, 206)


def file(heat: Heat) -> bytes:
    """The file."""
    levels = _levels(heat)
    pixels = _map(heat, levels)
    side = pixels.shape[0]
    unit = max(1, side // SIDE_PIXELS)
    picture = Image.new("RGB", (side, side + (HEAD_PIXELS + LEGEND_PIXELS) * unit), (255, 255, 255))
    picture.paste(Image.fromarray(pixels), (0, HEAD_PIXELS * unit))
    draw = ImageDraw.Draw(picture)
    _head(draw, heat, side, unit)
    _squares(draw, heat, side, unit, (levels != NO_DATA) & is_sparse(heat))
    _legend(picture, draw, heat, side, unit)
    out = io.BytesIO()
    picture.save(out, "PNG", optimize=False)
    return out.getvalue()


def _levels(heat: Heat) -> Levels:
    """The level of every pixel: rows, columns."""
    cells = 1 << heat.order
    scale = max(1, SIDE_PIXELS // cells)
    xs, ys = places(heat.order)
    square = np.empty((cells, cells), np.int8)
    square[ys, xs] = heat.levels()
    levels = np.repeat(np.repeat(square, scale, axis=0), scale, axis=1)
    rows, columns = np.nonzero(square != NO_DATA)
    if is_sparse(heat):
        _enlarge(levels, rows * scale, columns * scale, scale, len(levels) >> min(heat.order, DETAIL_GRID // 2))
    return levels


def _enlarge(levels: Levels, rows: NDArray[np.intp], columns: NDArray[np.intp], scale: int, square: int) -> None:
    """Marks instead of cells that are smaller, as far as nothing else is there; the higher level is above. None
    leaves its square, which is of so many pixels: it would be taken for a cell of another block."""
    size = min(square, MARK_PIXELS * max(1, len(levels) // SIDE_PIXELS))
    if size <= scale:
        return
    exact = levels.copy()
    found = levels[rows, columns]
    order = np.lexsort((found, found != NEGATIVE))
    rows, columns, found = rows[order], columns[order], found[order]
    top, left = (_begin(at, scale, size, square) for at in (rows, columns))
    # Rank: nothing is below what is below 0, and that below all other levels.
    levels[:] = _ranked(levels)
    ranks = _ranked(found)
    for down in range(size):
        for right in range(size):
            at = top + down, left + right
            levels[at] = np.maximum(levels[at], ranks)
    levels[:] = np.where(levels == 0, NO_DATA, levels + (NEGATIVE - 1))
    np.copyto(levels, exact, where=exact != NO_DATA)


def _begin(at: NDArray[np.intp], scale: int, size: int, square: int) -> NDArray[np.intp]:
    """Where a mark begins that has its cell in its middle, or else ends with its square."""
    edge = at // square * square
    return np.clip(at - (size - scale) // 2, edge, edge + square - size)


def _ranked(levels: Levels) -> Levels:
    return np.where(levels == NO_DATA, 0, levels + (1 - NEGATIVE)).astype(np.int8)


def _map(heat: Heat, levels: Levels) -> NDArray[np.uint8]:
    """Colours of all pixels: rows, columns, red green blue."""
    # Index 0 is zero, 1 to STEPS the steps; the last ones are reached with negative levels.
    table = np.array(
        [*map(colours.rgb, (colours.ZERO, *colours.RAMP, colours.NEGATIVE, colours.HATCH_LIGHT))], np.uint8
    )
    assert (NEGATIVE, NO_DATA, len(table)) == (-2, -1, STEPS + 3)
    pixels = table[levels]
    along = np.arange(len(levels))
    lines = (levels == NO_DATA) & ((along[:, None] + along[None, :]) % _HATCH_PERIOD < 2)
    pixels[lines] = _hatch_line(heat)
    return pixels


def _hatch_line(heat: Heat) -> tuple[int, int, int]:
    return colours.rgb(colours.HATCH_FINE if SIDE_PIXELS >> heat.order < _FINE_PIXELS else colours.HATCH_DARK)


def _font(pixels: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(pixels)


def _head(draw: ImageDraw.ImageDraw, heat: Heat, side: int, unit: int) -> None:
    room = side - 2 * MARGIN * unit
    x, y = MARGIN * unit, MARGIN * unit
    font = _font(TITLE_PIXELS * unit)
    draw.text((x, y), _lines(draw, words.title(heat), font, room, 1)[0], _INK, font)
    y += (TITLE_PIXELS + 8) * unit
    font = _font(TEXT_PIXELS * unit)
    for line in _lines(draw, words.subtitle(heat), font, room, SUBTITLE_LINES_MAX):
        draw.text((x, y), line, _GREY, font)
        y += (TEXT_PIXELS + 5) * unit


def _lines(
    draw: ImageDraw.ImageDraw,
    text: str,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    room: float,
    most: int,
) -> list[str]:
    """The text in lines that fit; dots at the end of what does not fit at all."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if draw.textlength(longer, font) <= room or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    kept = lines[:most]
    if len(lines) > most or draw.textlength(kept[-1], font) > room:
        while kept[-1] and draw.textlength(f"{kept[-1]} ...", font) > room:
            kept[-1] = kept[-1][:-1]
        kept[-1] += " ..."
    return kept


def _squares(draw: ImageDraw.ImageDraw, heat: Heat, side: int, unit: int, there: NDArray[np.bool_]) -> None:
    """Lines around the squares, and which blocks they are: written out where there is room. `there`: pixels that no
    label should hide."""
    blocks = words.squares(heat)
    across = int(len(blocks) ** 0.5)
    wide = side // across
    top = HEAD_PIXELS * unit
    for at in range(across + 1):
        edge = min(at * wide, side - 1)
        draw.line((edge, top, edge, top + side - 1), _LINE, unit)
        draw.line((0, top + edge, side, top + edge), _LINE, unit)
    font = _font(LABEL_PIXELS * unit)
    names = [words.short(block) for block in blocks]
    if max(draw.textlength(name, font) for name in names) > wide - 8 * unit:
        names = [words.number(block) for block in blocks]
    xs, ys = places(across.bit_length() - 1)
    for x, y, name in zip(xs.tolist(), ys.tolist(), names, strict=True):
        box = int(draw.textlength(name, font)) + 2 * unit, (LABEL_PIXELS + 3) * unit
        right, down = corner(there[y * wide : (y + 1) * wide, x * wide : (x + 1) * wide], box, 3 * unit)
        place = x * wide + right, top + y * wide + down
        draw.text(place, name, _INK, font, stroke_width=unit, stroke_fill=(255, 255, 255))


def _legend(picture: Image.Image, draw: ImageDraw.ImageDraw, heat: Heat, side: int, unit: int) -> None:
    font = _font(TEXT_PIXELS * unit)
    x, y, box = MARGIN * unit, side + (HEAD_PIXELS + 14) * unit, 20 * unit
    lines = np.indices((box, box)).sum(axis=0) % _HATCH_PERIOD < 2
    hatch = np.where(lines[..., None], _hatch_line(heat), colours.rgb(colours.HATCH_LIGHT)).astype(np.uint8)
    picture.paste(Image.fromarray(hatch), (x, y))
    plain: list[tuple[str, str | None]] = [(words.nothing(heat), None), ("0", colours.ZERO)]
    plain += [("below 0", colours.NEGATIVE)] if words.has_negative(heat) else []
    for text, colour in plain:
        fill = colours.rgb(colour) if colour else None
        draw.rectangle((x, y, x + box - 1, y + box - 1), fill=fill, outline=_GREY)
        draw.text((x + box + 7 * unit, y), text, _INK, font)
        x += box + 26 * unit + int(draw.textlength(text, font))
    for at, colour in enumerate(colours.RAMP):
        left = x + at * STEP_PIXELS * unit
        draw.rectangle((left, y, left + STEP_PIXELS * unit - 1, y + box - 1), fill=colours.rgb(colour))
    _ticks(draw, words.ticks(heat), (x, y + box), unit)
    draw.text((x + (STEPS * STEP_PIXELS + 14) * unit, y), words.scale(heat), _INK, font)


def _ticks(draw: ImageDraw.ImageDraw, ticks: Sequence[tuple[int, str]], at: tuple[int, int], unit: int) -> None:
    font = _font(TEXT_PIXELS * unit)
    for step, text in ticks:
        x = at[0] + step * STEP_PIXELS * unit
        draw.line((x, at[1], x, at[1] + 5 * unit), _INK, unit)
        draw.text((x, at[1] + 7 * unit), text, _INK, font, anchor="ma" if step else "la")
