"""`jlogctl export`: records of a log into a file, as text, JSON or Parquet.

A batch at a time goes through, so memory does not depend on how much is exported. A file is written beside its place
and renamed when it is complete: what stands there is never half an export.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

import click

from jlogd.cli import targets, units
from jlogd.cli.errors import DONE, NOT_FOUND
from jlogd.cli.output import json_lines, progress, say, warn
from jlogd.cli.params import log_argument, start_option
from jlogd.cli.tail import Options, render
from jlogd.errors import MissingLibrary, UsageError
from jlogd.journal.batch import Batch, Gap, encode
from jlogd.journal.types import Start

if TYPE_CHECKING:
    from jlogd.log import Log

# Rows of one group are held in memory, here and by whoever reads the file; large enough to compress well.
ROW_GROUP_BYTES = 16 << 20
# Gaps by a cap are the log's policy; any other means that something is wrong.
_BY_POLICY = "dropped"
_AS_JSON = Options(grep=None, as_json=True, limit=0, checkpoint=False)
_STDOUT = "-"


@click.command("export", no_args_is_help=True)
@log_argument
@click.option(
    "--format",
    "form",
    type=click.Choice(["lines", "json", "parquet"]),
    default="lines",
    show_default=True,
    help="What to write; see above.",
)
@click.option("--output", metavar="FILE", default=_STDOUT, help="Where to (default: standard output).")
@start_option("--from", "begin", "Where to start.")
@start_option("--to", None, "Where to stop, before PLACE (default: where the log ends now).", name="end")
def export(target: str, form: str, output: str, start: Start, end: Start | None) -> int:
    """Write the records of a log to a file.

    All of it up to where it ends now, or a part. With lines, each record is followed by a newline; a record that holds
    newlines becomes several lines. With json, each is an object with sequence, time (when it was appended) and record,
    or base64 for bytes that are not UTF-8. With parquet, the file has the columns sequence, time and record (bytes);
    that takes the extra jlogd[parquet]. FILE is complete or not there. Nothing is held back in the log, and no
    subscriber moves.

    Lost records are told in one line on standard error, with json as an object with gap. Exit code 1: records were
    lost to damage.

    \b
    Examples:
      jlogctl export var/spool/mainlog --output mainlog.txt
      jlogctl export var/spool/mainlog --format json --from 2024-05-01T12:00 --to 2024-05-01T13:00 > noon.json
      jlogctl export tcp://127.0.0.1:5140/mainlog --format parquet --output mainlog.parquet
    """
    make = _FORMS[form]
    if form == "parquet":
        _check_parquet(output)
    with _opened(output) as stream, targets.open_log(target) as log:
        _act_as_caller()
        sink = make(stream)
        tally = _copy(log, _span(log, start, end), sink)
        sink.finish()
        name = log.name
    if output != _STDOUT:
        say(f"exported {units.counted(tally.records, 'record')} from {name} to {output}")
    return NOT_FOUND if tally.lost else DONE


# Which records


@dataclass(frozen=True)
class _Span:
    """From `start` to below record `until`, and to before what was appended at `before` (ns)."""

    start: Start
    until: int
    before: int | None
    bytes: int


def _span(log: Log, start: Start, end: Start | None) -> _Span:
    stat = log.stat()
    start = targets.start_in(log, start)
    end = end if end is None else targets.start_in(log, end)
    if end is not None and _is_before(end, start):
        raise UsageError(f"--to {end} is before --from {start}: give a place after it, or leave --to out")
    if isinstance(start, int):
        start = min(max(start, stat.first), stat.next)
    if isinstance(end, datetime):
        return _Span(start, stat.next, int(end.timestamp() * 1e9), stat.bytes)
    if end is None or end == "end":
        return _Span(start, stat.next, None, stat.bytes)
    end = stat.first if end == "begin" else end
    assert isinstance(end, int)
    return _Span(start, min(end, stat.next), None, stat.bytes)


def _is_before(one: Start, other: Start) -> bool:
    """Whether that is plain from the words: of a number and a time nobody knows."""
    if isinstance(one, int) and isinstance(other, int):
        return one < other
    return isinstance(one, datetime) and isinstance(other, datetime) and one < other


@dataclass
class _Tally:
    records: int = 0
    lost: int = 0


def _copy(log: Log, span: _Span, sink: Sink) -> _Tally:
    tally, done = _Tally(), 0
    with progress(log.name, span.bytes) as report, log.subscriber(None, start=span.start) as feed:
        for item in feed:
            if item.first >= span.until:
                break
            if isinstance(item, Gap):
                gap = replace(item, last=min(item.last, span.until - 1))
                sink.gap(gap)
                tally.lost += gap.count if gap.reason != _BY_POLICY else 0
                continue
            if span.before is not None and item.append_time >= span.before:
                break
            batch = _below(item, span.until)
            sink.write(batch)
            tally.records += batch.count
            done += item.size
            report(done, span.bytes)
    return tally


def _below(batch: Batch, until: int) -> Batch:
    """The batch without the records from `until` on."""
    if batch.next <= until:
        return batch
    kept = encode(batch.records()[: until - batch.first], batch.first_time, batch.last_time)
    return kept.stamped(batch.first, batch.committed, batch.append_time, batch.epoch)


# How they are written


class Sink(Protocol):
    """Where batches and gaps go, in order."""

    def write(self, batch: Batch) -> None:
        """Take a batch."""

    def gap(self, gap: Gap) -> None:
        """Take note of records that are lost."""

    def finish(self) -> None:
        """Write what is left."""


class _Lines:
    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def write(self, batch: Batch) -> None:
        self._stream.write(batch.text())

    def gap(self, gap: Gap) -> None:
        detail = f": {gap.detail}" if gap.detail else ""
        warn(f"gap: {units.counted(gap.count, 'record')} lost ({gap.first} to {gap.last}), {gap.reason}{detail}")

    def finish(self) -> None:
        self._stream.flush()


class _Json(_Lines):
    def write(self, batch: Batch) -> None:
        self._stream.write(render(batch, _AS_JSON, batch.count)[0])

    def gap(self, gap: Gap) -> None:
        about = {"first": gap.first, "last": gap.last, "count": gap.count, "reason": gap.reason, "detail": gap.detail}
        self._stream.write(json_lines([{"gap": about}]))


class _Parquet(_Lines):
    """Columns sequence (int64), time (when it was appended, in µs: every reader knows these), record (binary)."""

    def __init__(self, stream: BinaryIO) -> None:
        import pyarrow
        from pyarrow import parquet

        super().__init__(stream)
        self._arrow: Any = pyarrow
        fields = [("sequence", pyarrow.int64()), ("time", pyarrow.timestamp("us", "UTC")), ("record", pyarrow.binary())]
        self._schema = pyarrow.schema(fields)
        self._file = parquet.ParquetWriter(_Counted(stream), self._schema, compression="zstd")
        self._group: list[Any] = []
        self._bytes = 0

    def write(self, batch: Batch) -> None:
        arrow = self._arrow
        columns = [
            arrow.array(range(batch.first, batch.next), arrow.int64()),
            arrow.repeat(arrow.scalar(batch.append_time // 1000, self._schema.field("time").type), batch.count),
            arrow.array(batch.records(), arrow.binary()),
        ]
        self._group.append(arrow.record_batch(columns, schema=self._schema))
        self._bytes += sum(column.nbytes for column in columns)
        if self._bytes >= ROW_GROUP_BYTES:
            self._write_group()

    def finish(self) -> None:
        if self._group:
            self._write_group()
        self._file.close()
        super().finish()

    def _write_group(self) -> None:
        self._file.write_table(self._arrow.Table.from_batches(self._group, self._schema))
        self._group, self._bytes = [], 0


class _Counted:
    """A stream that knows how much was written to it: a pipe does not."""

    closed = False

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._written = 0

    def write(self, data: bytes) -> int:
        self._stream.write(data)
        self._written += len(data)
        return len(data)

    def tell(self) -> int:
        return self._written

    def flush(self) -> None:
        self._stream.flush()

    def close(self) -> None:
        self.closed = True

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False


_FORMS: dict[str, Callable[[BinaryIO], Sink]] = {"lines": _Lines, "json": _Json, "parquet": _Parquet}


def _check_parquet(output: str) -> None:
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        raise MissingLibrary(
            "the library for Parquet is not installed; install it: pip install 'jlogd[parquet]', or pip install "
            "'.[parquet]' in a checkout of jlogd; or use --format json"
        ) from None
    if output == _STDOUT and sys.stdout.isatty():
        raise UsageError("Parquet is not for a terminal; give --output FILE")


# Where to


@contextmanager
def _opened(output: str) -> Iterator[BinaryIO]:
    """The stream to write to; a regular file gets its name when the block ends well."""
    if output == _STDOUT:
        yield sys.stdout.buffer
        return
    path = Path(output)
    if path.is_dir():
        raise UsageError(f"{output} is a directory; name a file")
    if not path.parent.is_dir():
        raise UsageError(f"--output {output}: there is no directory {path.parent}; make it, or name another file")
    if path.exists() and not path.is_file():  # a pipe or a device
        with open(path, "wb") as stream:
            yield stream
        return
    part = path.with_name(f".{path.name}.part")
    try:
        with open(part, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise


def _act_as_caller() -> None:
    """As root: looking at a log leaves nothing in it, and the file is to belong to whoever asked for it."""
    if os.getuid() == 0 and os.geteuid() != 0:
        os.seteuid(0)
        os.setegid(os.getgid())
