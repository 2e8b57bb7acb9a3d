"""The tail of a log as its last writer left it, in whichever process of this host that was; and whose the log is.

Before every group a process looks at the owner and at the head, which costs a read of the page cache for each as long
as nobody else wrote:

    another host owns the log                  it was taken over: nothing more is written here
    another epoch                              the log was recovered: open its last segment, read it from its beginning
    another generation of the head             somebody appended: read what stands after what we know
    another boot, a head that ended, or a
    segment that is not as long as it says     the last writer did not finish: recover (see `tail.py`)

Once the group is written, and before the head is published, it looks at the owner again: what a takeover came before is
not acknowledged. `failed` says why nothing more may be written, once that is so.

Locking: `owner.lock` is held, shared, from the beginning to `close`. The appender calls everything but `close` with
`append.lock` held, and all of it from one thread at a time.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from jlogd.errors import Fenced, JlogError, LogFailed, OwnedElsewhere
from jlogd.journal.head import HEAD, OWNER, Head, Owner, decode_head, decode_owner, owner_unusable
from jlogd.journal.layout import read_meta
from jlogd.journal.producers import Producers
from jlogd.journal.slots import SlotFile
from jlogd.journal.tail import Tail, read_tail, recover, remove_old_heads
from jlogd.journal.view import View


class SharedTail:
    """See the module's text. `tail` is what this process knows of it, None before the first look."""

    def __init__(self, view: View, counters: dict[str, int]) -> None:
        """Joins the owner; recoveries and the bytes they left behind go to `counters`. Raises `OwnedElsewhere`."""
        self._view = view
        self._counters = counters
        self.tail: Tail | None = None
        self.epoch = 0
        self.failed = ""  # why nothing more is accepted; empty while it is
        self.failed_as: type[JlogError] = LogFailed
        self.tail_refused = False  # what stands after the durable end was refused to its producers
        self._owner_seen: bytes | None = None
        self._owner_known: Owner | None = None
        self._owner_lock = view.disk.lock(view.layout.owner_lock, shared=True)
        try:
            self._owner_file = _open_owner(view)
        except BaseException:
            self._owner_lock.release()
            raise
        try:
            self._check_owner(self._owner())
        except BaseException:
            self.close()
            raise

    @property
    def current(self) -> Tail:
        """The tail, once it was looked at."""
        assert self.tail is not None
        return self.tail

    def ready(self) -> Tail:
        """The tail, as the last writer of any process left it; recovered when that one did not finish."""
        owner = self._owner()
        self._check_owner(owner)
        tail = self.tail
        if tail is None or owner.epoch != self.epoch or tail.head_file.replaced():
            tail = self._load(owner)
        elif owner.boot == self._view.disk.boot():
            try:
                tail = self._catch_up(tail)
            except BaseException:
                self.forget()  # it is neither what it was nor what it is
                raise
        if tail is None or owner.boot != self._view.disk.boot() or not _is_whole(tail):
            tail = self._recover(owner)
        return tail

    def recover(self) -> Tail:
        """Raise the epoch and start a new segment after what can be believed."""
        return self._recover(self._owner())

    def publish(self, head: Head, *, sync: bool = False) -> None:
        """Let readers and other writers see `head`, as long as the log is still ours. Raises `Fenced`."""
        owner = self._owner()
        if (owner.epoch, owner.host) != (self.epoch, self._view.disk.host()):
            self.fail(Fenced, f"{self._view.layout.root} was taken over: it is owned by {owner.told}")
            raise Fenced(f"{self.failed}; nothing was acknowledged since, and this process must stop writing")
        self.current.publish(head, sync=sync)

    def end_segment(self, *, rolling: bool = False, discard: bool = False) -> None:
        """Tell whoever comes next that only a recovery can go on; this process is to `forget` or `recover` then, too.

        Written in place, so it needs no room. Only over a head that is still the one we know: another process may have
        appended since.
        """
        tail = self.tail
        with suppress(OSError):
            if tail is not None and decode_head(tail.head_file.read()) == tail.head:
                tail.publish(replace(tail.head, rolling=rolling, discard=discard))

    def producers_of_head(self) -> Producers:
        """The producers as the last head has them, where no tail can be had."""
        producers = Producers()
        head = self._view.head()
        if head is not None:
            read_tail(self._view, head, producers, 0)
        return producers

    def fail(self, kind: type[JlogError], why: str) -> None:
        """Accept nothing more; `why` is what producers are told from now on."""
        self.failed, self.failed_as = why, kind

    def forget(self) -> None:
        """Look at the disk before anything else is written."""
        if self.tail is not None:
            self.tail.close()
            self.tail = None

    def close(self) -> None:
        """Leave the owner."""
        self.forget()
        self._owner_file.close()
        self._owner_lock.release()

    def _owner(self) -> Owner:
        payload = self._owner_file.read()
        if payload is not self._owner_seen or self._owner_known is None:
            self._owner_known = decode_owner(payload, str(self._view.layout.owner))
            self._owner_seen = payload
        return self._owner_known

    def _check_owner(self, owner: Owner) -> None:
        if owner.host != self._view.disk.host():
            root = self._view.layout.root
            self.fail(OwnedElsewhere, f"{root} is owned by {owner.told}")
            raise OwnedElsewhere(f"{self.failed}; stop jlogd there, or once that host is down: jlogctl takeover {root}")

    def _load(self, owner: Owner) -> Tail | None:
        """The tail as the head of this epoch has it; None when only recovery can tell."""
        self.forget()
        view = self._view
        if read_meta(view.disk, view.layout).uuid != view.meta.uuid:
            self.fail(LogFailed, f"{view.layout.root} was removed, and another log made in its place; open it again")
            raise LogFailed(self.failed)
        if owner.boot != view.disk.boot():
            return None
        try:
            head_file = SlotFile.open(view.disk, view.layout.head(owner.epoch), HEAD, hint=True)
        except FileNotFoundError:
            return None
        head = decode_head(head_file.read())
        if head is None or head.ended:
            return None
        remove_old_heads(view, owner.epoch)  # the recovery that made this epoch may have been cut off before it did
        producers = Producers()
        try:
            read_tail(view, head, producers, 0)
            file = view.disk.open(view.layout.segment(head.segment), "write")
        except FileNotFoundError:
            return None
        self.tail = Tail(file, head, head_file, producers)
        self.epoch = owner.epoch
        return self.tail

    def _catch_up(self, tail: Tail) -> Tail | None:
        """Learn what another process appended since we last looked."""
        known = tail.head_file.generation
        head = decode_head(tail.head_file.read())
        if head is None or head.ended:
            return None
        if tail.head_file.generation == known:
            return tail
        if head.segment != tail.head.segment:
            tail.file.close()
            tail.file = self._view.disk.open(self._view.layout.segment(head.segment), "write")
            tail.producers = Producers()
        start = tail.head.written if head.segment == tail.head.segment else 0
        read_tail(self._view, head, tail.producers, start)
        tail.head = head
        return tail

    def _recover(self, owner: Owner) -> Tail:
        self._check_owner(owner)  # a former owner must not raise the epoch: that would take the log back
        self.forget()
        tail = recover(self._view, self._owner_file, owner, keep_tail=not self.tail_refused)
        self.tail_refused = False
        self.tail, self.epoch = tail, tail.head.epoch
        self._counters["recoveries"] += 1
        self._counters["torn_bytes"] += tail.torn_bytes
        return tail


def _open_owner(view: View) -> SlotFile:
    try:
        return SlotFile.open(view.disk, view.layout.owner, OWNER)
    except FileNotFoundError:
        raise owner_unusable("the owner file is gone", str(view.layout.owner)) from None


def _is_whole(tail: Tail) -> bool:
    return tail.file.size() == tail.head.written and not tail.file.unlinked()
