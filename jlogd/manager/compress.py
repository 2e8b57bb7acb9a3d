"""Closed files, compressed: those whose date is over, and that nothing was written to for a while.

    1  PATH is read, its checksum compared with the ledger's, and written to PATH.zst.new        (a thread of its own)
    2  synced, renamed to PATH.zst, the directory synced
    3  the ledger says `compressed`, unless PATH was written to meanwhile                        (thread of the rounds)
    4  PATH is removed

A crash between two steps leaves both files or the old one; the next look goes on. Records that come late go into
PATH.part2, which is compressed in its turn. A PATH.zst that is there already is taken when it holds the same bytes, and
otherwise left alone, and PATH too. PATH.zst has the mode of PATH.

One compressor is for all outputs of a ledger: two would take each other's files.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import suppress

import msgspec
import zstandard
from crc32c import crc32c

from jlogd.manager.ledger import Changes, FileState, Ledger
from jlogd.manager.store import Store, TextFile

_log = logging.getLogger("jlogd.manager")

# What comes late comes within this time, most of the time.
GRACE_SECONDS = 3600.0
# How often closed files are looked for, and how many are compressed then.
LOOK_SECONDS = 300.0
FILES_A_LOOK = 1000
# 3 is zstd's own choice: about 8:1 on logs at some hundred MB/s.
LEVEL = 3
READ_BYTES = 1 << 20

Run = Callable[[Callable[[], None]], object]


class Compressor:
    """See the module's text. `watch` and `step` belong to the thread of the rounds."""

    def __init__(self, store: Store, ledger: Ledger, run: Run) -> None:
        """`run` does something now or in another thread."""
        self._store = store
        self._ledger = ledger
        self._run = run
        self._watched: list[Callable[[str], bool]] = []
        self._ended = False
        self._looked = float("-inf")
        self._busy = False
        self._done: list[tuple[str, FileState]] = []
        self._refused: set[str] = set()  # these are not what was written, or have a namesake
        self._failed: set[str] = set()  # these could not be compressed; it is said once, and tried again

    def watch(self, is_open: Callable[[str], bool]) -> None:
        """Leave alone what this says is being written to."""
        self._watched.append(is_open)

    def stop(self) -> None:
        """Begin with no further file. From any thread."""
        self._ended = True

    def step(self, now: float) -> Changes:
        """What the ledger is to remember of what was done; begins more when it is time. `now` is seconds since 1970."""
        changes = Changes()
        if self._busy:
            return changes
        done, self._done = self._done, []
        for path, state in done:
            if self._ledger.file(path) == state and not any(is_open(path) for is_open in self._watched):
                changes.files[path] = msgspec.structs.replace(state, status="compressed")
        if not done and now - self._looked >= LOOK_SECONDS:
            self._looked = now
            self._busy = True
            self._run(lambda: self._work(now))
        elif done:
            self._looked = float("-inf")  # the next step removes what these were made from
        return changes

    # ---- in a thread of its own ------------------------------------------------------------------------------------

    def _work(self, now: float) -> None:
        """Remove what was compressed, and compress what is closed."""
        try:
            closed: list[tuple[str, FileState]] = []
            for path, state in self._ledger.all_files():
                if state.status == "compressed":
                    self._remove(path, state)
                elif self._is_closed(path, state, now) and len(closed) < FILES_A_LOOK:
                    closed.append((path, state))
            for path, state in closed:
                if self._ended:
                    break
                self._tried(path, state)
        except Exception:  # the rounds go on whatever becomes of this
            _log.exception("compressing closed files")
        finally:
            self._busy = False

    def _is_closed(self, path: str, state: FileState, now: float) -> bool:
        over = 0 < state.until < now - GRACE_SECONDS and state.written < now - GRACE_SECONDS
        return over and state.status == "live" and not state.open and path not in self._refused

    def _remove(self, path: str, state: FileState) -> None:
        if self._store.identity(path) == state.inode and self._is_unchanged(path, state):
            with suppress(FileNotFoundError):
                self._store.unlink(path)
            self._store.sync_dir(os.path.dirname(path))

    def _is_unchanged(self, path: str, state: FileState) -> bool:
        """Whether a file is still what was compressed: an inode may be given to another file, and someone may have
        written to it meanwhile."""
        try:
            file = self._store.open(path)
        except OSError:
            return False
        try:
            crc = 0
            if file.size() != state.length:
                return False
            for piece in _pieces(file, state.length):
                crc = crc32c(piece, crc)
            return crc == state.crc
        finally:
            file.close()

    def _tried(self, path: str, state: FileState) -> None:
        try:
            if self._compress(path, state):
                self._done.append((path, state))
                self._failed.discard(path)
                return
        except (OSError, zstandard.ZstdError) as error:
            with suppress(OSError):  # on a full disk, the beginning of it takes room
                self._store.unlink(f"{path}.zst.new")
            if path not in self._failed:
                self._failed.add(path)
                _log.warning("%s is not compressed yet: %s", path, error)
            return
        self._refused.add(path)

    def _compress(self, path: str, state: FileState) -> bool:
        """Make PATH.zst; whether it is there and right."""
        target, beside = f"{path}.zst", f"{path}.zst.new"
        if self._store.identity(target) is not None:
            same = self._holds(target, state)
            if not same:
                _log.warning("%s is not compressed: %s is there and holds something else", path, target)
            return same
        if self._store.identity(path) != state.inode:
            return False
        with suppress(FileNotFoundError):
            self._store.unlink(beside)
        source = self._store.open(path)
        try:
            made = self._store.create(beside, source.mode())
            try:
                if source.size() != state.length or _copy(source, made, state.length) != state.crc:
                    _log.warning("%s is not compressed: it is not what was written", path)
                    self._store.unlink(beside)
                    return False
                made.sync()
            finally:
                made.close()
        finally:
            source.close()
        self._store.rename(beside, target)
        self._store.sync_dir(os.path.dirname(path))
        return True

    def _holds(self, path: str, state: FileState) -> bool:
        file = self._store.open(path)
        try:
            crc = length = 0
            decompressor = zstandard.ZstdDecompressor().decompressobj()
            for piece in _pieces(file, file.size()):
                text = decompressor.decompress(piece)
                crc, length = crc32c(text, crc), length + len(text)
            return (crc, length) == (state.crc, state.length)
        finally:
            file.close()


def _copy(source: TextFile, target: TextFile, length: int) -> int:
    """Compress the contents of a file into another one; their checksum."""
    crc = 0
    compressor = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True).compressobj(size=length)
    for piece in _pieces(source, length):
        crc = crc32c(piece, crc)
        _append(target, compressor.compress(piece))
    _append(target, compressor.flush())
    return crc


def _append(file: TextFile, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[file.append([view]) :]


def _pieces(file: TextFile, length: int) -> Iterator[bytes]:
    at = 0
    while at < length and (piece := file.pread(min(READ_BYTES, length - at), at)):
        at += len(piece)
        yield piece
