"""`python -m bench.vip report`: write what the last runs found into the pages, and draw the picture.

A page has places for tables; what stands between these two lines is replaced, the rest of the page is nobody's but its
authors':

    <!-- measured: failover -->
    <!-- end -->
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click

from bench.vip.picture import draw
from bench.vip.results import RESULTS, FailoverRun, KernelRun, ScaleRun, read
from bench.vip.tables import (
    conditions,
    failover_goals,
    failover_rows,
    kernel_goals,
    kernel_rows,
    markdown,
    scale_goals,
    scale_rows,
)

R = TypeVar("R")
DOCS = Path(__file__).resolve().parents[2] / "docs"
PICTURE = "images/vip.svg"


def failover_text(run: FailoverRun) -> str:
    """For docs/vip.md."""
    rounds = "one run" if run.rounds == 1 else f"the median of {run.rounds}"
    return "\n\n".join(
        (
            f"![Gap seen by a client, by fault and system]({PICTURE})",
            f"The longest gap a client saw, {rounds} each; *twice* counts how often a node spoke for the address after "
            f"another one had taken it. {conditions(run.machine)}:",
            markdown(failover_rows(run)),
            markdown(failover_goals(run)),
        )
    )


def scale_text(run: ScaleRun) -> str:
    """For docs/vip.md."""
    return "\n\n".join(
        (
            f"{run.found.addresses:,} addresses on four nodes, all on one machine with three members of etcd. "
            f"{conditions(run.machine)}:",
            markdown(scale_rows(run)),
            markdown(scale_goals(run)),
        )
    )


def kernel_text(run: KernelRun) -> str:
    """For docs/vip-kernel.md."""
    return f"{conditions(run.machine)}:\n\n{markdown(kernel_rows(run))}\n\n{markdown(kernel_goals(run))}"


def filled(page: str, name: str, text: str) -> str:
    """The page with `text` in the place of that name. Raises `ClickException` when it has none."""
    place = re.compile(rf"(<!-- measured: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
    if not place.search(page):
        raise click.ClickException(f"the page has no place for {name}: <!-- measured: {name} --> and <!-- end -->")
    return place.sub(lambda found: f"{found[1]}\n{text}\n\n{found[2]}", page)


@click.command()
@click.option("--results", type=click.Path(path_type=Path, exists=True), default=RESULTS, show_default=True)
@click.option("--docs", type=click.Path(path_type=Path, exists=True), default=DOCS, show_default=True)
def report(results: Path, docs: Path) -> None:
    """Write the tables of the last runs into docs/vip.md and docs/vip-kernel.md, and draw docs/images/vip.svg."""
    _fill(results / "vip-failover.json", FailoverRun, docs / "vip.md", "failover", failover_text)
    _fill(results / "vip-scale.json", ScaleRun, docs / "vip.md", "scale", scale_text)
    _fill(results / "vip-kernel.json", KernelRun, docs / "vip-kernel.md", "kernel", kernel_text)
    run = read(results / "vip-failover.json", FailoverRun)
    if run is not None:
        draw(run, docs / PICTURE)
        click.echo(f"drawn to {docs / PICTURE}")


def _fill(source: Path, kind: type[R], page: Path, name: str, text: Callable[[R], str]) -> None:
    run = read(source, kind)
    if run is None:
        click.echo(f"there is no {source.name}: {name} stays as it is")
        return
    page.write_text(filled(page.read_text(), name, text(run)))
    click.echo(f"{name}: written to {page}")
