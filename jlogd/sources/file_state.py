"""What is remembered of followed files: which file it was, and under which name the log knows how far it was read.

How far a file was read is known by the log itself: each file incarnation is a named producer whose positions are byte
offsets in the file, and the log tells the offset after the last batch it accepted. What has to be kept beside the log
is only which file on disk is which producer. This is a small JSON file, `<directory>/<source>.files.json`:

    {"version": 1, "files": [{"producer": "file:app:6f1c...", "path": "/var/log/app.log", "device": 2049, "inode": 131,
      "first_bytes": 71, "first_hash": "...", "tail_at": 8192, "tail_bytes": 1024, "tail_hash": "...",
      "begin": 0, "position": 8192, "retired_at": 0}]}

A file is the one remembered when its first line (up to 1 KiB of it) and the `tail_bytes` before offset `tail_at` have
the same hashes, and it is not shorter than what the log has. `position` was in the log when this was written; it is
used only when the log has forgotten the producer. `retired_at` (seconds since 1970) marks a file let go while it
still existed: it is recognised when it comes back. A path that is no UTF-8, which JSON cannot hold, is kept in
`path_base64`, and `path` then shows it with the wrong bytes replaced.

The file is replaced whole (temporary, sync, rename, sync of the directory), and always before the first batch of a new
producer is sent. When it is lost, all files are read again from their beginning: twice, but not never.

Locking: none; one source uses one file, from one thread.
"""

from __future__ import annotations

import base64
import hashlib
import os
import secrets
from pathlib import Path

import msgspec

from jlogd.errors import FormatError
from jlogd.journal.disk import PosixDisk, replace_file

VERSION = 1
# Enough of a log line (a time stamp, a host, a few words) to tell two files apart.
FIRST_BYTES_MAX = 1024
TAIL_BYTES_MAX = 1024


class FileRecord(msgspec.Struct, kw_only=True):
    """One incarnation of a file; see the module's text."""

    producer: str
    path: str  # as Python has it, with surrogates for what is no UTF-8
    device: int
    inode: int
    first_bytes: int
    first_hash: str
    tail_at: int = 0
    tail_bytes: int = 0
    tail_hash: str = ""
    begin: int = 0
    position: int = 0
    retired_at: float = 0.0
    path_base64: str = ""  # in the JSON file only

    @property
    def key(self) -> tuple[int, int]:
        """Device and inode."""
        return (self.device, self.inode)

    def matches(self, fd: int, size: int, position: int) -> bool:
        """Whether the open file of `size` bytes is this incarnation, read up to `position`."""
        if size < max(self.tail_at, position, self.first_bytes):
            return False
        if digest(os.pread(fd, self.first_bytes, 0)) != self.first_hash:
            return False
        return not self.tail_bytes or self.tail_is(os.pread(fd, self.tail_bytes, self.tail_at - self.tail_bytes))

    def tail_is(self, data: bytes) -> bool:
        """Whether `data` are the remembered last bytes."""
        return digest(data) == self.tail_hash

    def remember_tail(self, at: int, data: bytes) -> None:
        """`data` ends at offset `at`."""
        tail = data[-TAIL_BYTES_MAX:]
        self.tail_at, self.tail_bytes, self.tail_hash = at, len(tail), digest(tail)


def _stored(record: FileRecord) -> FileRecord:
    """The record with a path that JSON can hold."""
    raw = os.fsencode(record.path)
    shown = raw.decode("utf-8", "replace")
    if shown == record.path:
        return record
    return msgspec.structs.replace(record, path=shown, path_base64=base64.b64encode(raw).decode())


def _loaded(record: FileRecord) -> FileRecord:
    """What `_stored` was given."""
    if not record.path_base64:
        return record
    return msgspec.structs.replace(record, path=os.fsdecode(base64.b64decode(record.path_base64)), path_base64="")


class _State(msgspec.Struct, kw_only=True):
    version: int
    files: list[FileRecord]


def digest(data: bytes) -> str:
    """A hash of a few bytes; 128 bits, so two files never share it by chance."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def first_line(fd: int) -> bytes:
    """The beginning of a file that tells it apart: its first line, or 1 KiB of it; empty while that is not complete."""
    data = os.pread(fd, FIRST_BYTES_MAX, 0)
    end = data.find(b"\n")
    if end >= 0:
        return data[: end + 1]
    return data if len(data) == FIRST_BYTES_MAX else b""


def producer_name(source: str) -> str:
    """A name no other incarnation has."""
    return f"file:{source}:{secrets.token_hex(8)}"


class StateFile:
    """The JSON file; `known` tells whether there was one at `load`."""

    def __init__(self, directory: Path, source: str) -> None:
        self.path = directory / f"{source}.files.json"
        self.known = False
        self._disk = PosixDisk()

    def load(self) -> list[FileRecord]:
        """What was saved last; nothing on the first run. Raises `FormatError` when it cannot be understood."""
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return []
        try:
            state = msgspec.json.decode(data, type=_State)
            files = [_loaded(record) for record in state.files]
        except (msgspec.DecodeError, ValueError) as error:
            raise self._unreadable(str(error)) from error
        if state.version != VERSION:
            raise self._unreadable(f"it is of version {state.version}, and {VERSION} is known")
        self.known = True
        return files

    def save(self, files: list[FileRecord]) -> None:
        """Replace what was saved. Raises OSError; the old contents are still there then."""
        state = _State(version=VERSION, files=[_stored(record) for record in files])
        replace_file(self._disk, self.path, msgspec.json.encode(state))
        self.known = True

    def _unreadable(self, reason: str) -> FormatError:
        return FormatError(
            f"the positions of followed files cannot be read ({reason}); move the file away to read all files "
            "again from their beginning, which repeats their lines",
            str(self.path),
        )
