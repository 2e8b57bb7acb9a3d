"""What a log was told and what it said, kept outside of it, and what follows from that.

Words: a record is *issued* when it is handed to the log, *acked* when a receipt named its sequence number, *refused*
when the log said that it will not be there. What a reader returned is *delivered*. What may go wrong is: *missing*
(acked, and neither delivered nor in a gap that is explained), *spurious* (delivered, and never issued, or refused),
*corrupted* (a sequence number that stands for two records), *duplicated* (a record of a numbered producer that stands
under two numbers), *reordered*.

Every record the tests issue is different, and says who issued it as what: see `record`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from jlogd.journal.batch import SEQUENCE_MAX, Batch, Gap
from jlogd.journal.types import Receipt


def record(producer: int, number: int, size: int = 0, newline: bool = False) -> bytes:
    """The `number`-th record of `producer` (0 for an anonymous one), padded to `size` bytes."""
    text = b"p%d:%d|" % (producer, number)
    return text + (b"\n" if newline else b"") + b"." * max(0, size - len(text))


def identity(data: bytes) -> tuple[int, int]:
    """Producer and number of a record."""
    producer, _, number = data.split(b"|", 1)[0][1:].partition(b":")
    return int(producer), int(number)


class Oracle:
    """Knows what the log must, may and must not deliver."""

    def __init__(self) -> None:
        self.issued: set[bytes] = set()
        self.refused: set[bytes] = set()
        self.acked: dict[int, bytes] = {}
        self.acked_somewhere: set[bytes] = set()  # acknowledged as duplicates of a batch whose numbers are forgotten
        self.delivered: dict[int, bytes] = {}
        self.exempt: set[int] = set()  # numbers whose bytes were rotted on purpose
        self.rotten: set[bytes] = set()
        self.late = False  # acknowledged before it can be read
        self.synced_below = 1  # only with `late`: what stands below it can be read
        self.lost: set[bytes] = set()  # acknowledged before a sync that never came
        self.gone_below = 1  # what stands below it may have been pruned
        self.append_time: dict[int, int] = {}

    # ---- what the log was told, and said -----------------------------------------------------------------------------

    def issue(self, records: Iterable[bytes]) -> None:
        self.issued.update(records)
        self.refused.difference_update(records)

    def refuse(self, records: Iterable[bytes]) -> None:
        """The log refused them, and they were never offered to it otherwise."""
        self.refused.update(records)

    def ack(self, records: Sequence[bytes], receipt: Receipt) -> None:
        assert receipt.count == len(records), f"{receipt} for {len(records)} records"
        if not receipt.first:
            assert receipt.duplicate, receipt
            self.acked_somewhere.update(records)
            return
        for sequence, data in enumerate(records, receipt.first):
            if sequence in self.exempt:
                self.rotten.add(data)
                continue
            for known, what in ((self.acked, "acked"), (self.delivered, "delivered")):
                before = known.get(sequence, data)
                assert before == data, f"corrupted: {sequence} was {what} as {before[:30]!r}, is acked as {data[:30]!r}"
            self.acked[sequence] = data

    def rot(self, sequences: Iterable[int]) -> None:
        """The bytes of these numbers were damaged: a gap there is explained."""
        for sequence in sequences:
            self.exempt.add(sequence)
            self.append_time.pop(sequence, None)
            for known in (self.acked, self.delivered):
                if sequence in known:
                    self.rotten.add(known.pop(sequence))

    def lose(self, start: int) -> None:
        """A power loss may have taken everything from `start` on; the policy of the log says so."""
        for known in (self.acked, self.delivered):
            for sequence in [sequence for sequence in known if sequence >= start]:
                self.lost.add(known.pop(sequence))
                self.append_time.pop(sequence, None)
        self.lost |= self.acked_somewhere
        self.acked_somewhere.clear()

    # ---- what readers got --------------------------------------------------------------------------------------------

    def read(self, items: Iterable[Batch | Gap], expected: int) -> int:
        """Check what a reader that stood at `expected` was given; where it stands now."""
        for item in items:
            assert item.first == expected, f"reordered: {item.first} follows {expected - 1}"
            if isinstance(item, Gap):
                assert item.last >= item.first, item
                self._gap(item)
            else:
                self._batch(item)
            expected = item.next
        return expected

    def _gap(self, gap: Gap) -> None:
        for sequence in range(gap.first, gap.next):
            if sequence in self.acked and sequence >= self.gone_below:
                raise AssertionError(f"missing: {sequence} was acked as {self.acked[sequence][:30]!r}, and is in {gap}")
            if sequence in self.delivered and sequence >= self.gone_below:
                raise AssertionError(f"missing: {sequence} was delivered before, and is now in {gap}")

    def _batch(self, batch: Batch) -> None:
        records = list(batch)
        assert len(records) == batch.count
        for sequence, data in enumerate(records, batch.first):
            assert data in self.issued, f"spurious: {sequence} is {data[:50]!r}, which was never issued"
            assert data not in self.refused, f"spurious: {sequence} is {data[:50]!r}, which was refused"
            if sequence in self.exempt:
                continue
            for known, what in ((self.acked, "acked"), (self.delivered, "delivered")):
                before = known.get(sequence, data)
                assert before == data, f"corrupted: {sequence} was {what} as {before[:30]!r}, now is {data[:30]!r}"
            self.delivered[sequence] = data
            self.append_time[sequence] = batch.append_time

    # ---- all of it together ------------------------------------------------------------------------------------------

    def whole(self, items: Sequence[Batch | Gap], first: int) -> None:
        """Check a reading of the whole log, from `first` to the end, when nothing is in flight."""
        end = self.read(items, first)
        there = {}
        for item in items:
            there.update(enumerate(item, item.first))
        start = max(first, self.gone_below)
        assert first <= self.gone_below or not any(s < first and s >= self.gone_below for s in self.acked), (
            f"missing: the log starts at {first}, and only what is below {self.gone_below} could go"
        )
        for known, what in ((self.acked, "acked"), (self.delivered, "delivered")):
            until = max(end, self.synced_below) if self.late else SEQUENCE_MAX
            lost = [s for s in known if start <= s < until and s not in there]
            assert not lost, f"missing: {lost} of {what} records; the log ends at {end}"
        self._no_duplicates(there)
        self._in_order(there)
        present = set(there.values())
        if self.gone_below == 1 and not self.late:
            lost_records = self.acked_somewhere - present - self.rotten
            assert not lost_records, f"missing: {lost_records}"

    def _no_duplicates(self, there: dict[int, bytes]) -> None:
        seen: dict[bytes, int] = {}
        for sequence, data in there.items():
            if identity(data)[0] and sequence not in self.exempt:
                assert data not in seen, f"duplicated: {data[:30]!r} is {seen[data]} and {sequence}"
                seen[data] = sequence

    def _in_order(self, there: dict[int, bytes]) -> None:
        last: dict[int, int] = {}
        for sequence in sorted(there):
            if sequence in self.exempt:
                continue
            producer, number = identity(there[sequence])
            if producer:
                assert number > last.get(producer, -1), f"reordered: {there[sequence][:30]!r} at {sequence}"
                last[producer] = number
        times = [self.append_time[s] for s in sorted(there) if s in self.append_time]
        assert times == sorted(times), "append times decrease"
