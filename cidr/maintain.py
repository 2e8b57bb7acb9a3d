"""Maintenance: minutes are condensed to hours, hours to days, days to months, and what is old enough is deleted.

    1. late counts are added to the condensed segments of their interval: months first, then days, then hours, so that a
       coarse segment is never behind a finer one
    2. intervals that are over (and have settled) are condensed: hours first, so that days have them to be made of
    3. what a coarser segment holds is deleted when its tier's time is up; what is older than every tier keeps is
       deleted

A condensed segment is written, synced, renamed, read back and compared before the catalogue names it; only then may
what it was made of go. It says itself up to which commit of each logger it holds, so that stopping anywhere, running
twice or on two hosts counts nothing twice: the same inputs make the same file. A segment is taken out of the catalogue
before its file is removed. Whatever the newest commit of a logger wrote stays: its files are how a rebuild knows where
it was.

No locks. Readers that planned with a file that is gone plan again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from msgspec import structs

from cidr.aside import set_aside
from cidr.catalogue import Catalogue, segment_of
from cidr.columns import empty, merge
from cidr.config import Keep, Maintain
from cidr.errors import SegmentDamaged
from cidr.files import Files
from cidr.names import CATALOGUE, leftovers, segment_path
from cidr.segment import Header, digest, encode, read
from cidr.spans import of
from cidr.sums import SUM_MAX, bound
from cidr.survey import in_memory, survey
from cidr.timeline import Segment, Timeline
from cidr.times import unit, zone_named
from cidr.types import TIERS, Family, Span, Tier

CONDENSED = "condensed"
# Temporary files of a writer that is alive are seconds old.
LEFTOVER_SECONDS = 86400
COARSER: dict[Tier, Tier] = {"minute": "hour", "hour": "day", "day": "month"}


@dataclass(frozen=True, slots=True)
class Action:
    """One thing that was done, or would be. `bytes` come back by a deletion; a condensed segment takes them."""

    what: Literal["condense", "add late", "delete"]
    series: str
    family: Family
    tier: Tier
    span: Span
    segments: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Summary:
    """All of it. `newest`: segments whose time is up and that stay, because they are of a logger's newest commit.
    `too_large`: intervals that stay as they are, because their counts add up to more than a segment holds."""

    actions: tuple[Action, ...]
    newest: int = 0
    too_large: int = 0

    @property
    def freed(self) -> int:
        """Bytes that deletions return."""
        return sum(action.bytes for action in self.actions if action.what == "delete")

    @property
    def written(self) -> int:
        """Bytes that condensed segments take."""
        return sum(action.bytes for action in self.actions if action.what != "delete")


def open_catalogue(base: Path, files: Files | None = None) -> Catalogue:
    """The catalogue of a store for writing; made from its segments when there is none. Raises StoreNotFound."""
    if (base / CATALOGUE).exists():
        return Catalogue.create(base)
    found = survey(base)
    files = files or Files()
    files.sync_names(base / segment.path for segment in found.segments)
    # What lacks files may still be good, and who writes next would take it for an unfinished commit of its own.
    set_aside(base, found.torn, files)
    catalogue = Catalogue.create(base)
    found.settle(catalogue)
    return catalogue


class Maintainer:
    """Maintains one store."""

    def __init__(
        self,
        base: Path,
        policy: Maintain,
        *,
        dry_run: bool = False,
        only: Sequence[str] | None = None,
        clock: Callable[[], float] = time.time,
        files: Files | None = None,
    ) -> None:
        """`only`: these series. Raises StoreNotFound, CatalogueBroken."""
        self._base = base
        self._policy = policy
        self._dry_run = dry_run
        self._only = only
        self._now = int(clock())
        self._files = files or Files()
        missing = not (base / CATALOGUE).exists()
        self._catalogue = in_memory(base) if dry_run and missing else open_catalogue(base, files)
        self._zone = zone_named(self._catalogue.setting("zone") or "UTC")
        self._actions: list[Action] = []
        self._stayed = 0
        self._too_large = 0

    def run(self, progress: Callable[[str, int, int], None] = lambda *_: None) -> Summary:
        """Do it all. `progress` is told the series, how many are done, and of how many. Raises OSError,
        SegmentDamaged."""
        kinds = [(stat.name, family) for stat in self._catalogue.series() for family in stat.families]
        kinds = [kind for kind in kinds if self._only is None or kind[0] in self._only]
        newest = self._newest_commits()
        for number, (series, family) in enumerate(kinds):
            progress(series, number, len(kinds))
            _Series(self, series, family, newest).run()
        if not self._dry_run:
            self._sweep()
        return Summary(tuple(self._actions), self._stayed, self._too_large)

    def close(self) -> None:
        """Let go of the catalogue."""
        self._catalogue.close()

    def __enter__(self) -> Maintainer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _newest_commits(self) -> dict[str, int]:
        newest: dict[str, int] = {}
        for segment in self._catalogue.segments():
            if not segment.condensed:
                newest[segment.origin] = max(newest.get(segment.origin, 0), segment.commit)
        return newest

    def _sweep(self) -> None:
        """Temporary files that nobody will finish."""
        for path in leftovers(self._base):
            try:
                if self._now - path.stat().st_mtime > LEFTOVER_SECONDS:
                    self._files.unlink(path)
            except FileNotFoundError:
                continue


class _Series:
    """One series and family of a run."""

    def __init__(self, owner: Maintainer, series: str, family: Family, newest: dict[str, int]) -> None:
        self._owner = owner
        self._series = series
        self._family = family
        self._newest = newest
        self._keep: Keep = owner._policy.keep(series)
        self._segments = {s.path: s for s in owner._catalogue.segments(series, family)}
        self._timeline = Timeline(self._segments.values())

    def run(self) -> None:
        if self._keep.condense:
            self._add_late()
            self._condense_all()
        self._delete(list(self._due()))

    # Condensing

    def _add_late(self) -> None:
        """The late counts of an interval, to every condensed segment of it, the coarsest first."""
        for tier in reversed(TIERS):
            for segment, late in self._timeline.late(tier):
                settled = [leaf for leaf in late if self._settled(leaf.end)]
                if settled and self._fit([segment, *late]):
                    span = Span(segment.start, segment.end)
                    self._write("add late", tier, span, [segment, *late])
        self._timeline = Timeline(self._segments.values())

    def _condense_all(self) -> None:
        for tier in TIERS:
            if tier not in COARSER:
                continue
            coarse = COARSER[tier]
            for span in list(self._open_units(coarse)):
                inputs = self._timeline.select(span, tier).segments
                if self._fit(inputs):
                    self._write("condense", coarse, span, inputs)
            self._timeline = Timeline(self._segments.values())

    def _fit(self, inputs: Sequence[Segment]) -> bool:
        """Whether there are any, and one segment can hold their sum; otherwise they stay as they are."""
        fits = bound(inputs) < SUM_MAX
        self._owner._too_large += not fits
        return bool(inputs) and fits

    def _open_units(self, tier: Tier) -> Iterator[Span]:
        """Units that are over and settled, have something in them, and are not condensed; nothing reaches over their
        edge."""
        zone = self._owner._zone
        done = self._timeline.condensed_spans(tier)
        live = self._timeline.segments()
        starts = {unit(tier, s.start, zone) for s in live if TIERS.index(s.tier) <= TIERS.index(tier)}
        for span in sorted(starts):
            if not self._settled(span.end) or span in done:
                continue
            if not any(s.start < edge < s.end for s in live for edge in (span.start, span.end)):
                yield span

    def _settled(self, end: int) -> bool:
        return end + int(self._keep.settle) <= self._owner._now

    def _write(self, what: Literal["condense", "add late"], tier: Tier, span: Span, inputs: Sequence[Segment]) -> None:
        """The sum of the inputs as one segment; it takes the place of an older one of the same span."""
        header = self._header(tier, span, inputs)
        path = segment_path(self._series, self._family, tier, span.end, CONDENSED, header.epoch, header.commit)
        if self._owner._dry_run:
            size = max(s.bytes for s in inputs)  # a guess: the union of the addresses is at least the largest
            segment = segment_of(path, structs.replace(header, rows=max(s.rows for s in inputs)), size)
        else:
            segment = self._written(path, header, inputs)
        same = (tier, span.start, span.end)
        others = [s for s in self._segments.values() if s.condensed and s.path != path]
        replaced = [s for s in others if (s.tier, s.start, s.end) == same]
        self._segments[path] = segment
        self._owner._actions.append(Action(what, self._series, self._family, tier, span, len(inputs), segment.bytes))
        if not self._owner._dry_run:
            self._owner._catalogue.replace([segment])
        self._delete(replaced)

    def _written(self, path: str, header: Header, inputs: Sequence[Segment]) -> Segment:
        base, files = self._owner._base, self._owner._files
        parts = [read(base / segment.path, self._family) for segment in inputs]
        counts = merge([empty(self._family), *parts])
        if int(counts.counts.sum()) != sum(segment.total for segment in inputs):
            raise SegmentDamaged(f"the inputs of {path} do not add up to what the catalogue says; try `cidr rebuild`")
        header, data = encode(header, counts)
        files.write(base / path, data)
        files.sync_directory((base / path).parent)
        if digest(read(base / path, self._family)) != header.digest:
            raise SegmentDamaged(f"{base / path} reads back other than it was written: check the disk; nothing is lost")
        files.step("before the catalogue", base)
        return segment_of(path, header, len(data))

    def _header(self, tier: Tier, span: Span, inputs: Sequence[Segment]) -> Header:
        upto: dict[str, int] = {}
        for segment in inputs:
            found = dict(segment.upto) if segment.condensed else {segment.origin: segment.commit}
            upto = {name: max(upto.get(name, 0), found.get(name, 0)) for name in {**upto, **found}}
        covered = of(*(piece for segment in inputs for piece in segment.covered))
        return Header(
            series=self._series,
            family=self._family,
            tier=tier,
            start=span.start,
            end=span.end,
            zone=str(self._owner._zone),
            origin=CONDENSED,
            epoch=max(segment.epoch for segment in inputs),
            commit=sum(upto.values()),
            kind="condensed",
            covered=[(piece.start, piece.end) for piece in covered.listed()],
            upto=dict(sorted(upto.items())),
            winners=_winners(inputs),
        )

    # Deleting

    def _due(self) -> Iterator[Segment]:
        """Segments whose time is up."""
        now = self._owner._now
        for segment in self._segments.values():
            tier: Tier = segment.tier
            if self._expired(tier, segment, now) and (
                self._timeline.is_held(segment) or all(self._expired(t, segment, now) for t in self._tiers_after(tier))
            ):
                if segment.commit == self._newest.get(segment.origin) and not segment.condensed:
                    self._owner._stayed += 1
                else:
                    yield segment

    def _tiers_after(self, tier: Tier) -> Sequence[Tier]:
        return TIERS[TIERS.index(tier) :] if self._keep.condense else (tier,)

    def _expired(self, tier: Tier, segment: Segment, now: int) -> bool:
        keep = int(getattr(self._keep, f"keep_{tier}s"))
        return keep > 0 and segment.end <= now - keep

    def _delete(self, segments: Sequence[Segment]) -> None:
        """Out of the catalogue, then off the disk."""
        if not segments:
            return
        for segment in segments:
            self._segments.pop(segment.path, None)
            span = Span(segment.start, segment.end)
            self._owner._actions.append(
                Action("delete", self._series, self._family, segment.tier, span, 1, segment.bytes)
            )
        if self._owner._dry_run:
            return
        self._owner._files.step("before the deletion", self._owner._base)
        self._owner._catalogue.replace([], [segment.path for segment in segments])
        for segment in segments:
            self._owner._files.unlink(self._owner._base / segment.path)


def _winners(inputs: Iterable[Segment]) -> list[tuple[int, int, str]]:
    """Whose counts these are, as few stretches as say it."""
    by_origin: dict[str, list[tuple[int, int]]] = {}
    for segment in inputs:
        stretches = segment.winners if segment.condensed else ((segment.start, segment.end, segment.origin),)
        for start, end, origin in stretches:
            by_origin.setdefault(origin, []).append((start, end))
    return sorted((piece.start, piece.end, name) for name, found in by_origin.items() for piece in of(*found).listed())
