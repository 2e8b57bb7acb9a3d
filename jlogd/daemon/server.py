"""The ZeroMQ side of the daemon: one thread that owns the socket, and works on every message or hands it on.

    clients --door--> server thread --submit--> committer of the log        (batches are checked, never decoded)
                          |  ^------ mailbox: outcomes of batches -------------'
                          |  ^------ mailbox: deliveries, from the feeder's threads (delivery.py)
                          |--------> desk: requests that touch a disk; their answers come by mailbox too (desk.py)
                          '--------> roster: the clients that have a session, and how each one ends (roster.py)

The thread takes all that has arrived before it looks at anything else, so that batches of many producers meet in one
commit; then it sends what is in the mailbox, acknowledgements to one client in one message. It never waits for a disk
or for a client.

What a message may ask for is decided before it is worked on, by who sent it (grants.py).

What a client can cost is bounded, whatever it sends: batches under way and deliveries by the windows of `Limits`,
requests by REQUESTS_MAX, what it does not read and what it sends at once by the door. What is not understood is
answered, where an answer has an address, counted by reason, and forgotten.

Locking: none; other threads reach this one through the mailbox only.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence

import zmq

from jlogd.daemon.auth import Auth
from jlogd.daemon.desk import Desk
from jlogd.daemon.door import SOCKET_MODE, Door, Incoming
from jlogd.daemon.grants import Access, Party
from jlogd.daemon.intake import Intake, Outcome
from jlogd.daemon.roster import Roster
from jlogd.daemon.served import Logs
from jlogd.daemon.session import Session, Subscription
from jlogd.daemon.tally import Tally
from jlogd.errors import JlogError, NoSession, ProtocolError, SlowDown
from jlogd.journal.types import Receipt
from jlogd.wire import messages
from jlogd.wire.keys import KeyPair, read_pair
from jlogd.wire.mailbox import Mailbox
from jlogd.wire.messages import FromDaemon, Limits

_log = logging.getLogger("jlogd.server")

# Requests of one client that wait for the desk.
REQUESTS_MAX = 64
# Messages taken in before acknowledgements and deliveries have their turn.
DRAIN_MESSAGES = 512
# Acknowledgements in one message.
ACKS_MAX = 1024
# How often clients and listeners are looked after.
SWEEP_SECONDS = 0.5
# Errors that are counted with the peer that caused them.
TURNED_AWAY = frozenset({"protocol", "no-session", "not-authenticated", "not-granted", "format", "too-large"})
# At the end: time for batches under way to be committed.
CLOSE_SECONDS = 5.0


class _Letter:
    """A message to a client, from another thread. `answers`: it is what a request at the desk waited for."""

    __slots__ = ("answers", "control", "frame", "session")

    def __init__(self, session: Session, message: FromDaemon, frame: bytes | None) -> None:
        self.session = session
        self.control = messages.encode(message)
        self.frame = frame
        self.answers = not isinstance(message, messages.Delivery | messages.End | messages.Ended)


Mail = Outcome | _Letter | Callable[[], None]


class Server:
    """Serves the logs of a daemon. `start` it, and `close` it before their committers; both from one thread.

    `stats` and `current` may be called from any thread.
    """

    def __init__(
        self,
        logs: Logs,
        addresses: Sequence[str],
        *,
        version: str = "",
        node: str = "",
        limits: Limits | None = None,
        auth: Auth | None = None,
        socket_mode: int = SOCKET_MODE,
    ) -> None:
        """Listens at once, so that a caller who may no more bind later can. Raises `UsageError`, `BadKey`."""
        self._logs = logs
        self._version, self._node = version, node
        self._limits = limits or Limits()
        self.tally = Tally()
        self._auth = auth or Auth()
        self._access = Access(self._auth)
        self._door = Door(addresses, self._auth, self.tally, socket_mode)
        self._mail: Mailbox[Mail] = Mailbox()
        self._intake = Intake(logs, self._limits.append_bytes, self._mail.put)
        self._desk = Desk(logs, self._post, self._post_begun, self._post_ended)
        self._events: Counter[str] = Counter()
        self._roster = Roster(self._door, self._desk.feeder, self._limits, self._events)
        self._swept = 0.0
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="jlogd server", daemon=True)

    @property
    def addresses(self) -> list[str]:
        """Where it listens, with the ports the system chose."""
        return list(self._door.addresses)

    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()

    def close(self) -> None:
        """Take in nothing more, answer what is under way, give all names up. A second call does nothing."""
        if not self._closing:
            self._closing = True
            self._mail.wake()
            if self._thread.ident is None:  # it was never started
                self._end()
            else:
                self._thread.join()

    def reload(self, auth: Auth) -> None:
        """Grants and clients count from the next message on; the daemon's key, when it is another, at once.

        What was granted and is not any more ends. Raises `BadKey`, and then nothing was changed.
        """
        pair = read_pair(auth.key) if auth.key else None
        self._mail.put(lambda: self._admit(Access(auth), pair))

    @property
    def public_key(self) -> str:
        """The key clients must know; "" when no listener demands one."""
        return self._door.public_key

    def problems(self) -> list[str]:
        """What is wrong, in words."""
        return [f"nobody listens on {address}: {why}" for address, why in list(self._door.missing.items())]

    def stats(self) -> dict[str, int]:
        """What was counted since the start, by event; refusals and malformed messages by reason."""
        return {**dict(self._events), **self._desk.feeder.counters, "malformed_batch": self._intake.malformed}

    def current(self) -> dict[str, int]:
        """What there is at the moment."""
        sessions = list(self._roster.sessions.values())
        return {
            "connections": self._door.watch.connections,
            "sessions": len(sessions),
            "subscriptions": sum(len(session.subscriptions) for session in sessions),
            "append_bytes_under_way": self._intake.under_way,
            "credit_bytes_granted": self._roster.granted,
        }

    # From other threads

    def _post(self, session: Session, message: FromDaemon, frame: bytes | None) -> None:
        self._mail.put(_Letter(session, message, frame))

    def _admit(self, access: Access, pair: KeyPair | None) -> None:
        self._access = self._door.gate.access = access
        self._roster.recheck(access)
        if pair is not None and pair.public != self.public_key and self.public_key:
            self._door.change_key(pair)
            _log.info(
                "the key of this daemon is %s now; those who were connected by the old one come back", pair.public
            )

    def _post_begun(self, subscription: Subscription) -> None:
        self._mail.put(lambda: self._roster.begun(subscription))

    def _post_ended(self, subscription: Subscription) -> None:
        self._mail.put(lambda: self._roster.ended(subscription))

    # The thread

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._door.socket, zmq.POLLIN)
        poller.register(self._mail.fileno(), zmq.POLLIN)
        try:
            while not self._closing:
                if self._mail.arm():
                    poller.poll(int(1000 * SWEEP_SECONDS))
                self._guarded(self._receive)
                self._guarded(self._send_mail)
                self._guarded(self._sweep)
        finally:
            self._end()

    def _guarded(self, step: Callable[[], None]) -> None:
        try:
            step()
        except Exception:  # whatever it is, the other clients are still to be served
            self._events["internal_errors"] += 1
            _log.exception("in the server's thread")

    def _end(self) -> None:
        deadline = time.monotonic() + CLOSE_SECONDS
        self._roster.stop()
        while self._intake.under_way and time.monotonic() < deadline:
            self._guarded(self._send_mail)
            time.sleep(0.001)
        self._desk.close()
        self._guarded(self._send_mail)
        self._door.close()
        self._mail.close()

    # Taking in

    def _receive(self) -> None:
        for _ in range(DRAIN_MESSAGES):
            incoming = self._door.receive()
            if incoming is None:
                return
            try:
                self._handle(incoming)
            except JlogError as error:
                self._refuse_message(incoming, error)
            except Exception:
                self._events["internal_errors"] += 1
                _log.exception("handling a message")
                self._refuse_message(incoming, JlogError("the daemon failed; its own log says why"))

    def _handle(self, incoming: Incoming) -> None:
        identity, control, frames = incoming.identity, incoming.control, incoming.frames
        party = self._access.party(incoming.user)
        if len(control) > messages.CONTROL_BYTES_MAX:
            raise self._malformed("control_too_long", f"a control has {messages.CONTROL_BYTES_MAX} bytes at most")
        try:
            message = messages.decode_request(control)
        except ProtocolError as error:
            raise self._malformed("not_understood", str(error)) from None
        session = self._roster.sessions.get(identity)
        if session is None or session.user != incoming.user:
            if not isinstance(message, messages.Hello):
                self._events["without_session"] += 1
                raise NoSession("say hello first")
            self._greet(incoming, message, party)
            return
        session.heard = time.monotonic()
        session.party = party
        party.demand(message)
        if isinstance(message, messages.Append):
            if not frames:
                raise self._malformed("frames", f"an append carries 1 to {messages.APPEND_BATCHES_MAX} batches")
            self._append(session, message, frames)
        elif frames or frames is None:
            raise self._malformed("frames", "only an append carries batches")
        else:
            self._request(session, message)

    def _malformed(self, reason: str, text: str) -> ProtocolError:
        self._events[f"malformed_{reason}"] += 1
        return ProtocolError(text)

    def _refuse_message(self, incoming: Incoming, error: JlogError) -> None:
        count = len(incoming.frames or ()) or 1
        self._turned_away(error, incoming, count)
        answer = messages.refused(messages.request_id(incoming.control), error, count)
        if self._door.send(incoming.identity, messages.encode(answer)) == "stalled":
            self._door.watch.fault(incoming.identity, incoming.descriptor, "does_not_read")
            if session := self._roster.sessions.get(incoming.identity):
                self._roster.drop(session, "stalled")

    def _refuse(self, session: Session, id_: int, error: JlogError, count: int = 1) -> None:
        self._events[f"refused_{error.code.replace('-', '_')}"] += count
        self._turned_away(error, session, count)
        self._roster.tell(session, messages.refused(id_, error, count))

    def _turned_away(self, error: JlogError, who: Incoming | Session, count: int) -> None:
        """Count what no client of ours would send, or what its grants do not cover."""
        if error.code in TURNED_AWAY:
            self._door.watch.fault(who.identity, who.descriptor)
            name = self._access.name_of(who.user, who.peer)
            if self.tally.count(error.code.replace("-", "_"), name, count):
                _log.warning("turned away %s: %s", name, error)

    def _greet(self, incoming: Incoming, hello: messages.Hello, party: Party) -> None:
        if hello.protocol < messages.PROTOCOL_MIN:
            raise ProtocolError(
                f"this daemon speaks protocol {messages.PROTOCOL_MIN} to {messages.PROTOCOL}, "
                f"the client {hello.protocol}: upgrade the client"
            )
        session = self._roster.greet(incoming, hello, party)
        protocol = min(hello.protocol, messages.PROTOCOL)
        self._roster.tell(session, messages.Welcome(hello.id, protocol, self._version, self._limits, self._node))

    def _append(self, session: Session, message: messages.Append, frames: list[bytes | memoryview]) -> None:
        try:
            self._logs.get(message.log)
        except JlogError as error:
            self._refuse(session, message.id, error, len(frames))
            return
        for id_, frame in enumerate(frames, message.id):
            try:
                self._intake.take(session, message.log, id_, frame)
            except JlogError as error:
                self._refuse(session, id_, error)

    def _request(self, session: Session, message: messages.FromClient) -> None:
        match message:
            case messages.Credit():
                subscription = session.subscriptions.get(message.sub)
                if subscription is not None:
                    self._desk.feeder.give_credit(subscription, message.bytes)
            case messages.Ping():
                self._roster.tell(session, messages.Pong(message.id))
            case messages.Bye():
                self._roster.drop(session, "left")
            case messages.More():
                subscription = self._roster.subscription(session, message.sub)
                self._desk.feeder.more(subscription, message.id, message.follow)
            case messages.Hello():
                raise self._malformed("second_hello", "this connection has a session already")
            case _:
                self._ask(session, message)

    def _ask(self, session: Session, message: messages.FromClient) -> None:
        if session.requests >= REQUESTS_MAX:
            raise SlowDown(f"{REQUESTS_MAX} requests of this client wait already")
        match message:
            case messages.Checkpoint():
                self._desk.checkpoint(self._roster.subscription(session, message.sub), message)
            case messages.Unsubscribe():
                subscription = self._roster.subscription(session, message.sub)
                subscription.unsubscribe = message.id
                self._roster.release(subscription)
            case messages.Subscribe():
                self._subscribe(session, message)
            case _:
                self._desk.ask(session, message)
        session.requests += 1

    def _subscribe(self, session: Session, message: messages.Subscribe) -> None:
        if message.id in session.subscriptions:
            raise self._malformed("id_reused", f"subscription {message.id} exists already")
        if len(session.subscriptions) >= self._limits.subscriptions:
            raise SlowDown(f"a client may have {self._limits.subscriptions} subscriptions")
        holder = self._desk.holder(message.log, message.name) if message.name else None
        if holder is not None and holder is not session:
            self._roster.probe(holder)
        self._desk.ask(session, message)

    # Sending

    def _send_mail(self) -> None:
        acks: dict[Session, list[messages.Ack]] = {}
        for mail in self._mail.take():
            if isinstance(mail, Outcome):
                self._outcome(mail, acks)
            elif isinstance(mail, _Letter):
                mail.session.requests -= mail.answers
                self._roster.send(mail.session, mail.control, mail.frame)
            else:
                mail()
        for session, found in acks.items():
            self._send_acks(session, found)

    def _outcome(self, mail: Outcome, acks: dict[Session, list[messages.Ack]]) -> None:
        session, outcome = mail.session, mail.outcome
        self._intake.settle(mail)
        if isinstance(outcome, Receipt):
            found = acks.setdefault(session, [])
            found.append(messages.Ack(mail.id, outcome.first, outcome.count, outcome.duplicate))
            if len(found) < ACKS_MAX:
                return
        self._send_acks(session, acks.pop(session, []))
        if isinstance(outcome, JlogError):
            self._refuse(session, mail.id, outcome)

    def _send_acks(self, session: Session, acks: list[messages.Ack]) -> None:
        if acks:
            self._events["acks"] += len(acks)
            self._roster.tell(session, messages.Acks(acks))

    def _sweep(self) -> None:
        now = time.monotonic()
        if now - self._swept >= SWEEP_SECONDS:
            self._swept = now
            if self._door.missing:
                self._door.listen_again()
            self._roster.sweep(now)
