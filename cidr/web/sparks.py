"""A sparkline for each row: how the first column went over the time asked about, drawn as SVG."""

from __future__ import annotations

from xml.sax.saxutils import quoteattr

import numpy as np
from numpy.typing import NDArray

from cidr.ask import Local
from cidr.formats import cells
from cidr.heatmap.words import value_text
from cidr.types import BLOCKS, Answer, Block, CountQuery, MoversQuery, Query, Span, Tier
from jlogd.errors import UsageError

# Rows with a line of their own; more would cost more than the answer.
ROWS_MAX = 50
WIDTH, HEIGHT = 120, 24
# Up to so many seconds a point is an hour, a day; beyond that a month.
_TIERS: tuple[tuple[Tier, int], ...] = (("hour", 4 * 86400), ("day", 150 * 86400))
_NAMES = {"hour": "hour by hour", "day": "day by day", "month": "month by month"}


def draw(local: Local, query: Query, answer: Answer) -> tuple[dict[Block, str], str]:
    """The lines of the first rows, and what a step in them is; nothing where a line would be a point."""
    span = _span(query, answer)
    tier: Tier = next((tier for tier, seconds in _TIERS if span.seconds <= seconds), "month")
    blocks = list(dict.fromkeys(answer.block(row) for row in range(min(len(answer), ROWS_MAX))))
    if not blocks or answer.time is not None:
        return {}, ""
    column = query.columns[0] if isinstance(query, CountQuery) else query.column
    asked = CountQuery(blocks=tuple(blocks), columns=(column,), span=span, levels=BLOCKS, every=tier)
    try:
        found = local.answer(asked)
    except UsageError:  # more points than the server sends
        return {}, ""
    lines: dict[Block, list[float]] = {}
    for row, value in enumerate(cells.values(found.columns[0])):
        lines.setdefault(found.block(row), []).append(np.nan if value is None else value)
    drawn = {block: line(np.array(values, float), str(block)) for block, values in lines.items() if len(values) > 1}
    return drawn, _NAMES[tier] if drawn else ""


def line(values: NDArray[np.float64], name: str) -> str:
    """The picture of some values; gaps where there are none."""
    known = values[~np.isnan(values)]
    least, most = (float(known.min()), float(known.max())) if len(known) else (0.0, 0.0)
    least = min(least, 0.0)
    scale = (HEIGHT - 4) / ((most - least) or 1)
    step = WIDTH / max(1, len(values) - 1)
    pieces, piece = [], []
    for at, value in enumerate(values.tolist()):
        if value == value:
            piece.append(f"{at * step:.1f},{HEIGHT - 2 - (value - least) * scale:.1f}")
        elif piece:
            pieces.append(piece)
            piece = []
    pieces += [piece] if piece else []
    label = f"{name}: {value_text(least)} to {value_text(most)}" if len(known) else f"{name}: not counted"
    lines = "".join(_piece(one) for one in pieces)
    return (
        f'<svg class="spark" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img" '
        f"aria-label={quoteattr(label)}>{lines}</svg>"
    )


def _piece(points: list[str]) -> str:
    """A line, or a dot where what is before and after was not counted: a line of one point is not drawn."""
    if len(points) > 1:
        return f'<polyline points="{" ".join(points)}"/>'
    x, y = points[0].split(",")
    return f'<circle cx="{x}" cy="{y}" r="1.5"/>'


def _span(query: Query, answer: Answer) -> Span:
    if isinstance(query, MoversQuery):
        return Span(min(query.before.start, query.after.start), max(query.before.end, query.after.end))
    coverage = answer.coverage
    if coverage.pending and coverage.pending[0].start > coverage.span.start:
        return Span(
            coverage.span.start, coverage.pending[0].start
        )  # a line does not fall to 0 where nothing is counted yet
    return coverage.span
