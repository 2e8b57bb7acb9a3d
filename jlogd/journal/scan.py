"""Reading the batches of one segment, in order, past whatever damage there is.

Segments are read with `pread` in blocks and never mapped: on network mounts a mapping is not coherent, and a file
that shrinks under it ends the process. Damage is believed when a second look, past the caches, has seen it too.
"""

from __future__ import annotations

from dataclasses import dataclass

from jlogd.errors import FormatError
from jlogd.journal import batch as batches
from jlogd.journal.batch import HEADER_BYTES, MAGIC, Batch
from jlogd.journal.disk import File
from jlogd.journal.segment import SEGMENT_HEADER_BYTES

# One block is read at a time; large enough that the call costs nothing per byte, small enough for eight subscribers.
BLOCK_BYTES = 512 << 10
# After damage, only a batch whose number is this close can be the next one: a segment cannot hold more records.
_RECORDS_AHEAD_MAX = 1 << 31


@dataclass(frozen=True, slots=True)
class Damage:
    """Bytes `start` to `end` (exclusive) of a segment that hold no valid batch."""

    start: int
    end: int
    why: str


class Scanner:
    """Walks the batches of an open segment. `offset` is where the next one starts."""

    def __init__(self, file: File, seed: int, offset: int = SEGMENT_HEADER_BYTES) -> None:
        self._file = file
        self._seed = seed
        self._block = b""
        self._block_at = 0
        self.offset = offset

    def step(self, end: int, expected: int) -> Batch | Damage | None:
        """The next batch that ends at or before byte `end`, or the damage before it; None at `end`.

        After damage, a batch counts only if it holds `expected` or numbers above: who reads may stand inside of it.
        """
        if self.offset >= end:
            return None
        try:
            found = self._batch_at(self.offset, end)
        except FormatError:
            try:
                found = self._batch_anew(self.offset, end)
            except FormatError as error:
                return self._resync(end, expected, error.message)
        self.offset += found.size
        return found

    def _batch_at(self, offset: int, end: int) -> Batch:
        at = self._load(offset, HEADER_BYTES, end)
        _, body_bytes = batches.decode_header(self._block, at, self._seed)
        if offset + HEADER_BYTES + body_bytes > end:
            raise FormatError("the batch reaches past the end", offset=offset)
        at = self._load(offset, HEADER_BYTES + body_bytes, end)
        return batches.decode(self._block, at, self._seed)

    def _batch_anew(self, offset: int, end: int) -> Batch:
        """The same, past the caches."""
        self._block = self._file.reread(min(BLOCK_BYTES, end - offset), offset)
        self._block_at = offset
        return self._batch_at(offset, end)

    def _load(self, offset: int, length: int, end: int) -> int:
        """Have `length` bytes from `offset` in the block (fewer at `end`); where in the block they start."""
        at = offset - self._block_at
        if at < 0 or at + length > len(self._block):
            wanted = min(max(length, BLOCK_BYTES), end - offset)
            self._block = self._file.pread(wanted, offset)
            self._block_at, at = offset, 0
        return at

    def _resync(self, end: int, expected: int, why: str) -> Damage:
        """The damage from `offset` to the next batch, or to `end`."""
        start = self.offset
        self.offset = end
        candidate, searched = start + 1, min(end, self._file.size())
        while candidate < searched:
            at = self._load(candidate, HEADER_BYTES, end)
            found = self._block.find(MAGIC, at)
            if found < 0:
                # A magic may straddle two blocks: keep its first three bytes in the next one.
                candidate = max(self._block_at + len(self._block) - len(MAGIC) + 1, candidate + 1)
                continue
            candidate = self._block_at + found
            if self._is_batch(candidate, end, expected):
                self.offset = candidate
                break
            candidate += 1
        return Damage(start, self.offset, why)

    def _is_batch(self, offset: int, end: int, expected: int) -> bool:
        try:
            found = self._batch_at(offset, end)
        except FormatError:
            return False
        return expected <= max(found.first, found.last) and found.first <= expected + _RECORDS_AHEAD_MAX
