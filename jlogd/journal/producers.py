"""Who was heard last: what makes a producer's retry harmless.

A producer numbers its batches with its own position before and after each. The journal accepts a batch that starts
where the last one ended, drops one that ends at or before it (a retry), and refuses one that leaves a hole. A
producer that is not known may start anywhere, unless its first batch was refused (`Owed`).

The table is rebuilt from the segment in use: each segment starts with a snapshot of it, a batch of kind 1 whose body is

    n x { producer u64, position u64, first u64, records u32, reserved u32 }      little-endian, oldest heard first

Anonymous producers (random ids, top bit clear) are forgotten first when there are too many; named ones (top bit set,
from the name's hash) carry positions of followed files and have a table of their own size.
"""

from __future__ import annotations

import hashlib
import secrets
import struct
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from crc32c import crc32c

from jlogd.errors import JlogError, ProducerGap
from jlogd.journal.batch import PRODUCERS, Batch
from jlogd.journal.types import Receipt

_ENTRY = struct.Struct("<QQQII")
_NAMED = 1 << 63
# Each costs 32 bytes in every segment. A writer that was idle while this many others came is not recognised any more.
ANONYMOUS_MAX = 4096
# One per followed file: more than a machine rotates through before its old logs are deleted.
NAMED_MAX = 65536
# Producers that met a full log with their first batch, and are waited for.
OWED_MAX = 4096


def producer_id(name: str = "") -> int:
    """The number of a named producer, the same for ever; without a name, a random one."""
    if not name:
        return secrets.randbits(63) or 1
    return _NAMED | int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


@dataclass(frozen=True, slots=True)
class Heard:
    """The last batch accepted from a producer: its end in the producer's own positions, its numbers in the log."""

    position: int
    first: int
    count: int


class Producers:
    """The table; `judge` decides, `note` remembers."""

    def __init__(self) -> None:
        self._anonymous: OrderedDict[int, Heard] = OrderedDict()
        self._named: OrderedDict[int, Heard] = OrderedDict()

    def __len__(self) -> int:
        return len(self._anonymous) + len(self._named)

    def get(self, producer: int) -> Heard | None:
        """The last batch accepted from `producer`, if it is remembered."""
        return self._table(producer).get(producer)

    def judge(self, batch: Batch, heard: Heard | None) -> Receipt | ProducerGap | None:
        """None: accept. A receipt: it was accepted before. An error: something before it is missing."""
        if not batch.producer or heard is None or batch.producer_from == heard.position:
            return None
        if batch.producer_to == heard.position:
            return Receipt(heard.first, heard.count, duplicate=True)
        if batch.producer_to < heard.position:
            return Receipt(0, batch.count, duplicate=True)
        return ProducerGap(
            f"producer {batch.producer:016x} sent {batch.producer_from} to {batch.producer_to}, "
            f"but the log has it up to {heard.position}; send again from there"
        )

    def note(self, batch: Batch) -> None:
        """Remember an accepted batch that carries its sequence numbers."""
        if batch.producer:
            self._put(batch.producer, Heard(batch.producer_to, batch.first, batch.count))

    def snapshot(self) -> Batch:
        """The table as the first batch of a segment."""
        entries = [*self._anonymous.items(), *self._named.items()]
        body = b"".join(_ENTRY.pack(who, heard.position, heard.first, heard.count, 0) for who, heard in entries)
        return Batch(0, body, kind=PRODUCERS, raw_bytes=len(body), body_crc=crc32c(body))

    def learn(self, batches: Iterable[Batch]) -> None:
        """Take in batches read from a segment, snapshots included."""
        for batch in batches:
            if batch.kind != PRODUCERS:
                self.note(batch)
                continue
            whole = len(batch.body) // _ENTRY.size * _ENTRY.size
            for who, position, first, count, _ in _ENTRY.iter_unpack(batch.body[:whole]):
                self._put(who, Heard(position, first, count))

    def _table(self, producer: int) -> OrderedDict[int, Heard]:
        return self._named if producer & _NAMED else self._anonymous

    def _put(self, producer: int, heard: Heard) -> None:
        table = self._table(producer)
        table[producer] = heard
        table.move_to_end(producer)
        if len(table) > (NAMED_MAX if producer & _NAMED else ANONYMOUS_MAX):
            table.popitem(last=False)


class Owed:
    """Where producers begin whose first batch was refused.

    The log lets a producer it does not know start anywhere: a second batch must not be taken for the beginning, and the
    first one's retry for a repetition.
    """

    def __init__(self) -> None:
        self._starts: dict[int, int] = {}

    def before(self, batch: Batch) -> Heard | None:
        """What a batch of a producer that the log does not know has to follow; None when it may be the first."""
        start = self._starts.get(batch.producer, batch.producer_from)
        return Heard(start, 0, 0) if batch.producer_from > start else None

    def note(self, batches: Sequence[Batch], outcomes: Sequence[Receipt | JlogError]) -> None:
        """What became of a group."""
        for batch, outcome in zip(batches, outcomes, strict=True):
            if isinstance(outcome, Receipt):
                self._starts.pop(batch.producer, None)
            elif batch.producer and not isinstance(outcome, ProducerGap):
                self._starts.setdefault(batch.producer, batch.producer_from)
        while len(self._starts) > OWED_MAX:
            self._starts.pop(next(iter(self._starts)))
