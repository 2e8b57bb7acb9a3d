"""The directory of a libjlog log: its files, what their names say, and the byte order they are in.

    metastore        u32 storage_log, unit_limit, safety, hdr_magic       16 bytes; 12, without the last, in old logs
    <8 hex digits>   segments: records back to back, see records.py; storage_log is the one being written
    <...>.idx        offsets of the records of a segment, made by its readers; not needed, not read
    cp.<hex>         u32 log, marker: what the subscriber named by the hex digits has consumed last; 8 bytes
    pre_commit       u32 used, then a buffer with `used` bytes of records that go to the end of the log next

All integers have the byte order of the machine that wrote them; only the magic of the records tells which that is.
Every value is taken with doubt: each of these files may be missing, cut off or stale.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from jlogd.errors import FormatError, LogNotFound
from jlogd.libjlog.records import HEADER_BYTES, LITTLE, ByteOrder, Bytes, magics, order_of

METASTORE = "metastore"
PRE_COMMIT = "pre_commit"
UNIT_LIMIT_DEFAULT = 4 << 20
# libjlog's own limit on a buffer is the machine's memory; a larger file is not one.
PRE_COMMIT_BYTES_MAX = 1 << 30
# Records of a segment are looked for this far when the metastore does not tell the byte order.
_PROBE_BYTES = 1 << 20
_SEGMENT = re.compile(r"[0-9a-f]{8}")
_CHECKPOINT = re.compile(r"cp\.((?:[0-9a-f]{2})*)")
_EPHEMERAL = b"~"
_U32 = {order: struct.Struct(f"{order}I") for order in "<>"}
_CHECKPOINT_BYTES = 8


@dataclass(frozen=True, slots=True)
class Metastore:
    """What the metastore says, as far as it can be read."""

    storage_log: int
    unit_limit: int


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A subscriber and what it has consumed last: the `marker`-th record of segment `log`, none of it for marker 0.

    `problem` says why that is not known; it then stands before the first record.
    """

    name: str
    log: int
    marker: int
    ephemeral: bool = False
    problem: str = ""

    def __str__(self) -> str:
        return f"{self.log:08x}:{self.marker:08x}"


@dataclass(frozen=True, slots=True)
class Staged:
    """What the pre-commit buffer holds, and where libjlog would put it."""

    data: bytes
    log: int
    problem: str = ""


class Directory:
    """A directory written by libjlog, opened for reading. Raises `LogNotFound`, `FormatError` when it is not one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            names = [entry.name for entry in path.iterdir()]
        except (FileNotFoundError, NotADirectoryError):
            raise LogNotFound(f"there is no directory {path}") from None
        self._checkpoints = sorted(filter(_CHECKPOINT.fullmatch, names))
        self.segments = sorted(int(name, 16) for name in names if _SEGMENT.fullmatch(name))
        if METASTORE not in names and not self.segments:
            raise LogNotFound(f"{path} is no log of libjlog: it has neither a metastore nor segments")
        self.order: ByteOrder = self._find_order()
        self.meta = self._read_metastore()

    def open(self, log: int) -> Bytes:
        """The bytes of a segment, as long as it is now. Raises FileNotFoundError."""
        return Bytes.of_file(self.path / f"{log:08x}")

    def missing(self) -> list[tuple[int, int]]:
        """First and last of each run of segments that is not there, between the oldest and the newest."""
        pairs = zip(self.segments, self.segments[1:], strict=False)
        return [(before + 1, after - 1) for before, after in pairs if after - before > 1]

    def checkpoints(self) -> Iterator[Checkpoint]:
        """The subscribers, by name."""
        for filename in self._checkpoints:
            with suppress(FileNotFoundError):  # removed meanwhile
                yield self._checkpoint(filename)

    def staged(self) -> Staged:
        """What waits in the pre-commit buffer."""
        log = max([self.meta.storage_log, *self.segments[-1:]])
        try:
            with open(self.path / PRE_COMMIT, "rb") as file:
                data = file.read(PRE_COMMIT_BYTES_MAX)
        except FileNotFoundError:
            return Staged(b"", log)
        used = _U32[self.order].unpack_from(data)[0] if len(data) >= 4 else 0
        problem = ""
        if used > len(data) - 4 and used:
            problem = f"the buffer says it holds {used} bytes, and has {len(data) - 4}"
        staged = data[4 : 4 + used]
        if staged and self._ends_in(staged):
            # Written before a crash, and not forgotten here; or the same records once more. libjlog writes them again.
            problem = f"its {len(staged)} bytes are the end of the log as well; its records are taken again"
        with suppress(FileNotFoundError):
            # A segment that is full gets a successor before the buffer is written.
            log += self.open(log).size >= self.meta.unit_limit
        return Staged(staged, log, problem)

    def _ends_in(self, staged: bytes) -> bool:
        """Whether the log ends in what the buffer holds."""
        for log in reversed(self.segments):
            data = self.open(log)
            if data.size:
                return data.size >= len(staged) and data.read(data.size - len(staged), len(staged)) == staged
        return False

    def _checkpoint(self, filename: str) -> Checkpoint:
        found = _CHECKPOINT.fullmatch(filename)
        assert found is not None, filename
        raw = bytes.fromhex(found[1])
        name, ephemeral = raw.decode(errors="backslashreplace"), raw.startswith(_EPHEMERAL)
        with open(self.path / filename, "rb") as file:
            data = file.read(_CHECKPOINT_BYTES)
        if len(data) < _CHECKPOINT_BYTES:
            return Checkpoint(name, 0, 0, ephemeral, f"its checkpoint has {len(data)} bytes, not {_CHECKPOINT_BYTES}")
        log, marker = struct.unpack(f"{self.order}II", data)
        return Checkpoint(name, log, marker, ephemeral)

    def _read_metastore(self) -> Metastore:
        data = self._metastore_bytes()
        newest = self.segments[-1] if self.segments else 0
        if len(data) < 12:
            return Metastore(newest, UNIT_LIMIT_DEFAULT)
        storage_log, unit_limit = struct.unpack_from(f"{self.order}II", data)
        # libjlog itself repairs a metastore that names another segment than the last one.
        return Metastore(storage_log if storage_log <= newest + 1 else newest, unit_limit or UNIT_LIMIT_DEFAULT)

    def _metastore_bytes(self) -> bytes:
        with suppress(FileNotFoundError), open(self.path / METASTORE, "rb") as file:
            return file.read(16)
        return b""

    def _find_order(self) -> ByteOrder:
        """From the records, which do not change; from the metastore when there are none."""
        for log in self.segments:
            with suppress(FileNotFoundError):
                found = order_of(self.open(log).read(0, _PROBE_BYTES))
                if found:
                    return found
        with suppress(FileNotFoundError), open(self.path / PRE_COMMIT, "rb") as file:
            found = order_of(file.read(_PROBE_BYTES)[4:])
            if found:
                return found
        data = self._metastore_bytes()
        for order in magics():
            if data[12:16] in magics()[order]:
                return order
        if any(self._size(log) >= HEADER_BYTES for log in self.segments):
            raise FormatError("no segment holds a record of libjlog", str(self.path))
        return self._guess_order(data)

    def _guess_order(self, data: bytes) -> ByteOrder:
        """An empty log with an old metastore: small numbers read small in the right order."""
        if len(data) < 8:
            return LITTLE
        return min(magics(), key=lambda order: struct.unpack_from(f"{order}I", data, 4))

    def _size(self, log: int) -> int:
        with suppress(FileNotFoundError):
            return self.open(log).size
        return 0
