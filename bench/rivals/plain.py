"""The limit: the same bytes, in the same sizes, by `write` and `fdatasync`. Nothing that promises durability beats it
unless it puts several batches under one sync.

The bytes of a batch are joined beforehand, untimed: this is the limit of the disk, not of a program. Four producers are
four processes appending to one file. Blocks allocated ahead (fallocate) save a third of the time of a 100-byte append
and none of a 100 KB one; blocks written with zeros ahead save half of that one too, and write everything twice. Neither
is what `write` to a growing file does; SQLite's log, which is overwritten in place, does it, and so passes this limit
with small batches.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import ClassVar

from bench.rivals.base import Producer, Records, Shape, System


class PlainFile(System):
    """Bytes in a file."""

    key, label, durability = "limit", "write + fdatasync", "fdatasync"
    streams: ClassVar[bool] = True

    def missing(self) -> str:
        return ""

    def version(self) -> str:
        return f"Linux {platform.release()}"

    def setup(self, directory: Path, shape: Shape) -> None:
        self.directory = directory

    def connect(self, shape: Shape) -> Producer:
        return _PlainProducer(self.directory / "plain.log")

    def read_all(self) -> int:
        return len((self.directory / "plain.log").read_bytes().splitlines())


class _PlainProducer(Producer):
    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)

    def prepare(self, records: Records) -> bytes:
        return b"\n".join(records) + b"\n"

    def append(self, payload: bytes) -> None:
        view = memoryview(payload)
        while view:
            view = view[os.write(self.fd, view) :]
        os.fdatasync(self.fd)

    def submit(self, payload: bytes) -> None:
        self.append(payload)

    def drain(self) -> None:
        """Each batch was durable when it was submitted."""

    def close(self) -> None:
        os.close(self.fd)
