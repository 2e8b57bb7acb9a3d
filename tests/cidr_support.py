"""Stores of counts for tests, and what a dictionary says they hold."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cidr.addresses import split
from cidr.catalogue import Catalogue, segment_of
from cidr.columns import Counts, from_unsorted
from cidr.files import Files
from cidr.names import CATALOGUE, segment_path
from cidr.segment import Header, encode
from cidr.terms import term
from cidr.timeline import Segment
from cidr.types import Answer, Block, CountQuery, Expression, Family, Ratio, Span


class FastFiles(Files):
    """Files that are not synced: these tests are not about the disk."""

    def sync_directory(self, path: Path) -> None:
        pass


def counts_of(family: Family, found: Mapping[int, int]) -> Counts:
    """A dictionary of addresses as columns."""
    low = np.array([split(a)[1] for a in found], np.uint64)
    high = np.array([split(a)[0] for a in found], np.uint64)
    values = np.array(list(found.values()), np.int64)
    if family is Family.V4:
        return from_unsorted(family, low.astype(np.uint32), values)
    return from_unsorted(family, low, values, high)


@dataclass
class Maker:
    """Writes segments into a directory and remembers what they say."""

    base: Path
    segments: list[Segment] = field(default_factory=list)
    model: list[tuple[str, Family, Span, dict[int, int]]] = field(default_factory=list)
    commits: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    zone: str = "UTC"

    def put(self, series: str, start: int, end: int, found: Mapping[int, int], **more: object) -> Segment:
        """One segment of its own commit; it goes into the model unless `counts=False`."""
        family = more.pop("family", Family.V4)
        counted = more.pop("counted", True)
        origin = str(more.get("origin", "test"))
        if "commit" not in more:
            self.commits[origin] += 1
        values: dict[str, object] = {
            "series": series,
            "family": family,
            "tier": "minute",
            "start": start,
            "end": end,
            "zone": self.zone,
            "origin": origin,
            "epoch": 1,
            "commit": self.commits[origin],
            "kind": "full",
            "covered": [(start, end)],
        }
        header = Header(**(values | more))  # type: ignore[arg-type]
        header, data = encode(header, counts_of(family, found))
        path = segment_path(series, family, header.tier, end, header.origin, header.epoch, header.commit)
        target = self.base / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        segment = segment_of(path, header, len(data))
        self.segments.append(segment)
        if counted:
            self.model.append((series, family, Span(start, end), dict(found)))
        return segment

    def catalogue(self) -> Catalogue:
        """The catalogue of it all, made now."""
        (self.base / CATALOGUE).unlink(missing_ok=True)
        catalogue = Catalogue.create(self.base)
        catalogue.put_setting("zone", self.zone)
        origins = {s.origin: (s.epoch, self.commits[s.origin]) for s in self.segments if not s.condensed}
        catalogue.reset(self.segments, origins, [])
        return catalogue


def added(model: Iterable[tuple[str, Family, Span, dict[int, int]]], span: Span | None) -> dict[str, dict]:
    """Per series, (family, address) -> count of all intervals that lie in the span."""
    found: dict[str, dict] = defaultdict(lambda: defaultdict(int))
    for series, family, interval, counts in model:
        if span is None or (span.start <= interval.start and interval.end <= span.end):
            for address, number in counts.items():
                found[series][family, address] += number
    return found


@dataclass
class Row:
    """One row the dictionary expects."""

    block: Block
    values: list[int]
    hosts: int


def expected(model: list, query: CountQuery, span: Span | None = None) -> list[Row]:
    """All rows of a query by brute force, in address order, before threshold and limit."""
    found = added(model, span or query.span)
    terms = []
    for column in query.columns:
        expression: Expression = column.expression
        parts = (expression.over, expression.under) if isinstance(expression, Ratio) else (expression,)
        terms += [term(part) for part in parts]
    names = {name for weighted in terms for name, _ in weighted}
    hosts: set = {key for name in names for key in found[name]}
    rows = []
    for block in sorted(_rows(query, hosts)):
        mine = [key for key in hosts if key[0] == block.family and block.first <= key[1] <= block.last]
        values = [sum(w * found[name].get(key, 0) for name, w in weighted for key in mine) for weighted in terms]
        rows.append(Row(block, values, len(mine)))
    return rows


def _rows(query: CountQuery, hosts: set) -> set[Block]:
    blocks = set()
    for block in query.blocks:
        inside = [key for key in hosts if key[0] == block.family and block.first <= key[1] <= block.last]
        levels = query.levels.of(block.family)
        if not levels and inside:
            blocks.add(block)
        for bits in levels:
            keep = block.family.width - bits
            blocks |= {Block(block.family, address >> keep << keep, bits) for _, address in inside}
    return blocks


def rows_of(answer: Answer) -> list[tuple]:
    """An answer's rows as tuples: block, values."""
    values = [column.values.tolist() for column in answer.columns]
    return [(answer.block(row), *(column[row] for column in values)) for row in range(len(answer))]
