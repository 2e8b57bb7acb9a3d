"""What the segments alone say: all footers read, and the catalogue they amount to.

A logger writes the segments of a commit one after another and only then the catalogue. Of its last commit some files
may be missing: such a commit does not count, and its files are `torn`. All commits before the last
were complete, or there would be no later one. A commit that is complete but in no catalogue counts: it says itself what
it had read of each log.

Footers alone do not tell a commit that was never finished from one that lost a file later. A catalogue that is there
does (`Known`): what it says was committed counts, though files of it be missing, and no logger or import goes back
behind what it says was read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from cidr import receipts
from cidr.catalogue import Catalogue, segment_of
from cidr.errors import NO_STORE, SegmentDamaged, SegmentGone, StoreNotFound
from cidr.names import commit_of, segment_files
from cidr.segment import Header, read_header, verify
from cidr.timeline import Segment

# Footers are read by waiting for the disk, not by computing.
READERS = 8


@dataclass(frozen=True, slots=True)
class Known:
    """What a catalogue tells of the same store: `origins` each one's epoch and last commit. Of one that is damaged
    there may be no more than these."""

    paths: frozenset[str] = frozenset()
    origins: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    positions: tuple[tuple[str, str, int], ...] = ()
    sound: bool = False


@dataclass(slots=True)
class Found:
    """The outcome of a survey. `damaged`: path and what is wrong with it; `torn`: files of commits that lack others,
    and `why`, what they lack; `missing`: what the catalogue has and the disk has not."""

    segments: list[Segment] = field(default_factory=list)
    origins: dict[str, tuple[int, int]] = field(default_factory=dict)
    positions: list[tuple[str, str, int]] = field(default_factory=list)
    zone: str = ""
    interval: int = 0
    torn: list[str] = field(default_factory=list)
    why: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    damaged: list[tuple[str, str]] = field(default_factory=list)

    def settle(self, catalogue: Catalogue) -> None:
        """Tell a catalogue all of it."""
        catalogue.reset(self.segments, self.origins, self.positions)
        if self.zone:
            catalogue.put_setting("zone", self.zone)
        if self.interval:
            catalogue.put_setting("interval", str(self.interval))


def survey(
    base: Path,
    known: Known | None = None,
    *,
    pages: bool = False,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> Found:
    """Read every footer below `base`; with `pages`, the counts too, to find those that are damaged. `progress` is told
    how many are read, and of how many. Raises StoreNotFound."""
    if not base.is_dir():
        raise StoreNotFound(f"there is no directory {base}; {NO_STORE}")
    known = known or Known()
    found = Found()
    headers: dict[str, tuple[Header, int]] = {}
    with ThreadPoolExecutor(READERS) as pool:
        paths = sorted(segment_files(base))
        outcomes = pool.map(lambda p: _look(base / p, pages), paths)
        for number, (path, outcome) in enumerate(zip(paths, outcomes, strict=True)):
            progress(number, len(paths))
            if isinstance(outcome, tuple):
                headers[path] = outcome
            elif outcome is not None:
                found.damaged.append((path, str(outcome)))
    found.missing = sorted(known.paths.difference(paths))
    last = {name: mark for name, mark in _last_commits(headers).items() if not _finished(mark, known.origins.get(name))}
    found.why = dict(_torn(headers, last, [path for path, _ in found.damaged]))
    found.torn = sorted(found.why)
    torn = [headers.pop(path)[0] for path in found.torn]
    found.segments = [segment_of(path, header, size) for path, (header, size) in headers.items()]
    _describe(found, [header for header, _ in headers.values()])
    for header in torn:  # what is set aside may be put back: no other file may have its name then
        epoch, number = found.origins.get(header.origin, (0, 0))
        found.origins[header.origin] = max(epoch, header.epoch), number
    if known.sound:
        _add_known(found, known)
    _add_receipts(found, base)
    return found


def in_memory(base: Path) -> Catalogue:
    """The catalogue of a store that has none, without writing one."""
    found = survey(base)
    catalogue = Catalogue.memory()
    found.settle(catalogue)
    return catalogue


def _look(path: Path, pages: bool) -> tuple[Header, int] | SegmentDamaged | None:
    try:
        return (verify if pages else read_header)(path), path.stat().st_size
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


def _finished(mark: tuple[int, int], known: tuple[int, int] | None) -> bool:
    """Whether the catalogue knows that a commit (number, epoch) happened."""
    return known is not None and mark[0] <= known[1]


def _torn(
    headers: dict[str, tuple[Header, int]], last: dict[str, tuple[int, int]], damaged: Iterable[str]
) -> Iterable[tuple[str, str]]:
    """Files of a last commit that lacks others, and what it lacks. One that is damaged is not lacking: it had been
    written."""
    commits: dict[tuple[str, str], list[str]] = {}
    for path, (header, _) in headers.items():
        if header.kind != "condensed" and (header.commit, header.epoch) == last.get(header.origin):
            commits.setdefault((header.origin, header.paths_digest), []).append(path)
    named = {path: commit_of(path) for path in damaged}
    for paths in commits.values():
        header = headers[paths[0]][0]
        commit = header.origin, header.epoch, header.commit
        there = [*paths, *(path for path, other in named.items() if other == commit)]
        if not header.is_whole(there):
            yield from ((path, _lacks(header, there)) for path in paths)


def _lacks(header: Header, there: list[str]) -> str:
    """What a commit lacks, in words."""
    all_of_it = header.together or len(header.siblings)
    number = all_of_it - len(there)
    what = f"{number:,} of its {all_of_it:,} files" if number > 0 else "files of its own"
    return f"commit {header.commit} of {header.origin} lacks {what}"


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


def _add_known(found: Found, known: Known) -> None:
    """What the catalogue says of loggers and logs, where it is further than the segments that are left."""
    for name, (epoch, number) in known.origins.items():
        other = found.origins.get(name, (0, 0))
        found.origins[name] = max(epoch, other[0]), max(number, other[1])
    positions = {(origin, log): following for origin, log, following in known.positions}
    for origin, log, following in found.positions:
        positions[origin, log] = max(positions.get((origin, log), 0), following)
    found.positions = [(origin, log, following) for (origin, log), following in positions.items()]


def _add_receipts(found: Found, base: Path) -> None:
    """Imports whose segments may be gone."""
    positions = {(origin, log): following for origin, log, following in found.positions}
    for path, mark in receipts.receipts(base):
        if not receipts.happened(mark, found.origins):
            found.torn.append(path)
            found.why[path] = f"the receipt of commit {mark[2]} of {mark[0]}, which has no segments that count"
            continue
        try:
            said = receipts.read(base / path)
        except SegmentDamaged as error:
            found.damaged.append((path, str(error)))
            continue
        key = mark[0], said.log
        positions[key] = max(positions.get(key, 0), said.next)
    found.positions = [(origin, log, following) for (origin, log), following in positions.items()]
