"""The session with one node: connected, greeted, its logs listed, a pull for each that is wanted; and again when lost.

    apart --connect--> greeting --welcome--> up --lost, silent, broken--> apart (a pause, which grows)

A session owns one link. It never waits: it is called when something may have arrived, and a few times a second. All of
it runs in the hub's thread; `describe` may be called from any.
"""

from __future__ import annotations

import logging
import random
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import zmq

from jlogd.errors import ProtocolError
from jlogd.journal.types import NAME
from jlogd.manager.config import ManagedNode
from jlogd.manager.ledger import SourceState
from jlogd.manager.parcel import Parcel, Source
from jlogd.manager.pull import Answered, Pull
from jlogd.wire import messages
from jlogd.wire.credentials import Credentials, failure_text, of_manager
from jlogd.wire.link import Link
from jlogd.wire.messages import PROTOCOL, PROTOCOL_MIN, FromDaemon

_log = logging.getLogger("jlogd.manager")

# Pauses between attempts to connect: at once after a restart of the node, and little work when it stays away.
RETRY_SECONDS_MIN = 0.1
RETRY_SECONDS_MAX = 10.0
# A session that lasted so long was a good one. A node that greets and then sends nonsense is not tried all the time.
STEADY_SECONDS = 2.0
# From connect to welcome; nothing in between touches a disk.
HELLO_SECONDS = 10.0
PING_SECONDS = 5.0
# A node that says nothing for so long, although it is asked, is gone without a word.
DEAD_SECONDS = 15.0
# What touches a disk may take a while on a busy node.
ANSWER_SECONDS = 60.0
# New logs of a node are found within this time.
LIST_SECONDS = 10.0
# Messages taken from one node before the others have their turn.
DRAIN_MESSAGES = 8
# Deliveries that may wait in ZeroMQ, unread, while there is no room for more; then TCP holds the node back.
RECEIVED_MAX = 4

Received = Callable[[FromDaemon, memoryview | None], None]


class Home(Protocol):
    """What a session needs of the hub."""

    context: zmq.Context[zmq.Socket[bytes]]
    note: str
    is_leaving: bool

    def watch(self, session: NodeSession, descriptors: list[int]) -> None:
        """Call `session.receive` when one of these is readable."""

    def unwatch(self, descriptors: list[int]) -> None:
        """The opposite, before they are closed."""

    def touched(self, session: NodeSession) -> None:
        """Something was sent: what had arrived may not be announced any more, so look."""

    def put(self, parcel: Parcel) -> None:
        """Hand a parcel to the rounds."""

    def state(self, source: Source) -> SourceState | None:
        """How far a source was pulled."""

    def window(self, of_node: int) -> int:
        """Bytes of credit for each of so many pulls of one node."""

    def stat_seconds(self) -> float:
        """How often each log is asked how far it is."""

    def credentials(self, node: ManagedNode) -> Credentials | None:
        """The manager's keys and those of a node; None to go without."""


class NodeSession:
    """See the module's text."""

    def __init__(self, home: Home, node: ManagedNode, wanted: Callable[[ManagedNode, list[str]], list[Source]]) -> None:
        """`wanted` gives what is to be pulled from a node that has these logs."""
        self.node = node
        self.error = ""
        self.since = time.monotonic()  # when it came up, or went down
        self.listed = 0.0  # when its logs were listed last
        self.logs: frozenset[str] = frozenset()  # those it had then
        self.pulls: dict[str, Pull] = {}
        self._home = home
        self._wanted = wanted
        self._client = secrets.token_hex(16)
        self._link: Link | None = None
        self._descriptors: list[int] = []
        self._is_up = False
        self._last_id = 0
        self._answers: dict[int, tuple[Answered, float]] = {}
        self._subscriptions: dict[int, Received] = {}
        self._next_try = 0.0
        self._pause = RETRY_SECONDS_MIN
        self._heard = self._pinged = self._listed = self._hello_until = 0.0
        self._stat_at = 0.0
        self._broken = ""
        self._key = 0  # which of the node's keys is tried
        self._wrong_names: list[str] = []
        self._told = ""  # why it cannot be talked to, as the log has it

    @property
    def is_up(self) -> bool:
        return self._is_up

    @property
    def is_leaving(self) -> bool:
        return self._home.is_leaving

    # ---- called by the hub -----------------------------------------------------------------------------------------

    def receive(self) -> bool:
        """Take what has arrived; whether there may be more."""
        for _ in range(DRAIN_MESSAGES):
            if self._link is None:
                return False
            found = self._link.receive()
            if found is None:
                return False
            self._heard = time.monotonic()
            try:
                self._dispatch(messages.decode_answer(found[0]), found[1])
            except ProtocolError as error:
                self.broken(str(error))
        return True

    def tick(self, now: float) -> None:
        """A few times a second: connect, ping, ask how things are, notice a loss."""
        if self._link is None:
            if now >= self._next_try:
                self._connect(now)
            return
        lost = self._link.lost()
        while lost and self.receive():
            pass
        if lost or self._broken or (not self._is_up and now > self._hello_until) or now - self._heard > DEAD_SECONDS:
            self._drop(now)
        elif self._is_up:
            self._keep(now)
            for pull in self.pulls.values():
                pull.tick(now)

    def replace(self, wanted: Callable[[ManagedNode, list[str]], list[Source]]) -> None:
        """Other rules: what is wanted of this node is asked again."""
        self._wanted = wanted
        self._listed = 0.0

    def leave(self) -> None:
        """Say what was committed, let the names go."""
        for pull in self.pulls.values():
            pull.close()

    def settled(self) -> bool:
        """Whether the node has answered everything."""
        return not self._is_up or not self._answers

    def close(self) -> None:
        """Close the link."""
        if self._link is not None:
            if self._is_up:
                self.send(messages.Bye())
            self._unlink(linger_ms=200)

    # ---- called by pulls -------------------------------------------------------------------------------------------

    def ask(self, message: messages.FromClient, answered: Answered) -> None:
        """Send a request; `answered` gets the answer, unless the session ends before."""
        id_ = self._number()
        message.id = id_  # type: ignore[union-attr]
        self._answers[id_] = (answered, time.monotonic() + ANSWER_SECONDS)
        self.send(message)

    def subscribe(self, message: messages.Subscribe, received: Received) -> int:
        """Subscribe; its number."""
        message.id = self._number()
        self._subscriptions[message.id] = received
        self.send(message)
        return message.id

    def forget(self, subscription: int) -> None:
        self._subscriptions.pop(subscription, None)

    def send(self, message: messages.FromClient) -> None:
        if self._link is not None:
            self._link.send((messages.encode(message),))
            self._home.touched(self)

    def put(self, parcel: Parcel) -> None:
        self._home.put(parcel)

    def broken(self, why: str) -> None:
        self._broken = self._broken or why

    def window(self) -> int:
        return self._home.window(len(self.pulls))

    # ---- inside ----------------------------------------------------------------------------------------------------

    def _number(self) -> int:
        self._last_id += 1
        return self._last_id

    def _connect(self, now: float) -> None:
        self._broken = ""
        credentials = self._home.credentials(self.node)
        server_key = credentials.server_keys[self._key % len(credentials.server_keys)] if credentials else ""
        self._link = Link(self._home.context, self.node.address, credentials, server_key, received_max=RECEIVED_MAX)
        self._descriptors = self._link.descriptors()
        self._home.watch(self, self._descriptors)
        self._hello_until = now + HELLO_SECONDS
        self._heard = self._pinged = now
        self.send(messages.Hello(self._number(), PROTOCOL, self._client, self._home.note))

    def _drop(self, now: float) -> None:
        """The link is of no use any more."""
        if self._is_up:
            why = self._broken or f"lost the node at {self.node.address}"
            _log.warning("node %s: %s", self.node.name, why)
        else:
            why = self._broken or self._kept_out()
            if why and why != self._told:  # not of our making, as an outage is: a person must do something
                self._told = why
                _log.warning("node %s: %s", self.node.name, why)
            why = why or f"no answer from {self.node.address}"
        self._unlink()
        if self._is_up and now - self.since >= STEADY_SECONDS:
            self._pause = RETRY_SECONDS_MIN
        # Managers that lost a node at the same moment come back spread out.
        self._next_try = now + self._pause * random.uniform(0.5, 1.0)
        self._pause = min(2 * self._pause, RETRY_SECONDS_MAX)
        if self._is_up or not self.error:
            self.since = now
        self._is_up, self.error = False, why
        self._answers.clear()
        self._subscriptions.clear()
        for pull in self.pulls.values():
            pull.down(why)

    def _kept_out(self) -> str:
        """Why the two did not even greet each other; the next attempt is with the next of the node's keys."""
        failure = self._link.failure if self._link is not None else ""
        if not failure:
            return ""
        self._key += 1
        return failure_text(self.node.address, failure, self._home.credentials(self.node), of_manager(self.node.name))

    def _unlink(self, linger_ms: int = 0) -> None:
        link, self._link = self._link, None
        if link is not None:
            self._home.unwatch(self._descriptors)
            link.shut(linger_ms)

    def _dispatch(self, message: FromDaemon, batches: memoryview | None) -> None:
        if isinstance(message, messages.Delivery | messages.End | messages.Ended):
            received = self._subscriptions.get(message.sub)
            if received is not None:
                received(message, batches)
        elif isinstance(message, messages.Welcome):
            self._begin(message)
        elif isinstance(message, messages.Acks):
            self.broken("the node acknowledges what was not sent")
        elif not self._is_up:
            self.broken(getattr(message, "message", "the node does not greet"))
        elif isinstance(message, messages.Refused) and message.code == "no-session":
            self.broken("the node does not know this session any more")
        elif message.id in self._subscriptions:
            self._subscriptions[message.id](message, None)
        elif (waiting := self._answers.pop(message.id, None)) is not None:
            waiting[0](message)

    def _begin(self, welcome: messages.Welcome) -> None:
        if not PROTOCOL_MIN <= welcome.protocol <= PROTOCOL:
            return self.broken(
                f"the node speaks protocol {welcome.protocol}, this manager {PROTOCOL}: upgrade one of them"
            )
        if welcome.node and welcome.node != self.node.name:
            # A wrong address in the configuration would file one node's records under another's name.
            return self.broken(
                f"at {self.node.address} is node {welcome.node}, not {self.node.name}; see its [node] name"
            )
        self._is_up, self.error, self.since = True, "", time.monotonic()
        self._told = ""
        self._listed = 0.0
        for pull in self.pulls.values():
            pull.up()

    def _keep(self, now: float) -> None:
        if now - self._pinged > PING_SECONDS:
            self._pinged = now
            self.send(messages.Ping(self._number()))
        if now - self._listed > LIST_SECONDS:
            self._listed = now
            self.ask(messages.ListLogs(1), self._logs)
        if now >= self._stat_at:
            self._stat_at = now + self._home.stat_seconds()
            for pull in self.pulls.values():
                if pull.phase == "streaming":
                    self.ask(messages.Stat(1, pull.source.origin.log), _keeper(pull))
        if any(deadline < now for _, deadline in self._answers.values()):
            self.broken(f"a request was not answered within {ANSWER_SECONDS:g} s")

    def _logs(self, answer: FromDaemon) -> None:
        if not isinstance(answer, messages.Logs):
            return
        self.listed = time.monotonic()
        logs = self._sound(answer.logs)
        self.logs = frozenset(logs)
        wanted = {source.key: source for source in self._wanted(self.node, logs)}
        for key in [key for key, pull in self.pulls.items() if wanted.get(key) != pull.source]:
            self.pulls.pop(key).close()
        for key, source in wanted.items():
            if key not in self.pulls:
                self.pulls[key] = Pull(self, source, self._home.state(source))
                self.pulls[key].up()
            elif self.pulls[key].absent == "log" and source.origin.log in self.logs:
                self.pulls[key].hurry()

    def _sound(self, logs: Sequence[str]) -> list[str]:
        """The names that can be those of logs: they become parts of paths, and of keys of the ledger."""
        sound = [name for name in logs if NAME.fullmatch(name)]
        wrong = sorted(set(logs) - set(sound))
        if wrong and wrong != self._wrong_names:
            _log.error(
                "node %s has %d logs whose names no log can have, %.100r first; they are not pulled: is it a jlogd?",
                self.node.name, len(wrong), wrong[0],
            )  # fmt: skip
        self._wrong_names = wrong
        return sound


def _keeper(pull: Pull) -> Answered:
    def answered(answer: FromDaemon) -> None:
        if isinstance(answer, messages.StatIs):
            pull.told(answer.stat)

    return answered
