"""One connection to a daemon, shared by everything in this process that uses the same address.

    any thread  --(mailbox)-->  the connection's thread  <--(DEALER)-->  daemon

The thread owns the link, the session and the lists of who waits for what, so none of them needs a lock. Others reach it
through `request` (a question, its answer), and through channels: long-lived parties (a sink, a feed) whose methods the
thread calls. A connection that is lost is made anew, with growing pauses, for as long as someone uses it.
"""

from __future__ import annotations

import logging
import os
import random
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import zmq

from jlogd import errors
from jlogd.errors import Closed, JlogError, NoSession, NotAuthenticated, ProtocolError, RemoteError
from jlogd.wire import messages
from jlogd.wire.address import check_address
from jlogd.wire.credentials import Credentials, failure_text
from jlogd.wire.link import Link
from jlogd.wire.mailbox import Mailbox
from jlogd.wire.messages import PROTOCOL, PROTOCOL_MIN, Ack, AnyRequest, FromDaemon, Limits
from jlogd.wire.questions import Question, Questions

_log = logging.getLogger("jlogd.wire")

# A question to a daemon that works is answered in milliseconds; a slow disk behind it may take seconds.
REQUEST_SECONDS = 10.0
# Between hello and welcome nothing touches a disk.
HELLO_SECONDS = 5.0
# Pauses between attempts to connect: at once after a restart, and no load when the daemon stays away.
RETRY_SECONDS_MIN = 0.02
RETRY_SECONDS_MAX = 2.0
# A daemon that says nothing for so long, although it is asked, is gone without a word (a host that lost its power).
DEAD_SECONDS = 10.0
TICK_SECONDS = 0.25
# Greetings that may fail without a reason before the reason is taken to be the keys.
GREETINGS_MAX = 3
# Time for a goodbye to leave when a connection is closed.
LINGER_MS = 200

Answered = Callable[[FromDaemon | Ack, memoryview | None], None]


class Channel(Protocol):
    """A long-lived party of a connection. All of it is called in the connection's thread."""

    def up(self, limits: Limits) -> None:
        """A session began: subscribe, send again what was not acknowledged."""

    def down(self) -> None:
        """The session ended; what was under way is not known."""

    def pump(self) -> None:
        """`poke` was called."""

    def tick(self, now: float) -> None:
        """Called a few times a second, with a session or without."""

    def shut(self, error: JlogError) -> None:
        """The connection was closed, with the channel still attached."""


class Connection:
    """See the module's text. `request`, `attach`, `detach`, `poke` and `close` may be called from any thread; the rest
    belongs to the channels, in the connection's thread."""

    def __init__(self, address: str, note: str = "", credentials: Credentials | None = None) -> None:
        self.address = check_address(address)
        self.credentials = credentials
        self.limits: Limits | None = None  # None while there is no session
        self.down_since = time.monotonic()
        self._note = note[: messages.NOTE_LENGTH_MAX]
        self._client = secrets.token_hex(16)
        self._pid = os.getpid()
        self._mail: Mailbox[Callable[[], None]] = Mailbox()
        self._channels: list[Channel] = []
        self._questions = Questions()
        self._owners: dict[int, Answered] = {}
        self._last_id = 0
        self._window_used = 0
        self._crowded: list[Channel] = []
        self._was_up = False
        self._trouble = ""
        self._server_key = self._keys_failed = 0  # of several server keys: which one is tried, how many did not fit
        self._link: Link | None = None
        self._next_try = self._hello_until = 0.0
        self._pause = RETRY_SECONDS_MIN
        self._heard = self._pinged = self._ticked = 0.0
        self._broken = self._closing = False
        self._poller = zmq.Poller()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._thread = threading.Thread(target=self._run, name=f"jlogd {self.address}", daemon=True)
        self._thread.start()

    # From any thread

    def request(self, message: AnyRequest, timeout: float = REQUEST_SECONDS) -> FromDaemon:
        """The answer to `message`, whose id is chosen here. Raises what the daemon refused it with, and `RemoteError`
        when there is no answer within `timeout` seconds."""
        self.check()
        question = Question(message, timeout)
        self._mail.put(lambda: self._ask(question))
        answer = question.result(self._thread.is_alive, TICK_SECONDS)
        if answer is None:
            raise Closed(f"the connection to {self.address} is closed")
        if isinstance(answer, messages.Refused):
            raise errors.from_wire(answer.code, answer.message)
        return answer

    def attach(self, channel: Channel) -> None:
        """Serve a channel from now on."""
        self.check()
        self._mail.put(lambda: self._attach(channel))

    def detach(self, channel: Channel, error: JlogError) -> None:
        """Forget a channel: `channel.shut(error)` is the last that is called of it, and has returned when this does."""
        if self._pid != os.getpid():
            return
        gone = threading.Event()
        self._mail.put(lambda: self._detach(channel, error, gone))
        if threading.current_thread() is not self._thread:
            while self._thread.is_alive() and not gone.wait(TICK_SECONDS):
                pass

    def poke(self, channel: Channel) -> None:
        """Have `channel.pump()` called soon."""
        self._mail.put(channel.pump)

    def close(self) -> None:
        """Say goodbye and end the thread. A second call does nothing, nor does one in a forked child."""
        if self._pid != os.getpid():
            return
        self._closing = True
        self._mail.wake()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    @property
    def usable(self) -> bool:
        """Whether it is open, in the process that made it."""
        return not self._closing and self._pid == os.getpid()

    def check(self) -> None:
        """Raise `Closed` when it is not usable."""
        if self._pid != os.getpid():
            raise Closed(f"the connection to {self.address} was opened before this process was forked; open another")
        if self._closing:
            raise Closed(f"the connection to {self.address} is closed")

    # For channels

    def number(self, count: int = 1) -> int:
        """The first of `count` fresh ids."""
        first = self._last_id + 1
        self._last_id += count
        return first

    def expect(self, id_: int, answered: Answered) -> None:
        """Call `answered` with every message that names `id_` and its batches, until `forget` or the session's end."""
        self._owners[id_] = answered

    def forget(self, id_: int) -> None:
        """The opposite of `expect`."""
        self._owners.pop(id_, None)

    def room(self, channel: Channel, cost: int, *, alone: bool) -> bool:
        """Whether batches of so many bytes may be sent now. If not, `channel.pump()` is called when there is room.

        One batch `alone` may be larger than the window.
        """
        used, limits = self._window_used, self.limits
        if limits is None or (used + cost > limits.append_bytes and (used or not alone)):
            if channel not in self._crowded:
                self._crowded.append(channel)
            return False
        return True

    def take_room(self, cost: int) -> None:
        """So many bytes of batches are under way."""
        self._window_used += cost

    def give_room(self, cost: int) -> None:
        """They are not any more."""
        self._window_used -= cost

    def send(self, message: messages.FromClient, frames: Sequence[bytes] = ()) -> None:
        """Send a message; only while there is a session."""
        assert self._link is not None
        self._link.send((messages.encode(message), *frames))

    def why(self) -> str:
        """Why there is no answer, for people."""
        if self._trouble:
            return self._trouble
        if self.limits is not None:
            return f"the daemon at {self.address} does not answer; look at what it logs"
        if self._was_up:
            return f"lost the daemon at {self.address}: is jlogd running? start it with `jlogd run`"
        return f"no daemon at {self.address}: is jlogd running? start it with `jlogd run`"

    # The thread

    def _run(self) -> None:
        self._poller.register(self._mail.fileno(), zmq.POLLIN)
        try:
            while not self._closing:
                self._step()
        except Exception:
            _log.exception("the connection to %s ends", self.address)
        finally:
            self._end()

    def _step(self) -> None:
        now = time.monotonic()
        if self._link is None and now >= self._next_try and self._wanted():
            self._connect(now)
        if self._mail.arm():
            pause = TICK_SECONDS if self._link else max(0.001, min(TICK_SECONDS, self._next_try - now))
            self._poller.poll(int(1000 * pause))
        for job in self._mail.take():
            self._guarded(job)
        if self._link is not None:
            lost = self._link.lost()  # asked first, so that what came before the loss is received
            self._receive(self._link)
            if lost or self._broken or (self.limits is None and now > self._hello_until):
                self._drop()
        if now - self._ticked >= TICK_SECONDS:
            self._tick(now)

    def _wanted(self) -> bool:
        return bool(self._channels or self._questions.waiting)

    def _guarded(self, job: Callable[[], None]) -> None:
        try:
            job()
        except Exception:  # an error in one channel must not take the others' connection away
            _log.exception("in the connection to %s", self.address)

    def _connect(self, now: float) -> None:
        self._broken = False
        server_key = self.credentials.server_keys[self._server_key] if self.credentials else ""
        self._link = Link(self._context, self.address, self.credentials, server_key)
        self._link.register(self._poller)
        self._hello_until = now + HELLO_SECONDS
        self._heard = self._pinged = now
        self.send(messages.Hello(self.number(), PROTOCOL, self._client, self._note))

    def _drop(self) -> None:
        """The link is of no use any more."""
        now, kept_out = time.monotonic(), False
        if self._link is not None:
            kept_out = bool(self._link.failure)
            if kept_out and self._next_server_key(self._link):
                self._close_link()
                self._next_try = now + RETRY_SECONDS_MIN * random.uniform(0.5, 1.0)
                return
            self._close_link()
        was_up, self.limits = self.limits is not None, None
        # Clients that lost one daemon at the same moment come back spread out.
        self._next_try = now + self._pause * random.uniform(0.5, 1.0)
        self._pause = min(2 * self._pause, RETRY_SECONDS_MAX)
        if was_up:
            self.down_since = now
            self._owners.clear()
            self._window_used = 0
            for channel in list(self._channels):
                self._guarded(channel.down)
        error = NotAuthenticated(self.why()) if kept_out else RemoteError(self.why())
        self._questions.lost(str(error), None if self._was_up else error)

    def _next_server_key(self, link: Link) -> bool:
        """After a greeting that failed: note why, and whether to try again, with the next key the daemon may have.

        A daemon that just hangs up may be ending, or have too many connections: that alone is no proof.
        """
        keys = self.credentials.server_keys if self.credentials else ("",)
        self._keys_failed += 1
        if link.failure == "handshake" and self._keys_failed < GREETINGS_MAX * len(keys):
            self._server_key = (self._server_key + 1) % len(keys)
            return True
        self._keys_failed = 0
        self._trouble = failure_text(self.address, link.failure, self.credentials)
        return False

    def _close_link(self) -> None:
        assert self._link is not None
        self._link.close(self._poller)
        self._link = None

    def _receive(self, link: Link) -> None:
        while (found := link.receive()) is not None:
            control, batches = found
            self._heard = time.monotonic()
            try:
                self._dispatch(messages.decode_answer(control), batches)
            except ProtocolError as error:
                _log.warning("%s: %s", self.address, error)
            except Exception:
                _log.exception("in the connection to %s", self.address)
        crowded, self._crowded = self._crowded, []
        for channel in crowded:
            self._guarded(channel.pump)

    def _dispatch(self, message: FromDaemon, batches: memoryview | None) -> None:
        if isinstance(message, messages.Acks):
            for ack in message.acks:
                owner = self._owners.get(ack.id)
                if owner is not None:
                    owner(ack, None)
        elif isinstance(message, messages.Delivery | messages.End | messages.Ended):
            owner = self._owners.get(message.sub)
            if owner is not None:
                owner(message, batches)
        elif isinstance(message, messages.Welcome):
            self._begin(message)
        elif isinstance(message, messages.Refused):
            self._refused(message)
        else:
            self._answered(message.id, message)

    def _answered(self, id_: int, message: FromDaemon) -> None:
        if self._questions.answered(id_, message):
            return
        owner = self._owners.get(id_)
        if owner is not None:
            owner(message, None)

    def _refused(self, message: messages.Refused) -> None:
        if self.limits is None:
            self._hopeless(f"the daemon at {self.address} refused the connection: {message.message}")
        elif message.code == NoSession.code:
            self._broken = True  # it forgot this session: begin another one
        else:
            for id_ in range(message.id, message.id + min(message.count, messages.APPEND_BATCHES_MAX)):
                self._answered(id_, messages.Refused(id_, message.code, message.message))

    def _hopeless(self, trouble: str) -> None:
        self._trouble, self._pause, self._broken = trouble, RETRY_SECONDS_MAX, True

    def _begin(self, welcome: messages.Welcome) -> None:
        if not PROTOCOL_MIN <= welcome.protocol <= PROTOCOL:
            self._hopeless(
                f"the daemon at {self.address} (jlogd {welcome.version}) speaks protocol {welcome.protocol}, this "
                f"client {PROTOCOL_MIN} to {PROTOCOL}: upgrade the older of the two"
            )
            return
        self.limits, self._was_up, self._trouble, self._keys_failed = welcome.limits, True, "", 0
        self._pause = RETRY_SECONDS_MIN
        for question in self._questions.take_waiting():
            self._ask(question)
        for channel in list(self._channels):
            self._guarded(lambda channel=channel: channel.up(welcome.limits))  # type: ignore[misc]

    def _ask(self, question: Question) -> None:
        if self.limits is None:
            self._questions.wait(question)
        else:
            self._questions.ask(question, self.number())
            self.send(question.message)

    def _attach(self, channel: Channel) -> None:
        self._channels.append(channel)
        if self.limits is not None:
            channel.up(self.limits)

    def _detach(self, channel: Channel, error: JlogError, gone: threading.Event) -> None:
        if channel in self._channels:
            self._channels.remove(channel)
            self._guarded(lambda: channel.shut(error))
        gone.set()

    def _tick(self, now: float) -> None:
        self._ticked = now
        if self.limits is not None and now - self._pinged > min(self.limits.session_seconds, DEAD_SECONDS) / 4:
            self._pinged = now
            self.send(messages.Ping(self.number()))
        if self.limits is not None and now - self._heard > DEAD_SECONDS:
            self._broken = True
        self._questions.expire(now, self.why())
        for channel in list(self._channels):
            self._guarded(lambda channel=channel: channel.tick(now))  # type: ignore[misc]

    def _end(self) -> None:
        self._closing = True
        closed = Closed(f"the connection to {self.address} is closed")
        if self._link is not None:
            if self.limits is not None:
                self.send(messages.Bye())
            self._link.close(self._poller, LINGER_MS)
        self.limits = None
        for job in self._mail.take():
            self._guarded(job)
        self._questions.fail_all(closed)
        for channel in list(self._channels):
            self._guarded(lambda channel=channel: channel.shut(closed))  # type: ignore[misc]
        self._mail.close()
        self._context.term()
