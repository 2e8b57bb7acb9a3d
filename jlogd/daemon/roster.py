"""The clients that have a session: how one begins, what each is sent, and how it ends.

    hello  -->  session  --subscribe-->  subscription, with its share of the credit that there is for all
                   |                          `-- ended: by the client, or because it is not granted any more
                   `-- ended, and its subscriptions with it, as `sessions_...` counts:
                       left        it said goodbye                   superseded  it came back over another connection
                       gone        its connection is                 stalled     it does not read what it is sent
                       expired     it was silent for too long        revoked     the daemon does not know it any more

What messages ask for is the server's affair (server.py), and what a subscription reads is the feeder's (delivery.py).

Locking: none; everything here belongs to the server's thread. Others may look at `sessions` and `granted`.
"""

from __future__ import annotations

from collections import Counter

from jlogd.daemon.delivery import Feeder
from jlogd.daemon.door import Door, Incoming
from jlogd.daemon.grants import Access, Party
from jlogd.daemon.session import Session, Subscription
from jlogd.errors import JlogError, NotAuthenticated, NotGranted, SlowDown, SubscriberUnknown
from jlogd.wire import messages
from jlogd.wire.messages import FromDaemon, Limits

SESSIONS_MAX = 1024
# Deliveries under way to all clients together. A new subscription gets a quarter of what is left of it at most, so that
# it does not run out, and never less than the minimum.
CREDIT_BYTES_TOTAL = 128 << 20
CREDIT_BYTES_MIN = 64 << 10
# A client that is silent for so long is looked for: the connection of a process that died is gone.
PROBE_SECONDS = 2.0
# Answers that a client does not read, besides the deliveries it gave credit for.
UNREAD_BYTES_MAX = 16 << 20


class Roster:
    """See the module's text. `sessions`: by the identity of the connection; `granted`: credit of all subscriptions."""

    def __init__(self, door: Door, feeder: Feeder, limits: Limits, events: Counter[str]) -> None:
        """What happens to sessions is counted in `events`."""
        self._door = door
        self._feeder = feeder
        self._limits = limits
        self._events = events
        self.sessions: dict[bytes, Session] = {}
        self.granted = 0

    # Sessions

    def greet(self, incoming: Incoming, hello: messages.Hello, party: Party) -> Session:
        """A session for who says hello, in place of the one it had. Raises `SlowDown` when there are too many."""
        same = (hello.client, incoming.user)
        for session in [known for known in self.sessions.values() if (known.client, known.user) == same]:
            self.drop(session, "superseded")
        if len(self.sessions) >= SESSIONS_MAX:
            raise SlowDown(f"the daemon serves {SESSIONS_MAX} clients already")
        session = Session(
            incoming.identity, hello.client, hello.note, incoming.user, incoming.peer, party, incoming.descriptor
        )
        self.sessions[incoming.identity] = session
        self._door.watch.sessions |= {incoming.descriptor}
        self._events["sessions"] += 1
        return session

    def tell(self, session: Session, message: FromDaemon) -> None:
        """Send a message."""
        self.send(session, messages.encode(message))

    def send(self, session: Session, control: bytes, frame: bytes | None = None) -> None:
        """Send what is encoded already; a client that does not take it loses its session."""
        if session.alive:
            self._door.watch.sent(session.descriptor, len(control) + len(frame or b""))
            sent = self._door.send(session.identity, control, frame)
            if sent == "stalled":
                self._cut(session)
            if sent != "sent":
                self.drop(session, sent)

    def probe(self, session: Session) -> None:
        """Notice that a client is gone: ZeroMQ knows it when something is sent."""
        self.tell(session, messages.Pong())

    def sweep(self, now: float) -> None:
        """Look for clients that are silent, and for those that do not read."""
        self._door.watch.sessions = frozenset(session.descriptor for session in self.sessions.values())
        for session in list(self.sessions.values()):
            silent = now - session.heard
            # A delivery may overdraw the credit by less than one batch.
            due = sum(found.window + messages.FRAME_BYTES_MAX for found in session.subscriptions.values())
            if self._door.watch.unread(session.descriptor) > due + UNREAD_BYTES_MAX:
                self._cut(session)
                self.drop(session, "stalled")
            elif silent > self._limits.session_seconds:
                self.drop(session, "expired")
            elif silent > PROBE_SECONDS:
                self.probe(session)

    def recheck(self, access: Access) -> None:
        """The grants are others now: what is not granted any more ends."""
        for session in list(self.sessions.values()):
            try:
                session.party = access.party(session.user)
            except NotAuthenticated as error:
                for subscription in list(session.subscriptions.values()):
                    self._end_subscription(subscription, error)
                self.drop(session, "revoked")
                continue
            for subscription in list(session.subscriptions.values()):
                self._end_unless_granted(subscription)

    def drop(self, session: Session, why: str) -> None:
        """End a session: its names are free, its batches under way are committed and not answered."""
        if session.alive:
            session.alive = False
            self._events[f"sessions_{why}"] += 1
            self.sessions.pop(session.identity, None)
            for subscription in list(session.subscriptions.values()):
                self.release(subscription)

    def _cut(self, session: Session) -> None:
        """It does not read what it is sent."""
        self._door.watch.fault(session.identity, session.descriptor, "does_not_read", session.since)

    # Subscriptions

    def subscription(self, session: Session, id_: int) -> Subscription:
        """The one that a client means. Raises `SubscriberUnknown`."""
        found = session.subscriptions.get(id_)
        if found is None:
            raise SubscriberUnknown(f"there is no subscription {id_}; it may have ended")
        return found

    def begun(self, subscription: Subscription) -> None:
        """The desk has made a subscription: it gets its credit, and is delivered to."""
        session = subscription.session
        session.requests -= 1
        left = (CREDIT_BYTES_TOTAL - self.granted) // 4
        most = min(self._limits.credit_bytes, max(CREDIT_BYTES_MIN, left))
        subscription.window = subscription.credit = min(subscription.credit, most)
        self.granted += subscription.window
        session.subscriptions[subscription.id] = subscription
        self.tell(session, messages.Subscribed(subscription.id, subscription.cursor.next, subscription.window))
        self._feeder.add(subscription)
        if not session.alive:
            self.release(subscription)
            return
        self._end_unless_granted(subscription)  # the grants may have changed while the desk was at it

    def release(self, subscription: Subscription) -> None:
        """Deliver nothing more; the desk gives the name up, and then it is `ended`."""
        subscription.session.subscriptions.pop(subscription.id, None)
        self._feeder.remove(subscription)

    def ended(self, subscription: Subscription) -> None:
        """The desk has given a subscription up."""
        subscription.session.subscriptions.pop(subscription.id, None)
        self.granted -= subscription.window

    def stop(self) -> None:
        """Deliver nothing more to anyone."""
        for session in list(self.sessions.values()):
            for subscription in list(session.subscriptions.values()):
                self._feeder.remove(subscription)

    def _end_unless_granted(self, subscription: Subscription) -> None:
        try:
            subscription.session.party.demand_subscription(subscription.log, subscription.name)
        except NotGranted as error:
            self._end_subscription(subscription, error)

    def _end_subscription(self, subscription: Subscription, error: JlogError) -> None:
        self.tell(subscription.session, messages.Ended(subscription.id, error.code, str(error)))
        self.release(subscription)
