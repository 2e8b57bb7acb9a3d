"""One session of this node: its heartbeats, and the deadline that only committed ones move.

    B = clock *before sending* -> commit "if I created sess/NODE, write it" -> deadline = max(deadline, B + W)

No answer moves nothing. A compare that failed ends the session for good: the deadline becomes 0 at once. A new session
is a new object of this kind; revisions are never reused.

Lock: `_lock` over all fields: the heartbeat thread writes them, the deciding thread reads and ends them.
"""

from __future__ import annotations

import threading

from cluster.types import Compare, Delete, Put, Txn, TxnResult
from vip.records import GoneRecord, Keys, SessionRecord, encode
from vip.timing import Timing

# Why a session ended clean that its daemon could not end itself, for people.
GUARD_ENDED = "its daemon died; its guard removed everything"
FAILURE_ENDED = "its daemon failed, and removed everything before it ended"
SUCCESSOR_ENDED = "its daemon died; the next one there removed everything"


def ending(keys: Keys, node: str, revision: int, gone: GoneRecord, wait: int, why: str = "") -> Txn:
    """End a session whose addresses are all known to be removed: others need not wait. Keeps what counted before."""
    words = GoneRecord(revision, True, 0, max(gone.wait, wait), gone.losses, why)
    key = keys.session(node)
    return Txn((Compare(key, "create", revision),), (Delete(key), Put(keys.gone(node), encode(words))))


class Session:
    """The session of `node`; not open until the store said so."""

    def __init__(self, keys: Keys, node: str, timing: Timing) -> None:
        self._keys = keys
        self.node = node
        self.timing = timing
        self._lock = threading.Lock()
        self._revision = 0
        self._deadline = 0
        self._sent = 0
        self._lost = ""

    @property
    def revision(self) -> int:
        """The identity of the session; 0 while it is not open."""
        return self._revision

    @property
    def deadline(self) -> int:
        """Nothing may be announced at or after this; 0 when the session is not open or lost."""
        return self._deadline

    @property
    def confirmed(self) -> int:
        """When the last committed heartbeat was sent."""
        return self._sent

    @property
    def lost(self) -> str:
        """Why the session ended; "" while it has not."""
        return self._lost

    # ---- what is sent ----

    def opening(self, record: SessionRecord) -> Txn:
        """Begin the session; there must be none of that name."""
        key = self._keys.session(self.node)
        return Txn((Compare(key, "create", 0),), (Put(key, encode(record)),))

    def beat(self, record: SessionRecord) -> Txn:
        """A heartbeat; to be sent after its time was taken."""
        key = self._keys.session(self.node)
        return Txn((Compare(key, "create", self._revision),), (Put(key, encode(record)),))

    def farewell(self, gone: GoneRecord, why: str = "") -> Txn:
        """End the session clean: only after the kernel acknowledged the removal of every address."""
        return ending(self._keys, self.node, self._revision, gone, self.timing.wait, why)

    # ---- what came back ----

    def opened(self, sent: int, result: TxnResult) -> bool:
        """The answer to `opening` of a new session that was sent at `sent`; whether it is open now."""
        with self._lock:
            if not result.succeeded or self._lost:
                return False
            self._revision = result.revision
            self._extend(sent)
            return True

    def beaten(self, sent: int, result: TxnResult) -> int:
        """The answer to a heartbeat; the deadline after it."""
        with self._lock:
            if self._lost:
                return 0
            if not result.succeeded:
                self._end("the store knows the session no more")
            else:
                self._extend(sent)
            return self._deadline

    def lose(self, why: str) -> None:
        """The session is gone, or is to go: nothing may be announced from now on."""
        with self._lock:
            if not self._lost:
                self._end(why)

    def _extend(self, sent: int) -> None:
        self._sent = max(self._sent, sent)
        self._deadline = max(self._deadline, sent + self.timing.window)

    def _end(self, why: str) -> None:
        self._lost = why
        self._deadline = 0
