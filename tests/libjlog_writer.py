"""A writer of libjlog directories, from the description of that format alone: it shares nothing with what reads them.

    metastore  storage_log, unit_limit, safety, hdr_magic; pre_commit  used, buffer; cp.<hex>  log, marker
    record     magic, tv_sec, tv_usec, mlen[, compressed_len], body

`>` or `<` is the byte order of the machine it plays.
"""

from __future__ import annotations

import struct
from pathlib import Path

PLAIN = 0x663A7318
LZ4 = 0x15106A01


class OldLog:
    """A log being written. `records` are the complete ones: segment, marker, seconds, data."""

    def __init__(
        self, path: Path, order: str = "<", compressed: bool = False, unit_limit: int = 4 << 20, metastore: int = 16
    ) -> None:
        self.path, self.order, self.compressed = path, order, compressed
        self.unit_limit, self.metastore = unit_limit, metastore
        self.storage_log = 0
        self.marker = 0
        self.records: list[tuple[int, int, int, bytes]] = []
        path.mkdir()
        self._save()

    def message(self, data: bytes, seconds: int = 1_000_000, microseconds: int = 0) -> bytes:
        """The bytes of one record."""
        if not self.compressed:
            return struct.pack(f"{self.order}IIII", PLAIN, seconds, microseconds, len(data)) + data
        from lz4.block import compress

        body = compress(data, store_size=False)
        return struct.pack(f"{self.order}IIIII", LZ4, seconds, microseconds, len(data), len(body)) + body

    def write(self, data: bytes, seconds: int = 1_000_000, microseconds: int = 0) -> tuple[int, int]:
        """Append a record as libjlog does: the segment is rolled after it when it is full then."""
        self.append_raw(self.message(data, seconds, microseconds))
        self.marker += 1
        self.records.append((self.storage_log, self.marker, seconds, data))
        at = self.storage_log, self.marker
        if self.segment().stat().st_size >= self.unit_limit:
            self.roll()
        return at

    def tear(self, data: bytes, keep: int) -> None:
        """A crash in the middle of an append: only the first `keep` bytes of the record are there."""
        self.append_raw(self.message(data)[:keep])

    def append_raw(self, data: bytes) -> None:
        with self.segment().open("ab") as file:
            file.write(data)

    def roll(self) -> None:
        self.storage_log += 1
        self.marker = 0
        self.segment().touch()
        self._save()

    def segment(self, log: int | None = None) -> Path:
        return self.path / f"{self.storage_log if log is None else log:08x}"

    def stage(self, data: bytes, used: int | None = None, size: int = 4096) -> None:
        """Put bytes into the pre-commit buffer."""
        used = len(data) if used is None else used
        (self.path / "pre_commit").write_bytes(struct.pack(f"{self.order}I", used) + data.ljust(size, b"\0"))

    def checkpoint(self, name: str, log: int, marker: int) -> None:
        self.raw_checkpoint(name, struct.pack(f"{self.order}II", log, marker))

    def raw_checkpoint(self, name: str, data: bytes) -> None:
        (self.path / f"cp.{name.encode().hex()}").write_bytes(data)

    def index(self, log: int, offsets: list[int], closed: bool = True) -> None:
        """What readers leave beside a segment."""
        offsets = [*offsets, *([0] if closed else [])]
        (self.path / f"{log:08x}.idx").write_bytes(struct.pack(f"{self.order}{len(offsets)}Q", *offsets))

    def damage(self, log: int, at: int, data: bytes) -> None:
        """Put `data` over what stands at byte `at` of a segment."""
        old = bytearray(self.segment(log).read_bytes())
        old[at : at + len(data)] = data
        self.segment(log).write_bytes(old)

    def _save(self) -> None:
        magic = LZ4 if self.compressed else PLAIN
        data = struct.pack(f"{self.order}IIII", self.storage_log, self.unit_limit, 1, magic)
        (self.path / "metastore").write_bytes(data[: self.metastore])
