"""The requests that touch a disk: a few threads work on them, so that the server's thread never waits for one.

Creating a log, statistics, subscribers, subscribing (which takes the name's lock), checkpoints, and giving a name up.

Locking: `_mutex` guards who holds which name, and the checkpoints that wait. Checkpoints of one subscription are done
one after another; those that came in meanwhile are done in one step.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from jlogd.daemon.delivery import Feeder
from jlogd.daemon.served import Logs, Served
from jlogd.daemon.session import Session, Subscription
from jlogd.errors import JlogError, NotServed, SubscriberBusy, SubscriberUnknown, UsageError
from jlogd.journal.subscribers import check_subscriber_name
from jlogd.journal.types import LogStat
from jlogd.spoolcheck.verdict import told_risks
from jlogd.wire import messages
from jlogd.wire.messages import FromDaemon

# Slow disks hang; four at once leave the others served.
DESK_THREADS = 4
# A name whose consumer has just gone is free as soon as its last checkpoint is written.
RELEASE_SECONDS = 5.0
_PRODUCER_MAX = (1 << 64) - 1

_log = logging.getLogger("jlogd.server")

Answer = Callable[[Session, FromDaemon, bytes | None], None]


class Desk:
    """See the module's text. `ask`, `checkpoint` and `give_up` are called by the server's thread and return at once."""

    def __init__(
        self, logs: Logs, answer: Answer, begun: Callable[[Subscription], None], ended: Callable[[Subscription], None]
    ) -> None:
        """`answer` sends an answer; `begun` is told of a new subscription, which waits for `feeder.add`, and `ended` of
        one that is gone. They are called from threads of the desk."""
        self._logs = logs
        self._answer = answer
        self._begun = begun
        self._ended = ended
        self._mutex = threading.Lock()
        self._holders: dict[tuple[str, str], Subscription | Session] = {}
        self._pool = ThreadPoolExecutor(DESK_THREADS, thread_name_prefix="jlogd desk")
        # On a thread of its own: the others may wait for a name that is being given up.
        self._exits = ThreadPoolExecutor(1, thread_name_prefix="jlogd desk exit")
        self.feeder = Feeder(answer, self.give_up)

    def ask(self, session: Session, request: messages.FromClient) -> None:
        """Work on a request and answer it."""
        self._pool.submit(self._work, session, request)

    def checkpoint(self, subscription: Subscription, request: messages.Checkpoint) -> None:
        """Move a subscriber."""
        with self._mutex:
            subscription.pending.append((request.id, request.next))
            if subscription.checkpointing:
                return
            subscription.checkpointing = True
        self._pool.submit(self._checkpoints, subscription)

    def give_up(self, subscription: Subscription) -> None:
        """Release a subscription that nothing is read for any more."""
        with suppress(RuntimeError):  # the pool was shut down: `close` releases what is left
            self._exits.submit(self._release, subscription)

    def holder(self, log: str, name: str) -> Session | None:
        """The client that consumes as subscriber `name`."""
        with self._mutex:
            found = self._holders.get((log, name))
        return found.session if isinstance(found, Subscription) else found

    def close(self) -> None:
        """Finish what is under way; names are free when this returns."""
        self.feeder.close()
        self._pool.shutdown()
        self._exits.shutdown()
        with self._mutex:
            held = [found for found in self._holders.values() if isinstance(found, Subscription)]
        for subscription in held:
            self._release(subscription)

    # In the desk's threads

    def _work(self, session: Session, request: messages.FromClient) -> None:
        id_: int = getattr(request, "id", 0)
        try:
            answer = self._handle(session, request)
        except (JlogError, OSError) as error:
            answer = messages.refused(id_, error if isinstance(error, JlogError) else JlogError(str(error)))
        except Exception:
            _log.exception("working on a request of %s", session.note)
            answer = messages.refused(id_, JlogError("the daemon failed; its own log says why"))
        if answer is not None:
            self._answer(session, answer, None)

    def _handle(self, session: Session, request: messages.FromClient) -> FromDaemon | None:
        given = [name for name in (getattr(request, "name", ""), getattr(request, "source", "")) if name]
        for name in (*given, *getattr(request, "subscribers", ())):  # before it becomes part of a path
            check_subscriber_name(name)
        match request:
            case messages.ListLogs():
                return messages.Logs(request.id, [name for name in self._logs.names() if session.party.sees(name)])
            case messages.OpenLog():
                return _opened(request.id, request.log, self._logs.get(request.log, session.party.sees))
            case messages.CreateLog():
                served = self._logs.create(request.log, request.settings, request.subscribers)
                return _opened(request.id, request.log, served)
            case messages.Stat():
                return messages.StatIs(request.id, self._stat(request.log))
            case messages.Position():
                if request.producer > _PRODUCER_MAX:
                    raise UsageError("a producer is a number of 64 bits")
                journal = self._logs.get(request.log).journal
                return messages.PositionIs(request.id, journal.producer_position(request.producer))
            case messages.Subscribe():
                self._subscribe(session, request)
                return None
            case _:
                self._administer(request)
                return messages.Done(getattr(request, "id", 0))

    def _administer(self, request: messages.FromClient) -> None:
        match request:
            case messages.SubscriberAdd():
                start = messages.start_from_wire(request.start)
                self._logs.get(request.log).journal.add_subscriber(request.name, start, request.caps)
            case messages.SubscriberRemove():
                self._logs.get(request.log).journal.remove_subscriber(request.name)
            case messages.SubscriberSet():
                start = messages.start_from_wire(request.start)
                self._logs.get(request.log).journal.set_subscriber(request.name, start)
            case messages.SubscriberCaps():
                self._set_caps(request)
            case messages.SubscriberClone():
                self._logs.get(request.log).journal.clone_subscriber(request.name, request.source)
            case _:
                raise NotServed(f"the daemon does not serve {type(request).__name__}")

    def _set_caps(self, request: messages.SubscriberCaps) -> None:
        journal = self._logs.get(request.log).journal
        with self._mutex:
            holder = self._holders.get((request.log, request.name))
        if not isinstance(holder, Subscription):
            journal.set_caps(request.name, request.caps)
            return
        # Who has fallen behind is who needs other caps, and is not to be interrupted for it.
        with holder.reading:
            if holder.hold is None or holder.given_up:
                raise SubscriberBusy(f"subscriber {request.name} of {request.log} is just being given up; ask again")
            holder.hold.replace(caps=request.caps)
        journal.prune()

    def _stat(self, log: str) -> LogStat:
        journal = self._logs.get(log).journal
        stat = journal.stat()
        stat.risks = told_risks(journal.path.parent)
        for subscriber in stat.subscribers:
            holder = self.holder(log, subscriber.name)
            if holder is not None:  # the lock is this daemon's; who is behind it is what people want to know
                subscriber.holder = holder.note or subscriber.holder
        return stat

    def _subscribe(self, session: Session, request: messages.Subscribe) -> None:
        served = self._logs.get(request.log)
        if request.name:
            subscription = self._named(session, request, served)
        else:
            start = messages.start_from_wire("begin" if request.start is None else request.start)
            cursor = served.journal.cursor(start)
            subscription = Subscription(session, request, served, None, cursor)
        self._begun(subscription)

    def _named(self, session: Session, request: messages.Subscribe, served: Served) -> Subscription:
        if isinstance(request.start, str):
            raise UsageError("a named subscriber goes on at its checkpoint; move it with subscriber-set")
        key = (request.log, request.name)
        with self._mutex:
            holder = self._holders.get(key)
        if isinstance(holder, Subscription) and holder.closing:
            holder.released.wait(RELEASE_SECONDS)
        with self._mutex:
            holder = self._holders.setdefault(key, session)
        if holder is not session:
            who = holder.session if isinstance(holder, Subscription) else holder
            raise SubscriberBusy(
                f"subscriber {request.name} of {request.log} is in use by {who.note or 'another client'}; "
                "one consumer at a time: stop it, or use another name"
            )
        try:
            hold = served.journal.hold(request.name, session.note)
            try:
                if request.start is not None and request.start > hold.cursor.next:
                    # A client that comes back names where it was; what is before that was delivered already.
                    hold.seek(request.start)
                subscription = Subscription(session, request, served, hold, hold.cursor)
            except BaseException:
                hold.release()
                raise
        except BaseException:
            with self._mutex:
                del self._holders[key]
            raise
        with self._mutex:
            self._holders[key] = subscription
        return subscription

    def _checkpoints(self, subscription: Subscription) -> None:
        while True:
            with self._mutex:
                pending = list(subscription.pending)
                subscription.pending.clear()
                if not pending:
                    subscription.checkpointing = False
                    return
            for id_, error in _move(subscription, pending):
                answer = messages.Done(id_) if error is None else messages.refused(id_, error)
                self._answer(subscription.session, answer, None)

    def _release(self, subscription: Subscription) -> None:
        try:
            self._checkpoints(subscription)
            subscription.release()
        except (JlogError, OSError) as error:
            _log.warning("giving up subscriber %s of %s: %s", subscription.name, subscription.log, error)
        finally:
            with self._mutex:
                key = (subscription.log, subscription.name)
                if self._holders.get(key) is subscription:
                    del self._holders[key]
            subscription.released.set()
            if subscription.unsubscribe:
                self._answer(subscription.session, messages.Done(subscription.unsubscribe), None)
            self._ended(subscription)


def _move(subscription: Subscription, pending: list[tuple[int, int]]) -> list[tuple[int, JlogError | None]]:
    """Do the checkpoints, given as (request, sequence): the highest does it for all. Each request with its error."""
    outcomes: list[tuple[int, JlogError | None]] = []
    with subscription.reading:
        reached = subscription.cursor.next
        for id_, sequence in pending:
            above = UsageError(f"cannot checkpoint {sequence}: only records below {reached} were delivered")
            outcomes.append((id_, above if sequence > reached else None))
        try:
            if subscription.given_up:
                raise SubscriberUnknown("the subscription has ended")
            if subscription.hold is not None:
                subscription.hold.checkpoint(max((s for _, s in pending if s <= reached), default=0))
        except (JlogError, OSError) as error:
            failed = error if isinstance(error, JlogError) else JlogError(f"the checkpoint was not written: {error}")
            return [(id_, failed) for id_, _ in pending]
    return outcomes


def _opened(id_: int, log: str, served: Served) -> messages.Opened:
    journal = served.journal
    return messages.Opened(id_, log, journal.uuid, journal.settings.compression, journal.settings.durability)
