"""What a subscriber reads from when the log is at a daemon: deliveries within a credit, and checkpoints.

The daemon sends as long as there is credit; the credit comes back as the deliveries are taken out here, half of it at a
time. So at most the credit is ever held in this process, and a consumer that does not consume is sent nothing more.

After a lost connection the feed subscribes again where the last delivery it received ended: nothing is delivered twice
or left out, whichever side was restarted. (A new process starts at the checkpoint.)

Locking: `_changed` guards what both sides use: the queue, and what is known of the end, of checkpoints and of errors.
The rest is the connection thread's.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from contextlib import suppress
from heapq import merge

from jlogd import errors
from jlogd.errors import Closed, JlogError, RemoteError
from jlogd.journal.batch import Batch, Gap, decode
from jlogd.journal.types import Start
from jlogd.subscriber.subscriber import NEWS
from jlogd.wire import messages
from jlogd.wire.connection import REQUEST_SECONDS, TICK_SECONDS, Connection
from jlogd.wire.messages import Ack, FromDaemon, Limits

_log = logging.getLogger(NEWS)

# Enough for full speed over loopback and over a network of some milliseconds; what a silent consumer holds at most.
CREDIT_BYTES = 4 << 20
# A reader that does not follow waits for an answer; a daemon that is away for longer is reported. Enough to restart it.
RETRY_SECONDS = 60.0
# Giving up a name touches no disk but a last checkpoint.
CLOSE_SECONDS = 2.0

_Item = Batch | Gap


class _Arrival:
    """A delivery that was received and not taken out yet."""

    __slots__ = ("batches", "delivery")

    def __init__(self, delivery: messages.Delivery, batches: memoryview | None) -> None:
        self.delivery = delivery
        self.batches = batches

    def items(self) -> list[_Item]:
        """Its batches and gaps in the order of their numbers. Raises `FormatError` when a checksum fails."""
        batches: list[_Item] = []
        data, offset = self.batches, 0
        while data is not None and offset < len(data):
            batch = decode(data, offset)
            batches.append(batch)
            offset += batch.size
        if not self.delivery.gaps:
            return batches
        gaps: list[_Item] = [Gap(gap.first, gap.last, gap.reason, gap.detail) for gap in self.delivery.gaps]
        return list(merge(batches, gaps, key=lambda item: item.first))


class RemoteFeed:
    """The `Feed` of a log at a daemon. One thread at a time may `fetch`; `checkpoint` may come from another."""

    def __init__(
        self, connection: Connection, log: str, name: str = "", start: Start | None = None, *, follow: bool = False,
        credit: int = CREDIT_BYTES,
    ) -> None:  # fmt: skip
        """Subscribes, and returns when the daemon has accepted. Without a name, `start` says where; with one, the
        checkpoint does. Raises what the daemon refuses it with (`SubscriberBusy`, ...)."""
        self._connection = connection
        self._log, self._name = log, name
        self._start = None if start is None else messages.start_to_wire(start)
        self._credit = credit
        self._changed = threading.Condition()
        self._queue: deque[_Arrival] = deque()
        self._follow = follow
        self._looking = not follow  # the daemon was asked to say when it reaches the end, and has not said so yet
        self._more = False  # `_follow` or `_looking` changed: tell the daemon
        self._was_subscribed = False
        self._error: JlogError | None = None
        self._refusal: JlogError | None = None
        self._wanted = self._confirmed = 0  # checkpoints: asked for, written down by the daemon
        self._window = self._taken = 0  # credit: granted, and what of it was used and can be given back
        # Of the connection's thread: this subscription, where it goes on, the look and the checkpoint under way.
        self._sub = 0
        self._subscribed = self._lost = False
        self._next: int | None = None
        self._look_id = 0
        self._checkpointing = 0
        connection.attach(self)
        self._await_subscription()

    # From any thread

    def fetch(self, max_bytes: int, timeout: float) -> list[_Item]:
        """The next delivery, whatever `max_bytes`: it has about a MiB. Empty when nothing came within `timeout`
        seconds; with a timeout of 0, when the daemon says that there is nothing. Raises what ended the subscription."""
        self._connection.check()
        with self._changed:
            arrival = self._follow_for(timeout) if timeout > 0 else self._look()
        if arrival is None:
            return []
        items = arrival.items()
        self._give_back(arrival)
        return items

    def checkpoint(self, sequence: int) -> None:
        """Everything below `sequence` is done with; returns when the daemon has written that down."""
        self._connection.check()
        if not self._name:
            return
        deadline = time.monotonic() + REQUEST_SECONDS
        with self._changed:
            self._refusal = None
            self._wanted = max(self._wanted, sequence)
            self._connection.poke(self)
            while self._confirmed < sequence:
                error = self._error or self._refusal
                if error is None and time.monotonic() > deadline:
                    error = RemoteError(f"{self._connection.why()}; the checkpoint at {sequence} may not be written")
                if error is not None:
                    raise error
                self._changed.wait(TICK_SECONDS)

    def close(self) -> None:
        """Let another consumer have the name. A second call does nothing, nor does one in a forked child."""
        if self._subscribed and self._connection.usable:
            with suppress(JlogError):
                self._connection.request(messages.Unsubscribe(1, self._sub), CLOSE_SECONDS)
        self._connection.detach(self, Closed("the subscriber was closed"))

    # With `_changed` held

    def _follow_for(self, timeout: float) -> _Arrival | None:
        deadline = time.monotonic() + timeout
        if not self._follow:
            self._ask(follow=True)
        while not self._queue:
            if self._error is not None:
                raise self._error
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            self._changed.wait(left)
        return self._queue.popleft()

    def _look(self) -> _Arrival | None:
        """The next delivery; None when the daemon, asked after this was called, has nothing."""
        asked = False
        while not self._queue:
            if self._error is not None:
                raise self._error
            if not self._looking:
                if asked:
                    return None
                asked = True
                self._ask(follow=False)
            self._changed.wait(TICK_SECONDS)
        return self._queue.popleft()

    def _ask(self, follow: bool) -> None:
        self._follow, self._looking, self._more = follow, not follow, True
        self._connection.poke(self)

    # In the connection's thread

    def up(self, limits: Limits) -> None:
        self._sub = self._connection.number()
        self._connection.expect(self._sub, self._received)
        with self._changed:
            follow, self._more = self._follow, False
            self._looking = not follow
        self._look_id = self._sub
        start = self._start if self._next is None else self._next
        credit = min(self._credit, limits.credit_bytes)
        self._connection.send(messages.Subscribe(self._sub, self._log, self._name, start, follow, credit))

    def down(self) -> None:
        if self._subscribed:
            self._lost = True
            _log.info("lost %s, trying again", self._connection.address)
        self._subscribed = False
        self._checkpointing = 0

    def pump(self) -> None:
        if not self._subscribed:
            return
        with self._changed:
            give_back = self._taken if self._taken * 2 >= self._window else 0
            self._taken -= give_back
            more, self._more = self._more, False
            follow = self._follow
            checkpoint = self._wanted if self._wanted > self._confirmed and not self._checkpointing else 0
        if give_back:
            self._connection.send(messages.Credit(self._sub, give_back))
        if more:
            self._look_id = self._connection.number()
            self._connection.send(messages.More(self._look_id, self._sub, follow))
        if checkpoint:
            self._checkpointing = checkpoint
            asked = self._connection.number()
            self._connection.expect(asked, lambda answer, _: self._checkpointed(asked, checkpoint, answer))
            self._connection.send(messages.Checkpoint(asked, self._sub, checkpoint))

    def tick(self, now: float) -> None:
        away = self._connection.limits is None and now - self._connection.down_since > RETRY_SECONDS
        if away and not self._follow:
            self._fail(RemoteError(self._connection.why()))

    def shut(self, error: JlogError) -> None:
        if self._subscribed:
            self._connection.forget(self._sub)
        self._subscribed = False
        self._fail(error)

    def _received(self, message: FromDaemon | Ack, batches: memoryview | None) -> None:
        if isinstance(message, messages.Delivery):
            self._next = message.next
            with self._changed:
                self._queue.append(_Arrival(message, batches))
                self._changed.notify_all()
        elif isinstance(message, messages.End):
            with self._changed:
                self._looking = self._looking and (self._more or message.id != self._look_id)
                self._changed.notify_all()
        elif isinstance(message, messages.Subscribed):
            self._begun(message)
        elif isinstance(message, messages.Ended | messages.Refused):
            self._connection.forget(self._sub)
            self._subscribed = False
            self._fail(errors.from_wire(message.code, message.message))

    def _begun(self, message: messages.Subscribed) -> None:
        self._subscribed = True
        if self._lost:
            self._lost = False
            _log.info("%s is back", self._connection.address)
        if self._next is None:
            self._next = message.next
        with self._changed:
            self._was_subscribed = True
            self._window, self._taken = message.credit, 0
            self._changed.notify_all()
        self.pump()

    def _checkpointed(self, asked: int, sequence: int, answer: FromDaemon | Ack) -> None:
        self._connection.forget(asked)
        self._checkpointing = 0
        with self._changed:
            if isinstance(answer, messages.Refused):
                self._refusal = errors.from_wire(answer.code, answer.message)
                self._wanted = self._confirmed
            else:
                self._confirmed = max(self._confirmed, sequence)
            self._changed.notify_all()
        self.pump()

    def _fail(self, error: JlogError) -> None:
        with self._changed:
            self._error = self._error or error
            self._changed.notify_all()

    # Helpers

    def _await_subscription(self) -> None:
        deadline = time.monotonic() + REQUEST_SECONDS
        with self._changed:
            while not self._was_subscribed and self._error is None and time.monotonic() < deadline:
                self._changed.wait(TICK_SECONDS)
            if self._was_subscribed:
                return
            error = self._error or RemoteError(self._connection.why())
        self.close()
        raise error

    def _give_back(self, arrival: _Arrival) -> None:
        with self._changed:
            if arrival.delivery.sub != self._sub:
                return  # of a subscription before this one, whose credit ended with it
            self._taken += arrival.delivery.cost
            due = self._taken * 2 >= self._window
        if due:
            self._connection.poke(self)
