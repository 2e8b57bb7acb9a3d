"""What the segments alone say: all footers read, and the catalogue they amount to.

A logger writes the segments of a commit one after another and only then the catalogue. Of its last commit some files
may be missing (it was stopped): such a commit never happened, and its files are `torn`. All commits before the last
were complete, or there would be no later one. A commit that is complete but in no catalogue counts: it says itself what
it had read of each log.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from cidr import receipts
from cidr.catalogue import Catalogue, segment_of
from cidr.errors import SegmentDamaged, SegmentGone, StoreNotFound
from cidr.names import commit_of, segment_files
from cidr.segment import Header, read_header
from cidr.timeline import Segment

# Footers are read by waiting for the disk, not by computing.
READERS = 8


@dataclass(slots=True)
class Found:
    """The outcome of a survey. `damaged`: path and what is wrong with it."""

    segments: list[Segment] = field(default_factory=list)
    origins: dict[str, tuple[int, int]] = field(default_factory=dict)
    positions: list[tuple[str, str, int]] = field(default_factory=list)
    zone: str = ""
    interval: int = 0
    torn: list[str] = field(default_factory=list)
    damaged: list[tuple[str, str]] = field(default_factory=list)

    def settle(self, catalogue: Catalogue) -> None:
        """Tell a catalogue all of it."""
        catalogue.reset(self.segments, self.origins, self.positions)
        if self.zone:
            catalogue.put_setting("zone", self.zone)
        if self.interval:
            catalogue.put_setting("interval", str(self.interval))


def survey(base: Path) -> Found:
    """Read every footer below `base`. Raises StoreNotFound."""
    if not base.is_dir():
        raise StoreNotFound(f"there is no directory {base}; give the base_dir of as_logger")
    found = Found()
    headers: dict[str, tuple[Header, int]] = {}
    with ThreadPoolExecutor(READERS) as pool:
        paths = sorted(segment_files(base))
        for path, outcome in zip(paths, pool.map(lambda p: _look(base / p), paths), strict=True):
            if isinstance(outcome, tuple):
                headers[path] = outcome
            elif outcome is not None:
                found.damaged.append((path, str(outcome)))
    last = _last_commits(headers)
    found.torn = sorted(_torn(headers, last, [path for path, _ in found.damaged]))
    for path in found.torn:
        del headers[path]
    found.segments = [segment_of(path, header, size) for path, (header, size) in headers.items()]
    _describe(found, [header for header, _ in headers.values()])
    _add_receipts(found, base)
    return found


def in_memory(base: Path) -> Catalogue:
    """The catalogue of a store that has none, without writing one."""
    found = survey(base)
    catalogue = Catalogue.memory()
    found.settle(catalogue)
    return catalogue


def _look(path: Path) -> tuple[Header, int] | SegmentDamaged | None:
    try:
        return read_header(path), path.stat().st_size
    except SegmentDamaged as error:
        return error
    except (SegmentGone, FileNotFoundError):
        return None  # a maintainer was faster


def _last_commits(headers: dict[str, tuple[Header, int]]) -> dict[str, tuple[int, int]]:
    """Per logger, its last commit and the highest epoch that wrote it."""
    last: dict[str, tuple[int, int]] = {}
    for header, _ in headers.values():
        if header.kind != "condensed":
            last[header.origin] = max(last.get(header.origin, (0, 0)), (header.commit, header.epoch))
    return last


def _torn(
    headers: dict[str, tuple[Header, int]], last: dict[str, tuple[int, int]], damaged: Iterable[str]
) -> Iterable[str]:
    """Files of a last commit that lacks others. One that is damaged is not lacking: it had been written."""
    commits: dict[tuple[str, str], list[str]] = {}
    for path, (header, _) in headers.items():
        if header.kind != "condensed" and (header.commit, header.epoch) == last[header.origin]:
            commits.setdefault((header.origin, header.paths_digest), []).append(path)
    named = {path: commit_of(path) for path in damaged}
    for paths in commits.values():
        header = headers[paths[0]][0]
        commit = header.origin, header.epoch, header.commit
        if not header.is_whole([*paths, *(path for path, other in named.items() if other == commit)]):
            yield from paths


def _describe(found: Found, headers: list[Header]) -> None:
    """Origins, positions and zone, from the newest that each says."""
    newest: dict[str, Header] = {}
    positions: dict[tuple[str, str], int] = {}
    for header in headers:
        if header.kind != "condensed":
            other = newest.get(header.origin)
            if other is None or (other.commit, other.epoch) < (header.commit, header.epoch):
                newest[header.origin] = header
        for position in header.positions:  # none ever goes back
            key = header.origin, position.log
            positions[key] = max(positions.get(key, 0), position.next)
    found.positions = [(origin, log, following) for (origin, log), following in positions.items()]
    for origin, header in newest.items():
        epoch = max(h.epoch for h in headers if h.origin == origin)
        found.origins[origin] = (epoch, header.commit)
    for header in headers:  # a logger whose segments were all condensed is known from what they went into
        for origin, commit in header.upto.items():
            epoch, known = found.origins.get(origin, (header.epoch, 0))
            found.origins[origin] = (max(epoch, header.epoch), max(known, commit))
    if headers:
        found.zone = max(headers, key=lambda h: (h.end, h.epoch)).zone
    loggers = [header for header in newest.values() if header.interval]
    if loggers:
        found.interval = max(loggers, key=lambda h: (h.end, h.epoch)).interval


def _add_receipts(found: Found, base: Path) -> None:
    """Imports whose segments may be gone."""
    positions = {(origin, log): following for origin, log, following in found.positions}
    for path, mark in receipts.receipts(base):
        if not receipts.happened(mark, found.origins):
            found.torn.append(path)
            continue
        try:
            said = receipts.read(base / path)
        except SegmentDamaged as error:
            found.damaged.append((path, str(error)))
            continue
        key = mark[0], said.log
        positions[key] = max(positions.get(key, 0), said.next)
    found.positions = [(origin, log, following) for (origin, log), following in positions.items()]
