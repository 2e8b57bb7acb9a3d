"""Writing what a logger counted: segments first, then one transaction of the catalogue.

    1. each segment of the commit: temporary name, sync, rename
    2. the directories they are in are synced
    3. the catalogue: rows of the segments, the commit's number, what had been read of each log    <- it counts from
       here
    4. the subscribers of the logs are moved (a hint: what may be pruned)

A process that stops before 3 leaves segments of a commit that is in no catalogue. They say themselves how many files
belong together, which (by a digest of their paths: a list of them all in each would grow with its square), and what had
been read: if all are there, the next start takes them over; if not, it removes them, and
reads the logs again from where the catalogue says. Nothing is lost, nothing is counted twice.

An epoch is in the catalogue before the first segment of it is written. Segments of a later epoch than the catalogue
knows were therefore written beside another one, which is lost: if they lack others, that may be since then, and
they are set aside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cidr import receipts
from cidr.aside import set_aside
from cidr.catalogue import Catalogue, segment_of
from cidr.columns import Counts
from cidr.errors import CatalogueBroken
from cidr.files import Files
from cidr.names import SUFFIX, commit_of, segment_files, segment_path
from cidr.segment import Header, Kind, LogPosition, digest_of_paths, encode, read_header
from cidr.times import HOUR
from cidr.types import Family, Tier


@dataclass(frozen=True, slots=True)
class Piece:
    """Counts of one series and family for one interval. `covered` is empty for what comes before or after it closes."""

    series: str
    family: Family
    start: int
    end: int
    kind: Kind
    covered: tuple[tuple[int, int], ...]
    counts: Counts


def tier_of(seconds: int) -> Tier:
    """The tier of an interval by its length: a minute is anything shorter than an hour."""
    return "minute" if seconds < HOUR else "hour" if seconds < 23 * HOUR else "day" if seconds < 27 * 86400 else "month"


class Commits:
    """The commits of one origin. One at a time."""

    def __init__(
        self,
        base: Path,
        catalogue: Catalogue,
        origin: str,
        zone: str,
        files: Files | None = None,
        interval: int = 0,
    ) -> None:
        """Claims the origin, and finishes or removes what its last process left. `aside`: where files are that were
        set aside. Raises CatalogueBroken."""
        self._base = base
        self._catalogue = catalogue
        self._files = files or Files()
        self._zone = zone
        self._interval = interval
        self.origin = origin
        known_epoch, self._number = catalogue.origin(origin)
        self.epoch = catalogue.claim(origin)
        self.aside = self._recover(known_epoch)

    def positions(self) -> dict[str, int]:
        """Per log, the next sequence number to be read."""
        return self._catalogue.positions(self.origin)

    def write(self, pieces: Sequence[Piece], positions: Mapping[str, int], receipt: str = "") -> None:
        """Commit the pieces, and that the logs were read up to `positions`; those of other logs stay as they were.

        `receipt`: one of them that is to be known when the segments are gone. Raises LoggerFenced, OSError.
        """
        number = self._number + 1
        if receipt:
            receipts.write(self._files, self._base, (self.origin, self.epoch, number), receipt, positions[receipt])
        paths = [self._path(piece, number) for piece in pieces]
        assert len(set(paths)) == len(paths), "two pieces of one commit have the same name"
        together = len(paths), digest_of_paths(paths)
        segments = []
        for path, piece in zip(paths, pieces, strict=True):
            header, data = encode(self._header(piece, number, together, positions), piece.counts)
            self._files.write(self._base / path, data)
            segments.append(segment_of(path, header, len(data)))
        self._files.sync_names(self._base / path for path in paths)
        self._files.step("before the catalogue", self._base)
        self._catalogue.commit(self.origin, self.epoch, number, segments, positions)
        self._files.step("after the catalogue", self._base)
        self._number = number

    def _path(self, piece: Piece, number: int) -> str:
        tier = tier_of(piece.end - piece.start)
        # End and kind make a piece unique in its commit: one closes an interval, one is beside it.
        name = segment_path(piece.series, piece.family, tier, piece.end, self.origin, self.epoch, number)
        return name if piece.kind != "late" else name.removesuffix(SUFFIX) + "-late" + SUFFIX

    def _header(self, piece: Piece, number: int, together: tuple[int, str], positions: Mapping[str, int]) -> Header:
        return Header(
            series=piece.series,
            family=piece.family,
            tier=tier_of(piece.end - piece.start),
            start=piece.start,
            end=piece.end,
            zone=self._zone,
            origin=self.origin,
            epoch=self.epoch,
            commit=number,
            kind=piece.kind,
            covered=list(piece.covered),
            together=together[0],
            paths_digest=together[1],
            interval=self._interval,
            positions=[LogPosition(log, following) for log, following in sorted(positions.items())],
        )

    def _recover(self, known_epoch: int) -> Path | None:
        """Finish the commit that was under way when the last process stopped, or remove its files."""
        newer = [path for path in segment_files(self._base) if self._number_in(path) > self._number]
        if any(self._number_in(path) > self._number + 1 for path in newer):
            raise CatalogueBroken(
                f"{self._base} holds commits of {self.origin} that the catalogue has not heard of: it is older than the"
                " segments; make it again with `cidr rebuild`"
            )
        headers = {path: read_header(self._base / path) for path in newer}
        epoch = max((header.epoch for header in headers.values()), default=0)
        wanted = {path: header for path, header in headers.items() if header.epoch == epoch}
        known = self._number
        if wanted and next(iter(wanted.values())).is_whole(wanted):
            segments = [segment_of(p, h, (self._base / p).stat().st_size) for p, h in wanted.items()]
            positions = {position.log: position.next for position in next(iter(wanted.values())).positions}
            # The process that wrote them may have been stopped before it did so.
            self._files.sync_names(self._base / path for path in wanted)
            self._catalogue.commit(self.origin, self.epoch, self._number + 1, segments, positions)
            self._number += 1
            newer = [path for path in newer if path not in wanted]
        taken = (self.origin, epoch, self._number) if self._number > known else None
        torn = {path: headers[path].epoch for path in newer} | self._torn_receipts(known, taken)
        for path in (path for path, its_epoch in torn.items() if its_epoch <= known_epoch):
            self._files.unlink(self._base / path)
        aside = set_aside(self._base, (path for path in torn if torn[path] > known_epoch), self._files)
        # Durably: a later commit will have the number of what is removed.
        for directory in {(self._base / path).parent for path in torn}:
            self._files.sync_directory(directory)
        return aside

    def _torn_receipts(self, known: int, taken: receipts.Mark | None) -> dict[str, int]:
        """Those of commits that never happened, and their epochs."""
        found = receipts.receipts(self._base)
        return {path: mark[1] for path, mark in found if mark[0] == self.origin and mark[2] > known and mark != taken}

    def _number_in(self, path: str) -> int:
        """The commit number in a file name of this origin; -1 for files of others."""
        named = commit_of(path)
        return named[2] if named and named[0] == self.origin else -1
