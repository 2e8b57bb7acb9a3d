"""A log, whole: what the rest of jlogd knows of the journal.

    Journal.create(path)            make a log, with its first subscribers, in one step that happens or does not
    Journal.open(path)              join its writers (and recover it first, if the last ones did not finish)
    journal.commit(batches)         append durably
    journal.hold(name)              consume as a named subscriber
    journal.cursor(start)           read without a name

Locking: see the modules named in `layout.py`'s table; a `Journal` may be used by any number of threads.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from jlogd.errors import Closed, FormatError, LogExists, OwnedElsewhere, SpoolFull
from jlogd.journal import layout as layouts
from jlogd.journal import retention
from jlogd.journal.appender import Appender, Outcome
from jlogd.journal.batch import Batch
from jlogd.journal.cursor import Cursor, locate
from jlogd.journal.disk import Disk, PosixDisk
from jlogd.journal.head import FLOOR, HEAD, OWNER, Floor, decode_owner, first_owner, next_owner
from jlogd.journal.locks import LockBusy, process_id
from jlogd.journal.producers import Heard
from jlogd.journal.slots import SlotFile
from jlogd.journal.stat import log_stat
from jlogd.journal.subscribers import Hold, Subscribers
from jlogd.journal.tail import Found, start_segment
from jlogd.journal.types import Caps, LogStat, Receipt, Settings, Start, check_name
from jlogd.journal.view import View
from jlogd.journal.wait import wait_for

# Guards the making of logs in a spool directory.
SPOOL_LOCK = ".lock"
# A refusal for lack of room is told for so long, unless an append succeeds before.
FULL_TOLD_SECONDS = 60.0


class Journal:
    """An open log. A context manager; close it to let another host take it over."""

    def __init__(self, path: Path, disk: Disk) -> None:
        """Use `open`."""
        self._process = process_id()
        self._host = disk.host()
        self.view = View(path, disk)
        self.subscribers = Subscribers(self.view)
        self.settings = self.view.meta.settings
        self._appender = Appender(self.view, self.settings, retention.Room(self.view, self.subscribers))
        self._published = threading.Condition()
        self._listeners: list[Callable[[], None]] = []
        self._closed = False
        self._full, self._full_at = "", 0.0
        try:
            # Whoever made the log, a segment or a subscriber may have died before their names were durable.
            for directory in (self.path.parent, self.path, self.view.layout.subscribers):
                disk.sync_dir(directory)
            self._appender.recover()
        except BaseException:
            self._appender.close()
            raise

    @classmethod
    def create(
        cls,
        path: Path | str,
        settings: Settings | None = None,
        subscribers: Sequence[str] = (),
        disk: Disk | None = None,
    ) -> None:
        """Make a log at `path` with its first subscribers, which see every record from the first.

        An empty directory that is there gives way. Raises `LogExists`, `UsageError`; the directory above must exist.
        """
        path, disk = Path(path).absolute(), disk or PosixDisk()
        check_name("log", path.name)
        lock = disk.lock(path.parent / SPOOL_LOCK)
        try:
            if disk.exists(path):
                _make_way(path, disk)
            _create(path, settings or Settings(), subscribers, disk)
        finally:
            lock.release()

    @classmethod
    def open(cls, path: Path | str, disk: Disk | None = None) -> Journal:
        """Open a log to append, consume and administer. Raises `LogNotFound`, `OwnedElsewhere`, `FormatError`."""
        return cls(Path(path).absolute(), disk or PosixDisk())

    @classmethod
    def take_over(cls, path: Path | str, disk: Disk | None = None) -> Journal:
        """Make this host the owner of a log whose host is down, and open it.

        Raises `OwnedElsewhere` while a process of the owner still holds its lock.
        """
        path, disk = Path(path).absolute(), disk or PosixDisk()
        view = View(path, disk)
        try:
            lock = disk.lock(view.layout.owner_lock, wait=False)
        except LockBusy:
            raise OwnedElsewhere(
                f"{path} is in use: it is owned by {view.owner().told}, and processes of the owner hold it; stop jlogd "
                "there before taking over"
            ) from None
        try:
            file = SlotFile.open(disk, view.layout.owner, OWNER)
            owner = decode_owner(file.read(), str(view.layout.owner))
            file.write(next_owner(owner, owner.epoch + 1, disk).encode(), sync=True)
            file.close()
        finally:
            lock.release()
        return cls(path, disk)

    @property
    def name(self) -> str:
        """The log's name: that of its directory."""
        return self.view.layout.name

    @property
    def path(self) -> Path:
        """The log's directory."""
        return self.view.layout.root

    @property
    def uuid(self) -> str:
        """The log's identity, the same for ever."""
        return self.view.meta.uuid

    @property
    def failed(self) -> str:
        """Why the log accepts nothing more; empty while it does."""
        return self._appender.failed

    @property
    def full(self) -> str:
        """Why there was no room for what was appended last; empty when there was, or when that was long ago."""
        return self._full if time.monotonic() - self._full_at < FULL_TOLD_SECONDS else ""

    @property
    def counters(self) -> dict[str, int]:
        """What this process appended and read since it opened the log."""
        return {**self._appender.counters, **self.view.counters}

    # Writing

    def commit(self, batches: Sequence[Batch]) -> list[Outcome]:
        """Append the batches in one group; see `Appender.commit`."""
        self._check_usable()
        rolls = self._appender.counters["rolls"]
        outcomes = self._appender.commit(batches)
        self._note_full(outcomes)
        self._notify()
        if self._appender.counters["rolls"] != rolls:
            self._prune_quietly()
        return outcomes

    def producer_position(self, producer: int) -> int | None:
        """Where the last accepted batch of `producer` ended, in its own positions; None when it is not known."""
        heard = self.heard(producer)
        return heard.position if heard else None

    def heard(self, producer: int) -> Heard | None:
        """The last batch accepted from `producer`."""
        self._check_usable()
        return self._appender.heard(producer)

    def on_sync(self, observe: Callable[[float], None]) -> None:
        """Have every sync's duration in seconds reported."""
        self._appender.sync_seconds = observe

    # Reading

    def cursor(self, start: Start = "begin") -> Cursor:
        """Read without a name: holds nothing back, leaves nothing behind. Raises `UsageError`."""
        return Cursor(self.view, locate(self.view, start), self.view.counters)

    def hold(self, name: str, note: str = "") -> Hold:
        """Become the one consumer of a subscriber; see `Subscribers.hold`."""
        self._check_usable()
        hold = self.subscribers.hold(name, note)
        hold.on_pass = self._prune_quietly
        return hold

    def wait(self, sequence: int, timeout: float) -> bool:
        """Wait until record `sequence` can be read, at most `timeout` seconds; whether it can."""
        return wait_for(self.view, sequence, timeout, self._published, lambda: self._closed)

    def listen(self, listener: Callable[[], None]) -> None:
        """Have `listener` called after every commit of this process; it must return at once."""
        self._listeners.append(listener)

    # Subscribers

    def subscriber_names(self) -> list[str]:
        """Names of all subscribers, sorted."""
        return self.subscribers.names()

    def add_subscriber(self, name: str, start: Start = "begin", caps: Caps | None = None) -> None:
        """Add a subscriber; without `caps` those of the log hold. Raises `SubscriberExists`, `UsageError`."""
        self.subscribers.add(name, start, caps)

    def remove_subscriber(self, name: str) -> None:
        """Raises `SubscriberUnknown`, `SubscriberBusy`."""
        self.subscribers.remove(name)
        self.prune()

    def set_subscriber(self, name: str, start: Start) -> None:
        """Raises `SubscriberUnknown`, `SubscriberBusy`, `UsageError`."""
        self.subscribers.set(name, start)
        self.prune()

    def set_caps(self, name: str, caps: Caps | None) -> None:
        """Caps of its own, or None for those of the log. Raises `SubscriberUnknown`, `SubscriberBusy`."""
        self.subscribers.set_caps(name, caps)
        self.prune()

    def clone_subscriber(self, name: str, source: str) -> None:
        """Add `name` at the position of `source`. Raises `SubscriberUnknown`, `SubscriberExists`."""
        self.subscribers.clone(name, source)

    # Care

    def lost(self) -> str:
        """Why this host does not own the log any more; empty while it does, or when that cannot be told."""
        try:
            owner = self.view.owner()
        except (FormatError, OSError):
            return ""
        return f"{self.path} was taken over: it is owned by {owner.told}" if owner.host != self._host else ""

    def configure(self, settings: Settings) -> None:
        """Change the log's settings, here and on disk; other processes follow when they open it anew."""
        if settings == self.settings:
            return
        meta = layouts.Meta(
            format=layouts.FORMAT, uuid=self.view.meta.uuid, created=self.view.meta.created, settings=settings
        )
        layouts.write_meta(self.view.disk, self.view.layout, meta)
        self.view.meta, self.settings, self._appender.settings = meta, settings, settings

    def prune(self) -> int:
        """Remove what every subscriber has passed, or what its cap lets go; the bytes given back."""
        return retention.prune(self.view, self.subscribers)

    def maintain(self) -> None:
        """What time alone makes due: syncs of the policy `interval`, pruning by age. Call it at least every second."""
        self._check_usable()
        if self.settings.durability.startswith("interval"):
            self._appender.sync()
            self._notify()
        self._prune_quietly()

    def sync(self) -> None:
        """Sync what the policy left unsynced."""
        self._appender.sync()
        self._notify()

    def try_again(self) -> bool:
        """Recover after the disk had failed; whether the log accepts batches. See `Appender.try_again`."""
        self._check_usable()
        return self._appender.try_again()

    def stat(self) -> LogStat:
        """The log and its subscribers as they are now."""
        found = log_stat(self.view, self.subscribers)
        found.counters, found.failed, found.full = self.counters, self.failed, self.full
        return found

    def close(self) -> None:
        """Sync what is left and leave the log. A second call does nothing."""
        if not self._closed and self._process == process_id():
            self._closed = True
            self._appender.close()
            self._notify()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _note_full(self, outcomes: Sequence[Outcome]) -> None:
        refused = next((outcome for outcome in outcomes if isinstance(outcome, SpoolFull)), None)
        if refused is not None:
            self._full, self._full_at = str(refused), time.monotonic()
        elif self._full and any(isinstance(outcome, Receipt) for outcome in outcomes):
            self._full = ""

    def _prune_quietly(self) -> None:
        # A prune that fails gives no space back now; the next roll, checkpoint or second tries again.
        with suppress(OSError):
            self.prune()

    def _notify(self) -> None:
        with self._published:
            self._published.notify_all()
        for listener in self._listeners:
            listener()

    def _check_usable(self) -> None:
        if self._process != process_id():
            raise Closed("this journal belongs to the process that this one was forked from; open the log again")
        if self._closed:
            raise Closed(f"{self.view.layout.root} was closed")


def _make_way(path: Path, disk: Disk) -> None:
    """Take an empty directory away where a log is to be made. Raises `LogExists` for anything else."""
    if disk.exists(layouts.Layout(path).meta):
        raise LogExists(f"there is already a log {path.name}: {path}; use it as it is, or choose another name")
    if layouts.without_meta(disk, path):
        raise LogExists(layouts.no_meta(path))
    try:
        held = bool(disk.listdir(path))
    except NotADirectoryError:
        raise LogExists(f"there is a file at {path}, and a log is a directory; choose another name") from None
    if held:
        raise LogExists(f"the directory {path} holds something else than a log; choose another name")
    try:
        disk.rmdir(path)
    except OSError as error:  # a mount point, a symbolic link, or not ours
        raise LogExists(
            f"{path} is empty, but cannot be replaced by a log ({error.strerror}); make one in it: {path / 'NAME'}"
        ) from None


def _create(path: Path, settings: Settings, subscribers: Sequence[str], disk: Disk) -> None:
    """Build the log beside its place and rename it there, so that a crash leaves all of it or nothing."""
    scratch = path.with_name(f".{path.name}.new")
    _remove_tree(disk, scratch)
    layout = layouts.Layout(scratch)
    disk.mkdir(scratch)
    disk.mkdir(layout.subscribers)
    layouts.write_meta(disk, layout, layouts.new_meta(settings))
    SlotFile.create(disk, layout.owner, OWNER, first_owner(disk).encode())
    SlotFile.create(disk, layout.floor, FLOOR, Floor().encode())
    view = View(scratch, disk)
    file, head = start_segment(view, Found(None, 0, 0, 1, 0), 1, [])
    file.close()
    SlotFile.create(disk, layout.head(1), HEAD, head.encode())
    for name in subscribers:
        Subscribers(view).add(name, "begin")
    disk.sync_dir(scratch)
    disk.rename(scratch, path)
    disk.sync_dir(path.parent)


def _remove_tree(disk: Disk, path: Path) -> None:
    """Remove what a creation that was cut off left behind: a directory of files, and of one directory of files."""
    if not disk.exists(path):
        return
    for name in disk.listdir(path):
        if name == layouts.SUBSCRIBERS:
            _remove_tree(disk, path / name)
        else:
            disk.unlink(path / name)
    disk.rmdir(path)
