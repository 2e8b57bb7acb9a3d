"""A year of counts, made up: what the cidr benchmark asks about.

Addresses lie as senders of mail do: crowded in some networks, sparse in most; a few send a lot, most hardly anything.
Every hour each address is counted a Poisson number of times, so that an hour sees some of them, a day more, a month
nearly all. Hours are written as a logger does, days as the maintainer condenses them, then one day of minutes. The seed
decides everything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cidr.catalogue import Catalogue, segment_of
from cidr.columns import Counts, merge
from cidr.files import Files
from cidr.names import segment_path
from cidr.segment import Header, Kind, encode
from cidr.timeline import Segment
from cidr.types import Family, Tier

# 2025-01-01 00:00 UTC.
START = 1735689600
HOUR, DAY = 3600, 86400
ORIGIN = "bench"
# Below this rate an interval sees an address once or not at all: a coin is cheaper to throw than a Poisson number.
RARE = 0.05


@dataclass(frozen=True, slots=True)
class Shape:
    """How much there is. `hourly` is the number of addresses an average hour of the larger series sees."""

    addresses: int = 500_000
    hourly: int = 25_000
    days: int = 365
    minutes: int = 1440
    seed: int = 7


@dataclass(frozen=True, slots=True)
class _World:
    address: NDArray[np.uint32]
    rate: NDArray[np.float64]


def _world(shape: Shape, rng: np.random.Generator) -> _World:
    networks = rng.permutation(1 << 24)[: max(shape.addresses // 8, 1)].astype(np.uint32)
    crowd = np.minimum(rng.pareto(1.0, shape.addresses * 2) * len(networks) / 20, len(networks) - 1).astype(np.int64)
    found = np.unique((networks[crowd] << np.uint32(8)) | rng.integers(0, 256, len(crowd), dtype=np.uint32))
    address = np.sort(rng.permutation(found)[: shape.addresses])
    rate = rng.pareto(0.9, len(address)) + 0.02
    low, high = 0.0, 1e3
    for _ in range(60):  # the scale at which an hour sees the wanted number of addresses
        scale = (low + high) / 2
        seen = float((1 - np.exp(-rate * scale)).sum())
        low, high = (low, scale) if seen > shape.hourly else (scale, high)
    return _World(address, np.minimum(rate * low, 1e5))


class _Out:
    """Writes segments: durable writes would only measure the disk."""

    def __init__(self, base: Path) -> None:
        self._base = base
        self._files = Files()
        self._commit = 0
        self.segments: list[Segment] = []

    def put(self, series: str, tier: Tier, start: int, end: int, counts: Counts, upto: int = 0) -> None:
        kind: Kind = "condensed" if upto else "full"
        self._commit += not upto
        header = Header(
            series=series,
            family=Family.V4,
            tier=tier,
            start=start,
            end=end,
            zone="UTC",
            origin="condensed" if upto else ORIGIN,
            epoch=1,
            commit=upto or self._commit,
            kind=kind,
            covered=[(start, end)],
            upto={ORIGIN: upto} if upto else {},
            winners=[(start, end, ORIGIN)] if upto else [],
        )
        header, data = encode(header, counts)
        path = segment_path(series, Family.V4, tier, end, header.origin, 1, header.commit)
        self._files.make_directory((self._base / path).parent)
        (self._base / path).write_bytes(data)
        self.segments.append(segment_of(path, header, len(data)))

    @property
    def commit(self) -> int:
        return self._commit


def generate(base: Path, shape: Shape, advance: Callable[[str], None] = lambda _: None) -> None:
    """Make a store with the series `spam` and `ham` at `base`."""
    rng = np.random.default_rng(shape.seed)
    base.mkdir(parents=True, exist_ok=True)
    out = _Out(base)
    catalogue = Catalogue.create(base)
    catalogue.put_setting("zone", "UTC")
    spam = _world(shape, rng)
    # A third of the addresses send ham too, rather more evenly.
    some = np.sort(rng.permutation(len(spam.address))[: len(spam.address) // 3])
    ham = _World(spam.address[some], np.sqrt(spam.rate[some]) * 0.1)
    for number in range(shape.days):
        day = START + number * DAY
        for series, world in (("spam", spam), ("ham", ham)):
            hours = list(_intervals(world, rng, day, HOUR, 24, 1.0))
            for start, counts in hours:
                out.put(series, "hour", start, start + HOUR, counts)
            out.put(series, "day", day, day + DAY, merge([counts for _, counts in hours]), upto=out.commit)
        advance(f"day {number + 1} of {shape.days}")
    end = START + shape.days * DAY
    for series, world in (("spam", spam), ("ham", ham)):
        for start, counts in _intervals(world, rng, end, 60, shape.minutes, 1 / 60):
            out.put(series, "minute", start, start + 60, counts)
    catalogue.reset(out.segments, {ORIGIN: (1, out.commit)}, [])
    catalogue.close()


def _intervals(
    world: _World, rng: np.random.Generator, start: int, seconds: int, number: int, share: float
) -> Iterator[tuple[int, Counts]]:
    rate = world.rate * share
    often = np.flatnonzero(rate > RARE)
    chance = -np.expm1(-rate)
    for index in range(number):
        counts = (rng.random(len(rate), dtype=np.float32) < chance).astype(np.int64)
        counts[often] = rng.poisson(rate[often])
        seen = np.flatnonzero(counts)
        yield start + index * seconds, Counts(Family.V4, world.address[seen], counts[seen])
