"""The ledger: what of which source is in which file, in one LMDB environment, one synced transaction a round.

    sources   NODE/LOG/SUBSCRIBER -> SourceState     how far a log was pulled, and its last batch, to know it again
    files     PATH                -> FileState       a file that was written: inode, length, checksum, counts
    parts     TARGET              -> number          which part of a path is written now: PATH, PATH.part2, ...
    asides    SIDE FILE           -> Aside           what stood behind the recorded end of a file after a crash
    about                                            version of this form

A file that is no more at its path is kept under PATH#INODE-TIME. Values are msgpack arrays: fields may be added at
their end. LMDB is for local disks only, as its own documentation demands: a ledger on a network mount is refused.

One process at a time has the ledger to write, by the lock file beside it; any may read. The manager's round thread
writes; others open the environment for themselves.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import lmdb
import msgspec

from jlogd.errors import FormatError, JlogError, LogInUse, UnknownVersion, UsageError
from jlogd.journal.locks import FileLock, LockBusy, acquire, holder_note

VERSION = b"1"
# What LMDB calls its file.
DATA = "data.mdb"
# Address space, not memory or disk; it is doubled when it is full.
MAP_BYTES = 1 << 30
# Readers of other processes: `jlogctl manager status` and `verify`.
READERS_MAX = 64
# The longest key of LMDB; template.py keeps paths below it.
KEY_BYTES_MAX = 511
Status = Literal["live", "left", "moved", "compressed"]


class SourceState(msgspec.Struct, array_like=True, frozen=True):
    """How far one log of one node was pulled. Records and bytes are those written, `lost` those that gaps named.

    `since` is the first record after the last time the log began anew or elsewhere (0: it never did, or an older
    version did not write it down). `last_*` describe the last batch: whoever has another one at that place is not the
    log this was pulled from.
    """

    uuid: str
    next: int
    start: int
    epoch: int = 0
    last_first: int = 0
    last_count: int = 0
    last_crc: int = 0
    last_time: int = 0
    records: int = 0
    bytes: int = 0
    lost: int = 0
    restarts: int = 0
    output: str = "files"
    since: int = 0


class FileState(msgspec.Struct, array_like=True, frozen=True):
    """One text file. `crc` is the CRC-32C of all its bytes, `lines` their newlines; `open`: it may be longer than
    `length` after a crash, by what was not committed. `sources` counts records written and records lost by source.

    `until`: when the date in its path is over (seconds since 1970), 0 for never. `status`: live; left (someone else
    changed it, it is not written any more); moved (not at its path any more); compressed (its contents are in
    PATH.zst).
    """

    target: str
    inode: int
    length: int = 0
    crc: int = 0
    lines: int = 0
    open: bool = True
    status: Status = "live"
    made: int = 0
    written: int = 0
    sources: dict[str, tuple[int, int]] = {}
    until: int = 0


class Aside(msgspec.Struct, array_like=True, frozen=True):
    """What was taken out of a file after a crash: the `size` bytes behind its first `at` ones, in a file of their own.

    `path`, `target` and `inode` are those of the file, `made` when that was (seconds since 1970).
    """

    path: str
    target: str
    inode: int
    at: int
    size: int
    made: int = 0


@dataclass(slots=True)
class Changes:
    """What one transaction writes; an `aside` that is None is taken away."""

    sources: dict[str, SourceState] = field(default_factory=dict)
    files: dict[str, FileState] = field(default_factory=dict)
    parts: dict[str, int] = field(default_factory=dict)
    asides: dict[str, Aside | None] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.sources or self.files or self.parts or self.asides)


class Ledger(Protocol):
    """What the outputs and rounds need of it."""

    def source(self, key: str) -> SourceState | None:
        """How far a source was pulled."""

    def file(self, path: str) -> FileState | None:
        """What is known of a file."""

    def part(self, target: str) -> int:
        """The part of a path that is written now, from 1."""

    def all_files(self) -> Iterator[tuple[str, FileState]]:
        """Every file, by path, as they are at one moment. From any thread."""

    def all_asides(self) -> dict[str, Aside]:
        """What was set aside, by side file."""

    def commit(self, changes: Changes) -> None:
        """Write all of it or nothing, durably. Raises `LedgerFailed` when it is not known which."""


class LedgerFailed(JlogError):
    """The ledger could not be written or read; nothing more is done until it can."""

    code = "ledger-failed"


class LmdbLedger:
    """The real one."""

    def __init__(self, directory: Path, *, write: bool = True, map_bytes: int = MAP_BYTES) -> None:
        """Raises `LogInUse` when another process writes it, `UsageError` on a network mount, `LedgerFailed`."""
        self.directory = directory
        self._lock: FileLock | None = None
        self._map_bytes = map_bytes
        if write:
            self._lock = _take(directory)
        try:
            self._env = self._open(write)
        except BaseException:
            self._release()
            raise

    def source(self, key: str) -> SourceState | None:
        return cast(SourceState | None, self._get(self._sources, key, SourceState))

    def file(self, path: str) -> FileState | None:
        return cast(FileState | None, self._get(self._files, path, FileState))

    def part(self, target: str) -> int:
        with self._guarded(), self._env.begin(db=self._parts) as transaction:
            found = transaction.get(_key(target))
        return int(found) if found else 1

    def all_files(self) -> Iterator[tuple[str, FileState]]:
        with self._guarded(), self._env.begin() as transaction:
            for key, value in self._items(transaction, self._files):
                yield key, self._decode(value, FileState)

    def all_asides(self) -> dict[str, Aside]:
        if self._asides is None:
            return {}
        with self._guarded(), self._env.begin() as transaction:
            return {key: self._decode(value, Aside) for key, value in self._items(transaction, self._asides)}

    def snapshot(self) -> tuple[dict[str, SourceState], dict[str, FileState]]:
        """All sources and all files, of one moment."""
        with self._guarded(), self._env.begin() as transaction:
            return (
                {key: self._decode(value, SourceState) for key, value in self._items(transaction, self._sources)},
                {key: self._decode(value, FileState) for key, value in self._items(transaction, self._files)},
            )

    @staticmethod
    def _items(transaction: Any, table: Any) -> Iterator[tuple[str, bytes]]:
        with transaction.cursor(db=table) as cursor:
            for key, value in cursor:
                yield key.decode(errors="surrogateescape"), value

    def commit(self, changes: Changes) -> None:
        if not changes:
            return
        try:
            self._commit(changes)
        except lmdb.MapFullError:
            self._map_bytes = 2 * self._env.info()["map_size"]
            self._env.set_mapsize(self._map_bytes)
            self.commit(changes)
        except lmdb.Error as error:
            raise LedgerFailed(
                f"the ledger in {self.directory} cannot be written: {error}; nothing more is pulled until it can"
            ) from error

    def reopen(self) -> None:
        """Open it anew after a failure, to learn what is durable. Raises `LedgerFailed`."""
        self._env.close()
        self._env = self._open(write=True)

    def removed(self) -> bool:
        """Whether its file was taken away under us: what is committed now is gone when this process ends."""
        try:
            return (self.directory / DATA).stat().st_ino != self._inode
        except OSError:
            return True

    def close(self) -> None:
        self._env.close()
        self._release()

    # ---- inside ----------------------------------------------------------------------------------------------------

    def _open(self, write: bool) -> Any:
        if not write and not (self.directory / DATA).exists():
            raise UsageError(f"there is no ledger in {self.directory}; has a manager run with this configuration?")
        try:
            env = lmdb.open(
                str(self.directory), map_size=self._map_bytes, max_dbs=5, max_readers=READERS_MAX, readonly=not write,
                mode=0o640, readahead=False,
            )  # fmt: skip
            self._sources, self._files, self._parts, about = (
                env.open_db(name, create=write) for name in (b"sources", b"files", b"parts", b"about")
            )
            self._asides = None
            with suppress(lmdb.NotFoundError):  # an older version, which has none, wrote it
                self._asides = env.open_db(b"asides", create=write)
            with env.begin(db=about, write=write) as transaction:
                version = transaction.get(b"version")
                if version is None and write:
                    transaction.put(b"version", VERSION)
        except lmdb.Error as error:
            raise LedgerFailed(f"the ledger in {self.directory} cannot be opened: {error}") from error
        if version not in (None, VERSION):
            env.close()
            raise UnknownVersion(f"the ledger is of version {version!r}: upgrade jlogd", str(self.directory))
        self._inode = (self.directory / DATA).stat().st_ino
        return env

    def _commit(self, changes: Changes) -> None:
        encode = msgspec.msgpack.encode
        with self._env.begin(write=True) as transaction:
            for name, source in changes.sources.items():
                transaction.put(_key(name), encode(source), db=self._sources)
            for name, file in changes.files.items():
                transaction.put(_key(name), encode(file), db=self._files)
            for name, part in changes.parts.items():
                transaction.put(_key(name), b"%d" % part, db=self._parts)
            for name, aside in changes.asides.items():
                if aside is None:
                    transaction.delete(_key(name), db=self._asides)
                else:
                    transaction.put(_key(name), encode(aside), db=self._asides)

    def _get(self, table: Any, key: str, kind: type[Any]) -> Any:
        with self._guarded(), self._env.begin(db=table) as transaction:
            found = transaction.get(_key(key))
        return None if found is None else self._decode(found, kind)

    def _decode(self, data: bytes, kind: type[Any]) -> Any:
        try:
            return msgspec.msgpack.decode(data, type=kind)
        except ValueError as error:
            raise FormatError(
                f"the ledger holds what this version cannot read ({error})", str(self.directory)
            ) from None

    def _guarded(self) -> _Guard:
        return _Guard(self.directory)

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None


class _Guard:
    """Errors of LMDB as `LedgerFailed`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def __enter__(self) -> None:
        return

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, lmdb.Error):
            raise LedgerFailed(f"the ledger in {self._directory} cannot be read: {error}") from error


def _key(text: str) -> bytes:
    return text.encode(errors="surrogateescape")


def _take(directory: Path) -> FileLock:
    """The ledger to oneself."""
    try:
        directory.mkdir(mode=0o750, parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot make {directory}: {error.strerror}; choose another [node] state") from None
    _check_local(directory)
    try:
        return acquire(directory / "lock", shared=False, wait=False, note=holder_note())
    except LockBusy as busy:
        raise LogInUse(
            f"the ledger in {directory} is in use by {busy.note or 'another process'}: another jlogd uses it, a "
            "manager or a node that writes text; give each one a [node] state of its own"
        ) from None


def _check_local(directory: Path) -> None:
    """Raises UsageError on a mount that is shared with other machines."""
    kind = ""
    with suppress(OSError):
        best = ""
        for line in Path("/proc/self/mounts").read_text().splitlines():
            _, mount, found, *_ = line.split(" ")
            place = mount.encode().decode("unicode_escape")
            if os.path.commonpath((place, directory.resolve())) == place and len(place) >= len(best):
                best, kind = place, found
    if kind.startswith(("nfs", "cifs", "smb", "fuse.", "ceph", "gfs2", "ocfs2", "lustre", "9p")):
        raise UsageError(
            f"{directory} is on a {kind} mount: a ledger must be on a local disk; set [node] state to such a directory"
        )


def counts(files: Mapping[str, FileState]) -> dict[str, tuple[int, int]]:
    """Records written and lost of each source, over all files."""
    found: dict[str, tuple[int, int]] = {}
    for state in files.values():
        for source, (records, lost) in state.sources.items():
            before = found.get(source, (0, 0))
            found[source] = before[0] + records, before[1] + lost
    return found
