"""What stood behind the recorded end of a file after a crash: set aside, until it is known whose it is.

    crash     PATH: recorded | what a round had written and not committed, or what somebody appended, or both
    start     .NAME.aside-LENGTH.new    a copy of what is behind the recorded LENGTH, synced         (recovery.py)
              .NAME.aside-LENGTH        renamed, the directory synced
              PATH is cut back to LENGTH
              the ledger: this was set aside       [with the marks that are taken away: one synced transaction]
    later     what was ours comes again, and is compared                                              (again.py)
              all of it came again      the copy is removed
              some of it did not        NAME.unclaimed-LENGTH, which is said, and stays for a person

So nothing is cut off that is not durable somewhere else, and nothing is in the files twice. A crash in between is gone
on with: until the mark is taken away the copy is looked for by its name.

It is said after a minute that something has not come again; a node that is away, and comes back later, still claims
what is its own. When a person has moved the file away, it is forgotten.

Locking: none. All of it belongs to the thread of the rounds, and to others before that starts; `unclaimed` and `stats`
may be called from any.
"""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Callable, Collection
from contextlib import suppress

from crc32c import crc32c

from jlogd.errors import JlogError
from jlogd.manager.again import Search
from jlogd.manager.ledger import Aside, FileState, Ledger
from jlogd.manager.store import Store, TextFile

_log = logging.getLogger("jlogd.manager")

# What is ours comes again as soon as its node is connected; what has not come after this time is told.
DOUBT_SECONDS = 60.0
# Copies of what stood behind one length: each time somebody appended, and we crashed before anything was written. And
# attempts at one, while somebody appends.
COPIES_MAX = 20
# Longer names are replaced by their checksum: a name has 255 bytes at most, and ours are longer by some 40.
NAME_BYTES_MAX = 200
READ_BYTES = 1 << 20


class Asides:
    """See the module's text. True while there are any. `pending` is what is known here and not yet in the ledger."""

    def __init__(self, store: Store, ledger: Ledger, clock: Callable[[], float] = time.time) -> None:
        """Raises `LedgerFailed`."""
        self.pending: dict[str, Aside | None] = {}
        self._store = store
        self._ledger = ledger
        self._clock = clock
        self._rows = ledger.all_asides()
        self._searches: dict[str, Search] = {}
        self._since: dict[str, float] = {}  # when this process saw it first
        self._told: dict[str, str] = {}  # what is not claimed, in words
        self._failed: set[str] = set()  # what could not be compared, which is said once

    def __bool__(self) -> bool:
        return bool(self._rows or self.pending)

    def unclaimed(self) -> list[str]:
        """What has not come again, in words."""
        return sorted(self._told.values())

    def stats(self) -> dict[str, int]:
        """Counters, for metrics."""
        return {"files_aside": len(self._rows), "files_unclaimed": len(self._told)}

    def take_pending(self) -> dict[str, Aside | None]:
        """What is to be in the ledger, given away."""
        changes, self.pending = self.pending, {}
        return changes

    def reset(self) -> None:
        """The ledger was opened anew, and may know less: tell it all again."""
        self.pending.update(self._rows)

    # ---- setting aside ---------------------------------------------------------------------------------------------

    def keep(self, path: str, file: TextFile, state: FileState) -> None:
        """Have what is behind the recorded length of a file elsewhere, durably, before it is cut off. Raises OSError,
        and nothing is to be cut then."""
        for _ in range(COPIES_MAX):
            size = file.size() - state.length
            side = self._place(path, file, state, size)
            if self._store.identity(side) is None or self._size(side) != size:
                self._copy(file, state.length, side)
            self._store.sync_dir(os.path.dirname(side))
            if self._size(side) == file.size() - state.length:
                break
        else:
            raise OSError(errno.EBUSY, "somebody appends to it all the time; it is tried again", path)
        size = self._size(side)
        self._add(side, path, state, size)
        _log.warning(
            "%s: %d bytes behind the %d recorded ones are set aside in %s, until they have come again",
            path, size, state.length, side,
        )  # fmt: skip

    def find(self, path: str, state: FileState) -> None:
        """Know what a process set aside that crashed before the ledger had it. Raises OSError."""
        for number in range(1, COPIES_MAX + 1):
            side = _side(path, state.length, number)
            if side not in self._rows and self._store.identity(side) is not None:
                self._add(side, path, state, self._size(side))

    def _place(self, path: str, file: TextFile, state: FileState, size: int) -> str:
        """The name for a copy: a free one, or that of one whose bytes are all still in the file."""
        for number in range(1, COPIES_MAX + 1):
            side = _side(path, state.length, number)
            if self._store.identity(_shown(side)) is not None:
                continue
            if self._store.identity(side) is None or self._begins(side, file, state.length, size):
                return side
            if side not in self._rows:
                self._add(side, path, state, self._size(side))
        raise OSError(errno.EEXIST, "too much was set aside already; look at what is beside it", path)

    def _add(self, side: str, path: str, state: FileState, size: int) -> None:
        row = Aside(path, state.target, state.inode, state.length, size, int(self._clock()))
        self._rows[side] = self.pending[side] = row
        self._searches.pop(side, None)

    def _copy(self, file: TextFile, start: int, side: str) -> None:
        beside = f"{side}.new"
        with suppress(FileNotFoundError):
            self._store.unlink(beside)
        made = self._store.create(beside, file.mode())
        try:
            at = start
            while data := file.pread(READ_BYTES, at):
                view = memoryview(data)
                while view:
                    view = view[made.append([view]) :]
                at += len(data)
            made.sync()
        except OSError:
            with suppress(OSError):  # it would take the room that is missing
                self._store.unlink(beside)
            raise
        finally:
            made.close()
        self._store.rename(beside, side)

    def _begins(self, side: str, file: TextFile, start: int, size: int) -> bool:
        """Whether what was set aside before is still there in the file: it had not been cut, and may have grown."""
        found = self._store.open(side)
        try:
            at, length = 0, found.size()
            while at < length <= size:
                data = found.pread(READ_BYTES, at)
                if not data or file.pread(len(data), start + at) != data:
                    return False
                at += len(data)
            return length <= size
        finally:
            found.close()

    def _size(self, side: str) -> int:
        file = self._store.open(side)
        try:
            return file.size()
        finally:
            file.close()

    # ---- whose it is -----------------------------------------------------------------------------------------------

    def look(self, now: float, targets: Collection[str] | None = None) -> None:
        """Compare with what was written since, to these paths or to all. `now` is seconds since 1970. Never raises:
        what is in the ledger is in the ledger, whatever becomes of this."""
        for side, row in list(self._rows.items()):
            if targets is not None and row.target not in targets:
                continue
            try:
                self._judge(side, row, now)
            except Exception as error:
                if side not in self._failed:
                    self._failed.add(side)
                    unforeseen = None if isinstance(error, JlogError | OSError) else error
                    _log.warning("%s cannot be compared with what came again: %s", side, error, exc_info=unforeseen)

    def _judge(self, side: str, row: Aside, now: float) -> None:
        place = place_of(side, lambda name: self._store.identity(name) is not None)
        if place is None:
            _log.info("%s is not there any more, and forgotten", side)
            return self._drop(side)
        search = self._searches.setdefault(side, Search(self._ledger, row))
        if not search.ended:
            file = self._store.open(place)
            try:
                search.go_on(self._store, file)
            finally:
                file.close()
        if search.found:
            self._store.unlink(place)
            self._store.sync_dir(os.path.dirname(place))
            _log.info("%s: all that was set aside has come again; it is removed", place)
            self._drop(side)
            return
        waited = now - self._since.setdefault(side, now)
        if side not in self._told and (place != side or search.ended or waited >= DOUBT_SECONDS):
            self._tell(side, row, place)

    def _tell(self, side: str, row: Aside, place: str) -> None:
        """It does not come again, or takes long."""
        shown = _shown(side)
        if place == side:
            self._store.rename(side, shown)
            self._store.sync_dir(os.path.dirname(side))
        self._told[side] = told(shown, row)
        _log.warning("%s", self._told[side])

    def _drop(self, side: str) -> None:
        del self._rows[side]
        self.pending[side] = None
        for known in (self._searches, self._since, self._told):
            known.pop(side, None)


def place_of(side: str, exists: Callable[[str], bool]) -> str | None:
    """Where a copy is now; None when it is gone."""
    return next((name for name in (side, _shown(side)) if exists(name)), None)


def told(place: str, row: Aside) -> str:
    """What is said of a copy."""
    return (
        f"{place}: {row.size} bytes that stood behind the {row.at} recorded ones of {row.path} after a crash; they "
        "have not come again, or not all of them: someone else may have appended them, or their node is away; look, "
        "and move the file away"
    )


def _side(path: str, length: int, number: int) -> str:
    """Where a copy is while nothing is known: a name that shells and log rotation pass over."""
    directory, name = os.path.split(path)
    raw = os.fsencode(name)
    stem = name if len(raw) <= NAME_BYTES_MAX else f"{crc32c(raw):08x}"
    return os.path.join(directory, f".{stem}.aside-{length}" + (f"-{number}" if number > 1 else ""))


def _shown(side: str) -> str:
    """Where it is once it is told."""
    directory, name = os.path.split(side)
    stem, _, rest = name[1:].rpartition(".aside-")
    return os.path.join(directory, f"{stem}.unclaimed-{rest}")
