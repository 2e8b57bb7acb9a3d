"""The line under every answer: how many rows, what it rests on, how complete that is, and how long it took.

10 of 1,234 rows; 47 segments; 2008-04-24 00:00 to 2008-04-25 00:00 UTC [exact, 4 ms]
10 of 1,234 rows; 47 segments; 2008-04-24 00:00 to 2008-04-25 00:00 UTC, so far until 2008-04-24 14:02 [exact, 4 ms]
no rows: 47 segments read, no address under 10.0.0.0/8 counted; coverage 98.6 %, missing 03:10 to 03:29 [partial, 4 ms]
"""

from __future__ import annotations

from collections.abc import Sequence
from zoneinfo import ZoneInfo

from cidr.ask import Cached, Explained, Listed, Reply, Rows
from cidr.language import dates
from cidr.language.errors import printable
from cidr.types import Answer, Coverage, Span

# More gaps than this are only counted.
GAPS_SHOWN_MAX = 3
BLOCKS_SHOWN_MAX = 3


def status(reply: Reply) -> str:
    """The line, without a newline."""
    match reply:
        case Rows(_, answer, zone):
            time = f"[{'exact' if answer.coverage.exact else 'partial'}, {milliseconds(answer.work.milliseconds)}]"
            return f"{_rows(reply)}; {covered(answer.coverage, zone)}{_notes(answer.notes)} {time}"
        case Explained(_, plan, zone):
            segments = sum(part.segments for part in plan.parts)
            cached = sum(part.cached for part in plan.parts)
            guess = f"about {milliseconds(plan.milliseconds)}"
            read = f"{counted(segments, 'segment')}, {cached:,} of them in the cache"
            return f"{read}; {covered(plan.coverage, zone)}{_notes(plan.notes)} [{guess}]"
        case Listed(series, _):
            return counted(len(series), "series", "series")
        case Cached(cache, _):
            share = f"hit rate {cache.hit_rate:.1%}"
            return (
                f"{size(cache.bytes)} of {size(cache.bytes_max)}; {cache.hits:,} hits, {cache.misses:,} misses, {share}"
            )


def is_empty(reply: Reply) -> bool:
    """Whether nothing was found: exit code 1."""
    match reply:
        case Rows(_, answer, _):
            return len(answer) == 0
        case Listed(series, _):
            return not series
    return False


def covered(coverage: Coverage, zone: ZoneInfo) -> str:
    """The time, and how much of it was counted."""
    span = coverage.span
    text = f"{dates.short(span.start, zone)} to {dates.short(span.end, zone)} {zone.key}"
    text += _until(coverage, zone)
    if coverage.exact:
        return text
    parts = [f"coverage {percent(coverage.fraction)}"]
    if coverage.missing:
        parts.append(f"missing {_gaps(coverage.missing, span, zone)}")
    if coverage.cut:
        parts.append(f"left out, because counts reach beyond the time asked about: {_gaps(coverage.cut, span, zone)}")
    return f"{text}; {', '.join(parts)}"


def _until(coverage: Coverage, zone: ZoneInfo) -> str:
    """Up to when it can have been counted, if that is not all of it."""
    if not coverage.pending:
        return ""
    first = coverage.pending[0].start
    if first <= coverage.span.start:
        return ", not over yet"
    return f", so far until {dates.short(first, zone)}"


def percent(fraction: float) -> str:
    """`98.6 %`; never 100 when something is missing."""
    return f"{min(fraction * 100, 99.9) if fraction < 1 else 100:.1f} %"


def milliseconds(value: float) -> str:
    """`41 ms`, `0.4 ms`."""
    return f"{value:,.0f} ms" if value >= 10 else f"{value:.1f} ms"


def size(number: int) -> str:
    """`12.5 MiB`."""
    value, units = float(number), ["bytes", "KiB", "MiB", "GiB", "TiB"]
    while value >= 1024 and len(units) > 1:
        value /= 1024
        units.pop(0)
    return f"{value:.0f} {units[0]}" if units[0] == "bytes" else f"{value:.1f} {units[0]}"


def counted(number: int, one: str, more: str = "") -> str:
    """`1 row`, `1,234 rows`."""
    return f"{number:,} {one if number == 1 else more or one + 's'}"


def _rows(reply: Rows) -> str:
    answer = reply.answer
    read = counted(answer.work.segments, "segment")
    if len(answer):
        return f"{_shown(answer)}; {read}"
    blocks = [str(block) for block in reply.show.blocks]
    under = ", ".join(blocks[:BLOCKS_SHOWN_MAX]) + (", ..." if len(blocks) > BLOCKS_SHOWN_MAX else "")
    if answer.matched:
        return f"no rows: {read} read, none of {counted(answer.matched, 'block')} is shown"
    why = "over the threshold" if reply.show.clause("threshold") else "counted"
    return printable(f"no rows: {read} read, no address under {under} {why}")


def _shown(answer: Answer) -> str:
    """`2 of 18 rows`; where a block has a row for each stretch of time, `2 of 18 blocks, 12 rows`: a limit is of
    blocks."""
    if answer.time is None:
        return _of(len(answer), answer.matched, "row")
    blocks = len({answer.block(row) for row in range(len(answer))})
    return f"{_of(blocks, answer.matched, 'block')}, {counted(len(answer), 'row')}"


def _of(shown: int, matched: int, what: str) -> str:
    return counted(matched, what) if shown == matched else f"{shown:,} of {counted(matched, what)}"


def _gaps(spans: Sequence[Span], whole: Span, zone: ZoneInfo) -> str:
    same_day = dates.short(whole.start, zone)[:10] == dates.short(whole.end - 1, zone)[:10]
    cut = 11 if same_day else 0
    shown = [f"{dates.short(one.start, zone)[cut:]} to {_end(one.end, zone, cut)}" for one in spans[:GAPS_SHOWN_MAX]]
    more = len(spans) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _end(seconds: int, zone: ZoneInfo, cut: int) -> str:
    """Where the day is left out, the end of it is 24:00."""
    text = dates.short(seconds, zone)[cut:]
    return "24:00" if cut and text == "00:00" else text


def _notes(notes: Sequence[str]) -> str:
    return "".join(f"; {printable(note)}" for note in notes)
