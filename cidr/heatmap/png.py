"""A heat map as PNG: up to a pixel for each /24 of IPv4, with a legend below. Drawn by numpy, written by Pillow."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from cidr.heatmap import colours
from cidr.heatmap.heat import NEGATIVE, NO_DATA, STEPS, Heat
from cidr.heatmap.hilbert import places
from cidr.heatmap.svg import value_text

# Cells are drawn larger until the picture has about this many pixels a side.
SIDE_PIXELS = 1024
LEGEND_PIXELS = 64
_HATCH_PERIOD = 6
_INK = (28, 31, 36)


def file(heat: Heat, title: str) -> bytes:
    """The file."""
    pixels = _map(heat)
    side = pixels.shape[0]
    picture = Image.new("RGB", (side, side + LEGEND_PIXELS), (255, 255, 255))
    picture.paste(Image.fromarray(pixels), (0, 0))
    _legend(picture, heat, title, side)
    out = io.BytesIO()
    picture.save(out, "PNG", optimize=False)
    return out.getvalue()


def _map(heat: Heat) -> NDArray[np.uint8]:
    """Colours of all pixels: rows, columns, red green blue."""
    cells = 1 << heat.order
    scale = max(1, SIDE_PIXELS // cells)
    xs, ys = places(heat.order)
    square = np.empty((cells, cells), np.int64)
    square[ys, xs] = heat.levels()
    levels = np.repeat(np.repeat(square, scale, axis=0), scale, axis=1)
    # Index 0 is zero, 1 to STEPS the steps; the last ones are reached with negative levels.
    table = np.array(
        [*map(colours.rgb, (colours.ZERO, *colours.RAMP, colours.NEGATIVE, colours.HATCH_LIGHT))], np.uint8
    )
    assert (NEGATIVE, NO_DATA, len(table)) == (-2, -1, STEPS + 3)
    pixels = table[levels]
    along = np.arange(cells * scale)
    lines = (levels == NO_DATA) & ((along[:, None] + along[None, :]) % _HATCH_PERIOD < 2)
    pixels[lines] = colours.rgb(colours.HATCH_DARK)
    return pixels


def _legend(picture: Image.Image, heat: Heat, title: str, side: int) -> None:
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(16)
    draw.text((8, side + 6), title, _INK, font)
    x, y = 8, side + 34
    box = np.indices((18, 18)).sum(axis=0) % _HATCH_PERIOD < 2
    hatch = np.where(box[..., None], colours.rgb(colours.HATCH_DARK), colours.rgb(colours.HATCH_LIGHT)).astype(np.uint8)
    picture.paste(Image.fromarray(hatch), (x, y))
    draw.rectangle((x, y, x + 17, y + 17), outline=_INK)
    draw.text((x + 26, y - 1), "no data", _INK, font)
    x += 110
    for colour in (colours.ZERO, *colours.RAMP):
        draw.rectangle((x, y, x + 17, y + 17), fill=colours.rgb(colour))
        x += 18
    draw.text((x + 8, y - 1), f"0, then {value_text(heat.least)} to {value_text(heat.most)}", _INK, font)
