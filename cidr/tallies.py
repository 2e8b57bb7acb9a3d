"""Counts in memory: what a logger has seen and not written yet.

Per series and interval a dictionary of address texts, as they stood in the records; they are parsed when they are
written, each different one once.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import tzinfo
from socket import AF_INET, AF_INET6, inet_pton

import numpy as np

from cidr.columns import Counts, from_unsorted
from cidr.extract import FUTURE_SECONDS_MAX, Event, grouped_near, parse_amount, parse_time
from cidr.types import Family

Key = tuple[str, int]
# What one address can have in one interval: nonsense amounts end here, before they leave the 64 bits of the column.
COUNT_MAX = 1 << 53
# What comes before the last four bytes of an IPv4 address in IPv6 clothes.
_MAPPED = bytes(10) + b"\xff\xff"


@dataclass(slots=True)
class Seen:
    """What became of the records, since the start. `not_wanted`: entries of audit records, by series."""

    records: int = 0
    events: int = 0
    left_out: int = 0
    not_wanted: Counter[str] = field(default_factory=Counter)
    not_an_address: int = 0
    not_an_amount: int = 0
    not_a_time: int = 0
    lost: int = 0


@dataclass(slots=True)
class Tallies:
    """Counts by series and start of the interval. `entries` is how many different texts they hold, about."""

    interval: int
    zone: tzinfo
    seen: Seen = field(default_factory=Seen)
    counts: dict[Key, Counter[bytes]] = field(default_factory=lambda: defaultdict(Counter))
    entries: int = 0

    def add_events(self, series: str, events: Mapping[Event, int], logged: int) -> None:
        """Count events that were logged at `logged` (seconds)."""
        for (address, time, amount), times in events.items():
            self.seen.events += times
            number = parse_amount(amount) if amount else 1
            if number is None:
                self.seen.not_an_amount += times
                continue
            self.add(series, address, number * times, self._when(time, logged) if time else logged)

    def add_addresses(self, series: str, addresses: Sequence[bytes], logged: int) -> None:
        """Count one for each address: a loop in C."""
        counts = self.counts[series, self._start(logged)]
        before = len(counts)
        counts.update(addresses)
        self.entries += len(counts) - before
        self.seen.events += len(addresses)

    def add(self, series: str, address: bytes, number: int, when: int) -> None:
        """Count one address."""
        counts = self.counts[series, self._start(when)]
        before = counts.get(address)
        counts[address] = number if before is None else before + number
        self.entries += before is None

    def _when(self, text: bytes, logged: int) -> int:
        when = parse_time(text, grouped_near(logged), self.zone)
        if when is None or when > logged + FUTURE_SECONDS_MAX:
            self.seen.not_a_time += 1
            return logged
        return when

    def _start(self, when: int) -> int:
        return when // self.interval * self.interval

    def take(self) -> dict[tuple[str, int, Family], Counts]:
        """Everything, as columns, and begin anew."""
        found: dict[tuple[str, int, Family], Counts] = {}
        for (series, start), counts in self.counts.items():
            for family, columns in self._columns(counts).items():
                found[series, start, family] = columns
        self.counts.clear()
        self.entries = 0
        return found

    def _columns(self, counts: dict[bytes, int]) -> dict[Family, Counts]:
        v4, v4_counts, v6, v6_counts = bytearray(), [], bytearray(), []
        for text, number in counts.items():
            packed = packed_address(text)
            if packed is None:
                self.seen.not_an_address += 1
            elif len(packed) == 4:
                v4 += packed
                v4_counts.append(_bounded(number))
            else:
                v6 += packed
                v6_counts.append(_bounded(number))
        found = {}
        if v4:
            low = np.frombuffer(v4, ">u4").astype(np.uint32)
            found[Family.V4] = from_unsorted(Family.V4, low, np.array(v4_counts, np.int64))
        if v6:
            halves = np.frombuffer(v6, ">u8").astype(np.uint64).reshape(-1, 2)
            values = np.array(v6_counts, np.int64)
            found[Family.V6] = from_unsorted(Family.V6, halves[:, 1].copy(), values, halves[:, 0].copy())
        return found


def _bounded(number: int) -> int:
    return max(-COUNT_MAX, min(number, COUNT_MAX))


def packed_address(text: bytes) -> bytes | None:
    """4 or 16 bytes, or None. Brackets and a zone (`fe80::1%eth0`) are taken off, IPv4 in IPv6 clothes is IPv4."""
    word = text.decode("ascii", "replace").strip("[]")
    try:
        if ":" not in word:
            return inet_pton(AF_INET, word)
        packed = inet_pton(AF_INET6, word.partition("%")[0])
    except (OSError, ValueError):
        return None
    return packed[12:] if packed.startswith(_MAPPED) else packed
