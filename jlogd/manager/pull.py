"""One log of one node, as one subscriber: from the first contact to batch after batch.

    open-log     is it the log that was pulled before? another one begins anew, which a mark says
    stat         are its numbers where they were? if they went back, the pull stops until a person decides
    look         the last batch that was written is read again: is it still the same? if not, likewise
    add          at first contact the subscriber is made, at the oldest record the node has
    subscribe    from where the manager is; the node's own position only says what may be pruned
    streaming    deliveries become parcels; what was committed is checkpointed on the node, and its credit given back

What the node refuses is tried again, with growing pauses; so is a log that it does not have (absent). All of it runs
in the hub's thread.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from heapq import merge
from typing import Literal, Protocol

from jlogd.errors import FormatError, LogNotFound, SubscriberExists
from jlogd.journal.batch import Batch, Gap, decode, decode_header
from jlogd.journal.types import LogStat
from jlogd.manager.follow import unseen
from jlogd.manager.ledger import SourceState
from jlogd.manager.parcel import Mark, Parcel, Source, mark_line
from jlogd.wire import messages
from jlogd.wire.messages import FromDaemon

_log = logging.getLogger("jlogd.manager")

# Pauses before a node is asked again for what it refused.
RETRY_SECONDS_MIN = 0.5
RETRY_SECONDS_MAX = 30.0
# A checkpoint is a hint of what may be pruned: one now and then is enough, and costs the node little.
CHECKPOINT_SECONDS = 0.25

# Rates are averages over this time.
RATE_SECONDS = 3.0

Phase = Literal["waiting", "absent", "opening", "looking", "subscribing", "streaming", "stopped"]
# What the node does not have: the log; or, of a manager that is decommissioned, the subscriber.
Absent = Literal["", "log", "subscriber"]
Answered = Callable[[FromDaemon], None]


class Session(Protocol):
    """What a pull needs of the session with its node."""

    def ask(self, message: messages.FromClient, answered: Answered) -> None:
        """Send a request, whose id is chosen here; `answered` gets what the node says to it."""

    def subscribe(self, message: messages.Subscribe, received: Callable[[FromDaemon, memoryview | None], None]) -> int:
        """Subscribe; `received` gets all that is about the subscription, whose number is returned."""

    def forget(self, subscription: int) -> None:
        """Nothing of a subscription is wanted any more."""

    def send(self, message: messages.FromClient) -> None:
        """Send what is not answered."""

    def put(self, parcel: Parcel) -> None:
        """Hand over what was received."""

    def broken(self, why: str) -> None:
        """The connection is not to be believed: make a new one."""

    def window(self) -> int:
        """Bytes of credit for one pull."""

    @property
    def is_leaving(self) -> bool:
        """Whether the manager is decommissioned: what was let go is not made anew."""


class Pull:
    """See the module's text. `describe` may be called from any thread."""

    def __init__(self, session: Session, source: Source, state: SourceState | None) -> None:
        self.source = source
        self.phase: Phase = "waiting"
        self.error = ""
        self.state = state
        self.next = state.next if state else None
        self._begun = 1  # where the node had it begin, while nothing is in the ledger
        self.absent: Absent = ""
        self.absent_since = 0.0  # monotonic seconds
        self.before_loss = ""  # what it was at when the session was lost
        self._made = False  # the subscriber, by this object
        self.stat: LogStat | None = None
        self.told_at = 0.0  # when the log's state was told last
        self.moved = time.monotonic()  # when something was last committed, or there was nothing to commit
        self.rate = (0.0, 0.0)  # records and bytes a second, committed lately
        self._counted = (self.moved, 0, 0)
        self._records = self._bytes = 0  # committed by this object
        self._session = session
        self._up = False
        self._retry_at = 0.0
        self._pause = RETRY_SECONDS_MIN
        self._uuid = ""
        self._mark = ""
        self._decided: int | Literal["position"] | None = None
        self._sub = 0
        self._look = 0
        self._looked_for = (0, 0, 0, 0)  # first, count, checksum and time of the batch that is looked at again
        self._window = self._taken = 0
        self._committed = 0
        self._checkpointed = 0
        self._checkpointing = False
        self._checkpoint_at = 0.0

    # ---- the session -----------------------------------------------------------------------------------------------

    def up(self) -> None:
        """There is a session: begin."""
        self._up = True
        if self.phase != "stopped":
            self._begin()

    def down(self, why: str) -> None:
        """The session is gone."""
        if self._up:
            self.before_loss = self.error or self.phase
        self._up = False
        self._sub = self._look = 0
        self._checkpointing = False
        self.rate = (0.0, 0.0)
        if self.phase != "stopped":
            self.phase, self.error = "waiting", why

    def tick(self, now: float) -> None:
        """A few times a second."""
        if self._up and self.phase in ("waiting", "absent") and now >= self._retry_at:
            self._begin()
        if self.phase == "streaming":
            self._checkpoint(now)
        since, records, size = self._counted
        if now - since >= RATE_SECONDS:
            self.rate = (self._records - records) / (now - since), (self._bytes - size) / (now - since)
            self._counted = now, self._records, self._bytes

    def told(self, stat: LogStat) -> None:
        """How the log is now."""
        self.stat, self.told_at = stat, time.monotonic()
        if stat.next <= max(self.following, stat.first):
            self.moved = time.monotonic()

    def hurry(self) -> None:
        """The log is there now."""
        self._retry_at = 0.0

    @property
    def following(self) -> int:
        """The first record that is not written. A subscriber that another manager had may begin anywhere."""
        return self.state.next if self.state is not None else self._begun

    def close(self) -> None:
        """Let the name go, what was committed checkpointed."""
        if self._sub:
            self._checkpointing = False
            self._checkpoint(float("inf"))
            self._session.ask(messages.Unsubscribe(1, self._sub), _ignore)
            self._session.forget(self._sub)
            self._sub = 0
        self._up = False

    @property
    def settled(self) -> bool:
        """Whether the node knows of everything that was committed."""
        return not self._sub or (self._checkpointed >= self._committed and not self._checkpointing)

    def resume(self, at: int | None) -> None:
        """A person decided: go on at record `at`, or at the subscriber's position, whatever was pulled before."""
        self._decided = "position" if at is None else at
        self.phase, self.error = "waiting", ""
        self._retry_at = 0.0

    def again(self, state: SourceState | None) -> None:
        """What was handed over was thrown away: pull from what the ledger has."""
        self.state, self.next = state, state.next if state else None
        if self._sub:
            self._session.ask(messages.Unsubscribe(1, self._sub), _ignore)
            self._session.forget(self._sub)
            self._sub = 0
        self._wait("what was received did not follow what was written")

    # ---- from the first word to the subscription -------------------------------------------------------------------

    def _begin(self) -> None:
        if not self.absent:  # it is looked for again and again, and stays absent
            self.phase = "opening"
        else:
            self._retry_at = float("inf")
        self._mark = ""
        self._session.ask(messages.OpenLog(1, self.source.origin.log), self._opened)

    def _opened(self, answer: FromDaemon) -> None:
        if isinstance(answer, messages.Refused) and answer.code == LogNotFound.code:
            name = self.source.origin.log
            return self._is_absent("log", f"the node has no log {name}; it is pulled once there is one")
        if not isinstance(answer, messages.Opened):
            return self._refused(answer)
        self.phase, self.absent = "opening", ""
        self._uuid = answer.uuid
        self._session.ask(messages.Stat(1, self.source.origin.log), self._looked)

    def _looked(self, answer: FromDaemon) -> None:
        if not isinstance(answer, messages.StatIs):
            return self._refused(answer)
        stat = self.stat = answer.stat
        known = next((found for found in stat.subscribers if found.name == self.source.subscriber), None)
        if self.state is not None and self._decided is not None:
            self.next = None if self._decided == "position" else self._decided
            self._mark = mark_line(
                f"{self.source} goes on by decision; before, it ended at record {self.state.next - 1}"
            )
        elif self.state is not None and self._uuid != self.state.uuid:
            self.next = None
            before = f"the one before, {self.state.uuid}, ended at record {self.state.next - 1}"
            self._mark = mark_line(f"{self.source} is another log, {self._uuid}; {before}")
            _log.warning("%s is another log than was pulled before: it begins anew", self.source)
        elif self.next is not None and stat.next < self.next:
            return self._went_back(f"it ends at record {stat.next - 1}, and {self.next - 1} was written already")
        if known is None and self.state is not None and self._session.is_leaving:
            return self._is_absent("subscriber", "the node keeps nothing for it any more")
        if known is None:
            start = "begin" if self.next is None else max(self.next, stat.first)
            request = messages.SubscriberAdd(1, self.source.origin.log, self.source.subscriber, start)
            self._session.ask(request, self._added)
        else:
            self._verify()

    def _added(self, answer: FromDaemon) -> None:
        exists = isinstance(answer, messages.Refused) and answer.code == SubscriberExists.code
        if not isinstance(answer, messages.Done) and not exists:
            return self._refused(answer)
        if not exists:
            self._made = True
            _log.info("made subscriber %s of %s", self.source.subscriber, self.source)
        self._verify()

    def _verify(self) -> None:
        """Look at the last batch again, if the node still has it."""
        state, stat = self.state, self.stat
        if state is None or stat is None or self._mark or not state.last_first or state.last_first < stat.first:
            return self._subscribe()
        self.phase = "looking"
        self._looked_for = (state.last_first, state.last_count, state.last_crc, state.last_time)
        # One byte of credit: one delivery, and no more.
        request = messages.Subscribe(1, self.source.origin.log, "", state.last_first, False, 1)
        self._look = self._session.subscribe(request, self._seen)

    def _seen(self, answer: FromDaemon, batches: memoryview | None) -> None:
        if isinstance(answer, messages.Subscribed) or not self._look:
            return
        first = self._looked_for[0]  # not of the state: what was read before the session was lost may be committed now
        if isinstance(answer, messages.Refused | messages.Ended):
            return self._refused(answer)
        self._session.ask(messages.Unsubscribe(1, self._look), _ignore)
        self._session.forget(self._look)
        self._look = 0
        if isinstance(answer, messages.Delivery) and batches is not None:
            try:
                found, _ = decode_header(batches)
            except FormatError as error:
                return self._session.broken(str(error))
            if (found.first, found.count, found.body_crc, found.append_time) != self._looked_for:
                return self._went_back(f"record {first} is another one than was written")
        elif not isinstance(answer, messages.Delivery):
            return self._went_back(f"record {first} was written, and is not there any more")
        self._subscribe()

    def _went_back(self, how: str) -> None:
        """The log has another history than the one that was pulled: nothing is guessed."""
        self.phase = "stopped"
        origin = self.source.origin
        self.error = (
            f"the numbers of {self.source} went back: {how}. Was an old copy of the spool restored? Its records wait "
            f"on the node; look, and go on with `jlogctl manager resume {origin.node} {origin.log}`"
        )
        _log.error("%s", self.error)

    def _subscribe(self) -> None:
        self.phase = "subscribing"
        source = self.source
        request = messages.Subscribe(
            1, source.origin.log, source.subscriber, self.next, True, self._session.window()
        )  # fmt: skip
        self._sub = self._session.subscribe(request, self._received)

    def _is_absent(self, what: Absent, error: str) -> None:
        """The node does not have it: there is nothing to pull, until there is."""
        if not self.absent:
            self.absent_since = time.monotonic()
        self.absent = what
        self._wait(error)
        self.phase = "absent"

    def _refused(self, answer: FromDaemon) -> None:
        self.absent = ""
        self._wait(getattr(answer, "message", f"the node answered {type(answer).__name__}"))

    def _wait(self, error: str) -> None:
        if error != self.error:
            _log.warning("%s: %s", self.source, error)
        self.phase, self.error = "waiting", error
        self._retry_at = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, RETRY_SECONDS_MAX)

    # ---- streaming -------------------------------------------------------------------------------------------------

    def _received(self, message: FromDaemon, batches: memoryview | None) -> None:
        if isinstance(message, messages.Delivery):
            self._deliver(message, batches)
        elif isinstance(message, messages.Subscribed):
            self.phase, self.error = "streaming", ""
            self._window, self._taken = message.credit, 0
            self._checkpointed = 0
            self._committed = self.state.next if self.state is not None and not self._mark else 0
            self.moved = time.monotonic()
            if self.next is None:
                self.next = message.next
            if self.state is None:
                self._begin_at(message.next)
        elif isinstance(message, messages.Refused | messages.Ended):
            self._session.forget(self._sub)
            self._sub = 0
            self._refused(message)

    def _begin_at(self, number: int) -> None:
        """Nothing is in the ledger: whoever had this subscriber before decided where it begins."""
        if number != self._begun and not self._made:
            _log.warning(
                "%s: the node has a subscriber %s already, and this ledger knows nothing of it (another manager, or "
                "another ledger, had it): it begins at record %d", self.source, self.source.subscriber, number,
            )  # fmt: skip
        self._begun = number

    def _deliver(self, message: messages.Delivery, batches: memoryview | None) -> None:
        try:
            items = unseen(_arrived(message, batches), self.next)
        except FormatError as error:
            return self._session.broken(f"a delivery was damaged on the way: {error}")
        if not items:
            self._give_back(message.cost)
            return
        self.next = items[-1].next
        restart = None
        if self._mark:
            restart = self.state.restarts if self.state else None
            items.insert(0, Mark(items[0].first, self._mark))
            self._mark = ""
        self._session.put(Parcel(self.source, self._uuid, items, message.cost, restart, self._sub))

    def committed(self, parcel: Parcel, state: SourceState) -> None:
        """A parcel is in the ledger."""
        if parcel.restart is not None:  # it began anew; a session that came in between is not to do so once more
            self._mark, self._decided = "", None
        before = self.state
        self._records += state.records - (before.records if before else 0)
        self._bytes += state.bytes - (before.bytes if before else 0)
        self.state = state
        self.moved = time.monotonic()
        self._pause = RETRY_SECONDS_MIN
        self._committed = max(self._committed, state.next)
        if self._sub and parcel.token == self._sub:
            self._give_back(parcel.bytes)
        if self.phase == "streaming":
            self._checkpoint(self.moved)

    def _give_back(self, cost: int) -> None:
        self._taken += cost
        if self._taken * 2 >= self._window:
            self._session.send(messages.Credit(self._sub, self._taken))
            self._taken = 0

    def _checkpoint(self, now: float) -> None:
        wanted = self._committed
        if self._checkpointing or wanted <= self._checkpointed or now < self._checkpoint_at or not self._sub:
            return
        self._checkpointing = True
        self._checkpoint_at = time.monotonic() + CHECKPOINT_SECONDS

        def answered(answer: FromDaemon) -> None:
            self._checkpointing = False
            if isinstance(answer, messages.Done):
                self._checkpointed = wanted
            else:
                _log.warning("%s: the checkpoint was refused: %s", self.source, getattr(answer, "message", ""))

        self._session.ask(messages.Checkpoint(1, self._sub, wanted), answered)


def _arrived(message: messages.Delivery, data: memoryview | None) -> list[Batch | Gap]:
    """The batches and gaps of a delivery in order. Raises `FormatError` when a checksum fails."""
    batches: list[Batch | Gap] = []
    offset = 0
    while data is not None and offset < len(data):
        batch = decode(data, offset)
        batches.append(batch)
        offset += batch.size
    if not message.gaps:
        return batches
    gaps: list[Batch | Gap] = [Gap(gap.first, gap.last, gap.reason, gap.detail) for gap in message.gaps]
    return list(merge(batches, gaps, key=lambda item: item.first))


def _ignore(_answer: FromDaemon) -> None:
    return
