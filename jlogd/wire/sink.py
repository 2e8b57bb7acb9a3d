"""Where a writer's batches go when the log is at a daemon: sent ahead within a window, acknowledged in order.

    submit  ->  waiting  --send-->  under way  --ack-->  done(receipt)
                              ^        |
                              +--------+  lost connection, or refused for now: send again, oldest first, in order

A batch keeps the numbers its producer gave it, so that the log drops one it has already: what is sent again is there
once, across restarts of either side. Batches without a producer may be there twice after a lost connection.

Locking: `waiting` is filled by any thread and emptied by the connection's, which owns all the rest.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence

from jlogd import errors
from jlogd.errors import Closed, JlogError, ProducerGap, RemoteError, SlowDown
from jlogd.journal.batch import Batch
from jlogd.journal.types import Receipt
from jlogd.wire import messages
from jlogd.wire.connection import Connection
from jlogd.wire.messages import COST_MIN, Ack, FromDaemon, Limits

_log = logging.getLogger("jlogd.wire")

# Small batches that wait together travel together; more than this gains nothing.
_MESSAGE_BYTES = 256 << 10
# A daemon that is away for longer fails what waits for it: the caller decides what to do. Long enough for a restart.
RETRY_SECONDS = 60.0
# After "slow down", and never longer than a human would notice.
_BACKOFF_SECONDS_MIN = 0.01
_BACKOFF_SECONDS_MAX = 0.5

Done = Callable[[Receipt | JlogError], None]
_WAITING, _SENT, _AGAIN = "waiting", "sent", "again"


class _Parcel:
    """One batch on its way. `state` is one of the words above, or the outcome."""

    __slots__ = ("cost", "done", "id", "state", "wire")

    def __init__(self, wire: bytes, done: Done) -> None:
        self.wire = wire
        self.done = done
        self.cost = max(len(wire), COST_MIN)
        self.id = 0
        self.state: str | Receipt | JlogError = _WAITING


class RemoteSink:
    """The `Sink` of a log at a daemon. Memory is bounded by who submits: a writer holds so many bytes at most."""

    resends = True

    def __init__(self, connection: Connection, log: str, retry_seconds: float = RETRY_SECONDS) -> None:
        self._connection = connection
        self._name = log
        self._retry_seconds = retry_seconds
        self._waiting: deque[_Parcel] = deque()
        self._poked = False
        self._closed = False
        # The rest is the connection thread's. `ahead`: what was sent at least once and is not done, in order.
        self._ahead: deque[_Parcel] = deque()
        self._resend: deque[_Parcel] = deque()
        self._under_way = 0
        self._draining = False
        self._resume_at = 0.0
        self._backoff = _BACKOFF_SECONDS_MIN
        connection.attach(self)

    # From any thread

    def submit(self, batch: Batch, done: Done) -> None:
        """Send `batch` in its turn; `done` is called with its outcome from another thread, in order."""
        if self._closed:
            raise Closed(f"the writer to {self._connection.address}/{self._name} is closed")
        self._connection.check()
        self._waiting.append(_Parcel(batch.to_wire(), done))
        if not self._poked:
            self._poked = True
            self._connection.poke(self)

    def commit_here(self, items: Sequence[tuple[Batch, Done]]) -> None:
        """Submit batches for a caller that is going to wait for them."""
        for batch, done in items:
            self.submit(batch, done)

    def position(self, producer: int) -> int | None:
        """Where the last batch of `producer` that the log accepted ended."""
        answer = self._connection.request(messages.Position(1, self._name, producer))
        assert isinstance(answer, messages.PositionIs)
        return answer.position

    def close(self) -> None:
        """Accept nothing more. What is still on its way is done with `Closed`; wait for it before, if it matters."""
        if not self._closed:
            self._closed = True
            where = f"{self._connection.address}/{self._name}"
            self._connection.detach(self, Closed(f"the writer to {where} was closed before this was acknowledged"))

    # In the connection's thread

    def up(self, limits: Limits) -> None:
        self.pump()

    def down(self) -> None:
        for parcel in self._ahead:
            if parcel.state is _SENT:
                parcel.state = _AGAIN
        self._under_way = 0
        self._gather()
        self._resume_at = 0.0

    def pump(self) -> None:
        self._poked = False
        limits = self._connection.limits
        if limits is None or self._draining or self._resume_at:
            return
        while parcels := self._next_message(limits):
            self._send(parcels)

    def tick(self, now: float) -> None:
        if self._resume_at and now >= self._resume_at:
            self._resume_at = 0.0
            self.pump()
        away = self._connection.limits is None and now - self._connection.down_since > self._retry_seconds
        if away and (self._ahead or self._waiting):
            self._fail(RemoteError(f"{self._connection.why()}; whether what was sent is durable is not known"))

    def shut(self, error: JlogError) -> None:
        self._closed = True
        self._fail(error)

    def _next_message(self, limits: Limits) -> list[_Parcel]:
        """The next parcels, in order, that the window has room for: as many as one message should hold."""
        source = self._resend or self._waiting
        found: list[_Parcel] = []
        size = cost = 0
        while len(found) < min(limits.append_batches, len(source)):
            parcel = source[len(found)]
            size, cost = size + len(parcel.wire), cost + parcel.cost
            if (found and size > _MESSAGE_BYTES) or not self._connection.room(self, cost, alone=not found):
                break
            found.append(parcel)
        for _ in found:
            source.popleft()
        return found

    def _send(self, parcels: list[_Parcel]) -> None:
        first = self._connection.number(len(parcels))
        for id_, parcel in enumerate(parcels, first):
            if parcel.state is _WAITING:
                self._ahead.append(parcel)
            parcel.id, parcel.state = id_, _SENT
            self._connection.expect(id_, lambda message, _, parcel=parcel: self._answered(parcel, message))  # type: ignore[misc]
            self._connection.take_room(parcel.cost)
        self._under_way += len(parcels)
        self._connection.send(messages.Append(first, self._name), [parcel.wire for parcel in parcels])

    def _answered(self, parcel: _Parcel, message: FromDaemon | Ack) -> None:
        self._connection.forget(parcel.id)
        self._connection.give_room(parcel.cost)
        self._under_way -= 1
        if isinstance(message, Ack):
            parcel.state = Receipt(message.first, message.count, message.duplicate)
            self._backoff = _BACKOFF_SECONDS_MIN
        elif isinstance(message, messages.Refused):
            self._refused(parcel, errors.from_wire(message.code, message.message))
        if self._draining and not self._under_way:
            self._gather()
            self._resume_at = time.monotonic() + self._backoff
            self._backoff = min(2 * self._backoff, _BACKOFF_SECONDS_MAX)
        self._finish()

    def _refused(self, parcel: _Parcel, error: JlogError) -> None:
        """For now, or for good. What followed a batch that was refused for now could not be accepted either."""
        if isinstance(error, SlowDown) or (self._draining and isinstance(error, ProducerGap)):
            parcel.state = _AGAIN
            self._draining = True
        else:
            parcel.state = error

    def _gather(self) -> None:
        """What is to be sent again, oldest first."""
        self._resend = deque(parcel for parcel in self._ahead if parcel.state is _AGAIN)
        self._draining = False

    def _finish(self) -> None:
        """Tell the outcomes that are known, in order."""
        ahead = self._ahead
        while ahead and not isinstance(outcome := ahead[0].state, str):
            _tell(ahead.popleft(), outcome)

    def _fail(self, error: JlogError) -> None:
        parcels = list(self._ahead)
        while self._waiting:
            parcels.append(self._waiting.popleft())
        for parcel in self._ahead:
            if parcel.state is _SENT:
                self._connection.forget(parcel.id)
                self._connection.give_room(parcel.cost)
        self._ahead.clear()
        self._resend.clear()
        self._under_way, self._draining, self._resume_at = 0, False, 0.0
        for parcel in parcels:
            _tell(parcel, parcel.state if not isinstance(parcel.state, str) else error)


def _tell(parcel: _Parcel, outcome: Receipt | JlogError) -> None:
    try:
        parcel.done(outcome)
    except Exception:
        _log.exception("in the receiver of a receipt")
