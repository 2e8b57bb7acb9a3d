"""Two-slot state files: the form of every small file that changes.

    at       size  field
    0        512   slot 0
    4096     512   slot 1        (a page of its own, so that no device sector holds both)

    slot:  0   4   magic         "JLS1"
           4   2   kind          b"OW" owner, b"HD" head, b"SU" subscriber, b"FL" floor
           6   2   length        of the payload, 0 .. 492
           8   8   generation    grows by one with every write; the newest valid slot is the state
          16       payload, then zeros
         508   4   CRC-32C of bytes 0 .. 507

A write goes to the slot that is not known to be durable, again and again, until a sync makes it the durable one. So at
every moment one slot is intact on disk, and writes that need not be durable cost no sync.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

from crc32c import crc32c

from jlogd.journal.disk import Disk, File, replace_file

SLOT_BYTES = 512
STRIDE = 4096
PAYLOAD_MAX = SLOT_BYTES - 20
_HEAD = struct.Struct("<4s2sHQ")
_CRC = struct.Struct("<I")
_MAGIC = b"JLS1"
# A reader may meet a slot while it is written; the next look finds it whole.
_READ_TRIES = 3


def encode_slot(kind: bytes, generation: int, payload: bytes) -> bytes:
    """The 512 bytes of one slot."""
    assert len(payload) <= PAYLOAD_MAX, len(payload)
    head = _HEAD.pack(_MAGIC, kind, len(payload), generation) + payload
    head = head.ljust(SLOT_BYTES - _CRC.size, b"\0")
    return head + _CRC.pack(crc32c(head))


def decode_slot(data: bytes, kind: bytes) -> tuple[int, bytes] | None:
    """Generation and payload, or None when the slot is not valid."""
    if len(data) != SLOT_BYTES:
        return None
    magic, found, length, generation = _HEAD.unpack_from(data)
    if magic != _MAGIC or found != kind or length > PAYLOAD_MAX:
        return None
    if crc32c(data[: -_CRC.size]) != _CRC.unpack_from(data, SLOT_BYTES - _CRC.size)[0]:
        return None
    return generation, data[_HEAD.size : _HEAD.size + length]


def slot_problems(data: bytes) -> list[str]:
    """What is wrong with the bytes of a state file; nothing when both slots are valid or one was never written."""
    kinds = (b"OW", b"HD", b"SU", b"FL")
    found = []
    for slot, part in enumerate((data[:SLOT_BYTES], data[STRIDE:])):
        if any(part) and not any(decode_slot(part, kind) for kind in kinds):
            found.append(f"slot {slot} is damaged")
    if any(data[SLOT_BYTES:STRIDE]):
        found.append("the bytes between the slots are damaged")
    return found


class SlotFile:
    """An open state file. Readers need no lock; writers hold whatever lock guards the file."""

    def __init__(self, file: File, kind: bytes, *, hint: bool = False) -> None:
        """`hint`: the state can be rebuilt, so a write need not keep the other writers' slot durable."""
        self._file = file
        self._kind = kind
        self._hint = hint
        self._durable: int | None = None
        self._seen = b""
        self._payload: bytes | None = None
        self.generation = 0

    @classmethod
    def create(cls, disk: Disk, path: Path, kind: bytes, payload: bytes) -> None:
        """Put a new state file at `path`, durably, replacing one that is there."""
        slot = encode_slot(kind, 1, payload)  # in both places, so that one of them may rot
        replace_file(disk, path, slot.ljust(STRIDE, b"\0") + slot)

    @classmethod
    def open(cls, disk: Disk, path: Path, kind: bytes, *, hint: bool = False, write: bool = True) -> SlotFile:
        """Raises FileNotFoundError."""
        return cls(disk.open(path, "write" if write else "read"), kind, hint=hint)

    def read(self) -> bytes | None:
        """The newest valid payload; None when neither slot is valid."""
        for _ in range(_READ_TRIES):
            data = self._file.pread(STRIDE + SLOT_BYTES, 0)
            if data == self._seen:  # what every commit of a lone writer finds
                return self._payload
            valid = self._slots(data)
            if valid:
                generation, payload, slot = max(valid)
                if generation != self.generation:
                    self._durable = slot if self._hint else None
                    self.generation = generation
                self._seen, self._payload = data, payload
                return payload
        return None

    def write(self, payload: bytes, *, sync: bool = False, guard: Callable[[], None] | None = None) -> None:
        """Make `payload` the state; with `sync`, durably. `guard` is called just before that, and may raise."""
        target = self._spare()
        slot = encode_slot(self._kind, self.generation + 1, payload)
        if guard is not None:
            guard()
        self._file.pwrite(slot, target * STRIDE)
        self.generation += 1
        self._remember(target, slot, payload)
        if sync:
            self.sync()

    def sync(self) -> None:
        """Make the state that was last written durable."""
        self._file.sync()
        valid = self._slots(self._file.pread(STRIDE + SLOT_BYTES, 0))
        self._durable = max(valid)[2] if valid else None

    def replaced(self) -> bool:
        """Whether the file was unlinked since it was opened."""
        return self._file.unlinked()

    def close(self) -> None:
        self._file.close()

    def _spare(self) -> int:
        if self._durable is None:
            self.sync()
        return 1 if self._durable is None or self._durable == 0 else 0

    def _remember(self, target: int, slot: bytes, payload: bytes) -> None:
        if self._seen:
            start = target * STRIDE
            self._seen = b"".join((self._seen[:start], slot, self._seen[start + SLOT_BYTES :]))
            self._payload = payload

    def _slots(self, data: bytes) -> list[tuple[int, bytes, int]]:
        parts = ((0, data[:SLOT_BYTES]), (1, data[STRIDE:]))
        found = [(slot, decode_slot(part, self._kind)) for slot, part in parts]
        return [(state[0], state[1], slot) for slot, state in found if state is not None]
