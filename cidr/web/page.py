"""The page: a query box, and for a query its table with a sparkline a row, the block as a grid of links, the same query
as a command line, and downloads.

    build(local, "show count ...", "http://127.0.0.1:9090")   -> status, HTML

All text goes through Jinja, which escapes it; pictures are made of numbers and of text that `xml.sax.saxutils` escapes.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import Any
from urllib.parse import urlencode

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from cidr.ask import Explained, Local, Reply, Rows
from cidr.formats import status
from cidr.formats.cells import headers, plain
from cidr.formats.table import cell
from cidr.heatmap import heat, svg, words
from cidr.heatmap.colours import RAMP
from cidr.language import dates, tree
from cidr.language.complete import complete
from cidr.language.drill import STEPS, at, down
from cidr.language.errors import QueryError, printable
from cidr.language.manual import TOPICS
from cidr.types import Block, CountQuery, Family, Levels, Query, SeriesStat
from cidr.web import sparks
from jlogd.errors import JlogError

# A page is read by people; the downloads hold everything.
ROWS_SHOWN_MAX = 200
SUGGESTIONS_MAX = 60


def build(local: Local, text: str, where: str) -> tuple[int, str]:
    """HTTP status and HTML of the page for a query; without one, the front page. `where` is the server's address."""
    series = local.series_stats()
    page: dict[str, Any] = {
        "text": text,
        "series": series,
        "starts": _starts(series),
        "topics": TOPICS,
        "mistake": None,
    }
    page |= {"suggestions": _suggestions(text, series), "result": None, "zone": local.zone.key, "short": dates.short}
    page["at"] = local.zone
    code = 200
    if text:
        try:
            page["result"] = _result(local, local.ask(text), where)
        except QueryError as error:
            code, page["mistake"] = 400, _mistake(error)
        except JlogError as error:
            code, page["mistake"] = 400, {"lines": "", "text": str(error)}
    return code, _template().render(page)


@cache
def style() -> str:
    """The style sheet."""
    return resources.files("cidr.web").joinpath("style.css").read_text()


@cache
def script() -> str:
    """The script: it offers what may follow while a query is typed, and everything works without it."""
    return resources.files("cidr.web").joinpath("page.js").read_text()


@cache
def icon() -> str:
    """The page's icon: four cells of a map."""
    cells = ((0, 0, 9), (8, 0, 3), (0, 8, 1), (8, 8, 6))
    squares = "".join(f'<rect x="{x}" y="{y}" width="8" height="8" fill="{RAMP[step - 1]}"/>' for x, y, step in cells)
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16">{squares}</svg>'


@cache
def _template() -> Any:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(resources.files("cidr.web").joinpath("page.html").read_text())


def link(query: object) -> str:
    """The page of a query."""
    return "/?" + urlencode({"q": str(query)})


@dataclass(frozen=True, slots=True)
class Result:
    """What the template shows of a reply."""

    status: str
    exact: bool
    names: list[str]
    rows: list[dict[str, Any]]
    more: str
    spark: str
    grid: dict[str, Any] | None
    ways: list[tuple[str, str]]
    downloads: list[tuple[str, str]]
    up: list[tuple[str, str]]


def _result(local: Local, reply: Reply, where: str) -> Result:
    quoted = shlex.quote(reply.text)
    path = "/v1/query?" + urlencode({"q": reply.text})
    ways = [
        ("Command", f"cidr --server {where} -e {quoted}"),
        ("curl", f"curl -s {shlex.quote(where + path)}"),
        ("Link", where + link(reply.text)),
    ]
    downloads = [(form.upper(), f"{path}&format={form}&download=1") for form in ("csv", "json")]
    if not isinstance(reply, Rows):
        names, cells = plain(reply)
        rows = [{"cells": [("", printable(str(value))) for value in row], "link": None, "spark": None} for row in cells]
        exact = not isinstance(reply, Explained) or reply.plan.coverage.exact
        return Result(status(reply), exact, names, rows, "", "", None, ways, downloads, [])
    _, query = local.built(reply.text, reply.show)
    shown = min(len(reply.answer), ROWS_SHOWN_MAX)
    more = "" if shown == len(reply.answer) else f"The first {shown} rows; the downloads hold all."
    drawn, title = sparks.draw(local, query, reply.answer)
    rows = [_row(reply, number, drawn) for number in range(shown)]
    names = ["cidr", *(["time"] if reply.answer.time is not None else []), *headers(reply.answer)]
    exact = reply.answer.coverage.exact
    return Result(
        status(reply), exact, names, rows, more, title, _grid(local, reply, query), ways, downloads, _up(reply)
    )


def _row(reply: Rows, number: int, drawn: dict[Block, str]) -> dict[str, Any]:
    answer = reply.answer
    block = answer.block(number)
    below = down(reply.show, block)
    cells: list[tuple[str, str]] = [(column.kind, printable(cell(column, number))) for column in answer.columns]
    if answer.time is not None:
        cells.insert(0, ("time", dates.short(int(answer.time[number]), reply.zone)))
    spark = drawn.get(block)
    target = link(below) if below is not None else None
    return {"block": str(block), "link": target, "cells": cells, "spark": Markup(spark) if spark else None}


# ---- the grid --------------------------------------------------------------------------------------------------------


def _grid(local: Local, reply: Rows, query: Query) -> dict[str, Any] | None:
    """The first block asked about as 16 by 16 cells of its next 8 bits, each a link to its own."""
    block = query.blocks[0]
    detail = heat.detail_of(block)
    if not detail:
        return None
    column = query.columns[0] if isinstance(query, CountQuery) else query.column
    bits = block.bits + detail
    levels = Levels((bits,), ()) if block.family is Family.V4 else Levels((), (bits,))
    span = reply.answer.coverage.span
    asked = CountQuery(blocks=(block,), columns=(column,), span=span, levels=levels)
    answer = local.answer(asked)
    if answer.matched > len(answer):
        return None  # the server sends fewer rows than a map has cells
    drawn = heat.heat(replace(reply, answer=answer), block, detail)

    def below(one: Block) -> str:
        longer = next((step for step in STEPS[one.family] if step > one.bits), one.family.width)
        return link(at(reply.show, one, longer))

    name = f"{column.label} in {block}, by /{bits}"
    picture = svg.grid(drawn, below, name)
    parts = urlencode({"block": str(block), "series": column.label, "time": str(reply.show.time or "")})
    return {
        "svg": Markup(picture),
        "title": name,
        "least": words.value_text(drawn.least),
        "most": words.value_text(drawn.most),
        "nothing": words.nothing(drawn),
        "png": f"/v1/heatmap?{parts}" if reply.show.what == "count" else None,
        "others": len(query.blocks) - 1,
    }


def _up(reply: Rows) -> list[tuple[str, str]]:
    """The blocks above the one asked about, the widest first, each with the page of its own."""
    if len(reply.show.blocks) != 1 or not isinstance(reply.show.blocks[0], tree.Block):
        return []
    from cidr.addresses import cover, parse_block

    block = parse_block(reply.show.blocks[0].text)
    steps = [bits for bits in STEPS[block.family] if bits < block.bits]
    above = [cover(block.family, block.first, bits) for bits in steps]
    return [(str(one), link(down(reply.show, one))) for one in above]


# ---- words -----------------------------------------------------------------------------------------------------------


def _mistake(error: QueryError) -> dict[str, str]:
    lines = error.caret().splitlines()
    return {"lines": f"{lines[0]}\n{lines[1].partition('^ ')[0]}^", "text": error.explanation()}


def _starts(series: list[SeriesStat]) -> list[tuple[SeriesStat, str]]:
    """For each series a query to begin with."""
    return [(one, link(_first_query(one))) for one in series]


def _first_query(one: SeriesStat) -> str:
    name = tree.SeriesName(one.name)
    if Family.V4 in one.families or not one.families:
        return f"show count for 0.0.0.0/0 in {name} cidrsize 8 order by count limit 50 percent"
    return f"show count for ::/0 in {name} cidrsize 32 order by count limit 50 percent"


def _suggestions(text: str, series: list[SeriesStat]) -> list[str]:
    """Whole queries that the box offers: what is there with each word that may follow, and ones to begin with."""
    found = []
    for beginning in (text, f"{text} ") if text else ():
        names = [one.name for one in series]
        found += [beginning[: len(beginning) - c.replaced] + c.text for c in complete(beginning, names)]
    found += [_first_query(one) for one in series]
    return list(dict.fromkeys(found))[:SUGGESTIONS_MAX]
