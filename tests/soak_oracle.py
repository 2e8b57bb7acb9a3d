"""What the processes of a soak told, and what follows from it; small enough for hours and millions of records.

Every sequence number stands for one (producer, number), kept in eight bytes. A subscriber's readings, over all its
consumers, must go on where the one before ended or reach back, never leave anything out, and agree with what the others
were given. At the end each producer's numbers stand in the log once each, in order, at least as far as it was
acknowledged and no further than it issued.
"""

from __future__ import annotations

from array import array
from collections import Counter

# Of the eight bytes of an entry: which producer, in the upper part. Entry 0: nobody has read that number yet.
_PRODUCER_SHIFT = 40


class SoakOracle:
    """Raises AssertionError where something was lost, invented, repeated, changed or put out of order."""

    def __init__(self) -> None:
        self.issued: Counter[str] = Counter()
        self.acked: Counter[str] = Counter()
        self.next: dict[str, int] = {}  # by subscriber: what it has not been given yet
        self.counts: Counter[str] = Counter()
        self.first = 0  # what was there before the oldest reader came is not looked for
        self._producers: list[str] = []
        self._log = array("Q", [0])

    # ---- producers ---------------------------------------------------------------------------------------------------

    def at(self, producer: str, number: int) -> None:
        """A producer that started was told by the log where it is."""
        assert number >= self.acked[producer], (
            f"lost: {producer} was acknowledged up to {self.acked[producer]}, the log knows it up to {number}"
        )

    def issue(self, producer: str, number: int) -> None:
        self.issued[producer] = max(self.issued[producer], number)

    def ack(self, producer: str, number: int) -> None:
        self.counts["acknowledgements"] += 1
        self.acked[producer] = max(self.acked[producer], number)

    # ---- subscribers -------------------------------------------------------------------------------------------------

    def got(self, subscriber: str, first: int, count: int, producer: str, number: int) -> None:
        """A consumer of `subscriber` was given `count` records, from `first` on: those of `producer` from `number`."""
        expected = self.next.setdefault(subscriber, first)
        assert first <= expected, f"lost: {subscriber} was given {first} and stood at {expected}"
        self.counts["delivered again"] += max(0, min(first + count, expected) - first)
        self.counts["delivered"] += max(0, first + count - expected)
        self.next[subscriber] = max(expected, first + count)
        self._agree(subscriber, first, self._entries(producer, number, count))

    def gap(self, subscriber: str, first: int, last: int, why: str) -> None:
        """Only what it had been given before may come as a gap: a consumer that was left behind moved it back."""
        assert last < self.next.get(subscriber, 0), f"lost: {subscriber} was given a gap {first} to {last}: {why}"
        self.counts["gaps of what was delivered before"] += 1

    def _entries(self, producer: str, number: int, count: int) -> array[int]:
        if producer not in self._producers:
            self._producers.append(producer)
        base = (self._producers.index(producer) + 1 << _PRODUCER_SHIFT) + number
        return array("Q", range(base, base + count))

    def _agree(self, subscriber: str, first: int, told: array[int]) -> None:
        end = first + len(told)
        if end > len(self._log):
            self._log.extend(array("Q", bytes(8 * (end - len(self._log)))))
        known = self._log[first:end]
        if any(known) and known != told:
            for sequence, (before, now) in enumerate(zip(known, told, strict=True), first):
                assert before in (0, now), (
                    f"changed: {sequence} was {self._what(before)}, {subscriber} was given {self._what(now)}"
                )
        self._log[first:end] = told

    def _what(self, entry: int) -> str:
        return f"{self._producers[(entry >> _PRODUCER_SHIFT) - 1]}:{entry & (1 << _PRODUCER_SHIFT) - 1}"

    # ---- all of it ---------------------------------------------------------------------------------------------------

    def whole(self, subscribers: tuple[str, ...], end: int) -> int:
        """Nothing is in flight, and record `end` is the next one: every subscriber has everything. The records."""
        for name in subscribers:
            assert self.next.get(name, 1) == end, f"lost: {name} stands at {self.next.get(name)}, the log ends at {end}"
        assert len(self._log) == end, f"invented: {len(self._log) - 1} is beyond the end of the log, {end - 1}"
        numbers = [0] * len(self._producers)
        for sequence, entry in enumerate(memoryview(self._log)[1:], 1):
            assert entry, f"lost: nobody was given {sequence}"
            who = (entry >> _PRODUCER_SHIFT) - 1
            number = entry & (1 << _PRODUCER_SHIFT) - 1
            assert number >= numbers[who], f"repeated or out of order: {sequence} is {self._what(entry)}"
            assert number == numbers[who], f"lost: {sequence} is {self._what(entry)}, after {numbers[who] - 1}"
            numbers[who] += 1
        for who, name in enumerate(self._producers):
            assert numbers[who] >= self.acked[name], f"lost: {name} was acknowledged up to {self.acked[name]}"
            assert numbers[who] <= self.issued[name], f"invented: {name} issued {self.issued[name]} records"
        assert set(self._producers) >= {name for name, number in self.acked.items() if number}
        return end - 1
