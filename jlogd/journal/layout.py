"""The directory of a log: where each file is, and the file that is written once.

<spool>/<log>/
  log.json                  format, uuid, creation time; the settings (replaced whole when they change)
  owner                     slots: epoch, host and boot that own the log
  owner.lock                shared: every process that has the log open to write; exclusive: a takeover
  append.lock               exclusive: whoever appends, or recovers
  prune.lock                exclusive: whoever adds or removes a subscriber, or prunes
  head-<epoch>              slots: how far the log goes; one file for each epoch, so that a fenced writer
                            cannot touch that of its successor
  floor                     slots: the lowest sequence number that was not pruned
  <first>-<epoch>.seg       segments
  subscribers/<name>        slots: what the subscriber is done with, and its caps
  subscribers/<name>.lock   exclusive: its one consumer
"""

from __future__ import annotations

import re
import time
import uuid as uuids
from pathlib import Path

import msgspec
from crc32c import crc32c

from jlogd.errors import FormatError, LogNotFound, UnknownVersion, UsageError
from jlogd.journal.disk import Disk, read_all, replace_file
from jlogd.journal.segment import SegmentId
from jlogd.journal.types import Settings

FORMAT = 1
SUBSCRIBERS = "subscribers"
_HEAD = re.compile(r"head-(\d{8})")


class Meta(msgspec.Struct, frozen=True, kw_only=True):
    """The contents of `log.json`. `created` is ns since 1970 UTC; `crc` covers the others."""

    format: int
    uuid: str
    created: int
    settings: Settings
    crc: int = 0


class Layout:
    """Paths of one log's files."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.name = root.name
        self.meta = root / "log.json"
        self.owner = root / "owner"
        self.owner_lock = root / "owner.lock"
        self.append_lock = root / "append.lock"
        self.prune_lock = root / "prune.lock"
        self.floor = root / "floor"
        self.subscribers = root / SUBSCRIBERS

    def head(self, epoch: int) -> Path:
        return self.root / f"head-{epoch:08d}"

    def segment(self, segment: SegmentId) -> Path:
        return self.root / segment.filename

    def subscriber(self, name: str) -> Path:
        return self.subscribers / name

    def subscriber_lock(self, name: str) -> Path:
        return self.subscribers / f"{name}.lock"


def head_epochs(filenames: list[str]) -> list[int]:
    """Epochs that have a head file, ascending."""
    return sorted(int(found[1]) for found in map(_HEAD.fullmatch, filenames) if found)


def new_meta(settings: Settings) -> Meta:
    """What a new log's `log.json` says."""
    return Meta(format=FORMAT, uuid=str(uuids.uuid4()), created=time.time_ns(), settings=settings)


def encode_meta(meta: Meta) -> bytes:
    """The bytes of `log.json`; `crc` is that of the compact JSON with a `crc` of 0."""
    # As it will be read: a number given as 5 where the field is a float comes back as 5.0.
    meta = msgspec.json.decode(msgspec.json.encode(meta), type=Meta)
    crc = crc32c(msgspec.json.encode(msgspec.structs.replace(meta, crc=0)))
    return msgspec.json.format(msgspec.json.encode(msgspec.structs.replace(meta, crc=crc)), indent=2) + b"\n"


def write_meta(disk: Disk, layout: Layout, meta: Meta) -> None:
    """Put `log.json` in place, durably."""
    replace_file(disk, layout.meta, encode_meta(meta))


def read_meta(disk: Disk, layout: Layout) -> Meta:
    """Raises `LogNotFound` when there is no log, `FormatError` when its `log.json` cannot be used."""
    try:
        data = read_all(disk, layout.meta)
    except (FileNotFoundError, NotADirectoryError):
        raise LogNotFound(_no_log(disk, layout.root)) from None
    path, advice = str(layout.meta), see_repair(layout.root)
    try:
        meta = msgspec.json.decode(data, type=Meta)
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, nested too deep, or not these fields
        raise FormatError(f"log.json cannot be read ({error})", path, advice=advice) from error
    except UsageError as error:
        raise FormatError(f"log.json cannot be used ({error})", path, advice=advice) from error
    if crc32c(msgspec.json.encode(msgspec.structs.replace(meta, crc=0))) != meta.crc:
        raise FormatError("log.json fails its checksum; it is not to be edited by hand", path, advice=advice)
    if meta.format != FORMAT:
        raise UnknownVersion(f"log format {meta.format} needs a newer jlogd (this one knows {FORMAT})", path)
    return meta


def without_meta(disk: Disk, root: Path) -> bool:
    """Whether `root` holds segments of a log whose `log.json` is gone."""
    try:
        names = disk.listdir(root)
    except OSError:
        return False
    return Layout(root).meta.name not in names and any(name.endswith(".seg") for name in names)


def see_repair(root: Path) -> str:
    """What to do about a log whose small files cannot be used."""
    return f"see what can be done: jlogctl repair {root} --dry-run"


def no_meta(root: Path) -> str:
    """What is said of a directory that is `without_meta`."""
    return f"{root} holds segments and no log.json; {see_repair(root)}"


def _no_log(disk: Disk, root: Path) -> str:
    if without_meta(disk, root):
        return no_meta(root)
    return f"there is no log at {root}; create one with `jlogctl create {root}`"


def uuid_bytes(meta: Meta) -> bytes:
    """The log's identity as it stands in segment headers."""
    return uuids.UUID(meta.uuid).bytes


def crc_seed(meta: Meta) -> int:
    """Where the checksum of this log's batch headers starts from."""
    return int(crc32c(uuid_bytes(meta)))
