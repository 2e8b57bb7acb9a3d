"""Everything a command prints: tables and lines for people, JSON lines for programs, record bytes for pipes.

Results go to stdout, and nothing else does; warnings and progress go to stderr. Rich is loaded when a table or a bar is
drawn, not before: it costs more than most commands take.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click
import msgspec

from jlogd.plain import encode_json

if TYPE_CHECKING:
    from rich.console import RenderableType

# A table in a pipe is as wide as its contents need; it is cut only on a terminal.
PIPE_COLUMNS = 400
_ENCODER = msgspec.json.Encoder()


def say(text: str) -> None:
    """A line of the result."""
    click.echo(text)


def warn(text: str) -> None:
    """A line on stderr."""
    click.echo(text, err=True)


def write(data: bytes) -> None:
    """Record bytes to stdout, handed to the operating system when this returns. Raises BrokenPipeError."""
    out = sys.stdout.buffer
    out.write(data)
    out.flush()


def json_lines(objects: Sequence[Any]) -> bytes:
    """The objects as JSON, one a line."""
    try:
        return _ENCODER.encode_lines(objects)
    except UnicodeEncodeError:
        return b"".join(encode_json(one) + b"\n" for one in objects)


def print_json(objects: Iterable[Any]) -> None:
    """Print the objects as JSON, one a line."""
    write(json_lines(list(objects)))


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1, indent: int = 0) -> RenderableType:
    """A table without lines; the first `left` columns and the last are aligned left, the others right."""
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    for at, column in enumerate(columns):
        to_left = at < left or at == len(columns) - 1
        drawn.add_column(column, justify="left" if to_left else "right", no_wrap=True)
    for row in rows:
        drawn.add_row(*(Text(cell) for cell in row))
    return Padding(drawn, (0, 0, 0, indent))


def show(*parts: RenderableType) -> None:
    """Print what rich draws to stdout."""
    from rich.console import Console

    console = Console(highlight=False, markup=False, soft_wrap=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, width=PIPE_COLUMNS, color_system=None)
    with console.capture() as captured:
        for part in parts:
            console.print(part)
    text = "".join(f"{line.rstrip()}\n" for line in captured.get().splitlines())
    click.echo(text, nl=False, color=console.is_terminal)


def preload() -> None:
    """Load what is otherwise loaded when it is needed: for a process that may not read it later."""
    import rich.progress
    from rich.console import Console

    Console(file=io.StringIO(), width=PIPE_COLUMNS).print(table(("",), [("\N{BULLET}",)]), rich.progress.Progress())


@contextmanager
def progress(label: str, total: int | None = None) -> Iterator[Callable[[int, int | None], None]]:
    """A bar on stderr, when that is a terminal; yields what to call with the bytes done and, when known, in all."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    from rich import progress as bars
    from rich.console import Console

    columns = (
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.DownloadColumn(binary_units=True),
        bars.TransferSpeedColumn(),
        bars.TimeRemainingColumn(),
    )
    with bars.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=total)
        yield lambda done, total: bar.update(task, completed=done, total=total)
