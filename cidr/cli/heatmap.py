"""`cidr heatmap`: an address block as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cidr.cli.bars import bar
from cidr.cli.options import base_dir_option
from cidr.cli.root import wrong_query
from jlogd.cli.errors import DONE, NOT_FOUND
from jlogd.cli.output import say
from jlogd.errors import UsageError

if TYPE_CHECKING:
    from cidr.language.errors import QueryError


@click.command("heatmap", no_args_is_help=True)
@click.argument("block", metavar="BLOCK")
@click.option("--series", metavar="SERIES", required=True, help="What is counted: a series, union(A, B), ratio(A, B).")
@click.option("--time", "when", metavar="CLAUSE", default="", help='As in a query: "on 20080424", "since -7d".')
@click.option(
    "-o", "--output", metavar="FILE", type=click.Path(path_type=Path), required=True, help="map.png or map.svg."
)
@click.option("--detail", metavar="BITS", type=int, help="Bits below the block: 8 (256 cells) to 24; even numbers.")
@base_dir_option
@click.pass_context
def heatmap(
    ctx: click.Context,
    block: str,
    series: str,
    when: str,
    output: Path,
    detail: int | None,
    base_dir: Path,
) -> int:
    """Draw an address block as a Hilbert map.

    Blocks that lie beside each other in the address space lie beside each other in the picture. Cells in which no
    address was counted are hatched: that is not the same as 0. A PNG shows 16 bits below the block by default, an SVG
    8 (with the numbers of its cells); one pixel for each /24 of all IPv4 is `--detail 24`.

    \b
    Examples:
      cidr heatmap 0.0.0.0/0 --series spam -o map.png
      cidr --base-dir var/aslogger heatmap 10.0.0.0/8 --series "union(spam, virus)" --time "on 20080424" -o ten.svg
    """
    from cidr.addresses import parse_block
    from cidr.ask import Rows
    from cidr.cli.connect import connect
    from cidr.heatmap import heat, svg, words
    from cidr.language.errors import QueryError

    kind = output.suffix.lower()
    if kind not in (".png", ".svg"):
        raise UsageError(f"{output} ends neither in .png nor in .svg")
    shown = parse_block(block)
    wanted = heat.detail_of(shown, 16 if kind == ".png" else 8) if detail is None else heat.check_detail(shown, detail)
    if not wanted:
        raise UsageError(f"{shown} is one address or two: there is nothing to draw")
    if kind == ".svg" and wanted > svg.DETAIL_SVG_MAX:
        raise UsageError(f"an SVG has at most {svg.DETAIL_SVG_MAX} bits of detail; draw a PNG")
    root = ctx.find_root().params
    asking = connect(base_dir, root.get("server"), root.get("token_file"))
    try:
        with bar("counting") as progress:
            reply = asking.ask(heat.query_text(shown, series, when, wanted))
            assert isinstance(reply, Rows)
            if len(reply.answer.columns) > 1:
                raise UsageError("a map shows one column: name one series, or add them up with union(A, B)")
            progress(f"drawing {1 << wanted:,} cells", 0, 0)
            drawn = heat.heat(reply, shown, wanted)
            output.write_bytes(_file(kind, drawn))
    except QueryError as error:
        return wrong_query(_as_typed(error, len(f"show count for {shown} in "), series, when))
    finally:
        asking.close()
    say(f"{output}: {words.title(drawn)}; {words.subtitle(drawn)}")
    return DONE if len(reply.answer) else NOT_FOUND


def _as_typed(error: QueryError, start: int, series: str, when: str) -> QueryError:
    """The mistake in the option it was made in, instead of in a query that nobody typed, where the series begin at
    `start` and the time follows."""
    from cidr.language.errors import Mark, QueryError

    for option, given in (("--series ", series), ("--time ", when)):
        end = start + len(given)
        if error.text[start:end] == given and start <= error.mark.start <= end:
            moved = len(option) - start
            mark = Mark(error.mark.start + moved, min(error.mark.end, end) + moved)
            return QueryError(option + given, mark, error.message, error.expected, error.nearest)
        start = end + 1
    return error


def _file(kind: str, drawn: object) -> bytes:
    from importlib import import_module

    module = import_module(f"cidr.heatmap.{kind[1:]}")
    data: bytes = module.file(drawn)
    return data
