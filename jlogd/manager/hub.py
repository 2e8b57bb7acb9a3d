"""The hub: one thread that talks to all nodes, however many there are.

    nodes <--links--> sessions --parcels--> rounds
                         ^-------mailbox---- committed, refused, other nodes

A thread for each node would be a thousand of them. Here a link costs a few descriptors; epoll tells which of them have
something. What is read and not yet written is bounded: above `memory_bytes` nothing more is read, and ZeroMQ and TCP
hold the nodes back. A node that is slow or away costs nothing but its own pulls.

Locking: none; other threads reach this one through the mailbox. `sessions` may be read from any thread.
"""

from __future__ import annotations

import logging
import select
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import zmq

from jlogd.manager.config import ManagedNode
from jlogd.manager.ledger import SourceState
from jlogd.manager.parcel import Parcel, Source
from jlogd.manager.session import NodeSession
from jlogd.wire import messages
from jlogd.wire.credentials import Credentials
from jlogd.wire.keys import KeyPair
from jlogd.wire.mailbox import Mailbox

_log = logging.getLogger("jlogd.manager")

Wanted = Callable[[ManagedNode, list[str]], list[Source]]

TICK_SECONDS = 0.1
# Credit of one pull: enough that the next round gathers while one is written, with few of them; a share of the memory
# and of the node's with many. A node sends a batch whatever is left of its credit, so each may go beyond it by one.
WINDOW_BYTES_MAX = 8 << 20
WINDOW_BYTES_MIN = 16 << 10
# What all pulls of one node may have under way: a node grants a fixed sum, to all who ask (CREDIT_BYTES_TOTAL there).
NODE_BYTES = 32 << 20
# Questions after the state of a log, of all nodes together, a second.
STATS_A_SECOND = 50
STAT_SECONDS_MIN = 2.0
# At the end: time for the last checkpoints to be written on the nodes.
LEAVE_SECONDS = 3.0
# Each link has two descriptors of ZeroMQ besides its socket.
IO_THREADS = 2


class Hub:
    """See the module's text."""

    def __init__(
        self,
        state: Callable[[Source], SourceState | None],
        put: Callable[[Parcel], None],
        memory_bytes: int,
        note: str = "",
        pair: KeyPair | None = None,
    ) -> None:
        """`state` is asked how far a source was pulled, `put` gets what arrives; `note` tells nodes who this is; `pair`
        are the manager's keys."""
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(IO_THREADS)
        # Each link has a socket and two of its monitor.
        self.context.max_sockets = 65535
        self.sessions: dict[str, NodeSession] = {}
        self.state = state
        self.note = note[: messages.NOTE_LENGTH_MAX]
        self.is_leaving = False  # the manager is decommissioned
        self._put = put
        self._pair = pair
        self._memory = memory_bytes
        self._held = 0
        self._mail: Mailbox[Callable[[], None]] = Mailbox()
        self._epoll = select.epoll()
        self._only_mail = select.poll()  # not select(2), which knows no descriptor above 1023
        self._by_descriptor: dict[int, NodeSession] = {}
        self._due: dict[NodeSession, None] = {}
        self._ticked = 0.0
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="jlogd hub", daemon=True)

    # ---- from any thread -------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def set_nodes(self, nodes: Sequence[ManagedNode], wanted: Wanted) -> None:
        """Pull from these nodes, and what `wanted` says of each; leave those that are not among them any more."""
        self._mail.put(lambda: self._set_nodes(nodes, wanted))

    def committed(self, done: Sequence[tuple[Parcel, SourceState]]) -> None:
        """Parcels are in the ledger."""
        self._mail.put(lambda: self._committed(done))

    def refused(self, source: Source, state: SourceState | None, size: int) -> None:
        """Parcels of a source were thrown away, so many bytes: pull it again from there."""
        self._mail.put(lambda: self._refused(source, state, size))

    def resume(self, node: str, log: str, at: int | None) -> None:
        """A person decided that a pull that stopped goes on; see `Pull.resume`."""
        self._mail.put(lambda: self._resume(node, log, at))

    def pause(self) -> None:
        """Read nothing more."""
        self._memory = -1
        self._mail.wake()

    def close(self) -> None:
        """Tell the nodes what was committed, and let go of all."""
        self._closing = True
        self._mail.wake()
        if self._thread.ident is not None:
            self._thread.join()

    @property
    def failed(self) -> bool:
        """Whether the thread ended by itself."""
        return self._thread.ident is not None and not self._thread.is_alive() and not self._closing

    @property
    def held_bytes(self) -> int:
        """Read and not yet written."""
        return self._held

    # ---- what sessions use -----------------------------------------------------------------------------------------

    def watch(self, session: NodeSession, descriptors: list[int]) -> None:
        for descriptor in descriptors:
            self._by_descriptor[descriptor] = session
            self._epoll.register(descriptor, select.EPOLLIN)

    def unwatch(self, descriptors: list[int]) -> None:
        for descriptor in descriptors:
            self._by_descriptor.pop(descriptor, None)
            with suppress(OSError):
                self._epoll.unregister(descriptor)

    def touched(self, session: NodeSession) -> None:
        self._due[session] = None

    def put(self, parcel: Parcel) -> None:
        self._held += parcel.bytes
        self._put(parcel)

    def window(self, of_node: int) -> int:
        pulls = sum(len(session.pulls) for session in self.sessions.values()) or 1
        share = min(self._memory // pulls, NODE_BYTES // max(1, of_node))
        return max(WINDOW_BYTES_MIN, min(WINDOW_BYTES_MAX, share))

    def stat_seconds(self) -> float:
        pulls = sum(len(session.pulls) for session in self.sessions.values())
        return max(STAT_SECONDS_MIN, pulls / STATS_A_SECOND)

    def credentials(self, node: ManagedNode) -> Credentials | None:
        return Credentials(self._pair, node.keys) if self._pair is not None and node.keys else None

    # ---- the thread ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        wakeup = self._mail.fileno()
        self._epoll.register(wakeup, select.EPOLLIN)
        self._only_mail.register(wakeup, select.POLLIN)
        try:
            while not self._closing:
                self._step(wakeup)
        except Exception:
            _log.exception("the hub ends")
        finally:
            self._end(wakeup)

    def _step(self, wakeup: int) -> None:
        full = self._held > self._memory  # at the end nothing more is read
        pause = TICK_SECONDS if self._mail.arm() and (full or not self._due) else 0.0
        if full:
            self._only_mail.poll(1000 * pause)
        else:
            for descriptor, _ in self._epoll.poll(pause):
                session = self._by_descriptor.get(descriptor)
                if session is not None:
                    self._due[session] = None
        for job in self._mail.take():
            self._guarded(job)
        now = time.monotonic()
        if now - self._ticked >= TICK_SECONDS:
            self._ticked = now
            for session in list(self.sessions.values()):
                self._guarded(lambda session=session: session.tick(now))  # type: ignore[misc]
                self._due[session] = None  # whatever epoll missed is found here
        if self._held <= self._memory:
            due, self._due = self._due, {}
            for session in due:
                self._guarded(lambda session=session: self._receive(session))  # type: ignore[misc]

    def _receive(self, session: NodeSession) -> None:
        if session.receive():
            self._due[session] = None

    def _guarded(self, job: Callable[[], None]) -> None:
        try:
            job()
        except Exception:  # whatever it is, the other nodes are still to be pulled
            _log.exception("in the hub's thread")

    def _set_nodes(self, nodes: Sequence[ManagedNode], wanted: Wanted) -> None:
        there = {node.name: node for node in nodes}
        for name in [name for name, session in self.sessions.items() if there.get(name) != session.node]:
            session = self.sessions.pop(name)
            session.leave()
            session.close()
        for name, node in there.items():
            if name in self.sessions:
                self.sessions[name].replace(wanted)
            else:
                self.sessions[name] = NodeSession(self, node, wanted)

    def _committed(self, done: Sequence[tuple[Parcel, SourceState]]) -> None:
        for parcel, state in done:
            self._held -= parcel.bytes
            session = self.sessions.get(parcel.source.origin.node)
            pull = session.pulls.get(parcel.source.key) if session else None
            if pull is not None:
                pull.committed(parcel, state)

    def _refused(self, source: Source, state: SourceState | None, size: int) -> None:
        self._held -= size
        session = self.sessions.get(source.origin.node)
        pull = session.pulls.get(source.key) if session else None
        if pull is not None:
            pull.again(state)

    def _resume(self, node: str, log: str, at: int | None) -> None:
        session = self.sessions.get(node)
        for pull in list(session.pulls.values()) if session else ():
            if pull.source.origin.log == log and pull.phase == "stopped":
                pull.resume(at)

    def _end(self, wakeup: int) -> None:
        for job in self._mail.take():  # what was committed last is among it
            self._guarded(job)
        sessions = list(self.sessions.values())
        for session in sessions:
            self._guarded(session.leave)
        deadline = time.monotonic() + LEAVE_SECONDS
        while time.monotonic() < deadline and not all(session.settled() for session in sessions):
            self._epoll.poll(0.02)
            for session in sessions:
                self._guarded(lambda session=session: session.receive() and None)  # type: ignore[misc]
        for session in sessions:
            self._guarded(session.close)
        self._epoll.close()
        self._mail.close()
        self.context.term()
