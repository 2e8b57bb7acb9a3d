"""Verifying: are the files what the ledger says, and do their counts add up to what was pulled?

    each file     as long as recorded at least, and its first `length` bytes have the recorded checksum and newlines;
                  one that the manager left, because it was not what the ledger says, is told when it is longer
    each source   records in all its files = records pulled, likewise for those that gaps name; and
                  first record + written + lost = next, so that none is missing and none is there twice

It reads the ledger as it is at one moment. Files only grow, so it may be done while the manager writes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Literal

import msgspec
import zstandard
from crc32c import crc32c

from jlogd.manager.aside import place_of, told
from jlogd.manager.ledger import FileState, LmdbLedger, SourceState, counts

READ_BYTES = 4 << 20

Verdict = Literal["right", "moved", "added", "changed", "missing", "shorter", "different"]
# What is told, and is no reason to doubt a record: someone moved a file, or appended to one and the manager said so.
HARMLESS: tuple[Verdict, ...] = ("right", "moved", "added")
_WORDS: dict[Verdict, str] = {
    "right": "as the ledger says",
    "moved": "not at its path any more; it was whole when it was moved",
    "added": "someone else appended to it; what was written is before that, as the ledger says",
    "changed": "changed by someone else: what was written is not in it as it was; the manager writes to it no more",
    "missing": "it is gone",
    "shorter": "it is shorter than the ledger says",
    "different": "its contents are not those that were written",
}


class FileReport(msgspec.Struct, kw_only=True):
    """One file."""

    path: str
    verdict: Verdict
    records: int
    bytes: int
    text: str = ""


class SourceReport(msgspec.Struct, kw_only=True):
    """One log of one node."""

    source: str
    records: int
    lost: int
    next: int
    right: bool
    text: str = ""


class Report(msgspec.Struct, kw_only=True):
    """All of it. `aside`: what was set aside after a crash and has not come again, in words."""

    files: list[FileReport]
    sources: list[SourceReport]
    aside: list[str] = []

    @property
    def right(self) -> bool:
        """Whether nothing is missing, doubled or changed."""
        return all(file.verdict in HARMLESS for file in self.files) and all(source.right for source in self.sources)


def verify(ledger: LmdbLedger, progress: Callable[[int, int], None] = lambda _done, _total: None) -> Report:
    """Look at everything; `progress` is told bytes read and in all."""
    sources, files = ledger.snapshot()
    asides = ledger.all_asides()
    total, read = sum(state.length for state in files.values()), 0
    reports = []
    for path, state in files.items():
        verdict = _judge(path, state)
        reports.append(_file_report(path, state, verdict))
        read += state.length
        progress(read, total)
    written = counts(files)
    places = {side: place_of(side, os.path.lexists) for side in asides}
    return Report(
        files=reports,
        sources=[_source_report(key, state, written) for key, state in sources.items()],
        aside=[told(place, asides[side]) for side, place in places.items() if place is not None],
    )


def _judge(path: str, state: FileState) -> Verdict:
    if state.status == "moved":
        return "moved"
    try:
        if state.status == "compressed":
            return _compare(_decompressed(f"{path}.zst"), state)
        size = os.stat(path).st_size
        if size < state.length:
            return "changed" if state.status == "left" else "shorter"
        verdict = _compare(_contents(path, state.length), state)
    except FileNotFoundError:
        return "missing"
    except zstandard.ZstdError:
        return "different"
    if state.status != "left":
        return verdict
    if verdict != "right":
        return "changed"
    return "added" if size > state.length else "right"


def _compare(pieces: Iterator[bytes], state: FileState) -> Verdict:
    crc = length = lines = 0
    for piece in pieces:
        crc, length, lines = crc32c(piece, crc), length + len(piece), lines + piece.count(b"\n")
    if length < state.length:
        return "shorter"
    return "right" if (crc, length, lines) == (state.crc, state.length, state.lines) else "different"


def _contents(path: str, length: int) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while length and (piece := file.read(min(length, READ_BYTES))):
            length -= len(piece)
            yield piece


def _decompressed(path: str) -> Iterator[bytes]:
    with open(path, "rb") as file:
        yield from zstandard.ZstdDecompressor().read_to_iter(file, read_size=READ_BYTES)


def _file_report(path: str, state: FileState, verdict: Verdict) -> FileReport:
    records = sum(written for written, _ in state.sources.values())
    return FileReport(path=path, verdict=verdict, records=records, bytes=state.length, text=_WORDS[verdict])


def _source_report(key: str, state: SourceState, written: dict[str, tuple[int, int]]) -> SourceReport:
    records, lost = written.get(key, (0, 0))
    text = ""
    if state.output != "files":
        text = f"written to {state.output}, which keeps its own count"
    elif (records, lost) != (state.records, state.lost):
        text = (
            f"its files have {records} records and {lost} lost ones, and {state.records} and {state.lost} were pulled"
        )
    elif not state.restarts and state.start + state.records + state.lost != state.next:
        text = f"{state.records} records and {state.lost} lost ones do not lead from {state.start} to {state.next}"
    right = not text or state.output != "files"
    return SourceReport(source=key, records=records, lost=lost, next=state.next, right=right, text=text)
