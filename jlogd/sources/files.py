"""Files followed by globs over rotation, each line exactly once.

Every file incarnation is a named producer of the log; its positions are byte offsets in the file. The log drops what
it has accepted before and tells where to go on, so neither a crash of this process nor of the machine repeats or
loses a line (see `file_state` for the small file that says which file is which).

What happens to a file, and what becomes of it here:

    renamed, another one created   followed to its end whatever its name; let go when the globs do not match it and
                                   nothing was added for `rotated_wait`; an unfinished last line is then taken as it is
    renamed while we were down     found by its inode in its directory
    deleted                        read to its end, as long as it was open here
    copied and truncated           when the globs match the copy, it takes the place of the original at the same offset;
                                   what was read before the truncation is safe in any case
    deleted, inode used again      a new incarnation, told by its first line and by the bytes before our position
    gone and come back             recognised for a day

Not promised: a file truncated and grown again to the very same first line and the very same bytes before our position
looks untouched; what was appended between our last look and a truncation is only in the copy; a file that appears and
vanishes between two looks (a second apart) is never seen.

Limits: `open_max` files are open at a time (those with a name and nothing to read are closed first, and looked at
once a second), FILES_MAX files are followed. Files are polled: at once while there is something to read, then ever
more rarely until IDLE_S_MAX.

Counters: messages, bytes, files (followed now), files_open, begun, oversized, truncated, released (let go), skipped
(over FILES_MAX), state_errors (identities could not be saved: new files wait).

Locking: none; everything but the counters is touched by the source's thread only.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from jlogd.errors import DiskFailed, JlogError, SpoolFull
from jlogd.journal.batch import Batch
from jlogd.sources.base import BatchWriter, Source
from jlogd.sources.config import FileSource
from jlogd.sources.file_find import FILES_MAX, Found, Key, find, paths_of_inode
from jlogd.sources.file_state import FileRecord, StateFile, digest, first_line
from jlogd.sources.followed import Followed, Replaced

log = logging.getLogger("jlogd.sources")

COUNTERS = (
    "messages", "bytes", "files", "files_open", "begun", "oversized", "truncated", "released", "skipped",
    "state_errors",
)  # fmt: skip
SCAN_S = 1.0
# The state file is only a help after a crash, except for new files, which are saved at once.
SAVE_S = 5.0
IDLE_S_MIN = 0.01
IDLE_S_MAX = 0.25
# Blocks read of one file before the next one has its turn.
BLOCKS_PER_TURN = 16
RETIRED_S = 86400
RETIRED_MAX = 4096


class _NoAnswer(JlogError):
    """The log cannot say now how far it has a file: its disk is full or fails. Everything waits."""


class FileFollower(Source):
    """Follows files as `config` says.

    `directory` keeps the state file; `positions` tells up to where the log has a producer
    (`Log.producer_position`).
    """

    def __init__(
        self, config: FileSource, directory: Path | str, positions: Callable[[str], int | None], name: str = ""
    ) -> None:
        super().__init__(name or config.name or "files", COUNTERS)
        self.config = config
        self._state = StateFile(Path(directory), self.name)
        self._positions = positions
        self._files: dict[Key, Followed] = {}
        self._open_files: dict[Key, Followed] = {}  # least recently read first
        self._orphans: list[Followed] = []  # their file is not what it was; for the rest of one scan
        self._retired: dict[Key, FileRecord] = {}
        self._first_scan_at_end = False
        self._dirty = False
        self._next_scan = 0.0
        self._next_save = 0.0
        self._told: dict[str, str] = {}  # what was said last of a file that cannot be read, or of the log under ""

    def _open(self, writer: BatchWriter) -> None:
        self.load()

    def _run(self, writer: BatchWriter) -> None:
        idle = IDLE_S_MIN
        while not self._stopping.is_set():
            if self.step(writer, time.monotonic()):
                idle = IDLE_S_MIN
            else:
                self._stopping.wait(idle)
                idle = min(idle * 2, IDLE_S_MAX)
        writer.flush(max(0.0, self._stop_by - time.monotonic()))
        self._save()

    def _close(self) -> None:
        for followed in [*self._files.values(), *self._orphans]:
            followed.close()

    def load(self) -> None:
        """Read the state file. Raises `FormatError` when it cannot be understood."""
        for record in self._state.load():
            if record.retired_at:
                self._retired[record.key] = record
                continue
            followed = self._remembered(record)
            if record.key in self._files:  # saved while we looked what had become of the first one
                self._orphan(self._files[record.key])
            self._files[record.key] = followed
        self._first_scan_at_end = self.config.start == "end" and not self._state.known

    def step(self, writer: BatchWriter, now: float) -> bool:
        """Look once at everything that is due at `now` (monotonic seconds); whether anything was read."""
        try:
            busy = self._step(writer, now)
        except _NoAnswer as error:
            self._say("", "how far files were read cannot be told", error)
            return False
        self._told.pop("", None)
        return busy

    def _step(self, writer: BatchWriter, now: float) -> bool:
        if now >= self._next_scan:
            self._scan(writer, now)
        busy = False
        for followed in list(self._open_files.values()):
            if followed.saved and followed.record is not None:
                busy |= self._read(writer, followed, now)
        if self._orphans:
            self._scan(writer, now)
            busy = True
        for followed in list(self._open_files.values()):
            if followed.nameless_since is not None and now - followed.nameless_since >= self.config.rotated_wait:
                with self._spared(followed):
                    busy |= self._finish(writer, followed, now)
        if self._dirty and now >= self._next_save:
            self._save()
            self._next_save = now + SAVE_S
        self._counters["files"], self._counters["files_open"] = len(self._files), len(self._open_files)
        return busy

    # Reading

    def _read(self, writer: BatchWriter, followed: Followed, now: float) -> bool:
        """Send up to BLOCKS_PER_TURN blocks; whether there was anything."""
        for turn in range(BLOCKS_PER_TURN):
            if not self._may_send(followed):
                return turn > 0
            try:
                batch = followed.next_batch(self.config.line_bytes_max)
            except Replaced:
                self._orphan(followed)
                return turn > 0
            except OSError as error:
                self._say(followed.path, f"cannot read {followed.path}", error)
                self._shut(followed)
                return turn > 0
            if batch is None:
                return turn > 0
            self._send(writer, followed, batch)
            self._open_files[followed.key] = self._open_files.pop(followed.key)
            if followed.nameless_since is not None:
                followed.nameless_since = now
        return True

    def _may_send(self, followed: Followed) -> bool:
        """Whether the log is sure to take the next batch of this file after the one before.

        A producer that the log does not know may start anywhere: were its first batch refused and the second accepted,
        the first would be lost for ever. So the first one travels alone.
        """
        if followed.sent and not followed.heard and followed.record is not None:
            followed.heard = self._position(followed.record.producer) is not None
        return followed.heard or not followed.sent

    def _send(self, writer: BatchWriter, followed: Followed, batch: Batch) -> None:
        writer.send(batch)
        followed.taken(batch)
        self._told.pop(followed.path, None)
        self._counters["messages"] += batch.count
        self._counters["bytes"] += batch.raw_bytes - (batch.count - 1)
        self._counters["oversized"] += followed.oversized
        followed.oversized = 0
        self._dirty = True

    def _finish(self, writer: BatchWriter, followed: Followed, now: float) -> bool:
        """The file has had no name for long enough: take its last line as it is, and let it go."""
        if followed.record is None:
            if not followed.size_now():
                self._orphan(followed)
                return False
            followed.begin(self.name, at_end=False, limit=self.config.line_bytes_max, whole=True)
            self._counters["begun"] += 1
            self._save()
        if not followed.saved:
            return False
        while self._read(writer, followed, now):
            followed.nameless_since = now - self.config.rotated_wait
        if followed.fd < 0 or followed in self._orphans:
            return True
        assert followed.record is not None
        if self._durable(followed.record) < followed.position:
            return False  # were we killed now, what is under way would have to be read again
        try:
            batch = followed.last_batch(self.config.line_bytes_max)
        except Replaced:
            self._orphan(followed)
            return True
        if batch is not None:
            self._send(writer, followed, batch)
            return True
        self._let_go(followed, still_there=os.fstat(followed.fd).st_nlink > 0)
        return True

    # Looking for files

    def _scan(self, writer: BatchWriter, now: float) -> None:
        """Match the files on disk with those we know; see the module's text."""
        self._next_scan = now + SCAN_S
        found, self._counters["skipped"] = find(self.config.paths, self.config.exclude)
        self._look_at_known(writer, found, now)
        for followed in [followed for followed in self._open_files.values() if followed.record is None]:
            with self._spared(followed):
                self._try_begin(followed, now)
        for key, (path, status) in found.items():
            if key not in self._files and status.st_size:
                self._discover(key, path, now)
        while self._orphans:
            with self._spared(self._orphans[0]):
                self._bury(writer, self._orphans[0], now)
            self._orphans.pop(0)
        if not all(followed.saved for followed in self._files.values() if followed.record) or not self._state.known:
            self._save()
        self._first_scan_at_end = False

    def _look_at_known(self, writer: BatchWriter, found: Found, now: float) -> None:
        for followed in list(self._files.values()):
            hit = found.get(followed.key)
            if hit is not None:
                followed.path, status = hit
                followed.nameless_since = None
                if followed.fd < 0 and followed.changed(status):
                    with self._spared(followed):
                        self._reopen(writer, followed, now)
            elif followed.fd >= 0:
                followed.nameless_since = now if followed.nameless_since is None else followed.nameless_since
            else:
                self._orphan(followed, vanished=True)

    def _reopen(self, writer: BatchWriter, followed: Followed, now: float) -> None:
        if not self._make_room():
            return
        size = followed.open()
        if size < 0:
            return  # gone this very moment, or not ours to read: the next scan tells
        if not followed.recognised(size):
            self._orphan(followed)
            return
        self._open_files[followed.key] = followed
        if followed.saved:
            # At once: when more files grow than may be open, the next one to be opened closes this one.
            self._read(writer, followed, now)

    def _discover(self, key: Key, path: str, now: float) -> None:
        """A file that is not known by device and inode."""
        if not self._make_room():
            return
        followed = Followed(path, key)
        with self._spared(followed):
            if followed.open() >= 0:
                self._files[key] = self._open_files[key] = followed
                self._try_begin(followed, now)

    def _try_begin(self, followed: Followed, now: float) -> None:
        """A file without an identity: one we knew under another inode, a copy in the making, or a new one."""
        line = first_line(followed.fd)
        if not line:
            return
        size = followed.size_now()
        alike = [known for known in self._files.values() if known.record and known.record.first_hash == digest(line)]
        for known in alike:
            if not known.still_itself():
                self._orphan(known)
        for orphan in self._orphans:
            if orphan.record and orphan.record.matches(followed.fd, size, orphan.position):
                self._orphans.remove(orphan)
                self._adopt(orphan, followed)
                return
        retired = self._retired.get(followed.key)
        if retired is not None:
            known = self._remembered(retired)
            del self._retired[followed.key]
            if retired.matches(followed.fd, size, known.position):
                retired.retired_at = 0.0
                self._adopt(known, followed)
                return
        if any(followed.shares_content(known) for known in alike if known not in self._orphans):
            # It may be the copy of one we follow, made to truncate that one: then it will take its place.
            if size != followed.copy_size:
                followed.copy_size, followed.copy_since = size, now
            if now - followed.copy_since < self.config.copy_wait:
                return
        followed.begin(self.name, self._first_scan_at_end, self.config.line_bytes_max)
        self._counters["begun"] += 1

    def _adopt(self, known: Followed, found: Followed) -> None:
        """`known` goes on in the file that was `found`."""
        assert known.record is not None
        known.close()
        known.fd, known.key, known.path = found.fd, found.key, found.path
        found.fd = -1
        known.record.device, known.record.inode = found.key
        known.nameless_since, known.at_end = None, False
        self._files[known.key] = self._open_files[known.key] = known
        self._dirty = True
        if not known.recognised(known.size_now()):
            self._orphan(known)

    def _bury(self, writer: BatchWriter, orphan: Followed, now: float) -> None:
        """Nothing took the orphan's place: look for it by its inode, else take what we have seen of it."""
        if orphan.vanished and self._find_by_inode(orphan, now):
            return
        if not orphan.vanished:
            batch = orphan.held_batch()
            if batch is not None:
                self._send(writer, orphan, batch)
            self._counters["truncated"] += 1
        self._let_go(orphan, still_there=orphan.vanished)

    def _find_by_inode(self, orphan: Followed, now: float) -> bool:
        for path in paths_of_inode(os.path.dirname(os.path.realpath(orphan.path)), orphan.key[1]):
            orphan.path = path
            if not self._make_room():
                self._files[orphan.key] = orphan  # closed and without a name: the next scan tries again
                return True
            size = orphan.open()
            if size >= 0 and orphan.recognised(size):
                orphan.nameless_since, orphan.at_end = now, False
                self._files[orphan.key] = self._open_files[orphan.key] = orphan
                return True
            orphan.close()
        return False

    # Keeping account

    @contextmanager
    def _spared(self, followed: Followed) -> Iterator[None]:
        """What the file's own disk does costs this file its turn, until the next scan, and no other file anything."""
        try:
            yield
        except OSError as error:
            self._say(followed.path, f"cannot read {followed.path}", error)
            followed.close()
            found = self._files.setdefault(followed.key, followed)  # another one, when it went on in this file
            self._shut(found)
            if found.record is None:
                self._forget(found)

    def _say(self, about: str, what: str, error: Exception) -> None:
        """Once, and again when it is something else."""
        words = f"{what}: {error}; trying again"
        if self._told.get(about) != words:
            self._told[about] = words
            log.warning("%s", words)
        while len(self._told) > FILES_MAX:
            self._told.pop(next(iter(self._told)))

    def _orphan(self, followed: Followed, vanished: bool = False) -> None:
        """The file is not what it was, or has `vanished`. A scan follows that finds out what became of it."""
        followed.vanished = vanished
        self._forget(followed)
        if followed.record is None:
            followed.close()
        elif followed not in self._orphans:
            self._orphans.append(followed)

    def _forget(self, followed: Followed) -> None:
        for table in (self._files, self._open_files):
            if table.get(followed.key) is followed:
                del table[followed.key]

    def _let_go(self, followed: Followed, still_there: bool) -> None:
        durable = self._durable(followed.record) if followed.record is not None else 0
        self._forget(followed)
        followed.close()
        self._counters["released"] += 1
        self._dirty = True
        record = followed.record
        # To be recognised, more than a first line has to match: all files of a program may begin with the same one.
        if still_there and record is not None and record.tail_at > record.first_bytes:
            record.retired_at = time.time()
            record.position = durable
            self._retired[followed.key] = record

    def _make_room(self) -> bool:
        """Close a file so that another can be opened; False when none may be closed."""
        if len(self._open_files) < self.config.open_max:
            return True
        named = [followed for followed in self._open_files.values() if followed.nameless_since is None]
        if not named:
            return False
        victim = next((followed for followed in named if followed.at_end), named[0])
        self._shut(victim)
        if victim.record is None:
            self._forget(victim)  # found again by a later scan
        return True

    def _shut(self, followed: Followed) -> None:
        followed.close()
        self._open_files.pop(followed.key, None)

    def _remembered(self, record: FileRecord) -> Followed:
        """The file of a saved record, not opened yet."""
        known = self._position(record.producer)
        followed = Followed(record.path, record.key, record, record.position if known is None else known)
        followed.heard = known is not None
        return followed

    def _position(self, producer: str) -> int | None:
        try:
            return self._positions(producer)
        except (OSError, SpoolFull, DiskFailed) as error:
            raise _NoAnswer(str(error)) from error

    def _durable(self, record: FileRecord) -> int:
        """Up to where the log has this incarnation."""
        known = self._position(record.producer)
        return record.position if known is None else known

    def _save(self) -> None:
        """Save all identities; on failure new files wait for the next scan."""
        begun = [followed for followed in [*self._orphans, *self._files.values()] if followed.record is not None]
        records: list[FileRecord] = []
        for followed in begun:
            assert followed.record is not None
            followed.record.path = followed.path
            followed.record.position = self._durable(followed.record)
            records.append(followed.record)
        oldest = time.time() - RETIRED_S
        kept = [record for record in self._retired.values() if record.retired_at > oldest][-RETIRED_MAX:]
        self._retired = {record.key: record for record in kept}
        try:
            self._state.save([*records, *kept])
        except OSError as error:
            self._counters["state_errors"] += 1
            log.warning("cannot save %s: %s; new files wait until it can be", self._state.path, error)
            return
        self._dirty = False
        for followed in begun:
            followed.saved = True
